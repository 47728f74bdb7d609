/*
 * mspan: a leased span as its holder sees it, and the bodies of malloc and free. Go's runtime/mheap.go, mspan.
 */
#ifndef GOALLOC_LIB_MSPAN_H
#define GOALLOC_LIB_MSPAN_H

#include "client/lib/magazine.h"
#include "shm/object.h"

/*
 * Slots: the kinds of spans that a thread tells apart, numbered so that malloc finds its current span by one table.
 * First those with pointers: a slot a size class, a slot for each length of runs, in pages; then the same for noscan.
 */
#define SLOT_RUNS      (SIZE_CLASS_COUNT + 1u) /* of SHM_RUN_PAGES_MIN pages */
#define SLOT_NOSCAN    (SLOT_RUNS + SHM_RUN_PAGES_MAX - SHM_RUN_PAGES_MIN + 1)
#define SLOT_COUNT     (2 * SLOT_NOSCAN)
#define SLOT_TINY      (SLOT_NOSCAN + SIZE_CLASS_TINY)

_Static_assert(SLOT_TINY <= UINT8_MAX, "slots of small objects are bytes in mcache.slot8");

#define MSPAN_NPAGES_MAX 127u

_Static_assert(SHM_RUN_PAGES_MAX <= MSPAN_NPAGES_MAX, "mspan.npages has 7 bits");

/* Where a span of its thread is. */
enum mspan_place {
    MSPAN_CURRENT = 0, /* in no list: it is being allocated from */
    MSPAN_PARTIAL,     /* some objects free */
    MSPAN_EMPTY,       /* all free */
    MSPAN_FULL,        /* in no list: none free, when last looked at */
    MSPAN_POOLED,      /* no thread's: in the process's pool */
    MSPAN_OFFERED,     /* all free, and the daemon may have taken it: see offer.c */
};

/*
 * What malloc looks at in a slot, one cache line: the objects freed last, and what is at hand of the current span. All
 * zero where there is nothing, also as a forked child finds it.
 */
typedef struct slot_front {
    magazine magazine;
    uint64_t cache;  /* objects of the current word that were free when it was loaded, not handed out yet */
    shm_u64 *word;   /* the current word of alloc bits */
    char *word_base; /* address of the object of its bit 0 */
    uint32_t elem_bytes;
} slot_front;

_Static_assert(sizeof(slot_front) == 64, "one cache line");

/*
 * Private to the process. All fields but owner belong to the owning thread (or, while the pool is the owner, to who
 * holds its lock; or, of a marked span, which nobody owns, to who holds marked.c's). Structures are never unmapped, so
 * a thread that looks at the owner of a span that has just gone reads an owner that is not itself. A child that came
 * about without fork()'s handlers reads zeros (meta.c): such a structure has no free object and no alloc words, as
 * mspan_none. A free by the owner reads the first cache line and writes nothing there, unless its magazine is full.
 */
typedef struct mspan {
    slot_front *front;   /* its slot's, of the owning thread */
    void *_Atomic owner; /* thread_self() of the thread that holds it, or the pool; NULL: nobody */
    char *base;
    shm_u64 *alloc;      /* the first alloc word: see mspan_word() */
    uint32_t magic;      /* for object_index(); 1 for a run; 0 for tiny blocks, whose frees never take the fast path */
    uint32_t nfrees;     /* frees by the owner, past the magazine, until one changes the place: see mspan.c */
    uint16_t nelems;
    uint16_t slot;
    uint8_t npages : 7;
    bool needzero : 1;   /* false: what is not allocated is zero, if nothing has been freed since it became current */
    uint8_t cur;         /* number of the current word. Marked spans: see marked.c */
    uint8_t place;       /* enum mspan_place; a byte of its own, since it changes most */
    uint32_t open_block; /* of tiny blocks: 1 + the one that is open, for folds; 0: none. Marked spans: see marked.c */
    uint32_t elem_bytes;
    uint32_t ncounted;   /* while current: objects used, less what is not yet counted as allocated. See marked.c, too */
    struct mspan *next __attribute__((aligned(64))); /* in the list of its place */
    struct mspan *prev;
    struct mspan *all_next; /* all spans of the slot */
    struct mspan *all_prev;
    shm_u64 nleases; /* of the span: says which lease is meant when it has been offered */
} mspan;

_Static_assert(offsetof(mspan, next) == 64 && sizeof(mspan) == 128, "two cache lines");

#define NFREES_CURRENT 4096u /* frees into the current span, past the magazine: so soon they are counted */

typedef struct mspan_list {
    mspan *head;
    mspan *tail;
} mspan_list;

extern mspan mspan_none; /* no current span: has no free object, and no alloc words */

/* What tells threads of this process apart: one instruction where the compiler knows the thread's register. */
static inline void *thread_self(void)
{
#if defined(__has_builtin)
#if __has_builtin(__builtin_thread_pointer)
#define GOALLOC_THREAD_POINTER
#endif
#endif
#ifdef GOALLOC_THREAD_POINTER
    return __builtin_thread_pointer();
#else
    static _Thread_local char self __attribute__((tls_model("initial-exec")));

    return &self;
#endif
}

static inline uint32_t slot_of_class(size_class size, bool noscan)
{
    return size.n + (noscan ? SLOT_NOSCAN : 0);
}

static inline uint32_t slot_of_run(uint64_t npages, bool noscan)
{
    return SLOT_RUNS + (uint32_t)npages - SHM_RUN_PAGES_MIN + (noscan ? SLOT_NOSCAN : 0);
}

/* The daemon's name for the spans of a slot: their class, and their pages. */
static inline span_class slot_spc(uint32_t slot)
{
    uint32_t n = slot % SLOT_NOSCAN;

    return span_class_of((size_class){ n < SLOT_RUNS ? (uint8_t)n : 0 }, slot >= SLOT_NOSCAN);
}

static inline uint32_t slot_npages(uint32_t slot)
{
    uint32_t n = slot % SLOT_NOSCAN;

    return n < SLOT_RUNS ? size_class_npages[n] : n - SLOT_RUNS + SHM_RUN_PAGES_MIN;
}

/* Of the spans with which a slot begins. */
static inline uint32_t slot_short_npages(uint32_t slot)
{
    uint32_t n = slot % SLOT_NOSCAN;

    return n < SLOT_RUNS ? size_class_short_npages[n] : slot_npages(slot);
}

/*
 * Describe a span that the daemon has just leased to this process, for a slot of this thread. NULL: no memory, or the
 * description is not a span of that kind. *ret_nused: its objects.
 */
mspan *mspan_new(uint32_t slot, uint32_t first, uint32_t *ret_nused);

/* The same for a span that no thread owns: frees in it are remote ones for all (marked.c). */
mspan *mspan_new_unowned(uint32_t slot, uint32_t first, uint32_t *ret_nused);

/* Forget a span. The entry of its first page is the caller's, who has written something else there (held.h). */
void mspan_delete(mspan *s);

/*
 * The same in two steps, for a span that may be another's by now, or this process's again: take its name out of
 * mspan_of where it still stands; the structure is free.
 */
void mspan_unname(mspan *s);
void mspan_put_back(mspan *s);

/* Who owns it from now on: a thread, the pool, or (NULL) nobody. */
static inline void mspan_set_owner(mspan *s, void *owner)
{
    atomic_store_explicit(&s->owner, owner, memory_order_relaxed);
}

static inline bool mspan_is_of(const mspan *s, const void *owner)
{
    return atomic_load_explicit(&s->owner, memory_order_relaxed) == owner;
}

static inline bool mspan_is_own(const mspan *s)
{
    return mspan_is_of(s, thread_self());
}

static inline page_no mspan_first(const mspan *s)
{
    return page_at(((uintptr_t)s->base - u64_load_relaxed(&process.base)) >> PAGE_SHIFT);
}

/* Word w of its alloc bits. */
static inline shm_u64 *mspan_word(const mspan *s, uint32_t w)
{
    return s->alloc + (size_t)(SHM_WORD_STRIDE * w);
}

/*
 * It soon becomes current. The first words of spans of some pages are so many bytes apart, a power of two, that few of
 * them are in a cache at once.
 */
static inline void mspan_prefetch(const mspan *s)
{
    prefetch_to_write(s->alloc);
}

/* Objects that are used. Linear for the current span. */
uint32_t mspan_nused(const mspan *s);

/* Fold what others have freed. Returns what is used afterwards; the caller puts the span where that belongs. */
uint32_t mspan_fold(mspan *s);

bool mspan_has_remote_frees(const mspan *s);

/* Detach: all structures of a slot's list of all are free. */
void mspan_free_all(mspan *all);

/* In the child of a fork: no structure was ever made. again: their memory may be used again. */
void mspan_reset(bool again);

static inline void mspan_list_push_front(mspan_list *list, mspan *s)
{
    s->prev = NULL;
    s->next = list->head;
    if (list->head != NULL)
        list->head->prev = s;
    else
        list->tail = s;
    list->head = s;
}

static inline void mspan_list_push_back(mspan_list *list, mspan *s)
{
    s->next = NULL;
    s->prev = list->tail;
    if (list->tail != NULL)
        list->tail->next = s;
    else
        list->head = s;
    list->tail = s;
}

/* Remove the head; there is one. */
static inline void mspan_list_pop(mspan_list *list)
{
    mspan *next = list->head->next;

    list->head = next;
    if (next != NULL)
        next->prev = NULL;
    else
        list->tail = NULL;
}

static inline void mspan_list_remove(mspan_list *list, mspan *s)
{
    if (s->prev != NULL)
        s->prev->next = s->next;
    else
        list->head = s->next;
    if (s->next != NULL)
        s->next->prev = s->prev;
    else
        list->tail = s->prev;
}

/* Take an object out of the cache, which is not empty. */
static inline void *slot_take(slot_front *f)
{
    uint64_t cache = f->cache;
    uint64_t left = cache & (cache - 1);

    f->cache = left;
    alloc_bit_set(f->word, cache ^ left);
    return f->word_base + (uint64_t)(unsigned)__builtin_ctzll(cache) * f->elem_bytes;
}

/* Others have freed objects of word w of the current span: fold them. Returns its alloc word. */
uint64_t mspan_fold_current(mspan *s, uint32_t w);

/* The words after the current one, all round the span. */
bool mspan_advance_far(mspan *s);

/* Load the slot's cache from word w, while cache and magazine are empty. False: all its objects are used. */
static inline bool mspan_load(mspan *s, uint32_t w)
{
    shm_u64 *word = mspan_word(s, w);
    uint64_t bits = u64_load_relaxed(word);

    if (UNLIKELY(u64_load_relaxed(shm_remote_of(word)) != 0))
        bits = mspan_fold_current(s, w);
    bits = ~bits & bits_mask(s->nelems, w);
    if (bits == 0)
        return false;
    s->cur = (uint8_t)w;
    s->front->cache = bits;
    s->front->word = word;
    s->front->word_base = s->base + (uint64_t)w * 64 * s->elem_bytes;
    s->front->elem_bytes = s->elem_bytes;
    return true;
}

/*
 * The current span has nothing left at hand: load its cache from the next word with a free object, beginning with the
 * word that it is at, all round the span, folding. False: there is none.
 */
static inline bool mspan_advance(mspan *s)
{
    return mspan_load(s, s->cur) || (s->nelems > 64 && mspan_advance_far(s));
}

/* Make it the current one. True: it has a free object in its cache. nused is what it has used now. */
static inline bool mspan_make_current(mspan *s, uint32_t nused)
{
    s->place = MSPAN_CURRENT;
    s->nfrees = NFREES_CURRENT;
    s->ncounted = nused;
    return mspan_advance(s);
}

/*
 * How many objects its cache has handed out since the last time, while it was current; nused are used now, and none
 * waits in the magazine.
 */
static inline uint32_t mspan_take_count(mspan *s, uint32_t nused)
{
    uint32_t nfreed = NFREES_CURRENT - s->nfrees;
    uint32_t n = nused - s->ncounted + nfreed;

    s->ncounted = nused;
    s->nfrees = NFREES_CURRENT;
    if (nfreed > 0)
        s->needzero = true;
    return n;
}

/* nfrees of the current span has come to 0: put down what it has counted, and count on. */
static inline void mspan_note_frees(mspan *s)
{
    s->ncounted -= NFREES_CURRENT;
    s->nfrees = NFREES_CURRENT;
    s->needzero = true;
}

/* What the cache will hand out is known to be zero. */
static inline bool mspan_is_zero(const mspan *s)
{
    return !s->needzero && s->nfrees == NFREES_CURRENT;
}

/*
 * Count a free, whose bit is clear. True: it changes the span's place, and the caller puts it there. The object of a
 * current run is at hand again at once: no malloc has to look for it, or takes a longer run instead.
 */
static inline bool mspan_count_free(mspan *s)
{
    if (s->nelems == 1 && s->place == MSPAN_CURRENT)
        s->front->cache = 1;
    return UNLIKELY(--s->nfrees == 0);
}

#endif
