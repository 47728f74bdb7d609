/*
 * Sessions, as the daemon sees them: who comes back to one.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/support/rawheap.h"

#define NOBODY 65534u

static int setup(void **state)
{
    fixture *f = malloc(sizeof(*f));

    fixture_start(f, NULL);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    bool whole = fixture_is_whole(f);
    bool clean = fixture_stop(f);

    free(f);
    return clean && whole ? 0 : -1;
}

/* --- coming back as another user --- */

static int become_nobody_and_come_back(const fixture *f, void *arg)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__LeaseList ask = GOALLOCD__LEASE_LIST__INIT;
    Goallocd__Reply *reply;
    rawheap heap;
    uint32_t span;

    (void)arg;
    rawheap_open(&heap, f, 0, "daemon that drops its privileges");
    CHECK(rawheap_refill(&heap, 20, 0, 1, &span) == 1);
    rawheap_disconnect(&heap);
    CHECK(setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);

    heap.token[3] ^= 1;
    CHECK(rawheap_come_back(&heap, f) == EACCES);
    rawheap_disconnect(&heap);
    heap.token[3] ^= 1;
    CHECK(rawheap_come_back(&heap, f) == 0);

    /* It is the same session, with its leases. */
    request.id = 7;
    request.op_case = GOALLOCD__REQUEST__OP_LEASE_LIST;
    request.lease_list = &ask;
    reply = raw_call(heap.fd, &request);
    CHECK(reply != NULL && reply->error == 0);
    CHECK(reply->lease_list->n_spans == 1 && reply->lease_list->spans[0] == span);
    goallocd__reply__free_unpacked(reply, NULL);
    CHECK(rawheap_return(&heap, &span, 1, NULL, 0) == 0);
    rawheap_close(&heap);
    return 0;
}

static void reattach_of_a_process_that_has_become_another_user_succeeds(void **state)
{
    const fixture *f = *state;

    if (geteuid() != 0)
        skip();
    assert_int_equal(chmod(f->dir, 0711), 0);
    assert_int_equal(chmod(f->socket, 0666), 0);
    assert_int_equal(child_run(f, become_nobody_and_come_back, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(reattach_of_a_process_that_has_become_another_user_succeeds),
    };

    return cmocka_run_group_tests_name("sessions in the daemon", tests, NULL, NULL);
}
