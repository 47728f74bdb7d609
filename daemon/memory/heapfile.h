/*
 * Heapfile: the memfds of the heap, their seals and permissions, and the daemon's mapping of them.
 */
#ifndef GOALLOC_DAEMON_MEMORY_HEAPFILE_H
#define GOALLOC_DAEMON_MEMORY_HEAPFILE_H

#include "daemon/memory/holes.h"
#include "daemon/memory/hugepages.h"
#include "daemon/memory/profilefile.h"
#include "daemon/memory/shelf.h"
#include "daemon/memory/zeroing.h"
#include "shm/layout.h"

#define ADOPTIONS_MAX (UINT32_C(1) << 22) /* of all sessions */
#define HELPERS_MAX   8u                  /* of this daemon and of those before it, as long as they are there */

/* The descriptors by which a heap is handed from one daemon to the next, in this order: memfds, then its shelf. */
enum {
    HEAPFILE_ARENA,
    HEAPFILE_SPANS,
    HEAPFILE_BITMAP,
    HEAPFILE_PRIVATE,
    HEAPFILE_NMEMFDS,
    HEAPFILE_SHELF_IN = HEAPFILE_NMEMFDS,
    HEAPFILE_SHELF_OUT,
    HEAPFILE_NFDS,
};
extern const char *const heapfile_names[HEAPFILE_NMEMFDS];

/* An adopted object: in use while offset is not 0. who is written before offset: owner << 32 | its entry's epoch. */
typedef struct private_adoption {
    shm_u64 offset;
    shm_u64 who;
} private_adoption;

/* Which process has a session, as the daemon that has served it last has seen it. serve/deaths.c has the order. */
typedef struct private_process {
    shm_u64 pidfd_ino;     /* inode of its pidfd, which no other process has (Linux 6.9). 0: nothing is known */
    shm_u64 pid_namespace; /* inode of the daemon's, in which pid counts */
    shm_u32 pid;
    uint32_t pad;
} private_process;

/* What outlives a daemon and no client may see. Only as much of it as is used has memory. */
typedef struct heap_private {
    uint64_t magic;
    uint32_t major;   /* of the layout, as the header of spans */
    shm_u32 features; /* that daemons have to know, and nobody else (shm/version.h); one sets a bit when it is whole */
    uint64_t generation;
    shm_u32 nadoption_entries; /* entries from here on were never used; only rises */
    uint32_t reserved32;
    shm_u64 daemon_epoch;          /* rises with each daemon that has the heap: helpers of others punch no more */
    shm_u64 punching[HELPERS_MAX]; /* by place: what that helper punches now, or is about to (helper.c); 0: nothing */
    uint64_t reserved[48];         /* zero, for later minors, as are tables behind the last one */
    uint8_t tokens[SHM_SESSIONS_MAX][SESSION_TOKEN_BYTES];
    uint8_t group_tokens[SHM_GROUPS_MAX][SESSION_TOKEN_BYTES];
    private_process processes[SHM_SESSIONS_MAX];
    private_adoption adoptions[ADOPTIONS_MAX];
} heap_private;

typedef struct heapfile {
    int fds[HEAPFILE_NFDS]; /* read-write */
    void *maps[HEAPFILE_NMEMFDS];
    uint64_t sizes[HEAPFILE_NMEMFDS];
    int arena_ro_fd; /* read-only reopens, for clients: all have the same descriptions */
    int spans_ro_fd;
    int bitmap_ro_fd;
    int lock_fd; /* holds the lock that makes this daemon the only one of the heap */
    shm_map map; /* the first three; of the arena the daemon reads and writes the words of tiny blocks only */
    heap_private *private; /* the fourth */
    hugepages huge; /* zeroed: the arena gets huge pages where the system has them */
    zeroing *zeroing; /* of the arena */
    shelf *shelf; /* where signs of life are for the next daemon */
    profilefile profile; /* where samples are recorded, as long as somebody has wanted that; it is on the shelf, too */
    struct helper *helper; /* who makes holes and memory (helper.c); NULL: nobody */
} heapfile;

/*
 * Make a new, empty heap of arena_bytes at base. Sparse: takes no memory in proportion to arena_bytes. 0 or -errno;
 * *ret is untouched on failure. The caller ends it with heapfile_close().
 */
int heapfile_create(heapfile *ret, uint64_t base, uint64_t arena_bytes) __attribute__((warn_unused_result));

/*
 * Take over the heap of a daemon that is gone. This checks that fds are memfds of the right sizes, sealed, with headers
 * that belong together and a layout that this build may serve, and a shelf, which it reads; it believes nothing else in
 * them, and leaves the tables to the caller. 0, and *ret owns the descriptors. -ENOEXEC (another layout), -EPROTO (no
 * heap, or a damaged one), -EADDRINUSE (another daemon has it), -errno: they are still the caller's, and *ret_why says
 * more. What does not have a layout for this build is as it was.
 */
int heapfile_open(heapfile *ret, const int fds[HEAPFILE_NFDS], const char **ret_why)
    __attribute__((warn_unused_result));
void heapfile_close(heapfile *file);

/*
 * The version of the heap that the descriptors hold, without a change of it. 0; -EPROTO: they are no heap's, and
 * *ret_why says more.
 */
int heapfile_look(const int fds[HEAPFILE_NFDS], shm_version *ret, const char **ret_why)
    __attribute__((warn_unused_result));

/* The version of the heap, with the features that concern daemons alone. */
shm_version heapfile_version(const heapfile *file);

/* Close those of the descriptors that are not -1. */
void heapfile_close_fds(const int fds[HEAPFILE_NFDS]);

/* True if the client's token is that one, of the private memfd. Takes the same time whatever differs. */
bool heapfile_token_is(const uint8_t want[SESSION_TOKEN_BYTES], const uint8_t *token, size_t len_bytes);

/* The files for who punches. */
holes heapfile_holes(const heapfile *file);

/* Physical memory of the arena; of spans, bitmap and profile; as the kernel counts it. System calls without a lock. */
uint64_t heapfile_arena_bytes(const heapfile *file);
uint64_t heapfile_metadata_bytes(const heapfile *file);

#endif
