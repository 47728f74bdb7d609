/*
 * Estate: on whose account the pages are that a lease has left to nobody.
 *
 * Called by lease (a lease ends, or begins), mheap (a span is freed) and serve/users (an account goes). Calls nobody.
 * Data: private, a number in the link of each span, and by number the account and how many spans count on it.
 *
 * What a process holds counts on its user while it leases the spans. When a lease ends and objects in the span live, it
 * is a span of the heap that nobody leases. Without this file it would count on nobody: a user could fill the heap by
 * processes that allocate and die, or return full spans, one after the other, below every limit.
 *
 * A span counts on the account whose lease has ended last, with all of its pages, until it is leased again or freed. So
 * who leaves one object in a span has left the span; and who leases it has taken it over with what is in it. Both are
 * what it costs the others.
 *
 * An account may go before its spans do (users.c keeps those of many users, not of all): its number stays taken, and
 * means nobody, until they are gone. If there is no number left, spans count on nobody.
 *
 * Nothing here outlives the daemon: what its predecessors' sessions have left counts on nobody.
 *
 * Invariant: an account's held pages are those of the spans whose links have its number.
 */
#include "daemon/heap/estate.h"

#include <stdlib.h>

#define ESTATES_MAX UINT16_MAX

/* What one account has left. */
struct estate {
    lease_quota *quota; /* NULL: it has gone */
    uint64_t nspans;
};

struct estate_table {
    span_link *links;
    uint16_t search_from;
    struct estate estates[ESTATES_MAX + 1]; /* by number; 0 is nobody's. Sparse */
};

estate_table *estate_table_new(span_link *links)
{
    estate_table *table = calloc(1, sizeof(*table));

    if (table != NULL)
        table->links = links;
    return table;
}

estate_table *estate_table_free(estate_table *table)
{
    free(table);
    return NULL;
}

/* The account gets a number. NULL: there is none; the next search goes on behind those that this one has looked at. */
static struct estate *estate_open(estate_table *table, lease_quota *quota)
{
    for (unsigned i = 0; i < 64; i++) {
        struct estate *e;

        table->search_from = table->search_from == ESTATES_MAX ? 1 : (uint16_t)(table->search_from + 1);
        e = &table->estates[table->search_from];
        if (e->quota == NULL && e->nspans == 0) {
            e->quota = quota;
            return e;
        }
    }
    return NULL;
}

void estate_add(estate_table *table, page_no first, uint32_t npages, lease_quota *quota)
{
    if (quota == NULL)
        return;
    assert(table->links[first.n].estate == 0);
    if (quota->estate == NULL)
        quota->estate = estate_open(table, quota);
    if (quota->estate == NULL)
        return;
    table->links[first.n].estate = (uint16_t)(quota->estate - table->estates);
    quota->estate->nspans++;
    quota->nheld_pages += npages;
}

void estate_drop(estate_table *table, page_no first, uint32_t npages)
{
    struct estate *e = &table->estates[table->links[first.n].estate];

    if (table->links[first.n].estate == 0)
        return;
    table->links[first.n].estate = 0;
    e->nspans--;
    if (e->quota != NULL)
        e->quota->nheld_pages -= npages;
}

void estate_forget(lease_quota *quota)
{
    if (quota->estate != NULL)
        quota->estate->quota = NULL;
    quota->estate = NULL;
    quota->nheld_pages = 0;
}
