/*
 * test_collector_threads: what a collector sees of the threads that it stops: registers, thread-local storage, and
 * stacks of all kinds; what calls have left below a stack pointer it does not see.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "tests/support/collecting.h"

#define STACK_BYTES (256u << 10)

#if defined(__x86_64__) || defined(__aarch64__)
static int keep_in_vector_register(const fixture *f, void *arg)
{
    uint64_t p;

    (void)arg;
    must_attach(f, 0);
    p = (uint64_t)(uintptr_t)goalloc_malloc(100);
    board_say((void *)(uintptr_t)p, NULL);
    p = ~p;
#if defined(__x86_64__)
    __asm__ volatile("notq %0\n\tmovq %0, %%xmm13\n\tpslldq $8, %%xmm13\n\txorq %0, %0\n1:\tpause\n\tjmp 1b"
                     : "+r"(p)
                     :
                     : "xmm13", "cc", "memory");
#else
    __asm__ volatile("mvn %0, %0\n\tmov v13.d[1], %0\n\tmov %0, #0\n1:\tyield\n\tb 1b" : "+r"(p) : : "v13", "memory");
#endif
    return 0;
}

static void vector_registers_are_seen(void **state)
{
    must_be_found_in(*state, keep_in_vector_register, NULL, WORDS_REGISTERS);
}
#endif

static __thread void *volatile thread_slot;

static void *keep_in_thread(void *arg)
{
    (void)arg;
    thread_slot = goalloc_malloc(100);
    board_say(thread_slot, (void *)&thread_slot);
    wait_to_be_killed();
    return NULL;
}

/* The first thread waits beside it. */
static int run_thread(const fixture *f, void *(*fn)(void *))
{
    pthread_t thread;

    must_attach(f, 0);
    CHECK(pthread_create(&thread, NULL, fn, NULL) == 0);
    wait_to_be_killed();
    return 0;
}

static int keep_in_tls(const fixture *f, void *arg)
{
    (void)arg;
    return run_thread(f, keep_in_thread);
}

static void thread_local_storage_is_seen(void **state)
{
    must_be_found_in(*state, keep_in_tls, NULL, WORDS_STACK);
}

static void await_the_first_threads_end(void)
{
    while (state_of(getpid()) != 'Z')
        (void)usleep(1000);
}

static void *outlive_the_first_thread(void *arg)
{
    void *volatile slot = goalloc_malloc(100);

    (void)arg;
    await_the_first_threads_end();
    board_say(slot, (void *)&slot);
    wait_to_be_killed();
    return NULL;
}

static int end_the_first_thread(const fixture *f, void *arg)
{
    pthread_t thread;

    (void)arg;
    must_attach(f, 0);
    CHECK(pthread_create(&thread, NULL, outlive_the_first_thread, NULL) == 0);
    pthread_exit(NULL);
    return 0;
}

static void a_process_whose_first_thread_has_ended_is_seen(void **state)
{
    must_be_found_in(*state, end_the_first_thread, NULL, WORDS_STACK);
}

/* In a forked child, which has not called the library. */
static void *outlive_the_childs_first_thread(void *arg)
{
    void **slot = arg;

    await_the_first_threads_end();
    board_say(*slot, slot);
    wait_to_be_killed();
    return NULL;
}

static int end_a_childs_first_thread(const fixture *f, void *arg)
{
    void **slot = private_pages(1);
    pthread_t thread;
    void *p;

    (void)arg;
    must_attach(f, 0);
    p = goalloc_malloc(100);
    if (fork() == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        *slot = p;
        CHECK(pthread_create(&thread, NULL, outlive_the_childs_first_thread, slot) == 0);
        (void)syscall(SYS_exit, 0);
    }
    wait_to_be_killed();
    return 0;
}

static void a_forked_child_whose_first_thread_has_ended_is_seen(void **state)
{
    assert_int_equal(look_at(*state, end_a_childs_first_thread, NULL, WORDS_MEMORY), 0);
    assert_true(the_board->found);
    assert_int_equal(the_board->nprocesses, 2);
}

/* A stack of the program's own: where it ends, nobody can tell from data below it. */
typedef struct own_stack {
    size_t without_access; /* bytes of memory below it */
    size_t bytes;
} own_stack;

static void *run_on_own_stack(void *arg)
{
    void **slot = arg;

    board_say(*slot, slot);
    wait_to_be_killed();
    return NULL;
}

static int keep_below_own_stack(const fixture *f, void *arg)
{
    const own_stack *own = arg;
    char *map = mmap(NULL, own->without_access + own->bytes + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void **slot = (void **)(void *)(map + own->without_access);
    struct rlimit limit;
    pthread_attr_t attr;
    pthread_t thread;

    CHECK(map != MAP_FAILED && mprotect(slot, own->bytes, PROT_READ | PROT_WRITE) == 0);
    CHECK(getrlimit(RLIMIT_STACK, &limit) == 0);
    limit.rlim_cur = (rlim_t)8 << 20;
    CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
    must_attach(f, 0);
    *slot = goalloc_malloc(100);
    CHECK(pthread_attr_init(&attr) == 0 && pthread_attr_setstack(&attr, slot, own->bytes) == 0);
    CHECK(pthread_create(&thread, &attr, run_on_own_stack, slot) == 0);
    wait_to_be_killed();
    return 0;
}

static void data_below_a_stack_that_is_no_larger_than_its_limit_is_seen_without_a_guard(void **state)
{
    own_stack own = { .without_access = (size_t)60 << 20, .bytes = (size_t)1 << 20 }; /* as above a malloc() arena */

    must_be_found_in(*state, keep_below_own_stack, &own, WORDS_STACK);
}

static void data_below_a_stack_is_seen_if_the_mapping_is_larger_than_a_stack(void **state)
{
    own_stack own = { .without_access = 4096, .bytes = (size_t)16 << 20 };

    must_be_found_in(*state, keep_below_own_stack, &own, WORDS_STACK);
}

static void keep_on_this_stack(int signal)
{
    void *volatile slot = goalloc_malloc(100);

    (void)signal;
    board_say(slot, (void *)&slot);
    wait_to_be_killed();
}

static int keep_on_signal_stack(const fixture *f, void *arg)
{
    stack_t stack = { .ss_sp = private_pages(STACK_BYTES / 4096), .ss_size = STACK_BYTES };
    struct sigaction action = { .sa_handler = keep_on_this_stack, .sa_flags = SA_ONSTACK };

    (void)arg;
    must_attach(f, 0);
    CHECK(sigaltstack(&stack, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
    (void)raise(SIGUSR1); /* the handler may allocate: nothing of the library is interrupted */
    return 0;
}

static void a_signals_stack_is_seen(void **state)
{
    must_be_found_in(*state, keep_on_signal_stack, NULL, WORDS_STACK);
}

static ucontext_t outside, coroutine;

static void make_coroutine(void (*fn)(void))
{
    CHECK(getcontext(&coroutine) == 0);
    coroutine.uc_stack.ss_sp = private_pages(STACK_BYTES / 4096);
    coroutine.uc_stack.ss_size = STACK_BYTES;
    makecontext(&coroutine, fn, 0);
}

static void keep_and_leave(void)
{
    void *volatile slot = goalloc_malloc(100);

    the_board->not_offset = ~goalloc_offset(slot);
    the_board->not_address = ~(uint64_t)(uintptr_t)&slot;
    (void)swapcontext(&coroutine, &outside);
}

/* A coroutine that has been left, whose stack no register points to. */
static int keep_on_coroutines_stack(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    make_coroutine(keep_and_leave);
    CHECK(swapcontext(&outside, &coroutine) == 0);
    the_board->pid = getpid();
    atomic_store(&the_board->ready, 1);
    wait_to_be_killed();
    return 0;
}

static void the_stack_of_a_coroutine_that_sleeps_is_seen(void **state)
{
    must_be_found_in(*state, keep_on_coroutines_stack, NULL, WORDS_MEMORY);
}

/* The other way round: the process's own stack, while a coroutine runs. */
static int keep_below_a_coroutine(const fixture *f, void *arg)
{
    void *volatile slot;

    (void)arg;
    must_attach(f, 0);
    slot = goalloc_malloc(100);
    make_coroutine(wait_to_be_killed);
    board_say(slot, (void *)&slot);
    (void)swapcontext(&outside, &coroutine);
    return 0;
}

static void the_stack_that_a_coroutine_was_entered_from_is_seen(void **state)
{
    must_be_found_in(*state, keep_below_a_coroutine, NULL, WORDS_MEMORY);
}

__attribute__((noinline)) static void leave_deep_below(void *p)
{
    void *volatile slots[1024];

    for (size_t i = 0; i < 1024; i++)
        slots[i] = NULL;
    slots[8] = p;
    the_board->not_address = ~(uint64_t)(uintptr_t)&slots[8];
}

static void *leave_and_wait(void *arg)
{
    void *p = goalloc_malloc(100);

    (void)arg;
    leave_deep_below(p);
    the_board->not_offset = ~goalloc_offset(p);
    the_board->pid = getpid();
    atomic_store(&the_board->ready, 1);
    wait_to_be_killed();
    return NULL;
}

static int leave_in_thread(const fixture *f, void *arg)
{
    (void)arg;
    return run_thread(f, leave_and_wait);
}

static void what_calls_have_left_below_a_threads_stack_pointer_does_not_count(void **state)
{
    must_not_be_found(*state, leave_in_thread, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#if defined(__x86_64__) || defined(__aarch64__)
        FIXTURE_TEST(vector_registers_are_seen),
#endif
        FIXTURE_TEST(thread_local_storage_is_seen),
        FIXTURE_TEST(a_process_whose_first_thread_has_ended_is_seen),
        FIXTURE_TEST(a_forked_child_whose_first_thread_has_ended_is_seen),
        FIXTURE_TEST(data_below_a_stack_that_is_no_larger_than_its_limit_is_seen_without_a_guard),
        FIXTURE_TEST(data_below_a_stack_is_seen_if_the_mapping_is_larger_than_a_stack),
        FIXTURE_TEST(a_signals_stack_is_seen),
        FIXTURE_TEST(the_stack_of_a_coroutine_that_sleeps_is_seen),
        FIXTURE_TEST(the_stack_that_a_coroutine_was_entered_from_is_seen),
        FIXTURE_TEST(what_calls_have_left_below_a_threads_stack_pointer_does_not_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
