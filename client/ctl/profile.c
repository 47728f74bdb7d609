/*
 * profile: which code holds the heap's memory: goallocctl profile.
 *
 * Either sampling is changed (on, off, reset), by one request; or what was recorded is read: a request brings the
 * descriptors of the region and of what says which objects live (ProfileRead), and all else is done here:
 *
 *     snapshot (what lives, by site) --> symbols (names of frames) --> pprof: FILE   flame: --svg   toplist: --top
 *
 * The status has sums alone, so no file is read for it.
 *
 * Files are made in memory first and written whole (outfile.h). The daemon's part is short, so its timeout is that of
 * each command; reading files of programs has SYMBOLS_TIMEOUT_MS.
 */
#include "client/ctl/profile/snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "client/ctl/outfile.h"
#include "client/ctl/profile/flame.h"
#include "client/ctl/profile/pprof.h"
#include "client/ctl/profile/toplist.h"
#include "proto/wire.h"

#define SYMBOLS_TIMEOUT_MS 60000
#define TOP_PRESET         30u
#define SITES_PRESET       1000u
#define READ_NFDS          3

static const char *const actions[] = { "status", "on", "off", "reset" };
enum action { STATUS, ON, OFF, RESET, READ };

static const struct {
    const char *name;
    enum snapshot_value value;
} types[] = {
    { "live", SNAPSHOT_LIVE_BYTES },
    { "live-objects", SNAPSHOT_LIVE_OBJECTS },
    { "alloc", SNAPSHOT_ALLOC_BYTES },
    { "alloc-objects", SNAPSHOT_ALLOC_OBJECTS },
};

static struct {
    enum action action;
    const char *file; /* NULL: none */
    enum snapshot_value value;
} wanted;

/* --- the command line --- */

static bool set_type(const char *name)
{
    wanted.value = SNAPSHOT_LIVE_BYTES;
    for (size_t i = 0; name != NULL && i < sizeof(types) / sizeof(types[0]); i++) {
        wanted.value = types[i].value;
        if (strcmp(name, types[i].name) == 0)
            return true;
    }
    return name == NULL;
}

bool profile_set(const arguments *args)
{
    bool writes = args->svg != NULL || args->top || args->type != NULL || args->label != NULL;

    wanted.action = READ;
    for (enum action a = STATUS; args->nwords > 0 && a < READ; a++) {
        if (strcmp(args->words[0], actions[a]) == 0)
            wanted.action = a;
    }
    if (wanted.action == READ && args->nwords > 0)
        wanted.file = args->words[0];
    if (wanted.action != READ && writes)
        return false;
    if (args->rate != 0 && wanted.action != ON)
        return false;
    if (wanted.file != NULL && args->svg != NULL && strcmp(wanted.file, "-") == 0 && strcmp(args->svg, "-") == 0)
        return false;
    if ((args->json || args->top) &&
        ((wanted.file != NULL && strcmp(wanted.file, "-") == 0) || (args->svg != NULL && strcmp(args->svg, "-") == 0)))
        return false; /* stdout is one thing */
    if ((args->session != 0) + (args->group != NULL) + args->all > 1 && wanted.action != READ)
        return false;
    if (wanted.action == RESET && (args->session != 0 || args->group != NULL))
        return false;
    return !args->by_group && set_type(args->type);
}

/* --- changing --- */

static int change(const arguments *args)
{
    Goallocd__ProfileSet body = GOALLOCD__PROFILE_SET__INIT;
    Goallocd__Request request = WIRE_REQUEST(PROFILE_SET, profile_set, &body);
    const Goallocd__Reply *reply;
    json_t *object;
    bool whole = true;

    body.rate_bytes = wanted.action == ON ? (args->rate != 0 ? args->rate : PROFILE_RATE_DEFAULT) : 0;
    body.reset = wanted.action == RESET;
    body.session = args->session;
    if (args->group != NULL) {
        body.group.data = (uint8_t *)(uintptr_t)args->group;
        body.group.len = strlen(args->group);
    }
    body.all = wanted.action != RESET && args->session == 0 && args->group == NULL;
    reply = ask(&args->who, &request, GOALLOCD__REPLY__RESULT_PROFILE_SET);
    if (reply == NULL)
        return ask_failed(&args->who);
    if (!args->json) {
        if (wanted.action == RESET)
            (void)puts("what was recorded is forgotten");
        else if (wanted.action == ON)
            (void)printf("one sample in %s is taken, on average, by %u sessions%s\n", ctl_bytes(body.rate_bytes),
                         reply->profile_set->nsessions,
                         body.all                ? " and those that attach"
                         : args->group != NULL   ? " and those that join the group"
                                                 : "");
        else
            (void)printf("off, for %u sessions\n", reply->profile_set->nsessions);
        return fflush(stdout) == 0 ? CTL_OK : ctl_fail(CTL_E_OUTPUT, 0, "stdout: %s", strerror(errno));
    }
    object = json_object();
    whole = object != NULL && ctl_json_set(object, "rate_bytes", body.rate_bytes) &&
            ctl_json_set(object, "sessions", reply->profile_set->nsessions) && ctl_json_print(object);
    json_decref(object);
    return whole ? CTL_OK : ctl_fail(CTL_E_MEMORY, 0, "out of memory");
}

/* --- reading --- */

typedef struct reading {
    const arguments *args;
    snapshot snapshot;
    symbols symbols;
    bool is_there; /* false: nobody has sampled yet */
} reading;

static int fail_to_read(int r)
{
    return ctl_fail(r == -ENOMEM ? CTL_E_MEMORY : CTL_E_NOT_UNDERSTOOD, 0, "%s",
                    r == -ENOMEM    ? "out of memory"
                    : r == -ENODATA ? "the heap has no profiles: its daemon is of an older version"
                    : r == -ENOEXEC ? "the heap is of a version that this goallocctl can't read"
                                    : "what the daemon has handed over is no heap with a profile");
}

/* The exit status. */
static int take_snapshot(reading *r)
{
    Goallocd__ProfileRead body = GOALLOCD__PROFILE_READ__INIT;
    Goallocd__Request request = WIRE_REQUEST(PROFILE_READ, profile_read, &body);
    const snapshot_filter filter = { .session = r->args->session, .group = r->args->group, .label = r->args->label };
    const Goallocd__Reply *reply = ask(&r->args->who, &request, GOALLOCD__REPLY__RESULT_PROFILE_READ);
    int fds[READ_NFDS];
    snapshot_files files;
    int error;

    if (reply == NULL && ask_refused() == ENOENT)
        return CTL_OK;
    if (reply == NULL)
        return ask_failed(&r->args->who);
    files.rate = reply->profile_read->rate_bytes;
    if (!ask_take_fds(fds, READ_NFDS))
        return ctl_fail(CTL_E_NOT_UNDERSTOOD, 0, "the daemon's answer has not the descriptors that belong to it");
    files.spans = fds[0];
    files.bitmap = fds[1];
    files.region = fds[2];
    error = snapshot_take(&r->snapshot, &files, &filter);
    for (int i = 0; i < READ_NFDS; i++)
        (void)close(fds[i]);
    r->is_there = error == 0;
    return error == 0 ? CTL_OK : fail_to_read(error);
}

/* --- showing --- */

static const char *type_name(void)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (types[i].value == wanted.value)
            return types[i].name;
    }
    return "";
}

static const char *amount(uint64_t n)
{
    return wanted.value == SNAPSHOT_LIVE_BYTES || wanted.value == SNAPSHOT_ALLOC_BYTES ? ctl_size(n) : ctl_count(n);
}

/* What is missing in the figures, on stderr, so that files and tables are not mixed with it. */
static void tell_what_is_missing(const reading *r)
{
    const snapshot *s = &r->snapshot;

    if (s->nlost_samples > 0)
        (void)fprintf(stderr, "goallocctl: %" PRIu64 " samples had no room: what they stand for is missing\n",
                      s->nlost_samples);
    if (s->nlost_sites + s->nlost_stacks + s->nlost_modules > 0)
        (void)fprintf(stderr, "goallocctl: tables are full: %" PRIu64 " samples have no session, %" PRIu64
                      " no stack, %" PRIu64 " frames no module\n", s->nlost_sites, s->nlost_stacks, s->nlost_modules);
    if (s->ndamaged > 0)
        (void)fprintf(stderr, "goallocctl: %" PRIu64 " entries are damaged, and passed over\n", s->ndamaged);
    for (uint32_t i = 0; i < PROFILE_MODULES; i++) {
        const symbol_module *m = &r->symbols.modules[i];

        if (m->nplaces > 0 && symbols_why_not(m) != NULL)
            (void)fprintf(stderr, "goallocctl: no names for %s: %s\n", m->path, symbols_why_not(m));
    }
}

static void print_status(const reading *r)
{
    const snapshot *s = &r->snapshot;

    if (!r->is_there) {
        (void)puts("off: nobody has sampled yet ('goallocctl profile on')");
        return;
    }
    (void)printf("%s; %u of %u sessions sample\n",
                 s->default_rate == 0 ? "sessions that attach don't sample" : "sessions that attach sample",
                 s->nsampling, s->nsessions);
    if (s->default_rate != 0)
        (void)printf("one sample in %s, on average\n", ctl_bytes(s->default_rate));
    (void)printf("%" PRIu64 " samples, at %zu sites; %" PRIu64 " of them live, which stand for %s in %s objects\n",
                 s->nsamples, s->nrows, s->nlive, ctl_bytes(s->totals[SNAPSHOT_LIVE_BYTES]),
                 ctl_count(s->totals[SNAPSHOT_LIVE_OBJECTS]));
    (void)printf("allocated since sampling began: %s in %s objects\n", ctl_bytes(s->totals[SNAPSHOT_ALLOC_BYTES]),
                 ctl_count(s->totals[SNAPSHOT_ALLOC_OBJECTS]));
}

static int print_top(const reading *r)
{
    const snapshot *s = &r->snapshot;
    double total = s->totals[wanted.value] > 0 ? (double)s->totals[wanted.value] : 1;
    size_t most = r->args->nrows != 0 ? r->args->nrows : TOP_PRESET;
    toplist t;

    if (toplist_make(&t, s, &r->symbols, wanted.value) < 0)
        return ctl_fail(CTL_E_MEMORY, 0, "out of memory");
    ctl_print_row("%10s %6s %10s %6s %s", type_name(), "%", "with calls", "%", "function");
    for (size_t i = 0; i < t.n && i < most; i++)
        ctl_print_row("%10s %5.1f%% %10s %5.1f%% %s", amount(t.rows[i].own), 100 * (double)t.rows[i].own / total,
                      amount(t.rows[i].all), 100 * (double)t.rows[i].all / total, t.rows[i].function);
    if (t.n > most)
        (void)printf("and %zu more (--rows)\n", t.n - most);
    (void)printf("%s in all, estimated from %" PRIu64 " samples\n", amount(s->totals[wanted.value]),
                 wanted.value == SNAPSHOT_LIVE_BYTES || wanted.value == SNAPSHOT_LIVE_OBJECTS ? s->nlive : s->nsamples);
    toplist_free(&t);
    return CTL_OK;
}

/* --- JSON --- */

static json_t *frame_json(const symbols *sy, const symbol_place *place, const symbol_line *line)
{
    char name[600];
    json_t *object = json_pack("{s:s, s:I}", "function",
                               line != NULL ? line->function : symbols_name(sy, place, name, sizeof(name)),
                               "address", (json_int_t)place->address);
    bool whole = object != NULL;

    if (whole && place->module < PROFILE_MODULES)
        whole = ctl_json_set_foreign(object, "module", sy->modules[place->module].path);
    if (whole && line != NULL && line->file[0] != '\0')
        whole = ctl_json_set_text(object, "file", line->file) && ctl_json_set(object, "line", line->line);
    if (!whole) {
        json_decref(object);
        return NULL;
    }
    return object;
}

bool profile_stack_json(const snapshot *s, const symbols *sy, json_t *list, uint32_t stack)
{
    const uint64_t *frames;
    uint32_t n = snapshot_stack(s, stack, &frames);
    bool whole = true;

    for (uint32_t i = 0; i < n && whole; i++) {
        const symbol_place *place = symbols_find(sy, s, frames[i]);

        if (place->nlines == 0)
            whole = json_array_append_new(list, frame_json(sy, place, NULL)) == 0;
        for (uint32_t k = 0; k < place->nlines && whole; k++)
            whole = json_array_append_new(list, frame_json(sy, place, &place->lines[k])) == 0;
    }
    return whole;
}

static json_t *site_json(const reading *r, const snapshot_row *row)
{
    const snapshot_party *p = &r->snapshot.parties[row->party];
    json_t *object = json_pack("{s:I, s:I, s:I, s:I, s:b, s:s, s:s, s:I, s:I, s:[]}", "session", (json_int_t)p->session,
                               "epoch", (json_int_t)p->epoch, "pid", (json_int_t)p->pid, "uid", (json_int_t)p->uid,
                               "ended", (int)p->has_ended, "label", p->label, "group", p->group, "samples",
                               (json_int_t)row->nsamples, "live_samples", (json_int_t)row->nlive, "stack");

    if (object == NULL || !ctl_json_set(object, "live_bytes", row->values[SNAPSHOT_LIVE_BYTES]) ||
        !ctl_json_set(object, "live_objects", row->values[SNAPSHOT_LIVE_OBJECTS]) ||
        !ctl_json_set(object, "alloc_bytes", row->values[SNAPSHOT_ALLOC_BYTES]) ||
        !ctl_json_set(object, "alloc_objects", row->values[SNAPSHOT_ALLOC_OBJECTS]) ||
        !profile_stack_json(&r->snapshot, &r->symbols, json_object_get(object, "stack"), row->stack)) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static int by_value(const void *a, const void *b)
{
    const snapshot_row *one = a;
    const snapshot_row *other = b;

    if (one->values[wanted.value] != other->values[wanted.value])
        return one->values[wanted.value] < other->values[wanted.value] ? 1 : -1;
    return (one->stack > other->stack) - (one->stack < other->stack);
}

static bool add_sites(reading *r, json_t *object)
{
    size_t most = r->args->nrows != 0 ? r->args->nrows : SITES_PRESET;
    json_t *list = json_array();
    bool whole = json_object_set_new(object, "sites", list) == 0;

    qsort(r->snapshot.rows, r->snapshot.nrows, sizeof(r->snapshot.rows[0]), by_value);
    for (size_t i = 0; i < r->snapshot.nrows && i < most && whole; i++)
        whole = json_array_append_new(list, site_json(r, &r->snapshot.rows[i])) == 0;
    return whole;
}

static bool add_modules(const reading *r, json_t *object)
{
    json_t *list = json_array();
    bool whole = json_object_set_new(object, "modules", list) == 0;

    for (uint32_t i = 0; i < PROFILE_MODULES && whole; i++) {
        const symbol_module *m = &r->symbols.modules[i];
        json_t *one;

        if (m->nplaces == 0)
            continue;
        one = json_pack("{s:s, s:I, s:s?}", "path", m->path, "frames", (json_int_t)m->nplaces, "no_names_because",
                        symbols_why_not(m));
        whole = json_array_append_new(list, one) == 0;
    }
    return whole;
}

static bool add_sums(const snapshot *s, json_t *object)
{
    return ctl_json_set(object, "rate_bytes", s->default_rate) && ctl_json_set(object, "open_sessions", s->nsessions) &&
           ctl_json_set(object, "sampling_sessions", s->nsampling) && ctl_json_set(object, "samples", s->nsamples) &&
           ctl_json_set(object, "live_samples", s->nlive) &&
           ctl_json_set(object, "live_bytes", s->totals[SNAPSHOT_LIVE_BYTES]) &&
           ctl_json_set(object, "live_objects", s->totals[SNAPSHOT_LIVE_OBJECTS]) &&
           ctl_json_set(object, "alloc_bytes", s->totals[SNAPSHOT_ALLOC_BYTES]) &&
           ctl_json_set(object, "alloc_objects", s->totals[SNAPSHOT_ALLOC_OBJECTS]) &&
           ctl_json_set(object, "lost_samples", s->nlost_samples) &&
           ctl_json_set(object, "lost_sites", s->nlost_sites) &&
           ctl_json_set(object, "lost_stacks", s->nlost_stacks) &&
           ctl_json_set(object, "lost_modules", s->nlost_modules) &&
           ctl_json_set(object, "damaged_entries", s->ndamaged);
}

static int print_json(reading *r)
{
    json_t *object = json_object();
    bool whole = object != NULL && add_sums(&r->snapshot, object);

    if (whole && wanted.action == READ)
        whole = add_modules(r, object) && add_sites(r, object);
    whole = whole && ctl_json_print(object);
    json_decref(object);
    return whole ? CTL_OK : ctl_fail(CTL_E_MEMORY, 0, "out of memory");
}

/* --- files --- */

static int write_file(const char *name, int made, void *bytes, size_t len)
{
    int r = made < 0 ? made : outfile_write(name, bytes, len);

    if (made == 0)
        free(bytes);
    if (made < 0)
        return ctl_fail(CTL_E_MEMORY, 0, "out of memory");
    return r == 0 ? CTL_OK : ctl_fail(CTL_E_OUTPUT, 0, "%s: %s", name, strerror(-r));
}

static int write_files(const reading *r)
{
    const arguments *args = r->args;
    int status = CTL_OK;
    void *bytes = NULL;
    size_t len = 0;
    int made;

    if (wanted.file != NULL) {
        made = pprof_make(&r->snapshot, &r->symbols, &bytes, &len);
        status = write_file(wanted.file, made, bytes, len);
    }
    if (status == CTL_OK && args->svg != NULL) {
        char title[1024];

        (void)snprintf(title, sizeof(title), "goallocctl profile: %s%s%s%s%s", args->who.socket_path,
                       args->group != NULL ? ", group " : "", args->group != NULL ? args->group : "",
                       args->label != NULL ? ", label " : "", args->label != NULL ? args->label : "");
        made = flame_make(&r->snapshot, &r->symbols, wanted.value, title, &bytes, &len);
        status = write_file(args->svg, made, bytes, len);
    }
    return status;
}

static int show(reading *r)
{
    int status = write_files(r);

    if (status != CTL_OK)
        return status;
    if (r->args->json)
        return print_json(r);
    if (wanted.action == READ)
        tell_what_is_missing(r);
    if (wanted.action == STATUS)
        print_status(r);
    else if (r->args->top || (wanted.file == NULL && r->args->svg == NULL))
        status = print_top(r);
    if (status == CTL_OK && fflush(stdout) != 0)
        status = ctl_fail(CTL_E_OUTPUT, 0, "stdout: %s", strerror(errno));
    return status;
}

int profile_run(const arguments *args)
{
    reading r = { .args = args };
    int status;

    if (wanted.action != STATUS && wanted.action != READ)
        return change(args);
    status = take_snapshot(&r);
    if (status != CTL_OK)
        return status;
    if (!r.is_there && wanted.action == READ)
        return ctl_fail(CTL_E_REFUSED, ENOENT, "nobody has sampled yet ('goallocctl profile on')");
    if (wanted.action == READ && symbols_init(&r.symbols, &r.snapshot, SYMBOLS_TIMEOUT_MS) < 0) {
        snapshot_free(&r.snapshot);
        return ctl_fail(CTL_E_MEMORY, 0, "out of memory");
    }
    status = show(&r);
    symbols_free(&r.symbols);
    snapshot_free(&r.snapshot);
    return status;
}
