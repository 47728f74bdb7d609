/*
 * Marked: spans for sampled objects alone.
 *
 * Called by sample.c (a sample), alloc.c (a free of one), idle.c (what goes back), attach.c (detach, fork). Calls
 * connection.c, held.c, outbox.c, shadow.c and mspan.c. Data: the spans' structures and lists, private to the process,
 * under one lock, which is a leaf; of the heap the alloc bits of these spans, which this process writes as their
 * lessee, and remote bits when it folds.
 *
 * A span's mark says that every object in it has a record in the profile's region, so that the bits alone say which
 * records count. The daemon marks spans when it leases them, if it is asked to, and leases no marked span to who does
 * not ask. Here the rule is kept by the order of what a sample does:
 *
 *   1. marked_take()      a place whose alloc bit is clear; no other thread gets it
 *   2. recorder_note()    its record, over the one of its last object
 *   3. marked_allocate()  its alloc bit
 *
 * If the process dies before 3, the place is free and its record counts for nothing. After 3 the object is the user's,
 * or leaked, with a record that is right.
 *
 * No thread owns these spans: what the thread that frees does in its own spans by plain stores would race with this
 * lock's holder. So all frees are remote ones, one fetch_or. They are folded by who looks at the span: this process
 * when it has freed there; when a place is wanted (that span, and another one in turn); and at a trim. Spans that turn
 * out to be empty are retained up to RETAIN_PAGES in all, and up to twice as many each time that one is asked for after
 * others have gone back, until the next trim: so batches do not lease and return what they sample each time.
 *
 * mspan_of names the structures, as it does those of other spans: so a process that comes back to its session knows
 * them. Of their fields, here nfrees is the number of objects when last looked at, ncounted that of places taken,
 * open_block that of the places before those that are looked for, and cur the second in which the last of these was put
 * back.
 *
 * A place is put back if there is no room for its record, as where the records of its bucket are all of objects that
 * live. The next one who wants a place would find the same one, and no sample of the slot would have room as long as
 * they live. So from then on only what lies behind it is looked for in its span; if nothing is left there, the span
 * counts as full, and begins anew in its turn of the sweep, but not within the same second: if it did, each sample of a
 * slot whose spans are one object would find the same place again. When PUT_BACK_MAX places in a row have been put
 * back, nothing can be recorded, wherever it lies, and no span is asked for before ASK_REST_MS have passed.
 *
 * Who has no place asks for as many spans again as the slot has, up to ASK_PAGES_MAX: programs that keep many samples
 * of one size ask seldom, others get one span at a time. sample.c says why the slots are those of few size classes.
 *
 * A sample is not worth a long wait. If a request for a span fails, none is sent for ASK_SHARE times as long as that
 * took, but for ASK_REST_MS at most: what is sampled meanwhile is lost. A daemon that knows no marks leases others,
 * which go back; it is asked again after ASK_REST_MS.
 */
#include "client/lib/marked.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "client/lib/connection.h"
#include "client/lib/held.h"
#include "client/lib/outbox.h"
#include "client/lib/shadow.h"

#define LOOK_MAX     8u  /* spans that were full, each time a place is wanted */
#define GIVE_BACK_MAX 64u
#define TAKEN_MAX    64u /* places at a time */
#define RETAIN_PAGES (MIB / PAGE_BYTES) /* at the beginning, and at most */
#define RETAIN_PAGES_MAX (32 * MIB / PAGE_BYTES)
#define ASK_SHARE    20
#define ASK_REST_MS  1000
#define ASK_PAUSE_MS 10
#define ASK_MAX      16u /* spans at a time */
#define ASK_PAGES_MAX (128 * KIB / PAGE_BYTES)
#define PUT_BACK_MAX 8u
#define NO_PLACE     UINT32_MAX

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all but ask_at_ms */
static mspan_list partial[SLOT_COUNT];
static mspan_list full[SLOT_COUNT]; /* when last looked at; the first has waited longest */
static mspan *all;
static uint32_t nspans;
static uint32_t nspans_of[SLOT_COUNT];
static mspan *sweep_at; /* NULL: at the beginning of all */
static uint64_t nempty_pages;
static uint64_t retain_pages = RETAIN_PAGES;
static bool gave_back; /* since that has last changed */
static marked_place taken[TAKEN_MAX];
static uint32_t ntaken;
static uint32_t nput_back; /* since the last place that was allocated */
static shm_u64 ask_at_ms; /* no request before */

static int64_t now_ms(void)
{
    return deadline_in(0).at_ms;
}

static uint8_t second_now(void)
{
    return (uint8_t)(now_ms() / 1000);
}

/* --- one span; under the lock --- */

/* The places of word w that are taken. */
static uint64_t taken_bits(const mspan *s, uint32_t w)
{
    uint64_t bits = 0;

    for (uint32_t i = 0; s->ncounted > 0 && i < ntaken; i++) {
        if (taken[i].s == s && taken[i].index / 64 == w)
            bits |= UINT64_C(1) << (taken[i].index % 64);
    }
    return bits;
}

static void set_nused(mspan *s, uint32_t nused)
{
    if (s->nfrees == 0)
        nempty_pages -= s->npages;
    s->nfrees = nused;
    if (nused == 0)
        nempty_pages += s->npages;
}

/* The places of word w that are passed over. */
static uint64_t passed_bits(const mspan *s, uint32_t w)
{
    return w * 64 < s->open_block ? bits_mask(s->open_block, w) : 0;
}

/* Fold what was freed. Returns a free place, or NO_PLACE. A daemon that did not know marks may have taken it away. */
static uint32_t look_at(mspan *s)
{
    page_no first = mspan_first(s);
    const shm_span *span = shm_span_at(&process.map, first);
    uint32_t place = NO_PLACE;
    uint32_t nused = 0;

    for (uint32_t w = 0; w < bits_nwords(s->nelems); w++) {
        uint64_t used = object_fold_word(&process.map, first, span, w) & bits_mask(s->nelems, w);
        uint64_t left = bits_mask(s->nelems, w) & ~used & ~taken_bits(s, w) & ~passed_bits(s, w);

        nused += bits_count(used);
        if (left != 0 && place == NO_PLACE && span->marked)
            place = w * 64 + (uint32_t)__builtin_ctzll(left);
    }
    set_nused(s, nused);
    return place;
}

static mspan_list *list_of(const mspan *s)
{
    return s->place == MSPAN_FULL ? &full[s->slot] : &partial[s->slot];
}

static void move(mspan *s, enum mspan_place place)
{
    mspan_list_remove(list_of(s), s);
    s->place = (uint8_t)place;
    mspan_list_push_back(list_of(s), s);
}

static void add(mspan *s, uint32_t nused)
{
    s->place = MSPAN_PARTIAL;
    s->ncounted = 0;
    s->nfrees = 1;
    set_nused(s, nused);
    mspan_list_push_front(&partial[s->slot], s);
    s->all_prev = NULL;
    s->all_next = all;
    if (all != NULL)
        all->all_prev = s;
    all = s;
    nspans++;
    nspans_of[s->slot]++;
}

static void take_out(mspan *s)
{
    nspans--;
    nspans_of[s->slot]--;
    set_nused(s, 1);
    mspan_list_remove(list_of(s), s);
    s->place = MSPAN_CURRENT; /* mspan_of names it still: see marked_note_free() */
    if (sweep_at == s)
        sweep_at = s->all_next;
    if (s->all_prev != NULL)
        s->all_prev->all_next = s->all_next;
    else
        all = s->all_next;
    if (s->all_next != NULL)
        s->all_next->all_prev = s->all_prev;
}

/* --- many of them --- */

/* Look at a span. If it is empty beyond what is retained it is put before *gone, a list by next. */
static void look_or_take_out(mspan *s, uint64_t most_pages, mspan **gone)
{
    if (s->place == MSPAN_FULL && s->open_block != 0 && s->cur != second_now())
        s->open_block = 0;
    if (look_at(s) != NO_PLACE && s->place == MSPAN_FULL)
        move(s, MSPAN_PARTIAL);
    if (s->nfrees != 0 || s->ncounted != 0 || nempty_pages <= most_pages)
        return;
    take_out(s);
    gave_back = true;
    s->next = *gone;
    *gone = s;
}

/* The same for some of the spans, which have their turns. */
static mspan *sweep(uint32_t nlooks, uint64_t most_pages)
{
    mspan *gone = NULL;

    for (uint32_t i = 0; i < nlooks && all != NULL; i++) {
        mspan *s = sweep_at != NULL ? sweep_at : all;

        sweep_at = s->all_next;
        look_or_take_out(s, most_pages, &gone);
    }
    return gone;
}

/* Without the lock. */
static void give_back(mspan *gone)
{
    uint32_t firsts[GIVE_BACK_MAX];
    uint32_t n = 0;

    while (gone != NULL) {
        mspan *s = gone;

        gone = s->next;
        firsts[n] = mspan_first(s).n;
        shadow_span_leaves(page_at(firsts[n]));
        held_set(&firsts[n++], 1); /* before the structure goes: idle.c says why */
        mspan_delete(s);
        if (n == GIVE_BACK_MAX || gone == NULL) {
            outbox_return(firsts, n);
            n = 0;
        }
    }
}

/* A place in the spans that there are. */
static bool find(uint32_t slot, marked_place *ret)
{
    *ret = (marked_place){ .index = NO_PLACE };
    while (ret->index == NO_PLACE && (ret->s = partial[slot].head) != NULL) {
        ret->index = look_at(ret->s);
        if (ret->index == NO_PLACE)
            move(ret->s, MSPAN_FULL);
    }
    for (uint32_t i = 0; ret->index == NO_PLACE && i < LOOK_MAX && (ret->s = full[slot].head) != NULL; i++) {
        ret->index = look_at(ret->s);
        move(ret->s, ret->index == NO_PLACE ? MSPAN_FULL : MSPAN_PARTIAL);
    }
    return ret->index != NO_PLACE;
}

static bool take(uint32_t slot, marked_place *ret)
{
    if (ntaken == TAKEN_MAX || !find(slot, ret))
        return false;
    taken[ntaken++] = *ret;
    ret->s->ncounted++;
    return true;
}

/* --- more of them --- */

/* How many spans to ask for: as many again as the slot has, as long as these are few pages. */
static uint32_t next_batch(uint32_t slot)
{
    uint32_t most = ASK_PAGES_MAX / slot_short_npages(slot);
    uint32_t n = nspans_of[slot] < ASK_MAX ? nspans_of[slot] : ASK_MAX;

    if (n > most)
        n = most;
    return n > 0 ? n : 1;
}

/* Ask for none before. */
static void rest(int64_t until_ms)
{
    u64_store_relaxed(&ask_at_ms, (uint64_t)until_ms);
}

/* Lease so many spans. Returns how many there are. */
static uint32_t ask(uint32_t slot, uint32_t nwanted, uint32_t *ret_spans)
{
    int64_t begin_ms = now_ms();
    int n;

    if (begin_ms < (int64_t)u64_load_relaxed(&ask_at_ms))
        return 0;
    n = connection_refill_marked(slot_spc(slot), slot_short_npages(slot), nwanted, ret_spans);
    if (n < 0) {
        int64_t end_ms = now_ms();
        int64_t rest_ms = (end_ms - begin_ms) * ASK_SHARE + ASK_PAUSE_MS;

        rest(end_ms + (rest_ms < ASK_REST_MS ? rest_ms : ASK_REST_MS));
        return 0;
    }
    return (uint32_t)n;
}

/* Describe what was leased, and add it. A place of it. */
static bool take_leased(uint32_t slot, const uint32_t *spans, uint32_t n, marked_place *ret)
{
    bool found = false;
    bool added = false;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t nused;
        bool marked = spans[i] < process.map.npages && shm_span_at(&process.map, page_at(spans[i]))->marked;
        mspan *s = marked ? mspan_new_unowned(slot, spans[i], &nused) : NULL;

        if (s == NULL) { /* a daemon that does not know marks, or no memory to describe it */
            outbox_return(&spans[i], 1);
            continue;
        }
        (void)pthread_mutex_lock(&lock);
        add(s, nused);
        found = found || take(slot, ret);
        (void)pthread_mutex_unlock(&lock);
        added = true;
    }
    if (!added)
        rest(now_ms() + ASK_REST_MS);
    return found;
}

bool marked_take(uint32_t slot, marked_place *ret)
{
    int saved_errno = errno;
    uint32_t spans[ASK_MAX];
    uint32_t nwanted;
    uint32_t n;
    bool found;
    bool crowded;
    mspan *gone;

    (void)pthread_mutex_lock(&lock);
    found = take(slot, ret);
    crowded = ntaken == TAKEN_MAX;
    gone = sweep(1, retain_pages);
    nwanted = next_batch(slot);
    (void)pthread_mutex_unlock(&lock);
    give_back(gone);
    if (found || crowded || (n = ask(slot, nwanted, spans)) == 0)
        goto out;
    found = take_leased(slot, spans, n, ret);
    (void)pthread_mutex_lock(&lock);
    if (gave_back && retain_pages < RETAIN_PAGES_MAX)
        retain_pages *= 2;
    gave_back = false;
    (void)pthread_mutex_unlock(&lock);
out:
    errno = saved_errno;
    return found;
}

uint64_t marked_offset(const marked_place *place)
{
    return page_offset(mspan_first(place->s)) + (uint64_t)place->index * place->s->elem_bytes;
}

/* It is not taken any more. */
static void let_go(const marked_place *place)
{
    for (uint32_t i = 0; i < ntaken; i++) {
        if (taken[i].s == place->s && taken[i].index == place->index) {
            taken[i] = taken[--ntaken];
            place->s->ncounted--;
            return;
        }
    }
}

void *marked_allocate(const marked_place *place)
{
    mspan *s = place->s;

    (void)pthread_mutex_lock(&lock);
    CRASH_POINT(sample_before_bit);
    alloc_bit_set(mspan_word(s, place->index / 64), UINT64_C(1) << (place->index % 64));
    CRASH_POINT(sample_after_bit);
    set_nused(s, s->nfrees + 1);
    let_go(place);
    nput_back = 0;
    (void)pthread_mutex_unlock(&lock);
    return s->base + (uint64_t)place->index * s->elem_bytes;
}

void marked_put_back(const marked_place *place)
{
    (void)pthread_mutex_lock(&lock);
    let_go(place);
    place->s->open_block = place->index + 1;
    place->s->cur = second_now();
    if (++nput_back >= PUT_BACK_MAX)
        rest(now_ms() + ASK_REST_MS);
    (void)pthread_mutex_unlock(&lock);
}

/* --- going back --- */

void marked_note_free(page_no first)
{
    int saved_errno = errno;
    mspan *gone = NULL;
    mspan *s;

    (void)pthread_mutex_lock(&lock);
    s = atomic_load_explicit(&process.mspan_of[first.n], memory_order_acquire);
    if (s != NULL && mspan_is_of(s, NULL) && (s->place == MSPAN_PARTIAL || s->place == MSPAN_FULL))
        look_or_take_out(s, retain_pages, &gone);
    (void)pthread_mutex_unlock(&lock);
    give_back(gone);
    errno = saved_errno;
}

void marked_return_empty(void)
{
    int saved_errno = errno;
    mspan *gone;

    (void)pthread_mutex_lock(&lock);
    gone = sweep(nspans, 0);
    retain_pages = RETAIN_PAGES;
    gave_back = false;
    (void)pthread_mutex_unlock(&lock);
    give_back(gone);
    errno = saved_errno;
}

static void clear(void)
{
    memset(partial, 0, sizeof(partial));
    memset(full, 0, sizeof(full));
    all = sweep_at = NULL;
    nspans = 0;
    memset(nspans_of, 0, sizeof(nspans_of));
    nempty_pages = 0;
    retain_pages = RETAIN_PAGES;
    gave_back = false;
    ntaken = 0;
    nput_back = 0;
    u64_store_relaxed(&ask_at_ms, 0);
}

void marked_forget(void)
{
    mspan *gone;

    (void)pthread_mutex_lock(&lock);
    gone = all;
    clear();
    (void)pthread_mutex_unlock(&lock);
    mspan_free_all(gone);
}

void marked_reset(void)
{
    (void)pthread_mutex_init(&lock, NULL);
    clear();
}
