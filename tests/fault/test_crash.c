/*
 * Every named point at which a process can die between two stores (shm/crash.h): a worker that dies there, a daemon
 * that dies there and is replaced, a takeover that dies there and is begun again. Each point must be reached. After
 * it, what had been told to others is whole, the daemon's tables agree, and what is lost is at most one object for
 * each thread of the dead process.
 *
 * The workload holds what it allocates in a table in the shared heap, so that others can find it: an entry is set right
 * after an object is made, and cleared right after it is freed. A process that dies in between leaves at most one
 * object that no entry names, or one entry whose object is gone.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "proto/channel.h"
#include "shm/limits.h"
#include "tests/support/attach.h"
#include "tests/support/points.h"

#define ENTRIES   3000
#define THREADS 2
#define NOFFERED 40 /* objects that have a span each: more than a thread retains for itself */

typedef struct object {
    uint64_t size;
    uint64_t check;
} object;

/* In the shared heap. */
typedef struct table {
    void *_Atomic objects[ENTRIES];
    void *_Atomic tiny[ENTRIES];
    void *_Atomic large[16];
} table;

static table *the_table(void)
{
    void *p;

    CHECK(goalloc_root_get("table", &p) == 0);
    return p;
}

static int make_table(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    p = goalloc_calloc(1, sizeof(table));
    CHECK(p != NULL && goalloc_root_set("table", p) == 0);
    return 0;
}

static void put(void *_Atomic *entry, size_t size, bool noscan)
{
    object *o = noscan ? goalloc_malloc_noscan(size) : goalloc_malloc(size);

    CHECK(o != NULL);
    if (size >= sizeof(*o))
        *o = (object){ size, (uintptr_t)o ^ size };
    else
        memset(o, 0x5a, size);
    *entry = o;
}

static void check_object(const object *o)
{
    size_t size = goalloc_usable_size(o);

    if (size >= sizeof(*o))
        CHECK(o->check == ((uintptr_t)o ^ o->size) && o->size <= size);
    else
        CHECK(*(const unsigned char *)o == 0x5a);
}

static void take(void *_Atomic *entry)
{
    object *o = *entry;

    if (o == NULL)
        return;
    check_object(o);
    CHECK(goalloc_free_checked(o) == 0);
    *entry = NULL;
}

/* The other thread frees a part of what the first has made: remote frees, to be folded. */
static void *free_some(void *data)
{
    table *t = data;

    for (int i = 0; i < ENTRIES; i += 3) {
        take(&t->objects[i]);
        take(&t->tiny[i]);
    }
    for (int i = 0; i < 16; i += 3)
        take(&t->large[i]);
    return NULL;
}

static void join_free_some(table *t)
{
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, free_some, t) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static object *resized(object *o, size_t size)
{
    o = goalloc_realloc(o, size);
    CHECK(o != NULL);
    *o = (object){ size, (uintptr_t)o ^ size };
    return o;
}

/*
 * A large object becomes shorter, and longer again by the pages that it has just given up; again, if the daemon was
 * busy with these and it had to move.
 */
static void resize_large(table *t)
{
    object *o = t->large[1];
    uintptr_t before = 0;

    if (o == NULL)
        return;
    t->large[1] = NULL;
    for (int i = 0; i < 20 && before != (uintptr_t)o; i++) {
        o = resized(resized(o, 2000000), 1000000);
        before = (uintptr_t)o;
        o = resized(o, 1500000);
    }
    t->large[1] = resized(o, 50000);
}

/* Everything that changes shared state. A program of its own, so that its environment can name a point. */
/* Attach; the daemon may be dying and being replaced just now. */
static void attach_patiently(const char *socket, uint32_t flags, const char *group)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    int r = -1;

    options.socket_path = socket;
    options.flags = flags;
    options.group = group;
    for (int i = 0; i < 2000 && r != 0; i++) {
        r = goalloc_attach(&options);
        if (r != 0)
            (void)usleep(5000);
    }
    CHECK(r == 0);
}

/* Ask the daemon for a trim, in which it takes what is offered. It may be dying just now. */
static void ask_trim(const char *socket)
{
    Goallocd__Trim body = GOALLOCD__TRIM__INIT;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    channel ch;

    request.op_case = GOALLOCD__REQUEST__OP_TRIM;
    request.trim = &body;
    request.id = 1;
    if (channel_connect(&ch, socket, deadline_in(1000)) < 0)
        return;
    goallocd__reply__free_unpacked(raw_call(ch.fd, &request), NULL);
    (void)close(ch.fd);
}

/* Empty spans are offered, some are taken back, and the daemon takes the rest. */
static void offer_some(table *t, const char *socket)
{
    for (int twice = 0; twice < 2; twice++) {
        for (int i = 0; i < NOFFERED; i++) {
            take(&t->objects[i]);
            put(&t->objects[i], 8000, false);
        }
        for (int i = 0; i < NOFFERED; i++)
            take(&t->objects[i]);
    }
    ask_trim(socket);
}

/* Some are linked, and come out again. A link of an object that is not published takes more: work_reclaim(). */
static void link_some(table *t)
{
    for (int i = 0; i < 20; i++) {
        void **slot = (void **)(void *)&t->objects[i];
        object *o = goalloc_malloc(sizeof(*o) + (size_t)i * 8);

        CHECK(o != NULL);
        take(&t->objects[i]);
        *o = (object){ sizeof(*o) + (size_t)i * 8, (uintptr_t)o ^ (sizeof(*o) + (size_t)i * 8) };
        CHECK(goalloc_link(slot, o) == 0);
        if (i % 2)
            CHECK(goalloc_unlink_free(slot, NULL) == 0);
    }
}

static int fill_root(void *p, size_t size, void *arg)
{
    (void)arg;
    memset(p, 0x5a, size);
    return 0;
}

/* A root is made, replaced, removed, and another one takes its entry. What a process leaves that dies here: a root. */
static void change_roots(void)
{
    void *p;
    void *q = goalloc_malloc(100);

    CHECK(q != NULL);
    CHECK(goalloc_root_get_or_create("made", 100, 1, fill_root, NULL, &p, NULL) == 0);
    CHECK(*(unsigned char *)p == 0x5a);
    CHECK(goalloc_root_compare_and_set("made", p, q) == 0);
    goalloc_free(p);
    CHECK(goalloc_root_compare_and_set("made", q, NULL) == 0);
    CHECK(goalloc_root_set("another", q) == 0 && goalloc_root_set("another", NULL) == 0);
    goalloc_free(q);
}

static int work_default(const char *socket)
{
    table *t;

    attach_patiently(socket, 0, NULL);
    CHECK(goalloc_set_label("work") == 0);
    t = the_table();
    for (int i = 0; i < 16; i++) /* of another process */
        take(&t->large[i]);
    goalloc_free(goalloc_malloc((size_t)160 << 20)); /* so much that memory is prepared ahead */
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < ENTRIES; i++) {
            if (t->objects[i] == NULL)
                put(&t->objects[i], sizeof(object) + (size_t)(i % 40) * 24, i % 2);
            if (t->tiny[i] == NULL)
                put(&t->tiny[i], 1 + (size_t)i % 15, true);
        }
        for (int i = 0; i < 16; i++) {
            if (t->large[i] == NULL)
                put(&t->large[i], 40000 + (size_t)i * 5000, false);
        }
        resize_large(t);
        join_free_some(t);
        offer_some(t, socket);
        link_some(t);
        for (int i = 0; i < ENTRIES; i += 3) { /* from the places that the other thread has freed */
            if (t->objects[i] == NULL)
                put(&t->objects[i], sizeof(object) + (size_t)(i % 40) * 24, i % 2);
            if (t->tiny[i] == NULL)
                put(&t->tiny[i], 1 + (size_t)i % 15, true);
        }
        for (int i = 1; i < ENTRIES; i += 4) {
            take(&t->objects[i]);
            take(&t->tiny[i]);
        }
        for (int i = 1; i < 16; i += 4)
            take(&t->large[i]);
        for (int i = 2; i < ENTRIES; i += 5) { /* objects that come and go */
            take(&t->objects[i]);
            put(&t->objects[i], sizeof(object) + (size_t)(i % 40) * 24, i % 2);
        }
        CHECK(goalloc_root_set(round % 2 ? "odd" : "even", t) == 0);
        change_roots();
        CHECK(goalloc_trim() == 0);
        take(&t->objects[0]);
        put(&t->objects[0], 64, false);
        join_free_some(t); /* of spans that nobody leases */
    }
    return 0;
}

/* A session that reclaims: its objects go with it, but for the published ones, and so do those that it adopted. */
static int work_reclaim(const char *socket)
{
    table *t;
    void *mine[300];

    attach_patiently(socket, GOALLOC_ATTACH_RECLAIM, NULL);
    t = the_table();
    change_roots();
    for (int i = 0; i < 300; i++) {
        CHECK((mine[i] = goalloc_malloc(sizeof(object) + (size_t)i)) != NULL);
        *(object *)mine[i] = (object){ sizeof(object) + (size_t)i, (uintptr_t)mine[i] ^ (sizeof(object) + (size_t)i) };
    }
    for (int i = 0; i < 30; i++) {
        if (t->objects[i] != NULL)
            continue;
        t->objects[i] = mine[i];
        CHECK(goalloc_publish(mine[i]) == 0);
    }
    for (int i = 30; i < 100; i++)
        goalloc_free(mine[i]);
    link_some(t);
    CHECK(goalloc_publish_graph(mine[250], NULL) == 0);
    goalloc_free(mine[250]);
    for (int i = 100; i < 120; i++) /* of others */
        CHECK(t->objects[i] == NULL || goalloc_adopt(t->objects[i]) == 0);
    for (int i = 110; i < 120; i++)
        CHECK(t->objects[i] == NULL || goalloc_publish(t->objects[i]) == 0);
    return 0;
}

/* Objects of the group, of which some are published, freed, or adopted from others. */
static void work_in_group(table *t, int from)
{
    void *mine[200];

    for (int i = 0; i < 200; i++) {
        size_t size = sizeof(object) + (size_t)i * 50;

        CHECK((mine[i] = goalloc_malloc(size)) != NULL);
        *(object *)mine[i] = (object){ size, (uintptr_t)mine[i] ^ size };
    }
    for (int i = 0; i < 10; i++) {
        if (t->objects[from + i] != NULL)
            continue;
        t->objects[from + i] = mine[i];
        CHECK(goalloc_publish(mine[i]) == 0);
    }
    for (int i = 10; i < 50; i++)
        goalloc_free(mine[i]);
    for (int i = 0; i < 5; i++)
        CHECK(t->objects[from + 20 + i] == NULL || goalloc_adopt(t->objects[from + 20 + i]) == 0);
}

/* Members that end one after the other: the first ones leave spans to the group, the last one ends it. Twice. */
static int work_group(const char *socket)
{
    for (int round = 0; round < 2; round++) {
        pid_t pids[3];

        for (int i = 0; i < 3; i++) {
            pids[i] = fork();
            CHECK(pids[i] >= 0);
            if (pids[i] != 0)
                continue;
            attach_patiently(socket, GOALLOC_ATTACH_RECLAIM, "group");
            work_in_group(the_table(), 300 * (2 * i + round));
            (void)usleep(20000u * (unsigned)i); /* in most runs they end in this order; any other is as good */
            _exit(0);
        }
        for (int i = 0; i < 3; i++)
            CHECK(child_wait(pids[i]) == 0);
    }
    return 0;
}

/* A large object of this process that another process frees: the daemon ends its lease. */
static void have_a_run_freed(void)
{
    void *_Atomic entry = NULL;
    pid_t pid;

    put(&entry, SHM_RUN_BYTES_MAX + 1, false);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        goalloc_free(goalloc_malloc(8)); /* with a session, it tells the daemon of the run */
        goalloc_free(entry);
        _exit(0);
    }
    CHECK(child_wait(pid) == 0);
}

static int work_both(const char *socket)
{
    int status = work_default(socket);

    if (status == 0)
        have_a_run_freed();
    if (status == 0)
        status = goalloc_detach() == 0 ? 0 : 1;
    return status == 0 ? work_reclaim(socket) : status;
}

/* Hold leases over a takeover, and go on afterwards. */
static int hold(const fixture *f, void *arg)
{
    table *t;

    (void)arg;
    must_attach(f, 0);
    t = the_table();
    for (int i = 0; i < 16; i++)
        take(&t->large[i]);
    put(&t->large[0], 100000, false);
    (void)raise(SIGSTOP);
    put(&t->large[2], 100000, false);
    CHECK(goalloc_trim() == 0);
    return 0;
}

/* What a process has left of change_roots(). */
static void clean_roots(void)
{
    static const char *const names[] = { "made", "another" };
    void *p;

    for (size_t i = 0; i < 2; i++) {
        if (goalloc_root_get(names[i], &p) < 0)
            continue;
        CHECK(goalloc_root_set(names[i], NULL) == 0);
        goalloc_free(p);
    }
}

/* Free all that the table names. Exit status: entries whose objects were gone. */
static int clean_up(const fixture *f, void *arg)
{
    table *t;
    int ngone = 0;

    (void)arg;
    must_attach(f, 0);
    t = the_table();
    for (int i = 0; i < 2 * ENTRIES + 16; i++) {
        void *_Atomic *entry = i < ENTRIES       ? &t->objects[i]
                              : i < 2 * ENTRIES ? &t->tiny[i - ENTRIES]
                                              : &t->large[i - 2 * ENTRIES];
        void *p = *entry;

        if (p == NULL)
            continue;
        if (goalloc_usable_size(p) == 0) {
            ngone++;
            continue;
        }
        check_object(p);
        CHECK(goalloc_free_checked(p) == 0);
    }
    goalloc_free(t);
    clean_roots();
    for (int i = 0; i < 3; i++)
        CHECK(goalloc_root_set(i == 0 ? "table" : i == 1 ? "odd" : "even", NULL) <= 0);
    return ngone;
}

/* Wait until no session is left; then there are between 0 and most objects. */
static uint64_t objects_left(const fixture *f)
{
    goalloc_stats_t stats = { .sessions = 1 };

    for (int i = 0; i < 1000; i++) {
        fixture_stats(f, &stats);
        if (stats.sessions == 0 && stats.leased_spans == 0)
            break;
        (void)usleep(5000);
    }
    assert_int_equal(stats.sessions + stats.leased_spans, 0);
    return stats.live_objects;
}

static int run_work(const fixture *f, const char *mode, const char *crash)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        if (crash != NULL)
            (void)setenv("GOALLOC_CRASH", crash, 1);
        (void)execl("/proc/self/exe", "test_crash", mode, f->socket, (char *)NULL);
        _exit(127);
    }
    return child_wait(pid);
}

/* After a crash: everything that the table names is whole, and nothing else but what may be lost is there. */
static void settle(const fixture *f, const char *name, int most_gone, uint64_t most_lost)
{
    int ngone;
    uint64_t nlost;

    (void)objects_left(f);
    assert_true(fixture_is_whole(f));
    ngone = child_run(f, clean_up, NULL);
    nlost = objects_left(f);
    if (ngone > most_gone || nlost > most_lost)
        fail_msg("%s: %d entries without their objects, %llu objects lost", name, ngone, (unsigned long long)nlost);
    assert_true(fixture_is_whole(f));
}

/* --- workers --- */

static void worker_dies(const char *name, const char *mode, unsigned nth)
{
    fixture f;
    char crash[80];

    (void)snprintf(crash, sizeof(crash), "%s:%u", name, nth);
    fixture_start(&f, NULL);
    assert_int_equal(child_run(&f, make_table, NULL), 0);
    assert_int_equal(run_work(&f, "default", NULL), 0); /* objects of another process, to be freed and adopted */
    if (run_work(&f, mode, crash) != 1000 + SIGKILL)
        fail_msg("no worker comes by %s for the %uth time", name, nth);
    /* Objects that a session adopted before it died go with it, so their entries are empty then. */
    settle(&f, name, strcmp(mode, "reclaim") == 0 ? 20 : THREADS, THREADS);
    assert_true(fixture_stop(&f));
}

static void worker_may_die_at_every_point(void **state)
{
    const char *name;

    (void)state;
    for (size_t at = 0; (name = points_next('c', &at)) != NULL;)
        worker_dies(name, "default", 1);
    for (size_t at = 0; (name = points_next('r', &at)) != NULL;)
        worker_dies(name, "reclaim", 1);
}

static void worker_may_die_at_every_point_later(void **state)
{
    const char *name;

    (void)state;
    for (size_t at = 0; (name = points_next('c', &at)) != NULL;)
        worker_dies(name, "default", 2);
}

/* --- daemons --- */

/* Let the workload run while the daemon is killed at the point, and replaced. */
static void daemon_dies(const char *name, const char *mode, unsigned nth)
{
    fixture f;
    char crash[80];
    pid_t pid;
    int status;
    bool died = false;

    (void)snprintf(crash, sizeof(crash), "%s:%u", name, nth);
    fixture_start_kept(&f, NULL);
    assert_int_equal(child_run(&f, make_table, NULL), 0);
    if (strcmp(mode, "group") == 0)
        assert_int_equal(run_work(&f, "default", NULL), 0); /* objects of others, to be adopted */
    fixture_kill(&f);
    f.crash = crash;
    fixture_launch(&f);
    f.crash = NULL;
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)execl("/proc/self/exe", "test_crash", mode, f.socket, (char *)NULL);
        _exit(127);
    }
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (!died && waitpid(f.daemon, NULL, WNOHANG) == f.daemon) {
            died = true;
            fixture_restart(&f, NULL);
        }
        (void)usleep(1000);
    }
    if (!died && waitpid(f.daemon, NULL, WNOHANG) == f.daemon) {
        died = true;
        fixture_restart(&f, NULL);
    }
    for (int i = 0; i < 400 && !died; i++, usleep(5000)) { /* what it does after the last worker has gone */
        if (waitpid(f.daemon, NULL, WNOHANG) == f.daemon) {
            died = true;
            fixture_restart(&f, NULL);
        }
    }
    if (!died)
        fail_msg("no daemon comes by %s for the %uth time", name, nth);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("%s: the worker ended with status 0x%x", name, (unsigned)status);
    settle(&f, name, strcmp(mode, "group") == 0 ? 30 : 20, 0);
    assert_true(fixture_stop(&f));
}

static void daemon_may_die_at_every_point(void **state)
{
    const char *name;

    (void)state;
    for (size_t at = 0; (name = points_next('d', &at)) != NULL;)
        daemon_dies(name, "both", 1);
    for (size_t at = 0; (name = points_next('g', &at)) != NULL;)
        daemon_dies(name, "group", 1);
}

/* In the sequences of every session, but when the owner is a group. */
static void daemon_of_a_group_may_die_at_every_point_of_its_end(void **state)
{
    static const char *const names[] = { "lease_after_owner",  "lease_after_word",   "lease_end_after_unlink",
                                         "reclaim_after_fold", "reclaim_after_bits", "put_after_word",
                                         "session_end_half",   "adopt_after_entry",  "adopt_remove_after_entry" };

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        daemon_dies(names[i], "group", 3);
}

/* --- takeovers --- */

static void takeover_dies(const char *name)
{
    fixture f;
    pid_t pid;
    int status;

    fixture_start_kept(&f, NULL);
    assert_int_equal(child_run(&f, make_table, NULL), 0);
    assert_int_equal(run_work(&f, "default", NULL), 0);
    pid = child_start(&f, hold, NULL); /* a session to be taken over */
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    fixture_kill(&f);
    for (int i = 0; i < 2; i++) { /* twice in a row */
        f.crash = name;
        fixture_launch(&f);
        if (child_wait(f.daemon) != 1000 + SIGKILL)
            fail_msg("no takeover comes by %s", name);
    }
    f.crash = NULL;
    fixture_restart(&f, NULL);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    settle(&f, name, 0, 0);
    assert_true(fixture_stop(&f));
}

static void takeover_may_die_twice_at_every_point(void **state)
{
    const char *name;

    (void)state;
    for (size_t at = 0; (name = points_next('t', &at)) != NULL;)
        takeover_dies(name);
}

/* --- settling --- */

/* A worker dies at its point, and the daemon at its own while it settles what that has left half done. */
static void settle_dies(const char *name)
{
    bool links = strcmp(name, "settle_after_unpublish") == 0;
    fixture f;

    fixture_start_kept(&f, NULL);
    assert_int_equal(child_run(&f, make_table, NULL), 0);
    fixture_kill(&f);
    f.crash = name;
    fixture_launch(&f);
    f.crash = NULL;
    assert_int_equal(
        run_work(&f, links ? "reclaim" : "default", links ? "link_after_publish:3" : "unlink_after_slot:3"),
        1000 + SIGKILL);
    if (child_wait(f.daemon) != 1000 + SIGKILL)
        fail_msg("no daemon comes by %s", name);
    fixture_restart(&f, NULL);
    settle(&f, name, 0, links ? 0 : THREADS);
    assert_true(fixture_stop(&f));
}

static void daemon_may_die_while_it_settles(void **state)
{
    const char *name;

    (void)state;
    for (size_t at = 0; (name = points_next('e', &at)) != NULL;)
        settle_dies(name);
}

/* --- coming back --- */

static void return_dies(const char *name)
{
    fixture f;
    pid_t pid;
    int status;

    fixture_start_kept(&f, NULL);
    assert_int_equal(child_run(&f, make_table, NULL), 0);
    assert_int_equal(run_work(&f, "default", NULL), 0);
    pid = child_start(&f, hold, NULL);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    fixture_kill(&f);
    f.crash = name;
    fixture_launch(&f);
    f.crash = NULL;
    (void)kill(pid, SIGCONT);
    if (child_wait(f.daemon) != 1000 + SIGKILL)
        fail_msg("no daemon comes by %s", name);
    fixture_restart(&f, NULL);
    assert_int_equal(child_wait(pid), 0);
    settle(&f, name, 0, 0);
    assert_true(fixture_stop(&f));
}

static void daemon_may_die_while_a_worker_comes_back(void **state)
{
    const char *name;

    (void)state;
    for (size_t at = 0; (name = points_next('b', &at)) != NULL;)
        return_dies(name);
}

/* --- a heap that is dropped --- */

static int told_by_the_word(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_READONLY);
    (void)raise(SIGSTOP);
    CHECK(goalloc_is_current() == 0);
    CHECK(goalloc_root_get("table", &p) == -ESTALE);
    return 0;
}

/* It dies after the word: who has the heap mapped knows, and the next daemon finishes, though the keeper is there. */
static void drop_dies(const char *name, bool cold_start)
{
    fixture f;
    goalloc_stats_t stats;
    pid_t pid;
    int status;

    fixture_start_kept(&f, NULL);
    assert_int_equal(child_run(&f, make_table, NULL), 0);
    pid = child_start(&f, told_by_the_word, NULL);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    fixture_kill(&f);
    f.crash = name;
    if (cold_start) {
        f.options = (const char *const[]){ "--cold-start", NULL };
        fixture_launch(&f);
    } else {
        fixture_restart(&f, NULL);
        (void)kill(f.daemon, SIGTERM);
    }
    if (child_wait(f.daemon) != 1000 + SIGKILL)
        fail_msg("nobody who drops the heap comes by %s", name);
    f.crash = NULL;
    f.options = NULL;
    fixture_restart(&f, NULL);
    assert_true(fixture_log_has(&f, "the heap that was left behind was dropped"));
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    fixture_stats(&f, &stats);
    assert_int_equal(stats.live_objects + stats.roots, 0);
    fixture_kill(&f); /* the new heap has its own keeper */
    fixture_restart(&f, NULL);
    assert_true(fixture_stop(&f));
}

static void daemon_may_die_while_it_drops_the_heap(void **state)
{
    const char *name;

    (void)state;
    for (size_t at = 0; (name = points_next('s', &at)) != NULL;)
        drop_dies(name, false);
    for (size_t at = 0; (name = points_next('l', &at)) != NULL;)
        drop_dies(name, true);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(worker_may_die_at_every_point),
        cmocka_unit_test(worker_may_die_at_every_point_later),
        cmocka_unit_test(daemon_may_die_at_every_point),
        cmocka_unit_test(daemon_of_a_group_may_die_at_every_point_of_its_end),
        cmocka_unit_test(takeover_may_die_twice_at_every_point),
        cmocka_unit_test(daemon_may_die_while_it_settles),
        cmocka_unit_test(daemon_may_die_while_a_worker_comes_back),
        cmocka_unit_test(daemon_may_die_while_it_drops_the_heap),
    };

    if (argc == 3 && strcmp(argv[1], "default") == 0)
        return work_default(argv[2]);
    if (argc == 3 && strcmp(argv[1], "reclaim") == 0)
        return work_reclaim(argv[2]);
    if (argc == 3 && strcmp(argv[1], "group") == 0)
        return work_group(argv[2]);
    if (argc == 3 && strcmp(argv[1], "both") == 0)
        return work_both(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
