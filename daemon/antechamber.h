/*
 * Antechamber: who connects while the heap is being loaded.
 */
#ifndef GOALLOC_DAEMON_ANTECHAMBER_H
#define GOALLOC_DAEMON_ANTECHAMBER_H

#include <pthread.h>
#include <stdbool.h>

#include "shm/atomics.h"

#define ANTECHAMBER_MAX 256u

typedef struct antechamber {
    int listen_fd;
    shm_u64 done;  /* blocks of the image, by who loads; */
    shm_u64 total; /* of so many; 0: it is not known yet */
    shm_u32 over;
    int fds[ANTECHAMBER_MAX]; /* those who wait, for the server, when it has been closed */
    bool waits[ANTECHAMBER_MAX]; /* it has asked for more than an answer to a ping */
    unsigned nfds;
    shm_u32 nopen;  /* nfds, and those of them that wait, for who looks from another thread */
    shm_u32 nwaiting;
    bool runs;
    pthread_t thread;
} antechamber;

/* Answer pings on listen_fd (borrowed), in a thread of its own; without one, nobody is answered. */
void antechamber_open(antechamber *a, int listen_fd);

/* No more: fds are those who wait, and the caller's. */
void antechamber_close(antechamber *a);

#endif
