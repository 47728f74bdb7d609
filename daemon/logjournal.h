/*
 * Logjournal: the way to systemd's journal, if stderr leads there.
 */
#ifndef GOALLOC_DAEMON_LOGJOURNAL_H
#define GOALLOC_DAEMON_LOGJOURNAL_H

#include <stdbool.h>
#include <stddef.h>

/* True if stderr is a stream to the journal: systemd has made it, and nobody has put something else in its place. */
bool logjournal_has_stderr(void);

/* Make a socket to send to the journal from, at the start. False: there is no journal to be seen, or no socket. */
bool logjournal_open(void);

/*
 * Send a record, without waiting. 0; LOGJOURNAL_E_LATER: the journal does not take it now, but may soon; -errno: it
 * never will.
 */
enum { LOGJOURNAL_E_LATER = 1 };
int logjournal_send(const char *bytes, size_t len_bytes) __attribute__((warn_unused_result));

#endif
