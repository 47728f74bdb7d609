/*
 * Logrecord: makes the bytes of a line: for people, or for the journal.
 *
 * Called by log.c, in whatever thread says something. Calls the table of events. Data: the caller's; no memory is
 * taken. The time is UTC: it is the same wherever it is read, and no file of a time zone is.
 *
 *   text      2026-11-22T11:40:03.127Z goallocd: warn: session 7 (pid 412, uid 1000, 'worker'): limit ...
 *   stream    <4>session 7 (pid 412, uid 1000, 'worker'): limit ...
 *   datagram  MESSAGE=session 7 ..., PRIORITY=4, SYSLOG_IDENTIFIER=goallocd, MESSAGE_ID=..., GOALLOC_SESSION=7, ...
 *
 * A datagram is the journal's native protocol (proto/journal.c).
 *
 * Clients choose labels and groups' names, and whoever reads the log should not fall for them. Three things see to
 * that, each by itself:
 *   1. What is said is made plain (make_plain): UTF-8 alone, and no characters that control a terminal, end a line or
 *      turn its direction. So no name begins a line, or a field, or writes elsewhere on a screen.
 *   2. Names stand between quotes, in which a quote and a backslash have a backslash before them. So no name ends
 *      early, to go on as if the daemon said it.
 *   3. A value that has newlines all the same goes with its length, so it is one field whatever it contains.
 *
 * Bounds: a message is cut to LOGRECORD_MESSAGE_BYTES, a name to NAME_BYTES; so everything fits into LOGRECORD_BYTES.
 */
#include "daemon/logrecord.h"

#include <stdio.h>
#include <string.h>
#include <unistr.h>

#include "proto/journal.h"

#define NAME_BYTES 128u /* of a name that is shown */

static const struct {
    const char *name;
    const char *priority; /* syslog's */
} levels[] = {
    [LOG_LEVEL_ERROR] = { "error", "3" },
    [LOG_LEVEL_WARN] = { "warn", "4" },
    [LOG_LEVEL_INFO] = { "info", "6" },
    [LOG_LEVEL_DEBUG] = { "debug", "7" },
};

/* --- text that can be shown --- */

/* True if a terminal shows the character where it stands, and nothing else happens. */
static bool is_plain(ucs4_t c)
{
    if (c < 0x20 || (c >= 0x7f && c <= 0x9f))
        return false;                                   /* control characters, ESC and CSI among them */
    return c != 0x061c && (c < 0x200e || c > 0x200f) && /* marks of direction */
           (c < 0x2028 || c > 0x202e) &&                /* ends of lines and paragraphs, turns of direction */
           (c < 0x2066 || c > 0x2069) && c != 0xfeff && /* turns of direction, an invisible mark */
           (c < 0xfff9 || c > 0xfffb);                  /* annotations */
}

/* In place: white space is a space, what is no UTF-8 or not plain becomes '?'. The text does not become longer. */
static void make_plain(char *text)
{
    size_t left = strlen(text);
    const uint8_t *from = (const uint8_t *)text;
    char *to = text;

    while (left > 0) {
        ucs4_t c;
        int n = u8_mbtoucr(&c, from, left);
        size_t nbytes = n > 0 ? (size_t)n : 1;

        if (*from == '\n' || *from == '\t') {
            *to++ = ' ';
        } else if (n > 0 && is_plain(c)) {
            memmove(to, from, nbytes);
            to += nbytes;
        } else {
            *to++ = '?';
        }
        from += nbytes;
        left -= nbytes;
    }
    *to = '\0';
}

/* A name in quotes, behind what is in text already; what has no room is left out. */
static void add_quoted(char *text, size_t size, const char *before, const char *name)
{
    size_t at = strlen(text) + strlen(before);

    (void)strncat(text, before, size - 1 - strlen(text));
    for (size_t i = 0; i < NAME_BYTES && name[i] != '\0' && at + 3 < size; i++) {
        if (name[i] == '\'' || name[i] == '\\')
            text[at++] = '\\';
        text[at++] = name[i];
    }
    if (at + 1 < size)
        text[at++] = '\'';
    text[at < size ? at : size - 1] = '\0';
}

static bool has_name(const char *name)
{
    return name != NULL && name[0] != '\0';
}

/* "session 7 (pid 412, uid 1000, 'worker', group 'pool'): ", "pid 412 (uid 1000): ", "uid 1000: ", or nothing. */
static void name_subject(const log_subject *s, char *text, size_t size)
{
    char uid[24] = "";

    if (s->has_uid)
        (void)snprintf(uid, sizeof(uid), "uid %u", s->uid);
    if (s->session == 0) {
        if (s->pid != 0)
            (void)snprintf(text, size, s->has_uid ? "pid %u (%s): " : "pid %u%s: ", s->pid, uid);
        else if (s->has_uid)
            (void)snprintf(text, size, "%s: ", uid);
        return;
    }
    (void)snprintf(text, size, "session %u (pid %u%s%s", s->session, s->pid, s->has_uid ? ", " : "", uid);
    if (has_name(s->label))
        add_quoted(text, size, ", '", s->label);
    if (has_name(s->group))
        add_quoted(text, size, ", group '", s->group);
    (void)strncat(text, "): ", size - 1 - strlen(text));
}

void logrecord_say(logrecord *r, const char *format, va_list args)
{
    size_t len;

    r->message[0] = '\0';
    name_subject(r->subject, r->message, sizeof(r->message));
    len = strlen(r->message);
    if (vsnprintf(r->message + len, sizeof(r->message) - len, format, args) < 0)
        r->message[len] = '\0';
    make_plain(r->message);
}

/* --- the journal's fields --- */

typedef struct fields {
    char *bytes;
    size_t used;
} fields;

static void add_text(fields *f, const char *name, const char *value)
{
    f->used = journal_add_field(f->bytes, LOGRECORD_BYTES, f->used, name, value, strlen(value));
}

static void add_name(fields *f, const char *name, const char *value)
{
    char plain[NAME_BYTES];

    if (!has_name(value))
        return;
    (void)snprintf(plain, sizeof(plain), "%s", value);
    make_plain(plain);
    add_text(f, name, plain);
}

static void add_number(fields *f, const char *name, uint64_t value, bool is_there)
{
    char text[24];

    if (!is_there)
        return;
    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    add_text(f, name, text);
}

static size_t write_datagram(const logrecord *r, char ret[LOGRECORD_BYTES])
{
    const log_subject *s = r->subject;
    fields f = { .bytes = ret };
    char heap[24];

    add_text(&f, "MESSAGE", r->message);
    add_text(&f, "PRIORITY", levels[r->level].priority);
    add_text(&f, "SYSLOG_IDENTIFIER", "goallocd");
    if (r->event != LOG_EVENT_NONE) {
        add_text(&f, "MESSAGE_ID", logevent_row_of(r->event)->message_id);
        add_text(&f, "GOALLOC_EVENT", logevent_row_of(r->event)->name);
    }
    add_number(&f, "GOALLOC_SESSION", s->session, s->session != 0);
    add_number(&f, "GOALLOC_PID", s->pid, s->pid != 0);
    add_number(&f, "GOALLOC_UID", s->uid, s->has_uid);
    add_name(&f, "GOALLOC_LABEL", s->label);
    add_name(&f, "GOALLOC_GROUP", s->group);
    add_name(&f, "GOALLOC_LIMIT", s->limit);
    if (s->heap != 0) {
        (void)snprintf(heap, sizeof(heap), "%016llx", (unsigned long long)s->heap);
        add_text(&f, "GOALLOC_HEAP", heap);
    }
    return f.used;
}

/* --- text --- */

static size_t write_text(const logrecord *r, char ret[LOGRECORD_BYTES])
{
    struct tm tm = { .tm_mday = 1 };
    char seconds[32];

    (void)gmtime_r(&r->time.tv_sec, &tm);
    (void)strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &tm);
    return (size_t)snprintf(ret, LOGRECORD_BYTES, "%s.%03ldZ goallocd: %s: %s\n", seconds, r->time.tv_nsec / 1000000,
                            levels[r->level].name, r->message);
}

size_t logrecord_write(const logrecord *r, enum logrecord_form form, char ret[LOGRECORD_BYTES])
{
    switch (form) {
    case LOGRECORD_DATAGRAM:
        return write_datagram(r, ret);
    case LOGRECORD_STREAM:
        return (size_t)snprintf(ret, LOGRECORD_BYTES, "<%s>%s\n", levels[r->level].priority, r->message);
    default:
        return write_text(r, ret);
    }
}
