/*
 * Logevent: the kinds of events that an operator searches the log for, one table of all: name, level, MESSAGE_ID.
 */
#ifndef GOALLOC_DAEMON_LOGEVENT_H
#define GOALLOC_DAEMON_LOGEVENT_H

#include <stdbool.h>
#include <stddef.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

enum log_event {
    LOG_EVENT_NONE = 0, /* a line that nobody searches for: it has no MESSAGE_ID */
    LOG_EVENT_STARTED,
    LOG_EVENT_STOPPING,
    LOG_EVENT_NEW_HEAP,
    LOG_EVENT_TAKEOVER,
    LOG_EVENT_TAKEOVER_COUNTED,
    LOG_EVENT_TAKEOVER_REFUSED,
    LOG_EVENT_HEAP_DROPPED,
    LOG_EVENT_HEAP_UNHELD,
    LOG_EVENT_HEAP_DAMAGED,
    LOG_EVENT_IMAGE_LOADED,
    LOG_EVENT_IMAGE_REFUSED,
    LOG_EVENT_IMAGE_SAVED,
    LOG_EVENT_IMAGE_NOT_SAVED,
    LOG_EVENT_KEEPER_LOST,
    LOG_EVENT_KEEPER_STARTED,
    LOG_EVENT_SESSION_OPENED,
    LOG_EVENT_SESSION_LOST,
    LOG_EVENT_SESSION_BACK,
    LOG_EVENT_SESSION_ENDED,
    LOG_EVENT_SESSION_DIED,
    LOG_EVENT_SESSION_DISCONNECTED,
    LOG_EVENT_LIMIT_REACHED,
    LOG_EVENT_GROWTH_REFUSED,
    LOG_EVENT_REFUSED_MORE,
    LOG_EVENT_MEMORY_OVER_LIMIT,
    LOG_EVENT_CLIENT_VIOLATION,
    LOG_EVENT_CLIENT_REFUSED,
    LOG_EVENT_RELEASE_STUCK,
    LOG_EVENT_RELEASE_AGAIN,
    LOG_EVENT_HELPER_LOST,
    LOG_EVENT_RELOADED,
    LOG_EVENT_RELOAD_REFUSED,
    LOG_EVENT_LINES_DROPPED,
    LOG_EVENT_LINES_LEFT_OUT,
    LOG_EVENTS
};

typedef struct logevent_row {
    const char *name;
    const char *message_id; /* 32 hexadecimal digits, for ever; no other event has had them */
    enum log_level level;
} logevent_row;

/* The row of an event, not LOG_EVENT_NONE. */
const logevent_row *logevent_row_of(enum log_event event);

#endif
