/*
 * goallocctl profile and a daemon: turning sampling on and off, what is shown and written of a region, and regions that
 * a hostile client has written. The sessions here write their samples by hand; test_profile_sites.c has those that
 * allocate.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/stat.h>

#include "tests/support/objects.h"
#include "tests/support/profiles.h"
#include "tests/support/rawprofile.h"

#define CLASS   6u /* 64 bytes */
#define RATE    4096u
#define OUT_MAX (1u << 20)

static char out[OUT_MAX];

/* goallocctl profile with these arguments; what it says, on stderr too, is in out. */
static int profile_ctl(const fixture *f, const char *arguments)
{
    const char *const words[] = { "profile", arguments, "2>&1", NULL };

    return fixture_ctl(f, words, out, sizeof(out));
}

static json_t *profile_json(const fixture *f, const char *arguments)
{
    const char *const words[] = { "--json profile", arguments, "2>/dev/null", NULL };
    json_t *ret;

    assert_int_equal(fixture_ctl(f, words, out, sizeof(out)), 0);
    ret = json_loads(out, 0, NULL);
    assert_non_null(ret);
    return ret;
}

static void open_session(const fixture *f, rawheap *raw, profiles_heap *ret, const char *label)
{
    uint32_t seq;
    int fd = -1;

    rawheap_open(raw, f, 0, label);
    assert_int_equal(rawprofile_open(raw->fd, &seq, &fd), 0);
    *ret = (profiles_heap){ .map = raw->map };
    ret->region = mmap(NULL, sizeof(*ret->region), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(ret->region != MAP_FAILED);
    assert_int_equal(close(fd), 0);
}

static void close_session(rawheap *raw, profiles_heap *h)
{
    assert_int_equal(munmap(h->region, sizeof(*h->region)), 0);
    rawheap_close(raw);
}

/* Two sites, of six objects and of three, in a marked span of a session that is then over. */
static void leave_samples(const fixture *f, const char *label)
{
    const uint64_t frames[2][2] = { { 0x1001, 0x3001 }, { 0x2001, 0x3001 } };
    rawheap raw;
    profiles_heap h;
    uint32_t span;
    uint32_t place = 0;

    open_session(f, &raw, &h, label);
    assert_int_equal(rawprofile_refill(&raw, CLASS << 1, 1, true, &span), 1);
    profiles_add_party(&h, 1, raw.session, label, "", RATE);
    h.region->parties[1].epoch = raw.epoch;
    for (uint32_t site = 1; site <= 2; site++) {
        profiles_add_stack(&h, site, frames[site - 1], 2);
        profiles_add_site(&h, site, 1, site);
        for (uint32_t i = 0; i < (site == 1 ? 6 : 3); i++, place++) {
            profiles_add_sample(&h, place, site, profiles_place(&h, span, place), 64.5, 64);
            profiles_allocate(&h, span, place);
        }
    }
    close_session(&raw, &h);
}

/* --- on and off --- */

static void profile_on_off_and_status_say_who_samples(void **state)
{
    const fixture *f = *state;
    rawheap one;
    rawheap other;
    json_t *answer;

    assert_int_equal(profile_ctl(f, "status"), 0);
    assert_non_null(strstr(out, "nobody has sampled"));
    assert_int_equal(profile_ctl(f, ""), 1);
    rawheap_open(&one, f, 0, "one");
    assert_int_equal(profile_ctl(f, "on --rate 64K"), 0);
    assert_non_null(strstr(out, "one sample in 64.0 KiB"));
    assert_non_null(strstr(out, "by 1 sessions and those that attach"));
    rawheap_open(&other, f, 0, "other");
    answer = profile_json(f, "status");
    assert_int_equal(figure(answer, "rate_bytes"), 65536);
    assert_int_equal(figure(answer, "open_sessions"), 2);
    assert_int_equal(figure(answer, "sampling_sessions"), 2);
    json_decref(answer);
    answer = profile_json(f, "off --session 1");
    assert_int_equal(figure(answer, "sessions"), 1);
    json_decref(answer);
    assert_int_equal(profile_ctl(f, "status"), 0);
    assert_non_null(strstr(out, "1 of 2 sessions sample"));
    assert_int_equal(profile_ctl(f, "reset"), 0);
    assert_int_equal(profile_ctl(f, "status"), 0);
    assert_non_null(strstr(out, "1 of 2 sessions sample")); /* as before */
    assert_int_equal(profile_ctl(f, "off --all"), 0);
    assert_int_equal(profile_ctl(f, "status"), 0);
    assert_non_null(strstr(out, "0 of 2 sessions sample"));
    assert_int_equal(profile_ctl(f, "on --group nobodys"), 1);
    assert_non_null(strstr(out, "no group of that name"));
    assert_int_equal(profile_ctl(f, "on --session 77"), 1);
    rawheap_close(&one);
    rawheap_close(&other);
}

static void profile_with_arguments_that_do_not_fit_is_a_usage_error(void **state)
{
    static const char *const wrong[] = {
        "on --rate 0",        "on --rate 5X",      "on --rate 99999G", "off --rate 5K",      "--rate 512K",
        "--session 0",        "--session 4096",    "--type no",        "on --svg /dev/null", "on --type live",
        "on --all --group g", "reset --session 1", "- --svg -",        "--json -",           "status --top",
        "on off",             "--top -",           "on --label web",   "--group",
    };

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(profile_ctl(*state, wrong[i]), 2);
}

/* --- reading --- */

static void profile_shows_and_writes_what_the_dead_have_left(void **state)
{
    const fixture *f = *state;
    char arguments[256];
    json_t *answer;
    json_t *site;
    struct stat st;

    assert_int_equal(profile_ctl(f, "on --rate 4K"), 0);
    leave_samples(f, "web");
    (void)snprintf(arguments, sizeof(arguments), "%s/pprof --svg %s/svg --top", f->dir, f->dir);
    assert_int_equal(profile_ctl(f, arguments), 0);
    assert_non_null(strstr(out, "0x1000\n"));
    assert_non_null(strstr(out, "66.7%"));
    assert_non_null(strstr(out, "estimated from 9 samples"));
    (void)snprintf(arguments, sizeof(arguments), "%s/svg", f->dir);
    assert_true(stat(arguments, &st) == 0 && st.st_size > 1000);
    (void)snprintf(arguments, sizeof(arguments), "%s/pprof", f->dir);
    assert_true(stat(arguments, &st) == 0 && st.st_size > 100);
    answer = profile_json(f, "--label web");
    assert_int_equal(figure(answer, "live_samples"), 9);
    assert_int_equal(json_array_size(json_object_get(answer, "sites")), 2);
    site = json_array_get(json_object_get(answer, "sites"), 0);
    assert_int_equal(figure(site, "live_samples"), 6);
    assert_true(json_is_true(json_object_get(site, "ended")));
    assert_string_equal(json_string_value(json_object_get(site, "label")), "web");
    assert_int_equal(json_array_size(json_object_get(site, "stack")), 2);
    json_decref(answer);
    answer = profile_json(f, "--label db");
    assert_int_equal(figure(answer, "live_samples"), 0);
    json_decref(answer);
    assert_int_equal(profile_ctl(f, "- | gzip -t"), 0);
    assert_int_equal(profile_ctl(f, "--svg - | grep -c '</svg>'"), 0);
    assert_int_equal(profile_ctl(f, "reset"), 0);
    answer = profile_json(f, "--top");
    assert_int_equal(figure(answer, "samples"), 0);
    json_decref(answer);
}

static void profile_that_can_not_be_written_leaves_what_was_there(void **state)
{
    const fixture *f = *state;
    char arguments[512];
    char path[128];
    struct stat st;

    assert_int_equal(profile_ctl(f, "on --rate 4K"), 0);
    leave_samples(f, "web");
    (void)snprintf(path, sizeof(path), "%s/kept", f->dir);
    (void)snprintf(arguments, sizeof(arguments), "--svg %s/nowhere/svg", f->dir);
    assert_int_equal(profile_ctl(f, arguments), 1);
    assert_non_null(strstr(out, "No such file"));
    (void)snprintf(arguments, sizeof(arguments), "> /dev/full -");
    assert_int_equal(profile_ctl(f, arguments), 1);
    (void)snprintf(arguments, sizeof(arguments), "%s; echo old > %s", path, path);
    assert_int_equal(profile_ctl(f, arguments), 0);
    (void)snprintf(arguments, sizeof(arguments), "%s --svg %s/nowhere/svg", path, f->dir);
    assert_int_equal(profile_ctl(f, arguments), 1);
    assert_true(stat(path, &st) == 0 && st.st_size > 100); /* that was written, whole */
    (void)snprintf(arguments, sizeof(arguments), "status; ls -A %s | grep -c kept", f->dir);
    assert_int_equal(profile_ctl(f, arguments), 0);
    assert_non_null(strstr(out, "\n1\n"));
}

/* --- a liar --- */

/* Words and texts anywhere in the region, in entries that are used more often than not. */
static void write_garbage(profiles_heap *h, uint64_t *random)
{
    static const struct {
        size_t at;
        size_t entry;
        uint32_t n;
    } tables[] = {
        { offsetof(profile_region, modules), sizeof(profile_module), PROFILE_MODULES },
        { offsetof(profile_region, stacks), sizeof(profile_stack), PROFILE_STACKS },
        { offsetof(profile_region, parties), sizeof(profile_party), PROFILE_PARTIES },
        { offsetof(profile_region, sites), sizeof(profile_site), PROFILE_SITES },
        { offsetof(profile_region, samples), sizeof(uint64_t), PROFILE_SAMPLES },
    };

    for (uint32_t i = 0; i < 20000; i++) {
        uint64_t which = test_random(random);
        uint32_t t = (uint32_t)(which % 5);
        uint64_t entry = which & 64 ? (which >> 8) % 64 : (which >> 8) % tables[t].n;
        uint64_t *words = (uint64_t *)(void *)((char *)h->region + tables[t].at + entry * tables[t].entry);
        uint64_t w = which & 128 ? 0 : (which >> 40) % (tables[t].entry / 8);
        uint64_t value = test_random(random);

        words[w] = which & 32 ? value : which & 16 ? (value & 0xff) << 32 | (value >> 8 & 7) | PROFILE_SITE_USED
                                                   : value & 7;
    }
}

static bool is_plain(const char *text)
{
    for (; *text != '\0'; text++) {
        if (((unsigned char)*text < 0x20 && *text != '\n') || *text == 0x7f)
            return false;
    }
    return true;
}

static void garbage_in_the_region_ends_no_goallocctl_and_reaches_no_terminal(void **state)
{
    const fixture *f = *state;
    uint64_t random = test_seed();
    rawheap raw;
    profiles_heap h;

    assert_int_equal(profile_ctl(f, "on"), 0);
    open_session(f, &raw, &h, "liar");
    for (int i = 0; i < 12; i++) {
        char arguments[256];

        write_garbage(&h, &random);
        (void)snprintf(arguments, sizeof(arguments), "%s/p --svg %s/svg --top --type %s --rows 10000", f->dir, f->dir,
                       i & 1 ? "alloc" : "live");
        assert_int_equal(profile_ctl(f, arguments), 0);
        assert_true(is_plain(out));
        (void)snprintf(arguments, sizeof(arguments), "status; gzip -t %s/p && tail -n 1 %s/svg", f->dir, f->dir);
        assert_int_equal(profile_ctl(f, arguments), 0);
        assert_non_null(strstr(out, "</svg>"));
        if (i % 4 == 0)
            json_decref(profile_json(f, "--rows 20"));
    }
    close_session(&raw, &h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(profile_on_off_and_status_say_who_samples),
        FIXTURE_TEST(profile_with_arguments_that_do_not_fit_is_a_usage_error),
        FIXTURE_TEST(profile_shows_and_writes_what_the_dead_have_left),
        FIXTURE_TEST(profile_that_can_not_be_written_leaves_what_was_there),
        FIXTURE_TEST(garbage_in_the_region_ends_no_goallocctl_and_reaches_no_terminal),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
