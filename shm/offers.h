/*
 * Offers: the own memfd of a session that leases, by which its process and the daemon agree which idle spans the daemon
 * may take back without asking.
 *
 *   process, daemon  +---------------------+------------------------+
 *   map all of it    | header, 4 KiB       | words, 8 B each page   |
 *                    +---------------------+------------------------+
 *
 * The daemon makes it, of a fixed size, and nobody else ever gets it: what one process writes there concerns spans that
 * its own session leases, and no others (the daemon looks them up in its lease table). It is sparse: it takes 8 bytes
 * for each page that was ever offered. It ends with its session, and a daemon that takes a heap over makes new ones:
 * what was offered before is void then.
 *
 * A span's word is that of its first page: state 2 bits | nleases 62 bits. nleases is the span's (shm_span); no two
 * leases of a heap have the same. So a word that an earlier lease has left never speaks for the present one.
 *
 *               owner offers            daemon has seen it            daemon takes it
 *        NONE ----------------> OFFERED ------------------> SEEN ----------------------> TAKEN
 *          ^                       |                         |
 *          +---- owner takes back -+-------------------------+       (memory is short: OFFERED -> TAKEN)
 *
 * Owner: the thread that holds the span, or the process. It stores OFFERED after it has given up the span's alloc
 * words, and writes these again only after its compare-and-swap to NONE. Daemon: writes SEEN and TAKEN, by
 * compare-and-swap; after TAKEN it ends the lease. So of the two that want the span one has it.
 *
 * Large objects. Another process may free one, and then the daemon ends its lease. The bits that say so can be written
 * by every client; so what decides is this word, of which others have no part:
 *
 *        NONE, nleases  <--------- 0 ----------------> TAKEN
 *                       lessee frees,   daemon ends the lease: another process has freed it
 *        the daemon stores the first one with the lease; the lessee stores 0 when it hands the object out
 *
 * Both go from 0 by compare-and-swap. A span that the process has in hand, cached or offered or on its way, is thus
 * safe from forged bits. 0 for a lease that was given under another daemon, or by a resize, means the same as for one
 * that was handed out: the bits count.
 *
 * If the process dies: its lease ends with its session, whatever the word says. If the daemon dies after TAKEN and
 * before the lease word: the lease stands, and the next daemon's words say NONE. Who finds the old word forgets the
 * span and has it looked for in the list of leases, which gives it back; who finds the new one has it still.
 */
#ifndef GOALLOC_SHM_OFFERS_H
#define GOALLOC_SHM_OFFERS_H

#include "shm/atomics.h"
#include "shm/units.h"

#define SHM_OFFERS_HEADER_BYTES (4 * KIB)

enum offer_state {
    OFFER_NONE = 0, /* with an nleases: the process has the span in hand, and no object of it is with anybody */
    OFFER_OFFERED = 1, /* the daemon may take the span */
    OFFER_SEEN = 2,    /* the same, and it has been idle since the daemon came by */
    OFFER_TAKEN = 3,   /* the lease is over, or about to be */
};

typedef struct shm_offers {
    uint64_t id;    /* by which a process that comes back says which file it has; the daemon goes by its own copy */
    shm_u32 active; /* not 0: there may be an offer; the process sets it after its first one. Else no word is read */
    uint32_t pad;
    uint8_t reserved[SHM_OFFERS_HEADER_BYTES - 16];
    shm_u64 words[];
} shm_offers;

_Static_assert(sizeof(shm_offers) == SHM_OFFERS_HEADER_BYTES, "the words begin at a page of the system");

static inline uint64_t shm_offers_bytes(uint64_t npages)
{
    return SHM_OFFERS_HEADER_BYTES + npages * sizeof(shm_u64);
}

static inline uint64_t offer_pack(enum offer_state state, uint64_t nleases)
{
    return (uint64_t)state | nleases << 2;
}

static inline enum offer_state offer_state_of(uint64_t word)
{
    return (enum offer_state)(word & 3);
}

/* True if the word says that the process has the span of this lease in hand: it has handed out no object there. */
static inline bool offer_is_in_hand(uint64_t word, uint64_t nleases)
{
    return word >> 2 == nleases && offer_state_of(word) != OFFER_TAKEN;
}

/* True if the word offers the span for this lease. */
static inline bool offer_stands(uint64_t word, uint64_t nleases)
{
    return word == offer_pack(OFFER_OFFERED, nleases) || word == offer_pack(OFFER_SEEN, nleases);
}

#endif
