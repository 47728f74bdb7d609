/*
 * Heapcopy: the heap at one instant: which objects live, and the words of those that may hold pointers.
 */
#ifndef GOALLOC_COLLECTOR_HEAPCOPY_H
#define GOALLOC_COLLECTOR_HEAPCOPY_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "client/collector/bulkread.h"
#include "shm/layout.h"

#define HEAPCOPY_NO_CONTENT UINT64_MAX
#define HEAPCOPY_ADDRESS_BITS UINT64_C(0x0000ffffffffffff) /* of a word: programs have tags in the others */

enum {
    HEAP_SPAN_NOSCAN = 1,
    HEAP_SPAN_TINY = 2,   /* content: the blocks' words */
    HEAP_SPAN_LEASED = 4, /* at that instant */
    HEAP_SPAN_OWNED = 8,  /* a session or group owns it, or objects of it are adopted: the daemon may free there */
    HEAP_SPAN_TARGET = 16, /* its objects are looked for; others are only looked into */
};

/*
 * A span with objects that live. Its objects have ordinals: numbers among all of the copy, one for each object, in a
 * tiny span 16 for each block, for the byte that the object begins at.
 */
typedef struct heap_span {
    uint64_t offset;     /* of its first byte, from the arena's base */
    uint64_t elem_bytes;
    uint64_t ordinal;    /* of its first object: a multiple of 64 */
    uint64_t content;    /* where its bytes are in heapcopy.content; HEAPCOPY_NO_CONTENT */
    uint64_t origin;     /* the span's word of that name; 0: nobody knows */
    uint32_t lessee;     /* the session that leased it at that instant, with HEAP_SPAN_LEASED */
    uint32_t nordinals;
    uint32_t nelems;
    uint32_t magic;
    uint8_t spc;
    uint8_t flags; /* HEAP_SPAN_* */
} heap_span;

/* A word of bits: ordinals 64 * i to 64 * i + 63. */
typedef struct heap_bits {
    uint64_t live;
    uint64_t mark; /* mark.c's */
} heap_bits;

/* What the heap's own tables hold. */
enum heap_root_kind {
    HEAP_ROOT_NAMED,  /* a named root: number of its entry */
    HEAP_ROOT_ANNOUNCED, /* the daemon knows that it is about to be a root: number as the daemon has told it */
    HEAP_ROOT_INTENT, /* goalloc_link() or goalloc_unlink_free() is at it: number of the hold */
};

typedef struct heap_root {
    uint64_t offset;
    enum heap_root_kind kind;
    uint32_t number;
} heap_root;

/* Memory of the copy: mapped beforehand, and touched as far as it is expected to be used. */
typedef struct heap_room {
    void *at;
    uint64_t bytes;
} heap_room;

typedef struct heapcopy {
    const shm_map *map;
    int arena_fd;
    uint64_t base;
    uint64_t used_bytes; /* offsets below it may be in spans */
    const uint32_t *span_of; /* one a page below that: index of its span plus 1; 0: none, or none with objects */
    const heap_span *spans;
    uint32_t nspans;
    heap_bits *bits;
    uint64_t nbits; /* words of them */
    const char *content;
    uint64_t content_bytes;
    const heap_root *roots;
    uint32_t nroots;
    uint64_t nlive;   /* objects of these spans */
    uint64_t walk_ns; /* of heapcopy_take(): until it was known what to read */
    /* By heapcopy_prepare(). */
    uint64_t estimate_ns;    /* of heapcopy_take() */
    uint64_t expected_bytes; /* of content */
    uint64_t ntargets;       /* spans whose objects are looked for */
    /* What is behind it. */
    uint64_t npages_max;
    uint64_t spans_max;
    uint64_t bits_max;
    uint64_t content_max;
    uint64_t pieces_max;
    uint64_t npieces;
    bulkread *reader;
    heap_room rooms[6];
} heapcopy;

/* An object of the copy. */
typedef struct heap_object {
    const heap_span *span;
    uint64_t ordinal;
    uint64_t offset; /* of its beginning */
    uint64_t bytes;
} heap_object;

/* True if the span's objects are to be looked for: those that others may have left. */
typedef bool heapcopy_is_suspect(const shm_span *span);

/*
 * Look how large the heap is, and map memory for the copy. suspect NULL: all objects are looked for; else those of the
 * spans that it names, and of all others only the words are copied. arena_fd: the arena's; stays the caller's. nth: 1,
 * and more if the heap has grown beyond the room for it that often. Of the memory for content no more is taken than what
 * it is estimated with. 0, -ENOMEM, -EPROTO (as below). Call heapcopy_free() in any case.
 */
int heapcopy_prepare(heapcopy *h, const shm_map *map, int arena_fd, heapcopy_is_suspect *suspect, uint32_t nth)
    __attribute__((warn_unused_result));

/*
 * After it, if others are going to be stopped: take the memory that the content is expected to need, so that the pause
 * does not fault on it, and have its threads run before others', if they may. 0, -ENOMEM.
 */
int heapcopy_touch(heapcopy *h) __attribute__((warn_unused_result));

/*
 * Take the copy, while nobody allocates or frees. both_values: of each named root the value before counts as well.
 * deadline_ns: on CLOCK_MONOTONIC; UINT64_MAX: none. 0; -EAGAIN: the heap has grown since heapcopy_prepare(); -ETIMEDOUT;
 * -EPROTO: a span's description can't be true.
 */
int heapcopy_take(heapcopy *h, heapcopy_is_suspect *suspect, bool both_values, uint64_t deadline_ns)
    __attribute__((warn_unused_result));

/* Between the two: objects that are about to be roots count as such. */
void heapcopy_add_announced(heapcopy *h, const uint64_t *offsets, uint32_t n);

void heapcopy_free(heapcopy *h);

/* The live object that this offset points to, or into. False: none of those that are looked for. */
bool heapcopy_find(const heapcopy *h, uint64_t offset, heap_object *ret);

/* The object of that ordinal, which lives. */
void heapcopy_object(const heapcopy *h, const heap_span *span, uint64_t ordinal, heap_object *ret);

/* The words of an object of a span that has content. *ret_n: how many. */
const uint64_t *heapcopy_words(const heapcopy *h, const heap_object *object, uint64_t *ret_n);

static inline uint64_t heapcopy_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/*
 * The ordinal that an offset within a span falls to; UINT32_MAX: into no object's place. Of a tiny span only a number
 * of the block's: heapcopy_find() finds the object.
 */
static inline uint32_t heap_span_index(const heap_span *span, uint64_t within)
{
    uint32_t index = object_index(within, span->magic);

    return index < span->nelems ? index : UINT32_MAX;
}

#endif
