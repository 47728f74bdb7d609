/*
 * Who is of which group: names, modes and users that can't be, too many groups, and tokens that are wrong.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "tests/support/groups.h"
#include "tests/support/rawheap.h"

/* --- names and modes --- */

static int attach_wrongly(const fixture *f, void *arg)
{
    char longest[GOALLOC_GROUP_NAME_MAX + 2];

    (void)arg;
    memset(longest, 'x', sizeof(longest));
    longest[GOALLOC_GROUP_NAME_MAX + 1] = '\0';
    CHECK(attach_as(f, 0, longest) == -ENAMETOOLONG);
    CHECK(attach_as(f, 0, "") == -EINVAL);
    CHECK(attach_as(f, 0, "\xff") == -EILSEQ);
    CHECK(attach_as(f, 0, "reclaims") == -EINVAL);
    CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM, "reclaims") == 0 && goalloc_detach() == 0);
    CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM | GOALLOC_ATTACH_READONLY, "reclaims") == 0 && goalloc_detach() == 0);
    longest[GOALLOC_GROUP_NAME_MAX] = '\0';
    CHECK(attach_as(f, 0, longest) == 0);
    return 0;
}

static int attach_as_nobody(const fixture *f, void *arg)
{
    CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
    CHECK(attach_as(f, 0, arg) == 0); /* of another mode: it is another group */
    return 0;
}

static void attach_with_a_wrong_group_is_refused(void **state)
{
    const fixture *f = *state;
    pid_t holder = holder_start(f, "reclaims");

    assert_int_equal(child_run(f, attach_wrongly, NULL), 0);
    if (geteuid() == 0) {
        let_everybody_in(f);
        assert_int_equal(child_run(f, attach_as_nobody, "reclaims"), 0);
    }
    process_kill(holder);
    assert_true(fixture_is_clean(f, 0));
}

/* The error of an Attach with that group, and maybe another one's token. The connection, if it is 0. */
static int attach_raw(const fixture *f, rawheap *heap, const char *group, uint32_t number, uint8_t *token)
{
    Goallocd__Attach ask = rawheap_attach_init();
    Goallocd__Reply *reply;
    int error;

    heap->fd = raw_connect(f);
    ask.flags = GOALLOC_ATTACH_RECLAIM;
    ask.label = (char *)(uintptr_t)"raw";
    ask.group = (ProtobufCBinaryData){ .len = strlen(group), .data = (uint8_t *)(uintptr_t)group };
    ask.parent_group = number;
    ask.group_token = (ProtobufCBinaryData){ .len = token == NULL ? 0 : SESSION_TOKEN_BYTES, .data = token };
    reply = rawheap_ask(heap, &ask);
    assert_non_null(reply);
    error = reply->error;
    for (int i = 0; i < ATTACH_NFDS; i++) {
        if (heap->fds[i] >= 0)
            (void)close(heap->fds[i]);
    }
    heap->session = error == 0 ? reply->attach->group : 0;
    if (error != 0)
        rawheap_disconnect(heap);
    goallocd__reply__free_unpacked(reply, NULL);
    return error;
}

#define MOST 128 /* groups of one user */

static void one_user_can_found_so_many_groups_and_no_more(void **state)
{
    static rawheap heaps[MOST];
    const fixture *f = *state;
    rawheap other;
    char name[32];
    int r = EDQUOT;

    for (int i = 0; i < MOST; i++) {
        (void)snprintf(name, sizeof(name), "%d", i);
        assert_int_equal(attach_raw(f, &heaps[i], name, 0, NULL), 0);
    }
    assert_int_equal(attach_raw(f, &other, "one more", 0, NULL), EDQUOT);
    assert_int_equal(attach_raw(f, &other, "77", 0, NULL), 0); /* one that is there */
    rawheap_disconnect(&other);
    if (geteuid() == 0) {
        let_everybody_in(f);
        assert_int_equal(child_run(f, attach_as_nobody, "one more"), 0); /* and others may */
    }
    assert_true(fixture_is_whole(f));
    for (int i = 0; i < MOST; i++)
        rawheap_disconnect(&heaps[i]);
    (void)fixture_live_with(f, 0);
    for (int i = 0; i < 1000 && r == EDQUOT; i++, (void)usleep(5000)) /* groups end right after their sessions */
        r = attach_raw(f, &other, "one more", 0, NULL);
    assert_int_equal(r, 0);
    rawheap_disconnect(&other);
    assert_true(fixture_is_clean(f, 0));
}

/* A token that is wrong, or of another group, is none: the name decides. */
static void liar_gets_into_no_group_by_a_wrong_token(void **state)
{
    static const uint32_t numbers[] = { 0, 1, SHM_SESSIONS_MAX - 1, SHM_SESSIONS_MAX, SHM_SESSIONS_MAX + 1,
                                        SHM_OWNERS_MAX - 1, SHM_OWNERS_MAX, UINT32_MAX };
    const fixture *f = *state;
    uint8_t token[SESSION_TOKEN_BYTES] = { 0 };
    rawheap victim;

    assert_int_equal(attach_raw(f, &victim, "victim", 0, NULL), 0);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        rawheap liar;

        assert_int_equal(attach_raw(f, &liar, "liar", numbers[i], token), 0);
        assert_int_not_equal(liar.session, victim.session);
        rawheap_disconnect(&liar);
    }
    rawheap_disconnect(&victim);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(attach_with_a_wrong_group_is_refused),
        FIXTURE_TEST(one_user_can_found_so_many_groups_and_no_more),
        FIXTURE_TEST(liar_gets_into_no_group_by_a_wrong_token),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
