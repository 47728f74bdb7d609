/*
 * goallocctl's tables: no line is wider than a terminal of 80 columns, whatever a daemon answers; nothing in labels and
 * names reaches the terminal as it is; and what the tables say is what there is.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <unistr.h>
#include <uniwidth.h>

#include "shm/layout.h"
#include "tests/support/fakedaemon.h"
#include "tests/support/objects.h"

#define OUT_BYTES (1u << 18)

/* --- a daemon that answers with the worst --- */

/* Each has 63 bytes or fewer, as a daemon takes them; but this one sends longer ones, too. */
static char worst[512];
static char *worst_text = worst;

static const char *const hostile[] = {
    "\x1b[2J\x1b[31mred\x1b]0;title\a",
    "line\nline\r\n\ttab\bback",
    "half \xe6\x97 latin \xfc\xdf surrogate \xed\xa0\x80",
    "csi \xc2\x9b"
    "2J rtl \xe2\x80\xae lri \xe2\x81\xa6 sep \xe2\x80\xa8 bom \xef\xbb\xbf",
    "\xe6\x97\xa5\xe6\x9c\xac\xe6\x97\xa5\xe6\x9c\xac\xe6\x97\xa5\xe6\x9c\xac\xe6\x97\xa5\xe6\x9c\xac\xe6\x97\xa5"
    "\xe6\x9c\xac\xe6\x97\xa5\xe6\x9c\xac\xe6\x97\xa5\xe6\x9c\xac\xe6\x97\xa5\xe6\x9c\xac\xe6\x97\xa5\xe6\x9c\xac",
    "a label of more than eighty columns, which goes on and on and on and on and on and on and on and on and on and on",
    "%s%n%s%n \xf4\x90\x80\x80 \xf8\x88\x80\x80\x80",
};

#define HUGE_64 (UINT64_MAX / 2)

static void fill_sessions(Goallocd__Reply *reply)
{
    static Goallocd__SessionListReply list = GOALLOCD__SESSION_LIST_REPLY__INIT;
    static Goallocd__SessionInfo s = GOALLOCD__SESSION_INFO__INIT;
    static Goallocd__SessionInfo *all[] = { &s, &s };

    s.session = SHM_SESSIONS_MAX - 1;
    s.pid = 4194304;
    s.uid = 65534;
    s.state = SHM_SESSION_DETACHED;
    s.flags = SESSION_RECLAIM;
    s.label = s.group = worst_text;
    s.held_bytes = s.left_bytes = s.live_bytes = s.idle_bytes = s.left_objects = s.live_objects = HUGE_64;
    s.rpcs = s.refills = s.age_ms = s.profile_bytes = HUGE_64;
    s.leased_spans = 999999;
    list.sessions = all;
    list.n_sessions = 2;
    reply->result_case = GOALLOCD__REPLY__RESULT_SESSION_LIST;
    reply->session_list = &list;
}

static void fill_stats(Goallocd__Reply *reply)
{
    static Goallocd__StatsReply stats = GOALLOCD__STATS_REPLY__INIT;
    static Goallocd__ClassStats class = GOALLOCD__CLASS_STATS__INIT;
    static Goallocd__ClassStats *classes[] = { &class };
    static Goallocd__GroupStats group = GOALLOCD__GROUP_STATS__INIT;
    static Goallocd__GroupStats *groups[] = { &group };

    class.size_class = 67;
    class.object_bytes = 32768;
    class.spans = 999999999;
    class.span_bytes = class.live_objects = class.live_bytes = class.allocs = class.frees = HUGE_64;
    group.group = 5118;
    group.uid = 65534;
    group.name = worst_text;
    group.sessions = 4095;
    group.live_objects = group.live_bytes = HUGE_64;
    stats.classes = classes;
    stats.groups = groups;
    stats.n_classes = stats.n_groups = 1;
    stats.version = worst_text;
    stats.live_objects = stats.live_bytes = stats.total_bytes = stats.free_bytes = stats.rpcs = HUGE_64;
    stats.unused_bytes = stats.metadata_bytes = stats.excess_bytes = stats.over_limit_bytes = HUGE_64;
    stats.uptime_ms = HUGE_64;
    stats.limit_bytes = stats.max_memory_bytes = stats.sessions = HUGE_64;
    reply->result_case = GOALLOCD__REPLY__RESULT_STATS;
    reply->stats = &stats;
}

static void fill_roots(Goallocd__Reply *reply)
{
    static Goallocd__RootListReply list = GOALLOCD__ROOT_LIST_REPLY__INIT;
    static Goallocd__Root root = GOALLOCD__ROOT__INIT;
    static Goallocd__Root *all[] = { &root };

    root.name = (ProtobufCBinaryData){ .len = strlen(worst), .data = (uint8_t *)worst };
    root.offset = (UINT64_C(16) << 40) - 1;
    root.size = root.type_tag = HUGE_64;
    root.session = SHM_SESSIONS_MAX - 1;
    root.label = worst_text;
    list.roots = all;
    list.n_roots = 1;
    reply->result_case = GOALLOCD__REPLY__RESULT_ROOT_LIST;
    reply->root_list = &list;
}

static void fill_limits(Goallocd__Reply *reply)
{
    static Goallocd__LimitsReply list = GOALLOCD__LIMITS_REPLY__INIT;
    static Goallocd__LimitUse of_session = GOALLOCD__LIMIT_USE__INIT;
    static Goallocd__LimitUse of_group = GOALLOCD__LIMIT_USE__INIT;
    static Goallocd__LimitUse *all[] = { &of_session, &of_group };

    of_session.name = of_group.name = worst_text;
    of_session.label = of_group.group = worst_text;
    of_session.used = of_session.maximum = of_session.refused = of_group.used = of_group.maximum = HUGE_64;
    of_group.bytes = true;
    of_session.scope = 2;
    of_group.scope = 4;
    of_session.session = 4094;
    of_session.pid = 4194304;
    of_session.uid = of_group.uid = 65534;
    list.uses = all;
    list.n_uses = 2;
    reply->result_case = GOALLOCD__REPLY__RESULT_LIMITS;
    reply->limits = &list;
}

static void fill_leases(Goallocd__Reply *reply)
{
    static Goallocd__LeasesReply list = GOALLOCD__LEASES_REPLY__INIT;
    static uint32_t words[][2] = { { UINT32_MAX, 5 }, { UINT32_MAX, 1 }, { 2, 200 }, { 4094, 60000 } };
    static uint64_t live[] = { HUGE_64, HUGE_64 };

    list.spans = words[0];
    list.npages = list.live_objects = words[1];
    list.span_classes = words[2];
    list.sessions = words[3];
    list.live_bytes = live;
    list.n_spans = list.n_npages = list.n_span_classes = list.n_sessions = 2;
    list.n_live_objects = list.n_live_bytes = 2;
    reply->result_case = GOALLOCD__REPLY__RESULT_LEASES;
    reply->leases = &list;
}

static void fill_heap_map(Goallocd__Reply *reply, const Goallocd__HeapMap *ask)
{
    static Goallocd__HeapMapReply map = GOALLOCD__HEAP_MAP_REPLY__INIT;
    static uint64_t inuse[4096];
    static uint64_t backed[4096];

    for (size_t i = 0; i < 4096; i++)
        inuse[i] = ask->cell_pages;
    map.inuse = inuse;
    map.backed = backed;
    map.n_inuse = map.n_backed = ask->max_cells < 4096 ? ask->max_cells : 4096;
    map.end = map.arena_pages = UINT32_MAX;
    map.arena_base = UINT64_C(0x7f0000000000);
    reply->result_case = GOALLOCD__REPLY__RESULT_HEAP_MAP;
    reply->heap_map = &map;
}

static void answer_worst(Goallocd__Reply *reply, const Goallocd__Request *request)
{
    switch (request->op_case) {
    case GOALLOCD__REQUEST__OP_SESSION_LIST:
        fill_sessions(reply);
        break;
    case GOALLOCD__REQUEST__OP_STATS:
        fill_stats(reply);
        break;
    case GOALLOCD__REQUEST__OP_ROOT_LIST:
        fill_roots(reply);
        break;
    case GOALLOCD__REQUEST__OP_LIMITS:
        fill_limits(reply);
        break;
    case GOALLOCD__REQUEST__OP_LEASES:
        fill_leases(reply);
        break;
    case GOALLOCD__REQUEST__OP_HEAP_MAP:
        fill_heap_map(reply, request->heap_map);
        break;
    default:
        reply->error = EPERM;
        reply->message = worst_text;
    }
}

static pid_t start_worst(const fixture *fake, const char *text)
{
    (void)snprintf(worst, sizeof(worst), "%s", text);
    return fakedaemon_start(fake, answer_worst);
}

/* --- what comes out --- */

/* Nothing that a terminal obeys, and no text that is none. */
static void assert_harmless(const char *out)
{
    const uint8_t *at = (const uint8_t *)out;
    const uint8_t *next;
    ucs4_t c;

    assert_null(u8_check(at, strlen(out)));
    while ((next = u8_next(&c, at)) != NULL) {
        assert_false((c < 0x20 && c != '\n') || (c >= 0x7f && c <= 0x9f));
        assert_false(c == 0x202e || c == 0x2066 || c == 0x2028 || c == 0xfeff);
        at = next;
    }
}

static void assert_fits(const char *out, const char *what)
{
    while (*out != '\0') {
        size_t len = strcspn(out, "\n");
        int columns = u8_width((const uint8_t *)out, len, "UTF-8");

        if (columns > 80)
            fail_msg("%s: %d columns: %.*s", what, columns, (int)len, out);
        out += len + (out[len] == '\n');
    }
}

/* The first ones have the most foreign text. */
static const char *const shown[] = {
    "sessions", "top --once --interval 1ms --group", "roots", "stats --classes", "sessions --group",
    "top --once --interval 1ms", "limits", "leases", "leases --spans", "heap-map", "classes", "stats",
};
#define SHOWN     (sizeof(shown) / sizeof(shown[0]))
#define WITH_TEXT 3u

static void no_answer_of_a_daemon_is_wider_than_80_columns_or_moves_the_cursor(void **state)
{
    static char out[OUT_BYTES];
    fixture fake;

    (void)state;
    fixture_make_place(&fake);
    for (size_t h = 0; h < sizeof(hostile) / sizeof(hostile[0]); h++) {
        pid_t pid = start_worst(&fake, hostile[h]);

        for (size_t i = 0; i < (h % 5 == 0 ? SHOWN : WITH_TEXT); i++) {
            const char *words[] = { "--width 80", shown[i], "2>&1", NULL };

            assert_int_equal(fixture_ctl(&fake, words, out, sizeof(out)), 0);
            assert_harmless(out);
            assert_fits(out, shown[i]);
            assert_int_equal(fixture_ctl(&fake, (const char *const[]){ "--json", shown[i], NULL }, out, sizeof(out)),
                             0);
            assert_harmless(out);
        }
        assert_int_equal(fixture_ctl(&fake, (const char *const[]){ "check", "2>&1", NULL }, out, sizeof(out)), 1);
        assert_harmless(out);
        assert_int_equal(fixture_ctl(&fake, (const char *const[]){ "--json", "check", "2>&1", NULL }, out, sizeof(out)),
                         1);
        assert_harmless(out);
        (void)kill(pid, SIGKILL);
        (void)child_wait(pid);
    }
}

static int attach_and_stop(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = f->socket;
    options.label = arg;
    options.group = "gr\xc3\xbcn";
    CHECK(goalloc_attach(&options) == 0);
    for (int i = 0; i < 2000; i++)
        CHECK(goalloc_malloc(100) != NULL);
    for (int i = 0; i < 100; i++) { /* a request each */
        void *p = goalloc_malloc(3 << 20);

        CHECK(p != NULL);
        goalloc_free(p);
    }
    (void)raise(SIGSTOP);
    return 0;
}

/* Help is read on terminals as well. */
static void tables_of_a_daemon_and_help_fit_into_80_columns_in_a_pipe(void **state)
{
    static const char *const helps[] = { "help", "help top", "help watch", "help sessions", "help disconnect",
                                         "trim --help", "--help", "leases -h", "help completion", "--usage" };
    static char out[OUT_BYTES];
    const fixture *f = *state;
    pid_t pid = child_start_stopped(f, attach_and_stop, (void *)(uintptr_t)"worker 17");

    for (size_t i = 0; i < SHOWN; i++) {
        assert_int_equal(fixture_ctl(f, (const char *const[]){ shown[i], NULL }, out, sizeof(out)), 0);
        assert_fits(out, shown[i]);
        assert_true(strlen(out) > 60);
    }
    for (size_t i = 0; i < sizeof(helps) / sizeof(helps[0]); i++) {
        assert_int_equal(fixture_ctl(f, (const char *const[]){ helps[i], NULL }, out, sizeof(out)), 0);
        assert_fits(out, helps[i]);
    }
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
}

/* Classes come when they are asked for, and always as JSON. */
static void stats_has_classes_if_they_are_wanted(void **state)
{
    static char out[OUT_BYTES];
    const fixture *f = *state;
    pid_t pid = child_start_stopped(f, attach_and_stop, (void *)(uintptr_t)"label");
    json_t *answer;

    assert_int_equal(fixture_ctl(f, (const char *const[]){ "stats", NULL }, out, sizeof(out)), 0);
    assert_null(strstr(out, "allocs"));
    assert_int_equal(fixture_ctl(f, (const char *const[]){ "stats --classes", NULL }, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "allocs"));
    answer = json_by_ctl(f, "stats");
    assert_true(json_array_size(json_object_get(answer, "classes")) > 0);
    json_decref(answer);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
}

/* --- the command line --- */

static void a_wrong_command_line_is_refused_with_status_2(void **state)
{
    static const char *const wrong[] = { "",
                                         "nothing",
                                         "--nothing",
                                         "ping ping",
                                         "stats --sort held",
                                         "ping --live",
                                         "ping --end",
                                         "keeper",
                                         "sessions --sort size",
                                         "sessions --rows 0",
                                         "sessions --rows 1000001",
                                         "top --interval 0",
                                         "top --count x",
                                         "--width 0 ping",
                                         "watch",
                                         "watch live_bytes nothing",
                                         "reclaim",
                                         "disconnect",
                                         "disconnect 0",
                                         "disconnect 4096",
                                         "disconnect x",
                                         "trim x",
                                         "trim 0",
                                         "trim 1 2",
                                         "leases x",
                                         "completion",
                                         "completion fish",
                                         "--json completion bash",
                                         "help nothing" };
    static char out[OUT_BYTES];
    fixture nowhere;

    (void)state;
    fixture_make_place(&nowhere);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        json_t *answer;

        if (fixture_ctl(&nowhere, (const char *const[]){ wrong[i], "2>&1", NULL }, out, sizeof(out)) != 2)
            fail_msg("'%s' is taken: %s", wrong[i], out);
        assert_true(strlen(out) > 0);
        assert_int_equal(
            fixture_ctl(&nowhere, (const char *const[]){ wrong[i], "--json 2>/dev/null", NULL }, out, sizeof(out)), 2);
        answer = json_loads(out, 0, NULL);
        if (answer == NULL)
            fail_msg("'%s': %s", wrong[i], out);
        assert_string_equal(json_string_value(json_object_get(json_object_get(answer, "error"), "code")), "usage");
        json_decref(answer);
    }
    assert_int_equal(fixture_ctl(&nowhere, (const char *const[]){ "--nothing --json 2>/dev/null", NULL }, out,
                                 sizeof(out)), 2);
    assert_non_null(strstr(out, "\"message\": \"unrecognized option '--nothing'\"")); /* argp's words */
    assert_int_equal(fixture_ctl(&nowhere, (const char *const[]){ "sessions --sort 2>&1", NULL }, out, sizeof(out)), 2);
    assert_int_equal(strncmp(out, "goallocctl: option '--sort' requires", 36), 0);
    assert_int_equal(fixture_ctl(&nowhere, (const char *const[]){ "watch x 2>&1", NULL }, out, sizeof(out)), 2);
    assert_non_null(strstr(out, "live_bytes")); /* the list */
}

static void a_socket_that_nobody_serves_has_a_status_of_its_own(void **state)
{
    static const char *const commands[] = { "ping", "stats", "top --once", "watch live_bytes", "drop --yes", "limits" };
    static char out[OUT_BYTES];
    fixture nowhere;

    (void)state;
    fixture_make_place(&nowhere);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        const char *words[] = { "--json", commands[i], "2>/dev/null", NULL };
        json_t *answer;

        assert_int_equal(fixture_ctl(&nowhere, words, out, sizeof(out)), 3);
        answer = json_loads(out, 0, NULL);
        assert_string_equal(json_string_value(json_object_get(json_object_get(answer, "error"), "code")), "no-daemon");
        json_decref(answer);
        assert_int_equal(fixture_ctl(&nowhere, (const char *const[]){ commands[i], "2>/dev/null", NULL }, out,
                                     sizeof(out)), 3);
        assert_string_equal(out, ""); /* no heading of a table that does not come */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_answer_of_a_daemon_is_wider_than_80_columns_or_moves_the_cursor),
        FIXTURE_TEST(tables_of_a_daemon_and_help_fit_into_80_columns_in_a_pipe),
        FIXTURE_TEST(stats_has_classes_if_they_are_wanted),
        cmocka_unit_test(a_wrong_command_line_is_refused_with_status_2),
        cmocka_unit_test(a_socket_that_nobody_serves_has_a_status_of_its_own),
    };

    return cmocka_run_group_tests_name("goallocctl's tables", tests, NULL, NULL);
}
