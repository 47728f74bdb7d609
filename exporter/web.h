/*
 * Web: HTTP, by libmicrohttpd: who is connected, for how long, and what they are answered.
 */
#ifndef GOALLOC_EXPORTER_WEB_H
#define GOALLOC_EXPORTER_WEB_H

#include "exporter/cache.h"

struct MHD_Daemon;
struct MHD_Connection;
struct web;

/* A connection. It is let go when it is neither asked nor read in time. */
typedef struct visitor {
    struct visitor *prev;
    struct visitor *next;
    struct MHD_Connection *connection;
    int fd;
    int64_t until_ms; /* INT64_MAX: it waits for the daemon, or was let go */
    bool waits;       /* for new pages */
    bool scrapes;     /* its request is for the metrics, */
    bool has_waited;  /* and the pages are there by now */
    enum format format;
} visitor;

typedef struct web {
    cache *cache;
    struct MHD_Daemon *http;
    visitor *visitors; /* the newest first */
    unsigned nvisitors;
    unsigned nvisitors_max;
    int timeout_ms;
    int64_t now_ms;
    char address[80]; /* as http://ADDRESS:PORT */
} web;

/* Listen on ADDRESS:PORT. 0, or -errno: a message has been printed; -EINVAL: it is none. */
int web_start(web *w, cache *c, const char *listen, unsigned connections, int timeout_ms);
void web_stop(web *w);

/* Has something to read when web_run() has something to do. */
int web_fd(const web *w);

/* When it has something to do whatever there is to read; INT64_MAX: never. */
int64_t web_wakes_ms(const web *w, int64_t now_ms);

/* Go on. */
void web_run(web *w, int64_t now_ms);

/* There are new pages: who waits gets one. */
void web_answer_all(web *w);

#endif
