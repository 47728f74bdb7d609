/*
 * Origin: of a span, which session has filled it, so that a collector's cycle after a death traces only what the dead
 * had a part in. A word of the span's description: state 8 | confirmed 8 | session 16 | epoch 32.
 *
 * Called by the daemon (lease.c, request_collect.c), which alone writes it, and by collectors, which read it.
 *
 *        UNKNOWN --leased--> ALONE --leased by another--> MIXED
 *           (new: ALONE)      ^  |                         |
 *                             |  '------- CONFIRM ---------'   confirmed: a cycle has found that the heap itself holds
 *                             '-- leased when confirmed        each object of the span, or has freed it
 *
 * The word is written when the span is leased, before its lease word, so it names each session that has ever set an
 * alloc bit there since the span was last free, or it is MIXED: session is then the last one. If the daemon dies
 * between the two, it names one that has not. That makes the span suspect, or traced once more; it never makes it less
 * so. A session that is leased a confirmed span counts as alone: what was there before is known to be held. What others
 * unlink there later is not the dead's doing, and a cycle over the whole heap finds it; as it finds what hung on an
 * object that a process of its own held, which lived at the time.
 *
 * It means something while the heap has SHM_OPTIONAL_ORIGIN (version.h). A daemon that finds the feature gone makes all
 * origins UNKNOWN, by which a span is suspect, before it sets the bit anew: another one was in between, which leased
 * without writing it.
 */
#ifndef GOALLOC_SHM_ORIGIN_H
#define GOALLOC_SHM_ORIGIN_H

#include "shm/layout.h"

enum origin_state {
    ORIGIN_UNKNOWN = 0,
    ORIGIN_ALONE = 1, /* one session has allocated what is there and not confirmed */
    ORIGIN_MIXED = 2, /* several have */
};

typedef struct origin_word {
    enum origin_state state;
    bool confirmed;
    session_no session; /* the only one, or the last one */
    uint32_t epoch;
} origin_word;

static inline uint64_t origin_pack(origin_word origin)
{
    return (uint64_t)origin.state | (uint64_t)origin.confirmed << 8 | (uint64_t)origin.session.n << 16 |
           (uint64_t)origin.epoch << 32;
}

static inline origin_word origin_unpack(uint64_t word)
{
    return (origin_word){ .state = (enum origin_state)(word & 0xff),
                          .confirmed = (word & 0x100) != 0,
                          .session = { (uint16_t)(word >> 16) },
                          .epoch = (uint32_t)(word >> 32) };
}

/* The origin of a span that is about to be leased; is_new: no object is in it. */
static inline uint64_t origin_when_leased(uint64_t word, bool is_new, session_no to, uint32_t epoch)
{
    origin_word now = origin_unpack(word);
    bool alone = is_new || now.confirmed || (now.state == ORIGIN_ALONE && now.session.n == to.n && now.epoch == epoch);

    return origin_pack((origin_word){ .state = alone ? ORIGIN_ALONE : ORIGIN_MIXED, .session = to, .epoch = epoch });
}

/*
 * True if a session that has died may have allocated objects in the span, and no cycle has looked at them since. entry:
 * the session table's of its session, as it was when the word was read or before. Of a session whose entry is another's
 * by now nobody knows how it has ended: it counts as dead.
 */
static inline bool origin_is_suspect(uint64_t word, const shm_session *entry)
{
    origin_word origin = origin_unpack(word);

    if (origin.confirmed)
        return false;
    if (origin.state != ORIGIN_ALONE || u32_load_relaxed(&entry->epoch) != origin.epoch)
        return true;
    return u32_load_relaxed(&entry->state) == SHM_SESSION_FREE && u32_load_relaxed(&entry->died_epoch) == origin.epoch;
}

#endif
