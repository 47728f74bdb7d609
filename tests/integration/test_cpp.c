/*
 * The headers for C++: programs that are started separately, by both compilers, and killed at random.
 *
 * What is asserted is in the programs (tests/cpp); here they are started, killed, and looked at from outside. The
 * second program is the same one, made by the other compiler if there is one; the third one is made with libc++. While
 * they are killed, daemons are killed, too, and the next ones take the heap over.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/support/clock.h"
#include "tests/support/fixture.h"

#define NJUGGLERS 3
#define NSTORMERS 3
#define LONG_MS   60000 /* what takes longer has failed */

/* Start a worker for a part; number and seed as it takes them. */
static pid_t start(const fixture *f, const char *program, const char *part, long number, uint64_t seed)
{
    char number_text[32];
    char seed_text[32];
    pid_t pid;

    (void)snprintf(number_text, sizeof(number_text), "%ld", number);
    (void)snprintf(seed_text, sizeof(seed_text), "%llu", (unsigned long long)seed);
    pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (setenv("GOALLOC_SOCKET", f->socket, 1) < 0)
            _exit(126);
        (void)execl(program, "worker", part, number_text, seed_text, (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    return pid;
}

static int run(const fixture *f, const char *program, const char *part, long number, uint64_t seed)
{
    return child_wait(start(f, program, part, number, seed));
}

/* Kill it, with the lock of something or without, and start another worker in its place. */
static void replace_one(const fixture *f, pid_t *pid, const char *program, const char *part, uint64_t seed)
{
    (void)kill(*pid, SIGKILL);
    assert_int_equal(child_wait(*pid), 1000 + SIGKILL); /* it has not complained before */
    *pid = start(f, program, part, 0, seed);
}

/* Now and then the next daemon takes the heap over from one that is killed; how many there were is counted. */
static void replace_daemon(fixture *f, uint64_t *random, unsigned *ndaemons)
{
    if (test_random(random) % 16 != 0)
        return;
    fixture_kill(f);
    (void)usleep((useconds_t)(test_random(random) % 20000));
    fixture_restart(f, NULL);
    (*ndaemons)++;
}

static void kill_all(const pid_t *pids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        (void)kill(pids[i], SIGKILL);
        assert_int_equal(child_wait(pids[i]), 1000 + SIGKILL);
    }
}

/* False if the worker ends, or does not come so far in time. */
static bool await_stats(fixture *f, pid_t pid, bool (*are_there)(const goalloc_stats_t *))
{
    int64_t until = clock_now_ms() + LONG_MS;
    siginfo_t ended = { 0 };
    goalloc_stats_t stats;

    for (fixture_stats(f, &stats); !are_there(&stats); fixture_stats(f, &stats)) {
        if (clock_now_ms() > until ||
            (waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid != 0))
            return false;
        (void)usleep(5000);
    }
    return true;
}

/* By turns the program of the one compiler and of the other. */
static const char *worker(uint64_t i)
{
#ifdef CPP_WORKER_OTHER_PATH
    return i % 2 == 0 ? CPP_WORKER_PATH : CPP_WORKER_OTHER_PATH;
#else
    (void)i;
    return CPP_WORKER_PATH;
#endif
}

static void headers_do_what_they_say(void **state)
{
    fixture *f = *state;

    assert_int_equal(run(f, worker(0), "api", 0, 0), 0);
    assert_int_equal(run(f, worker(1), "no-daemon", 0, 0), 0);
}

static void api_by_the_other_compiler(void **state)
{
    assert_int_equal(run(*state, worker(1), "api", 0, 0), 0);
}

static void constructor_that_throws_leaves_nothing(void **state)
{
    assert_int_equal(run(*state, worker(1), "throwing", 0, 0), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static void reclaiming_session_that_dies_leaves_what_is_shared(void **state)
{
    fixture *f = *state;

    assert_int_equal(run(f, worker(0), "reclaim", 0, 0), 1000 + SIGKILL);
    (void)fixture_live_with(f, 0);
    assert_int_equal(run(f, worker(1), "reclaim", 1, 0), 0);
    assert_true(fixture_is_clean(f, 1)); /* the ledger of the one that has died */
}

/* Two at a time do a part to all entries, each to its half. */
static void both_halves(const fixture *f, const char *part, long swapped)
{
    pid_t first = start(f, worker(0), part, swapped, 0);
    pid_t second = start(f, worker(1), part, 1 - swapped, 0);

    assert_int_equal(child_wait(first), 0);
    assert_int_equal(child_wait(second), 0);
}

static void map_that_two_programs_change_crosswise_has_what_both_say(void **state)
{
    fixture *f = *state;

    both_halves(f, "insert", 0);
    both_halves(f, "extend", 1); /* what the other one has made */
    both_halves(f, "erase", 1);
    assert_int_equal(run(f, worker(0), "verify", 0, 0), 0);
    assert_int_equal(run(f, worker(1), "verify", 1, 0), 0);
    assert_true(fixture_is_clean(f, 0));
}

static void mutex_event_and_containers_survive_kills_at_random(void **state)
{
    fixture *f = *state;
    uint64_t random = test_seed();
    int64_t until = clock_now_ms() + clock_test_ms(3000);
    pid_t stormers[NSTORMERS];
    pid_t calm;
    unsigned ndeaths = 0;
    unsigned ndaemons = 0;

    for (unsigned i = 0; i < NSTORMERS; i++)
        stormers[i] = start(f, worker(i), "storm", 0, test_random(&random));
    calm = start(f, worker(1), "calm", 50, 0);
    for (; clock_now_ms() < until; ndeaths++) {
        (void)usleep((useconds_t)(test_random(&random) % 20000));
        replace_one(f, &stormers[test_random(&random) % NSTORMERS], worker(ndeaths), "storm", test_random(&random));
        replace_daemon(f, &random, &ndaemons);
        if (ndeaths % 20 == 19) {
            assert_int_equal(child_wait(calm), 0);
            calm = start(f, worker(ndeaths), "calm", 50, 0);
        }
    }
    assert_int_equal(child_wait(calm), 0);
    kill_all(stormers, NSTORMERS);
    (void)printf("%u deaths, and %u daemons\n", ndeaths, ndaemons);
    assert_int_equal(run(f, worker(0), "calm", 0, 0), 0);
}

static void mutex_that_is_not_recovered_stops_all_with_an_error(void **state)
{
    fixture *f = *state;

    assert_int_equal(run(f, worker(0), "unrecovered", 0, 0), 1000 + SIGKILL);
    assert_int_equal(run(f, worker(1), "unrecovered", 1, 0), 0);
    assert_int_equal(run(f, worker(0), "unrecovered", 2, 0), 0);
}

static void references_of_the_dead_come_back(void **state)
{
    fixture *f = *state;
    uint64_t before;

    assert_int_equal(run(f, worker(0), "hold", 0, 0), 0); /* nothing is left but the root, and what was destroyed */
    before = fixture_live_with(f, 0);
    assert_int_equal(before, 1);
    assert_int_equal(run(f, worker(0), "hold", 10, 0), 1000 + SIGKILL);
    assert_int_equal(run(f, worker(1), "hold", 2000, 0), 1000 + SIGKILL); /* a ledger of several chunks */
    assert_int_equal(run(f, worker(1), "collect", 2, 3), 0);
    assert_true(fixture_is_clean(f, before + 1)); /* the collectors' mutex */
}

static bool there_are_two_roots(const goalloc_stats_t *stats)
{
    return stats->roots >= 2;
}

static void references_of_the_living_stay_when_the_daemon_is_replaced(void **state)
{
    fixture *f = *state;
    pid_t keeper = start(f, worker(0), "keep", 0, 0);

    assert_true(await_stats(f, keeper, there_are_two_roots)); /* the exhibits, and its ledger */
    assert_int_equal(run(f, worker(1), "hold", 5, 0), 1000 + SIGKILL);
    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_int_equal(run(f, worker(1), "collect", 1, 1), 0); /* the dead one's, not the keeper's */
    assert_int_equal(kill(keeper, SIGKILL), 0);
    assert_int_equal(child_wait(keeper), 1000 + SIGKILL); /* it has not complained */
    assert_int_equal(run(f, worker(0), "collect", 1, 2), 0);
    assert_true(fixture_is_clean(f, 2));
}

static void references_whose_type_is_unknown_wait_for_who_knows_it(void **state)
{
    fixture *f = *state;
    pid_t pid;

    assert_int_equal(run(f, worker(0), "hold", 10, 0), 1000 + SIGKILL);
    pid = fork();
    if (pid == 0) {
        if (setenv("GOALLOC_SOCKET", f->socket, 1) < 0)
            _exit(126);
        (void)execl(CPP_COLLECTOR_PATH, "collector", "10", (char *)NULL); /* not the weak ones, not the int */
        _exit(127);
    }
    assert_int_equal(child_wait(pid), 0);
    assert_int_equal(run(f, worker(1), "collect", 1, 1), 0);
    assert_true(fixture_is_clean(f, 2));
}

static void shared_objects_live_as_long_as_somebody_holds_them(void **state)
{
    fixture *f = *state;
    uint64_t random = test_seed();
    int64_t until = clock_now_ms() + clock_test_ms(3000);
    pid_t jugglers[NJUGGLERS];
    long ndeaths = NJUGGLERS;
    unsigned ndaemons = 0;

    for (unsigned i = 0; i < NJUGGLERS; i++)
        jugglers[i] = start(f, worker(i), "juggle", 0, test_random(&random));
    for (; clock_now_ms() < until; ndeaths++) {
        (void)usleep((useconds_t)(test_random(&random) % 20000));
        replace_one(f, &jugglers[test_random(&random) % NJUGGLERS], worker((uint64_t)ndeaths), "juggle",
                    test_random(&random));
        replace_daemon(f, &random, &ndaemons);
    }
    kill_all(jugglers, NJUGGLERS);
    (void)printf("%u daemons killed\n", ndaemons);
    assert_int_equal(run(f, worker(1), "recount", ndeaths, 0), 0);
}

static void references_are_never_too_few_after_a_death_at_any_instruction(void **state)
{
    fixture *f = *state;
    int status = run(f, worker(0), "steps", getenv("GOALLOC_TEST_ALL_STEPS") == NULL ? 50 : 0, test_seed());

    if (status == 77)
        skip(); /* the system allows no tracing */
    assert_int_equal(status, 0);
}

static void forked_child_has_references_of_its_own_alone(void **state)
{
    fixture *f = *state;

    assert_int_equal(run(f, worker(0), "fork", 0, 0), 0);
    assert_true(fixture_is_clean(f, 2)); /* the root, and the collectors' mutex */
}

static void root_whose_constructors_die_is_constructed_once(void **state)
{
    fixture *f = *state;
    pid_t racers[8];
    int ndead = 0;

    assert_int_equal(run(f, worker(0), "race", 3, 0), 0);
    for (unsigned i = 0; i < 8; i++)
        racers[i] = start(f, worker(i), "race", 0, 0);
    for (unsigned i = 0; i < 8; i++) {
        int status = child_wait(racers[i]);

        assert_true(status == 0 || status == 1000 + SIGKILL);
        ndead += status != 0;
    }
    assert_int_equal(ndead, 3);
    assert_int_equal(run(f, worker(0), "race-result", 4, 0), 0);
    assert_true(fixture_is_clean(f, 0));
}

static bool there_is_a_session(const goalloc_stats_t *stats)
{
    return stats->sessions > 0;
}

static void heap_events_tell_of_a_death(void **state)
{
    fixture *f = *state;
    pid_t watcher = start(f, worker(0), "watch", 0, 0);
    goalloc_stats_t stats;

    assert_true(await_stats(f, watcher, there_is_a_session));
    fixture_stats(f, &stats);
    for (int i = 0; i < 100 && stats.sessions != 0; i++) { /* until it listens, it is not told */
        assert_int_equal(run(f, worker(1), "hold", 1, 0), 1000 + SIGKILL);
        (void)usleep(20000);
        fixture_stats(f, &stats);
    }
    assert_int_equal(child_wait(watcher), 0);
}

static void programs_of_two_standard_libraries_are_told_of_each_other(void **state)
{
    fixture *f = *state;

    assert_int_equal(run(f, worker(0), "stranger", 0, 0), 0);
    assert_int_equal(run(f, worker(1), "stranger", 0, 0), 0);
#ifdef CPP_WORKER_LIBCXX_PATH
    assert_int_equal(run(f, CPP_WORKER_LIBCXX_PATH, "stranger", 0, 0), 3);
#else
    (void)printf("there is no libc++\n");
#endif
}

static void libcxx_does_the_same(void **state)
{
#ifdef CPP_WORKER_LIBCXX_PATH
    fixture *f = *state;

    assert_int_equal(run(f, CPP_WORKER_LIBCXX_PATH, "api", 0, 0), 0);
    assert_int_equal(run(f, CPP_WORKER_LIBCXX_PATH, "fork", 0, 0), 0);
#else
    (void)state;
    skip();
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(headers_do_what_they_say),
        FIXTURE_TEST(api_by_the_other_compiler),
        FIXTURE_TEST(constructor_that_throws_leaves_nothing),
        FIXTURE_TEST(reclaiming_session_that_dies_leaves_what_is_shared),
        FIXTURE_TEST(map_that_two_programs_change_crosswise_has_what_both_say),
        FIXTURE_TEST_KEPT(mutex_event_and_containers_survive_kills_at_random),
        FIXTURE_TEST(mutex_that_is_not_recovered_stops_all_with_an_error),
        FIXTURE_TEST(references_of_the_dead_come_back),
        FIXTURE_TEST_KEPT(references_of_the_living_stay_when_the_daemon_is_replaced),
        FIXTURE_TEST(references_whose_type_is_unknown_wait_for_who_knows_it),
        FIXTURE_TEST_KEPT(shared_objects_live_as_long_as_somebody_holds_them),
        FIXTURE_TEST(references_are_never_too_few_after_a_death_at_any_instruction),
        FIXTURE_TEST(forked_child_has_references_of_its_own_alone),
        FIXTURE_TEST(root_whose_constructors_die_is_constructed_once),
        FIXTURE_TEST(heap_events_tell_of_a_death),
        FIXTURE_TEST(programs_of_two_standard_libraries_are_told_of_each_other),
        FIXTURE_TEST(libcxx_does_the_same),
    };

    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    return cmocka_run_group_tests_name("cpp", tests, NULL, NULL);
}
