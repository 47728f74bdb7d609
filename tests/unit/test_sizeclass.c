/*
 * The size classes: what the generator writes is what is in the tree, is Go's published table but for the length of
 * long spans, and serves every size and offset. Compiled once more with GOALLOC_SPANS_GO: then all spans are short.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "shm/sizeclass.h"

static void mksizeclasses_run_again_writes_the_same_table(void **state)
{
    FILE *fresh = popen(GOALLOC_MKSIZECLASSES, "r");
    FILE *kept = fopen(GOALLOC_SIZECLASS_TABLE, "re");
    long at = 0;
    int c;

    (void)state;
    assert_non_null(fresh);
    assert_non_null(kept);
    do {
        c = fgetc(fresh);
        if (c != fgetc(kept))
            fail_msg("the generated table differs from sizeclass_table.c at byte %ld", at);
        at++;
    } while (c != EOF);
    assert_true(at > 1000);
    assert_int_equal(pclose(fresh), 0);
    (void)fclose(kept);
}

static void size_class_bytes_is_the_published_table(void **state)
{
    static const uint16_t bytes[SIZE_CLASS_COUNT] = {
        0,     8,     16,    24,    32,    48,    64,    80,    96,    112,   128,   144,  160,   176,
        192,   208,   224,   240,   256,   288,   320,   352,   384,   416,   448,   480,  512,   576,
        640,   704,   768,   896,   1024,  1152,  1280,  1408,  1536,  1792,  2048,  2304, 2688,  3072,
        3200,  3456,  4096,  4864,  5376,  6144,  6528,  6784,  6912,  8192,  9472,  9728, 10240, 10880,
        12288, 13568, 14336, 16384, 18432, 19072, 20480, 21760, 24576, 27264, 28672, 32768
    };

    (void)state;
    for (unsigned i = 0; i < SIZE_CLASS_COUNT; i++)
        assert_int_equal(size_class_bytes[i], bytes[i]);
}

static void size_class_short_npages_is_the_published_table(void **state)
{
    static const uint8_t npages[33] = { 2, 1, 2, 1, 2, 1, 3, 2, 3, 1, 3, 2, 3, 4, 5, 6, 1,
                                        7, 6, 5, 4, 3, 5, 7, 2, 9, 7, 5, 8, 3, 10, 7, 4 };
    static const uint16_t rows[][4] = { /* class, bytes, pages, objects */
        { 35, 1408, 2, 11 }, { 41, 3072, 3, 8 }, { 50, 6912, 6, 7 }, { 53, 9728, 6, 5 }, { 65, 27264, 10, 3 }
    };

    (void)state;
    for (unsigned i = 1; i < SIZE_CLASS_COUNT; i++)
        assert_int_equal(size_class_short_npages[i], i < 35 ? 1 : npages[i - 35]);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(size_class_bytes[rows[i][0]], rows[i][1]);
        assert_int_equal(size_class_short_npages[rows[i][0]], rows[i][2]);
        assert_int_equal(size_class_short_nelems[rows[i][0]], rows[i][3]);
    }
}

/* A span is some short ones, one behind the other; with one more it would be too long, or have too many objects. */
static void size_class_npages_is_a_multiple_of_the_short_ones(void **state)
{
    (void)state;
    for (unsigned i = 1; i < SIZE_CLASS_COUNT; i++) {
        uint32_t bytes = size_class_bytes[i];
        uint32_t npages = size_class_npages[i];
        uint32_t short_npages = size_class_short_npages[i];
        uint32_t short_tail = short_npages * (uint32_t)PAGE_BYTES % bytes;
        uint32_t tail = npages * (uint32_t)PAGE_BYTES - size_class_nelems[i] * bytes;

        assert_int_equal(npages % short_npages, 0);
        assert_true(tail < bytes && tail <= npages / short_npages * short_tail);
        assert_true(tail == 0 || size_class_nelems[i] % 64 != 0); /* its bit stands in a word of the span's */
        assert_int_equal(size_class_span_nelems((uint8_t)i, npages), size_class_nelems[i]);
        assert_int_equal(size_class_span_nelems((uint8_t)i, short_npages), size_class_short_nelems[i]);
        assert_int_equal(size_class_span_nelems((uint8_t)i, 0), 0);
#ifdef GOALLOC_SPANS_GO
        assert_int_equal(npages, short_npages);
#else
        assert_true(npages == short_npages || (npages <= 4 && size_class_nelems[i] <= SPAN_NELEMS_MAX / 2));
        assert_true(bytes > 4096 || npages + short_npages > 4 ||
                    (npages + short_npages) * PAGE_BYTES / bytes > SPAN_NELEMS_MAX / 2);
#endif
    }
    assert_int_equal(size_class_npages[SIZE_CLASS_TINY], size_class_short_npages[SIZE_CLASS_TINY]);
}

static void size_class_for_every_size_is_the_smallest_that_fits(void **state)
{
    unsigned smallest = 1;

    (void)state;
    for (size_t size = 0; size <= SMALL_BYTES_MAX; size++) {
        if (size > size_class_bytes[smallest])
            smallest++;
        assert_int_equal(size_class_for(size).n, smallest);
    }
    assert_int_equal(smallest, SIZE_CLASS_COUNT - 1);
}

static void object_index_of_every_offset_is_the_quotient(void **state)
{
    (void)state;
    for (unsigned c = 1; c < SIZE_CLASS_COUNT; c++) {
        uint32_t span_bytes = size_class_npages[c] * (uint32_t)PAGE_BYTES;

        assert_true(size_class_nelems[c] <= SPAN_NELEMS_MAX && size_class_npages[c] <= SPAN_NPAGES_MAX);
        assert_int_equal(size_class_nelems[c], span_bytes / size_class_bytes[c]);
        for (uint32_t offset = 0; offset < span_bytes; offset++) {
            if (object_index(offset, size_class_magic[c]) != offset / size_class_bytes[c])
                fail_msg("class %u, offset %u", c, offset);
        }
    }
    assert_int_equal(object_index(UINT64_C(1) << 40, size_class_magic[0]), 0); /* large: always object 0 */
}

/* That of a run is 1: only offset 0 is a beginning. That of tiny blocks is 0 for the fast path: none is. */
static void object_begins_for_every_offset_is_that_nothing_remains(void **state)
{
    (void)state;
    for (unsigned c = 1; c <= SIZE_CLASS_COUNT; c++) {
        uint32_t magic = size_class_magic[c];
        uint32_t span_bytes = size_class_npages[c] * (uint32_t)PAGE_BYTES;

        assert_true(span_bytes < magic);
        for (uint32_t offset = 0; offset < span_bytes; offset++) {
            if (object_begins((uint64_t)offset * magic, magic) != (offset % size_class_bytes[c] == 0))
                fail_msg("class %u, offset %u", c, offset);
        }
    }
    for (uint32_t offset = 0; offset < 32 * (uint32_t)PAGE_BYTES; offset++) {
        if (object_begins(offset, 1) != (offset == 0))
            fail_msg("run, offset %u", offset);
    }
    assert_false(object_begins(0, 0));
}

static void sizes_from_16_on_are_aligned_to_16_but_for_class_24(void **state)
{
    (void)state;
    for (unsigned c = 2; c < SIZE_CLASS_COUNT; c++)
        assert_int_equal(size_class_bytes[c] % 16, size_class_bytes[c] == 24 ? 8 : 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mksizeclasses_run_again_writes_the_same_table),
        cmocka_unit_test(size_class_bytes_is_the_published_table),
        cmocka_unit_test(size_class_short_npages_is_the_published_table),
        cmocka_unit_test(size_class_npages_is_a_multiple_of_the_short_ones),
        cmocka_unit_test(size_class_for_every_size_is_the_smallest_that_fits),
        cmocka_unit_test(object_index_of_every_offset_is_the_quotient),
        cmocka_unit_test(object_begins_for_every_offset_is_that_nothing_remains),
        cmocka_unit_test(sizes_from_16_on_are_aligned_to_16_but_for_class_24),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
