/*
 * Collecting: a target, a process with a session that keeps a pointer in one place, and a collector, which looks for
 * it. For tests of client/collector's world.
 *
 * They agree on a board, which all of them have mapped. It is shared memory of the target's, so a collector looks at
 * it: no word of it may look like a pointer. Offsets and addresses stand there inverted.
 *
 * The collector must find the pointer in just that word: its address is compared, so other copies (dead frames,
 * registers) don't count.
 */
#ifndef GOALLOC_TESTS_COLLECTING_H
#define GOALLOC_TESTS_COLLECTING_H

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "client/collector/proc.h"
#include "client/collector/world.h"
#include "client/lib/process.h"
#include "tests/support/attach.h"

#define COLLECTING_TRIES 400
#define PAGE_SIZE_HERE ((size_t)sysconf(_SC_PAGESIZE))

typedef struct board {
    atomic_int ready; /* targets that have said where their pointer is */
    atomic_int step;  /* what the test and its processes wait for */
    atomic_ulong count;
    uint64_t not_offset;  /* ~ of the object's */
    uint64_t not_address; /* ~ of the word that holds the pointer; ~0: it has none */
    pid_t pid;            /* whose word it is */
    /* What a look has found. */
    int error;
    pid_t trouble_pid;
    char text[WORLD_TEXT_BYTES];
    bool found; /* the word itself, in that process */
    enum words_kind kind;
    uint64_t nplaces; /* words of that process that point to the object */
    uint32_t nprocesses, nthreads;
    bool stopped; /* somebody was stopped */
    uint64_t estimate_ns;
} board;

static board *the_board;

static inline void board_clear(void)
{
    if (the_board == NULL) { /* with a descriptor, by which it can be opened without privileges */
        int fd = memfd_create("board", MFD_CLOEXEC);

        CHECK(fd >= 0 && ftruncate(fd, sizeof(board)) == 0);
        the_board = mmap(NULL, sizeof(board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    CHECK(the_board != MAP_FAILED);
    memset(the_board, 0, sizeof(*the_board));
}

static inline void board_await(const atomic_int *word, int value)
{
    for (int i = 0; i < 30000 && atomic_load(word) < value; i++)
        (void)usleep(1000);
    CHECK(atomic_load(word) >= value);
}

/* In a target: this word holds the only pointer that counts. */
static inline void board_say(const void *p, const void *word)
{
    the_board->not_offset = ~goalloc_offset(p);
    the_board->not_address = ~(uint64_t)(uintptr_t)word;
    the_board->pid = getpid();
    (void)atomic_fetch_add(&the_board->ready, 1);
}

static inline void wait_to_be_killed(void)
{
    for (;;)
        (void)pause();
}

static inline void *private_pages(size_t n)
{
    void *p = mmap(NULL, n * PAGE_SIZE_HERE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    return p;
}

/* In a target that is attached: a new object, to which the word points. */
static inline int keep_in(void **slot)
{
    *slot = goalloc_malloc(100);
    board_say(*slot, slot);
    wait_to_be_killed();
    return 0;
}

/* A target with an object whose word it does not tell. */
static inline int attach_and_wait(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    board_say(goalloc_malloc(100), NULL);
    wait_to_be_killed();
    return 0;
}

/* As /proc has it; 0: there is none. */
static inline char state_of(pid_t tid)
{
    proc_facts facts;

    return proc_facts_of(tid, &facts) == 0 ? facts.state : 0;
}

static inline void note_hits(const world *w)
{
    uint64_t offset = ~the_board->not_offset, address = ~the_board->not_address;

    for (uint64_t i = 0; i < w->nranges; i++) {
        const words_range *range = &w->ranges[i];

        for (uint64_t k = 0; k < range->nhits; k++) {
            words_hit hit = w->hits[range->first_hit + k];

            if (words_hit_offset(hit) != offset || range->pid != the_board->pid)
                continue;
            the_board->nplaces++;
            if (address != 0 ? words_hit_address(range, hit) != address : range->kind != the_board->kind)
                continue;
            the_board->found = true;
            the_board->kind = range->kind;
        }
    }
}

/* A cycle of the world, by a process that is attached. */
static inline int look_once(const world_options *options)
{
    world_trouble trouble = { 0 };
    world w;
    int r = world_prepare(&w, &process.map, options, &trouble);

    if (r == 0)
        r = world_stop(&w, &trouble);
    if (r == 0)
        r = world_copy(&w, &trouble);
    if (r == 0)
        r = world_validate(&w, &trouble);
    world_resume(&w);
    the_board->error = r;
    the_board->trouble_pid = trouble.pid;
    memcpy(the_board->text, trouble.text, sizeof(trouble.text));
    the_board->nprocesses = w.nprocesses;
    the_board->nthreads = w.nthreads;
    the_board->estimate_ns = w.estimate_ns;
    the_board->stopped = w.pause_begin_ns != 0;
    if (r == 0)
        note_hits(&w);
    world_free(&w);
    return r;
}

static inline int collector(const fixture *f, void *arg)
{
    int r = -EAGAIN;

    must_attach(f, 0);
    for (int i = 0; i < COLLECTING_TRIES && r == -EAGAIN; i++, (void)usleep(5000))
        r = look_once(arg);
    return 0;
}

/* Have a process look: its error, and what it has found stands on the board. */
static inline int look(const fixture *f, world_options options)
{
    int status = child_run(f, collector, &options);

    if (status != 0)
        the_board->error = -EPROTO;
    if (the_board->error != 0)
        (void)printf("          %s\n", the_board->text);
    return the_board->error;
}

/* Start a target and wait until it has said where its pointer is. */
static inline pid_t target_start(const fixture *f, child_fn fn, void *arg)
{
    pid_t pid;

    board_clear();
    pid = child_start(f, fn, arg);
    board_await(&the_board->ready, 1);
    return pid;
}

static inline void target_kill(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
}

/* Look at a target once: the error. kind: of its word, if that has no address. A child that has the word ends, too. */
static inline int look_at(const fixture *f, child_fn fn, void *arg, enum words_kind kind)
{
    pid_t pid = target_start(f, fn, arg);
    int r;

    the_board->kind = kind;
    r = look(f, (world_options){ 0 });
    if (the_board->pid != pid)
        (void)kill(the_board->pid, SIGKILL);
    target_kill(pid);
    return r;
}

static inline void must_be_found_in(const fixture *f, child_fn fn, void *arg, enum words_kind kind)
{
    assert_int_equal(look_at(f, fn, arg, kind), 0);
    assert_true(the_board->found);
    assert_string_equal(words_kind_name(the_board->kind), words_kind_name(kind));
}

static inline void must_not_be_found(const fixture *f, child_fn fn, void *arg)
{
    assert_int_equal(look_at(f, fn, arg, WORDS_MEMORY), 0);
    assert_false(the_board->found);
}

#endif
