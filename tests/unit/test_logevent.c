/*
 * Tests of logevent.h: what operators search for is written down, and is what the code says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/logevent.h"
#include "tests/support/eventrows.h"

#define NROWS (LOG_EVENTS - LOG_EVENT_NONE - 1)

static event_row rows[NROWS];

static int make_rows(void **state)
{
    static const char *const levels[] = { "error", "warn", "info", "debug" };

    (void)state;
    for (unsigned i = 0; i < NROWS; i++) {
        const logevent_row *row = logevent_row_of((enum log_event)(LOG_EVENT_NONE + 1 + i));

        rows[i] = (event_row){ row->name, levels[row->level], row->message_id };
    }
    return 0;
}

static void events_have_ids_and_names_of_their_own(void **state)
{
    (void)state;
    event_rows_differ(rows, NROWS);
}

static void readme_has_the_table_of_all_events(void **state)
{
    (void)state;
    event_rows_are_in(GOALLOC_SOURCE_DIR "/daemon/README.md", rows, NROWS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_have_ids_and_names_of_their_own),
        cmocka_unit_test(readme_has_the_table_of_all_events),
    };

    return cmocka_run_group_tests(tests, make_rows, NULL);
}
