/*
 * Profile: the layout of the region in which sampled allocations are recorded. README.md, "Profiles", has the design.
 *
 *            +--------+--------------+--------------+--------------+--------------+----------------+
 *            | header | modules      | stacks       | parties      | sites        | samples        |
 *            | 4 KiB  | 1024 x 512 B | 8192 x 512 B | 4096 x 256 B | 32768 x 32 B | 262144 x 8 B   |
 *            +--------+--------------+--------------+--------------+--------------+----------------+
 *
 * Who writes: every process that samples, so any process of the heap, and a hostile one whatever it likes. The daemon
 * makes the region and hands it out; it never reads it. Who reads: goallocctl, which believes nothing: each number is
 * bounded, each text cut at its field, before it is used.
 *
 * A sampled object is one word of samples: its place, and the site that has allocated it. The word counts while the
 * bits say that the object is live and its span is marked: nobody has to take it away. A site is a stack of a party; a
 * party is a session, and stays when that ends. A frame is an address in a module, so processes that were loaded
 * elsewhere share stacks.
 *
 * Entries of modules, stacks and parties are claimed, filled and published, in this order, by one process:
 *
 *            state  0 ---compare-and-swap---> CLAIMED | tag ---store, release---> READY | tag
 *
 * where tag is of the content's hash. They never change after that. If the process dies before it publishes, the entry
 * is lost, and whoever looks for the same content takes the next one. A site is claimed by its key, which is all of it
 * but for the counters, and a sample is one word: both are whole at once.
 *
 * Entry 0 of parties, stacks and sites stands for what a full table has no room for, so sums stay right.
 */
#ifndef GOALLOC_SHM_PROFILE_H
#define GOALLOC_SHM_PROFILE_H

#include "shm/layout.h"
#include "shm/sizeclass.h"

#define PROFILE_MAGIC          UINT64_C(0x31666f7270616f67) /* "goaprof1" */
#define PROFILE_MODULES        1024u
#define PROFILE_STACKS         8192u
#define PROFILE_PARTIES        4096u
#define PROFILE_SITES          32768u
#define PROFILE_SAMPLES        262144u
#define PROFILE_BUCKET         8u  /* samples whose places have the same hash */
#define PROFILE_PROBES         64u /* entries of the other tables that are looked at */
#define PROFILE_PARTIES_SHARED 512u /* the last ones of parties: of several sessions each */
#define PROFILE_FRAMES_MAX     62u
#define PROFILE_BUILD_ID_MAX   32u
#define PROFILE_RATE_DEFAULT   (512 * KIB)
#define PROFILE_RATE_MAX       ((UINT64_C(1) << 40) - 1)
#define PROFILE_OBJECTS_UNIT   256u /* allocated objects are counted in so many parts of one */

/* The word of a session, a group or the header that says whether to sample: rate in bytes, 0 off; of which region. */
typedef struct profile_word {
    uint64_t rate;
    uint32_t seq; /* 24 bits; another one: the region is another one */
} profile_word;

enum profile_state {
    PROFILE_FREE = 0,
    PROFILE_CLAIMED = 1,
    PROFILE_READY = 2,
};

typedef struct profile_header {
    uint64_t magic;
    uint64_t heap; /* generation of the heap that it is of */
    uint64_t bytes;
    uint64_t reserved;
    shm_u64 nlost_samples; /* samples that no bucket had room for, or that got no place in a marked span */
    shm_u64 nlost_sites;   /* counted for site 0, or for a party that several share */
    shm_u64 nlost_stacks;  /* counted for stack 0 */
    shm_u64 nlost_modules;
} profile_header;

/* A state word: state in the two low bits, then 62 bits of the content's hash. */
typedef struct profile_module {
    shm_u64 state;
    uint32_t build_id_bytes;
    uint32_t path_bytes;
    uint8_t build_id[PROFILE_BUILD_ID_MAX];
    char path[464];
} profile_module;

/* A frame: module + 1, or 0 for none, in the upper 16 bits; the address as the module's file has it in the lower 48. */
typedef struct profile_stack {
    shm_u64 state;
    uint64_t nframes;
    uint64_t frames[PROFILE_FRAMES_MAX]; /* the innermost first; return addresses */
} profile_stack;

typedef struct profile_party {
    shm_u64 state;
    uint64_t rate;
    uint32_t session; /* 0 with epoch 0: of several that have label and group in common */
    uint32_t epoch;
    uint32_t pid;
    uint32_t uid;
    uint64_t began_ms; /* shm_clock_ms() */
    char label[SHM_LABEL_BYTES];
    char group[SHM_GROUP_NAME_BYTES];
    uint64_t reserved[11];
} profile_party;

typedef struct profile_site {
    shm_u64 key; /* PROFILE_SITE_USED | party << 32 | stack; 0: free */
    shm_u64 nsamples;
    shm_u64 objects; /* allocated, estimated, in PROFILE_OBJECTS_UNIT parts of one */
    shm_u64 bytes;   /* the same in bytes */
} profile_site;

#define PROFILE_SITE_USED (UINT64_C(1) << 63)

_Static_assert(PROFILE_SITES == 1u << 15 && SIZE_CLASS_COUNT < 128, "a sample is one word");
_Static_assert(sizeof(profile_header) == 64 && sizeof(profile_module) == 512 && sizeof(profile_stack) == 512 &&
                   sizeof(profile_party) == 256 && sizeof(profile_site) == 32,
               "profile layout");

/* The whole region. */
typedef struct profile_region {
    profile_header header;
    char reserved[4096 - sizeof(profile_header)];
    profile_module modules[PROFILE_MODULES];
    profile_stack stacks[PROFILE_STACKS];
    profile_party parties[PROFILE_PARTIES];
    profile_site sites[PROFILE_SITES];
    shm_u64 samples[PROFILE_SAMPLES];
} profile_region;

/* A sample's word: used 1 | size class 7 | site 15 | place 41, which is the object's offset in units of 8 bytes. */
typedef struct profile_sample {
    uint64_t offset;
    uint32_t site;
    uint8_t size_class; /* that the object was sampled as; its place may be a larger one's. 0: as long as its place */
} profile_sample;

#define PROFILE_SAMPLE_USED (UINT64_C(1) << 63)

static inline uint64_t profile_word_pack(profile_word word)
{
    return word.rate | (uint64_t)word.seq << 40;
}

static inline profile_word profile_word_unpack(uint64_t word)
{
    return (profile_word){ .rate = word & PROFILE_RATE_MAX, .seq = (uint32_t)(word >> 40) };
}

static inline uint64_t profile_sample_pack(profile_sample sample)
{
    return PROFILE_SAMPLE_USED | (uint64_t)sample.size_class << 56 | (uint64_t)sample.site << 41 | sample.offset >> 3;
}

static inline profile_sample profile_sample_unpack(uint64_t word)
{
    return (profile_sample){ .offset = (word & ((UINT64_C(1) << 41) - 1)) << 3,
                             .site = (uint32_t)(word >> 41) & (PROFILE_SITES - 1),
                             .size_class = (uint8_t)(word >> 56) & 0x7f };
}

/* The bytes that the sample counts for, if its place has so many. For any word that somebody has written. */
static inline uint64_t profile_sample_bytes(profile_sample sample, uint64_t place_bytes)
{
    uint64_t bytes = sample.size_class <= SIZE_CLASS_COUNT ? size_class_bytes[sample.size_class] : 0;

    return bytes != 0 && bytes < place_bytes ? bytes : place_bytes;
}

/*
 * What follows writes it (profile.c). Each call ends after a bounded number of steps, whatever others have written or
 * are writing there, and never waits.
 */

/*
 * The numbers of an entry with this content, which is made if there is none. Of a module: plus 1. 0: there is no room,
 * which is counted. Texts that are too long lose their beginning (paths: the name is at the end).
 */
uint32_t profile_add_module(profile_region *region, const uint8_t *build_id, uint32_t build_id_bytes, const char *path);
uint32_t profile_add_stack(profile_region *region, const uint64_t *frames, uint32_t nframes);
/* Of a session. If there is no room, one that sessions with this label, group and rate share; or party 0. */
uint32_t profile_add_party(profile_region *region, const profile_party *party);
/* Without room: the stack's of party 0; or site 0. */
uint32_t profile_add_site(profile_region *region, uint32_t party, uint32_t stack);

/* How many objects of so many bytes were allocated for each that is sampled at this rate: 1 / (1 - exp(-S / R)). */
double profile_weight(uint64_t bytes, uint64_t rate);

/* One more sample of an object of so many bytes. */
void profile_count(profile_region *region, uint32_t site, uint64_t bytes, uint64_t rate);

/* The sample becomes the record of its place, over the one before; false: there is no room, which is counted. */
bool profile_put_sample(profile_region *region, const shm_map *map, profile_sample sample);

/* The place's record, if there is one, is taken away. */
void profile_remove_sample(profile_region *region, uint64_t offset);

/* True if a sampled object is there. */
bool profile_is_live(const shm_map *map, uint64_t offset);

#endif
