/*
 * Lifesign: a memfd of a session's or a group's own, by whose lock the daemon sees that somebody has it mapped.
 */
#ifndef GOALLOC_DAEMON_MEMORY_LIFESIGN_H
#define GOALLOC_DAEMON_MEMORY_LIFESIGN_H

#include <stdbool.h>
#include <stdint.h>

#define LIFESIGN_BYTES 4096u /* of one that is nothing else */

typedef struct lifesign {
    int fd;      /* the daemon's descriptor, without a lock; -1: there is none */
    uint64_t id; /* not 0; the first word of the file, by which who comes back says which one he has mapped */
} lifesign;

#define LIFESIGN_NONE ((lifesign){ .fd = -1 })

/* Make one of bytes. 0, -errno. *ret owns a descriptor until lifesign_end(). */
int lifesign_new(lifesign *ret, uint64_t bytes) __attribute__((warn_unused_result));
void lifesign_end(lifesign *sign);

/*
 * A descriptor for who is to have it mapped: as long as it, or a mapping by it, is anywhere, the sign is held. The
 * caller sends and closes it. The descriptor, or -errno.
 */
int lifesign_fd(const lifesign *sign, bool writable) __attribute__((warn_unused_result));

/* True while somebody has one of these descriptors open or mapped, or if the kernel does not say. */
bool lifesign_is_held(const lifesign *sign);

#endif
