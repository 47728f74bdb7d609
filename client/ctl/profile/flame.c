/*
 * Flame: a box for each function of each stack, below the one that has called it, as wide as what was allocated there.
 *
 * Boxes that lie beside each other stand in alphabetical order, and functions that are called in the same way are one
 * box. A box says how much it stands for if it has room, and exactly in its title, which viewers show where the mouse
 * is. There is no script in it, so it reads the same in a page as in a browser; who wants to search and to zoom has
 * pprof.
 *
 * The picture is bounded whatever the profile is: CHAINS_DEPTH_MAX rows, and BOXES_MAX boxes, since those that are
 * narrower than some width are left out, and that width is doubled until the rest is few enough. A row of them has
 * at most two boxes a pixel.
 */
#include "client/ctl/profile/flame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/ctl/ctl.h"
#include "client/ctl/profile/chains.h"
#include "client/ctl/svg.h"

#define MARGIN      14u
#define WIDTH       1200u /* of all boxes of a row */
#define ROW         17u
#define HEAD        62u
#define CHARACTER   7.3 /* of the font's 12 pixels */
#define LABEL_BYTES 400u
#define BOXES_MAX   6000u
#define COLOURS     8u

/* Chains [from, to) have their first `depth` names in common. */
typedef struct box {
    size_t from;
    size_t to;
    uint32_t depth;
} box;

typedef struct drawing {
    chains chains;
    enum snapshot_value value;
    enum snapshot_value objects; /* that go with bytes, and bytes with objects */
    double total;
    double narrowest; /* pixels; narrower boxes are left out */
    size_t nboxes;
    uint32_t deepest;
    FILE *out; /* NULL: boxes are only counted */
} drawing;

static uint64_t sum(const drawing *d, const box *b, enum snapshot_value value)
{
    uint64_t ret = 0;

    for (size_t i = b->from; i < b->to; i++)
        ret += d->chains.list[i].row->values[value];
    return ret;
}

static const char *amount(enum snapshot_value value, uint64_t n)
{
    return value == SNAPSHOT_LIVE_BYTES || value == SNAPSHOT_ALLOC_BYTES ? ctl_bytes(n) : ctl_count(n);
}

/* The same name has the same colour. */
static unsigned colour_of(const char *name)
{
    uint32_t hash = 2166136261u;

    for (; *name != '\0'; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return hash % COLOURS;
}

/* --- a box --- */

static void draw(const drawing *d, const box *b, const char *name, double x, double width)
{
    uint64_t value = sum(d, b, d->value);
    uint64_t other = sum(d, b, d->objects);
    bool bytes = d->value == SNAPSHOT_LIVE_BYTES || d->value == SNAPSHOT_ALLOC_BYTES;
    unsigned y = HEAD + b->depth * ROW;
    size_t columns = width > 3 * CHARACTER ? (size_t)((width - 4) / CHARACTER) : 0;
    char label[LABEL_BYTES + 64];
    int len;

    (void)fprintf(d->out, "<g><title>");
    svg_text(d->out, name);
    (void)fprintf(d->out, "\n%s (%" PRIu64 " bytes), %" PRIu64 " objects: %.1f%%</title>",
                  ctl_bytes(bytes ? value : other), bytes ? value : other, bytes ? other : value,
                  100 * (double)value / d->total);
    (void)fprintf(d->out, "<rect class=\"k%u\" x=\"%.1f\" y=\"%u\" width=\"%.1f\" height=\"%u\"/>",
                  b->depth == 0 ? COLOURS : colour_of(name), x + MARGIN, y, width > 1 ? width - 0.5 : width, ROW - 1);
    if (columns > 2) {
        len = snprintf(label, sizeof(label), "%.*s  %s, %.1f%%", (int)LABEL_BYTES, name, amount(d->value, value),
                       100 * (double)value / d->total);
        if (len < 0 || (size_t)len > columns) /* the name at least */
            (void)snprintf(label, sizeof(label), "%.*s", (int)LABEL_BYTES, name);
        (void)fprintf(d->out, "<text x=\"%.1f\" y=\"%u\">", x + MARGIN + 2, y + 12);
        svg_text(d->out, ctl_fit(label, columns));
        (void)fprintf(d->out, "</text>");
    }
    (void)fprintf(d->out, "</g>\n");
}

/* A box and those below it, from x on. Returns its width. */
static double lay_out(drawing *d, const box *b, double x)
{
    double width = (double)sum(d, b, d->value) / d->total * WIDTH;
    const char *name = b->depth == 0 ? "all" : d->chains.names[d->chains.list[b->from].names[b->depth - 1]];
    size_t next = b->from;

    if (width < d->narrowest)
        return width;
    d->nboxes++;
    if (b->depth > d->deepest)
        d->deepest = b->depth;
    if (d->out != NULL)
        draw(d, b, name, x, width);
    while (next < b->to && d->chains.list[next].n <= b->depth)
        next++; /* those that end here; they are sorted before longer ones */
    while (next < b->to) {
        box child = { .from = next, .to = next, .depth = b->depth + 1 };

        while (child.to < b->to &&
               d->chains.list[child.to].names[b->depth] == d->chains.list[child.from].names[b->depth])
            child.to++;
        next = child.to;
        x += lay_out(d, &child, x);
    }
    return width;
}

/* --- the picture --- */

static void write_style(FILE *out)
{
    static const char *const colours[COLOURS + 1] = { "#f7c59f", "#f9d976", "#f4a582", "#fbb4ae", "#f6e3a1",
                                                      "#e9b872", "#f2b5a0", "#fddbb0", "#e2e5ea" };

    (void)fputs("<style>text{fill:#1b1f27}", out);
    for (unsigned i = 0; i <= COLOURS; i++)
        (void)fprintf(out, ".k%u{fill:%s}", i, colours[i]);
    (void)fputs("</style>\n", out);
}

static void write_head(const drawing *d, const snapshot *s, const char *title)
{
    time_t now = time(NULL);
    struct tm tm;
    char date[64] = "";

    if (gmtime_r(&now, &tm) != NULL)
        (void)strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S UTC", &tm);
    (void)fprintf(d->out, "<text x=\"%u\" y=\"26\" font-weight=\"bold\">", MARGIN);
    svg_text(d->out, title);
    (void)fprintf(d->out, "</text>\n<text x=\"%u\" y=\"42\">%s: %s %s, estimated from %" PRIu64 " samples",
                  MARGIN, date, amount(d->value, s->totals[d->value]),
                  d->value == SNAPSHOT_LIVE_BYTES      ? "live"
                  : d->value == SNAPSHOT_LIVE_OBJECTS  ? "objects live"
                  : d->value == SNAPSHOT_ALLOC_OBJECTS ? "objects allocated"
                                                       : "allocated",
                  d->value == SNAPSHOT_LIVE_BYTES || d->value == SNAPSHOT_LIVE_OBJECTS ? s->nlive : s->nsamples);
    (void)fprintf(d->out, "</text>\n");
}

int flame_make(const snapshot *s, const symbols *sy, enum snapshot_value value, const char *title, void **ret_bytes,
               size_t *ret_len)
{
    static const enum snapshot_value others[SNAPSHOT_VALUES] = {
        [SNAPSHOT_ALLOC_OBJECTS] = SNAPSHOT_ALLOC_BYTES,
        [SNAPSHOT_ALLOC_BYTES] = SNAPSHOT_ALLOC_OBJECTS,
        [SNAPSHOT_LIVE_OBJECTS] = SNAPSHOT_LIVE_BYTES,
        [SNAPSHOT_LIVE_BYTES] = SNAPSHOT_LIVE_OBJECTS,
    };
    drawing d = { .value = value, .objects = others[value], .narrowest = 0.25 };
    char *bytes = NULL;
    box all = { 0 };
    bool whole;

    if (chains_init(&d.chains, s, sy, value) < 0)
        return -ENOMEM;
    all.to = d.chains.n;
    d.total = s->totals[value] > 0 ? (double)s->totals[value] : 1;
    do {
        d.narrowest *= 2;
        d.nboxes = 0;
        d.deepest = 0;
        (void)lay_out(&d, &all, 0);
    } while (d.nboxes > BOXES_MAX);
    d.out = open_memstream(&bytes, ret_len);
    if (d.out == NULL) {
        chains_free(&d.chains);
        return -ENOMEM;
    }
    svg_begin(d.out, WIDTH + 2 * MARGIN, HEAD + (d.deepest + 1) * ROW + MARGIN, title);
    write_style(d.out);
    write_head(&d, s, title);
    (void)lay_out(&d, &all, 0);
    svg_end(d.out);
    whole = ferror(d.out) == 0;
    whole = fclose(d.out) == 0 && whole;
    chains_free(&d.chains);
    if (!whole) {
        free(bytes);
        return -ENOMEM;
    }
    *ret_bytes = bytes;
    return 0;
}
