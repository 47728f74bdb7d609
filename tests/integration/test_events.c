/*
 * Events: what subscribers are told, in which order and to whom; subscribers that never read, thousands of them, other
 * users, liars; and daemons that die, come back or drop the heap while somebody listens.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "proto/events.h"
#include "tests/support/objects.h"
#include "tests/support/rawheap.h"

#define WAIT_MS 10000
#define KEPT    256 /* events that a daemon keeps: goalloc.h */

/* --- in child processes --- */

static bool is_readable(int fd, int ms)
{
    struct pollfd pfd = { .fd = fd, .events = POLLIN };

    return poll(&pfd, 1, ms) == 1;
}

/* The next event, waited for; times without daemon are passed over. */
static goalloc_event await_event(int fd)
{
    goalloc_event event = { .struct_size = sizeof(event) };
    int r = 0;

    for (int i = 0; i < 1000 && r == 0; i++) {
        CHECK(is_readable(fd, WAIT_MS));
        r = goalloc_next_event(&event);
        if (r == -ETIMEDOUT)
            r = 0;
    }
    if (r != 1)
        (void)fprintf(stderr, "next_event: %s\n", goalloc_strerror(r));
    CHECK(r == 1 && event.struct_size == sizeof(event));
    return event;
}

static void expect_root(int fd, uint32_t kind, const char *name)
{
    goalloc_event event = await_event(fd);

    if (event.kind != kind || strcmp(event.root, name) != 0)
        (void)fprintf(stderr, "event %u '%s' instead of %u '%s'\n", event.kind, event.root, kind, name);
    CHECK(event.kind == kind && strcmp(event.root, name) == 0);
}

static void expect_kind(int fd, uint32_t kind)
{
    goalloc_event event = await_event(fd);

    if (event.kind != kind)
        (void)fprintf(stderr, "event %u instead of %u\n", event.kind, kind);
    CHECK(event.kind == kind);
}

static void expect_none(int fd)
{
    goalloc_event event = { .struct_size = sizeof(event) };

    CHECK(!is_readable(fd, 50) && goalloc_next_event(&event) == 0);
}

static int subscribe_as(const fixture *f, uint32_t flags)
{
    int fd;

    must_attach(f, flags);
    fd = goalloc_event_fd();
    if (fd < 0)
        (void)fprintf(stderr, "event_fd: %s\n", goalloc_strerror(fd));
    CHECK(fd >= 0 && goalloc_event_fd() == fd);
    return fd;
}

static int subscribe(const fixture *f)
{
    return subscribe_as(f, 0);
}

/* The test goes on when the process has stopped, and the process when the test has done what it wants. */
static void meet(void)
{
    (void)raise(SIGSTOP);
}

static void go_on(pid_t pid)
{
    (void)kill(pid, SIGCONT);
}

/* --- what is told --- */

typedef struct deed {
    const char *label;
    const char *root; /* set, then removed; NULL: none */
    bool dies;
    uint32_t uid;
} deed;

static int do_deed(const fixture *f, void *arg)
{
    const deed *d = arg;
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    CHECK(d->uid == 0 || (setresgid(d->uid, d->uid, d->uid) == 0 && setresuid(d->uid, d->uid, d->uid) == 0));
    options.socket_path = f->socket;
    options.label = d->label;
    CHECK(goalloc_attach(&options) == 0);
    if (d->root != NULL) {
        void *p = goalloc_malloc(100);

        CHECK(goalloc_root_set(d->root, p) == 0);
        CHECK(goalloc_root_set(d->root, p) == 0);
        CHECK(goalloc_root_set(d->root, NULL) == 0);
        CHECK(goalloc_root_set(d->root, NULL) == -ENOENT); /* nothing happens */
        goalloc_free(p);
    }
    if (d->dies)
        (void)raise(SIGKILL);
    return goalloc_detach();
}

static void expect_end(int fd, const char *label, int cause)
{
    goalloc_event event = await_event(fd);

    CHECK(event.kind == GOALLOC_EVENT_SESSION_END && strcmp(event.label, label) == 0 && event.cause == cause);
    CHECK(event.pid > 0 && event.session > 0 && event.root[0] == '\0' && event.group[0] == '\0');
}

static int listen_to_deeds(const fixture *f, void *arg)
{
    int fd = subscribe_as(f, *(uint32_t *)arg);

    expect_none(fd);
    meet();
    expect_root(fd, GOALLOC_EVENT_ROOT_SET, "a name");
    expect_root(fd, GOALLOC_EVENT_ROOT_SET, "a name");
    expect_root(fd, GOALLOC_EVENT_ROOT_REMOVED, "a name");
    expect_end(fd, "first", GOALLOC_CAUSE_DETACHED);
    expect_end(fd, "second", GOALLOC_CAUSE_DIED);
    expect_none(fd);
    return 0;
}

static void events_are_told_in_their_order(void **state)
{
    fixture *f = *state;
    deed first = { "first", "a name", false, 0 };
    deed second = { "second", NULL, true, 0 };
    uint32_t flags[] = { 0, GOALLOC_ATTACH_READONLY, GOALLOC_ATTACH_RECLAIM };

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        pid_t pid = child_start(f, listen_to_deeds, &flags[i]);

        assert_true(child_stops(pid));
        assert_int_equal(child_run(f, do_deed, &first), 0);
        assert_true(fixture_is_whole(f));
        assert_int_equal(child_run(f, do_deed, &second), 1000 + SIGKILL);
        go_on(pid);
        assert_int_equal(child_wait(pid), 0);
        assert_true(fixture_is_clean(f, 0));
    }
}

/* Root names as long as they can be, of bytes of UTF-8; and an older program's shorter struct. */
static int listen_to_long_names(const fixture *f, void *arg)
{
    int fd = subscribe(f);
    char name[GOALLOC_ROOT_NAME_MAX + 1];
    const size_t half = offsetof(goalloc_event, label);
    goalloc_event event;
    void *p = goalloc_malloc(100);
    int r = 0;

    (void)arg;
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    CHECK(goalloc_root_set(name, p) == 0);
    expect_root(fd, GOALLOC_EVENT_ROOT_SET, name);
    CHECK(goalloc_root_set(name, NULL) == 0);
    CHECK(is_readable(fd, WAIT_MS));
    memset(&event, 'y', sizeof(event));
    event.struct_size = half;
    for (int i = 0; i < 100 && r == 0; i++)
        r = goalloc_next_event(&event);
    CHECK(r == 1 && event.struct_size == half && event.kind == GOALLOC_EVENT_ROOT_REMOVED);
    CHECK(event.label[0] == 'y' && event.root[255] == 'y'); /* beyond the size that was given */
    event.struct_size = 0;
    CHECK(goalloc_next_event(&event) == -EINVAL && goalloc_next_event(NULL) == -EINVAL);
    goalloc_free(p);
    CHECK(goalloc_detach() == 0);
    event.struct_size = half;
    CHECK(goalloc_next_event(&event) == -EBADF && goalloc_event_fd() == -ENOTCONN);
    CHECK(fcntl(fd, F_GETFD) < 0);
    return 0;
}

static void next_event_fills_what_there_is_room_for(void **state)
{
    assert_int_equal(child_run(*state, listen_to_long_names, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* Many events are read by the library at once; the descriptor says that there are more, to poll and to epoll. */
static int take_one_a_wakeup(const fixture *f, void *arg)
{
    int fd = subscribe(f);
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = { .events = EPOLLIN };
    goalloc_event event = { .struct_size = sizeof(event) };
    void *p = goalloc_malloc(100);
    int n = 0;

    (void)arg;
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0);
    for (int i = 0; i < 100; i++)
        CHECK(goalloc_root_set("name", p) == 0);
    while (n < 100) {
        CHECK(epoll_wait(ep, &ev, 1, WAIT_MS) == 1 && is_readable(fd, 0));
        n += goalloc_next_event(&event) == 1;
    }
    CHECK(epoll_wait(ep, &ev, 1, 50) == 0);
    expect_none(fd);
    CHECK(goalloc_root_set("name", NULL) == 0);
    goalloc_free(p);
    return 0;
}

static void descriptor_is_readable_while_there_is_an_event(void **state)
{
    assert_int_equal(child_run(*state, take_one_a_wakeup, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- memory --- */

static int run_out_of_memory(const fixture *f, void *arg)
{
    int fd = subscribe(f);
    void *p[100];
    int n = 0;

    (void)arg;
    while (n < 100 && (p[n] = goalloc_malloc(8 << 20)) != NULL)
        n++;
    CHECK(n < 100);
    expect_kind(fd, GOALLOC_EVENT_MEMORY_SHORT);
    for (int i = 0; i < 1000; i++)
        CHECK(goalloc_malloc(8 << 20) == NULL);
    (void)usleep(10000);
    for (goalloc_event event = { .struct_size = sizeof(event) }; goalloc_next_event(&event) == 1;)
        CHECK(event.kind == GOALLOC_EVENT_MEMORY_SHORT && ++n < 100 + 60); /* one a second */
    while (n-- > 0)
        goalloc_free(n < 100 ? p[n % 100] : NULL);
    return 0;
}

static void memory_that_is_short_is_told_of_now_and_then(void **state)
{
    assert_int_equal(child_run(*state, run_out_of_memory, NULL), 0);
}

/* --- who does not read --- */

#define MANY 20000

static int never_read(const fixture *f, void *arg)
{
    int fd = subscribe(f);
    goalloc_event event;
    int nlost = 0;
    int nroots = 0;
    int last = -1;

    meet();
    while (last != MANY - 1) {
        event = await_event(fd);
        if (event.kind == GOALLOC_EVENT_LOST) {
            nlost++;
            continue;
        }
        if (event.kind != GOALLOC_EVENT_ROOT_SET)
            continue;
        CHECK(atoi(event.root) > last); /* in their order, none twice */
        CHECK(atoi(event.root) == last + 1 || nlost > 0);
        last = atoi(event.root);
        nroots++;
    }
    CHECK(nlost >= 1 && nlost <= 3 && nroots >= KEPT / 2 - 8 && nroots < 500);
    *(int *)arg = nroots;
    return 0;
}

static int set_many(const fixture *f, void *arg)
{
    void *p;
    char name[16];

    (void)arg;
    must_attach(f, 0);
    p = goalloc_malloc(100);
    for (int i = 0; i < MANY; i++) {
        (void)snprintf(name, sizeof(name), "%d", i);
        CHECK(goalloc_root_set(name, p) == 0);
        if (i < MANY - 1)
            CHECK(goalloc_root_set(name, NULL) == 0);
    }
    (void)snprintf(name, sizeof(name), "%d", MANY - 1);
    goalloc_free(p);
    return 0;
}

static uint64_t daemon_rss(const fixture *f)
{
    char path[64];
    char line[256];
    unsigned long long kib = 0;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)f->daemon);
    file = fopen(path, "re");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file) != NULL && sscanf(line, "Anonymous: %llu", &kib) != 1)
        ;
    (void)fclose(file);
    return kib * 1024;
}

static void subscriber_that_never_reads_costs_nothing_more(void **state)
{
    fixture *f = *state;
    int nroots = 0;
    pid_t pid = child_start(f, never_read, &nroots);
    uint64_t before;

    assert_true(child_stops(pid));
    before = daemon_rss(f);
    assert_int_equal(child_run(f, set_many, NULL), 0);
    assert_true(fixture_is_whole(f));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(daemon_rss(f) < before + (4 << 20));
#endif
    (void)before;
    go_on(pid);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- thousands, without the library --- */

typedef struct raw_subscriber {
    int fd; /* of the session */
    int events_fd;
} raw_subscriber;

static Goallocd__Subscribe ticket_of(const Goallocd__AttachReply *attach)
{
    Goallocd__Subscribe ask = GOALLOCD__SUBSCRIBE__INIT;

    ask.session = attach->session;
    ask.epoch = attach->epoch;
    ask.generation = attach->generation;
    ask.token = attach->token;
    return ask;
}

/* A new connection that asks for events. Returns it, or minus the error. */
static int try_subscribe(const fixture *f, const Goallocd__Subscribe *ask)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Reply *reply;
    int fd = raw_connect(f);
    int error;

    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_SUBSCRIBE;
    request.subscribe = (Goallocd__Subscribe *)(uintptr_t)ask;
    reply = raw_call(fd, &request);
    CHECK(reply != NULL);
    error = reply->error;
    goallocd__reply__free_unpacked(reply, NULL);
    if (error != 0)
        (void)close(fd);
    return error != 0 ? -error : fd;
}

static Goallocd__Reply *raw_session(const fixture *f, int *ret_fd)
{
    Goallocd__Attach ask = rawheap_attach_init();
    rawheap raw = { .fd = raw_connect(f) };
    Goallocd__Reply *reply;

    ask.flags = SESSION_READONLY;
    reply = rawheap_ask(&raw, &ask);
    CHECK(reply != NULL && reply->error == 0);
    for (int i = 0; i < ATTACH_NFDS; i++) {
        if (raw.fds[i] >= 0)
            (void)close(raw.fds[i]);
    }
    *ret_fd = raw.fd;
    return reply;
}

#if defined(__SANITIZE_THREAD__)
#define THOUSANDS 500 /* so many at once take the daemon seconds, instrumented and on a machine with other work */
#else
#define THOUSANDS 2000
#endif
#define SETS 1000

static int set_some(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    p = goalloc_malloc(100);
    for (int i = 0; i < SETS; i++)
        CHECK(goalloc_root_set("name", p) == 0);
    CHECK(goalloc_root_set("name", NULL) == 0);
    goalloc_free(p);
    return 0;
}

static int be_thousands(const fixture *f, void *arg)
{
    static raw_subscriber subscribers[THOUSANDS];
    int fd = subscribe(f);
    int nroots = 0;

    (void)arg;
    for (int i = 0; i < THOUSANDS; i++) {
        Goallocd__Reply *reply = raw_session(f, &subscribers[i].fd);
        Goallocd__Subscribe ask = ticket_of(reply->attach);

        subscribers[i].events_fd = try_subscribe(f, &ask);
        CHECK(subscribers[i].events_fd >= 0);
        goallocd__reply__free_unpacked(reply, NULL);
    }
    meet(); /* none of them reads; this process's own one will */
    while (nroots >= 0) {
        goalloc_event event = await_event(fd);

        nroots += event.kind == GOALLOC_EVENT_ROOT_SET;
        if (event.kind == GOALLOC_EVENT_ROOT_REMOVED)
            break;
    }
    CHECK(nroots > 0);
    for (int i = 0; i < THOUSANDS; i++)
        CHECK(is_readable(subscribers[i].events_fd, WAIT_MS));
    return 0;
}

static void thousands_of_subscribers_hold_nobody_up(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start(f, be_thousands, NULL);

    assert_true(child_stops(pid));
    assert_true(fixture_is_whole(f));
    assert_int_equal(child_run(f, set_some, NULL), 0);
    assert_true(fixture_is_whole(f));
    go_on(pid);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- liars --- */

static int lie(const fixture *f, void *arg)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    int fd;
    int other_fd;
    Goallocd__Reply *mine = raw_session(f, &fd);
    Goallocd__Reply *other = raw_session(f, &other_fd);
    Goallocd__Subscribe ask = ticket_of(mine->attach);
    Goallocd__Subscribe bad;
    Goallocd__Reply *reply;
    int first;
    int second;

    (void)arg;
    bad = ask;
    bad.token = other->attach->token;
    CHECK(try_subscribe(f, &bad) == -EACCES);
    bad = ask;
    bad.token.len = 3;
    CHECK(try_subscribe(f, &bad) == -EACCES);
    bad = ask;
    bad.generation ^= 1;
    CHECK(try_subscribe(f, &bad) == -ESTALE);
    bad = ask;
    bad.epoch ^= 1;
    CHECK(try_subscribe(f, &bad) == -ESTALE);
    bad = ask;
    bad.session = UINT32_MAX;
    CHECK(try_subscribe(f, &bad) == -ESTALE);

    /* A session has one connection for events, and that is for nothing else; nor is one that has attached. */
    first = try_subscribe(f, &ask);
    CHECK(first >= 0);
    request.id = 2;
    request.op_case = GOALLOCD__REQUEST__OP_SUBSCRIBE;
    request.subscribe = &ask;
    reply = raw_call(first, &request);
    CHECK(reply != NULL && reply->error == EALREADY);
    goallocd__reply__free_unpacked(reply, NULL);
    reply = raw_call(other_fd, &request);
    CHECK(reply != NULL && reply->error == EALREADY);
    goallocd__reply__free_unpacked(reply, NULL);
    Goallocd__Attach attach = rawheap_attach_init();

    request.op_case = GOALLOCD__REQUEST__OP_ATTACH;
    request.attach = &attach;
    reply = raw_call(first, &request);
    CHECK(reply != NULL && reply->error == EALREADY);
    goallocd__reply__free_unpacked(reply, NULL);
    for (int i = 0; i < 100; i++) {
        second = try_subscribe(f, &ask);
        CHECK(second >= 0 && raw_is_closed(first));
        (void)close(first);
        first = second;
    }
    /* The session ends: so does its connection for events. */
    Goallocd__Detach detach = GOALLOCD__DETACH__INIT;

    request.op_case = GOALLOCD__REQUEST__OP_DETACH;
    request.detach = &detach;
    reply = raw_call(fd, &request);
    CHECK(reply != NULL && reply->error == 0);
    goallocd__reply__free_unpacked(reply, NULL);
    CHECK(raw_is_closed(first));
    CHECK(try_subscribe(f, &ask) == -ESTALE);
    return 0;
}

static void subscription_without_the_right_token_is_refused(void **state)
{
    assert_int_equal(child_run(*state, lie, NULL), 0);
    assert_true(fixture_is_whole(*state));
    assert_true(fixture_is_clean(*state, 0));
}

/* --- other users --- */

#define NOBODY 65534

static int listen_as_nobody(const fixture *f, void *arg)
{
    int fd;

    (void)arg;
    CHECK(setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);
    fd = subscribe(f);
    meet();
    expect_root(fd, GOALLOC_EVENT_ROOT_SET, "of root");
    expect_root(fd, GOALLOC_EVENT_ROOT_SET, "of root");
    expect_root(fd, GOALLOC_EVENT_ROOT_REMOVED, "of root");
    expect_end(fd, "of nobody", GOALLOC_CAUSE_DIED); /* but not that of root, which was before */
    expect_none(fd);
    return 0;
}

static int listen_as_root(const fixture *f, void *arg)
{
    int fd = subscribe(f);

    (void)arg;
    meet();
    for (int i = 0; i < 3; i++)
        CHECK(await_event(fd).root[0] == 'o');
    expect_end(fd, "of root", GOALLOC_CAUSE_DETACHED);
    expect_end(fd, "of nobody", GOALLOC_CAUSE_DIED);
    return 0;
}

static void sessions_of_other_users_are_told_of_to_root_alone(void **state)
{
    fixture *f = *state;
    deed of_root = { "of root", "of root", false, 0 };
    deed of_nobody = { "of nobody", NULL, true, NOBODY };
    pid_t pids[2];

    if (geteuid() != 0)
        skip();
    assert_int_equal(chmod(f->dir, 0711), 0);
    assert_int_equal(chmod(f->socket, 0666), 0);
    pids[0] = child_start(f, listen_as_nobody, NULL);
    pids[1] = child_start(f, listen_as_root, NULL);
    assert_true(child_stops(pids[0]));
    assert_true(child_stops(pids[1]));
    assert_int_equal(child_run(f, do_deed, &of_root), 0);
    assert_int_equal(child_run(f, do_deed, &of_nobody), 1000 + SIGKILL);
    go_on(pids[0]);
    assert_int_equal(child_wait(pids[0]), 0);
    go_on(pids[1]);
    assert_int_equal(child_wait(pids[1]), 0);
}

/* --- daemons that go --- */

static int listen_over_a_kill(const fixture *f, void *arg)
{
    int fd = subscribe(f);
    goalloc_event event = { .struct_size = sizeof(event) };
    int nlooks = 0;

    (void)arg;
    meet();
    /* Nobody serves: each look is woken, and says so. */
    while (nlooks < 5) {
        CHECK(is_readable(fd, WAIT_MS));
        CHECK(goalloc_next_event(&event) == -ETIMEDOUT);
        nlooks++;
        CHECK(goalloc_next_event(&event) == -ETIMEDOUT && !is_readable(fd, 1)); /* it does not spin */
    }
    CHECK(goalloc_is_current());
    meet();
    expect_kind(fd, GOALLOC_EVENT_LOST);
    CHECK(goalloc_event_fd() == fd);
    expect_none(fd);
    meet();
    expect_root(fd, GOALLOC_EVENT_ROOT_SET, "later");
    expect_root(fd, GOALLOC_EVENT_ROOT_SET, "later");
    expect_root(fd, GOALLOC_EVENT_ROOT_REMOVED, "later");
    return 0;
}

static void subscription_goes_on_after_a_takeover(void **state)
{
    fixture *f = *state;
    deed later = { "later", "later", false, 0 };

    for (int i = 0; i < 3; i++) {
        pid_t pid = child_start(f, listen_over_a_kill, NULL);

        assert_true(child_stops(pid));
        fixture_kill(f);
        go_on(pid);
        assert_true(child_stops(pid));
        fixture_restart(f, NULL);
        go_on(pid);
        assert_true(child_stops(pid));
        assert_int_equal(child_run(f, do_deed, &later), 0);
        go_on(pid);
        assert_int_equal(child_wait(pid), 0);
    }
    assert_true(fixture_is_clean(f, 0));
}

static int listen_to_the_end(const fixture *f, void *arg)
{
    int fd = subscribe(f);
    goalloc_event event = { .struct_size = sizeof(event) };

    (void)arg;
    meet();
    expect_kind(fd, GOALLOC_EVENT_HEAP_GONE);
    CHECK(!goalloc_is_current());
    for (int i = 0; i < 3; i++)
        CHECK(goalloc_next_event(&event) == -ESTALE && !is_readable(fd, 150));
    CHECK(goalloc_detach() == 0);
    meet();
    fd = subscribe(f);
    expect_none(fd);
    return 0;
}

static void heap_that_is_gone_is_the_last_event(void **state)
{
    fixture *f = *state;

    for (int i = 0; i < 3; i++) {
        pid_t pid = child_start(f, listen_to_the_end, NULL);

        assert_true(child_stops(pid));
        if (i == 0) {
            (void)kill(f->daemon, SIGTERM); /* drops */
            assert_int_equal(child_wait(f->daemon), 0);
            go_on(pid);
            assert_true(child_stops(pid));
            fixture_restart(f, NULL);
        } else {
            fixture_kill(f);
            if (i == 1) { /* the new daemon marks the old heap; else it has been told while nobody was there */
                fixture_restart(f, "--cold-start");
                go_on(pid);
            } else {
                go_on(pid);
                (void)usleep(300000);
                fixture_restart(f, "--cold-start");
            }
            assert_true(child_stops(pid));
        }
        go_on(pid);
        assert_int_equal(child_wait(pid), 0);
    }
    assert_true(fixture_is_clean(f, 0));
}

/* The heap ends with its daemon, and nobody could mark it: the next daemon's answer says so. */
static void heap_that_dies_with_its_daemon_is_gone(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start(f, listen_to_the_end, NULL);

    assert_true(child_stops(pid));
    fixture_kill(f);
    go_on(pid);
    (void)usleep(200000);
    fixture_restart(f, NULL);
    assert_true(child_stops(pid));
    go_on(pid);
    assert_int_equal(child_wait(pid), 0);
}

/* --- forks, threads, programs that close descriptors --- */

static int fork_and_listen(const fixture *f, void *arg)
{
    int fd = subscribe(f);
    goalloc_event event = { .struct_size = sizeof(event) };
    void *p = goalloc_malloc(100);
    int status = -1;
    pid_t pid = fork();

    (void)arg;
    if (pid == 0) {
        CHECK(goalloc_next_event(&event) == -EBADF && fcntl(fd, F_GETFD) < 0);
        fd = goalloc_event_fd();
        CHECK(fd >= 0);
        expect_none(fd);
        CHECK(goalloc_root_set("child", p) == 0);
        expect_root(fd, GOALLOC_EVENT_ROOT_SET, "child");
        CHECK(goalloc_detach() == 0);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    expect_root(fd, GOALLOC_EVENT_ROOT_SET, "child");
    expect_kind(fd, GOALLOC_EVENT_SESSION_END);
    CHECK(goalloc_root_set("child", NULL) == 0);
    expect_root(fd, GOALLOC_EVENT_ROOT_REMOVED, "child");
    goalloc_free(p);
    return 0;
}

static void forked_child_has_no_subscription(void **state)
{
    assert_int_equal(child_run(*state, fork_and_listen, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* What the program opens in the place of the descriptors that it has closed is left alone. */
static int close_all(const fixture *f, void *arg)
{
    int fd = subscribe(f);
    goalloc_event event = { .struct_size = sizeof(event) };
    int mine[3];
    void *p = goalloc_malloc(100);

    (void)arg;
    for (int i = 3; i < 4096; i++)
        (void)close(i);
    for (int i = 0; i < 3; i++) {
        mine[i] = dup2(i == 0 ? epoll_create1(0) : STDERR_FILENO, fd + i);
        CHECK(mine[i] == fd + i);
    }
    CHECK(goalloc_next_event(&event) == -EBADF && goalloc_next_event(&event) == -EBADF);
    fd = goalloc_event_fd();
    CHECK(fd >= 0 && fd != mine[0]);
    CHECK(goalloc_root_set("name", p) == 0);
    expect_root(fd, GOALLOC_EVENT_ROOT_SET, "name");
    CHECK(goalloc_root_set("name", NULL) == 0);
    goalloc_free(p);
    CHECK(goalloc_detach() == 0);
    for (int i = 0; i < 3; i++)
        CHECK(fcntl(mine[i], F_GETFD) >= 0);
    return 0;
}

static void descriptors_of_the_program_are_left_alone(void **state)
{
    assert_int_equal(child_run(*state, close_all, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

#define THREADS      4
#define THREADS_SETS 200

static _Atomic int ntaken;

static void *take_events(void *arg)
{
    const int *fd = arg;
    goalloc_event event = { .struct_size = sizeof(event) };

    while (atomic_load(&ntaken) < THREADS_SETS) {
        (void)is_readable(*fd, 10);
        if (goalloc_next_event(&event) == 1)
            (void)atomic_fetch_add(&ntaken, 1);
    }
    return NULL;
}

static int share_events(const fixture *f, void *arg)
{
    int fd = subscribe(f);
    pthread_t threads[THREADS];
    void *p = goalloc_malloc(100);

    (void)arg;
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, take_events, &fd) == 0);
    for (int i = 0; i < THREADS_SETS; i++)
        CHECK(goalloc_root_set("name", p) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(atomic_load(&ntaken) == THREADS_SETS);
    expect_none(fd);
    CHECK(goalloc_root_set("name", NULL) == 0);
    goalloc_free(p);
    return 0;
}

static void each_event_goes_to_one_thread(void **state)
{
    assert_int_equal(child_run(*state, share_events, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- groups --- */

/* A session of that uid and group begins and ends. */
typedef struct visit {
    uint32_t uid;
    const char *group;
    const char *label;
} visit;

static int pay_visit(const fixture *f, void *arg)
{
    const visit *v = arg;
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    CHECK(setresgid(v->uid, v->uid, v->uid) == 0 && setresuid(v->uid, v->uid, v->uid) == 0);
    options.socket_path = f->socket;
    options.group = v->group;
    options.label = v->label;
    CHECK(goalloc_attach(&options) == 0 && goalloc_detach() == 0);
    return 0;
}

static void listen_to_family(void)
{
    goalloc_event event;
    int fd;

    CHECK(setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);
    CHECK(goalloc_malloc(1) != NULL); /* it attaches, to its parent's group */
    fd = goalloc_event_fd();
    CHECK(fd >= 0);
    meet();
    event = await_event(fd);
    CHECK(event.kind == GOALLOC_EVENT_SESSION_END && strcmp(event.label, "member") == 0);
    CHECK(strcmp(event.group, "family") == 0);
    expect_none(fd);
}

/* A member of the group, whose child is another user. */
static int have_child_listen(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    pid_t child;
    int status;

    (void)arg;
    options.socket_path = f->socket;
    options.group = "family";
    CHECK(goalloc_attach(&options) == 0);
    child = fork();
    if (child == 0) {
        listen_to_family();
        _exit(EXIT_SUCCESS);
    }
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    meet();
    go_on(child);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    return 0;
}

static void sessions_of_a_group_are_told_of_to_its_members(void **state)
{
    fixture *f = *state;
    visit visits[] = { { 0, NULL, "no member" },
                       { 1, "family", "of another user's family" },
                       { 0, "others", "of another group" },
                       { 0, "family", "member" } };
    pid_t pid;

    if (geteuid() != 0)
        skip();
    assert_int_equal(chmod(f->dir, 0711), 0);
    assert_int_equal(chmod(f->socket, 0666), 0);
    pid = child_start(f, have_child_listen, NULL);
    assert_true(child_stops(pid));
    for (size_t i = 0; i < sizeof(visits) / sizeof(visits[0]); i++)
        assert_int_equal(child_run(f, pay_visit, &visits[i]), 0);
    go_on(pid);
    assert_int_equal(child_wait(pid), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(events_are_told_in_their_order),
        FIXTURE_TEST(next_event_fills_what_there_is_room_for),
        FIXTURE_TEST(descriptor_is_readable_while_there_is_an_event),
        FIXTURE_TEST_WITH(memory_that_is_short_is_told_of_now_and_then, "--reserve", "64M"),
        FIXTURE_TEST(subscriber_that_never_reads_costs_nothing_more),
        FIXTURE_TEST(thousands_of_subscribers_hold_nobody_up),
        FIXTURE_TEST(subscription_without_the_right_token_is_refused),
        FIXTURE_TEST(sessions_of_other_users_are_told_of_to_root_alone),
        FIXTURE_TEST(sessions_of_a_group_are_told_of_to_its_members),
        FIXTURE_TEST_KEPT(subscription_goes_on_after_a_takeover),
        FIXTURE_TEST_KEPT(heap_that_is_gone_is_the_last_event),
        FIXTURE_TEST(heap_that_dies_with_its_daemon_is_gone),
        FIXTURE_TEST(forked_child_has_no_subscription),
        FIXTURE_TEST(descriptors_of_the_program_are_left_alone),
        FIXTURE_TEST(each_event_goes_to_one_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
