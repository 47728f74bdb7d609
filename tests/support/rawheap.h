/*
 * Rawheap: a session without the library: its token, its descriptors and the shared words, for tests that write what no
 * library would, or when no library would. The test speaks for a process, so what it says wrong the daemon may believe.
 */
#ifndef GOALLOC_TESTS_RAWHEAP_H
#define GOALLOC_TESTS_RAWHEAP_H

#include <string.h>
#include <sys/mman.h>

#include "proto/channel.h"
#include "proto/layout.h"
#include "proto/wire.h"
#include "shm/object.h"
#include "shm/offers.h"
#include "tests/support/fixture.h"

typedef struct rawheap {
    int fd; /* the connection */
    int fds[ATTACH_NFDS];
    uint32_t session;
    uint32_t epoch;
    uint64_t generation;
    uint8_t token[SESSION_TOKEN_BYTES];
    void *life; /* mapped: the daemon sees that the session's process lives */
    shm_offers *offers; /* mapped, unless it is read-only */
    shm_map map;
} rawheap;

/* Send an Attach and wait for its reply (the caller frees it), descriptors into ret->fds. NULL: disconnected. */
static inline Goallocd__Reply *rawheap_ask(rawheap *ret, const Goallocd__Attach *ask)
{
    static uint8_t out[FRAME_BYTES_MAX];
    static channel ch;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    const uint8_t *payload;
    size_t len;

    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_ATTACH;
    request.attach = (Goallocd__Attach *)(uintptr_t)ask;
    ch.fd = ret->fd;
    ch.have_bytes = 0;
    ch.nfds = 0;
    if (channel_send(&ch, out, frame_pack(&request.base, out, sizeof(out)), deadline_in(10000)) < 0 ||
        channel_recv(&ch, &payload, &len, deadline_in(10000)) < 0)
        return NULL;
    for (int i = 0; i < ATTACH_NFDS; i++)
        ret->fds[i] = i < ch.nfds ? ch.fds[i] : -1;
    for (int i = ATTACH_NFDS; i < ch.nfds; i++) /* the group's, which goes on as long as anybody has it open */
        (void)close(ch.fds[i]);
    return goallocd__reply__unpack(NULL, len, payload);
}

static inline Goallocd__Attach rawheap_attach_init(void)
{
    static _Thread_local Goallocd__Layout layout;
    Goallocd__Attach ask = GOALLOCD__ATTACH__INIT;

    ask.protocol = GOALLOC_PROTOCOL;
    ask.layout = layout_tell(&layout, version_own());
    return ask;
}

/* Open a session and map the heap's tables. Ends the (child) process if that fails. */
static inline void rawheap_open(rawheap *ret, const fixture *f, uint32_t flags, const char *label)
{
    Goallocd__Attach ask = rawheap_attach_init();
    Goallocd__Reply *reply;
    void *spans;
    void *bitmap;

    memset(ret, 0, sizeof(*ret));
    ask.flags = flags;
    ask.label = (char *)(uintptr_t)label;
    ret->fd = raw_connect(f);
    reply = rawheap_ask(ret, &ask);
    CHECK(reply != NULL && reply->error == 0 && reply->attach->token.len == sizeof(ret->token));
    ret->session = reply->attach->session;
    ret->epoch = reply->attach->epoch;
    ret->generation = reply->attach->generation;
    memcpy(ret->token, reply->attach->token.data, sizeof(ret->token));
    spans = mmap(NULL, reply->attach->spans_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, ret->fds[ATTACH_FD_SPANS], 0);
    bitmap = mmap(NULL, reply->attach->bitmap_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                  ret->fds[ATTACH_FD_BITMAP], 0);
    ret->life = mmap(NULL, 4096, PROT_READ, MAP_SHARED, ret->fds[ATTACH_FD_SIGN], 0);
    CHECK(spans != MAP_FAILED && bitmap != MAP_FAILED && ret->life != MAP_FAILED);
    (void)close(ret->fds[ATTACH_FD_SIGN]);
    ret->fds[ATTACH_FD_SIGN] = -1;
    shm_map_init(&ret->map, spans, bitmap, NULL);
    if (!(flags & SESSION_READONLY)) {
        ret->offers = mmap(NULL, shm_offers_bytes(ret->map.npages), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                           ret->fds[ATTACH_FD_OWN], 0);
        CHECK(ret->offers != MAP_FAILED);
    }
    goallocd__reply__free_unpacked(reply, NULL);
}

/* Come back to the session with its token over a new connection, which becomes ret->fd. The error of the reply. */
static inline int rawheap_come_back(rawheap *ret, const fixture *f)
{
    Goallocd__Attach ask = rawheap_attach_init();
    Goallocd__Reply *reply;
    int error;

    ask.token = (ProtobufCBinaryData){ .len = sizeof(ret->token), .data = ret->token };
    ask.session = ret->session;
    ask.epoch = ret->epoch;
    ask.generation = ret->generation;
    ret->fd = raw_connect(f);
    reply = rawheap_ask(ret, &ask);
    CHECK(reply != NULL);
    error = reply->error;
    goallocd__reply__free_unpacked(reply, NULL);
    return error;
}

/* --- requests over any connection: the error of the reply, -1 if the daemon disconnects instead --- */

static inline int raw_error(int fd, Goallocd__Request *request)
{
    Goallocd__Reply *reply;
    int error;

    if (request->id == 0)
        request->id = 1;
    reply = raw_call(fd, request);
    error = reply == NULL ? -1 : reply->error;
    if (reply != NULL)
        goallocd__reply__free_unpacked(reply, NULL);
    return error;
}

/* Return spans and runs. */
static inline int raw_return(int fd, const uint32_t *spans, size_t nspans, const uint32_t *runs, size_t nruns)
{
    Goallocd__ReturnSpans ask = GOALLOCD__RETURN_SPANS__INIT;
    Goallocd__Request request = WIRE_REQUEST(RETURN_SPANS, return_spans, &ask);

    ask.spans = (uint32_t *)(uintptr_t)spans;
    ask.n_spans = nspans;
    ask.large = (uint32_t *)(uintptr_t)runs;
    ask.n_large = nruns;
    return raw_error(fd, &request);
}

static inline int raw_free_large(int fd, uint32_t span)
{
    Goallocd__FreeLarge ask = GOALLOCD__FREE_LARGE__INIT;
    Goallocd__Request request = WIRE_REQUEST(FREE_LARGE, free_large, &ask);

    ask.span = span;
    return raw_error(fd, &request);
}

/* --- requests of the session --- */

static inline int rawheap_error(const rawheap *heap, Goallocd__Request *request)
{
    return raw_error(heap->fd, request);
}

/* Pages for a large object, without the object, which the process has in hand. Page 0: refused. */
static inline page_no rawheap_ask_large(const rawheap *heap, uint64_t npages)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__AllocLarge ask = GOALLOCD__ALLOC_LARGE__INIT;
    Goallocd__Reply *reply;
    uint32_t span;

    ask.npages = npages;
    request.id = 2;
    request.op_case = GOALLOCD__REQUEST__OP_ALLOC_LARGE;
    request.alloc_large = &ask;
    reply = raw_call(heap->fd, &request);
    CHECK(reply != NULL);
    span = reply->error == 0 ? reply->alloc_large->span : 0;
    goallocd__reply__free_unpacked(reply, NULL);
    return page_at(span);
}

/* The same, and it counts as handed out: the bits decide. */
static inline page_no rawheap_alloc_large(const rawheap *heap, uint64_t npages)
{
    page_no first = rawheap_ask_large(heap, npages);

    u64_store_release(&heap->offers->words[first.n], 0);
    return first;
}

/* Up to nspans spans of a span class: the first pages in ret. How many came; 0: refused. */
static inline size_t rawheap_refill(const rawheap *heap, uint32_t class, uint32_t npages, uint32_t nspans,
                                    uint32_t *ret)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Refill ask = GOALLOCD__REFILL__INIT;
    Goallocd__Reply *reply;
    size_t n = 0;

    ask.span_class = class;
    ask.npages = npages;
    ask.nspans = nspans;
    request.id = 3;
    request.op_case = GOALLOCD__REQUEST__OP_REFILL;
    request.refill = &ask;
    reply = raw_call(heap->fd, &request);
    CHECK(reply != NULL);
    if (reply->error == 0) {
        n = reply->refill->n_spans;
        memcpy(ret, reply->refill->spans, n * sizeof(*ret));
    }
    goallocd__reply__free_unpacked(reply, NULL);
    return n;
}

static inline int rawheap_return(const rawheap *heap, const uint32_t *spans, size_t nspans, const uint32_t *runs,
                                 size_t nruns)
{
    return raw_return(heap->fd, spans, nspans, runs, nruns);
}

static inline int rawheap_free_large(const rawheap *heap, page_no run)
{
    return raw_free_large(heap->fd, run.n);
}

/* A step of a collection; spans: what it confirms. */
static inline int rawheap_collect(const rawheap *heap, Goallocd__Collect__Op op, uint32_t *spans, size_t nspans)
{
    Goallocd__Collect ask = GOALLOCD__COLLECT__INIT;
    Goallocd__Request request = WIRE_REQUEST(COLLECT, collect, &ask);

    ask.op = op;
    ask.spans = spans;
    ask.n_spans = nspans;
    return raw_error(heap->fd, &request);
}

/* From now on the span's first object lives, and no other one: so the span stays when its lease ends. */
static inline void rawheap_fill(const rawheap *heap, page_no first)
{
    u64_store_release(shm_alloc_word(&heap->map, first, 0), 1);
}

static inline bool rawheap_leases(const rawheap *heap, page_no first)
{
    lease_word lease = lease_unpack(u64_load_acquire(&shm_span_at(&heap->map, first)->lease));

    return lease.state == SPAN_LEASED && lease.session.n == heap->session && lease.epoch == heap->epoch;
}

static inline void rawheap_disconnect(rawheap *heap)
{
    (void)close(heap->fd);
    heap->fd = -1;
}

/* The end of the session, as if its process had died. */
static inline void rawheap_close(rawheap *heap)
{
    if (heap->fd >= 0)
        rawheap_disconnect(heap);
    (void)munmap(heap->life, 4096);
    if (heap->offers != NULL)
        (void)munmap(heap->offers, shm_offers_bytes(heap->map.npages));
    (void)munmap(heap->map.header, heap->map.spans_bytes);
    (void)munmap(heap->map.bitmap, heap->map.bitmap_bytes);
    for (int i = 0; i < ATTACH_NFDS; i++) {
        if (heap->fds[i] >= 0)
            (void)close(heap->fds[i]);
    }
}

#endif
