/*
 * link: goalloc_link() and goalloc_unlink_free(), patiently.
 *
 * Called by table.c and block.c, and by the files of _numpy_refs.h: it is in both modules. Calls libgoalloc. It has no
 * data. Both calls answer -EAGAIN while too many threads are within them (goalloc.h says how many). Each of these is
 * done within some hundred nanoseconds, unless it is stopped; so this lets others run, and tries again, LINK_TRIES
 * times. The caller has a lock in the heap, so there is an end: who gives up leaves all as it was.
 */
#include "link.h"

#include <errno.h>
#include <goalloc.h>
#include <sched.h>

#define LINK_TRIES 1000

int link_patiently(void *slot, void *p)
{
    int r = goalloc_link(slot, p);

    for (int i = 1; i < LINK_TRIES && r == -EAGAIN; i++) {
        (void)sched_yield();
        r = goalloc_link(slot, p);
    }
    return r;
}

int unlink_patiently(void *slot, void *next)
{
    int r = goalloc_unlink_free(slot, next);

    for (int i = 1; i < LINK_TRIES && r == -EAGAIN; i++) {
        (void)sched_yield();
        r = goalloc_unlink_free(slot, next);
    }
    if (r == -EINVAL || r == -EALREADY) { /* nothing to free */
        *(void **)slot = next;
        r = 0;
    }
    return r;
}
