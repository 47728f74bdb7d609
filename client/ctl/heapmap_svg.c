/*
 * heapmap: the picture as SVG: goallocctl heap-map --svg.
 *
 * A line has 64 cells of 12 pixels. A cell is filled from above with what its pages are: for objects of which sizes,
 * in no span, free, released, each in its colour, in proportion; the first one a pixel at least. What it is exactly,
 * with addresses and size classes, is the cell's title, which viewers show where the mouse is. Colours stand for some
 * size classes each: eight can be told apart, seventy can't.
 *
 * A cell has at most eleven pieces and names at most six classes, and there are 2560 cells, so a picture has at most
 * two megabytes; one of a heap whose cells are alike has 300 KB.
 */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "client/ctl/heapmap_svg.h"
#include "client/ctl/svg.h"
#include "shm/layout.h"

#define MARGIN        14u
#define LINE_HEIGHT   16u
#define HEAD_LINES    3u
#define LABEL_WIDTH   110u /* of a line's address */
#define CELL          12u
#define PIECE         11u /* of a cell, without the gap to the next */
#define LEGEND_ROWS   4u
#define LEGEND_WIDTH  256u
#define CLASSES_NAMED 6u
#define WIDTH         (MARGIN + LABEL_WIDTH + HEAPMAP_LINE_CELLS * CELL + MARGIN)

enum kind { TINY, UP_TO_16, UP_TO_64, UP_TO_256, UP_TO_1K, UP_TO_4K, UP_TO_32K, LARGE, NO_SPAN, FREE, RELEASED, KINDS };

static const struct {
    const char *name;
    const char *colour;
    uint32_t bytes; /* the largest objects; 0: not told by it */
} kinds[KINDS] = {
    [TINY] = { "below 16 B (tiny blocks)", "#440154", 0 },
    [UP_TO_16] = { "up to 16 B", "#46327e", 16 },
    [UP_TO_64] = { "up to 64 B", "#365c8d", 64 },
    [UP_TO_256] = { "up to 256 B", "#277f8e", 256 },
    [UP_TO_1K] = { "up to 1 KiB", "#1fa187", 1024 },
    [UP_TO_4K] = { "up to 4 KiB", "#4ac16d", 4096 },
    [UP_TO_32K] = { "up to 32 KiB", "#a0da39", SMALL_BYTES_MAX },
    [LARGE] = { "large", "#fde725", 0 },
    [NO_SPAN] = { "held ready", "#8d93a0", 0 },
    [FREE] = { "free, with memory", "#f3b8a5", 0 },
    [RELEASED] = { "released", "#e9ebef", 0 },
};

/* Of a daemon that tells no classes, what is in use is all of this kind. */
static const char *kind_name(const heapmap *map, enum kind kind)
{
    return kind == NO_SPAN && !map->has_classes ? "in use" : kinds[kind].name;
}

static enum kind kind_of(uint32_t class)
{
    enum kind kind = UP_TO_16;

    if (class == 0 || class == SIZE_CLASS_TINY)
        return class == 0 ? LARGE : TINY;
    while (size_class_bytes[class] > kinds[kind].bytes)
        kind++;
    return kind;
}

static void count_kinds(const heapmap_cell *c, uint64_t ret_npages[KINDS])
{
    memset(ret_npages, 0, KINDS * sizeof(ret_npages[0]));
    for (uint32_t class = 0; class <= SIZE_CLASS_COUNT; class++)
        ret_npages[kind_of(class)] += c->by_class[class];
    ret_npages[NO_SPAN] = c->inuse - c->nspan;
    ret_npages[FREE] = c->backed;
    ret_npages[RELEASED] = c->npages - c->inuse - c->backed;
}

/* --- cells --- */

/* The class with the most pages, of those that are not named yet. */
static uint32_t largest_class(const heapmap_cell *c, const bool *named)
{
    uint32_t largest = 0;

    for (uint32_t class = 0; class <= SIZE_CLASS_COUNT; class++) {
        if (!named[class] && (named[largest] || c->by_class[class] > c->by_class[largest]))
            largest = class;
    }
    return largest;
}

static void write_classes(const heapmap_cell *c, FILE *out)
{
    bool named[SIZE_CLASS_COUNT + 1] = { false };
    uint64_t rest = c->nspan;

    for (unsigned i = 0; i < CLASSES_NAMED && rest > 0; i++) {
        uint32_t class = largest_class(c, named);
        char name[16];

        named[class] = true;
        rest -= c->by_class[class];
        (void)fprintf(out, "\n%s%s: %s", stats_class_name(class, size_class_bytes[class], name),
                      class == 0 || class == SIZE_CLASS_TINY ? "" : " B", ctl_bytes(c->by_class[class] * PAGE_BYTES));
    }
    if (rest > 0)
        (void)fprintf(out, "\nother sizes: %s", ctl_bytes(rest * PAGE_BYTES));
}

static void write_cell_title(const heapmap *map, size_t i, const uint64_t npages[KINDS], FILE *out)
{
    const heapmap_cell *c = &map->cells[i];
    uint64_t from = map->base + i * map->cell_pages * PAGE_BYTES;

    (void)fprintf(out, "<title>0x%" PRIx64 "-0x%" PRIx64, from, from + c->npages * PAGE_BYTES);
    write_classes(c, out);
    for (enum kind k = NO_SPAN; k < KINDS; k++) {
        if (npages[k] > 0)
            (void)fprintf(out, "\n%s: %s", kind_name(map, k), ctl_bytes(npages[k] * PAGE_BYTES));
    }
    (void)fputs("</title>", out);
}

/* From the pixel at which so many pages of the cell end, upwards rounded: a small kind may share the one before it. */
static unsigned pixels(uint64_t npages, const heapmap_cell *c)
{
    return (unsigned)((npages * PIECE + c->npages - 1) / c->npages);
}

static void draw_cell(const heapmap *map, size_t i, FILE *out)
{
    const heapmap_cell *c = &map->cells[i];
    uint64_t npages[KINDS];
    uint64_t done = 0;

    count_kinds(c, npages);
    (void)fputs("<g>", out);
    write_cell_title(map, i, npages, out);
    for (unsigned k = 0; k < KINDS; done += npages[k++]) {
        unsigned from = pixels(done, c);
        unsigned to = pixels(done + npages[k], c);

        if (to > from)
            (void)fprintf(out, "<rect class=\"k%u\" x=\"%zu\" y=\"%u\" width=\"%u\" height=\"%u\"/>", k,
                          i % HEAPMAP_LINE_CELLS * CELL, from, PIECE, to - from);
    }
    (void)fputs("</g>\n", out);
}

static void draw_line(const heapmap *map, size_t first, unsigned y, FILE *out)
{
    (void)fprintf(out, "<text x=\"%u\" y=\"%u\">0x%" PRIx64 "</text>\n<g transform=\"translate(%u %u)\">\n", MARGIN,
                  y + CELL - 2, map->base + first * map->cell_pages * PAGE_BYTES, MARGIN + LABEL_WIDTH, y);
    for (size_t i = first; i < first + HEAPMAP_LINE_CELLS && i < map->ncells; i++)
        draw_cell(map, i, out);
    (void)fputs("</g>\n", out);
}

/* --- around them --- */

static void draw_head(const heapmap *map, const char *title, FILE *out)
{
    char shown[512];
    char now[32];
    time_t seconds = time(NULL);
    struct tm utc;

    (void)strftime(now, sizeof(now), "%Y-%m-%d %H:%M:%S UTC", gmtime_r(&seconds, &utc));
    (void)ctl_plain_text(title, shown, sizeof(shown));
    (void)fprintf(out, "<text x=\"%u\" y=\"%u\" font-weight=\"bold\">", MARGIN, MARGIN + LINE_HEIGHT - 4);
    svg_text(out, ctl_fit(shown, 88));
    (void)fprintf(out,
                  "</text>\n<text x=\"%u\" y=\"%u\">"
                  "%s: arena of %s at 0x%" PRIx64 ", %s of it in the page heap</text>\n",
                  MARGIN, MARGIN + 2 * LINE_HEIGHT - 4, now, ctl_bytes(map->arena_pages * PAGE_BYTES), map->base,
                  ctl_bytes(map->end * PAGE_BYTES));
    (void)fprintf(out, "<text x=\"%u\" y=\"%u\">a cell is %s, a line %s%s</text>\n", MARGIN,
                  MARGIN + 3 * LINE_HEIGHT - 4, ctl_bytes(map->cell_pages * PAGE_BYTES),
                  ctl_bytes(map->cell_pages * HEAPMAP_LINE_CELLS * PAGE_BYTES),
                  map->has_classes ? "" : "; this daemon does not say which size classes it has");
}

/* What each colour is, and how much of it there is. */
static void draw_legend(const heapmap *map, unsigned y, FILE *out)
{
    uint64_t sums[KINDS] = { 0 };
    unsigned place = 0;

    for (size_t i = 0; i < map->ncells; i++) {
        uint64_t npages[KINDS];

        count_kinds(&map->cells[i], npages);
        for (unsigned k = 0; k < KINDS; k++)
            sums[k] += npages[k];
    }
    for (unsigned k = map->has_classes ? 0 : NO_SPAN; k < KINDS; k++, place++) {
        unsigned x = MARGIN + place / LEGEND_ROWS * LEGEND_WIDTH;
        unsigned top = y + place % LEGEND_ROWS * LINE_HEIGHT;

        (void)fprintf(out,
                      "<rect class=\"k%u\" x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\"/>"
                      "<text x=\"%u\" y=\"%u\">%s: %s</text>\n",
                      k, x, top, PIECE, PIECE, x + CELL + 6, top + PIECE - 1, kind_name(map, k),
                      ctl_bytes(sums[k] * PAGE_BYTES));
    }
}

void heapmap_draw(const heapmap *map, const char *socket_path, FILE *out)
{
    unsigned nlines = (unsigned)((map->ncells + HEAPMAP_LINE_CELLS - 1) / HEAPMAP_LINE_CELLS);
    unsigned top = MARGIN + HEAD_LINES * LINE_HEIGHT + 8;
    unsigned legend = top + nlines * CELL + 12;
    char title[512];

    (void)snprintf(title, sizeof(title), "goallocctl heap-map: %s", socket_path);
    svg_begin(out, WIDTH, legend + LEGEND_ROWS * LINE_HEIGHT + MARGIN, title);
    (void)fputs("<style>text{fill:#1b1f27}", out);
    for (unsigned k = 0; k < KINDS; k++)
        (void)fprintf(out, ".k%u{fill:%s}", k, kinds[k].colour);
    (void)fputs("</style>\n", out);
    draw_head(map, title, out);
    for (unsigned i = 0; i < nlines; i++)
        draw_line(map, i * (size_t)HEAPMAP_LINE_CELLS, top + i * CELL, out);
    draw_legend(map, legend, out);
    svg_end(out);
}
