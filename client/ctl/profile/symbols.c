/*
 * Symbols: asks the modules' files, each in a child process.
 *
 * Called by goallocctl profile, which may be root's, with a path that any process of the heap may have chosen. So:
 *
 *   1. The path is opened without effect (O_PATH), and for reading only if it is a regular file.
 *   2. A child reads it (elffile.c). It has no descriptor but the file and a pipe, becomes the user whose file it is if
 *      it is root, and has bounds of memory and of time. What a broken file can break is that process.
 *   3. What the child says is bounded here like the region: records that are no records end it, texts are made fit for
 *      a terminal.
 *   4. A file with another build id than the module's has its say in nothing: it is another one than what ran.
 *
 * All children together have the caller's timeout; what is not known by then stays without a name.
 */
#include "client/ctl/profile/symbols.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "client/ctl/profile/elffile.h"

#define PIECE_BYTES    (64 * KIB)
#define SAID_BYTES_MAX (16 * MIB) /* by one child */
#define CHILD_CPU_S    30u
#define CHILD_BYTES    (4 * GIB)
#define NOBODY         65534u

/* --- memory --- */

typedef struct symbol_piece {
    struct symbol_piece *next;
    size_t used;
    _Alignas(16) char bytes[PIECE_BYTES];
} symbol_piece;

/* NULL: no memory, or more than a piece. */
static void *take(symbols *sy, size_t len)
{
    symbol_piece *p = sy->pieces;
    void *ret;

    len = (len + 15) & ~(size_t)15;
    if (p == NULL || PIECE_BYTES - p->used < len) {
        p = len <= PIECE_BYTES ? malloc(sizeof(*p)) : NULL;
        if (p == NULL)
            return NULL;
        p->next = sy->pieces;
        p->used = 0;
        sy->pieces = p;
    }
    ret = p->bytes + p->used;
    p->used += len;
    return ret;
}

/* NULL: no memory. */
static const char *take_text(symbols *sy, const char *text, size_t len)
{
    char raw[ELFFILE_TEXT_MAX + 1];
    char plain[ELFFILE_TEXT_MAX + 1];
    char *ret;

    memcpy(raw, text, len);
    raw[len] = '\0';
    (void)ctl_plain_text(raw, plain, sizeof(plain));
    ret = take(sy, strlen(plain) + 1);
    return ret == NULL ? NULL : strcpy(ret, plain);
}

/* --- the child --- */

/* Have nothing but the file as 3 and the pipe as 4, no more rights than whose file it is, and an end. */
static bool enter_cage(int file, int to, const struct stat *st)
{
    int null = open("/dev/null", O_RDWR);
    struct rlimit cpu = { CHILD_CPU_S, CHILD_CPU_S };
    struct rlimit none = { 0, 0 };

    for (int fd = 0; fd <= 2; fd++)
        (void)dup2(null, fd);
    file = fcntl(file, F_DUPFD, 5); /* out of the way of 3 and 4 */
    to = fcntl(to, F_DUPFD, 5);
    if (file < 0 || to < 0 || dup2(file, 3) < 0 || dup2(to, 4) < 0)
        return false;
    closefrom(5);
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    (void)setrlimit(RLIMIT_CPU, &cpu);
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)setrlimit(RLIMIT_FSIZE, &none);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* whose shadow is longer than that */
    (void)setrlimit(RLIMIT_AS, &(struct rlimit){ CHILD_BYTES, CHILD_BYTES });
#endif
    (void)unsetenv("DEBUGINFOD_URLS"); /* nobody is asked by a network for what somebody else has written */
    if (geteuid() == 0 && st->st_uid != 0 &&
        (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
         setresuid(st->st_uid, st->st_uid, st->st_uid) < 0))
        return false;
    return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0; /* last: a change of user takes it away */
}

__attribute__((noreturn)) static void be_child(int file, int to, const struct stat *st, const char *path,
                                               const uint8_t *build_id, uint32_t build_id_bytes,
                                               const symbol_place *places, size_t n)
{
    uint64_t *addresses = malloc(n * sizeof(*addresses));
    FILE *out;

    if (addresses == NULL || !enter_cage(file, to, st) || (out = fdopen(4, "w")) == NULL)
        _exit(1);
    for (size_t i = 0; i < n; i++)
        addresses[i] = places[i].address;
    elffile_read(3, path, build_id, build_id_bytes, addresses, n, out);
    _exit(0);
}

/* --- what it says --- */

typedef struct said {
    char *bytes;
    size_t n;
    size_t cap;
} said;

/* Read it to its end. False: time has passed, it is too long, or there is no memory. */
static bool hear(int fd, said *s, int64_t until_ms)
{
    for (;;) {
        struct pollfd ready = { .fd = fd, .events = POLLIN };
        int64_t left_ms = until_ms - (int64_t)shm_clock_ms();
        ssize_t n;

        if (s->n == s->cap) {
            size_t cap = s->cap == 0 ? 64 * KIB : 2 * s->cap;
            char *bytes = cap <= SAID_BYTES_MAX ? realloc(s->bytes, cap) : NULL;

            if (bytes == NULL)
                return false;
            s->bytes = bytes;
            s->cap = cap;
        }
        if (left_ms <= 0 || poll(&ready, 1, (int)left_ms) == 0)
            return false;
        n = read(fd, s->bytes + s->n, s->cap - s->n);
        if (n == 0)
            return true;
        if (n > 0)
            s->n += (size_t)n;
        else if (errno != EINTR)
            return false;
    }
}

/* Take a line's texts. False: no memory. */
static bool add_line(symbols *sy, symbol_line *to, const elffile_record *r, const char *texts)
{
    to->function = take_text(sy, texts, r->nfunction);
    to->linkage = take_text(sy, texts + r->nfunction, r->nlinkage);
    to->file = take_text(sy, texts + r->nfunction + r->nlinkage, r->nfile);
    to->line = r->line <= INT32_MAX ? r->line : 0;
    return to->function != NULL && to->linkage != NULL && to->file != NULL;
}

/* The lines of the place that comes first in what is left. */
static bool add_lines(symbols *sy, symbol_place *place, symbol_line *lines, uint32_t n)
{
    symbol_line *kept = n > 0 && place->nlines == 0 ? take(sy, n * sizeof(*lines)) : NULL;

    if (kept == NULL)
        return n == 0 || place->nlines != 0;
    memcpy(kept, lines, n * sizeof(*lines));
    place->lines = kept;
    place->nlines = n;
    return true;
}

/* 0; -ENOMEM. What comes behind a record that is none does not count. */
static int read_records(symbols *sy, symbol_module *m, symbol_place *places, const said *s)
{
    symbol_line lines[ELFFILE_LINES_MAX];
    uint32_t nlines = 0;
    uint32_t place = 0;
    size_t at = 0;
    elffile_record r;

    while (s->n - at >= sizeof(r)) {
        memcpy(&r, s->bytes + at, sizeof(r));
        at += sizeof(r);
        if (r.kind == ELFFILE_END) {
            m->state = r.verdict == ELFFILE_READ          ? SYMBOLS_READ
                       : r.verdict == ELFFILE_OTHER_BUILD ? SYMBOLS_OTHER_BUILD
                                                          : SYMBOLS_BROKEN;
            m->start = r.start;
            m->limit = r.limit;
            m->file_offset = r.file_offset;
            break;
        }
        if (r.kind != ELFFILE_LINE || r.place >= m->nplaces || r.nfunction > ELFFILE_TEXT_MAX ||
            r.nlinkage > ELFFILE_TEXT_MAX || r.nfile > ELFFILE_TEXT_MAX ||
            s->n - at < (size_t)r.nfunction + r.nlinkage + r.nfile)
            break;
        if (r.place != place || nlines == ELFFILE_LINES_MAX) {
            if (!add_lines(sy, &places[place], lines, nlines))
                return -ENOMEM;
            nlines = 0;
            place = r.place;
        }
        if (!add_line(sy, &lines[nlines++], &r, s->bytes + at))
            return -ENOMEM;
        m->has_lines |= r.line != 0;
        at += (size_t)r.nfunction + r.nlinkage + r.nfile;
    }
    return add_lines(sy, &places[place], lines, nlines) ? 0 : -ENOMEM;
}

/* --- one module --- */

/* A regular file, opened for reading; nothing else is opened so, since that alone may do something. -1: it is none. */
static int open_regular(const char *path, struct stat *ret)
{
    int named = path[0] == '/' ? open(path, O_PATH | O_CLOEXEC) : -1;
    char again[32];
    int fd = -1;

    if (named >= 0 && fstat(named, ret) == 0 && S_ISREG(ret->st_mode) && ret->st_size > 0) {
        (void)snprintf(again, sizeof(again), "/proc/self/fd/%d", named);
        fd = open(again, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* nor waited for whoever has a lease on it */
    }
    if (named >= 0)
        (void)close(named);
    return fd;
}

static int look_up(symbols *sy, const snapshot *s, uint32_t module, symbol_place *places, int64_t until_ms)
{
    symbol_module *m = &sy->modules[module];
    char path[sizeof(((profile_module *)0)->path) + 1];
    const uint8_t *build_id;
    uint32_t build_id_bytes = snapshot_module_build_id(s, module, &build_id);
    said heard = { 0 };
    struct stat st;
    int file;
    int ends[2];
    pid_t pid;
    int r;

    snapshot_module_path(s, module, path);
    m->state = build_id_bytes == 0 ? SYMBOLS_NO_BUILD_ID : SYMBOLS_NO_FILE;
    file = build_id_bytes == 0 ? -1 : open_regular(path, &st);
    if (file < 0)
        return 0;
    m->state = SYMBOLS_BROKEN;
    if (pipe2(ends, O_CLOEXEC) < 0) {
        (void)close(file);
        return 0;
    }
    (void)fflush(NULL); /* so that the child has nothing to say that is not its own */
    pid = fork();
    if (pid == 0)
        be_child(file, ends[1], &st, path, build_id, build_id_bytes, places, m->nplaces);
    (void)close(file);
    (void)close(ends[1]);
    if (pid > 0 && !hear(ends[0], &heard, until_ms))
        m->state = SYMBOLS_NO_TIME;
    if (pid > 0)
        (void)kill(pid, SIGKILL); /* it has said all, or has had its time; one that has closed its pipe may not end */
    (void)close(ends[0]);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    r = read_records(sy, m, places, &heard);
    free(heard.bytes);
    return r;
}

/* --- places --- */

static int by_place(const void *a, const void *b)
{
    const symbol_place *one = a;
    const symbol_place *other = b;

    if (one->module != other->module)
        return one->module > other->module ? 1 : -1;
    return (one->address > other->address) - (one->address < other->address);
}

static symbol_place place_of(const snapshot *s, uint64_t frame)
{
    symbol_place p = { 0 };

    if (!snapshot_frame(s, frame, &p.module, &p.address))
        p.module = SYMBOLS_NO_MODULE;
    return p;
}

/* Each place of each stack that a row has, once. False: no memory. */
static bool gather(symbols *sy, const snapshot *s)
{
    bool *has = calloc(PROFILE_STACKS, sizeof(*has));
    const uint64_t *frames;
    size_t n = 0;

    if (has == NULL)
        return false;
    for (size_t i = 0; i < s->nrows; i++) {
        if (!has[s->rows[i].stack])
            n += snapshot_stack(s, s->rows[i].stack, &frames);
        has[s->rows[i].stack] = true;
    }
    sy->places = calloc(n + 1, sizeof(*sy->places));
    n = 0;
    for (uint32_t stack = 0; sy->places != NULL && stack < PROFILE_STACKS; stack++) {
        uint32_t nframes = has[stack] ? snapshot_stack(s, stack, &frames) : 0;

        for (uint32_t i = 0; i < nframes; i++)
            sy->places[n++] = place_of(s, frames[i]);
    }
    free(has);
    if (sy->places == NULL)
        return false;
    qsort(sy->places, n, sizeof(sy->places[0]), by_place);
    for (size_t i = 0; i < n; i++) {
        if (sy->nplaces == 0 || by_place(&sy->places[sy->nplaces - 1], &sy->places[i]) != 0)
            sy->places[sy->nplaces++] = sy->places[i];
    }
    return true;
}

int symbols_init(symbols *sy, const snapshot *s, int timeout_ms)
{
    int64_t until_ms = (int64_t)shm_clock_ms() + timeout_ms;
    int r = 0;

    *sy = (symbols){ .modules = calloc(PROFILE_MODULES, sizeof(*sy->modules)) };
    if (sy->modules == NULL || !gather(sy, s))
        r = -ENOMEM;
    for (size_t from = 0, i = 0; r == 0 && from < sy->nplaces && sy->places[from].module < PROFILE_MODULES; from = i) {
        uint32_t module = sy->places[from].module;
        char path[sizeof(sy->modules->path)];

        while (i < sy->nplaces && sy->places[i].module == module)
            i++;
        snapshot_module_path(s, module, path);
        (void)ctl_plain_text(path, sy->modules[module].path, sizeof(path));
        sy->modules[module].nplaces = (uint32_t)(i - from);
        sy->modules[module].state = SYMBOLS_NO_TIME;
        if ((int64_t)shm_clock_ms() < until_ms)
            r = look_up(sy, s, module, &sy->places[from], until_ms);
    }
    if (r < 0)
        symbols_free(sy);
    return r;
}

void symbols_free(symbols *sy)
{
    while (sy->pieces != NULL) {
        symbol_piece *next = sy->pieces->next;

        free(sy->pieces);
        sy->pieces = next;
    }
    free(sy->places);
    free(sy->modules);
    *sy = (symbols){ 0 };
}

const symbol_place *symbols_find(const symbols *sy, const snapshot *s, uint64_t frame)
{
    symbol_place key = place_of(s, frame);

    return bsearch(&key, sy->places, sy->nplaces, sizeof(key), by_place);
}

const char *symbols_why_not(const symbol_module *m)
{
    static const char *const why[SYMBOLS_STATES] = {
        [SYMBOLS_NO_BUILD_ID] = "it has no build id, so nobody can tell whether a file is the one that ran",
        [SYMBOLS_NO_FILE] = "there is no such file here, or it can't be opened",
        [SYMBOLS_OTHER_BUILD] = "the file here has another build id than the one that ran",
        [SYMBOLS_BROKEN] = "the file can't be read as a program or library",
        [SYMBOLS_NO_TIME] = "there was no time to look it up",
    };

    return why[m->state];
}

const char *symbols_name(const symbols *sy, const symbol_place *place, char *ret, size_t cap)
{
    const char *path;
    const char *base;

    if (place->module >= PROFILE_MODULES) {
        (void)snprintf(ret, cap, "0x%" PRIx64, place->address);
        return ret;
    }
    path = sy->modules[place->module].path;
    base = strrchr(path, '/');
    (void)snprintf(ret, cap, "%s+0x%" PRIx64, base != NULL ? base + 1 : path, place->address);
    return ret;
}
