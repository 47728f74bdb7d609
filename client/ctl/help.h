/*
 * Help: what the tables of command.h say, for people and as JSON.
 */
#ifndef GOALLOC_CLIENT_CTL_HELP_H
#define GOALLOC_CLIENT_CTL_HELP_H

#include "client/ctl/command.h"

/* Of a command; NULL: of all. */
void help_show(const command *c, bool json);

/* A line. */
void help_usage(void);

#endif
