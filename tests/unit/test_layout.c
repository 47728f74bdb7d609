/*
 * Layout: that nobody changes it unnoticed; that a header is checked; which versions fit.
 *
 * The number of a layout is made of all that two builds of the same major have to agree on. If it differs from the one
 * below, read shm/README.md, "Versions": either the change is undone, or the version rises, and the number below with
 * it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/memory/heapfile.h"
#include "shm/intents.h"
#include "shm/layout.h"
#include "shm/offers.h"
#include "shm/origin.h"
#include "shm/profile.h"

#define LAYOUT_NUMBER UINT64_C(0x4453a809477b1498) /* of 1.2 */

#define AT(type, field) offsetof(type, field), sizeof(((type *)NULL)->field)

static const uint64_t facts[] = {
    /* limits */
    PAGE_SHIFT, SHM_SESSIONS_MAX, SHM_GROUPS_MAX, SHM_ROOTS_MAX, SHM_HEAP_ARENA_BYTES, SHM_BITS_WORDS,
    SHM_COUNTERS_WORDS, SHM_RUN_PAGES_MIN, SHM_RUN_PAGES_MAX, SPAN_CLASS_COUNT, SHM_WORD_STRIDE, SHM_REMOTE_AT,
    SHM_INTENTS_MAX, SHM_HOLDS_MAX, HOLD_PLACE_BITS, HOLD_SESSION_BITS, SESSION_TOKEN_BYTES, ADOPTIONS_MAX, HELPERS_MAX,
    /* values */
    SHM_MAGIC, SHM_DROPPED, SESSION_RECLAIM, SESSION_READONLY, SHM_SESSION_FREE, SHM_SESSION_OPEN, SHM_SESSION_LOST,
    SHM_SESSION_ENDING, SHM_GROUP_FREE, SHM_GROUP_OPEN, SHM_GROUP_ENDING, SPAN_FREE, SPAN_LEASED, SPAN_CENTRAL,
    OFFER_NONE, OFFER_OFFERED, OFFER_SEEN, OFFER_TAKEN, INTENT_NONE, INTENT_LINK, INTENT_UNLINK, ROOT_REINIT,
    /* the header */
    sizeof(shm_header), AT(shm_header, magic), AT(shm_header, major), AT(shm_header, minor), AT(shm_header, generation),
    AT(shm_header, base), AT(shm_header, arena_bytes), AT(shm_header, npages), AT(shm_header, spans_bytes),
    AT(shm_header, bitmap_bytes), AT(shm_header, sessions_off), AT(shm_header, roots_off),
    AT(shm_header, heap_arenas_off), AT(shm_header, page_map_off), AT(shm_header, span_table_off),
    AT(shm_header, groups_off), AT(shm_header, reserved), AT(shm_header, created_ms), AT(shm_header, free_limit),
    AT(shm_header, nroot_entries), AT(shm_header, nsession_entries), AT(shm_header, ngroup_entries),
    AT(shm_header, needed), AT(shm_header, writing), AT(shm_header, optional), AT(shm_header, reserved32),
    AT(shm_header, dropped), AT(shm_header, nleases), AT(shm_header, roots_seq), AT(shm_header, profile),
    AT(shm_header, reserved64), AT(shm_header, npeak_pages),
    /* the tables of spans */
    sizeof(shm_session), AT(shm_session, epoch), AT(shm_session, state), AT(shm_session, trim_seq),
    AT(shm_session, flags), AT(shm_session, pid), AT(shm_session, uid), AT(shm_session, limit_bytes),
    AT(shm_session, root_pending), AT(shm_session, root_done), AT(shm_session, group), AT(shm_session, minor),
    AT(shm_session, knows_needed), AT(shm_session, knows_writing), AT(shm_session, label), AT(shm_session, profile),
    AT(shm_session, collecting), AT(shm_session, died_epoch), AT(shm_session, reserved),
    sizeof(shm_group), AT(shm_group, word), AT(shm_group, uid), AT(shm_group, flags), AT(shm_group, profile),
    AT(shm_group, reserved),
    AT(shm_group, name),
    sizeof(shm_root), AT(shm_root, current), AT(shm_root, values), AT(shm_root, name), AT(shm_root, reserved),
    sizeof(shm_root_value), AT(shm_root_value, offset), AT(shm_root_value, size), AT(shm_root_value, type_tag),
    AT(shm_root_value, setter), AT(shm_root_value, ticket), AT(shm_root_value, generation),
    sizeof(shm_heap_arena), AT(shm_heap_arena, zeroed_base), AT(shm_heap_arena, backed_base),
    AT(shm_heap_arena, npages), AT(shm_heap_arena, reserved),
    sizeof(shm_span), AT(shm_span, lease), AT(shm_span, elem_bytes), AT(shm_span, npages), AT(shm_span, nelems),
    AT(shm_span, magic), AT(shm_span, spc), AT(shm_span, needzero), AT(shm_span, lessee_folds),
    AT(shm_span, marked), AT(shm_span, owner), AT(shm_span, nadopted), AT(shm_span, has_kept),
    AT(shm_span, reserved32), AT(shm_span, nleases), AT(shm_span, origin),
    /* bitmap's end, offers */
    sizeof(shm_intents), AT(shm_intents, used), AT(shm_intents, holds), AT(shm_intents, records),
    sizeof(shm_intent), AT(shm_intent, slot), AT(shm_intent, object), AT(shm_intent, next), AT(shm_intent, state),
    SHM_OFFERS_HEADER_BYTES, AT(shm_offers, id), AT(shm_offers, active), offsetof(shm_offers, words),
    /* the region of profiles */
    sizeof(profile_region), AT(profile_region, header), AT(profile_region, modules), AT(profile_region, stacks),
    AT(profile_region, parties), AT(profile_region, sites), AT(profile_region, samples), AT(profile_header, magic),
    AT(profile_header, nlost_samples), AT(profile_module, state), AT(profile_module, build_id),
    AT(profile_module, path), AT(profile_stack, state), AT(profile_stack, frames), AT(profile_party, state),
    AT(profile_party, session), AT(profile_party, label), AT(profile_party, group), AT(profile_site, key),
    AT(profile_site, bytes), PROFILE_BUCKET, PROFILE_OBJECTS_UNIT,
    /* what daemons hand on */
    sizeof(heap_private), AT(heap_private, magic), AT(heap_private, major), AT(heap_private, features),
    AT(heap_private, generation), AT(heap_private, nadoption_entries), AT(heap_private, daemon_epoch),
    AT(heap_private, punching), AT(heap_private, reserved), AT(heap_private, tokens), AT(heap_private, group_tokens),
    AT(heap_private, processes), AT(heap_private, adoptions),
    AT(private_process, pidfd_ino), AT(private_process, pid_namespace), AT(private_process, pid),
    AT(private_adoption, offset), AT(private_adoption, who),
    HEAPFILE_ARENA, HEAPFILE_SPANS, HEAPFILE_BITMAP, HEAPFILE_PRIVATE, HEAPFILE_SHELF_IN, HEAPFILE_SHELF_OUT,
};

static uint64_t fnv1a(uint64_t hash, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        hash ^= (value >> (8 * i)) & 0xff;
        hash *= UINT64_C(0x100000001b3);
    }
    return hash;
}

static void layout_of_this_version_has_not_changed(void **state)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    shm_header header;

    (void)state;
#ifdef GOALLOC_SPANS_GO
    skip(); /* has a major of its own, which nobody hands on */
#endif
    for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++)
        hash = fnv1a(hash, facts[i]);
    for (size_t i = 0; i <= SIZE_CLASS_COUNT; i++) {
        hash = fnv1a(hash, size_class_bytes[i]);
        hash = fnv1a(hash, size_class_npages[i]);
        hash = fnv1a(hash, size_class_nelems[i]);
        hash = fnv1a(hash, size_class_short_npages[i]);
        hash = fnv1a(hash, size_class_short_nelems[i]);
    }
    hash = fnv1a(hash, lease_pack((lease_word){ .state = 1, .session = { 2 }, .epoch = 3 }));
    hash = fnv1a(hash, group_pack((group_word){ .state = SHM_GROUP_OPEN, .epoch = 3 }));
    hash = fnv1a(hash, root_current_pack(7, 1));
    hash = fnv1a(hash, hold_pack((hold){ .place = 64, .session = { 2 }, .record = 3 }));
    hash = fnv1a(hash, offer_pack(OFFER_SEEN, 5));
    hash = fnv1a(hash, origin_pack((origin_word){ ORIGIN_MIXED, true, { 2 }, 3 }));
    shm_header_init(&header, SHM_BASE_DEFAULT, UINT64_C(16) << 30);
    hash = fnv1a(hash, header.spans_bytes);
    hash = fnv1a(hash, header.bitmap_bytes);
    hash = fnv1a(hash, header.span_table_off);
    if (hash != LAYOUT_NUMBER)
        (void)fprintf(stderr, "the layout has changed: its number is 0x%016llx now\n", (unsigned long long)hash);
    assert_true(hash == LAYOUT_NUMBER);
}

/* --- the header --- */

static void header_check_of_another_minor_or_longer_regions_is_good(void **state)
{
    shm_header header;

    (void)state;
    shm_header_init(&header, SHM_BASE_DEFAULT, 4 * SHM_HEAP_ARENA_BYTES);
    header.generation = 7;
    assert_int_equal(shm_header_check(&header, VERSION_SERVES, header.spans_bytes, header.bitmap_bytes), 0);
    u32_store_relaxed(&header.minor, version_own()->minor + 5);
    u32_store_relaxed(&header.optional, 0x80000000u);
    header.reserved = 9;
    header.reserved64[2] = 9;
    assert_int_equal(shm_header_check(&header, VERSION_SERVES, header.spans_bytes, header.bitmap_bytes), 0);
    header.spans_bytes += 4096;
    header.bitmap_bytes += 4096;
    assert_int_equal(shm_header_check(&header, VERSION_SERVES, header.spans_bytes, header.bitmap_bytes), 0);
    assert_int_equal(shm_header_check(&header, VERSION_SERVES, header.spans_bytes - 1, header.bitmap_bytes), -EPROTO);
    header.spans_bytes -= 2 * 4096;
    assert_int_equal(shm_header_check(&header, VERSION_SERVES, header.spans_bytes, header.bitmap_bytes), -EPROTO);
}

static void header_check_of_another_place_or_major_is_an_error(void **state)
{
    shm_header whole;
    shm_header header;

    (void)state;
    shm_header_init(&whole, SHM_BASE_DEFAULT, 4 * SHM_HEAP_ARENA_BYTES);
    whole.generation = 7;
    header = whole;
    header.span_table_off += 4096;
    assert_int_equal(shm_header_check(&header, VERSION_READS, header.spans_bytes, header.bitmap_bytes), -EPROTO);
    header = whole;
    header.generation = 0;
    assert_int_equal(shm_header_check(&header, VERSION_READS, header.spans_bytes, header.bitmap_bytes), -EPROTO);
    header = whole;
    header.magic++;
    assert_int_equal(shm_header_check(&header, VERSION_READS, header.spans_bytes, header.bitmap_bytes), -EPROTO);
    header = whole;
    header.major++;
    assert_int_equal(shm_header_check(&header, VERSION_READS, header.spans_bytes, header.bitmap_bytes), -ENOEXEC);
}

/* --- which versions fit --- */

static void version_check_for_each_use_goes_by_what_it_must_know(void **state)
{
    static const struct {
        shm_version heap;
        int reads, writes, serves;
    } rows[] = {
        { { .major = 1, .minor = 0 }, 0, 0, 0 },
        { { .major = 1, .minor = 9 }, 0, 0, 0 },
        { { .major = 2, .minor = 1 }, VERSION_E_MAJOR, VERSION_E_MAJOR, VERSION_E_MAJOR },
        { { .major = 0 }, VERSION_E_MAJOR, VERSION_E_MAJOR, VERSION_E_MAJOR },
        { { .major = 1, .needed = 1, .writing = 1, .daemon = 1 }, 0, 0, 0 }, /* which it knows */
        { { .major = 1, .optional = 0xff }, 0, 0, 0 },
        { { .major = 1, .needed = 2 }, VERSION_E_FEATURES, VERSION_E_FEATURES, VERSION_E_FEATURES },
        { { .major = 1, .writing = 2 }, 0, VERSION_E_FEATURES, VERSION_E_FEATURES },
        { { .major = 1, .daemon = 2 }, 0, 0, VERSION_E_FEATURES },
    };
    const shm_version build = { .major = 1, .minor = 1, .needed = 1, .writing = 1, .optional = 1, .daemon = 1 };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(version_check(&rows[i].heap, &build, VERSION_READS), rows[i].reads);
        assert_int_equal(version_check(&rows[i].heap, &build, VERSION_WRITES), rows[i].writes);
        assert_int_equal(version_check(&rows[i].heap, &build, VERSION_SERVES), rows[i].serves);
    }
}

static void version_explain_of_any_refusal_names_both_and_fits(void **state)
{
    const shm_version most = { UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX };
    shm_version heap = { .major = 65535, .minor = UINT32_MAX, .needed = UINT32_MAX };
    shm_version build = { .major = 65535, .minor = 7 };
    char text[VERSION_TEXT_BYTES];

    (void)state;
    assert_non_null(strstr(version_explain(text, sizeof(text), &heap, &build, VERSION_READS, "this goallocd"),
                           "65535.7"));
    assert_non_null(strstr(text, "65535.4294967295"));
    assert_non_null(strstr(text, "0xffffffff"));
    build.major = 2;
    assert_non_null(strstr(version_explain(text, sizeof(text), &heap, &build, VERSION_READS, "this goallocd"),
                           "has to be the same"));
    assert_non_null(strstr(text, "layout 2.7"));
    assert_non_null(strstr(version_explain(text, sizeof(text), &most, &build, VERSION_READS, "this goallocd"),
                           "a layout before 1.0"));
    assert_true(strlen(version_explain(text, 20, &most, &build, VERSION_READS, "this goallocd")) == 19);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout_of_this_version_has_not_changed),
        cmocka_unit_test(header_check_of_another_minor_or_longer_regions_is_good),
        cmocka_unit_test(header_check_of_another_place_or_major_is_an_error),
        cmocka_unit_test(version_check_for_each_use_goes_by_what_it_must_know),
        cmocka_unit_test(version_explain_of_any_refusal_names_both_and_fits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
