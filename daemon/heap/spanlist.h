/*
 * Spanlist: doubly linked lists of spans in private memory of the daemon, one link a span. A span is in one list at
 * most.
 */
#ifndef GOALLOC_DAEMON_HEAP_SPANLIST_H
#define GOALLOC_DAEMON_HEAP_SPANLIST_H

#include <assert.h>

#include "shm/units.h"

enum span_place {
    PLACE_NONE = 0,  /* free, or on its way from one list to another */
    PLACE_LEASED,    /* in its lessee's list */
    PLACE_PARTIAL,   /* the four sets of its mcentral, in their order */
    PLACE_PARTIAL_1,
    PLACE_FULL,
    PLACE_FULL_1,
};

typedef struct span_link {
    page_no next;
    page_no prev;
    enum span_place place;
    uint32_t left; /* what left.c knows of the span; lists do not touch it */
} span_link;

typedef struct spanlist {
    page_no head;
    page_no tail;
    uint64_t count;
} spanlist;

/*
 * Two sets of spans with a free object when last looked at, then two of spans without, and large objects. One of each
 * pair is swept, the other is not; they change roles when a sweep begins (see mcentral.c).
 */
typedef struct mcentral {
    spanlist sets[4];
} mcentral;

static inline void spanlist_push_back(spanlist *list, span_link *links, page_no span, enum span_place place)
{
    assert(links[span.n].place == PLACE_NONE && place != PLACE_NONE);
    links[span.n].next = page_at(0);
    links[span.n].prev = list->tail;
    links[span.n].place = place;
    if (list->tail.n != 0)
        links[list->tail.n].next = span;
    else
        list->head = span;
    list->tail = span;
    list->count++;
}

static inline void spanlist_remove(spanlist *list, span_link *links, page_no span)
{
    span_link link = links[span.n];

    assert(link.place != PLACE_NONE && list->count > 0);
    if (link.prev.n != 0)
        links[link.prev.n].next = link.next;
    else
        list->head = link.next;
    if (link.next.n != 0)
        links[link.next.n].prev = link.prev;
    else
        list->tail = link.prev;
    list->count--;
    links[span.n].place = PLACE_NONE;
}

#endif
