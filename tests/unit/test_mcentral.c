/*
 * The central sets: where a refill looks first, how far it looks, and what a sweep makes of the sets.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "daemon/serve/sweep.h"

#define CLASS 40u /* span class of 320-byte objects */
#define NELEMS ((uint32_t)size_class_nelems[CLASS / 2]) /* 25 and more */

typedef struct world {
    heapfile file;
    mheap heap;
    lease_table table;
} world;

static void world_open(world *w)
{
    assert_int_equal(heapfile_create(&w->file, SHM_BASE_DEFAULT, 128 * MIB), 0);
    assert_int_equal(mheap_init(&w->heap, &w->file, 0), 0);
    w->table = (lease_table){ .heap = &w->heap };
    assert_true(NELEMS >= 25);
}

static void world_close(world *w)
{
    assert_int_equal(mheap_validate(&w->heap, stderr), 0);
    mheap_end(&w->heap);
    heapfile_close(&w->file);
}

/* Set the alloc or remote bits, whose first word it is, of a span's first n objects. */
static void set_bits(shm_u64 *word, uint32_t n)
{
    for (uint32_t i = 0; i < bits_nwords(n); i++)
        u64_store_release(&word[SHM_WORD_STRIDE * i], bits_mask(n, i));
}

/* A span with nlive objects in the central sets, of the class or large (class 0). */
static page_no put_span_as(world *w, uint8_t class, uint32_t nlive, bool marked)
{
    uint64_t npages = class < 2 ? 1 : size_class_npages[class / 2];
    page_no first;
    uint64_t nscavenged;

    assert_int_equal(mheap_alloc_span(&w->heap, npages, 1, (span_class){ class }, &first, &nscavenged), 0);
    set_bits(shm_alloc_word(&w->file.map, first, 0), nlive);
    shm_span_at(&w->file.map, first)->marked = marked;
    mcentral_put(&w->heap, first);
    return first;
}

static page_no put_span(world *w, uint8_t class, uint32_t nlive)
{
    return put_span_as(w, class, nlive, false);
}

static page_no put_marked(world *w, uint8_t class, uint32_t nlive)
{
    return put_span_as(w, class, nlive, true);
}

/* n objects of a span are freed remotely. */
static void free_some(world *w, page_no first, uint32_t n)
{
    set_bits(shm_remote_word(&w->file.map, first, 0), n);
}

static page_no take(world *w, unsigned budget, unsigned *ret_left, uint32_t *ret_nfree)
{
    page_no first = mcentral_take(&w->heap, (owner_no){ 0 }, (mcentral_kind){ { CLASS }, false }, &budget, ret_nfree);

    *ret_left = budget;
    return first;
}

static void mcentral_take_looks_in_gos_order(void **state)
{
    world w;
    page_no full_swept;
    page_no full_unswept;
    page_no partial_unswept;
    page_no partial_swept;
    uint32_t nfree = 0;
    unsigned left;

    (void)state;
    world_open(&w);
    full_unswept = put_span(&w, CLASS, NELEMS);
    partial_unswept = put_span(&w, CLASS, 10);
    w.heap.sweep_gen++; /* a sweep begins */
    full_swept = put_span(&w, CLASS, NELEMS);
    partial_swept = put_span(&w, CLASS, 20);
    free_some(&w, full_unswept, 3);
    free_some(&w, full_swept, 3);

    assert_int_equal(take(&w, 100, &left, &nfree).n, partial_swept.n);
    assert_int_equal(nfree, NELEMS - 20);
    assert_int_equal(take(&w, 100, &left, &nfree).n, partial_unswept.n);
    assert_int_equal(nfree, NELEMS - 10);
    assert_int_equal(take(&w, 100, &left, &nfree).n, full_unswept.n);
    assert_int_equal(nfree, 3);
    assert_int_equal(left, 99);
    /* What was swept and full is not looked at again before the next sweep. */
    assert_int_equal(take(&w, 100, &left, &nfree).n, 0);
    assert_int_equal(left, 100);
    w.heap.sweep_gen++;
    assert_int_equal(take(&w, 100, &left, &nfree).n, full_swept.n);
    assert_int_equal(nfree, 3);
    /* The spans that were taken are in no list: put them back, so that the heap is whole. */
    mcentral_put(&w.heap, partial_swept);
    mcentral_put(&w.heap, partial_unswept);
    mcentral_put(&w.heap, full_unswept);
    mcentral_put(&w.heap, full_swept);
    world_close(&w);
}

static void mcentral_take_looks_at_100_spans_at_most(void **state)
{
    world w;
    page_no last = { 0 };
    uint32_t nfree;
    unsigned left;

    (void)state;
    world_open(&w);
    for (int i = 0; i < 250; i++)
        last = put_span(&w, CLASS, NELEMS);
    w.heap.sweep_gen++;
    free_some(&w, last, 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(take(&w, MCENTRAL_BUDGET, &left, &nfree).n, 0);
        assert_int_equal(left, 0);
    }
    assert_int_equal(take(&w, MCENTRAL_BUDGET, &left, &nfree).n, last.n);
    assert_int_equal(left, 50);
    mcentral_put(&w.heap, last);
    world_close(&w);
}

static void sweep_returns_empty_spans_and_sorts_the_others(void **state)
{
    world w;
    page_no spans[5];
    page_no large;
    page_no large_freed;
    uint32_t nfree;
    unsigned left;
    const mcentral *central;

    (void)state;
    world_open(&w);
    for (int i = 0; i < 5; i++)
        spans[i] = put_span(&w, CLASS, i < 3 ? NELEMS : 5);
    large = put_span(&w, 0, 1);
    large_freed = put_span(&w, 1, 1);
    free_some(&w, spans[0], NELEMS); /* empty */
    free_some(&w, spans[1], 1);      /* partial */
    free_some(&w, spans[3], 5);      /* empty */
    free_some(&w, large_freed, 1);
    assert_int_equal(w.heap.ninuse_spans, 7);
    assert_int_equal(sweep_some(&w.table, &(page_no){ 0 }, UINT32_MAX, true, OFFERS_TAKE), 3);
    assert_int_equal(w.heap.ninuse_spans, 4);
    central = &w.heap.central[CLASS];
    assert_int_equal(central->sets[w.heap.sweep_gen & 1].count, 2);
    assert_int_equal(central->sets[2 + (w.heap.sweep_gen & 1)].count, 1);
    assert_int_equal(central->sets[~w.heap.sweep_gen & 1].count + central->sets[2 + (~w.heap.sweep_gen & 1)].count, 0);
    assert_int_equal(lease_unpack(u64_load_relaxed(&shm_span_at(&w.file.map, large)->lease)).state, SPAN_CENTRAL);
    assert_int_equal(lease_unpack(u64_load_relaxed(&shm_span_at(&w.file.map, large_freed)->lease)).state, SPAN_FREE);
    assert_int_equal(mheap_validate(&w.heap, stderr), 0);
    /* Without force, what is swept is left alone; the next sweep finds it. */
    free_some(&w, spans[4], 5);
    assert_false(mcentral_sweep(&w.heap, spans[4], false));
    assert_true(mcentral_sweep(&w.heap, spans[4], true));
    assert_int_equal(take(&w, 100, &left, &nfree).n, spans[1].n);
    mcentral_put(&w.heap, spans[1]);
    world_close(&w);
}

static void sweep_some_in_the_middle_of_a_pass_leaves_nothing_out(void **state)
{
    world w;
    page_no spans[20];

    (void)state;
    world_open(&w);
    for (int i = 0; i < 20; i++) {
        spans[i] = put_span(&w, CLASS, 5);
        free_some(&w, spans[i], 5);
    }
    w.heap.sweep_gen++; /* the background pass has begun, and has come to the tenth */
    for (int i = 0; i < 10; i++)
        assert_true(mcentral_sweep(&w.heap, spans[i], false));
    assert_int_equal(sweep_some(&w.table, &(page_no){ 0 }, UINT32_MAX, true, OFFERS_TAKE), 10);
    assert_int_equal(w.heap.ninuse_spans, 0);
    world_close(&w);
}

/* A refill of marked spans gets no others, and one of others no marked ones, of whichever there are more. */
static void mcentral_take_of_a_kind_looks_at_that_kind_alone(void **state)
{
    world w;
    page_no marked;
    page_no plain;
    uint32_t nfree = 0;
    unsigned budget = 1;

    (void)state;
    world_open(&w);
    for (int i = 0; i < 200; i++)
        (void)put_marked(&w, CLASS, 10);
    plain = put_span(&w, CLASS, 10);
    assert_int_equal(take(&w, 1, &budget, &nfree).n, plain.n);
    assert_int_equal(take(&w, 100, &budget, &nfree).n, 0);
    assert_int_equal(budget, 100);
    mcentral_put(&w.heap, plain);
    marked = mcentral_take(&w.heap, (owner_no){ 0 }, (mcentral_kind){ { CLASS }, true }, &budget, &nfree);
    assert_true(marked.n != 0 && nfree == NELEMS - 10 && shm_span_at(&w.file.map, marked)->marked == 1);
    mcentral_put(&w.heap, marked);
    assert_int_equal(shm_span_at(&w.file.map, marked)->marked, 1);
    free_some(&w, marked, 10); /* its last objects */
    assert_true(mcentral_sweep(&w.heap, marked, true));
    assert_int_equal(w.heap.ninuse_spans, 200);
    world_close(&w);
}

/* After a daemon that does not know marks nothing is left of them; else they are as they were. */
static void recovery_takes_marks_away_unless_the_feature_is_there(void **state)
{
    world w;
    mheap next;
    page_no marked;
    const char *why = NULL;
    uint8_t *mark;
    unsigned budget = 100;
    uint32_t nfree = 0;

    (void)state;
    world_open(&w);
    marked = put_marked(&w, CLASS, 10);
    mark = &shm_span_at(&w.file.map, marked)->marked;
    u32_store_release(&w.file.map.header->optional, SHM_OPTIONAL_PROFILE);
    assert_int_equal(mheap_recover(&next, &w.file, 0, &why), 0);
    assert_int_equal(*mark, 1);
    assert_int_equal(mcentral_take(&next, (owner_no){ 0 }, (mcentral_kind){ { CLASS }, false }, &budget, &nfree).n, 0);
    mheap_end(&next);
    *mark = 2;
    assert_int_equal(mheap_recover(&next, &w.file, 0, &why), -EUCLEAN);
    assert_string_equal(why, "a span's mark is damaged");
    u32_store_release(&w.file.map.header->optional, 0);
    assert_int_equal(mheap_recover(&next, &w.file, 0, &why), 0);
    assert_int_equal(*mark, 0);
    assert_int_equal(mcentral_take(&next, (owner_no){ 0 }, (mcentral_kind){ { CLASS }, false }, &budget, &nfree).n,
                     marked.n);
    mheap_end(&next);
    mheap_end(&w.heap);
    heapfile_close(&w.file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mcentral_take_looks_in_gos_order),
        cmocka_unit_test(mcentral_take_looks_at_100_spans_at_most),
        cmocka_unit_test(mcentral_take_of_a_kind_looks_at_that_kind_alone),
        cmocka_unit_test(recovery_takes_marks_away_unless_the_feature_is_there),
        cmocka_unit_test(sweep_some_in_the_middle_of_a_pass_leaves_nothing_out),
        cmocka_unit_test(sweep_returns_empty_spans_and_sorts_the_others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
