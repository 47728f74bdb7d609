/*
 * pool: a pre-fork pool of workers on one hash table in the shared heap. Workers are killed, and the daemon goes in
 * every way there is; nothing is lost, and nothing is done twice.
 *
 *   pool --workers 8 --kill-every 10 --seconds 60      (GOALLOC_SOCKET says where the daemon is)
 *
 * The table holds a number for each key, and no entry for 0. It has stripes, each with a robust mutex, a part of the
 * entries, and a journal. Request n of worker k adds 1 to a key, or takes 1 from it: which one follows from k and n, so
 * the supervisor can do all requests over at the end, in private memory, and compare.
 *
 * A request:
 *   1. An entry is allocated if none is at hand: before the lock is taken, since it may wait for the daemon. It is this
 *      session's, so if the worker dies, it is freed with the session (GOALLOC_ATTACH_RECLAIM).
 *   2. The stripe is locked.
 *   3. The journal: what the words below shall be; last its `open`.
 *   4. One word of the stripe: an entry's value by a store, or the link to a new entry by goalloc_link(), or the link
 *      past an entry that leaves by goalloc_unlink_free(). Then the worker's count of requests that are done.
 *   5. `open` goes back.
 *
 * If the worker dies: before `open` is set, nothing has happened. While it is set, who locks the stripe next settles
 * what the worker had begun to link (goalloc_settle()), and then the words tell: a link that has not become what the
 * journal says never will, so nothing has happened; else the value and the count are stored (again): whole, not counted
 * up, so doing it twice is doing it once. After it, all has happened. Who comes after worker k goes on at its count,
 * which it looks at again under the lock of the request. If worker k died between the count and `open`, the next worker
 * k is further when the journal is done again: the count never goes back. No entry is lost, whoever dies when: it is
 * its worker's, and goes with it, until it is in the table, and from then on until it is out of there.
 *
 * What the supervisor does if the daemon goes:
 *   killed, and the heap taken over   nothing: calls come back by themselves, or answer -ETIMEDOUT if that takes longer
 *                                     than the timeout: then the worker tries again
 *   the heap is dropped, or lost      calls answer -ESTALE. Nobody may be in the heap when it is unmapped: the workers
 *                                     end, then goalloc_detach(), goalloc_attach(), a new table, new workers
 * If the supervisor is killed, its workers die with it, and the next one finds the table by its root.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <argp.h>
#include <stdalign.h>
#include <stdatomic.h>

#include <goalloc.h>

#include "crew.h"
#include "robust.h"

#define ROOT        "pool"
#define TABLE_TAG   1    /* another one for a table of another shape */
#define NSTRIPES    16
#define NBUCKETS    64   /* of a stripe */
#define NKEYS       4096
#define LAG         512  /* a worker takes away what it added so many requests of each kind before */
#define TIMEOUT_MS  1000 /* of a request to the daemon */
#define SETTLE_TRIES 30  /* at the end, when no worker is left to try it again */
#define EXIT_STALE  3    /* of a worker: the heap is gone */

typedef struct entry {
    struct entry *next;
    uint64_t key;
    int64_t value; /* never 0 under no lock */
} entry;

typedef struct journal {
    _Atomic uint32_t open; /* 1: the rest is valid, and is to be done */
    uint32_t worker;
    uint64_t done;   /* the worker's count when the request is done */
    entry **slot;    /* the link that changes... */
    entry *linked;   /* ...to this; if it has, the request is done */
    entry *changed;  /* else, if not NULL, the entry whose value changes... */
    int64_t value;   /* ...to this: the request is done in any case */
} journal;

typedef struct table table;

typedef struct stripe {
    alignas(64) pthread_mutex_t mutex; /* guards all of the stripe, and the counts of requests that fall into it */
    table *table;
    journal journal;
    entry *buckets[NBUCKETS];
} stripe;

struct table {
    stripe stripes[NSTRIPES];
    _Atomic uint64_t done[CREW_MAX]; /* requests by worker: written under the lock of the request's stripe */
    _Atomic uint64_t nstarts;        /* of workers */
    _Atomic uint32_t stop;           /* workers leave */
    uint32_t nworkers;
};

/* --- requests --- */

typedef struct request {
    uint64_t key;
    int64_t delta;
} request;

static request request_of(uint32_t worker, uint64_t n)
{
    uint64_t pair = n / 2;
    bool takes = n % 2 == 1;

    if (takes && pair < LAG)
        return (request){ 0, 0 };
    if (takes)
        pair -= LAG;
    return (request){ crew_mix((uint64_t)worker << 48 ^ pair) % NKEYS, takes ? -1 : 1 };
}

static entry **bucket_of(table *t, uint64_t key)
{
    return &t->stripes[key % NSTRIPES].buckets[key / NSTRIPES % NBUCKETS];
}

/* The end of steps 4 and 5, `open` being set and the link being what it will be. */
static void journal_close(stripe *s)
{
    journal *j = &s->journal;

    atomic_signal_fence(memory_order_seq_cst); /* for a death: after `open`, not before */
    if (j->changed != NULL)
        j->changed->value = j->value;
    if (*j->slot == j->linked && atomic_load(&s->table->done[j->worker]) < j->done) /* else who came after is further */
        atomic_store(&s->table->done[j->worker], j->done);
    atomic_store(&j->open, 0);
}

/* What robust_lock() calls if the last holder has died. */
static void journal_tells(void *arg)
{
    (void)arg; /* stripe_lock() looks into it, whoever had the lock */
}

/*
 * Lock the stripe; if one who had the lock has left its journal open, finish that first. 0 or a negative errno: then
 * the journal is still open, and the lock is free.
 */
static int stripe_lock(stripe *s)
{
    int r = -robust_lock(&s->mutex, journal_tells, NULL);

    if (r == 0 && atomic_load(&s->journal.open) == 1) {
        r = goalloc_settle();
        if (r == -ESTALE)
            r = 0; /* nobody will change a word of this heap any more */
        if (r == 0)
            journal_close(s);
        else
            (void)pthread_mutex_unlock(&s->mutex);
    }
    return r;
}

/* Steps 3 to 5, the stripe locked. *spare is NULL afterwards if it is in the table. 0 or a negative errno. */
static int request_do(stripe *s, uint32_t me, uint64_t n, request q, entry **spare)
{
    entry **slot = bucket_of(s->table, q.key);
    journal *j = &s->journal;
    int r = 0;

    while (*slot != NULL && (*slot)->key != q.key)
        slot = &(*slot)->next;
    *j = (journal){ .worker = me, .done = n + 1, .slot = slot, .linked = *slot };
    if (q.delta == 0) {
        atomic_store(&j->open, 1);
    } else if (*slot == NULL) {
        **spare = (entry){ NULL, q.key, q.delta };
        j->linked = *spare;
        atomic_store(&j->open, 1);
        r = goalloc_link((void **)slot, *spare);
        if (r == 0)
            *spare = NULL;
    } else if ((*slot)->value + q.delta == 0) {
        j->linked = (*slot)->next;
        atomic_store(&j->open, 1);
        r = goalloc_unlink_free((void **)slot, j->linked);
    } else {
        j->changed = *slot;
        j->value = j->changed->value + q.delta;
        atomic_store(&j->open, 1);
    }
    journal_close(s); /* counted only if the link is what it shall be, whatever r says */
    return r;
}

/* The next request of worker `me`; *spare is the entry at hand, or NULL. 0 or a negative errno. */
static int worker_turn(table *t, uint32_t me, entry **spare)
{
    uint64_t n = atomic_load(&t->done[me]);
    request q = request_of(me, n);
    stripe *s = &t->stripes[q.key % NSTRIPES];
    int r;

    if (*spare == NULL)
        *spare = goalloc_malloc(sizeof(**spare));
    if (*spare == NULL)
        return -errno;
    r = stripe_lock(s);
    if (r < 0)
        return r;
    if (atomic_load(&t->done[me]) == n) /* else my predecessor had begun it, and stripe_lock() has finished it */
        r = request_do(s, me, n, q, spare);
    (void)pthread_mutex_unlock(&s->mutex);
    return r;
}

static int worker(uint32_t me, void *arg)
{
    table *t = arg;
    entry *spare = NULL;

    (void)atomic_fetch_add(&t->nstarts, 1);
    while (atomic_load(&t->stop) == 0) {
        int r = worker_turn(t, me, &spare);

        if (r == -ESTALE)
            return EXIT_STALE;
        if (r == -ENOTRECOVERABLE)
            return EXIT_FAILURE;
        if (r < 0)
            crew_sleep_ms(10); /* no daemon, or no memory: later */
    }
    goalloc_free(spare);
    return EXIT_SUCCESS;
}

/* --- the table's life --- */

static int attach(void)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    int r;

    options.label = "pool";
    options.flags = GOALLOC_ATTACH_RECLAIM | GOALLOC_ATTACH_WAIT; /* the next daemon may be on its way up */
    options.timeout_ms = TIMEOUT_MS;
    do {
        r = goalloc_attach(&options);
    } while (r == -ETIMEDOUT && !crew_told_to_stop);
    return r;
}

/*
 * Only when no process uses it any more: there are mutexes in it. This supervisor has waited for its workers; those of
 * one before it were killed at its death, before this one was started.
 */
static void table_free(table *t)
{
    for (uint64_t key = 0; key < NKEYS; key++) {
        for (entry **slot = bucket_of(t, key), *e; (e = *slot) != NULL;) {
            *slot = e->next;
            goalloc_free(e);
        }
    }
    goalloc_free(t);
}

/* A new table. Others get it when this has returned, not before; if this process dies in here, the next one begins. */
static int table_init(void *p, size_t size, void *nworkers)
{
    table *t = p; /* zeroed */
    int r = 0;

    (void)size;
    t->nworkers = *(const uint32_t *)nworkers;
    for (uint32_t i = 0; i < NSTRIPES && r == 0; i++) {
        t->stripes[i].table = t;
        r = -robust_init(&t->stripes[i].mutex);
    }
    return r;
}

static int table_get(uint32_t nworkers, table **ret)
{
    void *p;
    int r = goalloc_root_get_or_create(ROOT, sizeof(table), TABLE_TAG, table_init, &nworkers, &p, NULL);

    if (r == 0)
        *ret = p;
    return r;
}

/*
 * False: the heap that is mapped is nobody's any more. If it was dropped, a word says so; if its
 * daemon was killed, and nobody had kept it, only a call finds that out. A daemon that is away is no
 * reason.
 */
static bool heap_is_current(void)
{
    void *p;

    return goalloc_is_current() && goalloc_root_get(ROOT, &p) != -ESTALE;
}

/* --- the end: everything done over --- */

/* True if the table is what the requests make it. */
static bool table_check(table *t, uint64_t *ret_ndone)
{
    static int64_t values[NKEYS];

    memset(values, 0, sizeof(values));
    *ret_ndone = 0;
    for (uint32_t i = 0; i < NSTRIPES; i++) { /* what the dead have left open */
        int tries = 0;
        int r;

        while ((r = stripe_lock(&t->stripes[i])) != 0 && r != -ENOTRECOVERABLE && ++tries < SETTLE_TRIES)
            crew_sleep_ms(10); /* the next daemon is not there yet: later, as for a worker */
        if (r != 0) {
            (void)printf("pool: stripe %u: %s\n", i, goalloc_strerror(r));
            return false;
        }
        (void)pthread_mutex_unlock(&t->stripes[i].mutex);
    }
    for (uint32_t k = 0; k < t->nworkers; k++) {
        uint64_t done = atomic_load(&t->done[k]);

        for (uint64_t n = 0; n < done; n++)
            values[request_of(k, n).key] += request_of(k, n).delta;
        *ret_ndone += done;
    }
    for (uint64_t key = 0; key < NKEYS; key++) {
        for (entry *e = *bucket_of(t, key); e != NULL; e = e->next) {
            if (e->key != key)
                continue;
            if (e->value == 0 || e->value != values[key])
                return false;
            values[key] = 0;
        }
        if (values[key] != 0)
            return false; /* lost */
    }
    return true;
}

static bool report(table *t)
{
    uint64_t ndone;
    bool good = table_check(t, &ndone);

    (void)printf("pool: %llu requests by %llu processes: %s\n", (unsigned long long)ndone,
                 (unsigned long long)atomic_load(&t->nstarts), good ? "none lost, none twice" : "FAILED");
    return good;
}

static int finish(table *t)
{
    int r;

    if (!report(t))
        return EXIT_FAILURE;
    r = goalloc_root_set(ROOT, NULL);
    table_free(t);
    if (r == 0)
        r = goalloc_detach();
    if (r < 0)
        (void)printf("pool: FAILED: at the end: %s\n", goalloc_strerror(r));
    return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* --- the supervisor --- */

typedef struct arguments {
    uint32_t nworkers;
    crew_options options;
} arguments;

/* Keep the workers at work until it is time. 0, -ESTALE: the heap is gone, -ECHILD: a worker has failed. */
static int supervise(table *t, arguments *args, int64_t until_ms)
{
    crew workers;
    int r = 0;

    atomic_store(&t->stop, 0);
    crew_start(&workers, t->nworkers, worker, t);
    for (uint32_t turn = 1; r == 0 && !crew_told_to_stop && crew_now_ms() < until_ms; turn++) {
        crew_harass(&workers, &args->options.harassment);
        crew_sleep_ms(1);
        r = crew_tend(&workers);
        if (r == 0 && turn % 50 == 0 && !heap_is_current())
            r = EXIT_STALE;
    }
    if (r == 0) {
        atomic_store(&t->stop, 1);
        r = crew_wait(&workers);
    }
    crew_kill(&workers);
    return r == EXIT_STALE ? -ESTALE : r == 0 ? 0 : -ECHILD;
}

static int run(arguments *args)
{
    int64_t until_ms = crew_until_ms(&args->options);
    table *t = NULL;
    int r;

    for (;;) {
        r = attach();
        if (r == 0)
            r = table_get(args->nworkers, &t);
        if (r == 0)
            r = supervise(t, args, until_ms);
        if (r != -ESTALE && r != -ETIMEDOUT)
            break;
        if (r == -ESTALE && t != NULL) {
            if (!report(t)) /* what is mapped can still be read */
                return EXIT_FAILURE;
            (void)printf("pool: the heap is gone; a new one\n");
            (void)fflush(stdout);
        }
        t = NULL;
        (void)goalloc_detach(); /* nobody is in the heap: the workers have been waited for */
        if (crew_told_to_stop)
            return EXIT_SUCCESS;
    }
    if (r < 0) {
        (void)printf("pool: FAILED: %s\n", goalloc_strerror(r));
        return EXIT_FAILURE;
    }
    return finish(t);
}

/* --- command line --- */

static const struct argp_option option_table[] = {
    { "workers", 'n', "N", 0, "Worker processes, 1 to 64 (default 4)", 0 },
    CREW_OPTION_ROWS,
    { 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    arguments *args = state->input;

    switch (key) {
    case 'n':
        args->nworkers = (uint32_t)crew_parse_number("--workers", arg, 1, CREW_MAX);
        return 0;
    default:
        return crew_parse_option(&args->options, key, arg) ? 0 : ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_table,
        .parser = parse_option,
        .doc = "A pre-fork pool on a hash table in the shared heap at $GOALLOC_SOCKET.",
    };
    arguments args = { .nworkers = 4 };

    (void)argp_parse(&argp, argc, argv, 0, NULL, &args);
    crew_begin(&args.options, "pool");
    return run(&args);
}
