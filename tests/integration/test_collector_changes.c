/*
 * test_collector_changes: what changes while a collector looks. Whoever comes or goes between the search and the end of
 * the pause is noticed, so that the look does not count; processes that change all the time are stopped all the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include "tests/support/collecting.h"

/*
 * Search for all, and, if and_stop says so, stop them and copy their words: again and again, until no session that is
 * beginning or ending is in the way.
 */
static void begin_look(world *w, world_options options, bool and_stop)
{
    world_trouble trouble = { 0 };
    int r = -EAGAIN;

    for (int i = 0; i < COLLECTING_TRIES && r == -EAGAIN; i++, (void)usleep(5000)) {
        r = world_prepare(w, &process.map, &options, &trouble);
        if (r == 0 && and_stop)
            r = world_stop(w, &trouble);
        if (r == 0 && and_stop)
            r = world_copy(w, &trouble);
        if (r < 0)
            world_free(w);
    }
    CHECK(r == 0);
}

/* --- between the search and the end of the pause --- */

static int look_while_others_change(const fixture *f, void *arg)
{
    world_trouble trouble = { 0 };
    world w;

    (void)arg;
    must_attach(f, 0);
    begin_look(&w, (world_options){ 0 }, true);
    atomic_store(&the_board->step, 1);
    board_await(&the_board->step, 2);
    the_board->error = world_validate(&w, &trouble);
    memcpy(the_board->text, trouble.text, sizeof(trouble.text));
    world_resume(&w);
    world_free(&w);
    return 0;
}

/* A file is mapped when the estimate is done. To open it in the pause might take one of those who are stopped. */
static int map_a_file_later(const fixture *f, void *arg)
{
    int fd = memfd_create("later", MFD_CLOEXEC);

    (void)arg;
    must_attach(f, 0);
    CHECK(fd >= 0 && ftruncate(fd, 4096) == 0);
    board_say(goalloc_malloc(100), NULL);
    board_await(&the_board->step, 1);
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED);
    atomic_store(&the_board->step, 2);
    wait_to_be_killed();
    return 0;
}

static int look_at_a_later_file(const fixture *f, void *arg)
{
    world_trouble trouble = { 0 };
    world w;
    int r;

    (void)arg;
    must_attach(f, 0);
    begin_look(&w, (world_options){ 0 }, false);
    atomic_store(&the_board->step, 1);
    board_await(&the_board->step, 2);
    r = world_stop(&w, &trouble);
    if (r == 0)
        r = world_copy(&w, &trouble);
    world_resume(&w);
    world_free(&w);
    return r != -EAGAIN || strstr(trouble.text, "another file") == NULL;
}

static void a_file_that_is_mapped_after_the_estimate_ends_the_look(void **state)
{
    pid_t pid = target_start(*state, map_a_file_later, NULL);
    int status = child_run(*state, look_at_a_later_file, NULL), r = look(*state, (world_options){ 0 });

    target_kill(pid);
    assert_int_equal(status, 0);
    assert_int_equal(r, 0);
}

/* Who looks is alone, and forks a child without a session when its search is done. */
static int be_alone_and_fork(const fixture *f, void *arg)
{
    world_trouble trouble = { 0 };
    world w;
    pid_t pid;
    int r;

    (void)arg;
    must_attach(f, 0);
    begin_look(&w, (world_options){ 0 }, false);
    CHECK(w.nprocesses == 0);
    pid = fork();
    if (pid == 0)
        wait_to_be_killed();
    r = world_stop(&w, &trouble);
    world_free(&w);
    (void)kill(pid, SIGKILL);
    return r != -EAGAIN;
}

static void who_is_forked_when_there_was_nobody_is_noticed(void **state)
{
    board_clear();
    assert_int_equal(child_run(*state, be_alone_and_fork, NULL), 0);
}

static void a_session_that_begins_in_the_pause_is_noticed(void **state)
{
    const fixture *f = *state;
    pid_t pid = target_start(f, attach_and_wait, NULL), looking = child_start(f, look_while_others_change, NULL), more;
    int status;

    board_await(&the_board->step, 1);
    more = child_start(f, attach_and_wait, NULL);
    board_await(&the_board->ready, 2);
    atomic_store(&the_board->step, 2);
    status = child_wait(looking);
    target_kill(more);
    target_kill(pid);
    assert_int_equal(status, 0);
    assert_int_equal(the_board->error, -EAGAIN);
}

static void a_process_that_is_killed_in_the_pause_is_noticed(void **state)
{
    const fixture *f = *state;
    pid_t pid = target_start(f, attach_and_wait, NULL), looking = child_start(f, look_while_others_change, NULL);
    int status;

    board_await(&the_board->step, 1);
    (void)kill(pid, SIGKILL);
    for (int i = 0; i < 5000 && state_of(pid) != 'Z' && state_of(pid) != 0; i++)
        (void)usleep(1000);
    atomic_store(&the_board->step, 2);
    status = child_wait(looking);
    (void)child_wait(pid);
    assert_int_equal(status, 0);
    assert_int_equal(the_board->error, -EAGAIN);
}

static int leave_a_child_of_a_group(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    pid_t pid;

    (void)arg;
    options.socket_path = f->socket;
    options.flags = GOALLOC_ATTACH_RECLAIM;
    options.group = "family";
    CHECK(goalloc_attach(&options) == 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        the_board->pid = getpid();
        (void)atomic_fetch_add(&the_board->ready, 1);
        wait_to_be_killed();
    }
    board_await(&the_board->ready, 1);
    return 0;
}

static uint32_t groups_in_state(uint32_t state)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < u32_load_acquire(&process.map.header->ngroup_entries); i++)
        n += group_unpack(u64_load_acquire(&process.map.groups[i].word)).state == state;
    return n;
}

/* Its child, which has no session, is killed while it is stopped: the group's end changes nothing of any session. */
static int look_while_a_group_ends(const fixture *f, void *arg)
{
    world_trouble trouble = { 0 };
    world w;

    (void)arg;
    must_attach(f, 0);
    begin_look(&w, (world_options){ .no_estimate = true }, true);
    CHECK(w.nprocesses == 1 && groups_in_state(SHM_GROUP_OPEN) == 1);
    CHECK(kill(the_board->pid, SIGKILL) == 0);
    for (int i = 0; i < 10000 && groups_in_state(SHM_GROUP_OPEN) > 0; i++)
        (void)usleep(1000);
    CHECK(groups_in_state(SHM_GROUP_OPEN) == 0);
    the_board->error = world_validate(&w, &trouble);
    memcpy(the_board->text, trouble.text, sizeof(trouble.text));
    world_free(&w);
    return 0;
}

static void a_group_that_ends_in_the_pause_is_noticed(void **state)
{
    const fixture *f = *state;

    board_clear();
    assert_int_equal(child_run(f, leave_a_child_of_a_group, NULL), 0);
    assert_int_equal(fixture_live_with(f, 0), 0);
    assert_int_equal(child_run(f, look_while_a_group_ends, NULL), 0);
    assert_int_equal(the_board->error, -EAGAIN);
    assert_non_null(strstr(the_board->text, "group"));
}

/* --- all the time --- */

static atomic_int nthreads_now;

static void *end_at_once(void *arg)
{
    (void)atomic_fetch_sub(&nthreads_now, 1);
    return arg;
}

static void *make_threads(void *arg)
{
    pthread_attr_t detached;

    (void)pthread_attr_init(&detached);
    (void)pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    while (atomic_load(&the_board->step) == 0) {
        pthread_t thread;

        if (atomic_load(&nthreads_now) > 20) {
            (void)sched_yield();
            continue;
        }
        (void)atomic_fetch_add(&nthreads_now, 1);
        CHECK(pthread_create(&thread, &detached, end_at_once, NULL) == 0);
        (void)atomic_fetch_add(&the_board->count, 1);
    }
    return arg;
}

static int churn_threads(const fixture *f, void *arg)
{
    pthread_t makers[3];

    (void)arg;
    must_attach(f, 0);
    board_say(goalloc_malloc(100), NULL);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&makers[i], NULL, make_threads, NULL) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(makers[i], NULL) == 0);
    return 0;
}

static void must_end_well(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0)
        CHECK(errno == EINTR);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static int churn_forks(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    board_say(goalloc_malloc(100), NULL);
    while (atomic_load(&the_board->step) == 0) {
        pid_t pid = fork();

        CHECK(pid >= 0);
        if (pid == 0 && the_board->count % 4 == 1) {
            (void)execl("/bin/true", "true", (char *)NULL);
            _exit(7);
        }
        if (pid == 0 && the_board->count % 4 == 2 && fork() != 0)
            _exit(0);
        if (pid == 0)
            _exit(0);
        must_end_well(pid);
        (void)atomic_fetch_add(&the_board->count, 1);
    }
    return 0;
}

static int churn_by_vfork(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    board_say(goalloc_malloc(100), NULL);
    while (atomic_load(&the_board->step) == 0) {
        pid_t pid = vfork();

        if (pid == 0) {
            (void)execl("/bin/true", "true", (char *)NULL);
            _exit(7);
        }
        CHECK(pid > 0);
        must_end_well(pid);
        (void)atomic_fetch_add(&the_board->count, 1);
    }
    return 0;
}

static int look_many_times(const fixture *f, void *arg)
{
    int wanted = *(int *)arg, done = 0;

    must_attach(f, 0);
    for (int i = 0; i < COLLECTING_TRIES && done < wanted; i++) {
        world_options options = { .max_pause_ns = 500000000, .no_estimate = true };
        int r = look_once(&options);

        if (r == 0)
            done++;
        else if (r != -EAGAIN && r != -ETIMEDOUT)
            return 2;
    }
    return done == wanted ? 0 : 3;
}

static void must_go_through(const fixture *f, child_fn fn, int times)
{
    pid_t pid = target_start(f, fn, NULL);
    int r = child_run(f, look_many_times, &times), status;

    if (r != 0)
        (void)printf("          %s\n", the_board->text);
    atomic_store(&the_board->step, 1);
    status = child_wait(pid);
    assert_int_equal(r, 0);
    assert_int_equal(status, 0);
    assert_true(the_board->count > 0);
}

static void a_process_that_makes_threads_all_the_time_is_stopped(void **state)
{
    must_go_through(*state, churn_threads, 20);
}

static void a_process_that_forks_all_the_time_is_stopped(void **state)
{
    must_go_through(*state, churn_forks, 20);
}

static void a_process_that_vforks_all_the_time_is_stopped(void **state)
{
    must_go_through(*state, churn_by_vfork, 10);
}

static void *run_sleep(void *arg)
{
    (void)execl("/bin/sleep", "sleep", "100", (char *)NULL);
    return arg;
}

static int exec_in_thread(const fixture *f, void *arg)
{
    pthread_t thread;

    (void)arg;
    must_attach(f, 0);
    board_say(goalloc_malloc(100), NULL);
    board_await(&the_board->step, 1);
    CHECK(pthread_create(&thread, NULL, run_sleep, NULL) == 0);
    wait_to_be_killed();
    return 0;
}

/* Its session stays as long as it lives, and the heap is not mapped there any more. */
static void a_client_that_has_become_another_program_is_in_nobodys_way(void **state)
{
    pid_t pid = target_start(*state, exec_in_thread, NULL);
    bool before = look(*state, (world_options){ 0 }) == 0;
    int r;

    atomic_store(&the_board->step, 1);
    r = look(*state, (world_options){ 0 });
    target_kill(pid);
    assert_true(before);
    assert_int_equal(r, 0);
}

/* --- in one system call, which a stop interrupts --- */

static int wait_in_epoll(const fixture *f, void *arg)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);

    (void)arg;
    must_attach(f, 0);
    board_say(goalloc_malloc(100), NULL);
    while (atomic_load(&the_board->step) == 0) {
        struct epoll_event event;
        int r = epoll_wait(fd, &event, 1, 1000);

        CHECK(r == 0 || (r < 0 && errno == EINTR));
        if (r < 0)
            (void)atomic_fetch_add(&the_board->count, 1);
    }
    return 0;
}

static void epoll_wait_returns_eintr_once_a_stop_at_most(void **state)
{
    int times = 10;
    pid_t pid = target_start(*state, wait_in_epoll, NULL);
    int r = child_run(*state, look_many_times, &times), status;

    atomic_store(&the_board->step, 1);
    status = child_wait(pid);
    assert_int_equal(r, 0);
    assert_int_equal(status, 0);
    assert_in_range(the_board->count, 1, COLLECTING_TRIES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(a_file_that_is_mapped_after_the_estimate_ends_the_look),
        FIXTURE_TEST(who_is_forked_when_there_was_nobody_is_noticed),
        FIXTURE_TEST(a_session_that_begins_in_the_pause_is_noticed),
        FIXTURE_TEST(a_process_that_is_killed_in_the_pause_is_noticed),
        FIXTURE_TEST(a_group_that_ends_in_the_pause_is_noticed),
        FIXTURE_TEST(a_process_that_makes_threads_all_the_time_is_stopped),
        FIXTURE_TEST(a_process_that_forks_all_the_time_is_stopped),
        FIXTURE_TEST(a_process_that_vforks_all_the_time_is_stopped),
        FIXTURE_TEST(a_client_that_has_become_another_program_is_in_nobodys_way),
        FIXTURE_TEST(epoll_wait_returns_eintr_once_a_stop_at_most),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
