/*
 * Pprof: the snapshot's rows as samples of profile.proto, packed by protobuf-c and compressed by zlib.
 *
 *     row -> Sample (four values; labels: session, pid, label, group, ended)
 *     place -> Location (the module's Mapping, a Line for each function)
 *     module -> Mapping (path, build id, where its code lies in the file)
 *
 * Addresses are those of the modules' files, as the region has them, so mappings of several modules overlap; each
 * location says whose its address is. A module that has been looked up says so, and pprof leaves it alone; the others
 * it may look up where it runs. A stack that was not recorded has one location, with a function of the name "[not
 * recorded]".
 *
 * All that the message is made of lies in one arena of pieces, freed at the end. A file has at most 32768 samples of 62
 * locations.
 */
#include "client/ctl/profile/pprof.h"

#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

#include "client/ctl/profile/profile.pb-c.h"

#define NOT_RECORDED "[not recorded]"
#define LABELS_MAX   5u

/* A text, or a function, by what makes it one; in a tree, which nobody's choice of names makes slow. */
typedef struct known {
    uint64_t number;
    size_t len;
    char key[];
} known;

typedef struct maker {
    const snapshot *snap;
    const symbols *symbols;
    Pprof__Profile profile;
    struct piece *pieces;
    void *texts; /* tsearch's */
    void *functions;
    uint64_t *mapping_ids; /* by module; 0: it has none */
    size_t texts_cap;
    size_t functions_cap;
    bool failed; /* no memory: what is made from then on is not used */
} maker;

/* --- memory --- */

typedef struct piece {
    struct piece *next;
    _Alignas(16) char bytes[];
} piece;

/* Zeroed. NULL: no memory, and m->failed says so. */
static void *take(maker *m, size_t len)
{
    piece *p = calloc(1, sizeof(*p) + len);

    if (p == NULL) {
        m->failed = true;
        return NULL;
    }
    p->next = m->pieces;
    m->pieces = p;
    return p->bytes;
}

static void *take_pointers(maker *m, size_t n)
{
    return take(m, n * sizeof(void *));
}

/* Make a list of pointers that has n of cap entries longer if it is full. False: no memory. */
static bool has_room(maker *m, void *list, size_t n, size_t *cap)
{
    void **at = list;
    size_t want = *cap == 0 ? 256 : 2 * *cap;
    void *more;

    if (n < *cap)
        return true;
    more = realloc(*at, want * sizeof(void *));
    if (more == NULL) {
        m->failed = true;
        return false;
    }
    *at = more;
    *cap = want;
    return true;
}

static int compare(const void *a, const void *b)
{
    const known *one = a;
    const known *other = b;

    if (one->len != other->len)
        return one->len > other->len ? 1 : -1;
    return memcmp(one->key, other->key, one->len);
}

/* The number of a key in a tree. *ret_new: it was not there, and has the number that was offered. */
static uint64_t number_of(maker *m, void **tree, const void *key, size_t len, uint64_t offered, bool *ret_new)
{
    known *k = malloc(sizeof(*k) + len);
    known **found;

    *ret_new = false;
    if (k == NULL) {
        m->failed = true;
        return 0;
    }
    k->number = offered;
    k->len = len;
    memcpy(k->key, key, len);
    found = tsearch(k, tree, compare);
    if (found == NULL)
        m->failed = true;
    *ret_new = found != NULL && *found == k;
    offered = found != NULL ? (*found)->number : 0;
    if (!*ret_new)
        free(k);
    return offered;
}

/* --- texts and functions --- */

static int64_t text(maker *m, const char *s)
{
    bool is_new;
    uint64_t number = number_of(m, &m->texts, s, strlen(s), m->profile.n_string_table, &is_new);
    char *copy;

    if (!is_new || !has_room(m, &m->profile.string_table, m->profile.n_string_table, &m->texts_cap) ||
        (copy = take(m, strlen(s) + 1)) == NULL)
        return (int64_t)number;
    m->profile.string_table[m->profile.n_string_table++] = strcpy(copy, s);
    return (int64_t)number;
}

/* Foreign text, without what pprof forgets to escape when it draws labels. */
static int64_t tame_text(maker *m, const char *s)
{
    char tame[SNAPSHOT_TEXT_BYTES];
    size_t i = 0;

    for (; s[i] != '\0' && i + 1 < sizeof(tame); i++)
        tame[i] = (char)(s[i] == '"' ? '\'' : s[i] == '\\' ? '/' : s[i]);
    tame[i] = '\0';
    return text(m, tame);
}

static uint64_t function(maker *m, const char *name, const char *linkage, const char *file)
{
    const int64_t key[3] = { text(m, name), text(m, linkage), text(m, file) };
    bool is_new;
    uint64_t id = number_of(m, &m->functions, key, sizeof(key), m->profile.n_function + 1, &is_new);
    Pprof__Function *f;

    if (!is_new || !has_room(m, &m->profile.function, m->profile.n_function, &m->functions_cap) ||
        (f = take(m, sizeof(*f))) == NULL)
        return id;
    pprof__function__init(f);
    f->id = id;
    f->name = key[0];
    f->system_name = key[1];
    f->filename = key[2];
    m->profile.function[m->profile.n_function++] = f;
    return id;
}

/* --- modules and places --- */

static void add_mapping(maker *m, uint32_t module)
{
    const symbol_module *from = &m->symbols->modules[module];
    Pprof__Mapping *to = take(m, sizeof(*to));
    char hex[2 * PROFILE_BUILD_ID_MAX + 1] = "";
    const uint8_t *build_id;
    uint32_t n = snapshot_module_build_id(m->snap, module, &build_id);

    if (to == NULL)
        return;
    for (uint32_t i = 0; i < n; i++)
        (void)snprintf(hex + (size_t)2 * i, 3, "%02x", build_id[i]);
    pprof__mapping__init(to);
    to->id = m->profile.n_mapping + 1;
    to->memory_start = from->start;
    to->memory_limit = from->limit;
    to->file_offset = from->file_offset;
    to->filename = text(m, from->path);
    to->build_id = text(m, hex);
    to->has_functions = from->state == SYMBOLS_READ;
    to->has_filenames = from->state == SYMBOLS_READ && from->has_lines;
    to->has_line_numbers = to->has_filenames;
    to->has_inline_frames = to->has_filenames;
    m->profile.mapping[m->profile.n_mapping++] = to;
    m->mapping_ids[module] = to->id;
}

static Pprof__Line *new_line(maker *m, const symbol_line *from)
{
    Pprof__Line *to = take(m, sizeof(*to));

    if (to == NULL)
        return NULL;
    pprof__line__init(to);
    to->function_id = function(m, from->function, from->linkage, from->file);
    to->line = from->line;
    return to;
}

static void add_location(maker *m, const symbol_place *from)
{
    Pprof__Location *to = take(m, sizeof(*to));

    if (to == NULL || (to->line = take_pointers(m, from->nlines + 1)) == NULL)
        return;

    Pprof__Line **lines = to->line;

    pprof__location__init(to);
    to->line = lines;
    to->id = m->profile.n_location + 1;
    to->address = from->address;
    if (from->module < PROFILE_MODULES)
        to->mapping_id = m->mapping_ids[from->module];
    for (uint32_t i = 0; i < from->nlines && !m->failed; i++)
        to->line[to->n_line++] = new_line(m, &from->lines[i]);
    m->profile.location[m->profile.n_location++] = to;
}

/* True if a file is a shared library, by its name. */
static bool is_library(const char *path)
{
    const char *slash = strrchr(path, '/');

    return strstr(slash != NULL ? slash : path, ".so") != NULL;
}

/*
 * A location for each place, in their order, and one more for stacks that were not recorded. Programs come before their
 * libraries: pprof takes the first mapping for the program whose profile it is.
 */
static void add_locations(maker *m)
{
    const symbol_line unknown = { NOT_RECORDED, NOT_RECORDED, "", 0 };
    const symbol_place nowhere = { .module = SYMBOLS_NO_MODULE, .lines = &unknown, .nlines = 1 };

    m->profile.mapping = take_pointers(m, PROFILE_MODULES);
    m->profile.location = take_pointers(m, m->symbols->nplaces + 1);
    for (int libraries = 0; libraries <= 1; libraries++) {
        for (uint32_t i = 0; i < PROFILE_MODULES && !m->failed; i++) {
            const symbol_module *module = &m->symbols->modules[i];

            if (module->nplaces > 0 && is_library(module->path) == (libraries == 1))
                add_mapping(m, i);
        }
    }
    for (size_t i = 0; i < m->symbols->nplaces && !m->failed; i++)
        add_location(m, &m->symbols->places[i]);
    if (!m->failed)
        add_location(m, &nowhere);
}

/* --- samples --- */

static void add_label(maker *m, Pprof__Sample *to, const char *key, const char *str, uint64_t num)
{
    Pprof__Label *label = take(m, sizeof(*label));

    if (label == NULL || (str == NULL && num == 0))
        return;
    pprof__label__init(label);
    label->key = text(m, key);
    if (str != NULL)
        label->str = tame_text(m, str);
    else
        label->num = (int64_t)num;
    to->label[to->n_label++] = label;
}

static void add_labels(maker *m, Pprof__Sample *to, const snapshot_party *p)
{
    to->label = take_pointers(m, LABELS_MAX);
    if (to->label == NULL)
        return;
    add_label(m, to, "session", NULL, p->session);
    add_label(m, to, "pid", NULL, p->pid);
    if (p->label[0] != '\0')
        add_label(m, to, "label", p->label, 0);
    if (p->group[0] != '\0')
        add_label(m, to, "group", p->group, 0);
    if (p->session != 0)
        add_label(m, to, "ended", p->has_ended ? "yes" : "no", 0);
}

static void add_sample(maker *m, const snapshot_row *row)
{
    const uint64_t *frames;
    uint32_t n = snapshot_stack(m->snap, row->stack, &frames);
    Pprof__Sample *to = take(m, sizeof(*to));
    uint64_t *ids = take(m, (n + 1) * sizeof(*ids));
    int64_t *values = take(m, SNAPSHOT_VALUES * sizeof(*values));

    if (m->failed)
        return;
    pprof__sample__init(to);
    to->location_id = ids;
    for (uint32_t i = 0; i < n; i++)
        ids[to->n_location_id++] = (uint64_t)(symbols_find(m->symbols, m->snap, frames[i]) - m->symbols->places) + 1;
    if (n == 0)
        ids[to->n_location_id++] = m->symbols->nplaces + 1;
    to->value = values;
    to->n_value = SNAPSHOT_VALUES;
    for (int v = 0; v < SNAPSHOT_VALUES; v++)
        values[v] = (int64_t)row->values[v];
    add_labels(m, to, &m->snap->parties[row->party]);
    m->profile.sample[m->profile.n_sample++] = to;
}

static Pprof__ValueType *new_type(maker *m, const char *type, const char *unit)
{
    Pprof__ValueType *to = take(m, sizeof(*to));

    if (to == NULL)
        return NULL;
    pprof__value_type__init(to);
    to->type = text(m, type);
    to->unit = text(m, unit);
    return to;
}

/* --- the file --- */

static void fill(maker *m)
{
    static const char *const types[SNAPSHOT_VALUES][2] = {
        [SNAPSHOT_ALLOC_OBJECTS] = { "alloc_objects", "count" },
        [SNAPSHOT_ALLOC_BYTES] = { "alloc_space", "bytes" },
        [SNAPSHOT_LIVE_OBJECTS] = { "inuse_objects", "count" },
        [SNAPSHOT_LIVE_BYTES] = { "inuse_space", "bytes" },
    };
    Pprof__Profile *p = &m->profile;
    struct timespec now = { 0 };

    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)text(m, "");
    m->mapping_ids = take(m, PROFILE_MODULES * sizeof(m->mapping_ids[0]));
    p->sample_type = take_pointers(m, SNAPSHOT_VALUES);
    p->sample = take_pointers(m, m->snap->nrows + 1);
    if (m->failed)
        return;
    for (int v = 0; v < SNAPSHOT_VALUES; v++)
        p->sample_type[p->n_sample_type++] = new_type(m, types[v][0], types[v][1]);
    p->default_sample_type = text(m, types[SNAPSHOT_LIVE_BYTES][0]);
    p->period_type = new_type(m, "space", "bytes");
    p->period = (int64_t)m->snap->rate;
    p->time_nanos = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    add_locations(m);
    for (size_t i = 0; i < m->snap->nrows && !m->failed; i++)
        add_sample(m, &m->snap->rows[i]);
}

/* As gzip does. 0, -ENOMEM. */
static int compress_bytes(const void *bytes, size_t len, void **ret_bytes, size_t *ret_len)
{
    z_stream z = { 0 };
    size_t cap;
    void *out;
    int r;

    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, 15 + 16 /* with gzip's header */, 8, Z_DEFAULT_STRATEGY) !=
        Z_OK)
        return -ENOMEM;
    cap = deflateBound(&z, len);
    out = len <= UINT32_MAX && cap <= UINT32_MAX ? malloc(cap) : NULL;
    z.next_in = (Bytef *)(uintptr_t)bytes;
    z.avail_in = (uInt)len;
    z.next_out = out;
    z.avail_out = (uInt)cap;
    r = out != NULL ? deflate(&z, Z_FINISH) : Z_MEM_ERROR;
    (void)deflateEnd(&z);
    if (r != Z_STREAM_END) {
        free(out);
        return -ENOMEM;
    }
    *ret_bytes = out;
    *ret_len = z.total_out;
    return 0;
}

static void free_all(maker *m)
{
    tdestroy(m->texts, free);
    tdestroy(m->functions, free);
    free(m->profile.string_table);
    free(m->profile.function);
    while (m->pieces != NULL) {
        piece *next = m->pieces->next;

        free(m->pieces);
        m->pieces = next;
    }
}

int pprof_make(const snapshot *s, const symbols *sy, void **ret_bytes, size_t *ret_len)
{
    maker m = { .snap = s, .symbols = sy, .profile = PPROF__PROFILE__INIT };
    uint8_t *packed = NULL;
    size_t len;
    int r = -ENOMEM;

    fill(&m);
    if (!m.failed) {
        len = pprof__profile__get_packed_size(&m.profile);
        packed = malloc(len);
    }
    if (packed != NULL) {
        (void)pprof__profile__pack(&m.profile, packed);
        r = compress_bytes(packed, len, ret_bytes, ret_len);
    }
    free(packed);
    free_all(&m);
    return r;
}
