/*
 * Exposition: metrics as text, in Prometheus's format 0.0.4 or in OpenMetrics 1.0.0.
 */
#ifndef GOALLOC_EXPORTER_EXPOSITION_H
#define GOALLOC_EXPORTER_EXPOSITION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "exporter/accept.h"

enum metric_type { METRIC_GAUGE, METRIC_COUNTER, METRIC_INFO };

/* A name without _total and _info, which the types add. */
typedef struct metric {
    const char *name;
    enum metric_type type;
    const char *help; /* one line, without backslashes and quotes */
} metric;

typedef struct label {
    const char *name;
    const char *value; /* any bytes: what is no UTF-8 becomes U+FFFD */
} label;

/* A text that is being written. */
typedef struct exposition {
    enum format format;
    FILE *out;
    char *text;
    size_t len;
    const metric *family; /* whose samples come */
} exposition;

/* False: no memory. */
bool exposition_begin(exposition *x, enum format format) __attribute__((warn_unused_result));

/* Samples of m come next, which has had none yet. */
void exposition_family(exposition *x, const metric *m);

/* A sample of that family, with labels, which end with a name NULL; labels NULL: it has none. */
void exposition_count(exposition *x, const label *labels, uint64_t value);
void exposition_seconds(exposition *x, const label *labels, uint64_t value_us);

/* A family with one sample, without labels. */
void exposition_single(exposition *x, const metric *m, uint64_t value);

/* The end. The text is the caller's, who frees it; NULL: no memory. */
char *exposition_take(exposition *x, size_t *ret_len) __attribute__((warn_unused_result));

#endif
