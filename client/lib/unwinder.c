/*
 * Unwinder: walks stacks by tables, with a library that is loaded when profiling is turned on.
 *
 * Called by recorder.c (loading) and backtrace.c (walking). Data: the libraries' functions, private to the process.
 *
 * Two libraries have what it takes. libunwind remembers what it has found for an address, and then takes 10 ns a frame;
 * libgcc_s, which nearly every system has, 150 ns. Neither is linked: programs that are not profiled need neither.
 *
 * dlopen() waits for the loader's lock, under which constructors of other threads' modules run; one of them may be
 * waiting for a thread that is in malloc. So no malloc waits for a dlopen():
 *
 *     NONE == an explicit attach with profiling on, in its thread ==> LOADING ==> READY, or MISSING
 *       `== profiling was turned on later: a thread of its own ==='
 *
 * That thread blocks all signals, so that none of the program's handlers runs in it, and ends when it has the library.
 * If it can't be made, or if this library's code may be unloaded below it (a static one in a module that was opened),
 * stacks are walked by frame pointers alone.
 *
 * libunwind 1.6 opens a pipe, and finds out what is readable by writing it there. A program may close descriptors that
 * it does not know, and put its own there; libunwind would write into these. So the pipe's descriptors are looked for
 * when it is loaded, and looked at before each walk; if they are others, or were not found for certain, it is not used
 * any more. Nor is it under Valgrind, which would tell of what is written there, and under the thread sanitizer, which
 * does not survive what libunwind does when a thread ends.
 *
 * libunwind asks the loader for the modules' list when it sees an address for the first time, and that list has a lock
 * which a fork in another thread may leave taken for ever. So the child of a process that has had more than one thread
 * takes libgcc_s, which does without (and whoever was still loading, loads nothing any more).
 */
#include "client/lib/unwinder.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unwind.h>

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 32)
#include <sys/single_threaded.h>
#define FORKED_AMONG_THREADS (!__libc_single_threaded)
#else
#define FORKED_AMONG_THREADS true
#endif

#include "shm/atomics.h"

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

#define STACK_BYTES ((size_t)256 * 1024)
#define FDS_MAX 1024 /* that are looked through; a new one gets the lowest number that is free */

enum unwinder_state {
    UNWINDER_NONE = 0,
    UNWINDER_LOADING,
    UNWINDER_READY,
    UNWINDER_MISSING,
};

/* libunwind's: addresses into ret, returns how many. */
typedef int by_unwind(void **ret, int max);
/* libgcc's, as <unwind.h> declares them. */
typedef _Unwind_Reason_Code by_gcc(_Unwind_Trace_Fn frame, void *arg);
typedef _Unwind_Ptr gcc_ip(struct _Unwind_Context *context);

static shm_u32 state;
static by_unwind *_Atomic unwind;
static by_gcc *_Atomic gcc_backtrace;
static gcc_ip *_Atomic gcc_get_ip;

/*
 * A function of a library that stays loaded from now on. dlopen() is asked for by its name: the linker warns of it who
 * links the static library into a static program, where it is not called.
 */
static void *find_function(const char *library, const char *name)
{
    void *(*open_library)(const char *, int) = (void *(*)(const char *, int))(uintptr_t)dlsym(RTLD_DEFAULT, "dlopen");
    void *handle = open_library == NULL ? NULL : open_library(library, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);

    return handle == NULL ? NULL : dlsym(handle, name);
}

/* --- libunwind's pipe --- */

/* What a descriptor is of. */
typedef struct identity {
    int fd; /* -1: of nothing */
    dev_t device;
    ino_t inode;
} identity;

/* Written before unwind is set. Later versions have none. */
static identity pipe_ends[2] = { { .fd = -1 }, { .fd = -1 } };

static bool is_still(const identity *end)
{
    struct stat st;

    return end->fd < 0 || (fstat(end->fd, &st) == 0 && st.st_ino == end->inode && st.st_dev == end->device);
}

static void note_open(bool open[FDS_MAX])
{
    for (int fd = 0; fd < FDS_MAX; fd++)
        open[fd] = fcntl(fd, F_GETFD) >= 0;
}

/* The pipe that was opened since then. False: that can't be said, since other threads have opened some, too. */
static bool find_pipe(const bool before[FDS_MAX])
{
    uint32_t nfound = 0;
    uint32_t nfree = 0;

    for (int fd = 0; fd < FDS_MAX; fd++) {
        struct stat st;

        nfree += !before[fd];
        if (before[fd] || fstat(fd, &st) < 0 || !S_ISFIFO(st.st_mode))
            continue;
        if (nfound == 2)
            return false;
        pipe_ends[nfound++] = (identity){ fd, st.st_dev, st.st_ino };
    }
    return nfree >= 2 && (nfound == 0 || (nfound == 2 && pipe_ends[0].inode == pipe_ends[1].inode));
}

static void load_libunwind(void)
{
    bool open_before[FDS_MAX];
    void *first[8];
    by_unwind *walk;

    if (RUNNING_ON_VALGRIND || dlsym(RTLD_DEFAULT, "__tsan_init") != NULL)
        return;
    note_open(open_before);
    walk = (by_unwind *)find_function("libunwind.so.8", "unw_backtrace");
    if (walk == NULL)
        return;
    (void)walk(first, 8); /* what it opens and allocates at first it does here */
    if (find_pipe(open_before))
        atomic_store_explicit(&unwind, walk, memory_order_release);
}

/* --- loading --- */

static void load(void)
{
    uintptr_t first[8];

    atomic_store_explicit(&gcc_get_ip, (gcc_ip *)find_function("libgcc_s.so.1", "_Unwind_GetIP"), memory_order_release);
    atomic_store_explicit(&gcc_backtrace, (by_gcc *)find_function("libgcc_s.so.1", "_Unwind_Backtrace"),
                          memory_order_release);
    (void)unwinder_walk(first, 8); /* the same */
    load_libunwind();
    u32_store_release(&state, unwinder_is_ready() ? UNWINDER_READY : UNWINDER_MISSING);
}

static bool begin_load(void)
{
    uint32_t none = UNWINDER_NONE;

    while (none == UNWINDER_NONE && !u32_exchange_if_acq_rel(&state, &none, UNWINDER_LOADING))
        ;
    return none == UNWINDER_NONE;
}

/* False in a static program: what it loads would bring another libc. */
static bool has_loader(void)
{
    return getauxval(AT_BASE) != 0;
}

void unwinder_load(void)
{
    if (has_loader() && begin_load())
        load();
}

/* True if the code that is this library's is never unloaded: it is the program's, or its module says so. */
static bool own_code_stays(void)
{
    Dl_info info;
    struct link_map *map;

    if (dladdr1((void *)(uintptr_t)unwinder_load, &info, (void **)&map, RTLD_DL_LINKMAP) == 0)
        return false;
    if (map->l_name[0] == '\0')
        return true;
    for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag != DT_NULL; entry++)
        if (entry->d_tag == DT_FLAGS_1)
            return (entry->d_un.d_val & DF_1_NODELETE) != 0;
    return false;
}

static void *load_thread(void *arg)
{
    (void)arg;
    load();
    return NULL;
}

void unwinder_load_later(void)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all;
    sigset_t before;
    bool made = false;

    if (!has_loader() || u32_load_acquire(&state) != UNWINDER_NONE || !begin_load())
        return;
    if (own_code_stays() && pthread_attr_init(&attr) == 0) {
        (void)sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* the thread inherits it */
        made = pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0 &&
               pthread_attr_setstacksize(&attr, STACK_BYTES) == 0 &&
               pthread_create(&thread, &attr, load_thread, NULL) == 0;
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        (void)pthread_attr_destroy(&attr);
    }
    if (!made)
        u32_store_release(&state, UNWINDER_MISSING);
}

void unwinder_reset(void)
{
    if (!FORKED_AMONG_THREADS)
        return;
    atomic_store_explicit(&unwind, NULL, memory_order_relaxed);
    if (u32_load_acquire(&state) == UNWINDER_LOADING)
        u32_store_release(&state, UNWINDER_MISSING);
}

/* While it is being loaded, by who loads it; else what is there is ready. */
bool unwinder_is_ready(void)
{
    return atomic_load_explicit(&unwind, memory_order_acquire) != NULL ||
           (atomic_load_explicit(&gcc_backtrace, memory_order_acquire) != NULL &&
            atomic_load_explicit(&gcc_get_ip, memory_order_relaxed) != NULL);
}

typedef struct collected {
    uintptr_t *addresses;
    uint32_t n;
    uint32_t max;
} collected;

static _Unwind_Reason_Code collect(struct _Unwind_Context *context, void *arg)
{
    collected *c = arg;
    uintptr_t address = (uintptr_t)atomic_load_explicit(&gcc_get_ip, memory_order_relaxed)(context);

    if (address == 0 || c->n == c->max)
        return _URC_END_OF_STACK;
    c->addresses[c->n++] = address;
    return _URC_NO_REASON;
}

uint32_t unwinder_walk(uintptr_t *ret, uint32_t max)
{
    by_unwind *walk = atomic_load_explicit(&unwind, memory_order_acquire);
    by_gcc *gcc = atomic_load_explicit(&gcc_backtrace, memory_order_acquire);
    collected c = { .addresses = ret, .max = max };
    int n;

    _Static_assert(sizeof(void *) == sizeof(uintptr_t), "addresses are pointers");
    if (walk != NULL && !(is_still(&pipe_ends[0]) && is_still(&pipe_ends[1]))) {
        atomic_store_explicit(&unwind, NULL, memory_order_relaxed);
        walk = NULL;
    }
    if (walk != NULL) {
        n = walk((void **)ret, (int)max);
        while (n > 0 && ret[n - 1] == 0) /* some stacks end with one */
            n--;
        return n > 0 ? (uint32_t)n : 0;
    }
    if (gcc == NULL)
        return 0;
    (void)gcc(collect, &c);
    return c.n;
}
