/*
 * Config: the files that an administrator writes, and all values together: defaults, files, command line.
 */
#ifndef GOALLOC_DAEMON_CONFIG_H
#define GOALLOC_DAEMON_CONFIG_H

#include <stdio.h>

#include "daemon/options.h"

#define CONFIG_MISTAKES_MAX 64u   /* that are said; more are counted */
#define CONFIG_MISTAKE_BYTES 384u /* of each */

/* Where values come from. */
typedef struct config_source {
    const char *path;    /* a file, and its directory .d; "": no files */
    bool is_optional;    /* it is no mistake if there is no such file */
    options commandline; /* a value that has an origin was given there */
} config_source;

/* What is wrong: FILE:LINE: reason. */
typedef struct config_mistakes {
    char texts[CONFIG_MISTAKES_MAX][CONFIG_MISTAKE_BYTES];
    size_t n; /* of those here; */
    size_t nmore;
    bool no_memory; /* one of them is that: what is read may be right */
} config_mistakes;

/*
 * Which file is read if none is named: goallocd/goallocd.conf in the directory for configuration of the prefix that
 * this program is installed below. It lasts; to be called by one thread first.
 */
const char *config_own_path(void);

/*
 * Read all. True: *ret is whole, and the caller ends it with options_end(); false: *ret is untouched, and why is in
 * *ret_mistakes, every mistake of every file. It reads files and looks up names, so it may wait for both; it may be
 * called in any thread, one at a time.
 */
bool config_load(const config_source *source, options *ret, config_mistakes *ret_mistakes)
    __attribute__((warn_unused_result));

/* Print them, a line each, before which is said who says it. */
void config_print_mistakes(const config_mistakes *mistakes, const char *before, FILE *out);

/*
 * Print all values as a file that config_load() reads to the same values. sample: with those that are defaults in
 * comments, and without a word on where they come from.
 */
void config_print(const options *o, bool sample, FILE *out);

#endif
