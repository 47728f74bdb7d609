/*
 * Owner: whose an object is.
 */
#ifndef GOALLOC_LIB_OWNER_H
#define GOALLOC_LIB_OWNER_H

#include "client/lib/process.h"

/*
 * True if the end of no session frees the object. One that a session has adopted counts as that session's, except in
 * a span that a RECLAIM session owns: there it looks like a published one.
 */
bool owner_is_heap(const object_ref *object);

#endif
