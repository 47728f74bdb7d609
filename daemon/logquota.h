/*
 * Logquota: how many lines of the log clients may cause, by user and in all.
 */
#ifndef GOALLOC_DAEMON_LOGQUOTA_H
#define GOALLOC_DAEMON_LOGQUOTA_H

#include <stdbool.h>
#include <stdint.h>

#define LOGQUOTA_WINDOW_MS 5000u
#define LOGQUOTA_OF_USER   100u /* lines of one user in a window */
#define LOGQUOTA_OF_ALL    500u
#define LOGQUOTA_USERS     16u

typedef struct logquota_window {
    uint32_t uid;
    bool used;
    uint64_t from_ms;
    unsigned nsaid;
    uint64_t nleft_out;
} logquota_window;

/* Zeroed at first. */
typedef struct logquota {
    logquota_window users[LOGQUOTA_USERS];
    logquota_window all; /* nleft_out: of users that have lost their place to others */
} logquota;

/* What was left out, to be said. */
typedef struct logquota_note {
    bool of_others; /* of users who are not known any more; uid says nothing */
    uint32_t uid;
    uint64_t nlines;
} logquota_note;

/* A client of that user causes a line. True: say it; false: it is left out, and counted. */
bool logquota_take(logquota *q, uint32_t uid, uint64_t now_ms);

/* A window in which lines were left out is over (or is to be: now_ms UINT64_MAX). False: there is none. */
bool logquota_left_out(logquota *q, uint64_t now_ms, logquota_note *ret);

#endif
