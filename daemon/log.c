/*
 * Log: one line a call, one write a line. Called by everything in the daemon, from the thread of its loop.
 */
#include "daemon/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum log_level max_level = LOG_LEVEL_INFO;

static const struct {
    const char *name;
    const char *journal_prefix; /* syslog priority */
} levels[] = {
    [LOG_LEVEL_ERROR] = { "error", "<3>" },
    [LOG_LEVEL_WARN] = { "warn", "<4>" },
    [LOG_LEVEL_INFO] = { "info", "<6>" },
    [LOG_LEVEL_DEBUG] = { "debug", "<7>" },
};

bool log_level_parse(const char *name, enum log_level *ret)
{
    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        if (strcmp(name, levels[i].name) == 0) {
            *ret = (enum log_level)i;
            return true;
        }
    }
    return false;
}

void log_set_level(enum log_level level)
{
    max_level = level;
}

void log_line(enum log_level level, const char *format, ...)
{
    char line[1024];
    va_list args;
    int head;
    int body;
    size_t len;

    if (level > max_level)
        return;
    if (getenv("JOURNAL_STREAM") != NULL)
        head = snprintf(line, sizeof(line), "%s", levels[level].journal_prefix);
    else
        head = snprintf(line, sizeof(line), "goallocd: %s: ", levels[level].name);
    va_start(args, format);
    body = vsnprintf(line + head, sizeof(line) - (size_t)head - 1, format, args);
    va_end(args);
    if (body < 0)
        return;
    len = strlen(line);
    line[len++] = '\n';
    /* A log that can't be written is no reason to fail. */
    if (write(STDERR_FILENO, line, len) < 0)
        return;
}
