/*
 * Enemy: see enemy.h. Called by the attacks.
 */
#include "tests/hostile/enemy.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#define PAUSE_US 2000u /* after a refusal: else refusals would be the attack */

void enemy_deed(attacker *a, uint64_t n)
{
    u64_add_relaxed(&a->entry->deeds, n);
}

void enemy_refused(attacker *a)
{
    u64_add_relaxed(&a->entry->refused, 1);
    board_sleep_us(PAUSE_US);
}

int enemy_connect(const attacker *a)
{
    static channel ch; /* only its descriptor is used */

    return channel_try_connect(&ch, a->f->socket, 0, 0) < 0 ? -1 : ch.fd;
}

int enemy_must_connect(attacker *a)
{
    int fd;

    while ((fd = enemy_connect(a)) < 0)
        enemy_refused(a);
    return fd;
}

static bool map_tables(rawheap *ret, const Goallocd__AttachReply *reply)
{
    void *spans = mmap(NULL, reply->spans_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, ret->fds[ATTACH_FD_SPANS], 0);
    void *bitmap = mmap(NULL, reply->bitmap_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                        ret->fds[ATTACH_FD_BITMAP], 0);

    if (spans == MAP_FAILED || bitmap == MAP_FAILED)
        return false;
    shm_map_init(&ret->map, spans, bitmap, NULL);
    return true;
}

int enemy_attach(rawheap *ret, uint64_t limit_bytes, uint32_t flags, const char *label, bool map)
{
    Goallocd__Attach ask = rawheap_attach_init();
    Goallocd__Reply *reply;
    int error;

    ask.limit_bytes = limit_bytes;
    ask.flags = flags;
    ask.label = (char *)(uintptr_t)label;
    for (int i = 0; i < ATTACH_NFDS; i++)
        ret->fds[i] = -1;
    reply = rawheap_ask(ret, &ask);
    error = reply == NULL ? -1 : reply->error;
    if (error == 0) {
        ret->session = reply->attach->session;
        ret->epoch = reply->attach->epoch;
        ret->generation = reply->attach->generation;
        if (map && !map_tables(ret, reply->attach))
            error = -1;
    }
    if (reply != NULL)
        goallocd__reply__free_unpacked(reply, NULL);
    return error;
}

void enemy_must_attach(attacker *a, rawheap *ret, uint64_t limit_bytes, uint32_t flags, bool map)
{
    for (;;) {
        memset(ret, 0, sizeof(*ret));
        ret->fd = enemy_must_connect(a);
        if (enemy_attach(ret, limit_bytes, flags, "enemy", map) == 0)
            return;
        enemy_close(ret);
        enemy_refused(a);
    }
}

void enemy_close(rawheap *heap)
{
    if (heap->map.header != NULL) {
        (void)munmap(heap->map.bitmap, heap->map.bitmap_bytes);
        (void)munmap(heap->map.header, heap->map.spans_bytes);
        heap->map.header = NULL;
    }
    if (heap->fd >= 0)
        rawheap_disconnect(heap);
    for (int i = 0; i < ATTACH_NFDS; i++) {
        if (heap->fds[i] >= 0)
            (void)close(heap->fds[i]);
    }
}

size_t enemy_pack(uint8_t *buf, size_t cap_bytes, Goallocd__Request *request, unsigned n)
{
    size_t used = 0;

    for (unsigned i = 0; i < n; i++) {
        request->id = i + 1;
        used += frame_pack(&request->base, buf + used, cap_bytes - used);
    }
    return used;
}

ssize_t enemy_send(int fd, const uint8_t *data, size_t len_bytes)
{
    size_t sent = 0;

    while (sent < len_bytes) {
        ssize_t n = send(fd, data + sent, len_bytes - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno != EAGAIN)
            return -1;
        if (n <= 0)
            break;
        sent += (size_t)n;
    }
    return (ssize_t)sent;
}

bool enemy_drain(int fd)
{
    static uint8_t buf[65536];
    ssize_t n;

    while ((n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
        continue;
    return n < 0 && errno == EAGAIN;
}

bool enemy_push(int fd, const uint8_t *data, size_t len_bytes)
{
    while (len_bytes > 0) {
        struct pollfd pfd = { .fd = fd, .events = POLLIN | POLLOUT };
        ssize_t n;

        (void)poll(&pfd, 1, 1000);
        if (!enemy_drain(fd))
            return false;
        n = enemy_send(fd, data, len_bytes);
        if (n < 0)
            return false;
        data += n;
        len_bytes -= (size_t)n;
    }
    return true;
}
