/*
 * Log: lines about what happens, to the journal with fields, or to stderr with times. To say one costs no wait, whoever
 * reads them, or doesn't.
 *
 * A line that has a subject (logrecord.h) begins with it, and says then what has happened to it: format goes on behind
 * the colon. Sizes have their unit behind them (KiB, MiB), times too (ms, s).
 */
#ifndef GOALLOC_DAEMON_LOG_H
#define GOALLOC_DAEMON_LOG_H

#include <stdio.h>

#include "daemon/logrecord.h"

/* Parse "error", "warn", "info" or "debug". False: it is none of these, and *ret is untouched. */
bool log_level_parse(const char *name, enum log_level *ret);

/* Which lines are said from here on. At any time, by any thread. */
void log_set_level(enum log_level level);

/*
 * From here on nobody who says something waits for who reads it. prepare() is called in the thread that writes, first
 * of all; NULL: nothing is. 0, -errno: lines are written as before, by who says them.
 */
int log_open(void (*prepare)(void)) __attribute__((warn_unused_result));

/* Write what has been said, for half a second at most, and end the thread. What is said later is not written. */
void log_close(void);

__attribute__((format(printf, 2, 3))) void log_line(enum log_level level, const char *format, ...);

/* A line that has a MESSAGE_ID, and the level of its event. subject NULL: it has none. */
__attribute__((format(printf, 3, 4))) void log_event(enum log_event kind, const log_subject *subject,
                                                     const char *format, ...);

/*
 * Lines that a client of the subject's user has caused: so many in a while (logquota.h), the others are counted. Both
 * with a subject that has a uid.
 */
__attribute__((format(printf, 3, 4))) void log_client_line(enum log_level level, const log_subject *subject,
                                                           const char *format, ...);
__attribute__((format(printf, 3, 4))) void log_client_event(enum log_event kind, const log_subject *subject,
                                                            const char *format, ...);

/* A stream whose lines go into the log, cut to a line's length. NULL: no memory. */
FILE *log_stream(enum log_level level);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#define log_client_warn(subject, ...)  log_client_line(LOG_LEVEL_WARN, subject, __VA_ARGS__)
#define log_client_debug(subject, ...) log_client_line(LOG_LEVEL_DEBUG, subject, __VA_ARGS__)

#endif
