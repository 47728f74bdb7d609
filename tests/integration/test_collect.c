/*
 * Test of collect: what nobody can reach is found and freed, exactly if nobody is attached, and nothing else ever.
 *
 * Workers are child processes that build, link, unlink and die; a walk from the roots, in a child of its own, says what
 * there must be. The collector is `goallocctl --json leaks`.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/support/objects.h"

/* A node of the graphs here. */
typedef struct node {
    struct node *next;
    struct node *other;
    uint64_t number;
} node;

/* --- the collector --- */

/*
 * What `goallocctl --json leaks` says, with the first so many objects. NULL: it has failed. The caller ends it with
 * json_decref(). Addresses of objects stay in this process's memory, and children have a copy of that, in which they
 * hold what is there: so tests that ask for many come last.
 */
static json_t *leaks_with(const fixture *f, const char *rows, const char *option, const char *more)
{
    const char *arguments[] = { "--json", "leaks", "--max-pause", "5000", "--rows", rows, option, more, NULL };
    static char out[1 << 21];

    if (fixture_ctl(f, arguments, out, sizeof(out)) != 0) {
        print_message("leaks: %s\n", out);
        return NULL;
    }
    return json_loads(out, 0, NULL);
}

static json_t *leaks(const fixture *f, const char *option, const char *more)
{
    return leaks_with(f, "1", option, more);
}

static uint64_t leaks_figure(const fixture *f, const char *option, const char *more, const char *name)
{
    json_t *answer = leaks(f, option, more);
    uint64_t ret;

    assert_non_null(answer);
    ret = figure(answer, name);
    json_decref(answer);
    return ret;
}

static uint64_t live_objects(const fixture *f)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };

    fixture_stats(f, &stats);
    return stats.live_objects;
}

/* --- without a session --- */

/* Objects of every kind: a chain of each, of which the root has one, and as many that nobody has. */
static int leave_of_all_kinds(const fixture *f, void *arg)
{
    static const size_t sizes[] = { 24, 32, 1000, 5000, 30000, 40000, 100000, 900000 };
    node *kept = NULL;

    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (int k = 0; k < 3; k++) {
            node *live = goalloc_calloc(1, sizes[i]);
            node *dead = goalloc_calloc(1, sizes[i]);

            CHECK(live != NULL && dead != NULL);
            live->next = kept;
            dead->next = live; /* what is garbage may point to what is not */
            dead->other = dead;
            kept = live;
        }
        ((node **)(void *)kept)[sizes[i] / 8 - 1] = goalloc_malloc_noscan(sizes[i]); /* by its last word */
        CHECK(goalloc_malloc_noscan(sizes[i]) != NULL);
        kept->other = (node *)(void *)((char *)goalloc_malloc(sizes[i]) + sizes[i] / 2 + 3); /* an interior pointer */
    }
    for (size_t bytes = 1; bytes < 16; bytes++) {
        node *holder = goalloc_calloc(1, sizeof(*holder));

        holder->next = kept;
        holder->other = goalloc_malloc_noscan(bytes);
        kept = holder;
        CHECK(goalloc_malloc_noscan(bytes) != NULL);
    }
    CHECK(goalloc_root_set("kept", kept) == 0);
    return 0;
}

enum { KINDS = 8, OF_ALL_LIVE = KINDS * 5 + 15 * 2, OF_ALL_DEAD = KINDS * 4 + 15 };

static void leaks_of_all_kinds_are_found_and_freed_exactly(void **state)
{
    fixture *f = *state;
    json_t *answer;

    assert_int_equal(child_run(f, leave_of_all_kinds, NULL), 0);
    assert_true(fixture_live_with(f, 0) == OF_ALL_LIVE + OF_ALL_DEAD);
    answer = leaks_with(f, "1000", NULL, NULL);
    assert_non_null(answer);
    assert_int_equal(figure(answer, "garbage_objects"), OF_ALL_DEAD);
    assert_int_equal(figure(answer, "reached_objects"), OF_ALL_LIVE);
    assert_int_equal(figure(answer, "freed_objects"), 0);
    assert_int_equal(figure(answer, "pause_us"), 0);
    assert_int_equal(json_array_size(json_object_get(answer, "objects")), OF_ALL_DEAD);
    json_decref(answer);
    assert_true(live_objects(f) == OF_ALL_LIVE + OF_ALL_DEAD);
    assert_int_equal(leaks_figure(f, "--free", NULL, "freed_objects"), OF_ALL_DEAD);
    assert_int_equal(leaks_figure(f, "--free", NULL, "garbage_objects"), 0);
    assert_true(fixture_is_clean(f, OF_ALL_LIVE));
}

/* --- with survivors --- */

/* Of n objects that are forgotten, how many may be retained by a word that looks like an address. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RETAINED(n) ((n) / 20) /* a sanitizer keeps words of frames that have ended */
#else
#define RETAINED(n) ((n) / 1000)
#endif

typedef struct survivor_plan {
    int nlive;  /* objects of the list that the survivor has in private memory */
    int ndead;  /* objects that it forgets */
} survivor_plan;

static node *volatile kept_in_data;

/* Objects of which nobody knows, made in a call of their own: so no word of them stays in this frame. */
__attribute__((noinline)) static void forget_some(int n)
{
    for (int i = 0; i < n; i++) {
        node *p = goalloc_calloc(1, 100);

        CHECK(p != NULL);
        p->next = p;
    }
}

/* Overwrite what calls have left below on this thread's stack. */
__attribute__((noinline)) static void wipe_stack(void)
{
    volatile char wiped[65536];

    for (size_t i = 0; i < sizeof(wiped); i++)
        wiped[i] = 0;
}

static int hold_list(const fixture *f, void *arg)
{
    const survivor_plan *plan = arg;
    uint64_t n = 0;

    must_attach(f, 0);
    for (int i = 0; i < plan->nlive; i++) {
        node *p = goalloc_calloc(1, sizeof(*p));

        CHECK(p != NULL);
        p->next = kept_in_data;
        p->number = (uint64_t)i;
        kept_in_data = p;
    }
    forget_some(plan->ndead);
    wipe_stack();
    (void)raise(SIGSTOP);
    for (const node *p = kept_in_data; p != NULL; p = p->next, n++)
        CHECK(p->number == (uint64_t)plan->nlive - 1 - n);
    CHECK(n == (uint64_t)plan->nlive);
    return 0;
}

static void leaks_with_a_survivor_frees_nothing_that_lives(void **state)
{
    fixture *f = *state;
    survivor_plan plan = { .nlive = 5000, .ndead = 5000 };
    pid_t pid = child_start_stopped(f, hold_list, &plan);
    json_t *answer = leaks(f, "--free", "--all");
    uint64_t nfreed;

    assert_non_null(answer);
    nfreed = figure(answer, "freed_objects");
    assert_in_range(nfreed, 5000 - RETAINED(5000), 5000);
    assert_int_equal(figure(answer, "garbage_objects"), nfreed);
    assert_int_equal(figure(answer, "processes"), 1);
    json_decref(answer);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_live_with(f, 0) == 10000 - nfreed);
    assert_int_equal(leaks_figure(f, "--free", NULL, "freed_objects"), 10000 - nfreed);
    assert_true(fixture_is_clean(f, 0));
}

/* --- why --- */

#define MASK UINT64_C(0x5555555555555555) /* of addresses, where nobody shall take them for pointers */

typedef struct told {
    int to; /* a pipe */
    survivor_plan plan;
} told;

__attribute__((noinline)) static void forget_and_tell(int to, int n)
{
    for (int i = 0; i < n; i++) {
        uint64_t masked = (uint64_t)(uintptr_t)goalloc_calloc(1, 100) ^ MASK;

        CHECK(write(to, &masked, sizeof(masked)) == (ssize_t)sizeof(masked));
    }
}

/* As hold_list(), but what is forgotten is told. */
static int hold_and_tell(const fixture *f, void *arg)
{
    const told *t = arg;

    must_attach(f, 0);
    forget_and_tell(t->to, t->plan.ndead);
    wipe_stack();
    for (int i = 0; i < t->plan.nlive; i++) {
        node *p = goalloc_calloc(1, sizeof(*p));

        CHECK(p != NULL);
        p->next = kept_in_data;
        kept_in_data = p;
    }
    wipe_stack();
    (void)raise(SIGSTOP);
    return 0;
}

static bool has_object(json_t *answer, uint64_t address)
{
    json_t *row;
    size_t i;

    json_array_foreach(json_object_get(answer, "objects"), i, row)
    {
        if (figure(row, "address") == address)
            return true;
    }
    return false;
}

/* The last link of the chain that holds it; NULL: it has none. The caller ends *ret_answer. */
static json_t *holder_of(const fixture *f, uint64_t address, json_t **ret_answer)
{
    char text[32];
    json_t *chain;

    (void)snprintf(text, sizeof(text), "0x%llx", (unsigned long long)address);
    *ret_answer = leaks(f, "--why", text);
    assert_non_null(*ret_answer);
    chain = json_object_get(json_object_get(*ret_answer, "why"), "chain");
    return json_array_size(chain) == 0 ? NULL : json_array_get(chain, json_array_size(chain) - 1);
}

static void leaks_why_names_the_word_that_holds_what_is_retained(void **state)
{
    enum { N = 2000 };
    fixture *f = *state;
    told t = { .plan = { .nlive = N, .ndead = N } };
    uint64_t *dead = malloc(N * sizeof(*dead));
    int nretained = 0;
    int pipes[2];
    json_t *answer;
    pid_t pid;

    assert_int_equal(pipe(pipes), 0);
    t.to = pipes[1];
    pid = child_start_stopped(f, hold_and_tell, &t);
    assert_int_equal(read(pipes[0], dead, N * sizeof(*dead)), N * sizeof(*dead));
    answer = leaks_with(f, "5000", NULL, NULL);
    assert_non_null(answer);
    for (int i = 0; i < N; i++) {
        json_t *why;
        json_t *last;

        if (has_object(answer, dead[i] ^ MASK))
            continue;
        nretained++;
        last = holder_of(f, dead[i] ^ MASK, &why);
        assert_non_null(last);
        assert_string_equal(json_string_value(json_object_get(last, "held_by")), "process");
        assert_int_equal(figure(last, "pid"), pid);
        json_decref(why);
    }
    print_message("%d of %d are retained\n", nretained, N);
    assert_true(nretained <= RETAINED(N));
    assert_int_equal(figure(answer, "reached_objects"), N + nretained);
    json_decref(answer);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    (void)close(pipes[0]);
    (void)close(pipes[1]);
    free(dead);
}

static int make_root(const fixture *f, void *arg)
{
    node *first;
    node *second;

    (void)arg;
    must_attach(f, 0);
    first = goalloc_calloc(1, sizeof(*first));
    second = goalloc_calloc(1, 5000);
    first->other = second;
    CHECK(goalloc_root_set("a root", first) == 0);
    CHECK(goalloc_root_set("second", second) == 0 && goalloc_root_set("second", NULL) == 0);
    return 0;
}

static void leaks_why_of_what_a_root_holds_names_the_root(void **state)
{
    fixture *f = *state;
    char why[32];
    json_t *answer;
    json_t *last;
    json_t *roots;
    uint64_t base;

    assert_int_equal(child_run(f, make_root, NULL), 0);
    (void)fixture_live_with(f, 0);
    roots = json_by_ctl(f, "roots");
    answer = json_by_ctl(f, "heap-map");
    base = figure(answer, "arena_base") + figure(json_row(roots, "roots", "a root"), "offset");
    json_decref(answer);
    json_decref(roots);
    last = holder_of(f, base + 8, &answer);
    assert_non_null(last);
    assert_string_equal(json_string_value(json_object_get(last, "root")), "a root");
    assert_string_equal(json_string_value(json_object_get(last, "held_by")), "root");
    (void)snprintf(why, sizeof(why), "%s", json_string_value(json_object_get(last, "text")));
    assert_string_equal(why, "root 'a root'");
    json_decref(answer);
    assert_int_equal(leaks_figure(f, NULL, NULL, "reached_objects"), 2);
    assert_null(holder_of(f, base + 1024 * 1024, &answer));
    json_decref(answer);
    assert_true(fixture_is_clean(f, 2));
}

/* --- whose --- */

enum { LEFT = 100 };

static int leave_labelled(const fixture *f, void *arg)
{
    must_attach(f, 0);
    CHECK(goalloc_set_label(arg) == 0);
    forget_some(LEFT);
    (void)kill(getpid(), SIGKILL);
    return 0;
}

/* Objects in the places beside those that a dead process has left. */
static int allocate_beside(const fixture *f, void *arg)
{
    unsigned char *all[LEFT];

    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < LEFT; i++)
        all[i] = filled(100, i);
    (void)raise(SIGSTOP);
    for (int i = 0; i < LEFT; i++) {
        CHECK(all_are(all[i], 100, i));
        goalloc_free(all[i]);
    }
    return 0;
}

static void leaks_of_the_dead_are_told_by_session(void **state)
{
    fixture *f = *state;
    json_t *answer;
    json_t *row;

    assert_int_equal(child_run(f, leave_labelled, (void *)(uintptr_t)"careless"), 1000 + SIGKILL);
    (void)fixture_live_with(f, 0);
    answer = leaks(f, NULL, NULL);
    assert_non_null(answer);
    assert_int_equal(json_array_size(json_object_get(answer, "sessions")), 1);
    row = json_array_get(json_object_get(answer, "sessions"), 0);
    assert_string_equal(json_string_value(json_object_get(row, "label")), "careless");
    assert_true(json_is_true(json_object_get(row, "ended")));
    assert_int_equal(figure(row, "objects"), LEFT);
    json_decref(answer);
    assert_int_equal(leaks_figure(f, "--free", NULL, "freed_objects"), LEFT);
    assert_true(fixture_is_clean(f, 0));
}

static void leaks_in_a_span_that_is_leased_again_are_freed_if_all_is(void **state)
{
    fixture *f = *state;
    uint64_t ngarbage;
    uint64_t nleased;
    json_t *answer;
    pid_t pid;

    assert_int_equal(child_run(f, leave_labelled, (void *)(uintptr_t)"careless"), 1000 + SIGKILL);
    (void)fixture_live_with(f, 0);
    pid = child_start_stopped(f, allocate_beside, NULL);
    answer = leaks(f, "--free", NULL);
    assert_non_null(answer);
    ngarbage = figure(answer, "garbage_objects");
    assert_in_range(ngarbage, LEFT - 2, LEFT); /* a word of the other one's may look like a pointer */
    nleased = figure(answer, "leased_objects"); /* some of its spans: those that the other one has needed */
    assert_in_range(nleased, 1, LEFT);
    assert_int_equal(figure(answer, "freed_objects"), ngarbage - nleased);
    json_decref(answer);
    assert_in_range(leaks_figure(f, "--free", "--all", "freed_objects"), nleased, nleased + LEFT - ngarbage);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    (void)fixture_live_with(f, 0);
    assert_in_range(leaks_figure(f, "--free", NULL, "freed_objects"), 0, LEFT - ngarbage);
    assert_true(fixture_is_clean(f, 0));
}

static int forget_what_is_owned(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    forget_some(LEFT);
    wipe_stack();
    (void)raise(SIGSTOP);
    return 0;
}

static void leaks_of_what_a_session_owns_are_left_to_its_end(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start_stopped(f, forget_what_is_owned, NULL);
    json_t *answer = leaks(f, "--free", "--all");

    assert_non_null(answer);
    assert_int_equal(figure(answer, "garbage_objects"), 0);
    assert_int_equal(figure(answer, "freed_objects"), 0);
    assert_in_range(figure(answer, "owned_objects"), LEFT - 1 - RETAINED(LEFT), LEFT);
    json_decref(answer);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

static int forget_sampled(const fixture *f, void *arg)
{
    (void)arg;
    CHECK(setenv("GOALLOC_PROFILE", "256", 1) == 0);
    must_attach(f, 0);
    for (int i = 0; i < 20; i++)
        forget_some(LEFT);
    return 0;
}

static void leaks_of_sampled_objects_are_told_by_stack(void **state)
{
    fixture *f = *state;
    json_t *answer;
    json_t *row;
    json_t *frame;
    size_t i;
    size_t k;
    bool named = false;

    assert_int_equal(child_run(f, forget_sampled, NULL), 0);
    (void)fixture_live_with(f, 0);
    answer = leaks(f, NULL, NULL);
    assert_non_null(answer);
    assert_int_equal(figure(answer, "garbage_objects"), 20 * LEFT);
    json_array_foreach(json_object_get(answer, "stacks"), i, row)
    {
        assert_true(figure(row, "objects") > 0);
        json_array_foreach(json_object_get(row, "stack"), k, frame)
            named |= strcmp(json_string_value(json_object_get(frame, "function")), "forget_some") == 0;
    }
    assert_true(named);
    json_decref(answer);
    assert_int_equal(leaks_figure(f, "--free", NULL, "freed_objects"), 20 * LEFT);
    answer = leaks(f, NULL, NULL);
    assert_non_null(answer);
    assert_int_equal(json_array_size(json_object_get(answer, "stacks")), 0);
    json_decref(answer);
    assert_true(fixture_is_clean(f, 0));
}

/* --- half-built --- */

/* What is freed while it is being built, by another thread of the process that is stopped anywhere in it. */
typedef struct chain_board {
    _Atomic uint32_t over;
} chain_board;

static chain_board *chains;

static int build_chains(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    while (!atomic_load(&chains->over)) {
        node *head = NULL;

        for (uint64_t i = 0; i < 200; i++) {
            node *p = goalloc_malloc(sizeof(*p) + i % 5 * 100);

            CHECK(p != NULL);
            *p = (node){ head, NULL, i };
            head = p;
        }
        for (uint64_t i = 200; i-- > 0;) {
            node *next = head->next;

            CHECK(head->number == i);
            goalloc_free(head); /* aborts if it has been freed */
            head = next;
        }
        CHECK(head == NULL);
    }
    return 0;
}

static void leaks_of_half_built_chains_are_none_while_their_builders_live(void **state)
{
    fixture *f = *state;
    pid_t pids[3];

    chains = mmap(NULL, sizeof(*chains), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(chains != MAP_FAILED);
    for (int i = 0; i < 3; i++)
        pids[i] = child_start(f, build_chains, NULL);
    for (int i = 0; i < 40; i++) {
        json_t *answer = leaks(f, "--free", "--all");

        assert_non_null(answer);
        assert_int_equal(figure(answer, "freed_objects"), 0);
        json_decref(answer);
    }
    (void)kill(pids[0], SIGKILL);
    assert_int_equal(child_wait(pids[0]), 1000 + SIGKILL);
    atomic_store(&chains->over, 1);
    for (int i = 1; i < 3; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    (void)fixture_live_with(f, 0);
    assert_true(leaks_figure(f, "--free", NULL, "garbage_objects") <= 200);
    assert_true(fixture_is_clean(f, 0));
}

/* --- where numbers of processes are others --- */

static int keep_one(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_malloc(100) != NULL);
    for (;;)
        (void)raise(SIGSTOP);
}

static void leaks_in_another_pid_namespace_are_not_looked_for(void **state)
{
    static const char *const arguments[] = { "leaks", "--free", "2>&1", NULL };
    const fixture *f = *state;
    int before = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC), status;
    char out[4096] = "";
    pid_t pid;

    if (before < 0 || unshare(CLONE_NEWPID) < 0) {
        (void)close(before);
        skip();
    }
    assert_int_equal(setns(before, CLONE_NEWPID), 0);
    pid = child_start_stopped(f, keep_one, NULL);
    assert_int_equal(unshare(CLONE_NEWPID), 0);
    status = fixture_ctl(f, arguments, out, sizeof(out));
    assert_int_equal(setns(before, CLONE_NEWPID), 0);
    (void)close(before);
    assert_int_not_equal(status, 0);
    assert_non_null(strstr(out, "another pid namespace"));
    assert_int_equal(live_objects(f), 1);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(leaks_with_a_survivor_frees_nothing_that_lives),
        FIXTURE_TEST(leaks_why_of_what_a_root_holds_names_the_root),
        FIXTURE_TEST(leaks_of_the_dead_are_told_by_session),
        FIXTURE_TEST(leaks_in_a_span_that_is_leased_again_are_freed_if_all_is),
        FIXTURE_TEST(leaks_of_what_a_session_owns_are_left_to_its_end),
        FIXTURE_TEST(leaks_of_sampled_objects_are_told_by_stack),
        FIXTURE_TEST(leaks_of_half_built_chains_are_none_while_their_builders_live),
        FIXTURE_TEST(leaks_in_another_pid_namespace_are_not_looked_for),
        FIXTURE_TEST(leaks_of_all_kinds_are_found_and_freed_exactly),
        FIXTURE_TEST(leaks_why_names_the_word_that_holds_what_is_retained),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
