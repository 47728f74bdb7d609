/*
 * Pagebits: searching, filling and summarising 512 bits (runtime/mpallocbits.go).
 *
 * Called by pagealloc and pagecache. No state.
 *
 * The longest ones in a row in a word are found by erosion: word & word >> 1 has a one where two in a row begin, and
 * shifts by doubled distances find where n in a row begin in log n steps. Only what is longer than the longest so far
 * matters, so a word is first eroded by that length, and in most words nothing is left.
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

/* The bits of word w that lie in [from, to). */
static uint64_t word_mask(unsigned w, unsigned from, unsigned to)
{
    unsigned low = from > w * 64 ? from - w * 64 : 0;
    unsigned high = to < (w + 1) * 64 ? to - w * 64 : 64;

    return (high == 64 ? UINT64_MAX : (UINT64_C(1) << high) - 1) & ~((UINT64_C(1) << low) - 1);
}

void pagebits_fill(uint64_t *words, unsigned from, unsigned to, bool value)
{
    for (unsigned w = from / 64; w * 64 < to; w++) {
        if (value)
            words[w] |= word_mask(w, from, to);
        else
            words[w] &= ~word_mask(w, from, to);
    }
}

bool pagebits_all(const uint64_t *words, unsigned from, unsigned to, bool value)
{
    uint64_t flip = value ? 0 : UINT64_MAX;
    uint64_t others = 0;

    for (unsigned w = from / 64; w * 64 < to; w++)
        others |= ~(words[w] ^ flip) & word_mask(w, from, to);
    return others == 0;
}

unsigned pagebits_count(const uint64_t *words, unsigned from, unsigned to)
{
    unsigned n = 0;

    for (unsigned w = from / 64; w * 64 < to; w++)
        n += (unsigned)__builtin_popcountll(words[w] & word_mask(w, from, to));
    return n;
}

/* The word that has a one where n ones in a row begin. */
static uint64_t erode(uint64_t word, unsigned n)
{
    unsigned left = n - 1;

    for (unsigned k = 1; left > 0 && word != 0; k *= 2) {
        unsigned by = k < left ? k : left;

        word &= word >> by;
        left -= by;
    }
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

summary summary_merge(const uint64_t *entries, unsigned n, uint64_t pages_each)
{
    summary all = { entries[0] & (SUMMARY_MAX - 1), 0, 0 };

    for (unsigned i = 1; i < n && all.start == i * pages_each; i++)
        all.start += entries[i] & (SUMMARY_MAX - 1);
    /* Without branches on what the entries say, which nobody can predict; none of them is SUMMARY_WHOLE. */
    for (unsigned i = 0; i < n; i++) {
        uint64_t start = entries[i] & (SUMMARY_MAX - 1);
        uint64_t max = entries[i] >> SUMMARY_BITS & (SUMMARY_MAX - 1);
        uint64_t end = entries[i] >> (2 * SUMMARY_BITS);

        start += all.end;
        max = start > max ? start : max;
        all.max = max > all.max ? max : all.max;
        all.end = end + (end == pages_each ? all.end : 0);
    }
    return all;
}

summary pagebits_summarize(const uint64_t *words)
{
    summary s = { 0, 0, 0 };
    unsigned run = 0; /* free pages right before word w */
    bool all_free = true;

    /* Runs over the borders of words, and at both ends. */
    for (unsigned w = 0; w < CHUNK_WORDS; w++) {
        if (words[w] == 0) {
            run += 64;
            continue;
        }
        run += (unsigned)__builtin_ctzll(words[w]);
        if (all_free)
            s.start = run;
        all_free = false;
        if (run > s.max)
            s.max = run;
        run = (unsigned)__builtin_clzll(words[w]);
    }
    if (all_free)
        return (summary){ CHUNK_PAGES, CHUNK_PAGES, CHUNK_PAGES };
    s.end = run;
    if (run > s.max)
        s.max = run;
    /* Runs within words: at most 62 long. */
    for (unsigned w = 0; w < CHUNK_WORDS && s.max < 62; w++) {
        for (uint64_t longer = erode(~words[w], (unsigned)s.max + 1); longer != 0; longer &= longer >> 1)
            s.max++;
    }
    return s;
}
