/*
 * record: an LD_PRELOAD library that writes down what a real program allocates and frees, for goalloc-replay.
 *
 *     GOALLOC_TRACE=/tmp/%e.%p.trace LD_PRELOAD=/path/to/libgoalloc-record.so PROGRAM
 *
 * Called by the traced program, which takes malloc and its kin from here; calls glibc's own allocator by its __libc_
 * names, so there is nothing to look up with dlsym() and nothing that could allocate meanwhile. The format of the
 * output, the names of the files and the limits are in README.md.
 *
 * Data: a hash table from addresses to ids (open addressing, linear probing, deletion by moving back), a stack of ids
 * that are free again, and a window of 1 MiB of the output, mapped shared. All of it is mmap'd, nothing is allocated.
 * What is in the window is the kernel's: the trace of a program that is killed, or that calls exec, is complete, with
 * zero bytes behind its end. No descriptor stays open, so a program that closes all of them does no harm.
 *
 * One lock is around table and window, so that lines stand in an order in which the calls may have happened:
 *   malloc, calloc, memalign   call, then lock and write: the address is in the trace after whoever had it before
 *   free                       lock and write, then call: nobody can have the address meanwhile
 *   realloc                    lock, call, write, since it does both
 * fork() takes the lock; the child starts with an empty table, a trace of its own, and knows nothing of the objects
 * that it has from its parent: their frees are dropped, as are those of what was allocated before the recorder was
 * ready. An address that comes back without having been freed (by a free that was not seen) is freed in the trace.
 *
 * If something can't be had (memory for a table, room on the disk), recording stops with a message, and the program
 * goes on. Limits: programs that bring their own malloc have nothing recorded; children made by _Fork(), clone() or
 * vfork() must call exec before they allocate.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
/* Everything a thread has of its own must be there without being allocated. */
#define THREAD_OWN static _Thread_local __attribute__((tls_model("initial-exec")))

#define WINDOW_BYTES ((size_t)1 << 20)
#define TABLE_MIN ((size_t)1 << 16)
#define IDS_MIN ((size_t)1 << 16)
#define ID_NONE UINT32_MAX
#define LINE_MAX 128
#define PATH_BYTES 4096
#define NAMES_TRIED 1000

/* glibc's allocator under the names by which it is never replaced. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *p);

/* What is replaced. The headers' declarations differ in attributes only. */
EXPORT void *memalign(size_t alignment, size_t size);
EXPORT void *pvalloc(size_t size);

typedef struct entry {
    uintptr_t p; /* 0: free */
    uint32_t id;
} entry;

static struct {
    enum { UNDECIDED, ON, OFF } state;

    entry *table;
    size_t capacity; /* a power of two, at least twice nlive */
    size_t nlive;

    uint32_t *free_ids;
    size_t nfree_ids;
    size_t free_ids_capacity;
    uint32_t next_id;

    char *window;
    size_t used;     /* bytes of the window */
    uint64_t offset; /* of the window in the file */
    uint64_t nlines_left;
    uint32_t nthreads;
    char path[PATH_BYTES];
} rec;

static pthread_mutex_t rec_lock = PTHREAD_MUTEX_INITIALIZER;
THREAD_OWN uint32_t thread_no; /* 0: none yet */
THREAD_OWN uint32_t thread_of; /* the process that it is a number of */
THREAD_OWN bool forking;       /* this thread has the lock, and other handlers may allocate */
static uint32_t process_no = 1;

/* --- stopping --- */

static void say(const char *what)
{
    static const char prefix[] = "goalloc-record: recording stops: ";

    if (write(STDERR_FILENO, prefix, sizeof(prefix) - 1) < 0 || write(STDERR_FILENO, what, strlen(what)) < 0 ||
        write(STDERR_FILENO, "\n", 1) < 0)
        return;
}

/* The file gets its true length. */
static void finish(void)
{
    if (rec.state == ON && rec.window != NULL) {
        if (truncate(rec.path, (off_t)(rec.offset + rec.used)) < 0)
            say("the file can't be shortened: zero bytes stay behind its end");
        (void)munmap(rec.window, WINDOW_BYTES);
    }
    rec.window = NULL;
    rec.state = OFF;
}

static void stop(const char *why)
{
    finish();
    say(why);
}

static void *map_private(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

/* --- output --- */

/* Map the next part of the file. False: recording has stopped. */
static bool next_window(int flags)
{
    int fd = open(rec.path, O_RDWR | O_CLOEXEC | flags, 0644);
    void *p = MAP_FAILED;

    if (fd < 0)
        return false;
    if (rec.window != NULL) {
        (void)munmap(rec.window, WINDOW_BYTES);
        rec.window = NULL;
        rec.offset += WINDOW_BYTES;
    }
    rec.used = 0;
    /* Memory-mapped pages that turn out to have no room on the disk would be a SIGBUS in the program. */
    if (posix_fallocate(fd, (off_t)rec.offset, (off_t)WINDOW_BYTES) == 0)
        p = mmap(NULL, WINDOW_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)rec.offset);
    if (p == MAP_FAILED && ftruncate(fd, (off_t)rec.offset) < 0)
        say("zero bytes stay behind its end");
    (void)close(fd);
    if (p == MAP_FAILED)
        return false;
    rec.window = p;
    return true;
}

static void write_bytes(const char *bytes, size_t len)
{
    while (len > 0) {
        size_t n = WINDOW_BYTES - rec.used < len ? WINDOW_BYTES - rec.used : len;

        memcpy(rec.window + rec.used, bytes, n);
        rec.used += n;
        bytes += n;
        len -= n;
        if (rec.used == WINDOW_BYTES && !next_window(0)) {
            rec.state = OFF;
            say("no more room in the file, or it can't be opened");
            return;
        }
    }
}

static char *put_number(char *at, uint64_t n)
{
    char digits[20];
    int count = 0;

    do
        digits[count++] = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    while (count > 0)
        *at++ = digits[--count];
    return at;
}

/* "thread op n n n", of which the first nnumbers are there. */
static void write_line(char op, int nnumbers, const uint64_t *numbers)
{
    char line[LINE_MAX];
    char *at;

    if (thread_no == 0 || thread_of != process_no) {
        thread_no = ++rec.nthreads;
        thread_of = process_no;
    }
    at = put_number(line, thread_no);
    *at++ = ' ';
    *at++ = op;
    for (int i = 0; i < nnumbers; i++) {
        *at++ = ' ';
        at = put_number(at, numbers[i]);
    }
    *at++ = '\n';
    write_bytes(line, (size_t)(at - line));
    if (rec.state == ON && --rec.nlines_left == 0)
        stop("as many lines as $GOALLOC_TRACE_LINES says");
}

/* --- table --- */

static size_t entry_of(uintptr_t p)
{
    return (size_t)((p >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (rec.capacity - 1);
}

static void table_put(uintptr_t p, uint32_t id)
{
    size_t i = entry_of(p);

    while (rec.table[i].p != 0)
        i = (i + 1) & (rec.capacity - 1);
    rec.table[i] = (entry){ p, id };
}

static bool table_grow(void)
{
    entry *old = rec.table;
    size_t old_capacity = rec.capacity;
    size_t capacity = old == NULL ? TABLE_MIN : 2 * old_capacity;
    entry *table = map_private(capacity * sizeof(entry));

    if (table == NULL)
        return false;
    rec.table = table;
    rec.capacity = capacity;
    for (size_t i = 0; i < old_capacity; i++) {
        if (old[i].p != 0)
            table_put(old[i].p, old[i].id);
    }
    if (old != NULL)
        (void)munmap(old, old_capacity * sizeof(entry));
    return true;
}

/* Take p out. ID_NONE: it is not known. */
static uint32_t table_remove(const void *p)
{
    size_t i;
    size_t hole;
    uint32_t id;

    if (rec.table == NULL)
        return ID_NONE;
    for (i = entry_of((uintptr_t)p); rec.table[i].p != (uintptr_t)p; i = (i + 1) & (rec.capacity - 1)) {
        if (rec.table[i].p == 0)
            return ID_NONE;
    }
    id = rec.table[i].id;
    hole = i;
    while (true) {
        size_t home;

        i = (i + 1) & (rec.capacity - 1);
        if (rec.table[i].p == 0)
            break;
        home = entry_of(rec.table[i].p);
        /* It may fill the hole if its home is not between hole and i. */
        if (((i - home) & (rec.capacity - 1)) >= ((i - hole) & (rec.capacity - 1))) {
            rec.table[hole] = rec.table[i];
            hole = i;
        }
    }
    rec.table[hole].p = 0;
    rec.nlive--;
    return id;
}

static bool free_ids_grow(void)
{
    size_t bytes = rec.free_ids_capacity * sizeof(uint32_t);
    void *p =
        bytes == 0 ? map_private(IDS_MIN * sizeof(uint32_t)) : mremap(rec.free_ids, bytes, 2 * bytes, MREMAP_MAYMOVE);

    if (p == NULL || p == MAP_FAILED)
        return false;
    rec.free_ids = p;
    rec.free_ids_capacity = bytes == 0 ? IDS_MIN : 2 * rec.free_ids_capacity;
    return true;
}

static void id_release(uint32_t id)
{
    if (rec.nfree_ids == rec.free_ids_capacity && !free_ids_grow()) {
        stop("no memory for its tables");
        return;
    }
    rec.free_ids[rec.nfree_ids++] = id;
}

/* --- the trace's beginning --- */

/* Copy text to path + *len. False: too long. */
static bool append(char *path, size_t *len, const char *text)
{
    size_t n = strlen(text);

    if (*len + n >= PATH_BYTES)
        return false;
    memcpy(path + *len, text, n + 1);
    *len += n;
    return true;
}

static const char *number_text(uint64_t n)
{
    static char text[24];

    *put_number(text, n) = '\0';
    return text;
}

/* The file's name without the directory: of the program that runs here. */
static const char *program_name(void)
{
    static char path[PATH_BYTES];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    char *slash;

    path[n > 0 ? n : 0] = '\0';
    slash = strrchr(path, '/');
    return slash == NULL ? "unknown" : slash + 1;
}

/* $GOALLOC_TRACE with %p and %e filled in, absolute. */
static bool make_path(const char *pattern, size_t *ret_len)
{
    size_t len = 0;
    bool has_pid = false;

    if (pattern[0] != '/') {
        if (getcwd(rec.path, PATH_BYTES - 1) == NULL)
            return false;
        len = strlen(rec.path);
        if (!append(rec.path, &len, "/"))
            return false;
    }
    for (const char *c = pattern; *c != '\0'; c++) {
        char one[2] = { *c, '\0' };
        const char *text = one;

        if (c[0] == '%' && (c[1] == 'p' || c[1] == 'e' || c[1] == '%')) {
            c++;
            text = *c == 'p' ? number_text((uint64_t)getpid()) : *c == 'e' ? program_name() : "%";
            has_pid = has_pid || *c == 'p';
        }
        if (!append(rec.path, &len, text))
            return false;
    }
    *ret_len = len;
    if (has_pid || process_no == 1)
        return true;
    /* A child of fork must not have its parent's. */
    return append(rec.path, ret_len, ".") && append(rec.path, ret_len, number_text((uint64_t)getpid()));
}

static void begin(void)
{
    const char *pattern;
    const char *lines;
    size_t len;
    bool opened = false;

    if (environ == NULL)
        return; /* libc itself is not ready; these are the dynamic linker's */
    rec.state = OFF;
    pattern = getenv("GOALLOC_TRACE");
    if (pattern == NULL || pattern[0] == '\0')
        return;
    lines = getenv("GOALLOC_TRACE_LINES");
    rec.nlines_left = lines != NULL ? strtoull(lines, NULL, 10) : 0;
    if (rec.nlines_left == 0)
        rec.nlines_left = UINT64_MAX;
    if (!make_path(pattern, &len)) {
        say("the name in $GOALLOC_TRACE is too long, or the current directory is gone");
        return;
    }
    rec.offset = 0;
    opened = next_window(O_CREAT | O_EXCL);
    for (uint64_t i = 1; !opened && errno == EEXIST && i < NAMES_TRIED; i++) { /* a process that has called exec */
        size_t n = len;

        if (append(rec.path, &n, "-") && append(rec.path, &n, number_text(i)))
            opened = next_window(O_CREAT | O_EXCL);
    }
    if (!opened) {
        say("the file in $GOALLOC_TRACE can't be made");
        return;
    }
    rec.state = ON;
    write_bytes("goalloc-trace 1\n# ", 18);
    write_bytes(program_name(), strlen(program_name()));
    write_bytes("\n", 1);
}

/* --- one call --- */

/* True: recording, and the lock is held. */
static bool enter(void)
{
    if (__atomic_load_n(&rec.state, __ATOMIC_RELAXED) == OFF)
        return false;
    if (!forking)
        (void)pthread_mutex_lock(&rec_lock);
    if (rec.state == UNDECIDED)
        begin();
    if (rec.state == ON)
        return true;
    if (!forking)
        (void)pthread_mutex_unlock(&rec_lock);
    return false;
}

static void leave(void)
{
    if (!forking)
        (void)pthread_mutex_unlock(&rec_lock);
}

/* With the lock: p is a new object. */
static void note_new(char op, void *p, size_t size, uint64_t third, uint32_t id)
{
    uint32_t stale = table_remove(p);

    if (stale != ID_NONE) {
        write_line('f', 1, (uint64_t[]){ stale });
        if (rec.state == ON)
            id_release(stale);
    }
    if (rec.state == ON && (rec.nlive + 1) * 2 > rec.capacity && !table_grow())
        stop("no memory for its tables");
    if (rec.state != ON)
        return;
    if (id == ID_NONE)
        id = rec.nfree_ids > 0 ? rec.free_ids[--rec.nfree_ids] : rec.next_id++;
    table_put((uintptr_t)p, id);
    rec.nlive++;
    write_line(op, op == 'a' || op == 'r' ? 3 : 2, (uint64_t[]){ id, size, op == 'r' ? id : third });
}

static void *record_new(char op, void *p, size_t size, size_t alignment)
{
    int keep_errno = errno;

    if (p != NULL && enter()) {
        note_new(op, p, size, alignment, ID_NONE);
        leave();
        errno = keep_errno;
    }
    return p;
}

/* With the lock. False: p is not known. */
static bool note_free(void *p)
{
    uint32_t id = table_remove(p);

    if (id == ID_NONE)
        return false;
    write_line('f', 1, (uint64_t[]){ id });
    if (rec.state == ON)
        id_release(id);
    return true;
}

EXPORT void *malloc(size_t size)
{
    return record_new('m', __libc_malloc(size), size, 0);
}

EXPORT void *calloc(size_t count, size_t size)
{
    return record_new('c', __libc_calloc(count, size), count * size, 0); /* it fails if this overflows */
}

EXPORT void *memalign(size_t alignment, size_t size)
{
    return record_new('a', __libc_memalign(alignment, size), size, alignment);
}

EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

EXPORT int posix_memalign(void **ret, size_t alignment, size_t size)
{
    int keep_errno = errno;
    void *p;

    if (alignment % sizeof(void *) != 0 || alignment == 0 || (alignment & (alignment - 1)) != 0)
        return EINVAL;
    p = memalign(alignment, size);
    errno = keep_errno;
    if (p == NULL)
        return ENOMEM;
    *ret = p;
    return 0;
}

EXPORT void *valloc(size_t size)
{
    return memalign((size_t)sysconf(_SC_PAGESIZE), size);
}

EXPORT void *pvalloc(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t rounded;

    if (__builtin_add_overflow(size, page - 1, &rounded)) {
        errno = ENOMEM;
        return NULL;
    }
    return memalign(page, rounded & ~(page - 1));
}

EXPORT void free(void *p)
{
    int keep_errno = errno;

    if (p != NULL && enter()) {
        (void)note_free(p);
        leave();
    }
    errno = keep_errno;
    __libc_free(p);
}

EXPORT void *realloc(void *p, size_t size)
{
    void *q;
    int keep_errno;
    uint32_t id;

    if (p == NULL)
        return malloc(size);
    if (size == 0) { /* glibc frees p */
        free(p);
        return NULL;
    }
    if (!enter())
        return __libc_realloc(p, size);
    q = __libc_realloc(p, size);
    keep_errno = errno;
    if (q != NULL) {
        id = table_remove(p);
        note_new(id == ID_NONE ? 'm' : 'r', q, size, 0, id);
    }
    leave();
    errno = keep_errno;
    return q;
}

EXPORT void *reallocarray(void *p, size_t count, size_t size)
{
    size_t bytes;

    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(p, bytes);
}

/* --- fork, exit --- */

static void before_fork(void)
{
    (void)pthread_mutex_lock(&rec_lock);
    forking = true;
}

static void after_fork_in_parent(void)
{
    forking = false;
    (void)pthread_mutex_unlock(&rec_lock);
}

static void after_fork_in_child(void)
{
    if (rec.table != NULL)
        (void)munmap(rec.table, rec.capacity * sizeof(entry));
    if (rec.window != NULL)
        (void)munmap(rec.window, WINDOW_BYTES);
    rec.table = NULL;
    rec.window = NULL;
    rec.capacity = 0;
    rec.nlive = 0;
    rec.nfree_ids = 0;
    rec.next_id = 0;
    rec.nthreads = 0;
    rec.state = UNDECIDED;
    process_no++;
    forking = false;
    (void)pthread_mutex_init(&rec_lock, NULL);
}

__attribute__((constructor)) static void record_init(void)
{
    if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0)
        stop("fork() can't be followed");
}

__attribute__((destructor)) static void record_end(void)
{
    if (enter()) {
        finish();
        leave();
    }
}
