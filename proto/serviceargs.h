/*
 * Serviceargs: what the command lines of the services beside the daemon have in common: the exporter, the collector.
 */
#ifndef GOALLOC_PROTO_SERVICEARGS_H
#define GOALLOC_PROTO_SERVICEARGS_H

#include <argp.h>

#include "shm/limits.h"

/* A row of the table of options. Its key is 's'. */
#define SERVICEARGS_SOCKET                                                                                             \
    { "socket", 's', "PATH", 0, "The daemon's socket (default: $GOALLOC_SOCKET, else " SHM_SOCKET_PATH ")", 0 }

/* What a parser of options returns for a key that is none of its options: what is no option is refused. */
error_t serviceargs_other(int key, const char *arg, struct argp_state *state);

/* Parse. Exits with status 2 if the command line is wrong, 0 after --help and --version. */
void serviceargs_parse(const struct argp *argp, int argc, char **argv, void *options);

#endif
