/*
 * What a process that comes back says of a run, while other threads free and allocate in it, or return it: the thread
 * that asks is stopped after each number of its instructions, another one does something to the run, and the answer
 * must fit.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "client/lib/held.h"
#include "tests/support/fixture.h"
#include "tests/support/steps.h"

#define ARENA_BYTES (64 * MIB)
#define RUN 40u /* its first page */
#define NPAGES 60u
#define NLEASES 7u
#define STEPS_MAX 100000u
#define WAIT_US 2000 /* for who may have to wait for the thread that is stopped */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STRIDE 61u
#else
#define STRIDE 2u
#endif

process_info process;

static mspan structure; /* of the run, in rows of which it has one */

static shm_u64 *alloc_word(void)
{
    return shm_alloc_word(&process.map, page_at(RUN), 0);
}

/* --- what happens meanwhile --- */

/* By a thread of this process: true if it did what it should. */
typedef bool (*event_fn)(void);

static bool free_and_allocate(void)
{
    bool in_doubt;

    if (!held_clear_object(page_at(RUN), &in_doubt) || in_doubt)
        return false;
    held_set_object(page_at(RUN));
    return true;
}

static bool free_to_the_cache(void)
{
    bool in_doubt;

    return held_clear_object(page_at(RUN), &in_doubt) && !in_doubt;
}

static bool free_in_doubt(void)
{
    bool in_doubt;

    held_set_doubt(page_at(RUN));
    if (!held_is_in_doubt(page_at(RUN)) || !held_clear_object(page_at(RUN), &in_doubt) || !in_doubt)
        return false;
    held_set_object(page_at(RUN));
    return !held_is_in_doubt(page_at(RUN));
}

static bool allocate_from_the_cache(void)
{
    held_set_object(page_at(RUN));
    return true;
}

/* Its structure is another span's then. */
static bool return_it(void)
{
    uint32_t run = RUN;

    held_set(&run, 1);
    u64_store_release(&structure.nleases, NLEASES + 1);
    return true;
}

/* By the daemon: the run was offered. */
static bool lease_it_anew(void)
{
    u64_store_relaxed(&shm_span_at(&process.map, page_at(RUN))->nleases, NLEASES + 2);
    return true;
}

/* By the daemon: another process had freed the object. */
static bool end_the_lease(void)
{
    return (u64_fetch_and_acq_rel(alloc_word(), ~UINT64_C(1)) & 1) != 0;
}

typedef struct row {
    const char *name;
    bool object; /* the run has one to begin with */
    bool span;   /* the same of a structure: it is no large span, but a thread's */
    event_fn event;
    bool knows_after; /* the run is this process's still; before it is in any case */
} row;

static const row rows[] = {
    { "nothing, an object", true, false, NULL, true },
    { "nothing, in the cache", false, false, NULL, true },
    { "freed and allocated", true, false, free_and_allocate, true },
    { "freed", true, false, free_to_the_cache, true },
    { "freed in doubt and allocated", true, false, free_in_doubt, true },
    { "allocated", false, false, allocate_from_the_cache, true },
    { "nothing, a thread's", false, true, NULL, true },
    { "returned", false, true, return_it, true },
    { "taken, and leased anew", false, true, lease_it_anew, false },
    { "freed by another process", true, false, end_the_lease, false },
};

/* --- the process that is asked --- */

typedef struct common {
    const row *row;
    bool traced;
    atomic_bool go;   /* the event may happen */
    atomic_bool done; /* it has */
    bool good;        /* and did what it should */
    bool knows;       /* the answer */
} common;

static void make_heap(void)
{
    static shm_header header;
    int prot = PROT_READ | PROT_WRITE;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *spans;
    void *bitmap;

    shm_header_init(&header, UINT64_C(1) << 40, ARENA_BYTES);
    spans = mmap(NULL, header.spans_bytes, prot, flags, -1, 0);
    bitmap = mmap(NULL, header.bitmap_bytes, prot, flags, -1, 0);
    process.mspan_of = mmap(NULL, ARENA_BYTES / PAGE_BYTES * sizeof(*process.mspan_of), prot, flags, -1, 0);
    if (spans == MAP_FAILED || bitmap == MAP_FAILED || process.mspan_of == MAP_FAILED)
        _exit(1);
    *(shm_header *)spans = header;
    shm_map_init(&process.map, spans, bitmap, NULL);
    shm_span_at(&process.map, page_at(RUN))->npages = NPAGES;
}

static void *event_thread(void *data)
{
    common *c = data;

    for (;;) {
        while (!atomic_load(&c->go))
            (void)sched_yield();
        c->good = c->row->event == NULL || c->row->event();
        atomic_store(&c->go, false);
        atomic_store(&c->done, true);
    }
    return NULL;
}

static void answer_for_ever(common *c)
{
    pthread_t thread;
    uint32_t run = RUN;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    make_heap();
    if (pthread_create(&thread, NULL, event_thread, c) != 0)
        _exit(1);
    c->traced = steps_begin();
    while (c->traced) {
        bool in_doubt;

        held_set(&run, 1);
        if (c->row->object)
            held_set_object(page_at(RUN));
        u64_store_relaxed(&shm_span_at(&process.map, page_at(RUN))->nleases, NLEASES);
        u64_store_relaxed(&structure.nleases, NLEASES);
        if (c->row->span)
            atomic_store_explicit(&process.mspan_of[RUN], &structure, memory_order_release);
        steps_mark(); /* 1: as the row says */
        c->knows = held_knows(RUN);
        steps_mark(); /* 2: answered */
        if ((u64_load_acquire(alloc_word()) & 1) != 0 && !held_clear_object(page_at(RUN), &in_doubt))
            _exit(1);
        held_clear(&run, 1);
        if (held_knows(RUN))
            _exit(1);
    }
    _exit(0);
}

/* --- the test --- */

static bool is_done(common *c, bool patiently)
{
    for (int us = 0; !atomic_load(&c->done) && (patiently || us < WAIT_US); us += 50)
        (void)usleep(50);
    return atomic_load(&c->done);
}

/* The event happens when the thread has taken nsteps of its answer. Returns how many it could take. */
static uint64_t round_at(common *c, pid_t pid, uint64_t nsteps)
{
    uint64_t taken;
    bool before; /* the event came before the question */
    bool alive;
    bool fits;

    atomic_store(&c->done, false);
    taken = steps_take(pid, nsteps, &alive);
    assert_true(alive);
    atomic_store(&c->go, true);
    before = is_done(c, taken < nsteps) && nsteps == 0;
    if (taken == nsteps)
        assert_true(steps_run(pid));
    assert_true(is_done(c, true));
    assert_true(c->good);
    if (c->row->knows_after)
        fits = c->knows;
    else if (before || taken < nsteps)
        fits = c->knows == !before;
    else
        fits = true; /* asked at the same time */
    if (!fits)
        fail_msg("%s: after %llu instructions the answer is %d", c->row->name, (unsigned long long)taken, c->knows);
    assert_true(steps_run(pid));
    return taken;
}

static void held_knows_between_any_two_steps_of_others_fits(void **state)
{
    common *c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t seed = test_seed();

    (void)state;
    assert_true(c != MAP_FAILED);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint64_t nsteps;
        pid_t pid;

        c->row = &rows[i];
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            answer_for_ever(c);
        if (!steps_start(pid)) {
            if (!c->traced)
                skip(); /* the system allows no tracing */
            fail();
        }
        nsteps = round_at(c, pid, STEPS_MAX);
        assert_in_range(nsteps, 1, STEPS_MAX - 1);
        for (uint64_t at = test_random(&seed) % STRIDE; at < nsteps; at += STRIDE)
            (void)round_at(c, pid, at);
        (void)printf("%s: %llu instructions\n", c->row->name, (unsigned long long)nsteps);
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
    }
    (void)munmap(c, sizeof(*c));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(held_knows_between_any_two_steps_of_others_fits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
