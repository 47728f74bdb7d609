/*
 * Large: runs of pages from the daemon, and a cache of freed ones.
 *
 * Called by alloc.c; calls connection. Data: the run's alloc bit (bit 0 of its first word) and remote bit in bitmap;
 * the cache (runcache.c says what it keeps), private, under a lock that is not held during a request.
 *
 * A run stays leased to the session that allocated it, until it is freed or the session ends. Its life in bits:
 *   allocated        alloc 1, by the lessee, after the daemon's reply (or out of the cache)
 *   freed by the lessee's process   alloc 1 -> 0 by fetch_and: of two threads that free it one sees the bit and
 *                    wins. The run goes to the cache, or back.
 *   freed by another process        remote 0 -> 1 by fetch_or, which one process wins; then FreeLarge tells the
 *                    daemon, which ends the lease of a run whose alloc and remote bits are both set: it claims the
 *                    object by the alloc bit, as the lessee would.
 * The lessee never clears a remote bit. One on a run without object was left by a second, faulty free: such a run goes
 * back to the daemon, so remote and alloc bit together always mean that the object was freed by others.
 * If the other process dies between bit and message, the daemon's sweep finds the run. Mark and alloc bit of a run that
 * is leased change together: held.c.
 *
 * Its length is the daemon's word (npages of the span): a resize is a request, and the object's bits do not change.
 */
#include "client/lib/large.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "client/lib/connection.h"
#include "client/lib/held.h"
#include "client/lib/mcache.h"
#include "client/lib/runcache.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static runcache cache;

static void large_lock(void)
{
    (void)pthread_mutex_lock(&lock);
}

static void large_unlock(void)
{
    (void)pthread_mutex_unlock(&lock);
}

static void send_back(const runcache_out *out)
{
    if (out->n > 0)
        connection_return(out->runs, out->n);
}

/* The run's length is another one from now on. */
static void cache_forget(page_no run)
{
    large_lock();
    runcache_forget(&cache, run);
    large_unlock();
}

/* True if the run has a remote bit, though it has no object: somebody has freed the last one twice. */
static bool is_tainted(page_no run)
{
    return (u64_load_acquire(shm_remote_bits(&process.map, run)) & 1) != 0;
}

/* A kept run for an object of npages pages. Page 0: none. */
static page_no cache_take(uint64_t npages, uint64_t align_pages, bool noscan)
{
    page_no run;

    for (;;) {
        large_lock();
        run = runcache_take(&cache, npages, process.map.base / PAGE_BYTES, align_pages, noscan);
        large_unlock();
        if (run.n == 0 || !is_tainted(run))
            return run;
        cache_forget(run);
        connection_return(&run.n, 1); /* only the daemon clears that bit */
    }
}

/* Keep a freed run; what it drives out, or the run itself, goes back. */
static void cache_put(page_no run)
{
    const shm_span *span = shm_span_at(&process.map, run);
    runcache_out out;

    out.n = 0;
    large_lock();
    runcache_put(&cache, run, span->npages, span_class_noscan(span->spc), &out);
    large_unlock();
    send_back(&out);
}

/* Take the kept run that begins at page. Page 0: it is not kept. */
static page_no cache_take_at(page_no page, uint64_t *ret_npages)
{
    page_no run;

    large_lock();
    run = runcache_take_at(&cache, page, ret_npages);
    large_unlock();
    return run;
}

/* Has the object of a run that was lent gone without this process, freed by another one? */
static bool is_gone(page_no run, uint64_t npages)
{
    const shm_span *span = shm_span_at(&process.map, run);

    return !process_leases(span) || span_class_size(span->spc).n != 0 || span->npages != npages ||
           (u64_load_acquire(shm_remote_bits(&process.map, run)) & 1) != 0;
}

/* There was no run of npages: the cache learns from it. */
static void cache_missed(uint64_t npages)
{
    uint32_t pos = 0;
    uint64_t lent_npages;
    runcache_out out;
    page_no run;

    out.n = 0;
    large_lock();
    while ((run = runcache_next_lent(&cache, &pos, &lent_npages)).n != 0) {
        if (is_gone(run, lent_npages))
            runcache_forget(&cache, run);
    }
    runcache_note_miss(&cache, npages, &out);
    large_unlock();
    send_back(&out);
}

uint64_t large_cached_pages(void)
{
    uint64_t npages;

    large_lock();
    npages = cache.nkept_pages;
    large_unlock();
    return npages;
}

void large_give_back(uint64_t npages)
{
    runcache_out out;

    out.n = 0;
    large_lock();
    runcache_shrink(&cache, npages, &out);
    large_unlock();
    send_back(&out);
}

void large_return_cached(void)
{
    runcache_out out;

    out.n = 0;
    large_lock();
    runcache_empty(&cache, &out);
    large_unlock();
    send_back(&out);
}

void large_forget_cached(void)
{
    large_lock();
    memset(&cache, 0, sizeof(cache));
    large_unlock();
}

void large_reset(void)
{
    (void)pthread_mutex_init(&lock, NULL);
    memset(&cache, 0, sizeof(cache));
}

void *large_alloc(size_t size, uint64_t align_pages, bool noscan, bool *ret_zeroed)
{
    uint64_t npages = size / PAGE_BYTES + (size % PAGE_BYTES != 0);
    int r = process_ensure_writable();
    page_no run = { 0 };
    bool fresh = false;

    if (r == 0 && npages == 0)
        npages = 1;
    if (r == 0 && npages >= process.map.npages)
        r = -ENOMEM;
    if (r == 0) {
        run = cache_take(npages, align_pages, noscan);
        if (run.n == 0) {
            cache_missed(npages);
            mcache_exchange(mcache_tls, SLOT_COUNT, npages);
            r = connection_alloc_large(npages, align_pages, noscan, false, &run);
            fresh = r == 0;
        }
    }
    if ((r == -ENOMEM || r == -EAGAIN) && process_state_now() == PROCESS_ATTACHED && npages < process.map.npages) {
        mcache_return_empty(mcache_tls);
        r = connection_alloc_large(npages, align_pages, noscan, true, &run);
        fresh = r == 0;
    }
    if (r == 0 && (run.n == 0 || run.n >= process.map.npages))
        r = -EPROTO;
    if (r < 0) {
        errno = -r;
        return NULL;
    }
    if (ret_zeroed != NULL)
        *ret_zeroed = fresh && shm_span_at(&process.map, run)->needzero == 0;
    held_set_object(run);
    u64_add_relaxed(&shm_counters(&process.map, process.session)[noscan], 1);
    return (void *)(uintptr_t)(process.map.base + page_offset(run));
}

/*
 * A resize that was asked for and not answered may yet be carried out. Until then the run's length is not known: it is
 * in doubt (held.h), is not resized again, and when it is freed it goes back and not into the cache, behind the
 * request.
 */
bool large_resize(const object_ref *object, size_t size)
{
    uint64_t npages = size / PAGE_BYTES + (size % PAGE_BYTES != 0);
    uint64_t end = object->first.n + object->bytes / PAGE_BYTES;
    bool sent = false;
    int r;

    if (held_is_in_doubt(object->first))
        return false;
    if (npages == object->bytes / PAGE_BYTES)
        return true;
    if (npages >= process.map.npages || process_ensure() < 0)
        return false;
    while ((r = connection_resize_large(object->first, npages, &sent)) == -EBUSY && end < object->first.n + npages) {
        /* What is in the way may be a run that this process has freed. */
        uint64_t nbehind;
        page_no run = cache_take_at(page_at(end), &nbehind);

        if (run.n == 0)
            break;
        end += nbehind;
        connection_return(&run.n, 1);
    }
    if (sent && (r == -ETIMEDOUT || r == -ENOTCONN))
        held_set_doubt(object->first);
    if (r == 0)
        cache_forget(object->first);
    return r == 0;
}

/* Another session leases the run, or nobody: the daemon is told, or its sweep finds it. */
static enum object_verdict free_of_another(const object_ref *object)
{
    enum object_verdict verdict = object_free_remote(&process.map, object);

    CRASH_POINT(large_remote_before_message);
    if (verdict == OBJECT_LIVE)
        connection_free_large(object->first);
    return verdict;
}

enum object_verdict large_free(const object_ref *object)
{
    const shm_span *span = shm_span_at(&process.map, object->first);
    int keep_errno = errno;
    enum object_verdict verdict = OBJECT_LIVE;
    bool doubt;

    if (!process_leases(span)) {
        verdict = free_of_another(object);
    } else if (!object_is_live(&process.map, object)) {
        verdict = OBJECT_FREE;
    } else {
        if (span_has_kept(span))
            (void)u64_fetch_and_acq_rel(shm_kept_bits(&process.map, object->first), ~UINT64_C(1));
        if (!held_clear_object(object->first, &doubt)) {
            verdict = OBJECT_FREE;
        } else if (doubt) {
            cache_forget(object->first);
            connection_return(&object->first.n, 1);
        } else {
            cache_put(object->first);
        }
    }
    errno = keep_errno;
    return verdict;
}
