/*
 * image: what is in an image of a heap, and whether all of it is whole: goallocctl image.
 *
 * Called by goallocctl.c. It asks no daemon, and reads all of the file, as a daemon does that loads it (image/).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "image/imagereader.h"
#include "shm/sizeclass.h"

/* Nothing is to be done with a page but to read it. */
static int pass(void *data, const image_pages *pages, image_error *why)
{
    (void)data;
    (void)pages;
    (void)why;
    return 0;
}

static const char *mark_name(const image *im)
{
    return im->mark == IMAGE_CLEAN ? "clean" : im->mark == IMAGE_LOADED ? "loaded" : "copy";
}

static const char *mark_text(const image *im)
{
    return im->mark == IMAGE_CLEAN    ? "clean: its heap has ended with it"
           : im->mark == IMAGE_LOADED ? "loaded: a heap has been served since, which it does not have"
                                      : "copy: it was saved while its heap was served";
}

/* "2026-11-22T18:30:00Z". */
static void time_text(uint64_t ms, char ret[32])
{
    time_t s = (time_t)(ms / 1000);
    struct tm tm;

    if (gmtime_r(&s, &tm) == NULL || strftime(ret, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        (void)snprintf(ret, 32, "%" PRIu64 " ms", ms);
}

/* Bytes of its spans: what the heap takes in the arena. */
static uint64_t span_bytes(const image *im)
{
    uint64_t npages = 0;

    for (uint32_t i = 0; i < im->spans.n; i++)
        npages += im->spans.spans[i].npages;
    return npages * PAGE_BYTES;
}

static void show_text(const image *im)
{
    const image_header *h = &im->header;
    char saved[32];

    time_text(h->saved_ms, saved);
    (void)printf("saved         %s, by goalloc %.*s\n", saved, (int)sizeof(h->version), h->version);
    (void)printf("mark          %s\n", mark_text(im));
    (void)printf("heap          %016" PRIx64 ", layout %u.%u\n", h->generation, h->major, h->minor);
    (void)printf("arena         %s at 0x%" PRIx64 "\n", ctl_bytes(h->arena_bytes), h->base);
    (void)printf("live objects  %" PRIu64 ", %s, in %s of spans\n", h->live_objects, ctl_bytes(h->live_bytes),
                 ctl_bytes(span_bytes(im)));
    (void)printf("roots         %" PRIu64 "\n", h->nroots);
    (void)printf("file          %s, %u blocks\n", ctl_bytes(h->file_bytes), h->nblocks);
    (void)puts("all of it is whole");
}

static bool show_json(const image *im)
{
    const image_header *h = &im->header;
    char saved[32];
    char id[24];
    json_t *object = json_object();
    bool whole;

    time_text(h->saved_ms, saved);
    (void)snprintf(id, sizeof(id), "%016" PRIx64, h->generation);
    whole = object != NULL && ctl_json_set_text(object, "saved", saved) &&
            ctl_json_set(object, "saved_ms", h->saved_ms) && ctl_json_set_foreign(object, "version", h->version) &&
            ctl_json_set_text(object, "mark", mark_name(im)) && ctl_json_set_text(object, "heap_id", id) &&
            ctl_json_set(object, "format", h->format) && ctl_json_set(object, "layout_major", h->major) &&
            ctl_json_set(object, "layout_minor", h->minor) && ctl_json_set(object, "arena_base", h->base) &&
            ctl_json_set(object, "arena_bytes", h->arena_bytes) &&
            ctl_json_set(object, "live_objects", h->live_objects) &&
            ctl_json_set(object, "live_bytes", h->live_bytes) && ctl_json_set(object, "spans", h->nspans) &&
            ctl_json_set(object, "span_bytes", span_bytes(im)) && ctl_json_set(object, "roots", h->nroots) &&
            ctl_json_set(object, "file_bytes", h->file_bytes) && ctl_json_print(object);
    json_decref(object);
    return whole;
}

int image_run(const arguments *args)
{
    const char *path = args->words[0];
    image_error why = { "" };
    bool shown = true;
    image im;
    int r = image_open(&im, path, false, &why);

    if (r < 0)
        return ctl_fail(CTL_E_IMAGE, -r, "%s: %s", path, why.text);
    r = image_for_all_pages(&im, 0, pass, NULL, NULL, &why);
    if (r == 0 && args->json)
        shown = show_json(&im);
    else if (r == 0)
        show_text(&im);
    image_close(&im);
    if (r < 0)
        return ctl_fail(CTL_E_IMAGE, -r, "%s: %s", path, why.text);
    if (!shown)
        return ctl_fail(CTL_E_MEMORY, 0, "out of memory");
    return fflush(stdout) == 0 ? CTL_OK : ctl_fail(CTL_E_OUTPUT, 0, "stdout: %s", strerror(errno));
}
