/*
 * stack: processes move nodes between two lock-free stacks, and are killed. No node is lost for good, none is there
 * twice.
 *
 *   stack --workers 8 --kill-every 5 --seconds 60      (GOALLOC_SOCKET says where the daemon is)
 *
 * A worker pops a node, writes its number into node.holder, works with it, clears holder, and pushes the node onto
 * one of the stacks. If it dies
 *   between pop and holder, or between holder and push:  the node is in no stack, and nobody's. It is lost until nobody
 *       is in a stack; then the supervisor looks through all nodes. It does so when so many have died that half of the
 *       nodes may be lost.
 *   while holder has its number:  who comes after it, under the same number, pushes the node.
 * That the nodes are one array makes both possible: all of them are known. The array is freed when all workers have
 * been waited for, so no pop reads a node that is gone.
 *
 * Counters are C11 atomics: `moves` by all workers, and one for each of them. An atomic addition has happened or not;
 * a worker that dies between the two makes them differ by one.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <argp.h>

#include <goalloc.h>

#include "crew.h"
#include "tagged_stack.h"

#define NNODES  64 /* few: so that workers meet */
#define NSTACKS 2

typedef struct node {
    tagged_node link;         /* first: a node is its link */
    _Atomic uint32_t holder;  /* worker's number + 1, or 0 */
    uint32_t uses;            /* written by who holds the node */
} node;

typedef struct shared {
    tagged_stack stacks[NSTACKS];
    node nodes[NNODES];
    _Atomic uint64_t moves;
    _Atomic uint64_t moves_of[CREW_MAX];
    _Atomic uint64_t nstarts; /* of workers: each may lose a node, when it is killed */
    _Atomic uint64_t nlost;   /* nodes that were lost, and found again */
    _Atomic uint32_t stop;
} shared;

static void put_back(shared *s, node *n, uint64_t which)
{
    atomic_store(&n->holder, 0);
    tagged_push(&s->stacks[which % NSTACKS], &n->link);
}

static int worker(uint32_t me, void *arg)
{
    shared *s = arg;

    (void)atomic_fetch_add(&s->nstarts, 1);
    for (uint32_t i = 0; i < NNODES; i++) { /* what my predecessor held */
        if (atomic_load(&s->nodes[i].holder) == me + 1)
            put_back(s, &s->nodes[i], i);
    }
    for (uint64_t turn = crew_mix(me); atomic_load(&s->stop) == 0; turn = crew_mix(turn)) {
        node *n = (node *)tagged_pop(&s->stacks[turn % NSTACKS]);

        if (n == NULL)
            continue;
        if (atomic_exchange(&n->holder, me + 1) != 0)
            return EXIT_FAILURE; /* somebody else has it as well */
        n->uses++;
        put_back(s, n, turn >> 32);
        (void)atomic_fetch_add(&s->moves, 1);
        (void)atomic_fetch_add(&s->moves_of[me], 1);
    }
    return EXIT_SUCCESS;
}

/* Nobody is in a stack any more. How many nodes were lost, and are in a stack again; -1: a node is there twice. */
static int64_t find_lost(shared *s)
{
    static bool found[NNODES];
    int64_t nlost = 0;

    memset(found, 0, sizeof(found));
    for (uint32_t k = 0; k < NSTACKS; k++) {
        uint64_t at = atomic_load(&s->stacks[k].top);

        for (tagged_node *n; (n = tagged_node_of(at)) != NULL; at = atomic_load(&n->next)) {
            size_t i = (size_t)((node *)n - s->nodes);

            if (i >= NNODES || found[i] || atomic_load(&s->nodes[i].holder) != 0)
                return -1;
            found[i] = true;
        }
    }
    for (uint32_t i = 0; i < NNODES; i++) {
        if (!found[i]) {
            put_back(s, &s->nodes[i], 0);
            nlost++;
        }
    }
    return nlost;
}

/* The workers at work until it is time, or many have died; then the nodes that were lost. False: it has failed. */
static bool round_of_work(shared *s, uint32_t nworkers, crew_harassment *harassment, int64_t until_ms)
{
    crew workers;
    int64_t nlost;
    int r = 0;

    atomic_store(&s->stop, 0);
    crew_start(&workers, nworkers, worker, s);
    while (r == 0 && !crew_told_to_stop && crew_now_ms() < until_ms && workers.nkilled < NNODES / 2) {
        crew_harass(&workers, harassment);
        crew_sleep_ms(1);
        r = crew_tend(&workers);
    }
    atomic_store(&s->stop, 1);
    if (crew_wait(&workers) != 0 || r != 0) {
        (void)printf("stack: FAILED: a node was in two hands\n");
        return false;
    }
    nlost = find_lost(s);
    if (nlost < 0 || (uint64_t)nlost > workers.nkilled || find_lost(s) != 0) {
        (void)printf("stack: FAILED: %lld nodes lost by %llu deaths (-1: a node was there twice)\n", (long long)nlost,
                     (unsigned long long)workers.nkilled);
        return false;
    }
    (void)atomic_fetch_add(&s->nlost, (uint64_t)nlost);
    return true;
}

static int finish(shared *s, uint32_t nworkers)
{
    uint64_t difference = atomic_load(&s->moves);

    for (uint32_t k = 0; k < nworkers; k++)
        difference -= atomic_load(&s->moves_of[k]);
    if (difference > atomic_load(&s->nstarts)) {
        (void)printf("stack: FAILED: the counters differ by %lld\n", (long long)difference);
        return EXIT_FAILURE;
    }
    (void)printf("stack: %llu moves by %llu processes; %llu nodes were lost, and found; none twice\n",
                 (unsigned long long)atomic_load(&s->moves), (unsigned long long)atomic_load(&s->nstarts),
                 (unsigned long long)atomic_load(&s->nlost));
    goalloc_free(s);
    return goalloc_detach() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* --- command line --- */

typedef struct arguments {
    uint32_t nworkers;
    crew_options options;
} arguments;

static int run(arguments *args)
{
    int64_t until_ms = crew_until_ms(&args->options);
    shared *s;
    int r = goalloc_attach(NULL);

    if (r < 0) {
        (void)printf("stack: FAILED: %s\n", goalloc_strerror(r));
        return EXIT_FAILURE;
    }
    s = goalloc_calloc(1, sizeof(*s));
    if (s == NULL) {
        (void)printf("stack: FAILED: %s\n", goalloc_strerror(errno));
        return EXIT_FAILURE;
    }
    for (uint32_t i = 0; i < NNODES; i++)
        tagged_push(&s->stacks[0], &s->nodes[i].link);
    do {
        if (!round_of_work(s, args->nworkers, &args->options.harassment, until_ms))
            return EXIT_FAILURE;
    } while (!crew_told_to_stop && crew_now_ms() < until_ms);
    return finish(s, args->nworkers);
}

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
        .doc = "Lock-free stacks and atomic counters in the shared heap at $GOALLOC_SOCKET.",
    };
    arguments args = { .nworkers = 4 };

    (void)argp_parse(&argp, argc, argv, 0, NULL, &args);
    crew_begin(&args.options, "stack");
    return run(&args);
}
