/*
 * Eventrows: for tests of a table of events that operators search a log for: each has a name and an id of its own, and
 * a document has the same table.
 */
#ifndef GOALLOC_TESTS_EVENTROWS_H
#define GOALLOC_TESTS_EVENTROWS_H

#include <stdio.h>
#include <string.h>

typedef struct event_row {
    const char *name;
    const char *level;
    const char *message_id;
} event_row;

static inline void event_rows_differ(const event_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        assert_non_null(rows[i].name);
        assert_int_equal(strspn(rows[i].message_id, "0123456789abcdef"), 32);
        assert_int_equal(strlen(rows[i].message_id), 32);
        for (size_t other = 0; other < i; other++) {
            assert_string_not_equal(rows[i].message_id, rows[other].message_id);
            assert_string_not_equal(rows[i].name, rows[other].name);
        }
    }
}

/* These rows, in this order, and no others; lines that go on with one have no name. */
static inline void event_rows_are_in(const char *path, const event_row *rows, size_t n)
{
    FILE *document = fopen(path, "re");
    char line[256];
    size_t found = 0;

    assert_non_null(document);
    while (fgets(line, sizeof(line), document) != NULL) {
        char name[64];
        char level[16];
        char id[40];

        if (sscanf(line, "| %63[a-z-] | %15[a-z] | %39[0-9a-f] |", name, level, id) != 3 || strlen(id) != 32)
            continue;
        assert_true(found < n);
        assert_string_equal(name, rows[found].name);
        assert_string_equal(level, rows[found].level);
        assert_string_equal(id, rows[found].message_id);
        found++;
    }
    (void)fclose(document);
    assert_int_equal(found, n);
}

#endif
