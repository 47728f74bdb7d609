/*
 * goallocctl save: a heap that is served as an image, while nobody can write it. test_image_pause.c is about who can.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>

#include "tests/support/images.h"

static int come_and_go(const fixture *f, void *arg)
{
    uint64_t at = *(uint64_t *)arg;

    for (int i = 0; i < 40; i++) {
        object *o;
        void *p;
        size_t size = some_size(&at);
        int r;

        must_attach(f, 0);
        r = goalloc_root_get("list", &p);
        CHECK((o = goalloc_malloc(size)) != NULL);
        fill(o, size, test_random(&at));
        o->next = r == 0 ? p : NULL;
        CHECK(goalloc_root_set("list", o) == 0);
        CHECK(goalloc_detach() == 0);
    }
    return 0;
}

static int verify_list(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    if (goalloc_root_get("list", &p) == 0) {
        for (const object *o = p; o != NULL; o = o->next)
            CHECK(is_whole(o));
    }
    return 0;
}

static void heap_is_saved_between_workers_that_come_and_go(void **state)
{
    const char *const save[] = { "save", other_path, NULL };
    const char *const load[] = { "--load", other_path, NULL };
    fixture *f = *state;
    unsigned nsaved = 0;
    char out[400];
    pid_t child;

    seed = test_seed();
    child = child_start(f, come_and_go, &seed);
    for (int status; waitpid(child, &status, WNOHANG) == 0;) {
        nsaved += fixture_ctl(f, save, out, sizeof(out)) == 0;
        if (nsaved > 0 && nsaved % 4 == 0) {
            fixture other;

            fixture_start(&other, load);
            assert_int_equal(child_run(&other, verify_list, NULL), 0);
            assert_true(fixture_is_whole(&other));
            assert_true(fixture_stop(&other));
        }
    }
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    assert_int_equal(child_run(f, verify_list, NULL), 0);
    (void)printf("saved %u times meanwhile\n", nsaved);
}

/* A process that has a tracer can't be stopped by another one. */
static void save_is_refused_while_somebody_can_write_who_cannot_be_stopped(void **state)
{
    const char *const save[] = { "--json", "save", other_path, NULL };
    fixture *f = *state;
    char out[600];
    char pid[16];
    int fds[2];
    pid_t child;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    child = child_start_heard(f, stay, fds);
    assert_int_equal(ptrace(PTRACE_SEIZE, child, NULL, NULL), 0);
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 1);
    (void)snprintf(pid, sizeof(pid), "%d", (int)child);
    assert_non_null(strstr(out, "can't be stopped"));
    assert_non_null(strstr(out, pid));
    assert_int_equal(access(other_path, F_OK), -1);
    assert_int_equal(kill(child, SIGKILL), 0);
    (void)child_wait(child);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static void image_that_a_running_daemon_has_saved_is_a_copy(void **state)
{
    const char *const save[] = { "save", image_path, NULL };
    const char *const show[] = { "--json", "image", image_path, NULL };
    fixture *f = *state;
    char out[2000];

    build_heap(f);
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    assert_int_equal(fixture_ctl(f, show, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "\"mark\": \"copy\""));
    fixture_kill(f);
    assert_int_equal(fixture_restart_refused(f, NULL), 1);
    assert_true(fixture_log_has(f, "it was saved while that was in use"));
    fixture_restart(f, "--image-stale=ok");
    assert_int_equal(child_run(f, verify, NULL), 0);
    assert_int_equal(stop(f), 0);
    assert_int_equal(fixture_ctl(f, show, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "\"mark\": \"clean\""));
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, verify_and_free, NULL), 0);
}

/* Else the daemon's next stop could not save there, and its next start not load. */
static void what_root_saves_into_the_directory_of_another_user_is_that_users(void **state)
{
    static char owned[170];
    static char owned_part[180];
    const char *const save[] = { "save", owned, NULL };
    fixture *f = *state;
    char dir[160];
    char out[400];
    struct stat st;
    int fd;

    if (geteuid() != 0)
        skip();
    (void)snprintf(dir, sizeof(dir), "%s/owned-XXXXXX", guard_dir());
    assert_non_null(mkdtemp(dir));
    (void)snprintf(owned, sizeof(owned), "%s/heap.img", dir);
    (void)snprintf(owned_part, sizeof(owned_part), "%s.part", owned);
    assert_int_equal(chown(dir, 65534, 65534), 0);
    for (int i = 0; i < 2; i++) { /* the file is new, and is there */
        assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
        assert_int_equal(stat(owned, &st), 0);
        assert_int_equal(st.st_uid, 65534);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    fd = open(owned_part, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    assert_true(fd >= 0);
    assert_int_equal(fchown(fd, 65533, 65533), 0); /* a third one, who may have it open */
    assert_int_not_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 0);
    (void)close(fd);
    (void)unlink(owned_part);
    (void)unlink(owned);
    (void)rmdir(dir);
}

static const char dead[] = "dead-dead-dead-";
static const char live[] = "live-live-live-";

/* Objects of all kinds side by side; every second one is freed. */
static int build_dead_and_live(const fixture *f, void *arg)
{
    static const size_t sizes[] = { 15, 16, 200, 3000, 30000, 90000 };
    static char *objects[600];

    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < 600; i++) {
        size_t size = sizes[i / 2 % 6];

        CHECK((objects[i] = size < 16 ? goalloc_malloc_noscan(size) : goalloc_malloc(size)) != NULL);
        for (size_t k = 0; k + sizeof(dead) - 1 <= size; k += sizeof(dead) - 1)
            memcpy(objects[i] + k, i % 2 == 0 ? dead : live, sizeof(dead) - 1);
    }
    for (size_t i = 0; i < 600; i += 2)
        goalloc_free(objects[i]);
    return 0;
}

/* Places where nothing lives are zero in the file: what was freed is not handed on with it. */
static void what_freed_objects_had_is_not_in_the_image(void **state)
{
    const char *const save[] = { "save", "--level=0", image_path, NULL };
    fixture *f = *state;
    char out[400];
    struct stat st;
    const char *all;
    int fd;

    assert_int_equal(child_run(f, build_dead_and_live, NULL), 0);
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    fd = open(image_path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    all = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_ptr_not_equal(all, MAP_FAILED);
    assert_non_null(memmem(all, (size_t)st.st_size, live, sizeof(live) - 1));
    assert_null(memmem(all, (size_t)st.st_size, dead, sizeof(dead) - 1));
    (void)munmap((void *)(uintptr_t)all, (size_t)st.st_size);
    (void)close(fd);
}

/* What is replaced by a rename is a file, or nothing: not a device of the system's, nor a link to somewhere else. */
static void place_that_is_none_for_a_file_is_refused_before_anything_is_done(void **state)
{
    static char dir[160];
    static char fifo[176];
    static char link[176];
    static char slash[176];
    static char within[176];
    fixture *f = *state;
    const struct {
        const char *place;
        const char *says;
    } places[] = {
        { dir, "it is a directory" },           { slash, "it is no name of a file" },
        { "\"\"", "it is no name of a file" },  { fifo, "it is a fifo" },
        { link, "it is a symbolic link; give" }, { f->socket, "it is a socket" },
        { within, "Not a directory" },          { "/nonexistent/x", "directory /nonexistent: No such file" },
    };
    char out[1000];
    struct stat st;

    (void)snprintf(dir, sizeof(dir), "%s/places-XXXXXX", guard_dir());
    assert_non_null(mkdtemp(dir));
    (void)snprintf(fifo, sizeof(fifo), "%s/fifo", dir);
    (void)snprintf(link, sizeof(link), "%s/link", dir);
    (void)snprintf(slash, sizeof(slash), "%s/", dir);
    (void)snprintf(within, sizeof(within), "%s/fifo/x", dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(symlink(image_path, link), 0);
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        const char *const save[] = { "--json", "save", places[i].place, NULL };
        const char *const image[] = { "--json", "image", places[i].place, NULL };

        assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 1);
        if (strstr(out, places[i].says) == NULL)
            fail_msg("%s: no '%s' in %s", places[i].place, places[i].says, out);
        assert_int_equal(fixture_ctl(f, image, out, sizeof(out)), 1);
    }
    assert_int_equal(lstat(fifo, &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(fixture_ctl(f, (const char *const[]){ "--json", "save", NULL }, out, sizeof(out)), 2);
    assert_non_null(strstr(out, "which file?"));
    assert_int_equal(fixture_ctl(f, (const char *const[]){ "--json", "image", NULL }, out, sizeof(out)), 2);
    assert_non_null(strstr(out, "which file?"));
}

/* --- signals --- */

#define RANDOM_BYTES (UINT64_C(12) << 20) /* that no level makes shorter, and a high one takes its time to find out */

static int build_random(const fixture *f, void *arg)
{
    const size_t size = 30000;
    uint64_t at = *(uint64_t *)arg;
    void *p;

    must_attach(f, 0);
    for (size_t done = 0; done < RANDOM_BYTES; done += size) {
        CHECK((p = goalloc_malloc(size)) != NULL);
        for (size_t i = 0; i < size / sizeof(uint64_t); i++)
            ((uint64_t *)p)[i] = test_random(&at);
    }
    CHECK(goalloc_root_set("last", p) == 0);
    return 0;
}

static pid_t save_start(const fixture *f, const char *level)
{
    const struct rlimit none = { 0, 0 };
    pid_t pid = fork();

    if (pid == 0) {
        (void)setrlimit(RLIMIT_CORE, &none);
        (void)signal(SIGINT, SIG_DFL); /* a shell's background job ignores them */
        (void)signal(SIGQUIT, SIG_DFL);
        (void)signal(SIGHUP, SIG_DFL);
        (void)execl(GOALLOCCTL_PATH, "goallocctl", "--socket", f->socket, "save", level, image_path, (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    return pid;
}

static void signal_in_the_midst_of_a_save_leaves_the_old_image_and_nothing_beside_it(void **state)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
    const char *const save[] = { "save", image_path, NULL };
    fixture *f = *state;
    image_header before;
    char out[400];

    seed = test_seed();
    assert_int_equal(child_run(f, build_random, &seed), 0);
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    before = header_of(image_path);
    for (size_t i = 0, nsaved = 0; i < sizeof(signals) / sizeof(signals[0]);) {
        pid_t pid = save_start(f, "--level=12");
        image_header after;
        int status;

        for (int k = 0; k < 100000 && !leaves_something(); k++)
            usleep(100);
        assert_true(leaves_something());
        assert_int_equal(kill(pid, signals[i]), 0);
        status = child_wait(pid);
        assert_false(leaves_something());
        after = header_of(image_path);
        if (status == 0) { /* this process was given no processor for so long that the image was there before */
            assert_true(nsaved++ < 20);
            before = after;
            continue;
        }
        assert_int_equal(status, 1000 + signals[i++]);
        assert_memory_equal(&before, &after, sizeof(before));
    }
}

/* True if it goes on within some time: it is neither stopped nor traced. */
static bool is_running(pid_t pid)
{
    char path[40];
    char how = 't';

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    for (int i = 0; i < 1000 && (how == 't' || how == 'T'); i++, usleep(5000)) {
        FILE *stat = fopen(path, "re");

        if (stat == NULL || fscanf(stat, "%*d (%*[^)]) %c", &how) != 1)
            how = '?';
        if (stat != NULL)
            (void)fclose(stat);
    }
    return how == 'R' || how == 'S';
}

/*
 * From before its first request until after its end: it has saved, or it has not. There is a worker that can write, so
 * it is stopped for a while, and goes on whatever becomes of who has stopped it.
 */
static void signal_at_any_moment_of_a_save_leaves_nothing_beside_the_image(void **state)
{
    const char *const save[] = { "save", image_path, NULL };
    const char *const show[] = { "image", image_path, NULL };
    fixture *f = *state;
    unsigned nended = 0;
    uint64_t at;
    char out[2000];
    int fds[2];
    pid_t worker;

    seed = at = test_seed();
    assert_int_equal(child_run(f, build_random, &seed), 0);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    worker = child_start_heard(f, stay, fds);
    for (int i = 0; i < 24; i++) {
        pid_t pid = save_start(f, "--level=1");
        int status;

        usleep((useconds_t)(test_random(&at) % 120000));
        assert_int_equal(kill(pid, i % 2 == 0 ? SIGINT : SIGTERM), 0);
        status = child_wait(pid);
        assert_true(status == 0 || status == 1000 + (i % 2 == 0 ? SIGINT : SIGTERM));
        nended += status != 0;
        assert_false(leaves_something());
        assert_true(is_running(worker));
        if (access(image_path, F_OK) == 0)
            assert_int_equal(fixture_ctl(f, show, out, sizeof(out)), 0);
        else
            assert_int_not_equal(status, 0);
    }
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    assert_int_equal(kill(worker, SIGKILL), 0);
    (void)child_wait(worker);
    (void)close(fds[0]);
    (void)close(fds[1]);
    (void)printf("%u of 24 were ended\n", nended);
}

/* What a shell's ulimit -f does: SIGXFSZ would end a process that ignores nothing. */
static void file_that_may_not_grow_so_long_is_an_error_and_nothing_is_left(void **state)
{
    const struct rlimit limit = { 64 * KIB, RLIM_INFINITY };
    const struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
    const char *const save[] = { "--json", "save", image_path, NULL };
    fixture *f = *state;
    char out[600];

    seed = test_seed();
    assert_int_equal(child_run(f, build_random, &seed), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &unlimited), 0);
    assert_non_null(strstr(out, "File too large"));
    assert_int_equal(access(image_path, F_OK), -1);
    assert_false(leaves_something());
}

static void save_whose_directory_cannot_be_synced_says_that_the_image_is_there(void **state)
{
    const char *const save[] = { "--json", "save", image_path, NULL };
    const char *const show[] = { "image", image_path, NULL };
    fixture *f = *state;
    char out[2000];

    build_heap(f);
    fixture_preload(DIR_SYNC_MODULE_PATH);
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 1);
    fixture_preload(NULL);
    assert_non_null(strstr(out, "the heap is saved into"));
    assert_non_null(strstr(out, "its directory can't be synced (Input/output error)"));
    assert_false(leaves_something());
    assert_int_equal(fixture_ctl(f, show, out, sizeof(out)), 0);
}

/* As when the heap has ended between the copy and the end of its writing. */
static void copy_that_is_late_does_not_replace_what_the_heap_was_at_its_end(void **state)
{
    const char *const save[] = { "--json", "save", image_path, NULL };
    const uint64_t clean = IMAGE_CLEAN;
    const uint64_t copy = IMAGE_COPY;
    fixture *f = *state;
    image_header before;
    image_header after;
    char out[600];

    build_heap(f);
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    patch(image_path, &clean, sizeof(clean), IMAGE_MARK_OFF);
    before = header_of(image_path);
    assert_int_not_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "this copy is older"));
    after = header_of(image_path);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_false(leaves_something());
    patch(image_path, &copy, sizeof(copy), IMAGE_MARK_OFF);
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IMAGE_TEST(heap_is_saved_between_workers_that_come_and_go),
        IMAGE_TEST(save_is_refused_while_somebody_can_write_who_cannot_be_stopped),
        IMAGE_TEST(image_that_a_running_daemon_has_saved_is_a_copy),
        IMAGE_TEST(what_root_saves_into_the_directory_of_another_user_is_that_users),
        IMAGE_TEST(what_freed_objects_had_is_not_in_the_image),
        IMAGE_TEST(place_that_is_none_for_a_file_is_refused_before_anything_is_done),
        IMAGE_TEST(signal_in_the_midst_of_a_save_leaves_the_old_image_and_nothing_beside_it),
        IMAGE_TEST(signal_at_any_moment_of_a_save_leaves_nothing_beside_the_image),
        IMAGE_TEST(file_that_may_not_grow_so_long_is_an_error_and_nothing_is_left),
        IMAGE_TEST(save_whose_directory_cannot_be_synced_says_that_the_image_is_there),
        IMAGE_TEST(copy_that_is_late_does_not_replace_what_the_heap_was_at_its_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
