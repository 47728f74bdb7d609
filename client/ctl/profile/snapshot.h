/*
 * Snapshot: what a heap's profile says at one moment: who has allocated how much where, and how much of it lives.
 */
#ifndef GOALLOC_CLIENT_CTL_PROFILE_SNAPSHOT_H
#define GOALLOC_CLIENT_CTL_PROFILE_SNAPSHOT_H

#include "shm/profile.h"

/* The descriptors of a ProfileRead, which the caller keeps, and what the reply says of them. */
typedef struct snapshot_files {
    int spans;
    int bitmap;
    int region;
    uint64_t rate; /* of sessions that attach; 0: off. For entries that name none */
} snapshot_files;

#define SNAPSHOT_TEXT_BYTES SHM_GROUP_NAME_BYTES /* of labels and names of groups */
_Static_assert(SHM_LABEL_BYTES <= SNAPSHOT_TEXT_BYTES, "the longer one");

/* A party, bounded and fit for a terminal. Party 0 is whoever found the table full. */
typedef struct snapshot_party {
    bool exists;
    bool has_ended; /* its session has */
    uint32_t session;
    uint32_t epoch;
    uint32_t pid;
    uint32_t uid;
    uint64_t rate;
    char label[SHM_LABEL_BYTES];
    char group[SHM_GROUP_NAME_BYTES];
} snapshot_party;

/* What can be summed up. Estimates: an object counts for all those that its sample stands for. */
enum snapshot_value {
    SNAPSHOT_ALLOC_OBJECTS,
    SNAPSHOT_ALLOC_BYTES,
    SNAPSHOT_LIVE_OBJECTS,
    SNAPSHOT_LIVE_BYTES,
    SNAPSHOT_VALUES
};

/* A site: a stack of a party. Sums over all rows stay below 2^63. */
typedef struct snapshot_row {
    uint32_t party;
    uint32_t stack;
    uint64_t nsamples;  /* that were taken */
    uint64_t nlive;     /* of them, those that live */
    uint64_t values[SNAPSHOT_VALUES];
} snapshot_row;

typedef struct snapshot {
    profile_region *region; /* a copy. What rows name is whole in it */
    snapshot_party *parties; /* PROFILE_PARTIES */
    snapshot_row *rows; /* those with a sample, or with bytes */
    size_t nrows;
    uint64_t rate;         /* that counts for whom nothing better is known */
    uint64_t default_rate; /* of sessions that attach; 0: off */
    uint32_t nsessions;    /* that have not ended, and how many of them sample */
    uint32_t nsampling;
    uint64_t totals[SNAPSHOT_VALUES];
    uint64_t nsamples;
    uint64_t nlive;
    uint64_t nlost_samples;
    uint64_t nlost_sites;
    uint64_t nlost_stacks;
    uint64_t nlost_modules;
    uint64_t ndamaged; /* entries that nobody who is honest writes; they are passed over */
} snapshot;

/* Which rows. Zeroed: all. */
typedef struct snapshot_filter {
    uint32_t session;
    const char *group; /* NULL: any; "": none */
    const char *label;
    bool (*wants)(uint64_t offset, void *arg); /* of the objects that live, which; NULL: all */
    void *arg;
} snapshot_filter;

/*
 * Read it. 0; -errno: -EPROTO (the descriptors are no heap's), -ENOEXEC (a heap that this build may not read),
 * -ENODATA (a heap without profiles), -ENOMEM. The snapshot is the caller's to free, unless that fails.
 */
int snapshot_take(snapshot *s, const snapshot_files *files, const snapshot_filter *filter)
    __attribute__((warn_unused_result));
void snapshot_free(snapshot *s);

/* The frames of a row's stack, the innermost first; 0: it was not recorded. */
uint32_t snapshot_stack(const snapshot *s, uint32_t stack, const uint64_t **ret_frames);

/* A frame's module, below PROFILE_MODULES, and the address of the call in its file. False: it has no module. */
bool snapshot_frame(const snapshot *s, uint64_t frame, uint32_t *ret_module, uint64_t *ret_address);

/* A module's path as it was written: any bytes but NUL. */
void snapshot_module_path(const snapshot *s, uint32_t module, char ret[sizeof(((profile_module *)0)->path) + 1]);

/* The bytes of its build id; 0: it has none. */
uint32_t snapshot_module_build_id(const snapshot *s, uint32_t module, const uint8_t **ret);

#endif
