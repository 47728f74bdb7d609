/*
 * Images at a stop: for whom it waits, who keeps the heap from being saved, and what is there if it can't be.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <sys/file.h>
#include <sys/resource.h>

#include "tests/support/groups.h"
#include "tests/support/images.h"

/* --- who is in the way --- */

static void worker_that_stays_keeps_the_old_image_and_is_named(void **state)
{
    fixture *f = *state;
    image_header before;
    image_header after;
    int fds[2];
    pid_t child;

    build_heap(f);
    assert_int_equal(stop(f), 0);
    before = header_of(image_path);
    with_image[2] = "--image-wait";
    with_image[3] = "100ms";
    with_image[4] = NULL;
    fixture_restart(f, NULL);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    child = child_start_heard(f, stay, fds);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "there still is who can write: session"));
    assert_true(fixture_log_has(f, "'stayer'"));
    after = header_of(image_path);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_false(leaves_something());
    assert_int_equal(kill(child, SIGKILL), 0);
    (void)child_wait(child);
    /* The heap that was served meanwhile is lost: the image is older. */
    assert_int_equal(fixture_restart_refused(f, NULL), 1);
    assert_true(fixture_log_has(f, "older than a heap that is lost"));
    fixture_restart(f, "--image-stale=ok");
    assert_int_equal(child_run(f, verify_and_free, NULL), 0);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* The daemon has begun to stop, and waits. */
static void await_stop(const fixture *f)
{
    for (int i = 0; i < 1000 && !fixture_log_has(f, "sessions to end"); i++)
        usleep(5000);
}

static int go_soon(const fixture *f, void *arg)
{
    const int *fds = arg;
    char byte = 0;
    void *p;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    CHECK((p = goalloc_malloc(3000)) != NULL);
    CHECK(write(fds[1], &byte, 1) == 1);
    await_stop(f);
    usleep(100000);
    CHECK((p = goalloc_malloc(100)) != NULL && goalloc_publish(p) == 0); /* it is served on */
    CHECK(goalloc_root_set("last words", strcpy(p, "bye")) == 0);
    return 0;
}

static int hear_last_words(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("last words", &p) == 0 && strcmp(p, "bye") == 0);
    return 0;
}

static void stop_waits_for_workers_that_go_and_saves_their_last_words(void **state)
{
    fixture *f = *state;
    int fds[2];
    pid_t child;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    child = child_start_heard(f, go_soon, fds);
    assert_int_equal(stop(f), 0);
    assert_int_equal(child_wait(child), 0);
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, hear_last_words, NULL), 0);
    assert_true(fixture_is_clean(f, 1)); /* what it had not published went with its session */
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* Until a byte comes. */
static int stay_for_a_byte(const fixture *f, void *arg)
{
    const int *fds = arg;
    char byte = 0;

    CHECK(attach_as(f, 0, "stayers") == 0);
    CHECK(write(fds[1], &byte, 1) == 1);
    CHECK(read(fds[2], &byte, 1) == 1);
    return 0;
}

/* Who reads alone may come while a stop waits, with a group of readers too, but not to a group with who can write. */
static int read_with_a_group(const fixture *f, void *arg)
{
    const int *fds = arg;
    char byte = 0;

    await_stop(f);
    CHECK(attach_as(f, GOALLOC_ATTACH_READONLY, "stayers") == -ESHUTDOWN);
    CHECK(attach_as(f, 0, "readers") == -ESHUTDOWN);
    CHECK(attach_as(f, GOALLOC_ATTACH_READONLY, "readers") == 0);
    CHECK(write(fds[3], &byte, 1) == 1);
    for (;;)
        (void)pause();
}

static void reader_that_comes_with_a_group_does_not_keep_a_stop_from_saving(void **state)
{
    fixture *f = *state;
    int fds[4];
    pid_t stayer;
    pid_t reader;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(pipe2(fds + 2, O_CLOEXEC), 0);
    stayer = child_start_heard(f, stay_for_a_byte, fds);
    reader = child_start(f, read_with_a_group, fds);
    assert_int_equal(stop(f), 0);
    assert_int_equal(child_wait(stayer), 0);
    assert_true(fixture_log_has(f, "the heap is saved into"));
    process_kill(reader);
    fixture_restart(f, NULL);
    for (int i = 0; i < 4; i++)
        (void)close(fds[i]);
}

static int read_for_ever(const fixture *f, void *arg)
{
    const int *fds = arg;
    char byte = 0;

    CHECK(attach_as(f, GOALLOC_ATTACH_READONLY, "readers") == 0);
    CHECK(write(fds[1], &byte, 1) == 1);
    for (;;)
        (void)pause();
}

static void readers_of_a_group_do_not_keep_a_stop_from_saving(void **state)
{
    fixture *f = *state;
    int fds[2];
    pid_t readers[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    for (int i = 0; i < 2; i++)
        readers[i] = child_start_heard(f, read_for_ever, fds);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "the heap is saved into"));
    for (int i = 0; i < 2; i++)
        process_kill(readers[i]);
    fixture_restart(f, NULL);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static int write_in_a_group(const fixture *f, void *arg)
{
    CHECK(attach_as(f, 0, arg) == 0);
    return 0;
}

/* A child of the one that could write may live on in the group, and write: nobody can tell. The log says so. */
static void reader_of_a_group_that_had_a_writer_is_named_with_the_reason(void **state)
{
    static char readers[] = "readers";
    fixture *f = *state;
    int fds[2];
    pid_t reader;

    assert_int_equal(stop(f), 0);
    with_image[2] = "--image-wait=100ms";
    with_image[3] = NULL;
    fixture_restart(f, NULL);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    reader = child_start_heard(f, read_for_ever, fds);
    assert_int_equal(child_run(f, write_in_a_group, readers), 0);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "; reads); of a reader's group a child may be left of who could write"));
    process_kill(reader);
    fixture_restart(f, "--image-stale=ok");
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* --- who is told --- */

/* An hour: a stop that is not over soon has not told those for whom it waits. */
static void wait_long(fixture *f)
{
    assert_int_equal(stop(f), 0);
    with_image[2] = "--image-wait=60min";
    with_image[3] = NULL;
    fixture_restart(f, NULL);
}

/* Until the daemon tells of its stop. How many other events there were, of which *ret_lost. */
static unsigned await_stopping(int fd, unsigned *ret_lost)
{
    goalloc_event event = { .struct_size = sizeof(event) };
    struct pollfd pfd = { .fd = fd, .events = POLLIN };
    unsigned n = 0;

    for (*ret_lost = 0;;) {
        int r = goalloc_next_event(&event);

        if (r == 1 && event.kind == GOALLOC_EVENT_STOPPING)
            return n;
        CHECK(r >= 0);
        n += r == 1;
        *ret_lost += r == 1 && event.kind == GOALLOC_EVENT_LOST;
        if (r == 0)
            CHECK(poll(&pfd, 1, 60000) == 1);
    }
}

/* It leaves when it is told, lives on, and comes to the next heap. */
static int leave_when_told(const fixture *f, void *arg)
{
    const int *fds = arg;
    unsigned lost;
    char byte = 0;
    uint64_t id;
    void *p;
    int fd;
    int r;

    must_attach(f, 0);
    id = goalloc_heap_id();
    CHECK((fd = goalloc_event_fd()) >= 0);
    CHECK(write(fds[1], &byte, 1) == 1);
    (void)await_stopping(fd, &lost);
    CHECK(lost == 0);
    CHECK((p = goalloc_malloc(100)) != NULL);
    CHECK(goalloc_root_set("last words", strcpy(p, "bye")) == 0 && goalloc_detach() == 0);
    for (int i = 0; i < 1000 && (r = attach_as(f, GOALLOC_ATTACH_WAIT, NULL)) < 0; i++) {
        CHECK(r == -ESHUTDOWN || r == -ECONNREFUSED || r == -ECONNRESET || r == -ETIMEDOUT || r == -ENOENT);
        usleep(10000);
    }
    CHECK(r == 0 && goalloc_heap_id() != id);
    CHECK(goalloc_root_get("last words", &p) == 0 && strcmp(p, "bye") == 0);
    return 0;
}

static void worker_that_leaves_when_it_is_told_has_the_heap_saved_at_once(void **state)
{
    fixture *f = *state;
    pid_t children[3];
    int fds[2];

    wait_long(f);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    for (int i = 0; i < 3; i++)
        children[i] = child_start_heard(f, leave_when_told, fds);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "the heap is saved into"));
    fixture_restart(f, NULL);
    for (int i = 0; i < 3; i++)
        assert_int_equal(child_wait(children[i]), 0);
    assert_int_equal(child_run(f, hear_last_words, NULL), 0);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* It has read nothing for so long that events are lost; the stop is told all the same. */
static int leave_when_told_late(const fixture *f, void *arg)
{
    const int *fds = arg;
    unsigned lost;
    char byte = 0;
    void *p;
    int fd;

    must_attach(f, 0);
    CHECK((p = goalloc_malloc(100)) != NULL && (fd = goalloc_event_fd()) >= 0);
    for (int i = 0; i < 3000; i++)
        CHECK(goalloc_root_set("often", p) == 0);
    CHECK(write(fds[1], &byte, 1) == 1);
    await_stop(f);
    for (int i = 0; i < 3000; i++)
        CHECK(goalloc_root_set("often", p) == 0);
    CHECK(await_stopping(fd, &lost) > 0);
    return 0;
}

/* One that attaches to read, and subscribes, when the others have been told. */
static int come_late(const fixture *f, void *arg)
{
    unsigned lost;
    int fd;

    (void)arg;
    await_stop(f);
    must_attach(f, GOALLOC_ATTACH_READONLY);
    CHECK((fd = goalloc_event_fd()) >= 0);
    CHECK(await_stopping(fd, &lost) == 0 && lost == 0);
    return 0;
}

static void stop_is_told_to_who_is_behind_and_to_who_comes_late(void **state)
{
    fixture *f = *state;
    pid_t behind;
    pid_t late;
    int fds[4];
    char byte = 0;
    pid_t stayer;

    wait_long(f);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(pipe2(fds + 2, O_CLOEXEC), 0);
    stayer = child_start_heard(f, stay_for_a_byte, fds);
    behind = child_start_heard(f, leave_when_told_late, fds);
    late = child_start(f, come_late, NULL);
    assert_int_equal(kill(f->daemon, SIGTERM), 0);
    assert_int_equal(child_wait(behind), 0);
    assert_int_equal(child_wait(late), 0);
    assert_int_equal(write(fds[3], &byte, 1), 1);
    assert_int_equal(child_wait(stayer), 0);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "the heap is saved into"));
    fixture_restart(f, NULL);
    for (int i = 0; i < 4; i++)
        (void)close(fds[i]);
}

static void collector_leaves_when_the_daemon_stops(void **state)
{
    const char *const sessions[] = { "sessions", NULL };
    fixture *f = *state;
    char out[2000] = "";
    pid_t collector;

    wait_long(f);
    collector = fork();
    if (collector == 0) {
        (void)execl(GOALLOCD_COLLECTOR_PATH, "goallocd-collector", "--socket", f->socket, (char *)NULL);
        _exit(127);
    }
    assert_true(collector > 0);
    for (int i = 0; i < 1000 && strstr(out, "collector") == NULL; i++, usleep(10000))
        assert_int_equal(fixture_ctl(f, sessions, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "collector"));
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "the heap is saved into"));
    fixture_restart(f, NULL); /* and it comes again */
    *out = '\0';
    for (int i = 0; i < 1000 && strstr(out, "collector") == NULL; i++, usleep(10000))
        assert_int_equal(fixture_ctl(f, sessions, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "collector"));
    assert_int_equal(kill(collector, SIGTERM), 0);
    assert_int_equal(child_wait(collector), 0);
}

/* --- what is in the way of the writing --- */

/* The process that saves; it is a child of the daemon's. */
static pid_t saver_of(const fixture *f)
{
    char path[64];
    char name[32] = "";
    FILE *children;
    int pid;
    pid_t found = 0;

    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)f->daemon, (int)f->daemon);
    children = fopen(path, "re");
    assert_non_null(children);
    while (found == 0 && fscanf(children, "%d", &pid) == 1) {
        FILE *comm;

        (void)snprintf(path, sizeof(path), "/proc/%d/comm", pid);
        comm = fopen(path, "re");
        if (comm != NULL && fgets(name, sizeof(name), comm) != NULL && strcmp(name, "goallocd-saver\n") == 0)
            found = pid;
        if (comm != NULL)
            (void)fclose(comm);
    }
    (void)fclose(children);
    return found;
}

static void disk_that_is_full_leaves_the_old_image(void **state)
{
    fixture *f = *state;
    struct rlimit limit = { 64 * KIB, 64 * KIB };
    image_header before;
    image_header after;
    pid_t saver;

    assert_int_equal(stop(f), 0);
    before = header_of(image_path);
    fixture_restart(f, NULL);
    build_heap(f);
    saver = saver_of(f);
    assert_true(saver > 0);
    assert_int_equal(prlimit(saver, RLIMIT_FSIZE, &limit, NULL), 0);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "File too large; what was there stays"));
    assert_false(leaves_something());
    after = header_of(image_path);
    assert_memory_equal(&before, &after, sizeof(before));
    fixture_restart(f, "--image-stale=ok");
    assert_true(fixture_is_clean(f, 0));
}

static void saver_that_was_killed_leaves_the_old_image(void **state)
{
    fixture *f = *state;

    build_heap(f);
    assert_int_equal(kill(saver_of(f), SIGKILL), 0);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "the process that saves"));
    assert_int_equal(access(image_path, F_OK), -1);
    assert_false(leaves_something());
    fixture_restart(f, NULL); /* there is no image: a new heap */
    assert_true(fixture_is_clean(f, 0));
}

/* The new image is in place by then: the log says so, and not that the old one stays. */
static void directory_that_cannot_be_synced_is_told_of_the_new_image(void **state)
{
    fixture *f = *state;

    assert_int_equal(stop(f), 0); /* an old one is there */
    fixture_preload(DIR_SYNC_MODULE_PATH);
    fixture_restart(f, NULL);
    fixture_preload(NULL);
    build_heap(f);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "the heap is saved into"));
    assert_true(fixture_log_has(f, "it is in place there, but its directory can't be synced (Input/output error)"));
    assert_false(fixture_log_has(f, "what was there stays"));
    assert_false(leaves_something());
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, verify_and_free, NULL), 0);
}

static void daemon_whose_image_has_no_place_does_not_start(void **state)
{
    fixture *f = *state;
    char more[200];

    assert_int_equal(stop(f), 0);
    assert_int_equal(fixture_restart_refused(f, "--image=/nonexistent/heap.img"), 1);
    assert_true(fixture_log_has(f, "nothing can be saved there: directory /nonexistent: No such file"));
    assert_int_equal(mkfifo(other_path, 0600), 0);
    (void)snprintf(more, sizeof(more), "--image=%s", other_path);
    assert_int_equal(fixture_restart_refused(f, more), 1);
    assert_true(fixture_log_has(f, "nothing can be saved there: it is a fifo"));
    assert_int_equal(unlink(other_path), 0);
    assert_int_equal(symlink(image_path, other_path), 0);
    assert_int_equal(fixture_restart_refused(f, more), 1);
    assert_true(fixture_log_has(f, "nothing can be saved there: it is a symbolic link"));
    fixture_restart(f, NULL);
}

/* One has the lock of the file that is written, as goallocctl save has it while it writes. */
static void stop_waits_for_who_saves_there(void **state)
{
    fixture *f = *state;
    char part[200];
    int fd;

    build_heap(f);
    (void)snprintf(part, sizeof(part), "%s.part", image_path);
    fd = open(part, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(kill(f->daemon, SIGTERM), 0);
    for (int i = 0; i < 1000 && !fixture_log_has(f, "stopping: Terminated; waits"); i++)
        usleep(5000);
    usleep(100000);
    (void)close(fd);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "the heap is saved into"));
    assert_false(leaves_something());
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, verify_and_free, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IMAGE_TEST(worker_that_stays_keeps_the_old_image_and_is_named),
        IMAGE_TEST(stop_waits_for_workers_that_go_and_saves_their_last_words),
        IMAGE_TEST(reader_that_comes_with_a_group_does_not_keep_a_stop_from_saving),
        IMAGE_TEST(readers_of_a_group_do_not_keep_a_stop_from_saving),
        IMAGE_TEST(reader_of_a_group_that_had_a_writer_is_named_with_the_reason),
        IMAGE_TEST(worker_that_leaves_when_it_is_told_has_the_heap_saved_at_once),
        IMAGE_TEST(stop_is_told_to_who_is_behind_and_to_who_comes_late),
        IMAGE_TEST(collector_leaves_when_the_daemon_stops),
        IMAGE_TEST(disk_that_is_full_leaves_the_old_image),
        IMAGE_TEST(saver_that_was_killed_leaves_the_old_image),
        IMAGE_TEST(directory_that_cannot_be_synced_is_told_of_the_new_image),
        IMAGE_TEST(daemon_whose_image_has_no_place_does_not_start),
        IMAGE_TEST(stop_waits_for_who_saves_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
