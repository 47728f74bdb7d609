/*
 * Options: the table of all that an administrator can say, and the values of its rows.
 *
 * Called by commandline.c (argp's options are made of the table), config.c (keys of files) and serve/reload.c (what has
 * changed). Data: an options, owned by who has made it. A row is the only place that knows an option: its name is that
 * of the long option and of the key, its text is what --help, --print-config and the sample file say, its kind says how
 * a value is read, and `reloads` whether a running daemon takes another one. The limits' rows come from limits.c.
 *
 * A value is read into the field of the row, and kept as text in its shortest form ("1024M" is "1G"), which is compared
 * by a reload, shown by goallocctl, and written by --print-config. Defaults are texts, too, read as any other.
 *
 * Where programs' addresses end is asked of the kernel, by a page that is mapped there for an instant.
 *
 * Two kinds of options have no key: those that are about the files themselves, and those that are an order for one
 * start (--cold-start in a file would drop the heap at each start) or for who is at the terminal (--no-seccomp).
 */
#include "daemon/options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "shm/layout.h"

#define ADDRESS_BITS_MAX 47u /* an arena ends below that, also where programs have more */
#define ADDRESS_BITS_MIN 36u /* no 64-bit kernel gives programs fewer */

enum kind { KIND_PATH, KIND_SIZE, KIND_RESERVE, KIND_ADDRESS, KIND_WORD, KIND_SWITCH, KIND_USERS, KIND_GROUPS,
            KIND_CONTROL, KIND_LIMIT, KIND_TIME, KINDS };

#define FIELD(member) .at = offsetof(options, member), .bytes = sizeof(((options *)NULL)->member)

static const char *const no_or_yes[] = { "no", "yes", NULL };
static const char *const lazy_or_eager[] = { "lazy", "eager", NULL };
static const char *const never_or_auto[] = { "never", "auto", NULL };
static const char *const refuse_or_ok[] = { "refuse", "ok", NULL };
static const char *const stops[] = { "auto", "keep", "drop", NULL };
static const char *const levels[] = { "error", "warn", "info", "debug", NULL };

static const option_row own_rows[] = {
    { .name = "config", .arg = "FILE", .section = SECTION_NONE, .act = ACT_CONFIG,
      .help = "Read this file, then FILE.d/*.conf, the last one wins, and the command line wins over all. By default "
              "/etc/goallocd/goallocd.conf (below the prefix if that is not /usr), if there is one; '': none" },
    { .name = "check-config", .section = SECTION_NONE, .act = ACT_CHECK_CONFIG,
      .help = "Say what is wrong with files and command line, all of it, and end: with status 2 if there is anything" },
    { .name = "print-config", .arg = "sample", .section = SECTION_NONE, .act = ACT_PRINT_CONFIG,
      .help = "Print all values, as a file that can be saved, and where each comes from, and end; =sample: the file "
              "that is installed, with all defaults" },
    { .name = "socket", .arg = "PATH", .key = 's', .section = SECTION_GOALLOCD, .kind = KIND_PATH,
      .preset = SHM_SOCKET_PATH, FIELD(socket_path), .help = "Serve on this Unix socket" },
    { .name = "state-dir", .arg = "DIR", .key = 'd', .section = SECTION_GOALLOCD, .kind = KIND_PATH, FIELD(state_dir),
      .help = "Start a keeper, a small process that holds the heap, and reach it through DIR: if this goallocd dies, "
              "the next one takes the heap over. Not needed under systemd, which holds the heap itself" },
    { .name = "on-stop", .arg = "auto|keep|drop", .section = SECTION_GOALLOCD, .kind = KIND_WORD, .preset = "auto",
      .words = stops, .reloads = true, FIELD(on_stop),
      .help = "What SIGTERM and SIGINT do with the heap: leave it to the next goallocd (keep; what auto does with "
              "--state-dir and under systemd), or drop it (drop; what auto does without both)" },
    { .name = "image", .arg = "FILE", .section = SECTION_GOALLOCD, .kind = KIND_PATH, FIELD(image_path),
      .help = "When the heap ends with a stop, save it into this file, once nobody can write it; and when there is "
              "no heap to take over, load it from there. Without such a file the heap is a new one" },
    { .name = "image-wait", .arg = "TIME", .section = SECTION_GOALLOCD, .kind = KIND_TIME, .preset = "10s",
      .reloads = true, FIELD(image_wait_us),
      .help = "How long a stop waits for those to end who can write, so that the image can be saved; else the one that "
              "is there stays" },
    { .name = "image-stale", .arg = "refuse|ok", .section = SECTION_GOALLOCD, .kind = KIND_SWITCH,
      .preset = "refuse", .words = refuse_or_ok, FIELD(image_stale),
      .help = "What to do with an --image that is older than a heap which was lost since, by a power cut: refuse to "
              "start, or load it (ok)" },
    { .name = "load", .arg = "FILE", .section = SECTION_NONE, .act = ACT_LOAD,
      .help = "If there is no heap to take over, load it from this image, which stays as it is, and which may be older "
              "than a heap that was lost" },
    { .name = "cold-start", .section = SECTION_NONE, .act = ACT_COLD_START,
      .help = "Drop the heap that another goallocd has left, if there is one, load no image, and make a new one" },
    { .name = "check-takeover", .section = SECTION_NONE, .act = ACT_CHECK_TAKEOVER,
      .help = "Do not serve. Look whether this goallocd would take over the heap that is served at --socket, or held "
              "in --state-dir, change nothing, and say so: exit status 0 if it would, or if there is none; 3 if not; 1 "
              "if that can't be found out" },
    { .name = "reserve", .arg = "SIZE", .key = 'r', .section = SECTION_MEMORY, .kind = KIND_RESERVE, .preset = "64G",
      FIELD(reserve_bytes),
      .help = "Address space of the arena, a multiple of 64M up to 16T. It takes no memory until it is used" },
    { .name = "base", .arg = "ADDR", .key = 'b', .section = SECTION_MEMORY, .kind = KIND_ADDRESS,
      .preset = "0xc000000000", FIELD(base), .help = "Address of the arena in every process, in hex" },
    { .name = "memory-limit", .arg = "SIZE", .key = 'm', .section = SECTION_MEMORY, .kind = KIND_SIZE, .preset = "0",
      .reloads = true, FIELD(memory_limit_bytes),
      .help = "Memory that the heap tries to stay below by giving free pages back; 0: no limit. Soft: live objects are "
              "never refused because of it" },
    { .name = "max-memory", .arg = "SIZE", .section = SECTION_MEMORY, .kind = KIND_SIZE, .preset = "0",
      .reloads = true, FIELD(max_memory_bytes),
      .help = "Memory that the heap never has more than, what describes it included; 0: no limit. Hard: who would pass "
              "it gets ENOMEM" },
    { .name = "commit", .arg = "eager|lazy", .key = 'c', .section = SECTION_MEMORY, .kind = KIND_SWITCH,
      .preset = "eager", .words = lazy_or_eager, FIELD(eager_commit),
      .help = "When pages get memory: eager before a process gets them, so that a lack of it is ENOMEM; lazy at first "
              "touch" },
    { .name = "huge-pages", .arg = "auto|never", .section = SECTION_MEMORY, .kind = KIND_SWITCH, .preset = "auto",
      .words = never_or_auto, .reloads = true, FIELD(huge_pages),
      .help = "Whole blocks of 2 MiB get huge pages: where the kernel has them (auto), or never" },
    { .name = "allow-uid", .arg = "USER,...", .section = SECTION_ACCESS, .kind = KIND_USERS, .reloads = true,
      .adds = true, FIELD(access.uids),
      .help = "Who may attach: users, by name or number. When one of these four lists is given, who is in none may "
              "not, but for root and the user of goallocd. By default, whoever may connect to the socket" },
    { .name = "allow-gid", .arg = "GROUP,...", .section = SECTION_ACCESS, .kind = KIND_GROUPS, .reloads = true,
      .adds = true, FIELD(access.gids), .help = "The same for groups, the process's first or any other" },
    { .name = "allow-read-uid", .arg = "USER,...", .section = SECTION_ACCESS, .kind = KIND_USERS, .reloads = true,
      .adds = true, FIELD(access.read_uids), .help = "Users who may attach read-only" },
    { .name = "allow-read-gid", .arg = "GROUP,...", .section = SECTION_ACCESS, .kind = KIND_GROUPS, .reloads = true,
      .adds = true, FIELD(access.read_gids), .help = "Groups that may attach read-only" },
    { .name = "control-group", .arg = "GROUP", .section = SECTION_ACCESS, .kind = KIND_CONTROL, .reloads = true,
      .preset = ACCESS_CONTROL_GROUP, FIELD(access.control),
      .help = "Who may control goallocd (goallocctl check, trim, scavenge, reclaim, drop, disconnect, and all of "
              "sessions), beside root and the user of goallocd. Nobody is in " ACCESS_CONTROL_GROUP
              " if there is no such group; empty: nobody" },
    { .name = "root-owner", .arg = "yes|no", .section = SECTION_ACCESS, .kind = KIND_SWITCH, .preset = "no",
      .words = no_or_yes, .reloads = true, FIELD(access.root_owner),
      .help = "A root is set and removed by the user alone who has made it, and by who may control; others get it" },
    { .name = "log-level", .arg = "LEVEL", .key = 'l', .section = SECTION_LOG, .kind = KIND_WORD, .preset = "info",
      .words = levels, .reloads = true, FIELD(log_level), .help = "error, warn, info or debug" },
    { .name = "scavtrace", .arg = "yes|no", .section = SECTION_LOG, .kind = KIND_SWITCH, .preset = "no",
      .words = no_or_yes, .reloads = true, FIELD(scavtrace),
      .help = "Log a line for every second in which free pages went back to the system" },
    { .name = "no-seccomp", .section = SECTION_NONE, .act = ACT_NO_SECCOMP,
      .help = "No filter of system calls and no Landlock, for debuggers and sanitizers" },
    { .name = "seccomp-kill", .section = SECTION_NONE, .act = ACT_SECCOMP_KILL,
      .help = "A system call that the filter does not know kills goallocd, instead of failing with ENOSYS: for tests" },
};

#define OWN_ROWS (sizeof(own_rows) / sizeof(own_rows[0]))
_Static_assert(OWN_ROWS + LIMITS <= OPTIONS_MAX, "the table has room for all");

const char option_no_memory[] = "out of memory";

static option_row rows[OPTIONS_MAX];
static char limit_presets[LIMITS][LIMITS_TEXT_BYTES];

static option_row row_of_limit(enum limit which)
{
    const limit_row *limit = limit_row_of(which);
    static const char *const args[] = { [LIMIT_COUNT] = "N", [LIMIT_BYTES] = "SIZE", [LIMIT_PER_SECOND] = "N",
                                        [LIMIT_MICROSECONDS] = "TIME" };

    limits_text(limit->preset, limit->unit, limit_presets[which]);
    return (option_row){ .name = limit->name,
                         .arg = args[limit->unit],
                         .help = limit->help,
                         .preset = limit_presets[which],
                         .section = SECTION_LIMITS,
                         .reloads = true,
                         .kind = KIND_LIMIT,
                         .at = offsetof(options, limits.max) + which * sizeof(uint64_t),
                         .bytes = sizeof(uint64_t) };
}

unsigned options_count(void)
{
    if (rows[0].name == NULL) {
        for (unsigned i = 0; i < LIMITS; i++)
            rows[OWN_ROWS + i] = row_of_limit((enum limit)i);
        memcpy(rows, own_rows, sizeof(own_rows));
    }
    return OWN_ROWS + LIMITS;
}

const option_row *option_row_at(unsigned which)
{
    (void)options_count();
    return &rows[which];
}

unsigned option_find(const char *name)
{
    for (unsigned i = 0; i < options_count(); i++) {
        if (strcmp(rows[i].name, name) == 0)
            return i;
    }
    return OPTIONS_MAX;
}

const char *option_section_name(enum option_section section)
{
    static const char *const names[SECTIONS] = { [SECTION_GOALLOCD] = "goallocd", [SECTION_MEMORY] = "memory",
                                                 [SECTION_LIMITS] = "limits", [SECTION_ACCESS] = "access",
                                                 [SECTION_LOG] = "log" };

    return section < SECTIONS ? names[section] : NULL;
}

/* --- values: each kind reads text into the field of its row, and says what is wrong with it --- */

/* What a value is read from, and where it goes. */
typedef struct reading {
    options *o;
    const option_row *row;
    const char *text;
    char shortest[LIMITS_TEXT_BYTES]; /* filled if it is another text */
    char *why;
} reading;

__attribute__((format(printf, 2, 3))) static bool wrong(const reading *r, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(r->why, OPTION_WHY_BYTES, format, args);
    va_end(args);
    return false;
}

static void *field_of(const reading *r)
{
    return (char *)r->o + r->row->at;
}

static bool read_path(reading *r)
{
    if (r->text[0] == '\0')
        return wrong(r, "a path is missing");
    memcpy(field_of(r), &r->text, sizeof(r->text)); /* of the value that is kept */
    return true;
}

static bool read_size(reading *r)
{
    uint64_t *bytes = field_of(r);

    if (!limits_parse_size(r->text, bytes))
        return wrong(r, "'%.64s' is not a size: a number, and K, M, G or T for powers of 1024, such as 512M or 64G",
                     r->text);
    limits_size_text(*bytes, r->shortest);
    return true;
}

static bool read_reserve(reading *r)
{
    const uint64_t *bytes = field_of(r);

    if (!read_size(r))
        return false;
    if (*bytes == 0 || *bytes % SHM_HEAP_ARENA_BYTES != 0 || *bytes > SHM_ARENA_BYTES_MAX)
        return wrong(r, "'%.64s' is not a multiple of 64M up to 16T", r->text);
    return true;
}

static bool read_address(reading *r)
{
    uint64_t *address = field_of(r);
    char *end;

    errno = 0;
    *address = strtoull(r->text, &end, 16);
    if (errno != 0 || *end != '\0' || end == r->text || strpbrk(r->text, "+- \t") != NULL)
        return wrong(r, "'%.64s' is not a hexadecimal address", r->text);
    if (*address == 0 || *address % SHM_HEAP_ARENA_BYTES != 0)
        return wrong(r, "0x%llx is not a multiple of 64M above 0", (unsigned long long)*address);
    (void)snprintf(r->shortest, sizeof(r->shortest), "0x%llx", (unsigned long long)*address);
    return true;
}

/* The number of the word; -1, and why: it is none. */
static int word_of(const reading *r)
{
    char choice[128] = "";
    size_t len = 0;

    for (int i = 0; r->row->words[i] != NULL; i++) {
        if (strcmp(r->text, r->row->words[i]) == 0)
            return i;
        len += (size_t)snprintf(choice + len, sizeof(choice) - len, "%s%s",
                                i == 0 ? "" : r->row->words[i + 1] == NULL ? " or " : ", ", r->row->words[i]);
    }
    (void)wrong(r, "'%.64s' is not %s", r->text, choice);
    return -1;
}

static bool read_word(reading *r)
{
    unsigned *number = field_of(r);
    int word = word_of(r);

    *number = word >= 0 ? (unsigned)word : 0;
    return word >= 0;
}

static bool read_switch(reading *r)
{
    bool *on = field_of(r);
    int word = word_of(r);

    *on = word > 0;
    return word >= 0;
}

static bool read_list(reading *r)
{
    bool groups = r->row->kind == KIND_GROUPS;
    access_list *list = field_of(r);
    const char *bad;
    int len;
    int e;

    list->nids = 0;
    e = access_list_add(list, r->text, groups, &bad, &len);
    if (e == ACCESS_E_FULL)
        return wrong(r, "more than %u in a list", ACCESS_IDS_MAX);
    return e == 0 || wrong(r, "'%.*s' is no %s", len < 64 ? len : 64, bad, groups ? "group" : "user");
}

/* Of the group that has that name by default nobody knows whether it was made. */
static bool read_control(reading *r)
{
    access_control *control = field_of(r);

    *control = (access_control){ .is_set = false };
    if (r->text[0] == '\0' || access_set_control(control, r->text) == 0 || strcmp(r->text, ACCESS_CONTROL_GROUP) == 0)
        return true;
    return wrong(r, "'%.64s' is no group", r->text);
}

static bool read_limit(reading *r)
{
    enum limit which = (enum limit)((r->row->at - offsetof(options, limits.max)) / sizeof(uint64_t));
    const limit_row *limit = limit_row_of(which);
    char lowest[LIMITS_TEXT_BYTES];

    limits_text(limit->lowest, limit->unit, lowest);
    if (!limits_set(&r->o->limits, which, r->text))
        return wrong(r, "'%.64s' is not %s, from %s on", r->text,
                     limit->unit == LIMIT_BYTES ? "a size, such as 512M or 64G (powers of 1024)"
                     : limit->unit == LIMIT_MICROSECONDS ? "a time, such as 250us, 100ms or 5s"
                                                         : "a number without a unit",
                     lowest);
    limits_text(r->o->limits.max[which], limit->unit, r->shortest);
    return true;
}

static bool read_time(reading *r)
{
    uint64_t *us = field_of(r);

    if (!limits_parse_time(r->text, 1000000, us))
        return wrong(r, "'%.64s' is not a time, such as 250us, 100ms, 5s or 2min", r->text);
    (void)snprintf(r->shortest, sizeof(r->shortest), "%llu%s",
                   (unsigned long long)(*us % 1000000 == 0 ? *us / 1000000 : *us % 1000 == 0 ? *us / 1000 : *us),
                   *us % 1000000 == 0 ? "s" : *us % 1000 == 0 ? "ms" : "us");
    return true;
}

/* --- all of them --- */

static void forget(option_value *value)
{
    free(value->text);
    free(value->origin);
    *value = (option_value){ NULL, NULL };
}

/* A value is kept first, since paths are borrowed from it. */
static bool keep(option_value *value, const char *before, const char *text, const char *origin)
{
    char *joined = NULL;

    if (before != NULL && asprintf(&joined, "%s,%s", before, text) < 0)
        joined = NULL;
    else if (before == NULL)
        joined = strdup(text);
    forget(value);
    value->text = joined;
    value->origin = origin != NULL ? strdup(origin) : NULL;
    return value->text != NULL && (origin == NULL || value->origin != NULL);
}

bool option_set(options *o, unsigned which, const char *text, const char *origin, bool add,
                char ret_why[OPTION_WHY_BYTES])
{
    static bool (*const read[KINDS])(reading *r) = {
        [KIND_PATH] = read_path,     [KIND_SIZE] = read_size,     [KIND_RESERVE] = read_reserve,
        [KIND_ADDRESS] = read_address, [KIND_WORD] = read_word,   [KIND_SWITCH] = read_switch,
        [KIND_USERS] = read_list,    [KIND_GROUPS] = read_list,   [KIND_CONTROL] = read_control,
        [KIND_LIMIT] = read_limit,   [KIND_TIME] = read_time,
    };
    option_value *value = &o->values[which];
    reading r = { .o = o, .row = option_row_at(which), .why = ret_why };

    if (!keep(value, add && r.row->adds ? value->text : NULL, text, origin))
        return wrong(&r, "%s", option_no_memory);
    r.text = value->text;
    if (!read[r.row->kind](&r))
        return false;
    if (r.shortest[0] == '\0' || keep(value, NULL, r.shortest, origin))
        return true;
    return wrong(&r, "%s", option_no_memory);
}

bool options_init(options *o)
{
    char why[OPTION_WHY_BYTES];

    *o = (options){ .filter = PRIVILEGES_FILTER_DEFAULT };
    for (unsigned i = 0; i < options_count(); i++) {
        bool is_looked_up = rows[i].kind == KIND_CONTROL; /* by options_look_up() */

        if (rows[i].preset == NULL || (is_looked_up && keep(&o->values[i], NULL, rows[i].preset, NULL)) ||
            (!is_looked_up && option_set(o, i, rows[i].preset, NULL, false, why)))
            continue;
        options_end(o);
        return false;
    }
    return true;
}

bool options_look_up(options *o, char ret_why[OPTION_WHY_BYTES])
{
    for (unsigned i = 0; i < options_count(); i++) {
        if (rows[i].act == 0 && rows[i].kind == KIND_CONTROL && o->values[i].origin == NULL &&
            !option_set(o, i, rows[i].preset, NULL, false, ret_why))
            return false;
    }
    return true;
}

void options_end(options *o)
{
    for (unsigned i = 0; i < OPTIONS_MAX; i++)
        forget(&o->values[i]);
}

/*
 * How many bits programs' addresses have: 47 on x86-64, and 39, 42 or more on arm64, where the kernel was built for it.
 * Looked for once: a page that could be mapped, or is, below the end.
 */
static unsigned address_bits(void)
{
    static unsigned bits;

    for (unsigned n = ADDRESS_BITS_MAX; bits == 0; n--) {
        const uint64_t below = (UINT64_C(1) << n) - 64 * KIB;
        void *p = mmap((void *)(uintptr_t)below, SYSTEM_PAGE_BYTES, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

        if (p != MAP_FAILED || errno == EEXIST || n == ADDRESS_BITS_MIN)
            bits = n;
        if (p != MAP_FAILED)
            (void)munmap(p, SYSTEM_PAGE_BYTES);
    }
    return bits;
}

bool options_agree(const options *o, char ret_why[OPTION_WHY_BYTES])
{
    uint64_t end = UINT64_C(1) << address_bits();

    if (o->base + o->reserve_bytes <= end && o->base + o->reserve_bytes >= o->base)
        return true;
    (void)snprintf(ret_why, OPTION_WHY_BYTES,
                   "base and reserve: the arena would end above the user address space, which ends at 0x%llx",
                   (unsigned long long)end);
    return false;
}

bool option_is_same(const options *a, const options *b, unsigned which)
{
    const char *one = a->values[which].text;
    const char *other = b->values[which].text;

    return one == NULL || other == NULL ? one == other : strcmp(one, other) == 0;
}

void option_exchange(options *to, options *from, unsigned which)
{
    const option_row *row = option_row_at(which);
    option_value value = to->values[which];
    char field[sizeof(access_list)];

    _Static_assert(sizeof(access_list) >= sizeof(uint64_t), "the largest field of a row");
    memcpy(field, (char *)to + row->at, row->bytes);
    memcpy((char *)to + row->at, (char *)from + row->at, row->bytes);
    memcpy((char *)from + row->at, field, row->bytes);
    to->values[which] = from->values[which];
    from->values[which] = value;
}
