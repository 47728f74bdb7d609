/*
 * Intent: what a thread is about to do to an object and a slot, for the time of one operation.
 */
#ifndef GOALLOC_LIB_INTENT_H
#define GOALLOC_LIB_INTENT_H

#include "client/lib/process.h"
#include "shm/holds.h"

/* An operation under way. */
typedef struct intent {
    uint32_t record;
    shm_u64 *hold;
} intent;

/*
 * Write the record, and set the hold: from here on the object's place is not used again, and if the process dies the
 * daemon goes by the record. 0, -EAGAIN: there is no record, or no room for the hold, and nothing has changed.
 */
int intent_begin(intent *i, enum intent_state state, uint64_t slot, const object_ref *object, const void *next)
    __attribute__((warn_unused_result));

/* It is done: the hold goes. */
void intent_end(intent *i);

/* In the child of a fork: no thread of it is within an operation. */
void intent_reset(void);

#endif
