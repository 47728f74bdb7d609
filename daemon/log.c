/*
 * Log: one line a call, into a ring, from which a thread of its own writes to stderr or sends to the journal.
 *
 * Called by everything in the daemon, from any thread. Calls logrecord.c (what a line looks like), proto/journal.c,
 * logquota.c. Under systemd, when stderr is a stream to the journal, lines go to the journal's socket with fields;
 * else to stderr as text with the time. Where they go is settled by the first line, for the daemon's life.
 *
 * stderr may be a pipe whose reader does not read, or a terminal that somebody has stopped. O_NONBLOCK is no way out:
 * it belongs to the open file, which the daemon shares with its parent. poll() before a write is none either: another
 * writer may fill the pipe in between. So write(2) is called by one thread that does nothing else, and may stand in it
 * for ever. The journal's socket is the daemon's own, and does not block; but its queue may be full, and the journal
 * may be on its way from one process to the next. Then the same thread tries again, with pauses, and stands there.
 *
 *   log_line() --lock--> ring of 256 KiB --no lock--> the writer --write(2), whole lines up to 4 KiB--> stderr
 *                                                             '--sendto(2), one record a datagram--> the journal
 *
 * - A line that finds no room is dropped and counted; so are those behind it, until half of the ring is free again.
 *   Then a line says how many they were, at their place. The order of lines is that of the calls. A journal that is
 *   started anew, however long that takes, loses nothing that the ring has room for.
 * - A regular file is not read by anybody, so nobody can stop it: lines are written to it by who says them. They are
 *   there even if the daemon is killed in the next instruction. (A write that the file system makes wait, waits.)
 * - What clients cause is limited by user (logquota.c), for each level by itself, so that a user's deaths don't hide
 *   what it was refused. The writer says what was left out when a window is over.
 * - The level may change at any time, in any thread: each line looks at it once.
 *
 * Ends: log_close() gives the writer half a second; if it still stands there, the process ends around it, which the
 * kernel does to any thread that waits for a pipe, a socket or a terminal; and kill -9 in the same way. A crash
 * (SIGSEGV, SIGABRT, ...) gives the writer 0.2 s for what the daemon has just said. Only SIGKILL loses lines that are
 * in the ring. A forked child has no writer, and its descriptor 2 may soon be something else: it says nothing, and
 * touches no lock for it.
 *
 * Data: private. head is written under the lock by who says a line, after the bytes (release); tail by the writer
 * alone, after write(2) or sendto(2). Nobody waits for the writer: it takes the lock only to count what was left out,
 * and holds it for some instructions. A record in the ring is its length, in 4 bytes, and its bytes.
 */
#include "daemon/log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/logquota.h"
#include "proto/journal.h"
#include "shm/atomics.h"

#define RING_BYTES  262144u
#define BATCH_BYTES PIPE_BUF /* lines of others that write to the same pipe stay whole, and so do these */
#define STOP_MS     500
#define CRASH_MS    200
#define NOTE_MS     1000 /* how often the writer looks whether there is something left out to say */
#define NQUOTAS     (LOG_LEVEL_DEBUG + 1)
#define AGAIN_MS_MIN 1u /* the journal did not take a record: it is tried again, doubled each time up to */
#define AGAIN_MS_MAX 128u

_Static_assert(LOGRECORD_BYTES <= BATCH_BYTES, "a batch has room for any record");

/* Who writes a line: who says it, before log_open() and to a file; the writer; nobody. */
enum log_way { WAY_DIRECT, WAY_RING, WAY_SILENT };

static shm_u32 max_level = LOG_LEVEL_INFO; /* the loop's; read by who says something */

static struct {
    shm_u32 way;
    bool has_form; /* these two before the writer starts */
    enum logrecord_form form;
    bool started;
    pthread_t writer;
    void (*prepare)(void);
    sem_t wake;
    shm_u32 stopping;
    shm_u32 has_notes; /* lines were dropped or left out, which is still to be said */
    shm_u64 head;      /* bytes that were ever put in */
    shm_u64 tail;      /* bytes that were ever taken out */
    pthread_mutex_t lock;
    bool dropping;     /* these under the lock */
    uint64_t ndropped;
    logquota quotas[NQUOTAS]; /* by level */
    char ring[RING_BYTES];
} log_state = { .lock = PTHREAD_MUTEX_INITIALIZER };

bool log_level_parse(const char *name, enum log_level *ret)
{
    static const char *const names[] = { "error", "warn", "info", "debug" };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = (enum log_level)i;
            return true;
        }
    }
    return false;
}

void log_set_level(enum log_level level)
{
    u32_store_relaxed(&max_level, level);
}

static bool is_said(enum log_level level)
{
    return level <= u32_load_relaxed(&max_level);
}

static uint64_t now_ms(void)
{
    struct timespec ts = { 0, 0 };

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* --- the ring --- */

static const log_subject nobody = { .session = 0 };

static uint64_t ring_used(void)
{
    return u64_load_relaxed(&log_state.head) - u64_load_acquire(&log_state.tail);
}

static uint64_t ring_copy_in(uint64_t to, const void *bytes, size_t len_bytes)
{
    size_t at = to % RING_BYTES;
    size_t first = len_bytes < RING_BYTES - at ? len_bytes : RING_BYTES - at;

    memcpy(&log_state.ring[at], bytes, first);
    memcpy(&log_state.ring[0], (const char *)bytes + first, len_bytes - first);
    return to + len_bytes;
}

static uint64_t ring_copy_out(uint64_t from, void *bytes, size_t len_bytes)
{
    size_t at = from % RING_BYTES;
    size_t first = len_bytes < RING_BYTES - at ? len_bytes : RING_BYTES - at;

    memcpy(bytes, &log_state.ring[at], first);
    memcpy((char *)bytes + first, &log_state.ring[0], len_bytes - first);
    return from + len_bytes;
}

/* Under the lock; there is room. */
static void ring_add(const char *record, size_t len_bytes)
{
    uint32_t len = (uint32_t)len_bytes;
    uint64_t at = ring_copy_in(u64_load_relaxed(&log_state.head), &len, sizeof(len));

    u64_store_release(&log_state.head, ring_copy_in(at, record, len_bytes));
}

__attribute__((format(printf, 5, 0))) static size_t record_make(char record[LOGRECORD_BYTES], enum log_event event,
                                                                enum log_level level, const log_subject *subject,
                                                                const char *format, va_list args);

__attribute__((format(printf, 3, 4))) static size_t note_make(char record[LOGRECORD_BYTES], enum log_event event,
                                                              const char *format, ...)
{
    va_list args;
    size_t len;

    va_start(args, format);
    len = record_make(record, event, logevent_row_of(event)->level, &nobody, format, args);
    va_end(args);
    return len;
}

/* Under the lock. There is room again: it is said what was dropped. */
static void ring_go_on(void)
{
    char record[LOGRECORD_BYTES];
    size_t len =
        note_make(record, LOG_EVENT_LINES_DROPPED, "%llu lines of the log were dropped, because nobody read it",
                  (unsigned long long)log_state.ndropped);

    log_state.dropping = false;
    log_state.ndropped = 0;
    ring_add(record, len);
}

/* Under the lock: the line is lost. */
static void ring_drop(void)
{
    log_state.dropping = true;
    log_state.ndropped++;
    u32_store_release(&log_state.has_notes, 1);
}

static void ring_put(const char *record, size_t len_bytes)
{
    uint64_t used;

    (void)pthread_mutex_lock(&log_state.lock);
    used = ring_used();
    if (log_state.dropping ? used > RING_BYTES / 2 : used + sizeof(uint32_t) + len_bytes > RING_BYTES) {
        ring_drop();
    } else {
        if (log_state.dropping)
            ring_go_on();
        ring_add(record, len_bytes);
    }
    (void)pthread_mutex_unlock(&log_state.lock);
    (void)sem_post(&log_state.wake);
}

/* --- writing --- */

/* A log that can't be written is no reason to fail. */
static void write_whole(const char *bytes, size_t len_bytes)
{
    while (len_bytes > 0) {
        ssize_t n = write(STDERR_FILENO, bytes, len_bytes);

        if (n > 0) {
            bytes += n;
            len_bytes -= (size_t)n;
        } else if (n < 0 && errno == EAGAIN) { /* somebody else has set O_NONBLOCK */
            (void)poll(&(struct pollfd){ .fd = STDERR_FILENO, .events = POLLOUT }, 1, 100);
        } else if (n == 0 || errno != EINTR) {
            return;
        }
    }
}

/* The journal takes the record, or will never: then it is lost, and counted. */
static void send_whole(const char *record, size_t len_bytes)
{
    unsigned again_ms = AGAIN_MS_MIN;
    int r;

    while ((r = journal_send(record, len_bytes)) == JOURNAL_E_LATER) {
        (void)nanosleep(&(struct timespec){ 0, again_ms * 1000000L }, NULL);
        again_ms = again_ms * 2 < AGAIN_MS_MAX ? again_ms * 2 : AGAIN_MS_MAX;
    }
    if (r == 0)
        return;
    (void)pthread_mutex_lock(&log_state.lock);
    ring_drop();
    (void)pthread_mutex_unlock(&log_state.lock);
}

/* Write some of the lines that are in the ring, or send one. False: there is none. */
static bool write_batch(void)
{
    char batch[BATCH_BYTES];
    uint64_t head = u64_load_acquire(&log_state.head);
    uint64_t tail = u64_load_relaxed(&log_state.tail);
    size_t used = 0;

    if (tail == head)
        return false;
    while (tail != head) {
        uint32_t len;
        uint64_t at = ring_copy_out(tail, &len, sizeof(len));

        if (used + len > (log_state.form == LOGRECORD_DATAGRAM ? len : sizeof(batch)))
            break;
        tail = ring_copy_out(at, batch + used, len);
        used += len;
    }
    if (log_state.form == LOGRECORD_DATAGRAM)
        send_whole(batch, used);
    else
        write_whole(batch, used);
    u64_store_release(&log_state.tail, tail);
    return true;
}

static void say(const char *record, size_t len_bytes)
{
    if (u32_load_acquire(&log_state.way) == WAY_RING)
        ring_put(record, len_bytes);
    else
        write_whole(record, len_bytes);
}

/* --- what was dropped or left out --- */

static bool next_note(uint64_t now, logquota_note *ret)
{
    bool found = false;

    (void)pthread_mutex_lock(&log_state.lock);
    for (size_t i = 0; i < NQUOTAS && !found; i++)
        found = logquota_left_out(&log_state.quotas[i], now, ret);
    (void)pthread_mutex_unlock(&log_state.lock);
    return found;
}

/* True if there is still something to be said later. */
static bool has_notes_left(void)
{
    logquota copies[NQUOTAS];
    logquota_note note;
    bool some;

    (void)pthread_mutex_lock(&log_state.lock);
    memcpy(copies, log_state.quotas, sizeof(copies));
    some = log_state.dropping;
    (void)pthread_mutex_unlock(&log_state.lock);
    for (size_t i = 0; i < NQUOTAS && !some; i++)
        some = logquota_left_out(&copies[i], UINT64_MAX, &note);
    return some;
}

/* By the writer, which has written all that there was. now: UINT64_MAX says all that there is to say. */
static void say_notes(uint64_t now)
{
    logquota_note note;

    if (u32_load_acquire(&log_state.has_notes) == 0)
        return;
    u32_store_release(&log_state.has_notes, 0);
    (void)pthread_mutex_lock(&log_state.lock);
    if (log_state.dropping && ring_used() <= RING_BYTES / 2)
        ring_go_on();
    (void)pthread_mutex_unlock(&log_state.lock);
    while (next_note(now, &note)) {
        log_event(LOG_EVENT_LINES_LEFT_OUT, &(log_subject){ .has_uid = !note.of_others, .uid = note.uid },
                  "%llu lines about clients of %s were left out", (unsigned long long)note.nlines,
                  note.of_others ? "other users" : "this user");
    }
    if (has_notes_left())
        u32_store_release(&log_state.has_notes, 1);
}

/* --- the writer --- */

static void wait_for_lines(void)
{
    struct timespec until;

    if (u32_load_acquire(&log_state.has_notes) == 0) {
        (void)sem_wait(&log_state.wake);
    } else {
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += NOTE_MS / 1000;
        (void)sem_clockwait(&log_state.wake, CLOCK_MONOTONIC, &until);
    }
    while (sem_trywait(&log_state.wake) == 0) /* one for each line, all of which are looked for now */
        ;
}

static void *write_lines(void *data)
{
    (void)data;
    if (log_state.prepare != NULL)
        log_state.prepare();
    for (;;) {
        bool stopping = u32_load_acquire(&log_state.stopping) != 0;

        while (write_batch())
            ;
        say_notes(stopping ? UINT64_MAX : now_ms());
        while (write_batch())
            ;
        if (stopping)
            return NULL;
        wait_for_lines();
    }
}

/* After fork(), in the child. */
static void silence(void)
{
    u32_store_relaxed(&log_state.way, WAY_SILENT);
}

/* The daemon dies of it. What it has said before may say why. */
static void on_crash(int signum, siginfo_t *info, void *context)
{
    (void)context;
    for (int ms = 0; ms < CRASH_MS && u32_load_acquire(&log_state.way) == WAY_RING && ring_used() > 0; ms++)
        (void)nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
    if (info->si_code <= 0) /* sent by somebody; a fault happens again by itself */
        (void)raise(signum);
}

static void watch_crashes(void)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    static const int signums[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
    struct sigaction action = { .sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | (int)SA_RESETHAND };

    for (size_t i = 0; i < sizeof(signums) / sizeof(signums[0]); i++)
        (void)sigaction(signums[i], &action, NULL);
#else
    (void)on_crash; /* a sanitizer's report comes first */
#endif
}

/* By the first line, or at the start: before there is another thread. */
static void settle_form(void)
{
    if (!log_state.has_form && journal_has_stderr())
        log_state.form = LOGRECORD_STREAM;
    log_state.has_form = true;
}

/* Signals are for the loop's thread. */
static int start_writer(void)
{
    sigset_t all;
    sigset_t before;
    int r;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&log_state.writer, NULL, write_lines, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -r;
}

int log_open(void (*prepare)(void))
{
    struct stat st;
    int r;

    if (sem_init(&log_state.wake, 0, 0) < 0)
        return -errno;
    settle_form();
    if (log_state.form == LOGRECORD_STREAM && journal_open())
        log_state.form = LOGRECORD_DATAGRAM;
    r = -pthread_atfork(NULL, NULL, silence);
    log_state.prepare = prepare;
    if (r == 0)
        r = start_writer();
    if (r < 0)
        return r;
    log_state.started = true;
    if (log_state.form == LOGRECORD_DATAGRAM || fstat(STDERR_FILENO, &st) < 0 || !S_ISREG(st.st_mode))
        u32_store_release(&log_state.way, WAY_RING);
    watch_crashes();
    return 0;
}

void log_close(void)
{
    struct timespec until;

    if (!log_state.started)
        return;
    u32_store_release(&log_state.stopping, 1);
    (void)sem_post(&log_state.wake);
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += STOP_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    (void)pthread_timedjoin_np(log_state.writer, NULL, &until);
    u32_store_release(&log_state.way, WAY_SILENT);
    log_state.started = false;
}

/* --- lines --- */

static size_t record_make(char record[LOGRECORD_BYTES], enum log_event event, enum log_level level,
                          const log_subject *subject, const char *format, va_list args)
{
    logrecord r = { .event = event, .level = level, .subject = subject };

    (void)clock_gettime(CLOCK_REALTIME, &r.time);
    logrecord_say(&r, format, args);
    return logrecord_write(&r, log_state.form, record);
}

__attribute__((format(printf, 4, 0))) static void say_line(enum log_event event, enum log_level level,
                                                           const log_subject *subject, const char *format, va_list args)
{
    char record[LOGRECORD_BYTES];

    if (u32_load_acquire(&log_state.way) == WAY_SILENT)
        return;
    if (!log_state.has_form)
        settle_form();
    say(record, record_make(record, event, level, subject, format, args));
}

void log_line(enum log_level level, const char *format, ...)
{
    va_list args;

    if (!is_said(level))
        return;
    va_start(args, format);
    say_line(LOG_EVENT_NONE, level, &nobody, format, args);
    va_end(args);
}

void log_event(enum log_event event, const log_subject *subject, const char *format, ...)
{
    enum log_level level = logevent_row_of(event)->level;
    va_list args;

    if (!is_said(level))
        return;
    va_start(args, format);
    say_line(event, level, subject != NULL ? subject : &nobody, format, args);
    va_end(args);
}

/* False: the line is left out, and counted. */
static bool is_within_quota(enum log_level level, uint32_t uid)
{
    bool within;

    (void)pthread_mutex_lock(&log_state.lock);
    within = logquota_take(&log_state.quotas[level], uid, now_ms());
    (void)pthread_mutex_unlock(&log_state.lock);
    if (!within && u32_load_acquire(&log_state.has_notes) == 0) {
        u32_store_release(&log_state.has_notes, 1);
        (void)sem_post(&log_state.wake);
    }
    return within;
}

void log_client_line(enum log_level level, const log_subject *subject, const char *format, ...)
{
    va_list args;

    if (!is_said(level) || !is_within_quota(level, subject->uid))
        return;
    va_start(args, format);
    say_line(LOG_EVENT_NONE, level, subject, format, args);
    va_end(args);
}

void log_client_event(enum log_event event, const log_subject *subject, const char *format, ...)
{
    enum log_level level = logevent_row_of(event)->level;
    va_list args;

    if (!is_said(level) || !is_within_quota(level, subject->uid))
        return;
    va_start(args, format);
    say_line(event, level, subject, format, args);
    va_end(args);
}

/* A whole line, as the stream is buffered by lines; of a longer one, pieces. */
static ssize_t stream_write(void *cookie, const char *bytes, size_t size)
{
    enum log_level level = *(const enum log_level *)cookie;

    for (size_t at = 0; at < size;) {
        const char *end = memchr(bytes + at, '\n', size - at);
        size_t len = end != NULL ? (size_t)(end - bytes) - at : size - at;

        if (len > 0)
            log_line(level, "%.*s", (int)(len < LOGRECORD_BYTES ? len : LOGRECORD_BYTES), bytes + at);
        at += len + (end != NULL);
    }
    return (ssize_t)size;
}

FILE *log_stream(enum log_level level)
{
    static enum log_level cookies[] = { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
    FILE *stream = fopencookie(&cookies[level], "w", (cookie_io_functions_t){ .write = stream_write });

    if (stream != NULL)
        (void)setvbuf(stream, NULL, _IOLBF, BUFSIZ);
    return stream;
}
