/*
 * Linking: goalloc_link, goalloc_unlink_free and goalloc_settle, whoever dies when.
 *
 * Two kinds of deaths. In the first, a process is stopped after each number of its instructions in one call, something
 * happens, and it dies: then a slot and what lives must fit together, exactly. In the second, a thousand processes that
 * reclaim, and do nothing but link and unlink in one list under a robust mutex, are killed at any time: what a walk
 * from the root finds is what there is.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "shm/holds.h"
#include "tests/support/objects.h"
#include "tests/support/rawheap.h"
#include "tests/support/steps.h"
#include "tests/support/waits.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ROUNDS     12 /* so few that none of them may find the worker between its first store and its last */
#define LEAST_HELD 0
#define NKILLED    60
#define STEPS_OF_INTEREST 2300u /* what comes after them is a message to the daemon */
#else
#define ROUNDS     70
#define LEAST_HELD 1
#define NKILLED    1000
#define STEPS_OF_INTEREST 700u
#endif
#define STEPS_MAX 1000000u
#define FILL      0x5a

static uint64_t live_objects(const fixture *f)
{
    goalloc_stats_t stats;

    fixture_stats(f, &stats);
    return stats.live_objects;
}

/* --- one call --- */

static int use_slots(const fixture *f, void *arg)
{
    void **slots;
    void *a;
    void *b;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    slots = goalloc_calloc(4, sizeof(*slots));
    CHECK(slots != NULL && goalloc_publish(slots) == 0);
    a = filled(64, FILL);
    b = filled(64, FILL);
    CHECK(goalloc_link(&slots[0], a) == 0 && slots[0] == a);
    CHECK(goalloc_link(&slots[1], a) == 0 && slots[1] == a); /* it is the heap's already */
    CHECK(goalloc_link(&slots[0], b) == 0 && slots[0] == b);
    CHECK(goalloc_unlink_free(&slots[0], a) == 0 && slots[0] == a);
    CHECK(goalloc_usable_size(b) == 0 && goalloc_usable_size(a) != 0);
    CHECK(goalloc_unlink_free(&slots[0], NULL) == 0 && slots[0] == NULL);
    CHECK(goalloc_unlink_free(&slots[1], NULL) == -EALREADY && slots[1] == a);
    CHECK(goalloc_unlink_free(&slots[0], a) == -EINVAL && slots[0] == NULL);
    a = filled(64, FILL);
    CHECK(goalloc_link((void **)(void *)((char *)slots + 4), a) == -EINVAL);
    CHECK(goalloc_link(&b, a) == -EINVAL && goalloc_unlink_free(&b, NULL) == -EINVAL);
    CHECK(goalloc_link(&slots[2], NULL) == -EINVAL && goalloc_link(&slots[2], &slots[3]) == -EINVAL);
    CHECK(goalloc_link(&slots[2], a) == 0 && goalloc_unlink_free(&slots[2], a) == -EINVAL && slots[2] == a);
    CHECK(goalloc_settle() == 0);
    goalloc_free(slots);
    return 0; /* a stays, since it was published */
}

static void link_and_unlink_change_slot_and_object_together(void **state)
{
    const fixture *f = *state;

    assert_int_equal(child_run(f, use_slots, NULL), 0);
    assert_int_equal(fixture_live_with(f, 0), 1);
}

static int use_read_only(const fixture *f, void *arg)
{
    void *slot = NULL;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_READONLY);
    CHECK(goalloc_link(&slot, &slot) == -EROFS && goalloc_unlink_free(&slot, NULL) == -EROFS);
    CHECK(goalloc_settle() == -EROFS);
    CHECK(goalloc_detach() == 0);
    CHECK(goalloc_link(&slot, &slot) == -ENOTCONN && goalloc_unlink_free(&slot, NULL) == -ENOTCONN);
    CHECK(goalloc_settle() == -ENOTCONN);
    return 0;
}

static void link_read_only_or_detached_is_refused(void **state)
{
    assert_int_equal(child_run(*state, use_read_only, NULL), 0);
}

/* --- a death at each instruction --- */

enum whose { OWN, FOREIGN, OF_A_NEIGHBOUR };

/* What a round is about. */
typedef struct scene {
    const char *name;
    size_t bytes;
    enum whose whose; /* the worker's, an ended process's, or one's that lives and allocates */
    uint32_t flags;   /* of the worker's session */
    bool noscan;
    bool links;
    bool kills_daemon;
} scene;

/* What the test, the worker, the neighbour and the checker share. */
typedef struct common {
    const scene *scene;
    void **_Atomic slot; /* in the heap */
    void *_Atomic object;
    void *_Atomic next;
    atomic_bool traced;
    atomic_int result;
    atomic_int settled;
    atomic_int reused;
} common;

static void *make_object(const scene *s)
{
    void *p = s->noscan ? goalloc_malloc_noscan(s->bytes) : goalloc_malloc(s->bytes);

    CHECK(p != NULL);
    memset(p, FILL, s->bytes);
    return p;
}

/* The slot, with an object of this process in it unless the worker is to make it, and the next one. */
static void make_scene(common *c)
{
    c->slot = goalloc_calloc(1, sizeof(*c->slot));
    c->next = make_object(c->scene);
    CHECK(c->slot != NULL);
    c->object = make_object(c->scene);
    *c->slot = c->scene->links ? NULL : c->object;
}

static int make_and_end(const fixture *f, void *arg)
{
    must_attach(f, 0);
    make_scene(arg);
    return 0;
}

#define NMORE 3000

/* It makes the objects, and goes on to allocate such in their places when it is told to. */
static int make_and_go_on(const fixture *f, void *arg)
{
    static unsigned char *more[NMORE];
    common *c = arg;

    must_attach(f, 0);
    make_scene(c);
    (void)raise(SIGSTOP);
    c->reused = 0;
    for (int i = 0; i < NMORE; i++) {
        more[i] = make_object(c->scene);
        c->reused += more[i] == c->object;
    }
    (void)raise(SIGSTOP); /* the worker dies, and is settled */
    for (int i = 0; i < NMORE; i++)
        CHECK(goalloc_usable_size(more[i]) >= c->scene->bytes && all_are(more[i], c->scene->bytes, FILL));
    for (int i = 0; i < NMORE; i++)
        CHECK(goalloc_free_checked(more[i]) == 0);
    return 0;
}

static int work_stepped(const fixture *f, void *arg)
{
    common *c = arg;
    void **warm;

    must_attach(f, c->scene->flags);
    if (c->scene->whose == OWN) {
        make_scene(c);
        if (c->scene->flags & GOALLOC_ATTACH_RECLAIM) {
            CHECK(goalloc_publish(c->slot) == 0 && goalloc_publish(c->next) == 0);
            CHECK(c->scene->links || goalloc_publish(c->object) == 0);
        }
    }
    warm = goalloc_calloc(1, sizeof(*warm)); /* what is bound at the first call is bound */
    CHECK(warm != NULL && goalloc_link(warm, make_object(c->scene)) == 0 && goalloc_unlink_free(warm, NULL) == 0);
    goalloc_free(warm);
    c->traced = steps_begin();
    if (!c->traced)
        return 0;
    steps_mark();
    c->result = c->scene->links ? goalloc_link(c->slot, c->object) : goalloc_unlink_free(c->slot, c->next);
    steps_mark();
    return 0;
}

static int settle_quickly(const fixture *f, void *arg)
{
    common *c = arg;

    while (waits_attach(f, 40) != 0)
        ;
    c->settled = goalloc_settle();
    return 0;
}

static int settle_now(const fixture *f, void *arg)
{
    common *c = arg;

    must_attach(f, 0);
    CHECK(goalloc_settle() == 0);
    c->settled = 0;
    return 0;
}

/* The slot has the object, which lives; or the other thing, and the object does not live. Frees what there is. */
static int check_and_clean(const fixture *f, void *arg)
{
    const common *c = arg;
    const void *otherwise = c->scene->links ? NULL : c->next;
    bool is_linked;

    must_attach(f, 0);
    is_linked = *c->slot == c->object;
    CHECK(is_linked || *c->slot == otherwise);
    if (c->reused == 0) /* else another object has its place */
        CHECK((goalloc_usable_size(c->object) >= c->scene->bytes) == is_linked);
    if (is_linked)
        CHECK(all_are(c->object, c->scene->bytes, FILL) && goalloc_free_checked(c->object) == 0);
    CHECK(goalloc_free_checked(c->next) == 0 && goalloc_free_checked(c->slot) == 0);
    return 0;
}

/* How a round has gone. */
typedef struct outcome {
    uint64_t nsteps;  /* that the worker could take */
    bool was_held;    /* while it was stopped, goalloc_settle() had to wait for it */
    bool was_reused;  /* its object's place */
} outcome;

/* The worker dies when it has taken nsteps. */
static outcome round_at(fixture *f, common *c, uint64_t nsteps)
{
    const scene *s = c->scene;
    outcome ret = { 0 };
    pid_t neighbour = 0;
    pid_t worker;
    bool alive;

    c->reused = 0;
    c->settled = 1;
    if (s->whose == FOREIGN)
        assert_int_equal(child_run(f, make_and_end, c), 0);
    if (s->whose == OF_A_NEIGHBOUR) {
        neighbour = child_start(f, make_and_go_on, c);
        assert_true(child_stops(neighbour));
    }
    worker = child_start(f, work_stepped, c);
    if (!steps_start(worker)) {
        assert_false(c->traced);
        skip(); /* the system allows no tracing */
    }
    ret.nsteps = steps_take(worker, nsteps, &alive);
    assert_true(alive);
    if (neighbour != 0) {
        (void)kill(neighbour, SIGCONT);
        assert_true(child_stops(neighbour));
        ret.was_reused = c->reused > 0;
    }
    assert_int_equal(child_run(f, settle_quickly, c), 0);
    ret.was_held = c->settled == -ETIMEDOUT;
    assert_true(c->settled == 0 || ret.was_held);
    if (s->kills_daemon)
        fixture_kill(f);
    (void)kill(worker, SIGKILL);
    if (s->kills_daemon)
        fixture_restart(f, NULL);
    assert_int_equal(child_run(f, settle_now, c), 0); /* perhaps before the daemon knows of the death */
    assert_int_equal(child_wait(worker), 1000 + SIGKILL);
    if (neighbour != 0) {
        (void)kill(neighbour, SIGCONT);
        assert_int_equal(child_wait(neighbour), 0);
    }
    (void)fixture_live_with(f, 0);
    assert_int_equal(child_run(f, check_and_clean, c), 0);
    if (live_objects(f) != 0)
        fail_msg("%s: after %llu instructions: %llu objects that nobody knows of", s->name,
                 (unsigned long long)ret.nsteps, (unsigned long long)live_objects(f));
    return ret;
}

static const scene scenes[] = {
    { .name = "unlink its own", .bytes = 64, .flags = GOALLOC_ATTACH_RECLAIM },
    { .name = "unlink an ended process's", .bytes = 64, .whose = FOREIGN, .flags = GOALLOC_ATTACH_RECLAIM },
    { .name = "unlink a neighbour's", .bytes = 64, .whose = OF_A_NEIGHBOUR, .flags = GOALLOC_ATTACH_RECLAIM },
    { .name = "unlink a neighbour's, 8 bytes", .bytes = 8, .whose = OF_A_NEIGHBOUR },
    { .name = "unlink a neighbour's, tiny", .bytes = 5, .whose = OF_A_NEIGHBOUR, .noscan = true },
    { .name = "unlink its own, tiny", .bytes = 5, .noscan = true },
    { .name = "unlink an ended process's run", .bytes = 50000, .whose = FOREIGN },
    { .name = "unlink its own large one", .bytes = SHM_RUN_BYTES_MAX + 1, .flags = GOALLOC_ATTACH_RECLAIM },
    { .name = "unlink an ended process's large one", .bytes = SHM_RUN_BYTES_MAX + 1, .whose = FOREIGN },
    { .name = "unlink, no daemon", .bytes = 64, .whose = FOREIGN, .kills_daemon = true },
    { .name = "link its own", .bytes = 64, .flags = GOALLOC_ATTACH_RECLAIM, .links = true },
    { .name = "link its own, 8 bytes", .bytes = 8, .flags = GOALLOC_ATTACH_RECLAIM, .links = true },
    { .name = "link its own large one",
      .bytes = SHM_RUN_BYTES_MAX + 1,
      .flags = GOALLOC_ATTACH_RECLAIM,
      .links = true },
    { .name = "link, no daemon", .bytes = 64, .flags = GOALLOC_ATTACH_RECLAIM, .links = true, .kills_daemon = true },
};

static void worker_that_dies_at_any_instruction_leaves_slot_and_object_whole(void **state)
{
    common *c = *state;

    for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++) {
        const scene *s = c->scene = &scenes[i];
        unsigned most_rounds = s->kills_daemon ? ROUNDS / 5 : s->whose == OF_A_NEIGHBOUR ? ROUNDS : ROUNDS / 2;
        unsigned nrounds = 0;
        uint64_t step;
        unsigned nheld = 0;
        unsigned nreused = 0;
        outcome last;
        fixture f;

        fixture_start_kept(&f, NULL);
        last = round_at(&f, c, STEPS_MAX); /* all of it, and then it dies */
        assert_int_equal(c->result, 0);
        assert_in_range(last.nsteps, 1, STEPS_MAX - 1);
        step = last.nsteps < STEPS_OF_INTEREST ? last.nsteps : STEPS_OF_INTEREST;
        step = step / most_rounds + 1;
        for (uint64_t at = 0; at < last.nsteps && at < STEPS_OF_INTEREST; nrounds++) {
            outcome now = round_at(&f, c, at);

            nheld += now.was_held;
            nreused += now.was_reused;
            at += now.was_held && s->whose == OF_A_NEIGHBOUR ? step / 4 + 1 : step;
        }
        (void)printf("%s: %llu instructions, held in %u of %u rounds, reused in %u\n", s->name,
                     (unsigned long long)last.nsteps, nheld, nrounds, nreused);
        assert_in_range(nheld, LEAST_HELD, nrounds - 1);
        assert_true(fixture_is_whole(&f));
        assert_true(fixture_is_clean(&f, 0));
        assert_true(fixture_stop(&f));
    }
}

/* --- a list --- */

typedef struct node {
    struct node *next;
    uint64_t check;
} node;

typedef struct list {
    pthread_mutex_t mutex; /* robust */
    node *head;
    uint64_t nlinked;   /* how often, roughly */
    uint64_t nunlinked;
} list;

static list *the_list(void)
{
    void *p;

    CHECK(goalloc_root_get("list", &p) == 0);
    return p;
}

static int make_list(const fixture *f, void *arg)
{
    pthread_mutexattr_t attr;
    list *l;

    (void)arg;
    must_attach(f, 0);
    l = goalloc_calloc(1, sizeof(*l));
    CHECK(l != NULL && pthread_mutexattr_init(&attr) == 0);
    CHECK(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) == 0);
    CHECK(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST) == 0);
    CHECK(pthread_mutex_init(&l->mutex, &attr) == 0);
    CHECK(goalloc_root_set("list", l) == 0);
    return 0;
}

/* The daemon may be dying and being replaced: then who takes over waits for the next one. */
static void list_lock(list *l)
{
    int r = pthread_mutex_lock(&l->mutex);

    if (r == EOWNERDEAD) {
        while ((r = goalloc_settle()) < 0)
            CHECK(r == -ETIMEDOUT || r == -ENOENT || r == -ECONNREFUSED);
        r = pthread_mutex_consistent(&l->mutex);
    }
    CHECK(r == 0);
}

static node *check_node(node *n)
{
    CHECK(n == NULL || n->check == ~(uintptr_t)n);
    return n;
}

/* Link or unlink behind a random number of nodes. */
static void list_change(list *l, uint64_t *seed)
{
    uint64_t random = test_random(seed);
    node *new = goalloc_malloc(16 + random / 64 % 400);
    void **slot = (void **)(void *)&l->head;

    CHECK(new != NULL);
    list_lock(l);
    for (uint64_t i = random % 20; i > 0 && *slot != NULL; i--)
        slot = (void **)(void *)&check_node(*slot)->next;
    if (random >> 40 & 1) {
        *new = (node){ *slot, ~(uintptr_t)new };
        CHECK(goalloc_link(slot, new) == 0);
        l->nlinked++;
        new = NULL;
    } else if (check_node(*slot) != NULL) {
        CHECK(goalloc_unlink_free(slot, ((node *)*slot)->next) == 0);
        l->nunlinked++;
    }
    CHECK(pthread_mutex_unlock(&l->mutex) == 0);
    goalloc_free(new);
}

static int change_for_ever(const fixture *f, void *arg)
{
    uint64_t seed = *(uint64_t *)arg;
    list *l;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    l = the_list();
    while (l != NULL)
        list_change(l, &seed);
    return 1;
}

static int walk_list(const fixture *f, void *arg)
{
    uint64_t *ret = arg;
    list *l;

    must_attach(f, 0);
    l = the_list();
    list_lock(l);
    *ret = 1; /* the list itself */
    for (node *n = l->head; n != NULL; n = n->next) {
        CHECK(goalloc_usable_size(check_node(n)) >= sizeof(*n));
        ++*ret;
    }
    CHECK(pthread_mutex_unlock(&l->mutex) == 0);
    (void)printf("%llu linked, %llu unlinked, %llu there\n", (unsigned long long)l->nlinked,
                 (unsigned long long)l->nunlinked, (unsigned long long)*ret - 1);
    (void)fflush(stdout);
    return 0;
}

static void run_killed_workers(fixture *f, void *shared, bool kills_daemon)
{
    uint64_t *counted = shared;
    uint64_t seed = test_seed();
    uint64_t seeds[4];
    pid_t pids[4];

    assert_int_equal(child_run(f, make_list, NULL), 0);
    for (int i = 0; i < 4; i++) {
        seeds[i] = test_random(&seed);
        pids[i] = child_start(f, change_for_ever, &seeds[i]);
    }
    for (unsigned n = 0; n < NKILLED; n++) {
        unsigned i = (unsigned)(test_random(&seed) % 4);

        (void)usleep((useconds_t)(1000 + test_random(&seed) % 8000));
        if (kills_daemon && n % 50 == 49) {
            fixture_kill(f);
            (void)usleep((useconds_t)(test_random(&seed) % 3000));
        }
        (void)kill(pids[i], SIGKILL);
        assert_int_equal(child_wait(pids[i]), 1000 + SIGKILL); /* else it has found something wrong */
        if (kills_daemon && n % 50 == 49)
            fixture_restart(f, NULL);
        seeds[i] = test_random(&seed);
        pids[i] = child_start(f, change_for_ever, &seeds[i]);
    }
    for (int i = 0; i < 4; i++) {
        (void)kill(pids[i], SIGKILL);
        assert_int_equal(child_wait(pids[i]), 1000 + SIGKILL);
    }
    (void)fixture_live_with(f, 0);
    assert_int_equal(child_run(f, walk_list, counted), 0);
    assert_int_equal(fixture_live_with(f, 0), *counted);
    assert_true(fixture_is_whole(f));
}

static void killed_workers_leave_what_a_walk_from_the_root_finds(void **state)
{
    fixture f;

    fixture_start(&f, NULL);
    run_killed_workers(&f, *state, false);
    assert_true(fixture_stop(&f));
}

static void killed_workers_and_daemons_leave_what_a_walk_from_the_root_finds(void **state)
{
    fixture f;

    fixture_start_kept(&f, NULL);
    run_killed_workers(&f, *state, true);
    assert_true(fixture_stop(&f));
}

/* --- threads and children --- */

static void *change_some(void *arg)
{
    uint64_t seed = (uintptr_t)arg;
    list *l = the_list();

    for (int i = 0; i < 3000; i++)
        list_change(l, &seed);
    return NULL;
}

/* They confuse sanitizers: that of threads by every fork while threads run, the other one by those without handlers. */
#if defined(__SANITIZE_THREAD__)
#define NFORKS 0
#else
#define NFORKS 30
#endif

/* Children come of a process whose threads are at it, also without fork's handlers. */
static int fork_meanwhile(const fixture *f, void *arg)
{
    pthread_t threads[4];

    (void)arg;
    must_attach(f, 0);
    for (uintptr_t i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, change_some, (void *)(i + 1)) == 0);
    for (int i = 0; i < NFORKS; i++) {
        pid_t pid = i % 2 || LEAST_HELD == 0 ? fork() : _Fork();

        if (pid == 0) {
            uint64_t seed = (uint64_t)i + 100;

            for (int n = 0; n < 20; n++)
                list_change(the_list(), &seed);
            _exit(0);
        }
        waits_child_ends_well(pid);
    }
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    return 0;
}

static void threads_and_forked_children_link_and_unlink(void **state)
{
    uint64_t *counted = *state;
    fixture f;

    fixture_start(&f, NULL);
    assert_int_equal(child_run(&f, make_list, NULL), 0);
    assert_int_equal(child_run(&f, fork_meanwhile, NULL), 0);
    (void)fixture_live_with(&f, 0);
    assert_int_equal(child_run(&f, walk_list, counted), 0);
    assert_int_equal(live_objects(&f), *counted);
    assert_true(fixture_stop(&f));
}

/* Objects of 8 bytes: most links wait for a request in between. */
static void *link_until_cancelled(void *arg)
{
    void **slot = arg;

    for (;;) {
        void *p = goalloc_malloc(8);

        CHECK(p != NULL && goalloc_link(slot, p) == 0);
        pthread_testcancel();
        CHECK(goalloc_unlink_free(slot, NULL) == 0);
    }
    return NULL;
}

static int cancel_some(const fixture *f, void *arg)
{
    uint64_t seed = *(uint64_t *)arg;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    for (int i = 0; i < 40; i++) {
        void **slot = goalloc_calloc(1, sizeof(*slot));
        pthread_t thread;

        CHECK(slot != NULL && pthread_create(&thread, NULL, link_until_cancelled, slot) == 0);
        (void)usleep((useconds_t)(test_random(&seed) % 2000));
        CHECK(pthread_cancel(thread) == 0 && pthread_join(thread, NULL) == 0);
        if (*slot != NULL)
            CHECK(goalloc_unlink_free(slot, NULL) == 0);
        goalloc_free(slot);
    }
    (void)raise(SIGSTOP);
    return 0;
}

static void cancelled_threads_leave_no_hold(void **state)
{
    common *c = *state;
    uint64_t seed = test_seed();
    fixture f;
    pid_t pid;

    fixture_start(&f, NULL);
    pid = child_start(&f, cancel_some, &seed);
    assert_true(child_stops(pid));
    assert_int_equal(child_run(&f, settle_now, c), 0); /* nobody goes on */
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_stop(&f));
}

/* --- those who lie --- */

/* Every hold and record of the first sessions becomes anything, and the daemon is asked to settle them. */
static int forge(const fixture *f, void *arg)
{
    uint64_t seed = *(uint64_t *)arg;
    shm_intents *intents;
    rawheap heap;

    rawheap_open(&heap, f, 0, "liar");
    intents = shm_intents_of(&heap.map);
    u32_store_release(&intents->used, 1);
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < SHM_HOLDS_MAX; i++) {
            uint64_t random = test_random(&seed);
            hold h = { .place = random % heap.map.arena_bytes / 8 * 8, .record = (uint32_t)(random >> 50) % 128 };

            h.session.n = (uint16_t)(random >> 36) % 16;
            u64_store_release(&intents->holds[i], round % 3 == 0 ? random : hold_pack(h));
        }
        for (size_t n = 0; n < 16 * SHM_INTENTS_MAX; n++) {
            shm_intent *record = &intents->records[n / SHM_INTENTS_MAX][n % SHM_INTENTS_MAX];
            uint64_t random = test_random(&seed);

            u64_store_release(&record->slot, random % (round % 2 ? UINT64_MAX : heap.map.arena_bytes));
            u64_store_release(&record->object, test_random(&seed) % (round % 2 ? UINT64_MAX : 4 * MIB));
            u64_store_release(&record->next, 0);
            u64_store_release(&record->state, random >> 60);
        }
        for (uint32_t no = 0; no < 20; no++) {
            Goallocd__Request request = GOALLOCD__REQUEST__INIT;
            Goallocd__Settle ask = GOALLOCD__SETTLE__INIT;
            int error;

            ask.session = no == 19 ? UINT32_MAX : no;
            request.id = 2;
            request.op_case = GOALLOCD__REQUEST__OP_SETTLE;
            request.settle = &ask;
            error = rawheap_error(&heap, &request);
            CHECK(error == (no == 0 || no == 19 ? EINVAL : 0));
        }
    }
    return 0;
}

static void forged_intents_harm_no_daemon(void **state)
{
    uint64_t seed = test_seed();
    fixture *f = *state;

    assert_int_equal(child_run(f, make_list, NULL), 0);
    assert_int_equal(child_run(f, forge, &seed), 0);
    (void)fixture_live_with(f, 0);
    assert_true(fixture_is_whole(f));
}

/* Holds in all buckets, in the name of a session. */
static void fill_holds(const shm_map *map, uint32_t session)
{
    shm_intents *intents = shm_intents_of(map);

    u32_store_release(&intents->used, 1);
    for (size_t i = 0; i < SHM_HOLDS_MAX; i++)
        u64_store_release(&intents->holds[i], hold_pack((hold){ .place = 64, .session = { (uint16_t)session } }));
}

/* Those of a process that lives and never goes on. */
static int hold_for_ever(const fixture *f, void *arg)
{
    atomic_uint *step = arg;
    rawheap heap;

    rawheap_open(&heap, f, 0, "holder");
    fill_holds(&heap.map, heap.session);
    *step = 1;
    (void)pause();
    return 0;
}

static int link_in_vain(const fixture *f, void *arg)
{
    void **slot;

    (void)arg;
    while (waits_attach(f, 100) != 0)
        ;
    while ((slot = goalloc_calloc(1, sizeof(*slot))) == NULL)
        CHECK(errno == ETIMEDOUT); /* so short a time-out is for what follows */
    while ((*slot = goalloc_malloc(64)) == NULL)
        CHECK(errno == ETIMEDOUT);
    CHECK(goalloc_unlink_free(slot, NULL) == -EAGAIN && goalloc_usable_size(*slot) != 0);
    CHECK(goalloc_settle() == -ETIMEDOUT);
    goalloc_free(*slot);
    goalloc_free(slot);
    return 0;
}

static int unlink_one(void)
{
    void **slot = goalloc_calloc(1, sizeof(*slot));

    CHECK(slot != NULL && (*slot = goalloc_malloc(64)) != NULL);
    CHECK(goalloc_unlink_free(slot, NULL) == 0);
    goalloc_free(slot);
    return 0;
}

static int link_again(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_settle() == 0);
    return unlink_one();
}

/* Nobody has asked for a settling. */
static int link_at_once(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    return unlink_one();
}

static void full_table_of_holds_is_an_error_until_its_holder_ends(void **state)
{
    atomic_uint *step = *state;
    fixture f;
    pid_t holder;

    fixture_start(&f, NULL);
    *step = 0;
    holder = child_start(&f, hold_for_ever, step);
    while (*step == 0)
        (void)usleep(1000);
    assert_int_equal(child_run(&f, link_in_vain, NULL), 0);
    (void)kill(holder, SIGKILL);
    assert_int_equal(child_wait(holder), 1000 + SIGKILL);
    assert_int_equal(child_run(&f, link_again, NULL), 0);
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_stop(&f));
}

/* In the name of session 0, which is nobody. */
static int hold_for_nobody(const fixture *f, void *arg)
{
    atomic_uint *step = arg;
    rawheap heap;

    rawheap_open(&heap, f, 0, "liar");
    fill_holds(&heap.map, 0);
    *step = 1;
    (void)pause();
    return 0;
}

static int settle_once(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_settle() == 0);
    return 0;
}

/* Nobody waits for them, and since no end of a session is theirs, they go with those of any other. */
static void holds_in_nobodys_name_go_with_the_next_session(void **state)
{
    atomic_uint *step = *state;
    fixture f;
    pid_t liar;

    fixture_start(&f, NULL);
    *step = 0;
    liar = child_start(&f, hold_for_nobody, step);
    while (*step == 0)
        (void)usleep(1000);
    assert_int_equal(child_run(&f, settle_once, NULL), 0);
    (void)kill(liar, SIGKILL);
    assert_int_equal(child_wait(liar), 1000 + SIGKILL);
    (void)fixture_live_with(&f, 0);
    assert_int_equal(child_run(&f, link_again, NULL), 0);
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_stop(&f));
}

/* In the name of a number that no session has had. */
static int hold_for_a_free_number(const fixture *f, void *arg)
{
    rawheap heap;

    (void)arg;
    rawheap_open(&heap, f, 0, "liar");
    fill_holds(&heap.map, SHM_SESSIONS_MAX - 1);
    return 0;
}

static void holds_in_the_name_of_a_free_number_go_with_their_author(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, hold_for_a_free_number, NULL), 0);
    (void)fixture_live_with(f, 0);
    assert_int_equal(child_run(f, link_at_once, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

static int setup(void **state)
{
    void *p = mmap(NULL, sizeof(common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    *state = p;
    return p == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state)
{
    return munmap(*state, sizeof(common));
}

#define SHARED_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(link_and_unlink_change_slot_and_object_together),
        FIXTURE_TEST(link_read_only_or_detached_is_refused),
        SHARED_TEST(worker_that_dies_at_any_instruction_leaves_slot_and_object_whole),
        SHARED_TEST(killed_workers_leave_what_a_walk_from_the_root_finds),
        SHARED_TEST(killed_workers_and_daemons_leave_what_a_walk_from_the_root_finds),
        SHARED_TEST(threads_and_forked_children_link_and_unlink),
        SHARED_TEST(cancelled_threads_leave_no_hold),
        FIXTURE_TEST(forged_intents_harm_no_daemon),
        SHARED_TEST(holds_in_nobodys_name_go_with_the_next_session),
        FIXTURE_TEST(holds_in_the_name_of_a_free_number_go_with_their_author),
        SHARED_TEST(full_table_of_holds_is_an_error_until_its_holder_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
