/*
 * Accounts of users: what is counted, what forbids, and that they go when nothing is counted on them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/serve/users.h"

#define NS_PER_SECOND UINT64_C(1000000000)

static users *start(void)
{
    users *u = calloc(1, sizeof(*u));
    limits max;

    assert_non_null(u);
    log_set_level(LOG_LEVEL_ERROR);
    limits_preset(&max);
    users_start(u, &max);
    return u;
}

static void end(users *u)
{
    assert_null(users_validate(u));
    users_end(u);
    free(u);
}

/* A uid that is neither root's nor the daemon's. */
static uint32_t uid_number(uint32_t i)
{
    return geteuid() + 1000 + i;
}

static void count_is_forbidden_by_the_limit_that_is_reached(void **state)
{
    users *u = start();
    user *one = users_find(u, uid_number(0));
    user *another = users_find(u, uid_number(1));
    user *root = users_find(u, 0);
    enum limit why = LIMITS;

    (void)state;
    u->fitted.max[LIMIT_UID_CONNECTIONS] = 10;
    u->fitted.max[LIMIT_CONNECTIONS] = 16;
    u->fitted.max[LIMIT_RESERVE] = 3;
    assert_true(users_count(u, one, LIMIT_UID_CONNECTIONS, 10, &why));
    assert_false(users_count(u, one, LIMIT_UID_CONNECTIONS, 1, &why));
    assert_int_equal(why, LIMIT_UID_CONNECTIONS);
    assert_true(users_count(u, another, LIMIT_UID_CONNECTIONS, 3, &why));
    assert_false(users_count(u, another, LIMIT_UID_CONNECTIONS, 1, &why));
    assert_int_equal(why, LIMIT_RESERVE);
    assert_true(users_count(u, root, LIMIT_UID_CONNECTIONS, 3, &why));
    assert_false(users_count(u, root, LIMIT_UID_CONNECTIONS, 1, &why));
    assert_int_equal(why, LIMIT_CONNECTIONS);
    assert_null(users_validate(u));
    users_uncount(u, one, LIMIT_UID_CONNECTIONS, 10);
    users_uncount(u, another, LIMIT_UID_CONNECTIONS, 3);
    users_uncount(u, root, LIMIT_UID_CONNECTIONS, 3);
    assert_int_equal(u->used[LIMIT_CONNECTIONS], 0);
    end(u);
}

/* However many uids come and go, and however they are chosen, few accounts stay, in short buckets. */
static void accounts_go_when_nothing_is_counted_on_them(void **state)
{
    users *u = start();
    enum limit why;

    (void)state;
    for (uint32_t i = 0; i < 20000; i++) {
        user *who = users_find(u, uid_number(i * 4096));

        assert_true(users_count(u, who, LIMIT_UID_SESSIONS, 2, &why));
        assert_ptr_equal(users_find(u, who->uid), who);
        if (i >= 500)
            users_uncount(u, who, LIMIT_UID_SESSIONS, 2);
    }
    assert_int_equal(u->nidle, USERS_IDLE_MAX);
    assert_int_equal(u->nusers, USERS_IDLE_MAX + 500);
    for (size_t i = 0; i < USERS_BUCKETS; i++) {
        unsigned n = 0;

        for (const user *who = u->buckets[i]; who != NULL; who = who->below)
            n++;
        assert_true(n < 64);
    }
    end(u);
}

static void connects_are_limited_by_the_second(void **state)
{
    users *u = start();
    user *who = users_find(u, uid_number(0));
    uint64_t now_ns = 100 * NS_PER_SECOND;
    unsigned n = 0;

    (void)state;
    u->fitted.max[LIMIT_UID_CONNECTS] = 100;
    while (users_takes_connect(u, who, now_ns))
        n++;
    assert_int_equal(n, 100);
    assert_false(users_takes_connect(u, who, now_ns + NS_PER_SECOND / 100 - 1));
    assert_true(users_takes_connect(u, who, now_ns + NS_PER_SECOND / 100));
    for (n = 0; users_takes_connect(u, who, now_ns + 10 * NS_PER_SECOND); n++)
        ;
    assert_int_equal(n, 100);
    end(u);
}

static void limits_are_set_by_text(void **state)
{
    limits l;

    (void)state;
    limits_preset(&l);
    assert_true(limits_set(&l, LIMIT_UID_SESSIONS, "7") && l.max[LIMIT_UID_SESSIONS] == 7);
    assert_true(limits_set(&l, LIMIT_UID_BYTES, "3G") && l.max[LIMIT_UID_BYTES] == 3 * GIB);
    assert_false(limits_set(&l, LIMIT_UID_SESSIONS, "0"));
    assert_false(limits_set(&l, LIMIT_UID_SESSIONS, "7K"));
    assert_false(limits_set(&l, LIMIT_UID_SESSIONS, "-1"));
    assert_false(limits_set(&l, LIMIT_UID_SESSIONS, ""));
    assert_false(limits_set(&l, LIMIT_BUFFER, "1K"));
    assert_int_equal(l.max[LIMIT_UID_SESSIONS], 7);
    for (int i = 0; i < LIMITS; i++) {
        const limit_row *row = limit_row_of((enum limit)i);

        assert_true(row->name != NULL && row->help != NULL && row->preset >= row->lowest);
        assert_int_equal(row->error != 0, row->message != NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(count_is_forbidden_by_the_limit_that_is_reached),
        cmocka_unit_test(accounts_go_when_nothing_is_counted_on_them),
        cmocka_unit_test(connects_are_limited_by_the_second),
        cmocka_unit_test(limits_are_set_by_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
