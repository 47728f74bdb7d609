/*
 * Accept: which of the two text formats a scraper wants, by the q-values of its Accept header (RFC 9110, 12.5.1).
 *
 * Called by web.c for each scrape. No state. A list of media ranges, each with parameters:
 *
 *     application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5
 *
 * OpenMetrics is served to who names it outright, and likes it no less than text; everybody else gets text, also who
 * accepts neither: a scraper that says nonsense is better off with figures than with status 406. Of several ranges that
 * fit the most specific one counts, and of these the first. What can't be read is passed over.
 */
#include "exporter/accept.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* A part of the header. */
typedef struct piece {
    const char *at;
    size_t len;
} piece;

/* How well the ranges that have been read fit a format: rank 0: none does, 1: all types, 2: text of any kind, 3: it. */
typedef struct liking {
    int rank;
    double q;
} liking;

static piece trim(piece p)
{
    while (p.len > 0 && (*p.at == ' ' || *p.at == '\t'))
        p = (piece){ p.at + 1, p.len - 1 };
    while (p.len > 0 && (p.at[p.len - 1] == ' ' || p.at[p.len - 1] == '\t'))
        p.len--;
    return p;
}

/* What stands before the next separator that is in no quotes; *rest is what is behind it. False: nothing is left. */
static bool cut(piece *rest, char separator, piece *ret)
{
    bool quoted = false;
    size_t n = 0;

    if (rest->at == NULL)
        return false;
    for (; n < rest->len && (quoted || rest->at[n] != separator); n++)
        quoted ^= rest->at[n] == '"';
    *ret = trim((piece){ rest->at, n });
    *rest = n < rest->len ? (piece){ rest->at + n + 1, rest->len - n - 1 } : (piece){ NULL, 0 };
    return true;
}

static bool is(piece p, const char *text)
{
    return p.len == strlen(text) && strncasecmp(p.at, text, p.len) == 0;
}

/* The value of name=value, without quotes. False: it is another parameter. */
static bool is_parameter(piece p, const char *name, piece *ret)
{
    piece left;
    piece value = p;

    if (!cut(&value, '=', &left) || value.at == NULL || !is(left, name))
        return false;
    value = trim(value);
    if (value.len >= 2 && value.at[0] == '"' && value.at[value.len - 1] == '"')
        value = (piece){ value.at + 1, value.len - 2 };
    *ret = value;
    return true;
}

static double parse_q(piece value)
{
    char text[8];
    char *end;
    double q;

    if (value.len == 0 || value.len >= sizeof(text) || strspn(value.at, "0123456789.") < value.len)
        return 0;
    memcpy(text, value.at, value.len);
    text[value.len] = '\0';
    q = strtod(text, &end); /* the locale is C */
    return *end != '\0' || q > 1 ? 0 : q;
}

static void note(liking *l, int rank, double q)
{
    if (rank > l->rank)
        *l = (liking){ rank, q };
}

static void read_range(piece range, liking likings[FORMATS])
{
    piece type;
    piece one;
    piece value;
    piece version = { NULL, 0 };
    double q = 1;

    if (!cut(&range, ';', &type))
        return;
    while (cut(&range, ';', &one)) {
        if (is_parameter(one, "q", &value))
            q = parse_q(value);
        else if (is_parameter(one, "version", &value))
            version = value;
    }
    if (is(type, "*/*")) {
        note(&likings[FORMAT_TEXT], 1, q);
    } else if (is(type, "text/*")) {
        note(&likings[FORMAT_TEXT], 2, q);
    } else if (is(type, "text/plain") && (version.at == NULL || is(version, "0.0.4"))) {
        note(&likings[FORMAT_TEXT], 3, q);
    } else if (is(type, "application/openmetrics-text") &&
               (version.at == NULL || is(version, "1.0.0") || is(version, "0.0.1"))) {
        note(&likings[FORMAT_OPENMETRICS], 3, q);
    }
}

enum format accept_format(const char *accept)
{
    liking likings[FORMATS] = { { 0, 0 }, { 0, 0 } };
    piece rest = { accept, accept == NULL ? 0 : strlen(accept) };
    piece range;

    while (cut(&rest, ',', &range))
        read_range(range, likings);
    return likings[FORMAT_OPENMETRICS].q > 0 && likings[FORMAT_OPENMETRICS].q >= likings[FORMAT_TEXT].q
               ? FORMAT_OPENMETRICS
               : FORMAT_TEXT;
}
