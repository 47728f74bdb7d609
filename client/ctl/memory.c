/*
 * memory: where the arena's pages are, and giving them back: goallocctl heap-map, scavenge and trim.
 *
 * The picture has 64 cells a line. A line is a heap arena of 64 MiB, a cell 1 MiB; large heaps have lines of several
 * heap arenas, so that the picture has at most 40.
 */
#include <langinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl.h"
#include "shm/layout.h"

#define LINE_CELLS     64u
#define LINES_MAX      40u
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
    cell cells[LINE_CELLS * LINES_MAX];
} picture;

static Goallocd__Reply *ask_map(const arguments *args, uint64_t start, uint64_t cell_pages, uint32_t max_cells)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__HeapMap body = GOALLOCD__HEAP_MAP__INIT;

    body.start = start;
    body.cell_pages = cell_pages;
    body.max_cells = max_cells;
    request.op_case = GOALLOCD__REQUEST__OP_HEAP_MAP;
    request.heap_map = &body;
    return ctl_ask(args, &request, GOALLOCD__REPLY__RESULT_HEAP_MAP);
}

static void add_cells(picture *p, const Goallocd__HeapMapReply *reply)
{
    for (size_t i = 0; i < reply->n_inuse && i < reply->n_backed && p->ncells < LINE_CELLS * LINES_MAX; i++) {
        uint64_t from = p->ncells * p->cell_pages;
        uint64_t npages = reply->end > from ? reply->end - from : 0;

        p->cells[p->ncells++] = (cell){ reply->inuse[i], reply->backed[i],
                                        npages < p->cell_pages ? npages : p->cell_pages };
    }
}

static bool take_picture(const arguments *args, picture *p)
{
    Goallocd__Reply *reply = ask_map(args, 0, CELL_PAGES_MIN, 0);

    if (reply == NULL)
        return false;
    p->base = reply->heap_map->arena_base;
    p->arena_pages = reply->heap_map->arena_pages;
    p->end = reply->heap_map->end;
    goallocd__reply__free_unpacked(reply, NULL);

    p->cell_pages = CELL_PAGES_MIN;
    while (p->cell_pages * LINE_CELLS * LINES_MAX < p->end)
        p->cell_pages *= 2;
    while (p->ncells * p->cell_pages < p->end && p->ncells < LINE_CELLS * LINES_MAX) {
        size_t before = p->ncells;

        reply = ask_map(args, p->ncells * p->cell_pages, p->cell_pages, LINE_CELLS * LINES_MAX);
        if (reply == NULL)
            return false;
        add_cells(p, reply->heap_map);
        goallocd__reply__free_unpacked(reply, NULL);
        if (p->ncells == before)
            break;
    }
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

static void print_line(const picture *p, size_t first, bool utf8)
{
    cell sum = { 0 };

    (void)printf("%014" PRIx64 " ", p->base + first * p->cell_pages * PAGE_BYTES);
    for (size_t i = first; i < first + LINE_CELLS; i++) {
        static const cell none = { 0 };
        const cell *c = i < p->ncells ? &p->cells[i] : &none;

        (void)fputs(cell_mark(c, utf8), stdout);
        sum.inuse += c->inuse;
        sum.backed += c->backed;
        sum.npages += c->npages;
    }
    (void)printf(" %3" PRIu64 "%% %10s %10s\n", sum.npages == 0 ? 0 : sum.inuse * 100 / sum.npages,
                 ctl_bytes(sum.backed * PAGE_BYTES), ctl_bytes((sum.npages - sum.inuse - sum.backed) * PAGE_BYTES));
}

static void print_picture(const picture *p)
{
    bool utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;

    (void)printf("arena of %s at 0x%" PRIx64 ", %s of it in the page heap; a cell is %s, a line %s\n",
                 ctl_bytes(p->arena_pages * PAGE_BYTES), p->base, ctl_bytes(p->end * PAGE_BYTES),
                 ctl_bytes(p->cell_pages * PAGE_BYTES), ctl_bytes(p->cell_pages * LINE_CELLS * PAGE_BYTES));
    (void)printf("in use: %s   free with memory: , a little  - most   released: .\n\n",
                 utf8 ? "· < 1/8  ░ 3/8  ▒ 5/8  ▓ 7/8  █ more" : "' < 1/8  : 3/8  + 5/8  * 7/8  # more");
    (void)printf("%-14s %-64s %4s %10s %10s\n", "address", "", "used", "free", "released");
    for (size_t i = 0; i < p->ncells; i += LINE_CELLS)
        print_line(p, i, utf8);
}

static int print_picture_json(const picture *p)
{
    json_t *object = json_object();
    json_t *cells = json_array();
    bool whole = object != NULL && cells != NULL;

    for (size_t i = 0; whole && i < p->ncells; i++) {
        const cell *c = &p->cells[i];

        whole = json_array_append_new(cells,
                                      json_pack("{s:I, s:I, s:I}", "inuse_bytes", (json_int_t)(c->inuse * PAGE_BYTES),
                                                "free_bytes", (json_int_t)(c->backed * PAGE_BYTES), "released_bytes",
                                                (json_int_t)((c->npages - c->inuse - c->backed) * PAGE_BYTES))) == 0;
    }
    whole = whole && ctl_json_set(object, "arena_base", p->base) &&
            ctl_json_set(object, "arena_bytes", p->arena_pages * PAGE_BYTES) &&
            ctl_json_set(object, "heap_bytes", p->end * PAGE_BYTES) &&
            ctl_json_set(object, "cell_bytes", p->cell_pages * PAGE_BYTES) &&
            json_object_set(object, "cells", cells) == 0;
    json_decref(cells);
    if (!whole) {
        json_decref(object);
        object = NULL;
    }
    return ctl_print_json(object);
}

int command_heap_map(const arguments *args)
{
    static picture p;

    if (!take_picture(args, &p))
        return EXIT_FAILURE;
    if (args->json)
        return print_picture_json(&p);
    print_picture(&p);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/*
 * To release a large heap takes its time, which is no reason to wait long for a daemon that does not answer at all: so
 * it is pinged first. False: it does not answer.
 */
static bool allow_more_time(arguments *args)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping body = GOALLOCD__PING__INIT;
    Goallocd__Reply *reply;

    if (args->timeout_given)
        return true;
    request.op_case = GOALLOCD__REQUEST__OP_PING;
    request.ping = &body;
    reply = ctl_ask(args, &request, GOALLOCD__REPLY__RESULT_PING);
    if (reply == NULL)
        return false;
    goallocd__reply__free_unpacked(reply, NULL);
    args->timeout_ms = CTL_SCAVENGE_TIMEOUT_MS;
    args->until = deadline_in(args->timeout_ms);
    return true;
}

int command_scavenge(const arguments *args)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Scavenge body = GOALLOCD__SCAVENGE__INIT;
    arguments patient = *args;
    Goallocd__Reply *reply;
    int status = EXIT_SUCCESS;

    if (!allow_more_time(&patient))
        return EXIT_FAILURE;
    request.op_case = GOALLOCD__REQUEST__OP_SCAVENGE;
    request.scavenge = &body;
    reply = ctl_ask(&patient, &request, GOALLOCD__REPLY__RESULT_SCAVENGE);
    if (reply == NULL)
        return EXIT_FAILURE;
    if (args->json)
        status = ctl_print_json(json_pack("{s:I, s:I}", "released_bytes", (json_int_t)reply->scavenge->released_bytes,
                                          "free_bytes", (json_int_t)reply->scavenge->remaining_bytes));
    else
        (void)printf("released %s; %s are free and have memory\n", ctl_bytes(reply->scavenge->released_bytes),
                     ctl_bytes(reply->scavenge->remaining_bytes));
    goallocd__reply__free_unpacked(reply, NULL);
    return fflush(stdout) == 0 ? status : EXIT_FAILURE;
}

int command_trim(const arguments *args)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Trim body = GOALLOCD__TRIM__INIT;
    Goallocd__Reply *reply;

    request.op_case = GOALLOCD__REQUEST__OP_TRIM;
    request.trim = &body;
    reply = ctl_ask(args, &request, GOALLOCD__REPLY__RESULT__NOT_SET);
    if (reply == NULL)
        return EXIT_FAILURE;
    goallocd__reply__free_unpacked(reply, NULL);
    return args->json ? ctl_print_json(json_object()) : EXIT_SUCCESS;
}
