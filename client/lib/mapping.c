/*
 * mapping: puts the heap into this process's address space, so that mapping it costs no memory.
 *
 * Called by attach.c, for the heap under the forklock, and by who needs private memory (meta.c, mcache.c). Data:
 * process.map, .mspan_of, .generation, and what is the session's own (.own_id to .family, .offers), which are written
 * here alone. Where the region of profiles is, recorder.c knows.
 *
 *   what      where                    size                      access              in children
 *   arena     the daemon's address     the reserve, 64 GiB       read, write (1)     yes
 *   spans     anywhere                 about 1% of it            read                yes
 *   bitmap    anywhere                 about 6% of it            read, write (1)     yes
 *   offers    anywhere                 0.1% of it                read, write (2)     no: MADV_DONTFORK
 *   sign      anywhere                 a page                    read                no: MADV_DONTFORK
 *   family    anywhere                 a page, with a group      read                yes
 *   profile   anywhere                 10 MiB, if it samples     read, write         yes
 *   mspan_of  anywhere, private        0.1% of it                read, write         yes, zero: MADV_WIPEONFORK
 *   declared  anywhere, private        96 KiB                    read, write         yes, a copy (shm/declared.h)
 *                                                              (1) read, (2) not there in a read-only session
 *
 * All but the single pages are sparse: nearly none of their pages has memory. Two things that the rest of the program
 * may do would give memory to all of them, for shared ones without the daemon's knowledge or consent:
 *
 *   A core dump reads every page of a shared mapping whose file has no name, and reading a hole of a memfd gives it
 *   memory: 64 GiB for one abort(). So all mappings are MADV_DONTDUMP; coredump.c lifts that for what is in use, if the
 *   program asks for it. Private holes get no memory, but the kernel looks at each, and a pipe gets its zeros.
 *
 *   mlockall(MCL_FUTURE) locks each new mapping, and what is locked gets all its memory at once. It can't be told
 *   beforehand to leave one out: mmap() knows no such flag, and gives memory before it returns.
 *
 * So a mapping is made in four steps (mapping_new):
 *   1. mmap() its first page alone. This one page may get memory, and is all that RLIMIT_MEMLOCK must allow. If it does
 *      not allow that, the answer is EAGAIN, whatever the protection.
 *   2. munlock() it. From here on it is a mapping like any other.
 *   3. MADV_DONTDUMP, so that no core dump ever sees it large.
 *   4. mremap() it to its size: an extended mapping has the flags of its first page. One at a given address grows in
 *      place, where mremap() answers ENOMEM if the addresses are taken, if there is no room (RLIMIT_AS), and always
 *      under valgrind. An attempt to reserve the rest with MAP_FIXED_NOREPLACE tells these cases apart: EEXIST means
 *      that the addresses are taken, ENOMEM that there is no room. If it succeeds, a first page that was made elsewhere
 *      is moved over the reserved addresses.
 * So the heap is never locked: mlockall() promises nothing for its objects. One limit remains: mlockall(MCL_CURRENT)
 * in a process that is attached locks all that is mapped, and gives it memory, unless MCL_ONFAULT is set too.
 *
 * A forked child may want another access (a read-only session, or the reverse): the new mapping's first page is made
 * elsewhere, in the same steps, and one mremap() moves it over the old mapping and extends it. Other threads never find
 * the addresses empty. Below a tight RLIMIT_AS the kernel may refuse it (ENOMEM, and nothing changes): it counts the
 * old and the new mapping at once.
 *
 * What is private, and the profile, is declared as memory to skip: to a collector that looks for pointers, addresses
 * there mean nothing. It is declared once it is mapped, and not any more before it is unmapped, since the next mapping
 * at that address may be the program's. So what a child of a fork does not have is never declared.
 *
 * If the process dies between two steps, nothing is left: mappings are its own.
 */
#include "client/lib/mapping.h"

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/lib/declared.h"
#include "client/lib/forklock.h"
#include "client/lib/process.h"
#include "shm/offers.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u
#endif

#define SIGN_BYTES 4096u

static int access_of(bool readonly)
{
    return readonly ? PROT_READ : PROT_READ | PROT_WRITE;
}

static uint64_t table_bytes(uint64_t arena_bytes)
{
    return arena_bytes / PAGE_BYTES * sizeof(*process.mspan_of);
}

static void unmap(void *p, uint64_t bytes)
{
    if (p != NULL)
        (void)munmap(p, bytes);
}

/* Bytes of the first page of a mapping of bytes. */
static uint64_t seed_bytes(uint64_t bytes)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

    return bytes < page ? bytes : page;
}

/* Steps 1 to 3 for a mapping with these flags. */
static int seed_new_as(void *at, uint64_t bytes, int prot, int flags, int fd, void **ret)
{
    void *p = mmap(at, seed_bytes(bytes), prot, flags | MAP_NORESERVE | (at != NULL ? MAP_FIXED_NOREPLACE : 0), fd, 0);

    if (p == MAP_FAILED)
        return errno == EAGAIN || errno == EEXIST || errno == ENOMEM ? -errno : -EPROTO;
    if (at != NULL && p != at) { /* a kernel before 4.17 takes the address for a hint */
        unmap(p, seed_bytes(bytes));
        return -EEXIST;
    }
    (void)munlock(p, seed_bytes(bytes)); /* if it fails and the page is locked, step 4 says so */
    if (madvise(p, seed_bytes(bytes), MADV_DONTDUMP) < 0) {
        unmap(p, seed_bytes(bytes));
        return -ENOMEM;
    }
    *ret = p;
    return 0;
}

/* Steps 1 to 3: the first page of a mapping. fd < 0: private memory; at NULL: anywhere. */
static int seed_new(void *at, uint64_t bytes, int prot, int fd, void **ret)
{
    return seed_new_as(at, bytes, prot, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, ret);
}

/* Reserve [at, at + bytes) for a mapping to come. -EEXIST: something else is mapped there; -ENOMEM: no room. */
static int reserve(void *at, uint64_t bytes)
{
    void *p = mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

    if (p == at)
        return 0; /* what can't be accessed gets no memory, even if it is locked */
    if (p == MAP_FAILED)
        return errno == EEXIST ? -EEXIST : -ENOMEM;
    unmap(p, bytes);
    return -EEXIST;
}

/* Move a first page over the mapping of bytes at that address, and extend it: *seed is NULL then. */
static int seed_replace(void **seed, void *at, uint64_t bytes)
{
    if (mremap(*seed, seed_bytes(bytes), bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) != at)
        return -ENOMEM;
    *seed = NULL;
    return 0;
}

/*
 * Step 4 at a given address, where the first page is. If it does not grow in place, reserve what lies behind it, and
 * put another first page over both.
 */
static int grow_at(void *at, uint64_t bytes, int prot, int fd)
{
    uint64_t seed = seed_bytes(bytes);
    void *second = NULL;
    int r;

    if (mremap(at, seed, bytes, 0) == at)
        return 0;
    if (errno == EAGAIN)
        return -EAGAIN;
    r = reserve((char *)at + seed, bytes - seed);
    if (r < 0)
        return r;
    r = seed_new(NULL, bytes, prot, fd, &second);
    if (r == 0)
        r = seed_replace(&second, at, bytes);
    unmap(second, seed);
    if (r < 0)
        unmap((char *)at + seed, bytes - seed);
    return r;
}

/* Step 4 for a mapping that may lie anywhere. */
static int grow_anywhere(void **at, uint64_t bytes)
{
    void *p = mremap(*at, seed_bytes(bytes), bytes, MREMAP_MAYMOVE);

    if (p == MAP_FAILED)
        return errno == EAGAIN ? -EAGAIN : -ENOMEM;
    *at = p;
    return 0;
}

/* Make a mapping of bytes of fd (fd < 0: private memory) at that address (NULL: anywhere). */
static int mapping_new(void *at, uint64_t bytes, int prot, int fd, void **ret)
{
    void *p;
    int r = seed_new(at, bytes, prot, fd, &p);

    if (r < 0)
        return r;
    if (bytes > seed_bytes(bytes))
        r = at != NULL ? grow_at(at, bytes, prot, fd) : grow_anywhere(&p, bytes);
    if (r < 0)
        unmap(p, seed_bytes(bytes));
    else
        *ret = p;
    return r;
}

/* The same anywhere, with that advice on what children see of it, all but the first plain_bytes. */
static int mapping_new_advised(uint64_t bytes, int prot, int fd, int advice, uint64_t plain_bytes, void **ret)
{
    void *p;
    int r = mapping_new(NULL, bytes, prot, fd, &p);

    if (r < 0)
        return r;
    if (madvise((char *)p + plain_bytes, bytes - plain_bytes, advice) < 0) {
        unmap(p, bytes);
        return -ENOMEM;
    }
    *ret = p;
    return 0;
}

int mapping_private(uint64_t bytes, uint64_t unwiped_bytes, void **ret)
{
    int r = mapping_new_advised(bytes, PROT_READ | PROT_WRITE, -1, MADV_WIPEONFORK, unwiped_bytes, ret);

    if (r == 0)
        declared_skip(*ret, bytes);
    return r;
}

void mapping_delete(void *p, uint64_t bytes)
{
    if (p == NULL)
        return;
    declared_unskip(p);
    unmap(p, bytes);
}

/* --- the table of what is declared --- */

static int declared_memfd(void)
{
    int fd = memfd_create(DECLARED_NAME, MFD_CLOEXEC | MFD_NOEXEC_SEAL);

    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create(DECLARED_NAME, MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, sizeof(declared_table)) < 0) {
        int r = -errno;

        (void)close(fd);
        return r;
    }
    return fd;
}

/* What the linker calls __ehdr_start: the beginning of the file that this library is linked into. */
extern const char file_begins[] __asm__("__ehdr_start") __attribute__((visibility("hidden")));

/* The segments of code of that file, without the loader's lock. */
static void declare_text(void)
{
    const ElfW(Ehdr) *file = (const void *)file_begins;
    const ElfW(Phdr) *headers = (const void *)(file_begins + file->e_phoff);
    uintptr_t base = 0;

    for (unsigned i = 0; i < file->e_phnum; i++) {
        if (headers[i].p_type == PT_LOAD && headers[i].p_offset == 0)
            base = (uintptr_t)file_begins - headers[i].p_vaddr;
    }
    for (unsigned i = 0; i < file->e_phnum; i++) {
        if (headers[i].p_type == PT_LOAD && (headers[i].p_flags & PF_X))
            declared_text((const void *)(base + headers[i].p_vaddr), headers[i].p_memsz);
    }
}

/* Under the forklock: a child has the mapping with the word that says where it is, or neither. */
static int declare(void)
{
    const int access = PROT_READ | PROT_WRITE;
    void *p = NULL;
    int fd;
    int r;

    if (declared_has_begun())
        return 0;
    fd = declared_memfd();
    if (fd < 0)
        return fd;
    r = seed_new_as(NULL, sizeof(declared_table), access, MAP_PRIVATE, fd, &p);
    if (r == 0 && (r = grow_anywhere(&p, sizeof(declared_table))) < 0)
        unmap(p, seed_bytes(sizeof(declared_table)));
    (void)close(fd);
    if (r < 0)
        return r;
    declared_begin(p);
    declare_text();
    return 0;
}

int mapping_declare(void)
{
    int r;

    forklock_take();
    r = declare();
    forklock_give();
    return r;
}

static bool fd_has_bytes(int fd, uint64_t bytes)
{
    struct stat st;

    return fstat(fd, &st) == 0 && (uint64_t)st.st_size == bytes;
}

/* --- what is the session's own --- */

/* Put a page of fd where *page is, or anywhere. On failure nothing has changed. */
static int map_page(int fd, bool for_children, void **page)
{
    void *p;
    int r;

    if (for_children)
        r = mapping_new(NULL, SIGN_BYTES, PROT_READ, fd, &p);
    else
        r = mapping_new_advised(SIGN_BYTES, PROT_READ, fd, MADV_DONTFORK, 0, &p);
    if (r == 0) {
        unmap(*page, SIGN_BYTES);
        *page = p;
    }
    return r;
}

/* In a session that may write: the offers, where there are none yet. */
static int map_new_offers(int fd, uint64_t arena_bytes)
{
    uint64_t bytes = shm_offers_bytes(arena_bytes / PAGE_BYTES);
    void *offers;
    int r = fd_has_bytes(fd, bytes) ? 0 : -EPROTO;

    if (r == 0)
        r = mapping_new_advised(bytes, PROT_READ | PROT_WRITE, fd, MADV_DONTFORK, 0, &offers);
    if (r == 0)
        atomic_store_explicit(&process.offers, offers, memory_order_release);
    return r;
}

/* Put fd where another memfd of that length is mapped, at one stroke for all threads. */
static int replace_memfd(int fd, void *old, uint64_t bytes, int advice)
{
    void *seed = NULL;
    int r = seed_new(NULL, bytes, PROT_READ | PROT_WRITE, fd, &seed);

    if (r == 0 && madvise(seed, seed_bytes(bytes), advice) < 0)
        r = -ENOMEM;
    if (r == 0)
        r = seed_replace(&seed, old, bytes);
    unmap(seed, seed_bytes(bytes));
    return r;
}

/* The same where others are. */
static int replace_offers(int fd, void *old)
{
    uint64_t bytes = shm_offers_bytes(process.map.npages);

    return fd_has_bytes(fd, bytes) ? replace_memfd(fd, old, bytes, MADV_DONTFORK) : -EPROTO;
}

/* In a session that may write. The id is noted when all is mapped. */
static int map_offers(int fd, uint64_t arena_bytes)
{
    void *old = atomic_load_explicit(&process.offers, memory_order_relaxed);
    int r = old != NULL ? replace_offers(fd, old) : map_new_offers(fd, arena_bytes);

    if (r == 0)
        process.own_id = atomic_load_explicit(&process.offers, memory_order_relaxed)->id;
    return r;
}

int mapping_replace_offers(int own_fd)
{
    return map_offers(own_fd, process.map.arena_bytes);
}

int mapping_profile(int fd, profile_region **region)
{
    void *p = *region;
    int r;

    if (!fd_has_bytes(fd, sizeof(**region)))
        return -EPROTO;
    if (p != NULL)
        return replace_memfd(fd, p, sizeof(**region), MADV_DOFORK);
    r = mapping_new(NULL, sizeof(**region), PROT_READ | PROT_WRITE, fd, &p);
    if (r == 0) {
        *region = p;
        declared_skip(p, sizeof(**region));
    }
    return r;
}

void mapping_leave_group(void)
{
    unmap(process.family, SIGN_BYTES);
    process.family = NULL;
}

static void unmap_own(uint64_t arena_bytes)
{
    unmap(process.sign, SIGN_BYTES);
    unmap(atomic_load_explicit(&process.offers, memory_order_relaxed),
                   shm_offers_bytes(arena_bytes / PAGE_BYTES));
    process.sign = NULL;
    process.own_id = 0;
    atomic_store_explicit(&process.offers, NULL, memory_order_relaxed);
}

/*
 * What is between this process and the daemon, so that children, who have sessions of their own, don't get it: the
 * page by which the daemon sees whether the heap is mapped, and what this process offers. The page by which it sees
 * that this process is of a group comes last, since a child stays of its parent's group if it can't attach.
 */
static int map_own(const attach_result *a)
{
    int r = map_page(a->sign_fd, false, &process.sign);

    if (r == 0 && a->own_fd >= 0)
        r = map_offers(a->own_fd, a->arena_bytes);
    if (r == 0 && a->group_fd >= 0)
        r = map_page(a->group_fd, true, &process.family);
    if (r < 0)
        unmap_own(a->arena_bytes);
    return r;
}

/* Map spans, and check that its header is that of the heap which the daemon has announced. */
static int map_spans(const attach_result *a, bool readonly, void **ret)
{
    const shm_header *header;
    void *spans;
    int r = mapping_new(NULL, a->spans_bytes, PROT_READ, a->spans_fd, &spans);

    if (r < 0)
        return r;
    header = spans;
    r = shm_header_check(header, readonly ? VERSION_READS : VERSION_WRITES, a->spans_bytes, a->bitmap_bytes);
    if (r == 0 &&
        (header->base != a->base || header->arena_bytes != a->arena_bytes || header->generation != a->generation))
        r = -EPROTO;
    if (r < 0)
        unmap(spans, a->spans_bytes);
    else
        *ret = spans;
    return r;
}

int mapping_attach(const attach_result *a, bool readonly)
{
    void *spans = NULL;
    void *bitmap = NULL;
    void *table = NULL;
    void *arena = NULL;
    int r;

    if (a->spans_bytes < sizeof(shm_header) || !fd_has_bytes(a->arena_fd, a->arena_bytes) ||
        !fd_has_bytes(a->spans_fd, a->spans_bytes) || !fd_has_bytes(a->bitmap_fd, a->bitmap_bytes))
        return -EPROTO;
    r = map_spans(a, readonly, &spans);
    if (r == 0)
        r = mapping_new(NULL, a->bitmap_bytes, access_of(readonly), a->bitmap_fd, &bitmap);
    if (r == 0)
        r = mapping_private(table_bytes(a->arena_bytes), 0, &table);
    if (r == 0)
        r = mapping_new((void *)(uintptr_t)a->base, a->arena_bytes, access_of(readonly), a->arena_fd, &arena);
    if (r == 0)
        r = map_own(a);
    if (r < 0)
        goto fail;
    shm_map_init(&process.map, spans, bitmap, arena);
    process.mspan_of = table;
    process.generation = a->generation;
    return 0;

fail:
    unmap(arena, a->arena_bytes);
    mapping_delete(table, table_bytes(a->arena_bytes));
    unmap(bitmap, a->bitmap_bytes);
    unmap(spans, a->spans_bytes);
    return r;
}

/* Map arena and bitmap anew where they are. All steps that need descriptors or room come before the first change. */
static int change_access(const attach_result *a, bool readonly)
{
    void *arena = NULL;
    void *bitmap = NULL;
    int r = seed_new(NULL, a->arena_bytes, access_of(readonly), a->arena_fd, &arena);

    if (r == 0)
        r = seed_new(NULL, a->bitmap_bytes, access_of(readonly), a->bitmap_fd, &bitmap);
    if (r == 0)
        r = seed_replace(&arena, process.map.arena, a->arena_bytes);
    if (r == 0 && (r = seed_replace(&bitmap, process.map.bitmap, a->bitmap_bytes)) < 0)
        (void)mprotect(process.map.arena, a->arena_bytes, access_of(process.readonly));
    unmap(arena, seed_bytes(a->arena_bytes));
    unmap(bitmap, seed_bytes(a->bitmap_bytes));
    return r;
}

int mapping_reattach(const attach_result *a, bool readonly)
{
    int r;

    if (a->generation != process.generation || a->base != process.map.base ||
        a->arena_bytes != process.map.arena_bytes || a->bitmap_bytes != process.map.bitmap_bytes) {
        process_note_stale();
        return -ESTALE;
    }
    r = map_own(a);
    if (r < 0 || readonly == process.readonly)
        return r;
    r = change_access(a, readonly);
    if (r < 0)
        unmap_own(a->arena_bytes);
    return r;
}

void mapping_detach(void)
{
    mapping_leave_group();
    process_note_stale();
    mapping_delete(process.mspan_of, table_bytes(process.map.arena_bytes));
    unmap(process.map.arena, process.map.arena_bytes);
    unmap(process.map.bitmap, process.map.bitmap_bytes);
    unmap(process.map.header, process.map.spans_bytes);
    unmap_own(process.map.arena_bytes);
    process.mspan_of = NULL;
    process.map = (shm_map){ .base = 0 };
}
