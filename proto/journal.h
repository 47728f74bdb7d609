/*
 * Journal: the way to systemd's journal, if stderr leads there, and its records.
 */
#ifndef GOALLOC_PROTO_JOURNAL_H
#define GOALLOC_PROTO_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>

/* True if stderr is a stream to the journal: systemd has made it, and nobody has put something else in its place. */
bool journal_has_stderr(void);

/* Make a socket to send to the journal from, at the start. False: there is no journal to be seen, or no socket. */
bool journal_open(void);

/*
 * Send a record, without waiting. 0; JOURNAL_E_LATER: the journal does not take it now, but may soon; -errno: it never
 * will.
 */
enum { JOURNAL_E_LATER = 1 };
int journal_send(const char *bytes, size_t len_bytes) __attribute__((warn_unused_result));

/*
 * Add a field to a record, of which `used` of size bytes are used, whatever the value is. Returns how many are used
 * then; a field for which there is no room is left out.
 */
size_t journal_add_field(char *bytes, size_t size, size_t used, const char *name, const char *value, size_t len_bytes);

#endif
