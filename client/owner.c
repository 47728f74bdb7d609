/*
 * owner: whose an object is: publish and adopt.
 *
 * Called by users. Data: the object's kept bit in bitmap (see shm/layout.h), the span's owner and nadopted in spans,
 * which the daemon writes. In a span that a RECLAIM session owns, kept 0 means the owner's, kept 1 the heap's or an
 * adopter's; in all other spans objects are the heap's unless the daemon's adoption table has them.
 *
 * The races, and how they end:
 *   publish against the end of the owner: the kept bit decides, word by word. An object whose bit the daemon sees
 *     stays, another is freed; a publish that comes later answers -EALREADY or -EINVAL.
 *   adopt by two: requests to one daemon; the later one has it.
 *   adopt against a free: the daemon looks again after it has set the kept bit, and says -EALREADY if the free came
 *     first. A free that comes after clears the bit, and the adoption means nothing any more. Only if the place is free
 *     and in use again between the two looks, some microseconds, the new object is adopted: that is why the caller is
 *     asked to see to it that nobody frees meanwhile.
 *   publish against a free: publish changes the kept bit alone, which the next owner of the place clears.
 *
 * publish in an owned span is one fetch_or: dies the process before it, the object is the owner's still, after it the
 * heap's. It races with the end of the owner: whoever is first decides, and an object that the end has freed answers
 * -EALREADY. Everything that concerns the adoption table is the daemon's doing, one request at a time: the last
 * adopter has the object.
 */
#include <errno.h>

#include "client/connection.h"
#include "client/process.h"
#include "shm/crash.h"

static int find_live(const void *p, object_ref *ret)
{
    int r = process_mapped(true);

    if (r < 0)
        return r;
    switch (object_find(&process.map, (uintptr_t)p, ret)) {
    case OBJECT_LIVE:
        return 0;
    case OBJECT_FREE:
        return -EALREADY;
    default:
        return -EINVAL;
    }
}

int goalloc_publish(void *p)
{
    object_ref object;
    int r = find_live(p, &object);

    if (r < 0)
        return r;

    const shm_span *span = shm_span_at(&process.map, object.first);

    if (u32_load_acquire(&span->nadopted) != 0 || (u32_load_acquire(&span->owner) != 0 && !span_has_kept(span))) {
        r = process_ensure();
        return r < 0 ? r : connection_publish(object.offset);
    }
    if (u32_load_acquire(&span->owner) != 0)
        (void)u64_fetch_or_acq_rel(&shm_kept_bits(&process.map, object.first)[object.word], object.bit);
    CRASH_POINT(publish_after_bit);
    return 0;
}

int goalloc_adopt(void *p)
{
    object_ref object;
    int r = find_live(p, &object);

    if (r == 0)
        r = process_ensure();
    if (r < 0)
        return r;
    if (!process.reclaim)
        return goalloc_publish(p);

    const shm_span *span = shm_span_at(&process.map, object.first);

    if (u32_load_acquire(&span->owner) == process.session.n && u32_load_acquire(&span->nadopted) == 0) {
        if (span_has_kept(span))
            (void)u64_fetch_and_acq_rel(&shm_kept_bits(&process.map, object.first)[object.word], ~object.bit);
        return 0;
    }
    CRASH_POINT(adopt_before_reply);
    return connection_adopt(object.offset);
}
