/*
 * Layout: what lies where in the three shared regions. This file is the ABI between daemon and clients.
 *
 *   arena    objects. Page 0 is never used, so offset 0 can mean NULL.
 *
 *   spans    only the daemon writes; clients map it read-only.
 *            +--------+--------------+--------------+--------------+------------------+---------------+---------------+
 *            | header | sessions     | groups       | roots        | heap arenas      | page map      | span table    |
 *            | 4 KiB  | 4096 x 256 B | 1024 x 128 B | 4096 x 384 B | 32 B each 64 MiB | 4 B each page | 64 B each page|
 *            +--------+--------------+--------------+--------------+------------------+---------------+---------------+
 *            A span is named by its first page, and its description is span_table[first page]. page_map[p] is the first
 *            page of the span that p belongs to, 0 if it belongs to none. Both tables are sparse: only the parts that
 *            describe spans have memory.
 *
 *   bitmap   clients and daemon write.
 *            +------------------------------------+---------------+---------------+------------------------+
 *            | 256 B each page: alloc, remote     | 128 B: kept   | 128 B: mark   | counters, 2 KiB each   |
 *            |                                    |  (1024 obj.)  |  (1024 obj.)  | session entry; intents |
 *            +------------------------------------+---------------+---------------+------------------------+
 *            A span's bits stand at its first page. Bit i is that of the object with index i; a span has at most 1024
 *            objects. A word of alloc bits is followed by the word of the same objects' remote bits, so that a free,
 *            which looks at both, needs one cache line. A span of up to 512 objects, so any class but that of 8 bytes,
 *            needs half of the 256 bytes. In the other half its kept and mark bits lie in the same order; only the
 *            class of 8 bytes has kept and mark bits in planes of their own.
 *            Counters say what a session's process has allocated, for statistics; nothing depends on them. Intents say
 *            what threads are about to link or unlink (intents.h).
 *
 * What the bits say (README.md, "Shared words", says who writes them, and what holds if a process dies):
 *   alloc    1: allocated.
 *   remote   1: freed by a thread that does not own the span. An object is live iff alloc is 1 and remote is 0.
 *   kept     Valid while the span's has_kept says so, which the daemon sets before the first kept bit. In a span that
 *            has an owner, 1 means that the object is not that owner's: it was published or adopted.
 *            Elsewhere, 1 means adopted. It is cleared with the object.
 *   mark     Reserved; nobody writes it. Collectors keep their marks to themselves.
 *
 * In the spans of the tiny allocator the alloc bit belongs to a block of 16 bytes. The block's word in the arena says
 * which objects live in the block, and the remote bit is only a hint to look at that word: see tiny.h.
 *
 * The span's state (in its lease word):
 *
 *            FREE --lease--> LEASED --return, end of session--> CENTRAL --lease--> LEASED
 *             ^                |                                   |
 *             +----------------+------------- no object left ------+
 *
 * If the daemon dies: it writes a description and the page map before the lease word leaves FREE, and it sets the lease
 * word to FREE before it clears the page map. So a span whose lease word is not FREE has a whole description.
 */
#ifndef GOALLOC_SHM_LAYOUT_H
#define GOALLOC_SHM_LAYOUT_H

#include "shm/atomics.h"
#include "shm/limits.h"
#include "shm/version.h"

#define SHM_MAGIC             UINT64_C(0x31434f4c4c414f47) /* "GOALLOC1" */
#define SHM_DROPPED           UINT32_C(0x504f5244) /* "DROP": no word that was damaged by chance */
#define SHM_ROOT_NAME_BYTES   (SHM_ROOT_NAME_MAX + 1)
#define SHM_LABEL_BYTES       (SHM_LABEL_MAX + 1)
#define SHM_GROUP_NAME_BYTES  (SHM_GROUP_NAME_MAX + 1)
#define SHM_HEAP_ARENA_BYTES  (64 * MIB)
#define SHM_HEAP_ARENA_PAGES  (SHM_HEAP_ARENA_BYTES / PAGE_BYTES)
#define SHM_BASE_DEFAULT      UINT64_C(0x00c000000000)
#define SHM_BITS_WORDS        (SPAN_NELEMS_MAX / 64)
#define SHM_WORD_STRIDE       2u /* from a word of alloc bits to the next */
#define SHM_REMOTE_AT         1u /* from a word of alloc bits to that of the same objects' remote bits */
#define SHM_KEPT_AT (SHM_WORD_STRIDE * SHM_BITS_WORDS / 2) /* and to that of their kept bits: up to 512 objects a span */
#define SHM_COUNTERS_WORDS    256u /* each session entry */

/*
 * Words that are called reserved are for later minors of this layout: who makes the record zeroes them, and who does
 * not know what they have become leaves them alone.
 */

/*
 * The beginning of the spans region. All up to created_ms is written once, before any client can see it, but for minor.
 * The rest of its 4 KiB is reserved.
 */
typedef struct shm_header {
    uint64_t magic;
    uint32_t major; /* of the layout */
    shm_u32 minor;  /* of the daemon that has made the heap, or has taken it over last: for people and tests */
    uint64_t generation; /* random, not 0: tells this heap from any other */
    uint64_t base;       /* address of the arena in every process */
    uint64_t arena_bytes;
    uint64_t npages;
    uint64_t spans_bytes;
    uint64_t bitmap_bytes;
    uint64_t sessions_off; /* offsets within the spans region */
    uint64_t roots_off;
    uint64_t heap_arenas_off;
    uint64_t page_map_off;
    uint64_t span_table_off;
    uint64_t groups_off;
    uint64_t reserved;
    uint64_t created_ms; /* on CLOCK_BOOTTIME; tells the heap's age */
    /*
     * Objects below this offset may be freed by their owner without a look for kept bits: arena_bytes, or 0 while any
     * object of the heap is adopted. One word, so that a free has one bound to check.
     */
    shm_u64 free_limit;
    shm_u32 nroot_entries;    /* entries of roots from here on were never used; only rises */
    shm_u32 nsession_entries; /* the same for sessions */
    shm_u32 ngroup_entries;   /* the same for groups */
    /* The features that the heap has: version.h. A daemon sets a bit last, when what it stands for is whole. */
    shm_u32 needed;
    shm_u32 writing;
    shm_u32 optional;
    uint32_t reserved32[7];
    /*
     * SHM_DROPPED, or 0. The heap was dropped, by a daemon or by who ended its keeper. Stored before its descriptors
     * are let go, and never taken back: whoever has it mapped learns by it that nobody will serve this heap again. Its
     * place, and that of magic, stay as they are in every layout, so that a heap of another build can be marked, too.
     */
    shm_u32 dropped;
    /* Leases ever given: the daemon raises it before it gives one. A line of its own, which no free looks at. */
    shm_u64 nleases;
    /* Goes up with each change of the roots, and when nobody makes one any more: who waits for a root waits for it. */
    shm_u32 roots_seq;
    uint32_t pad;
    shm_u64 profile; /* profile_word for sessions that attach */
    uint64_t reserved64[4];
    shm_u64 npeak_pages; /* the most of the arena that has had memory at once: for people to look at; only rises */
} shm_header;

enum shm_session_state {
    SHM_SESSION_FREE = 0,
    SHM_SESSION_OPEN = 1,
    SHM_SESSION_LOST = 2,   /* the connection is gone, the process lives: its leases stay */
    SHM_SESSION_ENDING = 3, /* its leases are being ended */
    /* What is told of sessions that are over; in no entry. */
    SHM_SESSION_DETACHED = 4, /* its process has said that it is done */
    SHM_SESSION_DIED = 5,
};

typedef struct shm_session {
    shm_u32 epoch;    /* counts the uses of this entry */
    shm_u32 state;    /* enum shm_session_state */
    shm_u32 trim_seq; /* the daemon raises it when it wants idle spans back; clients look on their slow path */
    uint32_t flags;   /* SESSION_RECLAIM, SESSION_READONLY */
    uint32_t pid;
    uint32_t uid;
    uint64_t limit_bytes;
    /* The session's last change of a root: epoch << 32 | ticket. pending is written before the root, done after it. */
    shm_u64 root_pending;
    shm_u64 root_done;
    uint32_t group; /* an owner_no: of its group; without a group name, its own if it reclaims, else 0 */
    /* What the process's library has said that it knows: for a daemon that would begin to use another feature. */
    uint32_t minor;
    uint32_t knows_needed;
    uint32_t knows_writing;
    char label[SHM_LABEL_BYTES];
    uint64_t opened_ms; /* shm_clock_ms() when it was opened; 0: a daemon that did not note it */
    shm_u64 profile; /* profile_word: what its process samples; the daemon writes it, and changes it while it lives */
    shm_u32 collecting; /* 1: of all sessions this one alone may collect what nobody can reach; see README.md */
    shm_u32 died_epoch; /* of the last session in this entry that has ended without a detach; outlives it (origin.h) */
    uint64_t reserved[13];
} shm_session;

enum shm_group_state {
    SHM_GROUP_FREE = 0,
    SHM_GROUP_OPEN = 1,   /* sessions may join */
    SHM_GROUP_ENDING = 2, /* its last session has ended, or is ending: what is the group's is being freed */
};

/* The state word of a group: state 8 | unused 24 | epoch 32, which counts the uses of the entry. */
typedef struct group_word {
    enum shm_group_state state;
    uint32_t epoch;
} group_word;

/* Sessions that own together: see README.md. The daemon writes all before the word says OPEN, and the word last. */
typedef struct shm_group {
    shm_u64 word;
    uint32_t uid;   /* whose name it is */
    uint32_t flags; /* SESSION_RECLAIM or 0: the mode of all its sessions */
    shm_u64 profile; /* profile_word for those that join; 0: the header's */
    uint64_t reserved[5];
    char name[SHM_GROUP_NAME_BYTES];
} shm_group;

/* What a root says. */
typedef struct shm_root_value {
    shm_u64 offset;     /* from the arena's base; 0: it was removed */
    shm_u64 size;       /* that it was made with (goalloc_root_get_or_create); 0: nobody has said */
    shm_u64 type_tag;   /* that it was made with, without ROOT_REINIT; 0: none */
    shm_u64 setter;     /* session number << 32 | its epoch */
    shm_u64 ticket;     /* of the request that has set it: a number among those of its session; 0: none. And in the
                           upper half whose the root is: the uid of who made it, plus 1; 0: nobody knows */
    shm_u64 generation; /* of the heap when it was set */
} shm_root_value;

/*
 * An entry has two values: current says which one counts, and the next one is written into the other. The name is
 * written while current is 0. So a change of a root, too, is one store.
 */
typedef struct shm_root {
    shm_u64 current; /* bytes of the name | number of the value that counts << 32; 0: the entry is not used */
    shm_root_value values[2];
    char name[SHM_ROOT_NAME_BYTES];
    uint64_t reserved[3];
} shm_root;

/*
 * What is known of 64 MiB of the arena. All three only rise. npages is raised before a page of it is handed out. Pages
 * at or above zeroed_base were never handed out, so they are zero; pages at or above both bases never had memory.
 */
typedef struct shm_heap_arena {
    shm_u32 zeroed_base; /* pages within this heap arena */
    shm_u32 backed_base; /* the same; raised before pages get memory that nobody has asked for yet */
    shm_u64 npages;      /* of this heap arena that have been added to the page heap */
    uint64_t reserved[2];
} shm_heap_arena;

enum span_state {
    SPAN_FREE = 0,
    SPAN_LEASED = 1,  /* a session may write its alloc bits */
    SPAN_CENTRAL = 2, /* the daemon may */
};

/* The lease word: state 8 | unused 8 | session 16 | epoch of the session 32. Changed by the daemon, by one store. */
typedef struct lease_word {
    enum span_state state;
    session_no session;
    uint32_t epoch;
} lease_word;

typedef struct shm_span {
    shm_u64 lease;
    uint64_t elem_bytes; /* large object, run: all pages */
    uint32_t npages;
    uint32_t nelems; /* large object, run: 1 */
    uint32_t magic;  /* large object, run: 0 */
    span_class spc;
    uint8_t needzero; /* 0: all objects that are not allocated are zero, when the span is leased with no object in it */
    /*
     * 1, a run: its lessee finds what others have freed, as in spans of small objects. 0, a large object: the process
     * that frees it remotely tells the daemon.
     */
    uint8_t lessee_folds;
    uint8_t marked; /* 1: only sampled objects are allocated in it (profile.h); written before its lease word */
    shm_u32 owner;    /* an owner_no: whose objects these are that have no kept bit; 0: the heap's */
    shm_u32 nadopted; /* objects of this span in the daemon's adoption table */
    shm_u32 has_kept; /* 0: all its kept bits count as 0, and their words mean nothing */
    uint32_t reserved32;
    shm_u64 nleases; /* of the header when the last lease of this span was given; written before its lease word */
    shm_u64 origin;  /* who has filled it: origin.h. Written before its lease word */
} shm_span;

_Static_assert(sizeof(shm_header) == 256 && offsetof(shm_header, major) == 8 &&
                   offsetof(shm_header, free_limit) == 128 && offsetof(shm_header, needed) == 148 &&
                   offsetof(shm_header, dropped) == 188 && offsetof(shm_header, npeak_pages) == 248,
               "header layout");
_Static_assert(sizeof(shm_session) == 256 && offsetof(shm_session, label) == 64 &&
                   offsetof(shm_session, collecting) == 144,
               "session layout");
_Static_assert(sizeof(shm_group) == 128 && offsetof(shm_group, name) == 64, "group layout");
_Static_assert(sizeof(shm_root) == 384 && offsetof(shm_root, name) == 104, "root layout");
_Static_assert(sizeof(shm_heap_arena) == 32, "heap arena layout");
_Static_assert(sizeof(shm_span) == 64 && offsetof(shm_span, owner) == 32 && offsetof(shm_span, nleases) == 48,
               "span layout");
_Static_assert(SHM_BITS_WORDS * 8 == 128, "128 bytes of each kind of bits a page");
_Static_assert(SPAN_CLASS_COUNT <= SHM_COUNTERS_WORDS, "a counter for each span class");

/* A process's view of the heap. base is the arena's address, whether this process has mapped it or not. */
typedef struct shm_map {
    uint64_t base;
    uint64_t arena_bytes;
    uint64_t npages;
    shm_header *header;
    shm_session *sessions;
    shm_group *groups;
    shm_root *roots;
    shm_heap_arena *heap_arenas;
    shm_u32 *page_map;
    shm_span *span_table;
    char *bitmap;
    char *arena; /* where this process has mapped the arena; NULL: it has not */
    uint64_t spans_bytes;
    uint64_t bitmap_bytes;
} shm_map;

/* The version of the heap; its daemon's features are not in the header. */
shm_version shm_header_version(const shm_header *header);

/*
 * Fill in sizes and offsets for an arena of arena_bytes (a multiple of 64 MiB, at most 16 TiB) at base; the rest is
 * zeroed.
 */
void shm_header_init(shm_header *header, uint64_t base, uint64_t arena_bytes);

/* Now, on the clock of created_ms: no change of the date touches it, and it counts from the start of the system. */
uint64_t shm_clock_ms(void);

/* How long ago the heap was made. */
uint64_t shm_header_age_ms(const shm_header *header);

/*
 * Check that header is what shm_header_init() would have made, in this build or in one of another minor, and that the
 * regions have the sizes it says. 0, -ENOEXEC (this build may not use the heap so: version_check()), -EPROTO (not a
 * heap, or damaged).
 */
int shm_header_check(const shm_header *header, enum version_use use, uint64_t spans_bytes, uint64_t bitmap_bytes)
    __attribute__((warn_unused_result));

/* Make the view of the mapped regions. header has been checked. arena NULL: not mapped. */
void shm_map_init(shm_map *map, void *spans, void *bitmap, void *arena);

static inline uint64_t lease_pack(lease_word lease)
{
    return (uint64_t)lease.state | (uint64_t)lease.session.n << 16 | (uint64_t)lease.epoch << 32;
}

static inline lease_word lease_unpack(uint64_t word)
{
    return (lease_word){ .state = (enum span_state)(word & 0xff),
                         .session = { (uint16_t)(word >> 16) },
                         .epoch = (uint32_t)(word >> 32) };
}

static inline uint64_t group_pack(group_word word)
{
    return (uint64_t)word.state | (uint64_t)word.epoch << 32;
}

static inline group_word group_unpack(uint64_t word)
{
    return (group_word){ .state = (enum shm_group_state)(word & 0xff), .epoch = (uint32_t)(word >> 32) };
}

/* True if an owner is a group with a name, rather than the heap or a session. */
static inline bool owner_is_group(uint32_t owner)
{
    return owner >= SHM_SESSIONS_MAX && owner < SHM_OWNERS_MAX;
}

static inline shm_group *shm_group_at(const shm_map *map, uint32_t owner)
{
    return &map->groups[owner - SHM_SESSIONS_MAX];
}

static inline uint64_t root_current_pack(uint64_t name_bytes, uint32_t which)
{
    return name_bytes | (uint64_t)which << 32;
}

/* Bytes of the name, and which value counts, of a word that another daemon may have written. */
static inline uint64_t root_name_bytes(uint64_t current)
{
    return current & UINT32_MAX;
}

static inline uint32_t root_which(uint64_t current)
{
    return (uint32_t)(current >> 32) & 1;
}

static inline bool span_is_leased(const shm_span *span)
{
    return lease_unpack(u64_load_acquire(&span->lease)).state == SPAN_LEASED;
}

static inline shm_span *shm_span_at(const shm_map *map, page_no first)
{
    return &map->span_table[first.n];
}

/* Word w of the alloc bits of the span that begins at first. */
static inline shm_u64 *shm_alloc_word(const shm_map *map, page_no first, uint32_t w)
{
    return (shm_u64 *)(void *)(map->bitmap + (uint64_t)first.n * 256) + (size_t)(SHM_WORD_STRIDE * w);
}

/* The remote word that belongs to an alloc word. */
static inline shm_u64 *shm_remote_of(shm_u64 *alloc)
{
    return alloc + SHM_REMOTE_AT;
}

static inline shm_u64 *shm_remote_word(const shm_map *map, page_no first, uint32_t w)
{
    return shm_remote_of(shm_alloc_word(map, first, w));
}

static inline shm_u64 *shm_kept_word(const shm_map *map, page_no first, uint32_t w)
{
    if (shm_span_at(map, first)->nelems <= SPAN_NELEMS_MAX / 2)
        return shm_alloc_word(map, first, w) + SHM_KEPT_AT;
    return (shm_u64 *)(void *)(map->bitmap + map->npages * 256 + (uint64_t)first.n * 128) + w;
}

/* The session's counters: word c counts the objects of span class c that its process has allocated. */
static inline shm_u64 *shm_counters(const shm_map *map, session_no session)
{
    return (shm_u64 *)(void *)(map->bitmap + map->npages * 512) + (uint64_t)session.n * SHM_COUNTERS_WORDS;
}

/* Words that hold the bits of nelems objects, and which bits of word w count. */
static inline uint32_t bits_nwords(uint32_t nelems)
{
    return (nelems + 63) / 64;
}

static inline uint64_t bits_mask(uint32_t nelems, uint32_t w)
{
    uint32_t rest = nelems - w * 64;

    return rest >= 64 ? UINT64_MAX : (UINT64_C(1) << rest) - 1;
}

/* Bits that are set. Open-coded: not every x86-64 has the instruction, and without it compilers make a call. */
static inline uint32_t bits_count(uint64_t word)
{
    word -= word >> 1 & UINT64_C(0x5555555555555555);
    word = (word & UINT64_C(0x3333333333333333)) + (word >> 2 & UINT64_C(0x3333333333333333));
    word = (word + (word >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (uint32_t)(word * UINT64_C(0x0101010101010101) >> 56);
}

/* True if objects of this span may have kept bits. */
static inline bool span_has_kept(const shm_span *span)
{
    return u32_load_acquire(&span->has_kept) != 0;
}

#endif
