/*
 * wordindex: several processes build one index of the words of many files in the shared heap; others read it.
 *
 *   wordindex build --workers N [--kill-one] [--kill-every MS] DIRECTORY    index all regular files below DIRECTORY
 *   wordindex top N | query WORD... | dump                read what is there, in a process of its own
 *   wordindex verify FILE    has the index the words of FILE, so often each, and no others? FILE is as dump prints it
 *
 * A word is a longest run of ASCII letters within one file, in lower case. All structures lie in the shared heap and
 * point at each other with plain pointers; the root "wordindex" leads to them:
 *
 *   index -> buckets[] -> word -> word -> ...          next in its bucket
 *         |                 +---> posting -> posting   one for each file that has the word: file number, count
 *         +-> files[]: path, state
 *
 * Who writes which word of memory, and what holds if a worker dies (SIGKILL) between any two of its steps:
 *   file.state   0 free -> worker's number (claimed, by compare-and-swap) -> DONE. A dead worker's number stays in
 *                the state of the file it was in. Its replacement has the same number, is started after the dead one
 *                was waited for (so one process at a time writes under a number), and finishes that file first.
 *   bucket       words are pushed by compare-and-swap on the head; after a lost one the new head part is searched
 *                again, so a word is there once. If the worker dies before, nobody knows its word (the object is lost);
 *                after it, the word is whole, with no posting.
 *   postings     pushed on the word's list in the same way, whole, one for each file. A file is counted in private
 *                memory first, so what is pushed is final. A worker that takes over a file skips words whose list
 *                has a posting of that file: its predecessor got so far. If the worker dies before a push, the
 *                posting is lost and made anew; after the last one, before DONE, the replacement finds all of them.
 *   word, posting contents   written before they are pushed, never afterwards.
 *   doing, ndone             only shown, and looked at to choose whom to kill; nothing is decided by them.
 * So each (file, word) counts exactly once, no step holds a lock, and nobody waits for the dead. A file that cannot be
 * read counts as empty. Another build makes another index; nobody frees the one before. A daemon that is killed, and
 * whose heap is taken over, is not noticed: calls come back by themselves, and a worker that starts waits for it.
 */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <goalloc.h>

#include "crew.h"

#define ROOT         "wordindex"
#define NBUCKETS     (1u << 18)
#define WORKERS_MAX  64
#define STATE_FREE   0u
#define STATE_DONE   UINT32_MAX

typedef struct posting {
    struct posting *next;
    uint32_t file;
    uint32_t count;
} posting;

typedef struct word {
    struct word *next;
    _Atomic(posting *) postings;
    uint32_t len;
    char bytes[];
} word;

typedef struct file {
    char *path;
    _Atomic uint32_t state;
} file;

typedef struct index_map {
    _Atomic(word *) *buckets;
    file *files;
    uint32_t nfiles;
    _Atomic uint32_t ndone;
    /* From so many files done on, workers nap in the middle of each file, so that one can be caught there. */
    _Atomic uint32_t nap_from;
    /* What each worker is doing, for the supervisor to see: file << 32 | words published of it. */
    _Atomic uint64_t doing[WORKERS_MAX + 1];
} index_map;

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)fputs("wordindex: ", stderr);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    exit(EXIT_FAILURE);
}

static void *must(void *p)
{
    if (p == NULL)
        die("no memory: %s", goalloc_strerror(errno));
    return p;
}

static void attach(const char *label)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    int r;

    options.label = label;
    options.flags = GOALLOC_ATTACH_WAIT; /* a daemon may be just on its way */
    r = goalloc_attach(&options);
    if (r < 0)
        die("%s", goalloc_attach_error());
}

static index_map *find_index(const char *label)
{
    void *p;
    int r;

    attach(label);
    r = goalloc_root_get(ROOT, &p);
    if (r < 0)
        die("root %s: %s", ROOT, goalloc_strerror(r));
    return p;
}

/* A file's name may hold anything: control characters are not for the terminal. */
static void print_path(const char *path)
{
    for (; *path != '\0'; path++)
        (void)putchar((unsigned char)*path < 0x20 || *path == 0x7f ? '?' : *path);
}

static uint64_t hash_bytes(const char *bytes, size_t len)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3);
    return h ^ h >> 29;
}

/* --- a file's words, counted in private memory --- */

typedef struct tally_entry {
    const char *bytes; /* in the file's text */
    uint32_t len;
    uint32_t count;
    uint64_t hash;
} tally_entry;

typedef struct tally {
    tally_entry *entries;
    size_t cap; /* a power of two */
    size_t used;
} tally;

static void tally_grow(tally *t)
{
    tally old = *t;

    t->cap = old.cap == 0 ? 1024 : old.cap * 2;
    t->entries = must(calloc(t->cap, sizeof(*t->entries)));
    for (size_t i = 0; i < old.cap; i++) {
        size_t at = old.entries[i].hash & (t->cap - 1);

        if (old.entries[i].count == 0)
            continue;
        while (t->entries[at].count != 0)
            at = (at + 1) & (t->cap - 1);
        t->entries[at] = old.entries[i];
    }
    free(old.entries);
}

/* Count it. The entry is good until the next call. */
static tally_entry *tally_add(tally *t, const char *bytes, size_t len)
{
    uint64_t hash = hash_bytes(bytes, len);
    size_t at;

    if (t->used * 2 >= t->cap)
        tally_grow(t);
    at = hash & (t->cap - 1);
    while (t->entries[at].count != 0) {
        tally_entry *e = &t->entries[at];

        if (e->hash == hash && e->len == len && memcmp(e->bytes, bytes, len) == 0) {
            e->count++;
            return e;
        }
        at = (at + 1) & (t->cap - 1);
    }
    t->entries[at] = (tally_entry){ bytes, (uint32_t)len, 1, hash };
    t->used++;
    return &t->entries[at];
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Fold the text in place and count its words. */
static void tally_text(tally *t, char *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t from = i;

        while (i < len && is_letter(text[i])) {
            text[i] = (char)(text[i] | 0x20);
            i++;
        }
        if (i > from)
            (void)tally_add(t, text + from, i - from);
        else
            i++;
    }
}

/* --- the shared structures --- */

static word *find_from(word *head, const word *stop, const char *bytes, size_t len)
{
    for (word *w = head; w != stop; w = w->next) {
        if (w->len == len && memcmp(w->bytes, bytes, len) == 0)
            return w;
    }
    return NULL;
}

static word *find_word(const index_map *map, const char *bytes, size_t len)
{
    return find_from(atomic_load(&map->buckets[hash_bytes(bytes, len) % NBUCKETS]), NULL, bytes, len);
}

static word *get_word(index_map *map, const tally_entry *e)
{
    _Atomic(word *) *bucket = &map->buckets[e->hash % NBUCKETS];
    word *head = atomic_load(bucket);
    word *found = find_from(head, NULL, e->bytes, e->len);
    word *fresh;

    if (found != NULL)
        return found;
    fresh = must(goalloc_malloc(sizeof(*fresh) + e->len));
    atomic_init(&fresh->postings, NULL);
    fresh->len = e->len;
    memcpy(fresh->bytes, e->bytes, e->len);
    for (;;) {
        word *seen = head;

        fresh->next = head;
        if (atomic_compare_exchange_strong(bucket, &head, fresh))
            return fresh;
        found = find_from(head, seen, e->bytes, e->len);
        if (found != NULL) {
            goalloc_free(fresh);
            return found;
        }
    }
}

static void push_posting(word *w, uint32_t file_no, uint32_t count, bool taken_over)
{
    posting *p = atomic_load(&w->postings);

    for (; taken_over && p != NULL; p = p->next) {
        if (p->file == file_no)
            return;
    }
    posting *fresh = must(goalloc_malloc(sizeof(*fresh)));

    fresh->file = file_no;
    fresh->count = count;
    fresh->next = atomic_load(&w->postings);
    while (!atomic_compare_exchange_weak(&w->postings, &fresh->next, fresh))
        ;
}

static void sleep_us(long us)
{
    struct timespec ts = { 0, us * 1000 };

    (void)nanosleep(&ts, NULL);
}

/* The whole text of a file in private memory. NULL, with a message, if it cannot be read (any more). */
static char *read_text(const char *path, size_t *ret_len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat st = { 0 };
    char *text = NULL;
    size_t len = 0;
    size_t cap = 0;
    ssize_t n = -1;

    if (fd >= 0)
        errno = EINVAL; /* for what is no regular file any more */
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        cap = (size_t)st.st_size + 1; /* one more: the end is seen without growing */
        text = must(malloc(cap));
        while ((n = read(fd, text + len, cap - len)) > 0) {
            len += (size_t)n;
            if (len == cap)
                text = must(realloc(text, cap *= 2));
        }
    }
    if (n < 0) {
        (void)fprintf(stderr, "wordindex: skipped %s: %s\n", path, strerror(errno));
        free(text);
        text = NULL;
    }
    if (fd >= 0)
        (void)close(fd);
    *ret_len = len;
    return text;
}

static void index_file(index_map *map, uint32_t file_no, uint32_t me, bool taken_over)
{
    tally t = { 0 };
    size_t len;
    char *text = read_text(map->files[file_no].path, &len);
    uint32_t npublished = 0;

    if (text != NULL)
        tally_text(&t, text, len);
    for (size_t i = 0; i < t.cap; i++) {
        if (t.entries[i].count == 0)
            continue;
        push_posting(get_word(map, &t.entries[i]), file_no, t.entries[i].count, taken_over);
        atomic_store(&map->doing[me], (uint64_t)file_no << 32 | ++npublished);
        if (npublished == t.used / 2 && atomic_load(&map->ndone) >= atomic_load(&map->nap_from))
            sleep_us(20000);
    }
    atomic_store(&map->doing[me], 0);
    atomic_store(&map->files[file_no].state, STATE_DONE);
    (void)atomic_fetch_add(&map->ndone, 1);
    free(text);
    free(t.entries);
}

static int command_worker(uint32_t me)
{
    index_map *map = find_index("wordindex worker");

    /* First what a dead predecessor of the same number has left. */
    for (uint32_t i = 0; i < map->nfiles; i++) {
        if (atomic_load(&map->files[i].state) == me)
            index_file(map, i, me, true);
    }
    for (uint32_t i = 0; i < map->nfiles; i++) {
        uint32_t expected = STATE_FREE;

        if (atomic_compare_exchange_strong(&map->files[i].state, &expected, me))
            index_file(map, i, me, false);
    }
    return goalloc_detach() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* --- the supervisor --- */

typedef struct path_list {
    char **paths;
    size_t n;
    size_t cap;
} path_list;

static int compare_entries(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static path_list list_files(char *directory)
{
    char *roots[] = { directory, NULL };
    FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, compare_entries);
    path_list list = { 0 };

    if (fts == NULL)
        die("%s: %s", directory, strerror(errno));
    for (FTSENT *e = fts_read(fts); e != NULL; e = fts_read(fts)) {
        if (e->fts_info == FTS_NS && e->fts_level == FTS_ROOTLEVEL)
            die("%s: %s", directory, strerror(e->fts_errno));
        if (e->fts_info != FTS_F || !S_ISREG(e->fts_statp->st_mode) || access(e->fts_accpath, R_OK) < 0)
            continue;
        if (list.n == list.cap) {
            list.cap = list.cap == 0 ? 1024 : list.cap * 2;
            list.paths = must(realloc(list.paths, list.cap * sizeof(*list.paths)));
        }
        list.paths[list.n++] = must(strdup(e->fts_path));
    }
    (void)fts_close(fts);
    return list;
}

static index_map *make_index(char *directory, bool kill_one)
{
    path_list list = list_files(directory);
    index_map *map = must(goalloc_calloc(1, sizeof(*map)));
    int r;

    map->buckets = must(goalloc_calloc(NBUCKETS, sizeof(*map->buckets)));
    map->files = must(goalloc_calloc(list.n + 1, sizeof(*map->files)));
    map->nfiles = (uint32_t)list.n;
    atomic_init(&map->nap_from, kill_one ? map->nfiles / 2 : UINT32_MAX);
    for (size_t i = 0; i < list.n; i++) {
        map->files[i].path = must(goalloc_malloc_noscan(strlen(list.paths[i]) + 1));
        (void)strcpy(map->files[i].path, list.paths[i]);
        free(list.paths[i]);
    }
    free(list.paths);
    r = goalloc_root_set(ROOT, map);
    if (r < 0)
        die("root %s: %s", ROOT, goalloc_strerror(r));
    return map;
}

static pid_t start_worker(uint32_t me)
{
    char number[16];
    pid_t parent = getpid();
    pid_t pid = fork();

    if (pid < 0)
        die("fork: %s", strerror(errno));
    if (pid == 0) {
        /* Workers end with their supervisor. */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
            _exit(127);
        (void)snprintf(number, sizeof(number), "%u", me);
        (void)execl("/proc/self/exe", "wordindex", "worker", number, (char *)NULL);
        _exit(127);
    }
    return pid;
}

/* Stop a worker that has published part of a file, look again while it stands still, and kill it. True: it is done. */
static bool kill_midway(index_map *map, pid_t *pids, uint32_t nworkers)
{
    for (uint32_t k = 1; k <= nworkers; k++) {
        uint64_t doing = atomic_load(&map->doing[k]);
        siginfo_t info;

        if (pids[k] == 0 || (uint32_t)doing == 0)
            continue;
        (void)kill(pids[k], SIGSTOP);
        (void)waitid(P_PID, (id_t)pids[k], &info, WSTOPPED | WEXITED | WNOWAIT); /* it may just have left */
        doing = atomic_load(&map->doing[k]);
        if ((uint32_t)doing == 0 || atomic_load(&map->files[doing >> 32].state) != k) {
            (void)kill(pids[k], SIGCONT);
            continue;
        }
        (void)kill(pids[k], SIGKILL);
        (void)waitpid(pids[k], NULL, 0);
        atomic_store(&map->nap_from, UINT32_MAX);
        (void)printf("%sworker %u (pid %d) killed with SIGKILL in ", isatty(STDOUT_FILENO) ? "\n" : "", k,
                     (int)pids[k]);
        print_path(map->files[doing >> 32].path);
        (void)printf(", %u words of it published;", (uint32_t)doing);
        pids[k] = start_worker(k);
        (void)printf(" replaced by pid %d\n", (int)pids[k]);
        return true;
    }
    return false;
}

/* Kill one of them at random, now and then; who waits for them starts another one. */
static void kill_at_random(const pid_t *pids, uint32_t nworkers, crew_harassment *h)
{
    crew c = { .n = nworkers };

    memcpy(c.pids, pids + 1, nworkers * sizeof(*pids));
    crew_harass(&c, h);
}

static void show_progress(const index_map *map, bool terminal, uint32_t *shown)
{
    uint32_t done = atomic_load(&map->ndone);
    uint32_t tenth = map->nfiles == 0 ? 10 : (uint32_t)((uint64_t)done * 10 / map->nfiles);

    if (terminal)
        (void)printf("\r%u of %u files indexed", done, map->nfiles);
    else if (tenth != *shown)
        (void)printf("%u of %u files indexed\n", done, map->nfiles);
    *shown = tenth;
    (void)fflush(stdout);
}

static int command_build(char *directory, uint32_t nworkers, bool kill_one, crew_harassment *harassment)
{
    pid_t pids[WORKERS_MAX + 1] = { 0 };
    bool terminal = isatty(STDOUT_FILENO);
    uint32_t running = nworkers;
    uint32_t shown = 0;
    uint64_t nkilled = 0;
    bool killed = false;

    attach("wordindex build");

    index_map *map = make_index(directory, kill_one);

    (void)printf("%u files, %u workers\n", map->nfiles, nworkers);
    (void)fflush(stdout);
    for (uint32_t k = 1; k <= nworkers; k++)
        pids[k] = start_worker(k);
    while (running > 0) {
        if (kill_one && !killed && atomic_load(&map->ndone) >= map->nfiles / 3)
            killed = kill_midway(map, pids, nworkers);
        kill_at_random(pids, nworkers, harassment);
        for (uint32_t k = 1; k <= nworkers; k++) {
            int status;

            if (pids[k] == 0 || waitpid(pids[k], &status, WNOHANG) != pids[k])
                continue;
            if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
                nkilled++;
                pids[k] = start_worker(k);
                continue;
            }
            if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
                die("worker %u ended with status 0x%x", k, (unsigned)status);
            pids[k] = 0;
            running--;
        }
        show_progress(map, terminal, &shown);
        sleep_us((kill_one && !killed) || harassment->every_ms > 0 ? 500 : 20000);
    }
    (void)printf("%sall workers have left\n", terminal ? "\n" : "");
    if (nkilled > 0)
        (void)printf("%llu workers were killed\n", (unsigned long long)nkilled);
    if (kill_one && !killed && map->nfiles > 0)
        (void)printf("no worker was caught in the middle of a file: none killed\n");
    for (uint32_t i = 0; i < map->nfiles; i++) {
        if (atomic_load(&map->files[i].state) != STATE_DONE)
            die("%s was not indexed", map->files[i].path);
    }
    return goalloc_detach() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* --- readers --- */

typedef struct total {
    const word *word;
    uint64_t count;
    uint64_t nfiles;
} total;

static total total_of(const word *w)
{
    total t = { .word = w };

    for (const posting *p = atomic_load(&w->postings); p != NULL; p = p->next) {
        t.count += p->count;
        t.nfiles++;
    }
    return t;
}

static int compare_totals(const void *a, const void *b)
{
    const total *x = a;
    const total *y = b;

    return (x->count < y->count) - (x->count > y->count);
}

static int command_top(size_t n)
{
    index_map *map = find_index("wordindex reader");
    total *totals = NULL;
    size_t used = 0;
    size_t cap = 0;

    for (uint32_t b = 0; b < NBUCKETS; b++) {
        for (const word *w = atomic_load(&map->buckets[b]); w != NULL; w = w->next) {
            if (used == cap) {
                cap = cap == 0 ? 4096 : cap * 2;
                totals = must(realloc(totals, cap * sizeof(*totals)));
            }
            totals[used++] = total_of(w);
        }
    }
    if (used > 0)
        qsort(totals, used, sizeof(*totals), compare_totals);
    (void)printf("%zu distinct words in %u files; the most frequent:\n", used, map->nfiles);
    for (size_t i = 0; i < used && i < n; i++)
        (void)printf("%10llu in %6llu files  %.*s\n", (unsigned long long)totals[i].count,
                     (unsigned long long)totals[i].nfiles, (int)totals[i].word->len, totals[i].word->bytes);
    free(totals);
    return EXIT_SUCCESS;
}

static int command_dump(void)
{
    index_map *map = find_index("wordindex reader");

    for (uint32_t b = 0; b < NBUCKETS; b++) {
        for (const word *w = atomic_load(&map->buckets[b]); w != NULL; w = w->next) {
            total t = total_of(w);

            if (t.count > 0)
                (void)printf("%llu %.*s\n", (unsigned long long)t.count, (int)w->len, w->bytes);
        }
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        die("standard output: %s", strerror(errno));
    return EXIT_SUCCESS;
}

static int command_query(char **words, size_t n)
{
    index_map *map = find_index("wordindex reader");

    for (size_t i = 0; i < n; i++) {
        for (char *c = words[i]; *c != '\0'; c++)
            *c = is_letter(*c) ? (char)(*c | 0x20) : *c;

        const word *w = find_word(map, words[i], strlen(words[i]));
        total t = w == NULL ? (total){ 0 } : total_of(w);
        int shown = 0;

        (void)printf("'%s': %llu times in %llu files\n", words[i], (unsigned long long)t.count,
                     (unsigned long long)t.nfiles);
        for (const posting *p = w == NULL ? NULL : atomic_load(&w->postings); p != NULL && shown < 3;
             p = p->next, shown++) {
            (void)printf("    %6u  ", p->count);
            print_path(map->files[p->file].path);
            (void)putchar('\n');
        }
    }
    return EXIT_SUCCESS;
}

/* Lines of a count, a space and a word, each word once. text has room for one more byte. */
static void tally_list(tally *t, char *text, size_t len)
{
    text[len] = '\0';
    for (char *line = text; line < text + len;) {
        char *newline = memchr(line, '\n', (size_t)(text + len - line));
        unsigned long count = newline == NULL ? 0 : strtoul(line, &line, 10);
        tally_entry *e;

        if (count == 0 || count > UINT32_MAX || line >= newline || *line != ' ')
            die("this is no list of counts and words");
        e = tally_add(t, line + 1, (size_t)(newline - line) - 1);
        if (e->count > 1)
            die("the list has '%.*s' twice", (int)e->len, e->bytes);
        e->count = (uint32_t)count;
        line = newline + 1;
    }
}

/* How many words are in the index; all that leads to their files is looked at. */
static size_t count_words(const index_map *map)
{
    size_t n = 0;

    for (uint32_t b = 0; b < NBUCKETS; b++) {
        for (const word *w = atomic_load(&map->buckets[b]); w != NULL; w = w->next) {
            const posting *p = atomic_load(&w->postings);

            n += p != NULL;
            for (; p != NULL; p = p->next) {
                if (p->file >= map->nfiles || map->files[p->file].path[0] == '\0')
                    die("'%.*s' is in file %u, which is not there", (int)w->len, w->bytes, p->file);
            }
        }
    }
    return n;
}

static int command_verify(const char *path)
{
    index_map *map = find_index("wordindex reader");
    uint64_t noccurrences = 0;
    size_t ndiffer = 0;
    tally t = { 0 };
    size_t len;
    char *text = read_text(path, &len);
    size_t found;

    if (text == NULL)
        return EXIT_FAILURE;
    tally_list(&t, text, len);
    for (const tally_entry *e = t.entries; e < t.entries + t.cap; e++) {
        const word *w = e->count == 0 ? NULL : find_word(map, e->bytes, e->len);
        uint64_t count = w == NULL ? 0 : total_of(w).count;

        noccurrences += count;
        if (count != e->count && ++ndiffer <= 10)
            (void)fprintf(stderr, "wordindex: '%.*s' is there %llu times, not %u\n", (int)e->len, e->bytes,
                          (unsigned long long)count, e->count);
    }
    found = count_words(map);
    if (ndiffer > 0 || found != t.used)
        die("%zu words differ; the index has %zu, and should have %zu", ndiffer, found, t.used);
    (void)printf("root %s at %p: %zu distinct words, %llu occurrences, each as it should be\n", ROOT, (void *)map,
                 found, (unsigned long long)noccurrences);
    free(t.entries);
    free(text);
    return EXIT_SUCCESS;
}

/* --- command line --- */

typedef struct arguments {
    char *words[64];
    size_t n;
    uint32_t nworkers;
    bool kill_one;
    crew_options options; /* harassment alone */
} arguments;

static const struct argp_option option_table[] = {
    { "workers", 'n', "N", 0, "Worker processes, 1 to 64 (default 4)", 0 },
    { "kill-one", 'o', NULL, 0, "Kill a worker with SIGKILL midway, and replace it", 0 },
    { "kill-every", 'k', "MS", 0, "Kill a worker at random every MS milliseconds, on average, and replace it", 0 },
    { "seed", 'r', "N", 0, "Which ones, and when (default: chosen, and printed)", 0 },
    { 0 },
};

/* A decimal number from min to max, nothing else. */
static uint32_t parse_number(const char *what, const char *text, uint32_t min, uint32_t max)
{
    size_t digits = strspn(text, "0123456789");
    unsigned long value = strtoul(text, NULL, 10);

    if (digits == 0 || digits > 9 || text[digits] != '\0' || value < min || value > max)
        die("%s: '%s' is not a number from %u to %u", what, text, min, max);
    return (uint32_t)value;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    arguments *args = state->input;

    switch (key) {
    case 'n':
        args->nworkers = parse_number("--workers", arg, 1, WORKERS_MAX);
        return 0;
    case 'o':
        args->kill_one = true;
        return 0;
    case 'k':
    case 'r':
        return crew_parse_option(&args->options, key, arg) ? 0 : ARGP_ERR_UNKNOWN;
    case ARGP_KEY_ARG:
        if (args->n == sizeof(args->words) / sizeof(args->words[0]))
            argp_error(state, "too many arguments");
        args->words[args->n++] = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* Say the seed, as the other examples do; but a signal ends this one, which is done in a moment. */
static crew_harassment *begin_kills(crew_options *options)
{
    crew_begin(options, "wordindex");
    (void)signal(SIGTERM, SIG_DFL);
    (void)signal(SIGINT, SIG_DFL);
    return &options->harassment;
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_table,
        .parser = parse_option,
        .args_doc = "build DIRECTORY\ntop N\nquery WORD...\ndump\nverify FILE",
        .doc = "Indexes words in the shared heap at $GOALLOC_SOCKET.",
    };
    arguments args = { .nworkers = 4 };
    const char *command;

    (void)argp_parse(&argp, argc, argv, 0, NULL, &args);
    command = args.n > 0 ? args.words[0] : "";
    if (strcmp(command, "build") == 0 && args.n == 2)
        return command_build(args.words[1], args.nworkers, args.kill_one, begin_kills(&args.options));
    if (strcmp(command, "worker") == 0 && args.n == 2)
        return command_worker(parse_number("worker", args.words[1], 1, WORKERS_MAX));
    if (strcmp(command, "top") == 0 && args.n == 2)
        return command_top(parse_number("top", args.words[1], 1, 999999999));
    if (strcmp(command, "dump") == 0 && args.n == 1)
        return command_dump();
    if (strcmp(command, "verify") == 0 && args.n == 2)
        return command_verify(args.words[1]);
    if (strcmp(command, "query") == 0 && args.n > 1)
        return command_query(args.words + 1, args.n - 1);
    (void)fprintf(stderr, "wordindex: see wordindex --help\n");
    return 2;
}
