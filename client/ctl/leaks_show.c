/*
 * leaks_show: goallocctl leaks, as text and as JSON.
 *
 * Called by leaks.c when the cycle has ended. Text: a sentence each for what was found, freed and what it cost; then
 * tables by session, size class and stack. Labels, names of roots and of mappings are foreign text.
 */
#include "client/ctl/leaks_show.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#define STACK_TEXT_BYTES 512u
#define STACK_FRAMES_SHOWN 4u

static const char *class_name(uint8_t class, char ret[16])
{
    return stats_class_name(class, class <= SIZE_CLASS_COUNT ? size_class_bytes[class] : 0, ret);
}

/* --- text --- */

/* What holds an object, as text for a terminal. Returns ret. */
static const char *holder_text(const collect_link *link, char *ret, size_t cap)
{
    const words_range *range = link->range;
    char plain[SHM_ROOT_NAME_BYTES];

    switch (link->holder.kind) {
    case MARK_HELD_BY_OBJECT:
        (void)snprintf(ret, cap, "word at 0x%" PRIx64 " of the heap", link->address);
        break;
    case MARK_HELD_BY_HIT:
        if (range == NULL)
            (void)snprintf(ret, cap, "a process");
        else if (range->kind == WORDS_REGISTERS)
            (void)snprintf(ret, cap, "process %d, thread %d: %s", (int)range->pid, (int)range->tid,
                           words_kind_name(range->kind));
        else
            (void)snprintf(ret, cap, "process %d: %s at 0x%" PRIx64 "%s%s", (int)range->pid,
                           words_kind_name(range->kind), link->address, range->mapping[0] != '\0' ? " of " : "",
                           ctl_plain_text(range->mapping, plain, sizeof(plain)));
        break;
    case MARK_HELD_BY_ROOT:
        if (link->root_kind == HEAP_ROOT_ANNOUNCED)
            (void)snprintf(ret, cap, "a root that is being made");
        else if (link->root_kind == HEAP_ROOT_NAMED)
            (void)snprintf(ret, cap, "root '%s'", ctl_plain_text(link->name, plain, sizeof(plain)));
        else
            (void)snprintf(ret, cap, "goalloc_link() or goalloc_unlink_free() under way");
        break;
    default:
        (void)snprintf(ret, cap, "nothing");
        break;
    }
    return ret;
}

static void print_why(const leaks *l)
{
    char text[SHM_ROOT_NAME_BYTES + 128];

    if (l->nwhy == 0) {
        (void)puts(l->why_is_garbage ? "nobody can reach it" : "no live object is there");
        return;
    }
    for (uint32_t i = 0; i < l->nwhy; i++)
        ctl_print_row("0x%" PRIx64 " (%" PRIu64 " bytes) is held by %s", l->base + l->why[i].object.offset,
                      l->why[i].object.bytes, holder_text(&l->why[i], text, sizeof(text)));
    if (l->nwhy == COLLECT_WHY_STEPS && l->why[l->nwhy - 1].holder.kind == MARK_HELD_BY_OBJECT)
        (void)puts("and so on: ask again for the last one");
}

static void print_sessions(const leaks *l)
{
    char session[24];
    char label[2 * SHM_LABEL_BYTES];

    ctl_print_row("\n%-12s %-16s %10s %8s", "session", "label", "objects", "bytes");
    for (size_t i = 0; i < l->nsessions; i++) {
        const leaks_session *s = &l->sessions[i];

        if (s->session != 0)
            (void)snprintf(session, sizeof(session), "%" PRIu32 "%s", s->session, s->ended ? " ended" : "");
        else
            (void)snprintf(session, sizeof(session), "%s", s->mixed ? "several" : "unknown");
        (void)snprintf(label, sizeof(label), "%s", s->label);
        ctl_print_row("%-12s %s %10s %8s", session, ctl_pad(label, sizeof(label), 16), ctl_count(s->sum.objects),
                      ctl_size(s->sum.bytes));
    }
}

static void print_classes(const leaks *l)
{
    char name[16];

    ctl_print_row("\n%-12s %10s %8s", "size class", "objects", "bytes");
    for (uint8_t class = 0; class <= SIZE_CLASS_COUNT; class ++) {
        const garbage_sum *sum = &l->result.garbage.classes[class];

        if (sum->objects > 0)
            ctl_print_row("%-12s %10s %8s", class_name(class, name), ctl_count(sum->objects), ctl_size(sum->bytes));
    }
}

/* The innermost functions of a stack, in one line. */
static const char *stack_text(const leaks *l, uint32_t stack, char ret[STACK_TEXT_BYTES])
{
    const uint64_t *frames;
    uint32_t n = snapshot_stack(&l->profile, stack, &frames);
    size_t len = 0;

    ret[0] = '\0';
    for (uint32_t i = 0; i < n && i < STACK_FRAMES_SHOWN && len < STACK_TEXT_BYTES; i++) {
        const symbol_place *place = symbols_find(&l->symbols, &l->profile, frames[i]);
        char name[128];
        int more = snprintf(ret + len, STACK_TEXT_BYTES - len, "%s%s", i > 0 ? " < " : "",
                            place->nlines > 0 ? place->lines[0].function
                                              : symbols_name(&l->symbols, place, name, sizeof(name)));

        len += more > 0 ? (size_t)more : 0;
    }
    return ret[0] != '\0' ? ret : "unknown";
}

static void print_stacks(const leaks *l)
{
    char text[STACK_TEXT_BYTES];
    char label[2 * SHM_LABEL_BYTES];

    if (!l->has_profile || l->profile.nlive == 0)
        return;
    ctl_print_row("\n%10s %8s %-16s %s", "objects", "bytes", "label", "allocated by (estimated from samples)");
    for (size_t i = 0; i < l->profile.nrows; i++) {
        const snapshot_row *row = &l->profile.rows[i];

        if (row->nlive == 0)
            continue;
        (void)snprintf(label, sizeof(label), "%s", l->profile.parties[row->party].label);
        ctl_print_row("%10s %8s %s %s", ctl_count(row->values[SNAPSHOT_LIVE_OBJECTS]),
                      ctl_size(row->values[SNAPSHOT_LIVE_BYTES]), ctl_pad(label, sizeof(label), 16),
                      stack_text(l, row->stack, text));
    }
}

int leaks_print_text(const leaks *l)
{
    const collect_result *r = &l->result;
    const garbage *g = &r->garbage;

    if (l->asked_why) {
        print_why(l);
    } else {
        (void)printf("nobody can reach %s of %s objects: %s\n", ctl_count(g->total.objects), ctl_count(r->nlive),
                     ctl_bytes(g->total.bytes));
        if (g->leased.objects > 0)
            (void)printf("%s of them, %s, are in spans that sessions lease%s\n", ctl_count(g->leased.objects),
                         ctl_bytes(g->leased.bytes),
                         l->args->free_them && !l->args->all ? ": they stay (--all frees them, too)" : "");
        if (g->owned.objects > 0)
            (void)printf("%s more, %s, go with the sessions or groups that own them\n", ctl_count(g->owned.objects),
                         ctl_bytes(g->owned.bytes));
        if (l->args->free_them)
            (void)printf("freed: %s objects, %s\n", ctl_count(g->freed.objects), ctl_bytes(g->freed.bytes));
        if (r->nprocesses > 0)
            (void)printf("%u processes with %u threads were stopped for %.3f ms\n", r->nprocesses, r->nthreads,
                         (double)r->pause_ns / 1e6);
        if (g->total.objects > 0) {
            print_sessions(l);
            print_classes(l);
            print_stacks(l);
        }
    }
    return fflush(stdout) == 0 ? CTL_OK : ctl_fail(CTL_E_OUTPUT, 0, "stdout: %s", strerror(errno));
}

/* --- JSON --- */

static bool append(json_t *list, json_t *item)
{
    return item != NULL && json_array_append_new(list, item) == 0;
}

static json_t *new_list(json_t *object, const char *name)
{
    json_t *list = json_array();

    return list != NULL && json_object_set_new(object, name, list) == 0 ? list : NULL;
}

static bool add_sums(const leaks *l, json_t *object)
{
    const collect_result *r = &l->result;
    const garbage *g = &r->garbage;
    const struct {
        const char *name;
        uint64_t value;
    } sums[] = {
        { "live_objects", r->nlive },
        { "reached_objects", r->nreached },
        { "garbage_objects", g->total.objects },
        { "garbage_bytes", g->total.bytes },
        { "leased_objects", g->leased.objects },
        { "leased_bytes", g->leased.bytes },
        { "owned_objects", g->owned.objects },
        { "owned_bytes", g->owned.bytes },
        { "noscan_objects", g->noscan.objects },
        { "noscan_bytes", g->noscan.bytes },
        { "freed_objects", g->freed.objects },
        { "freed_bytes", g->freed.bytes },
        { "processes", r->nprocesses },
        { "threads", r->nthreads },
        { "pause_us", (r->pause_ns + 999) / 1000 },
        { "estimated_pause_us", (r->estimate_ns + 999) / 1000 },
        { "copied_bytes", r->copied_bytes },
        { "mark_us", r->mark_ns / 1000 },
        { "free_us", r->free_ns / 1000 },
        { "attempts", r->nattempts },
    };

    for (size_t i = 0; i < sizeof(sums) / sizeof(sums[0]); i++) {
        if (!ctl_json_set(object, sums[i].name, sums[i].value))
            return false;
    }
    return true;
}

static bool add_sessions(const leaks *l, json_t *object)
{
    json_t *list = new_list(object, "sessions");

    for (size_t i = 0; i < l->nsessions && list != NULL; i++) {
        const leaks_session *s = &l->sessions[i];

        if (!append(list, json_pack("{s:o, s:I, s:b, s:b, s:s, s:I, s:I}", "session",
                                    s->session != 0 ? json_integer(s->session) : json_null(), "epoch",
                                    (json_int_t)s->epoch, "several", (int)s->mixed, "ended", (int)s->ended, "label",
                                    s->label, "objects", (json_int_t)s->sum.objects, "bytes",
                                    (json_int_t)s->sum.bytes)))
            return false;
    }
    return list != NULL;
}

static bool add_classes(const leaks *l, json_t *object)
{
    json_t *list = new_list(object, "classes");
    char name[16];

    for (uint8_t class = 0; class <= SIZE_CLASS_COUNT && list != NULL; class ++) {
        const garbage_sum *sum = &l->result.garbage.classes[class];

        if (sum->objects > 0 &&
            !append(list, json_pack("{s:i, s:s, s:I, s:I}", "class", (int)class, "name", class_name(class, name),
                                    "objects", (json_int_t)sum->objects, "bytes", (json_int_t)sum->bytes)))
            return false;
    }
    return list != NULL;
}

static bool add_objects(const leaks *l, json_t *object)
{
    json_t *list = new_list(object, "objects");

    for (size_t i = 0; i < l->nobjects && list != NULL; i++) {
        const leaks_object *o = &l->objects[i];
        char name[16];

        if (!append(list, json_pack("{s:I, s:I, s:s, s:b, s:b}", "address", (json_int_t)o->address, "bytes",
                                    (json_int_t)o->bytes, "class", class_name(o->class, name), "noscan",
                                    (int)o->noscan, "leased", (int)o->leased)))
            return false;
    }
    return list != NULL;
}

static json_t *stack_json(const leaks *l, const snapshot_row *row)
{
    const snapshot_party *p = &l->profile.parties[row->party];
    json_t *object = json_pack("{s:I, s:b, s:s, s:s, s:I, s:I, s:I, s:[]}", "session", (json_int_t)p->session, "ended",
                               (int)p->has_ended, "label", p->label, "group", p->group, "samples",
                               (json_int_t)row->nlive, "objects", (json_int_t)row->values[SNAPSHOT_LIVE_OBJECTS],
                               "bytes", (json_int_t)row->values[SNAPSHOT_LIVE_BYTES], "stack");

    if (object != NULL &&
        !profile_stack_json(&l->profile, &l->symbols, json_object_get(object, "stack"), row->stack)) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static bool add_stacks(const leaks *l, json_t *object)
{
    json_t *list = new_list(object, "stacks");

    for (size_t i = 0; l->has_profile && i < l->profile.nrows && list != NULL; i++) {
        if (l->profile.rows[i].nlive > 0 && !append(list, stack_json(l, &l->profile.rows[i])))
            return false;
    }
    return list != NULL;
}

static json_t *link_json(const leaks *l, const collect_link *link)
{
    static const char *const kinds[] = { "nothing", "object", "process", "root" };
    static const char *const root_kinds[] = {
        [HEAP_ROOT_NAMED] = "root", [HEAP_ROOT_ANNOUNCED] = "announced", [HEAP_ROOT_INTENT] = "intent"
    };
    char text[SHM_ROOT_NAME_BYTES + 128];
    const char *kind = link->holder.kind == MARK_HELD_BY_ROOT ? root_kinds[link->root_kind] : kinds[link->holder.kind];
    uint64_t address = l->base + link->object.offset;
    json_t *object = json_pack("{s:I, s:I, s:s, s:s}", "address", (json_int_t)address, "bytes",
                               (json_int_t)link->object.bytes, "held_by", kind, "text",
                               holder_text(link, text, sizeof(text)));
    bool whole = object != NULL;

    if (whole && link->address != 0)
        whole = ctl_json_set(object, "word", link->address);
    if (whole && link->name[0] != '\0')
        whole = ctl_json_set_foreign(object, "root", link->name);
    if (whole && link->range != NULL)
        whole = ctl_json_set(object, "pid", (uint64_t)link->range->pid) &&
                ctl_json_set_text(object, "kind", words_kind_name(link->range->kind)) &&
                ctl_json_set_foreign(object, "mapping", link->range->mapping);
    if (!whole) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static bool add_why(const leaks *l, json_t *object)
{
    json_t *why = json_pack("{s:b, s:b, s:[]}", "lives", (int)(l->nwhy > 0 || l->why_is_garbage), "reached",
                            (int)(l->nwhy > 0), "chain");

    if (why == NULL || json_object_set_new(object, "why", why) != 0)
        return false;
    for (uint32_t i = 0; i < l->nwhy; i++) {
        if (!append(json_object_get(why, "chain"), link_json(l, &l->why[i])))
            return false;
    }
    return true;
}

int leaks_print_json(const leaks *l)
{
    json_t *object = json_object();
    bool whole = object != NULL && add_sums(l, object) && add_sessions(l, object) && add_classes(l, object) &&
                 add_stacks(l, object) && add_objects(l, object) && (!l->asked_why || add_why(l, object));
    int status = CTL_OK;

    if (!whole)
        status = ctl_fail(CTL_E_MEMORY, 0, "out of memory");
    else if (!ctl_json_print(object) || fflush(stdout) != 0)
        status = ctl_fail(CTL_E_OUTPUT, 0, "stdout: %s", strerror(errno));
    json_decref(object);
    return status;
}
