/*
 * owner: whose an object is: publish and adopt.
 *
 * Called by users, by linking.c and graph.c. Data: the object's kept bit in bitmap (see shm/layout.h), the span's owner
 * and nadopted in spans, which the daemon writes. In a span that a RECLAIM session or its group owns, kept 0 means the
 * owner's, kept 1 the heap's or an adopter's; in all other spans objects are the heap's unless the daemon's adoption
 * table has them.
 *
 * The races, and how they end:
 *   publish against the end of the owner: below.
 *   two adopt: both ask one daemon; the later request has the object.
 *   adopt against a free: the daemon looks again after it has set the kept bit, and says -EALREADY if the free came
 *     first. A free that comes after clears the bit, and the adoption means nothing any more. Only if the place is
 *     freed and used again between the two looks, within some microseconds, is the new object adopted: that is why the
 *     caller has to see to it that nobody frees meanwhile.
 *   publish against a free: publish changes the kept bit alone, which the next owner of the place clears.
 *
 * publish in an owned span is one fetch_or: if the process dies before it, the object is still the owner's; after it,
 * the heap's. The end of the owner, which frees all objects without a kept bit, may come at the same time. Both sides
 * store, then look:
 *        here                                daemon (daemon/heap/lease.c)
 *        set the kept bit                    state of the owner, a session or a group = ENDING
 *        full fence                          full fence
 *        read the owner's state              read the kept bits, free what has none
 * At least one of them sees the other's store. If the owner is open still, the daemon will see the bit, and the object
 * stays. (Of a session, it has to be the lease's and of the same epoch. A group's word has its epoch; the object was
 * looked at after the word was read for the first time, so it was the group's of that epoch.) Else the daemon is asked,
 * which does one thing at a time: an object that it has not freed stays, for one that it has freed it says -EALREADY or
 * -EINVAL. Only the daemon changes the adoption table.
 */
#include <errno.h>

#include "client/lib/attach.h"
#include "client/lib/connection.h"
#include "client/lib/owner.h"
#include "shm/crash.h"

static int find_live(const void *p, object_ref *ret)
{
    int r = process_mapped_writable();

    return r < 0 ? r : process_verdict_error(object_find(&process.map, (uintptr_t)p, ret));
}

/* True if the lease is that of a session which has not begun to end. */
static bool session_goes_on(const shm_span *span, uint64_t lease)
{
    const shm_session *owner = &process.map.sessions[lease_unpack(lease).session.n % SHM_SESSIONS_MAX];
    uint32_t state = u32_load_acquire(&owner->state);

    return (state == SHM_SESSION_OPEN || state == SHM_SESSION_LOST) && u64_load_acquire(&span->lease) == lease &&
           u32_load_acquire(&owner->epoch) == lease_unpack(lease).epoch;
}

/* The word by which one sees that the owner of a span goes on: of a group its own, of a session the lease. */
static uint64_t owner_word(const shm_span *span, uint32_t owner)
{
    return u64_load_acquire(owner_is_group(owner) ? &shm_group_at(&process.map, owner)->word : &span->lease);
}

/* True if the owner had not begun to end when that word was read, and has not since. */
static bool owner_goes_on(const shm_span *span, uint32_t number, uint64_t word)
{
    return owner_is_group(number) ? group_unpack(word).state == SHM_GROUP_OPEN && owner_word(span, number) == word &&
                                        u32_load_acquire(&span->owner) == number
                                  : session_goes_on(span, word);
}

static int ask_to_publish(const object_ref *object)
{
    int r = attach_ensure();

    return r < 0 ? r : connection_publish(object->offset);
}

int owner_publish(const object_ref *object)
{
    const shm_span *span = shm_span_at(&process.map, object->first);
    uint32_t owner = u32_load_acquire(&span->owner);
    uint64_t word = owner_word(span, owner);

    if (u32_load_acquire(&span->nadopted) != 0 || (owner != 0 && !span_has_kept(span)))
        return ask_to_publish(object);
    if (owner == 0) /* the heap's already, unless its owner's session ended since it was found */
        return object_is_live(&process.map, object) ? 0 : -EALREADY;
    if (!object_is_live(&process.map, object))
        return -EALREADY; /* it went with an owner that the word does not speak of */
    (void)u64_fetch_or_acq_rel(shm_kept_word(&process.map, object->first, object->word), object->bit);
    CRASH_POINT(publish_after_bit);
    fence_seq_cst();
    return owner_goes_on(span, owner, word) ? 0 : ask_to_publish(object);
}

int goalloc_publish(void *p)
{
    object_ref object;
    int r = find_live(p, &object);

    if (r == 0)
        r = owner_publish(&object);
    KEEP_POINTER(p);
    return r;
}

bool owner_is_heap(const object_ref *object)
{
    const shm_span *span = shm_span_at(&process.map, object->first);
    bool kept = span_has_kept(span) &&
                (u64_load_acquire(shm_kept_word(&process.map, object->first, object->word)) & object->bit) != 0;

    return u32_load_acquire(&span->owner) != 0 ? kept : !kept;
}

int owner_adopt(const object_ref *object)
{
    const shm_span *span = shm_span_at(&process.map, object->first);

    if (u32_load_acquire(&span->owner) == process.owner.n && u32_load_acquire(&span->nadopted) == 0) {
        if (span_has_kept(span))
            (void)u64_fetch_and_acq_rel(shm_kept_word(&process.map, object->first, object->word), ~object->bit);
        return 0;
    }
    CRASH_POINT(adopt_before_reply);
    return connection_adopt(object->offset);
}

int goalloc_adopt(void *p)
{
    object_ref object;
    int r = find_live(p, &object);

    if (r == 0)
        r = attach_ensure();
    if (r < 0)
        return r;
    r = process.reclaim ? owner_adopt(&object) : goalloc_publish(p);
    KEEP_POINTER(p);
    return r;
}
