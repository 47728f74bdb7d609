/*
 * Test of the collector's half of the heap: copies, marks, suspects and garbage, over a heap that nobody serves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "client/collector/garbage.h"
#include "client/collector/suspects.h"
#include "client/collector/trouble.h"
#include "shm/origin.h"
#include "tests/support/bareheap.h"

#define BASE SHM_BASE_DEFAULT
#define CLASS64 6u
#define NSOME 5u
#define NCHANGED 64u

typedef struct marked {
    bareheap heap;
    heapcopy copy;
    marker marker;
} marked;

static void open_heap(marked *m)
{
    *m = (marked){ .copy = { .nspans = 0 } };
    bareheap_open(&m->heap, 256 * MIB);
}

static void take(marked *m, heapcopy_is_suspect *suspect, bool both_values)
{
    assert_int_equal(heapcopy_prepare(&m->copy, &m->heap.map, m->heap.arena_fd, suspect, 1), 0);
    assert_int_equal(heapcopy_take(&m->copy, suspect, both_values, UINT64_MAX), 0);
}

/* Take a copy, and mark from the heap's roots and the given words, which are words of a process. */
static void mark_all(marked *m, unsigned flags, const uint64_t *words_of_process, size_t n)
{
    take(m, NULL, false);
    assert_int_equal(mark_init(&m->marker, &m->copy, flags, true), 0);
    mark_from_roots(&m->marker);
    for (size_t i = 0; i < n; i++)
        mark_from_word(&m->marker, words_of_process[i], 0);
    mark_closure(&m->marker);
}

static void forget(marked *m)
{
    mark_free(&m->marker);
    heapcopy_free(&m->copy);
}

static void close_heap(marked *m)
{
    forget(m);
    bareheap_close(&m->heap);
}

static bool is_reached(const marked *m, uint64_t offset)
{
    heap_object object;

    assert_true(heapcopy_find(&m->copy, offset, &object));
    return mark_is_marked(&m->copy, object.ordinal);
}

static uint64_t garbage_objects(const marked *m)
{
    garbage g;
    uint64_t n;

    assert_int_equal(garbage_find(&g, &m->copy), 0);
    n = g.total.objects;
    garbage_end(&g);
    return n;
}

/* --- find --- */

typedef struct find_case {
    uint8_t class;
    uint32_t npages; /* of class 0 */
} find_case;

static void find_of_each_byte_of_an_object_finds_it(void **state)
{
    static const find_case cases[] = { { 1, 0 }, { 2, 0 }, { 3, 0 }, { CLASS64, 0 }, { 35, 0 }, { 50, 0 },
                                       { 67, 0 }, { 0, 5 }, { 0, 40 }, { 0, 9000 } };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        marked m;
        uint32_t first;
        uint32_t last;
        uint64_t bytes;
        uint64_t offset;
        heap_object object;

        open_heap(&m);
        last = bareheap_add_span(&m.heap, cases[i].class, false, cases[i].npages, &first)->nelems - 1;
        bytes = shm_span_at(&m.heap.map, page_at(first))->elem_bytes;
        (void)bareheap_allocate(&m.heap, first, 0);
        offset = bareheap_allocate(&m.heap, first, last);
        take(&m, NULL, false);
        assert_int_equal(m.copy.nlive, last == 0 ? 1 : 2);
        for (uint64_t at = 0; at < bytes; at += bytes > 4096 ? 4095 : 1) {
            assert_true(heapcopy_find(&m.copy, offset + at, &object));
            assert_true(object.offset == offset && object.bytes == bytes);
        }
        assert_true(last < 2 || !heapcopy_find(&m.copy, offset - 1, &object)); /* a place that is free */
        assert_false(heapcopy_find(&m.copy, page_offset(page_at(first)) - 1, &object));
        assert_false(heapcopy_find(&m.copy, m.copy.used_bytes, &object));
        assert_false(heapcopy_find(&m.copy, UINT64_MAX, &object));
        close_heap(&m);
    }
}

static void find_of_what_was_freed_remotely_finds_nothing(void **state)
{
    marked m;
    uint32_t first;
    uint64_t offset;
    heap_object object;

    (void)state;
    open_heap(&m);
    (void)bareheap_add_span(&m.heap, CLASS64, false, 0, &first);
    offset = bareheap_allocate(&m.heap, first, 7);
    (void)bareheap_allocate(&m.heap, first, 8);
    bareheap_free_remotely(&m.heap, first, 7);
    take(&m, NULL, false);
    assert_false(heapcopy_find(&m.copy, offset, &object));
    assert_true(heapcopy_find(&m.copy, offset + 64, &object));
    close_heap(&m);
}

static void find_of_tiny_objects_finds_each_by_itself(void **state)
{
    marked m;
    uint32_t first;
    uint64_t block;
    heap_object object;

    (void)state;
    open_heap(&m);
    (void)bareheap_add_span(&m.heap, SIZE_CLASS_TINY, true, 0, &first);
    block = bareheap_allocate(&m.heap, first, 3);
    u32_store_relaxed(tiny_word(&m.heap.map, page_at(first), 3), tiny_bits(0, 3) | tiny_bits(4, 8));
    (void)bareheap_allocate(&m.heap, first, 4); /* a block in which nothing lives */
    take(&m, NULL, false);
    assert_int_equal(m.copy.nlive, 2);
    assert_true(heapcopy_find(&m.copy, block + 2, &object));
    assert_true(object.offset == block && object.bytes == 3);
    assert_false(heapcopy_find(&m.copy, block + 3, &object));
    assert_true(heapcopy_find(&m.copy, block + 11, &object));
    assert_true(object.offset == block + 4 && object.bytes == 8);
    assert_false(heapcopy_find(&m.copy, block + 12, &object));
    assert_false(heapcopy_find(&m.copy, block + 16, &object));
    close_heap(&m);
}

/* --- what counts as a pointer --- */

typedef struct pointer_case {
    const char *what;
    unsigned flags;
    uint64_t word; /* less the offset of an object of 64 bytes */
    bool reaches;
} pointer_case;

static void mark_from_a_word_reaches_what_counts_as_a_pointer(void **state)
{
    static const pointer_case cases[] = {
        { "its address", 0, BASE, true },
        { "with a tag in the upper bits", 0, BASE | UINT64_C(0xa5a5) << 48, true },
        { "with a tag in the lower bits", 0, BASE + 7, true },
        { "its last byte", 0, BASE + 63, true },
        { "behind it", 0, BASE + 64, false },
        { "behind it, as asked for", MARK_PAST_END, BASE + 64, true },
        { "far behind it", MARK_PAST_END, BASE + 65, false },
        { "before it", MARK_PAST_END, BASE - 1, false },
        { "its offset", 0, 0, false },
        { "its offset, as asked for", MARK_OFFSETS, 0, true },
        { "an offset into it", MARK_OFFSETS, 63, true },
        { "an offset behind it", MARK_OFFSETS, 64, false },
        { "an offset behind it, as asked for", MARK_OFFSETS | MARK_PAST_END, 64, true },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        marked m;
        uint32_t first;
        uint64_t offset;
        uint64_t word;

        open_heap(&m);
        (void)bareheap_add_span(&m.heap, CLASS64, false, 0, &first);
        offset = bareheap_allocate(&m.heap, first, 5);
        word = cases[i].word + offset;
        mark_all(&m, cases[i].flags, &word, 1);
        if (is_reached(&m, offset) != cases[i].reaches)
            fail_msg("%s", cases[i].what);
        close_heap(&m);
    }
}

static void mark_closure_looks_into_what_may_hold_pointers_alone(void **state)
{
    marked m;
    uint32_t scan;
    uint32_t noscan;
    uint32_t large;
    uint64_t a;
    uint64_t b;
    uint64_t c;
    uint64_t d;

    (void)state;
    open_heap(&m);
    (void)bareheap_add_span(&m.heap, CLASS64, false, 0, &scan);
    (void)bareheap_add_span(&m.heap, CLASS64, true, 0, &noscan);
    (void)bareheap_add_span(&m.heap, 0, false, 400, &large);
    a = bareheap_allocate(&m.heap, scan, 1);
    b = bareheap_allocate(&m.heap, noscan, 1);
    c = bareheap_allocate(&m.heap, scan, 2);
    d = bareheap_allocate(&m.heap, large, 0);
    *bareheap_word(&m.heap, d, 400 * PAGE_BYTES / 8 - 1) = BASE + a; /* the last word of a large object */
    *bareheap_word(&m.heap, a, 7) = BASE + b;
    *bareheap_word(&m.heap, b, 0) = BASE + c;
    bareheap_set_root(&m.heap, 3, "d", d + 1000, 0);
    mark_all(&m, 0, NULL, 0);
    assert_true(is_reached(&m, d));
    assert_true(is_reached(&m, a));
    assert_true(is_reached(&m, b));
    assert_false(is_reached(&m, c));
    assert_int_equal(garbage_objects(&m), 1);
    assert_int_equal(m.marker.nmarked, 3);
    close_heap(&m);
}

/* Each object of a chain through all spans, in a random order, holds the next one; one at a time is cut off. */
static void mark_closure_of_a_long_chain_ends_where_it_is_cut(void **state)
{
    enum { N = 20000, CUT = 12345 };
    marked m;
    uint64_t *offsets = malloc(N * sizeof(*offsets));
    uint32_t first = 0;

    (void)state;
    open_heap(&m);
    for (uint32_t i = 0; i < N; i++) {
        if (i % 512 == 0)
            (void)bareheap_add_span(&m.heap, CLASS64, false, 0, &first);
        offsets[i] = bareheap_allocate(&m.heap, first, i % 512 < 512 ? i % shm_span_at(&m.heap.map, page_at(first))->nelems
                                                                     : 0);
    }
    for (uint32_t i = 0; i < N - 1; i++)
        *bareheap_word(&m.heap, offsets[i * UINT64_C(7919) % N], 3) =
            i == CUT ? 0 : BASE + offsets[(i + 1) * UINT64_C(7919) % N];
    bareheap_set_root(&m.heap, 0, "chain", offsets[0], 0);
    mark_all(&m, 0, NULL, 0);
    assert_int_equal(m.marker.nmarked, CUT + 1);
    assert_int_equal(garbage_objects(&m), N - CUT - 1);
    assert_int_equal(mark_holder_of(&m.marker, m.copy.spans[0].ordinal).kind, MARK_HELD_BY_ROOT);
    close_heap(&m);
    free(offsets);
}

/* --- what the heap's tables hold --- */

static void roots_count_by_the_value_that_counts_or_by_both(void **state)
{
    marked m;
    uint32_t first;
    uint64_t now;
    uint64_t before;

    (void)state;
    open_heap(&m);
    (void)bareheap_add_span(&m.heap, CLASS64, false, 0, &first);
    now = bareheap_allocate(&m.heap, first, 0);
    before = bareheap_allocate(&m.heap, first, 1);
    bareheap_set_root(&m.heap, 0, "r", now, before);
    mark_all(&m, 0, NULL, 0);
    assert_true(is_reached(&m, now) && !is_reached(&m, before));
    forget(&m);
    take(&m, NULL, true);
    assert_int_equal(mark_init(&m.marker, &m.copy, 0, false), 0);
    mark_from_roots(&m.marker);
    assert_true(is_reached(&m, now) && is_reached(&m, before));
    close_heap(&m);
}

static void intents_hold_what_they_name_while_the_hold_stands(void **state)
{
    marked m;
    uint32_t first;
    uint64_t at[4];
    shm_intent *record;
    shm_u64 *word;

    (void)state;
    open_heap(&m);
    (void)bareheap_add_span(&m.heap, CLASS64, false, 0, &first);
    for (uint32_t i = 0; i < 4; i++)
        at[i] = bareheap_allocate(&m.heap, first, i);
    record = &shm_intents_of(&m.heap.map)->records[9][4];
    u64_store_relaxed(&record->slot, at[0] + 8);
    u64_store_relaxed(&record->object, at[1]);
    u64_store_relaxed(&record->next, at[2]);
    u64_store_relaxed(&record->state, INTENT_UNLINK);
    mark_all(&m, 0, NULL, 0);
    assert_int_equal(garbage_objects(&m), 4); /* a record without a hold: nothing is under way */
    forget(&m);
    word = holds_add(&m.heap.map, (hold){ .place = at[1], .session = { 9 }, .record = 4 });
    assert_non_null(word);
    mark_all(&m, 0, NULL, 0);
    assert_true(is_reached(&m, at[0]) && is_reached(&m, at[1]) && is_reached(&m, at[2]) && !is_reached(&m, at[3]));
    forget(&m);
    u64_store_relaxed(word, hold_pack((hold){ .place = UINT64_C(1) << 43, .session = { 4095 }, .record = 2047 }));
    mark_all(&m, 0, NULL, 0); /* a hold that somebody has forged names nothing */
    assert_int_equal(garbage_objects(&m), 4);
    close_heap(&m);
}

static void garbage_of_owned_spans_is_not_counted(void **state)
{
    marked m;
    uint32_t firsts[3];
    garbage g;

    (void)state;
    open_heap(&m);
    for (uint32_t i = 0; i < 3; i++) {
        (void)bareheap_add_span(&m.heap, CLASS64, false, 0, &firsts[i]);
        for (uint32_t k = 0; k < NSOME; k++)
            (void)bareheap_allocate(&m.heap, firsts[i], k);
    }
    u32_store_relaxed(&shm_span_at(&m.heap.map, page_at(firsts[0]))->owner, 7);
    u32_store_relaxed(&shm_span_at(&m.heap.map, page_at(firsts[1]))->nadopted, 1);
    mark_all(&m, 0, NULL, 0);
    assert_int_equal(garbage_find(&g, &m.copy), 0);
    assert_int_equal(g.total.objects, NSOME);
    assert_int_equal(g.total.bytes, NSOME * 64);
    assert_int_equal(g.owned.objects, 2 * NSOME);
    assert_int_equal(g.classes[CLASS64].objects, NSOME);
    assert_false(garbage_has(&m.copy, page_offset(page_at(firsts[0]))));
    assert_true(garbage_has(&m.copy, page_offset(page_at(firsts[2]))));
    garbage_end(&g);
    close_heap(&m);
}

/* --- copies --- */

static void take_gives_no_memory_to_holes_of_the_arena(void **state)
{
    marked m;
    uint32_t first;
    off_t data;

    (void)state;
    open_heap(&m);
    (void)bareheap_add_span(&m.heap, 0, false, 4096, &first); /* an object that nobody has written to */
    (void)bareheap_allocate(&m.heap, first, 0);
    (void)bareheap_add_span(&m.heap, SIZE_CLASS_TINY, true, 0, &first);
    (void)bareheap_allocate(&m.heap, first, 0);
    mark_all(&m, 0, NULL, 0);
    data = lseek(m.heap.arena_fd, 0, SEEK_DATA);
    assert_true(data < 0);
    close_heap(&m);
}

static void take_after_growth_asks_for_another_attempt(void **state)
{
    marked m;
    uint32_t first;

    (void)state;
    open_heap(&m);
    (void)bareheap_add_span(&m.heap, CLASS64, false, 0, &first);
    (void)bareheap_allocate(&m.heap, first, 0);
    assert_int_equal(heapcopy_prepare(&m.copy, &m.heap.map, m.heap.arena_fd, NULL, 1), 0);
    (void)bareheap_add_span(&m.heap, 0, false, 10000, &first);
    (void)bareheap_allocate(&m.heap, first, 0);
    assert_int_equal(heapcopy_take(&m.copy, NULL, false, UINT64_MAX), -EAGAIN);
    heapcopy_free(&m.copy);
    take(&m, NULL, false);
    close_heap(&m);
}

/* What a daemon of another build, or with bad memory, might say of a span with objects. */
static void take_of_a_description_that_cannot_be_true_frees_nothing(void **state)
{
    static const shm_span changes[] = {
        { .npages = UINT32_MAX }, { .npages = 1u << 31 }, { .nelems = 1025 },
        { .nelems = UINT32_MAX }, { .elem_bytes = 1 },    { .elem_bytes = 12 },
        { .elem_bytes = 65 },     { .elem_bytes = 1 << 20 }, { .elem_bytes = UINT64_MAX - 7 },
        { .spc = { SPAN_CLASS_COUNT } }, { .spc = { UINT8_MAX } }, { .spc = { SPAN_CLASS_TINY } },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        marked m;
        uint32_t first;
        shm_span *span;

        open_heap(&m);
        span = bareheap_add_span(&m.heap, CLASS64, false, 0, &first);
        (void)bareheap_allocate(&m.heap, first, 0);
        assert_int_equal(heapcopy_prepare(&m.copy, &m.heap.map, m.heap.arena_fd, NULL, 1), 0);
        span->npages = changes[i].npages != 0 ? changes[i].npages : span->npages;
        span->nelems = changes[i].nelems != 0 ? changes[i].nelems : span->nelems;
        span->elem_bytes = changes[i].elem_bytes != 0 ? changes[i].elem_bytes : span->elem_bytes;
        span->spc = changes[i].spc.n != 0 ? changes[i].spc : span->spc;
        assert_int_equal(heapcopy_take(&m.copy, NULL, false, UINT64_MAX), -EPROTO);
        heapcopy_free(&m.copy);
        assert_int_equal(heapcopy_prepare(&m.copy, &m.heap.map, m.heap.arena_fd, NULL, 1), -EPROTO);
        heapcopy_free(&m.copy);
        u64_store_relaxed(&span->lease, lease_pack((lease_word){ SPAN_FREE, { 0 }, 0 })); /* it means nothing any more */
        take(&m, NULL, false);
        assert_int_equal(m.copy.nlive, 0);
        close_heap(&m);
    }
}

/* --- beside a daemon that goes on --- */

typedef struct changer {
    marked *heap;
    const uint32_t *firsts;
    _Atomic bool over;
} changer;

/* As mheap.c and lease.c do it: the same session is leased one span after another at the same page. */
static void lease_next_span(shm_map *map, uint32_t first, uint64_t n)
{
    shm_span *span = shm_span_at(map, page_at(first));
    bool small = n % 2 != 0;
    uint32_t npages = small ? size_class_npages[CLASS64] : 1;

    u64_store_release(&span->lease, lease_pack((lease_word){ SPAN_FREE, { 0 }, 0 }));
    fence_release();
    span->elem_bytes = small ? size_class_bytes[CLASS64] : npages * PAGE_BYTES;
    span->npages = npages;
    span->nelems = small ? size_class_nelems[CLASS64] : 1;
    span->spc = span_class_of((size_class){ small ? CLASS64 : 0 }, false);
    u64_store_release(&span->nleases, n + 1);
    u64_store_release(&span->lease, lease_pack((lease_word){ SPAN_LEASED, { 1 }, 1 }));
    if (small)
        return;
    span->npages++; /* the object becomes longer, and shorter again */
    fence_release();
    span->elem_bytes += PAGE_BYTES;
    fence_release();
    span->elem_bytes -= PAGE_BYTES;
    fence_release();
    span->npages--;
}

static void *change_spans(void *arg)
{
    changer *c = arg;

    for (uint64_t n = 0; !atomic_load(&c->over); n++) {
        for (uint32_t i = 0; i < NCHANGED; i++)
            lease_next_span(&c->heap->heap.map, c->firsts[i], n);
    }
    return NULL;
}

/* Halves of two descriptions, each of which was true, are no sign of damage. */
static void prepare_beside_spans_that_change_finds_nothing_wrong(void **state)
{
    enum { ROUNDS = 2000 };
    uint32_t firsts[NCHANGED];
    changer c = { .firsts = firsts };
    pthread_t thread;
    marked m;

    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); /* descriptions are read without a lock, and looked at again */
#endif
    open_heap(&m);
    for (uint32_t i = 0; i < NCHANGED; i++)
        (void)bareheap_add_span(&m.heap, CLASS64, false, 0, &firsts[i]);
    c.heap = &m;
    assert_int_equal(pthread_create(&thread, NULL, change_spans, &c), 0);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        int r = heapcopy_prepare(&m.copy, &m.heap.map, m.heap.arena_fd, NULL, 1);

        heapcopy_free(&m.copy);
        if (r != 0)
            fail_msg("round %u: %d", i, r);
    }
    atomic_store(&c.over, true);
    (void)pthread_join(thread, NULL);
    bareheap_close(&m.heap);
}

static void take_past_its_deadline_gives_up(void **state)
{
    marked m;
    uint32_t first;

    (void)state;
    open_heap(&m);
    (void)bareheap_add_span(&m.heap, 0, false, 10000, &first);
    (void)bareheap_allocate(&m.heap, first, 0);
    assert_int_equal(heapcopy_prepare(&m.copy, &m.heap.map, m.heap.arena_fd, NULL, 1), 0);
    assert_int_equal(heapcopy_take(&m.copy, NULL, false, 1), -ETIMEDOUT);
    close_heap(&m);
}

/* Its first span is the only one, of which no byte is read; all else is pages of spans that were. */
static void take_past_its_deadline_gives_up_among_free_pages_too(void **state)
{
    enum { NFREE = 100000 };
    marked m = { .copy = { .nspans = 0 } };
    uint32_t first;

    (void)state;
    bareheap_open(&m.heap, 2048 * MIB);
    (void)bareheap_add_span(&m.heap, CLASS64, true, 0, &first);
    (void)bareheap_allocate(&m.heap, first, 0);
    for (uint32_t page = m.heap.next_page; page < NFREE; page++)
        u32_store_relaxed(&m.heap.map.heap_arenas[page / SHM_HEAP_ARENA_PAGES].zeroed_base,
                          page % SHM_HEAP_ARENA_PAGES + 1);
    assert_int_equal(heapcopy_prepare(&m.copy, &m.heap.map, m.heap.arena_fd, NULL, 1), 0);
    assert_true(m.copy.estimate_ns >= NFREE / 2);
    assert_int_equal(heapcopy_take(&m.copy, NULL, false, heapcopy_now_ns() + 3600 * UINT64_C(1000000000)), 0);
    heapcopy_free(&m.copy);
    assert_int_equal(heapcopy_prepare(&m.copy, &m.heap.map, m.heap.arena_fd, NULL, 1), 0);
    assert_int_equal(heapcopy_take(&m.copy, NULL, false, 1), -ETIMEDOUT);
    close_heap(&m);
}

static bool is_resident(const char *content, uint64_t at)
{
    unsigned char resident = 0;
    uintptr_t page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t page = (uintptr_t)(content + at) / page_bytes * page_bytes;

    assert_int_equal(mincore((void *)page, 1, &resident), 0);
    return (resident & 1) != 0;
}

static void prepare_takes_memory_for_content_when_told_to(void **state)
{
    enum { NPAGES = 5000, LAST = NPAGES * PAGE_BYTES - 1 };
    marked m;
    uint32_t first;

    (void)state;
    open_heap(&m);
    (void)bareheap_add_span(&m.heap, 0, false, NPAGES, &first);
    (void)bareheap_allocate(&m.heap, first, 0);
    assert_int_equal(heapcopy_prepare(&m.copy, &m.heap.map, m.heap.arena_fd, NULL, 1), 0);
    assert_int_equal(m.copy.expected_bytes, LAST + 1);
    assert_false(is_resident(m.copy.content, LAST));
    assert_int_equal(heapcopy_touch(&m.copy), 0);
    assert_true(is_resident(m.copy.content, 0) && is_resident(m.copy.content, LAST));
    close_heap(&m);
}

/* --- suspects --- */

static bool has_no_origin(const shm_span *span)
{
    return u64_load_relaxed(&span->origin) == 0;
}

static void prepare_counts_the_spans_that_are_looked_for(void **state)
{
    marked m;
    uint32_t firsts[3];

    (void)state;
    open_heap(&m);
    for (uint32_t i = 0; i < 3; i++) {
        (void)bareheap_add_span(&m.heap, CLASS64, i == 1, 0, &firsts[i]);
        (void)bareheap_allocate(&m.heap, firsts[i], 0);
        u64_store_relaxed(&shm_span_at(&m.heap.map, page_at(firsts[i]))->origin, 1);
    }
    take(&m, has_no_origin, false);
    assert_int_equal(m.copy.ntargets, 0);
    heapcopy_free(&m.copy);
    u64_store_relaxed(&shm_span_at(&m.heap.map, page_at(firsts[1]))->origin, 0); /* one without pointers counts as well */
    take(&m, has_no_origin, false);
    assert_int_equal(m.copy.ntargets, 1);
    heapcopy_free(&m.copy);
    take(&m, NULL, false);
    assert_int_equal(m.copy.ntargets, 3);
    close_heap(&m);
}

/* Long rows of spans that nobody wants, with others between, also at the rows' ends and at that of the heap. */
static void take_passes_over_the_spans_that_nobody_wants(void **state)
{
    enum { SPANS = 1000 };
    uint32_t firsts[SPANS];
    uint32_t nwanted = 0;
    uint32_t at = 0;
    marked m;

    (void)state;
    open_heap(&m);
    for (uint32_t i = 0; i < SPANS; i++) {
        bool suspect = i % 7 == 6 || i > 990;
        bool scan = i % 301 == 300;

        (void)bareheap_add_span(&m.heap, CLASS64, !scan, 0, &firsts[i]);
        (void)bareheap_allocate(&m.heap, firsts[i], 0);
        u64_store_relaxed(&shm_span_at(&m.heap.map, page_at(firsts[i]))->origin, suspect ? 0 : 1);
        nwanted += suspect || scan;
    }
    take(&m, has_no_origin, false);
    assert_int_equal(m.copy.nspans, nwanted);
    for (uint32_t i = 0; i < SPANS; i++) {
        bool suspect = i % 7 == 6 || i > 990;

        if (suspect || i % 301 == 300)
            assert_int_equal(m.copy.spans[at++].offset, firsts[i] * PAGE_BYTES);
        assert_int_equal(m.copy.span_of[firsts[i]], suspect ? at : 0);
    }
    close_heap(&m);
}

static void suspects_are_marked_from_all_others_and_from_each_other(void **state)
{
    enum { OTHERS = 40, NWORDS = 8 };
    marked m;
    uint32_t first;
    uint32_t dead;
    uint32_t noscan;
    uint64_t at[4];
    uint64_t others[OTHERS];
    uint64_t value;

    (void)state;
    open_heap(&m);
    (void)bareheap_add_span(&m.heap, CLASS64, false, 0, &first);
    (void)bareheap_add_span(&m.heap, CLASS64, false, 0, &dead);
    (void)bareheap_add_span(&m.heap, CLASS64, true, 0, &noscan);
    u64_store_relaxed(&shm_span_at(&m.heap.map, page_at(first))->origin, 1);
    u64_store_relaxed(&shm_span_at(&m.heap.map, page_at(noscan))->origin, 1);
    for (uint32_t i = 0; i < 4; i++)
        at[i] = bareheap_allocate(&m.heap, dead, i);
    for (uint32_t i = 0; i < OTHERS; i++)
        others[i] = bareheap_allocate(&m.heap, first, i);
    *bareheap_word(&m.heap, others[33], 5) = BASE + at[0] + 3; /* an other one, which nobody reaches, holds at[0] */
    *bareheap_word(&m.heap, at[0], 0) = BASE + at[1];
    *bareheap_word(&m.heap, at[2], 0) = BASE + at[3];
    value = bareheap_allocate(&m.heap, noscan, 0);
    *bareheap_word(&m.heap, value, 0) = BASE + at[2]; /* no pointer */
    *bareheap_word(&m.heap, others[OTHERS - 1] + 64, 0) = BASE + at[2]; /* a place that is free */
    take(&m, has_no_origin, false);
    assert_int_equal(mark_init(&m.marker, &m.copy, 0, true), 0);
    assert_int_equal(suspects_mark(&m.marker), OTHERS * NWORDS * 8);
    mark_closure(&m.marker);
    assert_true(is_reached(&m, at[0]) && is_reached(&m, at[1]) && !is_reached(&m, at[2]) && !is_reached(&m, at[3]));
    assert_int_equal(garbage_objects(&m), 2);
    assert_false(garbage_has(&m.copy, others[0]));
    close_heap(&m);
}

/* Against a naive one: random words, of which some are near, in blocks of each length. */
static void suspects_look_finds_the_words_that_a_naive_look_finds(void **state)
{
    uint64_t data[SUSPECTS_BLOCK];
    suspects_hit hits[SUSPECTS_BLOCK];
    uint64_t seed = 12345;
    suspects s;
    marked m;
    uint32_t first;

    (void)state;
    open_heap(&m);
    for (uint32_t i = 0; i < 64; i++) {
        (void)bareheap_add_span(&m.heap, CLASS64, false, 0, &first);
        (void)bareheap_allocate(&m.heap, first, 0);
        u64_store_relaxed(&shm_span_at(&m.heap.map, page_at(first))->origin, i % 8 != 3);
    }
    take(&m, has_no_origin, false);
    suspects_init(&s, &m.copy);
    for (uint32_t n = 0; n <= SUSPECTS_BLOCK; n++) {
        uint32_t nwanted = 0;
        uint32_t nhits;

        for (uint32_t i = 0; i < n; i++) {
            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
            data[i] = seed >> 60 == 0 ? seed : BASE + (seed >> 20) % (m.copy.used_bytes + 100000);
            data[i] |= seed >> 40 & 1 ? UINT64_C(0x1234) << 48 : 0;
        }
        nhits = suspects_look(&s, data, n, hits);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t offset = (data[i] & HEAPCOPY_ADDRESS_BITS) - BASE;

            if (offset >= m.copy.used_bytes || m.copy.span_of[offset >> PAGE_SHIFT] == 0)
                continue;
            if (offset < s.low || offset >= s.high)
                continue; /* the tail of a span, where no object is */
            assert_true(nwanted < nhits);
            assert_true(hits[nwanted].index == i && hits[nwanted].offset == offset);
            nwanted++;
        }
        assert_int_equal(nhits, nwanted);
    }
    close_heap(&m);
}

/* --- what is said --- */

static void trouble_is_of_foreign_names_says_nothing_to_a_terminal(void **state)
{
    world_trouble t = { 0 };

    (void)state;
    assert_int_equal(trouble_is(&t, -EPERM, 7, "%s has %s, %d", "a name", "\x1b[2J\x9b\n\x7f~ ", 5), -EPERM);
    assert_string_equal(t.text, "a name has ?[2J???~ , 5");
    assert_true(t.error == -EPERM && t.pid == 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(find_of_each_byte_of_an_object_finds_it),
        cmocka_unit_test(find_of_what_was_freed_remotely_finds_nothing),
        cmocka_unit_test(find_of_tiny_objects_finds_each_by_itself),
        cmocka_unit_test(mark_from_a_word_reaches_what_counts_as_a_pointer),
        cmocka_unit_test(mark_closure_looks_into_what_may_hold_pointers_alone),
        cmocka_unit_test(mark_closure_of_a_long_chain_ends_where_it_is_cut),
        cmocka_unit_test(roots_count_by_the_value_that_counts_or_by_both),
        cmocka_unit_test(intents_hold_what_they_name_while_the_hold_stands),
        cmocka_unit_test(garbage_of_owned_spans_is_not_counted),
        cmocka_unit_test(take_gives_no_memory_to_holes_of_the_arena),
        cmocka_unit_test(take_after_growth_asks_for_another_attempt),
        cmocka_unit_test(take_of_a_description_that_cannot_be_true_frees_nothing),
        cmocka_unit_test(prepare_beside_spans_that_change_finds_nothing_wrong),
        cmocka_unit_test(take_past_its_deadline_gives_up),
        cmocka_unit_test(take_past_its_deadline_gives_up_among_free_pages_too),
        cmocka_unit_test(prepare_takes_memory_for_content_when_told_to),
        cmocka_unit_test(prepare_counts_the_spans_that_are_looked_for),
        cmocka_unit_test(take_passes_over_the_spans_that_nobody_wants),
        cmocka_unit_test(trouble_is_of_foreign_names_says_nothing_to_a_terminal),
        cmocka_unit_test(suspects_are_marked_from_all_others_and_from_each_other),
        cmocka_unit_test(suspects_look_finds_the_words_that_a_naive_look_finds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
