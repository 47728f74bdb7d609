/*
 * Proc: files of /proc, read whole, and what they say of a process or thread.
 */
#ifndef GOALLOC_COLLECTOR_PROC_H
#define GOALLOC_COLLECTOR_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A buffer that is used again. Zeroed: empty. */
typedef struct proc_text {
    char *text; /* ends with a zero */
    size_t bytes;
    uint64_t room;
    uint64_t deadline_ns; /* a text is not read on after it: -ETIMEDOUT; 0: none */
} proc_text;

void proc_text_free(proc_text *t);

/* Read /proc/PID/NAME; pid 0: /proc/NAME. 0, or -errno. */
int proc_read(proc_text *t, pid_t pid, const char *name) __attribute__((warn_unused_result));

/* What /proc/TID/stat says. */
typedef struct proc_facts {
    char state;       /* R, S, D, T, t, Z, X */
    uint32_t flags;   /* of the kernel */
    uint64_t started; /* clock ticks after the system's start */
} proc_facts;

#define PROC_IO_WORKER UINT32_C(0x10)     /* a thread that runs in the kernel alone, for an io_uring */
#define PROC_USER_WORKER UINT32_C(0x4000) /* the same, for a virtual machine */
#define PROC_KERNEL_THREAD UINT32_C(0x200000)

int proc_facts_of(pid_t tid, proc_facts *ret) __attribute__((warn_unused_result));

/* The same of a text that was read. */
int proc_facts_in(const char *stat, proc_facts *ret) __attribute__((warn_unused_result));

/* A number of /proc/TID/status: "Tgid", "TracerPid", ... -1: it does not say. */
int64_t proc_status(pid_t tid, const char *field);

/* The same of a text that was read. */
int64_t proc_field(const char *status, const char *field);

/* Numbers that a directory is named by. Zeroed: none. */
typedef struct proc_list {
    pid_t *at;
    size_t n;
    uint64_t room;
} proc_list;

/*
 * Those of the names in /proc/PID/DIRECTORY that are numbers: "task", "fd"; pid 0, "": of all processes. They take the
 * place of what the list had. 0, or -errno.
 */
int proc_list_read(proc_list *list, pid_t pid, const char *directory) __attribute__((warn_unused_result));
void proc_list_free(proc_list *list);

/* How many threads the process has, those that are zombies included. 0: it is gone. */
uint32_t proc_nthreads(pid_t pid);

/* The largest stack that its threads have if they ask for none, in bytes. Unlimited, or not to be read: 8 MiB. */
uint64_t proc_stack_limit(pid_t pid);
uint64_t proc_stack_limit_in(const char *limits);

/* The number that was given last to a process or thread. -1: the kernel does not say. */
int64_t proc_last_pid(void);
int64_t proc_last_pid_in(const char *loadavg);

/* CLOCK_MONOTONIC. */
uint64_t proc_now_ns(void);

#endif
