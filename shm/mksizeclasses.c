/*
 * mksizeclasses: writes sizeclass_table.c, the size classes, from Go's rules (runtime/mksizeclasses.go).
 *
 *   1. Candidate sizes go up in steps: 8, from 32 on 16, from 128 on an eighth of the last power of two, from 2048
 *      on 256.
 *   2. The span of a size takes as many pages as leave at most an eighth of it unused.
 *   3. A size whose span has the same pages and object count as the one before replaces it: more room for the same
 *      cost.
 *   4. Each size is then raised to the largest multiple of 128 that keeps its object count, if that is more.
 *
 * Two things are not Go's. Behind its classes stands that of tiny blocks: 16 bytes, as many as a page holds with a word
 * of 4 bytes for each. And up to LONG_BYTES_MAX spans are longer: as many of Go's, one behind the other, as 32 KiB have
 * room for, with at most LONG_NELEMS_MAX objects. So sizes and rounding are Go's, and a span's tail is at most what the
 * tails of Go's spans would be. Spans of Go's own lengths are the short ones, with which a slot begins; in builds with
 * GOALLOC_SPANS=go there are no others.
 *
 * Built and run by hand when the rules change: mksizeclasses > shm/sizeclass_table.c. A test compares.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "shm/sizeclass.h"

#define PAGE      ((uint32_t)PAGE_BYTES)
#define TINY_WORD 4u

#define LONG_BYTES_MAX  4096u /* classes up to here have long spans */
#define LONG_NPAGES     4u    /* 32 KiB */
#define LONG_NELEMS_MAX (SPAN_NELEMS_MAX / 2) /* so that kept bits stand beside the alloc bits (layout.h) */

typedef struct size_entry {
    uint32_t bytes;
    uint32_t npages;
} size_entry;

static size_entry classes[SIZE_CLASS_COUNT + 8];
static unsigned nclasses = 1; /* class 0 is for large objects */

static uint32_t span_bytes(const size_entry *c)
{
    return c->npages * PAGE;
}

static uint32_t pages_for(uint32_t bytes)
{
    uint32_t span = PAGE;

    while (span % bytes > span / 8)
        span += PAGE;
    return span / PAGE;
}

static uint32_t next_step(uint32_t bytes, uint32_t step)
{
    if ((bytes & (bytes - 1)) != 0)
        return step;
    if (bytes >= 2048)
        return 256;
    if (bytes >= 128)
        return bytes / 8;
    if (bytes >= 32)
        return 16;
    return step;
}

static void make_classes(void)
{
    uint32_t step = 8;

    for (uint32_t bytes = step; bytes <= SMALL_BYTES_MAX; bytes += step) {
        size_entry *last = &classes[nclasses - 1];
        uint32_t npages;

        step = next_step(bytes, step);
        npages = pages_for(bytes);
        if (nclasses > 1 && npages == last->npages && npages * PAGE / bytes == span_bytes(last) / last->bytes) {
            last->bytes = bytes;
            continue;
        }
        if (nclasses == SIZE_CLASS_COUNT + 8)
            exit(EXIT_FAILURE);
        classes[nclasses++] = (size_entry){ bytes, npages };
    }
    for (unsigned i = 1; i < nclasses; i++) {
        uint32_t nelems = span_bytes(&classes[i]) / classes[i].bytes;
        uint32_t most = span_bytes(&classes[i]) / nelems / 128 * 128;

        if (most > classes[i].bytes)
            classes[i].bytes = most;
    }
}

/* Pages of a span that is as long as some of Go's. */
static uint32_t long_pages(const size_entry *c)
{
    uint32_t npages = c->npages;

    if (c->bytes > LONG_BYTES_MAX)
        return npages;
    while (npages + c->npages <= LONG_NPAGES && (npages + c->npages) * PAGE / c->bytes <= LONG_NELEMS_MAX)
        npages += c->npages;
    return npages;
}

static unsigned class_for(uint32_t bytes)
{
    unsigned i = 1;

    while (classes[i].bytes < bytes)
        i++;
    return i;
}

static void print_numbers(const char *type, const char *name, const uint32_t *numbers, unsigned n)
{
    int column = 0;

    (void)printf("\nconst %s %s[%u] = {", type, name, n);
    for (unsigned i = 0; i < n; i++) {
        if (column == 0 || column > 106)
            column = printf("\n    ") - 1;
        else
            column += printf(" ");
        column += printf("%u,", numbers[i]);
    }
    (void)printf("\n};\n");
}

/* Pages and objects of a class's spans, as Go has them or as they are long. */
static void print_spans(const char *npages_name, const char *nelems_name, bool long_spans)
{
    uint32_t npages[SIZE_CLASS_COUNT + 1] = { [SIZE_CLASS_COUNT] = 1 };
    uint32_t nelems[SIZE_CLASS_COUNT + 1] = { [SIZE_CLASS_COUNT] = PAGE / (TINY_BLOCK_BYTES + TINY_WORD) };

    for (unsigned i = 1; i < SIZE_CLASS_COUNT; i++) {
        npages[i] = long_spans ? long_pages(&classes[i]) : classes[i].npages;
        nelems[i] = npages[i] * PAGE / classes[i].bytes;
    }
    print_numbers("uint8_t", npages_name, npages, SIZE_CLASS_COUNT + 1);
    print_numbers("uint16_t", nelems_name, nelems, SIZE_CLASS_COUNT + 1);
}

static void print_tables(void)
{
    uint32_t bytes[SIZE_CLASS_COUNT + 1] = { [SIZE_CLASS_COUNT] = TINY_BLOCK_BYTES };
    uint32_t magic[SIZE_CLASS_COUNT + 1] = { [SIZE_CLASS_COUNT] = UINT32_MAX / TINY_BLOCK_BYTES + 1 };
    uint32_t table8[SIZE_TABLE8_MAX / 8 + 2];
    uint32_t table128[(SMALL_BYTES_MAX - 1024) / 128 + 1];

    for (unsigned i = 1; i < SIZE_CLASS_COUNT; i++) {
        bytes[i] = classes[i].bytes;
        magic[i] = UINT32_MAX / classes[i].bytes + 1;
    }
    for (uint32_t i = 0; i < sizeof(table8) / sizeof(table8[0]); i++)
        table8[i] = class_for(i * 8);
    for (uint32_t i = 0; i < sizeof(table128) / sizeof(table128[0]); i++)
        table128[i] = class_for(1024 + i * 128);

    print_numbers("uint16_t", "size_class_bytes", bytes, SIZE_CLASS_COUNT + 1);
    print_spans("size_class_short_npages", "size_class_short_nelems", false);
    (void)printf("\n#ifdef GOALLOC_SPANS_GO\n");
    print_spans("size_class_npages", "size_class_nelems", false);
    (void)printf("\n#else\n");
    print_spans("size_class_npages", "size_class_nelems", true);
    (void)printf("\n#endif\n");
    print_numbers("uint32_t", "size_class_magic", magic, SIZE_CLASS_COUNT + 1);
    print_numbers("uint8_t", "size_table8", table8, sizeof(table8) / sizeof(table8[0]));
    print_numbers("uint8_t", "size_table128", table128, sizeof(table128) / sizeof(table128[0]));
}

int main(void)
{
    make_classes();
    if (nclasses != SIZE_CLASS_COUNT) {
        (void)fprintf(stderr, "mksizeclasses: %u classes instead of %d\n", nclasses, SIZE_CLASS_COUNT);
        return EXIT_FAILURE;
    }
    (void)printf("/*\n * Generated by mksizeclasses.c: do not edit. The rules stand there.\n */\n"
                 "#include \"shm/sizeclass.h\"\n");
    print_tables();
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
