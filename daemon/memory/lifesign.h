/*
 * Lifesign: a memfd of a session's or group's own, by whose lock the daemon sees that somebody has it mapped.
 */
#ifndef GOALLOC_DAEMON_MEMORY_LIFESIGN_H
#define GOALLOC_DAEMON_MEMORY_LIFESIGN_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/memory/shelf.h"

#define LIFESIGN_BYTES 4096u
#define LIFESIGN_DOORS 64u /* descriptions of one that there may be, each with a lock on a byte of its own */

typedef struct lifesign {
    int fd;         /* the daemon's descriptor, without a lock; -1: there is none */
    bool is_unused; /* nobody has been given one with a lock */
} lifesign;

#define LIFESIGN_NONE ((lifesign){ .fd = -1 })

/* Make one. 0, -errno. *ret owns a descriptor until lifesign_end(). */
int lifesign_new(lifesign *ret) __attribute__((warn_unused_result));

/* One that an earlier daemon has made, by its descriptor, which is taken. LIFESIGN_NONE: it is not such a one. */
lifesign lifesign_adopt(int fd) __attribute__((warn_unused_result));

/*
 * The one that was read from the shelf for this number and epoch. LIFESIGN_NONE: there is none, or something else,
 * which is nobody's any more.
 */
lifesign lifesign_find(shelf *s, uint32_t number, uint32_t epoch) __attribute__((warn_unused_result));
void lifesign_end(lifesign *sign);

/*
 * A descriptor for who is to have it mapped: as long as its description is open or mapped anywhere, the sign is held.
 * It is the caller's, who sends it and closes it. The descriptor; -EUSERS: LIFESIGN_DOORS are held, or who holds one
 * has locked bytes behind these; -errno.
 */
int lifesign_fd(lifesign *sign) __attribute__((warn_unused_result));

/* True while somebody has one of these descriptors open or mapped, or if the kernel does not say. */
bool lifesign_is_held(const lifesign *sign);

#endif
