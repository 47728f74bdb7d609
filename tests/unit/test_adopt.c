/*
 * Adopted objects without a daemon: offsets that are chosen to collide, and what the end of a span forgets.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "daemon/heap/lease.h"

#include <uthash.h>

#define CLASS       2u /* span class of 8-byte objects */
#define SPAN_NPAGES ((uint64_t)size_class_npages[CLASS / 2])
#define NCOLLIDING  2048u
#define COLLIDE     0xfffu /* bits of the hash that are the same for all */

static heapfile file;
static mheap heap;

static int heap_setup(void **state)
{
    (void)state;
    memset(&file, 0, sizeof(file));
    assert_int_equal(heapfile_create(&file, SHM_BASE_DEFAULT, 256 * MIB), 0);
    return mheap_init(&heap, &file, 0);
}

static int heap_teardown(void **state)
{
    (void)state;
    mheap_end(&heap);
    heapfile_close(&file);
    return 0;
}

static page_no make_span(void)
{
    page_no first;
    uint64_t nscavenged;

    assert_int_equal(mheap_alloc_span(&heap, SPAN_NPAGES, 1, (span_class){ CLASS }, &first, &nscavenged), 0);
    mcentral_put_recovered(&heap, first);
    u64_store_release(&shm_span_at(&file.map, first)->lease, lease_pack((lease_word){ .state = SPAN_CENTRAL }));
    return first;
}

/* Allocate object i of the span, and have owner adopt it. */
static uint64_t adopt(page_no first, uint32_t i, uint16_t owner)
{
    uint64_t offset = page_offset(first) + i * (uint64_t)8;
    object_ref object;

    (void)u64_fetch_or_acq_rel(shm_alloc_word(&file.map, first, i / 64), UINT64_C(1) << i % 64);
    assert_int_equal(object_find(&file.map, file.map.base + offset, &object), OBJECT_LIVE);
    assert_int_equal(adopt_set(heap.adopted, &object, (owner_no){ owner }, 1), 0);
    return offset;
}

static unsigned unseeded_hash(uint64_t offset)
{
    unsigned hash;

    HASH_JEN(&offset, sizeof(offset), hash);
    return hash;
}

/* With the hash that uthash comes with, all of these lie in one bucket of up to 4096. */
static void adopt_set_of_offsets_that_collide_spreads_them(void **state)
{
    static uint64_t offsets[NCOLLIDING];
    uint32_t n = 0;
    uint32_t longest = 0;

    (void)state;
    while (n < NCOLLIDING) {
        page_no first = make_span();
        uint32_t nelems = shm_span_at(&file.map, first)->nelems;

        for (uint32_t i = 0; i < nelems && n < NCOLLIDING; i++) {
            if ((unseeded_hash(page_offset(first) + i * (uint64_t)8) & COLLIDE) == 5)
                offsets[n++] = adopt(first, i, 1);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t steps = adopt_look_steps(heap.adopted, offsets[i]);

        longest = steps > longest ? steps : longest;
    }
    assert_in_range(longest, 1, 16);
    assert_int_equal(adopt_count(heap.adopted), NCOLLIDING);
    assert_int_equal(mheap_validate(&heap, stderr), 0);
}

static void mheap_free_span_with_adopted_objects_forgets_these_alone(void **state)
{
    page_no ends = make_span();
    page_no stays = make_span();

    (void)state;
    for (uint32_t i = 0; i < 100; i++) {
        (void)adopt(ends, i, (uint16_t)(1 + i % 3));
        (void)adopt(stays, i, (uint16_t)(1 + i % 2));
    }
    mcentral_remove(&heap, ends);
    mheap_free_span(&heap, ends, false);
    assert_int_equal(adopt_count(heap.adopted), 100);
    assert_int_equal(adopt_count_span(heap.adopted, stays), 100);
    assert_int_equal(adopt_count_span(heap.adopted, ends), 0);
    assert_int_equal(mheap_validate(&heap, stderr), 0);
}

/* Entries are used again, and an owner's adoptions are its own whoever had them before. */
static void adopt_pop_after_others_have_adopted_has_the_rest(void **state)
{
    page_no first = make_span();
    object_ref object;
    bool lives;
    uint32_t n = 0;

    (void)state;
    for (int round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 64; i++)
            (void)adopt(first, i, 1);
        for (uint32_t i = 0; i < 64; i += 2)
            (void)adopt(first, i, 2);
        for (n = 0; adopt_pop(heap.adopted, (owner_no){ 1 }, &object, &lives); n++)
            assert_true(lives && object.offset / 8 % 2 == 1);
        assert_int_equal(n, 32);
        for (n = 0; adopt_pop(heap.adopted, (owner_no){ 2 }, &object, &lives); n++)
            assert_true(lives && object.offset / 8 % 2 == 0);
        assert_int_equal(n, 32);
        assert_int_equal(u32_load_relaxed(&file.private->nadoption_entries), 64);
        assert_int_equal(mheap_validate(&heap, stderr), 0);
    }
}

/* The next daemon has another seed, and finds all that live. */
static void adopt_recover_has_what_lives(void **state)
{
    page_no first = make_span();
    adopt_table *next;

    (void)state;
    u32_store_release(&file.map.header->nsession_entries, 2);
    u32_store_release(&file.map.sessions[1].epoch, 1);
    u32_store_release(&file.map.sessions[1].state, SHM_SESSION_OPEN);
    for (uint32_t i = 0; i < 100; i++)
        (void)adopt(first, i, 1);
    for (uint32_t i = 0; i < 40; i++) {
        (void)u64_fetch_and_acq_rel(shm_alloc_word(&file.map, first, i / 64), ~(UINT64_C(1) << i % 64));
        (void)u64_fetch_and_acq_rel(shm_kept_word(&file.map, first, i / 64), ~(UINT64_C(1) << i % 64));
    }
    next = adopt_new(&file);
    assert_non_null(next);
    adopt_recover(next);
    adopt_recover_span(next, first);
    assert_int_equal(adopt_count(next), 60);
    assert_int_equal(adopt_count_span(next, first), 60);
    assert_int_equal(u32_load_relaxed(&shm_span_at(&file.map, first)->nadopted), 60);
    assert_int_equal(adopt_validate(next, stderr), 0);
    heap.adopted = adopt_free(heap.adopted);
    heap.adopted = next;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, heap_setup, heap_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(adopt_set_of_offsets_that_collide_spreads_them),
        TEST(mheap_free_span_with_adopted_objects_forgets_these_alone),
        TEST(adopt_pop_after_others_have_adopted_has_the_rest),
        TEST(adopt_recover_has_what_lives),
    };

    return cmocka_run_group_tests_name("adoptions", tests, NULL, NULL);
}
