/* block: memory of the heap that several processes hold; block.c says how it survives deaths. No Python here. */
#ifndef GOALLOC_BLOCK_H
#define GOALLOC_BLOCK_H

#include "table.h"

#define BLOCK_HOLDERS 8u
#define BLOCK_KEY 16u

typedef struct holders {
    struct holders *next;
    _Atomic uint64_t words[31];
} holders;

typedef struct block {
    entry e;                               /* in the table of blocks, once it is shared */
    _Atomic uint64_t words[BLOCK_HOLDERS]; /* who holds it, one word each */
    holders *more;
    uint64_t data_len;
    char key[BLOCK_KEY];
    char data[]; /* 128 bytes behind the block */
} block;

_Static_assert(sizeof(block) == 128, "data behind two cache lines");

/* Who holds: a process, or (BLOCK_FOR_EVER) nobody, as a name does. */
typedef uint64_t holder;
#define BLOCK_FOR_EVER UINT64_C(0)

holder block_self(void);         /* this process */
holder block_handle(holder who); /* the same, for what it has given out handles for */
holder block_reservation(void);  /* a child that is about to be forked: it counts for a minute */
bool holder_is_alive(holder who);

/* A private block, zeroed, or NULL with errno; and its end. */
block *block_new(size_t len);
void block_free_private(block *b);

#define BLOCK_E_GONE 1 /* there is no block of that key (any more), or `who` does not hold it */

/*
 * The functions below need the table of blocks. All wait for a lock up to wait_ms, and return -EBUSY after that. With
 * wait_ms 0 they wait for nobody, nor allocate: -EBUSY says that it takes one of both.
 */
int blocks_open(table **ret);

/* Put a private block into the table, held by `who`. 0 or a negative errno. */
int block_share(table *t, block *b, holder who, int wait_ms);

/* `who` holds the block of that key once more. *ret is the block. 0, BLOCK_E_GONE or a negative errno. */
int block_hold(table *t, const char key[BLOCK_KEY], holder who, int wait_ms, block **ret);

/*
 * `who` holds it once less; when no living process holds it, it is freed (may_free false, for a process that has no
 * session yet, or if it can't be freed now: block_collect() frees it). 0, BLOCK_E_GONE or a negative errno.
 */
int block_drop(table *t, const char key[BLOCK_KEY], holder who, bool may_free, int wait_ms);

/* 1: there is such a block, and it is held by a name, or its maker, who is about to name it, lives. 0: else. -EBUSY. */
int block_is_named(table *t, const char key[BLOCK_KEY], holder maker, int wait_ms);

/* Free the blocks that only dead processes hold. *ret_n counts them. */
int block_collect(table *t, int wait_ms, uint64_t *ret_n);

#endif
