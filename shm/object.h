/*
 * Object: from an address to the object it names, by the shared tables alone; and folding remote frees into alloc bits.
 */
#ifndef GOALLOC_SHM_OBJECT_H
#define GOALLOC_SHM_OBJECT_H

#include "shm/objectref.h"

/*
 * Look up the object at address p. *ret is set for LIVE, FREE and INTERIOR (then it is the object that p lies in). The
 * answer is a snapshot: if others may free the object meanwhile, the caller has to know that they don't. Cost: three
 * cache lines.
 */
enum object_verdict object_find(const shm_map *map, uint64_t p, object_ref *ret);

/* The same for a caller who frees the object next: its words' cache line comes to be written, in one go. */
enum object_verdict object_find_to_free(const shm_map *map, uint64_t p, object_ref *ret);

/* True if the object is allocated and not freed. */
bool object_is_live(const shm_map *map, const object_ref *object);

/*
 * Free an object whose alloc word the caller may not write, by one bit in the remote word (of a tiny object, by its bit
 * in the block's word). LIVE: done; FREE: it was free already. If the caller dies before the fetch_or, the object is
 * live; after it, the object is free.
 */
enum object_verdict object_free_remote(const shm_map *map, const object_ref *object);

/*
 * Fold the remote frees of word w of a span into its alloc word. Only the one who may write the alloc word may call it:
 * the leasing thread, or the daemon for a span that nobody leases. Returns the alloc word afterwards. Tiny spans have
 * folds of their own (tiny.h).
 *
 * Order: the alloc bits first, then the remote bits that were seen. If the process dies in between, remote bits stay on
 * objects that are free, and the next fold clears them; the other order would lose the objects. A remote bit that is
 * set between the two steps stays, because only the bits that were seen are cleared. So does that of an object which is
 * held (intents.h): a later fold finds it.
 */
uint64_t object_fold_word(const shm_map *map, page_no first, const shm_span *span, uint32_t w);

#endif
