/*
 * What a user gets by having many sessions: no more of the memory that is kept for others, and no more turns.
 *
 * The sessions of the other user are this process's: it connects with that user's uid, which only root can. Else the
 * tests are skipped.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/stat.h>

#include "tests/support/attach.h"
#include "tests/support/rawheap.h"

#define OTHER_UID 65534

/* Open n sessions of the other user's. False: this process can't. */
static bool open_many(const fixture *f, rawheap *heaps, size_t n)
{
    if (geteuid() != 0 || chmod(f->dir, 0755) != 0 || chmod(f->socket, 0666) != 0 || seteuid(OTHER_UID) != 0)
        return false;
    for (size_t i = 0; i < n; i++)
        rawheap_open(&heaps[i], f, 0, "many");
    assert_int_equal(seteuid(0), 0);
    return true;
}

static void close_many(rawheap *heaps, size_t n)
{
    for (size_t i = 0; i < n; i++)
        rawheap_close(&heaps[i]);
}

/* --- memory --- */

#define NHOLDERS 40u

static int work_with_little(const fixture *f, void *arg)
{
    void *objects[24];

    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < 24; i++) {
        objects[i] = goalloc_malloc(i % 2 == 0 ? 100 : 100000);
        CHECK(objects[i] != NULL);
    }
    for (size_t i = 0; i < 24; i++)
        goalloc_free(objects[i]);
    return goalloc_detach();
}

/* The first session takes nearly all, and each of the others what is kept for those that hold little, if it may. */
static void user_of_many_sessions_leaves_some_for_other_users(void **state)
{
    static rawheap heaps[NHOLDERS];
    const fixture *f = *state;

    if (!open_many(f, heaps, NHOLDERS))
        skip();
    for (size_t i = 0; i < NHOLDERS; i++) {
        for (uint64_t npages = 32768; npages > 0; npages /= 2) {
            while (rawheap_ask_large(&heaps[i], npages).n != 0)
                ;
        }
    }
    assert_int_equal(rawheap_ask_large(&heaps[NHOLDERS - 1], 1).n, 0);
    assert_int_equal(child_run(f, work_with_little, NULL), 0);
    close_many(heaps, NHOLDERS);
    assert_true(fixture_is_clean(f, 0));
    assert_int_equal(child_run(f, work_with_little, NULL), 0);
    assert_true(fixture_is_whole(f));
}

/* --- turns --- */

#define NASKERS   96u /* three times as many as lease at a time */
#define ASK_PAGES 256u

static void send_ask(int fd, uint64_t npages)
{
    static uint8_t out[256];
    static channel ch;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__AllocLarge ask = GOALLOCD__ALLOC_LARGE__INIT;

    ask.npages = npages;
    request.id = 7;
    request.op_case = GOALLOCD__REQUEST__OP_ALLOC_LARGE;
    request.alloc_large = &ask;
    ch.fd = fd;
    assert_int_equal(channel_send(&ch, out, frame_pack(&request.base, out, sizeof(out)), deadline_in(10000)), 0);
}

static void must_be_given(int fd)
{
    static channel ch;
    const uint8_t *payload;
    Goallocd__Reply *reply;
    size_t len;

    ch.fd = fd;
    ch.have_bytes = 0;
    ch.nfds = 0;
    assert_int_equal(channel_recv(&ch, &payload, &len, deadline_in(60000)), 0);
    reply = goallocd__reply__unpack(NULL, len, payload);
    assert_true(reply != NULL && reply->error == 0 && reply->alloc_large != NULL);
    goallocd__reply__free_unpacked(reply, NULL);
}

/* More than it may have lease at a time: all are answered, whether those that they wait for end, or go. */
static void requests_of_a_user_wait_for_each_other_and_are_all_answered(void **state)
{
    static rawheap heaps[NASKERS];
    const fixture *f = *state;
    int own;

    if (!open_many(f, heaps, NASKERS))
        skip();
    own = raw_attach(f);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(kill(f->daemon, SIGSTOP), 0); /* so that they come at once */
        for (unsigned i = 0; i < NASKERS; i++)
            send_ask(heaps[i].fd, ASK_PAGES);
        send_ask(own, 1);
        for (unsigned i = 0; i < NASKERS && round == 1; i += 3)
            rawheap_disconnect(&heaps[i]);
        assert_int_equal(kill(f->daemon, SIGCONT), 0);
        must_be_given(own);
        assert_true(fixture_is_whole(f));
        for (unsigned i = 0; i < NASKERS; i++) {
            if (heaps[i].fd >= 0)
                must_be_given(heaps[i].fd);
        }
    }
    (void)close(own);
    close_many(heaps, NASKERS);
    assert_true(fixture_is_clean(f, 0));
    assert_true(fixture_is_whole(f));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_WITH(user_of_many_sessions_leaves_some_for_other_users, "--reserve", "2G", "--commit", "lazy"),
        FIXTURE_TEST(requests_of_a_user_wait_for_each_other_and_are_all_answered),
    };

    return cmocka_run_group_tests_name("what a user gets by having many sessions", tests, NULL, NULL);
}
