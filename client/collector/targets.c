/*
 * targets: finds the processes that may hold pointers into the heap. See targets.h.
 *
 * Called by stop.c and world.c. It reads the session table (spans region, which the daemon alone writes) and /proc; it
 * stops nobody. Data: one thread's at a time: the first reader's before the pause, the tracer's until all have stopped.
 * Then nobody's to change, but for the registers of a thread, which the tracer notes, and the marks of a process (gone,
 * outside), which are its looker's. `at` and `nlooked` are written by who looks and read by who waits for that, and
 * `over` the other way round: these are atomic.
 *
 * Who has the heap mapped without a session: a child that was forked from a client and has not called the library
 * since, and children of such a child. They have copies of their parent's pointers. There is no list of them, so all
 * processes are looked through once (targets_search, 40 us each); afterwards only those that have begun since, by their
 * numbers, which the kernel gives in a row: the last one stands in /proc/loadavg (targets_catch_up). When all who have
 * the heap mapped are traced, their children are traced from their first instruction on. So this holds:
 *
 *   A process P that has the heap mapped, is not traced, and lives when a catch-up ends, was forked by one that was not
 *   traced, so before that one was found, or by one that no search has seen. By induction the first of these was there
 *   when the search began and was seen by it, or its number is above last_pid and the catch-up has looked at it. The
 *   catch-up ends when no number was given from its last look to its end.
 *
 * One gap is left: a number is given some microseconds before its process can be seen, and a process that was being
 * forked when its parent was seized is not traced. So when all are stopped, and with that all forks done, the numbers
 * that were given since the search, and a few before it, are looked at once more, unless they are known to be somebody
 * else's (targets_recheck).
 *
 * The daemon has the heap mapped too, and so have its helpers. They keep no pointers into it: who has the spans mapped
 * to write, which no client can, is none of ours.
 *
 * A process that this one may not look into counts as somebody else's if it is older than the heap or runs as a user
 * that no client runs as: a child with another user's rights has asked for a process with privileges, which could not
 * be traced either.
 */
#include "client/collector/targets.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/collector/grow.h"

#define ENDS_SOON_TRIES 40u
#define ENDS_SOON_US 5000u
#define IN_FLIGHT 64       /* numbers that were given just before a search, and whose processes it may not see yet */
#define CATCH_UP_MAX 20000 /* numbers; above that all processes are looked through again */

static uint64_t file_at(const maps *m, const void *p, maps_file *ret)
{
    const maps_entry *entry = maps_at(m, (uint64_t)(uintptr_t)p);

    if (p == NULL || entry == NULL || entry->file.inode == 0)
        return 0;
    *ret = entry->file;
    return 1;
}

static uint64_t ticks_of_ms(uint64_t ms)
{
    return ms * (uint64_t)sysconf(_SC_CLK_TCK) / 1000;
}

int targets_init(targets *t, const shm_map *map)
{
    int r;

    *t = (targets){ .map = map, .self = getpid(), .last_pid = -1, .pid_max = 4194304 };
    r = maps_read(&t->scratch, t->self);
    if (r < 0)
        return r;
    if (!file_at(&t->scratch, map->arena, &t->files[TARGETS_ARENA]) ||
        !file_at(&t->scratch, map->header, &t->files[TARGETS_SPANS]) ||
        !file_at(&t->scratch, map->bitmap, &t->files[TARGETS_BITMAP]))
        return -EINVAL;
    if (proc_read(&t->text, 0, "sys/kernel/pid_max") == 0)
        t->pid_max = strtoll(t->text.text, NULL, 10);
    if (t->pid_max <= 0 || t->pid_max > INT32_MAX)
        return -EINVAL;
    t->heap_began = ticks_of_ms(map->header->created_ms);
    t->sessions = calloc(SHM_SESSIONS_MAX, sizeof(*t->sessions));
    t->groups = calloc(SHM_GROUPS_MAX, sizeof(*t->groups));
    t->others = calloc((size_t)t->pid_max / 8 + 1, 1);
    return t->sessions == NULL || t->groups == NULL || t->others == NULL ? -ENOMEM : 0;
}

void targets_deinit(targets *t)
{
    free(t->sessions);
    free(t->groups);
    free(t->processes);
    free(t->threads);
    free(t->by_tid);
    free(t->others);
    proc_text_free(&t->text);
    proc_list_free(&t->list);
    maps_free(&t->scratch);
    *t = (targets){ 0 };
}

int64_t targets_add_process(targets *t, pid_t pid, uint32_t session, uint64_t started)
{
    target_process *processes = grow(t->processes, &t->processes_room, t->nprocesses + 1, 64, sizeof(*processes));

    if (processes == NULL)
        return -ENOMEM;
    t->processes = processes;
    t->processes[t->nprocesses] =
        (target_process){ .pid = pid, .session = session, .started = started, .last_thread = TARGET_NO_THREAD };
    return t->nprocesses++;
}

target_process *targets_process(targets *t, pid_t pid)
{
    for (uint32_t i = 0; i < t->nprocesses; i++) {
        if (t->processes[i].pid == pid && !t->processes[i].gone)
            return &t->processes[i];
    }
    return NULL;
}

static void hash_put(targets *t, uint32_t index)
{
    uint32_t mask = t->by_tid_room - 1;
    uint32_t at = (uint32_t)t->threads[index].tid * 2654435761u & mask;

    while (t->by_tid[at] != 0)
        at = (at + 1) & mask;
    t->by_tid[at] = index + 1;
}

static int make_room_for_threads(targets *t)
{
    uint32_t room = t->threads_room * 2 + 512, slots = 2048;
    target_thread *more = realloc(t->threads, room * sizeof(*more));
    uint32_t *by_tid;

    if (more == NULL)
        return -ENOMEM;
    t->threads = more;
    while (slots < 2 * room)
        slots *= 2;
    by_tid = calloc(slots, sizeof(*by_tid));
    if (by_tid == NULL)
        return -ENOMEM; /* threads_room is as it was: the next one comes here again */
    free(t->by_tid);
    t->by_tid = by_tid;
    t->by_tid_room = slots;
    t->threads_room = room;
    return 0;
}

int64_t targets_add_thread(targets *t, pid_t tid, uint32_t process)
{
    if (t->nthreads == t->threads_room) {
        int r = make_room_for_threads(t);

        if (r < 0)
            return r;
        for (uint32_t i = 0; i < t->nthreads; i++)
            hash_put(t, i);
    }
    t->threads[t->nthreads] = (target_thread){
        .tid = tid, .process = process, .state = TARGET_RUNS, .next = t->processes[process].last_thread
    };
    t->processes[process].last_thread = t->nthreads;
    hash_put(t, t->nthreads);
    return t->nthreads++;
}

/* The living one of that number: numbers are used again. */
target_thread *targets_thread(targets *t, pid_t tid)
{
    uint32_t mask = t->by_tid_room - 1;

    if (t->by_tid_room == 0)
        return NULL;
    for (uint32_t at = (uint32_t)tid * 2654435761u & mask; t->by_tid[at] != 0; at = (at + 1) & mask) {
        target_thread *thread = &t->threads[t->by_tid[at] - 1];

        if (thread->tid == tid && thread->state != TARGET_GONE)
            return thread;
    }
    return NULL;
}

int targets_no_permission(world_trouble *ret, pid_t pid)
{
    int64_t tracer = proc_status(pid, "TracerPid");
    proc_text text = { 0 };
    int64_t scope = -1;
    int r;

    if (tracer > 0) {
        int named = proc_read(&text, (pid_t)tracer, "comm");

        r = trouble_is(ret, -EPERM, pid, "process %d is traced by process %d (%.*s)", pid, (int)tracer,
                       named < 0 || text.bytes == 0 ? 1 : (int)text.bytes - 1, named < 0 ? "?" : text.text);
        proc_text_free(&text);
        return r;
    }
    if (proc_read(&text, 0, "sys/kernel/yama/ptrace_scope") == 0)
        scope = strtoll(text.text, NULL, 10);
    proc_text_free(&text);
    if (proc_read(&text, pid, "maps") == 0) { /* ptrace's permission is there, the file's is not */
        proc_text_free(&text);
        return trouble_is(ret, -EPERM, pid,
                          "the files of /proc/%d can't be read: that takes root, or CAP_DAC_READ_SEARCH beside "
                          "CAP_SYS_PTRACE",
                          pid);
    }
    proc_text_free(&text);
    if (scope > 0)
        return trouble_is(ret, -EPERM, pid,
                          "process %d may not be traced: that takes root or CAP_SYS_PTRACE (Yama's "
                          "kernel.yama.ptrace_scope is %d)",
                          pid, (int)scope);
    return trouble_is(ret, -EPERM, pid,
                      "process %d may not be traced: that takes root or CAP_SYS_PTRACE (it runs as "
                      "user %d, this one as user %d)",
                      pid, (int)proc_status(pid, "Uid"), (int)geteuid());
}

static targets_session session_now(const targets *t, uint32_t i)
{
    const shm_session *shm = &t->map->sessions[i];

    /* The state first: an entry that is opened between the reads has another epoch. */
    targets_session now = { .state = u32_load_acquire(&shm->state) };

    now.pid = shm->pid;
    now.epoch = u32_load_acquire(&shm->epoch);
    if (now.state == SHM_SESSION_FREE)
        now.pid = 0;
    return now;
}

static uint32_t nsessions_now(const targets *t)
{
    uint32_t n = u32_load_acquire(&t->map->header->nsession_entries);

    return n < SHM_SESSIONS_MAX ? n : SHM_SESSIONS_MAX;
}

static uint32_t ngroups_now(const targets *t)
{
    uint32_t n = u32_load_acquire(&t->map->header->ngroup_entries);

    return n < SHM_GROUPS_MAX ? n : SHM_GROUPS_MAX;
}

static uint64_t group_now(const targets *t, uint32_t i)
{
    return u64_load_acquire(&t->map->groups[i].word);
}

/*
 * A group ends after its sessions, or after a forked child that has none, so without a change of theirs. What it has
 * adopted the daemon frees then, one after the other: the adoption first, which leaves the object nobody's for a
 * moment.
 */
static int groups_are_same(const targets *t, world_trouble *ret)
{
    uint32_t n = ngroups_now(t);

    for (uint32_t i = 0; i < n; i++) {
        if (group_now(t, i) != t->groups[i])
            return trouble_is(ret, -EAGAIN, 0, "a group of sessions began or ended meanwhile");
    }
    return 0;
}

static int copy_groups(targets *t, world_trouble *ret)
{
    t->ngroups = ngroups_now(t);
    for (uint32_t i = 0; i < t->ngroups; i++) {
        t->groups[i] = group_now(t, i);
        if (group_unpack(t->groups[i]).state == SHM_GROUP_ENDING)
            return trouble_is(ret, -EAGAIN, 0, "a group of sessions is ending");
    }
    return 0;
}

int targets_sessions_are_same(const targets *t, world_trouble *ret)
{
    uint32_t n = nsessions_now(t);

    for (uint32_t i = 0; i < n; i++) {
        targets_session now = session_now(t, i);
        const targets_session *then = &t->sessions[i];

        if (now.epoch != then->epoch || now.state != then->state || now.pid != then->pid)
            return trouble_is(ret, -EAGAIN, (pid_t)now.pid, "a session of process %d %s meanwhile",
                              (int)(now.pid != 0 ? now.pid : then->pid),
                              now.epoch != then->epoch ? "began" : "ended or lost its daemon");
    }
    return groups_are_same(t, ret);
}

/* A session whose process is not there: the daemon notices soon that it has ended, or it can't be seen from here. */
static int await_end(targets *t, uint32_t i, world_trouble *ret)
{
    targets_session was = t->sessions[i];

    for (uint32_t tries = 0; tries < ENDS_SOON_TRIES && was.state == SHM_SESSION_OPEN; tries++) {
        targets_session now = session_now(t, i);

        if (now.epoch != was.epoch || now.state != was.state)
            return trouble_is(ret, -EAGAIN, (pid_t)was.pid, "process %u has just ended", was.pid);
        (void)usleep(ENDS_SOON_US);
    }
    if (was.state != SHM_SESSION_OPEN)
        return trouble_is(ret, -EAGAIN, (pid_t)was.pid, "process %u has ended, and its session not yet", was.pid);
    return trouble_is(ret, -ESRCH, (pid_t)was.pid,
                      "process %u, which has a session, is not visible here (another pid namespace?)", was.pid);
}

static void note_uid(targets *t, int64_t uid)
{
    for (uint32_t i = 0; i < t->nuids && i < sizeof(t->uids) / sizeof(t->uids[0]); i++) {
        if (t->uids[i] == (uint64_t)uid)
            return;
    }
    if (t->nuids < sizeof(t->uids) / sizeof(t->uids[0]))
        t->uids[t->nuids] = (uint64_t)uid;
    if (t->nuids <= sizeof(t->uids) / sizeof(t->uids[0]))
        t->nuids++;
}

static bool may_be_a_clients(const targets *t, pid_t pid)
{
    proc_facts facts;
    int64_t uid;

    if (proc_facts_of(pid, &facts) < 0 || (facts.flags & PROC_KERNEL_THREAD) != 0 ||
        (facts.state == 'Z' && proc_nthreads(pid) <= 1) || facts.started < t->heap_began)
        return false;
    uid = proc_status(pid, "Uid");
    if (uid < 0)
        return false;
    if (t->nuids > sizeof(t->uids) / sizeof(t->uids[0]))
        return true;
    for (uint32_t i = 0; i < t->nuids; i++) {
        if (t->uids[i] == (uint64_t)uid)
            return true;
    }
    return false;
}

static int add_session_process(targets *t, uint32_t i, world_trouble *ret)
{
    targets_session *session = &t->sessions[i];
    proc_facts facts;

    if (targets_go_on(t, (pid_t)session->pid, ret) < 0)
        return -ETIMEDOUT;
    if (session->pid == 0)
        return trouble_is(ret, -ESRCH, 0, "a session's process is not visible from the daemon");
    if (proc_facts_of((pid_t)session->pid, &facts) < 0)
        return await_end(t, i, ret);
    if ((facts.state == 'Z' || facts.state == 'X') && proc_nthreads((pid_t)session->pid) <= 1)
        return await_end(t, i, ret);
    if (t->map->sessions[i].opened_ms != 0 && facts.started > ticks_of_ms(t->map->sessions[i].opened_ms) + 1)
        return trouble_is(ret, -EAGAIN, (pid_t)session->pid, "the number of process %u was used again", session->pid);
    if (maps_has_file(&t->text, (pid_t)session->pid, t->files[TARGETS_ARENA]) == -EACCES)
        return targets_no_permission(ret, (pid_t)session->pid);
    note_uid(t, proc_status((pid_t)session->pid, "Uid"));
    if (targets_process(t, (pid_t)session->pid) == NULL &&
        targets_add_process(t, (pid_t)session->pid, i, facts.started) < 0)
        return trouble_is(ret, -ENOMEM, 0, "no memory");
    return 0;
}

int targets_of_sessions(targets *t, world_trouble *ret)
{
    int r = 0;

    if (u32_load_acquire(&t->map->header->dropped) == SHM_DROPPED)
        return trouble_is(ret, -ESTALE, 0, "the heap was dropped");
    t->nsessions = nsessions_now(t);
    for (uint32_t i = 0; i < t->nsessions; i++)
        t->sessions[i] = session_now(t, i);
    r = copy_groups(t, ret);
    for (uint32_t i = 0; i < t->nsessions && r == 0; i++) {
        const targets_session *session = &t->sessions[i];

        if (session->state == SHM_SESSION_ENDING)
            r = trouble_is(ret, -EAGAIN, (pid_t)session->pid, "the session of process %u is ending", session->pid);
        else if ((session->state == SHM_SESSION_OPEN || session->state == SHM_SESSION_LOST) &&
                 session->pid != (uint32_t)t->self)
            r = add_session_process(t, i, ret);
    }
    return r;
}

int targets_go_on(targets *t, pid_t pid, world_trouble *ret)
{
    atomic_store(&t->at, pid);
    (void)atomic_fetch_add(&t->nlooked, 1);
    return atomic_load(&t->over) ? trouble_is(ret, -ETIMEDOUT, pid, "nobody waits for it any more") : 0;
}

/* True if it is the daemon, or a helper of its: no client can write spans. */
static bool writes_spans(targets *t, pid_t pid)
{
    if (maps_read(&t->scratch, pid) < 0)
        return false;
    for (uint32_t i = 0; i < t->scratch.n; i++) {
        const maps_entry *entry = &t->scratch.entries[i];

        if (entry->writable && maps_same_file(entry->file, t->files[TARGETS_SPANS]))
            return true;
    }
    return false;
}

/*
 * Of a process whose first thread has ended, /proc/PID/maps is empty while its others run. As maps_has_file(); -ESRCH:
 * none of them has memory any more.
 */
static int has_by_other_threads(targets *t, pid_t pid)
{
    proc_list threads = { 0 };
    int r = proc_list_read(&threads, pid, "task");
    size_t n = r == 0 ? threads.n : 0;

    r = r == -ENOMEM ? r : -ESRCH;
    for (size_t i = 0; i < n; i++) {
        int has = threads.at[i] == pid ? -ESRCH : maps_has_file(&t->text, threads.at[i], t->files[TARGETS_ARENA]);

        if (has == -ENOENT || has == -ESRCH || (has == 0 && t->text.bytes == 0))
            continue;
        r = has;
        break;
    }
    proc_list_free(&threads);
    return r;
}

/* In the pause. */
static int too_many(world_trouble *ret)
{
    return trouble_is(ret, -ETIMEDOUT, 0, "processes begin, or have mappings, faster than they can be looked at");
}

/* Look at a process or thread by its number. *ret_found is raised if there is something new. */
static int look_at(targets *t, pid_t number, uint32_t *ret_found, world_trouble *ret)
{
    proc_facts facts;
    int64_t pid;
    int r;

    if (number == t->self || targets_thread(t, number) != NULL)
        return 0;
    if (targets_go_on(t, number, ret) < 0)
        return -ETIMEDOUT;
    t->text.deadline_ns = t->scratch.text.deadline_ns = t->deadline_ns;
    if (t->deadline_ns != 0 && proc_now_ns() > t->deadline_ns)
        return too_many(ret);
    r = maps_has_file(&t->text, number, t->files[TARGETS_ARENA]);
    if (r == 0 && t->text.bytes == 0 && proc_nthreads(number) > 1 && proc_status(number, "Tgid") == number)
        r = has_by_other_threads(t, number);
    if (r == -ETIMEDOUT)
        return too_many(ret);
    if (r == -ENOMEM)
        return trouble_is(ret, r, 0, "no memory");
    if ((r == -EACCES || r == -EPERM) && may_be_a_clients(t, number))
        return targets_no_permission(ret, number);
    if (r != -ENOENT && r != -ESRCH && r <= 0 && number < t->pid_max)
        t->others[number / 8] |= (unsigned char)(1u << number % 8);
    if (r <= 0)
        return 0;
    pid = proc_status(number, "Tgid");
    if (pid <= 0 || pid == t->self || proc_facts_of((pid_t)pid, &facts) < 0)
        return 0;
    if (targets_process(t, (pid_t)pid) != NULL) {
        if (number != pid) /* a thread that nobody has told of */
            (*ret_found)++;
        return 0;
    }
    if (writes_spans(t, (pid_t)pid))
        return 0;
    if (t->deadline_ns != 0 && proc_now_ns() > t->deadline_ns) /* then it may not have seen all */
        return too_many(ret);
    (*ret_found)++;
    return targets_add_process(t, (pid_t)pid, TARGET_NO_SESSION, facts.started) < 0
               ? trouble_is(ret, -ENOMEM, 0, "no memory")
               : 0;
}

int targets_search(targets *t, uint32_t *ret_found, world_trouble *ret)
{
    int r;

    t->last_pid = proc_last_pid();
    if (t->last_pid < 0)
        return trouble_is(ret, -EPERM, 0, "/proc/loadavg can't be read");
    t->first_pid = t->last_pid >= IN_FLIGHT ? t->last_pid - IN_FLIGHT : 0;
    r = proc_list_read(&t->list, 0, "");
    if (r < 0)
        return trouble_is(ret, r, 0, "/proc can't be read");
    for (size_t i = 0; i < t->list.n && r == 0; i++)
        r = look_at(t, t->list.at[i], ret_found, ret);
    return r;
}

int targets_catch_up(targets *t, uint64_t deadline_ns, void (*each)(void *arg), void *arg, uint32_t *ret_found,
                     world_trouble *ret)
{
    int r = 0;

    *ret_found = 0;
    while (r == 0) {
        int64_t last = proc_last_pid();
        int64_t n = last >= t->last_pid ? last - t->last_pid : last + t->pid_max - t->last_pid;

        if (n == 0)
            return 0;
        if (last < 0 || n > CATCH_UP_MAX) {
            r = targets_search(t, ret_found, ret);
            continue;
        }
        for (int64_t i = 1; i <= n && r == 0; i++) {
            r = look_at(t, (pid_t)((t->last_pid + i) % t->pid_max), ret_found, ret);
            if (each != NULL)
                each(arg);
            if (r == 0 && proc_now_ns() > deadline_ns)
                r = trouble_is(ret, -ETIMEDOUT, 0, "processes begin faster than they can be looked at");
        }
        t->last_pid = last;
    }
    return r;
}

int targets_recheck(targets *t, uint32_t *ret_found, world_trouble *ret)
{
    int64_t last = proc_last_pid();
    int r = 0;

    *ret_found = 0;
    if (last < t->first_pid)
        last += t->pid_max;
    if (last - t->first_pid > CATCH_UP_MAX)
        return trouble_is(ret, -EAGAIN, 0, "very many processes have begun meanwhile");
    for (int64_t i = t->first_pid + 1; i <= last && r == 0; i++) {
        pid_t number = (pid_t)(i % t->pid_max);

        if (number == 0 || (t->others[number / 8] & 1u << number % 8) != 0 || targets_thread(t, number) != NULL)
            continue;
        if (kill(number, 0) == 0 || errno == EPERM)
            r = look_at(t, number, ret_found, ret);
    }
    return r;
}
