/*
 * Left: for each span, the objects that sessions left in it when they ended: their claims.
 *
 * Called by lease (begin and end), session (the last ones that ended), mheap (a span is freed) and the server (walks,
 * for SessionList and Reclaim requests). Data: private, a table of records and a word in each span's link; the spans'
 * bits are read. Nothing here outlives the daemon, and nothing depends on it: it is for people to look at, and to have
 * freed what nobody else will (left_free_step), which sets remote bits as any process may.
 *
 * A record belongs to one span and has a bit for each of its objects (of a tiny span: for each block). The records of a
 * span are chained from its link:
 *   before  while the span is leased: what lived in it when the lease began. If a leased span has none, nothing lived
 *           in it; or nobody knows, because another daemon has given the lease, or records have run out. Then all that
 *           lives in it when the session ends, and that nobody else claims, counts as left by that session.
 *   claim   what lived when a session ended that leased the span, and did not live before. At most one claim on a span
 *           has the bit of an object.
 *
 * A claim only loses bits: those of objects that are found dead when a lease begins or ends, or in a walk. A place that
 * is used again in between still counts for the session that left the object before. So the sum of a session is an
 * upper bound, and the sum over all sessions is never more than what lives. It is exact as soon as others only free.
 *
 * There are at most 2^18 records; spans that were empty when they were leased and have had nothing left in them need
 * none. Objects for which no record is free are not counted. Sessions that are neither ending nor among the last that
 * ended have no claims: a walk drops those of a session that is forgotten.
 *
 * Invariants (left_validate, linear in the records): a record in use is in the chain of its span; claims on a span
 * have no bit in common; an owner's nclaims is the number of its claims.
 */
#include "daemon/heap/left.h"

#include "shm/object.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define RECORDS_MAX (UINT32_C(1) << 18)

typedef struct record {
    uint64_t bits[SHM_BITS_WORDS];
    page_no first;       /* of its span; 0: the record is free */
    uint32_t next;       /* in its span's chain, or among the free ones; 0: none */
    left_owner_no owner; /* 0: what was there before */
    bool sure;           /* of a claim: what was before its owner's lease was known */
    uint32_t nleases;    /* low half of the span's: who has leased it last when the record was made */
} record;

_Static_assert(sizeof(record) == 144, "what the README says of it");

typedef struct claimant {
    bool used;
    bool forgotten;
    uint32_t nclaims;
    live_sum counted; /* by the last walk */
    live_sum counting;
} claimant;

struct left_table {
    const shm_map *map;
    span_link *links;
    uint32_t nused; /* records from here on were never used */
    uint32_t free;
    uint32_t walk_at;
    uint64_t known_from; /* leases from that number on began when this table had a record of what was before, if any */
    uint32_t nforgotten; /* owners that are forgotten and have claims */
    uint16_t search_from;
    bool wanted[LEFT_OWNERS_MAX + 1]; /* of the pass that frees */
    bool free_them;
    uint32_t free_at;
    left_freed freed;
    uint32_t checked_to; /* records below it have been counted by the last check, and are kept count of */
    uint32_t nchecked[LEFT_OWNERS_MAX + 1]; /* their claims, by owner (checking.h) */
    claimant owners[LEFT_OWNERS_MAX + 1];
    record records[RECORDS_MAX]; /* records[0] is none */
};

left_table *left_new(const shm_map *map, span_link *links)
{
    left_table *table = calloc(1, sizeof(*table)); /* so many bytes are mapped for it: records get memory when used */

    if (table != NULL) {
        table->map = map;
        table->links = links;
        table->nused = 1;
        table->known_from = u64_load_relaxed(&map->header->nleases) + 1;
    }
    return table;
}

left_table *left_free(left_table *table)
{
    free(table);
    return NULL;
}

/* --- records and owners --- */

/* The span gets a record of these bits, unless all records are in use. */
static void record_push(left_table *table, page_no first, left_owner_no owner, const uint64_t *bits, uint32_t nwords)
{
    uint64_t nleases = u64_load_relaxed(&shm_span_at(table->map, first)->nleases);
    uint32_t i = table->free;
    record *r = &table->records[i];

    if (i != 0) {
        table->free = r->next;
    } else if (table->nused < RECORDS_MAX) {
        r = &table->records[i = table->nused++];
    } else {
        table->known_from = nleases + 1;
        return;
    }
    memcpy(r->bits, bits, nwords * sizeof(bits[0]));
    r->first = first;
    r->owner = owner;
    r->nleases = (uint32_t)nleases;
    r->sure = nleases >= table->known_from;
    r->next = table->links[first.n].left;
    table->links[first.n].left = i;
    if (owner.n != 0)
        table->owners[owner.n].nclaims++;
    table->nchecked[owner.n] += i < table->checked_to;
}

static void owner_release(left_table *table, claimant *o)
{
    table->nforgotten--;
    table->wanted[o - table->owners] = false; /* the number may be another's soon */
    *o = (claimant){ .used = false };
}

/* Take the record that *at names out of its chain; *at is the next one then. */
static void record_drop(left_table *table, uint32_t *at)
{
    uint32_t i = *at;
    record *r = &table->records[i];
    claimant *o = &table->owners[r->owner.n];

    if (r->owner.n != 0 && --o->nclaims == 0 && o->forgotten)
        owner_release(table, o);
    table->nchecked[r->owner.n] -= i < table->checked_to;
    *at = r->next;
    r->first = page_at(0);
    r->next = table->free;
    table->free = i;
}

/* 0: all are taken, by sessions whose claims no walk has dropped yet. */
static left_owner_no owner_take(left_table *table)
{
    for (uint32_t i = 0; i < LEFT_OWNERS_MAX; i++) {
        uint16_t n = (uint16_t)(1 + (table->search_from + i) % LEFT_OWNERS_MAX);

        if (!table->owners[n].used) {
            table->owners[n].used = true;
            table->search_from = n;
            return (left_owner_no){ n };
        }
    }
    return (left_owner_no){ 0 };
}

void left_forget_owner(left_table *table, left_owner_no no)
{
    claimant *o = &table->owners[no.n];

    if (no.n == 0)
        return;
    o->forgotten = true;
    table->nforgotten++;
    if (o->nclaims == 0)
        owner_release(table, o);
}

static bool is_any_set(const uint64_t *bits, uint32_t nwords)
{
    uint64_t any = 0;

    for (uint32_t w = 0; w < nwords; w++)
        any |= bits[w];
    return any != 0;
}

/* --- leases --- */

/* Read what lives in the span. Returns the number of words. */
static uint32_t read_live(const left_table *table, page_no first, uint64_t live[SHM_BITS_WORDS])
{
    uint32_t nwords = bits_nwords(shm_span_at(table->map, first)->nelems);
    uint32_t w = 0;

    do
        live[w] = live_word(table->map, first, w);
    while (++w < nwords);
    return nwords;
}

/* Claims lose what does not live, and the record of what was before goes; the bits of all go out of new. */
static void settle_chain(left_table *table, page_no first, const uint64_t *live, uint32_t nwords, uint64_t *new)
{
    for (uint32_t *at = &table->links[first.n].left; *at != 0;) {
        record *r = &table->records[*at];

        for (uint32_t w = 0; w < nwords; w++) {
            new[w] &= ~r->bits[w];
            r->bits[w] &= live[w];
        }
        if (r->owner.n == 0 || !is_any_set(r->bits, nwords))
            record_drop(table, at);
        else
            at = &r->next;
    }
}

void left_lease_begins(left_table *table, page_no first)
{
    uint64_t live[SHM_BITS_WORDS];
    uint64_t new[SHM_BITS_WORDS] = { 0 };
    uint32_t nwords = read_live(table, first, live);

    settle_chain(table, first, live, nwords, new);
    if (is_any_set(live, nwords))
        record_push(table, first, (left_owner_no){ 0 }, live, nwords);
}

void left_lease_ends(left_table *table, page_no first, left_owner_no *owner, live_sum *sum)
{
    uint64_t live[SHM_BITS_WORDS];
    uint64_t new[SHM_BITS_WORDS];
    uint32_t nwords;

    if (owner == NULL && table->links[first.n].left == 0)
        return;
    nwords = read_live(table, first, live);
    memcpy(new, live, nwords * sizeof(new[0]));
    settle_chain(table, first, live, nwords, new);
    if (owner == NULL || !is_any_set(new, nwords))
        return;
    for (uint32_t w = 0; w < nwords; w++)
        live_add(table->map, first, w, new[w], sum);
    if (owner->n == 0)
        *owner = owner_take(table);
    if (owner->n != 0)
        record_push(table, first, *owner, new, nwords);
}

void left_forget_span(left_table *table, page_no first)
{
    while (table->links[first.n].left != 0)
        record_drop(table, &table->links[first.n].left);
}

/* --- walks --- */

void left_walk_begin(left_table *table)
{
    table->walk_at = 1;
    for (size_t i = 0; i <= LEFT_OWNERS_MAX; i++)
        table->owners[i].counting = (live_sum){ 0 };
}

static void walk_claim(left_table *table, uint32_t i)
{
    record *r = &table->records[i];
    uint32_t nwords = bits_nwords(shm_span_at(table->map, r->first)->nelems);
    claimant *o = &table->owners[r->owner.n];
    uint32_t *at = &table->links[r->first.n].left;

    for (uint32_t w = 0; w < nwords; w++)
        r->bits[w] &= r->bits[w] == 0 ? 0 : live_word(table->map, r->first, w);
    if (!o->forgotten && is_any_set(r->bits, nwords)) {
        for (uint32_t w = 0; w < nwords; w++)
            live_add(table->map, r->first, w, r->bits[w], &o->counting);
        return;
    }
    while (*at != i)
        at = &table->records[*at].next;
    record_drop(table, at);
}

bool left_walk_step(left_table *table, unsigned budget)
{
    for (; budget > 0 && table->walk_at < table->nused; budget--, table->walk_at++) {
        const record *r = &table->records[table->walk_at];

        if (r->first.n != 0 && r->owner.n != 0)
            walk_claim(table, table->walk_at);
    }
    if (table->walk_at < table->nused)
        return false;
    for (size_t i = 0; i <= LEFT_OWNERS_MAX; i++)
        table->owners[i].counted = table->owners[i].counting;
    return true;
}

bool left_wants_walk(const left_table *table)
{
    return table->nforgotten > 0;
}

live_sum left_of(const left_table *table, left_owner_no owner)
{
    return table->owners[owner.n].counted;
}

/* --- freeing --- */

/* The objects that live in a block of a tiny span are freed; those that somebody has freed meanwhile are not counted.
 */
static void free_block(const shm_map *map, page_no first, uint32_t block, live_sum *freed)
{
    uint64_t from = map->base + page_offset(first) + (uint64_t)block * TINY_BLOCK_BYTES;

    for (uint64_t at = from; at < from + TINY_BLOCK_BYTES; at++) {
        object_ref object;

        if (object_find(map, at, &object) == OBJECT_LIVE && object_free_remote(map, &object) == OBJECT_LIVE) {
            freed->objects++;
            freed->bytes += object.bytes;
        }
    }
}

/* The same for the objects that bits of word w stand for. */
static void free_bits(const shm_map *map, page_no first, uint32_t w, uint64_t bits, live_sum *freed)
{
    const shm_span *span = shm_span_at(map, first);
    uint64_t before;

    if (!span_is_tiny(span)) {
        before = u64_fetch_or_acq_rel(shm_remote_word(map, first, w), bits);
        live_add(map, first, w, bits & ~before, freed);
        return;
    }
    for (; bits != 0; bits &= bits - 1)
        free_block(map, first, w * 64 + (uint32_t)__builtin_ctzll(bits), freed);
}

/*
 * A claim is sure if it was known what the session had found in the span, and nobody has leased the span since: then
 * its places were not used again, so what lives of it is what the session left. Nobody leases the span now either, and
 * the daemon, whose thread this is, leases it to nobody meanwhile. Kept bits that may mean that an object is adopted
 * make it another's.
 */
static void free_claim(left_table *table, const record *r)
{
    left_freed *f = &table->freed;
    const shm_span *span = shm_span_at(table->map, r->first);
    bool sure = r->sure && lease_unpack(u64_load_relaxed(&span->lease)).state == SPAN_CENTRAL &&
                (uint32_t)u64_load_relaxed(&span->nleases) == r->nleases;
    bool adopted = u32_load_relaxed(&span->nadopted) != 0;

    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
        uint64_t bits = r->bits[w] == 0 ? 0 : r->bits[w] & live_word(table->map, r->first, w);

        if (adopted && bits != 0)
            bits &= ~u64_load_acquire(shm_kept_word(table->map, r->first, w));
        if (bits == 0)
            continue;
        if (!sure)
            live_add(table->map, r->first, w, bits, &f->unsure);
        else if (!table->free_them)
            live_add(table->map, r->first, w, bits, &f->freed);
        else
            free_bits(table->map, r->first, w, bits, &f->freed);
    }
}

void left_free_begin(left_table *table, bool free_them)
{
    memset(table->wanted, 0, sizeof(table->wanted));
    table->free_them = free_them;
    table->free_at = 1;
    table->freed = (left_freed){ .freed = { 0 } };
}

void left_free_want(left_table *table, left_owner_no owner)
{
    table->wanted[owner.n] = owner.n != 0;
}

bool left_free_step(left_table *table, unsigned budget, void (*span_done)(void *data, page_no first), void *data)
{
    for (; budget > 0 && table->free_at < table->nused; budget--, table->free_at++) {
        const record *r = &table->records[table->free_at];
        page_no first = r->first;
        uint64_t before = table->freed.freed.objects;

        if (first.n == 0 || !table->wanted[r->owner.n])
            continue;
        free_claim(table, r);
        if (table->free_them && table->freed.freed.objects != before)
            span_done(data, first); /* the record may be gone then */
    }
    return table->free_at >= table->nused;
}

left_freed left_free_result(const left_table *table)
{
    return table->freed;
}

/* --- looking --- */

static int span_validate(const left_table *table, uint32_t i, FILE *err)
{
    page_no first = table->records[i].first;
    uint64_t claimed[SHM_BITS_WORDS] = { 0 };
    bool found = false;
    unsigned nbefore = 0;

    for (uint32_t at = table->links[first.n].left; at != 0; at = table->records[at].next) {
        const record *r = &table->records[at];
        uint64_t twice = 0;

        found |= at == i;
        nbefore += r->owner.n == 0;
        for (uint32_t w = 0; r->owner.n != 0 && w < bits_nwords(shm_span_at(table->map, first)->nelems); w++) {
            twice |= claimed[w] & r->bits[w];
            claimed[w] |= r->bits[w];
        }
        if (r->first.n != first.n || twice != 0 || nbefore > 1)
            break;
        if (r->next == 0 && found)
            return 0;
    }
    (void)fprintf(err, "left: the claims on span %u are damaged\n", first.n);
    return -EUCLEAN;
}

void left_validate_begin(left_table *table)
{
    table->checked_to = 1;
    memset(table->nchecked, 0, sizeof(table->nchecked));
}

int left_validate_step(left_table *table, unsigned budget, FILE *err)
{
    for (; table->checked_to < table->nused; table->checked_to++) {
        const record *r = &table->records[table->checked_to];

        if (budget-- == 0)
            return VALIDATE_E_MORE;
        if (r->first.n == 0)
            continue;
        if (span_validate(table, table->checked_to, err) < 0)
            return -EUCLEAN;
        table->nchecked[r->owner.n]++;
    }
    for (size_t i = 1; i <= LEFT_OWNERS_MAX; i++) {
        uint32_t nclaims = table->nchecked[i];

        if (nclaims != table->owners[i].nclaims || (nclaims > 0 && !table->owners[i].used)) {
            (void)fprintf(err, "left: session number %zu has %u claims, %u noted\n", i, nclaims,
                          table->owners[i].nclaims);
            return -EUCLEAN;
        }
    }
    return 0;
}

int left_validate(left_table *table, FILE *err)
{
    left_validate_begin(table);
    return left_validate_step(table, UINT_MAX, err);
}
