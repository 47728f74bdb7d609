/*
 * Handover: the memfds of a heap on their way from one owner to the next: who has the heap, and whether it was dropped.
 */
#ifndef GOALLOC_SHM_HANDOVER_H
#define GOALLOC_SHM_HANDOVER_H

/*
 * Lock the heap whose private memfd this is, so that no daemon serves it meanwhile. Returns a descriptor that holds the
 * lock, and which the caller closes; -EADDRINUSE: a daemon serves the heap, and did for 200 ms; -errno.
 */
int handover_lock(int private_fd) __attribute__((warn_unused_result));

/* 1 if somebody has the lock, 0 if nobody has it, -errno. */
int handover_is_locked(int private_fd) __attribute__((warn_unused_result));

/* 1 if the heap whose spans these are was dropped, 0 if not, -EPROTO: these are no heap's spans. */
int handover_is_dropped(int spans_fd) __attribute__((warn_unused_result));

/* Mark the heap as dropped, for all who have it mapped. 0, -EPROTO: these are no heap's spans; -errno. */
int handover_mark_dropped(int spans_fd) __attribute__((warn_unused_result));

#endif
