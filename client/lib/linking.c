/*
 * linking: an object and the slot that points to it change together, whoever dies when.
 *
 * Called by users. Calls owner.c (publish), intent.c, attach.c, connection.c (settle), outbox.c (a large object is
 * free). Data: the session's record and hold of the operation in bitmap (shm/intents.h has the stores, and what holds
 * after a death between any two of them); the slot, in the user's object; the object's kept or remote bit.
 *
 *   goalloc_unlink_free   record -> hold -> slot = next -> the object's remote bit -> the hold goes
 *   goalloc_link          record -> hold -> kept bit -> slot = object -> the hold goes
 *
 * A free here always sets the remote bit, also if this thread holds the span: an own free clears the alloc bit, and the
 * place might be used again, or the span be offered, before the hold goes. The span's thread folds it when it comes
 * round, as it does with what others have freed.
 *
 * link needs no record for an object that is the heap's already: the slot is its one store. An object that a session
 * which does not reclaim has made is such a one; if its process dies before the store, it lives and nobody knows of it,
 * as after a malloc.
 *
 * Nobody but the caller changes the slot meanwhile: the caller holds what guards it. Who takes a robust mutex over from
 * a dead owner calls goalloc_settle() before it reads what the mutex guards. Then the slot that the daemon reads is as
 * the dead thread left it. The daemon frees only if the slot has `next`: if callers break the rule, an object may be
 * lost, and none is freed that is linked.
 *
 * Nothing waits between the stores, but for the request that publishing an object may need; the thread can't be
 * cancelled there.
 *
 * settle goes through the holds itself, and asks the daemon only for sessions whose holds stay. A hold that is set
 * after it has come by its bucket belongs to an operation that began later.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "client/lib/attach.h"
#include "client/lib/connection.h"
#include "client/lib/intent.h"
#include "client/lib/outbox.h"
#include "client/lib/owner.h"
#include "shm/crash.h"

#define LOOKS 100u /* at a hold, before the daemon is asked: its thread is within some instructions */
#define PAUSE_NS 50000
#define PAUSE_NS_MAX 2000000

/* --- users' calls --- */

/* A slot is a word in the heap. */
static int slot_check(void **slot)
{
    int r = attach_ensure_writable();

    if (r < 0)
        return r;
    return (uintptr_t)slot % sizeof(*slot) == 0 && goalloc_contains(slot) && goalloc_offset(slot) != 0 ? 0 : -EINVAL;
}

static inline shm_u64 *slot_word(void **slot)
{
    return (shm_u64 *)(void *)slot;
}

static int find_live(const void *p, object_ref *ret)
{
    return process_verdict_error(object_find(&process.map, (uintptr_t)p, ret));
}

int goalloc_link(void **slot, void *p)
{
    object_ref object;
    int cancel_state;
    intent i;
    int r = slot_check(slot);

    if (r == 0)
        r = find_live(p, &object);
    if (r < 0)
        return r;
    if (owner_is_heap(&object) && u32_load_acquire(&shm_span_at(&process.map, object.first)->nadopted) == 0) {
        u64_store_release(slot_word(slot), (uintptr_t)p);
        return 0;
    }
    r = intent_begin(&i, INTENT_LINK, goalloc_offset(slot), &object, NULL);
    if (r < 0)
        return r;
    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    r = owner_publish(&object);
    CRASH_POINT(link_after_publish);
    if (r == 0)
        u64_store_release(slot_word(slot), (uintptr_t)p);
    CRASH_POINT(link_after_slot);
    intent_end(&i);
    (void)pthread_setcancelstate(cancel_state, NULL);
    return r;
}

/* A large object that is free is told of, as by large_free(); else the daemon's sweep finds it. */
static void tell_if_large(const object_ref *object)
{
    const shm_span *span = shm_span_at(&process.map, object->first);
    int saved_errno = errno;

    if (span_class_size(span->spc).n == 0 && !(span->lessee_folds && span_is_leased(span)))
        outbox_free_large(object->first);
    errno = saved_errno;
}

int goalloc_unlink_free(void **slot, void *next)
{
    object_ref object;
    enum object_verdict verdict;
    uint64_t p;
    intent i;
    int r = slot_check(slot);

    if (r < 0)
        return r;
    p = u64_load_acquire(slot_word(slot));
    r = p == (uintptr_t)next ? -EINVAL : process_verdict_error(object_find_to_free(&process.map, p, &object));
    if (r == 0)
        r = intent_begin(&i, INTENT_UNLINK, goalloc_offset(slot), &object, next);
    if (r < 0)
        return r;
    u64_store_release(slot_word(slot), (uintptr_t)next);
    CRASH_POINT(unlink_after_slot);
    verdict = object_free_remote(&process.map, &object);
    CRASH_POINT(unlink_after_free);
    intent_end(&i);
    if (verdict == OBJECT_LIVE)
        tell_if_large(&object);
    return process_verdict_error(verdict);
}

/* --- settle --- */

static void pause_for(long ns)
{
    (void)nanosleep(&(struct timespec){ .tv_nsec = ns }, NULL);
}

/* Wait until a hold has gone. */
static int await_release(const shm_u64 *at, uint64_t word, deadline until)
{
    session_no session = hold_unpack(word).session;

    for (uint32_t i = 0; i < LOOKS; i++) {
        if (u64_load_acquire(at) != word)
            return 0;
        (void)sched_yield();
    }
    for (long ns = PAUSE_NS;; ns = ns * 2 < PAUSE_NS_MAX ? ns * 2 : PAUSE_NS_MAX) {
        int r = connection_settle(session);

        if (u64_load_acquire(at) != word)
            return 0;
        if (r < 0)
            return r;
        if (deadline_left_ms(until) == 0)
            return -ETIMEDOUT;
        pause_for(ns);
    }
}

int goalloc_settle(void)
{
    int r = attach_ensure_writable();
    deadline until;

    if (r < 0 || !holds_any(&process.map))
        return r;
    until = deadline_in((int)u32_load_relaxed(&process.timeout_ms));
    for (uint32_t i = 0; i < SHM_HOLDS_MAX && r == 0; i++) {
        const shm_u64 *at = &shm_intents_of(&process.map)->holds[i];
        uint64_t word = u64_load_acquire(at);
        session_no who = hold_unpack(word).session;

        if (who.n != 0 && who.n != process.session.n) /* 0: no hold, or a forged one, of nobody */
            r = await_release(at, word, until);
    }
    return r;
}
