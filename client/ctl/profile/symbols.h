/*
 * Symbols: which functions and lines the frames of a snapshot are.
 */
#ifndef GOALLOC_CLIENT_CTL_PROFILE_SYMBOLS_H
#define GOALLOC_CLIENT_CTL_PROFILE_SYMBOLS_H

#include "client/ctl/profile/snapshot.h"

/* A function that a place is in; of several, each is inlined into the one behind it. */
typedef struct symbol_line {
    const char *function; /* as people read it. All three are fit for a terminal */
    const char *linkage;  /* as the linker has it; the same if it is no other */
    const char *file;     /* "": not known */
    uint32_t line;        /* 0: not known */
} symbol_line;

/* A place in a module: what a frame names. */
typedef struct symbol_place {
    uint32_t module; /* SYMBOLS_NO_MODULE: the address is a process's */
    uint64_t address;
    const symbol_line *lines; /* the innermost first */
    uint32_t nlines;          /* 0: nothing is known of it */
} symbol_place;

#define SYMBOLS_NO_MODULE PROFILE_MODULES

enum symbol_state {
    SYMBOLS_UNUSED,      /* no frame is in it */
    SYMBOLS_READ,        /* what its file says is in its places */
    SYMBOLS_NO_BUILD_ID, /* nobody can tell whether a file is the one that ran */
    SYMBOLS_NO_FILE,     /* there is none of that name, or it can't be opened, or it is no regular file */
    SYMBOLS_OTHER_BUILD, /* the file has another build id */
    SYMBOLS_BROKEN,      /* it could not be read as what it should be */
    SYMBOLS_NO_TIME,
    SYMBOLS_STATES
};

typedef struct symbol_module {
    enum symbol_state state;
    bool has_lines;       /* of source files */
    uint64_t start;       /* its code, as the file has it; all 0: not known */
    uint64_t limit;
    uint64_t file_offset; /* of start */
    uint32_t nplaces;
    char path[sizeof(((profile_module *)0)->path) + 1]; /* fit for a terminal */
} symbol_module;

typedef struct symbols {
    symbol_place *places; /* by module and address, each once */
    size_t nplaces;
    symbol_module *modules; /* PROFILE_MODULES */
    struct symbol_piece *pieces; /* of memory, for lines and texts */
} symbols;

/*
 * Gather the places of the snapshot's rows, and look them up in the modules' files, for timeout_ms at most. 0, -ENOMEM.
 */
int symbols_init(symbols *sy, const snapshot *s, int timeout_ms) __attribute__((warn_unused_result));
void symbols_free(symbols *sy);

/* The place that a frame of the snapshot is. */
const symbol_place *symbols_find(const symbols *sy, const snapshot *s, uint64_t frame);

/* Why a module's places have no names, as a clause; NULL: they have, or it is not used. */
const char *symbols_why_not(const symbol_module *m);

/* What a place without lines is called: "libfoo.so+0x1234". Returns ret. */
const char *symbols_name(const symbols *sy, const symbol_place *place, char *ret, size_t cap);

#endif
