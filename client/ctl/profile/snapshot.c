/*
 * Snapshot: reads a region that anybody may have written, and asks the heap which of the samples live.
 *
 * Called by goallocctl profile. Nothing is mapped: the region is copied once (pread), so what has been checked stays
 * so, and of spans and bitmap only the words are read that samples point to. A mapping would give memory to each hole
 * of these sparse files that a forged sample points into, on the daemon's account, and end this process where the
 * system has none; pread() does neither.
 *
 *     samples --sort by place, drop doubles--> page map --> span: not FREE, marked, an object begins there
 *             --> remote bit clear, then alloc bit set: it lives; it counts 1 / (1 - exp(-bytes / rate)) objects
 *
 * What a liar can do is to show wrong figures: at most one for each object that lives in a marked span, and those that
 * are said to have been allocated, which are what he writes. Each index is bounded, texts are cut at their field, sums
 * stop at 2^63 - 1. The heap goes on meanwhile: an object that is freed while this reads counts or not.
 *
 * The remote word is read before the alloc word, as object.c does: a fold clears alloc first. A word that other
 * processes write while pread() copies it may come in parts; then one sample is wrong once.
 */
#include "client/ctl/profile/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "shm/sizeclass.h"

#define PATH_BYTES sizeof(((profile_module *)0)->path)

/* --- files --- */

/* False: they end before that, or can't be read. */
static bool read_at(int fd, uint64_t at, void *to, size_t len)
{
    char *end = to;

    while (len > 0) {
        ssize_t n = pread(fd, end, len, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        end += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return true;
}

/* The length of a file in memory; nothing else has seals, and reading it never waits. 0: it is none. */
static uint64_t memfd_bytes(int fd)
{
    struct stat st;

    if (fcntl(fd, F_GET_SEALS) < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0)
        return 0;
    return (uint64_t)st.st_size;
}

/* --- the heap's words --- */

typedef struct heap_words {
    const snapshot_files *files;
    shm_header header;
} heap_words;

static int open_heap(heap_words *h, const snapshot_files *files)
{
    uint64_t spans_bytes = memfd_bytes(files->spans);
    uint64_t bitmap_bytes = memfd_bytes(files->bitmap);
    int r;

    h->files = files;
    if (memfd_bytes(files->region) < sizeof(profile_region) || !read_at(files->spans, 0, &h->header, sizeof(h->header)))
        return -EPROTO;
    r = shm_header_check(&h->header, VERSION_READS, spans_bytes, bitmap_bytes);
    if (r < 0)
        return r;
    return u32_load_relaxed(&h->header.optional) & SHM_OPTIONAL_PROFILE ? 0 : -ENODATA;
}

/* The bytes of the object that lives at offset in a marked span; 0: none does. */
static uint64_t live_bytes_at(const heap_words *h, uint64_t offset)
{
    const shm_header *header = &h->header;
    uint64_t page = offset >> PAGE_SHIFT;
    uint32_t first;
    shm_span span;

    if (page >= header->npages ||
        !read_at(h->files->spans, header->page_map_off + page * sizeof(first), &first, sizeof(first)) || first == 0 ||
        first > page ||
        !read_at(h->files->spans, header->span_table_off + first * sizeof(span), &span, sizeof(span)))
        return 0;
    if (lease_unpack(u64_load_relaxed(&span.lease)).state == SPAN_FREE || span.marked == 0 ||
        span.spc.n == SPAN_CLASS_TINY || span.elem_bytes == 0 || span.elem_bytes > header->arena_bytes ||
        span.nelems > SPAN_NELEMS_MAX)
        return 0;

    uint64_t within = offset - page_offset(page_at(first));
    uint64_t index = within / span.elem_bytes;
    uint64_t at = (uint64_t)first * 256 + index / 64 * SHM_WORD_STRIDE * sizeof(uint64_t);
    uint64_t remote;
    uint64_t alloc;

    if (within % span.elem_bytes != 0 || index >= span.nelems ||
        !read_at(h->files->bitmap, at + SHM_REMOTE_AT * sizeof(remote), &remote, sizeof(remote)) ||
        !read_at(h->files->bitmap, at, &alloc, sizeof(alloc)))
        return 0;
    return alloc & ~remote & UINT64_C(1) << index % 64 ? span.elem_bytes : 0;
}

static void count_sessions(snapshot *s, const heap_words *h)
{
    uint32_t n = u32_load_relaxed(&h->header.nsession_entries);
    shm_session entry;

    for (uint32_t i = 0; i < n && i < SHM_SESSIONS_MAX; i++) {
        if (!read_at(h->files->spans, h->header.sessions_off + i * sizeof(entry), &entry, sizeof(entry)) ||
            u32_load_relaxed(&entry.state) == SHM_SESSION_FREE)
            continue;
        s->nsessions++;
        s->nsampling += profile_word_unpack(u64_load_relaxed(&entry.profile)).rate != 0;
    }
}

static bool session_lives(const heap_words *h, uint32_t session, uint32_t epoch)
{
    shm_session entry;

    return session < SHM_SESSIONS_MAX &&
           read_at(h->files->spans, h->header.sessions_off + session * sizeof(entry), &entry, sizeof(entry)) &&
           u32_load_relaxed(&entry.state) != SHM_SESSION_FREE && u32_load_relaxed(&entry.epoch) == epoch;
}

/* --- the region's entries --- */

static bool is_ready(const shm_u64 *state)
{
    return (u64_load_relaxed(state) & 3) == PROFILE_READY;
}

static void plain_field(const char *field, size_t size, char *ret)
{
    char text[SNAPSHOT_TEXT_BYTES];

    memcpy(text, field, size);
    text[size - 1] = '\0';
    (void)ctl_plain_text(text, ret, size);
}

static void fill_parties(snapshot *s, const heap_words *h)
{
    uint64_t rate = h->files->rate != 0 && h->files->rate <= PROFILE_RATE_MAX ? h->files->rate : PROFILE_RATE_DEFAULT;

    s->rate = rate;
    s->default_rate = h->files->rate;
    for (uint32_t i = 0; i < PROFILE_PARTIES; i++) {
        const profile_party *from = &s->region->parties[i];
        snapshot_party *to = &s->parties[i];

        to->rate = rate;
        to->exists = i == 0 || is_ready(&from->state);
        if (!is_ready(&from->state))
            continue;
        if (from->rate != 0 && from->rate <= PROFILE_RATE_MAX)
            to->rate = from->rate;
        to->session = from->session < SHM_SESSIONS_MAX ? from->session : 0;
        to->epoch = from->epoch;
        to->pid = from->pid;
        to->uid = from->uid;
        plain_field(from->label, sizeof(from->label), to->label);
        plain_field(from->group, sizeof(from->group), to->group);
        to->has_ended = to->session != 0 && !session_lives(h, to->session, to->epoch);
    }
}

/* What a site's key names. False: the site is not used, or nobody who is honest writes such a key. */
static bool read_key(const snapshot *s, uint32_t site, uint32_t *ret_party, uint32_t *ret_stack, bool *ret_damaged)
{
    uint64_t key = u64_load_relaxed(&s->region->sites[site].key);
    uint64_t party = (key & ~PROFILE_SITE_USED) >> 32;
    uint64_t stack = key & UINT32_MAX;

    *ret_party = 0;
    *ret_stack = 0;
    *ret_damaged = false;
    if (site == 0)
        return true;
    if (!(key & PROFILE_SITE_USED))
        return false;
    if (party >= PROFILE_PARTIES || stack >= PROFILE_STACKS || !s->parties[party].exists ||
        (stack != 0 && !is_ready(&s->region->stacks[stack].state))) {
        *ret_damaged = true;
        return false;
    }
    *ret_party = (uint32_t)party;
    *ret_stack = (uint32_t)stack;
    return true;
}

static bool fits(const snapshot_party *p, const snapshot_filter *filter)
{
    return (filter->session == 0 || p->session == filter->session) &&
           (filter->group == NULL || strcmp(p->group, filter->group) == 0) &&
           (filter->label == NULL || strcmp(p->label, filter->label) == 0);
}

/* --- sums --- */

/* Add to a row and to the total; both stop where the total would pass 2^63 - 1. */
static void add(snapshot *s, snapshot_row *row, enum snapshot_value what, double n)
{
    uint64_t room = INT64_MAX - s->totals[what];
    uint64_t part = n <= 0 ? 0 : n >= (double)INT64_MAX ? INT64_MAX : (uint64_t)n;

    if (part > room)
        part = room;
    row->values[what] += part;
    s->totals[what] += part;
}

static uint64_t add_bounded(uint64_t a, uint64_t b)
{
    return b > INT64_MAX - a ? INT64_MAX : a + b;
}

/* A row for each site, by its number; those that are not wanted have party PROFILE_PARTIES. */
static void fill_sites(snapshot *s, const snapshot_filter *filter, snapshot_row *sites)
{
    for (uint32_t i = 0; i < PROFILE_SITES; i++) {
        const profile_site *from = &s->region->sites[i];
        snapshot_row *row = &sites[i];
        bool damaged;

        *row = (snapshot_row){ .party = PROFILE_PARTIES };
        if (!read_key(s, i, &row->party, &row->stack, &damaged) || !fits(&s->parties[row->party], filter)) {
            row->party = PROFILE_PARTIES;
            s->ndamaged += damaged;
            continue;
        }
        row->nsamples = add_bounded(0, u64_load_relaxed(&from->nsamples));
        s->nsamples = add_bounded(s->nsamples, row->nsamples);
        add(s, row, SNAPSHOT_ALLOC_OBJECTS, (double)u64_load_relaxed(&from->objects) / PROFILE_OBJECTS_UNIT);
        add(s, row, SNAPSHOT_ALLOC_BYTES, (double)u64_load_relaxed(&from->bytes));
    }
}

static int by_place(const void *a, const void *b)
{
    uint64_t one = profile_sample_unpack(*(const uint64_t *)a).offset;
    uint64_t other = profile_sample_unpack(*(const uint64_t *)b).offset;

    return (one > other) - (one < other);
}

typedef struct live_sum {
    double objects;
    double bytes;
} live_sum;

/* words: as many as there are samples, for sorting. sums: a place for each site. */
static void count_live(snapshot *s, const heap_words *h, const snapshot_filter *filter, snapshot_row *sites,
                       uint64_t *words, live_sum *sums)
{
    size_t n = 0;

    for (size_t i = 0; i < PROFILE_SAMPLES; i++) {
        uint64_t word = u64_load_relaxed(&s->region->samples[i]);

        if (word & PROFILE_SAMPLE_USED)
            words[n++] = word;
    }
    qsort(words, n, sizeof(words[0]), by_place);
    for (size_t i = 0; i < n; i++) {
        profile_sample sample = profile_sample_unpack(words[i]);
        uint64_t bytes;

        if (i > 0 && profile_sample_unpack(words[i - 1]).offset == sample.offset)
            continue; /* an object has one sample; only a liar writes two */
        if (sample.site >= PROFILE_SITES || sites[sample.site].party >= PROFILE_PARTIES)
            continue;
        bytes = profile_sample_bytes(sample, live_bytes_at(h, sample.offset));
        if (bytes == 0 || (filter->wants != NULL && !filter->wants(sample.offset, filter->arg)))
            continue;

        snapshot_row *row = &sites[sample.site];
        double weight = profile_weight(bytes, s->parties[row->party].rate);

        row->nlive++;
        s->nlive++;
        sums[sample.site].objects += weight;
        sums[sample.site].bytes += weight * (double)bytes;
    }
    for (uint32_t i = 0; i < PROFILE_SITES; i++) {
        add(s, &sites[i], SNAPSHOT_LIVE_OBJECTS, sums[i].objects + 0.5);
        add(s, &sites[i], SNAPSHOT_LIVE_BYTES, sums[i].bytes + 0.5);
    }
}

static bool is_shown(const snapshot_row *row)
{
    uint64_t any = row->nsamples | row->nlive;

    for (int v = 0; v < SNAPSHOT_VALUES; v++)
        any |= row->values[v];
    return row->party < PROFILE_PARTIES && any != 0;
}

/* Fill the rows. False: no memory. */
static bool gather(snapshot *s, const heap_words *h, const snapshot_filter *filter)
{
    snapshot_row *sites = calloc(PROFILE_SITES, sizeof(*sites));
    uint64_t *words = malloc(PROFILE_SAMPLES * sizeof(*words));
    live_sum *sums = calloc(PROFILE_SITES, sizeof(*sums));
    bool whole = sites != NULL && words != NULL && sums != NULL;

    if (whole) {
        fill_sites(s, filter, sites);
        count_live(s, h, filter, sites, words, sums);
        for (uint32_t i = 0; i < PROFILE_SITES; i++) {
            if (is_shown(&sites[i]))
                sites[s->nrows++] = sites[i];
        }
        s->rows = sites;
        sites = NULL;
    }
    free(sites);
    free(words);
    free(sums);
    return whole;
}

int snapshot_take(snapshot *s, const snapshot_files *files, const snapshot_filter *filter)
{
    heap_words h;
    int r;

    *s = (snapshot){ 0 };
    r = open_heap(&h, files);
    if (r < 0)
        return r;
    s->region = malloc(sizeof(*s->region));
    s->parties = calloc(PROFILE_PARTIES, sizeof(*s->parties));
    r = s->region == NULL || s->parties == NULL ? -ENOMEM : 0;
    if (r == 0 && !read_at(files->region, 0, s->region, sizeof(*s->region)))
        r = -EPROTO;
    if (r == 0) {
        const profile_header *header = &s->region->header;

        s->nlost_samples = u64_load_relaxed(&header->nlost_samples);
        s->nlost_sites = u64_load_relaxed(&header->nlost_sites);
        s->nlost_stacks = u64_load_relaxed(&header->nlost_stacks);
        s->nlost_modules = u64_load_relaxed(&header->nlost_modules);
        count_sessions(s, &h);
        fill_parties(s, &h);
        r = gather(s, &h, filter) ? 0 : -ENOMEM;
    }
    if (r < 0)
        snapshot_free(s);
    return r;
}

void snapshot_free(snapshot *s)
{
    free(s->region);
    free(s->parties);
    free(s->rows);
    *s = (snapshot){ 0 };
}

/* --- stacks and modules --- */

uint32_t snapshot_stack(const snapshot *s, uint32_t stack, const uint64_t **ret_frames)
{
    const profile_stack *from = &s->region->stacks[stack];

    *ret_frames = from->frames;
    if (stack == 0 || !is_ready(&from->state))
        return 0;
    return from->nframes <= PROFILE_FRAMES_MAX ? (uint32_t)from->nframes : PROFILE_FRAMES_MAX;
}

bool snapshot_frame(const snapshot *s, uint64_t frame, uint32_t *ret_module, uint64_t *ret_address)
{
    uint64_t module = frame >> 48;
    uint64_t address = frame & ((UINT64_C(1) << 48) - 1);

    *ret_address = address > 0 ? address - 1 : 0; /* of the call, which is before the address that it returns to */
    *ret_module = (uint32_t)module - 1;
    return module > 0 && module <= PROFILE_MODULES && is_ready(&s->region->modules[module - 1].state);
}

void snapshot_module_path(const snapshot *s, uint32_t module, char ret[PATH_BYTES + 1])
{
    const profile_module *from = &s->region->modules[module];
    size_t len = from->path_bytes < PATH_BYTES ? from->path_bytes : PATH_BYTES;

    len = strnlen(from->path, len);
    memcpy(ret, from->path, len);
    ret[len] = '\0';
}

uint32_t snapshot_module_build_id(const snapshot *s, uint32_t module, const uint8_t **ret)
{
    const profile_module *from = &s->region->modules[module];

    *ret = from->build_id;
    return from->build_id_bytes <= PROFILE_BUILD_ID_MAX ? from->build_id_bytes : 0;
}
