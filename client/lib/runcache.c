/*
 * Runcache: which freed runs a process keeps, and which of them an object gets.
 *
 * Called by large.c, under its lock; calls nobody. Data: the structure, private; nothing here looks at the heap.
 *
 * Kept runs lie in bins, 8 to a doubling of their length, so that one of the next higher bin fits for sure: a bitmap
 * says which bins have any. In the bin of the length that is wanted some are looked at. Within a bin the run that was
 * freed last comes first: its pages are warm. An object may get a run of up to 4 times the pages that it needs: to
 * wait for a closer fit would cost no less memory, since the run would be kept idle meanwhile, and requests besides.
 * What is too long by more than a 16th is lent: the pages that the object does not need count as if they were idle.
 *
 * How much is idle is bounded by the budget, in pages. It is small at the beginning: a program whose buffers grow
 * never wants the shorter ones again. When a run is wanted and one that would have done went back shortly before (the
 * lengths of the last 64 are remembered: ghosts), then it should have been kept, and the budget rises by 8 times its
 * length. When one is wanted and none of that size was ever there the program grows: the budget sinks by the length of
 * what is wanted, so that the daemon gets first what the program used in an earlier phase. So it does when a thread
 * asks for spans (runcache_shrink). The oldest go first, an eighth of the budget at a time so that few requests are
 * sent.
 *
 * Invariants (runcache_validate): a node is unused, kept (in its bin, in the list by age, in the hash) or lent (in the
 * hash); counters are the sums over nodes. Kept and slack pages together are within the budget after each put, unless
 * what is lent alone is more: then nothing is kept.
 */
#include "client/lib/runcache.h"

#define WASTE_MAX     4u
#define LEND_SHARE    16u
#define LENT_MAX      (RUNCACHE_NODES / 2)
#define LOOK_MAX      8u /* runs looked at in a bin whose runs need not fit */
#define REGRET        8u

/* The bin of runs of that length: those in higher ones are longer. */
static uint32_t bin_of(uint64_t npages)
{
    uint32_t log;

    if (npages < 8)
        return (uint32_t)npages;
    log = 63 - (uint32_t)__builtin_clzll(npages);
    return (log - 2) * 8 + (uint32_t)(npages >> (log - 3) & 7);
}

static uint16_t *bucket_of(runcache *rc, page_no run)
{
    return &rc->by_page[run.n * UINT32_C(2654435761) >> 23]; /* 9 bits: RUNCACHE_NODES */
}

_Static_assert(RUNCACHE_NODES == 1u << 9, "bucket_of() has as many bits");

static uint64_t budget_of(const runcache *rc)
{
    return rc->budget == 0 ? RUNCACHE_MIN_PAGES : rc->budget;
}

/* --- nodes --- */

static uint16_t find(runcache *rc, page_no run)
{
    uint16_t at = *bucket_of(rc, run);

    while (at != 0 && rc->nodes[at].run.n != run.n)
        at = rc->nodes[at].next_same;
    return at;
}

/* A node for the run, in the hash. 0: there are no more. */
static uint16_t node_new(runcache *rc, page_no run, uint64_t npages, bool noscan)
{
    uint16_t *bucket = bucket_of(rc, run);
    uint16_t at = rc->unused;

    if (at != 0)
        rc->unused = rc->nodes[at].next;
    else if (rc->nused + 1 < RUNCACHE_NODES)
        at = (uint16_t)++rc->nused;
    else
        return 0;
    rc->nodes[at] = (runcache_node){ .run = run, .npages = (uint32_t)npages, .noscan = noscan, .next_same = *bucket };
    *bucket = at;
    return at;
}

static void node_delete(runcache *rc, uint16_t at)
{
    runcache_node *node = &rc->nodes[at];
    uint16_t *link = bucket_of(rc, node->run);

    while (*link != at)
        link = &rc->nodes[*link].next_same;
    *link = node->next_same;
    node->run.n = 0;
    node->next = rc->unused;
    rc->unused = at;
}

static void keep(runcache *rc, uint16_t at)
{
    runcache_node *node = &rc->nodes[at];
    uint32_t bin = bin_of(node->npages);
    uint16_t *head = &rc->bins[node->noscan][bin];

    node->prev = 0;
    node->next = *head;
    if (*head != 0)
        rc->nodes[*head].prev = at;
    *head = at;
    rc->nonempty[node->noscan][bin / 64] |= UINT64_C(1) << bin % 64;
    node->newer = 0;
    node->older = rc->newest;
    if (rc->newest != 0)
        rc->nodes[rc->newest].newer = at;
    else
        rc->oldest = at;
    rc->newest = at;
    rc->nkept_pages += node->npages;
}

static void unkeep(runcache *rc, uint16_t at)
{
    runcache_node *node = &rc->nodes[at];
    uint32_t bin = bin_of(node->npages);

    if (node->next != 0)
        rc->nodes[node->next].prev = node->prev;
    if (node->prev != 0)
        rc->nodes[node->prev].next = node->next;
    else if ((rc->bins[node->noscan][bin] = node->next) == 0)
        rc->nonempty[node->noscan][bin / 64] &= ~(UINT64_C(1) << bin % 64);
    if (node->newer != 0)
        rc->nodes[node->newer].older = node->older;
    else
        rc->newest = node->older;
    if (node->older != 0)
        rc->nodes[node->older].newer = node->newer;
    else
        rc->oldest = node->newer;
    rc->nkept_pages -= node->npages;
}

static void unlend(runcache *rc, uint16_t at)
{
    rc->nslack_pages -= rc->nodes[at].slack;
    rc->nodes[at].slack = 0;
    rc->nlent--;
}

/* --- what goes back --- */

static void note_ghost(runcache *rc, uint64_t npages)
{
    rc->ghosts[rc->nghosts++ % RUNCACHE_GHOSTS] = (uint32_t)npages;
}

static void drop_oldest(runcache *rc, runcache_out *out)
{
    uint16_t at = rc->oldest;

    out->runs[out->n++] = rc->nodes[at].run.n;
    note_ghost(rc, rc->nodes[at].npages);
    unkeep(rc, at);
    node_delete(rc, at);
}

static void fit_budget(runcache *rc, runcache_out *out)
{
    uint64_t budget = budget_of(rc);

    if (rc->nkept_pages + rc->nslack_pages <= budget)
        return;
    while (rc->oldest != 0 && rc->nkept_pages + rc->nslack_pages > budget - budget / 8)
        drop_oldest(rc, out);
}

/* --- the interface --- */

/* Does the run do? Its length counts only if it is in the lowest bin or the highest that are looked at. */
static bool does(const runcache_node *node, uint64_t npages, uint64_t most, uint64_t base_page, uint64_t align_pages)
{
    return node->npages >= npages && node->npages <= most && (base_page + node->run.n) % align_pages == 0;
}

static uint16_t search(const runcache *rc, uint64_t npages, uint64_t most, uint64_t base_page, uint64_t align_pages,
                       bool noscan)
{
    uint32_t last = bin_of(most);

    for (uint32_t bin = bin_of(npages); bin <= last; bin++) {
        uint64_t rest = rc->nonempty[noscan][bin / 64] >> bin % 64;
        unsigned looks = LOOK_MAX;

        if (rest == 0) {
            bin |= 63;
            continue;
        }
        bin += (uint32_t)__builtin_ctzll(rest);
        if (bin > last)
            break;
        for (uint16_t at = rc->bins[noscan][bin]; at != 0 && looks > 0; at = rc->nodes[at].next, looks--) {
            if (does(&rc->nodes[at], npages, most, base_page, align_pages))
                return at;
        }
    }
    return 0;
}

page_no runcache_take(runcache *rc, uint64_t npages, uint64_t base_page, uint64_t align_pages, bool noscan)
{
    bool may_lend = rc->nlent < LENT_MAX && rc->nslack_pages <= budget_of(rc) / 2;
    uint64_t most = may_lend ? npages * WASTE_MAX : npages + npages / LEND_SHARE;
    uint16_t at = rc->newest == 0 ? 0 : search(rc, npages, most, base_page, align_pages, noscan);
    page_no run = rc->nodes[at].run;
    uint64_t slack;

    if (at == 0)
        return page_at(0);
    slack = rc->nodes[at].npages - npages;
    unkeep(rc, at);
    if (slack > npages / LEND_SHARE) {
        rc->nodes[at].slack = (uint32_t)slack;
        rc->nslack_pages += slack;
        rc->nlent++;
    } else {
        node_delete(rc, at);
    }
    return run;
}

void runcache_put(runcache *rc, page_no run, uint64_t npages, bool noscan, runcache_out *out)
{
    uint16_t at = find(rc, run);

    if (at != 0) {
        unlend(rc, at);
        node_delete(rc, at);
    }
    at = 0;
    if (npages + rc->nslack_pages <= budget_of(rc)) {
        at = node_new(rc, run, npages, noscan);
        if (at == 0 && rc->oldest != 0) {
            drop_oldest(rc, out);
            at = node_new(rc, run, npages, noscan);
        }
    }
    if (at == 0) {
        out->runs[out->n++] = run.n;
        note_ghost(rc, npages);
        return;
    }
    keep(rc, at);
    fit_budget(rc, out);
}

page_no runcache_take_at(runcache *rc, page_no page, uint64_t *ret_npages)
{
    uint16_t at = find(rc, page);

    if (at == 0 || rc->nodes[at].slack != 0)
        return page_at(0);
    *ret_npages = rc->nodes[at].npages;
    unkeep(rc, at);
    node_delete(rc, at);
    return page;
}

void runcache_note_miss(runcache *rc, uint64_t npages, runcache_out *out)
{
    uint64_t budget = budget_of(rc);

    for (uint32_t i = 0; i < RUNCACHE_GHOSTS; i++) {
        uint32_t ghost = rc->ghosts[i];

        if (ghost >= npages && ghost <= npages * WASTE_MAX) {
            rc->ghosts[i] = 0;
            budget += REGRET * (uint64_t)ghost;
            rc->budget = budget < RUNCACHE_MAX_PAGES ? budget : RUNCACHE_MAX_PAGES;
            return;
        }
    }
    rc->budget = budget > RUNCACHE_MIN_PAGES + npages ? budget - npages : RUNCACHE_MIN_PAGES;
    fit_budget(rc, out);
}

void runcache_forget(runcache *rc, page_no run)
{
    uint16_t at = rc->nlent == 0 ? 0 : find(rc, run);

    if (at == 0 || rc->nodes[at].slack == 0)
        return;
    unlend(rc, at);
    node_delete(rc, at);
}

page_no runcache_next_lent(const runcache *rc, uint32_t *pos, uint64_t *ret_npages)
{
    while (rc->nlent > 0 && *pos < rc->nused) {
        const runcache_node *node = &rc->nodes[++*pos];

        if (node->run.n != 0 && node->slack != 0) {
            *ret_npages = node->npages;
            return node->run;
        }
    }
    return page_at(0);
}

void runcache_shrink(runcache *rc, uint64_t npages, runcache_out *out)
{
    uint64_t left = rc->nkept_pages > npages ? rc->nkept_pages - npages : 0;
    uint64_t budget = budget_of(rc);

    while (rc->oldest != 0 && rc->nkept_pages > left)
        drop_oldest(rc, out);
    rc->budget = budget > RUNCACHE_MIN_PAGES + npages ? budget - npages : RUNCACHE_MIN_PAGES;
}

void runcache_empty(runcache *rc, runcache_out *out)
{
    while (rc->oldest != 0)
        drop_oldest(rc, out);
    rc->nghosts = 0;
    for (uint32_t i = 0; i < RUNCACHE_GHOSTS; i++)
        rc->ghosts[i] = 0;
    rc->budget = 0;
}

bool runcache_validate(const runcache *rc)
{
    uint64_t nkept_pages = 0;
    uint64_t nslack_pages = 0;
    uint32_t nkept = 0;
    uint32_t nlent = 0;
    uint32_t nbinned = 0;
    uint32_t naged = 0;

    for (uint32_t at = 1; at <= rc->nused; at++) {
        const runcache_node *node = &rc->nodes[at];

        if (node->run.n == 0)
            continue;
        nlent += node->slack != 0;
        nslack_pages += node->slack;
        nkept += node->slack == 0;
        nkept_pages += node->slack == 0 ? node->npages : 0;
    }
    for (uint32_t i = 0; i < 2 * RUNCACHE_BINS; i++) {
        uint32_t bin = i / 2;
        uint16_t at = rc->bins[i % 2][bin];

        if ((at != 0) != (rc->nonempty[i % 2][bin / 64] >> bin % 64 & 1))
            return false;
        for (; at != 0; at = rc->nodes[at].next, nbinned++) {
            if (rc->nodes[at].slack != 0 || bin_of(rc->nodes[at].npages) != bin || rc->nodes[at].noscan != (i % 2 == 1))
                return false;
        }
    }
    for (uint16_t at = rc->oldest; at != 0 && naged <= nkept; at = rc->nodes[at].newer)
        naged++;
    return nkept == nbinned && nkept == naged && nlent == rc->nlent && nkept_pages == rc->nkept_pages &&
           nslack_pages == rc->nslack_pages;
}
