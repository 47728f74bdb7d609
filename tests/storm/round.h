/*
 * Round: one storm, with a daemon of its own, from its start to the audit. audit.c: what must be there at the end.
 */
#ifndef GOALLOC_TESTS_STORM_ROUND_H
#define GOALLOC_TESTS_STORM_ROUND_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/support/fixture.h"

/* Storm for so many seconds, and audit. False: a message has said what is wrong. */
bool round_run(unsigned number, unsigned seconds);

/* A signal has asked for an end: the round fails soon. */
void round_interrupt(void);

/*
 * All processes of the round have ended. Checks and frees everything; the heap must be empty then, but for objects
 * that threads had been given when they were killed and had not yet noted. False: a message has said what is wrong.
 */
bool audit_run(const fixture *f);

#endif
