/*
 * Intents: what a thread is about to do to an object and to the slot that points to it, so that somebody can finish it
 * or undo it if the process dies in between; and holds, which keep the object's place from being used again until then.
 *
 * They lie at the end of bitmap, so they outlive every process and every daemon:
 *
 *   +-------------+------------------------------+----------------------------------------------+
 *   | used, 4 KiB | holds: 512 buckets of 8 words| records: 128 of 32 B each session entry      |
 *   +-------------+------------------------------+----------------------------------------------+
 *
 * A record says what is to be done. A hold says that it may be under way, for which place, by which record of which
 * session: place / 8, 41 bits | session 12 | record 7. It stands in a bucket that the place selects, so one cache line
 * says whether a place is held. While a hold stands, no fold makes the place free (holds.h): an object that is freed
 * stays free by its remote bit, and who frees it once more changes nothing. So what is under way can be done again by
 * anybody who finds the hold. And a hold has a name: when the place has become free and another thread is at its next
 * object, nobody takes that thread's hold for the first one's, as would happen with a bit. When a hold is gone
 * everything has been done.
 *
 * goalloc_unlink_free (client/lib/linking.c), each a store:
 *   1. record: slot, object, next, then state           dead before 2: no hold, nothing has changed
 *   2. hold                                             before 3: the slot has the object: the hold goes
 *   3. slot = next                                      before 4: the slot has next: the object is freed
 *   4. the object's remote bit                          before 5: the same; the free finds that it is done
 *   5. the hold goes                                    done
 *   6. state = NONE                                     for people and tests; nothing depends on it
 *
 * goalloc_link, of an object that is not published: 3 is the kept bit, 4 the slot = object. If the slot has the object
 * when its process is dead, all is done; else the kept bit is cleared, and the object ends with its session.
 *
 * Writers: records and holds of a session are written by its process, and by the daemon when that is dead. All clients
 * can write all of them, as they can write all bits and all objects. The daemon bounds what it reads here, and what a
 * forged record can make it do (clear a kept bit, set a remote bit, take away a hold) its author could have done.
 */
#ifndef GOALLOC_SHM_INTENTS_H
#define GOALLOC_SHM_INTENTS_H

#include "shm/atomics.h"
#include "shm/limits.h"
#include "shm/units.h"

#define SHM_INTENTS_HEADER_BYTES (4 * KIB)

enum intent_state {
    INTENT_NONE = 0,
    INTENT_LINK = 1,
    INTENT_UNLINK = 2,
};

/* Written by one thread, state last. slot and object are offsets in the arena, next is what the slot is to have. */
typedef struct shm_intent {
    shm_u64 slot;
    shm_u64 object;
    shm_u64 next;
    shm_u64 state;
} shm_intent;

typedef struct shm_intents {
    shm_u32 used; /* not 0: there may be holds. Set before the first one, and never cleared */
    uint8_t reserved[SHM_INTENTS_HEADER_BYTES - 4];
    shm_u64 holds[SHM_HOLDS_MAX];
    shm_intent records[SHM_SESSIONS_MAX][SHM_INTENTS_MAX];
} shm_intents;

_Static_assert(sizeof(shm_intent) == 32, "records do not cross cache lines");

#define HOLD_PLACE_BITS 41
#define HOLD_SESSION_BITS 12

_Static_assert(SHM_ARENA_BYTES_MAX >> HOLD_PLACE_BITS <= 8, "a place fits into a hold");
_Static_assert(SHM_SESSIONS_MAX <= 1 << HOLD_SESSION_BITS, "a session fits into a hold");
_Static_assert(SHM_INTENTS_MAX <= 1 << (64 - HOLD_PLACE_BITS - HOLD_SESSION_BITS), "a record fits into a hold");

/* --- holds --- */

/* What a hold says. */
typedef struct hold {
    uint64_t place; /* offset of the object's place: of a tiny object, that of its block */
    session_no session;
    uint32_t record;
} hold;

static inline uint64_t hold_pack(hold h)
{
    return h.place / 8 | (uint64_t)h.session.n << HOLD_PLACE_BITS |
           (uint64_t)h.record << (HOLD_PLACE_BITS + HOLD_SESSION_BITS);
}

/* record is below SHM_INTENTS_MAX if shm_intent_of() says that there is one. */
static inline hold hold_unpack(uint64_t word)
{
    return (hold){ .place = (word & ((UINT64_C(1) << HOLD_PLACE_BITS) - 1)) * 8,
                   .session = { (uint16_t)(word >> HOLD_PLACE_BITS & ((1u << HOLD_SESSION_BITS) - 1)) },
                   .record = (uint32_t)(word >> (HOLD_PLACE_BITS + HOLD_SESSION_BITS)) };
}

#endif
