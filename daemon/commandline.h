/*
 * Commandline: goallocd's command line.
 */
#ifndef GOALLOC_DAEMON_COMMANDLINE_H
#define GOALLOC_DAEMON_COMMANDLINE_H

#include "daemon/config.h"

/*
 * Parse argv, read the files, and put both together into *ret; *ret_source says how to do so again. Exits with status 2
 * and messages if anything is wrong, with status 0 after --help, --version, --check-config and --print-config.
 */
void commandline_parse(config_source *ret_source, options *ret, int argc, char **argv);

#endif
