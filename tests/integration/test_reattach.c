/*
 * Coming back to a session with a wrong token, an old one, or another session's: refused, whoever asks.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/frame.h"
#include "proto/layout.h"
#include "shm/layout.h"
#include "tests/support/attach.h"
#include "tests/support/objects.h"

typedef struct ticket {
    uint32_t session;
    uint32_t epoch;
    uint64_t generation;
    uint8_t token[16];
    size_t token_bytes;
} ticket;

static int try_reattach(const fixture *f, const ticket *t)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Attach ask = GOALLOCD__ATTACH__INIT;
    Goallocd__Reply *reply;
    int fd = raw_connect(f);
    int error;

    ask.protocol = GOALLOC_PROTOCOL;
    ask.layout = layout_tell(&(Goallocd__Layout){ 0 }, version_own());
    ask.session = t->session;
    ask.epoch = t->epoch;
    ask.generation = t->generation;
    ask.token.len = t->token_bytes;
    ask.token.data = (uint8_t *)(uintptr_t)t->token;
    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_ATTACH;
    request.attach = &ask;
    reply = raw_call(fd, &request);
    assert_non_null(reply);
    error = reply->error;
    goallocd__reply__free_unpacked(reply, NULL);
    (void)close(fd);
    return error;
}

/* In a child: with another user's credentials. Exit status: the error of the answer. */
static int reattach_as_nobody(const fixture *f, void *arg)
{
    if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
        return 255;
    return try_reattach(f, arg);
}

static void reattach_with_a_wrong_or_old_token_is_refused(void **state)
{
    fixture *f = *state;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Attach ask = GOALLOCD__ATTACH__INIT;
    Goallocd__Reply *reply;
    pid_t pid = child_start(f, hold_and_stop, NULL); /* session 1 */
    int fd = raw_connect(f);
    ticket mine;
    ticket t;

    assert_true(child_stops(pid));
    ask.protocol = GOALLOC_PROTOCOL;
    ask.layout = layout_tell(&(Goallocd__Layout){ 0 }, version_own());
    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_ATTACH;
    request.attach = &ask;
    reply = raw_call(fd, &request);
    assert_non_null(reply);
    assert_int_equal(reply->attach->token.len, 16);
    mine = (ticket){ reply->attach->session, reply->attach->epoch, reply->attach->generation, { 0 }, 16 };
    memcpy(mine.token, reply->attach->token.data, 16);
    goallocd__reply__free_unpacked(reply, NULL);

    t = mine;
    t.token[15] ^= 1;
    assert_int_equal(try_reattach(f, &t), EACCES);
    t = mine;
    t.token_bytes = 8;
    assert_int_equal(try_reattach(f, &t), EACCES);
    t = mine;
    t.session = 1; /* the other's, with this one's token */
    assert_int_equal(try_reattach(f, &t), EACCES);
    t = mine;
    t.epoch++;
    assert_int_equal(try_reattach(f, &t), ESTALE);
    t.session = UINT32_MAX;
    assert_int_equal(try_reattach(f, &t), ESTALE);
    t = mine;
    t.generation ^= 1;
    assert_int_equal(try_reattach(f, &t), ESTALE);
    if (geteuid() == 0) { /* a wrong token, and another user */
        t = mine;
        t.token[0] ^= 1;
        assert_int_equal(chmod(f->dir, 0711), 0);
        assert_int_equal(chmod(f->socket, 0666), 0);
        assert_int_equal(child_run(f, reattach_as_nobody, &t), EACCES);
    }
    assert_int_equal(try_reattach(f, &mine), 0);
    /* That was its last connection, and nobody has its life page mapped: an old token now. */
    for (int i = 0; i < 500 && try_reattach(f, &mine) == 0; i++)
        (void)usleep(10000);
    assert_int_equal(try_reattach(f, &mine), ESTALE);
    (void)close(fd);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
    assert_true(fixture_is_clean(f, 1001));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(reattach_with_a_wrong_or_old_token_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
