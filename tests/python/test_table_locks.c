/*
 * What a table and its blocks do where others are in the way (python/src/goalloc/table.c, block.c, process.c): a
 * wake-up that a killed waiter has taken along, too many threads that link at the same time, and a process whose first
 * thread has ended while the others live.
 *
 * goalloc_link() and goalloc_unlink_free() are wrapped (ld's --wrap): they answer -EAGAIN as often as a test says. What
 * hangs is ended by an alarm.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "python/src/goalloc/block.h"
#include "python/src/goalloc/process.h"
#include "python/src/goalloc/table.h"
#include "tests/support/attach.h"

#define WAIT_MS 5000
#define HANG_S 60
#define ONE_STRIPE (1u << 20)
#define FOR_LONG 1000000000

int __real_goalloc_link(void **slot, void *p);
int __real_goalloc_unlink_free(void **slot, void *next);
int __wrap_goalloc_link(void **slot, void *p);
int __wrap_goalloc_unlink_free(void **slot, void *next);

static int nfailing_links, nfailing_unlinks;

int __wrap_goalloc_link(void **slot, void *p)
{
    return nfailing_links > 0 && nfailing_links-- > 0 ? -EAGAIN : __real_goalloc_link(slot, p);
}

int __wrap_goalloc_unlink_free(void **slot, void *next)
{
    return nfailing_unlinks > 0 && nfailing_unlinks-- > 0 ? -EAGAIN : __real_goalloc_unlink_free(slot, next);
}

static void put(table *t, const char *key)
{
    entry *e = entry_new(t, key, strlen(key), 1);

    CHECK(e != NULL);
    CHECK(table_store(t, e, WAIT_MS, NULL, NULL) == 1);
}

/* --- a wake-up that is lost --- */

typedef struct pages {
    table *t;
    atomic_int is_locked;
} pages;

/*
 * Lock the stripe, wait until somebody sleeps for it, and leave it as it is when unlock has woken a waiter, somebody
 * else has taken the mutex and let go of it, and the one who was woken has been killed: free, with a sleeper.
 */
static int unlock_and_wake_nobody(const fixture *f, void *arg)
{
    static struct {
        void *list[3];
    } empty;
    pages *p = arg;
    pthread_mutex_t *mutex = &p->t->stripes[0].mutex;

    (void)f;
    CHECK(pthread_mutex_lock(mutex) == 0);
    atomic_store(&p->is_locked, 1);
    while ((__atomic_load_n(&mutex->__data.__lock, __ATOMIC_SEQ_CST) & (int)0x80000000) == 0)
        (void)usleep(100);
    (void)usleep(1000); /* from the word to the sleep */
    empty.list[0] = &empty;
    CHECK(syscall(SYS_set_robust_list, &empty, sizeof(empty)) == 0); /* the kernel finds nothing to do at the end */
    __atomic_store_n(&mutex->__data.__lock, 0, __ATOMIC_SEQ_CST);
    _exit(0);
}

static void lock_whose_wake_up_was_lost_is_taken(void **state)
{
    pages *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid;

    assert_ptr_not_equal(p, MAP_FAILED);
    must_attach(*state, GOALLOC_ATTACH_RECLAIM);
    assert_int_equal(table_open("locks", 0, &p->t), 0);
    pid = child_start(*state, unlock_and_wake_nobody, p);
    while (atomic_load(&p->is_locked) == 0)
        (void)usleep(100);
    assert_int_equal(table_lock_stripe(&p->t->stripes[0], WAIT_MS), 0);
    table_unlock(&p->t->stripes[0]);
    assert_int_equal(child_wait(pid), 0);
    assert_int_equal(goalloc_detach(), 0);
    (void)munmap(p, sizeof(*p));
}

static void lock_of_one_who_keeps_it_is_busy_after_the_time(void **state)
{
    table *t;
    pid_t pid;
    pages *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    must_attach(*state, GOALLOC_ATTACH_RECLAIM);
    assert_int_equal(table_open("kept", 0, &t), 0);
    p->t = t;
    assert_int_equal(table_lock_stripe(&t->stripes[0], 0), 0);
    pid = fork();
    if (pid == 0)
        _exit(table_lock_stripe(&t->stripes[0], 0) == -EBUSY && table_lock_stripe(&t->stripes[0], 20) == -EBUSY &&
                      table_lock_stripe(&t->stripes[0], 120) == -EBUSY
                  ? 0
                  : 1);
    assert_int_equal(child_wait(pid), 0);
    table_unlock(&t->stripes[0]);
    assert_int_equal(goalloc_detach(), 0);
    (void)munmap(p, sizeof(*p));
}

/* --- too many who link --- */

static void array_that_could_not_be_freed_is_freed_by_the_next_one(void **state)
{
    char key[16];
    table *t;
    uint64_t before;

    must_attach(*state, GOALLOC_ATTACH_RECLAIM);
    assert_int_equal(table_open("grows", ONE_STRIPE, &t), 0);
    for (int i = 0; i < 12; i++) {
        (void)snprintf(key, sizeof(key), "key%d", i);
        put(t, key);
    }
    before = fixture_live_with(*state, 1);
    nfailing_unlinks = 1000; /* as many as are tried: the array that this one replaces stays for now */
    put(t, "one more than its array takes");
    assert_int_equal(nfailing_unlinks, 0);
    assert_non_null(t->stripes[0].places->replaced);
    assert_int_equal(table_lock_stripe(&t->stripes[0], 0), -EBUSY); /* a repair comes first */
    assert_int_equal(table_lock_stripe(&t->stripes[0], WAIT_MS), 0);
    assert_null(t->stripes[0].places->replaced);
    table_unlock(&t->stripes[0]);
    assert_int_equal(fixture_live_with(*state, 1), before + 1);
    assert_int_equal(goalloc_detach(), 0);
}

/* So many processes that live that a block has no word left for another one. */
static size_t hold_by_many(const fixture *f, table *t, const block *b, holder *ret_next)
{
    const holder who[] = { (holder)getpid(), (holder)getppid(), 1, (holder)f->daemon };
    size_t n = 1; /* by who has shared it */
    block *same;

    for (size_t i = 0; n < BLOCK_HOLDERS; i++, n++) {
        holder h = i / 4 == 0 ? who[i] : block_handle(who[i % 4]);

        assert_int_equal(block_hold(t, b->key, h, WAIT_MS, &same), 0);
    }
    *ret_next = BLOCK_FOR_EVER;
    return n;
}

static void blocks_give_up_when_too_many_link(void **state)
{
    table *t;
    block *b, *same;
    holder next;
    uint64_t n;
    int r;

    must_attach(*state, GOALLOC_ATTACH_RECLAIM);
    assert_int_equal(blocks_open(&t), 0);
    b = block_new(100);
    assert_non_null(b);
    assert_int_equal(block_share(t, b, block_self(), WAIT_MS), 0);
    assert_int_equal(hold_by_many(*state, t, b, &next), BLOCK_HOLDERS);

    (void)alarm(HANG_S);
    assert_int_equal(block_hold(t, b->key, next, 0, &same), -EBUSY); /* it takes memory */
    nfailing_links = FOR_LONG;
    assert_int_equal(block_hold(t, b->key, next, WAIT_MS, &same), -EAGAIN);
    nfailing_links = 0;
    assert_null(b->more);
    assert_int_equal(block_hold(t, b->key, next, WAIT_MS, &same), 0);
    assert_non_null(b->more);

    for (size_t i = 0; i < BLOCK_HOLDERS; i++) /* all but those of this process: as if they had ended */
        if ((atomic_load(&b->words[i]) & 0xffffffffffff) != block_self())
            atomic_store(&b->words[i], 0);
    atomic_store(&b->more->words[0], 0);
    nfailing_unlinks = FOR_LONG;
    r = block_drop(t, b->key, block_self(), true, WAIT_MS);
    assert_int_equal(r, 0);
    assert_int_equal(block_drop(t, b->key, block_self(), true, WAIT_MS), BLOCK_E_GONE);
    nfailing_unlinks = 0;
    assert_int_equal(block_collect(t, WAIT_MS, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(table_count(t), 0);
    (void)alarm(0);
    assert_int_equal(goalloc_detach(), 0);
}

/* --- a process without its first thread --- */

static void *sleep_on(void *unused)
{
    (void)unused;
    for (;;)
        (void)pause();
    return NULL;
}

static int go_on_without_the_first_thread(const fixture *f, void *arg)
{
    pthread_t thread;

    (void)f;
    (void)arg;
    CHECK(pthread_create(&thread, NULL, sleep_on, NULL) == 0);
    pthread_exit(NULL);
}

static char state_of(pid_t pid)
{
    char path[32], text[512] = "", *p;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    file = fopen(path, "r");
    if (file == NULL || fgets(text, sizeof(text), file) == NULL)
        text[0] = '\0';
    if (file != NULL)
        (void)fclose(file);
    p = strrchr(text, ')');
    return p != NULL && strlen(p) > 2 ? p[2] : '\0';
}

static void process_whose_first_thread_has_ended_lives(void **state)
{
    pid_t pid = child_start(*state, go_on_without_the_first_thread, NULL);
    holder who;

    while (state_of(pid) != 'Z')
        (void)usleep(1000);
    who = (holder)pid | (process_look(pid).start & 0x1ffffff) << 22;
    assert_true(holder_is_alive(who));
    assert_false(process_look(pid).has_ended);
    assert_int_equal(kill(pid, SIGKILL), 0);
    for (int i = 0; i < HANG_S * 1000 && holder_is_alive(who); i++) /* nobody has waited for it: a zombie, all of it */
        (void)usleep(1000);
    assert_false(holder_is_alive(who));
    assert_int_equal(child_wait(pid), 1000 + SIGKILL);
    assert_false(holder_is_alive(who));
    assert_int_equal(process_look(pid).start, 0);
    assert_true(holder_is_alive(block_self()));
    assert_true(holder_is_alive(block_self() & 0x3fffff));                /* a start that is not known */
    assert_false(holder_is_alive(1 | (process_look(1).start + 1) << 22)); /* another process with this number */
}

/* A child that is being forked holds, whoever lives, for a minute. */
static void reservation_counts_for_a_minute(void **state)
{
    const holder now = block_reservation(), second = (holder)1 << 22;

    (void)state;
    assert_true(holder_is_alive(now));
    assert_true(holder_is_alive(now - 50 * second));
    assert_false(holder_is_alive(now - 70 * second));
    assert_false(holder_is_alive(now + 70 * second)); /* of a boot before: the heap was loaded */
    assert_true(holder_is_alive(BLOCK_FOR_EVER));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(lock_whose_wake_up_was_lost_is_taken),
        FIXTURE_TEST(lock_of_one_who_keeps_it_is_busy_after_the_time),
        FIXTURE_TEST(array_that_could_not_be_freed_is_freed_by_the_next_one),
        FIXTURE_TEST(blocks_give_up_when_too_many_link),
        FIXTURE_TEST(process_whose_first_thread_has_ended_lives),
        cmocka_unit_test(reservation_counts_for_a_minute),
    };

    return cmocka_run_group_tests_name("table_locks", tests, NULL, NULL);
}
