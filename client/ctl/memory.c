/*
 * memory: where the arena's pages are, and giving them back: goallocctl heap-map and scavenge.
 *
 * The picture has 64 cells a line. A line is a heap arena of 64 MiB, a cell 1 MiB; large heaps have lines of several
 * heap arenas, so that the picture has at most 40.
 */
#include <langinfo.h>
#include <stdio.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "shm/layout.h"

#define LINE_CELLS     64u
#define CELLS_MAX      2560u /* 40 lines */
#define CELL_PAGES_MIN (SHM_HEAP_ARENA_PAGES / LINE_CELLS)

typedef struct cell {
    uint64_t inuse;
    uint64_t backed;
    uint64_t npages; /* that exist */
} cell;

typedef struct picture {
    uint64_t cell_pages;
    uint64_t end;
    uint64_t base;
    uint64_t arena_pages;
    size_t ncells;
    cell cells[CELLS_MAX];
} picture;

static picture shown;

/* For no cells: the reply says how large the heap is. */
Goallocd__HeapMap heap_map_first = { PROTOBUF_C_MESSAGE_INIT(&goallocd__heap_map__descriptor), 0, CELL_PAGES_MIN, 0 };

bool heap_map_next(Goallocd__Request *request, const Goallocd__Reply *reply)
{
    const Goallocd__HeapMapReply *got = reply->heap_map;
    Goallocd__HeapMap *ask = request->heap_map;
    picture *p = &shown;
    size_t before = p->ncells;

    if (ask->max_cells == 0) {
        p->base = got->arena_base;
        p->arena_pages = got->arena_pages;
        p->end = got->end;
        for (p->cell_pages = CELL_PAGES_MIN; p->cell_pages * CELLS_MAX < p->end;)
            p->cell_pages *= 2;
    }
    for (size_t i = 0; i < got->n_inuse && i < got->n_backed && p->ncells < CELLS_MAX; i++) {
        uint64_t from = p->ncells * p->cell_pages;
        uint64_t npages = got->end > from ? got->end - from : 0;

        p->cells[p->ncells++] = (cell){ got->inuse[i], got->backed[i],
                                        npages < p->cell_pages ? npages : p->cell_pages };
    }
    if (ask->max_cells > 0 && p->ncells == before)
        return false;
    if (p->ncells * p->cell_pages >= p->end || p->ncells == CELLS_MAX)
        return false;
    ask->start = p->ncells * p->cell_pages;
    ask->cell_pages = p->cell_pages;
    ask->max_cells = CELLS_MAX;
    return true;
}

/* One character for a cell: how much of it is in use; if nothing, whether what is free has memory. */
static const char *cell_mark(const cell *c, bool utf8)
{
    static const char *const shades[2][5] = { { "'", ":", "+", "*", "#" }, { "·", "░", "▒", "▓", "█" } };
    uint64_t eighths = c->npages == 0 ? 0 : (c->inuse * 8 + c->npages - 1) / c->npages;

    if (c->npages == 0)
        return " ";
    if (c->inuse == 0)
        return c->backed * 2 > c->npages ? "-" : c->backed > 0 ? "," : ".";
    return shades[utf8][eighths <= 1 ? 0 : eighths <= 3 ? 1 : eighths <= 5 ? 2 : eighths <= 7 ? 3 : 4];
}

static void print_line(const picture *p, size_t first, bool utf8, cell *sum)
{
    char line[4 * LINE_CELLS] = "";

    for (size_t i = first; i < first + LINE_CELLS && i < p->ncells; i++) {
        const cell *c = &p->cells[i];

        (void)strcat(line, cell_mark(c, utf8)); /* at most 3 bytes each */
        sum->inuse += c->inuse;
        sum->backed += c->backed;
        sum->npages += c->npages;
    }
    ctl_print_row("%012" PRIx64 " %s", p->base + first * p->cell_pages * PAGE_BYTES, line);
}

void heap_map_text(const Goallocd__Reply *reply)
{
    bool utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    const picture *p = &shown;
    cell sum = { 0 };

    (void)reply;
    (void)printf("arena of %s at 0x%" PRIx64 ", %s of it in the page heap\n", ctl_bytes(p->arena_pages * PAGE_BYTES),
                 p->base, ctl_bytes(p->end * PAGE_BYTES));
    (void)printf("a cell is %s, a line %s\n\n", ctl_bytes(p->cell_pages * PAGE_BYTES),
                 ctl_bytes(p->cell_pages * LINE_CELLS * PAGE_BYTES));
    for (size_t i = 0; i < p->ncells; i += LINE_CELLS)
        print_line(p, i, utf8, &sum);
    (void)printf("\nin use: %s   free with memory: , a little  - most   released: .\n",
                 utf8 ? "· ░ ▒ ▓ █" : "' : + * #");
    (void)printf("in use %s, free with memory %s, released %s\n", ctl_bytes(sum.inuse * PAGE_BYTES),
                 ctl_bytes(sum.backed * PAGE_BYTES),
                 ctl_bytes((sum.npages - sum.inuse - sum.backed) * PAGE_BYTES));
}

static json_t *cell_json(const Goallocd__Reply *reply, size_t i)
{
    const cell *c = &shown.cells[i];

    (void)reply;
    return json_pack("{s:I, s:I, s:I}", "inuse_bytes", (json_int_t)c->inuse * (json_int_t)PAGE_BYTES, "free_bytes",
                     (json_int_t)c->backed * (json_int_t)PAGE_BYTES, "released_bytes",
                     (json_int_t)(c->npages - c->inuse - c->backed) * (json_int_t)PAGE_BYTES);
}

bool heap_map_json(json_t *object, const Goallocd__Reply *reply)
{
    const picture *p = &shown;

    return ctl_json_set(object, "arena_base", p->base) &&
           ctl_json_set(object, "arena_bytes", p->arena_pages * PAGE_BYTES) &&
           ctl_json_set(object, "heap_bytes", p->end * PAGE_BYTES) &&
           ctl_json_set(object, "cell_bytes", p->cell_pages * PAGE_BYTES) &&
           ctl_json_append(object, "cells", reply, p->ncells, cell_json);
}

void scavenge_text(const Goallocd__Reply *reply)
{
    (void)printf("released %s; %s are free and have memory\n", ctl_bytes(reply->scavenge->released_bytes),
                 ctl_bytes(reply->scavenge->remaining_bytes));
}

bool scavenge_json(json_t *object, const Goallocd__Reply *reply)
{
    return ctl_json_set(object, "released_bytes", reply->scavenge->released_bytes) &&
           ctl_json_set(object, "free_bytes", reply->scavenge->remaining_bytes);
}
