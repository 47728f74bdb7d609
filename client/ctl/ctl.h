/*
 * Ctl: how goallocctl shows numbers and foreign text.
 */
#ifndef GOALLOC_CLIENT_CTL_H
#define GOALLOC_CLIENT_CTL_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

/* "name   123456  120.6 KiB" */
void ctl_print_bytes(const char *name, uint64_t bytes);

/* The same number as people read it, such as "120.6 KiB", in one of four buffers that are used in turn. */
const char *ctl_bytes(uint64_t bytes);

/*
 * Copy text that a daemon shows, up to cap - 1 bytes, so that it is UTF-8 and no terminal takes it for a command:
 * control characters become '?', and if it is not UTF-8, all that is not ASCII. Returns ret.
 */
const char *ctl_plain_text(const char *text, char *ret, size_t cap);

/* Set a field of object to a number. False: no memory. */
bool ctl_json_set(json_t *object, const char *name, uint64_t value);

/* The list of that name in object, which owns it; a new one is empty. NULL: no memory. */
json_t *ctl_json_list(json_t *object, const char *name);

#endif
