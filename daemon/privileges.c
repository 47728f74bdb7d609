/*
 * Privileges: no_new_privs, no capabilities, no files to write, and a seccomp filter for each kind of process.
 *
 * Called by main (the daemon, once it has its socket and its heap), by the keeper and by the helper that punches holes
 * (each when it has what it needs). A daemon that a client has got hold of can do less with it: no other program, no
 * other address family, no file opened for writing, nothing of root's even if it runs as root. systemd's unit does that
 * too; this is for a daemon without systemd, and both together.
 *
 *   privileges_prepare()  libseccomp makes four BPF programs, in memory of this file
 *   privileges_confine()  no_new_privs, capabilities, Landlock, one of the programs: system calls alone, no memory, no
 *                         lock
 *
 * Of what a daemon that runs as root does, nothing takes a capability: the memfds that it reopens by /proc/self/fd
 * (mode 0600) are its own user's, CPUs are those of its own thread, /proc and cgroup files are readable by all. What it
 * has needed them for, a socket or a state directory in somebody else's directory, and its limit of descriptors, it has
 * by then. (A socket in a directory that root may not write to without capabilities is left there at the end; the next
 * daemon replaces it.) The bounding set goes as well, so no file's capabilities come back by an execve().
 *
 * A call that is on no list fails with ENOSYS. It does not kill: the C library, libuv and the kernel's compatibility
 * layers try newer calls first and do without them when the kernel does not have them, and an update of one of them
 * must not be able to end a heap, which is what is worth most here. The exception are calls that none of them makes on
 * its own (denied_calls): to run a program, to look into another process, to become somebody else, to change the
 * system. Who makes one of these is no daemon any more; it dies at once, and a keeper or systemd has the heap.
 *
 * The lists were made from what the whole test suite calls (it runs with PRIVILEGES_FILTER_KILL, so a call that is
 * missing fails a test), and from what the C library falls back to. Calls whose arguments say what they are for are
 * allowed with these alone: sockets of AF_UNIX, memory that is not executable, threads and forks without namespaces,
 * files that are there. A filter can't see which files these are: Landlock refuses to write, make and remove any but
 * sockets in the directories where they are. The heap's own files are not in any directory, and are reopened as before.
 * A kernel before 5.13 has no Landlock.
 */
#include "daemon/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/log.h"

#define PROGRAM_MAX 1024u
#define MAKES_FILE  (O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY))

#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif
#define LANDLOCK_ABI_TRUNCATE 3

/* Calls whatever their arguments are. A name that this libseccomp, or this machine, does not know is passed over. */
static const char *const common_calls[] = {
    "read",         "write",           "close",           "poll",           "ppoll",        "recvfrom",
    "recvmsg",      "sendto",          "sendmsg",         "futex",          "rt_sigreturn", "sigreturn",
    "rt_sigaction", "rt_sigprocmask",  "exit",            "exit_group",     "getpid",       "gettid",
    "getppid",      "geteuid",         "restart_syscall", "clock_gettime",  "nanosleep",    "clock_nanosleep",
    "tgkill",       "brk",             "munmap",          "madvise",        "sched_yield",  "getrandom",
    "rseq",         "set_robust_list", "gettimeofday",    "time",
};

static const char *const daemon_calls[] = {
    /* the loop, connections */
    "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "eventfd2", "pipe2", "accept", "accept4", "readv",
    "writev", "getsockopt", "setsockopt", "shutdown", "connect", "bind", "listen", "socketpair", "fcntl",
    /* the heap's files, and what is read of the system */
    "memfd_create", "ftruncate", "fallocate", "fchmod", "fstat", "newfstatat", "fstatat64", "stat", "statx",
    "getdents64", "pread64", "pwrite64", "fdatasync", "lseek", "readlink", "readlinkat", "unlink", "unlinkat", "umask", "mincore",
    "mremap", "sysinfo",
    /* threads, their CPUs, and children */
    "sched_getaffinity", "sched_setaffinity", "getcpu", "prlimit64", "wait4", "setsid", "pidfd_open", "prctl", "capget",
    "capset", "dup2", "dup3", "close_range", "getuid", "seccomp", "landlock_create_ruleset", "landlock_add_rule",
    "landlock_restrict_self",
};

static const char *const keeper_calls[] = {
    "accept", "accept4", "getsockopt", "newfstatat", "fstatat64", "stat", "statx", "unlink", "unlinkat",
};

static const char *const helper_calls[] = {
    "fallocate", "prctl", "fcntl",
};

static const char *const saver_calls[] = {
    "open", "openat", "pread64", "pwrite64", "lseek", "fstat", "newfstatat", "fstatat64", "statx", "flock", "fchmod",
    "ftruncate", "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat", "fcntl",
    "mremap", "sched_getaffinity", "prctl", "prlimit64", "sysinfo", "getuid", "fadvise64", "sync_file_range",
};

static const struct {
    const char *const *names;
    size_t n;
} calls_of[PRIVILEGES_PROCESSES] = {
    [PRIVILEGES_DAEMON] = { daemon_calls, sizeof(daemon_calls) / sizeof(daemon_calls[0]) },
    [PRIVILEGES_KEEPER] = { keeper_calls, sizeof(keeper_calls) / sizeof(keeper_calls[0]) },
    [PRIVILEGES_HELPER] = { helper_calls, sizeof(helper_calls) / sizeof(helper_calls[0]) },
    [PRIVILEGES_SAVER] = { saver_calls, sizeof(saver_calls) / sizeof(saver_calls[0]) },
};

/* What no library tries on its own. */
static const char *const denied_calls[] = {
    "execve",        "execveat",      "ptrace",       "process_vm_readv", "process_vm_writev", "kcmp",
    "pidfd_getfd",   "setuid",        "setgid",       "setreuid",         "setregid",          "setresuid",
    "setresgid",     "setfsuid",      "setfsgid",     "setgroups",        "chroot",            "pivot_root",
    "mount",         "umount2",       "open_tree",    "move_mount",       "fsopen",            "fsmount",
    "unshare",       "setns",         "init_module",  "finit_module",     "delete_module",     "kexec_load",
    "kexec_file_load", "bpf",         "perf_event_open", "userfaultfd",   "add_key",           "request_key",
    "keyctl",        "open_by_handle_at", "iopl",     "ioperm",           "swapon",            "swapoff",
    "reboot",        "sethostname",   "setdomainname", "settimeofday",    "clock_settime",     "adjtimex",
    "acct",          "quotactl",      "personality",  "modify_ldt",
};

/* What libraries try before they do without; a filter can't look at the arguments of the first one. */
static const char *const tried_calls[] = { "clone3", "openat2", "io_uring_setup", "map_shadow_stack" };

/* --- making the filters --- */

static struct {
    struct sock_filter ops[PROGRAM_MAX];
    unsigned short nops; /* 0: there is none */
} programs[PRIVILEGES_PROCESSES];

/* Threads of a process that has Landlock can't trace each other, as a sanitizer's do when it looks for leaks. */
static bool is_traceable;

static int allow(scmp_filter_ctx ctx, const char *name, unsigned nargs, struct scmp_arg_cmp arg)
{
    int call = seccomp_syscall_resolve_name(name);
    int r;

    if (call == __NR_SCMP_ERROR)
        return 0;
    r = seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, call, nargs, &arg);
    return r == -EDOM || r == -EEXIST ? 0 : r; /* this machine does not have it */
}

static int allow_all(scmp_filter_ctx ctx, const char *const *names, size_t n)
{
    int r = 0;

    for (size_t i = 0; i < n && r == 0; i++)
        r = allow(ctx, names[i], 0, (struct scmp_arg_cmp){ .arg = 0 });
    return r;
}

/* Calls that are allowed with some arguments only, to the daemon and the saver. */
static int allow_parts(scmp_filter_ctx ctx)
{
    static const unsigned namespaces = CLONE_NEWNS | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                                       CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_PTRACE;
    const struct {
        const char *name;
        struct scmp_arg_cmp arg;
    } parts[] = {
        { "socket", SCMP_A0(SCMP_CMP_EQ, AF_UNIX, 0) },
        { "mmap", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
        { "mmap2", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
        { "mprotect", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
        { "clone", SCMP_A0(SCMP_CMP_MASKED_EQ, namespaces, 0) },
        { "open", SCMP_A1(SCMP_CMP_MASKED_EQ, MAKES_FILE, 0) },
        { "openat", SCMP_A2(SCMP_CMP_MASKED_EQ, MAKES_FILE, 0) },
        { "ioctl", SCMP_A1(SCMP_CMP_EQ, FIONBIO, 0) },
        { "ioctl", SCMP_A1(SCMP_CMP_EQ, FIONREAD, 0) },
        { "ioctl", SCMP_A1(SCMP_CMP_EQ, SIOCOUTQ, 0) },
        { "ioctl", SCMP_A1(SCMP_CMP_EQ, FIOCLEX, 0) },
        { "ioctl", SCMP_A1(SCMP_CMP_EQ, FIONCLEX, 0) },
    };
    int r = 0;

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && r == 0; i++)
        r = allow(ctx, parts[i].name, 1, parts[i].arg);
    return r;
}

/* Where the filter does not do that with every call that it does not know. */
static int refuse_all(scmp_filter_ctx ctx, const char *const *names, size_t n, uint32_t action)
{
    int r = 0;

    for (size_t i = 0; i < n && r == 0; i++) {
        int call = seccomp_syscall_resolve_name(names[i]);

        r = call == __NR_SCMP_ERROR ? 0 : seccomp_rule_add(ctx, action, call, 0);
        r = r == -EDOM || r == -EEXIST ? 0 : r;
    }
    return r;
}

static int add_rules(scmp_filter_ctx ctx, enum privileges_process process, bool kill)
{
    int r = kill ? refuse_all(ctx, tried_calls, sizeof(tried_calls) / sizeof(tried_calls[0]), SCMP_ACT_ERRNO(ENOSYS))
                 : refuse_all(ctx, denied_calls, sizeof(denied_calls) / sizeof(denied_calls[0]), SCMP_ACT_KILL_PROCESS);

    if (r == 0)
        r = allow_all(ctx, common_calls, sizeof(common_calls) / sizeof(common_calls[0]));
    if (r == 0)
        r = allow_all(ctx, calls_of[process].names, calls_of[process].n);
    return r == 0 && (process == PRIVILEGES_DAEMON || process == PRIVILEGES_SAVER) ? allow_parts(ctx) : r;
}

/* The program of ctx, by way of a file, which is all that libseccomp offers. 0, -errno. */
static int export_program(scmp_filter_ctx ctx, enum privileges_process process)
{
    int fd = memfd_create("goallocd-filter", MFD_CLOEXEC);
    ssize_t n;
    int r;

    if (fd < 0)
        return -errno;
    r = seccomp_export_bpf(ctx, fd);
    n = r < 0 ? r : pread(fd, programs[process].ops, sizeof(programs[process].ops), 0);
    (void)close(fd);
    if (n < 0)
        return r < 0 ? r : -EIO;
    if (n == 0 || n == sizeof(programs[process].ops))
        return -E2BIG;
    programs[process].nops = (unsigned short)((size_t)n / sizeof(struct sock_filter));
    return 0;
}

static int make_program(enum privileges_process process, bool kill)
{
    scmp_filter_ctx ctx = seccomp_init(kill ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(ENOSYS));
    int r;

    if (ctx == NULL)
        return -ENOMEM;
    (void)seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree: some ten instructions a call */
    r = add_rules(ctx, process, kill);
    if (r == 0)
        r = export_program(ctx, process);
    seccomp_release(ctx);
    return r;
}

void privileges_prepare(enum privileges_filter filter)
{
    int r = 0;

    is_traceable = filter == PRIVILEGES_NO_FILTER;
    if (is_traceable)
        return;
    for (int i = 0; i < PRIVILEGES_PROCESSES && r == 0; i++)
        r = make_program((enum privileges_process)i, filter == PRIVILEGES_FILTER_KILL);
    if (r < 0)
        log_warn("no filter of system calls can be made: %s", strerror(-r));
}

/* --- giving up --- */

static bool has_capabilities(void)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[2];

    memset(data, 0, sizeof(data));
    if (syscall(SYS_capget, &header, data) < 0)
        return true;
    return (data[0].permitted | data[1].permitted | data[0].inheritable | data[1].inheritable) != 0;
}

/* The bounding set first: to take from it takes a capability. */
static int drop_capabilities(void)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[2];

    if (!has_capabilities())
        return 0;
    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    memset(data, 0, sizeof(data));
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

/* That may be done in that directory and below. */
static int allow_in(int ruleset, const char *dir, uint64_t access)
{
    struct landlock_path_beneath_attr beneath = { .allowed_access = access };
    int r;

    beneath.parent_fd = open(dir, O_PATH | O_CLOEXEC | O_DIRECTORY);
    if (beneath.parent_fd < 0)
        return -errno;
    r = syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0 ? -errno : 0;
    (void)close(beneath.parent_fd);
    return r;
}

/* All that changes a file or a directory, and to run one. Where there is no Landlock nothing happens. */
static int forbid_files(const char *const *dirs, bool saves)
{
    uint64_t access = LANDLOCK_ACCESS_FS_REMOVE_FILE |
                      (saves ? LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_WRITE_FILE
                             : LANDLOCK_ACCESS_FS_MAKE_SOCK);

    struct landlock_ruleset_attr attr = {
        .handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE |
                             LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                             LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
                             LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |
                             LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM,
    };
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    int ruleset;
    int r = 0;

    if (abi < 1 || is_traceable)
        return 0;
    if (abi >= LANDLOCK_ABI_TRUNCATE)
        attr.handled_access_fs |= LANDLOCK_ACCESS_FS_TRUNCATE;
    if (abi >= LANDLOCK_ABI_TRUNCATE && saves)
        access |= LANDLOCK_ACCESS_FS_TRUNCATE;
    ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr.handled_access_fs), 0);
    if (ruleset < 0)
        return -errno;
    for (; *dirs != NULL && r == 0; dirs++)
        r = allow_in(ruleset, *dirs, access);
    if (r == 0)
        r = syscall(SYS_landlock_restrict_self, ruleset, 0) < 0 ? -errno : 0;
    (void)close(ruleset);
    return r;
}

static int give_up_own(const char *const *dirs, bool saves)
{
    int r = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
    int r_files = forbid_files(dirs, saves);
    int r_caps = drop_capabilities();

    return r < 0 ? r : r_files < 0 ? r_files : r_caps;
}

void privileges_confine_thread(void)
{
    (void)give_up_own((const char *const[]){ NULL }, false);
}

/* All threads of the process; before Linux 3.17 the calling one. */
static int install(enum privileges_process process)
{
    struct sock_fprog program = { .len = programs[process].nops, .filter = programs[process].ops };

    if (program.len == 0)
        return 0;
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0)
        return 0;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0 ? -errno : 0;
}

int privileges_confine(enum privileges_process process, const char *const *dirs)
{
    int r = give_up_own(dirs, process == PRIVILEGES_SAVER);
    int r_filter = install(process);

    return r < 0 ? r : r_filter;
}
