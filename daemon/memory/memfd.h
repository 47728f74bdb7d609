/*
 * Memfd: files without a name: made and sealed, and opened a second time.
 */
#ifndef GOALLOC_DAEMON_MEMORY_MEMFD_H
#define GOALLOC_DAEMON_MEMORY_MEMFD_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>

/* What memfd_sealed() forbids: no client can change the size under the others, nor seal more. */
#define MEMFD_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* A memfd of bytes, which have no memory yet: sealed, and mode 0600. The descriptor, or -errno. */
int memfd_sealed(const char *name, uint64_t bytes) __attribute__((warn_unused_result));

/* True, and its size, if the descriptor is such a memfd. */
bool memfd_is_sealed(int fd, uint64_t *ret_bytes) __attribute__((warn_unused_result));

/* A description of its own for the file of fd. Its descriptor, or -errno. */
int memfd_reopen(int fd, int flags) __attribute__((warn_unused_result));

/* The same with a shared OFD lock on one byte. */
int memfd_reopen_locked(int fd, int flags, off_t at) __attribute__((warn_unused_result));

/* True if somebody else has a lock on these bytes (len 0: on any from there on), or if the kernel does not say. */
bool memfd_is_locked(int fd, off_t at, off_t len) __attribute__((warn_unused_result));

#endif
