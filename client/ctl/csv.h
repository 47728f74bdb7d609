/*
 * Csv: objects as lines of a table for other programs.
 */
#ifndef GOALLOC_CLIENT_CTL_CSV_H
#define GOALLOC_CLIENT_CTL_CSV_H

#include <jansson.h>

/* A line with the names of the object's members, and "time" before them. Errors stay in stdout. */
void csv_print_names(json_t *object);

/* A line with their values, in the same order; time: what is in the first column. */
void csv_print_values(const char *time, json_t *object);

/* Now, as ISO 8601 has it, in UTC: 2024-02-29T23:59:59.999Z. */
const char *csv_now(char ret[32]);

#endif
