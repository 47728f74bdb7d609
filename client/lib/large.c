/*
 * Large: spans of one object from the daemon, and the use of freed ones.
 *
 * Called by alloc.c. Calls attach.c, connection.c, outbox.c, idle.c, held.c, largecache.c (the cache), sample.c,
 * window.c.
 * Data: the span's alloc bit (bit 0 of its first word) and remote bit in bitmap.
 *
 * A large span stays leased to the session that allocated it, until it is freed or the session ends. Its life in bits:
 *   allocated        alloc 1, by the lessee, after the daemon's reply (or out of the cache)
 *   freed by the lessee's process   its word in the session's own memfd: in hand, by compare-and-swap, which of two
 *                    threads that free it one wins; then alloc 1 -> 0. The span goes to the cache, or back.
 *   freed remotely   remote 0 -> 1 by fetch_or, which one process wins; then FreeLarge tells the daemon, which ends the
 *                    lease of a span whose alloc and remote bits are both set, if the word says that the object is out:
 *                    it takes it by compare-and-swap, as the lessee would (shm/offers.h).
 * The lessee never clears a remote bit. One on a span without object was left by a second, faulty free: such a span
 * goes back to the daemon, so remote and alloc bit together always mean that the object was freed remotely.
 * If the other process dies between bit and message, the daemon's sweep finds the span. Mark and alloc bit of a span
 * that is leased change together: held.c.
 *
 * Its length is the daemon's word (npages of the span): a resize is a request, and the object's bits do not change.
 */
#include "client/lib/large.h"

#include <errno.h>

#include "client/lib/attach.h"
#include "client/lib/connection.h"
#include "client/lib/held.h"
#include "client/lib/idle.h"
#include "client/lib/largecache.h"
#include "client/lib/outbox.h"
#include "client/lib/sample.h"
#include "client/lib/window.h"

#define MAPPED_PAGES_MAX (4 * MIB / PAGE_BYTES) /* who asks for more may not write all of it soon */

#define GROW_SHARE      8u                     /* of a large object is added to one that grows */
#define SHRINK_SHARE    4u                     /* of one that becomes shorter goes back, or nothing */
#define SPARE_PAGES_MAX (8 * MIB / PAGE_BYTES) /* more than that is neither added nor kept */

static uint64_t pages_of(size_t size)
{
    return size == 0 ? 1 : size / PAGE_BYTES + (size % PAGE_BYTES != 0);
}

/* What an object that grows to npages asks for: who makes it longer once will again. */
static uint64_t grown(uint64_t npages)
{
    uint64_t more = npages / GROW_SHARE;

    return npages + (more < SPARE_PAGES_MAX ? more : SPARE_PAGES_MAX);
}

/* True if an object of had pages that needs only npages stays as long as it is. */
static bool stays(uint64_t had, uint64_t npages)
{
    return npages <= had && had - npages < had / SHRINK_SHARE && had - npages <= SPARE_PAGES_MAX;
}

size_t large_grown_bytes(size_t size)
{
    uint64_t npages = pages_of(size);

    return size <= SHM_RUN_BYTES_MAX || npages >= process.map.npages ? size : grown(npages) * PAGE_BYTES;
}

static bool has_remote_bit(page_no first)
{
    return (u64_load_acquire(shm_remote_word(&process.map, first, 0)) & 1) != 0;
}

/* True if the object would be sampled, and the span is from before that was turned on: it goes back for another one. */
static bool lacks_mark(page_no first, const sample_large *sample)
{
    const shm_span *span = shm_span_at(&process.map, first);

    return span->marked == 0 && sample_takes_large(sample, span->npages * PAGE_BYTES);
}

/* A cached span for such an object. Page 0: none. */
static page_no cache_take(const connection_large *what, const sample_large *sample)
{
    for (;;) {
        page_no first = largecache_take(&large_cache, what->npages, process.map.base / PAGE_BYTES, what->align_pages,
                                        what->noscan);

        /* A remote bit: somebody has freed its last object twice; only the daemon clears that bit. */
        if (first.n == 0 || (!has_remote_bit(first) && !lacks_mark(first, sample)))
            return first;
        largecache_forget(&large_cache, first);
        outbox_return(&first.n, 1);
    }
}

/* True if a span that was lent is not this process's any more: its object was freed remotely. */
static bool is_gone(page_no first, uint64_t npages)
{
    const shm_span *span = shm_span_at(&process.map, first);

    return !process_leases(span) || span_class_size(span->spc).n != 0 || span->npages != npages ||
           has_remote_bit(first);
}

/* Ask the daemon. What this process holds idle goes back first, as much as is asked for. */
static int ask(const connection_large *what, page_no *ret)
{
    largecache_out out;
    int r;

    largecache_note_miss(&large_cache, what->npages, is_gone, &out);
    outbox_return(out.spans, out.n);
    idle_exchange(mcache_tls, SLOT_COUNT, what->npages);
    r = connection_alloc_large(what, false, ret);
    if (connection_is_short(r) && process_state_now() == PROCESS_ATTACHED) {
        idle_return_empty(mcache_tls);
        r = connection_alloc_large(what, true, ret);
    }
    return r == 0 && (ret->n == 0 || ret->n >= process.map.npages) ? -EPROTO : r;
}

void *large_alloc(size_t size, uint64_t align_pages, bool noscan, bool *ret_zeroed)
{
    uint64_t npages = pages_of(size);
    connection_large what = { .npages = npages, .align_pages = align_pages, .noscan = noscan };
    int r = attach_ensure_writable();
    sample_large sample = { .rate = 0 };
    page_no first = { 0 };
    bool fresh = false;

    if (r == 0 && npages >= process.map.npages)
        r = size > SHM_ARENA_BYTES_MAX ? -ENOMEM : -ENOSPC; /* no heap could hold it, or this one can't */
    if (r == 0) {
        sample = sample_begin_large();
        what.marked = sample.rate != 0; /* sampled or not, so that the cache has none that a sample can't take */
        first = cache_take(&what, &sample);
    }
    if (r == 0 && first.n == 0) {
        r = ask(&what, &first);
        fresh = true;
    }
    if (r < 0) {
        errno = -r;
        return NULL;
    }
    if (fresh)
        window_map((const char *)(uintptr_t)(process.map.base + page_offset(first)),
                   (npages < MAPPED_PAGES_MAX ? npages : MAPPED_PAGES_MAX) * PAGE_BYTES);
    if (ret_zeroed != NULL)
        *ret_zeroed = fresh && shm_span_at(&process.map, first)->needzero == 0;
    sample_end_large(&sample, first);
    held_set_object(first);
    u64_add_relaxed(&shm_counters(&process.map, process.session)[noscan], 1);
    return (void *)(uintptr_t)(process.map.base + page_offset(first));
}

/* Ask for another length. The spans behind it that this process has freed are given back if they are in the way. */
static int ask_resize(page_no first, uint64_t had, uint64_t npages, bool *sent)
{
    uint64_t end = first.n + had;
    int r;

    while ((r = connection_resize_large(first, npages, sent)) == -EBUSY && end < first.n + npages) {
        uint64_t nbehind;
        page_no behind = largecache_take_at(&large_cache, page_at(end), &nbehind);

        if (nbehind == 0)
            break;
        end += nbehind;
        if (behind.n != 0) /* else the daemon has taken it: what is there now it says itself */
            outbox_return(&behind.n, 1);
    }
    return r;
}

/*
 * A resize that was asked for and not answered may yet be carried out. Until then the span's length is not known: it
 * is in doubt (held.h), is not resized again, and when it is freed it goes back and not into the cache, behind the
 * request.
 */
bool large_resize(const object_ref *object, size_t size)
{
    uint64_t npages = pages_of(size);
    uint64_t had = object->bytes / PAGE_BYTES;
    uint64_t want = npages > had ? grown(npages) : npages;
    bool sent = false;
    int r;

    if (held_is_in_doubt(object->first))
        return false;
    if (npages == had || stays(had, npages))
        return true;
    if (npages >= process.map.npages || attach_ensure() < 0)
        return false;
    r = ask_resize(object->first, had, want, &sent);
    if (want > npages && (r == -EBUSY || r == -EINVAL || connection_is_short(r)))
        r = ask_resize(object->first, had, npages, &sent);
    if (sent && (r == -ETIMEDOUT || r == -ENOTCONN))
        held_set_doubt(object->first);
    if (r == 0)
        largecache_forget(&large_cache, object->first);
    return r == 0;
}

/* Another session leases the span, or nobody: the daemon is told, or its sweep finds it. */
static enum object_verdict free_of_another(const object_ref *object)
{
    enum object_verdict verdict = object_free_remote(&process.map, object);

    CRASH_POINT(large_remote_before_message);
    if (verdict == OBJECT_LIVE)
        outbox_free_large(object->first);
    return verdict;
}

enum object_verdict large_free(const object_ref *object)
{
    const shm_span *span = shm_span_at(&process.map, object->first);
    int saved_errno = errno;
    enum object_verdict verdict = OBJECT_LIVE;
    largecache_out out;
    bool doubt;

    if (!process_leases(span)) {
        verdict = free_of_another(object);
    } else if (!object_is_live(&process.map, object)) {
        verdict = OBJECT_FREE;
    } else {
        if (span_has_kept(span))
            (void)u64_fetch_and_acq_rel(shm_kept_word(&process.map, object->first, 0), ~UINT64_C(1));
        if (!held_clear_object(object->first, &doubt)) {
            verdict = OBJECT_FREE;
        } else if (doubt) {
            largecache_forget(&large_cache, object->first);
            outbox_return(&object->first.n, 1);
        } else {
            largecache_put(&large_cache, object->first, span->npages, span_class_noscan(span->spc), &out);
            outbox_return(out.spans, out.n);
        }
    }
    errno = saved_errno;
    return verdict;
}
