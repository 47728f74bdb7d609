/*
 * Object: from an address to the object it names, by the shared tables alone; and folding remote frees into alloc bits.
 */
#ifndef GOALLOC_SHM_OBJECT_H
#define GOALLOC_SHM_OBJECT_H

#include "shm/layout.h"

/* What an address turned out to be. */
enum object_verdict {
    OBJECT_LIVE = 0,
    OBJECT_FREE,     /* an object's address, and it is free: never handed out, or freed already */
    OBJECT_INTERIOR, /* within an object, not its beginning */
    OBJECT_NO_SPAN,  /* in the arena, in no span */
    OBJECT_FOREIGN,  /* not in the arena */
};

typedef struct object_ref {
    page_no first; /* of its span */
    uint32_t index; /* of the object; of a tiny object, of its block */
    uint32_t word; /* of the bits */
    uint64_t bit;
    uint64_t offset; /* of the object's beginning, from the arena's base */
    uint64_t bytes;
} object_ref;

/*
 * Look up the object at address p. *ret is set for LIVE, FREE and INTERIOR (then it is the object that p lies in). The
 * answer is a snapshot: an object that others may free meanwhile needs the caller's own knowledge that they don't.
 * Called by daemon and clients. Cost: three cache lines.
 */
enum object_verdict object_find(const shm_map *map, uint64_t p, object_ref *ret);

/* True if the object is allocated and not freed. */
bool object_is_live(const shm_map *map, const object_ref *object);

/*
 * Free an object whose alloc word the caller may not write: one bit in the remote word (of a tiny object, its bit in
 * the block's word). LIVE: done; FREE: it was free
 * already. If the caller dies before the fetch_or the object is live, after it the object is free.
 */
enum object_verdict object_free_remote(const shm_map *map, const object_ref *object);

/*
 * Fold the remote frees of word w of a span into its alloc word. Only for who may write the alloc word: the leasing
 * thread, or the daemon for a span that nobody leases. Returns the alloc word afterwards. Not for tiny spans, which
 * have folds of their own (tiny.h).
 *
 * Order: alloc bits first, then the remote bits that were seen. Dying in between leaves remote bits on objects that are
 * free, which the next fold clears again; the other order would lose the objects. A bit that comes in between the two
 * steps stays, because only the bits that were seen are cleared.
 */
uint64_t object_fold_word(const shm_map *map, page_no first, const shm_span *span, uint32_t w);

#endif
