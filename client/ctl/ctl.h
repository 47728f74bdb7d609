/*
 * Ctl: how goallocctl shows numbers and foreign text.
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

/* A number of bytes as people read it, such as "120.6 KiB", in one of four buffers that are used in turn. */
const char *ctl_bytes(uint64_t bytes);

/*
 * Copy text that a daemon shows, up to cap - 1 bytes, so that it is UTF-8 and no terminal takes it for a command:
 * control characters become '?', and if it is not UTF-8, all that is not ASCII. Returns ret.
 */
const char *ctl_plain_text(const char *text, char *ret, size_t cap);

/* The number that the len bytes at text are. False: they are none, or a larger one. */
bool ctl_number(const char *text, size_t len, uint32_t *ret);

/*
 * True if it shall be done: by --yes (yes), or because somebody at the terminal says so when asked. False: a message
 * has been printed.
 */
bool ctl_confirm(const char *question, bool yes);

/*
 * Print object and a newline. In its strings every control character is escaped, those that JSON lets stand too: DEL,
 * and those above ASCII, which terminals take for commands. False: no memory, or an error of stdout.
 */
bool ctl_json_print(const json_t *object);

/* Print text of a daemon's, which may have several lines, to out, as ctl_plain_text() shows each. */
void ctl_print_lines(const char *text, FILE *out);

/* Set a field of object to a number. False: no memory. */
bool ctl_json_set(json_t *object, const char *name, uint64_t value);

/* The same to a text, which is UTF-8. */
bool ctl_json_set_text(json_t *object, const char *name, const char *text);

/* Element i of a list in reply. NULL: no memory. */
typedef json_t *ctl_json_item(const Goallocd__Reply *reply, size_t i);

/*
 * Append the n elements of a list in reply to the list of that name in object, which is made if there is none. False:
 * no memory.
 */
bool ctl_json_append(json_t *object, const char *name, const Goallocd__Reply *reply, size_t n, ctl_json_item *item);

#endif
