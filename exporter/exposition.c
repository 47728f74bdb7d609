/*
 * Exposition: metrics as text, in Prometheus's format 0.0.4 or in OpenMetrics 1.0.0.
 *
 * Called by metrics.c, which knows what there is. Data: a stream in memory. What differs between the formats is here:
 *
 *                     0.0.4                                OpenMetrics
 *     family          its samples' name                    the name alone, without _total and _info
 *     unit            (in the name)                        # UNIT, if the name ends with _bytes or _seconds
 *     info            a gauge that is 1                    a type
 *     the end                                              # EOF
 *
 * A value of a label may be any bytes that a client has chosen, such as the name of its group: backslash, quote and
 * newline are escaped, and what is no UTF-8 becomes U+FFFD, so nothing in it can end the label or the line.
 */
#include "exporter/exposition.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistr.h>

static const char *const suffixes[] = { [METRIC_GAUGE] = "", [METRIC_COUNTER] = "_total", [METRIC_INFO] = "_info" };

bool exposition_begin(exposition *x, enum format format)
{
    *x = (exposition){ .format = format };
    x->out = open_memstream(&x->text, &x->len);
    return x->out != NULL;
}

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text);

    return len > strlen(end) && strcmp(text + len - strlen(end), end) == 0;
}

void exposition_family(exposition *x, const metric *m)
{
    static const char *const types[] = { [METRIC_GAUGE] = "gauge",
                                         [METRIC_COUNTER] = "counter",
                                         [METRIC_INFO] = "info" };
    bool open = x->format == FORMAT_OPENMETRICS;
    const char *suffix = open ? "" : suffixes[m->type];

    x->family = m;
    (void)fprintf(x->out, "# HELP %s%s %s\n", m->name, suffix, m->help);
    (void)fprintf(x->out, "# TYPE %s%s %s\n", m->name, suffix,
                  !open && m->type == METRIC_INFO ? "gauge" : types[m->type]);
    if (open && ends_with(m->name, "_bytes"))
        (void)fprintf(x->out, "# UNIT %s bytes\n", m->name);
    if (open && ends_with(m->name, "_seconds"))
        (void)fprintf(x->out, "# UNIT %s seconds\n", m->name);
}

static void put_value(FILE *out, const char *value)
{
    const uint8_t *at = (const uint8_t *)value;
    size_t left = strlen(value);

    while (left > 0) {
        ucs4_t c;
        int n = u8_mbtoucr(&c, at, left);
        size_t nbytes = n > 0 ? (size_t)n : 1;

        if (n <= 0)
            (void)fputs("\xef\xbf\xbd", out);
        else if (c == '\\' || c == '"')
            (void)fprintf(out, "\\%c", (char)c);
        else if (c == '\n')
            (void)fputs("\\n", out);
        else
            (void)fwrite(at, 1, nbytes, out);
        at += nbytes;
        left -= nbytes;
    }
}

static void begin_sample(exposition *x, const label *labels)
{
    const char *before = "{";

    (void)fprintf(x->out, "%s%s", x->family->name, suffixes[x->family->type]);
    for (; labels != NULL && labels->name != NULL; labels++) {
        (void)fprintf(x->out, "%s%s=\"", before, labels->name);
        put_value(x->out, labels->value);
        (void)fputc('"', x->out);
        before = ",";
    }
    (void)fputs(before[0] == ',' ? "} " : " ", x->out);
}

void exposition_count(exposition *x, const label *labels, uint64_t value)
{
    begin_sample(x, labels);
    (void)fprintf(x->out, "%" PRIu64 "\n", value);
}

void exposition_seconds(exposition *x, const label *labels, uint64_t value_us)
{
    begin_sample(x, labels);
    (void)fprintf(x->out, "%" PRIu64 ".%06" PRIu64 "\n", value_us / 1000000, value_us % 1000000);
}

void exposition_single(exposition *x, const metric *m, uint64_t value)
{
    exposition_family(x, m);
    exposition_count(x, NULL, value);
}

char *exposition_take(exposition *x, size_t *ret_len)
{
    bool whole;

    if (x->format == FORMAT_OPENMETRICS)
        (void)fputs("# EOF\n", x->out);
    whole = ferror(x->out) == 0;
    whole &= fclose(x->out) == 0;
    if (!whole) {
        free(x->text);
        return NULL;
    }
    *ret_len = x->len;
    return x->text;
}
