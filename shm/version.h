/*
 * Version: which layout a heap has, which ones a build knows, and whether the two fit. README.md, "Versions", has the
 * rules for who changes the layout.
 */
#ifndef GOALLOC_SHM_VERSION_H
#define GOALLOC_SHM_VERSION_H

#include <stddef.h>
#include <stdint.h>

/*
 * Of a heap: the layout that it has, and the features that it uses. Of a build: the layout that it makes, and the
 * features that it knows. A feature is a bit of one of these words, which say what it is to who does not know it:
 */
typedef struct shm_version {
    uint32_t major;    /* another one: nothing fits */
    uint32_t minor;    /* another one: what is new has feature bits, or may be ignored */
    uint32_t needed;   /* it must not use the heap at all */
    uint32_t writing;  /* it may read: a session that is read-only is */
    uint32_t optional; /* it may do everything. A daemon that takes the heap over clears the bit */
    uint32_t daemon;   /* it must not serve the heap; for clients it is nothing */
} shm_version;

/* What a build is about to do with a heap: read-only sessions, other sessions, daemons. */
enum version_use { VERSION_READS, VERSION_WRITES, VERSION_SERVES };

/* What a caller handles itself. */
enum {
    VERSION_E_MAJOR = 1,    /* another layout */
    VERSION_E_FEATURES = 2, /* the heap has features that the build does not know */
};

/*
 * Bits of optional. Of 1.1: the heap has a region of profiles, and marks say which spans it is about (profile.h). A
 * daemon that does not know it leases a span that is marked to anybody: so without the bit, marks and region mean
 * nothing.
 */
#define SHM_OPTIONAL_PROFILE 0x10000u

/* Of 1.2: spans say who has filled them (origin.h). A daemon that does not know it leases them without a word. */
#define SHM_OPTIONAL_ORIGIN 0x20000u

#define VERSION_TEXT_BYTES 160 /* of version_explain(), whatever it has to say */

/* This build's. */
const shm_version *version_own(void);

/* 0 if a build may use a heap so; VERSION_E_*. */
int version_check(const shm_version *heap, const shm_version *build, enum version_use use)
    __attribute__((warn_unused_result));

/*
 * Why it may not, as a sentence without an end, which names both: into buf, cut to size. who: what the build is to the
 * reader, "this goallocd". Returns buf.
 */
const char *version_explain(char *buf, size_t size, const shm_version *heap, const shm_version *build,
                            enum version_use use, const char *who);

#endif
