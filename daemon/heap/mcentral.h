/*
 * mcentral: for each span class, the spans with objects in them that nobody leases. Go's runtime/mcentral.go.
 */
#ifndef GOALLOC_DAEMON_HEAP_MCENTRAL_H
#define GOALLOC_DAEMON_HEAP_MCENTRAL_H

#include "daemon/heap/mheap.h"

/* Spans looked at in one refill before a fresh one is taken: Go's budget. */
#define MCENTRAL_BUDGET 100u

/* Fold what others have freed in a span that nobody leases. Returns how many live. For large objects too. */
uint32_t span_fold(mheap *heap, page_no first);

/* Which spans a refill is about: of a class, and either those that only sampled objects lie in or all others. */
typedef struct mcentral_kind {
    span_class spc;
    bool marked;
} mcentral_kind;

/*
 * Take a span of that kind with a free object out of the central lists of an owner, of those that nobody owns, or of a
 * group. *budget is what may still be looked at; it falls. *ret_nfree: its free objects. Page 0: none found.
 */
page_no mcentral_take(mheap *heap, owner_no owner, mcentral_kind kind, unsigned *budget, uint32_t *ret_nfree);

/*
 * The span's lease has ended and it is in no list: mark it CENTRAL, fold, and put it where it belongs: its class's
 * lists, those of its owner if that is a group, or, with no object left, back to mheap.
 */
void mcentral_put(mheap *heap, page_no first);

/*
 * Sweep a span that nobody leases, unless that was done since the sweep began (force: or even then): fold it and put it
 * where it belongs. True if its pages came free.
 */
bool mcentral_sweep(mheap *heap, page_no first, bool force);

/* After another daemon: a CENTRAL span that is in no list goes into an unswept set. Its bits are not read. */
void mcentral_put_recovered(mheap *heap, page_no first);

/* Take a span out of its set, to lease it. */
void mcentral_remove(mheap *heap, page_no first);

#endif
