/*
 * Largecache: which freed large spans a process retains, and which of them an object gets.
 *
 * Called by large.c, idle.c, attach.c and comeback.c; calls offer.c and held.c. Data: the structure, private, under its
 * lock, which is held for some instructions only; of the heap only the words of offers and nleases are looked at.
 *
 * Cached spans lie in bins, 8 to a doubling of their length, so that one of the next higher bin fits for sure: a bitmap
 * says which bins have any. In the bin of the length that is wanted some are looked at. Within a bin the span that was
 * freed last comes first: its pages are warm. An object may get a span of up to 4 times the pages that it needs: to
 * wait for a closer fit would cost no less memory, since the span would be idle meanwhile, and requests besides. What
 * is too long by more than a 16th is lent: the pages that the object does not need count as if they were idle.
 *
 * How much is idle is bounded by the budget, in pages. It is small at the beginning: a program whose buffers grow
 * never wants the shorter ones again. When a span is wanted and one that would have fitted went back shortly before
 * (the lengths of the last 64 are remembered: ghosts), then it should have stayed, and the budget rises by 8 times its
 * length. When one is wanted and none of that size was ever there, the program grows: the budget sinks by the length of
 * what is wanted, so that the daemon first gets what the program used in an earlier phase. It sinks as well when a
 * thread asks for spans (largecache_shrink). The oldest go first, an eighth of the budget at a time so that few
 * requests are sent.
 *
 * Cached spans are offered (offer.c): the daemon may take them. The newest is not, if it is short: a buffer that is
 * freed and allocated again each time pays nothing for it. It is offered when the next one comes. Under the lock, in
 * this order:
 *   into the cache     1. nleases of the node. 2. the mark of the first page: offered. 3. the word: OFFERED.
 *   out of it, ours    1. the word: NONE, by compare-and-swap. 2. the mark: held.
 *   out of it, gone    1. the compare-and-swap fails. 2. the mark goes, if it is "offered" still.
 * What the daemon has taken stays in the cache, and counts, until it is looked at: for an object, or when it is the
 * oldest and too much is cached. Meanwhile the pages may be leased anew, to this process too. Then whoever gets them
 * writes another mark over "offered" (held.c), or a structure; and if that span comes into the cache, its node takes
 * the place of the old one. So a page has one node at most, and a mark "offered" is that node's. If the mark is not,
 * or the span table has another nleases than the node, the lease that the node means is over. That is how a process
 * that comes back knows a cached span from one that was on its way to it (largecache_knows).
 *
 * Invariants (largecache_validate): a node is unused, cached (in its bin, in the list by age, in the hash) or lent (in
 * the hash); counters are the sums over nodes. Cached and slack pages together are within the budget after each put,
 * unless what is lent alone is more: then nothing is cached.
 */
#include "client/lib/largecache.h"

#include <stddef.h>
#include <string.h>

#include "client/lib/held.h"
#include "client/lib/offer.h"

#define WASTE_MAX     4u
#define LEND_SHARE    16u
#define LENT_MAX      (LARGECACHE_NODES / 2)
#define LOOK_MAX      8u /* spans looked at in a bin whose spans need not fit */
#define REGRET        8u

largecache large_cache = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* The bin of spans of that length: those in higher ones are longer. */
static uint32_t bin_of(uint64_t npages)
{
    uint32_t log;

    if (npages < 8)
        return (uint32_t)npages;
    log = 63 - (uint32_t)__builtin_clzll(npages);
    return (log - 2) * 8 + (uint32_t)(npages >> (log - 3) & 7);
}

static uint16_t *bucket_of(largecache *lc, page_no first)
{
    return &lc->by_page[first.n * UINT32_C(2654435761) >> 23]; /* 9 bits: LARGECACHE_NODES */
}

_Static_assert(LARGECACHE_NODES == 1u << 9, "bucket_of() has as many bits");

static uint64_t budget_of(const largecache *lc)
{
    return lc->budget == 0 ? LARGECACHE_MIN_PAGES : lc->budget;
}

/* --- nodes --- */

static uint16_t find(largecache *lc, page_no first)
{
    uint16_t at = *bucket_of(lc, first);

    while (at != 0 && lc->nodes[at].first.n != first.n)
        at = lc->nodes[at].next_same;
    return at;
}

/* A node for the span, in the hash. 0: there are no more. */
static uint16_t node_new(largecache *lc, page_no first, uint64_t npages, bool noscan)
{
    uint16_t *bucket = bucket_of(lc, first);
    uint16_t at = lc->unused;

    if (at != 0)
        lc->unused = lc->nodes[at].next;
    else if (lc->nused + 1 < LARGECACHE_NODES)
        at = (uint16_t)++lc->nused;
    else
        return 0;
    lc->nodes[at] = (largecache_node){
        .first = first, .npages = (uint32_t)npages, .noscan = noscan, .next_same = *bucket
    };
    *bucket = at;
    return at;
}

static void node_delete(largecache *lc, uint16_t at)
{
    largecache_node *node = &lc->nodes[at];
    uint16_t *link = bucket_of(lc, node->first);

    while (*link != at)
        link = &lc->nodes[*link].next_same;
    *link = node->next_same;
    node->first.n = 0;
    node->next = lc->unused;
    lc->unused = at;
}

static void cache(largecache *lc, uint16_t at)
{
    largecache_node *node = &lc->nodes[at];
    uint32_t bin = bin_of(node->npages);
    uint16_t *head = &lc->bins[node->noscan][bin];

    node->prev = 0;
    node->next = *head;
    if (*head != 0)
        lc->nodes[*head].prev = at;
    *head = at;
    lc->nonempty[node->noscan][bin / 64] |= UINT64_C(1) << bin % 64;
    node->newer = 0;
    node->older = lc->newest;
    if (lc->newest != 0)
        lc->nodes[lc->newest].newer = at;
    else
        lc->oldest = at;
    lc->newest = at;
    lc->ncached_pages += node->npages;
}

/* A cached span is in no list any more. It is still offered. */
static void unlist(largecache *lc, uint16_t at)
{
    largecache_node *node = &lc->nodes[at];
    uint32_t bin = bin_of(node->npages);

    if (node->next != 0)
        lc->nodes[node->next].prev = node->prev;
    if (node->prev != 0)
        lc->nodes[node->prev].next = node->next;
    else if ((lc->bins[node->noscan][bin] = node->next) == 0)
        lc->nonempty[node->noscan][bin / 64] &= ~(UINT64_C(1) << bin % 64);
    if (node->newer != 0)
        lc->nodes[node->newer].older = node->older;
    else
        lc->newest = node->older;
    if (node->older != 0)
        lc->nodes[node->older].newer = node->newer;
    else
        lc->oldest = node->newer;
    lc->ncached_pages -= node->npages;
}

static void offer(largecache_node *node)
{
    if (node->nleases != 0 || !offer_is_possible())
        return;
    node->nleases = offer_nleases(node->first);
    held_set_offered(node->first);
    offer_announce(node->first, node->nleases);
}

/* A span has become the newest. */
static void offer_newest(largecache *lc)
{
    largecache_node *newest = &lc->nodes[lc->newest];

    if (newest->older != 0)
        offer(&lc->nodes[newest->older]);
    if (newest->npages > LARGECACHE_RETAIN_PAGES)
        offer(newest);
}

/* A span leaves the cache; its node stays. False: the daemon has taken it. */
static bool uncache(largecache *lc, uint16_t at)
{
    largecache_node *node = &lc->nodes[at];
    uint64_t nleases = node->nleases;

    unlist(lc, at);
    node->nleases = 0;
    if (nleases == 0)
        return true;
    if (offer_withdraw(node->first, nleases)) {
        held_set(&node->first.n, 1);
        return true;
    }
    held_clear_offered(node->first);
    offer_note_gone(node->first, nleases);
    return false;
}

/* A span that was lent is so no longer. */
static void unlend(largecache *lc, uint16_t at)
{
    lc->nslack_pages -= lc->nodes[at].slack;
    lc->nlent--;
    node_delete(lc, at);
}

/* --- what goes back --- */

static void note_ghost(largecache *lc, uint64_t npages)
{
    lc->ghosts[lc->nghosts++ % LARGECACHE_GHOSTS] = (uint32_t)npages;
}

static void drop_oldest(largecache *lc, largecache_out *out)
{
    uint16_t at = lc->oldest;

    note_ghost(lc, lc->nodes[at].npages);
    if (uncache(lc, at))
        out->spans[out->n++] = lc->nodes[at].first.n;
    node_delete(lc, at);
}

static void fit_budget(largecache *lc, largecache_out *out)
{
    uint64_t budget = budget_of(lc);

    if (lc->ncached_pages + lc->nslack_pages <= budget)
        return;
    while (lc->oldest != 0 && lc->ncached_pages + lc->nslack_pages > budget - budget / 8)
        drop_oldest(lc, out);
}

/* --- which span an object gets --- */

/* A cached span that is long enough, not too long, and aligned. */
static uint16_t search(const largecache *lc, uint64_t npages, uint64_t most, uint64_t base_page, uint64_t align_pages,
                       bool noscan)
{
    uint32_t last = bin_of(most);

    for (uint32_t bin = bin_of(npages); bin <= last; bin++) {
        uint64_t rest = lc->nonempty[noscan][bin / 64] >> bin % 64;
        unsigned looks = LOOK_MAX;

        if (rest == 0) {
            bin |= 63;
            continue;
        }
        bin += (uint32_t)__builtin_ctzll(rest);
        if (bin > last)
            break;
        for (uint16_t at = lc->bins[noscan][bin]; at != 0 && looks > 0; at = lc->nodes[at].next, looks--) {
            const largecache_node *node = &lc->nodes[at];

            if (node->npages >= npages && node->npages <= most && (base_page + node->first.n) % align_pages == 0)
                return at;
        }
    }
    return 0;
}

/* The same, out of the cache. What the daemon has taken is forgotten; its pages have gone back. */
static uint16_t take(largecache *lc, uint64_t npages, uint64_t most, uint64_t base_page, uint64_t align_pages,
                     bool noscan)
{
    uint16_t at;

    while ((at = search(lc, npages, most, base_page, align_pages, noscan)) != 0 && !uncache(lc, at)) {
        note_ghost(lc, lc->nodes[at].npages);
        node_delete(lc, at);
    }
    return at;
}

page_no largecache_take(largecache *lc, uint64_t npages, uint64_t base_page, uint64_t align_pages, bool noscan)
{
    page_no first = page_at(0);
    uint64_t spare = npages / LEND_SHARE;
    bool may_lend;
    uint16_t at;

    (void)pthread_mutex_lock(&lc->lock);
    may_lend = lc->nlent < LENT_MAX && lc->nslack_pages <= budget_of(lc) / 2;
    at = take(lc, npages, may_lend ? npages * WASTE_MAX : npages + spare, base_page, align_pages, noscan);
    if (at != 0) {
        uint64_t slack = lc->nodes[at].npages - npages;

        first = lc->nodes[at].first;
        if (slack > spare) {
            lc->nodes[at].slack = (uint32_t)slack;
            lc->nslack_pages += slack;
            lc->nlent++;
        } else {
            node_delete(lc, at);
        }
    }
    (void)pthread_mutex_unlock(&lc->lock);
    return first;
}

page_no largecache_take_at(largecache *lc, page_no page, uint64_t *ret_npages)
{
    uint16_t at;

    (void)pthread_mutex_lock(&lc->lock);
    at = find(lc, page);
    if (at != 0 && lc->nodes[at].slack == 0) {
        *ret_npages = lc->nodes[at].npages;
        if (!uncache(lc, at))
            page = page_at(0);
        node_delete(lc, at);
    } else {
        *ret_npages = 0;
        page = page_at(0);
    }
    (void)pthread_mutex_unlock(&lc->lock);
    return page;
}

/* --- what comes back from an object --- */

/* A span comes: what the cache has noted of an earlier lease of the same pages is past. */
static void forget_earlier(largecache *lc, page_no first)
{
    uint16_t at = find(lc, first);

    if (at == 0)
        return;
    if (lc->nodes[at].slack != 0) {
        unlend(lc, at);
        return;
    }
    unlist(lc, at); /* the daemon has taken it, and the mark is the later lease's */
    node_delete(lc, at);
}

void largecache_put(largecache *lc, page_no first, uint64_t npages, bool noscan, largecache_out *out)
{
    uint16_t at = 0;

    out->n = 0;
    (void)pthread_mutex_lock(&lc->lock);
    forget_earlier(lc, first);
    if (npages + lc->nslack_pages <= budget_of(lc)) {
        at = node_new(lc, first, npages, noscan);
        if (at == 0 && lc->oldest != 0) {
            drop_oldest(lc, out);
            at = node_new(lc, first, npages, noscan);
        }
    }
    if (at != 0) {
        cache(lc, at);
        offer_newest(lc);
        fit_budget(lc, out);
    } else {
        out->spans[out->n++] = first.n;
        note_ghost(lc, npages);
    }
    (void)pthread_mutex_unlock(&lc->lock);
}

/* True if one that would have fitted went back shortly before: the budget has risen. */
static bool regret(largecache *lc, uint64_t npages)
{
    for (uint32_t i = 0; i < LARGECACHE_GHOSTS; i++) {
        uint32_t ghost = lc->ghosts[i];

        if (ghost >= npages && ghost <= npages * WASTE_MAX) {
            uint64_t budget = budget_of(lc) + REGRET * (uint64_t)ghost;

            lc->ghosts[i] = 0;
            lc->budget = budget < LARGECACHE_MAX_PAGES ? budget : LARGECACHE_MAX_PAGES;
            return true;
        }
    }
    return false;
}

static void sink_budget(largecache *lc, uint64_t npages)
{
    uint64_t budget = budget_of(lc);

    lc->budget = budget > LARGECACHE_MIN_PAGES + npages ? budget - npages : LARGECACHE_MIN_PAGES;
}

void largecache_note_miss(largecache *lc, uint64_t npages, bool (*is_gone)(page_no first, uint64_t npages),
                          largecache_out *out)
{
    out->n = 0;
    (void)pthread_mutex_lock(&lc->lock);
    for (uint32_t i = 1; lc->nlent > 0 && i <= lc->nused; i++) {
        largecache_node *node = &lc->nodes[i];

        if (node->first.n != 0 && node->slack != 0 && is_gone(node->first, node->npages))
            unlend(lc, (uint16_t)i);
    }
    if (!regret(lc, npages)) {
        sink_budget(lc, npages);
        fit_budget(lc, out);
    }
    (void)pthread_mutex_unlock(&lc->lock);
}

void largecache_forget(largecache *lc, page_no first)
{
    uint16_t at;

    (void)pthread_mutex_lock(&lc->lock);
    at = lc->nlent == 0 ? 0 : find(lc, first);
    if (at != 0 && lc->nodes[at].slack != 0)
        unlend(lc, at);
    (void)pthread_mutex_unlock(&lc->lock);
}

/* --- coming back --- */

/* Under the lock no mark becomes "offered", or ceases to be but by a lease that begins. */
bool largecache_knows(largecache *lc, page_no first)
{
    bool knows;

    (void)pthread_mutex_lock(&lc->lock);
    if (held_is_offered(first)) {
        uint16_t at = find(lc, first);

        knows = at != 0 && lc->nodes[at].nleases == offer_nleases(first);
    } else {
        knows = held_knows(first.n);
    }
    (void)pthread_mutex_unlock(&lc->lock);
    return knows;
}

/* --- giving back --- */

uint64_t largecache_npages(largecache *lc)
{
    uint64_t npages;

    (void)pthread_mutex_lock(&lc->lock);
    npages = lc->ncached_pages;
    (void)pthread_mutex_unlock(&lc->lock);
    return npages;
}

void largecache_shrink(largecache *lc, uint64_t npages, largecache_out *out)
{
    uint64_t left;

    out->n = 0;
    (void)pthread_mutex_lock(&lc->lock);
    left = lc->ncached_pages > npages ? lc->ncached_pages - npages : 0;
    while (lc->oldest != 0 && lc->ncached_pages > left)
        drop_oldest(lc, out);
    sink_budget(lc, npages);
    (void)pthread_mutex_unlock(&lc->lock);
}

void largecache_empty(largecache *lc, largecache_out *out)
{
    out->n = 0;
    (void)pthread_mutex_lock(&lc->lock);
    while (lc->oldest != 0)
        drop_oldest(lc, out);
    lc->nghosts = 0;
    memset(lc->ghosts, 0, sizeof(lc->ghosts));
    lc->budget = 0;
    (void)pthread_mutex_unlock(&lc->lock);
}

void largecache_clear(largecache *lc)
{
    size_t lock_bytes = offsetof(largecache, ncached_pages);

    (void)pthread_mutex_lock(&lc->lock);
    memset((char *)lc + lock_bytes, 0, sizeof(*lc) - lock_bytes);
    (void)pthread_mutex_unlock(&lc->lock);
}

void largecache_reset(largecache *lc)
{
    (void)pthread_mutex_init(&lc->lock, NULL);
    largecache_clear(lc);
}

bool largecache_validate(const largecache *lc)
{
    uint64_t ncached_pages = 0;
    uint64_t nslack_pages = 0;
    uint32_t ncached = 0;
    uint32_t nlent = 0;
    uint32_t nbinned = 0;
    uint32_t naged = 0;

    for (uint32_t at = 1; at <= lc->nused; at++) {
        const largecache_node *node = &lc->nodes[at];

        if (node->first.n == 0)
            continue;
        if (node->slack != 0 && node->nleases != 0)
            return false;
        nlent += node->slack != 0;
        nslack_pages += node->slack;
        ncached += node->slack == 0;
        ncached_pages += node->slack == 0 ? node->npages : 0;
    }
    for (uint32_t i = 0; i < 2 * LARGECACHE_BINS; i++) {
        uint32_t bin = i / 2;
        uint16_t at = lc->bins[i % 2][bin];

        if ((at != 0) != (lc->nonempty[i % 2][bin / 64] >> bin % 64 & 1))
            return false;
        for (; at != 0; at = lc->nodes[at].next, nbinned++) {
            if (lc->nodes[at].slack != 0 || bin_of(lc->nodes[at].npages) != bin || lc->nodes[at].noscan != (i % 2 == 1))
                return false;
        }
    }
    for (uint16_t at = lc->oldest; at != 0 && naged <= ncached; at = lc->nodes[at].newer)
        naged++;
    return ncached == nbinned && ncached == naged && nlent == lc->nlent && ncached_pages == lc->ncached_pages &&
           nslack_pages == lc->nslack_pages;
}
