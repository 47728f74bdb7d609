/*
 * Pagebits: searching, filling and summarising 512 bits (runtime/mpallocbits.go).
 *
 * Called by pagealloc and pagecache. No state.
 *
 * The longest ones in a row in a word are found by erosion: word & word >> 1 has a one where two in a row begin, and
 * shifts by halved distances find where n in a row begin in log n steps. The longest distance comes first: it leaves
 * the fewest ones. Only what is longer than the longest so far matters, so a word is first eroded by that length, and
 * in most words nothing is left.
 */
#include "daemon/heap/pagebits.h"

unsigned pagebits_next(const uint64_t *words, unsigned from, bool value)
{
    uint64_t flip = value ? 0 : UINT64_MAX;

    if (from >= CHUNK_PAGES)
        return CHUNK_PAGES;

    unsigned w = from / 64;
    uint64_t word = (words[w] ^ flip) & UINT64_MAX << (from % 64);

    while (word == 0) {
        if (++w == CHUNK_WORDS)
            return CHUNK_PAGES;
        word = words[w] ^ flip;
    }
    return w * 64 + (unsigned)__builtin_ctzll(word);
}

unsigned pagebits_prev(const uint64_t *words, unsigned to, bool value)
{
    uint64_t flip = value ? 0 : UINT64_MAX;

    if (to == 0)
        return 0;

    unsigned w = (to - 1) / 64;
    uint64_t word = (words[w] ^ flip) & UINT64_MAX >> (63 - (to - 1) % 64);

    while (word == 0) {
        if (w-- == 0)
            return 0;
        word = words[w] ^ flip;
    }
    return w * 64 + 64 - (unsigned)__builtin_clzll(word);
}

/* Those bits of word w that lie below to, which is not below the word. */
static uint64_t word_below(unsigned w, unsigned to)
{
    return to - w * 64 < 64 ? ~(UINT64_MAX << (to % 64)) : UINT64_MAX;
}

void pagebits_fill(uint64_t *words, unsigned from, unsigned to, bool value)
{
    uint64_t mask = UINT64_MAX << (from % 64);

    for (unsigned w = from / 64; w * 64 < to; w++) {
        mask &= word_below(w, to);
        words[w] = value ? words[w] | mask : words[w] & ~mask;
        mask = UINT64_MAX;
    }
}

bool pagebits_all(const uint64_t *words, unsigned from, unsigned to, bool value)
{
    uint64_t flip = value ? UINT64_MAX : 0;
    uint64_t mask = UINT64_MAX << (from % 64);

    for (unsigned w = from / 64; w * 64 < to; w++) {
        if (((words[w] ^ flip) & mask & word_below(w, to)) != 0)
            return false;
        mask = UINT64_MAX;
    }
    return true;
}

unsigned pagebits_count(const uint64_t *words, unsigned from, unsigned to)
{
    uint64_t mask = UINT64_MAX << (from % 64);
    unsigned n = 0;

    for (unsigned w = from / 64; w * 64 < to; w++) {
        n += (unsigned)__builtin_popcountll(words[w] & mask & word_below(w, to));
        mask = UINT64_MAX;
    }
    return n;
}

/* The word that has a one where n ones in a row begin. */
static uint64_t erode(uint64_t word, unsigned n)
{
    for (unsigned left = n - 1; left > 0 && word != 0; left /= 2)
        word &= word >> (left + 1) / 2;
    return word;
}

unsigned pagebits_find_in_word(uint64_t word, unsigned n)
{
    uint64_t begins = erode(word, n);

    return begins == 0 ? 64 : (unsigned)__builtin_ctzll(begins);
}

unsigned pagebits_find(const uint64_t *words, unsigned from, unsigned n)
{
    while (from < CHUNK_PAGES) {
        unsigned at = pagebits_next(words, from, false);
        unsigned to = pagebits_next(words, at, true);

        if (to - at >= n && at < CHUNK_PAGES)
            return at;
        from = to;
    }
    return CHUNK_PAGES;
}

unsigned pagebits_find_last(const uint64_t *words, unsigned max, unsigned block, unsigned *ret_from)
{
    unsigned to = pagebits_prev(words, CHUNK_PAGES, true);
    unsigned begin;
    unsigned from;
    unsigned below;

    if (to == 0 || max == 0)
        return 0;
    begin = pagebits_prev(words, to, false);
    from = to - begin > max ? to - max : begin;
    below = from / block * block;
    if (below >= begin && below + block <= to)
        from = below;
    *ret_from = from;
    return to - from;
}

/* --- summaries --- */

summary pagebits_summarize(const uint64_t *words)
{
    unsigned start = pagebits_next(words, 0, true);
    unsigned max = start;
    unsigned tail = 0; /* free pages right before word w */

    if (start == CHUNK_PAGES)
        return (summary){ CHUNK_PAGES, CHUNK_PAGES, CHUNK_PAGES };
    /* Ranges over the borders of words, and at both ends. */
    for (unsigned w = start / 64; w < CHUNK_WORDS; w++) {
        if (words[w] == 0) {
            tail += 64;
            continue;
        }
        tail += (unsigned)__builtin_ctzll(words[w]);
        max = tail > max ? tail : max;
        tail = (unsigned)__builtin_clzll(words[w]);
    }
    max = tail > max ? tail : max;
    /* Ranges within words: at most 62 long. A tail that is n longer than `before` leaves n ones in a row. */
    for (unsigned w = 0; w < CHUNK_WORDS && max < 62; w++) {
        unsigned before = max;

        if (words[w] == UINT64_MAX)
            continue;
        for (uint64_t longer = erode(~words[w], max + 1); longer != 0; longer &= longer + (longer & -longer)) {
            unsigned n = before + (unsigned)__builtin_ctzll(~(longer >> __builtin_ctzll(longer)));

            max = n > max ? n : max;
        }
    }
    return (summary){ start, max, tail };
}
