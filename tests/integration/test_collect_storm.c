/*
 * Test of collect under storms: workers that build, link, unlink and move objects, and are killed; collectors and
 * daemons that are killed; and nothing that lives is ever freed.
 *
 * The shared structure is a table of slots, each a chain of nodes or NULL, that is a root. A node says by its numbers
 * that it is whole (seal), and which of a chain it is; a free place has other bytes soon. Workers take what a slot has by
 * an exchange, so an object that moves is in registers alone for a moment, and is nobody's if its worker dies then.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "tests/support/objects.h"

#define SLOTS     64u
#define CHAIN_MAX 6u
#define SEAL      UINT64_C(0x5ea15ea15ea15ea1)

typedef struct node {
    _Atomic(struct node *) next;
    uint64_t seal; /* SEAL ^ left */
    uint64_t left; /* nodes behind this one */
    uint64_t filler[4];
} node;

typedef struct table {
    _Atomic(node *) slots[SLOTS];
} table;

/* What the test and its children share besides the heap. */
typedef struct board {
    _Atomic uint64_t nturns; /* of all workers */
    _Atomic uint32_t over;
    uint64_t seed;
} board;

static board *the_board;

static int board_setup(void **state)
{
    the_board = mmap(NULL, sizeof(*the_board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(the_board != MAP_FAILED);
    the_board->seed = test_seed();
    return *state == NULL ? 0 : 0;
}

/* --- workers --- */

static table *the_table(void)
{
    void *p;

    CHECK(goalloc_root_get_or_create("table", sizeof(table), 1, NULL, NULL, &p, NULL) == 0);
    return p;
}

/* A chain of n nodes, built from its end: until it is linked its head is on this stack alone. */
static node *build(uint64_t n)
{
    node *head = NULL;

    for (uint64_t i = 0; i < n; i++) {
        node *p = goalloc_malloc(sizeof(*p));

        CHECK(p != NULL);
        p->left = i;
        p->seal = SEAL ^ i;
        atomic_store(&p->next, head);
        for (size_t k = 0; k < 4; k++)
            p->filler[k] = i * k;
        head = p;
    }
    return head;
}

static void check_chain(const node *p)
{
    while (p != NULL) {
        const node *next = atomic_load(&p->next);

        CHECK(p->seal == (SEAL ^ p->left) && p->left < CHAIN_MAX);
        CHECK((next == NULL) == (p->left == 0) && (next == NULL || next->left == p->left - 1));
        p = next;
    }
}

static void free_chain(node *p)
{
    while (p != NULL) {
        node *next = atomic_load(&p->next);

        p->seal = 0;
        goalloc_free(p);
        p = next;
    }
}

/* One turn: what a slot has goes elsewhere, is freed, is forgotten, or is replaced. */
static void turn(table *t, uint64_t *random)
{
    uint64_t r = test_random(random);
    node *p = atomic_exchange(&t->slots[r % SLOTS], NULL);

    check_chain(p);
    if (p == NULL)
        p = build(1 + (r >> 8) % CHAIN_MAX);
    if ((r >> 16 & 7) == 0) {
        free_chain(p);
        p = NULL;
    } else if ((r >> 16 & 255) == 1) { /* unlinked and not freed: garbage from here on */
        p = build(1 + (r >> 24) % CHAIN_MAX);
    }
    p = atomic_exchange(&t->slots[(r >> 32) % SLOTS], p);
    check_chain(p); /* what was there before is this worker's now */
    free_chain(p);
    (void)atomic_fetch_add(&the_board->nturns, 1);
}

/* Until it is killed, or the storm is over. */
static int work(const fixture *f, void *arg)
{
    uint64_t random = the_board->seed ^ ((uint64_t)getpid() << 20);
    table *t;

    (void)arg;
    must_attach(f, 0);
    t = the_table();
    while (!atomic_load(&the_board->over)) {
        turn(t, &random);
        if (random % 64 == 0)
            (void)usleep(500);
    }
    return 0;
}

/* The walk: what there must be. */
static int walk(const fixture *f, void *arg)
{
    uint64_t *ret = arg;
    uint64_t n = 1;
    table *t;

    must_attach(f, 0);
    t = the_table();
    for (uint32_t i = 0; i < SLOTS; i++) {
        check_chain(atomic_load(&t->slots[i]));
        for (const node *p = atomic_load(&t->slots[i]); p != NULL; p = atomic_load(&p->next))
            n++;
    }
    *ret = n;
    return 0;
}

static uint64_t walked(const fixture *f)
{
    uint64_t *n = mmap(NULL, sizeof(*n), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t ret;

    assert_true(n != MAP_FAILED);
    assert_int_equal(child_run(f, walk, n), 0);
    ret = *n;
    (void)munmap(n, sizeof(*n));
    return ret;
}

/* --- the collector --- */

static uint64_t leaks_figure(const fixture *f, const char *option, const char *more, const char *name)
{
    const char *arguments[] = { "--json", "leaks", "--max-pause", "5000", "--rows", "1", option, more, NULL };
    static char out[1 << 18];
    json_t *answer;
    uint64_t ret;

    if (fixture_ctl(f, arguments, out, sizeof(out)) != 0) {
        print_message("leaks: %s\n", out);
        return UINT64_MAX;
    }
    answer = json_loads(out, 0, NULL);
    assert_non_null(answer);
    ret = figure(answer, name);
    json_decref(answer);
    return ret;
}

/* Run as a process of its own; not waited for. */
static pid_t start_collector(const fixture *f)
{
    pid_t pid = fork();

    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);

        (void)dup2(null, STDOUT_FILENO);
        (void)dup2(null, STDERR_FILENO);
        (void)execl(GOALLOCCTL_PATH, "goallocctl", "--socket", f->socket, "leaks", "--free", "--all", "--max-pause", "5000",
                    (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    return pid;
}

static void nap(uint64_t *random, uint64_t most_us)
{
    (void)usleep((useconds_t)(test_random(random) % most_us));
}

/* The workers must go on: each of them has a turn. */
static void workers_go_on(void)
{
    uint64_t before = atomic_load(&the_board->nturns);

    for (int i = 0; i < 2000 && atomic_load(&the_board->nturns) < before + 1000; i++)
        (void)usleep(5000);
    assert_true(atomic_load(&the_board->nturns) >= before + 1000);
}

/* All sessions have ended: after a collection what the walk finds is there, and no more. */
static void all_is_collected(const fixture *f)
{
    uint64_t there = walked(f);
    uint64_t before = fixture_live_with(f, 0);
    uint64_t nfreed = leaks_figure(f, "--free", NULL, "freed_objects");

    print_message("%llu objects, of which %llu were nobody's\n", (unsigned long long)before, (unsigned long long)nfreed);
    assert_true(nfreed == before - there);
    assert_int_equal(walked(f), there);
    assert_true(fixture_is_clean(f, there));
}

/* --- the storms --- */

static void collect_while_objects_move_frees_nothing_that_lives(void **state)
{
    fixture *f = *state;
    pid_t pids[4];
    uint64_t nfreed = 0;

    atomic_store(&the_board->over, 0);
    for (size_t i = 0; i < 4; i++)
        pids[i] = child_start(f, work, NULL);
    workers_go_on();
    for (int i = 0; i < 30 || (nfreed == 0 && i < 300); i++) {
        uint64_t n = leaks_figure(f, "--free", "--all", "freed_objects");

        assert_true(n != UINT64_MAX);
        nfreed += n;
    }
    workers_go_on();
    atomic_store(&the_board->over, 1);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    print_message("%llu objects were freed under the workers' hands\n", (unsigned long long)nfreed);
    assert_true(nfreed > 0);
    all_is_collected(f);
}

/* So many workers are killed, as many at a time as fit; a collector runs now and then; some workers survive it all. */
static void collect_after_a_storm_of_deaths_leaves_what_a_walk_finds(void **state)
{
    enum { DEATHS = 1000, AT_ONCE = 8, SURVIVORS = 2 };
    fixture *f = *state;
    uint64_t random = the_board->seed;
    pid_t survivors[SURVIVORS];
    pid_t pids[AT_ONCE] = { 0 };

    atomic_store(&the_board->over, 0);
    for (size_t i = 0; i < SURVIVORS; i++)
        survivors[i] = child_start(f, work, NULL);
    workers_go_on();
    for (int n = 0; n < DEATHS + AT_ONCE; n++) {
        pid_t *pid = &pids[n % AT_ONCE];

        if (*pid != 0) {
            (void)kill(*pid, SIGKILL);
            assert_int_equal(child_wait(*pid), 1000 + SIGKILL);
        }
        *pid = n < DEATHS ? child_start(f, work, NULL) : 0;
        nap(&random, 2000);
        if (n % 250 == 249)
            assert_true(leaks_figure(f, "--free", NULL, "freed_objects") != UINT64_MAX);
    }
    workers_go_on();
    atomic_store(&the_board->over, 1);
    for (size_t i = 0; i < SURVIVORS; i++)
        assert_int_equal(child_wait(survivors[i]), 0);
    all_is_collected(f);
}

static uint64_t number_of(const char *variable, uint64_t otherwise)
{
    const char *text = getenv(variable);

    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

static void collect_by_collectors_and_daemons_that_are_killed_loses_nothing(void **state)
{
    fixture *f = *state;
    uint64_t ncollectors = number_of("GOALLOC_TEST_COLLECTORS", 100);
    uint64_t random = the_board->seed ^ 1;
    pid_t pids[3];

    atomic_store(&the_board->over, 0);
    for (size_t i = 0; i < 3; i++)
        pids[i] = child_start(f, work, NULL);
    workers_go_on();
    for (uint64_t n = 0; n < ncollectors; n++) {
        pid_t collector = start_collector(f);
        int status;

        nap(&random, 25000);
        if (n % 5 == 4) { /* the daemon too, or alone */
            fixture_kill(f);
            fixture_restart(f, NULL);
        }
        if (n % 10 != 4)
            (void)kill(collector, SIGKILL);
        assert_int_equal(waitpid(collector, &status, 0), collector);
        if (n % 25 == 24)
            workers_go_on();
    }
    workers_go_on();
    assert_true(leaks_figure(f, "--free", NULL, "freed_objects") != UINT64_MAX);
    atomic_store(&the_board->over, 1);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    all_is_collected(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(collect_while_objects_move_frees_nothing_that_lives),
        FIXTURE_TEST(collect_after_a_storm_of_deaths_leaves_what_a_walk_finds),
        FIXTURE_TEST_KEPT(collect_by_collectors_and_daemons_that_are_killed_loses_nothing),
    };

    return cmocka_run_group_tests(tests, board_setup, NULL);
}
