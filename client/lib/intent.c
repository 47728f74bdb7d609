/*
 * intent: the records and holds of this process's session.
 *
 * Called by linking.c, and by attach.c in the child of a fork. Data: the session's records and the holds in bitmap
 * (shm/intents.h); private: which records are taken.
 *
 * A thread takes a record for the time of one operation: the one that it had before, unless that is another's just now.
 * A thread can't end within an operation, and a signal handler that begins one there takes another record. So as many
 * records are taken as threads are within an operation: more than SHM_INTENTS_MAX of them wait for each other, a
 * thousand times, and then fail.
 */
#include "client/lib/intent.h"

#include <sched.h>
#include <string.h>

#include "client/lib/mspan.h"
#include "shm/crash.h"

#define TRIES 1000u /* each gives the processor away */

/* A line each, since each has its thread. */
typedef struct claim {
    _Alignas(64) shm_u32 taken;
} claim;

static claim claims[SHM_INTENTS_MAX];
static _Thread_local uint32_t last_claim; /* 1 + its number; 0: none yet */

void intent_reset(void)
{
    memset(claims, 0, sizeof(claims));
}

/* A record that no thread has. -EAGAIN: all are taken, by threads that do not go on. */
static int claim_take(uint32_t *ret)
{
    uint32_t at = last_claim - 1;

    if (last_claim == 0) /* threads begin at different ones */
        at = (uint32_t)((uintptr_t)thread_self() * UINT64_C(0x9e3779b97f4a7c15) >> 32);
    for (uint32_t i = 0; i < TRIES * SHM_INTENTS_MAX; i++) {
        uint32_t none = 0;

        at %= SHM_INTENTS_MAX;
        if (u32_load_relaxed(&claims[at].taken) == 0 && u32_exchange_if_acq_rel(&claims[at].taken, &none, 1)) {
            last_claim = at + 1;
            *ret = at;
            return 0;
        }
        if (at++ == 0)
            (void)sched_yield();
    }
    return -EAGAIN;
}

static shm_intent *record_of(const intent *i)
{
    return &shm_intents_of(&process.map)->records[process.session.n][i->record];
}

static void claim_give(const intent *i)
{
    u64_store_release(&record_of(i)->state, INTENT_NONE);
    u32_store_release(&claims[i->record].taken, 0);
}

int intent_begin(intent *i, enum intent_state state, uint64_t slot, const object_ref *object, const void *next)
{
    hold h = { .place = holds_place(&process.map, object), .session = process.session };
    shm_intent *record;
    int r = claim_take(&i->record);

    if (r < 0)
        return r;
    h.record = i->record;
    record = record_of(i);
    u64_store_relaxed(&record->slot, slot);
    u64_store_relaxed(&record->object, object->offset);
    u64_store_relaxed(&record->next, (uintptr_t)next);
    u64_store_release(&record->state, state);
    CRASH_POINT(intent_after_record);
    i->hold = holds_add(&process.map, h);
    for (uint32_t n = 0; i->hold == NULL && n < TRIES; n++) {
        (void)sched_yield();
        i->hold = holds_add(&process.map, h);
    }
    CRASH_POINT(intent_after_hold);
    if (i->hold != NULL)
        return 0;
    claim_give(i);
    return -EAGAIN;
}

/* Release: all that was done happens before somebody finds the place free. */
void intent_end(intent *i)
{
    u64_store_release(i->hold, 0);
    CRASH_POINT(intent_after_release);
    claim_give(i);
}
