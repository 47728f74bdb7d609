/*
 * Tests of logevent.h: what operators search for is written down, and is what the code says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "daemon/logevent.h"

static const char *const levels[] = { "error", "warn", "info", "debug" };

static void events_have_ids_and_names_of_their_own(void **state)
{
    (void)state;
    for (unsigned e = LOG_EVENT_NONE + 1; e < LOG_EVENTS; e++) {
        const logevent_row *row = logevent_row_of((enum log_event)e);

        assert_non_null(row->name);
        assert_int_equal(strspn(row->message_id, "0123456789abcdef"), 32);
        assert_int_equal(strlen(row->message_id), 32);
        for (unsigned other = LOG_EVENT_NONE + 1; other < e; other++) {
            assert_string_not_equal(row->message_id, logevent_row_of((enum log_event)other)->message_id);
            assert_string_not_equal(row->name, logevent_row_of((enum log_event)other)->name);
        }
    }
}

/* The rows of the README's table, in the order of the enum; lines that go on with one have no name. */
static void readme_has_the_table_of_all_events(void **state)
{
    FILE *readme = fopen(GOALLOC_SOURCE_DIR "/daemon/README.md", "re");
    char line[256];
    unsigned e = LOG_EVENT_NONE;

    (void)state;
    assert_non_null(readme);
    while (fgets(line, sizeof(line), readme) != NULL) {
        char name[64];
        char level[16];
        char id[40];

        if (sscanf(line, "| %63[a-z-] | %15[a-z] | %39[0-9a-f] |", name, level, id) != 3 || strlen(id) != 32)
            continue;
        assert_true(++e < LOG_EVENTS);
        assert_string_equal(name, logevent_row_of((enum log_event)e)->name);
        assert_string_equal(level, levels[logevent_row_of((enum log_event)e)->level]);
        assert_string_equal(id, logevent_row_of((enum log_event)e)->message_id);
    }
    (void)fclose(readme);
    assert_int_equal(e + 1, LOG_EVENTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_have_ids_and_names_of_their_own),
        cmocka_unit_test(readme_has_the_table_of_all_events),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
