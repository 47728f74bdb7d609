/*
 * Declared: what a process says of its private memory, for a collector that stops it and looks for pointers there.
 *
 * The library makes the table at its first attach (client/lib/mapping.c) and writes it (client/lib/declared.c); nobody
 * else does. The collector reads it while the process is stopped (client/collector/), and believes nothing: the bytes
 * are the process's own.
 *
 * Data: one private mapping of a memfd named DECLARED_NAME, so /proc/PID/maps shows where it is ("/memfd:"
 * DECLARED_NAME " (deleted)"), in the process alone: private, so the child of a fork has a copy of its own, and
 * lasting: it stays after a detach. A process with two copies of the library has two tables. Then skipped is what
 * either skips, and DECLARED_ONLY_ROOTS holds if both have it; DECLARED_OPAQUE, if one has. A table that is not whole
 * (declared_is_whole()) counts as none: all memory of the process is looked through.
 *
 *   entry    [start, start + bytes), and what that is:
 *     SKIP     the library's own memory. Words there look like pointers into the heap and keep nothing alive: what
 *              the library means to hold is on the stack of a thread that is in it.
 *     TEXT     code that the library's is part of: if no word of the stacks and registers points there, no thread is in
 *              the library, so none is about to hand an object out or to take one back.
 *     ROOTS    memory that the program has declared (goalloc_private_roots()). It counts if DECLARED_ONLY_ROOTS is set
 *              in flags; else all memory does.
 *
 * nasking counts what no word shows: a reply of the daemon names an object by its offset, and until the thread has made
 * an address of that, the object may have lost its last root without anybody seeing that it is wanted. So while it is
 * not 0 nothing can be collected: the cycle is tried again. The child of a fork has nothing under way: there it is 0,
 * once the child has called the library.
 *
 * Writers: threads of the process, one at a time, under a lock. If the process is stopped, or dies, between any two
 * stores, each entry is one that is there whole, or none: kind is written last when an entry comes, and first when it
 * goes; a change of its length is one store. A range is in the table only while it is the library's: an entry comes
 * after its mapping is there, and goes before it is unmapped. DECLARED_ONLY_ROOTS is set after the first ROOTS entry is
 * there and cleared before the last one goes, so in between more is looked through, never less. sequence is odd while
 * anything changes: who finds it so looks through everything, which saves him from thinking about two entries at once.
 * The child of a fork may find it odd; the library makes it even when the child first calls it.
 */
#ifndef GOALLOC_SHM_DECLARED_H
#define GOALLOC_SHM_DECLARED_H

#include <stddef.h>

#include "shm/atomics.h"

#define DECLARED_NAME    "goalloc-declared"
#define DECLARED_MAGIC   UINT64_C(0x314c434544414f47) /* "GOADECL1" */
#define DECLARED_VERSION 1u

/* Entries of each kind: a table that is full is not grown. What can't be skipped is looked through. */
#define DECLARED_ROOTS_MAX   2048u
#define DECLARED_SKIP_MAX    2032u
#define DECLARED_TEXT_MAX    8u
#define DECLARED_ENTRIES_MAX (DECLARED_ROOTS_MAX + DECLARED_SKIP_MAX + DECLARED_TEXT_MAX)

/* Bits of flags. */
#define DECLARED_OPAQUE     1u /* it has pointers where nobody can see them: nothing can be collected meanwhile */
#define DECLARED_ONLY_ROOTS 2u /* of its private memory ROOTS count, with stacks, registers and static data */

enum declared_kind {
    DECLARED_NONE = 0, /* the entry is not used */
    DECLARED_ROOTS = 1,
    DECLARED_SKIP = 2,
    DECLARED_TEXT = 3,
};

typedef struct declared_entry {
    shm_u64 start;
    shm_u64 bytes;
    shm_u64 kind; /* enum declared_kind; one that is not known here counts as NONE */
} declared_entry;

typedef struct declared_table {
    uint64_t magic; /* written once, last, before any entry is */
    uint32_t version;
    uint32_t nentries_max; /* DECLARED_ENTRIES_MAX of who has made it */
    shm_u32 flags;
    shm_u32 sequence;
    shm_u32 n;             /* entries from here on were never used; only rises */
    shm_u32 nasking;       /* threads that wait for the name of an object, or have it and not its address yet */
    uint32_t reserved[8];
    declared_entry entries[DECLARED_ENTRIES_MAX];
} declared_table;

#define DECLARED_HEADER_BYTES 64u

_Static_assert(sizeof(declared_entry) == 24 && offsetof(declared_table, entries) == DECLARED_HEADER_BYTES,
               "declared layout");
_Static_assert(sizeof(declared_table) <= (size_t)24 * 4096, "few pages");

/*
 * True if the table that begins with these bytes, of a mapping of that length, is one that this build can read, and is
 * not being changed: entries[0] to entries[n - 1] lie within the mapping then. copy has DECLARED_HEADER_BYTES at least.
 */
static inline bool declared_is_whole(const declared_table *copy, uint64_t mapping_bytes)
{
    uint32_t n = u32_load_relaxed(&copy->n);

    return copy->magic == DECLARED_MAGIC && copy->version == DECLARED_VERSION &&
           u32_load_relaxed(&copy->sequence) % 2 == 0 && n <= copy->nentries_max && n <= DECLARED_ENTRIES_MAX &&
           DECLARED_HEADER_BYTES + (uint64_t)n * sizeof(declared_entry) <= mapping_bytes;
}

#endif
