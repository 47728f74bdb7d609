/*
 * Scavindex: counters of each chunk, and two addresses from which searches go down.
 *
 * Called by pagealloc alone, which owns the entries: one for each chunk of 4 MiB, private to the daemon, sparse.
 *
 * The density rule: the free pages of a chunk that is dense now (at least 496 of 512 pages in use), or was dense when
 * the last generation ended, are not released, since a page of it would soon be used again and cost a fault. What the
 * chunk was then is recorded at its first change in this generation; if it has not changed, it is now what it was then.
 * Pages that are taken only to be released are not in use, so releasing one range makes no chunk dense. Forced searches
 * skip no chunk.
 *
 * Both addresses are one above the highest chunk that a search has to look at. They fall while searches find nothing
 * and rise with frees; from_background also goes back to `from` at each generation, since a chunk that was dense may
 * not be dense any more.
 *
 * Invariants (checked by pagealloc_validate): ntaken and nbacked are what the bits say; nreleasing <= ntaken; no chunk
 * at or above `from` has nbacked != 0.
 */
#include "daemon/heap/scavindex.h"

#include <assert.h>

static unsigned use_ninuse(const chunk_use *use)
{
    return (unsigned)use->ntaken - use->nreleasing;
}

static void use_enter_gen(chunk_use *use, uint32_t gen)
{
    if (use->gen == gen)
        return;
    use->ninuse_before = (uint16_t)use_ninuse(use);
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
    if (use->gen == index->gen && use->ninuse_before >= SCAV_DENSE_PAGES)
        return false;
    return use_ninuse(use) < SCAV_DENSE_PAGES;
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
