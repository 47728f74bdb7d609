/*
 * Log: lines on stderr, with the priority prefix that the journal understands when it is listening. To say one costs no
 * wait, whoever reads stderr, or doesn't.
 */
#ifndef GOALLOC_DAEMON_LOG_H
#define GOALLOC_DAEMON_LOG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Parse "error", "warn", "info" or "debug". False: it is none of these, and *ret is untouched. */
bool log_level_parse(const char *name, enum log_level *ret);
void log_set_level(enum log_level level);

/*
 * From here on nobody who says something waits for who reads it. prepare() is called in the thread that writes, first
 * of all; NULL: nothing is. 0, -errno: lines are written as before, by who says them.
 */
int log_open(void (*prepare)(void)) __attribute__((warn_unused_result));

/* Write what has been said, for half a second at most, and end the thread. What is said later is not written. */
void log_close(void);

__attribute__((format(printf, 2, 3))) void log_line(enum log_level level, const char *format, ...);

/* A line that a client of that user has caused: one of so many in a while (logquota.h), the others are counted. */
__attribute__((format(printf, 3, 4))) void log_client_line(enum log_level level, uint32_t uid, const char *format, ...);

/* A stream whose lines go into the log, cut to a line's length. NULL: no memory. */
FILE *log_stream(enum log_level level);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#define log_client_warn(uid, ...)  log_client_line(LOG_LEVEL_WARN, uid, __VA_ARGS__)
#define log_client_debug(uid, ...) log_client_line(LOG_LEVEL_DEBUG, uid, __VA_ARGS__)

#endif
