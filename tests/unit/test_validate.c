/*
 * The heap's checks of itself: each notices when one word, list or counter of what it checks is not as it should be,
 * and is content again when it is.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/heap/roots.h"
#include "daemon/serve/session.h"
#include "tests/support/fixture.h"

#define ENTRY       1u  /* of the one session, which reclaims */
#define CLASS       12u /* span class of 64-byte objects */
#define SPAN_NPAGES ((unsigned)size_class_npages[CLASS / 2])

typedef struct world {
    heapfile file;
    mheap heap;
    session_table table;
    roots *roots;
    session *s;
    page_no span;    /* leased by it, an object of 64 bytes in it */
    page_no central; /* leased by nobody; it has adopted the object in there */
    FILE *out;       /* what differs, which nobody reads */
} world;

static page_no make_span(world *w)
{
    page_no first;
    uint64_t nscavenged;

    assert_int_equal(mheap_alloc_span(&w->heap, SPAN_NPAGES, 1, (span_class){ CLASS }, &first, &nscavenged), 0);
    u64_store_release(shm_alloc_word(&w->file.map, first, 0), 1);
    return first;
}

static uint64_t address_of(const world *w, page_no first)
{
    return w->file.map.base + page_offset(first);
}

static int world_setup(void **state)
{
    static world the;
    world *w = &the;
    session_request request = { .flags = SESSION_RECLAIM, .pid = 7, .uid = 8, .label = "validate" };
    object_ref object;

    memset(w, 0, sizeof(*w));
    w->out = fopen("/dev/null", "we");
    assert_non_null(w->out);
    assert_int_equal(heapfile_create(&w->file, SHM_BASE_DEFAULT, 128 * MIB), 0);
    assert_int_equal(mheap_init(&w->heap, &w->file, 0), 0);
    session_table_init(&w->table, &w->heap);
    assert_int_equal(roots_new(&w->file.map, &w->roots), 0);
    assert_int_equal(session_open(&w->table, &request, &w->s), 0);
    assert_int_equal(w->s->lessee.no.n, ENTRY);
    w->span = make_span(w);
    lease_give(&w->s->lessee, w->span);
    w->central = make_span(w);
    mcentral_put(&w->heap, w->central);
    assert_int_equal(object_find(&w->file.map, address_of(w, w->central), &object), OBJECT_LIVE);
    assert_int_equal(adopt_set(w->heap.adopted, &object, w->s->lessee.owner, w->s->lessee.epoch), 0);
    assert_int_equal(roots_set(w->roots, (root_name){ (const uint8_t *)"one", 3 },
                               &(root_value){ .offset = page_offset(w->central) }),
                     0);
    *state = w;
    return 0;
}

static int world_teardown(void **state)
{
    world *w = *state;

    w->roots = roots_free(w->roots);
    session_table_end(&w->table);
    mheap_end(&w->heap);
    heapfile_close(&w->file);
    return fclose(w->out);
}

enum validator { HEAP, ADOPT, ROOTS, SESSIONS };

static int validate(world *w, enum validator which)
{
    switch (which) {
    case HEAP:
        return mheap_validate(&w->heap, w->out);
    case ADOPT:
        return adopt_validate(w->heap.adopted, w->out);
    case ROOTS:
        return roots_validate(w->roots, w->out);
    default:
        return session_table_validate(&w->table, w->out);
    }
}

/* With a bit of the byte at p changed, the validator notices. */
static void assert_noticed(world *w, enum validator which, void *p, const char *what)
{
    for (int pass = 0; pass < 2; pass++) {
        int r = validate(w, which);

        if (r != (pass == 0 ? 0 : -EUCLEAN))
            fail_msg("%s: %d %s it was changed", what, r, pass == 0 ? "before" : "after");
        *(unsigned char *)p ^= 2;
    }
    assert_int_equal(validate(w, which), 0);
}

#define NOTICED(which, lvalue)      assert_noticed(w, which, (void *)(uintptr_t)&(lvalue), #lvalue)
#define NOTICED_HIGH(which, lvalue) assert_noticed(w, which, (char *)(uintptr_t)&(lvalue) + 5, #lvalue)

static void mheap_validate_with_a_word_changed_notices(void **state)
{
    world *w = *state;
    shm_span *span = shm_span_at(&w->file.map, w->central);

    NOTICED(HEAP, w->heap.ninuse_pages);
    NOTICED(HEAP, w->heap.ninuse_spans);
    NOTICED(HEAP, w->heap.naside_pages[ASIDE_AHEAD]);
    NOTICED(HEAP, w->heap.central[CLASS].sets[0].count);
    NOTICED(HEAP, w->heap.links[w->span.n].place);
    NOTICED(HEAP, w->file.map.page_map[w->central.n]);
    NOTICED(HEAP, span->npages);
    NOTICED(HEAP, span->lease);
    NOTICED(HEAP, span->nadopted);
    NOTICED(HEAP, w->heap.book.nunits);           /* by metabook_validate() */
    NOTICED(HEAP, w->heap.links[w->span.n].left); /* by left_validate() */
    NOTICED(HEAP, w->file.map.header->free_limit); /* by adopt_validate() */
}

static void adopt_validate_with_a_word_changed_notices(void **state)
{
    world *w = *state;

    NOTICED(ADOPT, w->file.private->adoptions[0].offset);
    NOTICED_HIGH(ADOPT, w->file.private->adoptions[0].who);
    NOTICED(ADOPT, w->file.map.header->free_limit);
    /* An entry in use that no adoption has. */
    assert_int_equal(u32_load_relaxed(&w->file.private->nadoption_entries), 1);
    u32_store_release(&w->file.private->nadoption_entries, 2);
    NOTICED(ADOPT, w->file.private->adoptions[1].offset);
}

static void roots_validate_with_a_word_changed_notices(void **state)
{
    world *w = *state;
    shm_root *root = &w->file.map.roots[0];

    NOTICED(ROOTS, root->name);
    NOTICED(ROOTS, root->current);
    NOTICED_HIGH(ROOTS, root->current);
    NOTICED_HIGH(ROOTS, root->values[0].offset);
    /* A root that the hash doesn't know, and one that is beyond the entries in use. */
    assert_int_equal(u32_load_relaxed(&w->file.map.header->nroot_entries), 1);
    u32_store_release(&w->file.map.header->nroot_entries, 2);
    NOTICED(ROOTS, w->file.map.roots[1].current);
    u32_store_release(&w->file.map.header->nroot_entries, 0);
    assert_int_equal(validate(w, ROOTS), -EUCLEAN);
}

static void session_table_validate_with_a_word_changed_notices(void **state)
{
    world *w = *state;
    shm_session *entry = &w->file.map.sessions[ENTRY];

    NOTICED(SESSIONS, entry->state);
    NOTICED(SESSIONS, entry->epoch);
    NOTICED(SESSIONS, entry->flags);
    NOTICED(SESSIONS, entry->pid);
    NOTICED(SESSIONS, entry->uid);
    NOTICED(SESSIONS, entry->profile);
    NOTICED(SESSIONS, w->table.nopen);
    /* A session that nobody has opened, and one that is beyond the entries in use. */
    assert_int_equal(u32_load_relaxed(&w->file.map.header->nsession_entries), 2);
    u32_store_release(&w->file.map.header->nsession_entries, 3);
    NOTICED(SESSIONS, w->file.map.sessions[2].state);
    u32_store_release(&w->file.map.header->nsession_entries, 1);
    assert_int_equal(validate(w, SESSIONS), -EUCLEAN);
}

static void lease_validate_with_a_word_changed_notices(void **state)
{
    world *w = *state;
    shm_span *span = shm_span_at(&w->file.map, w->span);

    NOTICED(SESSIONS, span->lease);
    NOTICED(SESSIONS, span->owner);
    NOTICED(SESSIONS, w->table.leases.nleased);
    NOTICED(SESSIONS, w->s->lessee.leased.count);
    NOTICED(SESSIONS, w->s->lessee.leased.head);
    NOTICED(SESSIONS, w->s->lessee.nheld_pages);
    NOTICED(SESSIONS, w->s->lessee.no);
}

/* --- in slices --- */

/* Change something: a span comes, goes, is leased or returned, an object is adopted or forgotten. */
static void change(world *w, page_no spans[], size_t n, uint64_t *seed)
{
    size_t i = test_random(seed) % n;
    page_no *first = &spans[i];
    object_ref object;

    if (first->n == 0) {
        *first = make_span(w);
        lease_give(&w->s->lessee, *first);
    } else if (w->heap.links[first->n].place == PLACE_LEASED) {
        u64_store_release(shm_alloc_word(&w->file.map, *first, 0), 0);
        lease_return(&w->s->lessee, *first); /* empty: it is free */
        *first = page_at(0);
    } else if (test_random(seed) % 4 == 0) {
        mcentral_remove(&w->heap, *first);
        mheap_free_span(&w->heap, *first, false);
        *first = page_at(0);
    } else if (object_find(&w->file.map, address_of(w, *first), &object) == OBJECT_LIVE) {
        if (test_random(seed) % 2 == 0)
            assert_int_equal(adopt_set(w->heap.adopted, &object, w->s->lessee.owner, w->s->lessee.epoch), 0);
        else
            adopt_clear(w->heap.adopted, object.offset);
    }
    if (test_random(seed) % 2 == 0 && first->n == 0) {
        *first = make_span(w);
        mcentral_put(&w->heap, *first);
    }
}

/* Check in steps of one span, with changes in between. */
static int validate_while_it_changes(world *w, page_no spans[], size_t n, uint64_t *seed, uint64_t *forge)
{
    int r;
    unsigned nsteps = 0;

    mheap_validate_begin(&w->heap);
    while ((r = mheap_validate_step(&w->heap, 1, w->out)) == VALIDATE_E_MORE) {
        change(w, spans, n, seed);
        if (forge != NULL && nsteps++ == 50)
            ++*forge;
    }
    if (r < 0)
        return r;
    r = session_table_validate_begin(&w->table, w->out);
    while (r == 0 && (r = session_table_validate_step(&w->table, 1, w->out)) == VALIDATE_E_MORE) {
        change(w, spans, n, seed);
        r = 0;
    }
    return r;
}

static void validate_steps_of_a_heap_that_changes_agree(void **state)
{
    page_no spans[200] = { { 0 } };
    size_t n = sizeof(spans) / sizeof(spans[0]);
    uint64_t seed = test_seed();
    world *w = *state;

    for (int round = 0; round < 30; round++)
        assert_int_equal(validate_while_it_changes(w, spans, n, &seed, NULL), 0);
    /* A count that goes wrong meanwhile is noticed. */
    assert_int_equal(validate_while_it_changes(w, spans, n, &seed, &w->heap.ninuse_spans), -EUCLEAN);
    w->heap.ninuse_spans--;
    assert_int_equal(validate_while_it_changes(w, spans, n, &seed, &w->heap.central[CLASS].sets[0].count), -EUCLEAN);
    w->heap.central[CLASS].sets[0].count--;
    assert_int_equal(validate(w, HEAP), 0);
    assert_int_equal(validate(w, SESSIONS), 0);
}

/* Wherever a check in slices has come to when another one goes over the heap at once, it ends. */
static void mheap_validate_step_after_another_check_ends(void **state)
{
    world *w = *state;

    for (unsigned before = 0; before < 64; before++) {
        unsigned after = 0;
        int r = VALIDATE_E_MORE;

        mheap_validate_begin(&w->heap);
        for (unsigned n = 0; n < before && r == VALIDATE_E_MORE; n++)
            r = mheap_validate_step(&w->heap, 16, w->out);
        assert_int_equal(validate(w, HEAP), 0);
        while ((r = mheap_validate_step(&w->heap, 16, w->out)) == VALIDATE_E_MORE && after < 10000)
            after++;
        assert_int_equal(r, 0);
    }
}

/* A group of which the session's user could be, with no member. */
static group *found_group(world *w)
{
    const group_request request = {
        .name = (const uint8_t *)"pool", .name_bytes = 4, .uid = 8, .flags = SESSION_RECLAIM
    };
    group *g;

    assert_int_equal(group_find_or_found(w->heap.groups, &request, &g), 0);
    assert_non_null(g);
    return g;
}

static void group_table_validate_with_a_word_changed_notices(void **state)
{
    world *w = *state;
    group *g = found_group(w);
    shm_group *entry = shm_group_at(&w->file.map, g->no.n);
    page_no first = make_span(w);
    shm_span *span = shm_span_at(&w->file.map, first);

    u32_store_release(&span->owner, g->no.n);
    mcentral_put(&w->heap, first);
    assert_int_equal(g->central[CLASS].sets[0].count, 1);
    NOTICED(HEAP, entry->word);
    NOTICED_HIGH(HEAP, entry->word);
    NOTICED(HEAP, entry->uid);
    NOTICED(HEAP, entry->flags);
    NOTICED(HEAP, g->epoch);
    NOTICED(HEAP, g->no);
    NOTICED(HEAP, w->heap.groups->ngroups);
    NOTICED(HEAP, g->central[CLASS].sets[0].count);
    NOTICED(HEAP, g->central[CLASS].sets[0].head);
    NOTICED(HEAP, span->owner);
    NOTICED(SESSIONS, span->owner);
    NOTICED(SESSIONS, g->nmembers);
    NOTICED(SESSIONS, w->file.map.sessions[ENTRY].group);
    /* A group that nobody has founded, and one that is beyond the entries in use. */
    assert_int_equal(u32_load_relaxed(&w->file.map.header->ngroup_entries), 1);
    u32_store_release(&w->file.map.header->ngroup_entries, 2);
    NOTICED(HEAP, w->file.map.groups[1].word);
    u32_store_release(&w->file.map.header->ngroup_entries, 0);
    assert_int_equal(validate(w, HEAP), -EUCLEAN);
}

/* Whoever founds them: there are so many entries, and so many of one user's. */
static void group_find_or_found_beyond_a_limit_says_which(void **state)
{
    world *w = *state;
    group_request request = { .flags = SESSION_RECLAIM };
    char name[16];
    group *g;

    for (uint32_t i = 0; i <= SHM_GROUPS_MAX; i++) {
        (void)snprintf(name, sizeof(name), "%u", i);
        request.name = (const uint8_t *)name;
        request.name_bytes = strlen(name);
        request.uid = i / GROUPS_PER_UID_MAX;
        assert_int_equal(group_find_or_found(w->heap.groups, &request, &g), i < SHM_GROUPS_MAX ? 0 : GROUP_E_FULL);
        if ((i + 1) % GROUPS_PER_UID_MAX == 0 && i + 1 < SHM_GROUPS_MAX) {
            request.name = (const uint8_t *)"one more";
            request.name_bytes = 8;
            assert_int_equal(group_find_or_found(w->heap.groups, &request, &g), GROUP_E_UID_FULL);
        }
    }
    assert_int_equal(validate(w, HEAP), 0);
    g = w->heap.groups->groups[77];
    group_set_ending(w->heap.groups, g);
    assert_int_equal(group_find_or_found(w->heap.groups, &request, &g), GROUP_E_FULL); /* not before it is gone */
    group_forget(w->heap.groups, w->heap.groups->groups[77]);
    assert_int_equal(group_find_or_found(w->heap.groups, &request, &g), 0);
    assert_int_equal(g->no.n, SHM_SESSIONS_MAX + 77);
    assert_int_equal(g->epoch, 2);
    assert_int_equal(validate(w, HEAP), 0);
}

static void dump_names_session_root_and_adoption(void **state)
{
    world *w = *state;
    char text[1024] = "";
    char leased[128];
    FILE *out = fmemopen(text, sizeof(text), "w");

    assert_non_null(out);
    session_table_dump(&w->table, out);
    roots_dump(w->roots, out);
    adopt_dump(w->heap.adopted, out);
    assert_int_equal(fclose(out), 0);
    (void)snprintf(leased, sizeof(leased), "session 1.1: state 1, flags 1, pid 7, 'validate', %u pages in 1 spans",
                   SPAN_NPAGES);
    assert_non_null(strstr(text, leased));
    assert_non_null(strstr(text, "root 0: 'one' is 0x"));
    assert_non_null(strstr(text, "adoption 0: object 0x"));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

/* --- reserved words --- */

static bool is_zero(const void *p, size_t bytes)
{
    static const char zeros[256];

    return memcmp(p, zeros, bytes) == 0;
}

/* Somebody of a later minor has used them, in records that are used again by who does not know them. */
static void record_that_is_made_has_zero_in_its_reserved_words_and_nobody_minds_others(void **state)
{
    world *w = *state;
    shm_map *map = &w->file.map;
    const session_request request = { .pid = 9, .uid = 8, .label = "next", .knows = { 1, 2, 4, 8, 16, 32 } };
    shm_session *entry = &map->sessions[ENTRY + 1];
    shm_span *span;
    session *next;
    page_no first;

    for (uint32_t page = w->central.n + SPAN_NPAGES; page < w->central.n + 64; page++) {
        span = shm_span_at(map, page_at(page));
        span->marked = 0xff;
        span->reserved32 = UINT32_MAX;
        u64_store_relaxed(&span->origin, UINT64_MAX);
    }
    memset(entry->reserved, 0xff, sizeof(entry->reserved));
    u32_store_relaxed(&entry->collecting, 1);
    u64_store_relaxed(&entry->profile, UINT64_MAX);
    memset(map->groups[0].reserved, 0xff, sizeof(map->groups[0].reserved));
    u64_store_relaxed(&map->groups[0].profile, UINT64_MAX);
    memset(map->roots[1].reserved, 0xff, sizeof(map->roots[1].reserved));

    first = make_span(w);
    mcentral_put(&w->heap, first);
    span = shm_span_at(map, first);
    assert_true(span->marked == 0 && span->reserved32 == 0 && u64_load_relaxed(&span->origin) == 0);
    assert_int_equal(session_open(&w->table, &request, &next), 0);
    assert_true(is_zero(entry->reserved, sizeof(entry->reserved)) && u64_load_relaxed(&entry->profile) == 0);
    assert_int_equal(u32_load_relaxed(&entry->collecting), 0);
    assert_true(entry->minor == 2 && entry->knows_needed == 4 && entry->knows_writing == 8);
    (void)found_group(w);
    assert_true(is_zero(map->groups[0].reserved, sizeof(map->groups[0].reserved)));
    assert_true(u64_load_relaxed(&map->groups[0].profile) == 0);
    assert_int_equal(roots_set(w->roots, (root_name){ (const uint8_t *)"two", 3 },
                               &(root_value){ .offset = page_offset(w->central) }),
                     0);
    assert_true(is_zero(map->roots[1].reserved, sizeof(map->roots[1].reserved)));

    u64_store_relaxed(&span->origin, 1);
    memset(entry->reserved, 1, sizeof(entry->reserved));
    map->roots[1].reserved[0] = 1;
    map->groups[0].reserved[0] = 1;
    for (int which = HEAP; which <= SESSIONS; which++)
        assert_int_equal(validate(w, (enum validator)which), 0);
    session_forget(&w->table, next);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(mheap_validate_with_a_word_changed_notices),
        TEST(adopt_validate_with_a_word_changed_notices),
        TEST(roots_validate_with_a_word_changed_notices),
        TEST(session_table_validate_with_a_word_changed_notices),
        TEST(lease_validate_with_a_word_changed_notices),
        TEST(group_table_validate_with_a_word_changed_notices),
        TEST(validate_steps_of_a_heap_that_changes_agree),
        TEST(mheap_validate_step_after_another_check_ends),
        TEST(group_find_or_found_beyond_a_limit_says_which),
        TEST(record_that_is_made_has_zero_in_its_reserved_words_and_nobody_minds_others),
        TEST(dump_names_session_root_and_adoption),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
