/*
 * Limits: what clients may take at most, as the administrator says. One table of all: name, option, default, errno.
 */
#ifndef GOALLOC_DAEMON_LIMITS_H
#define GOALLOC_DAEMON_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

enum limit {
    LIMIT_CONNECTIONS = 0,
    LIMIT_UID_CONNECTIONS,
    LIMIT_UID_CONNECTS,
    LIMIT_UID_SESSIONS,
    LIMIT_UID_LOST,
    LIMIT_UID_UNREAD,
    LIMIT_RESERVE,
    LIMIT_SESSION_DEFAULT,
    LIMIT_SESSION_BYTES,
    LIMIT_UID_BYTES,
    LIMIT_UID_LEFT,
    LIMIT_GROUP_BYTES,
    LIMIT_UID_ROOTS,
    LIMIT_UID_ADOPTIONS,
    LIMIT_PIPELINED,
    LIMIT_UID_TURN,
    LIMIT_CONNECTION_BUFFER,
    LIMIT_UID_BUFFER,
    LIMIT_BUFFER,
    LIMITS
};

enum limit_unit { LIMIT_COUNT, LIMIT_BYTES, LIMIT_PER_SECOND, LIMIT_MICROSECONDS };

/* Whose use is counted. */
enum limit_scope { LIMIT_OF_ALL, LIMIT_OF_UID, LIMIT_OF_SESSION, LIMIT_OF_CONNECTION, LIMIT_OF_GROUP };

typedef struct limit_row {
    const char *name; /* of the option, and of the limit wherever people see it */
    uint64_t preset;  /* 0: none, where that may be */
    uint64_t lowest;  /* what an administrator may set */
    enum limit_unit unit;
    enum limit_scope scope;
    int error;           /* what a request is refused with; 0: the connection is closed, or the client waits */
    const char *message; /* the sentence for that; NULL if error is 0 */
    const char *help;
} limit_row;

/* The limits of a daemon, by enum limit. */
typedef struct limits {
    uint64_t max[LIMITS];
} limits;

const limit_row *limit_row_of(enum limit which);

/* All as the table has them. */
void limits_preset(limits *l);

/* Set one, by text such as "512", "64M" or "1ms". False: it is no such value, or below the lowest. */
bool limits_set(limits *l, enum limit which, const char *text) __attribute__((warn_unused_result));

/* What a session may hold that has asked for so much (0: for nothing). 0: no limit. */
uint64_t limits_of_session(const limits *l, uint64_t asked_bytes);

/* Parse "64G", "512 M", "1048576"; K, M, G, T (or KiB, KB, ...) are powers of 1024. False: no size, or too large. */
bool limits_parse_size(const char *text, uint64_t *ret_bytes);

/* Parse "5s", "100 ms", "250us", "2min", or a number in units of unit_us. False: no time, or too long. */
bool limits_parse_time(const char *text, uint64_t unit_us, uint64_t *ret_us) __attribute__((warn_unused_result));

#define LIMITS_TEXT_BYTES 32

/* The shortest text for a size that says it to the byte, and for the value of a limit; they parse to the same. */
void limits_size_text(uint64_t bytes, char ret[LIMITS_TEXT_BYTES]);
void limits_text(uint64_t value, enum limit_unit unit, char ret[LIMITS_TEXT_BYTES]);

#endif
