/*
 * Servicelog: the lines of the services beside the daemon, the exporter and the collector: to the journal with fields,
 * as the daemon's (daemon/log.h), or to stderr. The daemon has a log of its own, which waits for nobody; these have one
 * thread, few lines, and nobody who waits for them.
 */
#ifndef GOALLOC_PROTO_SERVICELOG_H
#define GOALLOC_PROTO_SERVICELOG_H

#include <stdint.h>
#include <sys/types.h>

/* The kinds of lines that an operator searches for. docs/OPERATOR.md has the table. */
enum servicelog_event {
    SERVICELOG_SERVICE_FAILED,
    SERVICELOG_PRIVILEGES_KEPT,
    SERVICELOG_COLLECTOR_ATTACHED,
    SERVICELOG_COLLECTOR_UNATTACHED,
    SERVICELOG_COLLECTOR_HEAP_GONE,
    SERVICELOG_COLLECTOR_LEFT,
    SERVICELOG_COLLECTED,
    SERVICELOG_COLLECT_REFUSED,
    SERVICELOG_EXPORTER_STARTED,
    SERVICELOG_EXPORTER_NO_FIGURES,
    SERVICELOG_EXPORTER_FIGURES,
    SERVICELOG_EVENTS
};

typedef struct servicelog_row {
    const char *name;
    const char *message_id; /* 32 hexadecimal digits, for ever; no other event has had them, of the daemon's neither */
    const char *level;      /* "error", "warn", "info" */
    const char *priority;   /* syslog's */
} servicelog_row;

const servicelog_row *servicelog_row_of(enum servicelog_event event);

/* What a line is about. Zeroed: nothing in particular. */
typedef struct servicelog_about {
    pid_t pid;     /* the process in the way */
    uint64_t heap; /* its number */
} servicelog_about;

/* Say it. What is not printable ASCII becomes '?'. about NULL: zeroed. */
__attribute__((format(printf, 3, 4))) void servicelog_say(enum servicelog_event event, const servicelog_about *about,
                                                          const char *format, ...);

#endif
