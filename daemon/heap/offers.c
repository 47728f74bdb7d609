/*
 * Offers: reads and changes the words by which a process offers its idle spans.
 *
 * Called by lease (a span is looked at, a lessee ends) and, by it, by the session's requests; by those for an attach,
 * which have the memfd made. Data: the memfd of each session, which its process writes too; nothing in it is trusted. A
 * word is read once, and only that of a span which the lease table says this lessee leases; so all that a forged one
 * can do is end a lease of its own session early, as a return would.
 *
 * A process that has never offered anything has not set `active`; then its words are not read, since reading gives a
 * hole of the file memory. Once it has, it costs 8 bytes of the file for each page that it leases, and 8 bytes read in
 * each walk.
 *
 * The mapping takes 8 bytes of address space a page: 64 MiB a session with a reserve of 64 GiB, and with the largest
 * reserve, 16 TiB, 16 GiB a session, 64 TiB for 4095 of them, which fits beside the arena into 128 TiB. A session
 * that finds no room is refused.
 */
#include "daemon/heap/offers.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "daemon/memory/memfd.h"
#include "shm/crash.h"

int offers_renew(offers *o, uint64_t npages)
{
    offers new = { .bytes = shm_offers_bytes(npages) };
    int fd;

    do {
        if (getrandom(&new.id, sizeof(new.id), 0) != (ssize_t)sizeof(new.id))
            return -EIO;
    } while (new.id == 0);
    fd = memfd_sealed("goalloc-own", new.bytes);
    if (fd < 0)
        return fd;
    new.shared = mmap(NULL, new.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (new.shared == MAP_FAILED) {
        (void)close(fd);
        return -ENOMEM;
    }
    (void)madvise(new.shared, new.bytes, MADV_DONTDUMP);
    (void)madvise(new.shared, new.bytes, MADV_DONTFORK); /* else a keeper would hold the memory beyond its session */
    new.shared->id = new.id;
    offers_end(o);
    *o = new;
    return fd;
}

static void (*unmap)(void *at, uint64_t bytes);

void offers_unmap_by(void (*by)(void *at, uint64_t bytes))
{
    unmap = by;
}

void offers_end(offers *o)
{
    if (o->shared != NULL && unmap != NULL)
        unmap(o->shared, o->bytes);
    else if (o->shared != NULL)
        (void)munmap(o->shared, o->bytes);
    *o = (offers){ .shared = NULL };
}

enum offer_state offers_state(const offers *o, page_no first, uint64_t nleases)
{
    uint64_t word;

    if (o->shared == NULL || u32_load_relaxed(&o->shared->active) == 0)
        return OFFER_NONE;
    word = u64_load_acquire(&o->shared->words[first.n]);
    return offer_stands(word, nleases) ? offer_state_of(word) : OFFER_NONE;
}

/* If the owner takes it back at this moment, there is nothing to age. */
void offers_age(offers *o, page_no first, uint64_t nleases)
{
    uint64_t word = offer_pack(OFFER_OFFERED, nleases);

    (void)u64_exchange_if_acq_rel(&o->shared->words[first.n], &word, offer_pack(OFFER_SEEN, nleases));
}

/*
 * Acquire: what the owner wrote before its offer, the alloc words above all, happens before the next use of the pages.
 * If the daemon dies after it, the lease stands: shm/offers.h says who finds out.
 */
bool offers_take(offers *o, page_no first, uint64_t nleases)
{
    uint64_t word = u64_load_acquire(&o->shared->words[first.n]);
    bool taken;

    CRASH_POINT(offer_before_take);
    taken = offer_stands(word, nleases) &&
            u64_exchange_if_acq_rel(&o->shared->words[first.n], &word, offer_pack(OFFER_TAKEN, nleases));
    CRASH_POINT(offer_after_take);
    return taken;
}

void offers_begin_large(offers *o, page_no first, uint64_t nleases)
{
    if (o->shared != NULL)
        u64_store_release(&o->shared->words[first.n], offer_pack(OFFER_NONE, nleases));
}

/* Without words the bits alone decide. */
bool offers_claim_large(offers *o, page_no first, uint64_t nleases)
{
    uint64_t word;

    if (o->shared == NULL)
        return true;
    word = u64_load_acquire(&o->shared->words[first.n]);
    return word >> 2 != nleases &&
           u64_exchange_if_acq_rel(&o->shared->words[first.n], &word, offer_pack(OFFER_TAKEN, nleases));
}

void offers_unclaim_large(offers *o, page_no first, uint64_t nleases)
{
    uint64_t word = offer_pack(OFFER_TAKEN, nleases);

    if (o->shared != NULL)
        (void)u64_exchange_if_acq_rel(&o->shared->words[first.n], &word, 0);
}
