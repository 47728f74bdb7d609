/*
 * The heap outlives its daemon: killed, stopped and replaced daemons, workers that go on, come back, or are told that
 * the heap is gone; and state that nobody should believe.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "proto/channel.h"
#include "proto/keeper.h"
#include "shm/layout.h"
#include "tests/support/objects.h"

static int64_t now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* --- objects and roots --- */

#define OBJECTS 20000

typedef struct object {
    struct object *next;
    uint64_t size;
    uint64_t check;
} object;

static size_t size_of(uint64_t i)
{
    return i % 500 == 0 ? 40000 + i : sizeof(object) + i % 900;
}

static object *make_object(uint64_t i, object *next)
{
    size_t size = size_of(i);
    object *o = goalloc_malloc(size);

    CHECK(o != NULL);
    memset(o, (int)i, size);
    *o = (object){ next, size, i * 31 };
    return o;
}

static int build(const fixture *f, void *arg)
{
    object *list = NULL;

    (void)arg;
    must_attach(f, 0);
    for (uint64_t i = 0; i < OBJECTS; i++)
        list = make_object(i, list);
    for (int i = 0; i < 1000; i++)
        CHECK(goalloc_malloc_noscan(3) != NULL);
    CHECK(goalloc_root_set("list", list) == 0);
    return 0;
}

static int check_and_free(const fixture *f, void *arg)
{
    void *p;
    uint64_t i = OBJECTS;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("list", &p) == 0);
    for (object *o = p, *next; o != NULL; o = next) {
        i--;
        CHECK(o->size == size_of(i) && o->check == i * 31 && goalloc_usable_size(o) >= o->size);
        CHECK(o->size == sizeof(object) || ((unsigned char *)o)[o->size - 1] == (unsigned char)i);
        next = o->next;
        CHECK(goalloc_free_checked(o) == 0);
    }
    CHECK(i == 0 && goalloc_root_set("list", NULL) == 0);
    return 0;
}

static void heap_of_a_killed_daemon_is_taken_over_whole(void **state)
{
    fixture *f = *state;
    goalloc_stats_t before;
    goalloc_stats_t after;

    assert_int_equal(child_run(f, build, NULL), 0);
    assert_true(fixture_is_clean(f, OBJECTS + 1000));
    fixture_stats(f, &before);
    for (int i = 0; i < 3; i++) {
        fixture_kill(f);
        fixture_restart(f, NULL);
        fixture_stats(f, &after);
        assert_int_equal(after.live_objects, before.live_objects);
        assert_int_equal(after.live_bytes, before.live_bytes);
        assert_int_equal(after.roots, 1);
        assert_true(after.committed_bytes >= after.live_bytes);
    }
    assert_int_equal(child_run(f, check_and_free, NULL), 0);
    for (int i = 0; i < 500 && after.live_objects != 1000; i++, usleep(10000))
        fixture_stats(f, &after);
    assert_int_equal(after.live_objects, 1000);
    assert_int_equal(after.roots, 0);
}

/* --- workers that live on --- */

/* Churn without a pause, checking contents, until told to stop through the heap. */
static int worker(const fixture *f, void *arg)
{
    static object *entries[4000];
    uint64_t seed = *(uint64_t *)arg ^ (uint64_t)getpid();
    _Atomic int *stop;
    void *p;

    must_attach(f, 0);
    CHECK(goalloc_root_get("stop", &p) == 0);
    stop = p;
    while (!*stop) {
        uint64_t r = test_random(&seed);
        object **entry = &entries[r % 4000];

        if (*entry != NULL) {
            size_t size = (*entry)->size;

            CHECK((*entry)->check == (uintptr_t)*entry);
            CHECK(size <= sizeof(object) || ((unsigned char *)*entry)[size - 1] == (unsigned char)size);
            goalloc_free(*entry);
            *entry = NULL;
        } else {
            size_t size = sizeof(object) + (r >> 32) % ((r >> 20) % 200 == 0 ? 100000 : 1000);

            *entry = goalloc_malloc(size);
            CHECK(*entry != NULL);
            ((unsigned char *)*entry)[size - 1] = (unsigned char)size;
            **entry = (object){ NULL, size, (uintptr_t)*entry };
            if (size > sizeof(object))
                ((unsigned char *)*entry)[size - 1] = (unsigned char)size;
        }
        if (r % 20000 == 0)
            CHECK(goalloc_trim() == 0);
    }
    for (int i = 0; i < 4000; i++)
        goalloc_free(entries[i]);
    return 0;
}

static int set_stop(const fixture *f, void *arg)
{
    _Atomic int *stop;
    void *p;

    must_attach(f, 0);
    if (arg == NULL) {
        stop = goalloc_calloc(1, sizeof(*stop));
        CHECK(stop != NULL && goalloc_root_set("stop", (void *)(uintptr_t)stop) == 0);
    } else {
        CHECK(goalloc_root_get("stop", &p) == 0);
        stop = p;
        *stop = 1;
    }
    return 0;
}

static void workers_go_on_while_daemons_are_killed(void **state)
{
    fixture *f = *state;
    uint64_t seed = test_seed();
    const char *given = getenv("GOALLOC_TEST_SECONDS");
    int64_t end = now_ms() + (given != NULL ? atoi(given) : 4) * 1000;
    pid_t pids[4];
    int one = 1;
    int nkills = 0;

    assert_int_equal(child_run(f, set_stop, NULL), 0);
    for (int i = 0; i < 4; i++)
        pids[i] = child_start(f, worker, &seed);
    while (now_ms() < end) {
        (void)usleep(10000 + (useconds_t)(test_random(&seed) % 90000));
        fixture_kill(f);
        (void)usleep((useconds_t)(test_random(&seed) % 20000));
        fixture_restart(f, NULL);
        nkills++;
    }
    assert_int_equal(child_run(f, set_stop, &one), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    (void)printf("%d daemons\n", nkills);
    f->nfds += 8;
    assert_true(fixture_is_clean(f, 1));
}

static void worker_that_dies_with_its_daemon_is_ended_by_the_next(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start(f, hold_and_stop, NULL);

    assert_true(child_stops(pid));
    fixture_kill(f);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
    fixture_restart(f, NULL);
    assert_true(fixture_is_clean(f, 1001));
    /* And one that dies after the takeover, before it has come back. */
    pid = child_start(f, hold_and_stop, NULL);
    assert_true(child_stops(pid));
    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_false(fixture_is_clean(f, 2002)); /* it lives, so its leases are its own */
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
    assert_true(fixture_is_clean(f, 2002));
}

/* Their locks are looked at in turn: that the others live is no reason to pass one over. */
static void sessions_lost_for_long_end_in_whichever_order_they_die(void **state)
{
    enum { N = 8 };
    fixture *f = *state;
    pid_t pids[N];

    for (int i = 0; i < N; i++) {
        pids[i] = child_start(f, hold_and_stop, NULL);
        assert_true(child_stops(pids[i]));
    }
    fixture_kill(f);
    fixture_restart(f, NULL);
    (void)usleep(4000000); /* then they count as lost for long */
    for (int i = 0; i < N; i++) {
        pid_t pid = pids[i * 5 % N]; /* those that stay are before it and behind */

        (void)kill(pid, SIGKILL);
        (void)child_wait(pid);
        (void)fixture_live_with(f, N - 1 - (uint64_t)i);
    }
    assert_true(fixture_is_clean(f, N * 1001));
}

static int sleep_for_ever(const fixture *f, void *arg)
{
    (void)f;
    (void)arg;
    (void)pause();
    return 0;
}

/* Another process with the dead worker's pid: the kernel is told which pid to give next. False: it can't be. */
static bool start_with_pid(const fixture *f, pid_t pid, pid_t *ret)
{
    for (int i = 0; i < 50; i++) {
        FILE *last = fopen("/proc/sys/kernel/ns_last_pid", "we");

        if (last == NULL || fprintf(last, "%d", (int)pid - 1) < 0 || fclose(last) != 0)
            return false;
        *ret = child_start(f, sleep_for_ever, NULL);
        if (*ret == pid)
            return true;
        (void)kill(*ret, SIGKILL);
        (void)child_wait(*ret);
    }
    return false;
}

static void pid_that_is_used_again_deceives_nobody(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start(f, hold_and_stop, NULL);
    pid_t other = -1;

    assert_true(child_stops(pid));
    fixture_kill(f);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
    if (!start_with_pid(f, pid, &other)) {
        fixture_restart(f, NULL);
        skip();
    }
    fixture_restart(f, NULL);
    assert_true(fixture_is_clean(f, 1001));
    (void)kill(other, SIGKILL);
    (void)child_wait(other);
}

/* --- owners --- */

static int reclaimed_later(const fixture *f, void *arg)
{
    void *p;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    for (int i = 0; i < 1000; i++) {
        p = goalloc_malloc(100);
        CHECK(p != NULL && (i % 10 != 0 || goalloc_publish(p) == 0));
    }
    CHECK(goalloc_root_get("list", &p) == 0 && goalloc_adopt(p) == 0);
    (void)raise(SIGSTOP);
    if (arg != NULL) { /* come back, and go on as before */
        CHECK(goalloc_malloc(200000) != NULL);
        (void)raise(SIGSTOP);
    }
    return 0;
}

static void reclaim_session_owns_its_objects_over_a_takeover(void **state)
{
    fixture *f = *state;
    int back = 1;
    pid_t pid;

    /* Of the 1000 objects 100 are published; the list's first object is adopted and goes with the session. */
    assert_int_equal(child_run(f, build, NULL), 0);
    pid = child_start(f, reclaimed_later, NULL);
    assert_true(child_stops(pid));
    fixture_kill(f);
    fixture_restart(f, NULL);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
    assert_true(fixture_is_clean(f, OBJECTS + 1000 - 1 + 100));
    /* The same for one that comes back in between. */
    assert_int_equal(child_run(f, build, NULL), 0);
    pid = child_start(f, reclaimed_later, &back);
    assert_true(child_stops(pid));
    fixture_kill(f);
    fixture_restart(f, NULL);
    (void)kill(pid, SIGCONT);
    assert_true(child_stops(pid));
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
    assert_true(fixture_is_clean(f, 2 * (OBJECTS + 1000 - 1 + 100)));
}

static int keep_to_the_limit(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };
    uint64_t held;

    (void)arg;
    options.socket_path = f->socket;
    options.limit_bytes = 4 << 20;
    CHECK(goalloc_attach(&options) == 0);
    CHECK(goalloc_malloc(1 << 20) != NULL && goalloc_malloc(100) != NULL);
    CHECK(goalloc_stats(&stats) == 0);
    held = stats.session_held_bytes;
    (void)raise(SIGSTOP);
    CHECK(goalloc_stats(&stats) == 0 && stats.session_held_bytes == held);
    CHECK(goalloc_malloc(3 << 20) == NULL && errno == EDQUOT); /* with what it held before */
    CHECK(goalloc_malloc(2 << 20) != NULL);
    CHECK(goalloc_malloc(1 << 20) == NULL && errno == EDQUOT);
    return 0;
}

static void quota_of_a_session_is_as_before_the_takeover(void **state)
{
    assert_int_equal(child_run_over_a_restart(*state, keep_to_the_limit, NULL), 0);
    assert_true(fixture_is_clean(*state, 3));
}

/* --- a new heap --- */

static int told_that_the_heap_is_gone(const fixture *f, void *arg)
{
    char *p;
    void *q;

    (void)arg;
    must_attach(f, 0);
    p = goalloc_malloc(100);
    CHECK(p != NULL);
    memset(p, 7, 100);
    (void)raise(SIGSTOP);
    CHECK(goalloc_root_get("list", &q) == -ESTALE);
    CHECK(goalloc_root_set("list", p) == -ESTALE);
    CHECK(goalloc_trim() == -ESTALE);
    CHECK(goalloc_malloc(100000) == NULL && errno == ESTALE);
    for (int i = 0; i < 100; i++)
        CHECK(p[i] == 7); /* it can still be read */
    CHECK(goalloc_detach() == 0);
    must_attach(f, 0); /* the new one */
    CHECK(goalloc_root_get("list", &q) == -ENOENT);
    CHECK(goalloc_malloc(100) != NULL);
    return 0;
}

static void worker_of_an_old_heap_is_told_and_nothing_mixes(void **state)
{
    fixture *f = *state;

    for (int i = 0; i < 2; i++) {
        pid_t pid = child_start(f, told_that_the_heap_is_gone, NULL);

        assert_true(child_stops(pid));
        if (i == 0) { /* killed, and begun anew on purpose */
            fixture_kill(f);
            fixture_restart(f, "--cold-start");
        } else { /* stopped and started */
            (void)kill(f->daemon, SIGTERM);
            assert_int_equal(child_wait(f->daemon), 0);
            fixture_restart(f, NULL);
        }
        assert_true(fixture_is_clean(f, 0));
        (void)kill(pid, SIGCONT);
        assert_int_equal(child_wait(pid), 0);
        assert_true(fixture_is_clean(f, 1));
    }
}

static void daemon_that_is_asked_to_leave_the_heap_hands_it_over(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, build, NULL), 0);
    (void)kill(f->daemon, SIGUSR1);
    assert_int_equal(child_wait(f->daemon), 0);
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, check_and_free, NULL), 0);
    assert_true(fixture_is_clean(f, 1000));
}

/* Each way to stop it, in turn, with the work of a whole heap, and a worker that goes on. */
static void daemon_that_is_stopped_keeps_the_heap(void **state)
{
    static const int signums[] = { SIGTERM, SIGINT, SIGTERM, SIGUSR1 };
    fixture *f = *state;
    uint64_t seed = test_seed();
    int one = 1;
    pid_t pid;

    f->on_stop = "keep";
    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, set_stop, NULL), 0);
    assert_int_equal(child_run(f, build, NULL), 0);
    pid = child_start(f, worker, &seed);
    for (size_t i = 0; i < sizeof(signums) / sizeof(signums[0]); i++) {
        (void)usleep(50000);
        (void)kill(f->daemon, signums[i]);
        assert_int_equal(child_wait(f->daemon), 0);
        fixture_restart(f, NULL);
    }
    assert_int_equal(child_run(f, set_stop, &one), 0);
    assert_int_equal(child_wait(pid), 0);
    assert_int_equal(child_run(f, check_and_free, NULL), 0);
    assert_true(fixture_is_clean(f, 1001));
    assert_true(fixture_log_has(f, "the heap is kept for the next goallocd"));
    f->on_stop = NULL;
    fixture_kill(f);
    fixture_restart(f, NULL);
}

/* --- exec, and stopped workers --- */

static int exec_something_else(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 1000; i++)
        CHECK(goalloc_malloc(100) != NULL);
    (void)raise(SIGSTOP);
    (void)execl("/bin/sleep", "sleep", "100", (char *)NULL);
    return 1;
}

static void process_that_becomes_another_program_ends_its_session(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start(f, exec_something_else, NULL);

    assert_true(child_stops(pid));
    assert_false(fixture_is_clean(f, 1000));
    (void)kill(pid, SIGCONT);
    assert_true(fixture_is_clean(f, 1000));
    assert_int_equal(kill(pid, 0), 0); /* it lives, as something else */
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
}

/* --- state that nobody should believe --- */

/* Get the keeper's descriptors, as a daemon would. The caller closes them. */
static int from_keeper(const fixture *f, int fds[FDPASS_MAX])
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    char said[8];
    int nfds = 0;
    int fd = -1;

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/keeper.sock", f->state_dir);
    for (int i = 0; i < 500 && nfds == 0; i++, usleep(10000)) { /* a keeper may be on its way up */
        ssize_t n = -EAGAIN;

        if (fd >= 0)
            (void)close(fd);
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
            continue;
        for (int ms = 0; ms < 5000 && n == -EAGAIN; ms++, usleep(1000))
            n = fdpass_recv(fd, said, sizeof(said), fds, &nfds);
    }
    assert_int_equal(nfds, KEEPER_NFDS);
    return fd;
}

/* Wait until a keeper has the heap. */
static void await_keeper(const fixture *f)
{
    int fds[FDPASS_MAX];
    int fd = from_keeper(f, fds);

    for (int i = 0; i < KEEPER_NFDS; i++)
        (void)close(fds[i]);
    (void)close(fd);
}

/* Start a daemon: it either refuses (counted) or serves; what it never does is die of it. */
static void launch_and_see(fixture *f, int *nrefused)
{
    int status = fixture_try_restart(f);

    if (status < 0) {
        fixture_kill(f);
    } else {
        assert_int_equal(status, 1);
        (*nrefused)++;
    }
}

static void scribbled_state_is_refused_and_dropped_only_on_demand(void **state)
{
    fixture *f = *state;
    uint64_t seed = test_seed();
    int fds[FDPASS_MAX];
    int fd = from_keeper(f, fds);
    shm_header header;
    int nrefused = 0;

    assert_int_equal(child_run(f, build, NULL), 0);
    fixture_kill(f);
    assert_int_equal(pread(fds[1], &header, sizeof(header), 0), sizeof(header));
    for (int i = 0; i < 60; i++) {
        /* A word of the spans region, where it is used, becomes something else. */
        uint64_t tables[] = { 0, header.sessions_off, header.roots_off, header.heap_arenas_off,
                              header.page_map_off, header.span_table_off };
        uint64_t at = tables[i % 6] + test_random(&seed) % 2048 / 8 * 8;
        uint64_t bad = test_random(&seed);
        uint64_t was;

        assert_int_equal(pread(fds[1], &was, sizeof(was), (off_t)at), sizeof(was));
        assert_int_equal(pwrite(fds[1], &bad, sizeof(bad), (off_t)at), sizeof(bad));
        launch_and_see(f, &nrefused);
        assert_int_equal(pwrite(fds[1], &was, sizeof(was), (off_t)at), sizeof(was));
    }
    (void)printf("%d of 60 refused\n", nrefused);
    assert_true(nrefused > 10);
    /* Another layout. */
    header.major++;
    assert_int_equal(pwrite(fds[1], &header.major, 4, offsetof(shm_header, major)), 4);
    assert_int_equal(fixture_restart_refused(f, NULL), 1);
    assert_true(fixture_log_has(f, "the major number has to be the same"));
    assert_true(fixture_log_has(f, "--cold-start"));
    fixture_restart(f, "--cold-start");
    assert_true(fixture_is_clean(f, 0));
    for (int i = 0; i < KEEPER_NFDS; i++)
        (void)close(fds[i]);
    (void)close(fd);
}

/* What answers in the state directory has descriptors, but not of a heap. */
static int false_keeper(const fixture *f, void *arg)
{
    const int *fds = arg;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int peer;
    char c;

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/keeper.sock", f->state_dir);
    (void)unlink(addr.sun_path);
    CHECK(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(fd, 1) == 0);
    (void)raise(SIGSTOP);
    peer = accept(fd, NULL, NULL);
    CHECK(peer >= 0 && fdpass_send(peer, "heap", 4, fds, KEEPER_NFDS) == 4);
    (void)read(peer, &c, 1);
    (void)unlink(addr.sun_path);
    return 0;
}

static int memfd_of(uint64_t bytes, bool sealed)
{
    int fd = memfd_create("false", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    assert_true(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    if (sealed)
        assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
    return fd;
}

/* With something on it that is no sign of life. */
static int shelf_with_text(void)
{
    int ends[2];

    assert_true(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0 &&
                setsockopt(ends[1], SOL_SOCKET, SO_PEEK_OFF, &(int){ 0 }, sizeof(int)) == 0);
    assert_int_equal(send(ends[0], "text", 4, 0), 4);
    return ends[1];
}

static void truncated_or_foreign_state_is_refused(void **state)
{
    fixture *f = *state;
    int real[FDPASS_MAX];
    int keeper = from_keeper(f, real);
    shm_header header;
    int short_spans;

    assert_int_equal(pread(real[1], &header, sizeof(header), 0), sizeof(header));
    short_spans = memfd_of(header.spans_bytes / 2, true);
    assert_int_equal(pwrite(short_spans, &header, sizeof(header), 0), sizeof(header));

    int in = real[KEEPER_FD_SHELF_IN], out = real[KEEPER_FD_SHELF_OUT];
    int rows[][KEEPER_NFDS] = {
        { real[1], real[0], real[2], real[3], in, out },     /* in another order */
        { real[0], short_spans, real[2], real[3], in, out }, /* truncated */
        { real[0], real[1], real[2], real[2], in, out },     /* one twice */
        { memfd_of(4096, true), memfd_of(4096, true), memfd_of(4096, true), memfd_of(4096, true), in, out },
        { memfd_of(header.arena_bytes, false), real[1], real[2], real[3], in, out }, /* others could truncate it */
        { open("/dev/null", O_RDWR | O_CLOEXEC), open("/dev/zero", O_RDWR | O_CLOEXEC), real[2], real[3], in, out },
        { real[0], real[1], real[2], real[3], out, in },
        { real[0], real[1], real[2], real[3], in, keeper }, /* a socket, and no end of a shelf */
        { real[0], real[1], real[2], real[3], in, shelf_with_text() },
    };

    assert_int_equal(child_run(f, build, NULL), 0);
    fixture_kill(f);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        pid_t pid = child_start(f, false_keeper, rows[i]);

        assert_true(child_stops(pid));
        (void)kill(pid, SIGCONT);
        assert_int_equal(fixture_restart_refused(f, NULL), 1);
        assert_int_equal(child_wait(pid), 0);
    }
    assert_true(fixture_log_has(f, "--cold-start"));
    /* The true ones, by a false keeper: that is a heap. */
    pid_t pid = child_start(f, false_keeper, real);

    assert_true(child_stops(pid));
    (void)kill(pid, SIGCONT);
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, check_and_free, NULL), 0);
    (void)kill(f->daemon, SIGTERM);
    assert_int_equal(child_wait(f->daemon), 0);
    assert_int_equal(child_wait(pid), 0);
    f->daemon = 0;
    for (int i = 0; i < KEEPER_NFDS; i++)
        (void)close(real[i]);
    (void)close(keeper);
}

static void second_daemon_on_the_same_heap_is_refused(void **state)
{
    fixture *f = *state;
    fixture second = *f; /* another socket, the same state */
    goalloc_stats_t stats;
    char name[160];

    (void)snprintf(second.socket, sizeof(second.socket), "%s/other", f->dir);
    assert_int_equal(fixture_restart_refused(&second, NULL), 1);
    assert_true(fixture_log_has(f, "another goallocd serves it"));
    fixture_stats(f, &stats);
    (void)snprintf(name, sizeof(name), "%s.lock", second.socket);
    (void)unlink(name);
}

/* Memory that was committed and never written is the heap's too, and goes back in the end. */
static int allocate_untouched(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK((p = goalloc_malloc(100 << 20)) != NULL);
    goalloc_free(p);
    return goalloc_detach();
}

static void memory_never_written_is_not_forgotten_in_a_takeover(void **state)
{
    fixture *f = *state;
    goalloc_stats_t stats;

    assert_int_equal(child_run(f, allocate_untouched, NULL), 0);
    fixture_kill(f);
    fixture_restart(f, NULL);
    fixture_stats(f, &stats);
    assert_true(stats.committed_bytes + (4 << 20) >= fixture_memfd_bytes(f, "arena"));
    for (int i = 0; i < 1200 && fixture_memfd_bytes(f, "arena") > SHM_STOCK_PAGES * PAGE_BYTES; i++)
        (void)usleep(25000);
    assert_true(fixture_memfd_bytes(f, "arena") <= SHM_STOCK_PAGES * PAGE_BYTES);
}

/* A keeper that was made late is a child of a daemon that has mapped the heap, and what its sessions offer. */
static bool keeper_maps_nothing(const fixture *f)
{
    char path[64];
    char line[512];
    FILE *maps;
    bool none = true;

    (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)fixture_keeper(f));
    maps = fopen(path, "re");
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps) != NULL)
        none = none && strstr(line, "/memfd:goalloc") == NULL;
    (void)fclose(maps);
    return none;
}

static void keeper_that_dies_is_replaced(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, build, NULL), 0);
    for (int i = 0; i < 2; i++) {
        for (int deaths = 0; deaths < 2; deaths++) {
            assert_true(fixture_kill_keeper(f));
            await_keeper(f);
            assert_true(keeper_maps_nothing(f));
        }
        assert_true(fixture_log_has(f, "starting another one"));
        fixture_kill(f);
        fixture_restart(f, NULL);
    }
    assert_int_equal(child_run(f, check_and_free, NULL), 0);
}

static void keeper_that_cannot_start_is_tried_again(void **state)
{
    fixture *f = *state;
    char away[sizeof(f->state_dir) + 8];

    assert_int_equal(child_run(f, build, NULL), 0);
    (void)snprintf(away, sizeof(away), "%s.away", f->state_dir);
    assert_int_equal(rename(f->state_dir, away), 0);
    assert_true(fixture_kill_keeper(f));
    for (int i = 0; i < 1000 && !fixture_log_has(f, "nobody holds the heap but this daemon"); i++)
        usleep(10000);
    assert_true(fixture_log_has(f, "nobody holds the heap but this daemon"));
    assert_int_equal(rename(away, f->state_dir), 0);
    await_keeper(f);
    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, check_and_free, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(heap_of_a_killed_daemon_is_taken_over_whole),
        FIXTURE_TEST_KEPT(workers_go_on_while_daemons_are_killed),
        FIXTURE_TEST_KEPT(worker_that_dies_with_its_daemon_is_ended_by_the_next),
        FIXTURE_TEST_KEPT(sessions_lost_for_long_end_in_whichever_order_they_die),
        FIXTURE_TEST_KEPT(pid_that_is_used_again_deceives_nobody),
        FIXTURE_TEST_KEPT(reclaim_session_owns_its_objects_over_a_takeover),
        FIXTURE_TEST_KEPT(quota_of_a_session_is_as_before_the_takeover),
        FIXTURE_TEST_KEPT(worker_of_an_old_heap_is_told_and_nothing_mixes),
        FIXTURE_TEST_KEPT(daemon_that_is_asked_to_leave_the_heap_hands_it_over),
        FIXTURE_TEST_KEPT(daemon_that_is_stopped_keeps_the_heap),
        FIXTURE_TEST_KEPT(process_that_becomes_another_program_ends_its_session),
        FIXTURE_TEST_KEPT(scribbled_state_is_refused_and_dropped_only_on_demand),
        FIXTURE_TEST_KEPT(truncated_or_foreign_state_is_refused),
        FIXTURE_TEST_KEPT(second_daemon_on_the_same_heap_is_refused),
        FIXTURE_TEST_KEPT(memory_never_written_is_not_forgotten_in_a_takeover),
        FIXTURE_TEST_KEPT(keeper_that_dies_is_replaced),
        FIXTURE_TEST_KEPT(keeper_that_cannot_start_is_tried_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
