/*
 * looker: looks at one process: its memory, and what the kernel holds for it. See looker.h.
 *
 * Called by world.c, by several threads, each with a looker of its own. What they share: targets, which nobody changes
 * meanwhile but for the mark that a process is gone (of the looker that looks at it), and the shared files, which have
 * a lock.
 */
#include "client/collector/looker.h"

#include <errno.h>
#include <string.h>

/* Before Linux 6.7 each page that is mapped takes time, also if it is empty. */
#define ESTIMATE_MAX_NS UINT64_C(10000000000)

int looker_init(looker *l, uint64_t base, uint64_t arena_bytes, bool offsets)
{
    int r;

    *l = (looker){ 0 };
    r = pages_init(&l->pages);
    return r == 0 ? words_init(&l->words, base, arena_bytes, offsets) : r;
}

void looker_deinit(looker *l)
{
    words_deinit(&l->words);
    pages_deinit(&l->pages);
    kernelheld_free(&l->kernelheld);
    ranges_free(&l->ranges);
}

/* A thread of the process that has its memory: the first may have ended before the others. */
static pid_t living_thread(const targets *t, const target_process *process)
{
    proc_list list = { 0 };
    proc_facts facts;
    pid_t ret = process->pid;

    for (uint32_t i = process->last_thread; i != TARGET_NO_THREAD; i = t->threads[i].next) {
        if (t->threads[i].state == TARGET_STOPPED)
            return t->threads[i].tid;
    }
    if (proc_facts_of(process->pid, &facts) == 0 && facts.state == 'Z' &&
        proc_list_read(&list, process->pid, "task") == 0) {
        for (size_t i = 0; i < list.n && ret == process->pid; i++)
            ret = list.at[i];
    }
    proc_list_free(&list);
    return ret;
}

/* The process may have ended while it was looked at. */
static int ended_or(looker *l, target_process *process, int r)
{
    proc_facts facts;

    if (r == 0 || r == -ENOMEM || r == -EOPNOTSUPP || r == -ETIMEDOUT || r == -ECANCELED)
        return r;
    if (proc_facts_of(process->pid, &facts) < 0 || facts.state == 'X' || facts.started != process->started ||
        (facts.state == 'Z' && proc_nthreads(process->pid) <= 1)) {
        if (process->session != TARGET_NO_SESSION)
            return trouble_is(&l->trouble, -EAGAIN, process->pid, "process %d has just ended", process->pid);
        process->gone = true;
        return 0;
    }
    if (r == -EAGAIN) /* with a sentence of its own */
        return r;
    if (r == -EACCES || r == -EPERM)
        return targets_no_permission(&l->trouble, process->pid);
    if (r == -ESRCH || r == -ENOENT) /* it has no memory any more, and is no zombie yet */
        return trouble_is(&l->trouble, -EAGAIN, process->pid, "process %d is ending", process->pid);
    if (r == -EFAULT)
        return trouble_is(&l->trouble, -EOPNOTSUPP, process->pid, "process %d has memory that can't be read",
                          process->pid);
    return trouble_is(&l->trouble, r, process->pid, "the memory of process %d can't be looked at: %s", process->pid,
                      strerror(-r));
}

int looker_estimate_of(looker *l, shared *s, const targets *t, target_process *process, bool trust_kernel,
                       looker_estimate *ret)
{
    pid_t tid = living_thread(t, process);
    uint64_t nfds = l->kernelheld.nfds, text_bytes = l->kernelheld.text_bytes;
    uint64_t deadline_ns = proc_now_ns() + ESTIMATE_MAX_NS;
    int r = pages_open(&l->pages, tid, deadline_ns);

    if (r == 0)
        r = ranges_choose(&l->ranges, &l->pages, s, t, process, trust_kernel, &l->trouble);
    if (r == 0)
        r = ranges_measure(&l->ranges, &l->pages);
    if (r == -ETIMEDOUT)
        (void)trouble_is(&l->trouble, r, process->pid, "process %d has too much memory mapped to look at all of it",
                         process->pid);
    if (r == 0)
        r = kernelheld_look(&l->kernelheld, NULL, process->pid, tid, trust_kernel, deadline_ns, &l->trouble);
    *ret = (looker_estimate){ .bytes = l->ranges.private_bytes,
                              .nfds = l->kernelheld.nfds - nfds,
                              .text_bytes = l->kernelheld.text_bytes - text_bytes,
                              .nthreads = proc_nthreads(process->pid),
                              .nmappings = l->ranges.maps.n };
    return ended_or(l, process, r);
}

/* What of the library's code was seen on stacks stands in l->words. */
static bool is_outside(const looker *l, const targets *t, const target_process *process)
{
    bool ret = l->ranges.declared.says_text && !l->words.in_text;

    for (uint32_t i = process->last_thread; i != TARGET_NO_THREAD && ret; i = t->threads[i].next) {
        const registers_leads *leads = &t->threads[i].leads;

        ret = t->threads[i].state != TARGET_STOPPED || t->threads[i].tid == t->waiter ||
              !words_point_into_text(&l->words, (const uint64_t[]){ leads->code, leads->link }, 2);
    }
    return ret;
}

int looker_look(looker *l, shared *s, const targets *t, target_process *process, bool trust_kernel,
                uint64_t deadline_ns)
{
    pid_t tid = living_thread(t, process);
    uint64_t began = proc_now_ns(), chosen, looked;
    int r = pages_open(&l->pages, tid, deadline_ns);

    if (r == 0)
        r = ranges_choose(&l->ranges, &l->pages, s, t, process, trust_kernel, &l->trouble);
    chosen = proc_now_ns();
    /* The copy of the word in a forked child without a session says nothing of that. */
    if (r == 0 && l->ranges.declared.asking && process->session != TARGET_NO_SESSION)
        return trouble_is(&l->trouble, -EAGAIN, process->pid, "process %d is being told of an object", process->pid);
    l->words.text = l->ranges.declared.text;
    l->words.ntext = l->ranges.declared.ntext;
    l->words.in_text = false;
    if (r == 0) {
        r = ranges_look(&l->ranges, &l->pages, &l->words, process->pid);
        if (r == -ETIMEDOUT)
            (void)trouble_is(&l->trouble, r, process->pid, "the memory of process %d took too long", process->pid);
        else if (r == 0 && l->pages.unreadable > 0)
            r = -EFAULT;
    }
    looked = proc_now_ns();
    process->outside = r == 0 && is_outside(l, t, process);
    l->words.ntext = 0;
    if (r == 0)
        r = kernelheld_look(&l->kernelheld, &l->words, process->pid, tid, trust_kernel, deadline_ns, &l->trouble);
    l->maps_ns += chosen - began;
    l->kernel_ns += proc_now_ns() - looked;
    if (r == 0 && l->words.full)
        r = trouble_is(&l->trouble, -ENOMEM, 0, "no memory");
    return ended_or(l, process, r);
}
