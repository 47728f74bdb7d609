/*
 * Modules: which file this process's code at an address is of, with its build id and its path.
 *
 * Called by backtrace.c (what an address is) and recorder.c (its number in the profile). Calls the loader, peek.c for
 * what it says of modules, and the profile's tables. Data: what is known of modules, private to the process, and also
 * to its children.
 *
 * An address takes this way:
 *   1. the loader says what is mapped there now, without a lock (_dl_find_object);
 *   2. if that is known, by all that can be compared without a search, it is that module;
 *   3. else its build id and its code's extent are read from its headers, and an entry is made.
 * Entries are claimed by a counter, filled, and published by the slot of their beginning; they are never changed or
 * used again. So nobody locks anything, a child of a fork finds all whole whatever other threads were about to do, and
 * a module that was replaced at the same address is told apart: by its extent, the loader's entry, the name's address,
 * and its build id, of which 8 bytes are read where the old one's were. (That these are in the module's first page,
 * which is readable in every module, makes this safe.)
 *
 * A thread's stack leads through modules that are loaded. An address that a stack wrongly names may be in one that is
 * just being unloaded; of that one nothing is read but its first page, in the nanoseconds after the loader has said
 * that it is there.
 */
#include "client/lib/modules.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "client/lib/forklock.h"
#include "client/lib/peek.h"

#define SLOTS 2048u
#define SLOT_PROBES 16u
#define FIRST_PAGE 4096u
#define HEADERS_MAX 64u
#define NOTES_MAX 4096u /* bytes of notes that are looked through */
#define PATH_ROOM (sizeof(((profile_module *)0)->path))

/* What the loader says of an address. */
typedef struct extent {
    uintptr_t begin;
    uintptr_t end;
    uintptr_t base;
    const void *handle;
    const char *name;
} extent;

static module entries[MODULES_MAX];
static shm_u32 nentries;
static shm_u32 slots[SLOTS]; /* index of an entry + 1, by the hash of its beginning */

/* --- the loader --- */

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 35)
static bool find_extent(uintptr_t address, extent *ret)
{
    struct dl_find_object found;
    const struct link_map *map;

    if (_dl_find_object((void *)address, &found) != 0 || found.dlfo_link_map == NULL)
        return false;
    map = found.dlfo_link_map;
    *ret = (extent){
        .begin = (uintptr_t)found.dlfo_map_start,
        .end = (uintptr_t)found.dlfo_map_end,
        .base = map->l_addr,
        .handle = map,
        .name = map->l_name,
    };
    return true;
}
#else
typedef struct search {
    uintptr_t address;
    extent *ret;
} search;

static int is_it(struct dl_phdr_info *info, size_t bytes, void *arg)
{
    search *s = arg;
    uintptr_t begin = UINTPTR_MAX;
    uintptr_t end = 0;

    (void)bytes;
    for (uint32_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];

        if (header->p_type != PT_LOAD)
            continue;
        if (info->dlpi_addr + header->p_vaddr < begin)
            begin = info->dlpi_addr + header->p_vaddr;
        if (info->dlpi_addr + header->p_vaddr + header->p_memsz > end)
            end = info->dlpi_addr + header->p_vaddr + header->p_memsz;
    }
    if (s->address < begin || s->address >= end)
        return 0;
    *s->ret = (extent){ .begin = begin & ~(uintptr_t)(FIRST_PAGE - 1),
                        .end = end,
                        .base = info->dlpi_addr,
                        .handle = info->dlpi_phdr,
                        .name = info->dlpi_name };
    return 1;
}

static bool find_extent(uintptr_t address, extent *ret)
{
    return dl_iterate_phdr(is_it, &(search){ address, ret }) == 1;
}
#endif

/* --- what its headers say --- */

static bool is_program(const extent *e)
{
    return e->name == NULL || e->name[0] == '\0';
}

/* Where the program headers are: those of the program as the kernel says, others' behind the file's header. */
static bool find_headers(const extent *e, uintptr_t *ret, uint32_t *ret_n)
{
    ElfW(Ehdr) file;

    if (is_program(e) && getauxval(AT_PHENT) == sizeof(ElfW(Phdr))) {
        *ret = getauxval(AT_PHDR);
        *ret_n = (uint32_t)getauxval(AT_PHNUM);
    } else {
        if (!peek((const void *)e->begin, &file, sizeof(file)) || memcmp(file.e_ident, ELFMAG, SELFMAG) != 0 ||
            file.e_phentsize != sizeof(ElfW(Phdr)))
            return false;
        *ret = e->begin + file.e_phoff;
        *ret_n = file.e_phnum;
    }
    if (*ret_n > HEADERS_MAX)
        *ret_n = HEADERS_MAX;
    return true;
}

static size_t padded(size_t bytes)
{
    return (bytes + 3) & ~(size_t)3;
}

/* Among the notes of [at, end). */
static void read_build_id(module *m, uintptr_t at, uintptr_t end)
{
    ElfW(Nhdr) note;
    char name[4];

    while (at < end && end - at >= sizeof(note) && peek((const void *)at, &note, sizeof(note))) {
        uintptr_t content = at + sizeof(note) + padded(note.n_namesz);
        size_t bytes = note.n_descsz < PROFILE_BUILD_ID_MAX ? note.n_descsz : PROFILE_BUILD_ID_MAX;

        if (note.n_namesz > NOTES_MAX || note.n_descsz > NOTES_MAX)
            return;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof(name) &&
            peek((const void *)(at + sizeof(note)), name, sizeof(name)) && memcmp(name, "GNU", sizeof(name)) == 0 &&
            peek((const void *)content, m->build_id, bytes)) {
            m->build_id_bytes = (uint32_t)bytes;
            if (content % sizeof(uint32_t) == 0 && bytes >= sizeof(uint64_t) && content >= m->begin &&
                content + sizeof(uint64_t) <= m->begin + FIRST_PAGE)
                m->build_id_begin = (const uint64_t *)content;
            return;
        }
        at = content + padded(note.n_descsz);
    }
}

static void read_headers(module *m, const extent *e)
{
    uintptr_t at;
    uint32_t n;

    if (!find_headers(e, &at, &n))
        return;
    for (uint32_t i = 0; i < n; i++) {
        ElfW(Phdr) header;
        uintptr_t begin;

        if (!peek((const void *)(at + i * sizeof(header)), &header, sizeof(header)))
            return;
        begin = m->base + header.p_vaddr;
        if (header.p_type == PT_LOAD && (header.p_flags & PF_X) != 0) {
            if (m->code_end == 0)
                m->code_begin = begin;
            m->code_end = begin + header.p_memsz;
        } else if (header.p_type == PT_NOTE && m->build_id_bytes == 0) {
            read_build_id(m, begin, begin + (header.p_filesz < NOTES_MAX ? header.p_filesz : NOTES_MAX));
        }
    }
}

/* --- what is known --- */

static uint64_t load_first(const uint8_t *bytes)
{
    uint64_t first;

    memcpy(&first, bytes, sizeof(first));
    return first;
}

static bool is_same(const module *m, const extent *e)
{
    return m->end == e->end && m->base == e->base && m->handle == e->handle && m->name == e->name &&
           (m->build_id_begin == NULL || load_first((const uint8_t *)m->build_id_begin) == load_first(m->build_id));
}

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text);

    return len >= strlen(end) && strcmp(text + len - strlen(end), end) == 0;
}

/* NULL: there are too many. */
static module *make_entry(const extent *e)
{
    uint32_t index = u32_load_relaxed(&nentries);
    module *m;

    do {
        if (index >= MODULES_MAX)
            return NULL;
    } while (!u32_exchange_if_acq_rel(&nentries, &index, index + 1));
    m = &entries[index];
    m->begin = e->begin;
    m->end = e->end;
    m->base = e->base;
    m->handle = e->handle;
    m->name = e->name;
    m->index = index;
    m->is_libc = !is_program(e) && ends_with(e->name, "/libc.so.6");
    read_headers(m, e);
    return m;
}

const module *modules_find(uintptr_t address)
{
    extent e;
    uint32_t start;
    shm_u32 *place = NULL;
    module *m;

    if (!find_extent(address, &e))
        return NULL;
    start = (uint32_t)(((uint64_t)e.begin * UINT64_C(0x9e3779b97f4a7c15)) >> 40);
    for (uint32_t i = 0; i < SLOT_PROBES; i++) {
        shm_u32 *slot = &slots[(start + i) % SLOTS];
        uint32_t number = u32_load_acquire(slot);

        if (number != 0 && entries[number - 1].begin == e.begin && is_same(&entries[number - 1], &e))
            return &entries[number - 1];
        if (place == NULL && (number == 0 || entries[number - 1].begin == e.begin))
            place = slot; /* free, or of one that was there before */
        if (number == 0)
            break;
    }
    if (place == NULL || (m = make_entry(&e)) == NULL)
        return NULL;
    u32_store_release(place, m->index + 1); /* if another thread has just done the same, one entry is lost */
    return m;
}

/* --- its number --- */

/* The file that is mapped at begin, as the kernel says. */
static bool find_mapped_path(uintptr_t begin, char ret[PATH_ROOM])
{
    char line[PATH_ROOM + 128];
    bool found = false;
    size_t n = 0;
    char c[1024];
    ssize_t got;
    int fd;

    forklock_take(); /* no child gets the descriptor */
    fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && !found && (got = read(fd, c, sizeof(c))) > 0) {
        for (ssize_t i = 0; i < got && !found; i++) {
            if (c[i] != '\n') {
                line[n] = c[i];
                n += n < sizeof(line) - 1;
                continue;
            }
            line[n] = '\0';
            n = 0;
            const char *path = strchr(line, '/');

            found = path != NULL && strtoull(line, NULL, 16) == begin;
            if (found)
                (void)snprintf(ret, PATH_ROOM, "%s", path);
        }
    }
    if (fd >= 0)
        (void)close(fd);
    forklock_give();
    return found;
}

/* An absolute path where that can be had. */
static void find_path(const module *m, char ret[PATH_ROOM])
{
    const char *name = m->name == NULL ? "" : m->name;
    ssize_t n;

    if (strncmp(name, "linux-vdso", strlen("linux-vdso")) == 0) {
        (void)snprintf(ret, PATH_ROOM, "[vdso]");
    } else if (name[0] == '\0') {
        n = readlink("/proc/self/exe", ret, PATH_ROOM - 1);
        ret[n > 0 ? n : 0] = '\0';
        if (n <= 0)
            (void)snprintf(ret, PATH_ROOM, "%s", program_invocation_name);
    } else if (name[0] == '/' || !find_mapped_path(m->begin, ret)) {
        /* Of a long one the end. */
        size_t len = strlen(name);

        (void)snprintf(ret, PATH_ROOM, "%s", name + (len >= PATH_ROOM ? len - PATH_ROOM + 1 : 0));
    }
}

uint32_t modules_number(const module *m, profile_region *region, uint32_t region_no)
{
    shm_u64 *number = &entries[m->index].number;
    uint64_t known = u64_load_relaxed(number);
    char path[PATH_ROOM];

    if (known >> 32 != region_no) {
        find_path(m, path);
        known = (uint64_t)region_no << 32 | profile_add_module(region, m->build_id, m->build_id_bytes, path);
        u64_store_relaxed(number, known);
    }
    return (uint32_t)known;
}
