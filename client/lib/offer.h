/*
 * Offer: idle spans that the daemon may take back without asking. The process's side of shm/offers.h.
 */
#ifndef GOALLOC_LIB_OFFER_H
#define GOALLOC_LIB_OFFER_H

#include "client/lib/mspan.h"
#include "client/lib/shadow.h"
#include "shm/offers.h"

#define OFFER_LOOK_MAX 16u /* offered spans that may be gone: who takes one back looks at so many */

/* True if this process has where to offer anything. */
static inline bool offer_is_possible(void)
{
    return atomic_load_explicit(&process.offers, memory_order_relaxed) != NULL;
}

/* The lease of a span that is about to be offered. */
static inline uint64_t offer_nleases(page_no first)
{
    return u64_load_relaxed(&shm_span_at(&process.map, first)->nleases);
}

/* Offer a span that nobody in this process writes any more: from now on the daemon may take it. */
static inline void offer_announce(page_no first, uint64_t nleases)
{
    shm_offers *offers = atomic_load_explicit(&process.offers, memory_order_acquire);

    shadow_span_rests(first);
    CRASH_POINT(offer_before_word);
    u64_store_release(&offers->words[first.n], offer_pack(OFFER_OFFERED, nleases));
    CRASH_POINT(offer_after_word);
    if (UNLIKELY(u32_load_relaxed(&offers->active) == 0))
        u32_store_release(&offers->active, 1);
}

/*
 * The object of a large span that this process has in hand goes to the user: from now on others may free it, and the
 * daemon may end the lease then.
 */
static inline void offer_hand_out(page_no first)
{
    shm_offers *offers = atomic_load_explicit(&process.offers, memory_order_acquire);

    if (offers != NULL)
        u64_store_release(&offers->words[first.n], 0);
}

/*
 * The object of a large span is freed by this process, which leases the span: it has the span in hand again, so that
 * bits which others forge mean nothing. False: the daemon, or another thread, has been faster.
 */
static inline bool offer_take_in_hand(page_no first)
{
    shm_offers *offers = atomic_load_explicit(&process.offers, memory_order_acquire);
    uint64_t nleases = offer_nleases(first);
    uint64_t word;

    if (offers == NULL)
        return true;
    word = u64_load_acquire(&offers->words[first.n]);
    while (word >> 2 != nleases) {
        if (u64_exchange_if_acq_rel(&offers->words[first.n], &word, offer_pack(OFFER_NONE, nleases)))
            return true;
    }
    return false;
}

/* The rest of taking back a span whose word is not OFFERED. */
bool offer_withdraw_seen(page_no first, uint64_t nleases, uint64_t word) __attribute__((warn_unused_result));

/* Take it back. False: it is gone. */
static inline bool offer_withdraw(page_no first, uint64_t nleases)
{
    shm_offers *offers = atomic_load_explicit(&process.offers, memory_order_acquire);
    uint64_t word = offer_pack(OFFER_OFFERED, nleases);

    if (UNLIKELY(!u64_exchange_if_acq_rel(&offers->words[first.n], &word, offer_pack(OFFER_NONE, nleases))) &&
        !offer_withdraw_seen(first, nleases, word))
        return false;
    CRASH_POINT(offer_after_take_back);
    return true;
}

/*
 * A span is gone, and nothing of this process names it any more. If its lease is in force nevertheless, since a daemon
 * has died while it took it, it is looked for in the list of leases.
 */
void offer_note_gone(page_no first, uint64_t nleases);

/*
 * Offer a span without object, which is in no list of its place. Its structure stays, with no owner: frees by whoever
 * holds the structure take the slow path from now on, since the place may soon be others'.
 */
static inline void offer_make(mspan *s)
{
    page_no first = mspan_first(s);

    s->place = MSPAN_OFFERED;
    s->nfrees = 0;
    mspan_set_owner(s, NULL);
    offer_announce(first, u64_load_relaxed(&s->nleases));
}

/*
 * Take it back, for that owner; it is in no list of its place. False: it is gone, and the caller, who takes it out of
 * all its lists, forgets it.
 */
static inline bool offer_take_back(mspan *s, void *owner)
{
    if (!offer_withdraw(mspan_first(s), u64_load_relaxed(&s->nleases)))
        return false;
    s->place = MSPAN_CURRENT;
    mspan_set_owner(s, owner);
    return true;
}

/* It is soon taken back. */
static inline void offer_prefetch(const mspan *s)
{
    shm_offers *offers = atomic_load_explicit(&process.offers, memory_order_relaxed);

    if (offers != NULL)
        prefetch_to_write(&offers->words[mspan_first(s).n]);
}

void offer_forget(mspan *s);

/*
 * True if a span was forgotten that this process may lease still, since a daemon has died while it took it: it is to
 * be looked for in the list of leases.
 */
bool offer_take_unknown(void);

/* True if the daemon has taken the span, which this process does not know, and is about to end its lease. */
bool offer_is_taken(page_no first);

#endif
