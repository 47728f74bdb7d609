/*
 * Exposition: a family in both formats, and labels that clients have chosen.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "exporter/metrics.h"

#define LABELS(...) ((const label[]){ __VA_ARGS__, { NULL, NULL } })

static void family_in_both_formats_has_its_names_and_its_end(void **state)
{
    static const metric scavenged = { "x_scavenged_bytes", METRIC_COUNTER, "Given back." };
    static const metric build = { "x_build", METRIC_INFO, "Which one." };
    static const metric start = { "x_start_time_seconds", METRIC_GAUGE, "When." };
    static const char *const wanted[FORMATS] = {
        [FORMAT_TEXT] = "# HELP x_scavenged_bytes_total Given back.\n"
                        "# TYPE x_scavenged_bytes_total counter\n"
                        "x_scavenged_bytes_total 18446744073709551615\n"
                        "# HELP x_build_info Which one.\n"
                        "# TYPE x_build_info gauge\n"
                        "x_build_info{version=\"1\",layout=\"2\"} 1\n"
                        "# HELP x_start_time_seconds When.\n"
                        "# TYPE x_start_time_seconds gauge\n"
                        "x_start_time_seconds 1700000000.000042\n",
        [FORMAT_OPENMETRICS] = "# HELP x_scavenged_bytes Given back.\n"
                               "# TYPE x_scavenged_bytes counter\n"
                               "# UNIT x_scavenged_bytes bytes\n"
                               "x_scavenged_bytes_total 18446744073709551615\n"
                               "# HELP x_build Which one.\n"
                               "# TYPE x_build info\n"
                               "x_build_info{version=\"1\",layout=\"2\"} 1\n"
                               "# HELP x_start_time_seconds When.\n"
                               "# TYPE x_start_time_seconds gauge\n"
                               "# UNIT x_start_time_seconds seconds\n"
                               "x_start_time_seconds 1700000000.000042\n"
                               "# EOF\n",
    };

    (void)state;
    for (int format = 0; format < FORMATS; format++) {
        exposition x;
        char *text;
        size_t len;

        assert_true(exposition_begin(&x, (enum format)format));
        exposition_single(&x, &scavenged, UINT64_MAX);
        exposition_family(&x, &build);
        exposition_count(&x, LABELS({ "version", "1" }, { "layout", "2" }), 1);
        exposition_family(&x, &start);
        exposition_seconds(&x, NULL, UINT64_C(1700000000000042));
        text = exposition_take(&x, &len);
        assert_non_null(text);
        assert_string_equal(text, wanted[format]);
        assert_int_equal(len, strlen(text));
        free(text);
    }
}

static void label_of_any_bytes_stays_one_label(void **state)
{
    static const metric one = { "x", METRIC_GAUGE, "X." };
    static const struct {
        const char *value;
        const char *shown;
    } cases[] = {
        { "", "" },
        { "plain", "plain" },
        { "a\"} 1\nup 0\\", "a\\\"} 1\\nup 0\\\\" },
        { "gr\xc3\xb6\xc3\x9f" "e \xf0\x9f\x90\x98", "gr\xc3\xb6\xc3\x9f" "e \xf0\x9f\x90\x98" },
        { "\xff", "\xef\xbf\xbd" },
        { "a\xc3", "a\xef\xbf\xbd" },                                       /* cut off */
        { "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },         /* a surrogate */
        { "\xc0\x80z", "\xef\xbf\xbd\xef\xbf\xbdz" },                       /* overlong */
        { "\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" }, /* beyond Unicode */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char wanted[128];
        exposition x;
        char *text;
        size_t len;

        assert_true(exposition_begin(&x, FORMAT_TEXT));
        exposition_family(&x, &one);
        exposition_count(&x, LABELS({ "group", cases[i].value }), 7);
        text = exposition_take(&x, &len);
        assert_non_null(text);
        (void)snprintf(wanted, sizeof(wanted), "# HELP x X.\n# TYPE x gauge\nx{group=\"%s\"} 7\n", cases[i].shown);
        assert_string_equal(text, wanted);
        free(text);
    }
}

/* --- counters that the daemon estimates --- */

static void raise_to(floors *f, uint64_t start_time_ms, uint64_t allocs, uint64_t frees)
{
    Goallocd__ClassStats class = GOALLOCD__CLASS_STATS__INIT;
    Goallocd__ClassStats odd = GOALLOCD__CLASS_STATS__INIT;
    Goallocd__ClassStats *classes[] = { &class, &odd };
    Goallocd__StatsReply stats = GOALLOCD__STATS_REPLY__INIT;

    class.size_class = 3;
    class.allocs = allocs;
    class.frees = frees;
    odd.size_class = UINT32_MAX; /* of a daemon that has others */
    stats.classes = classes;
    stats.n_classes = 2;
    stats.start_time_ms = start_time_ms;
    floors_raise(f, &stats);
}

static void floors_of_one_daemon_never_fall(void **state)
{
    static floors f;

    (void)state;
    raise_to(&f, 1000, 10, 5);
    raise_to(&f, 1000, 8, 7);
    assert_int_equal(f.allocs[3], 10);
    assert_int_equal(f.frees[3], 7);
    raise_to(&f, 2000, 1, 0); /* the next daemon counts from 0 */
    assert_int_equal(f.allocs[3], 1);
    assert_int_equal(f.frees[3], 0);
}

/* --- groups --- */

static void write_three_groups(unsigned groups_max, char ret[], size_t size)
{
    static floors f;
    Goallocd__GroupStats groups[3];
    Goallocd__GroupStats *pointers[3];
    Goallocd__StatsReply stats = GOALLOCD__STATS_REPLY__INIT;
    Goallocd__LimitsReply limits = GOALLOCD__LIMITS_REPLY__INIT;
    Goallocd__SessionListReply ended = GOALLOCD__SESSION_LIST_REPLY__INIT;
    const figures seen = { .stats = &stats, .limits = &limits, .ended = &ended };
    exposition x;
    size_t len;
    char *text;
    char *from;
    char *to;

    for (size_t i = 0; i < 3; i++) {
        goallocd__group_stats__init(&groups[i]);
        groups[i].name = (char *)(uintptr_t)(i == 1 ? "b" : "a"); /* one of two that are called a is ending */
        groups[i].live_bytes = 100 - i;
        pointers[i] = &groups[i];
    }
    stats.groups = pointers;
    stats.n_groups = 3;
    stats.groups_live_bytes = 1000;
    assert_true(exposition_begin(&x, FORMAT_TEXT));
    metrics_write(&x, &seen, &f, &(exporter_counts){ 0 }, groups_max);
    text = exposition_take(&x, &len);
    assert_non_null(text);
    from = strstr(text, "\ngoallocd_group_live_bytes{");
    assert_non_null(from);
    to = strchr(from, '#');
    assert_non_null(to);
    (void)snprintf(ret, size, "%.*s", (int)(to - from), from);
    free(text);
}

static void groups_beyond_the_most_are_summed_up_and_none_comes_twice(void **state)
{
    char text[512];

    (void)state;
    write_three_groups(2, text, sizeof(text));
    assert_string_equal(text, "\ngoallocd_group_live_bytes{group=\"a\",uid=\"0\"} 100\n"
                              "goallocd_group_live_bytes{group=\"b\",uid=\"0\"} 99\n"
                              "goallocd_group_live_bytes{group=\"other\",uid=\"\"} 801\n");
    write_three_groups(3, text, sizeof(text));
    assert_string_equal(text, "\ngoallocd_group_live_bytes{group=\"a\",uid=\"0\"} 198\n"
                              "goallocd_group_live_bytes{group=\"b\",uid=\"0\"} 99\n"
                              "goallocd_group_live_bytes{group=\"other\",uid=\"\"} 703\n");
    write_three_groups(0, text, sizeof(text));
    assert_string_equal(text, "\ngoallocd_group_live_bytes{group=\"other\",uid=\"\"} 1000\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(family_in_both_formats_has_its_names_and_its_end),
        cmocka_unit_test(label_of_any_bytes_stays_one_label),
        cmocka_unit_test(floors_of_one_daemon_never_fall),
        cmocka_unit_test(groups_beyond_the_most_are_summed_up_and_none_comes_twice),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
