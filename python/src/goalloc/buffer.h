/* buffer: goalloc.Buffer, as buffer.c and buffer_names.c know it; buffer.c says what each kind is. With the GIL. */
#ifndef GOALLOC_BUFFER_H
#define GOALLOC_BUFFER_H

#include "core.h"

#include "block.h"

#define END_WAIT_MS 1000 /* for a lock where nobody can be told */

enum kind { EMPTY, PRIVATE, SHARED, BORROWED, FOREIGN };

typedef struct buffer {
    PyObject_HEAD char *p;
    Py_ssize_t size;
    Py_ssize_t nexports;
    uint64_t generation;
    block *b;                       /* PRIVATE, SHARED */
    PyObject *owner;                /* BORROWED, or NULL */
    struct buffer *next, *previous; /* of those with a block */
    char kind;
    char is_readonly;
    char is_sharing;           /* a thread is putting it into the table of blocks, without the GIL */
    char is_for_child;         /* held once more, for a child that is being forked */
    unsigned long fork_number; /* the last fork that has come to it */
    char key[BLOCK_KEY];       /* SHARED: the block's, which may be gone with its heap */
} buffer;

/* The table of blocks of the heap that this process is attached to, or NULL with an exception. */
table *buffer_blocks(void);

/* A private block, zeroed; NULL with an exception. */
block *buffer_new_block(Py_ssize_t size);

/* A buffer of a block that is this process's, or that it holds (SHARED). NULL with an exception: then nothing is taken.
 */
PyObject *buffer_own(enum kind kind, block *b);

/* NULL with an exception: the object is no buffer. */
buffer *buffer_of(PyObject *object);

/* 0; -1 with an exception: it is freed, or of a heap that was left. */
int buffer_check(const buffer *self);

/* PRIVATE becomes SHARED. 0, or -1 with an exception. */
int buffer_share(buffer *self);

/* `who` holds the block once more. 0, or -1 with an exception: ValueError if there is no such block. */
int buffer_hold(const char *key, holder who, block **ret);

#endif
