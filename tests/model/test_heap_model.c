/*
 * The daemon's heap without its sockets: sessions lease, use and return spans at random, objects are freed remotely,
 * sessions end; a naive model knows which objects live. Validated all along; at the end nothing is left.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/heap/census.h"
#include "daemon/serve/session.h"
#include "daemon/serve/sweep.h"
#include "tests/support/fixture.h"
#include "tests/support/release.h"

#define NSESSIONS  6
#define NOBJECTS   20000
#define NSPANS     4000

typedef struct object {
    page_no first;
    uint32_t index;
    int owner; /* session that it dies with; -1: nobody */
} object;

typedef struct world {
    heapfile file;
    mheap heap;
    session_table table;
    session *sessions[NSESSIONS];
    bool reclaims[NSESSIONS];
    page_no spans[NSESSIONS][NSPANS];
    uint32_t nspans[NSESSIONS];
    object objects[NOBJECTS];
    uint32_t nobjects;
    uint64_t seed;
} world;

static void open_session(world *w, int i)
{
    session_request request = { .pid = 1, .label = "model" };

    w->reclaims[i] = test_random(&w->seed) % 2;
    request.flags = w->reclaims[i] ? SESSION_RECLAIM : 0;
    assert_int_equal(session_open(&w->table, &request, &w->sessions[i]), 0);
    w->nspans[i] = 0;
}

static void lease(world *w, int i)
{
    uint64_t r = test_random(&w->seed);
    span_class spc = { (uint8_t)(2 + r % (2 * SIZE_CLASS_COUNT - 2)) };
    bool large = r >> 20 & 1 && r % 5 == 0;
    unsigned budget = MCENTRAL_BUDGET;
    uint64_t nscavenged;
    uint32_t nfree;
    page_no first = { 0 };

    if (w->nspans[i] == NSPANS)
        return;
    if (!large && !w->reclaims[i])
        first = mcentral_take(&w->heap, (owner_no){ 0 }, (mcentral_kind){ spc, false }, &budget, &nfree);
    if (first.n == 0) {
        uint64_t npages = large ? 1 + r % 300
                          : r >> 30 & 1 ? size_class_short_npages[span_class_size(spc).n]
                                        : size_class_npages[span_class_size(spc).n];
        span_class class = large ? (span_class){ 0 } : spc;

        if (mheap_alloc_span(&w->heap, npages, large ? UINT64_C(1) << (r >> 30) % 6 : 1, class, &first, &nscavenged) !=
            0)
            return;
    }
    lease_give(&w->sessions[i]->lessee, first);
    w->spans[i][w->nspans[i]++] = first;
}

/* What the library does: set a free bit of a span that the session leases. */
static void allocate(world *w, int i)
{
    page_no first;
    const shm_span *span;
    uint32_t at;

    if (w->nspans[i] == 0 || w->nobjects == NOBJECTS)
        return;
    at = (uint32_t)(test_random(&w->seed) % w->nspans[i]);
    if (lease_check(&w->sessions[i]->lessee, w->spans[i][at].n, &first) != 0) {
        /* A large object that was freed remotely: the sweep has ended it. */
        w->spans[i][at] = w->spans[i][--w->nspans[i]];
        return;
    }
    span = shm_span_at(w->heap.map, first);
    for (uint32_t word = 0; word < bits_nwords(span->nelems); word++) {
        uint64_t bits = object_fold_word(w->heap.map, first, span, word);
        uint64_t free_bits = ~bits & bits_mask(span->nelems, word);

        if (free_bits == 0)
            continue;
        u64_store_release(shm_alloc_word(w->heap.map, first, word), bits | (free_bits & -free_bits));
        w->objects[w->nobjects++] =
            (object){ first, word * 64 + (uint32_t)__builtin_ctzll(free_bits), w->reclaims[i] ? i : -1 };
        return;
    }
}

static void free_remotely(world *w)
{
    object_ref ref;
    uint32_t at;

    if (w->nobjects == 0)
        return;
    at = (uint32_t)(test_random(&w->seed) % w->nobjects);

    object o = w->objects[at];
    uint64_t address = w->heap.map->base + page_offset(o.first) +
                       o.index * shm_span_at(w->heap.map, o.first)->elem_bytes;

    assert_int_equal(object_find(w->heap.map, address, &ref), OBJECT_LIVE);
    assert_int_equal(ref.index, o.index);
    assert_int_equal(object_find(w->heap.map, address + 4, &ref), OBJECT_INTERIOR);
    assert_int_equal(object_find(w->heap.map, address, &ref), OBJECT_LIVE);
    assert_int_equal(object_free_remote(w->heap.map, &ref), OBJECT_LIVE);
    assert_int_equal(object_free_remote(w->heap.map, &ref), OBJECT_FREE);
    w->objects[at] = w->objects[--w->nobjects];
}

/* Publish or adopt an object at random. */
static void change_owner(world *w, int i)
{
    object_ref ref;
    object *o;

    if (w->nobjects == 0 || !w->reclaims[i])
        return;
    o = &w->objects[test_random(&w->seed) % w->nobjects];

    const shm_span *span = shm_span_at(w->heap.map, o->first);

    assert_int_equal(
        object_find(w->heap.map, w->heap.map->base + page_offset(o->first) + o->index * span->elem_bytes, &ref),
        OBJECT_LIVE);
    if (u32_load_relaxed(&span->owner) == w->sessions[i]->lessee.no.n)
        return; /* its own, or made the heap's and still in its span: the library's part */
    assert_int_equal(adopt_set(w->heap.adopted, &ref, w->sessions[i]->lessee.owner, w->sessions[i]->lessee.epoch), 0);
    o->owner = i;
}

static void give_back(world *w, int i)
{
    uint32_t at;
    int e;

    if (w->nspans[i] == 0)
        return;
    at = (uint32_t)(test_random(&w->seed) % w->nspans[i]);

    page_no first = w->spans[i][at];
    page_no checked;

    /* The sweep may have ended the lease of a large object that is dead. */
    e = lease_check(&w->sessions[i]->lessee, first.n, &checked);
    if (e == 0)
        e = lease_return_freed(&w->sessions[i]->lessee, checked);
    if (e != LEASE_E_NOT_EMPTY)
        w->spans[i][at] = w->spans[i][--w->nspans[i]];
}

/* A large object becomes longer or shorter where it is. */
static void resize_large(world *w, int i)
{
    uint64_t r = test_random(&w->seed);
    uint64_t nscavenged;
    page_no first;
    uint32_t at;

    if (w->nspans[i] == 0)
        return;
    at = (uint32_t)(r % w->nspans[i]);
    if (lease_check(&w->sessions[i]->lessee, w->spans[i][at].n, &first) != 0 ||
        span_class_size(shm_span_at(w->heap.map, first)->spc).n != 0)
        return;

    uint64_t npages = shm_span_at(w->heap.map, first)->npages;
    uint64_t other = 1 + (r >> 32) % 600;
    page_range growth = { page_at(first.n + npages), other - npages };

    if (other < npages) {
        lease_shrink(&w->sessions[i]->lessee, first, other);
    } else if (other > npages && mheap_take_aside(&w->heap, ASIDE_GROWTH, growth, &nscavenged).npages > 0) {
        assert_true(nscavenged <= other - npages);
        assert_int_equal(mheap_validate(&w->heap, stderr), 0);
        if (r >> 60 == 0) { /* there was no memory */
            mheap_put_back(&w->heap, ASIDE_GROWTH, growth, false);
        } else {
            lease_extend(&w->sessions[i]->lessee, first, other - npages);
        }
    }
}

static void end_session(world *w, int i)
{
    uint32_t kept = 0;

    session_set_state(&w->table, w->sessions[i], SHM_SESSION_ENDING);
    while (!session_end_step(&w->table, w->sessions[i], 7))
        ;
    for (uint32_t at = 0; at < w->nobjects; at++) {
        if (w->objects[at].owner != i)
            w->objects[kept++] = w->objects[at];
    }
    w->nobjects = kept;
}

static void check(world *w)
{
    census c = { .pos = { 0 } };

    assert_int_equal(mheap_validate(&w->heap, stderr), 0);
    assert_int_equal(session_table_validate(&w->table, stderr), 0);
    while (!census_step(&c, &w->heap, 13))
        ;
    assert_int_equal(census_total(&c).live.objects, w->nobjects);
}

static void sweep_everything(world *w)
{
    (void)sweep_some(&w->table.leases, &(page_no){ 0 }, UINT32_MAX, true, OFFERS_TAKE);
}

static void random_sessions_agree_with_the_model(void **state)
{
    const char *given = getenv("GOALLOC_TEST_OPS");
    uint64_t nops = given != NULL ? strtoull(given, NULL, 10) : 100000;
    static world w;
    struct stat arena;

    (void)state;
    w.seed = test_seed();
    assert_int_equal(heapfile_create(&w.file, SHM_BASE_DEFAULT, 256 * MIB), 0);
    assert_int_equal(mheap_init(&w.heap, &w.file, 200 * MIB), 0);
    session_table_init(&w.table, &w.heap);
    for (int i = 0; i < NSESSIONS; i++)
        open_session(&w, i);
    for (uint64_t op = 0; op < nops; op++) {
        uint64_t r = test_random(&w.seed);
        int i = (int)((r >> 32) % NSESSIONS);

        if (r % 100 < 10)
            lease(&w, i);
        else if (r % 100 < 50)
            allocate(&w, i);
        else if (r % 100 < 85)
            free_remotely(&w);
        else if (r % 100 < 88)
            change_owner(&w, i);
        else if (r % 100 < 97)
            give_back(&w, i);
        else if (r % 100 < 98)
            sweep_everything(&w);
        else if (r % 1000 < 984)
            resize_large(&w, i);
        else if (r % 1000 < 989)
            heap_release(&w.heap, (r >> 40) % 1000);
        else if (r % 1000 == 999) {
            end_session(&w, i);
            open_session(&w, i);
        }
        if (op % 256 == 0)
            check(&w);
    }
    for (int i = 0; i < NSESSIONS; i++)
        end_session(&w, i);
    check(&w);
    while (w.nobjects > 0)
        free_remotely(&w);
    sweep_everything(&w);
    check(&w);
    assert_int_equal(w.heap.ninuse_spans, 0);
    assert_int_equal(w.heap.ninuse_pages, 0);
    assert_int_equal(w.table.nopen, 0);
    assert_int_equal(w.table.leases.nleased, 0);
    assert_int_equal(u64_load_relaxed(&w.file.map.header->free_limit), w.file.map.arena_bytes);
    heap_release(&w.heap, UINT64_MAX);
    assert_int_equal(mheap_committed_pages(&w.heap), 0);
    assert_int_equal(fstat(w.file.fds[HEAPFILE_ARENA], &arena), 0);
    assert_int_equal(arena.st_blocks, 0);
    session_table_end(&w.table);
    mheap_end(&w.heap);
    heapfile_close(&w.file);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(random_sessions_agree_with_the_model) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
