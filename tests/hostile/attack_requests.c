/*
 * Attacks by requests: those that cost the daemon more than they cost who sends them.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "tests/hostile/enemy.h"

#define UNREAD_EACH 100u
#define PIPELINE 600u
#define HALF_EACH 400u
#define CROWD_EACH 100u
#define LISTED_SPANS 16384u
#define LISTED_SESSIONS 1000u

static uint8_t frames[1 << 20];

/* Pipelines a request again and again, and reads the replies; without a session. */
static void pipeline(attacker *a, Goallocd__Request *request, unsigned n)
{
    size_t len = enemy_pack(frames, sizeof(frames), request, n);
    int fd = enemy_must_connect(a);

    for (;;) {
        if (enemy_push(fd, frames, len)) {
            enemy_deed(a, n);
            continue;
        }
        (void)close(fd);
        enemy_refused(a);
        fd = enemy_must_connect(a);
    }
}

/*
 * Asks on many connections for what has a short answer, and reads none: what the daemon holds for it is the daemon's
 * memory, and short answers cost more of it than their bytes. Every other connection has a session, and frees large
 * objects that are not there; the others ask who serves.
 */
void attack_unread(attacker *a)
{
    static rawheap heaps[UNREAD_EACH];
    static uint8_t pings[65536];
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__FreeLarge no_object = GOALLOCD__FREE_LARGE__INIT;
    Goallocd__Ping ping = GOALLOCD__PING__INIT;
    size_t lens[2];

    no_object.span = 1;
    request.op_case = GOALLOCD__REQUEST__OP_FREE_LARGE;
    request.free_large = &no_object;
    lens[0] = enemy_pack(frames, sizeof(frames), &request, 4000);
    request.op_case = GOALLOCD__REQUEST__OP_PING;
    request.ping = &ping;
    lens[1] = enemy_pack(pings, sizeof(pings), &request, 4000);
    for (unsigned i = 0;; i = (i + 1) % UNREAD_EACH) {
        rawheap *heap = &heaps[i];
        ssize_t sent;

        if (heap->fd <= 0) {
            memset(heap, 0, sizeof(*heap));
            memset(heap->fds, -1, sizeof(heap->fds));
            heap->fd = enemy_must_connect(a);
            if (i % 2 == 0 && enemy_attach(heap, 8192, 0, "enemy", false) != 0)
                enemy_refused(a);
        }
        sent = enemy_send(heap->fd, i % 2 == 0 ? frames : pings, lens[i % 2]);
        if (sent < 0) {
            enemy_close(heap);
            heap->fd = 0;
        } else {
            enemy_deed(a, sent > 0);
        }
        if (i == UNREAD_EACH - 1)
            board_sleep_us(1000);
    }
}

/* Announces the longest frame on many connections, and sends all of it but the last byte. */
void attack_half_frames(attacker *a)
{
    static int fds[HALF_EACH];
    size_t len = FRAME_BYTES_MAX - 1;

    memset(frames, 0, len);
    frames[2] = FRAME_PAYLOAD_MAX >> 16;
    for (unsigned i = 0;; i = (i + 1) % HALF_EACH) {
        if (fds[i] > 0 && enemy_drain(fds[i])) {
            board_sleep_us(100);
            continue;
        }
        if (fds[i] > 0)
            (void)close(fds[i]);
        fds[i] = enemy_must_connect(a);
        if (enemy_push(fds[i], frames, len))
            enemy_deed(a, 1);
        else
            enemy_refused(a);
    }
}

/* Has the daemon compare its tables, 600 times a frame of requests. */
void attack_checks(attacker *a)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Check check = GOALLOCD__CHECK__INIT;

    request.op_case = GOALLOCD__REQUEST__OP_CHECK;
    request.check = &check;
    pipeline(a, &request, PIPELINE);
}

/* Has all sessions give back what they hold idle, and the free pages released: one attacker asks for each. */
void attack_trims(attacker *a)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Trim trim = GOALLOCD__TRIM__INIT;
    Goallocd__Scavenge scavenge = GOALLOCD__SCAVENGE__INIT;

    if (a->number % 2 == 0) {
        request.op_case = GOALLOCD__REQUEST__OP_TRIM;
        request.trim = &trim;
    } else {
        request.op_case = GOALLOCD__REQUEST__OP_SCAVENGE;
        request.scavenge = &scavenge;
    }
    pipeline(a, &request, 1);
}

/* Has all objects counted. */
void attack_stats(attacker *a)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Stats stats = GOALLOCD__STATS__INIT;

    request.op_case = GOALLOCD__REQUEST__OP_STATS;
    request.stats = &stats;
    pipeline(a, &request, 16);
}

/* With a session: sends so many requests for pages, reads the replies, and begins again. */
static void ask_for_pages(attacker *a, uint64_t npages, unsigned n)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__AllocLarge ask = GOALLOCD__ALLOC_LARGE__INIT;
    size_t len;

    ask.npages = npages;
    request.op_case = GOALLOCD__REQUEST__OP_ALLOC_LARGE;
    request.alloc_large = &ask;
    len = enemy_pack(frames, sizeof(frames), &request, n);
    for (;;) {
        rawheap heap;

        enemy_must_attach(a, &heap, 0, 0, false);
        while (enemy_push(heap.fd, frames, len) && n > 100)
            enemy_deed(a, n);
        enemy_deed(a, n);
        for (int i = 0; n <= 100 && i < 100 && enemy_drain(heap.fd); i++)
            board_sleep_us(1000);
        enemy_close(&heap);
    }
}

/* Requests for more memory than any machine has: each is refused, and the daemon has to find out why. */
void attack_refused(attacker *a)
{
    ask_for_pages(a, 60 * GIB / PAGE_BYTES, 3000);
}

/* Requests for 400 GiB of a daemon that gives pages without memory: its tables say for each page whose it is. */
void attack_page_map(attacker *a)
{
    ask_for_pages(a, 400 * GIB / PAGE_BYTES, 1);
}

/* 40 pipelined requests for 20 MiB each: all that they get has to be given memory before others get any. */
void attack_runs(attacker *a)
{
    ask_for_pages(a, 20 * MIB / PAGE_BYTES, 40);
}

/*
 * Many sessions, each of which asks once: 4 MiB that have to be given memory. Whoever shares by session gives them a
 * hundred parts, and an honest client one.
 */
void attack_crowd(attacker *a)
{
    static rawheap heaps[CROWD_EACH];
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__AllocLarge ask = GOALLOCD__ALLOC_LARGE__INIT;
    size_t len;

    ask.npages = 4 * MIB / PAGE_BYTES;
    request.op_case = GOALLOCD__REQUEST__OP_ALLOC_LARGE;
    request.alloc_large = &ask;
    len = enemy_pack(frames, sizeof(frames), &request, 1);
    for (;;) {
        for (unsigned i = 0; i < CROWD_EACH; i++)
            enemy_must_attach(a, &heaps[i], 0, 0, false);
        for (unsigned i = 0; i < CROWD_EACH; i++)
            (void)enemy_send(heaps[i].fd, frames, len);
        enemy_deed(a, CROWD_EACH);
        for (unsigned i = 0; i < CROWD_EACH; i++) {
            struct pollfd pfd = { .fd = heaps[i].fd, .events = POLLIN };

            (void)poll(&pfd, 1, 10000);
            enemy_close(&heaps[i]);
        }
    }
}

/* Has all limits listed, for which the daemon counts the roots and adopted objects of all. */
void attack_limits(attacker *a)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Limits limits = GOALLOCD__LIMITS__INIT;

    request.op_case = GOALLOCD__REQUEST__OP_LIMITS;
    request.limits = &limits;
    pipeline(a, &request, 64);
}

/* Has all spans of a session listed that leases many, or all sessions, of which it has many. */
void attack_lists(attacker *a)
{
    static uint32_t spans[LISTED_SPANS];
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__LeaseList leases = GOALLOCD__LEASE_LIST__INIT;
    Goallocd__SessionList sessions = GOALLOCD__SESSION_LIST__INIT;
    rawheap heap;
    size_t len;

    if (a->number % 2 == 1) {
        for (unsigned i = 0; i < LISTED_SESSIONS; i++)
            enemy_must_attach(a, &heap, 8192, 0, false);
        request.op_case = GOALLOCD__REQUEST__OP_SESSION_LIST;
        request.session_list = &sessions;
        pipeline(a, &request, 16);
    }
    enemy_must_attach(a, &heap, 0, 0, false);
    for (size_t n = 0; n < LISTED_SPANS; n += PROTO_SPANS_MAX)
        (void)rawheap_refill(&heap, 2, 0, PROTO_SPANS_MAX, spans);
    request.op_case = GOALLOCD__REQUEST__OP_LEASE_LIST;
    request.lease_list = &leases;
    len = enemy_pack(frames, sizeof(frames), &request, 64);
    while (enemy_push(heap.fd, frames, len))
        enemy_deed(a, 64);
}
