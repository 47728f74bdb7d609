/*
 * Offer: one store offers a span, one compare-and-swap takes it back.
 *
 * Called by mcache.c and refill.c (spans of a thread), pool.c (those of exited threads), largecache.c (large spans,
 * which have no structure: its essay says what names them) and comeback.c. Calls mspan.c. Data: the words of the
 * session's offers (shm/offers.h), which the daemon writes too; the structures of offered spans.
 *
 *   offer      1. place and owner (NULL) of the structure. 2. the word: OFFERED, with the nleases of the span.
 *   take back  1. the word: OFFERED or SEEN becomes NONE. 2. owner.
 *
 * From 2 to 1 nobody in this process writes the span's alloc words, and nobody allocates there. mspan_of names the
 * structure all the time, so a process that comes back knows the span. If the daemon takes the span it is leased to
 * another process soon, or to this one, which describes it anew, and the old structure is only in its thread's list
 * any more. So a free of an object there finds a structure without owner, or another one, and is a remote one.
 *
 * A word that is neither: a span is gone if the daemon has taken it (TAKEN), or if this lease is not in force any more,
 * which the lease word and nleases say. Else the offer was void, because another daemon has taken over and given this
 * process other words, or because the program has written there: the span was never taken.
 *
 * nleases is read of the span table when the span is offered. It stays the same as long as the lease does.
 *
 * If the process dies at any point, its session ends and all leases with it.
 */
#include "client/lib/offer.h"

static shm_u32 unknown; /* set after the entries of a span that this process may lease still are gone */

static shm_offers *offers_now(void)
{
    return atomic_load_explicit(&process.offers, memory_order_acquire);
}

/* True if the lease that was offered is in force. */
static bool is_leased(page_no first, uint64_t nleases)
{
    const shm_span *span = shm_span_at(&process.map, first);

    return process_leases(span) && u64_load_relaxed(&span->nleases) == nleases;
}

bool offer_withdraw_seen(page_no first, uint64_t nleases, uint64_t word)
{
    uint64_t seen = offer_pack(OFFER_SEEN, nleases);

    if (word == seen && u64_exchange_if_acq_rel(&offers_now()->words[first.n], &word, offer_pack(OFFER_NONE, nleases)))
        return true;
    return word != offer_pack(OFFER_TAKEN, nleases) && is_leased(first, nleases);
}

void offer_note_gone(page_no first, uint64_t nleases)
{
    if (is_leased(first, nleases))
        u32_store_release(&unknown, 1);
}

void offer_forget(mspan *s)
{
    page_no first = mspan_first(s);
    uint64_t nleases = u64_load_relaxed(&s->nleases);

    mspan_unname(s);
    mspan_put_back(s);
    offer_note_gone(first, nleases);
}

bool offer_take_unknown(void)
{
    return u32_load_relaxed(&unknown) != 0 && u32_fetch_and_acq_rel(&unknown, 0) != 0;
}

bool offer_is_taken(page_no first)
{
    shm_offers *offers = offers_now();
    uint64_t nleases = u64_load_relaxed(&shm_span_at(&process.map, first)->nleases);

    return offers != NULL && u64_load_acquire(&offers->words[first.n]) == offer_pack(OFFER_TAKEN, nleases);
}
