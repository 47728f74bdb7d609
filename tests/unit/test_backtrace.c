/*
 * Stacks: by frame pointers alone, by tables, and by what is learned from both; of threads, coroutines and signals,
 * through code without frame pointers and code that was compiled at run time, and of modules that were replaced.
 *
 * What a stack should be is known from the functions on it: each notes its own return address.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "client/lib/backtrace.h"
#include "client/lib/peek.h"
#include "client/lib/unwinder.h"

#define NOINLINE __attribute__((noinline))
#define NO_TAIL __asm__ volatile("" : : : "memory")

/* Return addresses that the stack has to name in this order, the innermost first; others may lie between. */
static uintptr_t expected[200];
static uint32_t nexpected;
static backtrace_frame frames[PROFILE_FRAMES_MAX];
static uint32_t nframes;

#define NOTE_CALLER() (expected[nexpected++] = (uintptr_t)__builtin_return_address(0))

static uintptr_t frame_address(const backtrace_frame *frame)
{
    return (uintptr_t)frame->address + (frame->module == NULL ? 0 : frame->module->base);
}

NOINLINE static int capture(void *arg)
{
    (void)arg;
    nframes = backtrace_take(__builtin_frame_address(0), frames);
    NO_TAIL;
    return 0;
}

static void check_order(void)
{
    uint32_t at = 0;

    for (uint32_t i = nexpected; i-- > 0 && at < PROFILE_FRAMES_MAX;) { /* the innermost was noted last */
        while (at < nframes && frame_address(&frames[at]) != expected[i])
            at++;
        if (at == nframes)
            fail_msg("frame %u of %u is not in the stack of %u", nexpected - 1 - i, nexpected, nframes);
    }
}

/* Functions with frame pointers: the file is compiled with them. */
NOINLINE static int inner(int (*f)(void *), void *arg)
{
    int r;

    NOTE_CALLER();
    r = f(arg);
    NO_TAIL;
    return r;
}

NOINLINE static int outer(int (*f)(void *), void *arg)
{
    int r;

    NOTE_CALLER();
    r = inner(f, arg);
    NO_TAIL;
    return r;
}

NOINLINE static int recursive(int depth, int (*f)(void *), void *arg)
{
    int r = depth > 0 ? recursive(depth - 1, f, arg) : f(arg);

    NO_TAIL;
    return r;
}

static void run(int (*f)(void *), void *arg)
{
    nexpected = 0;
    nframes = 0;
    (void)outer(f, arg);
    assert_in_range(nframes, 1, PROFILE_FRAMES_MAX);
    check_order();
}

/* --- reading --- */

static void peek_what_is_not_there_fails(void **state)
{
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    peek_room room = { 0, 0 };
    uintptr_t pair[2];
    char bytes[64];

    (void)state;
    assert_true(pages != MAP_FAILED);
    assert_int_equal(munmap(pages + 4096, 4096), 0);
    memset(pages, 'x', 4096);
    assert_true(peek(pages + 4096 - sizeof(bytes), bytes, sizeof(bytes)));
    assert_memory_equal(bytes, pages, sizeof(bytes));
    assert_false(peek(pages + 4096 - sizeof(bytes) + 1, bytes, sizeof(bytes)));
    assert_false(peek(NULL, bytes, sizeof(bytes)));
    assert_false(peek((const void *)UINTPTR_MAX, bytes, sizeof(bytes)));
    assert_false(peek((const void *)(UINTPTR_MAX / 2), bytes, sizeof(bytes)));
    assert_true(peek_pair(&room, (uintptr_t)pages, pair));
    assert_true(peek_pair(&room, (uintptr_t)pages + 4096 - sizeof(pair), pair));
    assert_false(peek_pair(&room, (uintptr_t)pages + 4096 - sizeof(pair) / 2, pair));
    assert_false(peek_pair(&room, (uintptr_t)pages + 4096, pair));
    (void)munmap(pages, 4096);
}

/* --- stacks --- */

static int call_module(void *arg)
{
    int (*call)(int (*)(void *), void *) = (int (*)(int (*)(void *), void *))(uintptr_t)arg;
    int r = call(capture, NULL);

    NO_TAIL;
    return r;
}

static uint32_t nbefore_sort;

static int compare_and_capture(const void *a, const void *b)
{
    nexpected = nbefore_sort; /* it may be called more than once */
    NOTE_CALLER();
    (void)capture(NULL);
    NO_TAIL;
    return *(const int *)a - *(const int *)b;
}

static int call_sort(void *arg)
{
    int numbers[2] = { 2, 1 };

    (void)arg;
    nbefore_sort = nexpected;
    qsort(numbers, 2, sizeof(numbers[0]), compare_and_capture);
    NO_TAIL;
    return numbers[0];
}

static int call_recursive(void *arg)
{
    int r = recursive(*(const int *)arg, capture, NULL);

    NO_TAIL;
    return r;
}

static void on_signal(int number)
{
    (void)number;
    NOTE_CALLER();
    (void)capture(NULL);
    NO_TAIL;
}

static int call_signal(void *arg)
{
    (void)arg;
    assert_int_equal(raise(SIGUSR1), 0);
    NO_TAIL;
    return 0;
}

static ucontext_t main_context;
static ucontext_t coroutine;

static void coroutine_body(void)
{
    (void)inner(capture, NULL);
    (void)swapcontext(&coroutine, &main_context);
}

static void *thread_body(void *arg)
{
    run((int (*)(void *))(uintptr_t)arg, NULL);
    return NULL;
}

static int (*load_module(const char *path, void **ret))(int (*)(void *), void *)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    assert_non_null(handle);
    *ret = handle;
    return (int (*)(int (*)(void *), void *))(uintptr_t)dlsym(handle, "stack_module_call");
}

static void take_on_other_stacks(void)
{
    static char alternate[65536];
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };
    stack_t stack = { .ss_sp = alternate, .ss_size = sizeof(alternate) };
    stack_t none = { .ss_flags = SS_DISABLE };
    char *pages = mmap(NULL, 65536 + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, thread_body, (void *)(uintptr_t)capture), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);

    assert_int_equal(sigaltstack(&stack, NULL), 0);
    assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
    nexpected = 0;
    (void)call_signal(NULL);
    assert_in_range(nframes, 1, PROFILE_FRAMES_MAX);
    assert_int_equal(sigaltstack(&none, NULL), 0);

    /* A coroutine, between pages that can't be read. */
    assert_true(pages != MAP_FAILED && mprotect(pages + 4096, 65536, PROT_READ | PROT_WRITE) == 0);
    assert_int_equal(getcontext(&coroutine), 0);
    coroutine.uc_stack = (stack_t){ .ss_sp = pages + 4096, .ss_size = 65536 };
    coroutine.uc_link = NULL;
    makecontext(&coroutine, coroutine_body, 0);
    nexpected = 0;
    assert_int_equal(swapcontext(&main_context, &coroutine), 0);
    assert_in_range(nframes, 1, PROFILE_FRAMES_MAX);
    check_order();
    (void)munmap(pages, 65536 + 8192);
}

/* Without an unwinder the frames up to the first function without frame pointer are right; all stacks end. */
static void take_without_unwinder_is_cut(void **state)
{
    void *handle;
    int (*call)(int (*)(void *), void *) = load_module(STACK_MODULE_PATH, &handle);
    int deep = 1000;

    (void)state;
    assert_false(unwinder_is_ready());
    run(capture, NULL);
    nexpected = 0;
    assert_int_equal(call_module((void *)(uintptr_t)call), 0);
    assert_in_range(nframes, 1, PROFILE_FRAMES_MAX);
    assert_string_equal(strrchr(frames[0].module->name, '/'), strrchr(STACK_MODULE_PATH, '/'));
    nexpected = 0;
    assert_int_equal(call_recursive(&deep), 0);
    assert_int_equal(nframes, PROFILE_FRAMES_MAX);
    take_on_other_stacks();
    assert_int_equal(backtrace_count().nunwound, 0);
    (void)dlclose(handle);
}

/* --- with one --- */

static void take_good_chain_learns_it(void **state)
{
    backtrace_counts before;

    (void)state;
    unwinder_load();
    assert_true(unwinder_is_ready());
    for (int i = 0; i < 3; i++)
        run(capture, NULL); /* frames of cmocka and of libc are learned */
    before = backtrace_count();
    run(capture, NULL);
    assert_int_equal(backtrace_count().nunwound + backtrace_count().npointers, before.nunwound + before.npointers + 1);
}

/* Of a loop that clang unrolls, or takes the first round out of, each call has a return address of its own. */
#ifdef __clang__
#define AS_WRITTEN __attribute__((optnone))
#else
#define AS_WRITTEN
#endif

#define TIMES 10

/* From a thread's function on all keep frame pointers: after the first time no table is asked. */
AS_WRITTEN static void *thread_many(void *arg)
{
    backtrace_counts before = { 0, 0, 0 };
    uint32_t n = 0;

    (void)arg;
    for (int i = 0; i <= TIMES; i++) {
        run(capture, NULL);
        if (i == 0) {
            before = backtrace_count();
            n = nframes;
        }
        assert_int_equal(nframes, n);
    }
    assert_int_equal(backtrace_count().npointers, before.npointers + TIMES);
    return NULL;
}

static void take_good_chain_is_not_unwound(void **state)
{
    pthread_t thread;

    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* its runtime starts threads, without frame pointers */
#endif
    assert_int_equal(pthread_create(&thread, NULL, thread_many, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void take_without_frame_pointers_is_whole(void **state)
{
    void *handle;
    int (*call)(int (*)(void *), void *) = load_module(STACK_MODULE_PATH, &handle);
    uint64_t root;
    uint32_t n = 0;

    (void)state;
    run(capture, NULL);
    assert_true(frames[nframes - 1].module->is_libc); /* what has called main() */
    root = frames[nframes - 1].address;
    for (int i = 0; i < 5; i++) {
        uint32_t of_module = 0;

        run(call_module, (void *)(uintptr_t)call);
        for (uint32_t k = 0; k < nframes; k++)
            of_module += frames[k].module != NULL && strstr(frames[k].module->name, "stack_module") != NULL;
        assert_int_equal(of_module, 4);
        assert_true(i == 0 || n == nframes);
        assert_int_equal(frames[nframes - 1].address, root); /* by whatever way: one root of all stacks */
        n = nframes;
        run(call_sort, NULL);
    }
    (void)dlclose(handle);
}

static void take_deep_stack_keeps_the_innermost(void **state)
{
    int deep = 100000 / 64;
    uint32_t same;

    (void)state;
    for (int i = 0; i < 3; i++) {
        nexpected = 0;
        assert_int_equal(call_recursive(&deep), 0);
        assert_int_equal(nframes, PROFILE_FRAMES_MAX);
        same = 0;
        for (uint32_t k = 2; k < nframes; k++)
            same += frames[k].address == frames[1].address;
        assert_int_equal(same, nframes - 2);
    }
}

static void take_other_stacks_ends(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        take_on_other_stacks();
}

/* A frame pointer that leads anywhere: into nothing, in a circle, to what is not aligned. */
static void take_hostile_frames_ends(void **state)
{
    uintptr_t *words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const uintptr_t bad[] = { 0,
                              1,
                              8,
                              UINTPTR_MAX,
                              UINTPTR_MAX - 7,
                              (uintptr_t)words,
                              (uintptr_t)words + 8,
                              (uintptr_t)words + 4096,
                              (uintptr_t)words + 4096 - 8,
                              (uintptr_t)words + 9,
                              UINT64_C(0x7fffffffeff8) };

    (void)state;
    assert_true(words != MAP_FAILED);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        for (size_t k = 0; k < 512; k++)
            words[k] = k % 2 == 0 && k < 510 ? (uintptr_t)&words[k + 2] : (uintptr_t)words;
        words[0] = bad[i];
        words[1] = (uintptr_t)take_hostile_frames_ends;
        nframes = backtrace_take(words, frames);
        assert_in_range(nframes, 0, PROFILE_FRAMES_MAX);
    }
    for (uintptr_t *at = words; at < words + 512; at++) /* random ones */
        *at = (uintptr_t)words + ((uintptr_t)at * 2654435761u >> 7) % 4096;
    for (uintptr_t *at = words; at < words + 510; at++)
        (void)backtrace_take(at, frames);
    (void)munmap(words, 4096);
}

#ifdef __x86_64__
/* push rbp; mov rbp, rsp; call rdi (with rsi as its argument); pop rbp; ret */
static const unsigned char compiled[] = { 0x55, 0x48, 0x89, 0xe5, 0x48, 0x89, 0xf8,
                                          0x48, 0x89, 0xf7, 0xff, 0xd0, 0x5d, 0xc3 };

static int call_compiled(void *arg)
{
    int (*call)(int (*)(void *), void *) = (int (*)(int (*)(void *), void *))(uintptr_t)arg;
    int r;

    NOTE_CALLER();
    r = call(capture, NULL);
    NO_TAIL;
    return r;
}

static void take_code_of_run_time_has_no_module(void **state)
{
    void *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)state;
    assert_true(code != MAP_FAILED);
    memcpy(code, compiled, sizeof(compiled));
    for (int i = 0; i < 3; i++) {
        run(call_compiled, code);
        assert_null(frames[0].module);
        assert_int_equal(frames[0].address, (uintptr_t)code + 12);
    }
    (void)munmap(code, 4096);
}
#endif

/* --- modules --- */

static void copy_file(const char *from, const char *to)
{
    char command[2048];

    (void)snprintf(command, sizeof(command), "cp -f %s %s.new && mv -f %s.new %s", from, to, to, to);
    assert_int_equal(system(command), 0);
}

/* The same path, most often the same addresses: another build id, so another module. */
static void find_replaced_module_is_another(void **state)
{
    static const char *const paths[] = { STACK_MODULE_PATH, STACK_MODULE_2_PATH };
    char dir[] = "/tmp/goalloc-backtrace-XXXXXX";
    char path[64];
    const module *found[4];

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/libmodule.so", dir);
    for (int i = 0; i < 4; i++) {
        int (*call)(int (*)(void *), void *);
        void *handle;

        copy_file(paths[i % 2], path);
        call = load_module(path, &handle);
        run(call_module, (void *)(uintptr_t)call);
        found[i] = frames[0].module;
        assert_non_null(found[i]);
        assert_true(found[i]->build_id_bytes >= 8);
        assert_int_equal(found[i]->begin, modules_find((uintptr_t)call)->begin);
        assert_int_equal(dlclose(handle), 0);
        if (i > 0)
            assert_memory_not_equal(found[i]->build_id, found[i - 1]->build_id, 8);
        if (i > 1)
            assert_memory_equal(found[i]->build_id, found[i - 2]->build_id, found[i]->build_id_bytes);
    }
    (void)unlink(path);
    (void)rmdir(dir);
}

static void number_says_path_and_build_id(void **state)
{
    profile_region *region = mmap(NULL, sizeof(*region), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const module *program = modules_find((uintptr_t)number_says_path_and_build_id);
    const module *libc = modules_find((uintptr_t)dlsym(RTLD_DEFAULT, "gnu_get_libc_version"));
    char path[512] = "";
    const char *cwd;
    void *handle;
    uint32_t n;

    (void)state;
    assert_true(region != MAP_FAILED && program != NULL && libc != NULL);
    assert_true(libc->is_libc && !program->is_libc);
    n = modules_number(program, region, 1);
    assert_in_range(n, 1, PROFILE_MODULES);
    assert_int_equal(modules_number(program, region, 1), n);
    assert_true(readlink("/proc/self/exe", path, sizeof(path) - 1) > 0);
    assert_string_equal(region->modules[n - 1].path, path);
    assert_int_equal(region->modules[n - 1].build_id_bytes, 20);
    n = modules_number(libc, region, 1);
    assert_int_equal(region->modules[n - 1].path[0], '/');
    assert_in_range(modules_number(program, region, 2), 1, PROFILE_MODULES); /* asked again: of another region */

    /* A name that is relative to where the program was. */
    cwd = getcwd(path, sizeof(path));
    assert_non_null(cwd);
    copy_file(STACK_MODULE_PATH, "/tmp/goalloc-backtrace-relative.so");
    assert_int_equal(chdir("/tmp"), 0);
    handle = dlopen("./goalloc-backtrace-relative.so", RTLD_NOW);
    assert_non_null(handle);
    assert_int_equal(chdir(cwd), 0);
    n = modules_number(modules_find((uintptr_t)dlsym(handle, "stack_module_call")), region, 1);
    assert_string_equal(region->modules[n - 1].path, "/tmp/goalloc-backtrace-relative.so");
    (void)unlink(region->modules[n - 1].path);
    (void)dlclose(handle);

    assert_null(modules_find((uintptr_t)region));
    assert_null(modules_find(0));
    assert_null(modules_find(UINTPTR_MAX));
    (void)munmap(region, sizeof(*region));
}

/* --- descriptors --- */

/*
 * A program that closes descriptors that it does not know, and opens its own: nothing is read or written there. In a
 * child, since the library does without libunwind afterwards.
 */
static void take_others_descriptors_stay_untouched(void **state)
{
    int status;
    pid_t pid = fork();

    (void)state;
    assert_true(pid >= 0);
    if (pid == 0) {
        int fds[2];
        char byte = 'x';
        char got[64];

        for (int fd = 3; fd < 1024; fd++)
            (void)close(fd);
        for (int i = 0; i < 20; i++) /* all have a byte to read */
            if (pipe2(fds, O_NONBLOCK) != 0 || write(fds[1], &byte, 1) != 1)
                _exit(1);
        take_on_other_stacks(); /* in pages that nobody has looked at yet */
        for (int fd = 3; fd < 3 + 40; fd += 2)
            if (read(fd, got, sizeof(got)) != 1 || got[0] != 'x')
                _exit(2);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* --- forks --- */

static _Atomic bool stop;

static void *walk_always(void *arg)
{
    backtrace_frame mine[PROFILE_FRAMES_MAX];

    (void)arg;
    while (!atomic_load(&stop))
        (void)backtrace_take(__builtin_frame_address(0), mine);
    return NULL;
}

/* A child of threads that walk walks, too, whatever locks they held. */
static void take_in_child_of_threads_ends(void **state)
{
    pthread_t threads[2];
    int status;

    (void)state;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, walk_always, NULL), 0);
    for (int i = 0; i < 50; i++) {
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) {
            unwinder_reset();
            (void)alarm(60);
            run(call_sort, NULL);
            _exit(nframes > 0 ? 0 : 1);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(peek_what_is_not_there_fails),
        cmocka_unit_test(take_without_unwinder_is_cut), /* before the first that loads one */
        cmocka_unit_test(take_good_chain_learns_it),
        cmocka_unit_test(take_good_chain_is_not_unwound),
        cmocka_unit_test(take_without_frame_pointers_is_whole),
        cmocka_unit_test(take_deep_stack_keeps_the_innermost),
        cmocka_unit_test(take_other_stacks_ends),
        cmocka_unit_test(take_hostile_frames_ends),
#ifdef __x86_64__
        cmocka_unit_test(take_code_of_run_time_has_no_module),
#endif
        cmocka_unit_test(find_replaced_module_is_another),
        cmocka_unit_test(number_says_path_and_build_id),
        cmocka_unit_test(take_others_descriptors_stay_untouched),
        cmocka_unit_test(take_in_child_of_threads_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
