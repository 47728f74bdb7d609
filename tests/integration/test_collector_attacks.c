/*
 * Attacks on the collector: processes that make it as hard as they can to say who holds what, and a client that writes
 * into the heap's words what no library would.
 *
 * Among forks: objects wander between a table in the heap, processes that attach, work and die, and children that are
 * forked with an object and never attach: the object is in the private memory of such a child alone for a while, its
 * parent gone, until the child puts it back or dies with it. Two collectors run all the while, and the daemon is killed
 * now and then. Nothing that somebody holds may be freed (what is taken out of a slot is whole, and a live object), and
 * when all are gone, a last cycle leaves exactly what the table has.
 *
 * What does not come, or stop: memory that userfaultfd brings, in the pause and before it; clients that run other
 * programs from any of their threads; a client that is frozen. Cycles fail or have their end, and all others go on.
 *
 * Forged words: a client scribbles over bits, holds, records, words of tiny blocks, and its page of declarations. What
 * the collector then takes for garbage is that client's doing; but it ends, in time, not by a signal, nobody stays
 * stopped, and the daemon serves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "client/collector/proc.h"
#include "shm/declared.h"
#include "shm/holds.h"
#include "shm/tiny.h"
#include "tests/support/objects.h"
#include "tests/support/rawheap.h"
#include "tests/support/waits.h"

#define SLOTS      24u
#define MOVERS     5u
#define ROUND_MS   2500
#define NAP_US     3000u
#define SEAL       UINT64_C(0x0ddba11c0ffee123)
#define CYCLES_MIN 3u

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CYCLE_S_MAX 120 /* a sanitizer's shadow is private memory, too */
#else
#define CYCLE_S_MAX 30
#endif

typedef struct node {
    uint64_t seal;    /* SEAL ^ number while it lives */
    uint64_t number;
    uint64_t filler[3];
} node;

typedef struct table {
    _Atomic(node *) slots[SLOTS];
} table;

typedef struct board {
    _Atomic uint32_t over;
    _Atomic uint32_t nwrong;   /* nodes that were not whole */
    _Atomic uint32_t nturns;
    _Atomic uint32_t nborn;    /* children that hold something */
    _Atomic uint64_t last;     /* number given */
} board;

static board *the_board;
static uint64_t seed;

static board *board_new(void)
{
    board *b = mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(b != MAP_FAILED);
    return b;
}

/* --- those who move objects --- */

static void check_node(const node *p)
{
    if (p != NULL && (p->seal != (SEAL ^ p->number) || p->filler[0] != p->number || p->filler[2] != p->number + 2))
        (void)atomic_fetch_add(&the_board->nwrong, 1);
}

/* The daemon may be gone for a moment. */
#define SOON(condition)                                                                                                \
    for (int tries_ = 0; !(condition); tries_++) {                                                                     \
        CHECK(tries_ < 2000);                                                                                          \
        waits_sleep_ms(5);                                                                                             \
    }

static node *new_node(void)
{
    node *p;

    SOON((p = goalloc_malloc(sizeof(*p))) != NULL)
    p->number = atomic_fetch_add(&the_board->last, 1);
    p->seal = SEAL ^ p->number;
    for (unsigned i = 0; i < 3; i++)
        p->filler[i] = p->number + i;
    return p;
}

static void free_node(node *p)
{
    if (p == NULL)
        return;
    check_node(p);
    memset(p, 0xdd, sizeof(*p));
    if (goalloc_free_checked(p) != 0)
        (void)atomic_fetch_add(&the_board->nwrong, 1);
}

/*
 * A child that has not attached: what it holds is in its memory, where only a look at it finds it. It naps, forks one
 * like it maybe, and puts the object into a slot; what was there is nobody's. Or it dies with it.
 */
static void hold_unattached(table *t, node *volatile held, uint64_t random)
{
    (void)prctl(PR_SET_PDEATHSIG, 0);
    for (unsigned depth = 0; depth < 4; depth++) {
        (void)usleep((useconds_t)(test_random(&random) % NAP_US));
        check_node(held);
        if (test_random(&random) % 3 != 0)
            break;
        if (fork() != 0)
            _exit(0); /* whether there is a child or not */
        random ^= (uint64_t)getpid();
    }
    if (test_random(&random) % 8 == 0)
        (void)raise(SIGKILL);
    check_node(atomic_exchange(&t->slots[test_random(&random) % SLOTS], held));
    _exit(0);
}

/* One turn of an attached process. */
static void turn(table *t, uint64_t *random)
{
    uint64_t r = test_random(random);
    node *p = atomic_exchange(&t->slots[r % SLOTS], NULL);

    check_node(p);
    if (p == NULL)
        p = new_node();
    switch (r >> 8 & 31) {
    case 0:
    case 1:
        (void)atomic_fetch_add(&the_board->nborn, 1);
        if (fork() == 0)
            hold_unattached(t, p, *random ^ (uint64_t)getpid());
        p = NULL;
        if ((r >> 13 & 63) == 0)
            _exit(0); /* the child has lost its parent, and the heap a session */
        break;
    case 2: /* nobody's from here on */
        p = new_node();
        break;
    case 3:
        free_node(p);
        p = NULL;
        break;
    case 4:
        (void)(goalloc_trim() < 0); /* the daemon may be gone */
        break;
    default:
        break;
    }
    free_node(atomic_exchange(&t->slots[r >> 32 & 15], p));
    (void)atomic_fetch_add(&the_board->nturns, 1);
}

static int move(const fixture *f, void *arg)
{
    uint64_t random = seed ^ (uint64_t)getpid() << 16;
    void *t;

    (void)arg;
    (void)signal(SIGCHLD, SIG_IGN);
    must_attach(f, 0);
    SOON(goalloc_root_get("table", &t) == 0)
    for (uint64_t n = 20 + test_random(&random) % 6000; n > 0 && !atomic_load(&the_board->over); n--) {
        turn(t, &random);
        (void)usleep(50); /* so children are a few at a time */
    }
    if (test_random(&random) % 2 == 0)
        (void)raise(SIGKILL);
    return 0;
}

/* Always so many of them, until the time is over. */
static int keep_moving(const fixture *f, void *arg)
{
    (void)arg;
    while (!atomic_load(&the_board->over)) {
        pid_t pid = child_start(f, move, NULL);
        int r = child_wait(pid);

        CHECK(r == 0 || r == 1000 + SIGKILL);
    }
    return 0;
}

static int make_table(const fixture *f, void *arg)
{
    void *t;

    (void)arg;
    must_attach(f, 0);
    t = goalloc_calloc(1, sizeof(table));
    CHECK(t != NULL && goalloc_root_set("table", t) == 0);
    return 0;
}

/* How many objects the table reaches, itself among them; each is whole and lives. */
static int count_reached(const fixture *f, void *arg)
{
    uint64_t *ret = arg;
    void *p;
    table *t;

    must_attach(f, 0);
    CHECK(goalloc_root_get("table", &p) == 0);
    t = p;
    *ret = 1;
    for (uint32_t i = 0; i < SLOTS; i++) {
        node *held = atomic_load(&t->slots[i]);

        check_node(held);
        CHECK(held == NULL || goalloc_usable_size(held) >= sizeof(*held));
        *ret += held != NULL;
    }
    return 0;
}

/* --- collectors --- */

typedef struct cycle_end {
    int status; /* as child_wait() */
    bool late;
} cycle_end;

static pid_t start_cycle(const fixture *f, const char *more)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)dup2(null, STDOUT_FILENO);
        (void)dup2(null, STDERR_FILENO);
        (void)execl(GOALLOCD_COLLECTOR_PATH, GOALLOCD_COLLECTOR_PATH, "--socket", f->socket, "--once", "--max-pause",
                    "10s", more, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static cycle_end await_cycle(pid_t pid)
{
    cycle_end ret = { .late = false };
    int status = 0;

    for (int ms = 0; waitpid(pid, &status, WNOHANG) == 0; ms += 5) {
        if (ms > CYCLE_S_MAX * 1000 && !ret.late) {
            ret.late = true;
            (void)kill(pid, SIGKILL);
        }
        waits_sleep_ms(5);
    }
    ret.status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    return ret;
}

static cycle_end run_cycle(const fixture *f, const char *more)
{
    return await_cycle(start_cycle(f, more));
}

/* Cycles, one after the other, until the time is over. Those that had their end are counted. */
static int keep_collecting(const fixture *f, void *arg)
{
    _Atomic uint32_t *ncycles = arg;

    while (!atomic_load(&the_board->over)) {
        cycle_end end = run_cycle(f, NULL);

        CHECK(!end.late && end.status <= 1);
        if (end.status == 0)
            (void)atomic_fetch_add(ncycles, 1);
        else
            waits_sleep_ms(100); /* its session, too, is in the way of the other's cycle when it comes and goes */
    }
    return 0;
}

/* --- tests --- */

static uint64_t now_ms(void)
{
    return proc_now_ns() / 1000000;
}

static void objects_among_forks_and_attaches_are_kept(void **state)
{
    fixture *f = *state;
    _Atomic uint32_t *ncycles = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t *nreached = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t random = seed;
    uint64_t end = now_ms() + ROUND_MS;
    uint64_t before;
    pid_t movers[MOVERS];
    pid_t collectors[2];

    assert_true(ncycles != MAP_FAILED && nreached != MAP_FAILED);
    the_board = board_new();
    assert_int_equal(child_run(f, make_table, NULL), 0);
    for (size_t i = 0; i < MOVERS; i++)
        movers[i] = child_start(f, keep_moving, NULL);
    for (size_t i = 0; i < 2; i++)
        collectors[i] = child_start(f, keep_collecting, (void *)(uintptr_t)ncycles);
    while (now_ms() < end || atomic_load(ncycles) < CYCLES_MIN) {
        waits_sleep_ms((int64_t)(test_random(&random) % 400));
        if (test_random(&random) % 3 == 0) {
            fixture_kill(f);
            fixture_restart(f, NULL);
        }
        if (now_ms() > end + UINT64_C(1000) * CYCLE_S_MAX)
            fail_msg("%u cycles in %u ms", atomic_load(ncycles), ROUND_MS + 1000 * CYCLE_S_MAX);
    }
    atomic_store(&the_board->over, 1);
    for (size_t i = 0; i < MOVERS; i++)
        assert_int_equal(child_wait(movers[i]), 0);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(child_wait(collectors[i]), 0);
    assert_int_equal(atomic_load(&the_board->nwrong), 0);
    waits_sleep_ms(4 * (int64_t)NAP_US / 1000 + 50); /* for the last children, who are nobody's */
    before = fixture_live_with(f, 0);
    assert_int_equal(run_cycle(f, NULL).status, 0);
    assert_int_equal(child_run(f, count_reached, nreached), 0);
    print_message("seed %llu: %u turns, %u children with an object, %u cycles; %llu objects in the end, then %llu\n",
                  (unsigned long long)seed, atomic_load(&the_board->nturns), atomic_load(&the_board->nborn),
                  atomic_load(ncycles), (unsigned long long)before, (unsigned long long)*nreached);
    assert_int_equal(atomic_load(&the_board->nwrong), 0);
    assert_true(fixture_is_clean(f, *nreached));
}

/* --- a client that writes what it likes --- */

/* Objects of all kinds, so that there is something to scribble over; it goes on, and says so. */
static int live_on(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (size_t bytes = 1; bytes < 60000; bytes += bytes / 2 + 1) {
        for (int i = 0; i < 40; i++)
            CHECK(goalloc_malloc(bytes) != NULL && goalloc_malloc_noscan(bytes) != NULL);
    }
    for (;;) {
        (void)atomic_fetch_add(&the_board->nturns, 1);
        (void)usleep(1000);
    }
}

static uint64_t any_word(uint64_t *random)
{
    uint64_t r = test_random(random);

    switch (r & 7) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX;
    case 2:
        return UINT64_C(1) << (r >> 8 & 63);
    case 3:
        return r >> (r >> 8 & 63);
    default:
        return test_random(random);
    }
}

/* A page of declarations like the library's, with anything in it. */
static declared_table *forge_declared(void)
{
    int fd = memfd_create(DECLARED_NAME, MFD_CLOEXEC);
    void *p;

    CHECK(fd >= 0 && ftruncate(fd, sizeof(declared_table)) == 0);
    p = mmap(NULL, sizeof(declared_table), PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(p != MAP_FAILED);
    (void)close(fd);
    return p;
}

static void scribble_declared(declared_table *d, uint64_t *random)
{
    uint64_t r = test_random(random);
    declared_entry *e = &d->entries[r % DECLARED_ENTRIES_MAX];

    d->magic = r & 0x100 ? DECLARED_MAGIC : any_word(random);
    d->version = r & 0x200 ? DECLARED_VERSION : (uint32_t)any_word(random);
    d->nentries_max = r & 0x400 ? DECLARED_ENTRIES_MAX : (uint32_t)any_word(random);
    u32_store_relaxed(&d->flags, (uint32_t)any_word(random) & ~(r & 0x800 ? 0 : DECLARED_OPAQUE));
    u32_store_relaxed(&d->sequence, r & 0x1000 ? 0 : (uint32_t)any_word(random));
    u32_store_relaxed(&d->n, r & 0x2000 ? DECLARED_ENTRIES_MAX : (uint32_t)any_word(random));
    u64_store_relaxed(&e->start, any_word(random));
    u64_store_relaxed(&e->bytes, any_word(random));
    u64_store_relaxed(&e->kind, test_random(random) % 4);
}

static int scribble(const fixture *f, void *arg)
{
    static rawheap heap;
    uint64_t random = seed ^ 77;
    declared_table *declared = forge_declared();
    shm_u64 *arena;
    uint64_t npages;

    (void)arg;
    rawheap_open(&heap, f, 0, "scribbler");
    /* So many pages as have been used: the first ones. */
    npages = heap.map.npages < 4096 ? heap.map.npages : 4096;
    arena = mmap(NULL, npages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, heap.fds[ATTACH_FD_ARENA], 0);
    CHECK(arena != MAP_FAILED);
    for (;;) {
        page_no page = page_at(1 + test_random(&random) % (npages - 1));
        uint32_t first = u32_load_relaxed(&heap.map.page_map[page.n]);
        uint32_t word = (uint32_t)(test_random(&random) % 8);
        shm_intents *intents = shm_intents_of(&heap.map);

        if (first == 0 || first >= npages)
            continue;
        switch (test_random(&random) % 6) {
        case 0:
            u64_store_relaxed(shm_alloc_word(&heap.map, page_at(first), word), any_word(&random));
            break;
        case 1:
            u64_store_relaxed(shm_remote_word(&heap.map, page_at(first), word), any_word(&random));
            break;
        case 2:
            u32_store_relaxed(&intents->used, 1);
            u64_store_relaxed(&intents->holds[test_random(&random) % SHM_HOLDS_MAX], any_word(&random));
            break;
        case 3: {
            shm_intent *record = &intents->records[test_random(&random) % SHM_SESSIONS_MAX][word];

            u64_store_relaxed(&record->slot, any_word(&random));
            u64_store_relaxed(&record->object, (uint64_t)first * PAGE_BYTES + any_word(&random) % 8192);
            u64_store_relaxed(&record->next, any_word(&random));
            u64_store_relaxed(&record->state, test_random(&random) % 4);
            break;
        }
        case 4: /* words of objects, of tiny blocks among them */
            u64_store_relaxed(&arena[(uint64_t)first * (PAGE_BYTES / 8) + test_random(&random) % (PAGE_BYTES / 8)],
                              test_random(&random) % 2 ? heap.map.base + test_random(&random) % (npages * PAGE_BYTES)
                                                       : any_word(&random));
            break;
        default:
            scribble_declared(declared, &random);
            break;
        }
        (void)atomic_fetch_add(&the_board->nborn, 1);
    }
}

static bool is_traced_or_stopped(pid_t pid)
{
    proc_facts facts;

    return proc_facts_of(pid, &facts) < 0 || facts.state == 't' || facts.state == 'T' ||
           proc_status(pid, "TracerPid") > 0;
}

static void forged_words_keep_no_cycle_from_ending(void **state)
{
    static const char *const ways[] = { "--report", "--all", "--offsets", "--past-end", "--suspects", NULL };
    const fixture *f = *state;
    uint32_t nended = 0;
    pid_t victim;
    pid_t attacker;

    the_board = board_new();
    victim = child_start(f, live_on, NULL);
    while (atomic_load(&the_board->nturns) == 0)
        waits_sleep_ms(5);
    attacker = child_start(f, scribble, NULL);
    while (atomic_load(&the_board->nborn) < 10000)
        waits_sleep_ms(5);
    for (size_t i = 0; i < 20; i++) {
        cycle_end end = run_cycle(f, ways[i % (sizeof(ways) / sizeof(ways[0]))]);

        if (end.late || end.status > 1)
            fail_msg("seed %llu: cycle %zu: status %d%s", (unsigned long long)seed, i, end.status,
                     end.late ? ", too late" : "");
        nended += end.status == 0;
        for (int tries = 0; (is_traced_or_stopped(victim) || is_traced_or_stopped(attacker)) && tries < 200; tries++)
            waits_sleep_ms(10);
        assert_false(is_traced_or_stopped(victim) || is_traced_or_stopped(attacker));
    }
    print_message("seed %llu: %u of 20 cycles had their end, after %u forged words\n", (unsigned long long)seed, nended,
                  atomic_load(&the_board->nborn));
    (void)kill(victim, SIGKILL);
    (void)kill(attacker, SIGKILL);
    assert_int_equal(child_wait(victim), 1000 + SIGKILL);
    assert_int_equal(child_wait(attacker), 1000 + SIGKILL);
    assert_int_equal(child_run(f, make_table, NULL), 0); /* the daemon serves */
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        cycle_end end = run_cycle(f, ways[i]); /* nobody is attached, and the words are as they were left */

        assert_false(end.late);
        assert_int_equal(end.status, 0);
    }
}

/* --- memory that does not come --- */

#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif

/*
 * A process whose pages are marked as if they had content, and a reader of them waits until somebody brings it: nobody
 * does, since that would be this process, which is stopped. A file system of an attacker's own would do as well. False:
 * the kernel has no such marks.
 */
static bool mark_memory(int *ret_fd)
{
    struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_UNPOPULATED };
    struct uffdio_register region = { .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP };
    struct uffdio_writeprotect marks = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };
    void *p = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

    *ret_fd = fd;
    region.range = (struct uffdio_range){ (uint64_t)(uintptr_t)p, MIB };
    marks.range = region.range;
    return p != MAP_FAILED && fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &region) == 0 &&
           ioctl(fd, UFFDIO_WRITEPROTECT, &marks) == 0;
}

static bool withhold_memory(void)
{
    int fd;

    return mark_memory(&fd);
}

static void *bring_pages(void *arg)
{
    int fd = (int)(intptr_t)arg;
    struct uffd_msg asked;

    while (read(fd, &asked, sizeof(asked)) == (ssize_t)sizeof(asked)) {
        struct uffdio_zeropage page = { .range = { asked.arg.pagefault.address & ~UINT64_C(4095), 4096 } };

        (void)ioctl(fd, UFFDIO_ZEROPAGE, &page);
        (void)atomic_fetch_add(&the_board->last, 1);
    }
    return NULL;
}

/* An honest one, that brings its pages when they are asked for, by a thread: as soon as that is let go. */
static bool bring_memory(void)
{
    pthread_t thread;
    int fd;

    return mark_memory(&fd) && pthread_create(&thread, NULL, bring_pages, (void *)(intptr_t)fd) == 0;
}

/* The same with a table of declarations, which is looked at before anybody is stopped. */
static bool withhold_declared(void)
{
    struct uffdio_api api = { .api = UFFD_API };
    struct uffdio_register region = { .mode = UFFDIO_REGISTER_MODE_MISSING };
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

    region.range = (struct uffdio_range){ (uint64_t)(uintptr_t)forge_declared(), PAGE_BYTES };
    return fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &region) == 0;
}

static int withhold(const fixture *f, void *arg)
{
    bool (*how)(void) = *(bool (**)(void))arg;

    must_attach(f, 0);
    atomic_store(&the_board->nborn, how() ? 1 : 2);
    return pause();
}

/* A cycle beside such a process fails, and afterwards all go on. */
static void collect_beside_one_that_withholds(const fixture *f, bool (*how)(void))
{
    pid_t victim, attacker;
    cycle_end end;
    uint32_t nturns;

    the_board = board_new();
    victim = child_start(f, live_on, NULL);
    attacker = child_start(f, withhold, &how);
    while (atomic_load(&the_board->nturns) == 0 || atomic_load(&the_board->nborn) == 0)
        waits_sleep_ms(5);
    if (atomic_load(&the_board->nborn) == 1) {
        end = run_cycle(f, "--max-pause=300ms");
        assert_false(end.late);
        assert_int_equal(end.status, 1);
        nturns = atomic_load(&the_board->nturns);
        for (int tries = 0; atomic_load(&the_board->nturns) == nturns && tries < 2000; tries++)
            waits_sleep_ms(5);
        assert_int_not_equal(atomic_load(&the_board->nturns), nturns);
        assert_false(is_traced_or_stopped(victim) || is_traced_or_stopped(attacker));
    } else {
        print_message("not tried: no such userfaultfd here\n");
    }
    (void)kill(victim, SIGKILL);
    (void)kill(attacker, SIGKILL);
    assert_int_equal(child_wait(victim), 1000 + SIGKILL);
    assert_int_equal(child_wait(attacker), 1000 + SIGKILL);
    assert_int_equal(run_cycle(f, NULL).status, 0);
}

static void memory_that_does_not_come_stops_nobody_for_long(void **state)
{
    collect_beside_one_that_withholds(*state, withhold_memory);
}

static void memory_that_a_stopped_thread_brings_comes_when_it_is_let_go(void **state)
{
    collect_beside_one_that_withholds(*state, bring_memory);
    assert_true(atomic_load(&the_board->nborn) == 2 || atomic_load(&the_board->last) > 0);
}

static void a_declaration_that_does_not_come_holds_up_no_collector(void **state)
{
    collect_beside_one_that_withholds(*state, withhold_declared);
}

/* --- clients that run other programs all the time --- */

static void *exec_soon(void *arg)
{
    (void)usleep((useconds_t)(uintptr_t)arg);
    (void)execl("/bin/true", "true", (char *)NULL);
    return NULL;
}

/* It attaches, and any of its threads runs another program, while others of them do the same. */
static int exec_from_any_thread(const fixture *f, void *arg)
{
    uint64_t random = seed ^ (uint64_t)getpid();
    pthread_t thread;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_malloc(64) != NULL);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&thread, NULL, exec_soon, (void *)(uintptr_t)(test_random(&random) % 3000)) == 0);
    (void)usleep(1000);
    if (test_random(&random) % 2 == 0)
        pthread_exit(NULL); /* the first thread is gone when another one takes its number */
    return pause();
}

static int keep_running_others(const fixture *f, void *arg)
{
    (void)arg;
    while (!atomic_load(&the_board->over)) {
        CHECK(child_wait(child_start(f, exec_from_any_thread, NULL)) == 0);
        (void)atomic_fetch_add(&the_board->nborn, 1);
        waits_sleep_ms(2); /* else the heap is never without a change for as long as a cycle takes */
    }
    return 0;
}

static void clients_that_exec_all_the_time_hold_up_nobody(void **state)
{
    const fixture *f = *state;
    uint64_t end = now_ms() + 1500;
    uint32_t ncycles = 0, ndone = 0;
    pid_t victim, attacker;

    the_board = board_new();
    victim = child_start(f, live_on, NULL);
    attacker = child_start(f, keep_running_others, NULL);
    while (now_ms() < end) { /* sessions may come and go too fast for any of them */
        cycle_end cycle = run_cycle(f, ncycles % 2 ? "--all" : NULL);

        if (cycle.late || cycle.status > 1)
            fail_msg("seed %llu: cycle %u: status %d%s", (unsigned long long)seed, ncycles, cycle.status,
                     cycle.late ? ", too late" : "");
        ncycles++;
        ndone += cycle.status == 0;
    }
    print_message("seed %llu: %u of %u cycles had their end, beside %u programs that were run\n",
                  (unsigned long long)seed, ndone, ncycles, atomic_load(&the_board->nborn));
    atomic_store(&the_board->over, 1);
    assert_int_equal(child_wait(attacker), 0);
    assert_false(is_traced_or_stopped(victim));
    (void)kill(victim, SIGKILL);
    assert_int_equal(child_wait(victim), 1000 + SIGKILL);
    assert_int_equal(run_cycle(f, NULL).status, 0);
}

/* --- a client that cannot be stopped --- */

static bool write_text(const char *directory, const char *name, const char *text)
{
    char path[128];
    int fd;
    bool done;

    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        (void)close(fd);
    return done;
}

/* A cgroup of our own whose processes can be frozen, of either kind; "": there can't be one here. */
static void make_freezer(char ret[96], bool *ret_old)
{
    *ret_old = access("/sys/fs/cgroup/freezer", F_OK) == 0;
    (void)snprintf(ret, 96, "/sys/fs/cgroup/%sgoalloc-test-%d", *ret_old ? "freezer/" : "", (int)getpid());
    if (mkdir(ret, 0755) < 0)
        ret[0] = '\0';
}

static bool freeze(const char *freezer, bool old, bool frozen)
{
    return old ? write_text(freezer, "freezer.state", frozen ? "FROZEN" : "THAWED")
               : write_text(freezer, "cgroup.freeze", frozen ? "1" : "0");
}

/* Of the old kind a frozen thread can't be traced further: the cycle fails. Of the other it stops, and stays frozen. */
static void a_client_that_is_frozen_holds_up_nobody_else(void **state)
{
    const fixture *f = *state;
    char freezer[96], number[16];
    pid_t victim, frozen;
    uint32_t nturns;
    bool old;

    make_freezer(freezer, &old);
    if (freezer[0] == '\0')
        skip();
    the_board = board_new();
    frozen = child_start(f, live_on, NULL);
    while (atomic_load(&the_board->nturns) == 0)
        waits_sleep_ms(5);
    (void)snprintf(number, sizeof(number), "%d", (int)frozen);
    assert_true(write_text(freezer, "cgroup.procs", number) && freeze(freezer, old, true));
    waits_sleep_ms(50);
    the_board = board_new();
    victim = child_start(f, live_on, NULL);
    while (atomic_load(&the_board->nturns) == 0)
        waits_sleep_ms(5);
    for (int i = 0; i < 3; i++) {
        cycle_end end = run_cycle(f, "--max-pause=200ms");

        assert_false(end.late);
        assert_in_range(end.status, 0, 1);
        assert_true(!old || end.status == 1);
        nturns = atomic_load(&the_board->nturns);
        for (int tries = 0; atomic_load(&the_board->nturns) == nturns && tries < 2000; tries++)
            waits_sleep_ms(5);
        assert_int_not_equal(atomic_load(&the_board->nturns), nturns);
    }
    assert_true(freeze(freezer, old, false));
    assert_int_equal(run_cycle(f, NULL).status, 0);
    assert_false(is_traced_or_stopped(frozen));
    (void)kill(victim, SIGKILL);
    (void)kill(frozen, SIGKILL);
    assert_int_equal(child_wait(victim), 1000 + SIGKILL);
    assert_int_equal(child_wait(frozen), 1000 + SIGKILL);
    for (int tries = 0; rmdir(freezer) < 0 && tries < 400; tries++)
        waits_sleep_ms(5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(objects_among_forks_and_attaches_are_kept),
        FIXTURE_TEST(forged_words_keep_no_cycle_from_ending),
        FIXTURE_TEST(memory_that_does_not_come_stops_nobody_for_long),
        FIXTURE_TEST(memory_that_a_stopped_thread_brings_comes_when_it_is_let_go),
        FIXTURE_TEST(a_declaration_that_does_not_come_holds_up_no_collector),
        FIXTURE_TEST(clients_that_exec_all_the_time_hold_up_nobody),
        FIXTURE_TEST(a_client_that_is_frozen_holds_up_nobody_else),
    };

    seed = test_seed();
    return cmocka_run_group_tests_name("collector_attacks", tests, NULL, NULL);
}
