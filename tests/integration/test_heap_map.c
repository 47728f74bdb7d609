/*
 * HeapMap: what the daemon says of its pages adds up, whatever the cells are; with size classes it is what leases say,
 * in replies that are bounded however many spans there are.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "proto/wire.h"
#include "tests/support/rawheap.h"

#define CLASSES (SIZE_CLASS_COUNT + 1)

/* Of a whole heap, and of how the replies were. */
typedef struct map_sums {
    uint64_t inuse;
    uint64_t backed;
    uint64_t by_class[CLASSES];
    uint64_t nreplies;
    size_t most_cells;
    size_t most_classes;
} map_sums;

static Goallocd__Reply *ask(const rawheap *heap, uint64_t start, uint64_t cell_pages, uint32_t max_cells, bool classes)
{
    Goallocd__HeapMap body = GOALLOCD__HEAP_MAP__INIT;
    Goallocd__Request request = WIRE_REQUEST(HEAP_MAP, heap_map, &body);
    Goallocd__Reply *reply;

    body.start = start;
    body.cell_pages = cell_pages;
    body.max_cells = max_cells;
    body.classes = classes;
    request.id = 1;
    reply = raw_call(heap->fd, &request);
    assert_non_null(reply);
    return reply;
}

static int error_of(const rawheap *heap, uint64_t start, uint64_t cell_pages, uint32_t max_cells, bool classes)
{
    Goallocd__Reply *reply = ask(heap, start, cell_pages, max_cells, classes);
    int error = reply->error;

    goallocd__reply__free_unpacked(reply, NULL);
    return error;
}

/* Rows are sorted by cell and class, and no cell has more pages in spans than in use. */
static void add_reply(const Goallocd__HeapMapReply *map, map_sums *sums)
{
    uint64_t left = 0;
    uint64_t before = 0;

    assert_int_equal(map->n_inuse, map->n_backed);
    assert_true(map->n_class_cell == map->n_class_number && map->n_class_cell == map->n_class_npages);
    for (size_t i = 0; i < map->n_inuse; i++) {
        sums->inuse += map->inuse[i];
        sums->backed += map->backed[i];
    }
    for (size_t i = 0; i < map->n_class_cell; i++) {
        uint64_t row = (uint64_t)map->class_cell[i] * CLASSES + map->class_number[i] + 1;

        assert_true(row > before && map->class_cell[i] < map->n_inuse && map->class_number[i] < CLASSES);
        if (i == 0 || map->class_cell[i] != map->class_cell[i - 1])
            left = map->inuse[map->class_cell[i]];
        assert_true(map->class_npages[i] > 0 && map->class_npages[i] <= left);
        left -= map->class_npages[i];
        sums->by_class[map->class_number[i]] += map->class_npages[i];
        before = row;
    }
    sums->nreplies++;
    sums->most_cells = map->n_inuse > sums->most_cells ? map->n_inuse : sums->most_cells;
    sums->most_classes = map->n_class_cell > sums->most_classes ? map->n_class_cell : sums->most_classes;
}

static map_sums sum_map(const rawheap *heap, uint64_t cell_pages, bool classes)
{
    map_sums sums = { 0 };
    uint64_t end = 1;

    for (uint64_t at = 0; at < end;) {
        Goallocd__Reply *reply = ask(heap, at, cell_pages, UINT32_MAX, classes);

        assert_int_equal(reply->error, 0);
        assert_int_equal(reply->heap_map->has_classes, classes);
        assert_true(reply->heap_map->n_inuse > 0);
        assert_true(classes || reply->heap_map->n_class_cell == 0);
        add_reply(reply->heap_map, &sums);
        at += reply->heap_map->n_inuse * cell_pages;
        end = reply->heap_map->end;
        goallocd__reply__free_unpacked(reply, NULL);
    }
    return sums;
}

/* Spans of four classes in turn: no two neighbours are alike. */
static void lease_one_by_one(const rawheap *heap, uint32_t nspans, uint64_t by_class[CLASSES])
{
    static const uint32_t classes[] = { 1, 2, 4, 6 };

    for (uint32_t i = 0; i < nspans; i++) {
        uint32_t class = classes[i % 4];
        uint32_t span;

        assert_int_equal(rawheap_refill(heap, 2 * class, 1, 1, &span), 1);
        by_class[class] += shm_span_at(&heap->map, page_at(span))->npages;
    }
}

/*
 * True once the cells have the pages that one cell of all has, with classes and without, within 10 s: the daemon gets
 * memory ready meanwhile.
 */
static bool adds_up(const rawheap *heap, uint64_t cell_pages)
{
    for (int i = 0; i < 1000; i++, (void)usleep(10000)) {
        map_sums all = sum_map(heap, heap->map.npages, false);
        map_sums plain = sum_map(heap, cell_pages, false);
        map_sums sums = sum_map(heap, cell_pages, true);

        if (sums.inuse == all.inuse && sums.backed == all.backed && plain.inuse == all.inuse &&
            plain.backed == all.backed)
            return true;
    }
    return false;
}

static void classes_are_those_of_the_leases_whatever_the_cells_are(void **state)
{
    static const uint64_t cells[] = { 1, 2, 3, 64, 100, 1024, SHM_HEAP_ARENA_PAGES };
    const fixture *f = *state;
    uint64_t want[CLASSES] = { 0 };
    rawheap heap;
    page_no large;

    rawheap_open(&heap, f, 0, "map");
    lease_one_by_one(&heap, 100, want);
    large = rawheap_alloc_large(&heap, 3000);
    assert_true(large.n != 0);
    want[0] += 3000;
    lease_one_by_one(&heap, 33, want);
    for (size_t i = 0; i < sizeof(cells) / sizeof(cells[0]); i++) {
        map_sums sums = sum_map(&heap, cells[i], true);

        assert_memory_equal(sums.by_class, want, sizeof(want));
        assert_true(adds_up(&heap, cells[i]));
    }
    rawheap_close(&heap);
}

/*
 * A reply ends with the cell in which it has seen 8192 spans, with as many rows at most and those of one cell. One who
 * asks on gets all the same.
 */
static void replies_are_bounded_and_together_say_all(void **state)
{
    const fixture *f = *state;
    uint64_t want[CLASSES] = { 0 };
    uint32_t spans[4096];
    uint64_t nbulk = 0;
    map_sums sums;
    rawheap heap;

    rawheap_open(&heap, f, 0, "map");
    lease_one_by_one(&heap, 8400, want);
    sums = sum_map(&heap, 4, true);
    assert_memory_equal(sums.by_class, want, sizeof(want));
    assert_true(sums.most_classes > 8192 && sums.most_classes <= 8192 + CLASSES);
    assert_true(sums.most_cells < 4096);
    sums = sum_map(&heap, 1, true);
    assert_memory_equal(sums.by_class, want, sizeof(want));
    assert_int_equal(sums.most_cells, 4096);
    while (nbulk < 40000) {
        size_t n = rawheap_refill(&heap, 2, 1, 1024, spans);

        assert_true(n > 0);
        for (size_t i = 0; i < n; i++)
            want[1] += shm_span_at(&heap.map, page_at(spans[i]))->npages;
        nbulk += n;
    }
    sums = sum_map(&heap, SHM_HEAP_ARENA_PAGES, true);
    assert_memory_equal(sums.by_class, want, sizeof(want));
    assert_true(sums.nreplies > 1 && sums.most_cells <= 3);
    rawheap_close(&heap);
}

static void what_no_cell_can_be_is_refused(void **state)
{
    const fixture *f = *state;
    rawheap heap;

    rawheap_open(&heap, f, 0, "map");
    assert_int_equal(error_of(&heap, 0, 0, 1, false), EINVAL);
    assert_int_equal(error_of(&heap, 0, 0, 1, true), EINVAL);
    assert_int_equal(error_of(&heap, 0, UINT64_MAX, 1, false), EINVAL);
    assert_int_equal(error_of(&heap, 0, SHM_HEAP_ARENA_PAGES + 1, 1, true), EINVAL);
    assert_int_equal(error_of(&heap, 0, SHM_HEAP_ARENA_PAGES + 1, 1, false), 0);
    assert_int_equal(error_of(&heap, 0, SHM_HEAP_ARENA_PAGES, 0, true), 0);
    assert_int_equal(error_of(&heap, UINT64_MAX, 1, UINT32_MAX, true), 0);
    assert_int_equal(error_of(&heap, UINT32_MAX - UINT64_C(1), SHM_HEAP_ARENA_PAGES, UINT32_MAX, true), 0);
    rawheap_close(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(classes_are_those_of_the_leases_whatever_the_cells_are),
        FIXTURE_TEST_WITH(replies_are_bounded_and_together_say_all, "--commit", "lazy"),
        FIXTURE_TEST(what_no_cell_can_be_is_refused),
    };

    return cmocka_run_group_tests_name("HeapMap", tests, NULL, NULL);
}
