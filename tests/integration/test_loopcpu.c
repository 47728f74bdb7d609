/*
 * The daemon's loop goes to the CPU of a client that asks much, and nowhere for long if somebody lies about his.
 *
 * Where the loop is: the affinity of the daemon's first thread. Requests from a CPU are made by a connection that
 * says that CPU, and by a process that is bound to it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "daemon/serve/follow.h"
#include "tests/support/waits.h"

#define PATIENCE_MS (WAITS_HANG_S * 1000)
#define HOGS        8
#define ATTACK_MS   4000

/* Two CPUs that tests may use, in every test. */
static int cpus[2];
static cpu_set_t all_cpus;

static cpu_set_t only(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    return set;
}

/* The CPU that the loop is bound to; FOLLOW_ANY. */
static int loop_at(const fixture *f)
{
    cpu_set_t set;

    assert_int_equal(sched_getaffinity(f->daemon, sizeof(set), &set), 0);
    if (CPU_EQUAL(&set, &all_cpus))
        return FOLLOW_ANY;
    assert_int_equal(CPU_COUNT(&set), 1);
    return CPU_ISSET((size_t)cpus[0], &set) ? cpus[0] : cpus[1];
}

static uint32_t now_us(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint32_t)((uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000);
}

/* A request, and its reply, of a client that says that it is on that CPU (FOLLOW_ANY: says nothing). */
static void ping(int fd, int cpu)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping body = GOALLOCD__PING__INIT;
    Goallocd__Reply *reply;

    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_PING;
    request.ping = &body;
    request.cpu = (uint32_t)(cpu + 1);
    request.sent_us = cpu == FOLLOW_ANY ? 0 : now_us();
    reply = raw_call(fd, &request);
    assert_non_null(reply);
    goallocd__reply__free_unpacked(reply, NULL);
}

/* Ask until the loop is there. */
static void bring_to(const fixture *f, int fd, int cpu)
{
    int64_t end_ms = waits_now_ms() + PATIENCE_MS;

    while (loop_at(f) != cpu) {
        assert_true(waits_now_ms() < end_ms);
        ping(fd, cpu);
    }
}

static void must_become_free(const fixture *f)
{
    int64_t end_ms = waits_now_ms() + PATIENCE_MS;

    while (loop_at(f) != FOLLOW_ANY) {
        assert_true(waits_now_ms() < end_ms);
        waits_sleep_ms(1);
    }
}

/* --- it follows --- */

static int ask_from(const fixture *f, void *arg)
{
    const int *cpu = arg;
    cpu_set_t one = only(*cpu);
    int64_t end_ms = waits_now_ms() + PATIENCE_MS;
    cpu_set_t at;

    CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
    waits_start(f, 5000);
    do {
        void *p;

        CHECK(goalloc_root_get("none", &p) < 0);
        CHECK(sched_getaffinity(f->daemon, sizeof(at), &at) == 0);
    } while (!CPU_EQUAL(&at, &one) && waits_now_ms() < end_ms);
    CHECK(CPU_EQUAL(&at, &one));
    return goalloc_detach() < 0;
}

static void loop_with_one_client_goes_to_its_cpu_and_is_free_when_it_is_idle(void **state)
{
    const fixture *f = *state;

    for (int i = 0; i < 4; i++) {
        assert_int_equal(child_run(f, ask_from, &cpus[i % 2]), 0);
        must_become_free(f);
    }
    assert_true(fixture_is_clean(f, 0));
}

static void loop_with_requests_from_two_cpus_is_free(void **state)
{
    const fixture *f = *state;
    int fd = raw_connect(f);

    for (int i = 0; i < 3; i++) {
        bring_to(f, fd, cpus[0]);
        for (int n = 0; n < 200; n++) {
            ping(fd, n % 2 == 0 ? (i == 2 ? FOLLOW_ANY : cpus[1]) : cpus[0]);
            if (n > 0) /* the turn with the first one may not have ended yet */
                assert_int_equal(loop_at(f), FOLLOW_ANY);
        }
    }
    (void)close(fd);
}

static void loop_with_a_client_on_no_cpu_stays_free(void **state)
{
    const fixture *f = *state;
    static const int nowhere[] = { CPU_SETSIZE - 1, CPU_SETSIZE, CPU_SETSIZE + 1, INT32_MAX - 1, -2 };
    int fd = raw_connect(f);

    for (size_t i = 0; i < sizeof(nowhere) / sizeof(*nowhere); i++) {
        for (int n = 0; n < 20; n++, waits_sleep_ms(1)) {
            ping(fd, nowhere[i]);
            assert_int_equal(loop_at(f), FOLLOW_ANY);
        }
    }
    bring_to(f, fd, cpus[1]);
    (void)close(fd);
}

static void loop_that_was_bound_by_others_stays_there(void **state)
{
    const fixture *f = *state;
    cpu_set_t one = only(cpus[1]);
    int fd = raw_connect(f);

    bring_to(f, fd, cpus[0]);
    must_become_free(f);
    assert_int_equal(sched_setaffinity(f->daemon, sizeof(one), &one), 0);
    for (int n = 0; n < 300; n++, waits_sleep_ms(1)) {
        ping(fd, cpus[0]);
        assert_int_equal(loop_at(f), cpus[1]);
    }
    assert_int_equal(sched_setaffinity(f->daemon, sizeof(all_cpus), &all_cpus), 0);
    bring_to(f, fd, cpus[0]);
    (void)close(fd);
}

/* --- and nobody else does --- */

/* All threads of the daemon but the loop's have the whole mask, and no priority. Returns how many they are. */
static unsigned check_other_threads(const fixture *f)
{
    unsigned n = 0;
    char path[64];
    DIR *dir;

    (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)f->daemon);
    dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        pid_t tid = (pid_t)atoi(entry->d_name);
        cpu_set_t set;
        int nice;

        if (tid <= 0 || tid == f->daemon)
            continue;
        errno = 0;
        nice = getpriority(PRIO_PROCESS, (id_t)tid);
        if (errno == ESRCH || sched_getaffinity(tid, sizeof(set), &set) < 0)
            continue; /* it has ended */
        assert_true(CPU_EQUAL(&set, &all_cpus));
        assert_int_equal(nice, getpriority(PRIO_PROCESS, 0));
        n++;
    }
    (void)closedir(dir);
    return n;
}

/* Memory that the thread pool has to make ready. */
static int allocate_much(const fixture *f, void *arg)
{
    (void)arg;
    waits_start(f, 5000);
    for (int i = 0; i < 8; i++) {
        void *p = goalloc_malloc(16 * MIB);

        CHECK(p != NULL);
        goalloc_free(p);
    }
    return goalloc_detach() < 0;
}

static void loop_that_is_bound_leaves_other_threads_alone(void **state)
{
    const fixture *f = *state;
    int fd = raw_connect(f);

    for (int i = 0; i < 4; i++) {
        pid_t pid;

        bring_to(f, fd, cpus[i % 2]);
        assert_true(check_other_threads(f) > 0);
        pid = child_start(f, allocate_much, NULL);
        for (int n = 0; n < 100; n++)
            ping(fd, cpus[i % 2]);
        assert_int_equal(child_wait(pid), 0);
        assert_true(check_other_threads(f) > 0);
    }
    (void)close(fd);
}

/* True if this process may go before others. */
static bool may_go_first(void)
{
    pid_t pid = fork();
    int status = 1;

    if (pid == 0)
        _exit(setpriority(PRIO_PROCESS, 0, -5) < 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status == 0;
}

static void loop_goes_before_others_if_it_may_and_what_it_starts_does_not(void **state)
{
    const fixture *f = *state;
    int mine = getpriority(PRIO_PROCESS, 0);

    assert_int_equal(child_run(f, allocate_much, NULL), 0);
    assert_int_equal(getpriority(PRIO_PROCESS, (id_t)f->daemon), mine == 0 && may_go_first() ? -5 : mine);
    assert_true(check_other_threads(f) > 0);
    assert_int_equal(getpriority(PRIO_PROCESS, (id_t)fixture_keeper(f)), mine);
}

static void loop_that_is_bound_makes_a_keeper_that_is_not(void **state)
{
    const fixture *f = *state;
    int fd = raw_connect(f);

    for (int i = 0; i < 4; i++) {
        pid_t old = fixture_keeper(f);
        int64_t end_ms = waits_now_ms() + PATIENCE_MS;
        cpu_set_t set;
        pid_t keeper;

        bring_to(f, fd, cpus[0]);
        assert_true(fixture_kill_keeper(f));
        while ((keeper = fixture_keeper(f)) == 0 || keeper == old) {
            assert_true(waits_now_ms() < end_ms);
            ping(fd, cpus[0]);
        }
        assert_int_equal(sched_getaffinity(keeper, sizeof(set), &set), 0);
        assert_true(CPU_EQUAL(&set, &all_cpus));
    }
    (void)close(fd);
}

/* --- where it is forbidden --- */

/* From now on, in this process and all that it makes, sched_setaffinity() answers EPERM. */
static void forbid(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sched_setaffinity, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof(filter) / sizeof(*filter), filter };

    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static int serve_where_it_is_forbidden(const fixture *unused, void *arg)
{
    static const char *const options[] = { "--log-level", "debug", NULL };
    int64_t end_ms = waits_now_ms() + PATIENCE_MS;
    fixture f;
    int fd;

    (void)unused;
    (void)arg;
    forbid();
    fixture_start(&f, options);
    fd = raw_connect(&f);
    while (!fixture_log_has(&f, "the loop does not follow its clients' CPUs: Operation not permitted")) {
        CHECK(waits_now_ms() < end_ms);
        ping(fd, cpus[0]);
    }
    for (int n = 0; n < 300; n++) {
        ping(fd, cpus[0]);
        CHECK(loop_at(&f) == FOLLOW_ANY);
    }
    (void)close(fd);
    return !fixture_stop(&f);
}

static void loop_that_may_not_be_bound_serves_as_ever(void **state)
{
    (void)state;
    assert_int_equal(child_run(NULL, serve_where_it_is_forbidden, NULL), 0);
}

/* --- a liar --- */

/* Keeps a CPU busy. */
__attribute__((noreturn)) static int hog(const fixture *f, void *arg)
{
    const int *cpu = arg;
    cpu_set_t one = only(*cpu);

    (void)f;
    waits_not_for_ever();
    CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
    for (;;)
        ;
}

/* Says without end that it is on a CPU, and is on another one. */
__attribute__((noreturn)) static int lie(const fixture *f, void *arg)
{
    const int *cpu = arg;
    int fd = raw_connect(f);

    waits_not_for_ever();
    for (;;)
        ping(fd, *cpu);
}

/* How often the daemon says that it was late, and how long it has paused after each time but the last. */
static unsigned count_pauses(const fixture *f, int64_t *ret_ms)
{
    FILE *log = fopen(f->log, "r");
    int64_t last_ms = 0;
    unsigned n = 0;
    char line[256];

    assert_non_null(log);
    for (*ret_ms = 0; fgets(line, sizeof(line), log) != NULL;) {
        const char *found = strstr(line, "no CPU is followed for ");

        if (found == NULL)
            continue;
        *ret_ms += last_ms;
        last_ms = atoll(found + strlen("no CPU is followed for "));
        n++;
    }
    (void)fclose(log);
    return n;
}

/*
 * A liar brings the loop to a CPU that many others use. The honest client comes seldom enough that the liar can bring
 * the loop there again each time. How late it is then is the kernel's business; how often is ours.
 */
static void loop_with_a_liar_is_late_once_a_pause(void **state)
{
    const fixture *f = *state;
    int64_t begin_ms = waits_now_ms();
    int64_t paused_ms;
    pid_t pids[HOGS + 1];
    unsigned npauses;
    int fd = raw_connect(f);

    for (int i = 0; i < HOGS; i++)
        pids[i] = child_start(f, hog, &cpus[0]);
    pids[HOGS] = child_start(f, lie, &cpus[0]);
    while (waits_now_ms() < begin_ms + ATTACK_MS) {
        ping(fd, cpus[1]);
        waits_sleep_ms(5);
    }
    for (int i = 0; i <= HOGS; i++) {
        assert_int_equal(kill(pids[i], SIGKILL), 0);
        (void)child_wait(pids[i]);
    }
    npauses = count_pauses(f, &paused_ms);
    print_message("late %u times\n", npauses);
    assert_true(paused_ms <= waits_now_ms() - begin_ms);
    assert_true(npauses <= 1 || paused_ms >= FOLLOW_PAUSE_MS * (npauses - 1));
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(loop_with_one_client_goes_to_its_cpu_and_is_free_when_it_is_idle),
        FIXTURE_TEST(loop_with_requests_from_two_cpus_is_free),
        FIXTURE_TEST(loop_with_a_client_on_no_cpu_stays_free),
        FIXTURE_TEST(loop_that_was_bound_by_others_stays_there),
        FIXTURE_TEST(loop_that_is_bound_leaves_other_threads_alone),
        FIXTURE_TEST_KEPT(loop_goes_before_others_if_it_may_and_what_it_starts_does_not),
        FIXTURE_TEST_KEPT(loop_that_is_bound_makes_a_keeper_that_is_not),
        cmocka_unit_test(loop_that_may_not_be_bound_serves_as_ever),
        FIXTURE_TEST_WITH(loop_with_a_liar_is_late_once_a_pause, "--log-level", "debug"),
    };
    int n = 0;

    if (sched_getaffinity(0, sizeof(all_cpus), &all_cpus) < 0 || CPU_COUNT(&all_cpus) < 2) {
        print_message("skipped: there is one CPU\n");
        return 0;
    }
    for (int cpu = 0; cpu < CPU_SETSIZE && n < 2; cpu++) {
        if (CPU_ISSET((size_t)cpu, &all_cpus))
            cpus[n++] = cpu;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
