/*
 * The library as it comes into a process and leaves it: frees of NULL before and during the first attach, a module that
 * has the static library in it and is unloaded, and the texts of errors, of which a wrong option is the first that a
 * program may see.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "tests/support/objects.h"

/* --- the first attach --- */

#define THREADS 4
#define ROUNDS 50

static atomic_bool stop;
static atomic_int nrunning;

static void *free_nothing(void *data)
{
    char outside;

    (void)atomic_fetch_add(&nrunning, 1);
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        goalloc_free(NULL);
        CHECK(goalloc_free_checked(NULL) == 0);
        CHECK(goalloc_free_checked(&outside) < 0);
        CHECK(goalloc_contains(&outside) == 0);
        CHECK(goalloc_offset(NULL) == 0 && goalloc_pointer(0) == NULL);
        CHECK(goalloc_usable_size(NULL) == 0);
    }
    return data;
}

static int attach_while_others_free_nothing(const fixture *f, void *arg)
{
    pthread_t threads[THREADS];

    (void)arg;
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, free_nothing, NULL) == 0);
    while (atomic_load(&nrunning) < THREADS)
        (void)sched_yield();
    must_attach(f, 0);
    for (int i = 0; i < 1000; i++)
        goalloc_free(filled(100, 1));
    atomic_store(&stop, true);
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    return 0;
}

static void free_of_null_during_the_first_attach_does_nothing(void **state)
{
    for (int round = 0; round < ROUNDS; round++)
        assert_int_equal(child_run(*state, attach_while_others_free_nothing, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- a module --- */

typedef struct module {
    int (*attach)(const char *socket_path);
    int (*use)(void);
    int (*detach)(void);
    atomic_int nused; /* threads that have used it */
    atomic_bool gone;
} module;

static void *load(module *m)
{
    void *handle = dlopen(UNLOAD_MODULE_PATH, RTLD_NOW | RTLD_LOCAL);

    if (handle == NULL)
        (void)fprintf(stderr, "%s\n", dlerror());
    CHECK(handle != NULL);
    *(void **)&m->attach = dlsym(handle, "unload_module_attach");
    *(void **)&m->use = dlsym(handle, "unload_module_use");
    *(void **)&m->detach = dlsym(handle, "unload_module_detach");
    CHECK(m->attach != NULL && m->use != NULL && m->detach != NULL);
    return handle;
}

static void *use_and_outlive(void *data)
{
    module *m = data;

    CHECK(m->use() == 0);
    (void)atomic_fetch_add(&m->nused, 1);
    while (!atomic_load(&m->gone))
        (void)sched_yield();
    return NULL;
}

/* Load it, use it in threads, unload it while they live; they end, and a child is forked. */
static int load_and_unload(const fixture *f, void *arg)
{
    bool detach = *(int *)arg;
    pthread_t threads[THREADS];
    module m = { .nused = 0 };
    void *handle = load(&m);
    void *code = (void *)(uintptr_t)m.use;
    Dl_info info;
    pid_t pid;

    (void)signal(SIGSEGV, SIG_DFL); /* cmocka's handler would go on with the next test, in this process */
    CHECK(m.attach(f->socket) == 0);
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, use_and_outlive, &m) == 0);
    while (atomic_load(&m.nused) < THREADS)
        (void)sched_yield();
    CHECK(m.use() == 0);
    if (detach)
        CHECK(m.detach() == 0);
    CHECK(dlclose(handle) == 0);
    CHECK(dladdr(code, &info) == 0); /* it is unmapped */
    atomic_store(&m.gone, true);
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    pid = fork(); /* its fork handlers are gone too */
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(0);
    CHECK(child_wait(pid) == 0);
    exit(0); /* and what it would do at the end */
}

static void dlclose_of_the_static_library_while_threads_live_leaves_nothing_behind(void **state)
{
    for (int detach = 0; detach < 2; detach++) {
        assert_int_equal(child_run(*state, load_and_unload, &detach), 0);
        assert_true(fixture_is_clean(*state, (uint64_t)(THREADS + 1) * (uint64_t)(detach + 1)));
    }
}

/* --- errors --- */

static void attach_with_options_that_are_not_initialised_is_an_error_that_says_so(void **state)
{
    const fixture *f = *state;
    goalloc_options options = { .socket_path = f->socket };

    assert_int_equal(goalloc_attach(&(goalloc_options){ 0 }), -EINVAL);
    assert_int_equal(goalloc_attach(&options), -EINVAL);
    assert_non_null(strstr(goalloc_strerror(-EINVAL), "options"));
    options.struct_size = sizeof(options);
    options.flags = UINT32_C(1) << 31;
    assert_int_equal(goalloc_attach(&options), -EINVAL);
    options.flags = 0;
    options.timeout_ms = -1;
    assert_int_equal(goalloc_attach(&options), -EINVAL);
    assert_int_equal(goalloc_detach(), -ENOTCONN);
}

static bool has_word(const char *text, const char *word)
{
    size_t len = strlen(word);

    for (const char *at = text; (at = strstr(at, word)) != NULL; at += len) {
        bool begins = at == text || (!isalnum((unsigned char)at[-1]) && at[-1] != '_');

        if (begins && !isalnum((unsigned char)at[len]) && at[len] != '_')
            return true;
    }
    return false;
}

/* What the header names, whatever it is said of. */
static void strerror_of_each_error_in_the_header_has_a_text_of_its_own(void **state)
{
    static char header[65536];
    const char *texts[200] = { NULL };
    unsigned nerrors = 0;
    FILE *in = fopen(GOALLOC_HEADER, "re");

    (void)state;
    assert_non_null(in);
    header[fread(header, 1, sizeof(header) - 1, in)] = '\0';
    assert_true(feof(in));
    (void)fclose(in);
    for (int error = 1; error < 200; error++) {
        const char *name = strerrorname_np(error);

        assert_string_equal(goalloc_strerror(error), goalloc_strerror(-error));
        if (name == NULL || !has_word(header, name))
            continue;
        texts[error] = goalloc_strerror(error);
        if (strcmp(texts[error], strerrordesc_np(error)) == 0)
            fail_msg("%s has no text of its own", name);
        for (int other = 1; other < error; other++)
            assert_true(texts[other] == NULL || strcmp(texts[other], texts[error]) != 0);
        nerrors++;
    }
    (void)printf("%u errors\n", nerrors);
    assert_true(nerrors >= 15);
    assert_string_not_equal(goalloc_strerror(100000), "");
    assert_string_not_equal(goalloc_strerror(INT32_MIN), "");
    assert_string_equal(goalloc_strerror(0), "success");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(free_of_null_during_the_first_attach_does_nothing),
        FIXTURE_TEST(dlclose_of_the_static_library_while_threads_live_leaves_nothing_behind),
        FIXTURE_TEST(attach_with_options_that_are_not_initialised_is_an_error_that_says_so),
        cmocka_unit_test(strerror_of_each_error_in_the_header_has_a_text_of_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
