/*
 * The cache of large spans: which span an object gets, how much is cached, and random operations against a naive model
 * of what is cached and what is lent.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/lib/held.h"
#include "client/lib/largecache.h"
#include "client/lib/offer.h"

#define SPANS 2000u
#define STEPS 200000u

typedef struct world {
    largecache lc;
    largecache_out out;
} world;

/* --- the rest of the process --- */

process_info process;

static bool leases[SPANS];

bool process_leases(const shm_span *span)
{
    return leases[span - process.map.span_table];
}

void mspan_unname(mspan *s)
{
    (void)s;
    fail();
}

void mspan_put_back(mspan *s)
{
    (void)s;
    fail();
}

static shm_u64 *word_of(uint32_t first)
{
    return &atomic_load(&process.offers)->words[first];
}

/* The daemon leases a span to the process, which hears of it. */
static void lease(uint32_t first, uint64_t nleases)
{
    leases[first] = true;
    u64_store_release(&shm_span_at(&process.map, page_at(first))->nleases, nleases);
    held_set(&first, 1);
}

/* It takes one that is offered. */
static void take_offered(uint32_t first)
{
    uint64_t nleases = offer_nleases(page_at(first));

    assert_true(offer_stands(u64_load_acquire(word_of(first)), nleases));
    u64_store_release(word_of(first), offer_pack(OFFER_TAKEN, nleases));
    leases[first] = false;
}

static int setup(void **state)
{
    world *w = calloc(1, sizeof(world));

    *state = w;
    if (w != NULL)
        largecache_reset(&w->lc);
    return w == NULL;
}

static int teardown(void **state)
{
    assert_true(largecache_validate(&((world *)*state)->lc));
    free(*state);
    return 0;
}

static int setup_with_offers(void **state)
{
    if (setup(state) != 0)
        return 1;
    ((world *)*state)->lc.budget = LARGECACHE_MAX_PAGES;
    process.map.npages = SPANS;
    process.map.span_table = calloc(SPANS, sizeof(shm_span));
    process.mspan_of = calloc(SPANS, sizeof(*process.mspan_of));
    atomic_store(&process.offers, calloc(1, shm_offers_bytes(SPANS)));
    memset(leases, 0, sizeof(leases));
    (void)offer_take_unknown();
    return process.map.span_table == NULL || process.mspan_of == NULL || !offer_is_possible();
}

static int teardown_with_offers(void **state)
{
    free(process.map.span_table);
    free(process.mspan_of);
    free(atomic_load(&process.offers));
    process = (process_info){ .timeout_ms = 0 };
    return teardown(state);
}

static void put(world *w, uint64_t first, uint64_t npages)
{
    largecache_put(&w->lc, page_at(first), npages, false, &w->out);
    assert_true(largecache_validate(&w->lc));
}

static uint32_t take(world *w, uint64_t npages)
{
    return largecache_take(&w->lc, npages, 0, 1, false).n;
}

static bool never_gone(page_no first, uint64_t npages)
{
    (void)first;
    (void)npages;
    return false;
}

static bool is_even(page_no first, uint64_t npages)
{
    (void)npages;
    return first.n % 2 == 0;
}

static void take_gives_the_closest_bin_that_fits(void **state)
{
    world *w = *state;

    put(w, 100, 50);
    put(w, 200, 40);
    put(w, 300, 34);
    assert_int_equal(take(w, 51), 0);
    assert_int_equal(take(w, 35), 200);
    assert_int_equal(take(w, 34), 300);
    assert_int_equal(take(w, 12), 0); /* more than 4 times too long */
    assert_int_equal(take(w, 13), 100);
    assert_int_equal(w->lc.nslack_pages, 5 + 37);
    put(w, 100, 50); /* the object is freed: nothing is lent any more */
    assert_int_equal(w->lc.nslack_pages, 5);
    largecache_forget(&w->lc, page_at(200));
    assert_int_equal(w->lc.nslack_pages, 0);
}

static void take_keeps_noscan_and_alignment_apart(void **state)
{
    world *w = *state;

    put(w, 101, 40);
    assert_int_equal(largecache_take(&w->lc, 40, 0, 1, true).n, 0);
    assert_int_equal(largecache_take(&w->lc, 40, 0, 4, false).n, 0);
    assert_int_equal(largecache_take(&w->lc, 40, 3, 4, false).n, 101); /* counted from the arena's first page */
}

static void take_at_finds_only_what_is_cached(void **state)
{
    world *w = *state;
    uint64_t npages = 0;

    put(w, 100, 40);
    assert_int_equal(largecache_take_at(&w->lc, page_at(101), &npages).n, 0);
    assert_int_equal(take(w, 20), 100);
    assert_int_equal(largecache_take_at(&w->lc, page_at(100), &npages).n, 0); /* lent */
    put(w, 100, 40);
    assert_int_equal(largecache_take_at(&w->lc, page_at(100), &npages).n, 100);
    assert_int_equal(npages, 40);
}

static void the_budget_rises_when_what_went_back_is_missed_and_sinks_with_growth(void **state)
{
    world *w = *state;

    put(w, 1000, LARGECACHE_MIN_PAGES + 1);
    assert_int_equal(w->out.n, 1); /* too long for it */
    largecache_note_miss(&w->lc, LARGECACHE_MIN_PAGES, never_gone, &w->out);
    assert_int_equal(w->lc.budget, LARGECACHE_MIN_PAGES + 8 * (LARGECACHE_MIN_PAGES + 1));
    put(w, 1000, LARGECACHE_MIN_PAGES + 1);
    assert_int_equal(w->out.n, 0);
    assert_int_equal(take(w, LARGECACHE_MIN_PAGES), 1000);
    put(w, 1000, LARGECACHE_MIN_PAGES + 1);
    w->out.n = 0;
    for (uint64_t npages = 100; w->out.n == 0; npages *= 2) { /* nothing like that was ever there */
        assert_true(npages < 1000 * LARGECACHE_MIN_PAGES);
        largecache_note_miss(&w->lc, npages, never_gone, &w->out);
    }
    assert_int_equal(w->out.n, 1);
    assert_int_equal(w->out.spans[0], 1000);
    largecache_note_miss(&w->lc, 1000 * LARGECACHE_MIN_PAGES, never_gone, &w->out);
    assert_int_equal(w->lc.budget, LARGECACHE_MIN_PAGES);
}

static void note_miss_forgets_what_is_lent_and_gone(void **state)
{
    world *w = *state;

    for (uint32_t first = 101; first <= 104; first++)
        put(w, first, 30);
    for (int i = 0; i < 4; i++)
        assert_int_not_equal(take(w, 20), 0);
    assert_int_equal(w->lc.nslack_pages, 4 * 10);
    largecache_note_miss(&w->lc, 20, is_even, &w->out);
    assert_int_equal(w->lc.nslack_pages, 2 * 10);
    assert_int_equal(w->lc.nlent, 2);
}

static void the_oldest_go_back_first(void **state)
{
    world *w = *state;

    for (uint64_t i = 1; i <= LARGECACHE_MIN_PAGES / 32; i++)
        put(w, i * 100, 32);
    assert_int_equal(w->out.n, 0);
    put(w, 9000, 32);
    assert_true(w->out.n >= 1);
    assert_int_equal(w->out.spans[0], 100);
    largecache_empty(&w->lc, &w->out);
    assert_int_equal(w->lc.ncached_pages, 0);
    assert_int_equal(w->out.spans[w->out.n - 1], 9000);
}

/* --- offers --- */

#define LONG (LARGECACHE_RETAIN_PAGES + 40)

static void the_newest_is_offered_when_the_next_one_comes(void **state)
{
    world *w = *state;

    for (uint32_t first = 100; first <= 300; first += 100)
        lease(first, first);
    put(w, 100, 40);
    assert_false(held_is_offered(page_at(100)));
    assert_int_equal(take(w, 40), 100);
    put(w, 100, 40);
    put(w, 200, 40);
    assert_true(held_is_offered(page_at(100)));
    assert_false(held_is_offered(page_at(200)));
    assert_true(largecache_knows(&w->lc, page_at(200)));
    put(w, 300, LONG);
    assert_true(held_is_offered(page_at(200)) && held_is_offered(page_at(300)));
}

static void what_is_cached_is_offered_and_taken_back(void **state)
{
    world *w = *state;
    uint64_t npages;

    lease(100, 7);
    put(w, 100, LONG);
    assert_true(u64_load_acquire(word_of(100)) == offer_pack(OFFER_OFFERED, 7));
    assert_true(held_is_offered(page_at(100)) && largecache_knows(&w->lc, page_at(100)));
    u64_store_release(word_of(100), offer_pack(OFFER_SEEN, 7));
    assert_int_equal(take(w, LONG), 100);
    assert_true(u64_load_acquire(word_of(100)) == offer_pack(OFFER_NONE, 7));
    assert_true(!held_is_offered(page_at(100)) && largecache_knows(&w->lc, page_at(100)));
    put(w, 100, LONG);
    largecache_empty(&w->lc, &w->out);
    assert_int_equal(w->out.n, 1);
    w->lc.budget = LARGECACHE_MAX_PAGES;
    assert_true(u64_load_acquire(word_of(100)) == offer_pack(OFFER_NONE, 7));
    put(w, 100, LONG);
    assert_int_equal(largecache_take_at(&w->lc, page_at(100), &npages).n, 100);
    assert_true(u64_load_acquire(word_of(100)) == offer_pack(OFFER_NONE, 7));
}

static void what_the_daemon_has_taken_is_passed_over(void **state)
{
    world *w = *state;
    uint64_t npages;

    for (uint32_t first = 100; first <= 400; first += 100) {
        lease(first, first);
        put(w, first, LONG);
    }
    take_offered(400);
    assert_int_equal(take(w, LONG), 300);
    assert_true(largecache_validate(&w->lc));
    assert_false(largecache_knows(&w->lc, page_at(400)));
    take_offered(200);
    assert_int_equal(largecache_take_at(&w->lc, page_at(200), &npages).n, 0);
    assert_int_equal(npages, LONG);
    assert_int_equal(largecache_take_at(&w->lc, page_at(200), &npages).n, 0);
    assert_int_equal(npages, 0);
    take_offered(100);
    largecache_empty(&w->lc, &w->out);
    assert_int_equal(w->out.n, 0);
    assert_false(offer_take_unknown()); /* the leases are over */
}

static void lease_that_a_dead_daemon_has_not_ended_is_looked_for(void **state)
{
    world *w = *state;

    lease(100, 7);
    put(w, 100, LONG);
    take_offered(100);
    leases[100] = true;
    assert_true(largecache_knows(&w->lc, page_at(100))); /* until it is seen */
    assert_int_equal(take(w, LONG), 0);
    assert_false(largecache_knows(&w->lc, page_at(100)));
    assert_true(offer_take_unknown());
}

static void offers_of_an_earlier_daemon_are_void(void **state)
{
    world *w = *state;

    lease(100, 7);
    put(w, 100, LONG);
    u64_store_release(word_of(100), OFFER_NONE);
    assert_true(largecache_knows(&w->lc, page_at(100)));
    assert_int_equal(take(w, LONG), 100);
}

/* The pages of a span that was taken are leased to the process again, at any stage of which its reply may be lost. */
static void span_that_is_leased_anew_is_not_taken_for_the_old_one(void **state)
{
    world *w = *state;

    lease(100, 7);
    put(w, 100, LONG);
    take_offered(100);
    leases[100] = true;
    u64_store_release(&shm_span_at(&process.map, page_at(100))->nleases, 8);
    assert_false(largecache_knows(&w->lc, page_at(100))); /* the reply was lost */
    held_expect(page_at(100)); /* the same for an object, which a resize leases */
    assert_false(held_is_offered(page_at(100)));
    lease(100, 8);
    assert_true(largecache_knows(&w->lc, page_at(100)));
    assert_int_equal(take(w, LONG), 0);
    assert_true(largecache_knows(&w->lc, page_at(100)));
    put(w, 100, LONG);
    take_offered(100);
    lease(100, 9);
    put(w, 100, 2 * LONG);
    assert_int_equal(w->lc.ncached_pages, 2 * LONG);
    assert_true(largecache_knows(&w->lc, page_at(100)));
    assert_int_equal(take(w, 2 * LONG), 100);
}

/* Each span is an object's ('o'), cached ('c'), or the daemon's (0). */
static void random_operations_agree_with_the_model(void **state)
{
    world *w = *state;
    unsigned seed = (unsigned)time(NULL);
    static char where[SPANS];
    static uint64_t npages[SPANS];
    uint64_t ncached = 0;

    print_message("seed %u\n", seed);
    srand(seed);
    memset(where, 0, sizeof(where));
    for (unsigned step = 0; step < STEPS; step++) {
        uint32_t i = 1 + (uint32_t)rand() % (SPANS - 1);
        uint64_t want = 1 + (uint64_t)rand() % (UINT64_C(1) << rand() % 10);
        uint64_t length = 0;

        w->out.n = 0;
        switch (where[i]) {
        case 0: /* an object is allocated */
            i = take(w, want);
            if (i == 0) {
                largecache_note_miss(&w->lc, want, never_gone, &w->out);
                break;
            }
            assert_int_equal(where[i], 'c');
            assert_true(npages[i] >= want && npages[i] <= want * 4);
            where[i] = 'o';
            ncached -= npages[i];
            break;
        case 'c':
            assert_int_equal(largecache_take_at(&w->lc, page_at(i), &length).n, i);
            assert_int_equal(length, npages[i]);
            where[i] = 0;
            ncached -= npages[i];
            break;
        default: /* it is freed by this process, or by another one */
            if (rand() % 4 == 0) {
                largecache_forget(&w->lc, page_at(i));
                where[i] = 0;
                break;
            }
            largecache_put(&w->lc, page_at(i), npages[i], false, &w->out);
            where[i] = 'c';
            ncached += npages[i];
        }
        for (uint32_t n = 0; n < w->out.n; n++) {
            assert_int_equal(where[w->out.spans[n]], 'c');
            where[w->out.spans[n]] = 0;
            ncached -= npages[w->out.spans[n]];
        }
        if (i == 0 || where[i] == 0) { /* the daemon gives one */
            for (i = 1; i < SPANS && where[i] != 0; i++)
                ;
            if (i < SPANS) {
                where[i] = 'o';
                npages[i] = want;
            }
        }
        assert_int_equal(w->lc.ncached_pages, ncached);
        if (step % 64 == 0)
            assert_true(largecache_validate(&w->lc));
    }
}

#define TEST(function)             cmocka_unit_test_setup_teardown(function, setup, teardown)
#define TEST_WITH_OFFERS(function) cmocka_unit_test_setup_teardown(function, setup_with_offers, teardown_with_offers)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(take_gives_the_closest_bin_that_fits),
        TEST(take_keeps_noscan_and_alignment_apart),
        TEST(take_at_finds_only_what_is_cached),
        TEST(the_budget_rises_when_what_went_back_is_missed_and_sinks_with_growth),
        TEST(note_miss_forgets_what_is_lent_and_gone),
        TEST(the_oldest_go_back_first),
        TEST_WITH_OFFERS(the_newest_is_offered_when_the_next_one_comes),
        TEST_WITH_OFFERS(what_is_cached_is_offered_and_taken_back),
        TEST_WITH_OFFERS(what_the_daemon_has_taken_is_passed_over),
        TEST_WITH_OFFERS(lease_that_a_dead_daemon_has_not_ended_is_looked_for),
        TEST_WITH_OFFERS(offers_of_an_earlier_daemon_are_void),
        TEST_WITH_OFFERS(span_that_is_leased_anew_is_not_taken_for_the_old_one),
        TEST(random_operations_agree_with_the_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
