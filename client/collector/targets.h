/*
 * Targets: who may hold pointers into the heap: the processes of its sessions, and those that have it mapped without a
 * session (forked children that have not called the library yet). And their threads, as far as they are known.
 */
#ifndef GOALLOC_COLLECTOR_TARGETS_H
#define GOALLOC_COLLECTOR_TARGETS_H

#include <stdatomic.h>

#include "client/collector/maps.h"
#include "client/collector/registers.h"
#include "client/collector/trouble.h"
#include "shm/layout.h"

enum target_state {
    TARGET_RUNS,    /* traced, not stopped */
    TARGET_STOPPED, /* in a stop of the tracer's */
    TARGET_WORKER,  /* a thread that runs in the kernel alone */
    TARGET_GONE,
};

typedef struct target_thread {
    pid_t tid;
    uint32_t process; /* targets.processes[process] */
    enum target_state state;
    int signal;            /* that it was about to take when it stopped; 0: none */
    registers_leads leads; /* once looked at */
    uint32_t next;         /* of the same process; TARGET_NO_THREAD: it was the first to be known */
} target_thread;

#define TARGET_NO_THREAD UINT32_MAX

#define TARGET_NO_SESSION UINT32_MAX

typedef struct target_process {
    pid_t pid;
    uint32_t session;     /* entry of the session table; TARGET_NO_SESSION: none */
    uint64_t started;     /* tells it from another one with its number */
    uint32_t last_thread; /* the one that was learnt of last */
    bool seized;          /* its threads are being traced */
    bool gone;            /* it has ended, or runs another program */
    bool outside;         /* once looked at: no thread of it is in the library, as far as it says where that is */
} target_process;

/* The session table as it was when the cycle began. */
typedef struct targets_session {
    uint32_t epoch;
    uint32_t state;
    uint32_t pid;
} targets_session;

/* The heap's three files. */
enum { TARGETS_ARENA, TARGETS_SPANS, TARGETS_BITMAP, TARGETS_NFILES };

typedef struct targets {
    const shm_map *map;
    pid_t self;
    pid_t waiter;   /* of world_options */
    bool only_stop; /* the same */
    maps_file files[TARGETS_NFILES];
    targets_session *sessions; /* SHM_SESSIONS_MAX; epoch, state and pid 0 from nsessions on */
    uint32_t nsessions;
    uint64_t *groups; /* SHM_GROUPS_MAX words of groups, as they were then; 0 from ngroups on */
    uint32_t ngroups;
    target_process *processes;
    uint32_t nprocesses;
    uint64_t processes_room;
    target_thread *threads;
    uint32_t nthreads, threads_room;
    uint32_t *by_tid;     /* open hash: index into threads plus 1 */
    uint32_t by_tid_room; /* a power of two */
    int64_t first_pid; /* numbers from here on may be of processes that were not there yet when they were looked at */
    int64_t last_pid;  /* all processes up to here were looked at; -1: unknown */
    int64_t pid_max;
    unsigned char *others; /* a bit for each number: looked at since the search, and somebody else's */
    uint64_t uids[8];      /* that processes with sessions run as, as long as there are few */
    uint32_t nuids;        /* more than in uids: any */
    uint64_t heap_began;   /* clock ticks after the system's start: no process that is older has forked from a client */
    uint64_t deadline_ns;  /* of the pause; 0: nobody is to be stopped yet */
    /* For who waits for all this: */
    _Atomic uint64_t nlooked; /* goes up with each process that is looked at */
    _Atomic pid_t at;         /* the last one */
    _Atomic bool over;        /* set by who does not wait any more: nothing is to be touched, all fails */
    proc_text text;
    proc_list list;
    maps scratch;
} targets;

/* The heap's files, and no process yet. -ENOMEM, -EINVAL: the caller has not mapped the heap. */
int targets_init(targets *t, const shm_map *map) __attribute__((warn_unused_result));
void targets_deinit(targets *t);

/* Copy the tables of sessions and groups, and find the sessions' processes. 0, -EAGAIN, -ESRCH, -EPERM, -ENOMEM. */
int targets_of_sessions(targets *t, world_trouble *ret) __attribute__((warn_unused_result));

/* 0, or -EAGAIN: these tables are others than those that were copied. */
int targets_sessions_are_same(const targets *t, world_trouble *ret) __attribute__((warn_unused_result));

/*
 * Look through all processes of the system; what begins from now on has a number above last_pid. *ret_found is raised
 * by those that were added.
 */
int targets_search(targets *t, uint32_t *ret_found, world_trouble *ret) __attribute__((warn_unused_result));

/*
 * Look at those that have begun since the last look. *ret_found: processes that were added, or that have threads which
 * are not known. Repeated until no number was given meanwhile: then all are known that have the heap mapped and were
 * forked by a process that is not traced. each, called between two looks, may be NULL.
 */
int targets_catch_up(targets *t, uint64_t deadline_ns, void (*each)(void *arg), void *arg, uint32_t *ret_found,
                     world_trouble *ret) __attribute__((warn_unused_result));

/*
 * Once more those whose number was given lately, for who was just being forked when it was looked at. With all that are
 * known stopped, nobody is being forked by them.
 */
int targets_recheck(targets *t, uint32_t *ret_found, world_trouble *ret) __attribute__((warn_unused_result));

/* -ENOMEM; else the index. */
int64_t targets_add_process(targets *t, pid_t pid, uint32_t session, uint64_t started);
int64_t targets_add_thread(targets *t, pid_t tid, uint32_t process);
target_process *targets_process(targets *t, pid_t pid);
target_thread *targets_thread(targets *t, pid_t tid);

/* Before a process is looked at: 0, or -ETIMEDOUT: nobody waits for it any more (over). */
int targets_go_on(targets *t, pid_t pid, world_trouble *ret) __attribute__((warn_unused_result));

/* Why this process may not be looked at or traced, as a sentence: it is traced already, another user's, ... */
int targets_no_permission(world_trouble *ret, pid_t pid);

#endif
