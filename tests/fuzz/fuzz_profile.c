/*
 * What goallocctl makes of a profile (client/ctl/profile): any region, and any bits, since clients write both, and
 * descriptions of spans, since another build may have. An input says what is written into an empty heap: entries that
 * are well made, single words of entries, and raw bytes. Then a snapshot is taken, with any filter, and all that can be
 * made of it is made: nothing in it may control a terminal, sums stay below 2^63, the picture is bounded, and the file
 * is one that protobuf-c unpacks.
 *
 * Files of programs are not looked into here: that is done by a child process, whose word is not taken for more than it
 * is. Modules have paths, build ids and addresses all the same.
 */
#include <zlib.h>

#include "client/ctl/profile/flame.h"
#include "client/ctl/profile/pprof.h"
#include "client/ctl/profile/toplist.h"
#include "client/ctl/profile/profile.pb-c.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/written.h"
#include "tests/support/profiles.h"

#define SPANS_FROM  8u
#define STRETCH     128u /* pages that have spans; entries beyond that are rarely used */
#define FEW         16u

static profiles_heap heap;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    profiles_open(&heap, PROFILE_RATE_DEFAULT);
    return 0;
}

/* One of a table's entries, mostly one of the first. */
static uint32_t entry(fuzz_input *in, uint32_t n)
{
    uint8_t how = fuzz_u8(in);

    return how < 240 ? how % FEW % n : fuzz_u16(in) % n;
}

/* --- what is written --- */

static void write_text(fuzz_input *in, char *field, size_t size)
{
    size_t n = fuzz_u8(in) % size;

    if (!written_note(field, size))
        return;
    for (size_t i = 0; i < n; i++)
        field[i] = (char)fuzz_u8(in);
}

static void add_module(fuzz_input *in)
{
    profile_module *m = &heap.region->modules[entry(in, PROFILE_MODULES)];

    if (!written_note(m, sizeof(*m)))
        return;
    u64_store_relaxed(&m->state, fuzz_u8(in) % 4);
    m->build_id_bytes = (uint32_t)fuzz_number(in);
    m->path_bytes = (uint32_t)fuzz_number(in);
    write_text(in, m->path, sizeof(m->path));
}

static void add_stack(fuzz_input *in)
{
    profile_stack *s = &heap.region->stacks[entry(in, PROFILE_STACKS)];
    uint32_t n = fuzz_u8(in) % (PROFILE_FRAMES_MAX + 1);

    if (!written_note(s, sizeof(*s)))
        return;
    u64_store_relaxed(&s->state, PROFILE_READY);
    s->nframes = n < PROFILE_FRAMES_MAX ? n : fuzz_number(in);
    for (uint32_t i = 0; i < n; i++)
        s->frames[i] = (fuzz_u8(in) % FEW) << 12 | fuzz_number(in) << 48;
}

static void add_party(fuzz_input *in)
{
    profile_party *p = &heap.region->parties[entry(in, PROFILE_PARTIES)];

    if (!written_note(p, sizeof(*p)))
        return;
    u64_store_relaxed(&p->state, PROFILE_READY);
    p->rate = fuzz_number(in);
    p->session = (uint32_t)fuzz_number(in);
    p->epoch = fuzz_u8(in);
    write_text(in, p->label, sizeof(p->label));
    write_text(in, p->group, sizeof(p->group));
}

static void add_site(fuzz_input *in)
{
    profile_site *s = &heap.region->sites[entry(in, PROFILE_SITES)];

    if (!written_note(s, sizeof(*s)))
        return;
    u64_store_relaxed(&s->key, PROFILE_SITE_USED | (uint64_t)entry(in, 2 * PROFILE_PARTIES) << 32 |
                                   entry(in, 2 * PROFILE_STACKS));
    u64_store_relaxed(&s->nsamples, fuzz_number(in));
    u64_store_relaxed(&s->objects, fuzz_number(in));
    u64_store_relaxed(&s->bytes, fuzz_number(in));
}

static void add_span(fuzz_input *in)
{
    uint32_t first = SPANS_FROM + fuzz_u8(in) % STRETCH;
    uint8_t class = fuzz_u8(in) % (SIZE_CLASS_COUNT + 1);
    uint32_t npages = class == 0 ? 1 + fuzz_u8(in) % FEW : size_class_npages[class];

    if (!written_note(shm_span_at(&heap.map, page_at(first)), sizeof(shm_span)) ||
        !written_note(&heap.map.page_map[first], npages * sizeof(heap.map.page_map[0])))
        return;
    profiles_add_span(&heap, first, class, npages);
    if (fuzz_u8(in) % 4 == 0)
        ((uint8_t *)shm_span_at(&heap.map, page_at(first)))[fuzz_u8(in) % sizeof(shm_span)] = fuzz_u8(in);
}

static void add_bits(fuzz_input *in)
{
    uint64_t *bits = (uint64_t *)(void *)(heap.map.bitmap + (uint64_t)(SPANS_FROM + fuzz_u8(in) % STRETCH) * 256);
    uint32_t w = fuzz_u8(in) % 32;

    if (written_note(&bits[w], sizeof(*bits)))
        bits[w] = fuzz_u8(in) & 1 ? UINT64_MAX : fuzz_u64(in);
}

static void add_sample(fuzz_input *in)
{
    shm_u64 *word = &heap.region->samples[fuzz_u16(in)];
    uint32_t first = SPANS_FROM + fuzz_u8(in) % STRETCH;
    uint64_t place = profiles_place(&heap, first, fuzz_u8(in));
    uint8_t how = fuzz_u8(in);

    if (!written_note(word, sizeof(*word)))
        return;
    u64_store_relaxed(word, how < 200 ? profile_sample_pack((profile_sample){ place, how % FEW, how % 128 })
                                      : fuzz_u64(in));
}

/* Any word of the region. */
static void write_word(fuzz_input *in)
{
    uint64_t *words = (uint64_t *)(void *)heap.region;
    uint64_t at = fuzz_u64(in) % (sizeof(*heap.region) / sizeof(*words));

    if (written_note(&words[at], sizeof(*words)))
        words[at] = fuzz_number(in);
}

/* A word of one of the spans' descriptions or of the page map. */
static void write_book(fuzz_input *in)
{
    uint32_t page = SPANS_FROM + fuzz_u8(in) % STRETCH;
    uint32_t *words = (uint32_t *)(void *)shm_span_at(&heap.map, page_at(page));
    uint8_t how = fuzz_u8(in);

    if (how & 1)
        words = (uint32_t *)(void *)&heap.map.page_map[page];
    else
        words += how / 2 % (sizeof(shm_span) / sizeof(*words));
    if (written_note(words, sizeof(*words)))
        *words = (uint32_t)fuzz_number(in);
}

/* --- what is made of it --- */

/* No byte of it controls a terminal; newlines part lines. */
static void must_be_plain(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        FUZZ_CHECK((unsigned char)text[i] >= 0x20 ? text[i] != 0x7f : text[i] == '\n');
}

static void look_at_sums(const snapshot *s)
{
    uint64_t sums[SNAPSHOT_VALUES] = { 0 };

    for (size_t i = 0; i < s->nrows; i++) {
        FUZZ_CHECK(s->rows[i].party < PROFILE_PARTIES && s->rows[i].stack < PROFILE_STACKS);
        for (int v = 0; v < SNAPSHOT_VALUES; v++) {
            FUZZ_CHECK(s->rows[i].values[v] <= INT64_MAX - sums[v]);
            sums[v] += s->rows[i].values[v];
        }
    }
    for (int v = 0; v < SNAPSHOT_VALUES; v++)
        FUZZ_CHECK(sums[v] == s->totals[v]);
    for (uint32_t i = 0; i < PROFILE_PARTIES; i++) {
        must_be_plain(s->parties[i].label, strlen(s->parties[i].label));
        must_be_plain(s->parties[i].group, strlen(s->parties[i].group));
    }
}

static void look_at_file(const void *bytes, size_t len)
{
    static uint8_t out[4 * MIB];
    z_stream z = { .next_in = (Bytef *)(uintptr_t)bytes, .avail_in = (uInt)len, .next_out = out,
                   .avail_out = sizeof(out) };
    Pprof__Profile *p;

    FUZZ_CHECK(inflateInit2(&z, 15 + 16) == Z_OK && inflate(&z, Z_FINISH) == Z_STREAM_END && inflateEnd(&z) == Z_OK);
    p = pprof__profile__unpack(NULL, z.total_out, out);
    FUZZ_CHECK(p != NULL);
    for (size_t i = 0; i < p->n_string_table; i++)
        must_be_plain(p->string_table[i], strlen(p->string_table[i]));
    pprof__profile__free_unpacked(p, NULL);
}

static void make_all(const snapshot *s, enum snapshot_value value)
{
    symbols sy;
    toplist t;
    void *bytes;
    size_t len;

    FUZZ_CHECK(symbols_init(&sy, s, 0) == 0);
    FUZZ_CHECK(pprof_make(s, &sy, &bytes, &len) == 0);
    look_at_file(bytes, len);
    free(bytes);
    FUZZ_CHECK(flame_make(s, &sy, value, "fuzz", &bytes, &len) == 0);
    FUZZ_CHECK(len < 8 * MIB);
    must_be_plain(bytes, len);
    free(bytes);
    FUZZ_CHECK(toplist_make(&t, s, &sy, value) == 0);
    for (size_t i = 0; i < t.n; i++)
        FUZZ_CHECK(t.rows[i].own <= t.rows[i].all && t.rows[i].all <= s->totals[value]);
    toplist_free(&t);
    symbols_free(&sy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const steps[])(fuzz_input *) = { add_module, add_stack,  add_party,  add_site,  add_span,
                                                   add_bits,   add_sample, write_word, write_book };
    fuzz_input in = { data, data + size };
    snapshot_filter filter = { 0 };
    uint8_t how = fuzz_u8(&in);
    snapshot s;

    filter.session = how & 1 ? 1 : 0;
    filter.group = how & 2 ? "" : NULL;
    filter.label = how & 4 ? "" : NULL;
    while (fuzz_has_more(&in))
        steps[fuzz_u8(&in) % (sizeof(steps) / sizeof(steps[0]))](&in);
    FUZZ_CHECK(snapshot_take(&s, &heap.files, &filter) == 0);
    look_at_sums(&s);
    make_all(&s, (enum snapshot_value)(how / 8 % SNAPSHOT_VALUES));
    snapshot_free(&s);
    written_zero();
    return 0;
}
