/*
 * Ctl: what the commands of goallocctl share: asking the daemon, and printing.
 */
#ifndef GOALLOC_CLIENT_CTL_H
#define GOALLOC_CLIENT_CTL_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "proto/channel.h"
#include "proto/goallocd.pb-c.h"

typedef struct arguments {
    const char *socket_path;
    bool json;
    const char *command;
    int timeout_ms;
    bool timeout_given; /* by --timeout: it holds whatever the command does */
    deadline until;     /* by when the daemon must have answered all that the command asks */
} arguments;

/* What the daemon has without --timeout; and to release what is free, once it has shown that it answers. */
#define CTL_TIMEOUT_MS          5000
#define CTL_SCAVENGE_TIMEOUT_MS 60000

/*
 * Send a request and wait for its reply, which must be of that kind, until args->until; the caller frees it with
 * goallocd__reply__free_unpacked(). NULL: a message has been printed.
 */
Goallocd__Reply *ctl_ask(const arguments *args, Goallocd__Request *request, Goallocd__Reply__ResultCase kind);

/* "name   123456  120.6 KiB" */
void ctl_print_bytes(const char *name, uint64_t bytes);

/* The same number as people read it, such as "120.6 KiB", in one of four buffers that are used in turn. */
const char *ctl_bytes(uint64_t bytes);

/* Print object (taken; NULL: no memory, which a message says), and return the exit status of the command. */
int ctl_print_json(json_t *object);

/*
 * Copy text that a daemon shows, up to cap - 1 bytes, so that it is UTF-8 and no terminal takes it for a command:
 * control characters become '?', and if it is not UTF-8, all that is not ASCII. Returns ret.
 */
const char *ctl_plain_text(const char *text, char *ret, size_t cap);

/* Set a field of object to a number. False: no memory. */
bool ctl_json_set(json_t *object, const char *name, uint64_t value);

/* The commands. Each returns the exit status. */
int command_stats(const arguments *args);
int command_classes(const arguments *args);
int command_heap_map(const arguments *args);
int command_scavenge(const arguments *args);
int command_trim(const arguments *args);
int command_ping(const arguments *args);
int command_check(const arguments *args);
int command_sessions(const arguments *args);
int command_roots(const arguments *args);

#endif
