/*
 * Operations: what a thread does to objects of the table. Called by worker.c and incidents.c, in between calls of
 * actor_begin() and actor_end().
 *
 * Each step is announced in the thread's intent (board.h says what its states mean), so that audit.c can tell what a
 * thread that was killed had in its hands. Each object is checked before it is freed, resized or moved.
 */
#include <errno.h>
#include <string.h>

#include "tests/storm/pattern.h"
#include "tests/storm/worker.h"

#define ONE_IN(r, n) ((r) % (n) == 0)

static void doing(actor *a, const char *what)
{
    atomic_store_explicit(&a->intent->doing, what, memory_order_release);
}

static bool reclaims(const actor *a)
{
    return a->w->reclaims;
}

/* What the library has just returned. First it is noted: a thread that dies in the checks has had it. */
static void check_result(actor *a, _Atomic uint64_t *note, const void *p, size_t size, size_t alignment)
{
    intent_store(note, p != NULL ? word_make(p, size, 0) : 0);
    if (p == NULL)
        storm_die(a->intent, "no memory: errno %d (%s)", errno, strerror(errno));
    if (((uintptr_t)p & (alignment - 1)) != 0)
        storm_die(a->intent, "%p is not aligned to %zu", p, alignment);
    if (goalloc_usable_size(p) < (size > 0 ? size : 1))
        storm_die(a->intent, "%p has %zu usable bytes, not %zu", p, goalloc_usable_size(p), size);
}

/* What goalloc.h promises. */
static size_t natural_alignment(size_t size, bool noscan)
{
    if (size >= 16)
        return size >= 17 && size <= 24 ? 8 : 16;
    if (noscan)
        return size == 0 ? 1 : size % 8 == 0 ? 8 : size % 4 == 0 ? 4 : size % 2 == 0 ? 2 : 1;
    return 8;
}

static size_t pick_alignment(size_t size, uint64_t r)
{
    if (size > 32768 && ONE_IN(r >> 4, 8))
        return (size_t)1 << (13 + (r >> 8) % 8); /* up to 1 MiB */
    return (size_t)1 << (r >> 8) % 14;
}

/* An object of one of the four kinds of malloc, checked but not filled. */
static void *allocate(actor *a, size_t size)
{
    uint64_t r = test_random(&a->random);
    size_t alignment;
    void *p;

    atomic_store_explicit(&a->intent->size, size, memory_order_relaxed);
    switch (r % 8) {
    case 0:
        doing(a, "calloc");
        p = goalloc_calloc(size % 4 == 0 ? 4 : 1, size % 4 == 0 ? size / 4 : size);
        check_result(a, &a->intent->word, p, size, natural_alignment(size, false));
        pattern_check_zero(a->intent, p, size);
        board_count(a->w->number, FIGURE_CALLOC);
        return p;
    case 1:
        doing(a, "aligned_alloc");
        alignment = pick_alignment(size, r);
        p = goalloc_aligned_alloc(alignment, size);
        check_result(a, &a->intent->word, p, size, alignment);
        board_count(a->w->number, FIGURE_ALIGNED);
        return p;
    case 2:
    case 3:
    case 4:
        doing(a, "malloc_noscan");
        p = goalloc_malloc_noscan(size);
        check_result(a, &a->intent->word, p, size, natural_alignment(size, true));
        board_count(a->w->number, FIGURE_NOSCAN);
        return p;
    default:
        doing(a, "malloc");
        p = goalloc_malloc(size);
        check_result(a, &a->intent->word, p, size, natural_alignment(size, false));
        board_count(a->w->number, FIGURE_MALLOC);
        return p;
    }
}

/* Fill the object in hand, and give it to the heap if it is a RECLAIM session's. Its word. OWNED. */
static uint64_t finish(actor *a, void *p, size_t size)
{
    uint32_t salt = (uint32_t)test_random(&a->random);
    uint64_t word = word_make(p, size, salt);
    int r;

    pattern_fill(p, size, salt);
    intent_store(&a->intent->word, word);
    if (reclaims(a)) {
        intent_enter(a->intent, INTENT_CLAIMING);
        doing(a, "publish");
        r = goalloc_publish(p);
        if (r != 0)
            storm_die(a->intent, "publish: %s", goalloc_strerror(r));
        board_count(a->w->number, FIGURE_PUBLISH);
    }
    intent_enter(a->intent, INTENT_OWNED);
    return word;
}

static uint64_t make(actor *a, size_t size)
{
    void *p;

    intent_store(&a->intent->word, 0);
    intent_enter(a->intent, reclaims(a) ? INTENT_PRIVATE : INTENT_ALLOCATING);
    p = allocate(a, size);
    if (!reclaims(a))
        intent_enter(a->intent, INTENT_FILLING);
    return finish(a, p, size);
}

static void free_it(actor *a, uint64_t word)
{
    void *p = word_pointer(word);

    doing(a, "free");
    board_count(a->w->number, FIGURE_FREE);
    if (ONE_IN(test_random(&a->random), 4)) {
        goalloc_free(p);
    } else {
        int r = goalloc_free_checked(p);

        if (r != 0)
            storm_die(a->intent, "free_checked: %s", goalloc_strerror(r));
    }
}

/* Free the object that is OWNED. */
static void drop(actor *a, uint64_t word)
{
    doing(a, "check before free");
    (void)pattern_check(a->intent, word);
    intent_enter(a->intent, INTENT_FREEING);
    free_it(a, word);
    intent_enter(a->intent, INTENT_IDLE);
}

/* Put the object that is OWNED into the entry, if that is empty; else free it. */
static void put(actor *a, uint32_t entry, uint64_t word)
{
    uint64_t empty = 0;

    doing(a, "put");
    intent_enter(a->intent, INTENT_PUTTING);
    if (atomic_compare_exchange_strong(&a->w->t->entries[entry], &empty, word)) {
        intent_enter(a->intent, INTENT_IDLE);
        return;
    }
    intent_enter(a->intent, INTENT_OWNED);
    drop(a, word);
}

/* Take the object out of the entry. False: somebody else has. Then it is OWNED. */
static bool take(actor *a, uint32_t entry, uint64_t word)
{
    doing(a, "take");
    intent_store(&a->intent->word, word);
    intent_enter(a->intent, INTENT_TAKING);
    if (!atomic_compare_exchange_strong(&a->w->t->entries[entry], &word, 0)) {
        intent_enter(a->intent, INTENT_IDLE);
        return false;
    }
    intent_enter(a->intent, INTENT_OWNED);
    atomic_store_explicit(&a->intent->size, 0, memory_order_relaxed);
    return true;
}

/* Resize the object that is OWNED, and put it back. */
static void resize(actor *a, uint32_t entry, uint64_t word)
{
    size_t old_bytes = pattern_check(a->intent, word);
    uint32_t salt = pattern_salt(word);
    size_t new_bytes = table_pick_size(a->w->t, entry, &a->random);
    void *p;

    doing(a, "realloc");
    atomic_store_explicit(&a->intent->size, new_bytes, memory_order_relaxed);
    intent_store(&a->intent->result, 0);
    intent_enter(a->intent, INTENT_REALLOCATING);
    p = goalloc_realloc(word_pointer(word), new_bytes);
    check_result(a, &a->intent->result, p, new_bytes, 1);
    pattern_check_moved(a->intent, word, p, old_bytes, new_bytes, salt);
    board_count(a->w->number, FIGURE_REALLOC);
    put(a, entry, finish(a, p, new_bytes));
}

static void move(actor *a, uint32_t entry, uint64_t word)
{
    doing(a, "check before move");
    (void)pattern_check(a->intent, word);
    board_count(a->w->number, FIGURE_MOVE);
    put(a, table_pick_alike(a->w->t, entry, &a->random), word);
}

/* --- objects of a RECLAIM session that nobody else knows of --- */

static void drop_private(actor *a)
{
    uint32_t at = (uint32_t)(test_random(&a->random) % a->nprivates);
    uint64_t word = a->privates[at];

    doing(a, "check of a private object");
    intent_store(&a->intent->word, word);
    intent_enter(a->intent, INTENT_PRIVATE);
    (void)pattern_check(a->intent, word);
    a->privates[at] = a->privates[--a->nprivates];
    free_it(a, word);
    intent_enter(a->intent, INTENT_IDLE);
}

/* A new private object, not larger than 32 KiB: deaths and leaks of many are cheap. */
static void make_private(actor *a)
{
    size_t size = (size_t)(test_random(&a->random) % (ONE_IN(a->random, 8) ? 32768 : 512));
    uint32_t salt = (uint32_t)test_random(&a->random);
    void *p;

    intent_store(&a->intent->word, 0);
    intent_enter(a->intent, INTENT_PRIVATE);
    p = allocate(a, size);
    pattern_fill(p, size, salt);
    a->privates[a->nprivates++] = word_make(p, size, salt);
    intent_enter(a->intent, INTENT_IDLE);
}

/* Make the object that is OWNED this session's. */
static void adopt(actor *a, uint64_t word)
{
    int r;

    doing(a, "adopt");
    (void)pattern_check(a->intent, word);
    intent_enter(a->intent, INTENT_CLAIMING);
    r = goalloc_adopt(word_pointer(word));
    if (r != 0)
        storm_die(a->intent, "adopt: %s", goalloc_strerror(r));
    board_count(a->w->number, FIGURE_ADOPT);
    a->privates[a->nprivates++] = word;
    intent_enter(a->intent, INTENT_IDLE);
}

/* Private objects come and go. */
static void turn_private(actor *a)
{
    if (a->nprivates > 0 && test_random(&a->random) % PRIVATES_MAX < a->nprivates)
        drop_private(a);
    else
        make_private(a);
}

void operations_leave_privates(actor *a, uint32_t most)
{
    while (a->nprivates > most) {
        actor_begin(a);
        if (a->nprivates > most)
            drop_private(a);
        actor_end(a);
    }
}

/* --- the rest --- */

static void look_root_up(actor *a)
{
    table *t = NULL;
    int r;

    doing(a, "root_get");
    r = table_find(&t);
    if (r != 0)
        storm_die(a->intent, "root_get: %s", goalloc_strerror(r));
    if (t != a->w->t)
        storm_die(a->intent, "root_get: the table is at %p, not at %p", (void *)t, (void *)a->w->t);
    board_count(a->w->number, FIGURE_ROOT);
}

void operations_do(actor *a)
{
    uint64_t r, word;
    uint32_t entry;

    intent_store(&a->intent->nops, atomic_load_explicit(&a->intent->nops, memory_order_relaxed) + 1);
    actor_reseed(a, 0);
    r = test_random(&a->random);
    entry = table_pick(a->w->t, &a->random);
    word = atomic_load(&a->w->t->entries[entry]);
    atomic_store_explicit(&a->intent->entry, entry, memory_order_relaxed);
    if (ONE_IN(r, 4096)) {
        look_root_up(a);
    } else if (reclaims(a) && ONE_IN(r >> 12, 4)) {
        turn_private(a);
    } else if (word == 0) {
        put(a, entry, make(a, table_pick_size(a->w->t, entry, &a->random)));
    } else if (take(a, entry, word)) {
        if (ONE_IN(r >> 20, 4))
            resize(a, entry, word);
        else if (ONE_IN(r >> 24, 8))
            move(a, entry, word);
        else if (reclaims(a) && ONE_IN(r >> 28, 16) && a->nprivates < PRIVATES_MAX)
            adopt(a, word);
        else
            drop(a, word);
    }
}
