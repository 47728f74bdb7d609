/*
 * Cache: the page that scrapers get, and when the daemon is asked for another one.
 */
#ifndef GOALLOC_EXPORTER_CACHE_H
#define GOALLOC_EXPORTER_CACHE_H

#include <stddef.h>

#include "exporter/metrics.h"

/* A text in one format. */
typedef struct page {
    char *text;
    size_t len;
} page;

typedef struct cache {
    query query;
    int age_ms;     /* for so long a page is served */
    int timeout_ms; /* and for so long it is waited for */
    unsigned groups_max;
    int64_t until_ms;    /* the page is served to then */
    int64_t deadline_ms; /* of the query that is under way */
    bool overdue;        /* that has passed, and nobody waits for it any more */
    bool was_up;         /* for the log */
    exporter_counts counts;
    floors floors;
    page pages[FORMATS];
} cache;

void cache_init(cache *c, const char *socket_path, int age_ms, int timeout_ms, unsigned groups_max);
void cache_end(cache *c);

/* Somebody scrapes. True: the pages are what to serve. False: they will be when cache_step() is true. */
bool cache_scrape(cache *c, int64_t now_ms);

/* Go on: there is something to read, or time has passed. True: there are new pages. */
bool cache_step(cache *c, int64_t now_ms);

/* Has something to read when there is something to do; -1: only time tells. */
static inline int cache_fd(const cache *c)
{
    return query_fd(&c->query);
}

/* When cache_step() has something to do whatever there is to read; INT64_MAX: never. */
int64_t cache_wakes_ms(const cache *c, int64_t now_ms);

#endif
