/*
 * The table of roots against a naive one: set, compared and set, looked up, freed objects, other leases, and another
 * daemon that takes over, in any order. After each step the table is whole.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "daemon/heap/lease.h"
#include "tests/support/fixture.h"

#define NAMES  48u
#define PLACES 64u
#define CLASS  12u /* span class of 64-byte objects */

typedef struct model {
    uint64_t offset; /* 0: no root */
    uint64_t size;
    uint64_t type_tag;
} model;

static heapfile file;
static mheap heap;
static roots *table;
static page_no span; /* of CENTRAL objects */
static model models[NAMES];

static uint64_t place(uint64_t i)
{
    return page_offset(span) + i % PLACES * 64;
}

static root_name name_of(uint64_t i)
{
    static char name[32];

    return (root_name){ (const uint8_t *)name, (size_t)snprintf(name, sizeof(name), "root %u", (unsigned)(i % NAMES)) };
}

static bool lives(uint64_t offset)
{
    return roots_room(table, offset) != 0;
}

static void make_live(uint64_t i, bool live)
{
    shm_u64 *word = shm_alloc_word(&file.map, span, (uint32_t)(i % PLACES / 64));
    uint64_t bit = UINT64_C(1) << i % 64;

    (void)(live ? u64_fetch_or_acq_rel(word, bit) : u64_fetch_and_acq_rel(word, ~bit));
}

static void set_one(uint64_t r)
{
    model *m = &models[r % NAMES];
    root_value value = { .offset = r >> 8 & 3 ? place(r >> 16) : 0, .size = r >> 24 & 63, .type_tag = r >> 32 & 7 };
    int want = value.offset == 0 ? (m->offset == 0 ? ROOTS_E_NO_SUCH : 0) : lives(value.offset) ? 0 : ROOTS_E_NOT_LIVE;

    assert_int_equal(roots_set(table, name_of(r), &value), want);
    if (want == 0)
        *m = (model){ value.offset, value.size, value.type_tag };
}

static void compare_one(uint64_t r)
{
    model *m = &models[r % NAMES];
    uint64_t expected = r >> 8 & 1 ? m->offset : r >> 9 & 1 ? place(r >> 40) : 0;
    root_value value = { .offset = r >> 10 & 3 ? place(r >> 16) : 0 };
    bool fits = m->offset == expected || (expected == 0 && !lives(m->offset));
    int want = !fits ? ROOTS_E_ANOTHER : value.offset != 0 && !lives(value.offset) ? ROOTS_E_NOT_LIVE : 0;

    assert_int_equal(roots_compare_and_set(table, name_of(r), expected, &value), want);
    if (want == 0 && (expected != 0 || value.offset != 0))
        *m = (model){ value.offset, 0, expected != 0 && value.offset != 0 ? m->type_tag : 0 };
}

static void get_one(uint64_t r)
{
    model *m = &models[r % NAMES];
    root_value value;
    int want = m->offset != 0 && lives(m->offset) ? 0 : ROOTS_E_NO_SUCH;

    assert_int_equal(roots_get(table, name_of(r), &value), want);
    if (want != 0)
        *m = (model){ .offset = 0 };
    else
        assert_true(value.offset == m->offset && value.size == m->size && value.type_tag == m->type_tag);
}

/* The pages are given to somebody else: roots of dead objects go, whoever looks. */
static void forget(void)
{
    roots_forget_dead(table, span, 1);
    for (size_t i = 0; i < NAMES; i++) {
        if (models[i].offset != 0 && !lives(models[i].offset))
            models[i] = (model){ .offset = 0 };
    }
}

static void take_over(void)
{
    table = roots_free(table);
    assert_int_equal(roots_new(&file.map, &table), 0);
}

static void roots_agree_with_a_naive_table(void **state)
{
    uint64_t seed = test_seed();
    const char *ops = getenv("GOALLOC_TEST_OPS");
    unsigned long nops = ops != NULL ? strtoul(ops, NULL, 10) : 100000;

    (void)state;
    for (unsigned long i = 0; i < nops; i++) {
        uint64_t r = test_random(&seed);
        uint32_t nset = 0;

        switch (r >> 56 & 7) {
        case 0:
        case 1:
            set_one(r);
            break;
        case 2:
        case 3:
            compare_one(r);
            break;
        case 4:
            get_one(r);
            break;
        case 5:
            make_live(r, false);
            break;
        case 6:
            make_live(r, true);
            break;
        default:
            if (r >> 20 & 7)
                make_live(r, true);
            else if (r >> 23 & 1)
                forget();
            else
                take_over();
        }
        for (size_t k = 0; k < NAMES; k++)
            nset += models[k].offset != 0;
        assert_int_equal(roots_count(table), nset);
        if (i % 16 == 0)
            assert_int_equal(roots_validate(table, stderr), 0);
    }
    forget();
    for (uint32_t at = roots_next(table, 0); at < SHM_ROOTS_MAX; at = roots_next(table, at + 1))
        assert_true(lives(roots_value_at(table, at).offset));
}

/* A ticket says that a change was made, if the daemon died before it could note that, too. */
static void ticket_of_the_last_change_is_known_after_a_takeover(void **state)
{
    session_no session = { 1 };
    root_value value = { .offset = place(1), .session = session, .epoch = 5, .ticket = 7 };
    shm_session *entry = &file.map.sessions[1];

    (void)state;
    make_live(1, true);
    u32_store_release(&file.map.header->nsession_entries, 2);
    assert_int_equal(roots_set(table, name_of(1), &value), 0);
    assert_true(roots_has_done(table, session, 5, 7));
    assert_false(roots_has_done(table, session, 5, 8) || roots_has_done(table, session, 6, 7));
    assert_false(roots_has_done(table, session, 5, 0) || roots_has_done(table, (session_no){ 2 }, 5, 7));
    u64_store_release(&entry->root_done, 0); /* it died in between */
    take_over();
    assert_true(roots_has_done(table, session, 5, 7));
    u64_store_release(&entry->root_pending, UINT64_C(5) << 32 | 8); /* and in the next change, before the root */
    take_over();
    assert_true(roots_has_done(table, session, 5, 7));
    assert_false(roots_has_done(table, session, 5, 8));
}

static int setup(void **state)
{
    uint64_t nscavenged;

    (void)state;
    memset(models, 0, sizeof(models));
    assert_int_equal(heapfile_create(&file, SHM_BASE_DEFAULT, 128 * MIB), 0);
    assert_int_equal(mheap_init(&heap, &file, 0), 0);
    assert_int_equal(roots_new(&file.map, &table), 0);
    assert_int_equal(mheap_alloc_span(&heap, 1, 1, (span_class){ CLASS }, &span, &nscavenged), 0);
    make_live(0, true); /* else the span would go at once */
    mcentral_put(&heap, span);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    table = roots_free(table);
    mheap_end(&heap);
    heapfile_close(&file);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(roots_agree_with_a_naive_table, setup, teardown),
        cmocka_unit_test_setup_teardown(ticket_of_the_last_change_is_known_after_a_takeover, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
