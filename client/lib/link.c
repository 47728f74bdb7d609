/*
 * Link: one socket, requests out, replies in.
 *
 * Called by outbox.c (what is sent without waiting), rpc.c (requests with a reply) and comeback.c (connecting). Data:
 * private; the holder of the turn may touch it. No malloc: messages are packed and unpacked in buffers of the link.
 *
 * The socket is made, and replies with descriptors are read, under the forklock: so the child of a fork knows every
 * descriptor of its parent's link, and closes its copies. The socket has a high number (below 1024), because programs
 * expect the low ones for themselves.
 */
#include "client/lib/link.h"

#include <errno.h>
#include <sys/resource.h>

#include "client/lib/forklock.h"
#include "client/lib/turn.h"
#include "proto/wire.h"

#define FD_END 1024 /* a table of descriptors that reaches further costs the kernel memory */
#define FD_ROOM 64

static turn link_turn = TURN_INIT;
static channel ch = { .fd = -1 };
static shm_u32 is_open; /* there is a connection: for threads without the turn */
static shm_u64 nrpcs;
static frame_bump bump;
static uint8_t out[FRAME_BYTES_MAX];
static uint8_t bump_buf[4 * FRAME_PAYLOAD_MAX];

int link_take_turn(deadline until)
{
    return turn_take(&link_turn, until);
}

bool link_try_turn(void)
{
    return turn_try(&link_turn);
}

void link_give_turn(void)
{
    turn_give(&link_turn);
}

bool link_is_open(void)
{
    return u32_load_acquire(&is_open) != 0;
}

uint64_t link_nrpcs(void)
{
    return u64_load_relaxed(&nrpcs);
}

void link_reset_count(void)
{
    u64_store_relaxed(&nrpcs, 0);
}

static int lowest_fd(void)
{
    struct rlimit limit;
    int end = FD_END;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < FD_END)
        end = (int)limit.rlim_cur;
    return end > 2 * FD_ROOM ? end - FD_ROOM : end / 2;
}

int link_connect(const char *path)
{
    int r;

    link_close();
    forklock_take();
    r = channel_try_connect(&ch, path, lowest_fd());
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

int link_lose(void)
{
    link_close();
    return -ENOTCONN;
}

/* Pack a request into out. Returns its length, 0 if it does not fit. */
static size_t pack(const Goallocd__Request *request)
{
    u64_add_relaxed(&nrpcs, 1);
    return wire_pack_request(request, out, sizeof(out));
}

int link_send(const Goallocd__Request *request, deadline until)
{
    size_t len;
    int r;

    if (ch.fd < 0)
        return -ENOTCONN;
    len = pack(request);
    if (len == 0)
        return -EMSGSIZE;
    r = channel_send(&ch, out, len, until);
    if (r == 0)
        return 0;
    (void)link_lose(); /* after half a frame nothing can follow */
    return r == -ETIMEDOUT ? r : -ENOTCONN;
}

int link_try_send(const Goallocd__Request *request)
{
    size_t len;
    int r;

    if (ch.fd < 0)
        return -ENOTCONN;
    len = pack(request);
    if (len == 0)
        return -EMSGSIZE;
    r = channel_try_send(&ch, out, len);
    return r == 0 || r == -EAGAIN ? r : link_lose();
}

static int read_more(void)
{
    int r;

    forklock_take();
    r = channel_read(&ch);
    forklock_give();
    return r;
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
        if (r == 0)
            r = read_more();
        if (r < 0 && r != -EAGAIN)
            return link_lose();
    }
    if (r == 0) {
        frame_bump_init(&bump, bump_buf, sizeof(bump_buf));
        *ret = wire_unpack_reply(&bump, payload, len);
        channel_drop_frame(&ch);
        if (*ret != NULL)
            return 0;
    }
    (void)link_lose();
    return -EPROTO;
}

int link_fds(int ret_fds[FDPASS_MAX])
{
    for (int i = 0; i < ch.nfds; i++)
        ret_fds[i] = ch.fds[i];
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
    u64_store_relaxed(&nrpcs, 0);
    turn_reset(&link_turn);
}
