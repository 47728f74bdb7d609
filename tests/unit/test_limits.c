/*
 * Limits: what documents say of them in figures, and that every error a reply carries has a text.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/heap/adopt.h"
#include "daemon/heap/group.h"
#include "proto/frame.h"
#include "shm/errors.h"
#include "shm/limits.h"

#define SOURCE(path) GOALLOC_SOURCE_DIR "/" path
#define HEADER       SOURCE("client/include/goalloc.h")

static const char *text_of(const char *path)
{
    static char text[1 << 17];
    FILE *in = fopen(path, "re");

    assert_non_null(in);
    text[fread(text, 1, sizeof(text) - 1, in)] = '\0';
    assert_true(feof(in));
    (void)fclose(in);
    return text;
}

/* The same with its lines joined: where a sentence breaks does not count. */
static const char *joined_text_of(const char *path)
{
    static char text[1 << 17];
    size_t len = 0;

    for (const char *at = text_of(path); *at != '\0'; at++) {
        bool blank = isspace((unsigned char)*at) || *at == '*';

        if (!blank || (len > 0 && text[len - 1] != ' '))
            text[len++] = blank ? ' ' : *at;
    }
    text[len] = '\0';
    return text;
}

/* --- figures --- */

static const struct {
    const char *path;
    const char *format; /* with one PRIu64 */
    uint64_t value;
} figures[] = {
    { HEADER, "#define GOALLOC_ROOT_NAME_MAX %" PRIu64 " ", SHM_ROOT_NAME_MAX },
    { HEADER, "shown by goallocctl, the first %" PRIu64 " bytes", SHM_LABEL_MAX },
    { HEADER, "no room for another session: %" PRIu64 " of them", SHM_SESSIONS_MAX - 1 },
    { HEADER, "-ENOSPC (%" PRIu64 " roots)", SHM_ROOTS_MAX },
    { HEADER, "#define GOALLOC_GROUP_NAME_MAX %" PRIu64 " ", SHM_GROUP_NAME_MAX },
    { HEADER, "the group's name than %" PRIu64 " bytes", SHM_GROUP_NAME_MAX },
    { HEADER, "or none for another group: %" PRIu64 " of them", SHM_GROUPS_MAX },
    { HEADER, "there are %" PRIu64 " groups already that this user has founded", GROUPS_PER_UID_MAX },
    { HEADER, "-EDQUOT (%" PRIu64 " adopted objects a session,", ADOPT_PER_OWNER_MAX },
    { HEADER, "a power of two up to %" PRIu64 " MiB", SHM_ALIGN_MIB_MAX },
    { HEADER, "an object of up to %" PRIu64 " KiB is small", SMALL_BYTES_MAX / KIB },
    { HEADER, "else " SHM_SOCKET_PATH "; copied%.0" PRIu64, 0 },
    { SOURCE("README.md"), " %" PRIu64 " TiB of arena", SHM_ARENA_BYTES_MAX / TIB },
    { SOURCE("README.md"), " %" PRIu64 " sessions", SHM_SESSIONS_MAX - 1 },
    { SOURCE("README.md"), " %" PRIu64 " roots", SHM_ROOTS_MAX },
    { SOURCE("README.md"), "names up to %" PRIu64 " bytes", SHM_ROOT_NAME_MAX },
    { SOURCE("proto/README.md"), "length <= %" PRIu64, FRAME_PAYLOAD_MAX },
};

static void documents_say_what_the_limits_are(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
        char want[128];

        (void)snprintf(want, sizeof(want), figures[i].format, figures[i].value);
        if (strstr(joined_text_of(figures[i].path), want) == NULL)
            fail_msg("%s does not say '%s'", figures[i].path, want);
    }
}

/* --- errors --- */

/* True if the text makes an answer of that error: { ERROR, "a sentence" }. */
static bool replies_with(const char *text, const char *name)
{
    size_t len = strlen(name);

    for (const char *at = text; (at = strstr(at, name)) != NULL; at += len) {
        if (!isalnum((unsigned char)at[-1]) && at[-1] != '_' && strncmp(at + len, ", \"", 3) == 0)
            return true;
    }
    return false;
}

static void every_error_of_a_reply_has_a_text(void **state)
{
    unsigned nerrors = 0;
    glob_t sources;

    (void)state;
    assert_int_equal(glob(SOURCE("daemon/serve/*.c"), 0, NULL, &sources), 0);
    for (int error = 1; error < 200; error++) {
        const char *name = strerrorname_np(error);
        bool used = false;

        for (size_t i = 0; i < sources.gl_pathc && name != NULL && !used; i++)
            used = replies_with(text_of(sources.gl_pathv[i]), name);
        if (used && shm_error_text(error) == NULL)
            fail_msg("a reply may have %s, which has no text", name);
        nerrors += used;
    }
    assert_in_range(nerrors, 15, 50);
    globfree(&sources);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_say_what_the_limits_are),
        cmocka_unit_test(every_error_of_a_reply_has_a_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
