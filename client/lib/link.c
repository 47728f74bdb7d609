/*
 * Link: one socket, requests out, replies in.
 *
 * Called by outbox.c (what is sent without waiting), rpc.c (requests with a reply) and comeback.c (connecting). Data:
 * private; the holder of the turn may touch it. No malloc: messages are packed and unpacked in buffers of the link.
 *
 * Whoever serves the socket gives this process memory to trust. So who does is looked at each time, by SO_PEERCRED,
 * which names who has called listen(): link_check_server() says who may.
 *
 * The socket is made, and replies with descriptors are read, under the forklock: so the child of a fork knows every
 * descriptor of its parent's link, and closes its copies. The socket has a high number (below 1024), because programs
 * expect the low ones for themselves.
 */
#include "client/lib/link.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/lib/forklock.h"
#include "proto/wire.h"

#define FD_END 1024 /* a table of descriptors that reaches further costs the kernel memory */
#define FD_ROOM 64
#define ROOM_MS 10 /* how long a try waits for room in the queue of the listener; meanwhile no thread can fork */

turn link_turn = TURN_INIT;
shm_u64 link_nrpcs;

static channel ch = { .fd = -1 };
static shm_u32 is_open; /* there is a connection: for threads without the turn */
static frame_bump bump;
static uint8_t out[FRAME_BYTES_MAX];
static uint8_t bump_buf[4 * FRAME_PAYLOAD_MAX];

bool link_is_open(void)
{
    return u32_load_acquire(&is_open) != 0;
}

int link_lowest_fd(void)
{
    struct rlimit limit;
    int end = FD_END;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < FD_END)
        end = (int)limit.rlim_cur;
    return end > 2 * FD_ROOM ? end - FD_ROOM : end / 2;
}

/*
 * True if nobody but that user, and root, can have put a socket at that path: then who serves it is meant by whoever
 * has chosen the path. (The mode of a directory with an access control list has its mask where the group's bits are.)
 */
static bool owns_place(const char *path, uid_t uid)
{
    const char *slash = strrchr(path, '/');
    size_t len = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    char dir[PATH_MAX] = ".";
    struct stat st;

    if (len >= sizeof(dir))
        return false;
    if (len > 0) {
        memcpy(dir, path, len);
        dir[len] = '\0';
    }
    return stat(dir, &st) == 0 && st.st_uid == uid && (st.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

/* True if $GOALLOC_SERVER_UID names that user. A program with more rights than its caller does not ask the caller. */
static bool is_configured(uid_t uid)
{
    const char *text = secure_getenv("GOALLOC_SERVER_UID");
    char *end;
    unsigned long n;

    if (text == NULL || *text < '0' || *text > '9')
        return false;
    n = strtoul(text, &end, 10);
    return *end == '\0' && n == uid;
}

int link_check_server(int fd, const char *path)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return -EPERM;
    return cred.uid == 0 || cred.uid == geteuid() || is_configured(cred.uid) || owns_place(path, cred.uid) ? 0 : -EPERM;
}

int link_connect(const char *path)
{
    int r;

    link_close();
    forklock_take();
    r = channel_try_connect(&ch, path, link_lowest_fd(), ROOM_MS);
    if (r == 0 && (r = link_check_server(ch.fd, path)) < 0)
        channel_close(&ch);
    forklock_give();
    u32_store_release(&is_open, r == 0);
    return r;
}

void link_close(void)
{
    u32_store_release(&is_open, 0);
    forklock_take();
    channel_close(&ch);
    forklock_give();
}

int link_send(const Goallocd__Request *request, const deadline *until)
{
    size_t len;
    int r;

    if (ch.fd < 0)
        return -ENOTCONN;
    u64_add_relaxed(&link_nrpcs, 1);
    len = wire_pack_request(request, out, sizeof(out));
    if (len == 0)
        return -EMSGSIZE;
    r = until != NULL ? channel_send(&ch, out, len, *until) : channel_try_send(&ch, out, len);
    if (r == 0 || (r == -EAGAIN && until == NULL))
        return r;
    link_close(); /* after half a frame nothing can follow */
    return r == -ETIMEDOUT ? r : -ENOTCONN;
}

int link_recv(Goallocd__Reply **ret, deadline until)
{
    const uint8_t *payload;
    size_t len;
    int r;

    if (ch.fd < 0)
        return -ENOTCONN;
    while ((r = channel_take_frame(&ch, &payload, &len)) == -EAGAIN) {
        r = channel_wait(&ch, until);
        if (r == -ETIMEDOUT)
            return r;
        if (r == 0) {
            forklock_take();
            r = channel_read(&ch);
            forklock_give();
        }
        if (r < 0 && r != -EAGAIN) {
            link_close();
            return -ENOTCONN;
        }
    }
    if (r == 0) {
        frame_bump_init(&bump, bump_buf, sizeof(bump_buf));
        *ret = wire_unpack_reply(&bump, payload, len);
        channel_drop_frame(&ch);
        if (*ret != NULL)
            return 0;
    }
    link_close();
    return -EPROTO;
}

int link_fds(int ret_fds[FDPASS_MAX])
{
    memcpy(ret_fds, ch.fds, sizeof(ch.fds));
    return ch.nfds;
}

void link_close_fds(void)
{
    channel_close_fds(&ch);
}

void link_reset(void)
{
    channel_close(&ch);
    u32_store_relaxed(&is_open, 0);
    u64_store_relaxed(&link_nrpcs, 0);
    turn_reset(&link_turn);
}
