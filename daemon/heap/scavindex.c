/*
 * Scavindex: counters of each chunk, and two addresses from which searches go down.
 *
 * Called by pagealloc alone. Data: private to the daemon, one entry for each 4 MiB, sparse.
 *
 * The density rule: pages of a chunk that is dense now (at least 496 of 512 pages in use), or was when the last
 * generation ended, are kept: releasing the odd page of it would cost a fault soon. "Was" is known only for a chunk
 * that changed in this generation; for one that did not, the state now is the state then. Forced searches skip
 * nothing.
 *
 * Both addresses are one above the highest chunk of interest. They fall while searches find nothing there and rise
 * with frees; from_background also goes back to `from` at each generation, since what was dense may not be now.
 *
 * Invariant (checked by pagealloc_validate): counters are what the bits say; no chunk at or above `from` has
 * nbacked != 0.
 */
#include "daemon/heap/scavindex.h"

#include <assert.h>

static void use_enter_gen(chunk_use *use, uint32_t gen)
{
    if (use->gen == gen)
        return;
    use->ntaken_before = use->ntaken;
    use->gen = gen;
}

void scavindex_alloc(scavindex *index, uint64_t chunk, unsigned ntaken, unsigned nbacked)
{
    chunk_use *use = &index->chunks[chunk];

    use_enter_gen(use, index->gen);
    assert(use->ntaken + ntaken <= CHUNK_PAGES && nbacked <= use->nbacked);
    use->ntaken = (uint16_t)(use->ntaken + ntaken);
    use->nbacked = (uint16_t)(use->nbacked - nbacked);
    use->has_metadata = true;
}

void scavindex_free(scavindex *index, uint64_t chunk, unsigned nfreed, unsigned nbacked)
{
    chunk_use *use = &index->chunks[chunk];

    use_enter_gen(use, index->gen);
    assert(nfreed <= use->ntaken && nbacked <= nfreed);
    use->ntaken = (uint16_t)(use->ntaken - nfreed);
    use->nbacked = (uint16_t)(use->nbacked + nbacked);
    if (use->nbacked == 0)
        return;
    if (chunk + 1 > index->from)
        index->from = chunk + 1;
    if (chunk + 1 > index->from_background)
        index->from_background = chunk + 1;
}

void scavindex_next_gen(scavindex *index)
{
    index->gen++;
    index->from_background = index->from;
}

bool scavindex_is_candidate(const scavindex *index, const chunk_use *use, bool force)
{
    if (use->nbacked == 0)
        return false;
    if (force)
        return true;
    if (use->gen == index->gen && use->ntaken_before >= SCAV_DENSE_PAGES)
        return false;
    return use->ntaken < SCAV_DENSE_PAGES;
}

bool scavindex_find(scavindex *index, bool force, uint64_t *ret_chunk)
{
    uint64_t *from = force ? &index->from : &index->from_background;

    for (; *from > 0; (*from)--) {
        if (scavindex_is_candidate(index, &index->chunks[*from - 1], force)) {
            *ret_chunk = *from - 1;
            return true;
        }
    }
    return false;
}
