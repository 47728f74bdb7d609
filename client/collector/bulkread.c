/*
 * Bulkread: pread() by several threads, since the kernel copies 3 to 4 GB/s in each, and all others are stopped.
 *
 * Called by heapcopy.c. Helpers are made beforehand and wait for a turn; they trace nobody (who does is one thread of
 * the collector), and touch nothing but the pieces. Data, under the lock: the turn's number, whether it is open, and
 * how many helpers are at it. Pieces are taken one by one, by an atomic counter, so who is slow takes fewer.
 *
 * In a pause other threads of the collector have work of their own (world.c), and a processor each. So a helper comes
 * to a turn when a processor is free for it; when no piece is left the turn is closed, and only who has come is waited
 * for. bulkread_hurry() gives helpers the same priority as those: none of them takes another one's processor.
 *
 * If the system gives no thread, the caller reads alone. If the process dies, its threads do.
 */
#include "client/collector/bulkread.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "client/collector/proc.h"

#define HELPERS_MAX 7

struct bulkread {
    pthread_mutex_t lock;
    pthread_cond_t begins;
    pthread_cond_t ends;
    pthread_t helpers[HELPERS_MAX];
    int nhelpers;
    int nbusy; /* at the turn */
    unsigned turn;
    bool open; /* there is a turn, and who comes now is welcome */
    bool over;
    /* Of the turn. */
    int fd;
    const bulk_piece *pieces;
    uint64_t n;
    uint64_t deadline_ns;
    _Atomic uint64_t next;
    _Atomic int error;
};

int bulkread_one(int fd, const bulk_piece *piece)
{
    uint64_t done = 0;

    while (done < piece->bytes) {
        ssize_t n = pread(fd, piece->to + done, piece->bytes - done, (off_t)(piece->offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (uint64_t)n;
    }
    return 0;
}

static void take_part(bulkread *b)
{
    while (atomic_load_explicit(&b->error, memory_order_relaxed) == 0) {
        uint64_t i = atomic_fetch_add_explicit(&b->next, 1, memory_order_relaxed);
        int r;

        if (i >= b->n)
            return;
        r = b->deadline_ns != UINT64_MAX && proc_now_ns() > b->deadline_ns ? -ETIMEDOUT
                                                                           : bulkread_one(b->fd, &b->pieces[i]);
        if (r < 0)
            atomic_store_explicit(&b->error, r, memory_order_relaxed);
    }
}

static void *help(void *arg)
{
    bulkread *b = arg;
    unsigned seen = 0;

    (void)pthread_mutex_lock(&b->lock);
    for (;;) {
        while ((!b->open || b->turn == seen) && !b->over)
            (void)pthread_cond_wait(&b->begins, &b->lock);
        if (b->over)
            break;
        seen = b->turn;
        b->nbusy++;
        (void)pthread_mutex_unlock(&b->lock);
        take_part(b);
        (void)pthread_mutex_lock(&b->lock);
        if (--b->nbusy == 0)
            (void)pthread_cond_signal(&b->ends);
    }
    (void)pthread_mutex_unlock(&b->lock);
    return NULL;
}

uint32_t bulkread_nprocessors(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t mine;

    if (sched_getaffinity(0, sizeof(mine), &mine) == 0)
        n = CPU_COUNT(&mine);
    return n > 0 ? (uint32_t)n : 1;
}

bulkread *bulkread_new(bool wanted)
{
    int nprocessors = (int)bulkread_nprocessors();
    bulkread *b = calloc(1, sizeof(*b));
    sigset_t all;
    sigset_t before;

    if (b == NULL)
        return NULL;
    (void)pthread_mutex_init(&b->lock, NULL);
    (void)pthread_cond_init(&b->begins, NULL);
    (void)pthread_cond_init(&b->ends, NULL);
    (void)sigfillset(&all); /* signals are for the program's own threads */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    while (wanted && b->nhelpers < HELPERS_MAX && b->nhelpers < nprocessors - 1 &&
           pthread_create(&b->helpers[b->nhelpers], NULL, help, b) == 0)
        b->nhelpers++;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return b;
}

void bulkread_hurry(bulkread *b)
{
    const struct sched_param first = { .sched_priority = 1 };

    for (int i = 0; i < b->nhelpers; i++)
        (void)pthread_setschedparam(b->helpers[i], SCHED_FIFO, &first);
}

bulkread *bulkread_free(bulkread *b)
{
    if (b == NULL)
        return NULL;
    (void)pthread_mutex_lock(&b->lock);
    b->over = true;
    (void)pthread_cond_broadcast(&b->begins);
    (void)pthread_mutex_unlock(&b->lock);
    for (int i = 0; i < b->nhelpers; i++)
        (void)pthread_join(b->helpers[i], NULL);
    (void)pthread_mutex_destroy(&b->lock);
    (void)pthread_cond_destroy(&b->begins);
    (void)pthread_cond_destroy(&b->ends);
    free(b);
    return NULL;
}

int bulkread_all(bulkread *b, int fd, const bulk_piece *pieces, uint64_t n, uint64_t deadline_ns)
{
    bool together = b->nhelpers > 0 && n > 1;

    (void)pthread_mutex_lock(&b->lock);
    b->fd = fd;
    b->pieces = pieces;
    b->n = n;
    b->deadline_ns = deadline_ns;
    atomic_store_explicit(&b->next, 0, memory_order_relaxed);
    atomic_store_explicit(&b->error, 0, memory_order_relaxed);
    b->open = together;
    b->turn++;
    (void)pthread_mutex_unlock(&b->lock);
    if (together)
        (void)pthread_cond_broadcast(&b->begins);
    take_part(b);
    (void)pthread_mutex_lock(&b->lock);
    b->open = false; /* who has not come by now, since others had his processor, is not waited for */
    while (b->nbusy > 0)
        (void)pthread_cond_wait(&b->ends, &b->lock);
    (void)pthread_mutex_unlock(&b->lock);
    return atomic_load_explicit(&b->error, memory_order_relaxed);
}
