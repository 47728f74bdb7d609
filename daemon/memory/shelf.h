/*
 * Shelf: where the signs of life of sessions and groups lie for the next daemon.
 */
#ifndef GOALLOC_DAEMON_MEMORY_SHELF_H
#define GOALLOC_DAEMON_MEMORY_SHELF_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Signs that one message has at most, and messages that there are at most. */
#define SHELF_BATCH        200u
#define SHELF_MESSAGES_MAX 1024u

/* Messages beyond which signs are gathered into batches, besides those that batches of all of them take. */
#define SHELF_LOOSE_MAX 128u

typedef struct shelf shelf;

/* The two descriptors of a shelf: messages go in at one end, and are read and taken out at the other. */
enum { SHELF_IN, SHELF_OUT, SHELF_NFDS };

/* Make an empty one. 0, and the caller's descriptors; -errno. */
int shelf_make(int ret_fds[SHELF_NFDS]) __attribute__((warn_unused_result));

/* Which end of a shelf the descriptor is: SHELF_IN, SHELF_OUT; -1: it is none. */
int shelf_end_of(int fd);

/*
 * What is on the shelf of these descriptors, as far as this process has put it there or read it: nothing. The
 * descriptors are borrowed. NULL: no memory. shelf_free() returns NULL, and leaves the shelf as it is.
 */
shelf *shelf_new(const int fds[SHELF_NFDS]) __attribute__((warn_unused_result));
shelf *shelf_free(shelf *s);

/*
 * Put a sign there: that of the session or group of this number (as an owner of objects; below
 * SHM_OWNERS_MAX) and epoch; of number 0 it is the region of profiles (profilefile.c). It replaces another one of its
 * number. fd is borrowed until shelf_remove(). 0; -errno: -EAGAIN (it is full), -ETOOMANYREFS (this user has as many
 * descriptors on their way in sockets as it may), -ENOMEM.
 */
int shelf_put(shelf *s, uint32_t number, uint32_t epoch, int fd) __attribute__((warn_unused_result));

/* The session or group has ended, and its sign need not be there any more. It may be for a while. */
void shelf_remove(shelf *s, uint32_t number, uint32_t epoch);

/* True if a sign of this number, which does not count any more, has been put there or read: it may still be there. */
bool shelf_has_left(const shelf *s, uint32_t number);

/*
 * Take out what is not to be there any more, wherever it is in the queue, so that nothing holds it: all that lives is
 * sent once more. True: it is out. 30 us for each SHELF_BATCH of these; for what is large, and seldom.
 */
bool shelf_clean(shelf *s) __attribute__((warn_unused_result));

/*
 * After another daemon, once, before anything is put: read what is there, and leave all of it there. 0; -EPROTO: there
 * is something else; -EMFILE and other -errno.
 */
int shelf_read(shelf *s) __attribute__((warn_unused_result));

/* The descriptor that was read for this number and epoch, the caller's, as one that was put; -1: there is none. */
int shelf_take(shelf *s, uint32_t number, uint32_t epoch) __attribute__((warn_unused_result));

/* What was read and not taken belongs to nobody any more. */
void shelf_forget_rest(shelf *s);

/* Messages on it. */
uint32_t shelf_nmessages(const shelf *s);

/* Count anew. 0, -EUCLEAN after printing what differs. */
int shelf_validate(const shelf *s, FILE *err) __attribute__((warn_unused_result));

#endif
