/*
 * Rawprofile: the requests for profiles without library and goallocctl, for tests of the daemon.
 */
#ifndef GOALLOC_TESTS_RAWPROFILE_H
#define GOALLOC_TESTS_RAWPROFILE_H

#include "shm/profile.h"
#include "tests/support/rawheap.h"

/* Wait for a reply, which the caller frees, and its descriptors (-1: none). NULL: disconnected. */
static inline Goallocd__Reply *rawprofile_await(int fd, int fds[3])
{
    static channel ch;
    Goallocd__Reply *reply = NULL;
    const uint8_t *payload;
    size_t len;

    ch.fd = fd;
    ch.have_bytes = 0;
    ch.nfds = 0;
    while (channel_recv(&ch, &payload, &len, deadline_in(60000)) == 0) {
        reply = goallocd__reply__unpack(NULL, len, payload);
        if (reply == NULL || reply->id != 0)
            break;
        goallocd__reply__free_unpacked(reply, NULL); /* a notice */
        reply = NULL;
        channel_drop_frame(&ch);
    }
    for (int i = 0; i < 3; i++)
        fds[i] = i < ch.nfds ? ch.fds[i] : -1;
    return reply;
}

/* Send a request and wait for its reply. */
static inline Goallocd__Reply *rawprofile_call(int fd, Goallocd__Request *request, int fds[3])
{
    static uint8_t out[FRAME_BYTES_MAX];
    static channel ch;

    ch.fd = fd;
    request->id = 9;
    if (channel_send(&ch, out, frame_pack(&request->base, out, sizeof(out)), deadline_in(60000)) < 0)
        return NULL;
    return rawprofile_await(fd, fds);
}

/* ProfileOpen: the error of the reply, -1: disconnected. 0: the region's number and its descriptor. */
static inline int rawprofile_open(int fd, uint32_t *ret_seq, int *ret_fd)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ProfileOpen ask = GOALLOCD__PROFILE_OPEN__INIT;
    Goallocd__Reply *reply;
    int fds[3];
    int error;

    *ret_fd = -1;
    request.op_case = GOALLOCD__REQUEST__OP_PROFILE_OPEN;
    request.profile_open = &ask;
    reply = rawprofile_call(fd, &request, fds);
    error = reply == NULL ? -1 : reply->error;
    if (error == 0) {
        CHECK(fds[0] >= 0 && fds[1] < 0 && reply->profile_open->bytes == sizeof(profile_region));
        *ret_seq = reply->profile_open->seq;
        *ret_fd = fds[0];
    }
    if (reply != NULL)
        goallocd__reply__free_unpacked(reply, NULL);
    return error;
}

/* ProfileSet: the error of the reply, -1: disconnected. 0: how many sessions. */
static inline int rawprofile_set(int fd, const Goallocd__ProfileSet *ask, uint32_t *ret_nsessions)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Reply *reply;
    int fds[3];
    int error;

    request.op_case = GOALLOCD__REQUEST__OP_PROFILE_SET;
    request.profile_set = (Goallocd__ProfileSet *)(uintptr_t)ask;
    reply = rawprofile_call(fd, &request, fds);
    error = reply == NULL ? -1 : reply->error;
    if (error == 0)
        *ret_nsessions = reply->profile_set->nsessions;
    if (reply != NULL)
        goallocd__reply__free_unpacked(reply, NULL);
    return error;
}

/* ProfileRead: the same. 0: the region's number, and descriptors of spans, bitmap and the region. */
static inline int rawprofile_read(int fd, uint32_t *ret_seq, int fds[3])
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ProfileRead ask = GOALLOCD__PROFILE_READ__INIT;
    Goallocd__Reply *reply;
    int error;

    request.op_case = GOALLOCD__REQUEST__OP_PROFILE_READ;
    request.profile_read = &ask;
    reply = rawprofile_call(fd, &request, fds);
    error = reply == NULL ? -1 : reply->error;
    if (error == 0)
        *ret_seq = reply->profile_read->seq;
    if (reply != NULL)
        goallocd__reply__free_unpacked(reply, NULL);
    return error;
}

/* A refill of marked spans, or ordinary ones: the first pages in ret. How many came; 0: refused, or disconnected. */
static inline size_t rawprofile_refill(const rawheap *heap, uint32_t class, uint32_t nspans, bool marked, uint32_t *ret)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Refill ask = GOALLOCD__REFILL__INIT;
    Goallocd__Reply *reply;
    int fds[3];
    size_t n = 0;

    ask.span_class = class;
    ask.nspans = nspans;
    ask.marked = marked;
    request.op_case = GOALLOCD__REQUEST__OP_REFILL;
    request.refill = &ask;
    reply = rawprofile_call(heap->fd, &request, fds);
    if (reply == NULL)
        return 0;
    if (reply->error == 0) {
        n = reply->refill->n_spans;
        memcpy(ret, reply->refill->spans, n * sizeof(*ret));
    }
    goallocd__reply__free_unpacked(reply, NULL);
    return n;
}

/* A large object's pages, marked or not. Page 0: refused. */
static inline page_no rawprofile_large(const rawheap *heap, uint64_t npages, bool marked)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__AllocLarge ask = GOALLOCD__ALLOC_LARGE__INIT;
    Goallocd__Reply *reply;
    int fds[3];
    uint32_t span;

    ask.npages = npages;
    ask.marked = marked;
    request.op_case = GOALLOCD__REQUEST__OP_ALLOC_LARGE;
    request.alloc_large = &ask;
    reply = rawprofile_call(heap->fd, &request, fds);
    CHECK(reply != NULL);
    span = reply->error == 0 ? reply->alloc_large->span : 0;
    goallocd__reply__free_unpacked(reply, NULL);
    return page_at(span);
}

#endif
