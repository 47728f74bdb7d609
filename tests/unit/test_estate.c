/*
 * What counts on whose account when leases have ended, against a model: spans are left, leased again and freed, and
 * accounts go while spans still count on them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "daemon/heap/estate.h"
#include "tests/support/fixture.h"

#define SPANS    200u
#define ACCOUNTS 5u
#define STEPS    200000u

static span_link links[SPANS + 1];
static lease_quota quotas[ACCOUNTS];
static unsigned owner_of[SPANS + 1]; /* the model: account + 1; 0: nobody's */
static uint32_t pages_of[SPANS + 1];

static void check(void)
{
    uint64_t held[ACCOUNTS] = { 0 };

    for (unsigned i = 1; i <= SPANS; i++) {
        if (owner_of[i] != 0)
            held[owner_of[i] - 1] += pages_of[i];
    }
    for (unsigned a = 0; a < ACCOUNTS; a++)
        assert_int_equal(quotas[a].nheld_pages, held[a]);
}

static void estate_counts_each_span_on_the_account_whose_lease_has_ended_last(void **state)
{
    estate_table *table = estate_table_new(links);
    uint64_t seed = test_seed();

    (void)state;
    assert_non_null(table);
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned span = 1 + (unsigned)(test_random(&seed) % SPANS);
        unsigned account = (unsigned)(test_random(&seed) % (ACCOUNTS + 1));
        uint32_t npages = 1 + (uint32_t)(test_random(&seed) % 100);

        if (links[span].estate != 0 || owner_of[span] != 0) {
            estate_drop(table, page_at(span), pages_of[span]);
            owner_of[span] = 0;
        } else if (account < ACCOUNTS) {
            pages_of[span] = npages;
            estate_add(table, page_at(span), npages, &quotas[account]);
            owner_of[span] = account + 1;
        } else {
            estate_add(table, page_at(span), npages, NULL);
            assert_int_equal(links[span].estate, 0);
        }
        if (step % 1000 == 0) {
            account = (unsigned)(test_random(&seed) % ACCOUNTS);
            estate_forget(&quotas[account]);
            for (unsigned i = 1; i <= SPANS; i++)
                owner_of[i] = owner_of[i] == account + 1 ? 0 : owner_of[i];
        }
        if (step % 100 == 0)
            check();
    }
    check();
    assert_null(estate_table_free(table));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(estate_counts_each_span_on_the_account_whose_lease_has_ended_last),
    };

    return cmocka_run_group_tests_name("estate", tests, NULL, NULL);
}
