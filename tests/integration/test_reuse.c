/*
 * Reuse: patterns in which objects come and go, for sizes of one object a span and of a thousand. What malloc hands out
 * is nobody else's: every object is filled and looked at when it goes, calloc's are zero, and the counts are exact at
 * the end.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "shm/sizeclass.h"
#include "tests/support/objects.h"
#include "tests/support/rawheap.h"

/* Bytes that a pattern writes, about; its steps, at most; and of the lengths of batches of large objects every so many.
 */
#if defined(__SANITIZE_THREAD__)
#define WORK_BYTES (UINT64_C(16) << 20)
#define NOPS_MAX 60000
#define LONG_STEP 13
#elif defined(__SANITIZE_ADDRESS__)
#define WORK_BYTES (UINT64_C(80) << 20)
#define NOPS_MAX 300000
#define LONG_STEP 1
#else
#define WORK_BYTES (UINT64_C(300) << 20)
#define NOPS_MAX 1000000
#define LONG_STEP 1
#endif
#define LIVE_MAX 8192
#define LONGEST 200 /* batch, or queue */

/* How objects are allocated. */
enum kind { BY_MALLOC, BY_CALLOC, BY_BOTH, KINDS };

/* What a process does with objects of one size. */
typedef struct player {
    size_t size;
    enum kind kind;
    uint64_t seed;
    uint64_t nops;    /* a pattern's length */
    uint64_t nallocs; /* so far */
    uint64_t nlive;
    uint64_t next_fill;
} player;

typedef struct object {
    unsigned char *p;
    unsigned char fill;
} object;

static object allocate(player *y)
{
    bool zeroed = y->kind == BY_CALLOC || (y->kind == BY_BOTH && test_random(&y->seed) % 2);
    object o = { .p = zeroed ? goalloc_calloc(1, y->size) : goalloc_malloc(y->size) };

    CHECK(o.p != NULL && (!zeroed || all_are(o.p, y->size, 0)));
    o.fill = (unsigned char)(1 + y->next_fill++ % 251);
    memset(o.p, o.fill, y->size);
    y->nallocs++;
    y->nlive++;
    return o;
}

/* If it had been handed out twice, the other one's bytes would be in it. */
static void release(player *y, object *o)
{
    CHECK(all_are(o->p, y->size, o->fill));
    goalloc_free(o->p);
    o->p = NULL;
    y->nlive--;
}

static int compare_addresses(const void *a, const void *b)
{
    const object *x = a;
    const object *y = b;

    return (x->p > y->p) - (x->p < y->p);
}

/* Of n objects no two overlap, and each is as it was written. */
static void check_apart(const player *y, const object *objects, size_t n)
{
    static object sorted[LIVE_MAX];

    CHECK(n <= LIVE_MAX);
    memcpy(sorted, objects, n * sizeof(*sorted));
    if (n > 0)
        qsort(sorted, n, sizeof(*sorted), compare_addresses);
    for (size_t i = 0; i < n; i++) {
        CHECK(all_are(sorted[i].p, y->size, sorted[i].fill));
        CHECK(i == 0 || sorted[i - 1].p + y->size <= sorted[i].p);
    }
}

/* --- patterns --- */

static void pairs_in_one_span(player *y)
{
    object keep = allocate(y);

    for (uint64_t i = 0; i < y->nops; i++) {
        object o = allocate(y);

        CHECK(o.p != keep.p);
        release(y, &o);
    }
    release(y, &keep);
}

/* Objects of several spans are freed in turn, and after each of them one is allocated. */
static void pairs_in_several_spans(player *y)
{
    static object objects[LIVE_MAX];
    size_t nelems = y->size > SMALL_BYTES_MAX ? 1 : size_class_nelems[size_class_for(y->size).n];
    size_t n = nelems * 4 + nelems / 2 + 1;

    for (size_t i = 0; i < n; i++)
        objects[i] = allocate(y);
    for (uint64_t i = 0; i < y->nops; i++) {
        object *o = &objects[i % 5 * nelems % n];

        release(y, o);
        *o = allocate(y);
        if (i % 16 == 0) { /* and now and then from a full span, all of whose objects go */
            o = &objects[test_random(&y->seed) % n];
            release(y, o);
            *o = allocate(y);
        }
    }
    check_apart(y, objects, n);
    for (size_t i = 0; i < n; i++)
        release(y, &objects[i]);
}

static size_t length_step(const player *y)
{
    return y->size > 4096 ? LONG_STEP : 1;
}

static void batches_of_all_lengths(player *y)
{
    static object objects[LONGEST];
    uint64_t rounds = 1 + y->nops / (LONGEST * (LONGEST + 1) / 2);

    for (uint64_t round = 0; round < rounds; round++) {
        for (size_t n = 1; n <= LONGEST; n += length_step(y)) {
            for (size_t i = 0; i < n; i++)
                objects[i] = allocate(y);
            if (n % 20 == 0)
                check_apart(y, objects, n);
            for (size_t i = 0; i < n; i++) /* forwards, or backwards */
                release(y, &objects[round % 3 == 0 ? i : n - 1 - i]);
        }
    }
}

static void queues_of_all_lengths(player *y)
{
    static object queue[LONGEST];
    uint64_t each = 2 + y->nops / (LONGEST * (LONGEST + 1) / 2);

    for (size_t n = 1; n <= LONGEST; n += length_step(y)) {
        for (size_t i = 0; i < n; i++)
            queue[i] = allocate(y);
        for (size_t i = 0; i < each * n; i++) {
            if (i / n % 2 == 0) { /* the place is free before the next one is taken, or after it */
                release(y, &queue[i % n]);
                queue[i % n] = allocate(y);
            } else {
                object o = allocate(y);

                release(y, &queue[i % n]);
                queue[i % n] = o;
            }
        }
        if (n % 20 == 0)
            check_apart(y, queue, n);
        for (size_t i = 0; i < n; i++)
            release(y, &queue[i]);
    }
}

/* Last in, first out, as a stack that goes up and down. */
static void stack(player *y)
{
    static object objects[LONGEST];
    size_t n = 0;

    for (uint64_t i = 0; i < y->nops; i++) {
        if (n == 0 || (n < LONGEST && test_random(&y->seed) % 2))
            objects[n++] = allocate(y);
        else
            release(y, &objects[--n]);
    }
    check_apart(y, objects, n);
    while (n > 0)
        release(y, &objects[--n]);
}

static void at_random(player *y)
{
    static object objects[LIVE_MAX];
    size_t most = y->size > 4096 ? 300 : 5000;
    size_t n = 0;

    for (uint64_t i = 0; i < y->nops; i++) {
        bool grows = i / (y->nops / 6 + 1) % 2 == 0;

        if (n == 0 || (n < most && test_random(&y->seed) % 8 < (grows ? 5 : 3))) {
            objects[n++] = allocate(y);
        } else {
            size_t at = test_random(&y->seed) % n;

            release(y, &objects[at]);
            objects[at] = objects[--n];
        }
        if (i % (y->nops / 10 + 1) == 0)
            check_apart(y, objects, n);
    }
    while (n > 0)
        release(y, &objects[--n]);
}

/* Often the one freed last is allocated again; then not at all; then again. */
static void pairs_between_batches(player *y)
{
    static object objects[LIVE_MAX];

    for (uint64_t done = 0, n = 0; done < y->nops; done += n + 100) {
        n = 1 + test_random(&y->seed) % LONGEST;
        for (size_t i = 0; i < n; i++)
            objects[i] = allocate(y);
        for (size_t i = 0; i < 100; i++) {
            object *o = &objects[test_random(&y->seed) % n];

            release(y, o);
            *o = allocate(y);
        }
        for (size_t i = 0; i < n; i += 2)
            release(y, &objects[i]);
        for (size_t i = 0; i < n; i += 4)
            objects[i] = allocate(y);
        for (size_t i = 0; i < n; i++) {
            if (objects[i].p != NULL)
                release(y, &objects[i]);
        }
    }
}

/* --- the process --- */

static void play_all(const fixture *f, player *y)
{
    static void (*const patterns[])(
        player *) = { pairs_in_one_span, pairs_in_several_spans, batches_of_all_lengths, queues_of_all_lengths, stack,
                      at_random,         pairs_between_batches };
    uint32_t class = y->size > SMALL_BYTES_MAX ? 0 : size_class_for(y->size).n;
    uint64_t allocs = class_now(f, class).allocs - y->nallocs; /* what others have allocated before */

    for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
        object some[3] = { allocate(y), allocate(y), allocate(y) };
        goalloc_stats_t stats;
        class_figures figures;

        patterns[i](y);
        stats = stats_now();
        CHECK(stats.live_objects == y->nlive && y->nlive == 3 && stats.live_bytes == 3 * y->size);
        figures = class_now(f, class);
        CHECK(figures.live_objects == 3 && figures.live_bytes == 3 * y->size);
        CHECK(figures.allocs == allocs + y->nallocs && figures.frees == figures.allocs - 3);
        check_apart(y, some, 3);
        for (int n = 0; n < 3; n++)
            release(y, &some[n]);
    }
}

static int play(const fixture *f, void *arg)
{
    player y = *(player *)arg;

    must_attach(f, 0);
    y.nops = WORK_BYTES / y.size / (y.size > SMALL_BYTES_MAX ? 1 : 8);
    y.nops = y.nops > NOPS_MAX ? NOPS_MAX : y.nops;
    for (int kind = 0; kind < KINDS; kind++) {
        y.kind = (enum kind)kind;
        play_all(f, &y);
    }
    CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == 0);
    return 0;
}

static void objects_that_come_and_go_are_apart_and_counted(void **state)
{
    static const size_t sizes[] = { 8, 48, 64, 1024, 8192, 65536 };
    player y = { .seed = test_seed() };
    fixture f;

    (void)state;
    fixture_start(&f, NULL);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        y.size = sizes[i];
        if (child_run(&f, play, &y) != 0)
            fail_msg("size %zu", y.size);
        assert_true(fixture_is_clean(&f, 0));
        assert_true(fixture_is_whole(&f));
    }
    assert_true(fixture_stop(&f));
}

/* Counts are exact at any time, not only when spans have been left: after every single step of a few thousand. */
static int count_each_step(const fixture *f, void *arg)
{
    static object objects[700];
    player y = { .seed = *(uint64_t *)arg };
    size_t n = 0;

    must_attach(f, 0);
    for (int i = 0; i < 2000; i++) {
        y.size = i < 1000 ? 48 : 65536;
        if (i == 1000) {
            y.size = 48;
            while (n > 0)
                release(&y, &objects[--n]);
            y.size = 65536;
            y.nallocs = 0;
        }
        for (uint64_t k = test_random(&y.seed) % (i % 100 == 0 ? 300 : 4); k > 0 && n < 700; k--)
            objects[n++] = allocate(&y);
        for (uint64_t k = test_random(&y.seed) % (i % 100 == 50 ? 300 : 4); k > 0 && n > 0; k--) {
            size_t at = test_random(&y.seed) % n;

            release(&y, &objects[at]);
            objects[at] = objects[--n];
        }
        CHECK(stats_now().live_objects == n);

        Goallocd__Reply *reply = fixture_stats_reply(f);
        uint64_t allocs = 0;

        for (size_t c = 0; c < reply->stats->n_classes; c++) {
            if (reply->stats->classes[c]->size_class == (i < 1000 ? size_class_for(48).n : 0))
                allocs = reply->stats->classes[c]->allocs;
        }
        CHECK(allocs == y.nallocs);
        goallocd__reply__free_unpacked(reply, NULL);
    }
    return 0;
}

static void allocs_are_counted_exactly_after_every_goalloc_stats(void **state)
{
    uint64_t seed = test_seed();
    fixture f;

    (void)state;
    fixture_start(&f, NULL);
    assert_int_equal(child_run(&f, count_each_step, &seed), 0);
    assert_true(fixture_is_whole(&f));
    assert_true(fixture_stop(&f));
}

/* Pages that an object's span has, by the tables alone. */
static uint32_t span_npages(const rawheap *heap, const void *p)
{
    return shm_span_at(&heap->map, page_at(u32_load_acquire(&heap->map.page_map[goalloc_offset(p) / PAGE_BYTES])))
        ->npages;
}

/* A slot begins with short spans; what it takes later is long. Objects of both are used again, and all goes back. */
static int use_both_lengths(const fixture *f, void *arg)
{
    enum { BYTES = 256 << 10 };
    static void *objects[BYTES / 8];
    uint64_t npages = 0;
    rawheap heap;

    (void)arg;
    rawheap_open(&heap, f, 0, "looks");
    must_attach(f, 0);
    for (unsigned c = 1; c < SIZE_CLASS_COUNT; c++) {
        CHECK((objects[c] = filled(size_class_bytes[c], (int)c)) != NULL);
        CHECK(span_npages(&heap, objects[c]) == size_class_short_npages[c]);
        npages += size_class_short_npages[c];
    }
    CHECK(stats_now().session_held_bytes == npages * PAGE_BYTES);
    for (unsigned c = 1; c < SIZE_CLASS_COUNT; c++) {
        CHECK(all_are(objects[c], size_class_bytes[c], (int)c));
        goalloc_free(objects[c]);
    }
    for (unsigned c = 1; c < SIZE_CLASS_COUNT; c++) {
        size_t size = size_class_bytes[c];
        size_t n = BYTES / size;

        for (int round = 0; round < 2; round++) {
            for (size_t i = 0; i < n; i++)
                objects[i] = filled(size, (int)(i + c));
            CHECK(span_npages(&heap, objects[n - 1]) == size_class_npages[c]);
            for (size_t i = 0; i < n; i++) {
                CHECK(all_are(objects[i], size, (int)(i + c)));
                goalloc_free(objects[i]);
            }
        }
    }
    CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == 0);
    rawheap_close(&heap);
    return 0;
}

static void slot_with_few_objects_has_short_spans(void **state)
{
    assert_int_equal(child_run(*state, use_both_lengths, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
    assert_true(fixture_is_whole(*state));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_that_come_and_go_are_apart_and_counted),
        cmocka_unit_test(allocs_are_counted_exactly_after_every_goalloc_stats),
        FIXTURE_TEST(slot_with_few_objects_has_short_spans),
    };

    return cmocka_run_group_tests_name("reuse", tests, NULL, NULL);
}
