/*
 * Options: goallocd's command line.
 */
#ifndef GOALLOC_DAEMON_OPTIONS_H
#define GOALLOC_DAEMON_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/access.h"
#include "daemon/limits.h"
#include "daemon/log.h"
#include "daemon/privileges.h"

/* What becomes of the heap when the daemon is stopped. */
enum on_stop {
    ON_STOP_DEFAULT = 0, /* kept if somebody else holds it, else dropped */
    ON_STOP_KEEP,
    ON_STOP_DROP,
};

typedef struct options {
    const char *socket_path;
    uint64_t reserve_bytes;
    uint64_t base;
    uint64_t max_memory_bytes; /* 0: none */
    uint64_t memory_limit_bytes; /* 0: none */
    bool eager_commit;
    bool huge_pages; /* wanted, where the system has them */
    bool scavtrace;
    bool cold_start;
    bool check_takeover; /* look, and don't serve */
    const char *state_dir; /* NULL: none */
    enum on_stop on_stop;
    enum log_level log_level;
    access_policy access;
    bool has_control_group; /* it was said which one, or none */
    enum privileges_filter filter;
    limits limits; /* of clients */
} options;

/*
 * Parse argv into *ret, with defaults for what is not given. Exits with status 2 and a message if anything is wrong,
 * with status 0 after --help and --version.
 */
void options_parse(options *ret, int argc, char **argv);

#endif
