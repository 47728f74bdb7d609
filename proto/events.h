/*
 * Events: what a subscriber is told of.
 */
#ifndef GOALLOC_PROTO_EVENTS_H
#define GOALLOC_PROTO_EVENTS_H

/* Of an EventNotice. The library passes them on by these numbers, so they are those of goalloc.h. */
enum proto_event {
    PROTO_EVENT_SESSION_END = 1,
    PROTO_EVENT_ROOT_SET = 2,
    PROTO_EVENT_ROOT_REMOVED = 3,
    PROTO_EVENT_HEAP_GONE = 4, /* of the library alone: no daemon sends it */
    PROTO_EVENT_MEMORY_SHORT = 5,
    PROTO_EVENT_LOST = 6,
    PROTO_EVENT_STOPPING = 7,
};

#endif
