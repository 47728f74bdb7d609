/*
 * Core dumps: they give the heap no memory, and hold what is in use of it if that was asked for. Where the kernel
 * writes no core files into the working directory, the marks of the mappings are looked at alone.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "shm/layout.h"
#include "tests/support/attach.h"

#define GROWTH_MAX      (UINT64_C(16) << 20) /* of the memfds, by a dump: the daemon may make some ready meanwhile */
#define CORE_BYTES_MAX  (UINT64_C(96) << 20) /* that a core of these tests takes on disk */
#define RANGES_MAX      2048u                /* of one kind: coredump.c */
#define CORE_MAPPINGS   (2 * RANGES_MAX + 500)
#define NFRAGMENTS      9600u
#define ALTSTACK_BYTES  8192u
#define MARK            0x5a
#define FILTER_FILES    "0x37" /* the default, and private mappings of files: what is mapped read-only counts as such */
#define FILTER_ALL      "0x7f"

enum way { WAY_DOUBLE_FREE, WAY_ABORT, WAY_KILL, WAY_FAULT, WAY_OVERFLOW, WAY_ILL, WAY_TRAP, NWAYS };

static const int way_signal[NWAYS] = { SIGABRT, SIGABRT, SIGQUIT, SIGSEGV, SIGSEGV, SIGILL, SIGTRAP };

/* What a child tells of itself before it dies. Shared with the test. */
typedef struct report {
    enum way way;
    uint32_t flags;
    uint32_t step; /* of how many fragments one stays */
    const char *filter; /* for /proc/self/coredump_filter; NULL: as it is */
    uint64_t heap_bytes;
    char *live;
    char *freed;
    const shm_header *header; /* where it had spans and bitmap */
    char *bitmap;
    char *fragments[NFRAGMENTS];
} report;

typedef struct core {
    const char *bytes;
    size_t size;
    uint64_t disk_bytes;
} core;

static report *told;

static int setup(void **state)
{
    static const char *options[] = { "--reserve", "1G", NULL };

    memset(told, 0, sizeof(*told));
    *state = options;
    return fixture_setup(state);
}

/* True if the kernel writes a file that begins with "core" into the working directory, and soon. */
static bool cores_are_files(void)
{
#if defined(__SANITIZE_THREAD__)
    return false; /* the kernel looks at each page of the sanitizer's shadow: 10 s and more */
#else
    FILE *file = fopen("/proc/sys/kernel/core_pattern", "re");
    char pattern[128] = "";
    struct rlimit limit;

    if (file != NULL) {
        (void)fgets(pattern, sizeof(pattern), file);
        (void)fclose(file);
    }
    return strncmp(pattern, "core", 4) == 0 && getrlimit(RLIMIT_CORE, &limit) == 0 && limit.rlim_max == RLIM_INFINITY;
#endif
}

/* --- the child --- */

static uint64_t heap_bytes(const fixture *f)
{
    return fixture_memfd_bytes(f, "arena") + fixture_memfd_bytes(f, "spans") + fixture_memfd_bytes(f, "bitmap");
}

/* Once the daemon has made ready, and given back, what it wants to. */
static uint64_t steady_heap_bytes(const fixture *f)
{
    uint64_t bytes = heap_bytes(f);

    for (int i = 0, same = 0; i < 500 && same < 10; i++) {
        uint64_t before = bytes;

        (void)usleep(10000);
        bytes = heap_bytes(f);
        same = bytes == before ? same + 1 : 0;
    }
    return bytes;
}

/* Where a process has that memfd of the daemon's, and how many of its mappings core dumps don't leave out. */
static char *find_mapping(pid_t pid, const char *name, int *ret_ndumped)
{
    char line[512];
    FILE *file;
    char *found = NULL;
    bool inside = false;

    (void)snprintf(line, sizeof(line), "/proc/%d/smaps", (int)pid);
    file = fopen(line, "re");
    CHECK(file != NULL);
    *ret_ndumped = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        unsigned long long begin;
        unsigned long long end;

        if (sscanf(line, "%llx-%llx ", &begin, &end) == 2) {
            inside = strstr(line, "/memfd:goalloc-") != NULL && strstr(line, name) != NULL;
            if (inside && found == NULL)
                found = (char *)(uintptr_t)begin;
        } else if (inside && strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " dd") == NULL) {
            ++*ret_ndumped;
        }
    }
    (void)fclose(file);
    return found;
}

/* Children inherit what cmocka, or a sanitizer, does with signals. */
static void default_actions(void)
{
    static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP, SIGQUIT };

    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        (void)signal(signals[i], SIG_DFL);
}

/* Attach, have an object and one that is gone, and say so. */
static void prepare(const fixture *f)
{
    int ndumped;

    default_actions();
    must_attach(f, told->flags);
    told->live = goalloc_malloc(5000);
    told->freed = goalloc_malloc(1 << 20);
    CHECK(told->live != NULL && told->freed != NULL);
    memset(told->live, MARK, 5000);
    memset(told->freed, MARK, 1 << 20);
    goalloc_free(told->freed);
    CHECK(goalloc_trim() == 0);
    told->header = (shm_header *)(void *)find_mapping(getpid(), "goalloc-spans", &ndumped);
    CHECK(told->header != NULL && ndumped == 0);
    told->bitmap = find_mapping(getpid(), "goalloc-bitmap", &ndumped);
    CHECK(told->bitmap != NULL && ndumped == 0);
    CHECK(find_mapping(getpid(), "goalloc-arena", &ndumped) != NULL && ndumped == 0);
    CHECK(find_mapping(getpid(), "life", &ndumped) == NULL || ndumped == 0);
}

static __attribute__((noinline)) int overflow(volatile int *p)
{
    volatile int more[256];

    more[0] = *p + 1;
    return more[0] == 0 ? 0 : overflow(more) + more[0];
}

static void use_altstack(void)
{
    static char stack[ALTSTACK_BYTES];
    stack_t alt = { .ss_sp = stack, .ss_size = sizeof(stack) };

    CHECK(sigaltstack(&alt, NULL) == 0);
}

static void set_filter(const char *filter)
{
    FILE *file = fopen("/proc/self/coredump_filter", "we");

    CHECK(file != NULL && fputs(filter, file) >= 0 && fclose(file) == 0);
}

static void die(const fixture *f)
{
    struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
    char *volatile nowhere = (char *)16;
    char *volatile twice = told->way == WAY_DOUBLE_FREE ? goalloc_malloc(64) : NULL;
    volatile int depth = 0;

    CHECK(!cores_are_files() || setrlimit(RLIMIT_CORE, &limit) == 0);
    if (told->filter != NULL)
        set_filter(told->filter);
    told->heap_bytes = steady_heap_bytes(f);
    switch (told->way) {
    case WAY_DOUBLE_FREE:
        goalloc_free(twice);
        goalloc_free(twice);
        break;
    case WAY_ABORT:
        abort();
    case WAY_KILL:
        (void)kill(getpid(), SIGQUIT);
        break;
    case WAY_FAULT:
        *nowhere = 0;
        break;
    case WAY_OVERFLOW:
        use_altstack();
        (void)overflow(&depth);
        break;
    case WAY_ILL:
        __builtin_trap();
    case WAY_TRAP:
#if defined(__x86_64__)
        __asm__ volatile("int3");
#else
        (void)raise(SIGTRAP);
#endif
        break;
    default:
        break;
    }
    _exit(2);
}

static int prepare_and_die(const fixture *f, void *arg)
{
    CHECK(chdir(arg) == 0);
    prepare(f);
    die(f);
    return 2;
}

/* --- the core --- */

static core core_map(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    core c = { NULL, 0, 0 };
    struct stat st;
    void *p;

    if (fd < 0)
        return c;
    if (fstat(fd, &st) == 0 && st.st_size > (off_t)sizeof(Elf64_Ehdr)) {
        p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p != MAP_FAILED)
            c = (core){ p, (size_t)st.st_size, (uint64_t)st.st_blocks * 512 };
    }
    (void)close(fd);
    return c;
}

/* Map the only file of a directory, and remove both. bytes is NULL if there is none. */
static core core_take(const char *dir)
{
    core c = { NULL, 0, 0 };
    DIR *entries = opendir(dir);
    struct dirent *entry;

    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        char path[512];

        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
        c = core_map(path);
        (void)unlink(path);
    }
    if (entries != NULL)
        (void)closedir(entries);
    (void)rmdir(dir);
    return c;
}

static void core_drop(core *c)
{
    (void)munmap((void *)(uintptr_t)c->bytes, c->size);
}

static const Elf64_Phdr *core_headers(const core *c, size_t *ret_n)
{
    const Elf64_Ehdr *elf = (const void *)c->bytes;

    *ret_n = elf->e_phnum;
    return (const void *)(c->bytes + elf->e_phoff);
}

/* What the process had at an address; NULL: the core does not hold all of it. */
static const void *core_at(const core *c, const void *address, size_t bytes)
{
    uint64_t at = (uintptr_t)address;
    size_t n;
    const Elf64_Phdr *headers = core_headers(c, &n);

    for (size_t i = 0; i < n; i++) {
        const Elf64_Phdr *h = &headers[i];

        if (h->p_type == PT_LOAD && at >= h->p_vaddr && at + bytes <= h->p_vaddr + h->p_filesz &&
            h->p_offset + h->p_filesz <= c->size)
            return c->bytes + h->p_offset + (at - h->p_vaddr);
    }
    return NULL;
}

/* The information that came with the signal. */
static siginfo_t core_siginfo(const core *c)
{
    size_t n;
    const Elf64_Phdr *headers = core_headers(c, &n);
    siginfo_t info = { .si_signo = 0 };

    for (size_t i = 0; i < n; i++) {
        uint64_t at = headers[i].p_offset;

        while (headers[i].p_type == PT_NOTE && at < headers[i].p_offset + headers[i].p_filesz) {
            const Elf64_Nhdr *note = (const void *)(c->bytes + at);

            at += sizeof(*note) + (note->n_namesz + 3) / 4 * 4;
            if (note->n_type == NT_SIGINFO && note->n_descsz == sizeof(info))
                memcpy(&info, c->bytes + at, sizeof(info));
            at += (note->n_descsz + 3) / 4 * 4;
        }
    }
    return info;
}

static bool core_has_object(const core *c, const char *object, size_t bytes)
{
    const char *p = core_at(c, object, bytes);

    for (size_t i = 0; p != NULL && i < bytes; i++) {
        if (p[i] != MARK)
            return false;
    }
    return p != NULL;
}

/* From the object's address to its bit, by what the core holds of the tables. */
static void check_core_describes(const core *c, const char *object)
{
    const shm_header *header = core_at(c, told->header, sizeof(*header));
    const char *spans = (const char *)told->header;
    const shm_u32 *first;
    const shm_span *span;
    const shm_u64 *bits;
    uint64_t page;
    uint64_t index;

    assert_non_null(header);
    assert_true(header->magic == SHM_MAGIC);
    page = ((uintptr_t)object - header->base) / PAGE_BYTES;
    first = core_at(c, spans + header->page_map_off + page * sizeof(*first), sizeof(*first));
    assert_non_null(first);
    assert_true(*first != 0 && *first <= page);
    span = core_at(c, spans + header->span_table_off + *first * sizeof(*span), sizeof(*span));
    assert_non_null(span);
    assert_int_not_equal(lease_unpack(u64_load_relaxed(&span->lease)).state, SPAN_FREE);
    index = ((uintptr_t)object - header->base - *first * PAGE_BYTES) / span->elem_bytes;
    bits = core_at(c, told->bitmap + *first * UINT64_C(256), 256);
    assert_non_null(bits);
    assert_true(u64_load_relaxed(&bits[index / 64]) >> index % 64 & 1);
    assert_non_null(core_at(c, spans + header->sessions_off, 2 * sizeof(shm_session)));
    assert_non_null(core_at(c, spans + header->heap_arenas_off, sizeof(shm_heap_arena)));
}

/* --- tests --- */

/* Run a child that dies of a signal. True: *ret is its core; false: there are none here. */
static bool run(const fixture *f, child_fn fn, uint32_t flags, enum way way, core *ret)
{
    char dir[sizeof(f->dir) + 8];
    int status;

    told->flags = flags;
    told->way = way;
    (void)snprintf(dir, sizeof(dir), "%s/XXXXXX", f->dir);
    assert_non_null(mkdtemp(dir));
    status = child_run(f, fn, dir);
    *ret = core_take(dir);
    assert_int_equal(status, 1000 + way_signal[way]);
    if (!cores_are_files()) {
        print_message("no core files here: only the marks of the mappings were looked at\n");
        return false;
    }
    assert_non_null(ret->bytes);
    assert_in_range(ret->disk_bytes, 1, CORE_BYTES_MAX);
    assert_true(heap_bytes(f) <= told->heap_bytes + GROWTH_MAX);
    return true;
}

static void dump_without_the_flag_holds_nothing_of_the_heap(void **state)
{
    for (enum way way = 0; way < NWAYS; way++) {
        core c;

        told->filter = way == 0 ? NULL : FILTER_ALL;
        if (run(*state, prepare_and_die, 0, way, &c)) {
            assert_null(core_at(&c, told->live, 1));
            assert_null(core_at(&c, told->freed, 1));
            assert_null(core_at(&c, told->header, 1));
            core_drop(&c);
        }
    }
    assert_true(fixture_is_clean(*state, NWAYS));
}

static void check_siginfo(const core *c)
{
    siginfo_t info = core_siginfo(c);

    assert_int_equal(info.si_signo, way_signal[told->way]);
    if (told->way == WAY_FAULT) {
        assert_int_equal(info.si_code, SEGV_MAPERR);
        assert_true(info.si_addr == (void *)16);
    } else if (told->way == WAY_KILL) {
        assert_int_equal(info.si_code, SI_USER);
    }
}

static void dump_with_the_flag_holds_what_is_in_use(void **state)
{
    for (enum way way = 0; way < NWAYS; way++) {
        core c;

        if (run(*state, prepare_and_die, GOALLOC_ATTACH_DUMP, way, &c)) {
            assert_true(core_has_object(&c, told->live, 5000));
            assert_null(core_at(&c, told->freed, 1));
            assert_null(core_at(&c, told->freed + (UINT64_C(256) << 20), 1)); /* the reserve */
            check_siginfo(&c);
            core_drop(&c);
        }
    }
    assert_true(fixture_is_clean(*state, NWAYS));
}

static int prepare_read_only_and_die(const fixture *f, void *arg)
{
    uint32_t flags = told->flags;
    int ndumped;

    CHECK(chdir(arg) == 0);
    told->flags = 0;
    prepare(f);
    CHECK(goalloc_detach() == 0);
    must_attach(f, flags);
    told->header = (shm_header *)(void *)find_mapping(getpid(), "goalloc-spans", &ndumped);
    told->bitmap = find_mapping(getpid(), "goalloc-bitmap", &ndumped);
    die(f);
    return 2;
}

static void dump_with_files_holds_the_tables_and_read_only_heaps(void **state)
{
    static const child_fn children[] = { prepare_and_die, prepare_read_only_and_die };
    static const uint32_t flags[] = { GOALLOC_ATTACH_DUMP, GOALLOC_ATTACH_DUMP | GOALLOC_ATTACH_READONLY };

    told->filter = FILTER_FILES;
    for (size_t i = 0; i < 2; i++) {
        core c;

        if (run(*state, children[i], flags[i], WAY_ABORT, &c)) {
            assert_true(core_has_object(&c, told->live, 5000));
            check_core_describes(&c, told->live);
            assert_null(core_at(&c, told->freed, 1));
            core_drop(&c);
        }
    }
    assert_true(fixture_is_clean(*state, 2));
}

/* --- children --- */

static int child_dies(const fixture *f, void *arg)
{
    bool attaches = told->fragments[0] != NULL;
    pid_t pid;

    CHECK(chdir(arg) == 0);
    prepare(f);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        if (attaches) { /* a session of its own, as its parent's */
            char *p = goalloc_malloc(100);

            CHECK(p != NULL);
            memset(p, MARK, 100);
            told->fragments[0] = p;
        }
        die(f);
    }
    pid = child_wait(pid);
    if (pid == 1000 + way_signal[told->way]) {
        /* Its parent dies of the same; only the first core is looked at. */
        struct rlimit none = { 0, 0 };

        CHECK(setrlimit(RLIMIT_CORE, &none) == 0);
        (void)signal(way_signal[told->way], SIG_DFL);
        (void)raise(way_signal[told->way]);
    }
    return 2;
}

static void dump_of_a_forked_child_holds_what_is_in_use(void **state)
{
    core c;

    for (int attaches = 0; attaches <= 1; attaches++) {
        told->fragments[0] = attaches ? (char *)told : NULL;
        if (run(*state, child_dies, GOALLOC_ATTACH_DUMP, WAY_ABORT, &c)) {
            assert_true(core_has_object(&c, told->live, 5000));
            assert_null(core_at(&c, told->freed, 1));
            if (attaches)
                assert_true(core_has_object(&c, told->fragments[0], 100));
            core_drop(&c);
        }
        if (run(*state, child_dies, 0, WAY_ABORT, &c)) {
            assert_null(core_at(&c, told->live, 1));
            core_drop(&c);
        }
    }
    assert_true(fixture_is_clean(*state, 6));
}

/* --- very many pieces --- */

static int fragment_and_die(const fixture *f, void *arg)
{
    CHECK(chdir(arg) == 0);
    prepare(f);
    for (uint32_t i = 0; i < NFRAGMENTS; i++) { /* of a page each */
        told->fragments[i] = goalloc_malloc(PAGE_BYTES);
        CHECK(told->fragments[i] != NULL);
        memset(told->fragments[i], MARK, PAGE_BYTES);
    }
    for (uint32_t i = 0; i < NFRAGMENTS; i++) {
        if (i % told->step != 0)
            goalloc_free(told->fragments[i]);
    }
    CHECK(goalloc_trim() == 0);
    die(f);
    return 2;
}

/* How many of the fragments that have stayed the core holds. */
static uint32_t count_fragments(const core *c)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < NFRAGMENTS; i += told->step)
        n += core_has_object(c, told->fragments[i], PAGE_BYTES);
    return n;
}

static void dump_of_a_heap_in_many_pieces_holds_them_with_the_gaps(void **state)
{
    core c;

    told->step = 2;
    if (run(*state, fragment_and_die, GOALLOC_ATTACH_DUMP, WAY_ABORT, &c)) {
        size_t n;

        (void)core_headers(&c, &n);
        assert_in_range(n, 1, CORE_MAPPINGS);
        assert_int_equal(count_fragments(&c), NFRAGMENTS / 2);
        assert_null(core_at(&c, told->freed + (UINT64_C(256) << 20), 1));
        core_drop(&c);
    }
    assert_true(fixture_is_clean(*state, 1 + NFRAGMENTS / 2));
}

/* Gaps that are more than what is in use might get memory by the dump: then some pieces are left out instead. */
static void dump_of_a_heap_in_many_far_pieces_holds_the_first_without_gaps(void **state)
{
    core c;

    told->step = 4;
    if (run(*state, fragment_and_die, GOALLOC_ATTACH_DUMP, WAY_ABORT, &c)) {
        size_t n;

        (void)core_headers(&c, &n);
        assert_in_range(n, 1, CORE_MAPPINGS);
        assert_in_range(count_fragments(&c), RANGES_MAX - 100, RANGES_MAX);
        for (uint32_t i = 1; i < NFRAGMENTS; i += told->step)
            assert_null(core_at(&c, told->fragments[i], 1));
        core_drop(&c);
    }
    assert_true(fixture_is_clean(*state, 1 + NFRAGMENTS / 4));
}

/* --- handlers --- */

static void theirs(int sig)
{
    (void)sig;
}

static struct sigaction action_of(int sig)
{
    struct sigaction action;

    CHECK(sigaction(sig, NULL, &action) == 0);
    return action;
}

static int keep_handlers(const fixture *f, void *arg)
{
    static const int signals[] = { SIGABRT, SIGILL, SIGTRAP, SIGSYS, SIGQUIT };
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    int status;
    pid_t pid;

    (void)arg;
    default_actions();
    CHECK(signal(SIGILL, theirs) == SIG_DFL && signal(SIGTRAP, SIG_IGN) == SIG_DFL);
    must_attach(f, GOALLOC_ATTACH_DUMP);
    CHECK(action_of(SIGILL).sa_handler == theirs && action_of(SIGTRAP).sa_handler == SIG_IGN);
    CHECK(action_of(SIGABRT).sa_handler != SIG_DFL && action_of(SIGQUIT).sa_handler != SIG_DFL);
    CHECK(signal(SIGSYS, theirs) != SIG_DFL); /* later than ours */
    CHECK(raise(SIGILL) == 0 && raise(SIGTRAP) == 0 && raise(SIGSYS) == 0);

    pid = fork();
    CHECK(pid >= 0);
    options.socket_path = f->socket;
    if (pid == 0) { /* without the flag */
        CHECK(goalloc_attach(&options) == 0);
        CHECK(action_of(SIGABRT).sa_handler == SIG_DFL && action_of(SIGILL).sa_handler == theirs);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);

    CHECK(goalloc_detach() == 0);
    CHECK(action_of(SIGABRT).sa_handler == SIG_DFL && action_of(SIGQUIT).sa_handler == SIG_DFL);
    CHECK(action_of(SIGILL).sa_handler == theirs && action_of(SIGTRAP).sa_handler == SIG_IGN);
    CHECK(action_of(SIGSYS).sa_handler == theirs);

    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        (void)signal(signals[i], SIG_DFL);
    must_attach(f, 0);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        CHECK(action_of(signals[i]).sa_handler == SIG_DFL);
    return 0;
}

static void attach_with_the_flag_leaves_the_programs_handlers_alone(void **state)
{
    assert_int_equal(child_run(*state, keep_handlers, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* A program's handler that was installed after the attach, and calls the one it has found. */
static struct sigaction found;

static void calling(int sig, siginfo_t *info, void *context)
{
    told->fragments[1] = (char *)told;
    found.sa_sigaction(sig, info, context);
}

static int chain_and_die(const fixture *f, void *arg)
{
    struct sigaction action = { .sa_sigaction = calling, .sa_flags = SA_SIGINFO };

    CHECK(chdir(arg) == 0);
    told->fragments[1] = NULL;
    prepare(f);
    CHECK(sigaction(SIGABRT, &action, &found) == 0 && found.sa_flags & SA_SIGINFO);
    die(f);
    return 2;
}

static void handler_called_by_a_later_one_does_its_work(void **state)
{
    core c;

    if (run(*state, chain_and_die, GOALLOC_ATTACH_DUMP, WAY_ABORT, &c)) {
        assert_non_null(told->fragments[1]);
        assert_true(core_has_object(&c, told->live, 5000));
        core_drop(&c);
    }
    assert_true(fixture_is_clean(*state, 1));
}

static void daemon_keeps_the_heap_out_of_its_dumps(void **state)
{
    static const char *const names[] = { "arena", "spans", "bitmap", "private" };
    const fixture *f = *state;
    int ndumped;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        assert_non_null(find_mapping(f->daemon, names[i], &ndumped));
        assert_int_equal(ndumped, 0);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(daemon_keeps_the_heap_out_of_its_dumps),
        TEST(dump_without_the_flag_holds_nothing_of_the_heap),
        TEST(dump_with_the_flag_holds_what_is_in_use),
        TEST(dump_with_files_holds_the_tables_and_read_only_heaps),
        TEST(dump_of_a_forked_child_holds_what_is_in_use),
        TEST(dump_of_a_heap_in_many_pieces_holds_them_with_the_gaps),
        TEST(dump_of_a_heap_in_many_far_pieces_holds_the_first_without_gaps),
        TEST(attach_with_the_flag_leaves_the_programs_handlers_alone),
        TEST(handler_called_by_a_later_one_does_its_work),
    };

    told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (told == MAP_FAILED)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
