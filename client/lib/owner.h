/*
 * Owner: whose an object is.
 */
#ifndef GOALLOC_LIB_OWNER_H
#define GOALLOC_LIB_OWNER_H

#include "client/lib/process.h"

/*
 * True if no session's end frees the object. An adopted object counts as its adopter's, except in a span that a RECLAIM
 * session owns: there it looks like a published one.
 */
bool owner_is_heap(const object_ref *object);

/* goalloc_publish() of a live object. */
int owner_publish(const object_ref *object);

/* goalloc_adopt() of a live object, by a session that reclaims. */
int owner_adopt(const object_ref *object);

#endif
