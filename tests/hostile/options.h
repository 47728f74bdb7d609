/*
 * Options: which attacks, by whom, for how long.
 */
#ifndef GOALLOC_TESTS_HOSTILE_OPTIONS_H
#define GOALLOC_TESTS_HOSTILE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define ATTACKERS_MAX 8u

typedef struct hostile_options {
    const char *attack; /* NULL: all */
    bool list;
    bool brief; /* the attack alone, and no figures: for ctest */
    bool json;
    unsigned seconds; /* of each phase */
    unsigned runs;    /* figures are medians of so many */
    unsigned nattackers;
    uid_t uid; /* of attackers, if the program is root's */
} hostile_options;

/* Parses the command line, and exits if it is wrong. *ret is complete: what was not given has its default. */
void options_parse(int argc, char **argv, hostile_options *ret);

#endif
