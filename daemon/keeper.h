/*
 * Keeper: a process that does nothing but hold the heap's descriptors, where there is no systemd to do it.
 */
#ifndef GOALLOC_DAEMON_KEEPER_H
#define GOALLOC_DAEMON_KEEPER_H

#include <sys/un.h>

#include "daemon/memory/heapfile.h"

typedef struct keeper {
    int fd; /* the connection to it; -1: there is none */
    struct sockaddr_un addr;
} keeper;

/* What a caller handles itself. */
enum {
    KEEPER_E_NONE = 1,  /* there is no keeper */
    KEEPER_E_LATER = 2, /* none has started, for a reason that may be over soon */
};

/*
 * Connect to the keeper in directory dir, which is made if it is not there, and get its descriptors. 0: *ret is
 * connected, and ret_fds are the caller's. KEEPER_E_NONE: *ret is for keeper_start(). -errno, with a message logged:
 * the directory can't be used, or what answers there is no keeper of this user's.
 */
int keeper_connect(keeper *ret, const char *dir, int ret_fds[HEAPFILE_NFDS]) __attribute__((warn_unused_result));

/*
 * The descriptors of the keeper in directory dir, which stays as it is, as does the keeper: to look at them. 0: they
 * are the caller's; KEEPER_E_NONE, -errno. Nothing is logged.
 */
int keeper_look(const char *dir, int ret_fds[HEAPFILE_NFDS]) __attribute__((warn_unused_result));

/*
 * Start a keeper for the heap in the directory of keeper_connect(), and connect to it. 0; KEEPER_E_LATER; -errno: its
 * socket can't be there. Both with a message logged. Threads may run meanwhile: the child calls nothing that takes a
 * lock.
 */
int keeper_start(keeper *k, const heapfile *file) __attribute__((warn_unused_result));

/* Tell the keeper that the heap is no longer wanted: it ends. Waits until it has, at most a second. */
void keeper_dismiss(keeper *k);

/* Close the connection: the keeper has the heap for the next daemon. */
void keeper_leave(keeper *k);

#endif
