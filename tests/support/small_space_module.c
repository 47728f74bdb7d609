/*
 * A module that is preloaded into a daemon, which then finds itself on a system whose programs have addresses of 39
 * bits, as on some arm64 kernels.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

#define SPACE_BYTES (UINT64_C(1) << 39)

__attribute__((visibility("default"))) void *mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    void *(*next)(void *, size_t, int, int, int, off_t) =
        (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");

    if ((flags & MAP_FIXED_NOREPLACE) != 0 && (uintptr_t)at + bytes > SPACE_BYTES) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return next(at, bytes, prot, flags, fd, offset);
}
