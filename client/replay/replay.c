/*
 * replay: carries out the operations of a trace, in one thread or in one for each thread of the trace.
 *
 * Called by goalloc-replay.c. Calls the allocator (backend.h) and looks at the memory now and then (memory.c). Data: a
 * table with a pointer for each place, mapped and touched before; NULL is a place without object.
 *
 * One thread (the default): all operations in the order of the trace, whichever thread they are of, so each run does
 * the same. Every sample_ops operations, and where the most bytes are live, the clock stops for a look at the memory.
 *
 * Threads: each thread of the trace has its own, with its own operations in their order. Of the order between threads
 * only this remains: who frees or reallocates an object waits until its place is filled. Places are not used twice
 * (trace.c), and what is waited for comes earlier in the trace, so nobody waits in a circle. The store that fills a
 * place is a release, the load that finds it an acquire: the object's bytes are there too. The caller's thread looks at
 * the memory meanwhile, every SAMPLE_MS; the clock runs on.
 *
 * After the last operation the clock stops; what is live is freed, which is not timed. A failure, or an interruption,
 * ends all threads and frees what there is: the heap is left as it was.
 */
#include "client/replay/replay.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/replay/backend.h"

#define SAMPLES 256u
#define SAMPLE_OPS_MIN 256u
#define SAMPLE_MS 5u
#define CHUNK_OPS 4096u /* between two looks whether to go on */
#define SPINS 64u       /* before a waiting thread gives its CPU away */
#define YIELDS 256u     /* before it sleeps */
#define WAIT_US 50u
#define SMALL_PAGE 4096u

typedef void *_Atomic place;

typedef struct run {
    const trace *t;
    place *places;
    replay_options options;
    const atomic_bool *interrupted;
    replay_result *ret;
    atomic_bool stopped;  /* a thread has failed, or could not be started */
    atomic_uint nrunning; /* threads */
    atomic_uint gate;     /* 1: go */
    pthread_mutex_t lock; /* around the error in ret */
} run;

typedef struct runner {
    run *r;
    uint32_t thread;
    pthread_t id;
} runner;

static uint64_t now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

static bool is_over(const run *r)
{
    return atomic_load_explicit(&r->stopped, memory_order_relaxed) ||
           atomic_load_explicit(r->interrupted, memory_order_relaxed);
}

/* The first failure counts. Always -1. */
static int fail(run *r, int error, size_t op, bool in_stats)
{
    (void)pthread_mutex_lock(&r->lock);
    if (r->ret->error == 0) {
        r->ret->error = error;
        r->ret->op = op;
        r->ret->in_stats = in_stats;
    }
    (void)pthread_mutex_unlock(&r->lock);
    atomic_store(&r->stopped, true);
    return -1;
}

static int sample(run *r)
{
    int error = memory_sample(&r->ret->meter);

    return error < 0 ? fail(r, -error, 0, true) : 0;
}

/* --- one operation --- */

static inline void touch(void *object, size_t size, enum replay_touch how)
{
    volatile char *p = object;

    if (size == 0 || how == REPLAY_TOUCH_NONE)
        return;
    if (how == REPLAY_TOUCH_ALL) {
        memset(object, 0xa5, size);
        return;
    }
    p[0] = 1;
    for (size_t at = SMALL_PAGE - ((uintptr_t)object & (SMALL_PAGE - 1)); at < size; at += SMALL_PAGE)
        p[at] = 1;
}

/* Take the object out of a place. With threads: wait for it; NULL: it is over. */
static inline void *place_take(const run *r, uint32_t at, bool threads)
{
    void *p = atomic_load_explicit(&r->places[at], threads ? memory_order_acquire : memory_order_relaxed);

    for (unsigned i = 0; threads && p == NULL; i++) {
        if (is_over(r))
            return NULL;
        if (i > SPINS + YIELDS)
            (void)usleep(WAIT_US);
        else if (i > SPINS)
            (void)sched_yield();
        p = atomic_load_explicit(&r->places[at], memory_order_acquire);
    }
    atomic_store_explicit(&r->places[at], NULL, memory_order_relaxed);
    return p;
}

static inline void place_fill(const run *r, uint32_t at, void *p)
{
    atomic_store_explicit(&r->places[at], p, memory_order_release);
}

/* 0; -1: it is over, or failed, with errno. */
static inline int run_op(const run *r, const trace_op *op, bool threads, bool noscan)
{
    size_t size = op->size;
    void *p = NULL;

    switch (op->kind) {
    case TRACE_FREE:
        p = place_take(r, op->place, threads);
        backend_free(p);
        return p != NULL ? 0 : -1;
    case TRACE_MALLOC:
        p = backend_malloc(size, noscan);
        break;
    case TRACE_CALLOC:
        p = backend_calloc(size, noscan);
        break;
    case TRACE_ALIGNED:
        p = backend_aligned((size_t)1 << op->aux, size);
        break;
    default: {
        void *old = place_take(r, op->aux, threads);

        if (old == NULL)
            return -1;
        p = backend_realloc(old, size);
        if (p == NULL)
            place_fill(r, op->aux, old); /* it is still there, to be freed in the end */
        break;
    }
    }
    if (p == NULL)
        return -1;
    touch(p, size, r->options.touch);
    place_fill(r, op->place, p);
    return 0;
}

/* Operations from begin to end. threads is a constant in each caller, so that one thread pays nothing for it. */
__attribute__((always_inline)) static inline int run_ops(run *r, size_t begin, size_t end, bool threads)
{
    const bool noscan = r->options.noscan;

    errno = 0; /* not all that fail set it */
    for (size_t i = begin; i < end; i++) {
        if (run_op(r, &r->t->ops[i], threads, noscan) < 0)
            return is_over(r) ? -1 : fail(r, errno != 0 ? errno : ENOMEM, i, false);
    }
    return 0;
}

/* --- one thread --- */

static uint64_t usable_bytes(const run *r)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < r->t->nplaces; i++) {
        void *p = atomic_load_explicit(&r->places[i], memory_order_relaxed);

        if (p != NULL)
            bytes += backend_usable(p);
    }
    return bytes;
}

__attribute__((noinline)) static int run_chunk(run *r, size_t begin, size_t end)
{
    return run_ops(r, begin, end, false);
}

static int run_serial(run *r, uint64_t *ret_ns)
{
    const trace *t = r->t;
    uint64_t every = r->options.sample_ops;
    uint64_t next_sample;
    uint64_t ns = 0;

    if (every == 0)
        every = t->nops / SAMPLES < SAMPLE_OPS_MIN ? SAMPLE_OPS_MIN : t->nops / SAMPLES;
    next_sample = every;
    for (size_t at = 0; at < t->nops;) {
        size_t end = t->nops - at > CHUNK_OPS ? at + CHUNK_OPS : t->nops;
        uint64_t start;
        int result;

        if (is_over(r))
            return -1;
        if (next_sample < end)
            end = next_sample;
        if (at < t->peak_op && t->peak_op < end)
            end = t->peak_op;
        start = now_ns();
        result = run_chunk(r, at, end);
        ns += now_ns() - start;
        at = end;
        if (result == 0 && BACKEND_IS_GOALLOC && (at == next_sample || at == t->peak_op || at == t->nops))
            result = sample(r);
        if (at == next_sample)
            next_sample += every;
        if (result < 0)
            return -1;
        if (at == t->peak_op && r->ret->usable_bytes == 0)
            r->ret->usable_bytes = usable_bytes(r);
    }
    *ret_ns = ns;
    return 0;
}

/* --- threads --- */

static void *run_thread(void *arg)
{
    const runner *me = arg;
    run *r = me->r;
    size_t end = r->t->first[me->thread + 1];
    int result = 0;

    while (atomic_load(&r->gate) == 0)
        (void)usleep(WAIT_US);
    for (size_t at = r->t->first[me->thread]; result == 0 && at < end && !is_over(r); at += CHUNK_OPS)
        result = run_ops(r, at, end - at > CHUNK_OPS ? at + CHUNK_OPS : end, true);
    atomic_fetch_sub(&r->nrunning, 1);
    return NULL;
}

static int run_threads(run *r, uint64_t *ret_ns)
{
    static runner runners[TRACE_THREADS_MAX];
    uint32_t nstarted = 0;
    uint64_t start;

    atomic_store(&r->gate, 0);
    for (; nstarted < r->t->nthreads; nstarted++) {
        int error;

        runners[nstarted] = (runner){ .r = r, .thread = nstarted };
        error = pthread_create(&runners[nstarted].id, NULL, run_thread, &runners[nstarted]);
        if (error != 0) {
            (void)fail(r, error, 0, false);
            break;
        }
    }
    atomic_store(&r->nrunning, nstarted);
    start = now_ns();
    atomic_store(&r->gate, 1);
    while (BACKEND_IS_GOALLOC && atomic_load(&r->nrunning) > 0 && !is_over(r) && sample(r) == 0) {
        for (unsigned i = 0; i < SAMPLE_MS * 10 && atomic_load(&r->nrunning) > 0; i++)
            (void)usleep(100);
    }
    for (uint32_t i = 0; i < nstarted; i++)
        (void)pthread_join(runners[i].id, NULL);
    *ret_ns = now_ns() - start;
    return is_over(r) ? -1 : sample(r);
}

/* --- all --- */

void *replay_table_new(trace *t)
{
    size_t bytes = (size_t)t->nplaces * sizeof(place);
    void *table = trace_table(t, NULL, 0, bytes);

    return table == NULL ? NULL : memset(table, 0, bytes);
}

static void free_all(run *r)
{
    for (uint32_t i = 0; i < r->t->nplaces; i++) {
        backend_free(atomic_load_explicit(&r->places[i], memory_order_relaxed));
        atomic_store_explicit(&r->places[i], NULL, memory_order_relaxed);
    }
}

int replay_run(const trace *t, void *table, const replay_options *options, const atomic_bool *interrupted,
               replay_result *ret)
{
    run r = { .t = t, .places = table, .options = *options, .interrupted = interrupted, .ret = ret };
    int result = 0;

    (void)pthread_mutex_init(&r.lock, NULL);
    for (uint32_t i = 0; result == 0 && i < options->repeat; i++) {
        result = options->threads ? run_threads(&r, &ret->ns[i]) : run_serial(&r, &ret->ns[i]);
        if (result == 0 && !BACKEND_IS_GOALLOC)
            result = sample(&r);
        if (result == 0)
            ret->nrepeats++;
        free_all(&r);
    }
    if (result == 0) {
        uint64_t rpcs = ret->meter.rpcs;
        uint64_t daemon_ns = ret->meter.daemon_ns;
        memory_use peak = ret->meter.peak;

        result = sample(&r);
        ret->meter.daemon_ns = daemon_ns;
        ret->meter.rpcs = rpcs; /* what freeing the rest took was not the program's */
        ret->meter.peak = peak;
    }
    (void)pthread_mutex_destroy(&r.lock);
    return result;
}
