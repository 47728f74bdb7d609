/*
 * Chains: names of functions, numbered in alphabetical order, and stacks as lists of these numbers.
 *
 * Called by the picture and the table. An inlined function is a name like any other. A place of which nothing is known
 * has a name of its own, by its module and address.
 */
#include "client/ctl/profile/chains.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl.h"

#define NOT_RECORDED  "[not recorded]"
#define OWN_NAME_BYTES 600u

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The names of all places, sorted, each once. False: no memory. */
static bool gather_names(chains *p, const symbols *sy)
{
    size_t n = 1;
    size_t nkept = 0;

    for (size_t i = 0; i < sy->nplaces; i++)
        n += sy->places[i].nlines > 0 ? sy->places[i].nlines : 1;
    p->names = calloc(n, sizeof(p->names[0]));
    p->own = calloc(sy->nplaces + 1, sizeof(p->own[0]));
    if (p->names == NULL || p->own == NULL)
        return false;
    p->nown = sy->nplaces;
    p->names[p->nnames++] = NOT_RECORDED;
    for (size_t i = 0; i < sy->nplaces; i++) {
        const symbol_place *place = &sy->places[i];
        char name[OWN_NAME_BYTES];

        for (uint32_t line = 0; line < place->nlines; line++)
            p->names[p->nnames++] = place->lines[line].function;
        if (place->nlines > 0)
            continue;
        p->own[i] = strdup(symbols_name(sy, place, name, sizeof(name)));
        if (p->own[i] == NULL)
            return false;
        p->names[p->nnames++] = p->own[i];
    }
    qsort(p->names, p->nnames, sizeof(p->names[0]), by_text);
    for (size_t i = 0; i < p->nnames; i++) {
        if (nkept == 0 || strcmp(p->names[nkept - 1], p->names[i]) != 0)
            p->names[nkept++] = p->names[i];
    }
    p->nnames = nkept;
    return true;
}

static uint32_t number_of(const chains *p, const char *name)
{
    const char **found = bsearch(&name, p->names, p->nnames, sizeof(p->names[0]), by_text);

    return (uint32_t)(found - p->names);
}

/* Write a stack's names from the outermost on. Returns how many. */
static uint32_t write_names(const chains *p, const snapshot *s, const symbols *sy, uint32_t stack, uint32_t *to)
{
    const uint64_t *frames;
    uint32_t nframes = snapshot_stack(s, stack, &frames);
    uint32_t n = 0;

    for (uint32_t i = nframes; i > 0 && n < CHAINS_DEPTH_MAX; i--) {
        const symbol_place *place = symbols_find(sy, s, frames[i - 1]);

        if (place->nlines == 0)
            to[n++] = number_of(p, p->own[place - sy->places]);
        for (uint32_t line = place->nlines; line > 0 && n < CHAINS_DEPTH_MAX; line--)
            to[n++] = number_of(p, place->lines[line - 1].function);
    }
    if (n == 0)
        to[n++] = number_of(p, NOT_RECORDED);
    return n;
}

/* Names that a stack has. */
static uint32_t count_names(const snapshot *s, const symbols *sy, uint32_t stack)
{
    const uint64_t *frames;
    uint32_t nframes = snapshot_stack(s, stack, &frames);
    uint32_t n = 0;

    for (uint32_t i = 0; i < nframes; i++) {
        uint32_t nlines = symbols_find(sy, s, frames[i])->nlines;

        n += nlines > 0 ? nlines : 1;
    }
    return n == 0 ? 1 : n < CHAINS_DEPTH_MAX ? n : CHAINS_DEPTH_MAX;
}

static int by_names(const void *a, const void *b)
{
    const chain *one = a;
    const chain *other = b;

    for (uint32_t i = 0; i < one->n && i < other->n; i++) {
        if (one->names[i] != other->names[i])
            return one->names[i] > other->names[i] ? 1 : -1;
    }
    return (one->n > other->n) - (one->n < other->n);
}

int chains_init(chains *p, const snapshot *s, const symbols *sy, enum snapshot_value value)
{
    uint32_t *at;
    size_t n = 0;

    *p = (chains){ 0 };
    p->list = calloc(s->nrows + 1, sizeof(p->list[0]));
    if (p->list == NULL || !gather_names(p, sy)) {
        chains_free(p);
        return -ENOMEM;
    }
    for (size_t i = 0; i < s->nrows; i++)
        n += s->rows[i].values[value] > 0 ? count_names(s, sy, s->rows[i].stack) : 0;
    p->numbers = calloc(n + 1, sizeof(p->numbers[0]));
    if (p->numbers == NULL) {
        chains_free(p);
        return -ENOMEM;
    }
    at = p->numbers;
    for (size_t i = 0; i < s->nrows; i++) {
        chain *to = &p->list[p->n];

        if (s->rows[i].values[value] == 0)
            continue;
        *to = (chain){ .row = &s->rows[i], .names = at, .n = write_names(p, s, sy, s->rows[i].stack, at) };
        at += to->n;
        p->n++;
    }
    qsort(p->list, p->n, sizeof(p->list[0]), by_names);
    return 0;
}

void chains_free(chains *p)
{
    for (size_t i = 0; p->own != NULL && i < p->nown; i++)
        free(p->own[i]);
    free(p->own);
    free(p->names);
    free(p->numbers);
    free(p->list);
    *p = (chains){ 0 };
}
