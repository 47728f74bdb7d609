/*
 * Versions: daemons and libraries of two minors of the layout serve and use one heap, in turn, and at the same time;
 * those of another major are told why not, and change nothing. The other versions are programs of their own
 * (support/versions_worker.c): one file of theirs is compiled with other numbers. The other minor knows a feature, the
 * highest bit of each word, that this one does not.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "daemon/memory/heapfile.h"
#include "tests/support/parts.h"

#define NEXT_KNOWS 0x80000000u
#define NOBODY_KNOWS 0x40000000u
#define WORD_MS 60000

/* --- workers --- */

typedef struct worker {
    pid_t pid;
    int to;   /* its standard input */
    int from; /* its standard output */
} worker;

/* Its next line, without the end. */
static void hear(const worker *w, char *ret, size_t size)
{
    size_t n = 0;
    char c;

    for (;;) {
        struct pollfd ready = { .fd = w->from, .events = POLLIN };

        assert_int_equal(poll(&ready, 1, WORD_MS), 1);
        assert_int_equal(read(w->from, &c, 1), 1);
        if (c == '\n')
            break;
        if (n < size - 1)
            ret[n++] = c;
    }
    ret[n] = '\0';
}

/* Start one; what it says of its attach is in said. */
static worker start_saying(const fixture *f, const char *program, const char *name, const char *mode, char said[256])
{
    int to[2];
    int from[2];
    worker w;

    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    w = (worker){ fork(), to[1], from[0] };
    assert_true(w.pid >= 0);
    if (w.pid == 0) {
        (void)dup2(to[0], STDIN_FILENO);
        (void)dup2(from[1], STDOUT_FILENO);
        (void)execl(program, program, f->socket, name, mode, (char *)NULL);
        _exit(127);
    }
    (void)close(to[0]);
    (void)close(from[1]);
    hear(&w, said, 256);
    return w;
}

static worker start(const fixture *f, const char *program, const char *name)
{
    char said[256];
    worker w = start_saying(f, program, name, NULL, said);

    assert_string_equal(said, "attached");
    return w;
}

/* Have it do something, which must go well. */
static void tell(const worker *w, const char *word)
{
    char said[16];
    char line[80];
    int len = snprintf(line, sizeof(line), "%s\n", word);

    assert_int_equal(write(w->to, line, (size_t)len), len);
    hear(w, said, sizeof(said));
    assert_string_equal(said, "ok");
}

static void end(const worker *w, int sig)
{
    if (sig != 0)
        (void)kill(w->pid, sig);
    (void)close(w->to); /* the end of its input ends it */
    assert_int_equal(child_wait(w->pid), sig != 0 ? 1000 + sig : 0);
    (void)close(w->from);
}

/* One that can't attach: with ENOEXEC, and a sentence that has both texts in it. */
static void assert_refused(const fixture *f, const char *program, const char *mode, const char *one, const char *other)
{
    char want[16];
    char said[256];
    worker w = start_saying(f, program, "none", mode, said);

    (void)snprintf(want, sizeof(want), "%d ", -ENOEXEC);
    assert_int_equal(strncmp(said, want, strlen(want)), 0);
    assert_non_null(strstr(said, one));
    assert_non_null(strstr(said, other));
    (void)close(w.to);
    assert_int_equal(child_wait(w.pid), 1);
    (void)close(w.from);
}

/* --- daemons --- */

/* Kill the daemon, and have another program take its place. */
static void replace(fixture *f, const char *program)
{
    fixture_kill(f);
    f->program = program;
    fixture_restart(f, NULL);
}

/* goallocd --check-takeover: its exit status, and what it has said. */
static int check_takeover(const fixture *f, const char *program, const char *socket, bool with_keeper, char said[1024])
{
    const char *dir = with_keeper ? "--state-dir" : NULL;
    int pipe_fds[2];
    ssize_t n;
    size_t len = 0;
    pid_t pid;

    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    pid = fork();
    if (pid == 0) {
        (void)dup2(pipe_fds[1], STDERR_FILENO);
        (void)execl(program, program, "--check-takeover", "--socket", socket, dir, f->state_dir, (char *)NULL);
        _exit(127);
    }
    (void)close(pipe_fds[1]);
    while ((n = read(pipe_fds[0], said + len, 1023 - len)) > 0)
        len += (size_t)n;
    said[len] = '\0';
    (void)close(pipe_fds[0]);
    return child_wait(pid);
}

/* --- another minor --- */

static void heap_goes_from_minor_to_minor_and_back_with_all_that_is_in_it(void **state)
{
    fixture *f = *state;
    const uint32_t minor = version_own()->minor;
    shm_header *header = part_map_header(f);
    worker ours = start(f, VERSIONS_WORKER_PATH, "ours");
    worker theirs = start(f, VERSIONS_WORKER_NEXT_PATH, "theirs");
    uint64_t nlive;
    goalloc_stats_t stats;
    char told[80];

    assert_int_equal(u32_load_relaxed(&header->minor), minor);
    tell(&ours, "make");
    tell(&theirs, "make");
    tell(&ours, "churn");
    tell(&theirs, "churn");
    fixture_stats(f, &stats);
    nlive = stats.live_objects;
    for (int i = 0; i < 3; i++) { /* to the next minor, back, and on again */
        worker late;

        replace(f, i % 2 == 0 ? GOALLOCD_NEXT_PATH : NULL);
        assert_int_equal(u32_load_relaxed(&header->minor), i % 2 == 0 ? 1001 : minor);
        (void)snprintf(told, sizeof(told), "of layout %u.%u, and is of %u.%u now", version_own()->major,
                       i % 2 == 0 ? minor : 1001, version_own()->major, i % 2 == 0 ? 1001 : minor);
        assert_true(fixture_log_has(f, told));
        fixture_stats(f, &stats);
        assert_int_equal(stats.live_objects, nlive);
        tell(&ours, "check theirs");
        tell(&theirs, "check ours");
        tell(&ours, "churn");
        tell(&theirs, "churn");
        late = start(f, i == 1 ? VERSIONS_WORKER_NEXT_PATH : VERSIONS_WORKER_PATH, "late");
        tell(&late, "check ours");
        tell(&late, "churn");
        end(&late, i == 0 ? 0 : SIGKILL); /* its group has what it has retained, while the others are there */
        nlive += 100;
        assert_true(fixture_live_with(f, 2) == nlive);
    }
    /* The group's end is under whichever daemon is there: what it has not published goes, what it has stays. */
    end(&theirs, SIGKILL);
    replace(f, NULL);
    end(&ours, SIGKILL);
    assert_true(fixture_is_clean(f, 600));
    ours = start(f, VERSIONS_WORKER_NEXT_PATH, "later");
    tell(&ours, "check ours");
    tell(&ours, "check theirs");
    end(&ours, 0);
    part_unmap(header);
}

/* --- another major --- */

static void other_major_is_refused_by_both_sides_and_the_heap_is_unharmed(void **state)
{
    fixture *f = *state;
    worker ours = start(f, VERSIONS_WORKER_PATH, "ours");
    shm_header *header = part_map_header(f);
    shm_header before;
    char own[32];

    (void)snprintf(own, sizeof(own), "layout %u.%u", version_own()->major, version_own()->minor);
    tell(&ours, "make");
    assert_refused(f, VERSIONS_WORKER_OTHER_PATH, NULL, own, "layout 60001.0");
    assert_refused(f, VERSIONS_WORKER_OTHER_PATH, "readonly", own, "layout 60001.0");
    fixture_kill(f);
    memcpy(&before, header, sizeof(before));
    f->program = GOALLOCD_OTHER_PATH;
    assert_int_equal(fixture_restart_refused(f, NULL), 1);
    assert_true(fixture_log_has(f, own) && fixture_log_has(f, "layout 60001.0"));
    assert_true(fixture_log_has(f, "it is as it was"));
    assert_memory_equal(&before, header, sizeof(before));
    f->program = NULL;
    fixture_restart(f, NULL);
    tell(&ours, "check ours");
    tell(&ours, "churn");
    end(&ours, 0);
    assert_true(fixture_is_clean(f, 300));
    part_unmap(header);
}

/* --- features --- */

static void needed_feature_keeps_out_who_does_not_know_it(void **state)
{
    fixture *f = *state;
    shm_header *header = part_map_header(f);
    worker w = start(f, VERSIONS_WORKER_NEXT_PATH, "theirs");

    tell(&w, "make");
    replace(f, GOALLOCD_NEXT_PATH);
    u32_store_release(&header->needed, NEXT_KNOWS);
    assert_refused(f, VERSIONS_WORKER_PATH, NULL, "features", "0x80000000");
    assert_refused(f, VERSIONS_WORKER_PATH, "readonly", "features", "0x80000000");
    tell(&w, "churn");
    fixture_kill(f);
    f->program = NULL;
    assert_int_equal(fixture_restart_refused(f, NULL), 1);
    assert_true(fixture_log_has(f, "does not know: 0x80000000"));
    assert_int_equal(u32_load_relaxed(&header->minor), 1001);
    f->program = GOALLOCD_NEXT_PATH;
    fixture_restart(f, NULL);
    assert_int_equal(u32_load_relaxed(&header->needed), NEXT_KNOWS);
    tell(&w, "check theirs");
    end(&w, 0);
    u32_store_release(&header->needed, 0);
    part_unmap(header);
}

static void feature_for_who_writes_lets_read_only_sessions_in(void **state)
{
    fixture *f = *state;
    shm_header *header = part_map_header(f);
    worker w = start(f, VERSIONS_WORKER_PATH, "ours");
    char said[256];

    tell(&w, "make");
    end(&w, 0);
    u32_store_release(&header->writing, NEXT_KNOWS);
    assert_refused(f, VERSIONS_WORKER_PATH, NULL, "features", "0x80000000");
    w = start_saying(f, VERSIONS_WORKER_PATH, "reader", "readonly", said);
    assert_string_equal(said, "attached");
    tell(&w, "check ours");
    end(&w, 0);
    replace(f, GOALLOCD_NEXT_PATH);
    w = start(f, VERSIONS_WORKER_NEXT_PATH, "theirs");
    tell(&w, "churn");
    end(&w, 0);
    u32_store_release(&header->writing, 0);
    part_unmap(header);
}

static void feature_for_daemons_lets_any_library_in(void **state)
{
    fixture *f = *state;
    heap_private *private = part_map(f, KEEPER_FD_PRIVATE); /* its first words */
    worker w;
    char said[1024];

    u32_store_release(&private->features, NEXT_KNOWS);
    w = start(f, VERSIONS_WORKER_PATH, "ours");
    tell(&w, "make");
    assert_int_equal(check_takeover(f, GOALLOCD_PATH, f->socket, false, said), 3);
    assert_int_equal(check_takeover(f, GOALLOCD_NEXT_PATH, f->socket, false, said), 0);
    fixture_kill(f);
    assert_int_equal(check_takeover(f, GOALLOCD_PATH, f->socket, true, said), 3);
    assert_int_equal(fixture_restart_refused(f, NULL), 1);
    assert_true(fixture_log_has(f, "does not know: 0x80000000"));
    f->program = GOALLOCD_NEXT_PATH;
    fixture_restart(f, NULL);
    tell(&w, "check ours");
    tell(&w, "churn");
    end(&w, 0);
    assert_int_equal(u32_load_relaxed(&private->features), NEXT_KNOWS);
    part_unmap(private);
}

/* What nobody maintains any more is not believed later. */
static void optional_feature_goes_when_a_daemon_takes_over_that_does_not_know_it(void **state)
{
    fixture *f = *state;
    shm_header *header = part_map_header(f);
    worker w = start(f, VERSIONS_WORKER_PATH, "ours");

    replace(f, GOALLOCD_NEXT_PATH);
    u32_store_release(&header->optional, NEXT_KNOWS | NOBODY_KNOWS);
    tell(&w, "make");
    replace(f, GOALLOCD_NEXT_PATH);
    assert_int_equal(u32_load_relaxed(&header->optional), NEXT_KNOWS | SHM_OPTIONAL_ORIGIN); /* which each sets anew */
    replace(f, NULL);
    assert_int_equal(u32_load_relaxed(&header->optional), SHM_OPTIONAL_ORIGIN);
    tell(&w, "check ours");
    end(&w, 0);
    part_unmap(header);
}

/* --- asking before --- */

static void check_takeover_of_a_heap_that_is_served_says_whether_it_fits(void **state)
{
    fixture *f = *state;
    shm_header *header = part_map_header(f);
    shm_header before;
    char said[1024];

    u32_store_release(&header->optional, NEXT_KNOWS);
    memcpy(&before, header, sizeof(before));
    assert_int_equal(check_takeover(f, GOALLOCD_PATH, f->socket, false, said), 0);
    assert_int_equal(check_takeover(f, GOALLOCD_NEXT_PATH, f->socket, false, said), 0);
    assert_non_null(strstr(said, "would take over"));
    assert_int_equal(check_takeover(f, GOALLOCD_OTHER_PATH, f->socket, true, said), 3);
    assert_non_null(strstr(said, "layout 60001.0"));
    assert_non_null(strstr(said, "goallocctl drop"));
    u32_store_release(&header->needed, NEXT_KNOWS);
    assert_int_equal(check_takeover(f, GOALLOCD_PATH, f->socket, false, said), 3);
    assert_non_null(strstr(said, "0x80000000"));
    assert_int_equal(check_takeover(f, GOALLOCD_NEXT_PATH, f->socket, false, said), 0);
    u32_store_release(&header->needed, 0);
    assert_memory_equal(&before, header, offsetof(shm_header, free_limit)); /* the daemon lives, and writes the rest */
    assert_int_equal(u32_load_relaxed(&header->optional), NEXT_KNOWS);
    part_unmap(header);
}

static void check_takeover_of_a_heap_that_a_keeper_holds_asks_the_keeper(void **state)
{
    fixture *f = *state;
    char said[1024];

    fixture_kill(f);
    assert_int_equal(check_takeover(f, GOALLOCD_NEXT_PATH, f->socket, true, said), 0);
    assert_non_null(strstr(said, "keeper"));
    assert_int_equal(check_takeover(f, GOALLOCD_OTHER_PATH, f->socket, true, said), 3);
    assert_non_null(strstr(said, "keeper"));
    fixture_restart(f, NULL);
}

static void check_takeover_of_nothing_is_yes_and_makes_nothing(void **state)
{
    fixture place;
    char said[1024];

    (void)state;
    fixture_make_place(&place);
    (void)snprintf(place.state_dir, sizeof(place.state_dir), "%s/state", place.dir);
    assert_int_equal(check_takeover(&place, GOALLOCD_OTHER_PATH, place.socket, true, said), 0);
    assert_non_null(strstr(said, "no heap"));
    assert_int_equal(access(place.state_dir, F_OK), -1);
    assert_int_equal(access(place.socket, F_OK), -1);
}

/* Somebody else serves the socket. */
static void check_takeover_of_what_is_no_goallocd_is_not_known(void **state)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fixture place;
    char said[1024];
    pid_t pid;

    (void)state;
    fixture_make_place(&place);
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", place.socket);
    assert_true(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(fd, 4) == 0);
    pid = fork();
    if (pid == 0) {
        int peer = accept(fd, NULL, NULL);
        char in[64];

        (void)read(peer, in, sizeof(in));
        (void)write(peer, "\xff\xff\xff\xff what is this?", 18);
        _exit(0);
    }
    assert_int_equal(check_takeover(&place, GOALLOCD_PATH, place.socket, false, said), 1);
    assert_non_null(strstr(said, "can't find out"));
    assert_int_equal(child_wait(pid), 0);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(heap_goes_from_minor_to_minor_and_back_with_all_that_is_in_it),
        FIXTURE_TEST_KEPT(other_major_is_refused_by_both_sides_and_the_heap_is_unharmed),
        FIXTURE_TEST_KEPT(needed_feature_keeps_out_who_does_not_know_it),
        FIXTURE_TEST_KEPT(feature_for_who_writes_lets_read_only_sessions_in),
        FIXTURE_TEST_KEPT(feature_for_daemons_lets_any_library_in),
        FIXTURE_TEST_KEPT(optional_feature_goes_when_a_daemon_takes_over_that_does_not_know_it),
        FIXTURE_TEST_KEPT(check_takeover_of_a_heap_that_is_served_says_whether_it_fits),
        FIXTURE_TEST_KEPT(check_takeover_of_a_heap_that_a_keeper_holds_asks_the_keeper),
        cmocka_unit_test(check_takeover_of_nothing_is_yes_and_makes_nothing),
        cmocka_unit_test(check_takeover_of_what_is_no_goallocd_is_not_known),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
