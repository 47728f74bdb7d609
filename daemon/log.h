/*
 * Log: lines on stderr, with the priority prefix that the journal understands when it is listening.
 */
#ifndef GOALLOC_DAEMON_LOG_H
#define GOALLOC_DAEMON_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Parse "error", "warn", "info" or "debug". False: it is none of these, and *ret is untouched. */
bool log_level_parse(const char *name, enum log_level *ret);
void log_set_level(enum log_level level);

__attribute__((format(printf, 1, 2))) void log_error(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_warn(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_info(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_debug(const char *format, ...);

#endif
