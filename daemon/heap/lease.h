/*
 * Lease: who holds which span. A lessee is a session as the heap sees it.
 */
#ifndef GOALLOC_DAEMON_HEAP_LEASE_H
#define GOALLOC_DAEMON_HEAP_LEASE_H

#include "daemon/heap/live.h"
#include "daemon/heap/mcentral.h"
#include "daemon/heap/offers.h"
#include "daemon/heap/quota.h"

/* Quotas of a lessee: its user's, and its group's. */
#define LEASE_QUOTAS 2u

/* Of a lessee that ends, for people: by the bits, as they were when the lease of each span ended. */
typedef struct lease_ending {
    uint64_t nspans;
    live_sum left;  /* objects in them that stay, and were not there when they were leased */
    live_sum freed; /* its own, which end with it */
} lease_ending;

typedef struct lessee {
    struct lease_table *table; /* the one that it was added to */
    session_no no;
    uint32_t epoch;
    owner_no owner;       /* its objects end with that, unless their kept bits are set: itself or its group. 0: none */
    unsigned nops;        /* operations under way that commit memory for it: it does not end before them */
    uint64_t limit_pages; /* of what it holds; 0: none */
    uint64_t nheld_pages;
    lease_quota *left_quota; /* where pages count that it leaves; NULL: nowhere. Borrowed */
    lease_quota *quotas[LEASE_QUOTAS]; /* where those pages count too; NULL: none, nor behind it. Borrowed */
    uint64_t checked_pages; /* the same, as counted by a check that is under way (checking.h) */
    spanlist leased;
    page_no offers_at;    /* the span in that list at which lease_take_some_offered() goes on, if l still leases it */
    offers offers;        /* spans of it that may be taken back */
    left_owner_no left;   /* claims objects that it has left in its spans: nobody may know of some of them */
    lease_ending ending;  /* what its end has found so far */
} lessee;

/* Zeroed at the start, but for heap. */
typedef struct lease_table {
    mheap *heap; /* borrowed */
    lessee *lessees[SHM_SESSIONS_MAX]; /* by session number; NULL: none. Borrowed */
    uint64_t nleased;                  /* spans of all lessees */
    uint64_t nyoung; /* leases from that number on are those of the request being handled: they can't be offered yet */
    uint64_t naged;                    /* offers that a walk has found standing and not taken, ever */
} lease_table;

/* What a caller handles itself. */
enum {
    LEASE_E_NOT_LEASED = 1, /* the lessee does not lease the span that was named */
    LEASE_E_NOT_EMPTY = 2,  /* a lessee with an owner returns a large object that lives */
};

/*
 * After mheap_recover(), and after all groups and all lessees that go on have been added: leased spans and adopted
 * objects are theirs again, and spans that a group owns are its own; a span whose lessee is not there is nobody's, or
 * its group's. 0, -EUCLEAN: a leased span has another owner than its lessee. Linear in the spans.
 */
int lease_table_recover(lease_table *table) __attribute__((warn_unused_result));

/* l may lease until it is removed. The caller has set number, epoch, limit and owner, and the rest to 0. */
void lease_add_lessee(lease_table *table, lessee *l);
void lease_remove_lessee(lessee *l); /* it leases nothing */

/* The lessee with that number and epoch; NULL: there is none any more. */
lessee *lease_find_lessee(const lease_table *table, session_no no, uint32_t epoch);

/* What it holds counts there, too, from now on. */
void lease_add_quota(lessee *l, lease_quota *quota);

/* Pages more that the lessee may hold, as far as its limit and its quotas say, and that of what it has left. */
uint64_t lease_room_pages(const lessee *l);

/* Lease a span that is in no list. Its description is whole; the lease word is the last store. */
void lease_give(lessee *l, page_no first);

/* The same for a large span of a request of its own, of which l will hand out the object. */
void lease_give_large(lessee *l, page_no first);

/* Check a span number from a client. 0, LEASE_E_NOT_LEASED. */
int lease_check(const lessee *l, uint32_t first, page_no *ret) __attribute__((warn_unused_result));

/* A large span that l leases becomes longer, by pages that are aside for it; or shorter: npages are left. */
void lease_extend(lessee *l, page_no first, uint64_t npages);
void lease_shrink(lessee *l, page_no first, uint64_t npages);

/*
 * End the lease of a span that l leases and says it does not use. What lives there all the same is the heap's, or the
 * group's; or it ends, if it is l's own: then somebody else has set its bits.
 */
void lease_return(lessee *l, page_no first);

/*
 * The same if the object in a large span does not live, as far as its bits say, or if it is not l's own. 0,
 * LEASE_E_NOT_EMPTY (nothing has changed).
 */
int lease_return_freed(lessee *l, page_no first);

/* True for a large object of its own request: others may free it, and then the daemon may end its lease. */
bool lease_is_large(const shm_span *span);

/* End the lease of a span that was never used, and free its pages. punched: they have no memory. */
void lease_revoke(lessee *l, page_no first, bool punched);

/*
 * Sweep any span: one that nobody leases goes where it belongs; the lease of a large object that was freed remotely
 * ends. force: even if that was done since the last sweep began. True if pages came free.
 */
bool lease_sweep(lease_table *table, page_no first, bool force);

/* End the lease of any span if its lessee offers it, and as look says. True if pages came free. */
bool lease_take_offered(lease_table *table, page_no first, enum offers_look look);

/*
 * The same for the spans of one lessee, until its limit allows npages more: `budget` of them are looked at, from where
 * the last call has ended. False: that is so, or all up to the last one have been looked at.
 */
bool lease_take_some_offered(lessee *l, uint64_t npages, unsigned budget);

/*
 * The same for all spans of one lessee that it offers, `budget` of them from *pos on (0: the first). True: *pos is
 * where to go on. A span at *pos that it does not lease any more ends the walk.
 */
bool lease_take_all_offered(lessee *l, page_no *pos, unsigned budget);

/*
 * End up to budget leases and adoptions of a lessee that is at its end: what lives in its spans counts as left by it.
 * Places that were not handed out are free, objects stay, those of an owner that has ended as well are freed unless
 * their kept bits are set. True: it holds nothing any more.
 */
bool lease_end_some(lessee *l, unsigned budget) __attribute__((warn_unused_result));

/*
 * Free up to budget spans' objects and adopted objects of a group that is ENDING and has no members: as above. True:
 * nothing is its own any more.
 */
bool lease_end_group_some(lease_table *table, group *g, unsigned budget) __attribute__((warn_unused_result));

/*
 * Check lists, lease words, owners and counters, in slices of budget spans (checking.h), after which those of mheap are
 * not under way: 0, VALIDATE_E_MORE, -EUCLEAN after printing what differs. lease_validate() does it at once.
 */
int lease_validate_begin(lease_table *table, FILE *err) __attribute__((warn_unused_result));
int lease_validate_step(lease_table *table, unsigned budget, FILE *err) __attribute__((warn_unused_result));
int lease_validate(lease_table *table, FILE *err) __attribute__((warn_unused_result));

#endif
