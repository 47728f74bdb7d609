/*
 * Servicelog: says a line, and waits for the journal no longer than a write to stderr would.
 *
 * Called by the exporter and the collector, from one thread. Calls journal.c. Where lines go is settled by the first
 * one:
 *   no journal        "goallocd-exporter: ..." on stderr
 *   stderr is its     a datagram with fields; if the journal does not take it at once, or there is no socket,
 *                     "<6>..." on stderr, which it reads
 *
 * Names of mappings and programs, which any client chooses, may be in a line: so it is made plain here once more
 * (client/collector/trouble.h does it where such a sentence is made), and a value is one field whatever is in it.
 */
#include "proto/servicelog.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "proto/journal.h"

#define MESSAGE_BYTES 1024u
#define RECORD_BYTES  2048u

static const servicelog_row rows[SERVICELOG_EVENTS] = {
    [SERVICELOG_SERVICE_FAILED] = { "service-failed", "1e7a6c73e02c4568a7f9066a89fb31dc", "error", "3" },
    [SERVICELOG_PRIVILEGES_KEPT] = { "privileges-kept", "81577bd063ef49bcb0a0e532331a286c", "warn", "4" },
    [SERVICELOG_COLLECTOR_ATTACHED] = { "collector-attached", "c3ed222448334cf9b67f727a9d1270ad", "info", "6" },
    [SERVICELOG_COLLECTOR_UNATTACHED] = { "collector-unattached", "4fea9b0179314e17b99e4c6e3cd3d33d", "warn", "4" },
    [SERVICELOG_COLLECTOR_HEAP_GONE] = { "collector-heap-gone", "2ee844769d93464a9abfe0a7c14a5a1b", "info", "6" },
    [SERVICELOG_COLLECTOR_LEFT] = { "collector-left", "573a2ded34754a29a53ac83aeaef0a21", "info", "6" },
    [SERVICELOG_COLLECTED] = { "collected", "c5e685e116ed456da7bd8858d743e403", "info", "6" },
    [SERVICELOG_COLLECT_REFUSED] = { "collect-refused", "75fbf841b00742f0a16e4723194eea45", "warn", "4" },
    [SERVICELOG_EXPORTER_STARTED] = { "exporter-started", "c5e505c42e8e4276aa4cd08b9da92949", "info", "6" },
    [SERVICELOG_EXPORTER_NO_FIGURES] = { "exporter-no-figures", "aa4d36e24b8a42d09c9a1adc9593bd68", "warn", "4" },
    [SERVICELOG_EXPORTER_FIGURES] = { "exporter-figures", "54cf1cf530514155af6d2cec0ebb2c08", "info", "6" },
};

static enum { WAY_UNKNOWN, WAY_TEXT, WAY_STREAM, WAY_JOURNAL } way;

const servicelog_row *servicelog_row_of(enum servicelog_event event)
{
    return &rows[event];
}

static void make_plain(char *text)
{
    for (; *text != '\0'; text++) {
        if (*text < ' ' || *text > '~')
            *text = '?';
    }
}

static size_t add(char record[RECORD_BYTES], size_t used, const char *name, const char *value)
{
    return journal_add_field(record, RECORD_BYTES, used, name, value, strlen(value));
}

static bool send_record(const servicelog_row *row, const servicelog_about *about, const char *message)
{
    char record[RECORD_BYTES];
    char number[24];
    size_t n = add(record, 0, "MESSAGE", message);

    n = add(record, n, "PRIORITY", row->priority);
    n = add(record, n, "SYSLOG_IDENTIFIER", program_invocation_short_name);
    n = add(record, n, "MESSAGE_ID", row->message_id);
    n = add(record, n, "GOALLOC_EVENT", row->name);
    if (about->pid > 0) {
        (void)snprintf(number, sizeof(number), "%d", (int)about->pid);
        n = add(record, n, "GOALLOC_PID", number);
    }
    if (about->heap != 0) {
        (void)snprintf(number, sizeof(number), "%016llx", (unsigned long long)about->heap);
        n = add(record, n, "GOALLOC_HEAP", number);
    }
    return journal_send(record, n) == 0;
}

void servicelog_say(enum servicelog_event event, const servicelog_about *about, const char *format, ...)
{
    static const servicelog_about nothing;
    const servicelog_row *row = &rows[event];
    char message[MESSAGE_BYTES] = "";
    va_list args;

    va_start(args, format);
    (void)vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    make_plain(message);
    if (way == WAY_UNKNOWN)
        way = !journal_has_stderr() ? WAY_TEXT : journal_open() ? WAY_JOURNAL : WAY_STREAM;
    if (way == WAY_JOURNAL && send_record(row, about != NULL ? about : &nothing, message))
        return;
    if (way == WAY_TEXT)
        (void)fprintf(stderr, "%s: %s\n", program_invocation_short_name, message);
    else
        (void)fprintf(stderr, "<%s>%s\n", row->priority, message);
}
