/*
 * The debug variant of the library: what it finds, alone, for AddressSanitizer and under Valgrind; and that it finds
 * nothing where nothing is wrong, whatever other processes do with its objects and its spans (support/debug_worker.c).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/support/attach.h"

#define ASAN_BASE "0x200000000000" /* README.md of client: what each of them takes */
#define VALGRIND_BASE "0x800000000"
#define VALGRIND_SIZE "16G"

#define LOOKS_MAX 12000 /* every 5 ms: a minute */

/* How a worker runs: from KIND_OFF on with the debug variant. */
enum kind {
    KIND_NORMAL,   /* with the library that is linked */
    KIND_SWITCHED, /* the same, with GOALLOC_DEBUG=1, which it can't do */
    KIND_OFF,      /* the debug variant, without GOALLOC_DEBUG */
    KIND_DEBUG,    /* with it, as those that follow */
    KIND_ASAN,     /* compiled with AddressSanitizer */
    KIND_VALGRIND, /* below Valgrind */
};

#ifndef DEBUG_WORKER_ASAN_PATH
#define DEBUG_WORKER_ASAN_PATH ""
#endif
#ifndef VALGRIND_PATH
#define VALGRIND_PATH ""
#endif

static bool have(enum kind kind)
{
    return (kind != KIND_ASAN || access(DEBUG_WORKER_ASAN_PATH, X_OK) == 0) &&
           (kind != KIND_VALGRIND || access(VALGRIND_PATH, X_OK) == 0);
}

static void skip_without(enum kind kind)
{
    if (have(kind))
        return;
    (void)printf("%s is not there\n", kind == KIND_ASAN ? "AddressSanitizer" : "Valgrind");
    skip();
}

/* --- workers --- */

__attribute__((noreturn)) static void exec_worker(const fixture *f, enum kind kind, const char *what, unsigned number)
{
    const char *argv[8] = { NULL };
    int argc = 0;
    char text[16];

    (void)snprintf(text, sizeof(text), "%u", number);
    if (kind == KIND_VALGRIND) {
        argv[argc++] = VALGRIND_PATH;
        argv[argc++] = "--quiet";
        argv[argc++] = "--leak-check=no";
        argv[argc++] = "--error-exitcode=99";
    }
    argv[argc++] = kind == KIND_ASAN ? DEBUG_WORKER_ASAN_PATH : DEBUG_WORKER_PATH;
    argv[argc++] = what;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)unsetenv("LD_PRELOAD"); /* the sanitizer would come first */
    if (setenv("GOALLOC_SOCKET", f->socket, 1) < 0 || setenv("DEBUG_WORKER_NUMBER", text, 1) < 0 ||
        setenv("ASAN_OPTIONS", "exitcode=98:detect_leaks=0", 1) < 0 ||
        setenv("DEBUG_WORKER_STEPS", kind == KIND_VALGRIND ? "400" : "6000", 1) < 0)
        _exit(126);
    if (kind >= KIND_OFF && setenv("LD_LIBRARY_PATH", DEBUG_LIBRARY_DIR, 1) < 0)
        _exit(126);
#ifdef GOALLOC_TESTS_EMULATED /* an old rpath comes before that path */
    if (kind >= KIND_OFF && setenv("LD_PRELOAD", DEBUG_LIBRARY_DIR "/libgoalloc.so.1", 1) < 0)
        _exit(126);
#endif
    if (kind != KIND_NORMAL && kind != KIND_OFF && setenv("GOALLOC_DEBUG", "1", 1) < 0)
        _exit(126);
    (void)execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

typedef struct worker {
    pid_t pid;
    FILE *from; /* what it tells on stdout */
    FILE *to;
} worker;

/* Start a worker; what it says on stderr is appended to f->dir/said. */
static worker start(const fixture *f, enum kind kind, const char *what, unsigned number)
{
    char path[128];
    int from[2];
    int to[2];
    worker w;

    (void)snprintf(path, sizeof(path), "%s/said", f->dir);
    CHECK(pipe2(from, O_CLOEXEC) == 0 && pipe2(to, O_CLOEXEC) == 0);
    (void)fflush(stdout);
    w.pid = fork();
    CHECK(w.pid >= 0);
    if (w.pid == 0) {
        int said = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

        if (said < 0 || dup2(said, STDERR_FILENO) < 0 || dup2(from[1], STDOUT_FILENO) < 0 ||
            dup2(to[0], STDIN_FILENO) < 0)
            _exit(126);
        exec_worker(f, kind, what, number);
    }
    (void)close(from[1]);
    (void)close(to[0]);
    w.from = fdopen(from[0], "re");
    w.to = fdopen(to[1], "we");
    CHECK(w.from != NULL && w.to != NULL);
    return w;
}

static int finish(worker *w)
{
    int status = child_wait(w->pid);

    (void)fclose(w->from);
    (void)fclose(w->to);
    return status;
}

/* All that workers have said on stderr since the last time. */
static void take_said(const fixture *f, char *ret, size_t size)
{
    char path[128];
    size_t n = 0;
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s/said", f->dir);
    file = fopen(path, "re");
    if (file != NULL) {
        n = fread(ret, 1, size - 1, file);
        (void)fclose(file);
        (void)unlink(path);
    }
    ret[n] = '\0';
}

/* Run a case to its end. Returns its status; what it has said is in ret. */
static int run(const fixture *f, enum kind kind, const char *what, char *ret, size_t size)
{
    worker w = start(f, kind, what, 0);
    int status = finish(&w);

    take_said(f, ret, size);
    return status;
}

static void must_be_quiet(const fixture *f)
{
    char said[8192];

    take_said(f, said, sizeof(said));
    if (said[0] != '\0')
        fail_msg("a worker has said: %s", said);
}

static void must_go_through(const fixture *f, enum kind kind, const char *what)
{
    char said[8192];
    int status = run(f, kind, what, said, sizeof(said));

    if (status != 0 || said[0] != '\0')
        fail_msg("%s has ended with %d, and said: %s", what, status, said);
}

/* --- what is found --- */

typedef struct expectation {
    const char *what;
    const char *says; /* part of what is said */
} expectation;

static void must_be_found(const fixture *f, enum kind kind, const expectation *expected, size_t n, int status)
{
    for (size_t i = 0; i < n; i++) {
        char said[8192];
        int ended = run(f, kind, expected[i].what, said, sizeof(said));

        if (ended != status || strstr(said, expected[i].says) == NULL)
            fail_msg("%s has ended with %d and not %d, and said: %s", expected[i].what, ended, status, said);
    }
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void debug_variant_reports_what_is_wrong_and_aborts(void **state)
{
    static const expectation expected[] = {
        { "overflow", "goalloc_free(): 0x" },
        { "overflow",
          "red zone overwritten: byte 0 behind the end of this object of 40 bytes (size class 64) is 0x78" },
        { "overflow_into_stamp", "byte 0 behind the end of this object of 48 bytes (size class 64) is 0x78" },
        { "overflow_of_a_run", "byte 0 behind the end of this object of 100000 bytes" },
        { "overflow_of_a_large_object", "byte 0 behind the end of this object of 2000000 bytes" },
        { "overflow_found_by_free_checked", "goalloc_free_checked(): 0x" },
        { "overflow_found_by_realloc", "byte 1 behind the end of this object of 10 bytes" },
        { "overflow_found_by_unlink", "goalloc_unlink_free(): 0x" },
        { "underflow", "byte 15 behind the end of this object of 32 bytes (size class 48) is 0x78" },
        { "late_write", "written after free: byte 8 of this place (size class 80) is 0x78" },
        { "late_write_to_a_run", "written after free: byte 8 of this place" },
        { "double_free", "double free" },
        { "inner_free", "inside an object" },
    };

    must_be_found(*state, KIND_DEBUG, expected, COUNT(expected), 1000 + SIGABRT);
}

static void sanitizer_reports_what_the_variant_forbids(void **state)
{
    static const expectation expected[] = {
        { "overflow", "use-after-poison" },  { "overflow_of_a_run", "use-after-poison" },
        { "underflow", "use-after-poison" }, { "late_write", "use-after-poison" },
        { "late_read", "READ of size 1" },   { "read_behind", "READ of size 1" },
    };

    skip_without(KIND_ASAN);
    must_be_found(*state, KIND_ASAN, expected, COUNT(expected), 98);
}

static void valgrind_reports_what_the_variant_forbids(void **state)
{
    static const expectation expected[] = {
        { "late_read", "is 0 bytes inside a block of size 40 free'd" },
        { "read_behind", "is 0 bytes after a block of size 40 alloc'd" },
    };

    skip_without(KIND_VALGRIND);
    must_be_found(*state, KIND_VALGRIND, expected, COUNT(expected), 99);
}

static void goalloc_debug_in_the_normal_library_says_so_in_a_line(void **state)
{
    char said[8192];

    assert_int_equal(run(*state, KIND_SWITCHED, "overflow", said, sizeof(said)), 1); /* to the end */
    assert_non_null(strstr(said, "goalloc: GOALLOC_DEBUG=1 checks nothing in this library"));
    assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
    assert_int_equal(run(*state, KIND_NORMAL, "overflow", said, sizeof(said)), 1);
    assert_string_equal(said, "");
    assert_int_equal(run(*state, KIND_OFF, "overflow", said, sizeof(said)), 1);
    assert_string_equal(said, "");
}

/* --- what is right --- */

static void go_through(const fixture *f, enum kind kind)
{
    if (kind != KIND_VALGRIND) /* many bytes */
        must_go_through(f, kind, "promises");
    must_go_through(f, kind, "churn");
    must_go_through(f, kind, "forks");
    if (kind != KIND_VALGRIND) /* which runs one thread at a time, and long */
        must_go_through(f, kind, "trims");
}

static void debug_variant_keeps_the_promises_of_the_api(void **state)
{
    go_through(*state, KIND_DEBUG);
    go_through(*state, KIND_OFF);
    assert_true(fixture_is_clean(*state, 0));
}

static void sanitizer_reports_nothing_that_is_right(void **state)
{
    skip_without(KIND_ASAN);
    go_through(*state, KIND_ASAN);
}

static void valgrind_reports_nothing_that_is_right(void **state)
{
    skip_without(KIND_VALGRIND);
    go_through(*state, KIND_VALGRIND);
}

/* --- with others: this side is a process with the normal library --- */

#define SHARED_OBJECTS 3000 /* as in debug_worker.c */
#define NO_TRIAL       3    /* the same */
#define TRIALS_MAX     20

static void tell(worker *w, const void *p)
{
    (void)fprintf(w->to, "%llx\n", (unsigned long long)(uintptr_t)p);
    (void)fflush(w->to);
}

static unsigned char *hear(worker *w)
{
    unsigned long long at = 0;

    CHECK(fscanf(w->from, "%llx", &at) == 1);
    return (unsigned char *)(uintptr_t)at;
}

/* What the worker's cases say: objects in its old places, then its objects, resized and written to the end. */
static int share(const fixture *f, enum kind kind, const char *what)
{
    worker w = start(f, kind, what, 0);
    char output[256];
    int status;

    must_attach(f, 0);
    CHECK(hear(&w) == NULL);
    CHECK(fixture_ctl(f, (const char *[]){ "trim", NULL }, output, sizeof(output)) == 0); /* what is offered goes */
    for (int i = 0; i < SHARED_OBJECTS; i++) {
        unsigned char *p = goalloc_malloc(120); /* of the same size class */

        memset(p, 1, goalloc_usable_size(p));
        tell(&w, p);
    }
    tell(&w, NULL);
    for (int i = 0; i < SHARED_OBJECTS; i++) {
        unsigned char *p = hear(&w);

        CHECK(goalloc_usable_size(p) == 100);
        if (i % 4 == 0)
            CHECK(goalloc_realloc(p, 90) == p && goalloc_usable_size(p) == 100);
        else if (i % 4 == 1) /* 116 would fit the place */
            CHECK((p = goalloc_realloc(p, 105)) != NULL && goalloc_usable_size(p) >= 105);
        memset(p, 2, goalloc_usable_size(p));
        goalloc_free(p);
    }
    CHECK(hear(&w) == NULL);
    tell(&w, NULL);
    status = finish(&w);
    CHECK(status == 0 || status == NO_TRIAL);
    return status;
}

static int share_given_back(const fixture *f, void *arg)
{
    return share(f, *(enum kind *)arg, "shares");
}

static int share_offered(const fixture *f, void *arg)
{
    return share(f, *(enum kind *)arg, "offers");
}

/* While the daemon is busy with the pages that have come back, an object may get others. */
static void share_until_places_meet(const fixture *f, enum kind kind, child_fn body)
{
    int status = NO_TRIAL;

    for (int i = 0; i < TRIALS_MAX && status == NO_TRIAL; i++) {
        status = child_run(f, body, &kind);
        must_be_quiet(f); /* what it has said is why */
    }
    assert_int_equal(status, 0);
}

static void share_with(const fixture *f, enum kind kind)
{
    skip_without(kind);
    share_until_places_meet(f, kind, share_given_back);
    share_until_places_meet(f, kind, share_offered);
    assert_true(fixture_is_clean(f, 0));
}

static void objects_shared_with_a_normal_process_are_no_errors(void **state)
{
    share_with(*state, KIND_DEBUG);
}

static void objects_shared_with_a_normal_process_are_no_errors_to_the_sanitizer(void **state)
{
    share_with(*state, KIND_ASAN);
}

static void objects_shared_with_a_normal_process_are_no_errors_to_valgrind(void **state)
{
    share_with(*state, KIND_VALGRIND);
}

/* The stamp of a process counts as long as its lease, and is nothing afterwards. */
static int outlive(const fixture *f, void *arg)
{
    worker w = start(f, KIND_DEBUG, "dies", 0);
    unsigned char *p = hear(&w);
    size_t usable;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_usable_size(p) == 100);
    (void)kill(w.pid, SIGKILL);
    CHECK(finish(&w) == 1000 + SIGKILL);
    for (int i = 0; i < LOOKS_MAX && goalloc_usable_size(p) == 100; i++)
        (void)usleep(5000);
    usable = goalloc_usable_size(p);
    CHECK(usable >= 116 && goalloc_realloc(p, usable) == p);
    memset(p, 3, usable);
    w = start(f, KIND_DEBUG, "frees", 0);
    tell(&w, p);
    tell(&w, NULL);
    CHECK(finish(&w) == 0);
    return 0;
}

static void stamp_of_a_dead_process_is_no_red_zone(void **state)
{
    assert_int_equal(child_run(*state, outlive, NULL), 0);
    must_be_quiet(*state);
    assert_true(fixture_is_clean(*state, 0));
}

/* An overflow that leaves the stamp whole is found by another process that frees the object. */
static int damage(const fixture *f, void *arg)
{
    worker maker = start(f, KIND_DEBUG, "dies", 0);
    worker other = start(f, KIND_DEBUG, "frees", 0);
    unsigned char *p = hear(&maker);
    bool whole = *(bool *)arg;

    must_attach(f, 0);
    p[100] = 'x'; /* size class 128, so the stamp is at 112 */
    if (!whole)
        p[127] = 'x';
    tell(&other, p);
    tell(&other, NULL);
    CHECK(finish(&other) == (whole ? 1000 + SIGABRT : 0));
    (void)kill(maker.pid, SIGKILL);
    CHECK(finish(&maker) == 1000 + SIGKILL);
    return 0;
}

static void overflow_in_another_process_is_found_by_who_frees(void **state)
{
    char said[8192];
    bool whole = true;

    assert_int_equal(child_run(*state, damage, &whole), 0);
    take_said(*state, said, sizeof(said));
    assert_non_null(strstr(said, "byte 0 behind the end of this object of 100 bytes (size class 128) is 0x78"));
    whole = false;
    assert_int_equal(child_run(*state, damage, &whole), 0);
    must_be_quiet(*state);
}

/* --- the storm --- */

#define STORM_ENTRIES 256 /* as in debug_worker.c */
#define STORM_WORKERS 8
#define STORM_KILLS 3 /* of each; of workers with Valgrind, which takes its time to start, one */

typedef struct storm_table {
    unsigned char *_Atomic entries[STORM_ENTRIES];
    uint64_t _Atomic nsteps[STORM_WORKERS];
} storm_table;

/* Wait until worker i has done some more steps. */
static void await_steps(storm_table *table, unsigned i, uint64_t more)
{
    uint64_t from = atomic_load(&table->nsteps[i]);

    for (int n = 0; n < LOOKS_MAX && atomic_load(&table->nsteps[i]) < from + more; n++)
        (void)usleep(5000);
    CHECK(atomic_load(&table->nsteps[i]) >= from + more);
}

/* Workers of those kinds hand objects on; they are killed in turn, and others come for them. */
static int storm(const fixture *f, void *arg)
{
    const enum kind *kinds = arg;
    worker workers[STORM_WORKERS];
    storm_table *table;
    unsigned n = 0;
    void *root;

    must_attach(f, 0);
    CHECK(goalloc_root_get_or_create("storm", sizeof(*table), 1, NULL, NULL, &root, NULL) == 0);
    table = root;
    for (; kinds[n] != KIND_OFF; n++)
        workers[n] = start(f, kinds[n], "storms", n);
    for (unsigned i = 0; i < STORM_KILLS * n; i++) {
        unsigned at = i % n;

        if (kinds[at] == KIND_VALGRIND && i >= n)
            continue;
        await_steps(table, at, 30);
        (void)kill(workers[at].pid, SIGKILL);
        CHECK(finish(&workers[at]) == 1000 + SIGKILL);
        workers[at] = start(f, kinds[at], "storms", at);
    }
    for (unsigned i = 0; i < n; i++)
        await_steps(table, i, 100);
    for (unsigned i = 0; i < n; i++) {
        int status;

        (void)kill(workers[i].pid, SIGTERM);
        status = finish(&workers[i]);
        if (status != 0)
            (void)fprintf(stderr, "worker %u has ended with %d\n", i, status);
        CHECK(status == 0);
    }
    return 0;
}

static void storm_of(const fixture *f, enum kind *kinds)
{
    int status = child_run(f, storm, kinds);

    must_be_quiet(f);
    assert_int_equal(status, 0);
}

static void storm_of_debug_and_normal_processes_has_no_reports(void **state)
{
    enum kind kinds[] = { KIND_DEBUG, KIND_NORMAL, KIND_DEBUG, KIND_OFF };

    storm_of(*state, kinds);
}

static void storm_with_the_sanitizer_has_no_reports(void **state)
{
    enum kind kinds[] = { KIND_ASAN, KIND_NORMAL, KIND_DEBUG, KIND_ASAN, KIND_OFF };

    skip_without(KIND_ASAN);
    storm_of(*state, kinds);
}

static void storm_with_valgrind_has_no_reports(void **state)
{
    enum kind kinds[] = { KIND_NORMAL, KIND_VALGRIND, KIND_DEBUG, KIND_OFF };

    skip_without(KIND_VALGRIND);
    storm_of(*state, kinds);
}

#define WITH_ASAN(name) FIXTURE_TEST_WITH(name, "--base", ASAN_BASE)
#define WITH_VALGRIND(name) FIXTURE_TEST_WITH(name, "--base", VALGRIND_BASE, "--reserve", VALGRIND_SIZE)

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN); /* a worker that has found a mistake hears nothing any more */

    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(debug_variant_reports_what_is_wrong_and_aborts),
        WITH_ASAN(sanitizer_reports_what_the_variant_forbids),
        WITH_VALGRIND(valgrind_reports_what_the_variant_forbids),
        FIXTURE_TEST(goalloc_debug_in_the_normal_library_says_so_in_a_line),
        FIXTURE_TEST(debug_variant_keeps_the_promises_of_the_api),
        WITH_ASAN(sanitizer_reports_nothing_that_is_right),
        WITH_VALGRIND(valgrind_reports_nothing_that_is_right),
        FIXTURE_TEST(objects_shared_with_a_normal_process_are_no_errors),
        WITH_ASAN(objects_shared_with_a_normal_process_are_no_errors_to_the_sanitizer),
        WITH_VALGRIND(objects_shared_with_a_normal_process_are_no_errors_to_valgrind),
        FIXTURE_TEST(stamp_of_a_dead_process_is_no_red_zone),
        FIXTURE_TEST(overflow_in_another_process_is_found_by_who_frees),
        FIXTURE_TEST(storm_of_debug_and_normal_processes_has_no_reports),
        WITH_ASAN(storm_with_the_sanitizer_has_no_reports),
        WITH_VALGRIND(storm_with_valgrind_has_no_reports),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
