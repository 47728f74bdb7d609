/*
 * Profile: finds and makes entries of the profile's region, and counts there.
 *
 * Called by clients (recorder.c); goallocctl takes profile_weight(). Data: the region, which every process that samples
 * writes, and spans and bitmap, which are read to tell records that count from those that don't.
 *
 * A sample takes this way, and what a process that dies between two stores leaves is said at each:
 *   1. modules, stack and party are interned: claimed by a compare-and-swap, filled, published. Claimed and not
 *      published: an entry that nobody can use any more, at most one for a death;
 *   2. the site is interned: one compare-and-swap, with which it is whole. It may have counted nothing yet;
 *   3. its counters are raised, each by itself. Between them: bytes without objects of one sample;
 *   4. the record of the place is written: one compare-and-swap. The place is not allocated yet, so it does not count;
 *   5. who allocates it sets its alloc bit: now it does.
 * Two processes that claim the same content at once make two entries of it: none waits for the other. Readers see the
 * same stack twice, and whoever looks for it afterwards finds the first.
 *
 * Nothing that is read here is believed. An index comes from a hash of one's own; a length is one's own; contents are
 * compared with one's own, never used. A full bucket of samples, or PROFILE_PROBES entries that others have, end a
 * search. So what a hostile process can do is to spoil the profile.
 *
 * Records are never taken away when an object is freed: that would cost each free a look. A record is replaced when it
 * does not count and its bucket has no empty place. A record between 4 and 5 does not count either, so another process
 * that puts a record into the same full bucket then may take its place: the object lives on without a record. With n
 * threads between 4 and 5 at a time, of 32768 buckets, that is one record in 32768 / n.
 */
#include "shm/profile.h"

#include <string.h>

#include "shm/crash.h"
#include "shm/object.h"

#define TAG_SHIFT 2
#define STATE_MASK UINT64_C(3)
#define PUT_TRIES 4u /* of a sample whose bucket others change meanwhile */
#define NBUCKETS (PROFILE_SAMPLES / PROFILE_BUCKET)
#define TEXT_ROOM(text) (sizeof(text) - 1)

_Static_assert((NBUCKETS & (NBUCKETS - 1)) == 0, "the upper bits of a product select a bucket");
_Static_assert(offsetof(profile_module, state) == 0 && offsetof(profile_stack, state) == 0 &&
                   offsetof(profile_party, state) == 0,
               "an entry is its state, then its content");

/* A table whose entries are claimed, filled and published; of it the entries from `first`, `n` of them. */
typedef struct table {
    void *entries;
    size_t entry_bytes;
    uint32_t first;
    uint32_t n;
} table;

/* Of content that is a whole number of words. */
static uint64_t hash_words(const void *content, size_t bytes)
{
    uint64_t h = bytes * UINT64_C(0x9e3779b97f4a7c15);

    for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
        uint64_t word;

        memcpy(&word, (const char *)content + i, sizeof(word));
        h = (h ^ word) * UINT64_C(0xd6e8feb86659fd93);
        h ^= h >> 32;
    }
    return h;
}

/*
 * The number of the entry with this content, made if there is none; 0: there is no room (no table gives out entry 0,
 * but for modules', whose numbers are from 1).
 *
 * An entry that is claimed with this very tag is passed over as any other: to wait for who fills it may be to wait for
 * the dead. Acquire at the state pairs with the release that publishes it, so the content that is compared is whole.
 */
static uint32_t intern(const table *t, const void *content, size_t bytes)
{
    uint64_t hash = hash_words(content, bytes);
    uint64_t tag = hash << TAG_SHIFT;
    uint32_t start = (uint32_t)(hash >> 32) % t->n;

    for (uint32_t i = 0; i < PROFILE_PROBES && i < t->n; i++) {
        uint32_t number = t->first + (start + i) % t->n;
        void *entry = (char *)t->entries + number * t->entry_bytes;
        shm_u64 *state = entry;
        uint64_t seen = u64_load_acquire(state);

        if (seen == PROFILE_FREE && u64_exchange_if_acq_rel(state, &seen, PROFILE_CLAIMED | tag)) {
            CRASH_POINT(profile_after_claim);
            memcpy(state + 1, content, bytes);
            CRASH_POINT(profile_after_fill);
            u64_store_release(state, PROFILE_READY | tag);
            return number;
        }
        if (seen == (PROFILE_READY | tag) && memcmp(state + 1, content, bytes) == 0)
            return number;
    }
    return 0;
}

/* The end of a text that is too long, at the beginning of a field that is zero. */
static uint32_t copy_end(char *field, size_t room, const char *text)
{
    size_t len = strlen(text);
    size_t skip = len > room ? len - room : 0;

    memcpy(field, text + skip, len - skip);
    return (uint32_t)(len - skip);
}

uint32_t profile_add_module(profile_region *region, const uint8_t *build_id, uint32_t build_id_bytes, const char *path)
{
    /* Numbers are from 1: the table begins an entry before its first. */
    char *entries = (char *)region + offsetof(profile_region, modules) - sizeof(profile_module);
    const table t = { entries, sizeof(profile_module), 1, PROFILE_MODULES };
    profile_module module;
    uint32_t number;

    memset(&module, 0, sizeof(module));
    module.build_id_bytes = build_id_bytes < PROFILE_BUILD_ID_MAX ? build_id_bytes : PROFILE_BUILD_ID_MAX;
    memcpy(module.build_id, build_id, module.build_id_bytes);
    module.path_bytes = copy_end(module.path, TEXT_ROOM(module.path), path);
    number = intern(&t, &module.build_id_bytes, sizeof(module) - sizeof(module.state));
    if (number == 0)
        u64_add_relaxed(&region->header.nlost_modules, 1);
    return number;
}

uint32_t profile_add_stack(profile_region *region, const uint64_t *frames, uint32_t nframes)
{
    const table t = { region->stacks, sizeof(region->stacks[0]), 1, PROFILE_STACKS - 1 };
    uint64_t content[1 + PROFILE_FRAMES_MAX];
    uint32_t number = 0;

    if (nframes > PROFILE_FRAMES_MAX)
        nframes = PROFILE_FRAMES_MAX;
    content[0] = nframes;
    memcpy(&content[1], frames, nframes * sizeof(*frames));
    if (nframes > 0)
        number = intern(&t, content, (1 + nframes) * sizeof(*content));
    if (number == 0)
        u64_add_relaxed(&region->header.nlost_stacks, 1);
    return number;
}

static uint32_t intern_party(const table *t, const profile_party *party)
{
    return intern(t, &party->rate, sizeof(*party) - sizeof(party->state));
}

/* Party 0 has the rate of who needed it first. */
static void publish_party_0(profile_region *region, uint64_t rate)
{
    const table t = { region->parties, sizeof(region->parties[0]), 0, 1 };
    profile_party party;

    if (u64_load_relaxed(&region->parties[0].state) != PROFILE_FREE)
        return;
    memset(&party, 0, sizeof(party));
    party.rate = rate;
    (void)intern_party(&t, &party);
}

uint32_t profile_add_party(profile_region *region, const profile_party *party)
{
    const uint32_t nown = PROFILE_PARTIES - PROFILE_PARTIES_SHARED;
    const table own = { region->parties, sizeof(region->parties[0]), 1, nown - 1 };
    const table shared = { region->parties, sizeof(region->parties[0]), nown, PROFILE_PARTIES_SHARED };
    profile_party of_all;
    uint32_t number = intern_party(&own, party);

    if (number != 0)
        return number;
    memset(&of_all, 0, sizeof(of_all));
    of_all.rate = party->rate;
    memcpy(of_all.label, party->label, sizeof(of_all.label));
    memcpy(of_all.group, party->group, sizeof(of_all.group));
    number = intern_party(&shared, &of_all);
    if (number == 0)
        publish_party_0(region, party->rate);
    return number;
}

/* The site with this key; 0: there is no room. */
static uint32_t intern_site(profile_region *region, uint64_t key)
{
    uint32_t start = (uint32_t)(hash_words(&key, sizeof(key)) >> 32) % (PROFILE_SITES - 1);

    for (uint32_t i = 0; i < PROFILE_PROBES; i++) {
        uint32_t number = 1 + (start + i) % (PROFILE_SITES - 1);
        shm_u64 *word = &region->sites[number].key;
        uint64_t seen = u64_load_relaxed(word);

        if (seen == 0 && u64_exchange_if_acq_rel(word, &seen, key)) {
            CRASH_POINT(profile_after_site);
            return number;
        }
        if (seen == key)
            return number;
    }
    return 0;
}

uint32_t profile_add_site(profile_region *region, uint32_t party, uint32_t stack)
{
    uint32_t number = intern_site(region, PROFILE_SITE_USED | (uint64_t)party << 32 | stack);

    if (number == 0 || party == 0 || party >= PROFILE_PARTIES - PROFILE_PARTIES_SHARED)
        u64_add_relaxed(&region->header.nlost_sites, 1);
    if (number != 0)
        return number;
    if (party != 0)
        number = intern_site(region, PROFILE_SITE_USED | stack);
    if (number == 0) {
        uint64_t none = 0;

        (void)u64_exchange_if_acq_rel(&region->sites[0].key, &none, PROFILE_SITE_USED);
    }
    return number;
}

/*
 * x / (1 - exp(-x)) is x/2 times the hyperbolic cotangent of x/2, plus x/2, and its series is exact to 1e-9 for x up
 * to 1. Beyond, x is halved until it is, and p = 1 - exp(-x) doubled again: 1 - exp(-2x) = p (2 - p). No library for
 * mathematics is needed.
 */
double profile_weight(uint64_t bytes, uint64_t rate)
{
    double x = rate == 0 ? 64 : (double)bytes / (double)rate;
    uint32_t nhalved = 0;
    double x2;
    double p;

    if (x >= 64)
        return 1;
    if (!(x > 0))
        x = 1 / (double)PROFILE_RATE_MAX;
    while (x > 1) {
        x /= 2;
        nhalved++;
    }
    x2 = x * x;
    p = x / (1 + x / 2 + x2 / 12 * (1 - x2 / 60 * (1 - x2 / 42 * (1 - x2 / 40))));
    for (; nhalved > 0; nhalved--)
        p *= 2 - p;
    return 1 / p;
}

void profile_count(profile_region *region, uint32_t site, uint64_t bytes, uint64_t rate)
{
    profile_site *s = &region->sites[site];
    double weight = profile_weight(bytes, rate);

    u64_add_relaxed(&s->nsamples, 1);
    u64_add_relaxed(&s->bytes, (uint64_t)(weight * (double)bytes + 0.5));
    u64_add_relaxed(&s->objects, (uint64_t)(weight * PROFILE_OBJECTS_UNIT + 0.5));
}

/* --- samples --- */

/* Fibonacci hashing: neighbours are far from each other. */
static shm_u64 *bucket_of(profile_region *region, uint64_t offset)
{
    uint64_t mixed = (offset >> 3) * UINT64_C(0x9e3779b97f4a7c15);

    return &region->samples[(mixed >> (64 - __builtin_ctz(NBUCKETS))) * PROFILE_BUCKET];
}

bool profile_is_live(const shm_map *map, uint64_t offset)
{
    object_ref object;

    return offset < map->arena_bytes && object_find(map, map->base + offset, &object) == OBJECT_LIVE &&
           shm_span_at(map, object.first)->marked;
}

static bool is_of(uint64_t word, uint64_t offset)
{
    return (word & PROFILE_SAMPLE_USED) != 0 && profile_sample_unpack(word).offset == offset;
}

/*
 * Where in the bucket the place's record belongs, and what is there: over its old one, so that it never has two; or to
 * an empty place, or over one that does not count. NULL: nowhere.
 */
static shm_u64 *choose(shm_u64 *bucket, const shm_map *map, uint64_t offset, uint64_t *ret_seen)
{
    uint64_t seen[PROFILE_BUCKET];
    uint32_t empty = PROFILE_BUCKET;

    for (uint32_t i = 0; i < PROFILE_BUCKET; i++) {
        seen[i] = u64_load_relaxed(&bucket[i]);
        if (is_of(seen[i], offset)) {
            *ret_seen = seen[i];
            return &bucket[i];
        }
        if ((seen[i] & PROFILE_SAMPLE_USED) == 0 && empty == PROFILE_BUCKET)
            empty = i;
    }
    for (uint32_t i = 0; i < PROFILE_BUCKET && empty == PROFILE_BUCKET; i++)
        if (!profile_is_live(map, profile_sample_unpack(seen[i]).offset))
            empty = i;
    if (empty == PROFILE_BUCKET)
        return NULL;
    *ret_seen = seen[empty];
    return &bucket[empty];
}

/* Release: who sees the record finds the site that it names. */
bool profile_put_sample(profile_region *region, const shm_map *map, profile_sample sample)
{
    shm_u64 *bucket = bucket_of(region, sample.offset);
    uint64_t word = profile_sample_pack(sample);

    for (uint32_t i = 0; i < PUT_TRIES; i++) {
        uint64_t seen;
        shm_u64 *place = choose(bucket, map, sample.offset, &seen);

        if (place == NULL)
            break;
        if (u64_exchange_if_acq_rel(place, &seen, word)) {
            CRASH_POINT(profile_after_sample);
            return true;
        }
    }
    u64_add_relaxed(&region->header.nlost_samples, 1);
    return false;
}

void profile_remove_sample(profile_region *region, uint64_t offset)
{
    shm_u64 *bucket = bucket_of(region, offset);

    for (uint32_t i = 0; i < PROFILE_BUCKET; i++) {
        uint64_t seen = u64_load_relaxed(&bucket[i]);

        if (is_of(seen, offset))
            (void)u64_exchange_if_acq_rel(&bucket[i], &seen, 0);
    }
}
