/*
 * Who may do what: attach, attach read-only, control the daemon, see other sessions, change a root. Needs root, to be
 * other users.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <grp.h>
#include <signal.h>

#include "tests/support/groups.h"

#define ALICE      "61001"
#define BOB        "61002"
#define ADMINS     "61003"
#define READERS    "61004"
#define ALICE_UID  61001u
#define BOB_UID    61002u
#define ADMINS_GID 61003u
#define READ_GID   61004u

/* A user, and one more group; 0: none. */
typedef struct person {
    uid_t uid;
    gid_t group;
} person;

static void become(const person *p)
{
    CHECK(setgroups(p->group == 0 ? 0 : 1, &p->group) == 0);
    CHECK(setresgid(p->uid, p->uid, p->uid) == 0 && setresuid(p->uid, p->uid, p->uid) == 0);
}

/* A daemon that everybody can connect to, and a test that may be everybody. */
static fixture *open_house(void **state)
{
    fixture *f = *state;

    if (geteuid() != 0)
        skip();
    let_everybody_in(f);
    return f;
}

/* --- attach --- */

typedef struct visit {
    person who;
    uint32_t flags;
    int result;
} visit;

static int pay_visit(const fixture *f, void *arg)
{
    const visit *v = arg;
    int r;

    become(&v->who);
    r = attach_as(f, v->flags, NULL);
    if (r != v->result)
        (void)fprintf(stderr, "uid %u, group %u: %d: %s\n", v->who.uid, v->who.group, r, goalloc_attach_error());
    CHECK(r == v->result);
    CHECK(r == 0 || strstr(goalloc_attach_error(), "this user may") != NULL);
    return 0;
}

static void pay_visits(const fixture *f, const visit *visits, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_int_equal(child_run(f, pay_visit, (void *)(uintptr_t)&visits[i]), 0);
}

static void attach_by_lists_lets_in_who_is_in_one(void **state)
{
    static const visit visits[] = {
        { { 0, 0 }, 0, 0 }, /* root is always let in */
        { { ALICE_UID, 0 }, 0, 0 },
        { { ALICE_UID, 0 }, GOALLOC_ATTACH_READONLY, 0 },
        { { BOB_UID, 0 }, 0, -EACCES },
        { { BOB_UID, 0 }, GOALLOC_ATTACH_READONLY, -EACCES },
        { { BOB_UID, READ_GID }, GOALLOC_ATTACH_READONLY, 0 },
        { { BOB_UID, READ_GID }, 0, -EACCES },
        { { READ_GID, 0 }, GOALLOC_ATTACH_READONLY, 0 }, /* the first group */
        { { BOB_UID, ADMINS_GID }, 0, -EACCES },
    };

    pay_visits(open_house(state), visits, sizeof(visits) / sizeof(visits[0]));
    assert_true(fixture_is_clean(*state, 0));
    assert_true(fixture_log_has(*state, " (uid " BOB "): refused: this user may not attach"));
    assert_false(fixture_log_has(*state, "(uid " ALICE "): refused"));
}

static void attach_without_lists_lets_everybody_in(void **state)
{
    static const visit visits[] = {
        { { ALICE_UID, 0 }, 0, 0 },
        { { BOB_UID, 0 }, GOALLOC_ATTACH_READONLY, 0 },
    };

    pay_visits(open_house(state), visits, sizeof(visits) / sizeof(visits[0]));
}

static void command_lines_with_unknown_people_are_refused(void **state)
{
    static const char *const wrong[] = { "--allow-uid=no-such-user", "--allow-gid=no-such-group", "--allow-uid=1,,2",
                                         "--allow-read-uid=4294967295", "--allow-read-gid=-1",
                                         "--control-group=no-such-group" };
    fixture *f = *state;

    fixture_kill(f);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(fixture_restart_refused(f, wrong[i]), 2);
    fixture_restart(f, "--allow-uid=root,61001");
}

/* --- control --- */

static int try_control(const fixture *f, void *arg)
{
    static const char *const commands[][4] = { { "check", NULL },
                                               { "trim", NULL },
                                               { "scavenge", NULL },
                                               { "reclaim", "1", "--yes", NULL },
                                               { "disconnect", "1", "--yes", NULL },
                                               { "drop", "--yes", NULL } };
    const person *who = arg;
    char out[4096];

    become(who);
    CHECK(dup2(STDOUT_FILENO, STDERR_FILENO) == STDERR_FILENO);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        const char *words[8] = { NULL };
        size_t n = 0;
        int status;

        for (; commands[i][n] != NULL; n++)
            words[n] = commands[i][n];
        words[n] = "2>&1";
        status = fixture_ctl(f, words, out, sizeof(out));
        if (who->group != 0 && i < 3)
            CHECK(status == 0);
        else
            CHECK(status == 1);
        CHECK((strstr(out, "only root, the daemon's user and the control group may") != NULL) == (who->group == 0));
        if (who->group != 0 && i == 4)
            break; /* the heap is not dropped here */
    }
    return 0;
}

static void control_is_for_the_control_group(void **state)
{
    const fixture *f = open_house(state);

    assert_int_equal(child_run(f, try_control, &(person){ BOB_UID, 0 }), 0);
    assert_true(fixture_log_has(f, " (uid " BOB "): refused: only root, the daemon's user and the control group may"));
    assert_int_equal(child_run(f, try_control, &(person){ BOB_UID, ADMINS_GID }), 0);
    assert_true(fixture_is_whole(f));
}

/* What is cheap, everybody may ask for. */
static int ask_cheaply(const fixture *f, void *arg)
{
    static const char *const commands[] = { "stats", "classes", "sessions", "roots", "heap-map", "ping" };
    char out[16384];

    become(arg);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        CHECK(fixture_ctl(f, (const char *const[]){ commands[i], NULL }, out, sizeof(out)) == 0);
    return 0;
}

static int trim_and_go(const fixture *f, void *arg)
{
    become(arg);
    must_attach(f, 0);
    goalloc_free(goalloc_malloc(100));
    CHECK(goalloc_trim() == 0);
    return 0;
}

static void everybody_may_ask_for_what_is_cheap_and_trim_what_is_its_own(void **state)
{
    const fixture *f = open_house(state);

    assert_int_equal(child_run(f, ask_cheaply, &(person){ BOB_UID, 0 }), 0);
    assert_int_equal(child_run(f, trim_and_go, &(person){ BOB_UID, 0 }), 0);
}

/* --- sessions of others --- */

static int hold_label(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    const person *who = arg;

    become(who);
    options.socket_path = f->socket;
    options.label = who->uid == ALICE_UID ? "of alice" : "of bob";
    CHECK(goalloc_attach(&options) == 0);
    CHECK(goalloc_root_set(options.label, goalloc_malloc(10)) == 0);
    (void)raise(SIGSTOP);
    return 0;
}

typedef struct onlooker {
    person who;
    bool sees_alice;
    bool sees_bob;
} onlooker;

static bool json_has(const fixture *f, const char *command, const char *text)
{
    char out[16384];

    CHECK(fixture_ctl(f, (const char *const[]){ "--json", command, NULL }, out, sizeof(out)) == 0);
    return strstr(out, text) != NULL;
}

static int look_at_sessions(const fixture *f, void *arg)
{
    const onlooker *o = arg;

    become(&o->who);
    CHECK(json_has(f, "sessions", "\"label\": \"of alice\"") == o->sees_alice);
    CHECK(json_has(f, "sessions", "\"label\": \"of bob\"") == o->sees_bob);
    CHECK(json_has(f, "sessions", "\"pid\": 0,") == !(o->sees_alice && o->sees_bob));
    CHECK(json_has(f, "sessions", "\"uid\": " ALICE) && json_has(f, "sessions", "\"uid\": " BOB));
    CHECK(json_has(f, "roots", "\"label\": \"of alice\"") == o->sees_alice);
    CHECK(json_has(f, "roots", "\"label\": \"of bob\"") == o->sees_bob);
    return 0;
}

static void sessions_of_others_have_no_pid_and_no_label(void **state)
{
    const fixture *f = open_house(state);
    pid_t alice = child_start(f, hold_label, &(person){ ALICE_UID, 0 });
    pid_t bob = child_start(f, hold_label, &(person){ BOB_UID, 0 });

    assert_true(child_stops(alice) && child_stops(bob));
    assert_int_equal(child_run(f, look_at_sessions, &(onlooker){ { 0, 0 }, true, true }), 0);
    assert_int_equal(child_run(f, look_at_sessions, &(onlooker){ { ALICE_UID, 0 }, true, false }), 0);
    assert_int_equal(child_run(f, look_at_sessions, &(onlooker){ { BOB_UID, 0 }, false, true }), 0);
    assert_int_equal(child_run(f, look_at_sessions, &(onlooker){ { READ_GID, ADMINS_GID }, true, true }), 0);
    assert_true(json_has(f, "sessions --group", "\"uid\": " ALICE)); /* in no group: by user */
    assert_true(json_has(f, "sessions --group", "\"uid\": " BOB));
    (void)kill(alice, SIGCONT);
    (void)kill(bob, SIGCONT);
    assert_int_equal(child_wait(alice), 0);
    assert_int_equal(child_wait(bob), 0);
}

/* --- disconnect --- */

static int be_disconnected(const fixture *f, void *arg)
{
    unsigned char *p;
    void *large = NULL;

    (void)arg;
    must_attach(f, 0);
    p = filled(1000, 7);
    (void)raise(SIGSTOP);
    CHECK(goalloc_is_current() == 1);
    CHECK(all_are(p, 1000, 7)); /* what it has it has */
    memset(p, 8, 1000);
    goalloc_free(p);
    for (int i = 0; i < 3; i++)
        CHECK((large = goalloc_malloc(1 << 20)) == NULL && errno == ESTALE);
    (void)raise(SIGSTOP);
    CHECK(goalloc_detach() == 0);
    must_attach(f, 0); /* as anybody new */
    CHECK((large = goalloc_malloc(1 << 20)) != NULL);
    goalloc_free(large);
    return 0;
}

static void disconnected_session_gets_nothing_more_and_ends_with_its_process(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start(f, be_disconnected, NULL);
    char out[16384];

    assert_true(child_stops(pid));
    assert_int_equal(fixture_ctl(f, (const char *const[]){ "disconnect", "1", "--yes", NULL }, out, sizeof(out)), 0);
    (void)kill(pid, SIGCONT);
    assert_true(child_stops(pid));
    assert_true(json_has(f, "sessions", "\"state\": \"lost\"")); /* it lives, and may write */
    assert_int_equal(fixture_ctl(f, (const char *const[]){ "disconnect", "77", "--yes", NULL }, out, sizeof(out)), 1);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- a user's own sessions --- */

typedef struct manager {
    person who;
    int trim; /* the exit status, of session 1, which is Alice's */
    int disconnect;
} manager;

static int manage_session_1(const fixture *f, void *arg)
{
    const manager *m = arg;
    char out[4096];

    become(&m->who);
    CHECK(fixture_ctl(f, (const char *const[]){ "trim", "1", "2>&1", NULL }, out, sizeof(out)) == m->trim);
    CHECK(m->trim == 0 || strstr(out, "only root") != NULL);
    CHECK(fixture_ctl(f, (const char *const[]){ "trim", "77", "2>&1", NULL }, out, sizeof(out)) == 1);
    CHECK(m->trim == 0 || strstr(out, "only root") != NULL); /* whether it is there is not said */
    CHECK(fixture_ctl(f, (const char *const[]){ "trim", "2>&1", NULL }, out, sizeof(out)) == (m->who.group == 0));
    CHECK(fixture_ctl(f, (const char *const[]){ "disconnect", "1", "--yes", "2>&1", NULL }, out, sizeof(out)) ==
          m->disconnect);
    return 0;
}

static void a_user_may_trim_and_disconnect_its_own_sessions(void **state)
{
    const fixture *f = open_house(state);
    pid_t alice = child_start(f, hold_label, &(person){ ALICE_UID, 0 });

    assert_true(child_stops(alice));
    assert_int_equal(child_run(f, manage_session_1, &(manager){ { BOB_UID, 0 }, 1, 1 }), 0);
    assert_true(json_has(f, "sessions", "\"state\": \"open\""));
    assert_int_equal(child_run(f, manage_session_1, &(manager){ { ALICE_UID, 0 }, 0, 0 }), 0);
    assert_true(json_has(f, "sessions", "\"state\": \"lost\""));
    assert_int_equal(child_run(f, manage_session_1, &(manager){ { BOB_UID, ADMINS_GID }, 0, 0 }), 0);
    (void)kill(alice, SIGCONT);
    assert_int_equal(child_wait(alice), 0);
}

/* --- whose a root is --- */

static int change_roots(const fixture *f, void *arg)
{
    const onlooker *o = arg; /* sees_alice: it may change her root */
    int expected = o->sees_alice ? 0 : -EPERM;
    void *root = NULL;
    void *p;
    int created;

    become(&o->who);
    must_attach(f, 0);
    CHECK(goalloc_root_get("alice", &root) == 0 && root != NULL); /* everybody gets it */
    p = goalloc_malloc(64);
    CHECK(goalloc_root_set("alice", p) == expected);
    if (expected == 0)
        CHECK(goalloc_root_set("alice", root) == 0);
    CHECK(goalloc_root_set("alice", NULL) == expected);
    if (expected == 0)
        CHECK(goalloc_root_set("alice", root) == 0);
    CHECK(goalloc_root_compare_and_set("alice", root, p) == expected);
    if (expected == 0)
        CHECK(goalloc_root_compare_and_set("alice", p, root) == 0);
    CHECK(goalloc_root_set("free", p) == 0 && goalloc_root_set("free", NULL) == 0); /* what nobody has made */
    CHECK(goalloc_root_get_or_create("alice", 64, 0, NULL, NULL, &root, &created) == 0 && !created);
    goalloc_free(p);
    return 0;
}

static int make_root(const fixture *f, void *arg)
{
    become(arg);
    must_attach(f, 0);
    CHECK(goalloc_root_set("alice", goalloc_malloc(64)) == 0);
    return 0;
}

static int remove_root(const fixture *f, void *arg)
{
    const onlooker *o = arg;
    void *root;

    become(&o->who);
    must_attach(f, 0);
    CHECK(goalloc_root_get("alice", &root) == 0);
    CHECK(goalloc_root_set("alice", NULL) == (o->sees_alice ? 0 : -EPERM));
    if (o->sees_alice)
        goalloc_free(root);
    return 0;
}

static void root_belongs_to_the_user_who_has_made_it(void **state)
{
    fixture *f = open_house(state);

    assert_int_equal(child_run(f, make_root, &(person){ ALICE_UID, 0 }), 0);
    assert_int_equal(child_run(f, change_roots, &(onlooker){ { BOB_UID, 0 }, .sees_alice = false }), 0);
    fixture_kill(f); /* another daemon knows whose it is */
    fixture_restart(f, NULL);
    let_everybody_in(f);
    assert_int_equal(child_run(f, change_roots, &(onlooker){ { BOB_UID, 0 }, .sees_alice = false }), 0);
    assert_int_equal(child_run(f, remove_root, &(onlooker){ { BOB_UID, 0 }, .sees_alice = false }), 0);
    /* He may as an administrator, and has made it when he has removed it and set it again. */
    assert_int_equal(child_run(f, change_roots, &(onlooker){ { BOB_UID, ADMINS_GID }, .sees_alice = true }), 0);
    assert_int_equal(child_run(f, remove_root, &(onlooker){ { ALICE_UID, 0 }, .sees_alice = false }), 0);
    assert_int_equal(child_run(f, remove_root, &(onlooker){ { BOB_UID, 0 }, .sees_alice = true }), 0);
}

static void root_is_anybodys_without_the_option(void **state)
{
    fixture *f = open_house(state);

    assert_int_equal(child_run(f, make_root, &(person){ ALICE_UID, 0 }), 0);
    assert_int_equal(child_run(f, change_roots, &(onlooker){ { BOB_UID, 0 }, .sees_alice = true }), 0);
    assert_int_equal(child_run(f, remove_root, &(onlooker){ { BOB_UID, 0 }, .sees_alice = true }), 0);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    static const char *owner[] = { "--root-owner", "--control-group", ADMINS, NULL };
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_WITH(attach_by_lists_lets_in_who_is_in_one, "--allow-uid", "daemon," ALICE, "--allow-read-gid",
                          READERS),
        FIXTURE_TEST(attach_without_lists_lets_everybody_in),
        FIXTURE_TEST_KEPT(command_lines_with_unknown_people_are_refused),
        FIXTURE_TEST_WITH(control_is_for_the_control_group, "--control-group", ADMINS),
        FIXTURE_TEST_WITH(everybody_may_ask_for_what_is_cheap_and_trim_what_is_its_own, "--control-group", ""),
        FIXTURE_TEST_WITH(sessions_of_others_have_no_pid_and_no_label, "--control-group", ADMINS),
        FIXTURE_TEST(disconnected_session_gets_nothing_more_and_ends_with_its_process),
        FIXTURE_TEST_WITH(a_user_may_trim_and_disconnect_its_own_sessions, "--control-group", ADMINS),
        cmocka_unit_test_prestate_setup_teardown(root_belongs_to_the_user_who_has_made_it, fixture_setup_kept,
                                                 fixture_teardown, (void *)(uintptr_t)owner),
        FIXTURE_TEST(root_is_anybodys_without_the_option),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
