/*
 * Worker: a process that attaches, does random operations in several threads until it is told to end, or leaves by
 * itself, and ends. Started by round.c, which replaces it. Everything that goes wrong ends it by storm_die().
 */
#include "tests/storm/worker.h"

#include <errno.h>
#include <stdlib.h>

#define ATTACH_MS_MAX 20000
#define TIMEOUT_MS 20000 /* of a request: a machine that is busy with other tests is no error */

/* Errors of an attach while nobody serves the socket, or the daemon that did is dying. */
static bool is_passing(int r)
{
    return r == -ENOENT || r == -ECONNREFUSED || r == -ENOTCONN || r == -ECONNRESET || r == -EPIPE || r == -EPROTO;
}

void worker_attach(const worker *w)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    char label[32];
    int r = -1;

    (void)snprintf(label, sizeof(label), "storm %u", w->number);
    options.socket_path = w->f->socket;
    options.label = label;
    options.flags = w->reclaims ? GOALLOC_ATTACH_RECLAIM : 0;
    options.timeout_ms = TIMEOUT_MS;
    for (int ms = 0; ms < ATTACH_MS_MAX; ms += 2) {
        r = goalloc_attach(&options);
        if (!is_passing(r))
            break;
        (void)usleep(2000);
    }
    if (r != 0)
        storm_die(NULL, "worker %u: attach: %s", w->number, goalloc_strerror(r));
}

void actor_init(actor *a, worker *w, unsigned thread, uint64_t seed)
{
    *a = (actor){ .w = w, .seed = seed, .nsessions = w->nsessions };
    a->intent = board_intent(w->number, thread, w->reclaims);
    actor_reseed(a, 0);
}

void actor_reseed(actor *a, unsigned which)
{
    uint64_t nops = atomic_load_explicit(&a->intent->nops, memory_order_relaxed);

    a->random = a->seed ^ (nops * 2 + which) * UINT64_C(0xd1342543de82ef95);
    a->random = test_random(&a->random);
}

static bool has_lock(const actor *a)
{
    return !a->w->is_forked && options_has(a->w->options, DEATH_DETACH);
}

void actor_begin(actor *a)
{
    if (has_lock(a) && pthread_rwlock_rdlock(&a->w->quiet) != 0)
        storm_die(a->intent, "the lock of the process is broken");
    if (a->nsessions != a->w->nsessions) { /* private objects have gone with their session */
        a->nsessions = a->w->nsessions;
        a->nprivates = 0;
    }
}

void actor_end(actor *a)
{
    if (has_lock(a))
        (void)pthread_rwlock_unlock(&a->w->quiet);
}

typedef struct start {
    worker *w;
    unsigned thread;
} start;

static void *thread_main(void *data)
{
    const start *s = data;
    actor a;

    actor_init(&a, s->w, s->thread, s->w->seed + s->thread * UINT64_C(0xd1342543de82ef95));
    while (!worker_must_end(s->w) || faults_are_due(&a)) {
        actor_begin(&a);
        operations_do(&a);
        actor_end(&a);
        incidents_do(&a);
        if (s->w->options->fault != FAULT_NONE)
            faults_do(&a);
    }
    incidents_finish(&a);
    return NULL;
}

static void init(worker *w, const fixture *f, const worker_arguments *arguments)
{
    const storm_options *o = &the_board->options;
    uint64_t seed = o->seed ^ (uint64_t)the_board->round << 48 ^ (uint64_t)arguments->number << 40 ^
                    (uint64_t)arguments->incarnation;
    pthread_rwlockattr_t attributes;

    *w = (worker){ .f = f,
                   .options = o,
                   .number = arguments->number,
                   .seed = test_random(&seed),
                   .reclaims = options_has(o, DEATH_RECLAIM) && arguments->number % 2 == 0 };
    (void)pthread_rwlockattr_init(&attributes);
    /* Else who wants to detach might wait for ever. */
    (void)pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    (void)pthread_rwlock_init(&w->quiet, &attributes);
    (void)pthread_mutex_init(&w->forking, NULL);
}

int worker_run(const fixture *f, void *arguments)
{
    static worker w;
    pthread_t threads[THREADS_MAX];
    start starts[THREADS_MAX];
    int r;

    init(&w, f, arguments);
    if (w.options->debug && setenv("GOALLOC_DEBUG", w.number / 2 % 2 == 0 ? "1" : "0", 1) < 0)
        storm_die(NULL, "worker %u: setenv", w.number);
    worker_attach(&w);
    r = table_find(&w.t);
    if (r != 0)
        storm_die(NULL, "worker %u: root_get: %s", w.number, goalloc_strerror(r));
    for (unsigned i = 0; i < w.options->nthreads; i++) {
        starts[i] = (start){ &w, i };
        if (pthread_create(&threads[i], NULL, thread_main, &starts[i]) != 0)
            storm_die(NULL, "worker %u: no thread", w.number);
    }
    for (unsigned i = 0; i < w.options->nthreads; i++)
        (void)pthread_join(threads[i], NULL);
    if (atomic_load(&w.leaving) == LEAVING_WITH_DETACH || (the_board->stop && w.seed % 2 == 0)) {
        r = goalloc_detach();
        if (r != 0)
            storm_die(NULL, "worker %u: detach: %s", w.number, goalloc_strerror(r));
    }
    return 0;
}
