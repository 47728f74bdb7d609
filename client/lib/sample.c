/*
 * Sample: which allocations are sampled, and the slow paths of those that are.
 *
 * Called by alloc.c (whatever has nothing at hand) and large.c. Calls attach.c, refill.c, marked.c (places) and
 * recorder.c (stacks and records). Data: the thread's mcache: rate, distances, generator; of the heap nothing.
 *
 * Chance. At rate R, an object of a slot of S bytes is sampled with chance 1 - exp(-S/R), whoever allocates it, and
 * whether its place is new or used again. So a reader who weighs each sample by 1 / chance is right on average. It is
 * the same to draw, instead of a chance for each, how many objects pass until the next sample, of the geometric
 * distribution: the integer part of E * R / S, E exponential. That has no memory: threads and slots begin, end and
 * change their rate at any time, with a new draw, and nothing is biased by it.
 *
 * Nothing passes unseen. To count objects without an instruction in malloc, what lies at hand of a slot never has more
 * of them than may pass (slot.distance - 1): credit of the magazine (magazine.h), and bits of the cache, of which the
 * others are left in their word. When they are used up malloc takes the slow path, which is here:
 *
 *   1. what was handed out since the last time is deducted from the distance: credit that is gone, bits that are gone
 *   2. distance 1: this object is the sample: a place in a marked span, its record, its alloc bit (marked.c). If there
 *      is no place, or no room for the record, it is an ordinary object and the sample is lost, and counted as such
 *   3. else the magazine gives it, or a word of a span, cut to what may pass
 *
 * So the slow path is taken once a sample, and once a word as always. A span of one object is not current any more when
 * its object is gone: else a free past the magazine would put the object at hand again. The place of a sample may be of
 * a larger class than the object's: its record has the class that it was drawn for. Tiny objects are counted by
 * their block; near the next sample the open block is hidden, so that each comes here. A tiny object that is sampled
 * becomes one of a size class, as in sessions that reclaim. A large one is asked for with a draw of its own.
 *
 * On and off. The session's profile word says it (shm/layout.h). A thread takes notice on its slow path: with each word
 * of a span, and with each 4096th object of a slot that comes from the magazine, or is freed past it. Then all slots
 * begin anew with nothing at hand. While off nothing of this is looked at but the word.
 *
 * What a thread allocates within the recorder (libunwind and the loader do) is not sampled, and changes no chance.
 */
#include "client/lib/sample.h"

#include <errno.h>
#include <sys/random.h>

#include "client/lib/attach.h"
#include "client/lib/marked.h"
#include "client/lib/recorder.h"
#include "client/lib/refill.h"
#include "client/lib/thread.h"
#include "proto/channel.h"
#include "shm/profile.h"

#define RETRY_MS 1000

/* --- chance --- */

static int64_t now_ms(void)
{
    return deadline_in(0).at_ms;
}

/* Marsaglia's xorshift64*, whose upper bits are good; all that are used are the upper 53, and comparisons. */
static uint64_t next_random(mcache *mc)
{
    uint64_t x = mc->random;

    if (UNLIKELY(x == 0) && getrandom(&x, sizeof(x), GRND_NONBLOCK) != sizeof(x))
        x = (uint64_t)(uintptr_t)mc ^ (uint64_t)now_ms() << 20;
    x = x == 0 ? 1 : x;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    mc->random = x;
    return x * UINT64_C(0x2545f4914f6cdd1d);
}

/*
 * Exponential with mean 1, by comparisons alone (von Neumann, Various techniques used in connection with random digits,
 * 1951): of numbers u > u1 > u2 ... as long as they fall, the chance that there are an even number after the first one,
 * which is u, is exp(-u). Some 4 numbers on average.
 */
static double draw_exponential(mcache *mc)
{
    for (uint64_t whole = 0;; whole++) {
        uint64_t first = next_random(mc);
        uint64_t last = first;
        bool even = true;

        for (uint64_t next; (next = next_random(mc)) < last; last = next)
            even = !even;
        if (even)
            return (double)whole + (double)(first >> 11) * 0x1p-53;
    }
}

/* Of objects of so many bytes, which is the next sample, counted from 1. */
static uint64_t draw_distance(mcache *mc, uint64_t bytes)
{
    return 1 + (uint64_t)(draw_exponential(mc) * (double)mc->rate / (double)bytes);
}

/* --- on and off --- */

/* Nothing of the slot is at hand: its next malloc comes here. */
static void leave_nothing(mcache *mc, uint32_t i)
{
    mcache_count_pops(mc, i);
    mcache_give_credit(mc, i, 0);
    mc->fronts[i].cache = 0; /* its bits are in their word */
    mc->slots[i].ncached = 0;
}

/* From now on the thread samples at rate; 0: it does not. Nothing lies at hand, so that all that comes is seen. */
static void set_rate(mcache *mc, uint64_t rate)
{
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        if (rate != 0 && mc->current[i]->nelems == 1)
            mcache_put_current(mc, i);
        leave_nothing(mc, i);
        mc->slots[i].distance = 0;
        if (rate == 0)
            mcache_give_credit(mc, i, MCACHE_LOOK_AT);
    }
    mc->tiny_distance = 0;
    if (mc->tiny.span != NULL)
        mc->tiny.limit = rate != 0 ? 0 : TINY_BLOCK_BYTES;
    mc->rate = rate;
}

/* Take notice of the session's word. */
static void take_notice(mcache *mc)
{
    uint64_t word = process_profile_word();
    uint64_t rate = profile_word_unpack(word).rate;

    if (LIKELY(word == mc->profile_seen) && (LIKELY(mc->retry_at_ms == 0) || now_ms() < mc->retry_at_ms))
        return;
    if (recorder_is_busy())
        return;
    mc->profile_seen = word;
    mc->retry_at_ms = 0;
    if (rate != 0 && recorder_open(word) < 0) {
        mc->retry_at_ms = now_ms() + RETRY_MS;
        rate = 0;
    }
    set_rate(mc, rate);
}

/* The thread's mcache, with a session to write in. NULL with errno. */
static mcache *ready_mcache(void)
{
    int r = attach_ensure_writable();
    mcache *mc = r == 0 ? thread_mcache() : NULL;

    if (mc == NULL)
        errno = r == 0 ? ENOMEM : -r;
    else
        take_notice(mc);
    return mc;
}

/* --- objects of slots --- */

/*
 * The slot whose marked spans a sampled object of slot i gets a place in: one of some size classes only, so that a
 * program of many classes asks for few such spans. Places of each are at least as aligned as those of the classes that
 * it stands for.
 */
static uint32_t slot_of_samples(uint32_t i)
{
    static const uint16_t classes[] = { 64, 256, 1024, 2048, 4096, 8192, 12288, 16384, 24576, 32768 };
    uint64_t bytes = mcache_slot_bytes(i);
    uint32_t n = 0;

    if (i % SLOT_NOSCAN >= SLOT_RUNS)
        return i;
    while (classes[n] < bytes)
        n++;
    return slot_of_class(size_class_for(classes[n]), i >= SLOT_NOSCAN);
}

/* A sampled object of the slot. NULL: it is lost. */
static void *alloc_sampled(mcache *mc, uint32_t i)
{
    uint64_t bytes = mcache_slot_bytes(i);
    uint32_t slot = slot_of_samples(i);
    marked_place place;
    bool found = marked_take(slot, &place);

    CRASH_POINT(sample_before_record);
    if (!recorder_note(found ? marked_offset(&place) : 0, bytes, mc->rate)) {
        if (found)
            marked_put_back(&place);
        return NULL;
    }
    if (++mc->slots[slot].nuncounted >= MCACHE_COUNT_AT)
        mcache_flush_count(mc, slot);
    return marked_allocate(&place);
}

/*
 * Deduct what was handed out, and allocate the sample, if this object is one. NULL: it is an ordinary one.
 */
static void *alloc_if_due(mcache *mc, uint32_t i)
{
    mcache_slot *slot = &mc->slots[i];
    void *p = NULL;

    mcache_count_takes(mc, i);
    if (slot->distance == 0)
        slot->distance = draw_distance(mc, mcache_slot_bytes(i));
    if (slot->distance > 1)
        return NULL;
    if (!recorder_is_busy())
        p = alloc_sampled(mc, i);
    leave_nothing(mc, i); /* what is at hand is from within the recorder */
    slot->distance = draw_distance(mc, mcache_slot_bytes(i)) + (p == NULL);
    return p;
}

/* The slot's magazine may hand out so many before the next look. */
static void give_credit(mcache *mc, uint32_t i, uint64_t most)
{
    mcache_give_credit(mc, i, most < MCACHE_LOOK_AT ? (int64_t)most : MCACHE_LOOK_AT);
}

/* A word of a span has just been loaded. What may not pass stays in it. */
static void cut_cache(mcache *mc, uint32_t i)
{
    mcache_slot *slot = &mc->slots[i];
    slot_front *f = &mc->fronts[i];
    uint64_t most = slot->distance - 1;
    uint64_t bits = f->cache;
    uint64_t kept = 0;

    if (bits_count(bits) <= most) {
        kept = bits;
    } else {
        for (uint64_t n = 0; n < most; n++) {
            kept |= bits & -bits;
            bits &= bits - 1;
        }
    }
    f->cache = kept;
    slot->ncached = bits_count(kept);
    give_credit(mc, i, most - slot->ncached);
}

static void *alloc_from_span(mcache *mc, uint32_t i, bool *ret_zeroed)
{
    mspan *s = refill_near(i);
    void *p;

    if (s == NULL)
        s = refill_far(i);
    if (s == NULL)
        return NULL;
    if (ret_zeroed != NULL)
        *ret_zeroed = mspan_is_zero(s);
    if (mc->rate == 0)
        return slot_take(s->front);
    cut_cache(mc, i);
    p = slot_take(s->front);
    if (s->nelems == 1)
        mcache_put_current(mc, i);
    return p;
}

void *sample_alloc(uint32_t i, bool *ret_zeroed)
{
    mcache *mc = ready_mcache();
    magazine *m;
    void *p;

    if (mc == NULL)
        return NULL;
    m = &mc->fronts[i].magazine;
    mcache_count_pops(mc, i);
    if (mc->slots[i].nuncounted >= MCACHE_COUNT_AT)
        mcache_flush_count(mc, i);
    if (mc->rate != 0 && (p = alloc_if_due(mc, i)) != NULL)
        return p;
    if (mc->rate != 0)
        leave_nothing(mc, i);
    if (!magazine_is_empty(m))
        give_credit(mc, i, mc->rate == 0 ? MCACHE_LOOK_AT : mc->slots[i].distance - 1);
    if (magazine_pop(m, &p))
        return p;
    return alloc_from_span(mc, i, ret_zeroed);
}

/* --- tiny objects --- */

/* Tiny objects up to now. */
static uint64_t count_tiny(const mcache *mc)
{
    return mc->ntiny_flushed + mc->tiny.nallocs;
}

static void deduct_tiny(mcache *mc)
{
    uint64_t n = count_tiny(mc) - mc->ntiny_seen;

    mc->ntiny_seen += n;
    mc->tiny_distance = mc->tiny_distance > n ? mc->tiny_distance - n : mc->tiny_distance != 0;
}

/*
 * The distance counts all tiny objects as if they became objects of 16 bytes. Of those that become objects of 8 bytes,
 * with chance q = 1 - exp(-8/R), so many stay: q / (1 - exp(-16/R)), which is 1 / (1 + exp(-8/R)). True in half of the
 * cases, else false with chance exp(-8/R), else again has just that chance.
 */
static bool stays_a_sample(mcache *mc, uint32_t bytes)
{
    if (bytes > 8)
        return true;
    for (;;) {
        if (next_random(mc) >> 63 != 0)
            return true;
        if (draw_exponential(mc) * (double)mc->rate > 8)
            return false;
    }
}

/* The same as alloc_if_due(). */
static void *alloc_tiny_if_due(mcache *mc, uint32_t bytes)
{
    void *p = NULL;

    deduct_tiny(mc);
    if (mc->tiny_distance == 0)
        mc->tiny_distance = draw_distance(mc, TINY_BLOCK_BYTES);
    if (mc->tiny_distance > 1)
        return NULL;
    if (!recorder_is_busy() && stays_a_sample(mc, bytes))
        p = alloc_sampled(mc, slot_of_class(size_class_for(bytes), true));
    deduct_tiny(mc); /* those from within the recorder */
    mc->tiny_distance = draw_distance(mc, TINY_BLOCK_BYTES) + (p == NULL);
    return p;
}

/* An ordinary one, from the open block or a new one. NULL with errno. */
static void *alloc_tiny(mcache *mc, uint32_t bytes)
{
    void *p;

    if (mc->tiny.span != NULL)
        mc->tiny.limit = TINY_BLOCK_BYTES;
    if (tiny_alloc(&mc->tiny, bytes, &p))
        return p;
    if (mc->fronts[SLOT_TINY].cache == 0 && refill_near(SLOT_TINY) == NULL && refill_far(SLOT_TINY) == NULL)
        return NULL;
    return mcache_open_tiny(mc, mc->current[SLOT_TINY], bytes);
}

bool sample_tiny(uint32_t bytes, void **ret)
{
    mcache *mc = ready_mcache();
    void *p = NULL;

    *ret = NULL;
    if (mc == NULL)
        return true;
    if (mc->rate == 0 || process.reclaim)
        return false;
    p = alloc_tiny_if_due(mc, bytes);
    if (p == NULL)
        p = alloc_tiny(mc, bytes);
    deduct_tiny(mc);
    if (mc->tiny_distance <= TINY_BLOCK_BYTES && mc->tiny.span != NULL)
        mc->tiny.limit = 0; /* a block has room for no more than so many */
    *ret = p;
    return true;
}

/* --- large objects --- */

sample_large sample_begin_large(void)
{
    sample_large s = { .rate = 0 };
    mcache *mc = mcache_tls;

    if (process_profile_word() == mc->profile_seen && mc->rate == 0 && mc->retry_at_ms == 0)
        return s;
    mc = ready_mcache();
    if (mc == NULL || mc->rate == 0)
        return s;
    s.rate = mc->rate;
    s.below = draw_exponential(mc) * (double)mc->rate;
    return s;
}

void sample_end_large(const sample_large *s, page_no first)
{
    const shm_span *span = shm_span_at(&process.map, first);
    uint64_t bytes = span->npages * PAGE_BYTES;
    bool marked = span->marked != 0;
    bool noted = false;

    if (sample_takes_large(s, bytes) && !recorder_is_busy())
        noted = recorder_note(marked ? page_offset(first) : 0, bytes, s->rate);
    if (marked && !noted)
        recorder_forget(page_offset(first));
    CRASH_POINT(large_after_record);
}
