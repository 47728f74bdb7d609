/*
 * mcache: the spans that a thread allocates from without asking anybody. Go's runtime/mcache.go.
 */
#ifndef GOALLOC_LIB_MCACHE_H
#define GOALLOC_LIB_MCACHE_H

#include "client/lib/magazine.h"
#include "client/lib/mapping.h"
#include "client/lib/mspan.h"
#include "client/lib/offer.h"
#include "client/lib/tiny.h"

/* The spans of one slot. */
typedef struct mcache_slot {
    mspan_list partial; /* some objects free; the first has waited longest */
    mspan_list empty;   /* what may go back: nempty of them */
    mspan_list offered; /* the daemon may have taken them: noffered; the first was offered last */
    mspan *all;
    mspan *scan_at;      /* where in all the search for frees by others goes on; NULL: at its beginning */
    uint32_t nempty;
    uint32_t noffered;
    uint32_t nspans;     /* all, with the current one, and the offered ones */
    uint32_t nbatch;     /* short spans asked for last: slow start */
    uint32_t nwanted_pages; /* of offered spans that it has taken back: so much more it retains */
    int64_t credit_given; /* to its magazine, of which what is gone has been counted */
    uint64_t nuncounted; /* objects that have been allocated and not yet counted for all to see */
    uint64_t distance;   /* of the next sample: 1 is the next object; 0: not drawn yet */
    uint32_t ncached;    /* while sampling: what the front's cache had when its objects were last deducted from that */
} mcache_slot;

typedef struct mcache {
    /* The child of a fork finds this as it was, for malloc must find structures here; and all that follows zero. */
    union {
        struct {
            mspan *current[SLOT_COUNT]; /* &mspan_none where there is none */
            /* By size, in units of 8 bytes, rounded up, the slot's of fronts; [1]: noscan. */
            slot_front *front8[2][SIZE_TABLE8_MAX / 8 + 1];
            struct mcache *next_made; /* all that were ever made, by this process and those that it was forked from */
        };
        char unwiped[MAPPING_UNWIPED_UNIT];
    };
    slot_front fronts[SLOT_COUNT];
    tiny_block tiny;
    void *thread; /* thread_self() of its thread */
    uint64_t nempty_pages; /* in the lists of empty spans */
    uint64_t noffered_pages;
    uint64_t nwanted_pages; /* of all slots */
    uint64_t nheld_pages; /* with those */
    uint32_t give_back_at; /* the slot to give back from next */
    mcache_slot slots[SLOT_COUNT];
    uint32_t trim_seen;
    uint64_t profile_seen; /* the session's profile word, as this thread has last taken notice of it */
    uint64_t rate;         /* of samples (sample.c); 0: off */
    int64_t retry_at_ms;   /* it wants to sample, and can't record: when to try again; 0: not so */
    uint64_t random;       /* state of its generator; 0: not seeded */
    uint64_t tiny_distance;
    uint64_t ntiny_flushed; /* tiny objects, counted for all to see */
    uint64_t ntiny_seen;    /* with those of the open block: when they were last deducted from the distance */
    struct mcache *next; /* all mcaches of the process, or the free ones */
    magazine_entry entries[]; /* of all magazines */
} mcache;

_Static_assert(offsetof(mcache, fronts) == MAPPING_UNWIPED_UNIT, "what is unwiped has pages of its own");

extern mcache mcache_none;

/*
 * The thread's mcache; &mcache_none until it first needs one (thread.h). The TLS model saves a call on every malloc
 * and free.
 */
extern _Thread_local mcache *mcache_tls __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Bytes of an mcache with all its magazines: of which only what is used has memory. */
uint64_t mcache_bytes(void);

/* Of an object of the slot; 0: there is no such slot. */
uint64_t mcache_slot_bytes(uint32_t slot);

/* It has no spans, as at its thread's beginning. */
void mcache_clear(mcache *mc);

/* --- spans come and go --- */

/* The thread has one more span, in no list yet; or one less, which is not current. */
void mcache_add(mcache *mc, mspan *s);
void mcache_remove(mcache *mc, mspan *s);

/* --- magazines --- */

/* Count every object of a slot's magazine as free, as if it had never been there: it is empty afterwards. */
void mcache_flush_magazine(mcache *mc, uint32_t slot);
void mcache_flush_magazines(mcache *mc);

/* Open a magazine, or give an open one the capacity that its slot has by now; or flush and close it. */
void mcache_change_magazine(mcache *mc, uint32_t slot, bool open);

static inline bool mcache_magazine_is_open(const mcache *mc, uint32_t slot)
{
    return mc->fronts[slot].magazine.limit != mc->fronts[slot].magazine.floor;
}

/* A malloc of the slot looks for free objects: if the magazine is closed, it is opened. It is empty. */
static inline void mcache_open_magazine(mcache *mc, uint32_t slot)
{
    if (UNLIKELY(!mcache_magazine_is_open(mc, slot)))
        mcache_change_magazine(mc, slot, true);
}

/* A free past the slot's magazine has left a span empty: it is flushed, and closed. */
static inline void mcache_close_magazine(mcache *mc, uint32_t slot)
{
    if (UNLIKELY(mcache_magazine_is_open(mc, slot)))
        mcache_change_magazine(mc, slot, false);
}

/* --- lists --- */

/* Put a span that is in no list where it belongs. */
void mcache_place(mcache *mc, mspan *s, uint32_t nused);

/* The same for a span that is in the list of its place. */
void mcache_move(mcache *mc, mspan *s, uint32_t nused);

/* Offer an empty span of the thread that is in the list of those. */
void mcache_offer(mcache *mc, mspan *s);

/*
 * Take back a span that the slot has offered: the one that was offered last (oldest: first), then in no list. NULL: it
 * has none, or of some that were looked at all were gone.
 */
mspan *mcache_take_offered(mcache *mc, mcache_slot *slot, bool oldest);

/* A span that the thread has offered is gone; it is not in the list of those any more. */
void mcache_forget(mcache *mc, mspan *s);

/* The same for the current span of a slot, if there is one: there is none afterwards, and the magazine is empty. */
void mcache_put_current(mcache *mc, uint32_t slot);

/*
 * Put a tiny object of bytes into a new block of s, which has a free one in its cache. Of this block and the open one
 * that with more room stays open, as in Go.
 */
void *mcache_open_tiny(mcache *mc, mspan *s, uint32_t bytes);

/* The thread closes its open block of tiny objects: before its span is given away. None is open: nothing happens. */
void mcache_close_tiny(mcache *mc);

/* --- counting --- */

/* Tell the counters what the thread has allocated up to now: they lag by what its current spans have handed out. */
void mcache_count_all(mcache *mc);

/* Tell everybody what a slot has handed out. */
void mcache_flush_count(mcache *mc, uint32_t slot);

#define MCACHE_COUNT_AT 65536u /* objects: so seldom that threads do not wait for each other's counters */
#define MCACHE_LOOK_AT  4096   /* objects from a slot's magazine: so soon a thread that takes no others takes notice */

/* So many objects of the slot have been allocated. A look comes before there are more than the distance. */
static inline void mcache_shorten_distance(mcache_slot *slot, uint64_t n)
{
    slot->distance = slot->distance > n ? slot->distance - n : slot->distance != 0;
}

/* Count what the slot's magazine has handed out. */
static inline void mcache_count_pops(mcache *mc, uint32_t i)
{
    mcache_slot *slot = &mc->slots[i];
    int64_t left = mc->fronts[i].magazine.credit;
    uint64_t npops = (uint64_t)(slot->credit_given - (left < 0 ? 0 : left));

    slot->nuncounted += npops;
    slot->credit_given = left < 0 ? 0 : left;
    mcache_shorten_distance(slot, npops);
}

/* Deduct what the front's cache has handed out; before it changes. */
static inline void mcache_count_takes(mcache *mc, uint32_t i)
{
    mcache_slot *slot = &mc->slots[i];
    uint32_t left = bits_count(mc->fronts[i].cache);

    if (slot->ncached > left)
        mcache_shorten_distance(slot, slot->ncached - left);
    slot->ncached = slot->ncached < left ? slot->ncached : left;
}

static inline void mcache_give_credit(mcache *mc, uint32_t i, int64_t credit)
{
    mc->fronts[i].magazine.credit = mc->slots[i].credit_given = credit;
}

/* Count what a current span, in which nused objects are used, has handed out. */
static inline void mcache_count_current(mcache *mc, mspan *s, uint32_t nused)
{
    mcache_slot *slot = &mc->slots[s->slot];

    slot->nuncounted += mspan_take_count(s, nused);
    if (slot->nuncounted >= MCACHE_COUNT_AT)
        mcache_flush_count(mc, s->slot);
}

/* --- moves of the slow paths --- */

/* A span with nused objects ceases to be current. It is in no list, and something else has to become current. */
static inline void mcache_leave_current(mcache *mc, mspan *s, uint32_t nused)
{
    mcache_count_current(mc, s, nused);
    s->needzero = true;
}

static inline void mcache_place_full(mspan *s)
{
    s->place = MSPAN_FULL;
    s->nfrees = 1;
}

/* At the end: until it is used again, more of its objects are freed. */
static inline void mcache_place_partial(mcache *mc, mspan *s, uint32_t nused)
{
    s->place = MSPAN_PARTIAL;
    s->nfrees = nused;
    mspan_list_push_back(&mc->slots[s->slot].partial, s);
}

static inline void mcache_place_empty(mcache *mc, mspan *s)
{
    s->place = MSPAN_EMPTY;
    s->nfrees = 0;
    mc->nempty_pages += s->npages;
    mc->slots[s->slot].nempty++;
    mspan_list_push_front(&mc->slots[s->slot].empty, s);
}

/* Take an offered span out of their list. */
static inline void mcache_unlist_offered(mcache *mc, mcache_slot *slot, mspan *s)
{
    mspan_list_remove(&slot->offered, s);
    slot->noffered--;
    mc->noffered_pages -= s->npages;
}

/* The same as mcache_place_empty() for one that is offered. */
static inline void mcache_place_offered(mcache *mc, mspan *s)
{
    mcache_slot *slot = &mc->slots[s->slot];

    mspan_list_push_front(&slot->offered, s);
    slot->noffered++;
    mc->noffered_pages += s->npages;
    offer_make(s);
}

/*
 * What a thread retains of its empty spans; it offers what is more. Of a slot: two spans, or so many pages. Both grow
 * by what it has taken back: objects that come and go in large batches are not offered each time.
 */
#define MCACHE_SLOT_PAGES_MAX   (64 * KIB / PAGE_BYTES)
#define MCACHE_EMPTY_PAGES_MAX  (MIB / PAGE_BYTES)
#define MCACHE_WANTED_PAGES_MAX (32 * MIB / PAGE_BYTES)

/* True if that is enough for it to offer the next one of the slot. */
static inline bool mcache_has_enough(const mcache *mc, const mcache_slot *slot, uint64_t npages)
{
    return (slot->nempty >= 2 && (slot->nempty + 1) * npages > MCACHE_SLOT_PAGES_MAX + slot->nwanted_pages) ||
           mc->nempty_pages + npages > MCACHE_EMPTY_PAGES_MAX + mc->nwanted_pages;
}

/* The slot has taken back an offered span for use: it retains so much more, in its magazine where it can. */
void mcache_note_wanted(mcache *mc, const mspan *s);

/*
 * A span has become empty, and is in no list: offer it if the thread has enough; and one that has been empty longest,
 * if the slot has more than it retains.
 */
static inline void mcache_place_idle(mcache *mc, mspan *s)
{
    mcache_slot *slot = &mc->slots[s->slot];

    if (!mcache_has_enough(mc, slot, s->npages) || !offer_is_possible()) {
        mcache_place_empty(mc, s);
        return;
    }
    mcache_place_offered(mc, s);
    if (UNLIKELY(slot->nempty > 2 && slot->nempty * (uint64_t)s->npages > MCACHE_SLOT_PAGES_MAX + slot->nwanted_pages))
        mcache_offer(mc, slot->empty.tail);
}

/* A free by the thread has brought nfrees of s to 0. True: it has become empty, is in no list, and is to be placed. */
static inline bool mcache_place_freed(mcache *mc, mspan *s)
{
    switch (s->place) {
    case MSPAN_FULL:
        if (s->nelems > 1) {
            mcache_place_partial(mc, s, s->nelems - 1);
            return false;
        }
        break;
    case MSPAN_PARTIAL:
        mspan_list_remove(&mc->slots[s->slot].partial, s);
        break;
    default: /* so many frees into the current span */
        if (s->nelems == 1) /* none waits in the magazine */
            mcache_count_current(mc, s, mspan_nused(s));
        else
            mspan_note_frees(s);
        mcache_count_takes(mc, s->slot);
        s->front->cache = 0; /* what it had is in its word's bits, and the next malloc takes a look */
        mc->slots[s->slot].ncached = 0;
        return false;
    }
    return true;
}

/* Take a partial span, which has waited longest, or an empty one out of its list. NULL: there is none. */
static inline mspan *mcache_take(mcache *mc, mcache_slot *slot, uint32_t *ret_nused)
{
    mspan *s = slot->partial.head;

    *ret_nused = 0;
    if (s != NULL) {
        *ret_nused = s->nfrees;
        mspan_list_pop(&slot->partial);
        return s;
    }
    s = slot->empty.head;
    if (s != NULL) {
        mspan_list_pop(&slot->empty);
        slot->nempty--;
        mc->nempty_pages -= s->npages;
    }
    return s;
}

#endif
