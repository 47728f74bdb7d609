/*
 * heapmap: where the arena's pages are: goallocctl heap-map.
 *
 * The picture has 64 cells a line. A line is a heap arena of 64 MiB, a cell 1 MiB; large heaps have lines of several
 * heap arenas, so that the picture has at most 40. As SVG (heapmap_svg.c) small heaps have smaller cells, of a page at
 * least.
 *
 * The daemon answers in parts: cells, or smaller pieces of them, since it tells size classes of 64 MiB at most at once.
 * The first request is for none: the reply says how large the heap is and whether the daemon tells classes. One that
 * does not, an older one, wants cells of a multiple of 64 pages. Parts are added up until the end that the first reply
 * has named, or one adds nothing. What a part says is cut to what can be true of so many pages.
 */
#include "client/ctl/heapmap_svg.h"

#include <errno.h>
#include <langinfo.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "client/ctl/outfile.h"
#include "shm/layout.h"

#define CELL_PAGES_MIN     (SHM_HEAP_ARENA_PAGES / HEAPMAP_LINE_CELLS)
#define CELL_PAGES_MIN_OLD 64u /* of a daemon that tells no classes */
#define PART_PAGES_MAX     SHM_HEAP_ARENA_PAGES
#define PARTS_MAX          4096u /* that are asked for at once */
#define END_MAX            (UINT64_C(1) << 32)

static heapmap shown;
static uint64_t next_page; /* that no part has been of yet */
static const arguments *wanted;

Goallocd__HeapMap heap_map_first = GOALLOCD__HEAP_MAP__INIT;

bool heap_map_set(const arguments *args)
{
    wanted = args;
    heap_map_first.cell_pages = CELL_PAGES_MIN;
    heap_map_first.classes = args->json || args->svg != NULL;
    return !(args->json && args->svg != NULL) && args->nrows <= HEAPMAP_LINES_MAX;
}

static uint64_t at_most(uint64_t n, uint64_t most)
{
    return n < most ? n : most;
}

/* The first reply says how large the picture is. */
static void measure(heapmap *map, const Goallocd__HeapMapReply *got)
{
    uint64_t ncells = HEAPMAP_LINE_CELLS * (uint64_t)(wanted->nrows != 0 ? wanted->nrows : HEAPMAP_LINES_MAX);

    map->base = got->arena_base;
    map->arena_pages = got->arena_pages;
    map->end = at_most(got->end, END_MAX);
    map->has_classes = heap_map_first.classes && got->has_classes;
    map->cell_pages = wanted->svg == NULL ? CELL_PAGES_MIN : map->has_classes ? 1 : CELL_PAGES_MIN_OLD;
    while (map->cell_pages * ncells < map->end)
        map->cell_pages *= 2;
    map->ncells = (size_t)((map->end + map->cell_pages - 1) / map->cell_pages);
    for (size_t i = 0; i < map->ncells; i++)
        map->cells[i].npages = at_most(map->end - i * map->cell_pages, map->cell_pages);
}

static uint64_t part_pages(const heapmap *map)
{
    return map->has_classes ? at_most(map->cell_pages, PART_PAGES_MAX) : map->cell_pages;
}

static void add_parts(heapmap *map, const Goallocd__HeapMapReply *got)
{
    uint64_t first = next_page;
    uint64_t each = part_pages(map);
    size_t i;

    for (i = 0; i < got->n_inuse && i < got->n_backed && next_page < map->end; i++, next_page += each) {
        heapmap_cell *cell = &map->cells[next_page / map->cell_pages];
        uint64_t npages = at_most(map->end - next_page, each);
        uint64_t inuse = at_most(got->inuse[i], npages);

        cell->inuse += inuse;
        cell->backed += at_most(got->backed[i], npages - inuse);
    }
    for (size_t k = 0; k < got->n_class_cell && k < got->n_class_number && k < got->n_class_npages; k++) {
        heapmap_cell *cell;
        uint64_t npages;

        if (got->class_cell[k] >= i || got->class_number[k] > SIZE_CLASS_COUNT)
            continue; /* a class that this build does not know: no span that it knows */
        cell = &map->cells[(first + got->class_cell[k] * each) / map->cell_pages];
        npages = at_most(got->class_npages[k], cell->inuse - cell->nspan);
        cell->by_class[got->class_number[k]] += npages;
        cell->nspan += npages;
    }
}

bool heap_map_next(Goallocd__Request *request, const Goallocd__Reply *reply)
{
    Goallocd__HeapMap *ask = request->heap_map;
    heapmap *map = &shown;
    uint64_t before = next_page;

    if (ask->max_cells == 0)
        measure(map, reply->heap_map);
    else
        add_parts(map, reply->heap_map);
    if (next_page >= map->end || (ask->max_cells > 0 && next_page == before))
        return false;
    ask->start = next_page;
    ask->cell_pages = part_pages(map);
    ask->classes = map->has_classes;
    ask->max_cells = (uint32_t)at_most((map->end - next_page + ask->cell_pages - 1) / ask->cell_pages, PARTS_MAX);
    return true;
}

/* --- as text --- */

/* One character for a cell: how much of it is in use; if nothing, whether what is free has memory. */
static const char *cell_mark(const heapmap_cell *c, bool utf8)
{
    static const char *const shades[2][5] = { { "'", ":", "+", "*", "#" }, { "·", "░", "▒", "▓", "█" } };
    uint64_t eighths = c->npages == 0 ? 0 : (c->inuse * 8 + c->npages - 1) / c->npages;

    if (c->npages == 0)
        return " ";
    if (c->inuse == 0)
        return c->backed * 2 > c->npages ? "-" : c->backed > 0 ? "," : ".";
    return shades[utf8][eighths <= 1 ? 0 : eighths <= 3 ? 1 : eighths <= 5 ? 2 : eighths <= 7 ? 3 : 4];
}

static void print_line(const heapmap *map, size_t first, bool utf8, heapmap_cell *sum)
{
    char line[4 * HEAPMAP_LINE_CELLS] = "";

    for (size_t i = first; i < first + HEAPMAP_LINE_CELLS && i < map->ncells; i++) {
        const heapmap_cell *c = &map->cells[i];

        (void)strcat(line, cell_mark(c, utf8)); /* at most 3 bytes each */
        sum->inuse += c->inuse;
        sum->backed += c->backed;
        sum->npages += c->npages;
    }
    ctl_print_row("%012" PRIx64 " %s", map->base + first * map->cell_pages * PAGE_BYTES, line);
}

static void print_map(const heapmap *map)
{
    bool utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    heapmap_cell sum = { 0 };

    (void)printf("arena of %s at 0x%" PRIx64 ", %s of it in the page heap\n", ctl_bytes(map->arena_pages * PAGE_BYTES),
                 map->base, ctl_bytes(map->end * PAGE_BYTES));
    (void)printf("a cell is %s, a line %s\n\n", ctl_bytes(map->cell_pages * PAGE_BYTES),
                 ctl_bytes(map->cell_pages * HEAPMAP_LINE_CELLS * PAGE_BYTES));
    for (size_t i = 0; i < map->ncells; i += HEAPMAP_LINE_CELLS)
        print_line(map, i, utf8, &sum);
    (void)printf("\nin use: %s   free with memory: , a little  - most   released: .\n",
                 utf8 ? "· ░ ▒ ▓ █" : "' : + * #");
    (void)printf("in use %s, free with memory %s, released %s\n", ctl_bytes(sum.inuse * PAGE_BYTES),
                 ctl_bytes(sum.backed * PAGE_BYTES),
                 ctl_bytes((sum.npages - sum.inuse - sum.backed) * PAGE_BYTES));
}

static void write_svg(const heapmap *map)
{
    char *picture = NULL;
    size_t len;
    FILE *out = open_memstream(&picture, &len);
    int r;

    if (out == NULL)
        exit(ctl_fail(CTL_E_MEMORY, 0, "out of memory"));
    heapmap_draw(map, wanted->who.socket_path, out);
    if (ferror(out) || fclose(out) != 0)
        exit(ctl_fail(CTL_E_MEMORY, 0, "out of memory"));
    r = outfile_write(wanted->svg, picture, len);
    free(picture);
    if (r < 0)
        exit(ctl_fail(CTL_E_OUTPUT, 0, "%s: %s", strcmp(wanted->svg, "-") == 0 ? "stdout" : wanted->svg,
                      strerror(-r)));
}

void heap_map_text(const Goallocd__Reply *last)
{
    (void)last;
    if (wanted->svg != NULL)
        write_svg(&shown);
    else
        print_map(&shown);
}

/* --- as JSON --- */

static json_int_t bytes_of(uint64_t npages)
{
    uint64_t bytes = npages * PAGE_BYTES;

    return (json_int_t)bytes;
}

static json_t *classes_of(const heapmap_cell *c)
{
    json_t *list = json_array();
    char name[16];

    for (uint32_t class = 0; class <= SIZE_CLASS_COUNT && list != NULL; class++) {
        if (c->by_class[class] != 0 &&
            json_array_append_new(list, json_pack("{s:I, s:s, s:I}", "class", (json_int_t)class, "name",
                                                  stats_class_name(class, size_class_bytes[class], name), "bytes",
                                                  bytes_of(c->by_class[class]))) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *cell_json(const Goallocd__Reply *reply, size_t i)
{
    const heapmap_cell *c = &shown.cells[i];
    json_t *object = json_pack("{s:I, s:I, s:I}", "inuse_bytes", bytes_of(c->inuse), "free_bytes", bytes_of(c->backed),
                               "released_bytes", bytes_of(c->npages - c->inuse - c->backed));

    (void)reply;
    if (object != NULL && shown.has_classes && json_object_set_new(object, "classes", classes_of(c)) != 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}

bool heap_map_json(json_t *object, const Goallocd__Reply *reply)
{
    const heapmap *map = &shown;

    return ctl_json_set(object, "arena_base", map->base) &&
           ctl_json_set(object, "arena_bytes", map->arena_pages * PAGE_BYTES) &&
           ctl_json_set(object, "heap_bytes", map->end * PAGE_BYTES) &&
           ctl_json_set(object, "cell_bytes", map->cell_pages * PAGE_BYTES) &&
           ctl_json_append(object, "cells", reply, map->ncells, cell_json);
}
