/*
 * Ctl: how goallocctl shows numbers and foreign text, and how it fails.
 */
#ifndef GOALLOC_CLIENT_CTL_H
#define GOALLOC_CLIENT_CTL_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "proto/goallocd.pb-c.h"

/* --- failing --- */

/* What goallocctl exits with. Programs rely on these numbers. */
enum ctl_status {
    CTL_OK = 0,
    CTL_FAILED = 1,   /* the daemon refused, did not answer in time, or found that its tables differ; nobody agreed */
    CTL_USAGE = 2,    /* a wrong command line */
    CTL_NO_DAEMON = 3 /* no daemon serves the socket */
};

/* Why; each has a name that --json shows, and a status. */
enum ctl_error {
    CTL_E_USAGE,
    CTL_E_NO_DAEMON,
    CTL_E_TIMEOUT,
    CTL_E_CONNECTION, /* the socket can't be connected to, or the connection was lost */
    CTL_E_REFUSED,    /* by the daemon */
    CTL_E_NOT_UNDERSTOOD,
    CTL_E_NOT_CONFIRMED,
    CTL_E_KEEPER,
    CTL_E_IMAGE,
    CTL_E_MEMORY,
    CTL_E_OUTPUT,
    CTL_ERRORS
};

/* One line for each exit status, for people. NULL: there is none of that number. */
const char *ctl_status_text(int status);

/* From now on errors are shown as JSON, too: an object on stdout with a member "error". */
void ctl_errors_as_json(void);

/*
 * Say that it has failed: a sentence on stderr, which may hold foreign text, and the object if errors are shown as
 * JSON. number: the errno that the daemon has answered, else 0. Returns the exit status.
 */
int ctl_fail(enum ctl_error why, int number, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* True if ctl_fail() has been called. */
bool ctl_has_failed(void);

/* --- numbers --- */

/* A number of bytes as people read it, such as "120.6 KiB", in one of eight buffers that are used in turn. */
const char *ctl_bytes(uint64_t bytes);

/* The same for tables, in at most 7 columns: "120.6K". */
const char *ctl_size(uint64_t bytes);

/* A number in at most 10 columns: in units of 1000 if it has more digits. */
const char *ctl_count(uint64_t n);

/* The same in at most 6 columns. */
const char *ctl_short(uint64_t n);

/* A time in at most 6 columns: "12s", "5m03s", "3h12m", "4d03h", "4321d". */
const char *ctl_age(uint64_t ms);

/* The number that the len bytes at text are. False: they are none, or a larger one. */
bool ctl_number(const char *text, size_t len, uint32_t *ret);

/* --- foreign text --- */

/*
 * Copy text that a daemon shows, up to cap - 1 bytes, so that it is UTF-8 and no terminal takes any of it for a
 * command: what is no UTF-8, and each character that controls, directs or has no shape of its own, becomes '?'. Returns
 * ret.
 */
const char *ctl_plain_text(const char *text, char *ret, size_t cap);

/* Cut UTF-8 text to at most that many columns; the last one is '+' if something is missing. Returns it. */
char *ctl_fit(char *text, size_t columns);

/* The same to exactly that many columns, with blanks behind it; cap is the size of the buffer. */
char *ctl_pad(char *text, size_t cap, size_t columns);

/*
 * Columns that a line of a table may take: as --width says (ctl_set_width), else what the terminal has, else $COLUMNS;
 * in a pipe, as long as the line is.
 */
void ctl_set_width(size_t columns);
size_t ctl_width(void);

/* Print a line of a table, and a newline, cut to ctl_width(). */
void ctl_print_row(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Print text of a daemon's, which may have several lines, to out, as ctl_plain_text() shows each. */
void ctl_print_lines(const char *text, FILE *out);

/*
 * True if it shall be done: by --yes (yes), or because somebody at the terminal says so when asked. False: ctl_fail()
 * has said so.
 */
bool ctl_confirm(const char *question, bool yes);

/* --- JSON --- */

/*
 * Print object and a newline; in one line if it is one of several. In its strings every character that
 * ctl_plain_text() would replace is escaped, those that JSON lets stand too. False: no memory, or an error of stdout.
 */
bool ctl_json_print(const json_t *object);
bool ctl_json_print_line(const json_t *object);

/* Set a field of object to a number. False: no memory. */
bool ctl_json_set(json_t *object, const char *name, uint64_t value);

/* The same to a text, which is UTF-8. */
bool ctl_json_set_text(json_t *object, const char *name, const char *text);

/* The same to text of a daemon's, as ctl_plain_text() shows it if it is not UTF-8. */
bool ctl_json_set_foreign(json_t *object, const char *name, const char *text);

/* Element i of a list in reply. NULL: no memory. */
typedef json_t *ctl_json_item(const Goallocd__Reply *reply, size_t i);

/*
 * Append the n elements of a list in reply to the list of that name in object, which is made if there is none. False:
 * no memory.
 */
bool ctl_json_append(json_t *object, const char *name, const Goallocd__Reply *reply, size_t n, ctl_json_item *item);

#endif
