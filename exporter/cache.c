/*
 * Cache: the page that scrapers get, and when the daemon is asked for another one.
 *
 * Called by main (the loop) and web.c (a scrape comes). Calls query and metrics. Data: the pages, one a format.
 *
 *     a scrape comes -> the page is younger than --cache          -> it gets that
 *                    -> else a query begins, unless one is under way, and the scrape waits with all others that come
 *     the answer     -> a page with goallocd_up 1
 *     no connection, or what comes is no answer                   -> a page with goallocd_up 0
 *     no answer within --timeout                                  -> the same, and who comes next gets it at once
 *
 * A page with goallocd_up 0 has nothing else of the daemon: what it said before is never served as if it held still.
 * It is served for as long as others are, so that many scrapers do not make many attempts. A query that is overdue is
 * not ended (query.c): its answer, whenever it comes, is as fresh as any.
 */
#include "exporter/cache.h"

#include <stdlib.h>
#include <string.h>

#include "proto/servicelog.h"

#define CONNECT_AGAIN_MS 50

void cache_init(cache *c, const char *socket_path, int age_ms, int timeout_ms, unsigned groups_max)
{
    memset(c, 0, sizeof(*c));
    query_init(&c->query, socket_path);
    c->age_ms = age_ms;
    c->timeout_ms = timeout_ms;
    c->groups_max = groups_max;
    c->was_up = true;
}

void cache_end(cache *c)
{
    query_end(&c->query);
    for (size_t i = 0; i < FORMATS; i++)
        free(c->pages[i].text);
}

/* New pages. Without memory for one it is empty, which web.c answers with an error. */
static void write_pages(cache *c, const figures *seen, int64_t now_ms)
{
    for (size_t i = 0; i < FORMATS; i++) {
        page *p = &c->pages[i];
        exposition x;

        free(p->text);
        *p = (page){ NULL, 0 };
        if (!exposition_begin(&x, (enum format)i))
            continue;
        metrics_write(&x, seen, &c->floors, &c->counts, c->groups_max);
        p->text = exposition_take(&x, &p->len);
    }
    c->until_ms = now_ms + c->age_ms;
}

/* The log has a line when the daemon goes, and one when it comes back. */
static void tell(cache *c, bool up, const char *why)
{
    if (!up && c->was_up)
        servicelog_say(SERVICELOG_EXPORTER_NO_FIGURES, NULL, "no figures from %s: %s", c->query.path, why);
    if (up && !c->was_up)
        servicelog_say(SERVICELOG_EXPORTER_FIGURES, NULL, "%s answers again", c->query.path);
    c->was_up = up;
}

static void fail(cache *c, enum query_failure why, int error, int64_t now_ms)
{
    static const char *const texts[QUERY_FAILURES] = { [QUERY_CONNECT] = "no connection",
                                                       [QUERY_TIMEOUT] = "the daemon does not answer",
                                                       [QUERY_CLOSED] = "the connection has ended",
                                                       [QUERY_NOT_UNDERSTOOD] = "the answer was not understood" };

    c->counts.failures[why]++;
    tell(c, false, why == QUERY_CONNECT && error != 0 ? strerror(error) : texts[why]);
    write_pages(c, NULL, now_ms);
}

/* True: there are new pages. */
static bool take(cache *c, enum query_result result, int64_t now_ms)
{
    if (result == QUERY_ANSWERED) {
        tell(c, true, NULL);
        floors_raise(&c->floors, c->query.figures.stats);
        write_pages(c, &c->query.figures, now_ms);
        return true;
    }
    if (result == QUERY_FAILED) {
        if (!c->overdue) /* else it has failed already */
            fail(c, c->query.failure, c->query.error, now_ms);
        return true;
    }
    if (c->overdue || now_ms < c->deadline_ms)
        return false;
    c->overdue = !query_give_up(&c->query);
    fail(c, QUERY_TIMEOUT, 0, now_ms);
    return true;
}

bool cache_scrape(cache *c, int64_t now_ms)
{
    c->counts.scrapes++;
    if (now_ms < c->until_ms)
        return true;
    if (c->query.state != QUERY_IDLE)
        return c->overdue;
    c->overdue = false;
    c->deadline_ms = now_ms + c->timeout_ms;
    c->counts.queries++;
    return take(c, query_begin(&c->query), now_ms);
}

bool cache_step(cache *c, int64_t now_ms)
{
    return c->query.state != QUERY_IDLE && take(c, query_step(&c->query), now_ms);
}

int64_t cache_wakes_ms(const cache *c, int64_t now_ms)
{
    if (c->query.state == QUERY_IDLE || c->overdue)
        return INT64_MAX;
    if (c->query.state == QUERY_CONNECTING && now_ms + CONNECT_AGAIN_MS < c->deadline_ms)
        return now_ms + CONNECT_AGAIN_MS;
    return c->deadline_ms;
}
