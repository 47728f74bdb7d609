/*
 * What goallocctl reads of a profile: what lives by the bits, what is none of it, names, and the files that it writes.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sys/stat.h>
#include <zlib.h>

#include "client/ctl/profile/flame.h"
#include "client/ctl/profile/pprof.h"
#include "client/ctl/profile/toplist.h"
#include "client/ctl/profile/profile.pb-c.h"
#include "tests/support/profiles.h"

#define RATE      (4 * KIB)
#define CLASS_64  6u
#define SPAN      8u /* the first page of the span that most tests use */
#define LOOK_UP_MS 60000

static int setup(void **state)
{
    profiles_heap *h = malloc(sizeof(*h));

    profiles_open(h, RATE);
    assert_int_equal(size_class_bytes[CLASS_64], 64);
    profiles_add_span(h, SPAN, CLASS_64, size_class_npages[CLASS_64]);
    *state = h;
    return 0;
}

static int teardown(void **state)
{
    profiles_close(*state);
    free(*state);
    return 0;
}

#define HEAP_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void take(profiles_heap *h, snapshot *s)
{
    assert_int_equal(snapshot_take(s, &h->files, &(snapshot_filter){ 0 }), 0);
}

/* A party, a stack of one frame without a module, and a site of them, all of the same number. */
static void add_site(profiles_heap *h, uint32_t i, const char *label, const char *group)
{
    const uint64_t frame = 0x1000 * (i + 1);

    profiles_add_party(h, i, i, label, group, RATE);
    profiles_add_stack(h, i, &frame, 1);
    profiles_add_site(h, i, i, i);
}

/* --- what lives --- */

static void a_sample_counts_while_its_object_lives_in_a_marked_span(void **state)
{
    profiles_heap *h = *state;
    shm_span *span = shm_span_at(&h->map, page_at(SPAN));
    const double weight = 64.5; /* 1 / (1 - exp(-64 / 4096)) */
    snapshot s;

    add_site(h, 1, "web", "");
    profiles_add_sample(h, 9, 1, profiles_place(h, SPAN, 3), 64, 64);
    take(h, &s);
    assert_int_equal(s.nlive, 0); /* written, and not allocated: its process died in between */
    snapshot_free(&s);

    profiles_allocate(h, SPAN, 3);
    take(h, &s);
    assert_int_equal(s.nrows, 1);
    assert_int_equal(s.nlive, 1);
    assert_true(s.rows[0].values[SNAPSHOT_LIVE_BYTES] >= (uint64_t)(weight * 64) - 64 &&
                s.rows[0].values[SNAPSHOT_LIVE_BYTES] <= (uint64_t)(weight * 64) + 64);
    assert_int_equal(s.rows[0].values[SNAPSHOT_LIVE_OBJECTS], 65); /* 64.501 */
    assert_int_equal(s.rows[0].values[SNAPSHOT_ALLOC_OBJECTS], 64);
    assert_int_equal(s.totals[SNAPSHOT_LIVE_BYTES], s.rows[0].values[SNAPSHOT_LIVE_BYTES]);
    snapshot_free(&s);

    profiles_free_remotely(h, SPAN, 3);
    take(h, &s);
    assert_int_equal(s.nlive, 0);
    assert_int_equal(s.totals[SNAPSHOT_LIVE_BYTES], 0);
    assert_int_equal(s.totals[SNAPSHOT_ALLOC_BYTES], 4096);
    snapshot_free(&s);

    u64_store_relaxed(shm_remote_word(&h->map, page_at(SPAN), 0), 0);
    span->marked = 0; /* another span has taken its place */
    take(h, &s);
    assert_int_equal(s.nlive, 0);
    snapshot_free(&s);
    span->marked = 1;
    u64_store_relaxed(&span->lease, lease_pack((lease_word){ SPAN_FREE, { 0 }, 0 }));
    take(h, &s);
    assert_int_equal(s.nlive, 0);
    snapshot_free(&s);
}

static void a_large_object_counts_with_its_pages(void **state)
{
    profiles_heap *h = *state;
    snapshot s;

    add_site(h, 1, "", "");
    profiles_add_span(h, 100, 0, 40);
    profiles_allocate(h, 100, 0);
    profiles_add_sample(h, 0, 1, profiles_place(h, 100, 0), 1, 40 * PAGE_BYTES);
    take(h, &s);
    assert_int_equal(s.totals[SNAPSHOT_LIVE_OBJECTS], 1);
    assert_int_equal(s.totals[SNAPSHOT_LIVE_BYTES], 40 * PAGE_BYTES);
    snapshot_free(&s);
}

static void places_that_are_none_count_for_nothing(void **state)
{
    profiles_heap *h = *state;
    const uint64_t places[] = { 8,
                                profiles_place(h, SPAN, 3) + 8, /* within an object */
                                page_offset(page_at(SPAN)) + size_class_npages[CLASS_64] * PAGE_BYTES, /* behind it */
                                page_offset(page_at(500)), /* in no span */
                                PROFILES_ARENA - 8,
                                PROFILES_ARENA, /* behind the arena */
                                (UINT64_C(1) << 44) - 8 };
    snapshot s;

    add_site(h, 1, "", "");
    for (uint32_t w = 0; w < SHM_BITS_WORDS / 2; w++)
        u64_store_relaxed(shm_alloc_word(&h->map, page_at(SPAN), w), UINT64_MAX);
    for (uint32_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        profiles_add_sample(h, i, 1, places[i], 1, 64);
    take(h, &s);
    assert_int_equal(s.nlive, 0);
    snapshot_free(&s);
}

static void an_object_that_two_samples_claim_counts_once(void **state)
{
    profiles_heap *h = *state;
    snapshot s;

    add_site(h, 1, "", "");
    profiles_allocate(h, SPAN, 0);
    profiles_allocate(h, SPAN, 1);
    for (uint32_t i = 0; i < 1000; i++)
        profiles_add_sample(h, 7 * i, 1, profiles_place(h, SPAN, i & 1), 1, 64);
    take(h, &s);
    assert_int_equal(s.nlive, 2);
    snapshot_free(&s);
}

/* --- whose --- */

static void filters_choose_by_session_group_and_label_and_the_dead_are_there(void **state)
{
    profiles_heap *h = *state;
    static const struct {
        snapshot_filter filter;
        uint64_t nlive;
    } cases[] = {
        { { 0 }, 3 },
        { { .session = 2 }, 1 },
        { { .group = "pool" }, 2 },
        { { .group = "" }, 1 },
        { { .label = "web" }, 1 },
        { { .group = "pool", .label = "web" }, 1 },
        { { .session = 7 }, 0 },
        { { .label = "pool" }, 0 },
    };
    shm_session *lives = &h->map.sessions[2];
    snapshot s;

    add_site(h, 1, "web", "pool");
    add_site(h, 2, "db", "pool");
    add_site(h, 3, "cron", "");
    u32_store_relaxed(&lives->epoch, 1);
    u32_store_relaxed(&lives->state, SHM_SESSION_OPEN);
    u32_store_relaxed(&h->map.sessions[3].epoch, 2); /* its entry is somebody else's by now */
    u32_store_relaxed(&h->map.sessions[3].state, SHM_SESSION_OPEN);
    for (uint32_t i = 1; i <= 3; i++) {
        profiles_allocate(h, SPAN, i);
        profiles_add_sample(h, i, i, profiles_place(h, SPAN, i), 1, 64);
    }
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(snapshot_take(&s, &h->files, &cases[i].filter), 0);
        assert_int_equal(s.nlive, cases[i].nlive);
        assert_int_equal(s.nrows, cases[i].nlive);
        snapshot_free(&s);
    }
    take(h, &s);
    assert_true(s.parties[1].has_ended);
    assert_false(s.parties[2].has_ended);
    assert_true(s.parties[3].has_ended);
    snapshot_free(&s);
}

/* --- what no honest process writes --- */

static void garbage_is_passed_over_and_sums_stay_below_2_to_63(void **state)
{
    profiles_heap *h = *state;
    snapshot s;
    uint64_t sum = 0;

    add_site(h, 1, "\033[31mred\a\xff", "\xe2\x80\xae""evil");
    memset(h->region->parties[1].group + 8, 'x', sizeof(h->region->parties[1].group) - 8); /* not ended */
    profiles_add_site(h, 2, PROFILE_PARTIES, 1);
    profiles_add_site(h, 3, 1, PROFILE_STACKS);
    profiles_add_site(h, 4, 5, 1); /* a party that is not there */
    profiles_add_site(h, 5, 1, 9); /* a stack that is not there */
    h->region->stacks[1].nframes = UINT64_MAX;
    h->region->parties[1].rate = UINT64_MAX;
    for (uint32_t i = 10; i < 20; i++) {
        profiles_add_site(h, i, 1, 1);
        u64_store_relaxed(&h->region->sites[i].bytes, UINT64_MAX - i);
        u64_store_relaxed(&h->region->sites[i].objects, UINT64_MAX - i);
        u64_store_relaxed(&h->region->sites[i].nsamples, UINT64_MAX - i);
    }
    u64_store_relaxed(&h->region->samples[0], UINT64_MAX);
    take(h, &s);
    assert_int_equal(s.ndamaged, 4);
    for (size_t i = 0; i < s.nrows; i++)
        sum += s.rows[i].values[SNAPSHOT_ALLOC_BYTES];
    assert_int_equal(sum, INT64_MAX);
    assert_int_equal(s.totals[SNAPSHOT_ALLOC_BYTES], INT64_MAX);
    assert_int_equal(s.nsamples, INT64_MAX);
    assert_string_equal(s.parties[1].label, "?[31mred??");
    assert_non_null(strstr(s.parties[1].group, "?evil"));
    snapshot_free(&s);
}

/* Each place is a hole of page map, span table and bitmap: a look must not give them memory. */
static void places_in_holes_cost_the_heap_no_memory(void **state)
{
    profiles_heap *h = *state;
    struct stat before[2];
    struct stat after[2];
    snapshot s;

    add_site(h, 1, "", "");
    for (uint32_t i = 0; i < PROFILE_SAMPLES; i += 16)
        profiles_add_sample(h, i, 1, (uint64_t)i * 240 & ~UINT64_C(7), 1, 64);
    assert_int_equal(fstat(h->files.spans, &before[0]) | fstat(h->files.bitmap, &before[1]), 0);
    take(h, &s);
    assert_int_equal(fstat(h->files.spans, &after[0]) | fstat(h->files.bitmap, &after[1]), 0);
    assert_int_equal(after[0].st_blocks, before[0].st_blocks);
    assert_int_equal(after[1].st_blocks, before[1].st_blocks);
    snapshot_free(&s);
}

static void files_that_are_no_heap_are_refused(void **state)
{
    profiles_heap *h = *state;
    snapshot_files files = h->files;
    snapshot s;
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    files.bitmap = ends[0];
    assert_int_equal(snapshot_take(&s, &files, &(snapshot_filter){ 0 }), -EPROTO);
    files = h->files;
    files.region = ends[0];
    assert_int_equal(snapshot_take(&s, &files, &(snapshot_filter){ 0 }), -EPROTO);
    files.region = h->files.bitmap;
    files.bitmap = h->files.region;
    assert_int_equal(snapshot_take(&s, &files, &(snapshot_filter){ 0 }), -EPROTO);
    h->header->npages++;
    assert_int_equal(snapshot_take(&s, &h->files, &(snapshot_filter){ 0 }), -EPROTO);
    h->header->npages--;
    u32_store_relaxed(&h->header->optional, 0);
    assert_int_equal(snapshot_take(&s, &h->files, &(snapshot_filter){ 0 }), -ENODATA);
    assert_int_equal(close(ends[0]) | close(ends[1]), 0);
}

/* --- names --- */

static inline __attribute__((always_inline)) uint64_t inlined_here(void)
{
    return (uint64_t)__builtin_extract_return_addr(__builtin_return_address(0));
}

/* An address within this function, and within what it inlines. */
__attribute__((noinline)) static uint64_t address_in_outer_function(uint64_t *ret_inlined)
{
    uint64_t here;

    *ret_inlined = inlined_here();
    __asm__ volatile(
#if defined(__x86_64__)
        "lea 1(%%rip), %0\n nop\n nop\n nop"
#else
        "adr %0, . + 4\n nop\n nop"
#endif
        : "=r"(here));
    return here;
}

static void own_module(profiles_heap *h, uint32_t i, uint64_t *ret_frame)
{
    profiles_self self = { .base = 0 };
    uint64_t caller;
    uint64_t address = address_in_outer_function(&caller);

    profiles_get_self(&self);
    assert_true(self.build_id_bytes > 0);
    profiles_add_module(h, i, self.path, self.build_id, self.build_id_bytes);
    ret_frame[0] = (uint64_t)(i + 1) << 48 | (address - self.base);
    ret_frame[1] = (uint64_t)(i + 1) << 48 | (caller - self.base);
}

static void frames_of_a_file_with_the_build_id_get_names_and_lines(void **state)
{
    profiles_heap *h = *state;
    uint64_t frames[2];
    const symbol_place *place;
    snapshot s;
    symbols sy;

    own_module(h, 0, frames);
    add_site(h, 1, "", "");
    profiles_add_stack(h, 1, frames, 2);
    profiles_add_sample(h, 0, 1, 0, 1, 64);
    take(h, &s);
    assert_int_equal(symbols_init(&sy, &s, LOOK_UP_MS), 0);
    assert_int_equal(sy.modules[0].state, SYMBOLS_READ);
    assert_true(sy.modules[0].start < sy.modules[0].limit);
    place = symbols_find(&sy, &s, frames[0]);
    assert_true(place->nlines >= 1);
    assert_string_equal(place->lines[place->nlines - 1].function, "address_in_outer_function");
    assert_non_null(strstr(place->lines[0].file, "test_profile_reader.c"));
    assert_true(place->lines[0].line > 0);
    place = symbols_find(&sy, &s, frames[1]);
    assert_true(place->nlines >= 1);
    assert_string_equal(place->lines[0].function, "own_module");
    symbols_free(&sy);
    snapshot_free(&s);
}

/* What is no such build, or no file that can be read without effect, has no names; and nothing waits for a FIFO. */
static void files_that_are_not_what_ran_give_no_names(void **state)
{
    profiles_heap *h = *state;
    static const uint8_t other[20] = { 1, 2, 3 };
    char dir[] = "/tmp/goalloc-profile-XXXXXX";
    char fifo[64];
    char text[64];
    uint64_t frames[8];
    profiles_self self = { .base = 0 };
    const enum symbol_state want[8] = { SYMBOLS_OTHER_BUILD, SYMBOLS_NO_FILE,     SYMBOLS_NO_FILE, SYMBOLS_NO_FILE,
                                        SYMBOLS_BROKEN,      SYMBOLS_NO_BUILD_ID, SYMBOLS_NO_FILE, SYMBOLS_NO_FILE };
    FILE *file;
    snapshot s;
    symbols sy;

    assert_non_null(mkdtemp(dir));
    (void)snprintf(fifo, sizeof(fifo), "%s/fifo", dir);
    (void)snprintf(text, sizeof(text), "%s/\033[2Jtext", dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    file = fopen(text, "w");
    assert_non_null(file);
    (void)fputs("\177ELF, but no more than that\n", file);
    assert_int_equal(fclose(file), 0);

    profiles_get_self(&self);
    const char *const paths[8] = { self.path, "/nowhere/at/all", fifo, "/dev/zero", text, self.path, dir,
                                   "relative/path" };

    for (uint32_t i = 0; i < 8; i++) {
        profiles_add_module(h, i, paths[i], other, i == 5 ? 0 : sizeof(other));
        frames[i] = (uint64_t)(i + 1) << 48 | 0x1234;
    }
    add_site(h, 1, "", "");
    profiles_add_stack(h, 1, frames, 8);
    profiles_add_sample(h, 0, 1, 0, 1, 64);
    take(h, &s);
    assert_int_equal(symbols_init(&sy, &s, LOOK_UP_MS), 0);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(sy.modules[i].state, want[i]);
        assert_int_equal(symbols_find(&sy, &s, frames[i])->nlines, 0);
        assert_non_null(symbols_why_not(&sy.modules[i]));
    }
    assert_null(strchr(sy.modules[4].path, '\033'));
    symbols_free(&sy);
    snapshot_free(&s);
    assert_int_equal(unlink(fifo) | unlink(text) | rmdir(dir), 0);
}

/* root reads a file of another user's as that user: what the file is made to break has no more rights than it. */
static void a_file_of_another_user_is_read_as_that_user(void **state)
{
    profiles_heap *h = *state;
    char path[] = "/tmp/goalloc-profile-XXXXXX";
    char command[512];
    profiles_self self = { .base = 0 };
    uint64_t frames[2];
    snapshot s;
    symbols sy;
    int fd;

    if (geteuid() != 0)
        skip();
    profiles_get_self(&self);
    fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)snprintf(command, sizeof(command), "cp %s %s && chown 12345 %s && chmod 700 %s", self.path, path, path, path);
    assert_int_equal(system(command), 0);
    own_module(h, 0, frames);
    memset(h->region->modules[0].path, 0, sizeof(h->region->modules[0].path));
    profiles_add_module(h, 0, path, self.build_id, self.build_id_bytes);
    add_site(h, 1, "", "");
    profiles_add_stack(h, 1, frames, 2);
    profiles_add_sample(h, 0, 1, 0, 1, 64);
    take(h, &s);
    assert_int_equal(symbols_init(&sy, &s, LOOK_UP_MS), 0);
    assert_int_equal(sy.modules[0].state, SYMBOLS_READ);
    assert_int_equal(symbols_find(&sy, &s, frames[0])->nlines > 0, 1);
    symbols_free(&sy);
    snapshot_free(&s);
    assert_int_equal(unlink(path) | close(fd), 0);
}

/* --- files --- */

/* Three sites: 6 objects, 3 and 1; the second one's label is markup, the third one has no stack. */
static void fill_three(profiles_heap *h)
{
    uint64_t frames[2];
    uint32_t place = 0;

    own_module(h, 0, frames);
    add_site(h, 1, "web", "pool");
    add_site(h, 2, "<b>&\"\"\\</b>", "");
    profiles_add_stack(h, 1, frames, 2);
    profiles_add_site(h, 3, 2, 0);
    for (uint32_t site = 1; site <= 3; site++) {
        for (uint32_t i = 0; i < (site == 1 ? 6 : site == 2 ? 3 : 1); i++, place++) {
            profiles_allocate(h, SPAN, place);
            profiles_add_sample(h, place, site, profiles_place(h, SPAN, place), 64.5, 64);
        }
    }
}

static Pprof__Profile *unpack(const void *bytes, size_t len)
{
    static uint8_t out[MIB];
    z_stream z = { .next_in = (Bytef *)(uintptr_t)bytes, .avail_in = (uInt)len, .next_out = out,
                   .avail_out = sizeof(out) };

    assert_int_equal(inflateInit2(&z, 15 + 16), Z_OK);
    assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
    assert_int_equal(inflateEnd(&z), Z_OK);
    return pprof__profile__unpack(NULL, z.total_out, out);
}

static void make(profiles_heap *h, snapshot *s, symbols *sy, void **ret_bytes, size_t *ret_len)
{
    take(h, s);
    assert_int_equal(symbols_init(sy, s, LOOK_UP_MS), 0);
    assert_int_equal(pprof_make(s, sy, ret_bytes, ret_len), 0);
}

static void a_pprof_file_has_the_rows_with_labels_and_names(void **state)
{
    profiles_heap *h = *state;
    Pprof__Profile *p;
    snapshot s;
    symbols sy;
    void *bytes;
    size_t len;

    fill_three(h);
    make(h, &s, &sy, &bytes, &len);
    p = unpack(bytes, len);
    assert_non_null(p);
    assert_string_equal(p->string_table[0], "");
    assert_int_equal(p->n_sample, 3);
    assert_int_equal(p->n_sample_type, SNAPSHOT_VALUES);
    assert_string_equal(p->string_table[p->default_sample_type], "inuse_space");
    assert_int_equal(p->n_mapping, 1);
    assert_true(p->mapping[0]->has_functions && p->mapping[0]->has_line_numbers);
    for (size_t i = 0; i < p->n_sample; i++) {
        assert_int_equal(p->sample[i]->n_value, SNAPSHOT_VALUES);
        assert_int_equal(p->sample[i]->value[SNAPSHOT_LIVE_BYTES], s.rows[i].values[SNAPSHOT_LIVE_BYTES]);
        assert_true(p->sample[i]->n_location_id >= 1);
        for (size_t k = 0; k < p->sample[i]->n_location_id; k++)
            assert_true(p->sample[i]->location_id[k] >= 1 && p->sample[i]->location_id[k] <= p->n_location);
    }
    for (size_t i = 0; i < p->n_location; i++) {
        assert_int_equal(p->location[i]->id, i + 1);
        for (size_t k = 0; k < p->location[i]->n_line; k++)
            assert_true(p->location[i]->line[k]->function_id >= 1 &&
                        p->location[i]->line[k]->function_id <= p->n_function);
    }
    assert_int_equal(p->sample[0]->n_label, 5);
    pprof__profile__free_unpacked(p, NULL);
    free(bytes);
    symbols_free(&sy);
    snapshot_free(&s);
}

/* The command's output, and its status. */
static int run(const char *command, char *ret, size_t size)
{
    FILE *from = popen(command, "r");
    size_t n;

    assert_non_null(from);
    n = fread(ret, 1, size - 1, from);
    ret[n] = '\0';
    while (fgetc(from) != EOF)
        ;
    return pclose(from);
}

static void write_bytes(const char *path, const void *bytes, size_t len)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static void remove_all(const char *dir)
{
    char command[128];
    char out[128];

    (void)snprintf(command, sizeof(command), "rm -r %s", dir);
    assert_int_equal(run(command, out, sizeof(out)), 0);
}

static void skip_because(const char *dir, const char *why)
{
    if (dir != NULL)
        remove_all(dir);
    print_message("%s\n", why);
    skip();
}

static void go_tool_pprof_reads_the_file(void **state)
{
    profiles_heap *h = *state;
    char dir[] = "/tmp/goalloc-pprof-XXXXXX";
    char path[64];
    char command[256];
    static char out[MIB];
    snapshot s;
    symbols sy;
    void *bytes;
    size_t len;

    if (run("go tool -n pprof 2>/dev/null", out, sizeof(out)) != 0)
        skip_because(NULL, "no go tool pprof here (Debian: golang-go)");
    fill_three(h);
    make(h, &s, &sy, &bytes, &len);
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/profile", dir);
    write_bytes(path, bytes, len);

    (void)snprintf(command, sizeof(command), "HOME=%s go tool pprof -top -nodefraction=0 %s 2>&1", dir, path);
    assert_int_equal(run(command, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "Type: inuse_space"));
    assert_non_null(strstr(out, "60.00%"));
    assert_non_null(strstr(out, "address_in_outer_function"));
    (void)snprintf(command, sizeof(command), "HOME=%s go tool pprof -raw %s 2>&1", dir, path);
    assert_int_equal(run(command, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "label:[web]"));
    assert_non_null(strstr(out, "group:[pool]"));
    assert_non_null(strstr(out, "ended:[yes]"));
    assert_non_null(strstr(out, "test_profile_reader.c"));
    assert_non_null(strstr(out, "label:[<b>&''/</b>]"));
    if (run("command -v dot", out, sizeof(out)) != 0)
        skip_because(dir, "no dot here (Debian: graphviz)");
    (void)snprintf(command, sizeof(command), "HOME=%s go tool pprof -svg -output=%s/svg %s 2>&1 && cat %s/svg", dir,
                   dir, path, dir);
    assert_int_equal(run(command, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "<svg"));
    remove_all(dir);
    free(bytes);
    symbols_free(&sy);
    snapshot_free(&s);
}

static void a_flame_graph_is_xml_whose_boxes_say_what_they_stand_for(void **state)
{
    profiles_heap *h = *state;
    char path[] = "/tmp/goalloc-flame-XXXXXX";
    char command[128];
    static char out[MIB];
    int fd;
    snapshot s;
    symbols sy;
    void *bytes;
    size_t len;
    char *svg;

    fill_three(h);
    take(h, &s);
    assert_int_equal(symbols_init(&sy, &s, LOOK_UP_MS), 0);
    assert_int_equal(flame_make(&s, &sy, SNAPSHOT_LIVE_BYTES, "<title> & co\033[1m", &bytes, &len), 0);
    svg = bytes;
    assert_int_equal(strlen(svg), len);
    assert_non_null(strstr(svg, "&lt;title&gt; &amp; co?[1m"));
    assert_non_null(strstr(svg, "<title>address_in_outer_function\n"));
    assert_non_null(strstr(svg, "objects: 60.0%"));
    assert_non_null(strstr(svg, "[not recorded]"));
    assert_null(strstr(svg, "<script"));
    fd = mkstemp(path);
    assert_true(fd >= 0);
    write_bytes(path, bytes, len);
    (void)snprintf(command, sizeof(command), "xmllint --noout --nonet %s 2>&1", path);
    if (run("command -v xmllint", out, sizeof(out)) == 0)
        assert_int_equal(run(command, out, sizeof(out)), 0);
    assert_int_equal(unlink(path) | close(fd), 0);
    free(bytes);
    symbols_free(&sy);
    snapshot_free(&s);
}

/* 32767 sites, and 2000 stacks of 62 frames each, all of them different. */
#define BIG_STACKS 2000u
static void a_flame_graph_is_bounded_however_large_the_profile_is(void **state)
{
    profiles_heap *h = *state;
    uint64_t frames[PROFILE_FRAMES_MAX];
    snapshot s;
    symbols sy;
    void *bytes;
    size_t len;

    profiles_add_party(h, 1, 1, "", "", RATE);
    for (uint32_t i = 1; i <= BIG_STACKS; i++) {
        for (uint32_t k = 0; k < PROFILE_FRAMES_MAX; k++)
            frames[k] = (uint64_t)(i * PROFILE_FRAMES_MAX + k) * 16 + 1;
        profiles_add_stack(h, i, frames, PROFILE_FRAMES_MAX);
    }
    for (uint32_t i = 1; i < PROFILE_SITES; i++) {
        profiles_add_site(h, i, 1, 1 + i % BIG_STACKS);
        profiles_add_sample(h, 0, i, 0, i % 8 == 0 ? 5000 : 1, 64);
    }
    take(h, &s);
    assert_int_equal(symbols_init(&sy, &s, LOOK_UP_MS), 0);
    assert_int_equal(flame_make(&s, &sy, SNAPSHOT_ALLOC_BYTES, "", &bytes, &len), 0);
    assert_true(len < 4 * MIB);
    free(bytes);
    assert_int_equal(pprof_make(&s, &sy, &bytes, &len), 0);
    assert_true(len < 32 * MIB);
    free(bytes);
    symbols_free(&sy);
    snapshot_free(&s);
}

static void a_toplist_counts_a_function_by_itself_and_with_what_it_calls(void **state)
{
    profiles_heap *h = *state;
    uint64_t total;
    snapshot s;
    symbols sy;
    toplist t;

    fill_three(h);
    take(h, &s);
    assert_int_equal(symbols_init(&sy, &s, LOOK_UP_MS), 0);
    assert_int_equal(toplist_make(&t, &s, &sy, SNAPSHOT_LIVE_BYTES), 0);
    total = s.totals[SNAPSHOT_LIVE_BYTES];
    assert_string_equal(t.rows[0].function, "address_in_outer_function");
    assert_true(t.rows[0].own * 10 > total * 5 && t.rows[0].own * 10 < total * 7);
    for (size_t i = 0; i < t.n; i++) {
        if (strcmp(t.rows[i].function, "own_module") == 0) {
            assert_int_equal(t.rows[i].own, 0);
            assert_int_equal(t.rows[i].all, t.rows[0].own);
        }
    }
    toplist_free(&t);
    symbols_free(&sy);
    snapshot_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        HEAP_TEST(a_sample_counts_while_its_object_lives_in_a_marked_span),
        HEAP_TEST(a_large_object_counts_with_its_pages),
        HEAP_TEST(places_that_are_none_count_for_nothing),
        HEAP_TEST(an_object_that_two_samples_claim_counts_once),
        HEAP_TEST(filters_choose_by_session_group_and_label_and_the_dead_are_there),
        HEAP_TEST(garbage_is_passed_over_and_sums_stay_below_2_to_63),
        HEAP_TEST(places_in_holes_cost_the_heap_no_memory),
        HEAP_TEST(files_that_are_no_heap_are_refused),
        HEAP_TEST(frames_of_a_file_with_the_build_id_get_names_and_lines),
        HEAP_TEST(files_that_are_not_what_ran_give_no_names),
        HEAP_TEST(a_file_of_another_user_is_read_as_that_user),
        HEAP_TEST(a_pprof_file_has_the_rows_with_labels_and_names),
        HEAP_TEST(go_tool_pprof_reads_the_file),
        HEAP_TEST(a_flame_graph_is_xml_whose_boxes_say_what_they_stand_for),
        HEAP_TEST(a_flame_graph_is_bounded_however_large_the_profile_is),
        HEAP_TEST(a_toplist_counts_a_function_by_itself_and_with_what_it_calls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
