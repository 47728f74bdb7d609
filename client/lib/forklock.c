/*
 * Forklock: one mutex. Called by attach.c (mapping, label, fork), link.c and subscription.c (sockets), comeback.c,
 * connection.c and recorder.c (mappings that the daemon sends a descriptor of), and modules.c (a file).
 */
#include "client/lib/forklock.h"

#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void forklock_take(void)
{
    (void)pthread_mutex_lock(&lock);
}

void forklock_give(void)
{
    (void)pthread_mutex_unlock(&lock);
}

void forklock_reset(void)
{
    (void)pthread_mutex_init(&lock, NULL);
}
