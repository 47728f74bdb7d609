/*
 * Shadow: what AddressSanitizer and Valgrind are told of the heap, by the debug variant of the library. In the normal
 * library these are no instructions.
 */
#ifndef GOALLOC_LIB_SHADOW_H
#define GOALLOC_LIB_SHADOW_H

#include "client/lib/process.h"

#ifdef GOALLOC_DEBUG_CHECKS

/* True if one of them watches this process. */
bool shadow_is_watched(void);

/* Whoever touches these bytes is reported from now on; or no longer. */
void shadow_forbid(const void *p, size_t bytes);
void shadow_permit(const void *p, size_t bytes);

/* A block for Valgrind's reports: allocated here, of so many bytes, that may be used; or freed here. */
void shadow_allocated(const void *p, size_t bytes);
void shadow_freed(const void *p);

/* What the library itself reads between these is not reported. */
void shadow_quiet_begin(void);
void shadow_quiet_end(void);

/* The same from byte `from` of an object's place on, if it has a note; permitted again if the span has left by then. */
void shadow_forbid_place(const object_ref *object, uint64_t from);

/* A span of this process goes back, with or without objects: nothing of it is forbidden any more. Before others know. */
void shadow_span_leaves(page_no first);

/* The same of one without objects that is offered. Its notes stay: they count again if it is taken back. */
void shadow_span_rests(page_no first);

/* The session is lost: nothing of the heap is forbidden from now on. */
void shadow_session_lost(void);

/* In a child: nothing of the heap is forbidden, and what it leases itself may be. */
void shadow_child_begins(void);

/* The heap is about to be unmapped: the same, and what was noted of it (notes.h) goes. */
void shadow_heap_goes(void);

#else

static inline void shadow_quiet_begin(void)
{
}

static inline void shadow_quiet_end(void)
{
}

static inline void shadow_span_leaves(page_no first)
{
    (void)first;
}

static inline void shadow_span_rests(page_no first)
{
    (void)first;
}

static inline void shadow_session_lost(void)
{
}

static inline void shadow_child_begins(void)
{
}

static inline void shadow_heap_goes(void)
{
}

#endif

#endif
