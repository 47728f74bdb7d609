/*
 * Parts: the beginning of a memfd of the heap, as the keeper has it, for tests that look at or change its words.
 */
#ifndef GOALLOC_TESTS_PARTS_H
#define GOALLOC_TESTS_PARTS_H

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "proto/fdpass.h"
#include "proto/keeper.h"
#include "shm/layout.h"
#include "tests/support/fixture.h"

#define PART_BYTES 4096

/* Map it, KEEPER_FD_*; it stays mapped when daemon and keeper have gone. Fails the test if there is no keeper. */
static inline void *part_map(const fixture *f, int which)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    struct pollfd ready = { .fd = fd, .events = POLLIN };
    int fds[FDPASS_MAX];
    int nfds = 0;
    char said[8];
    void *part;

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/keeper.sock", f->state_dir);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(poll(&ready, 1, 60000), 1);
    assert_int_equal(fdpass_recv(fd, said, sizeof(said), fds, &nfds), 4);
    assert_int_equal(nfds, KEEPER_NFDS);
    part = mmap(NULL, PART_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds[which], 0);
    assert_true(part != MAP_FAILED);
    for (int i = 0; i < nfds; i++)
        (void)close(fds[i]);
    (void)close(fd);
    return part;
}

static inline shm_header *part_map_header(const fixture *f)
{
    return part_map(f, KEEPER_FD_SPANS);
}

static inline void part_unmap(void *part)
{
    (void)munmap(part, PART_BYTES);
}

#endif
