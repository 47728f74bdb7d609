/*
 * Attacks by words that a client may write, and by objects at chosen places.
 */
#include <stdlib.h>

#include "tests/hostile/enemy.h"

#include <uthash.h>

#define ADOPTED_MAX 60000u
#define SPANS_MAX 16384u
#define CLASS_8 2u   /* span class of objects of 8 bytes */
#define SAME_BITS 7u /* of the hash: uthash gives up to grow a table that it finds so lopsided */

/* --- adoptions in one bucket --- */

static uint32_t hash_of(uint64_t offset)
{
    unsigned value;

    HASH_JEN(&offset, sizeof(offset), value);
    return value;
}

/* Ask for each of the objects to be adopted. False: disconnected. */
static bool adopt_all(attacker *a, int fd, const uint64_t *offsets, size_t n)
{
    static uint8_t frames[65536];

    for (size_t i = 0; i < n;) {
        size_t len = 0;

        for (unsigned k = 0; i < n && k < 500; k++, i++) {
            Goallocd__Request request = GOALLOCD__REQUEST__INIT;
            Goallocd__Adopt adopt = GOALLOCD__ADOPT__INIT;

            adopt.offset = offsets[i];
            request.op_case = GOALLOCD__REQUEST__OP_ADOPT;
            request.adopt = &adopt;
            len += enemy_pack(frames + len, sizeof(frames) - len, &request, 1);
        }
        if (!enemy_push(fd, frames, len))
            return false;
        enemy_deed(a, 1);
    }
    return true;
}

/* The spans' objects are all allocated; those in one bucket of a table with that hash, if it has no seed. */
static size_t choose(const rawheap *heap, const uint32_t *spans, size_t nspans, uint64_t *ret)
{
    size_t n = 0;

    for (size_t i = 0; i < nspans; i++) {
        page_no first = page_at(spans[i]);
        const shm_span *span = shm_span_at(&heap->map, first);

        if (span->nelems == 0 || span->nelems > SPAN_NELEMS_MAX)
            continue;
        for (uint32_t w = 0; w < bits_nwords(span->nelems); w++)
            u64_store_release(shm_alloc_word(&heap->map, first, w), bits_mask(span->nelems, w));
        for (uint32_t k = 0; k < span->nelems && n < ADOPTED_MAX; k++) {
            uint64_t offset = (uint64_t)first.n * PAGE_BYTES + k * span->elem_bytes;

            if (hash_of(offset) % (1u << SAME_BITS) == 0)
                ret[n++] = offset;
        }
    }
    return n;
}

/*
 * Adopts objects whose offsets fall into one bucket of a hash that anybody can compute, returns their spans and ends
 * its session. What was allocated goes with the session, which reclaims.
 */
void attack_adopt(attacker *a)
{
    static uint32_t spans[SPANS_MAX];
    static uint64_t offsets[ADOPTED_MAX];

    for (;;) {
        rawheap heap;
        size_t nspans = 0;
        size_t got;

        enemy_must_attach(a, &heap, 0, SESSION_RECLAIM, true);
        while (nspans + PROTO_SPANS_MAX <= SPANS_MAX &&
               (got = rawheap_refill(&heap, CLASS_8, 0, PROTO_SPANS_MAX, spans + nspans)) > 0)
            nspans += got;
        (void)adopt_all(a, heap.fd, offsets, choose(&heap, spans, nspans, offsets));
        for (size_t i = 0; i < nspans; i += PROTO_SPANS_MAX) {
            size_t n = nspans - i < PROTO_SPANS_MAX ? nspans - i : PROTO_SPANS_MAX;

            if (rawheap_return(&heap, spans + i, n, NULL, 0) != 0)
                break;
        }
        enemy_close(&heap);
    }
}

/* --- forged bits --- */

/*
 * Says that each object of a span of another session was allocated and freed. The span may go back meanwhile, and be a
 * worker's: a stray, which may have ended any object there, as a wild store of a client's may. That is known afterwards,
 * so it counts as one from the beginning, in case this process is killed in between.
 */
static void forge(attacker *a, const rawheap *heap, page_no first, uint64_t lease)
{
    const shm_span *span = shm_span_at(&heap->map, first);
    uint64_t nleases = u64_load_acquire(&span->nleases);
    uint32_t nelems = span->nelems;

    if (u64_load_acquire(&span->lease) != lease)
        return;
    u64_add_relaxed(&a->entry->strays, 1);
    for (uint32_t w = 0; nelems <= SPAN_NELEMS_MAX && w < bits_nwords(nelems); w++) {
        shm_u64 *alloc = shm_alloc_word(&heap->map, first, w);
        uint64_t bits = test_random(&a->random) & bits_mask(nelems, w);

        (void)u64_fetch_or_acq_rel(alloc, nelems == 1 ? 1 : bits);
        (void)u64_fetch_or_acq_rel(shm_remote_of(alloc), nelems == 1 ? 1 : bits);
    }
    if (nelems == 1)
        (void)rawheap_free_large(heap, first);
    if (u64_load_acquire(&span->lease) == lease && u64_load_acquire(&span->nleases) == nleases)
        u64_add_relaxed(&a->entry->strays, (uint64_t)-1);
    enemy_deed(a, 1);
}

/* Forges the bits of all that the honest probes lease, and tells the daemon that large objects of theirs are free. */
void attack_forged_bits(attacker *a)
{
    rawheap heap;

    enemy_must_attach(a, &heap, 8192, 0, true);
    for (;;) {
        for (uint32_t page = 1; page < (uint32_t)(GIB / PAGE_BYTES); page++) {
            page_no first = page_at(u32_load_relaxed(&heap.map.page_map[page]));
            uint64_t word;
            lease_word lease;

            if (first.n != page)
                continue;
            word = u64_load_acquire(&shm_span_at(&heap.map, first)->lease);
            lease = lease_unpack(word);
            if (lease.state == SPAN_LEASED && lease.session.n < SHM_SESSIONS_MAX &&
                strncmp(heap.map.sessions[lease.session.n].label, "honest probe", 12) == 0)
                forge(a, &heap, first, word);
        }
        board_sleep_us(100);
    }
}
