/*
 * Options: the command line, by argp. Called by main before anything else. Checks every value, so that nobody else has
 * to. The options of limits are limits.c's.
 */
#include "daemon/options.h"

#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shm/layout.h"

#define DEFAULT_RESERVE (64 * GIB)
#define USER_SPACE_END  (UINT64_C(1) << 47)

__attribute__((visibility("default"))) const char *argp_program_version = "goallocd " GOALLOC_VERSION;

/* Keys of the options without a short name. */
enum { OPTION_SCAVTRACE = 256, OPTION_COLD_START, OPTION_HUGE_PAGES, OPTION_ON_STOP, OPTION_MAX_MEMORY,
       OPTION_CHECK_TAKEOVER };
enum {
    OPTION_ALLOW_UID = 512,
    OPTION_ALLOW_GID,
    OPTION_ALLOW_READ_UID,
    OPTION_ALLOW_READ_GID,
    OPTION_CONTROL_GROUP,
    OPTION_ROOT_OWNER,
    OPTION_NO_SECCOMP,
    OPTION_SECCOMP_KILL,
};

static const struct argp_option option_table[] = {
    { "socket", 's', "PATH", 0, "Serve on this Unix socket (default " SHM_SOCKET_PATH ")", 0 },
    { "reserve", 'r', "SIZE", 0,
      "Address space of the arena, a multiple of 64M up to 16T (default 64G). It takes no memory until it is used", 0 },
    { "base", 'b', "ADDR", 0, "Address of the arena in every process, in hex (default 0x00c000000000)", 0 },
    { "memory-limit", 'm', "SIZE", 0,
      "Memory that the heap tries to stay below by giving free pages back (default: no limit). Soft: live objects "
      "are never refused because of it",
      0 },
    { "max-memory", OPTION_MAX_MEMORY, "SIZE", 0,
      "Memory that the heap never has more than, what describes it included (default: no limit). Hard: who would pass "
      "it gets ENOMEM",
      0 },
    { "commit", 'c', "eager|lazy", 0,
      "When pages get memory: eager (default) before a process gets them, so that a lack of it is ENOMEM; lazy at "
      "first touch",
      0 },
    { "huge-pages", OPTION_HUGE_PAGES, "auto|never", 0,
      "Whole blocks of 2 MiB get huge pages: where the kernel has them (auto, the default), or never", 0 },
    { "scavtrace", OPTION_SCAVTRACE, NULL, 0, "Log a line for every second in which free pages went back to the OS",
      0 },
    { "state-dir", 'd', "DIR", 0,
      "Start a keeper, a small process that holds the heap, and reach it through DIR: if this goallocd dies, the next "
      "one takes the heap over. Not needed under systemd, which holds the heap itself",
      0 },
    { "on-stop", OPTION_ON_STOP, "keep|drop", 0,
      "What SIGTERM and SIGINT do with the heap: leave it to the next goallocd (keep; the default with --state-dir and "
      "under systemd), or drop it (drop; the default without both)",
      0 },
    { "cold-start", OPTION_COLD_START, NULL, 0,
      "Drop the heap that another goallocd has left, if there is one, and make a new one", 0 },
    { "check-takeover", OPTION_CHECK_TAKEOVER, NULL, 0,
      "Do not serve. Look whether this goallocd would take over the heap that is served at --socket, or held in "
      "--state-dir, change nothing, and say so: exit status 0 if it would, or if there is none; 3 if not; 1 if that "
      "can't be found out",
      0 },
    { "log-level", 'l', "LEVEL", 0, "error, warn, info (default) or debug", 0 },
    { "allow-uid", OPTION_ALLOW_UID, "USER,...", 0,
      "Who may attach: users, by name or number. When one of these four lists is given, who is in none may not, but "
      "for root and the user of goallocd. By default, whoever may connect to the socket",
      1 },
    { "allow-gid", OPTION_ALLOW_GID, "GROUP,...", 0, "The same for groups, the process's first or any other", 1 },
    { "allow-read-uid", OPTION_ALLOW_READ_UID, "USER,...", 0, "Users who may attach read-only", 1 },
    { "allow-read-gid", OPTION_ALLOW_READ_GID, "GROUP,...", 0, "The same for groups", 1 },
    { "control-group", OPTION_CONTROL_GROUP, "GROUP", 0,
      "Who may control goallocd (goallocctl check, trim, scavenge, reclaim, drop, disconnect, and all of sessions), "
      "beside root and the user of goallocd (default: " ACCESS_CONTROL_GROUP ", if there is such a group; '': nobody)",
      1 },
    { "root-owner", OPTION_ROOT_OWNER, NULL, 0,
      "A root is set and removed by the user alone who has made it, and by who may control; others get it", 1 },
    { "no-seccomp", OPTION_NO_SECCOMP, NULL, 0,
      "No filter of system calls and no Landlock, for debuggers and sanitizers", 1 },
    { "seccomp-kill", OPTION_SECCOMP_KILL, NULL, 0,
      "A system call that the filter does not know kills goallocd, instead of failing with ENOSYS: for tests", 1 },
    { 0 },
};

static uint64_t parse_size(struct argp_state *state, const char *name, const char *arg)
{
    uint64_t bytes = 0;

    if (!limits_parse_size(arg, &bytes))
        argp_error(state, "--%s: '%s' is not a size such as 512M or 64G", name, arg);
    return bytes;
}

static void parse_base(struct argp_state *state, options *o, const char *arg)
{
    char *end;

    errno = 0;
    o->base = strtoull(arg, &end, 16);
    if (errno != 0 || *end != '\0' || end == arg || arg[0] == '-')
        argp_error(state, "--base: '%s' is not a hexadecimal address", arg);
    if (o->base == 0 || o->base % SHM_HEAP_ARENA_BYTES != 0)
        argp_error(state, "--base: 0x%llx is not a multiple of 64M above 0", (unsigned long long)o->base);
}

static void add_ids(struct argp_state *state, access_list *list, const char *name, const char *arg, bool groups)
{
    options *o = state->input;
    const char *wrong;
    int len;
    int e = access_list_add(list, arg, groups, &wrong, &len);

    if (e == ACCESS_E_FULL)
        argp_error(state, "--%s: more than %u in a list", name, ACCESS_IDS_MAX);
    if (e != 0)
        argp_error(state, "--%s: '%.*s' is no %s", name, len, wrong, groups ? "group" : "user");
    o->access.is_listed = true;
}

static void set_control_group(struct argp_state *state, const char *arg)
{
    options *o = state->input;

    o->has_control_group = true;
    o->access.has_control = false;
    if (arg[0] != '\0' && access_set_control(&o->access, arg) != 0)
        argp_error(state, "--control-group: '%s' is no group", arg);
}

/* Who may do what. */
static error_t parse_access(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;

    switch (key) {
    case OPTION_ALLOW_UID:
        add_ids(state, &o->access.uids, "allow-uid", arg, false);
        return 0;
    case OPTION_ALLOW_GID:
        add_ids(state, &o->access.gids, "allow-gid", arg, true);
        return 0;
    case OPTION_ALLOW_READ_UID:
        add_ids(state, &o->access.read_uids, "allow-read-uid", arg, false);
        return 0;
    case OPTION_ALLOW_READ_GID:
        add_ids(state, &o->access.read_gids, "allow-read-gid", arg, true);
        return 0;
    case OPTION_CONTROL_GROUP:
        set_control_group(state, arg);
        return 0;
    case OPTION_ROOT_OWNER:
        o->access.root_owner = true;
        return 0;
    case OPTION_NO_SECCOMP:
        o->filter = PRIVILEGES_NO_FILTER;
        return 0;
    case OPTION_SECCOMP_KILL:
        o->filter = PRIVILEGES_FILTER_KILL;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->limits;
        return 0;
    case 's':
        o->socket_path = arg;
        return 0;
    case 'r':
        o->reserve_bytes = parse_size(state, "reserve", arg);
        if (o->reserve_bytes == 0 || o->reserve_bytes % SHM_HEAP_ARENA_BYTES != 0 ||
            o->reserve_bytes > SHM_ARENA_BYTES_MAX)
            argp_error(state, "--reserve: '%s' is not a multiple of 64M up to 16T", arg);
        return 0;
    case 'b':
        parse_base(state, o, arg);
        return 0;
    case 'm':
        o->memory_limit_bytes = parse_size(state, "memory-limit", arg);
        return 0;
    case OPTION_MAX_MEMORY:
        o->max_memory_bytes = parse_size(state, "max-memory", arg);
        return 0;
    case 'c':
        if (strcmp(arg, "eager") != 0 && strcmp(arg, "lazy") != 0)
            argp_error(state, "--commit: '%s' is neither eager nor lazy", arg);
        o->eager_commit = strcmp(arg, "eager") == 0;
        return 0;
    case OPTION_HUGE_PAGES:
        if (strcmp(arg, "auto") != 0 && strcmp(arg, "never") != 0)
            argp_error(state, "--huge-pages: '%s' is neither auto nor never", arg);
        o->huge_pages = strcmp(arg, "auto") == 0;
        return 0;
    case 'd':
        if (arg[0] == '\0')
            argp_error(state, "--state-dir: no directory given");
        o->state_dir = arg;
        return 0;
    case OPTION_ON_STOP:
        if (strcmp(arg, "keep") != 0 && strcmp(arg, "drop") != 0)
            argp_error(state, "--on-stop: '%s' is neither keep nor drop", arg);
        o->on_stop = strcmp(arg, "keep") == 0 ? ON_STOP_KEEP : ON_STOP_DROP;
        return 0;
    case OPTION_COLD_START:
        o->cold_start = true;
        return 0;
    case OPTION_CHECK_TAKEOVER:
        o->check_takeover = true;
        return 0;
    case OPTION_SCAVTRACE:
        o->scavtrace = true;
        return 0;
    case 'l':
        if (!log_level_parse(arg, &o->log_level))
            argp_error(state, "--log-level: '%s' is not error, warn, info or debug", arg);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "'%s': no arguments are expected", arg);
        return 0;
    case ARGP_KEY_END:
        if (o->base + o->reserve_bytes > USER_SPACE_END || o->base + o->reserve_bytes < o->base)
            argp_error(state, "base and reserve: the arena would end above the user address space");
        if (!o->has_control_group) /* if there is none of that name, nobody is in it */
            (void)(access_set_control(&o->access, ACCESS_CONTROL_GROUP) == 0);
        return 0;
    default:
        return parse_access(key, arg, state);
    }
}

void options_parse(options *ret, int argc, char **argv)
{
    const struct argp_child children[] = { { .argp = limits_argp() }, { 0 } };
    const struct argp argp = {
        .options = option_table,
        .parser = parse_option,
        .children = children,
        .doc = "Owns one shared-memory heap and serves it to the processes that link libgoalloc."
               "\vSIZE takes K, M, G or T. The daemon stays in the foreground. SIGTERM and SIGINT end it; --on-stop "
               "says what becomes of the heap. SIGUSR1 ends it and leaves the heap to the next one, SIGHUP does "
               "nothing. 'goallocctl drop' drops the heap and ends the daemon.",
    };

    *ret = (options){
        .socket_path = SHM_SOCKET_PATH,
        .reserve_bytes = DEFAULT_RESERVE,
        .base = SHM_BASE_DEFAULT,
        .eager_commit = true,
        .huge_pages = true,
        .log_level = LOG_LEVEL_INFO,
        .filter = PRIVILEGES_FILTER_DEFAULT,
    };
    limits_preset(&ret->limits);
    argp_err_exit_status = 2;
    (void)argp_parse(&argp, argc, argv, 0, NULL, ret);
}
