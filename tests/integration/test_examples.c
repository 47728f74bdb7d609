/*
 * The programs of tests/examples while their processes and the daemon are killed at random, and what they are made of.
 *
 * Some seconds each; GOALLOC_TEST_SECONDS makes it longer. The programs check themselves: nothing is lost, nothing is
 * there twice. Here it is checked that no more objects are left than each process may lose: the pool's none, the
 * others' one; and that the index of words is the same as one that nobody has disturbed, or that was saved and loaded.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/examples/event.h"
#include "tests/examples/robust.h"
#include "tests/examples/tagged_stack.h"
#include "tests/support/attach.h"
#include "tests/support/clock.h"

#define WORDS_DIR GOALLOC_SOURCE_DIR "/client" /* what is indexed */

/* --- the programs --- */

static void output_path(const fixture *f, char *ret, size_t size)
{
    (void)snprintf(ret, size, "%s/output", f->dir);
}

static off_t output_bytes(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? st.st_size : 0;
}

/* Start an example; what it says goes to a file. It says its seed when signals don't end it any more. */
static pid_t start_example(const fixture *f, uint64_t *random, const char *name, const char *option, const char *value)
{
    char path[256];
    char output[128];
    char seed[32];
    off_t before;
    pid_t pid;

    (void)snprintf(path, sizeof(path), "%s/%s", EXAMPLES_DIR, name);
    (void)snprintf(seed, sizeof(seed), "%llu", (unsigned long long)(test_random(random) | 1));
    output_path(f, output, sizeof(output));
    before = output_bytes(output);
    pid = fork();
    if (pid == 0) {
        int fd = open(output, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0 || setenv("GOALLOC_SOCKET", f->socket, 1) < 0)
            _exit(126);
        (void)execl(path, name, "--kill-every", "5", "--seed", seed, option, value, (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    for (int i = 0; i < 4000 && output_bytes(output) == before; i++)
        (void)usleep(5000);
    assert_true(output_bytes(output) > before);
    return pid;
}

static void await_sessions(const fixture *f, bool some)
{
    goalloc_stats_t stats;

    for (int i = 0; i < 4000; i++, (void)usleep(5000)) {
        fixture_stats(f, &stats);
        if ((stats.sessions > 0) == some)
            return;
    }
    fail_msg("%s", some ? "the example has not attached" : "sessions are left");
}

/* The last number before a noun, such as " processes", in what the example has said; 0: there is none. */
static uint64_t number_said(const fixture *f, const char *noun, bool shows)
{
    char path[128];
    char line[512];
    uint64_t ret = 0;
    FILE *file;

    output_path(f, path, sizeof(path));
    file = fopen(path, "re");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        char *at = strstr(line, noun);

        if (shows)
            (void)fputs(line, stdout);
        for (; at != NULL && at > line && at[-1] != ' '; at--)
            ;
        if (at != NULL)
            ret = strtoull(at, NULL, 10);
    }
    (void)fclose(file);
    return ret;
}

/* Tell the example to end. It must find all right, and leave no more objects than so many a process. */
static void end_example(const fixture *f, pid_t pid, uint64_t may_lose)
{
    goalloc_stats_t stats;
    uint64_t nprocesses;
    int status;

    (void)kill(pid, SIGTERM);
    status = child_wait(pid);
    nprocesses = number_said(f, " processes", true);
    assert_int_equal(status, 0);
    await_sessions(f, false);
    fixture_stats(f, &stats);
    assert_true(nprocesses > 0 && stats.live_objects <= may_lose * nprocesses);
    assert_int_equal(stats.roots, 0);
    assert_true(fixture_is_clean(f, stats.live_objects));
}

/* --- what happens to the daemon --- */

static void end_daemon(fixture *f, int signal_number)
{
    (void)kill(f->daemon, signal_number);
    (void)child_wait(f->daemon);
}

static void take_over(fixture *f, uint64_t *random)
{
    end_daemon(f, test_random(random) % 2 == 0 ? SIGKILL : SIGUSR1);
    (void)usleep((useconds_t)(test_random(random) % 100000));
    fixture_restart(f, NULL);
}

/* Every way that it can go. */
static void replace(fixture *f, uint64_t *random)
{
    switch (test_random(random) % 4) {
    case 0: /* the next one drops the heap */
        end_daemon(f, SIGKILL);
        fixture_restart(f, "--cold-start");
        break;
    case 1: /* it is stopped; whether the heap is dropped or kept by that, the pool must not care */
        end_daemon(f, SIGTERM);
        fixture_restart(f, NULL);
        break;
    default:
        take_over(f, random);
    }
}

static void run_with_incidents(fixture *f, const char *name, uint64_t may_lose, int64_t ms,
                               void (*incident)(fixture *, uint64_t *))
{
    uint64_t random = test_seed();
    int64_t until = clock_now_ms() + clock_test_ms(ms);
    pid_t pid = start_example(f, &random, name, NULL, NULL);

    await_sessions(f, true);
    while (clock_now_ms() < until) {
        (void)usleep((useconds_t)(test_random(&random) % 400000));
        incident(f, &random);
    }
    end_example(f, pid, may_lose);
}

static void pool_whose_daemon_goes_in_every_way_loses_nothing(void **state)
{
    run_with_incidents(*state, "pool", 0, 4000, replace);
}

static void pool_whose_supervisor_is_killed_goes_on_with_its_table(void **state)
{
    fixture *f = *state;
    uint64_t random = test_seed();
    int64_t until = clock_now_ms() + clock_test_ms(2000);
    pid_t pid = start_example(f, &random, "pool", "--workers", "6");

    await_sessions(f, true);
    while (clock_now_ms() < until) {
        (void)usleep((useconds_t)(test_random(&random) % 300000));
        (void)kill(pid, SIGKILL);
        (void)child_wait(pid);
        pid = start_example(f, &random, "pool", "--workers", "6");
    }
    end_example(f, pid, 0);
}

static void queue_under_kills_delivers_each_message_once(void **state)
{
    run_with_incidents(*state, "queue", 1, 3000, take_over);
}

static void stack_under_kills_has_each_node_once(void **state)
{
    run_with_incidents(*state, "stack", 1, 2000, take_over);
}

/* --- the quickstart --- */

/* In a group of its own, with the reader that it starts. */
static pid_t start_quickstart(const fixture *f)
{
    pid_t pid = fork();

    if (pid == 0) {
        char output[128];

        output_path(f, output, sizeof(output));
        (void)setpgid(0, 0);
        if (freopen(output, "ae", stdout) == NULL || freopen(output, "ae", stderr) == NULL ||
            setenv("GOALLOC_SOCKET", f->socket, 1) < 0)
            _exit(126);
        (void)execl(EXAMPLES_DIR "/quickstart", "quickstart", (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    (void)setpgid(pid, pid); /* whoever of the two is first; it fails when the program runs */
    return pid;
}

static void quickstart_under_kills_ends_in_order_and_loses_its_list_at_most(void **state)
{
    fixture *f = *state;
    uint64_t random = test_seed();
    int64_t until = clock_now_ms() + clock_test_ms(1000);
    unsigned nlists = 0; /* of runs that have not come to their end */
    unsigned nruns = 0;
    goalloc_stats_t stats;

    for (; clock_now_ms() < until; nruns++) {
        pid_t pid = start_quickstart(f);
        int status;

        (void)usleep((useconds_t)(test_random(&random) % 5000));
        switch (test_random(&random) % 4) {
        case 0:
            take_over(f, &random);
            break;
        case 1:
            break;
        default:
            (void)kill(-pid, SIGKILL);
        }
        status = child_wait(pid);
        assert_true(status == 0 || status == 1 || status == 1000 + SIGKILL); /* 1: there was no daemon */
        nlists += status != 0;
        await_sessions(f, false);
    }
    assert_int_equal(child_wait(start_quickstart(f)), 0);
    await_sessions(f, false);
    fixture_stats(f, &stats);
    (void)printf("%u runs, of which %u did not end; %llu objects of theirs are left\n", nruns, nlists,
                 (unsigned long long)stats.live_objects);
    assert_true(stats.live_objects <= 3 * nlists && stats.roots == 0);
    assert_true(fixture_is_clean(f, stats.live_objects));
}

/* --- the index --- */

/* Run wordindex; its exit status. What it says goes to a file in the directory, sorted. */
static int index_words(const fixture *f, const char *arguments, const char *file)
{
    char command[768];

    (void)snprintf(command, sizeof(command),
                   "GOALLOC_SOCKET='%s' '%s/wordindex' %s >'%s/said' && LC_ALL=C sort '%s/said' >'%s/%s'", f->socket,
                   EXAMPLES_DIR, arguments, f->dir, f->dir, f->dir, file);
    return system(command);
}

static bool same_words(const fixture *f)
{
    char command[256];

    (void)snprintf(command, sizeof(command), "cmp '%s/wanted' '%s/found'", f->dir, f->dir);
    return index_words(f, "dump", "found") == 0 && system(command) == 0;
}

static uint64_t live_objects(const fixture *f)
{
    goalloc_stats_t stats;

    await_sessions(f, false);
    fixture_stats(f, &stats);
    return stats.live_objects;
}

static void index_under_kills_counts_each_word_once(void **state)
{
    fixture *f = *state;
    uint64_t random = test_seed();
    int64_t until = clock_now_ms() + clock_test_ms(2000);
    uint64_t ndeaths = 0;
    unsigned nrounds = 0;
    uint64_t undisturbed;
    char output[128];

    output_path(f, output, sizeof(output));
    assert_int_equal(index_words(f, "build --workers 4 " WORDS_DIR, "progress"), 0);
    undisturbed = live_objects(f);
    assert_int_equal(index_words(f, "dump", "wanted"), 0);
    for (; clock_now_ms() < until; nrounds++) {
        uint64_t nkilled;
        pid_t pid;

        end_daemon(f, SIGKILL);
        fixture_restart(f, "--cold-start");
        (void)unlink(output);
        pid = start_example(f, &random, "wordindex", "build", WORDS_DIR);
        (void)usleep((useconds_t)(test_random(&random) % 30000));
        take_over(f, &random);
        assert_int_equal(child_wait(pid), 0);
        nkilled = number_said(f, " workers were killed", false);
        assert_in_range(live_objects(f), undisturbed, undisturbed + nkilled); /* each death may lose one */
        assert_true(same_words(f));
        ndeaths += nkilled;
    }
    (void)printf("%u indexes, %llu workers killed\n", nrounds, (unsigned long long)ndeaths);
    assert_true(ndeaths > 0);
    assert_true(fixture_is_whole(f));
}

/* Change the list of words by a command for sed: the index must not be taken for what it says then. */
static void is_noticed(const fixture *f, const char *edit, const char *list)
{
    char verify[96];
    char command[512];

    (void)snprintf(command, sizeof(command), "sed '%s' '%s' >'%s/edited' && ! cmp -s '%s' '%s/edited'", edit, list,
                   f->dir, list, f->dir);
    assert_int_equal(system(command), 0);
    (void)snprintf(verify, sizeof(verify), "verify '%s/edited'", f->dir);
    assert_int_equal(WEXITSTATUS(index_words(f, verify, "verified")), 1);
}

/* With another daemon, at another socket: of the first one there is the image alone. */
static void index_that_was_saved_is_whole_in_a_fresh_daemon(void **state)
{
    char image[96];
    char list[96];
    char verify[128];
    const char *const saving[] = { "--image", image, NULL };
    const char *const loading[] = { "--load", image, NULL };
    fixture place;
    fixture first;
    fixture second;
    char command[512];
    uint64_t nobjects;

    (void)state;
    fixture_make_place(&place);
    (void)snprintf(image, sizeof(image), "%s/heap.img", place.dir);
    (void)snprintf(list, sizeof(list), "%s/words", place.dir);
    (void)snprintf(verify, sizeof(verify), "verify '%s'", list);
    fixture_start(&first, saving);
    assert_int_equal(index_words(&first, "build --workers 4 --kill-one " WORDS_DIR, "progress"), 0);
    assert_int_equal(index_words(&first, "dump", "words"), 0);
    (void)snprintf(command, sizeof(command), "test -s '%s/words' && mv '%s/words' '%s'", first.dir, first.dir, list);
    assert_int_equal(system(command), 0);
    assert_int_equal(index_words(&first, verify, "verified"), 0);
    (void)snprintf(command, sizeof(command), "mv '%s/verified' '%s'", first.dir, place.dir);
    assert_int_equal(system(command), 0);
    nobjects = live_objects(&first);
    assert_true(fixture_stop(&first));
    assert_int_equal(access(first.socket, F_OK), -1);

    fixture_start(&second, loading);
    assert_int_equal(live_objects(&second), nobjects);
    assert_int_equal(index_words(&second, verify, "verified"), 0);
    (void)snprintf(command, sizeof(command), "cat '%s/verified' && cmp '%s/verified' '%s/verified'", place.dir,
                   place.dir, second.dir); /* the same words, and the root at the same address */
    assert_int_equal(system(command), 0);
    is_noticed(&second, "$d", list);      /* one that the index has, and the list has not */
    is_noticed(&second, "$s/$/x/", list); /* another one in its place */
    is_noticed(&second, "1s/^/1/", list); /* another count */
    is_noticed(&second, "2p", list);      /* one that is there twice */
    /* It is a heap as any other. */
    assert_int_equal(index_words(&second, "build --workers 2 " WORDS_DIR, "progress"), 0);
    assert_int_equal(index_words(&second, verify, "verified"), 0);
    assert_true(fixture_is_whole(&second));
    assert_true(fixture_stop(&second));
}

/* --- an event and its waiters --- */

#define NWAITERS 4
#define NSIGNALS 300

typedef struct line {
    event changed;
    event answered;
    _Atomic uint32_t value;
    _Atomic uint32_t seen_by_last; /* by the waiter that is never killed */
} line;

static int wait_for_values(line *l, bool is_last)
{
    for (;;) {
        uint32_t seen = event_now(&l->changed);
        uint32_t value = atomic_load(&l->value);

        if (is_last && value != atomic_load(&l->seen_by_last)) {
            atomic_store(&l->seen_by_last, value);
            event_signal(&l->answered);
        }
        if (value == NSIGNALS)
            return 0;
        event_wait(&l->changed, seen, 60000); /* so long: it is the signal that ends it */
    }
}

static int wait_mortally(const fixture *f, void *arg)
{
    (void)f;
    return wait_for_values(arg, false);
}

static int wait_to_the_last(const fixture *f, void *arg)
{
    (void)f;
    return wait_for_values(arg, true);
}

static void event_whose_waiters_are_killed_wakes_the_others(void **state)
{
    fixture *f = *state;
    pid_t mortal[NWAITERS];
    uint64_t random = test_seed();
    pid_t last;
    line *l;

    must_attach(f, 0);
    l = goalloc_calloc(1, sizeof(*l));
    assert_non_null(l);
    last = child_start(f, wait_to_the_last, l);
    for (int i = 0; i < NWAITERS; i++)
        mortal[i] = child_start(f, wait_mortally, l);
    for (uint32_t value = 1; value <= NSIGNALS; value++) {
        pid_t *one = &mortal[test_random(&random) % NWAITERS];
        uint32_t seen;

        (void)kill(*one, SIGKILL);
        (void)child_wait(*one);
        *one = child_start(f, wait_mortally, l);
        atomic_store(&l->value, value);
        event_signal(&l->changed);
        for (seen = event_now(&l->answered); atomic_load(&l->seen_by_last) != value; seen = event_now(&l->answered))
            event_wait(&l->answered, seen, 60000);
    }
    assert_int_equal(child_wait(last), 0);
    for (int i = 0; i < NWAITERS; i++)
        assert_int_equal(child_wait(mortal[i]), 0);
    goalloc_free(l);
    assert_int_equal(goalloc_detach(), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- a mutex and its holders --- */

typedef struct guarded {
    pthread_mutex_t mutex;
    int nrepairs;
    int deaths_to_come; /* in the repair */
} guarded;

static void repair(void *arg)
{
    guarded *g = arg;

    g->nrepairs++;
    if (g->deaths_to_come-- > 0)
        (void)kill(getpid(), SIGKILL);
}

static int die_as_holder(const fixture *f, void *arg)
{
    guarded *g = arg;

    (void)f;
    CHECK(robust_lock(&g->mutex, repair, g) == 0);
    (void)kill(getpid(), SIGKILL);
    return 1;
}

static void robust_lock_whose_repairers_die_too_repairs_again(void **state)
{
    fixture *f = *state;
    guarded *g;

    must_attach(f, 0);
    g = goalloc_calloc(1, sizeof(*g));
    assert_non_null(g);
    assert_int_equal(robust_init(&g->mutex), 0);
    g->deaths_to_come = 2;
    for (int i = 0; i < 3; i++) /* one as the holder, two in the repair of what it left */
        assert_int_equal(child_run(f, die_as_holder, g), 1000 + SIGKILL);
    assert_int_equal(robust_lock(&g->mutex, repair, g), 0);
    assert_int_equal(g->nrepairs, 3);
    assert_int_equal(pthread_mutex_unlock(&g->mutex), 0);
    assert_int_equal(robust_lock(&g->mutex, repair, g), 0); /* it is as any other mutex again */
    assert_int_equal(g->nrepairs, 3);
    assert_int_equal(pthread_mutex_unlock(&g->mutex), 0);
    goalloc_free(g); /* all who knew it have been waited for */
    assert_int_equal(goalloc_detach(), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- a stack whose top comes back --- */

static void tagged_pop_whose_top_went_and_came_back_begins_again(void **state)
{
    fixture *f = *state;
    tagged_stack *s;
    tagged_node *nodes;
    uint64_t old;
    uint64_t next;

    must_attach(f, 0);
    s = goalloc_calloc(1, sizeof(*s));
    nodes = goalloc_calloc(64, 16);
    assert_non_null(s);
    assert_non_null(nodes);
    tagged_push(s, &nodes[2]); /* nodes are 16 bytes apart */
    tagged_push(s, &nodes[0]);
    /* A pop reads the top and its next, and is then overtaken by others. */
    old = atomic_load(&s->top);
    next = atomic_load(&nodes[0].next);
    assert_ptr_equal(tagged_pop(s), &nodes[0]);
    assert_ptr_equal(tagged_pop(s), &nodes[2]);
    tagged_push(s, &nodes[0]);
    assert_ptr_equal(tagged_node_of(atomic_load(&s->top)), tagged_node_of(old)); /* the same node on top again */
    assert_false(atomic_compare_exchange_strong(&s->top, &old, tagged_next_word(old, next)));
    assert_ptr_equal(tagged_pop(s), &nodes[0]);
    assert_null(tagged_pop(s));
    goalloc_free(nodes);
    goalloc_free(s);
    assert_int_equal(goalloc_detach(), 0);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(pool_whose_daemon_goes_in_every_way_loses_nothing),
        FIXTURE_TEST(pool_whose_supervisor_is_killed_goes_on_with_its_table),
        FIXTURE_TEST_KEPT(queue_under_kills_delivers_each_message_once),
        FIXTURE_TEST_KEPT(stack_under_kills_has_each_node_once),
        FIXTURE_TEST_KEPT(quickstart_under_kills_ends_in_order_and_loses_its_list_at_most),
        FIXTURE_TEST_KEPT(index_under_kills_counts_each_word_once),
        cmocka_unit_test(index_that_was_saved_is_whole_in_a_fresh_daemon),
        FIXTURE_TEST(event_whose_waiters_are_killed_wakes_the_others),
        FIXTURE_TEST(robust_lock_whose_repairers_die_too_repairs_again),
        FIXTURE_TEST(tagged_pop_whose_top_went_and_came_back_begins_again),
    };

    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    return cmocka_run_group_tests_name("examples", tests, NULL, NULL);
}
