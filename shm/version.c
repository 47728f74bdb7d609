/*
 * Version: the numbers of this build's layout, and the comparison with those of a heap.
 *
 * Called by the daemon when it takes a heap over or a process attaches, by clients when they attach, by goallocctl when
 * it looks at a keeper's heap. Data: none; the words of a heap are in the headers of its spans (layout.h) and of the
 * daemon's private memfd.
 *
 * Nothing else in the sources knows these numbers. So tests have a daemon and a library of another version by compiling
 * this file alone once more.
 */
#include "shm/version.h"

#include <stdio.h>

/* README.md, "Versions", says when which of them rises. */
#ifndef GOALLOC_LAYOUT_MAJOR
#define GOALLOC_LAYOUT_MAJOR 1
#endif
#ifndef GOALLOC_LAYOUT_MINOR
#define GOALLOC_LAYOUT_MINOR 2
#endif

/* What it knows of features, besides those of version.h; tests have some. */
#ifndef GOALLOC_LAYOUT_KNOWS
#define GOALLOC_LAYOUT_KNOWS 0
#endif

/* Spans as long as Go's alone: two heaps that differ in that have nothing to do with each other. */
#ifdef GOALLOC_SPANS_GO
#define MAJOR_OFFSET 1000
#else
#define MAJOR_OFFSET 0
#endif

#define MAJOR_MAX 0xffffu /* what is above was the hash of a layout */

static const shm_version own = {
    .major = GOALLOC_LAYOUT_MAJOR + MAJOR_OFFSET,
    .minor = GOALLOC_LAYOUT_MINOR,
    .needed = GOALLOC_LAYOUT_KNOWS,
    .writing = GOALLOC_LAYOUT_KNOWS,
    .optional = SHM_OPTIONAL_PROFILE | SHM_OPTIONAL_ORIGIN | GOALLOC_LAYOUT_KNOWS,
    .daemon = GOALLOC_LAYOUT_KNOWS,
};

const shm_version *version_own(void)
{
    return &own;
}

/* The features that the heap has, that matter to such a use, and that the build does not know. */
static uint32_t unknown_features(const shm_version *heap, const shm_version *build, enum version_use use)
{
    uint32_t unknown = heap->needed & ~build->needed;

    if (use != VERSION_READS)
        unknown |= heap->writing & ~build->writing;
    if (use == VERSION_SERVES)
        unknown |= heap->daemon & ~build->daemon;
    return unknown;
}

int version_check(const shm_version *heap, const shm_version *build, enum version_use use)
{
    if (heap->major != build->major)
        return VERSION_E_MAJOR;
    return unknown_features(heap, build, use) != 0 ? VERSION_E_FEATURES : 0;
}

/* The layout in words: "layout 1.1". */
static void name_version(char *buf, size_t size, const shm_version *v)
{
    if (v->major == 0 || v->major > MAJOR_MAX)
        (void)snprintf(buf, size, "a layout before 1.0");
    else
        (void)snprintf(buf, size, "layout %u.%u", v->major, v->minor);
}

const char *version_explain(char *buf, size_t size, const shm_version *heap, const shm_version *build,
                            enum version_use use, const char *who)
{
    char theirs[40];
    char ours[40];

    name_version(theirs, sizeof(theirs), heap);
    name_version(ours, sizeof(ours), build);
    if (heap->major != build->major)
        (void)snprintf(buf, size, "the heap has %s, and %s knows %s: the major number has to be the same", theirs, who,
                       ours);
    else
        (void)snprintf(buf, size, "the heap (%s) has features that %s (%s) does not know: 0x%x", theirs, who, ours,
                       unknown_features(heap, build, use));
    return buf;
}
