/*
 * What the collector makes of texts of /proc (client/collector: proc, maps, kernelheld, declaration, ranges). The
 * kernel writes them, but names in them are whatever a process has chosen: its own, those of its files and of its
 * memory. And the table of declarations is the process's own bytes altogether.
 *
 * An input is either a text as it is, for all parsers: they may find nothing, or nonsense, and that is all. Or it says
 * what the kernel tells of, and the text is made as the kernel makes it: then what is read must be what was written,
 * whatever the names are. Of mappings, what counts of a process is chosen then, with threads and declarations.
 */
#include <errno.h>
#include <unistd.h>

#include "client/collector/kernelheld.h"
#include "client/collector/ranges.h"
#include "tests/fuzz/fuzz.h"

#define LINES_MAX 64u
#define NAME_BYTES 64u
#define TEXT_BYTES (LINES_MAX * (4 * NAME_BYTES + 128))
#define THREADS_MAX 6u
#define BASE UINT64_C(0x00c000000000)
#define PAGE 4096u
#define TABLES_MAX 10u

#define NAME_OF_TABLE "/memfd:" DECLARED_NAME " (deleted)"

typedef struct line {
    maps_entry entry;
    char name[4 * NAME_BYTES]; /* as the kernel writes it */
} line;

static line lines[LINES_MAX];
static uint32_t nlines;
static char text[TEXT_BYTES];
static declared_table *tables; /* that entries of the maps may say are declarations; of memory of this process */
static uint32_t ntables;
static words_found found;
static ranges chosen;
static pages memory;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    tables = aligned_alloc(PAGE, TABLES_MAX * ((sizeof(*tables) + PAGE - 1) / PAGE * PAGE));
    FUZZ_CHECK(tables != NULL && pages_init(&memory) == 0 && words_init(&found, BASE, 1 << 30, false) == 0);
    memory.pid = getpid();
    return 0;
}

static declared_table *table_at(uint32_t i)
{
    return (declared_table *)(void *)((char *)tables + (size_t)i * ((sizeof(*tables) + PAGE - 1) / PAGE * PAGE));
}

/* --- any text --- */

static void look_at_hits(void)
{
    for (uint64_t i = 0; i < found.nhits; i++)
        FUZZ_CHECK(words_hit_offset(found.hits[i]) < found.arena_bytes);
    for (uint64_t i = 0; i < found.nranges; i++) {
        FUZZ_CHECK(found.ranges[i].first_hit + found.ranges[i].nhits <= found.nhits);
        for (const char *c = found.ranges[i].mapping; *c != '\0'; c++)
            FUZZ_CHECK((unsigned char)*c >= ' ' && *c != 127);
    }
    found.nhits = found.nranges = found.nwords = 0;
}

static void parse_as_all(fuzz_input *in)
{
    static const char *const fields[] = { "Tgid", "TracerPid", "Uid", "" };
    words_range what = { .pid = 1, .kind = WORDS_EPOLL, .mapping = "epoll\n" };
    size_t n = (size_t)(in->end - in->at);
    maps m = { .text = { .text = malloc(n + 1), .bytes = n, .room = n + 1 } };
    proc_facts facts;

    FUZZ_CHECK(m.text.text != NULL);
    memcpy(m.text.text, in->at, n);
    m.text.text[n] = '\0';
    (void)(proc_facts_in(m.text.text, &facts) < 0);
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        (void)proc_field(m.text.text, fields[i]);
    FUZZ_CHECK(proc_stack_limit_in(m.text.text) > 0);
    (void)proc_last_pid_in(m.text.text);
    (void)maps_text_has_file(m.text.text, (maps_file){ 1, 2 });
    kernelheld_look_at_fdinfo(&found, &what, m.text.text);
    kernelheld_look_at_timers(&found, &what, m.text.text);
    look_at_hits();
    if (maps_parse(&m) == 0) {
        for (uint32_t i = 0; i < m.n; i++)
            FUZZ_CHECK(m.entries[i].start < m.entries[i].end && strlen(m.entries[i].name) <= n);
        (void)maps_at(&m, 0x1000);
    }
    maps_free(&m);
}

/* --- names of processes --- */

static size_t any_name(fuzz_input *in, char *ret, size_t size)
{
    size_t n = fuzz_u8(in) % size;

    for (size_t i = 0; i < n; i++) {
        char c = (char)fuzz_u8(in);

        ret[i] = c == '\0' ? ')' : c; /* a name ends with a zero */
    }
    ret[n] = '\0';
    return n;
}

/* stat has a name as it is; in status newlines and backslashes are escaped. */
static void tell_of_a_thread(fuzz_input *in)
{
    char name[16], escaped[64] = "";
    size_t n = any_name(in, name, sizeof(name)), used = 0;
    uint64_t started = fuzz_number(in);
    uint32_t flags = (uint32_t)fuzz_number(in);
    int tracer = fuzz_u16(in);
    proc_facts facts;

    (void)snprintf(text, sizeof(text),
                   "77 (%s) S 1 2 3 0 -1 %u 5 6 7 8 9 10 11 12 20 0 1 0 %llu 123456 789 18446744073709551615 1 2\n",
                   name, flags, (unsigned long long)started);
    FUZZ_CHECK(proc_facts_in(text, &facts) == 0);
    FUZZ_CHECK(facts.state == 'S' && facts.flags == flags && facts.started == started);
    for (size_t i = 0; i < n; i++) {
        if (name[i] == '\n' || name[i] == '\\')
            escaped[used++] = '\\';
        escaped[used++] = name[i] == '\n' ? 'n' : name[i];
    }
    (void)snprintf(text, sizeof(text),
                   "Name:\t%s\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t77\nTracerPid:\t%d\nUid:\t5\t6\n", escaped,
                   tracer);
    FUZZ_CHECK(proc_field(text, "Tgid") == 77 && proc_field(text, "TracerPid") == tracer &&
               proc_field(text, "Uid") == 5);
}

/* --- mappings --- */

/* A file's name: the kernel writes newlines as \012. */
static void name_of_a_file(fuzz_input *in, char *ret)
{
    char name[NAME_BYTES];
    size_t n = any_name(in, name, sizeof(name) - 1), used = 1;

    ret[0] = '/';
    for (size_t i = 0; i < n; i++) {
        if (name[i] == '\n') {
            memcpy(ret + used, "\\012", 4);
            used += 4;
        } else {
            ret[used++] = name[i];
        }
    }
    ret[used] = '\0';
}

static const char *const known_names[] = {
    "",
    "[stack]",
    "[heap]",
    "[vdso]",
    "[anon:x y]",
    "/dev/zero (deleted)",
    "/dev/shm/x",
    "/dev/dri/card0",
    "/[aio] (deleted)",
    "anon_inode:[io_uring]",
    "anon_inode:[perf_event]",
    "/secretmem (deleted)",
    "/memfd:goalloc-own (deleted)",
    "/memfd:goalloc-sign (deleted)",
    "/memfd:goalloc-profile (deleted)",
    NAME_OF_TABLE,
};

static void add_line(fuzz_input *in)
{
    line *l = &lines[nlines];
    uint64_t behind = nlines > 0 ? lines[nlines - 1].entry.end : PAGE;
    uint8_t how = fuzz_u8(in), what = fuzz_u8(in);

    if (nlines == LINES_MAX)
        return;
    l->entry = (maps_entry){ .start = behind + (how & 1 ? fuzz_number(in) % (UINT64_C(1) << 40) / PAGE * PAGE : 0),
                             .offset = how & 2 ? fuzz_number(in) / PAGE * PAGE : 0,
                             .file = { how & 4 ? UINT64_C(5) << 32 | fuzz_u8(in) : 1,
                                       what < 200 ? what % 8 : fuzz_number(in) },
                             .readable = (how & 8) != 0,
                             .writable = (how & 16) != 0,
                             .shared = (how & 32) != 0,
                             .name = l->name };
    l->entry.end = l->entry.start + (1 + fuzz_number(in) % 4096) * PAGE;
    l->entry.accessible = l->entry.readable || l->entry.writable || (how & 64) != 0;
    if (how & 128)
        (void)snprintf(l->name, sizeof(l->name), "%s",
                       known_names[fuzz_u8(in) % (sizeof(known_names) / sizeof(known_names[0]))]);
    else
        name_of_a_file(in, l->name);
    nlines++;
}

/* A mapping of this process's own that says that it is a table; addresses go on behind it. */
static void add_table(fuzz_input *in)
{
    declared_table *table = table_at(ntables);
    line *l = &lines[nlines];
    uint64_t behind = nlines > 0 ? lines[nlines - 1].entry.end : PAGE;
    uint8_t how = fuzz_u8(in);

    if (nlines == LINES_MAX || ntables == TABLES_MAX || behind > (uint64_t)(uintptr_t)table)
        return;
    memset(table, 0, sizeof(*table));
    table->magic = how & 1 ? fuzz_number(in) : DECLARED_MAGIC;
    table->version = how & 2 ? (uint32_t)fuzz_number(in) : DECLARED_VERSION;
    table->nentries_max = how & 4 ? (uint32_t)fuzz_number(in) : DECLARED_ENTRIES_MAX;
    u32_store_relaxed(&table->flags,
                      fuzz_u8(in) % 4 == 3 ? DECLARED_OPAQUE : (uint32_t)fuzz_u8(in) & DECLARED_ONLY_ROOTS);
    u32_store_relaxed(&table->sequence, how & 8 ? (uint32_t)fuzz_number(in) : 0);
    u32_store_relaxed(&table->nasking, how & 16 ? (uint32_t)fuzz_number(in) : 0);
    for (uint32_t i = 0, n = fuzz_u8(in) % 16; i < n; i++) {
        uint32_t near = fuzz_u8(in);
        uint64_t start = near < nlines ? lines[near].entry.start + fuzz_number(in) % (2 * PAGE) : fuzz_number(in);

        u64_store_relaxed(&table->entries[i].start, start);
        u64_store_relaxed(&table->entries[i].bytes, fuzz_number(in));
        u64_store_relaxed(&table->entries[i].kind, fuzz_u8(in) % 5);
        u32_store_relaxed(&table->n, i + 1);
    }
    if (how & 32)
        u32_store_relaxed(&table->n, (uint32_t)fuzz_number(in));
    l->entry = (maps_entry){ .start = (uint64_t)(uintptr_t)table,
                             .file = { 1, 99 },
                             .readable = true,
                             .writable = true,
                             .accessible = true,
                             .name = l->name };
    l->entry.end = l->entry.start + (how & 64 ? PAGE : (sizeof(*table) + PAGE - 1) / PAGE * PAGE);
    (void)strcpy(l->name, NAME_OF_TABLE);
    ntables++;
    nlines++;
}

/* As the kernel does. */
static size_t write_maps(void)
{
    size_t used = 0;

    for (uint32_t i = 0; i < nlines; i++) {
        const maps_entry *e = &lines[i].entry;
        bool executable = e->accessible && !e->readable && !e->writable;
        int n = snprintf(text + used, sizeof(text) - used, "%08llx-%08llx %c%c%c%c %08llx %02llx:%02llx %llu ",
                         (unsigned long long)e->start, (unsigned long long)e->end, e->readable ? 'r' : '-',
                         e->writable ? 'w' : '-', executable ? 'x' : '-', e->shared ? 's' : 'p',
                         (unsigned long long)e->offset, (unsigned long long)(e->file.device >> 32),
                         (unsigned long long)(e->file.device & UINT32_MAX), (unsigned long long)e->file.inode);

        FUZZ_CHECK(n > 0);
        used += (size_t)n;
        for (; lines[i].name[0] != '\0' && n < 73; n++)
            text[used++] = ' ';
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s\n", lines[i].name);
        FUZZ_CHECK(used < sizeof(text));
    }
    return used;
}

static void parse_maps(size_t bytes)
{
    maps *m = &chosen.maps;

    free(m->text.text);
    m->text = (proc_text){ .text = malloc(bytes + 1), .bytes = bytes, .room = bytes + 1 };
    FUZZ_CHECK(m->text.text != NULL);
    memcpy(m->text.text, text, bytes);
    m->text.text[bytes] = '\0';
    for (uint32_t i = 0; i < nlines; i++)
        FUZZ_CHECK(maps_text_has_file(m->text.text, lines[i].entry.file));
    FUZZ_CHECK(maps_parse(m) == 0 && m->n == nlines);
    for (uint32_t i = 0; i < nlines; i++) {
        const maps_entry *is = &m->entries[i], *was = &lines[i].entry;
        const char *name = lines[i].name;

        while (*name == ' ') /* of a name that begins with spaces: only anonymous memory could */
            name++;
        FUZZ_CHECK(is->start == was->start && is->end == was->end && is->offset == was->offset);
        FUZZ_CHECK(maps_same_file(is->file, was->file) && is->shared == was->shared);
        FUZZ_CHECK(is->readable == was->readable && is->writable == was->writable && is->accessible == was->accessible);
        FUZZ_CHECK(strcmp(is->name, name) == 0);
        FUZZ_CHECK(maps_at(m, was->start) == is && maps_at(m, was->end - 1) == is);
    }
}

static bool is_in(const pages_region *regions, uint32_t n, uint64_t address)
{
    for (uint32_t i = 0; i < n; i++) {
        if (address >= regions[i].start && address < regions[i].end)
            return true;
    }
    return false;
}

/* What was chosen lies in private mappings, in order; nothing of what is skipped, but for declared roots. */
static void look_at_pieces(void)
{
    const declaration *d = &chosen.declared;
    uint64_t behind = 0;

    for (uint32_t i = 0; i < chosen.n; i++) {
        const ranges_piece *piece = &chosen.pieces[i];
        const maps_entry *entry = maps_at(&chosen.maps, piece->start);

        FUZZ_CHECK(piece->start < piece->end && piece->start >= behind);
        FUZZ_CHECK(entry != NULL && piece->end <= entry->end && !entry->shared);
        FUZZ_CHECK(piece->kind == WORDS_DECLARED
                       ? is_in(d->roots, d->nroots, piece->start)
                       : !is_in(d->skip, d->nskip, piece->start) && !is_in(d->skip, d->nskip, piece->end - 1));
        behind = piece->end;
    }
    for (uint32_t i = 1; i < d->nskip; i++)
        FUZZ_CHECK(d->skip[i - 1].end < d->skip[i].start && d->skip[i].start < d->skip[i].end);
    for (uint32_t i = 1; i < d->nroots; i++)
        FUZZ_CHECK(d->roots[i - 1].end < d->roots[i].start && d->roots[i].start < d->roots[i].end);
}

static void choose(fuzz_input *in)
{
    targets t = { .files = { { 1, 5 }, { 1, 6 }, { 1, 7 } }, .only_stop = true };
    world_trouble trouble = { 0 };
    shared none;
    int r;

    shared_init(&none);
    FUZZ_CHECK(targets_add_process(&t, 77, fuzz_u8(in) & 1 ? 3 : TARGET_NO_SESSION, 1) == 0);
    for (uint32_t i = 0, n = fuzz_u8(in) % THREADS_MAX; i < n; i++) {
        uint32_t near = fuzz_u8(in);
        uint64_t address = near < nlines ? lines[near].entry.start + fuzz_number(in) % (4 * PAGE) : fuzz_number(in);

        FUZZ_CHECK(targets_add_thread(&t, (pid_t)(77 + i), 0) == i);
        t.threads[i].state = fuzz_u8(in) % 4;
        t.threads[i].leads.stack = address;
        t.threads[i].leads.thread = fuzz_u8(in) & 1 ? address + fuzz_u16(in) : fuzz_number(in);
    }
    t.waiter = fuzz_u8(in) & 1 ? 77 : 0;
    memory.deadline_ns = UINT64_MAX;
    r = ranges_choose_in(&chosen, &memory, &none, &t, &t.processes[0], (fuzz_u8(in) & 1) != 0, &trouble);
    FUZZ_CHECK(r == 0 || r == -EOPNOTSUPP || r == -EAGAIN);
    for (const char *c = trouble.text; *c != '\0'; c++)
        FUZZ_CHECK(*c >= ' ' && *c <= '~');
    if (r == 0)
        look_at_pieces();
    shared_free(&none);
    targets_deinit(&t);
}

static void tell_of_mappings(fuzz_input *in)
{
    nlines = ntables = 0;
    for (uint32_t n = fuzz_u8(in) % (LINES_MAX + 1); n > 0 && fuzz_has_more(in); n--) {
        if (fuzz_u8(in) % 8 == 7)
            add_table(in);
        else
            add_line(in);
    }
    parse_maps(write_maps());
    choose(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, data + size };

    switch (fuzz_u8(&in) % 4) {
    case 0:
        parse_as_all(&in);
        break;
    case 1:
        tell_of_a_thread(&in);
        break;
    default:
        tell_of_mappings(&in);
        break;
    }
    return 0;
}
