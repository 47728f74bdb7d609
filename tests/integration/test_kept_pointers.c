/*
 * Kept pointers: while a call works on an object, a process that is stopped shows a pointer to it, after whichever
 * instruction. A collector (client/collector) relies on it: it would free what nobody is seen to hold, and the call
 * would go on with the next object of that place.
 *
 * A child makes one call with a pointer that nothing else in the process has, one instruction after the other. The
 * object is the heap's, and in a span that the child does not lease. In the registers, or in the words of the stack
 * from 128 bytes below its pointer on, the object's address must be there as long as the call has not had its effect: the
 * remote bit, the root, the adoption.
 *
 * Of objects in spans that a process leases there may be a moment without any pointer, in malloc and in a free of its
 * own. So what is in such a span is left alone, also with --all, while a thread of the process is in the library.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <elf.h>
#include <jansson.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/user.h>

#include "tests/support/attach.h"
#include "tests/support/steps.h"

#define HIDE      UINT64_C(0x5a5a5a5a5a5a5a5a)
#define STEPS_MAX 2000000u
#define ROOT      "kept"
#define STACK_MAX 8192u /* words */

/*
 * EPILOGUE_STEPS: of the end of a call that has had its effect, and of the mark behind it, which takes some 40; the
 * address sanitizer cleans up what it has noted of the frames. FREED_LEAST: of the objects that a living process has
 * lost; the sanitizer's frames keep words for longer.
 */
#if defined(__SANITIZE_ADDRESS__)
#define EPILOGUE_STEPS 400u
#define FREED_LEAST    10u
#else
#define EPILOGUE_STEPS 60u
#define FREED_LEAST    (LOST - 5)
#endif

/* What the child is to do: the address is hidden, and the frames below hold it only as long as the call does. */
enum call { CALL_FREE, CALL_FREE_CHECKED, CALL_ROOT_SET, CALL_ROOT_CHANGE, CALL_ADOPT, NCALLS };

typedef struct work {
    enum call call;
    uint64_t hidden;
} work;

static const char *const names[NCALLS] = { "goalloc_free", "goalloc_free_checked", "goalloc_root_set",
                                           "goalloc_root_compare_and_set", "goalloc_adopt" };

__attribute__((noinline)) static void *uncover(uint64_t hidden)
{
    return (void *)(uintptr_t)(hidden ^ HIDE);
}

__attribute__((noinline)) static int make_call(const volatile work *w)
{
    switch (w->call) {
    case CALL_FREE:
        goalloc_free(uncover(w->hidden));
        return 0;
    case CALL_FREE_CHECKED:
        return goalloc_free_checked(uncover(w->hidden));
    case CALL_ROOT_SET:
        return goalloc_root_set(ROOT, uncover(w->hidden));
    case CALL_ROOT_CHANGE:
        return goalloc_root_compare_and_set(ROOT, NULL, uncover(w->hidden));
    default:
        return goalloc_adopt(uncover(w->hidden));
    }
}

/* What earlier calls have left on the stack is no pointer that this call keeps. */
__attribute__((noinline)) static void wipe_stack(void)
{
    volatile char wiped[STACK_MAX * 4];

    for (size_t i = 0; i < sizeof(wiped); i++)
        wiped[i] = 0;
}

static int call_in_steps(const fixture *f, void *arg)
{
    volatile work w = *(const work *)arg;
    void *first;

    must_attach(f, w.call == CALL_ADOPT ? GOALLOC_ATTACH_RECLAIM : 0);
    first = goalloc_malloc(64);
    CHECK(first != NULL && goalloc_root_set("first", first) == 0 && goalloc_root_set("first", NULL) == 0);
    CHECK(goalloc_free_checked(first) == 0 && goalloc_free_checked(uncover(w.hidden) + 1) < 0 && steps_begin());
    wipe_stack();
    steps_mark();
    CHECK(make_call(&w) == 0);
    steps_mark();
    return 0;
}

/* --- the stopped child --- */

static bool has_word(const uint64_t *words, size_t nwords, uint64_t word)
{
    for (size_t i = 0; i < nwords; i++) {
        if (words[i] == word)
            return true;
    }
    return false;
}

static uint64_t stack_pointer(const struct user_regs_struct *regs)
{
#if defined(__x86_64__)
    return regs->rsp;
#else
    return regs->sp;
#endif
}

static void read_registers(pid_t pid, struct user_regs_struct *ret)
{
    struct iovec got = { ret, sizeof(*ret) };

    assert_int_equal(ptrace(PTRACE_GETREGSET, pid, (void *)(uintptr_t)NT_PRSTATUS, &got), 0);
}

/* frames_end: of the stack, what the call has below that address counts. Above are the test's own copies. */
static bool shows(pid_t pid, uint64_t address, uint64_t frames_end)
{
    static uint64_t stack[STACK_MAX];
    struct user_regs_struct regs;
    struct iovec here = { stack, 0 };
    struct iovec there;
    uint64_t from;

    read_registers(pid, &regs);
    if (has_word((const uint64_t *)&regs, sizeof(regs) / sizeof(uint64_t), address))
        return true;
    from = (stack_pointer(&regs) - 128) & ~UINT64_C(7);
    here.iov_len = from < frames_end ? frames_end - from : 0;
    assert_in_range(here.iov_len, 0, sizeof(stack));
    there = (struct iovec){ (void *)(uintptr_t)from, here.iov_len };
    assert_int_equal(process_vm_readv(pid, &here, 1, &there, 1, 0), here.iov_len);
    return has_word(stack, here.iov_len / sizeof(uint64_t), address);
}

static bool is_freed(enum call call, uint64_t address)
{
    return (call == CALL_FREE || call == CALL_FREE_CHECKED) && goalloc_usable_size((void *)(uintptr_t)address) == 0;
}

/* --- tests --- */

static void one_call(const fixture *f, enum call call)
{
    void *p = goalloc_malloc(64);
    uint64_t address = (uint64_t)(uintptr_t)p;
    work w = { .call = call, .hidden = address ^ HIDE };
    struct user_regs_struct at_mark;
    uint64_t nsteps = 0;
    uint64_t nshown = 0;
    bool alive = true;
    pid_t pid;

    assert_non_null(p);
    pid = child_start(f, call_in_steps, &w);
    if (!steps_start(pid))
        skip(); /* the system allows no tracing */
    read_registers(pid, &at_mark);
    while (nsteps < STEPS_MAX && steps_take(pid, 1, &alive) == 1) {
        bool shown = shows(pid, address, stack_pointer(&at_mark));

        nsteps++;
        if (!shown && nshown > 0 && !is_freed(call, address)) {
            /* It may be over, and only the end of the program's own call be left. */
            uint64_t left = 0;

            while (left < EPILOGUE_STEPS && steps_take(pid, 1, &alive) == 1)
                left++;
            if (left == EPILOGUE_STEPS)
                fail_msg("%s: after %llu instructions nothing shows the object", names[call],
                         (unsigned long long)nsteps);
            break;
        }
        nshown += shown;
    }
    assert_true(alive);
    assert_in_range(nshown, 10, STEPS_MAX - 1);
    print_message("%s: %llu instructions, shown after %llu\n", names[call], (unsigned long long)nsteps,
                  (unsigned long long)nshown);
    (void)steps_kill(pid);
    if (call == CALL_ROOT_SET || call == CALL_ROOT_CHANGE) {
        assert_int_equal(goalloc_root_set(ROOT, NULL), 0);
        assert_int_equal(goalloc_free_checked(p), 0);
    } else if (call == CALL_ADOPT) {
        int r = goalloc_free_checked(p); /* it may have gone with its session */

        assert_true(r == 0 || r == -EALREADY || r == -EINVAL);
    }
}

static void objects_in_calls_are_shown_after_each_instruction(void **state)
{
    const fixture *f = *state;

    must_attach(f, 0);
    for (enum call call = 0; call < NCALLS; call++)
        one_call(f, call);
    assert_int_equal(goalloc_detach(), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- a thread in the library --- */

#define LOST 50u

/* Objects that nobody holds, in spans that this process leases; then it waits in the library for a root. */
static int lose_and_wait(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    for (unsigned i = 0; i < LOST; i++)
        CHECK(goalloc_malloc(200) != NULL);
    CHECK(goalloc_root_set("lost", goalloc_malloc(64)) == 0);
    CHECK(goalloc_root_wait("go on", -1, &p) == 0);
    wipe_stack();
    CHECK(goalloc_root_set("lost", NULL) == 0);
    for (;;)
        (void)pause();
}

static uint64_t freed_with_all(const fixture *f)
{
    const char *arguments[] = { "--json", "leaks", "--free", "--all", "--max-pause", "5000", "--rows", "1", NULL };
    static char out[1 << 16];
    json_t *answer = NULL;
    uint64_t ret;

    if (fixture_ctl(f, arguments, out, sizeof(out)) == 0)
        answer = json_loads(out, 0, NULL);
    if (answer == NULL)
        fail_msg("%s", out);
    ret = (uint64_t)json_integer_value(json_object_get(answer, "freed_objects"));
    json_decref(answer);
    return ret;
}

static void objects_of_spans_that_a_process_leases_stay_while_it_is_in_the_library(void **state)
{
    const fixture *f = *state;
    pid_t pid = child_start(f, lose_and_wait, NULL);
    uint64_t nfreed = 0;
    void *p = NULL;

    must_attach(f, 0);
    assert_int_equal(goalloc_root_wait("lost", 10000, &p), 0);
    for (int i = 0; i < 20; i++)
        assert_int_equal(freed_with_all(f), 0);
    assert_int_equal(goalloc_root_set("go on", p), 0);
    for (int i = 0; i < 2000 && goalloc_root_get("lost", &p) == 0; i++)
        (void)usleep(5000);
    assert_int_equal(goalloc_root_set("go on", NULL), 0);
    for (int i = 0; i < 100 && nfreed < FREED_LEAST; i++, (void)usleep(5000)) /* it is on its way out of the library */
        nfreed += freed_with_all(f);
    assert_in_range(nfreed, FREED_LEAST, LOST + 1); /* a word may look like a pointer */
    (void)kill(pid, SIGKILL);
    assert_int_equal(child_wait(pid), 1000 + SIGKILL);
    assert_int_equal(goalloc_detach(), 0);
    (void)fixture_live_with(f, 0);
    nfreed += freed_with_all(f);
    assert_int_equal(nfreed, LOST + 1);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = { FIXTURE_TEST(objects_in_calls_are_shown_after_each_instruction),
                                      FIXTURE_TEST(
                                          objects_of_spans_that_a_process_leases_stay_while_it_is_in_the_library) };

    return cmocka_run_group_tests_name("kept_pointers", tests, NULL, NULL);
}
