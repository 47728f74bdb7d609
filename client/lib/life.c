/*
 * life: whether the heap that is mapped here is still somebody's, and what happens to it.
 *
 * Called by users. Calls attach (a subscription needs a session) and subscription. Data: none; it reads
 * process.dropped, which names the word dropped of the heap's header, or a constant when there is no heap or a daemon
 * has answered -ESTALE (process.c).
 */
#include <errno.h>
#include <string.h>

#include "client/lib/attach.h"
#include "client/lib/process.h"
#include "client/lib/subscription.h"

uint64_t goalloc_heap_id(void)
{
    return process_is_mapped() ? process.generation : 0;
}

int goalloc_is_current(void)
{
    return !process_is_dropped();
}

int goalloc_event_fd(void)
{
    int r = attach_ensure();

    return r < 0 ? r : subscription_open(deadline_in((int)u32_load_relaxed(&process.timeout_ms)));
}

int goalloc_next_event(goalloc_event *ret)
{
    goalloc_event event;
    size_t size;
    int r;

    if (ret == NULL || ret->struct_size < sizeof(ret->struct_size))
        return -EINVAL;
    size = ret->struct_size;
    memset(&event, 0, sizeof(event));
    r = subscription_next(&event);
    if (r != 1)
        return r;
    event.struct_size = size;
    memcpy(ret, &event, size < sizeof(event) ? size : sizeof(event));
    return 1;
}
