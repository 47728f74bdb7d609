/*
 * Command: what goallocctl can do, as rows of a table from which the command line is parsed, and help and completion
 * are made.
 */
#ifndef GOALLOC_CLIENT_CTL_COMMAND_H
#define GOALLOC_CLIENT_CTL_COMMAND_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "client/ctl/ask.h"
#include "client/ctl/roster.h"

#define COMMAND_WORDS_MAX 32u

/* What the command line says. */
typedef struct arguments {
    asker who;
    bool json;
    bool yes;     /* do it without asking */
    bool end;     /* keeper: end it */
    bool classes; /* stats: by size class, too */
    bool live;    /* sessions: only those that have not ended */
    bool by_group;
    bool reverse;
    bool spans; /* leases: one by one */
    bool once;
    bool changes; /* watch: only when something has changed */
    bool csv;     /* watch: as CSV */
    bool sessions; /* watch: a row for each */
    bool top;      /* profile: print the table, also when files are written */
    bool all;      /* profile: all sessions; leaks --free: also in spans that are leased */
    bool free_them;    /* leaks */
    bool offsets;      /* leaks: words that are goalloc_offset() of an object count, too */
    bool trust_kernel; /* leaks */
    const char *why;   /* leaks: an address; NULL: none */
    uint32_t max_pause_ms; /* leaks; 0: none was given */
    bool save;          /* drop: save the image first, as a stop does */
    bool level_given;
    uint32_t level;     /* save: of zstd; 0: nothing is compressed */
    bool timeout_given; /* by --timeout: it holds whatever the command does */
    const char *group; /* only sessions of that; NULL: all */
    const roster_key *sort;
    const char *sort_name; /* NULL: none was given */
    const char *svg; /* heap-map, profile: the file to draw it into; NULL: none */
    const char *label; /* profile: only sessions that have it; NULL: all */
    const char *type;  /* profile: which figures; NULL: none was given */
    uint64_t rate;     /* profile: bytes; 0: none was given */
    uint32_t session;  /* profile: only that one; 0: all */
    const char *state_dir;
    int interval_ms;
    uint32_t nrows; /* at most so many; 0: all */
    uint32_t count; /* looks; 0: without an end */
    const char *words[COMMAND_WORDS_MAX]; /* behind the command */
    size_t nwords;
} arguments;

typedef struct command {
    const char *name;
    const char *words;     /* of its arguments, for people: "[SESSION]"; NULL: it has none */
    size_t words_min;
    size_t words_max;
    const char *values;    /* for completion: what the arguments can be, with blanks between; NULL: anything */
    const char *summary;   /* a line */
    const char *help;      /* the rest; NULL: the line says it all */
    bool (*set)(const arguments *args); /* takes its arguments; false: they are not as wanted */
    const char *wanted;                 /* the usage error then */
    int (*own)(const arguments *args);  /* does all of it, and returns the exit status; NULL: the fields behind this */
    Goallocd__Request request;          /* the first one */
    Goallocd__Reply__ResultCase kind;
    const char *heading; /* of the table, printed before the daemon is asked; NULL: none */
    bool (*next)(Goallocd__Request *request, const Goallocd__Reply *reply); /* NULL: there is one reply */
    void (*text)(const Goallocd__Reply *reply);                             /* NULL: it prints nothing */
    bool (*json)(json_t *object, const Goallocd__Reply *reply);             /* NULL: the object stays empty */
    bool (*failed)(const Goallocd__Reply *reply); /* what it says is no success: status 1. NULL: each answer is one */
    bool gathers; /* next() has gathered what is shown when the last reply is there */
    bool asks;    /* next() may ask the user, who takes time */
    bool steps;   /* each reply has a timeout of its own: there may be many */
    const char *question; /* asked before it is done; NULL: it takes nothing away */
    bool named_group; /* its --group always has a NAME, which may be the next word */
    bool patient; /* the daemon may take its time, once it has shown that it answers */
} command;

/* An option, for parsing, help and completion. */
typedef struct option_row {
    const char *name;
    int key;             /* its letter, or a number above 255: it has none */
    const char *value;   /* for people; NULL: it has none */
    bool optional;       /* the value is, as in --group or --group=NAME */
    const char *values;  /* for completion, as in a command; "file", "dir" for these */
    const char *commands; /* that have it, with blanks between; NULL: all */
    const char *help;
} option_row;

/* The tables, which main() sets, so that what they name may look into them. The last row has no name. */
extern command *commands;
extern const option_row *option_rows;

/* Keys of options that have no letter. */
#define OPTION_NO_LETTER 256
enum {
    OPTION_END = OPTION_NO_LETTER,
    OPTION_CLASSES,
    OPTION_SPANS,
    OPTION_CHANGES,
    OPTION_CSV,
    OPTION_SESSIONS,
    OPTION_SVG,
    OPTION_SESSION,
    OPTION_LABEL,
    OPTION_ALL,
    OPTION_RATE,
    OPTION_TYPE,
    OPTION_TOP,
    OPTION_FREE,
    OPTION_WHY,
    OPTION_MAX_PAUSE,
    OPTION_OFFSETS,
    OPTION_TRUST_KERNEL,
    OPTION_SAVE,
    OPTION_LEVEL,
    OPTION_USAGE
};

/* NULL: there is no such command. */
const command *command_named(const char *name);

/* True if the command has the option. */
bool command_has(const command *c, const option_row *option);

#endif
