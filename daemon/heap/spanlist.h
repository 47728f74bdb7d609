/*
 * Spanlist: doubly linked lists of spans in private memory of the daemon, one link a span. A span is in one list at
 * most.
 */
#ifndef GOALLOC_DAEMON_HEAP_SPANLIST_H
#define GOALLOC_DAEMON_HEAP_SPANLIST_H

#include <assert.h>
#include <stdbool.h>

#include "shm/sizeclass.h"

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
    uint16_t place;  /* enum span_place */
    uint16_t estate; /* on whose account it is (estate.c), and */
    uint32_t left;   /* what left.c knows of the span: lists touch neither */
} span_link;

typedef struct spanlist {
    page_no head;
    page_no tail;
    uint64_t count;
    uint64_t checked; /* of these, those below the page that a check has come to: counted by it, kept right here */
} spanlist;

/*
 * Up to which page a check of spans has counted (checking.h). It stands in the link of page 0, which is no span, so
 * that whoever moves a span has it at hand.
 */
static inline page_no *spans_checked_to(span_link *links)
{
    return &links[0].next;
}

static inline bool span_is_checked(const span_link *links, page_no first)
{
    return first.n < links[0].next.n;
}

/*
 * Two sets of spans with a free object when last looked at, then two of spans without, and large objects. One of each
 * pair is swept, the other is not; they change roles when a sweep begins (see mcentral.c).
 */
typedef struct mcentral {
    spanlist sets[4];
} mcentral;

/*
 * Who owns spans has one for each span class, and behind these one for each again, of marked spans: who does not sample
 * never gets one of those (shm/profile.h).
 */
#define MCENTRALS (2 * SPAN_CLASS_COUNT)

static inline unsigned mcentral_index(span_class spc, bool marked)
{
    return (marked ? (unsigned)SPAN_CLASS_COUNT : 0) + spc.n;
}

static inline void spanlist_push_back(spanlist *list, span_link *links, page_no span, enum span_place place)
{
    assert(links[span.n].place == PLACE_NONE && place != PLACE_NONE);
    links[span.n].next = page_at(0);
    links[span.n].prev = list->tail;
    links[span.n].place = (uint16_t)place;
    if (list->tail.n != 0)
        links[list->tail.n].next = span;
    else
        list->head = span;
    list->tail = span;
    list->count++;
    list->checked += span_is_checked(links, span);
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
    list->checked -= span_is_checked(links, span);
    links[span.n].place = PLACE_NONE;
}

/* True if the span's neighbours in the list, or its ends, name it. */
static inline bool spanlist_has(const spanlist *list, const span_link *links, page_no span)
{
    span_link link = links[span.n];

    return (link.prev.n == 0 ? list->head.n == span.n
                             : links[link.prev.n].next.n == span.n && links[link.prev.n].place == link.place) &&
           (link.next.n == 0 ? list->tail.n == span.n
                             : links[link.next.n].prev.n == span.n && links[link.next.n].place == link.place);
}

#endif
