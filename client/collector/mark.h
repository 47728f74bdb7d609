/*
 * Mark: which objects of a heapcopy can be reached, and which word holds each.
 */
#ifndef GOALLOC_COLLECTOR_MARK_H
#define GOALLOC_COLLECTOR_MARK_H

#include "client/collector/heapcopy.h"
#include "client/collector/world.h"

/* What counts as a pointer, besides the address of an object or of a byte in it. */
enum {
    MARK_OFFSETS = 1,  /* goalloc_offset() of it */
    MARK_PAST_END = 2, /* the address right behind it */
};

/* The word by which an object was reached first. */
enum mark_holder_kind {
    MARK_HELD_BY_NOTHING = 0, /* it was not reached */
    MARK_HELD_BY_OBJECT = 1,  /* number: the word's offset from the arena's base */
    MARK_HELD_BY_HIT = 2,     /* number: of world.hits */
    MARK_HELD_BY_ROOT = 3,    /* number: of heapcopy.roots */
};

typedef struct mark_holder {
    enum mark_holder_kind kind;
    uint64_t number;
} mark_holder;

/* An object that was reached and has not been looked into. */
typedef struct mark_entry {
    uint32_t span;
    uint32_t index;
} mark_entry;

typedef struct marker {
    heapcopy *heap;
    unsigned flags;
    mark_entry *stack;
    uint64_t nstack;
    uint64_t stack_bytes;
    uint64_t *holders; /* by ordinal; NULL: not wanted */
    uint64_t nmarked;  /* objects */
    void (*progress)(uint64_t nmarked, void *arg); /* called now and then; NULL: nobody wants to know */
    void *progress_arg;
} marker;

/* For a copy that is taken. holders: note who holds whom. 0, -ENOMEM. Call mark_free() in any case. */
int mark_init(marker *m, heapcopy *heap, unsigned flags, bool holders) __attribute__((warn_unused_result));
void mark_free(marker *m);

/* The object that this offset points into is reached, if one lives there. */
void mark_from(marker *m, uint64_t offset, mark_holder holder);

/* The words of processes, and what the heap's own tables hold. */
void mark_from_hits(marker *m, const words_hit *hits, uint64_t nhits);
void mark_from_roots(marker *m);

/* A word of an object that is at offset `at`. */
void mark_from_word(marker *m, uint64_t word, uint64_t at);

/* Look into all that was reached, until nothing new is. */
void mark_closure(marker *m);

static inline bool mark_is_marked(const heapcopy *h, uint64_t ordinal)
{
    return (h->bits[ordinal / 64].mark >> ordinal % 64 & 1) != 0;
}

/* Who holds an object, if that was noted. */
mark_holder mark_holder_of(const marker *m, uint64_t ordinal);

#endif
