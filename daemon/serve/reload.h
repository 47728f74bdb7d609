/*
 * Reload: the configuration is read again, and what can change changes.
 */
#ifndef GOALLOC_DAEMON_SERVE_RELOAD_H
#define GOALLOC_DAEMON_SERVE_RELOAD_H

#include "daemon/serve/service.h"

struct config_source;
struct options;
struct reload_job;

/* What a reload needs; main has it, for as long as the process lives. */
typedef struct reload_setup {
    const struct config_source *source;
    struct options *running; /* what holds now; the loop's own from the start of the server on */
    bool (*keeps_on_stop)(const struct options *o);
} reload_setup;

typedef struct reload {
    service *srv;
    const reload_setup *setup; /* NULL: there is nothing to read */
    bool *keep_on_stop;        /* the server's */
    uv_async_t done;
    struct reload_job *job; /* under way; NULL: none */
    bool again;             /* somebody has asked since it began */
} reload;

/* r is zeroed. 0, or an error of libuv's. */
int reload_start(reload *r, service *srv, const reload_setup *setup, bool *keep_on_stop)
    __attribute__((warn_unused_result));

/* The loop stops: what is being read does not matter any more. The handle is closed by whoever closes the loop's. */
void reload_stop(reload *r);

/* Read it again, after what is being read. All who wait for it (OPERATION_WAITING, ROUND_RELOAD) are answered. */
void reload_ask(reload *r);

answer handle_reload(client *c, const Goallocd__Request *request);

#endif
