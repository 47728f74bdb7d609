/*
 * Cmdline: what the command line says.
 */
#ifndef GOALLOC_CLIENT_CTL_CMDLINE_H
#define GOALLOC_CLIENT_CTL_CMDLINE_H

#include "client/ctl/command.h"

/* What goallocctl has without --timeout. */
#define CMDLINE_TIMEOUT_MS 5000

/*
 * Parse it into *ret, by the tables of command.h. Returns the command. Does not return from a wrong command line, nor
 * from --help and --version.
 */
const command *cmdline_parse(int argc, char **argv, arguments *ret);

#endif
