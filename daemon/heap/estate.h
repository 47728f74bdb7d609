/*
 * Estate: on whose account the pages are that a lease has left to nobody.
 */
#ifndef GOALLOC_DAEMON_HEAP_ESTATE_H
#define GOALLOC_DAEMON_HEAP_ESTATE_H

#include "daemon/heap/quota.h"
#include "daemon/heap/spanlist.h"

typedef struct estate_table estate_table;

/* links is borrowed. NULL: no memory. estate_table_free() returns NULL. */
estate_table *estate_table_new(span_link *links);
estate_table *estate_table_free(estate_table *table);

/* A lease of the span has ended, and objects in it live: its pages count on quota (NULL: on nobody's). */
void estate_add(estate_table *table, page_no first, uint32_t npages, lease_quota *quota);

/* The span is leased again, or freed: its pages count on nobody's. */
void estate_drop(estate_table *table, page_no first, uint32_t npages);

/* The account goes: what counted on it counts on nobody's. */
void estate_forget(lease_quota *quota);

#endif
