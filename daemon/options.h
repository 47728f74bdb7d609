/*
 * Options: what an administrator can say, on the command line or in files. One table of all: name, key, text, default,
 * section of the files, and whether a reload changes it.
 */
#ifndef GOALLOC_DAEMON_OPTIONS_H
#define GOALLOC_DAEMON_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/access.h"
#include "daemon/limits.h"
#include "daemon/log.h"
#include "daemon/privileges.h"

#define OPTIONS_MAX      72u  /* rows of the table */
#define OPTION_WHY_BYTES 256u /* of a sentence that says what is wrong */

/* What becomes of the heap when the daemon is stopped. */
enum on_stop {
    ON_STOP_AUTO = 0, /* kept if somebody else holds it, else dropped */
    ON_STOP_KEEP,
    ON_STOP_DROP,
};

/* The sections of a file, in its order; and what only the command line has. */
enum option_section {
    SECTION_GOALLOCD,
    SECTION_MEMORY,
    SECTION_LIMITS,
    SECTION_ACCESS,
    SECTION_LOG,
    SECTIONS,
    SECTION_NONE = SECTIONS
};

/* What is asked of who reads the command line, beside the values. */
enum option_act {
    ACT_CONFIG = 1,
    ACT_CHECK_CONFIG,
    ACT_PRINT_CONFIG,
    ACT_LOAD,
    ACT_COLD_START,
    ACT_CHECK_TAKEOVER,
    ACT_NO_SECCOMP,
    ACT_SECCOMP_KILL,
};

typedef struct option_row {
    const char *name;
    const char *arg;    /* as people see it; NULL: it takes none */
    const char *help;
    const char *preset; /* the default; NULL: it is not set */
    char key;           /* the short option; 0: none */
    enum option_section section;
    enum option_act act;      /* 0: it has a value */
    bool reloads;             /* a reload changes it, else a restart */
    bool adds;                /* a list: given twice, it is longer */
    unsigned kind;            /* options.c */
    const char *const *words; /* that it may be, in the order of their numbers; ended by a NULL */
    size_t at;                /* in options */
    size_t bytes;
} option_row;

typedef struct option_value {
    char *text;   /* in the shortest form; NULL: it is not set */
    char *origin; /* where it was said: "FILE:LINE", or "command line"; NULL: nowhere, it is the default */
} option_value;

typedef struct options {
    option_value values[OPTIONS_MAX]; /* by row; what follows is what they say */
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
    const char *image_path; /* NULL: none */
    const char *load_path;  /* the same */
    uint64_t image_wait_us;
    bool image_stale; /* an image that is older than the heap that was lost is loaded, too */
    enum on_stop on_stop;
    enum log_level log_level;
    access_policy access;
    enum privileges_filter filter;
    limits limits; /* of clients */
} options;

/* How many rows there are, and one of them. The first call builds the table; those of other threads come after it. */
unsigned options_count(void);
const option_row *option_row_at(unsigned which);

/* The row of that name; OPTIONS_MAX: there is none. */
unsigned option_find(const char *name);

const char *option_section_name(enum option_section section);

/* What is wrong when there is no memory: nobody's mistake. */
extern const char option_no_memory[];

/* All as the table has it. The caller ends it with options_end(). False: no memory. */
bool options_init(options *o) __attribute__((warn_unused_result));
void options_end(options *o);

/* Look up the names of defaults that still hold, when all is set: that asks services of the system. As option_set(). */
bool options_look_up(options *o, char ret_why[OPTION_WHY_BYTES]) __attribute__((warn_unused_result));

/*
 * Set the value of a row, said at origin; add: to what it has, if it is a list. False: *ret_why says what is wrong, and
 * o is to be ended.
 */
bool option_set(options *o, unsigned which, const char *text, const char *origin, bool add,
                char ret_why[OPTION_WHY_BYTES]) __attribute__((warn_unused_result));

/* The same for what several values say together. */
bool options_agree(const options *o, char ret_why[OPTION_WHY_BYTES]) __attribute__((warn_unused_result));

/* True if both say the same of it. */
bool option_is_same(const options *a, const options *b, unsigned which);

/* Have `to` say of it what `from` says, which then says what `to` did. For rows that a reload changes. */
void option_exchange(options *to, options *from, unsigned which);

#endif
