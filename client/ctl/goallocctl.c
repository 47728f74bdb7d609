/*
 * goallocctl: asks a running goallocd. It speaks the protocol without attaching, so it is no session and maps nothing;
 * but for leaks, which is a cycle of the collector (client/collector/), and save, which maps the heap to read it.
 *
 * One command, answered as a table or with --json as one object (of top and watch one a line), which
 * goallocctl.schema.json describes. A command is a row of the table below: what it asks for, and what shows the reply
 * (commands.h); or a function that does all by itself (profile, keeper, image, save, leaks, top, watch, help,
 * completion). One driver, run(), asks and shows, until there is nothing more to ask for. The same table is what the
 * command line is parsed by (cmdline.c), and what help and completion print.
 *
 * The exit status is one of ctl.h. A failure is a sentence on stderr, and with --json an object on stdout as well.
 */
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/cmdline.h"
#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "proto/wire.h"
#include "shm/limits.h"

/* To release what is free, once the daemon has shown that it answers. */
#define SCAVENGE_TIMEOUT_MS 60000

/* --- the tables --- */

/* What a row asks, by a message with that body or an empty one, and the kind of reply. */
#define ASKS_BY(OP, op, body, KIND) .request = WIRE_REQUEST(OP, op, body), .kind = GOALLOCD__REPLY__RESULT_##KIND
#define ASKS(OP, op, Type, KIND)    ASKS_BY(OP, op, (&(Goallocd__##Type)GOALLOCD__##OP##__INIT), KIND)

#define A_SESSION "the number of a session is wanted, as 'goallocctl sessions' shows it"

static command command_table[] = {
    { .name = "stats", .summary = "objects, memory, sessions and leases of the heap, and what groups own",
      .help = "live, unused, free and released bytes and metadata make the total, exactly. With --classes, and always "
              "as JSON, the size classes are there too.",
      .set = stats_set, ASKS(STATS, stats, Stats, STATS), .text = stats_text, .json = stats_json },
    { .name = "top", .summary = "sessions or groups, with what they hold and how fast they ask for more",
      .help = "For each session that has not ended: the memory that it holds (HELD), what lives in it (LIVE), the part "
              "of it in which nothing lives (IDLE: what trim can give back), the requests for memory in a second "
              "(REF/S: an allocation that finds memory at hand sends none) and the time since it attached (AGE). On a "
              "terminal it takes the whole screen: q ends it, g changes between sessions and groups, h l i f a n sort "
              "by a column, < and > by the one before and behind, R turns the order, arrows and page keys scroll. In a "
              "pipe, or with --once, tables are printed; with --json objects, one a line. A daemon that goes away is "
              "waited for. On a large heap a look takes longer than the interval, since the daemon counts all objects "
              "for it and spends a tenth of a CPU on that at most.",
      .set = top_set, .own = top_run },
    { .name = "watch", .words = "[KEY...]", .words_max = COMMAND_WORDS_MAX, .values = "KEY",
      .summary = "numbers of stats, or of each session or group, again and again",
      .help = "KEY is the name of a number in 'goallocctl --json stats'; a wrong one is answered with the list. A line "
              "is printed every interval, or with --changes when a value differs from the line before. A daemon that "
              "goes away is waited for, and said so on stderr.\n"
              "With --csv it is a table for other programs: first the names, then a row every interval with the time "
              "(ISO 8601, UTC); without KEY what grows and who makes it grow. With --sessions a row for each session "
              "that has not ended, with --group for each group, by the names that 'goallocctl --json sessions' has. "
              "Such a table goes on when another daemon serves the same heap, whose counts and uptime_ms begin anew, "
              "and ends with status 1 when one serves another heap. Text that begins as a formula has an apostrophe "
              "before it.",
      .set = watch_set, .wanted = "watch what? The names of numbers in 'goallocctl --json stats', such as live_bytes",
      .own = watch_run },
    { .name = "sessions", .summary = "attached processes, and what those that have ended have left",
      .help = "Open sessions come first, then the last ones that have ended, with the objects that they left behind "
              "and that still live (left). A session is open, lost (its connection is gone but its process lives), "
              "ending, detached or died; 're': it owns what it allocates, 'ro': it is read-only. Labels and groups "
              "are cut to the terminal's width; --json has all of it.",
      .set = sessions_set, ASKS_BY(SESSION_LIST, session_list, &sessions_first, SESSION_LIST), .next = sessions_next,
      .text = sessions_text, .json = sessions_json, .gathers = true },
    { .name = "leases", .words = "[SESSION]", .words_max = 1,
      .summary = "which spans and size classes are leased, and by whom",
      .help = "By session and size class, the largest first; with --spans one by one, by address. SESSION: only those "
              "of that session.",
      .set = leases_set, .wanted = A_SESSION, ASKS_BY(LEASES, leases, &leases_first, LEASES), .next = leases_next,
      .text = leases_text, .json = leases_json, .gathers = true, .steps = true },
    { .name = "limits", .summary = "what clients may take at most, by user and session, and what they have taken",
      .help = "Who may not control the daemon sees of users, sessions and groups what is its own user's. 'refused' "
              "counts what a limit has refused since the daemon was started.",
      ASKS(LIMITS, limits, Limits, LIMITS), .heading = limits_heading, .next = limits_next, .text = limits_text,
      .json = limits_json },
    { .name = "roots", .summary = "named objects: size, type tag, who has set them, and whether they live",
      ASKS(ROOT_LIST, root_list, RootList, ROOT_LIST), .next = roots_next, .text = roots_text, .json = roots_json },
    { .name = "classes", .summary = "objects, allocs and frees, and unused memory by size class",
      ASKS(STATS, stats, Stats, STATS), .text = classes_text, .json = classes_json },
    { .name = "heap-map", .summary = "a picture of the arena: what is in use, free, released",
      .help = "A line is 64 MiB of the arena and a cell 1 MiB; on large heaps both are larger. With --svg it is drawn, "
              "with smaller cells if the heap is small, and coloured by the sizes of objects; where the mouse is, a "
              "cell says its addresses and what is in it. A file that is there is replaced when the picture is whole. "
              "As JSON, too, cells have their size classes. 'In use' are also pages in no span, which the daemon "
              "holds ready. A daemon of an older version does not tell size classes.",
      .set = heap_map_set, .wanted = "heap-map: --svg draws, so --json can't be; a picture has 1 to 40 rows",
      ASKS_BY(HEAP_MAP, heap_map, &heap_map_first, HEAP_MAP), .next = heap_map_next, .text = heap_map_text,
      .json = heap_map_json, .gathers = true, .steps = true },
    { .name = "profile", .words = "[on|off|reset|status|FILE]", .words_max = 1, .values = "on off reset status",
      .summary = "which code has allocated what lives, also in processes that are dead",
      .help = "on has sessions sample their allocations from then on, off ends that, and reset forgets what was "
              "recorded; of all sessions and those that attach, or with --session or --group of these. A sample stands "
              "for so many bytes that were allocated, on average. FILE becomes a profile for pprof (go tool pprof "
              "-http=: FILE), with live and allocated objects and bytes, by session, group and label; -: to stdout. "
              "--svg draws a flame graph, and --top, or no argument, prints a table: what a function has allocated by "
              "itself, and with all that it calls. --session, --group and --label choose whose allocations are shown. "
              "Names are read from the files of programs and libraries, if they are the same build as those that ran. "
              "What was allocated while nobody sampled is not there. For root, the daemon's user and the control "
              "group; a session's own user may have it sample or not.",
      .set = profile_set,
      .wanted = "profile: one of on, off, reset, status or a FILE; --rate is for on; --type is live, live-objects, "
                "alloc or alloc-objects; on and off are for --session N, --group NAME or all; stdout is for one thing",
      .own = profile_run, .named_group = true },
    { .name = "leaks", .summary = "objects that nobody can reach any more: who has left them; frees them if asked to",
      .help = "All processes that have the heap mapped are stopped for an instant, while their memory and that of the "
              "heap is looked through for pointers; an object to which no chain of pointers leads, from a root or a "
              "process, is nobody's. If nobody is attached nobody is stopped. A process that can't be stopped within "
              "--max-pause, or not be looked into, is named, and nothing is freed. --free frees what is found, in "
              "spans that no session leases; with --all also where sessions allocate, but for those that are within "
              "malloc or free just then. --why ADDRESS shows which words keep an object alive. What counts as a pointer, what "
              "can't be seen, and who may run it: docs/COLLECTOR.md.",
      .set = leaks_set,
      .wanted = "leaks: --why takes the address of an object, as 0xc000002000, and shows; it does not free",
      .own = leaks_run },
    { .name = "scavenge", .summary = "sweep, and give all free pages back to the system",
      .help = "For root, the daemon's user and the control group. It may take 60 s without --timeout, if the daemon "
              "answers a ping.",
      ASKS(SCAVENGE, scavenge, Scavenge, SCAVENGE), .text = scavenge_text, .json = scavenge_json, .patient = true },
    { .name = "trim", .words = "[SESSION]", .words_max = 1,
      .summary = "ask sessions to give back the spans that they hold idle",
      .help = "Without SESSION all are asked and all spans are swept, which is for root, the daemon's user and the "
              "control group. With SESSION that one is asked, and what it offers is taken; its own user may do that, "
              "too. A process that runs gives back the rest when it next needs something of the daemon.",
      .set = trim_set, .wanted = A_SESSION, ASKS_BY(TRIM, trim, &trim_first, _NOT_SET) },
    { .name = "reload", .summary = "have the daemon read its configuration again",
      .help = "What was applied is printed, and on stderr what takes a restart, or is wrong: then nothing has changed. "
              "Exit status 1 in both cases. For root and the daemon's user.",
      ASKS(RELOAD, reload, Reload, RELOAD), .text = reload_text, .json = reload_json, .patient = true,
      .failed = reload_failed },
    { .name = "check", .summary = "have the daemon check its tables",
      .help = "For root, the daemon's user and the control group. Exit status 1 if they differ.",
      ASKS(CHECK, check, Check, CHECK), .text = check_text, .json = check_json,
      .failed = check_failed },
    { .name = "reclaim", .words = "SESSION|GROUP", .words_min = 1, .words_max = 1,
      .summary = "free what an ended session, or all ended sessions of a group, have left; asks first",
      .help = "SESSION is the number of a session that has ended, GROUP the name of a group, or UID:NAME if several "
              "users have one of that name. For root, the daemon's user and the control group.",
      .set = reclaim_set, .wanted = "reclaim what? The number of a session, the name of a group, or UID:NAME",
      ASKS_BY(RECLAIM, reclaim, &reclaim_first, RECLAIM), .next = reclaim_next, .text = reclaim_text,
      .json = reclaim_json, .gathers = true, .asks = true },
    { .name = "disconnect", .words = "SESSION", .words_min = 1, .words_max = 1,
      .summary = "close a session's connection for good; asks first",
      .help = "Its process keeps what it holds until it detaches or ends, and gets no more: calls that need the daemon "
              "fail with ESTALE. To use the heap again it detaches and attaches anew. For root, the daemon's user, the "
              "control group, and the session's own user. The daemon that comes after this one has forgotten it, and "
              "lets the process come back.",
      .set = disconnect_set, .wanted = "disconnect whom? " A_SESSION,
      ASKS_BY(DISCONNECT, disconnect, &disconnect_first, _NOT_SET),
      .question = "Disconnect the session? Its process can't come back to it." },
    { .name = "drop", .summary = "drop the heap of a running daemon, which then ends; asks first",
      .help = "All its objects are gone for all processes, which are told so. For root, the daemon's user and the "
              "control group. With --save, a daemon that has an --image stops as by SIGTERM: it waits for sessions to "
              "end, and saves the heap first.",
      .set = drop_set, ASKS_BY(DROP, drop, &drop_first, _NOT_SET),
      .question = "Drop the heap? All its objects are gone for all processes, and its daemon ends." },
    { .name = "save", .words = "FILE", .words_min = 1, .words_max = 1,
      .wanted = "save into which file?",
      .summary = "save the heap into a file, while its daemon serves it",
      .help = "The file is an image, from which goallocd --load makes a heap with the same objects at the same "
              "addresses. If somebody is attached who can write, all processes that have the heap mapped are stopped "
              "for an instant, as by a debugger, and how long that will be is said before; it takes the right to do "
              "that, as root has it. Requests wait while the heap is copied; the file is written after that. The copy "
              "takes as much memory as the live pages. What is saved is what a kill of all at that instant would "
              "leave. A file that was there is replaced when the new one is on the disk, and stays as it is if this is "
              "ended before, as by Ctrl-C. What is no file, as a device or a link, is refused. For root and the "
              "daemon's user.",
      .own = save_run },
    { .name = "image", .words = "FILE", .words_min = 1, .words_max = 1, .wanted = "image: which file?",
      .summary = "what is in an image of a heap, and whether all of it is whole",
      .help = "It asks no daemon, and reads all of the file. Exit status 1 if it is damaged, or none of this layout: "
              "what is wrong, and where, is said.",
      .own = image_run },
    { .name = "keeper", .summary = "the keeper in a --state-dir, and its heap",
      .help = "It asks no daemon, but the process that keeps the heap for the next one. --end ends a keeper that is "
              "left over, and so drops the heap, if no daemon serves it; it asks first.",
      .set = keeper_set, .wanted = "keeper: --state-dir says where it is", .own = keeper_run },
    { .name = "ping", .summary = "is the daemon there, and which version", ASKS(PING, ping, Ping, PING),
      .text = ping_text, .json = ping_json },
    { .name = "help", .words = "[COMMAND]", .words_max = 1, .values = "COMMAND",
      .summary = "what the commands do; with --json all of it", .own = help_run },
    { .name = "completion", .words = "bash|zsh", .words_min = 1, .words_max = 1, .values = "bash zsh",
      .summary = "print a script that completes command lines",
      .help = "The packages install it. For a shell without them: source <(goallocctl completion bash)",
      .set = completion_set, .wanted = "completion for which shell? bash or zsh", .own = completion_run },
    { .name = NULL },
};

static const option_row option_table[] = {
    { "socket", 's', "PATH", false, "file", NULL,
      "The daemon's socket (default: $GOALLOC_SOCKET, else " SHM_SOCKET_PATH ")" },
    { "json", 'j', NULL, false, NULL, NULL, "Print JSON (goallocctl.schema.json); errors, too" },
    { "timeout", 't', "TIME", false, NULL, NULL,
      "How long the daemon may take to answer: a number and ms, s or min; seconds without a unit (default: 5s)" },
    { "width", 'w', "COLUMNS", false, NULL, NULL,
      "Columns of tables (default: the terminal's, else $COLUMNS; in a pipe lines are as long as labels and names make "
      "them)" },
    { "yes", 'y', NULL, false, NULL, NULL, "Do it without asking: drop, disconnect, reclaim, keeper --end" },
    { "help", 'h', NULL, false, NULL, NULL, "What goallocctl, or a command, does" },
    { "usage", OPTION_USAGE, NULL, false, NULL, NULL, "One line of that" },
    { "version", 'V', NULL, false, NULL, NULL, "Which version this is" },
    { "classes", OPTION_CLASSES, NULL, false, NULL, "stats", "The size classes, too" },
    { "live", 'l', NULL, false, NULL, "sessions", "Only sessions that have not ended" },
    { "group", 'g', "NAME", true, NULL, "sessions top watch profile",
      "A row for each group; with a NAME, which profile wants, the sessions of that group" },
    { "sort", 'S', "KEY", false, "KEY", "sessions top",
      "By held, live, idle, refills, age, spans, requests, left (the largest first), session, pid, uid, state, group "
      "or label (default of top: held)" },
    { "reverse", 'r', NULL, false, NULL, "sessions top", "The other way round" },
    { "rows", 'n', "N", false, NULL, "sessions top leases heap-map profile leaks",
      "At most so many rows (default: all; leases --spans: 1000; heap-map: 40; profile: 30, as JSON 1000; leaks: of "
      "objects, as JSON 1000)" },
    { "svg", OPTION_SVG, "FILE", false, "file", "heap-map profile", "Draw it into that file, as SVG; -: to stdout" },
    { "session", OPTION_SESSION, "N", false, NULL, "profile", "Only that session" },
    { "label", OPTION_LABEL, "LABEL", false, NULL, "profile", "Only sessions with that label" },
    { "all", OPTION_ALL, NULL, false, NULL, "profile leaks",
      "profile: all sessions, and those that attach (default); leaks --free: in spans that are leased, too" },
    { "free", OPTION_FREE, NULL, false, NULL, "leaks", "Free what nobody can reach" },
    { "why", OPTION_WHY, "ADDRESS", false, NULL, "leaks", "Which words keep the object at that address alive" },
    { "max-pause", OPTION_MAX_PAUSE, "MS", false, NULL, "leaks save",
      "The longest that processes may be stopped, in ms (default: leaks 100, save 8000)" },
    { "offsets", OPTION_OFFSETS, NULL, false, NULL, "leaks", "Words that goalloc_offset() has made count as pointers" },
    { "trust-kernel", OPTION_TRUST_KERNEL, NULL, false, NULL, "leaks",
      "Go on if a process has an io_uring or an AIO context, in which pointers may be" },
    { "rate", OPTION_RATE, "SIZE", false, NULL, "profile",
      "on: a sample in so many bytes, on average: 512K, 2M (default: 512K)" },
    { "type", OPTION_TYPE, "TYPE", false, "live live-objects alloc alloc-objects", "profile",
      "What --svg and --top show: bytes or objects that live, or all that were allocated (default: live)" },
    { "top", OPTION_TOP, NULL, false, NULL, "profile", "Print the table, too" },
    { "spans", OPTION_SPANS, NULL, false, NULL, "leases", "One by one" },
    { "interval", 'i', "TIME", false, NULL, "top watch", "The time from one look to the next (default: 1s)" },
    { "once", '1', NULL, false, NULL, "top watch", "Print one table, or one line, and end" },
    { "count", 'c', "N", false, NULL, "top watch", "End after so many looks" },
    { "csv", OPTION_CSV, NULL, false, NULL, "watch", "Print CSV: a line of names, and rows that begin with the time" },
    { "sessions", OPTION_SESSIONS, NULL, false, NULL, "watch", "With --csv: a row for each session" },
    { "changes", OPTION_CHANGES, NULL, false, NULL, "watch", "Print a line only when a value has changed" },
    { "save", OPTION_SAVE, NULL, false, NULL, "drop", "Save the image first, as a stop does" },
    { "level", OPTION_LEVEL, "N", false, NULL, "save",
      "Compress so hard, from 1 to 19; 0: not at all (default: 1)" },
    { "state-dir", 'd', "DIR", false, "dir", "keeper", "The directory that goallocd was given by --state-dir" },
    { "end", OPTION_END, NULL, false, NULL, "keeper", "End it, and so drop the heap, if no daemon serves it" },
    { .name = NULL },
};

/* --- asking --- */

/*
 * To release a large heap takes its time, which is no reason to wait long for a daemon that does not answer at all: so
 * it is pinged first. False: it does not answer.
 */
static bool allow_more_time(arguments *args)
{
    Goallocd__Ping body = GOALLOCD__PING__INIT;
    Goallocd__Request request = WIRE_REQUEST(PING, ping, &body);

    if (args->timeout_given)
        return true;
    if (ask(&args->who, &request, GOALLOCD__REPLY__RESULT_PING) == NULL)
        return false;
    args->who.timeout_ms = SCAVENGE_TIMEOUT_MS;
    args->who.until = deadline_in(args->who.timeout_ms);
    return true;
}

/* Show a reply, or add it to object. False: no memory. */
static bool show(const command *c, json_t *object, const Goallocd__Reply *reply)
{
    if (object != NULL)
        return c->json == NULL || c->json(object, reply);
    if (c->text != NULL)
        c->text(reply);
    return true;
}

/* Ask until nothing is left to be asked, and show it. The exit status. */
static int ask_and_show(command *c, arguments *args, json_t *object)
{
    int status = CTL_OK;
    bool whole = true;

    for (bool more = true, first = true; whole && more; first = false) {
        const Goallocd__Reply *reply = ask(&args->who, &c->request, c->kind);

        if (reply == NULL)
            return ask_failed(&args->who);
        if (first && object == NULL && c->heading != NULL)
            (void)fputs(c->heading, stdout);
        more = c->next != NULL && c->next(&c->request, reply);
        if (c->asks || c->steps)
            args->who.until = deadline_in(args->who.timeout_ms);
        if (!more || !c->gathers)
            whole = show(c, object, reply);
        if (c->failed != NULL && c->failed(reply))
            status = CTL_FAILED;
    }
    if (!whole)
        return ctl_fail(CTL_E_MEMORY, 0, "out of memory");
    if ((object != NULL && !ctl_json_print(object)) || fflush(stdout) != 0)
        return ctl_fail(CTL_E_OUTPUT, 0, "stdout: %s", strerror(errno));
    return status;
}

/* The exit status. */
static int run(command *c, arguments *args)
{
    json_t *object;
    int status;

    if (c->question != NULL) {
        if (!ctl_confirm(c->question, args->yes))
            return CTL_FAILED;
        args->who.until = deadline_in(args->who.timeout_ms); /* the answer took its time */
    }
    if (c->patient && !allow_more_time(args))
        return ask_failed(&args->who);
    object = args->json ? json_object() : NULL;
    if (args->json && object == NULL)
        return ctl_fail(CTL_E_MEMORY, 0, "out of memory");
    status = ask_and_show(c, args, object);
    json_decref(object);
    return status;
}

int main(int argc, char **argv)
{
    static arguments args;
    const command *c;

    (void)setlocale(LC_CTYPE, "");
    commands = command_table;
    option_rows = option_table;
    c = cmdline_parse(argc, argv, &args);
    return c->own != NULL ? c->own(&args) : run(&commands[c - commands], &args);
}
