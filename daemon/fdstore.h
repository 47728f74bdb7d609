/*
 * Fdstore: systemd's descriptor store, which keeps the heap's memfds over a restart of the service.
 */
#ifndef GOALLOC_DAEMON_FDSTORE_H
#define GOALLOC_DAEMON_FDSTORE_H

#include "daemon/memory/heapfile.h"

/* What a caller handles itself. */
enum {
    FDSTORE_E_NONE = 1,  /* systemd has handed over nothing of a heap */
    FDSTORE_E_BROKEN = 2 /* only a part of one, or twice the same: logged */
};

/* Take the descriptors of a heap that systemd has passed at the start. 0: they are the caller's. FDSTORE_E_*. */
int fdstore_take(int ret_fds[HEAPFILE_NFDS]) __attribute__((warn_unused_result));

/* Put the heap's descriptors into the store. True: there is one (which does not say that systemd keeps them). */
bool fdstore_put(const heapfile *file);

/* Remove them from the store. */
void fdstore_remove(void);

#endif
