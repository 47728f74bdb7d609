/*
 * Honest: see honest.h. Called by scene.c, in child processes.
 *
 * probe   A session without the library, so that each request can be timed by itself: a refill of one span, which is
 *         answered or the session has been ended. It writes to the span, and looks that the lease is its own and the
 *         bytes are what it wrote before it gives the span back. Some spans are runs, some large objects.
 * worker  A process with the library, with objects of many sizes: it checks one, frees it and allocates another one.
 * comer   Attaches, refills, and goes again, half the time without a word: so it measures attaches, and there are
 *         deaths to be noticed.
 */
#include "tests/hostile/honest.h"

#include <errno.h>
#include <stdlib.h>

#include "tests/support/attach.h"
#include "tests/support/rawheap.h"

#define PATIENCE_MS 30000 /* of a request: what takes longer has ended the client */
#define ASKED_CLASS 42u   /* span class of the probe's spans */
#define RUN_PAGES 8u
#define LARGE_PAGES 40u
#define OBJECTS 20000u /* of a worker */
#define WORKER_US 500u
#define COMER_US 20000u

enum honest_kind honest_kind_of(unsigned i)
{
    static const enum honest_kind kinds[HONEST_MAX] = { HONEST_PROBE, HONEST_PROBE, HONEST_WORKER, HONEST_WORKER,
                                                        HONEST_COMER };

    return kinds[i];
}

static bool is_over(const board *b)
{
    return u32_load_acquire(&b->stop) != 0;
}

/* While the supervisor looks at the heap. */
static void keep_quiet(const board *b, honest_entry *e)
{
    while (u32_load_acquire(&b->quiet) != 0 && !is_over(b)) {
        u64_store_release(&e->quiet, 1);
        board_sleep_us(1000);
    }
    u64_store_release(&e->quiet, 0);
}

static void note_error(honest_entry *e, int error)
{
    u64_add_relaxed(&e->refused, 1);
    u64_store_relaxed(&e->error, (uint64_t)(error < 0 ? -error : error));
}

/* What counts for the attack: all that was under way at any time of it. */
static enum phase phase_of(uint32_t from, uint32_t to)
{
    return from <= PHASE_ATTACK && to >= PHASE_ATTACK ? PHASE_ATTACK : (enum phase)from;
}

/* --- probe --- */

typedef struct probe {
    const board *b;
    honest_entry *e;
    rawheap heap;
    char *arena;
    uint64_t stamp;
} probe;

Goallocd__Reply *honest_call(int fd, Goallocd__Request *request)
{
    static uint8_t out[FRAME_BYTES_MAX];
    static channel ch;
    const uint8_t *payload;
    size_t len = frame_pack(&request->base, out, sizeof(out));
    Goallocd__Reply *reply = NULL;

    ch.fd = fd;
    ch.have_bytes = 0;
    ch.nfds = 0;
    if (channel_send(&ch, out, len, deadline_in(PATIENCE_MS)) < 0)
        return NULL;
    while (reply == NULL && channel_recv(&ch, &payload, &len, deadline_in(PATIENCE_MS)) == 0) {
        reply = goallocd__reply__unpack(NULL, len, payload);
        channel_drop_frame(&ch);
        if (reply != NULL && reply->id == 0) { /* a notice */
            goallocd__reply__free_unpacked(reply, NULL);
            reply = NULL;
        }
    }
    return reply;
}

/* Ask for one span, and time it. 0: refused, or disconnected. */
static uint32_t probe_ask(probe *p, Goallocd__Request *request)
{
    uint32_t phase = u32_load_acquire(&p->b->phase);
    uint64_t from = board_now_ns();
    Goallocd__Reply *reply;
    uint32_t span = 0;

    request->id = 1;
    u64_store_release(&p->e->since_ns, from);
    reply = honest_call(p->heap.fd, request);
    histogram_add_due(&p->e->latency[phase_of(phase, u32_load_acquire(&p->b->phase))], board_now_ns() - from,
                      HONEST_PERIOD_US * 1000);
    u64_store_release(&p->e->since_ns, 0);
    if (reply == NULL)
        u64_add_relaxed(&p->e->ended, 1);
    else if (reply->error != 0)
        note_error(p->e, reply->error);
    else
        span =
            reply->result_case == GOALLOCD__REPLY__RESULT_REFILL ? reply->refill->spans[0] : reply->alloc_large->span;
    if (reply != NULL)
        goallocd__reply__free_unpacked(reply, NULL);
    return span;
}

static uint32_t probe_refill(probe *p, uint32_t class, uint32_t npages)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Refill ask = GOALLOCD__REFILL__INIT;

    ask.span_class = class;
    ask.npages = npages;
    ask.nspans = 1;
    ask.insist = true;
    request.op_case = GOALLOCD__REQUEST__OP_REFILL;
    request.refill = &ask;
    return probe_ask(p, &request);
}

/* A large object, without the object. */
static uint32_t probe_ask_large(probe *p)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__AllocLarge ask = GOALLOCD__ALLOC_LARGE__INIT;

    ask.npages = LARGE_PAGES;
    ask.insist = true;
    request.op_case = GOALLOCD__REQUEST__OP_ALLOC_LARGE;
    request.alloc_large = &ask;
    return probe_ask(p, &request);
}

static uint64_t *page_of(const probe *p, uint32_t span)
{
    return (uint64_t *)(void *)(p->arena + (uint64_t)span * PAGE_BYTES);
}

/*
 * The lease is still the probe's, and so are the bytes; then it goes back. Nobody answers that: the next request waits
 * for both.
 */
static void probe_give_back(probe *p, uint32_t span, bool large)
{
    static uint8_t out[256];
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ReturnSpans ask = GOALLOCD__RETURN_SPANS__INIT;
    static channel ch; /* only its descriptor is used */

    if (!rawheap_leases(&p->heap, page_at(span)))
        u64_add_relaxed(&p->e->ended, 1);
    else if (page_of(p, span)[0] != p->stamp || page_of(p, span)[PAGE_BYTES / 8 - 1] != ~p->stamp)
        u64_add_relaxed(&p->e->wrong, 1);
    ch.fd = p->heap.fd;
    *(large ? &ask.large : &ask.spans) = &span;
    *(large ? &ask.n_large : &ask.n_spans) = 1;
    request.op_case = GOALLOCD__REQUEST__OP_RETURN_SPANS;
    request.return_spans = &ask;
    if (channel_send(&ch, out, frame_pack(&request.base, out, sizeof(out)), deadline_in(PATIENCE_MS)) < 0)
        u64_add_relaxed(&p->e->ended, 1);
}

static int run_probe(const fixture *f, const board *b, honest_entry *e)
{
    probe p = { .b = b, .e = e };

    rawheap_open(&p.heap, f, 0, "honest probe");
    p.arena = mmap(NULL, p.heap.map.arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                   p.heap.fds[ATTACH_FD_ARENA], 0);
    CHECK(p.arena != MAP_FAILED);
    u64_store_release(&e->ready, 1);
    for (uint64_t n = 1; !is_over(b) && u64_load_relaxed(&e->ended) == 0; n++) {
        uint32_t span;
        bool large;

        keep_quiet(b, e);
        large = n % 8 == 0;
        span = large        ? probe_ask_large(&p)
               : n % 4 == 0 ? probe_refill(&p, 0, RUN_PAGES)
                            : probe_refill(&p, ASKED_CLASS, 0);
        p.stamp = n << 16 | span;
        if (span != 0) {
            page_of(&p, span)[0] = p.stamp;
            page_of(&p, span)[PAGE_BYTES / 8 - 1] = ~p.stamp;
        }
        board_sleep_us(HONEST_PERIOD_US / 2);
        if (span != 0)
            probe_give_back(&p, span, large);
        board_sleep_us(HONEST_PERIOD_US / 2);
        u64_add_relaxed(&e->operations, 1);
    }
    (void)close(p.heap.fd);
    return 0;
}

/* --- worker --- */

typedef struct object {
    uint64_t *p;
    size_t bytes;
} object;

/* Mostly small, one in 64 above what a run holds. */
static size_t pick_bytes(uint64_t *random)
{
    uint64_t r = test_random(random);
    unsigned shift = (unsigned)(r >> 32 & 63);

    return shift == 63 ? (size_t)(r % (256 * KIB) + SHM_RUN_BYTES_MAX) : (size_t)(r % (16u << shift % 9) + 16) / 8 * 8;
}

static void fill(object *o)
{
    size_t nwords = o->bytes / 8;

    for (size_t i = 0; i < nwords; i += i < 64 ? 1 : 61)
        o->p[i] = (uintptr_t)o->p ^ o->bytes * 31 ^ i;
}

static bool is_right(const object *o)
{
    size_t nwords = o->bytes / 8;

    for (size_t i = 0; i < nwords; i += i < 64 ? 1 : 61) {
        if (o->p[i] != ((uintptr_t)o->p ^ o->bytes * 31 ^ i))
            return false;
    }
    return true;
}

static void worker_drop(honest_entry *e, object *o)
{
    int r;

    if (o->p == NULL)
        return;
    if (!is_right(o))
        u64_add_relaxed(&e->wrong, 1);
    r = goalloc_free_checked(o->p);
    if (r < 0) {
        note_error(e, r);
        u64_add_relaxed(&e->wrong, 1);
    }
    o->p = NULL;
    u64_store_release(&e->nobjects, u64_load_relaxed(&e->nobjects) - 1);
}

static void worker_make(honest_entry *e, object *o, size_t bytes)
{
    o->bytes = bytes;
    o->p = goalloc_malloc(bytes);
    if (o->p == NULL) {
        note_error(e, errno);
        return;
    }
    fill(o);
    u64_store_release(&e->nobjects, u64_load_relaxed(&e->nobjects) + 1);
}

static int run_worker(const fixture *f, const board *b, honest_entry *e, unsigned i)
{
    static object objects[OBJECTS];
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    uint64_t random = i;

    options.socket_path = f->socket;
    options.label = "honest worker";
    options.timeout_ms = PATIENCE_MS;
    CHECK(goalloc_attach(&options) == 0);
    for (size_t k = 0; k < OBJECTS; k++)
        worker_make(e, &objects[k], pick_bytes(&random) % 2048 / 8 * 8 + 16);
    u64_store_release(&e->ready, 1);
    while (!is_over(b)) {
        object *o = &objects[test_random(&random) % OBJECTS];

        keep_quiet(b, e);
        worker_drop(e, o);
        worker_make(e, o, pick_bytes(&random));
        u64_add_relaxed(&e->operations, 1);
        if (u64_load_relaxed(&e->operations) % 16 == 0)
            board_sleep_us(WORKER_US);
    }
    for (size_t k = 0; k < OBJECTS; k++)
        worker_drop(e, &objects[k]);
    return goalloc_detach() < 0;
}

/* --- comer --- */

/* One attach. True if there is a session. */
static bool come(const fixture *f, const board *b, honest_entry *e, rawheap *heap)
{
    Goallocd__Attach ask = rawheap_attach_init();
    uint32_t phase = u32_load_acquire(&b->phase);
    uint64_t from = board_now_ns();
    static channel ch;
    Goallocd__Reply *reply = NULL;
    int error = channel_connect(&ch, f->socket, deadline_in(PATIENCE_MS));

    memset(heap, 0, sizeof(*heap));
    heap->fd = ch.fd;
    ask.label = (char *)(uintptr_t) "honest comer";
    u64_store_release(&e->since_ns, from);
    if (error == 0) {
        reply = rawheap_ask(heap, &ask);
        error = reply == NULL ? ECONNRESET : reply->error;
    }
    histogram_add_due(&e->latency[phase_of(phase, u32_load_acquire(&b->phase))], board_now_ns() - from,
                      UINT64_C(1000) * COMER_US);
    u64_store_release(&e->since_ns, 0);
    if (error != 0)
        note_error(e, error);
    if (reply != NULL)
        goallocd__reply__free_unpacked(reply, NULL);
    return error == 0;
}

static int run_comer(const fixture *f, const board *b, honest_entry *e)
{
    u64_store_release(&e->ready, 1);
    for (uint64_t n = 0; !is_over(b); n++) {
        rawheap heap;
        uint32_t span;

        keep_quiet(b, e);
        if (come(f, b, e, &heap)) {
            if (n % 2 == 0 && rawheap_refill(&heap, ASKED_CLASS, 0, 1, &span) == 0)
                note_error(e, ENOSPC);
            for (int i = 0; i < ATTACH_NFDS; i++) {
                if (heap.fds[i] >= 0)
                    (void)close(heap.fds[i]);
            }
        }
        if (heap.fd >= 0)
            (void)close(heap.fd);
        u64_add_relaxed(&e->operations, 1);
        board_sleep_us(COMER_US);
    }
    return 0;
}

int honest_run(const fixture *f, board *b, unsigned i)
{
    honest_entry *e = &b->honest[i];

    switch (honest_kind_of(i)) {
    case HONEST_PROBE:
        return run_probe(f, b, e);
    case HONEST_WORKER:
        return run_worker(f, b, e, i);
    default:
        return run_comer(f, b, e);
    }
}
