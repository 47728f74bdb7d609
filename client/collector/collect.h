/*
 * Collect: one cycle of the collector: finds what nobody can reach, and frees it if asked to.
 */
#ifndef GOALLOC_COLLECTOR_COLLECT_H
#define GOALLOC_COLLECTOR_COLLECT_H

#include "client/collector/garbage.h"
#include "client/collector/world.h"

enum {
    COLLECT_FREE = 1,          /* free what is found, in spans that nobody leases */
    COLLECT_ALL = 2,           /* everywhere */
    COLLECT_OFFSETS = 4,       /* words that are goalloc_offset() of an object count as pointers */
    COLLECT_PAST_END = 8,      /* so do addresses right behind an object */
    COLLECT_TRUST_KERNEL = 16, /* what the kernel may hold for a process (io_uring, AIO) is not in the way */
    COLLECT_SUSPECTS = 32,     /* look only for what dead sessions may have left: a cycle after a death.
                                * If there is no span that they had a part in, nothing is done, and found() not called */
    COLLECT_HOLDERS = 64,      /* note which word holds each object, for collect_why() */
};

#define COLLECT_LABEL "collector"
#define COLLECT_MAX_PAUSE_NS UINT64_C(100000000) /* unless somebody says otherwise */
#define COLLECT_WAIT_MS      5000                /* the same: for sessions that are ending */

enum collect_step { COLLECT_WAITS, COLLECT_COPIES, COLLECT_MARKS, COLLECT_FREES };

/* What the cycle has found, while it has it: the heap at that instant, marked. */
typedef struct collect_view {
    heapcopy *heap;
    marker *marker;
    world *world;
    garbage *garbage;
} collect_view;

typedef struct collect_options {
    const char *socket_path; /* NULL: as goalloc_attach() */
    unsigned flags;          /* COLLECT_* */
    uint64_t max_pause_ns;   /* 0: no bound */
    pid_t waiter;            /* a thread that waits for the result in goalloc_collect(); 0: none */
    int timeout_ms;          /* to attach, and to wait for sessions that are ending; 0: COLLECT_WAIT_MS */
    /* NULL, or called as the cycle goes on; n: objects that were reached by now, of about total. */
    void (*progress)(enum collect_step step, uint64_t n, uint64_t total, void *arg);
    /* NULL, or called before anything is freed. Below 0: nothing is freed, and that is the cycle's error. */
    int (*found)(const collect_view *view, void *arg);
    void *arg;
} collect_options;

typedef struct collect_result {
    world_trouble trouble; /* if the cycle has failed: error, process in the way, sentence */
    garbage garbage;
    uint64_t nlive;   /* objects that were looked for or, with COLLECT_SUSPECTS, looked into */
    uint64_t nreached;
    uint64_t copied_bytes; /* of the heap */
    uint64_t nwords;       /* of processes that were looked at */
    uint32_t nprocesses;   /* that were stopped */
    uint32_t nthreads;
    uint64_t estimate_ns;  /* of the pause; 0: nobody was to be stopped */
    uint64_t pause_ns;
    uint64_t copy_ns;      /* of that: the heap's half */
    uint64_t walk_ns;      /* of that: which spans have objects */
    world_times times;     /* of the pause: the processes' half */
    uint64_t mark_ns;
    uint64_t free_ns;
    uint32_t nconfirmed;   /* spans of which the daemon was told that no dead session has left anything there */
    uint32_t nattempts;    /* cycles that were begun: some found that a session had just ended or begun */
    uint32_t ngrown;       /* of them, those that found that the heap had grown beyond the room for it */
} collect_result;

/*
 * Attach as the collector, if this process is not attached: the session that collect_run() works in. Who attaches by
 * another way can't collect. 0, or as goalloc_attach().
 */
int collect_attach(const char *socket_path, int timeout_ms) __attribute__((warn_unused_result));

/*
 * Run a cycle. *ret is filled in any case; call collect_end(). If the process was not attached it is not afterwards. 0;
 *   -EBUSY       another collector is at it
 *   -EPERM       that process may not be traced by this one: other user, Yama, a debugger has it
 *   -ETIMEDOUT   not everybody stopped within max_pause_ns, or the copy takes longer, or the estimate says so
 *   -EOPNOTSUPP  a process keeps pointers where nobody can see them
 *   -EAGAIN      sessions come and go all the time: try again
 *   -ESRCH       a session's process is not visible from here
 *   -EPROTO      the heap's tables are damaged
 *   -ENOMEM, or an error of goalloc_attach().
 * Then nothing was freed, and everybody goes on.
 */
int collect_run(const collect_options *options, collect_result *ret) __attribute__((warn_unused_result));
void collect_end(collect_result *result);

#define COLLECT_WHY_STEPS 64u

/* A link of the chain that keeps an object alive: the word that holds `object`. */
typedef struct collect_link {
    heap_object object;
    mark_holder holder;
    uint64_t address;         /* of the word, where that is memory */
    const words_range *range; /* MARK_HELD_BY_HIT: whose */
    enum heap_root_kind root_kind;  /* MARK_HELD_BY_ROOT: which of the heap's tables */
    char name[SHM_ROOT_NAME_BYTES]; /* HEAP_ROOT_NAMED: its name */
} collect_link;

/*
 * Why the object at that address, or around it, is alive: the chain from it to a word outside of the heap, at most
 * COLLECT_WHY_STEPS links. For a cycle with COLLECT_HOLDERS, within found(). Returns how many; 0: there is no such
 * object, or (*ret_garbage) nothing holds it.
 */
uint32_t collect_why(const collect_view *view, uint64_t address, collect_link ret[COLLECT_WHY_STEPS],
                     bool *ret_garbage);

#endif
