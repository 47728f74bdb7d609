/*
 * The next daemon knows of each session and group whether its process lives, before any of them has said a word: their
 * signs of life were on the shelf. And what clients can do to shelf and signs: fill nothing, forge nothing, slow
 * nobody.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/sockios.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "proto/fdpass.h"
#include "proto/keeper.h"
#include "tests/support/groups.h"
#include "tests/support/rawheap.h"
#include "tests/support/waits.h"

#define NSESSIONS   300
#define NROUNDS     4000 /* attaches and ends */
#define SHELF_BYTES 200000 /* of the queue, at most */
#define IN_FLIGHT_MOST  4096u /* descriptors in sockets that the daemon's user may have, */
#define IN_FLIGHT_STEPS 12u   /* and before and after them attaches that are tried */
#define SOCKETS_MAX     64
#define DOORS       64u  /* daemon/memory/lifesign.h */
#define NLOCKS      4000

/* One end of the shelf, by the keeper. */
static int shelf_in(const fixture *f)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int fds[FDPASS_MAX];
    int nfds = 0;
    ssize_t n = -EAGAIN;
    char said[8];

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/" KEEPER_SOCKET, f->state_dir);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    for (int i = 0; i < 10000 && n == -EAGAIN; i++, (void)usleep(1000))
        n = fdpass_recv(fd, said, sizeof(said), fds, &nfds);
    (void)close(fd);
    assert_int_equal(nfds, KEEPER_NFDS);
    for (int i = 0; i < nfds; i++) {
        if (i != KEEPER_FD_SHELF_IN)
            (void)close(fds[i]);
    }
    return fds[KEEPER_FD_SHELF_IN];
}

/* --- deaths between two daemons --- */

static int become_another_program(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_malloc(100) != NULL);
    (void)raise(SIGSTOP);
    (void)execl("/bin/sleep", "sleep", "100", (char *)NULL);
    return 1;
}

/* A session that has locked all of spans, and so, in other daemons' eyes, all sessions. */
static int lock_spans(const fixture *f, void *arg)
{
    static rawheap heap;
    struct flock all = { .l_type = F_RDLCK, .l_whence = SEEK_SET };

    (void)arg;
    rawheap_open(&heap, f, 0, "locks");
    CHECK(fcntl(heap.fds[ATTACH_FD_SPANS], F_OFD_SETLK, &all) == 0);
    all.l_pid = 0;
    (void)fcntl(heap.fds[ATTACH_FD_SPANS], F_SETLK, &all); /* and as a process, which nobody can undo */
    (void)raise(SIGSTOP);
    return 0;
}

static void program_that_is_replaced_before_its_return_ends_its_session(void **state)
{
    fixture *f = *state;
    pid_t locker = child_start_stopped(f, lock_spans, NULL);
    pid_t pid = child_start_stopped(f, become_another_program, NULL);

    fixture_kill(f);
    fixture_restart(f, NULL);
    (void)fixture_live_with(f, 2);
    (void)kill(pid, SIGCONT);
    (void)fixture_live_with(f, 1);
    process_kill(pid);
    process_kill(locker);
    assert_true(fixture_is_clean(f, 1));
}

static int hold_session(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_malloc(100) != NULL);
    for (;;)
        (void)raise(SIGSTOP);
}

/* The next daemon runs in a pid namespace of its own: pids say nothing to it. */
static void death_is_noticed_from_another_pid_namespace(void **state)
{
    fixture *f = *state;
    int before = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    pid_t pids[2];

    if (before < 0 || unshare(CLONE_NEWPID) < 0) {
        (void)close(before);
        skip();
    }
    assert_int_equal(setns(before, CLONE_NEWPID), 0);
    for (int i = 0; i < 2; i++) {
        pids[i] = child_start_stopped(f, hold_session, NULL);
    }
    fixture_kill(f);
    process_kill(pids[0]);
    assert_int_equal(unshare(CLONE_NEWPID), 0);
    fixture_restart(f, NULL);
    assert_int_equal(setns(before, CLONE_NEWPID), 0);
    (void)fixture_live_with(f, 1);
    process_kill(pids[1]);
    (void)fixture_live_with(f, 0);
    (void)close(before);
}

/* The parent ends, and its child has done nothing with the heap; the object is the group's. */
static int leave_child(const fixture *f, void *arg)
{
    int *ready = arg;
    pid_t pid;

    CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM, "family") == 0 && goalloc_malloc(100) != NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        char c;

        (void)close(ready[1]);
        (void)!read(ready[0], &c, 1); /* until the test has closed its end */
        _exit(0);
    }
    return 0;
}

static void child_that_has_not_attached_keeps_its_group_over_two_takeovers(void **state)
{
    fixture *f = *state;
    goalloc_stats_t stats;
    int ready[2];

    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    assert_int_equal(child_run(f, leave_child, ready), 0);
    for (int i = 0; i < 2; i++) {
        fixture_kill(f);
        fixture_restart(f, NULL);
        (void)fixture_live_with(f, 0);
        fixture_stats(f, &stats);
        assert_int_equal(stats.live_objects, 1);
    }
    (void)close(ready[1]);
    assert_comes_to(f, 0); /* the child has ended, and its group with it */
    (void)close(ready[0]);
}

static int hold_raw(const fixture *f, void *arg)
{
    static rawheap heap;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    rawheap_open(&heap, f, 0, "one of many");
    CHECK(write(*(int *)arg, "r", 1) == 1);
    for (;;)
        (void)pause();
}

static void next_daemon_notices_all_that_have_died_meanwhile(void **state)
{
    static pid_t pids[NSESSIONS];
    fixture *f = *state;
    int ready[2];
    char c;

    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    for (int i = 0; i < NSESSIONS; i++)
        pids[i] = child_start(f, hold_raw, &ready[1]);
    for (int i = 0; i < NSESSIONS; i++)
        assert_int_equal(read(ready[0], &c, 1), 1);
    fixture_kill(f);
    for (int i = 0; i < NSESSIONS; i += 2)
        process_kill(pids[i]);
    fixture_restart(f, NULL);
    (void)fixture_live_with(f, NSESSIONS / 2);
    fixture_kill(f); /* and the one after it */
    for (int i = 1; i < NSESSIONS; i += 4)
        process_kill(pids[i]);
    fixture_restart(f, NULL);
    (void)fixture_live_with(f, NSESSIONS / 4);
    for (int i = 3; i < NSESSIONS; i += 4)
        process_kill(pids[i]);
    (void)fixture_live_with(f, 0);
    (void)close(ready[0]);
    (void)close(ready[1]);
}

/* --- what is bounded --- */

static void attaches_and_ends_leave_nothing_behind(void **state)
{
    const fixture *f = *state;
    pid_t pid = child_start_stopped(f, hold_session, NULL); /* its sign is the oldest */
    int in = shelf_in(f);
    int most = 0;
    int bytes;

    for (int i = 0; i < NROUNDS; i++) {
        (void)close(raw_attach(f));
        assert_int_equal(ioctl(in, SIOCOUTQ, &bytes), 0);
        most = bytes > most ? bytes : most;
    }
    (void)printf("%d bytes on the shelf at most\n", most);
    assert_true(most < SHELF_BYTES);
    process_kill(pid);
    (void)close(in);
    assert_true(fixture_is_clean(f, 1)); /* the daemon's descriptors, too */
}

/* The error of an Attach, which leaves the session in *ret if it is 0. */
static int attach_error(const fixture *f, rawheap *ret, uint32_t flags, const char *group, const char *text)
{
    Goallocd__Attach ask = rawheap_attach_init();
    Goallocd__Reply *reply;
    int error;

    memset(ret, 0, sizeof(*ret));
    ask.flags = flags;
    if (group != NULL)
        ask.group = (ProtobufCBinaryData){ .len = strlen(group), .data = (uint8_t *)(uintptr_t)group };
    ret->fd = raw_connect(f);
    reply = rawheap_ask(ret, &ask);
    assert_non_null(reply);
    error = reply->error;
    if (error != 0)
        assert_non_null(strstr(reply->message, text));
    goallocd__reply__free_unpacked(reply, NULL);
    if (error != 0)
        rawheap_disconnect(ret);
    return error;
}

/* It lives without a connection; a process that is gone gives everything back. */
static void drop_session(rawheap *heap)
{
    for (int i = 0; i < ATTACH_NFDS; i++) {
        if (heap->fds[i] >= 0)
            (void)close(heap->fds[i]);
    }
    (void)close(heap->fd);
}

static void shelf_that_is_full_refuses_sessions_and_nothing_else(void **state)
{
    static rawheap heaps[64];
    fixture *f = *state;
    int in = shelf_in(f);
    int n = 0;
    int e;
    rawheap more;

    assert_int_equal(setsockopt(in, SOL_SOCKET, SO_SNDBUF, &(int){ 1 }, sizeof(int)), 0);
    while ((e = attach_error(f, &heaps[n], 0, NULL, "sign of life")) == 0)
        assert_true(++n < 64);
    assert_int_equal(e, EUSERS);
    assert_true(n > 0);
    assert_int_equal(attach_error(f, &more, SESSION_RECLAIM, "a group", "descriptors"), EUSERS);
    (void)fixture_live_with(f, (uint64_t)n);
    for (int i = 0; i < n; i++)
        drop_session(&heaps[i]);
    (void)fixture_live_with(f, 0);
    assert_int_equal(attach_error(f, &more, 0, NULL, ""), 0);
    drop_session(&more);
    (void)close(in);
    assert_true(fixture_is_clean(f, 0));
}

/* Send n descriptors that nobody receives, into sockets[*used - 1], or another one when that is full. */
static void put_in_flight(int (*sockets)[2], int *used, unsigned n)
{
    int fds[FDPASS_MAX];

    for (int i = 0; i < FDPASS_MAX; i++)
        fds[i] = STDERR_FILENO;
    while (n > 0) {
        int some = n < FDPASS_MAX ? (int)n : FDPASS_MAX;

        if (*used > 0 && fdpass_send(sockets[*used - 1][0], "x", 1, fds, some) == 1) {
            n -= (unsigned)some;
            continue;
        }
        assert_true(*used < SOCKETS_MAX);
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets[*used]), 0);
        (*used)++;
    }
}

/*
 * Another process of the daemon's user has more and more descriptors in sockets, until they are more than the daemon
 * may have: from one that is too many for the reply to an Attach, to those that are too many for the session's sign.
 */
static void too_many_descriptors_in_flight_refuse_sessions_and_nothing_else(void **state)
{
    static const char *const no_options[] = { NULL };
    static int sockets[SOCKETS_MAX][2];
    struct rlimit limit;
    unsigned most;
    int used = 0;
    fixture f;
    rawheap heap;
    rawheap other;
    int e = 0;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    most = limit.rlim_max < IN_FLIGHT_MOST ? (unsigned)limit.rlim_max : IN_FLIGHT_MOST;
    fixture_start_with_limit(&f, no_options, most);
    assert_int_equal(attach_error(&f, &heap, 0, NULL, ""), 0);
    put_in_flight(sockets, &used, most - IN_FLIGHT_STEPS);
    for (unsigned i = 0; i < 2 * IN_FLIGHT_STEPS; i++) {
        put_in_flight(sockets, &used, 1);
        e = attach_error(&f, &other, 0, NULL, "in sockets"); /* it is told, each time */
        if (e == 0)
            drop_session(&other);
        assert_true(e == 0 || e == EUSERS);
    }
    assert_int_equal(e, EUSERS);
    assert_true(rawheap_ask_large(&heap, 10).n != 0); /* who has a session is served */
    for (int i = 0; i < used; i++)
        (void)(close(sockets[i][0]) + close(sockets[i][1]));
    drop_session(&heap);
    assert_int_equal(attach_error(&f, &heap, 0, NULL, ""), 0);
    drop_session(&heap);
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_stop(&f));
}

static void signs_of_a_group_that_are_kept_are_bounded(void **state)
{
    static int kept[8 * DOORS];
    const fixture *f = *state;
    rawheap heap;
    unsigned n = 0;
    int e = 0;

    for (; n < 8 * DOORS; n++) {
        e = attach_error(f, &heap, SESSION_READONLY, "kept", "hold too many");
        if (e != 0)
            break;
        kept[n] = heap.fds[ATTACH_FD_OWN]; /* of a read-only session it is the group's */
        heap.fds[ATTACH_FD_OWN] = -1;
        drop_session(&heap);
        (void)fixture_live_with(f, 0);
    }
    assert_int_equal(e, EUSERS);
    assert_true(n >= DOORS);
    assert_int_equal(attach_error(f, &heap, SESSION_READONLY, "another", ""), 0);
    (void)close(heap.fds[ATTACH_FD_OWN]);
    heap.fds[ATTACH_FD_OWN] = -1;
    drop_session(&heap);
    for (unsigned i = 0; i < n; i++)
        (void)close(kept[i]);
    assert_true(fixture_is_clean(f, 0)); /* the groups' descriptors, too */
    assert_int_equal(attach_error(f, &heap, SESSION_READONLY, "kept", ""), 0);
    drop_session(&heap);
    (void)close(heap.fds[ATTACH_FD_OWN]);
}

/*
 * Who has a group's sign locks thousands of other bytes of its file, through which each question about one byte goes:
 * then nobody joins that group, and no other is hit, as long as somebody has that sign.
 */
static void who_locks_more_of_a_sign_closes_its_group_alone(void **state)
{
    const fixture *f = *state;
    rawheap heap;
    int kept;
    int e = 0;

    assert_int_equal(attach_error(f, &heap, SESSION_READONLY, "locked", ""), 0);
    kept = heap.fds[ATTACH_FD_OWN]; /* of a read-only session it is the group's */
    heap.fds[ATTACH_FD_OWN] = -1;
    for (int n = 0; n < NLOCKS / 10; n++) {
        off_t at = (off_t)DOORS + 2 * n;
        struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

        assert_int_equal(fcntl(kept, F_OFD_SETLK, &lock), 0);
    }
    drop_session(&heap);
    for (unsigned i = 0; i < 8 * DOORS && e == 0; i++) { /* until the daemon has closed its own descriptor of it */
        assert_true(fixture_live_with(f, 0) == 0);
        e = attach_error(f, &heap, SESSION_READONLY, "locked", "hold too many");
        if (e == 0) {
            (void)close(heap.fds[ATTACH_FD_OWN]);
            heap.fds[ATTACH_FD_OWN] = -1;
            drop_session(&heap);
        }
    }
    assert_int_equal(e, EUSERS);
    assert_int_equal(attach_error(f, &heap, SESSION_READONLY, "another", ""), 0);
    (void)close(heap.fds[ATTACH_FD_OWN]);
    heap.fds[ATTACH_FD_OWN] = -1;
    drop_session(&heap);
    (void)close(kept);
    assert_true(fixture_is_clean(f, 0));
    assert_int_equal(attach_error(f, &heap, SESSION_READONLY, "locked", ""), 0);
    drop_session(&heap);
    (void)close(heap.fds[ATTACH_FD_OWN]);
}

/* --- locks of others --- */

/* True as long as somebody else than this description has a lock on the file. */
static bool is_locked(int fd)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

    assert_int_equal(fcntl(fd, F_OFD_GETLK, &lock), 0);
    return lock.l_type != F_UNLCK;
}

static int reopened(int fd)
{
    char path[64];
    int r;

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    r = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(r >= 0);
    return r;
}

/* Thousands of locks on the descriptions that all clients share, and their owner is gone: so are they soon. */
static void locks_that_clients_leave_behind_go(void **state)
{
    static const int which[] = { ATTACH_FD_ARENA, ATTACH_FD_SPANS, ATTACH_FD_BITMAP };
    const fixture *f = *state;

    for (uint32_t flags = 0; flags <= SESSION_READONLY; flags += SESSION_READONLY) {
        rawheap heap;
        int looks[3];

        assert_int_equal(attach_error(f, &heap, flags, NULL, ""), 0);
        for (int i = 0; i < 3; i++) {
            looks[i] = reopened(heap.fds[which[i]]);
            for (int n = 0; n < NLOCKS / 10; n++) {
                struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 2 * n, .l_len = 1 };

                assert_int_equal(fcntl(heap.fds[which[i]], F_OFD_SETLK, &lock), 0);
            }
        }
        if (flags == SESSION_READONLY)
            heap.fds[ATTACH_FD_OWN] = -1;
        drop_session(&heap);
        for (int i = 0; i < 3; i++) {
            for (int n = 0; n < 2000 && is_locked(looks[i]); n++)
                (void)usleep(5000);
            assert_false(is_locked(looks[i]));
            (void)close(looks[i]);
        }
    }
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(program_that_is_replaced_before_its_return_ends_its_session),
        FIXTURE_TEST_KEPT(death_is_noticed_from_another_pid_namespace),
        FIXTURE_TEST_KEPT(child_that_has_not_attached_keeps_its_group_over_two_takeovers),
        FIXTURE_TEST_KEPT(next_daemon_notices_all_that_have_died_meanwhile),
        FIXTURE_TEST_KEPT(attaches_and_ends_leave_nothing_behind),
        FIXTURE_TEST_KEPT(shelf_that_is_full_refuses_sessions_and_nothing_else),
        cmocka_unit_test(too_many_descriptors_in_flight_refuse_sessions_and_nothing_else),
        FIXTURE_TEST(signs_of_a_group_that_are_kept_are_bounded),
        FIXTURE_TEST(who_locks_more_of_a_sign_closes_its_group_alone),
        FIXTURE_TEST(locks_that_clients_leave_behind_go),
    };

    return cmocka_run_group_tests_name("signs of life and their shelf", tests, NULL, NULL);
}
