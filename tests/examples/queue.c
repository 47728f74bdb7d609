/*
 * queue: producers and consumers on a queue of messages in the shared heap. All are killed at random; each message is
 * consumed once.
 *
 *   queue --producers 3 --consumers 3 --kill-every 5 --seconds 60      (GOALLOC_SOCKET says where the daemon is)
 *
 * The queue is a ring of pointers under a robust mutex; who finds it empty or full waits for an event (event.h) without
 * the mutex. A child that was killed is followed by one with its number, which goes on where the dead one was.
 *
 *   cells        the ring: the message, whose it is, and its number
 *   tail         messages put in so far. Its store is what puts one in: the cell is written before.
 *   head         messages taken out so far
 *   produced[p]  messages that producer p has put in
 *   hand[c]      what consumer c has taken: the message, then its place in the queue + 1
 *   ledgers[c]   what consumer c has done: place of the last one + 1, how many, their sum. Two copies and a word that
 *                says which one holds: a new one is written whole beside the one that holds.
 *
 * What holds if the process dies between any two stores, each of them whole:
 *   put:  cell; tail; produced[p].     After tail the message is in. Who takes the lock over sets produced[p] by that
 *                                      cell. Before it the message is nobody's: the session's own is freed with it, a
 *                                      published one is lost.
 *   take: hand.message; hand.place; head.   After place it is taken. Who takes the lock over sets head by the hands.
 *   done: ledger; which; then the message is freed.   Before `which` the next consumer c does it again, from its hand;
 *                                      after it the message has been done. If it was not freed yet, it is lost.
 * So each death loses one message's memory at most, and no message.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <argp.h>
#include <stdatomic.h>

#include <goalloc.h>

#include "crew.h"
#include "event.h"
#include "robust.h"

#define NCELLS  64
#define WAIT_MS 100 /* after which a waiter looks again, in case a signaller was killed */

#define STOP_PRODUCERS 1u
#define STOP_ALL       2u

typedef struct message {
    uint32_t producer;
    uint32_t nwords;
    uint64_t number; /* of this producer's */
    uint64_t words[];
} message;

typedef struct cell {
    message *message;
    uint64_t number; /* the message's: who repairs looks here, since the message may be freed by now */
    uint32_t producer;
} cell;

typedef struct ledger {
    uint64_t place;
    uint64_t count;
    uint64_t sum;
} ledger;

typedef struct consumer {
    message *message;
    _Atomic uint64_t place; /* of the message, + 1; 0: none yet */
    ledger ledgers[2];
    _Atomic uint32_t which;
} consumer;

typedef struct queue {
    pthread_mutex_t mutex; /* guards what follows, and the hands' places */
    _Atomic uint64_t head;
    _Atomic uint64_t tail;
    cell cells[NCELLS];
    _Atomic uint64_t produced[CREW_MAX];
    event filled;  /* a message came, or the end */
    event emptied; /* a message went, or the end */
    consumer consumers[CREW_MAX];
    _Atomic uint64_t nstarts; /* of children: each may lose a message's memory, when it is killed */
    _Atomic uint32_t stop;    /* STOP_PRODUCERS; STOP_ALL: consumers, too, when the queue is empty */
} queue;

/* The last holder has died: finish what it had begun. */
static void queue_repair(void *arg)
{
    queue *q = arg;
    uint64_t tail = atomic_load(&q->tail);
    const cell *last = &q->cells[(tail + NCELLS - 1) % NCELLS];

    if (tail > 0)
        atomic_store(&q->produced[last->producer], last->number + 1);
    for (uint32_t c = 0; c < CREW_MAX; c++) {
        if (atomic_load(&q->consumers[c].place) == atomic_load(&q->head) + 1)
            (void)atomic_fetch_add(&q->head, 1);
    }
}

static uint64_t word_of(uint32_t producer, uint64_t number)
{
    return crew_mix((uint64_t)producer << 48 ^ number);
}

/* --- producers --- */

/* NULL with errno. It is this session's until it is published: if the process dies, it is freed. */
static message *message_make(uint32_t producer, uint64_t number)
{
    uint32_t nwords = (uint32_t)(word_of(producer, number) % 64);
    message *m = goalloc_malloc(sizeof(*m) + nwords * sizeof(m->words[0]));

    if (m == NULL)
        return NULL;
    *m = (message){ .producer = producer, .nwords = nwords, .number = number };
    for (uint32_t i = 0; i < nwords; i++)
        m->words[i] = word_of(producer, number) + i;
    return m;
}

/* The mutex is held. False: the queue is full. Else *m is NULL afterwards: it is in the queue, or freed. */
static bool put(queue *q, message **m)
{
    uint64_t tail = atomic_load(&q->tail);

    if (tail - atomic_load(&q->head) == NCELLS)
        return false;
    if (atomic_load(&q->produced[(*m)->producer]) == (*m)->number && goalloc_publish(*m) == 0) {
        q->cells[tail % NCELLS] = (cell){ *m, (*m)->number, (*m)->producer };
        atomic_store(&q->tail, tail + 1);
        atomic_store(&q->produced[(*m)->producer], (*m)->number + 1);
    } else {
        goalloc_free(*m); /* the repair found out that my predecessor has put this one in; or it is made again */
    }
    *m = NULL;
    return true;
}

static int produce(uint32_t me, void *arg)
{
    queue *q = arg;
    message *m = NULL;

    (void)atomic_fetch_add(&q->nstarts, 1);
    while (atomic_load(&q->stop) == 0) {
        uint32_t seen = event_now(&q->emptied);
        bool there;

        if (m == NULL)
            m = message_make(me, atomic_load(&q->produced[me]));
        if (m == NULL && errno == ESTALE)
            return EXIT_FAILURE;
        if (m == NULL) { /* no daemon, or no memory: later */
            crew_sleep_ms(10);
            continue;
        }
        if (robust_lock(&q->mutex, queue_repair, q) != 0)
            return EXIT_FAILURE;
        there = put(q, &m);
        (void)pthread_mutex_unlock(&q->mutex);
        if (there)
            event_signal(&q->filled);
        else
            event_wait(&q->emptied, seen, WAIT_MS);
    }
    goalloc_free(m);
    return EXIT_SUCCESS;
}

/* --- consumers --- */

/* The mutex is held. False: the queue is empty. */
static bool take(queue *q, consumer *me)
{
    uint64_t head = atomic_load(&q->head);

    if (head == atomic_load(&q->tail))
        return false;
    me->message = q->cells[head % NCELLS].message;
    atomic_store(&me->place, head + 1);
    atomic_store(&q->head, head + 1);
    return true;
}

/* What is in the hand. False: the message is not what its producer has written. */
static bool do_message(consumer *me)
{
    uint32_t which = atomic_load(&me->which);
    ledger next = me->ledgers[which];
    message *m = me->message;

    for (uint32_t i = 0; i < m->nwords; i++) {
        if (m->words[i] != word_of(m->producer, m->number) + i)
            return false;
    }
    next.place = atomic_load(&me->place);
    next.count++;
    next.sum += word_of(m->producer, m->number);
    me->ledgers[1 - which] = next;
    atomic_store(&me->which, 1 - which);
    goalloc_free(m);
    return true;
}

/* True if there is something in the hand that has not been done. */
static bool hand_is_full(const consumer *c)
{
    return atomic_load(&c->place) != c->ledgers[atomic_load(&c->which)].place;
}

static int consume(uint32_t me, void *arg)
{
    queue *q = arg;
    consumer *c = &q->consumers[me];

    (void)atomic_fetch_add(&q->nstarts, 1);
    if (hand_is_full(c) && !do_message(c)) /* my predecessor had taken it */
        return EXIT_FAILURE;
    for (;;) {
        uint32_t seen = event_now(&q->filled);
        bool there;

        if (robust_lock(&q->mutex, queue_repair, q) != 0)
            return EXIT_FAILURE;
        there = take(q, c);
        (void)pthread_mutex_unlock(&q->mutex);
        if (there) {
            event_signal(&q->emptied);
            if (!do_message(c))
                return EXIT_FAILURE;
        } else if (atomic_load(&q->stop) == STOP_ALL) {
            return EXIT_SUCCESS;
        } else {
            event_wait(&q->filled, seen, WAIT_MS);
        }
    }
}

/* --- the supervisor --- */

typedef struct arguments {
    uint32_t nproducers;
    uint32_t nconsumers;
    crew_options options;
    crew_harassment of_consumers; /* as of producers, which the options say */
} arguments;

/* All have left. True if each message was consumed once. */
static bool is_right(queue *q, uint32_t nproducers, uint32_t nconsumers, uint64_t *ret_nproduced,
                     uint64_t *ret_nconsumed)
{
    uint64_t sum = 0;

    *ret_nproduced = 0;
    *ret_nconsumed = 0;
    for (uint32_t p = 0; p < nproducers; p++) {
        uint64_t n = atomic_load(&q->produced[p]);

        *ret_nproduced += n;
        while (n > 0)
            sum += word_of(p, --n);
    }
    for (uint32_t c = 0; c < nconsumers; c++) {
        const ledger *l = &q->consumers[c].ledgers[atomic_load(&q->consumers[c].which)];

        *ret_nconsumed += l->count;
        sum -= l->sum;
    }
    return *ret_nconsumed == *ret_nproduced && sum == 0;
}

static bool report(queue *q, const arguments *args)
{
    uint64_t nproduced;
    uint64_t nconsumed;
    bool good = is_right(q, args->nproducers, args->nconsumers, &nproduced, &nconsumed);

    (void)printf("queue: %llu messages, %llu consumed, by %llu processes: %s\n", (unsigned long long)nproduced,
                 (unsigned long long)nconsumed, (unsigned long long)atomic_load(&q->nstarts),
                 good ? "each once" : "FAILED");
    return good;
}

static int supervise(queue *q, arguments *args)
{
    int64_t until_ms = crew_until_ms(&args->options);
    crew producers;
    crew consumers;
    int r = 0;

    crew_start(&producers, args->nproducers, produce, q);
    crew_start(&consumers, args->nconsumers, consume, q);
    while (r == 0 && !crew_told_to_stop && crew_now_ms() < until_ms) {
        crew_harass(&producers, &args->options.harassment);
        crew_harass(&consumers, &args->of_consumers);
        crew_sleep_ms(1);
        r = crew_tend(&producers);
        if (r == 0)
            r = crew_tend(&consumers);
    }
    atomic_store(&q->stop, STOP_PRODUCERS);
    event_signal(&q->emptied);
    if (r == 0)
        r = crew_wait(&producers);
    atomic_store(&q->stop, STOP_ALL);
    event_signal(&q->filled);
    if (r == 0)
        r = crew_wait(&consumers);
    crew_kill(&producers);
    crew_kill(&consumers);
    return r;
}

static int run(arguments *args)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    queue *q = NULL;
    int r;

    options.label = "queue";
    options.flags = GOALLOC_ATTACH_RECLAIM;
    r = goalloc_attach(&options);
    if (r == 0) {
        q = goalloc_calloc(1, sizeof(*q));
        r = q == NULL ? -errno : goalloc_publish(q); /* there is a mutex in it: it must outlive who dies after me */
    }
    if (r == 0)
        r = -robust_init(&q->mutex);
    if (r < 0) {
        (void)printf("queue: FAILED: %s\n", goalloc_strerror(r));
        return EXIT_FAILURE;
    }
    if (supervise(q, args) != 0) {
        (void)printf("queue: FAILED: a child has ended\n");
        return EXIT_FAILURE;
    }
    if (!report(q, args))
        return EXIT_FAILURE;
    goalloc_free(q); /* all children have been waited for */
    return goalloc_detach() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* --- command line --- */

static const struct argp_option option_table[] = {
    { "producers", 'p', "N", 0, "1 to 64 (default 2)", 0 },
    { "consumers", 'c', "N", 0, "1 to 64 (default 2)", 0 },
    CREW_OPTION_ROWS,
    { 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    arguments *args = state->input;

    switch (key) {
    case 'p':
        args->nproducers = (uint32_t)crew_parse_number("--producers", arg, 1, CREW_MAX);
        return 0;
    case 'c':
        args->nconsumers = (uint32_t)crew_parse_number("--consumers", arg, 1, CREW_MAX);
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
        .doc = "A queue of messages in the shared heap at $GOALLOC_SOCKET.",
    };
    arguments args = { .nproducers = 2, .nconsumers = 2 };

    (void)argp_parse(&argp, argc, argv, 0, NULL, &args);
    crew_begin(&args.options, "queue");
    args.of_consumers = args.options.harassment;
    args.of_consumers.seed = crew_mix(args.of_consumers.seed);
    return run(&args);
}
