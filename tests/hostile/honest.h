/*
 * Honest: clients that do what clients should, check what is theirs, and measure.
 */
#ifndef GOALLOC_TESTS_HOSTILE_HONEST_H
#define GOALLOC_TESTS_HOSTILE_HONEST_H

#include "tests/hostile/board.h"
#include "tests/support/fixture.h"

#define HONEST_PERIOD_US 1000u /* a probe refills so often */

/* What entry i of the board is for. */
enum honest_kind honest_kind_of(unsigned i);

/* In a child process: be that client until the board says stop. Returns the exit status. */
int honest_run(const fixture *f, board *b, unsigned i);

/* As raw_call(), but waits for half a minute, for a daemon that is held up. NULL: disconnected. */
Goallocd__Reply *honest_call(int fd, Goallocd__Request *request);

#endif
