/*
 * registers: reads what a stopped thread has in its processor. See registers.h.
 *
 * Called by world.c in the thread that traces. Data: none of its own.
 *
 *   x86-64   the general registers (27 words; the system call's number and arguments, fs_base and gs_base among them)
 *            and the whole XSAVE area: x87, SSE, AVX, AVX-512, AMX. Without XSAVE: FXSAVE
 *   arm64    x0 to x30, sp, pc; the thread pointers; SIMD, and SVE and SME where the processor has them
 *
 * They are looked at as aligned words. A set that the kernel or processor does not have is left out.
 */
#include "client/collector/registers.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>

#define SIGNALS_AT_ONCE 16

/* Words of a set of registers. 0: there are none. */
static uint64_t read_set(pid_t tid, unsigned set, uint64_t *buffer, uint64_t room)
{
    struct iovec io = { buffer, room };

    if (ptrace(PTRACE_GETREGSET, tid, (void *)(uintptr_t)set, &io) < 0)
        return 0;
    if (io.iov_len % sizeof(uint64_t) != 0) /* the rest of the last word */
        memset((char *)buffer + io.iov_len, 0, sizeof(uint64_t) - io.iov_len % sizeof(uint64_t));
    return (io.iov_len + sizeof(uint64_t) - 1) / sizeof(uint64_t);
}

#if defined(__x86_64__)
static const unsigned more_sets[] = { NT_X86_XSTATE, NT_PRFPREG };
#define STACK_AT (offsetof(struct user_regs_struct, rsp) / sizeof(uint64_t))
#define TP_AT (offsetof(struct user_regs_struct, fs_base) / sizeof(uint64_t))
#define CODE_AT (offsetof(struct user_regs_struct, rip) / sizeof(uint64_t))
#define MIN_WORDS (sizeof(struct user_regs_struct) / sizeof(uint64_t))
#elif defined(__aarch64__)
#ifndef NT_ARM_SSVE
#define NT_ARM_SSVE 0x40b
#define NT_ARM_ZA 0x40c
#define NT_ARM_ZT 0x40d
#endif
static const unsigned more_sets[] = { NT_ARM_TLS, NT_PRFPREG, NT_ARM_SVE, NT_ARM_SSVE, NT_ARM_ZA, NT_ARM_ZT };
#define LINK_AT 30u
#define STACK_AT 31u
#define CODE_AT 32u
#define MIN_WORDS 33u
#else
#error "registers of this processor are not known here"
#endif

int registers_look(words_found *w, pid_t pid, pid_t tid, uint64_t *buffer, registers_leads *ret)
{
    words_range what = { .pid = pid, .tid = tid, .kind = WORDS_REGISTERS };
    uint64_t n = read_set(tid, NT_PRSTATUS, buffer, REGISTERS_ROOM - sizeof(uint64_t));

    if (n < MIN_WORDS)
        return -ESRCH;
    *ret = (registers_leads){ .stack = buffer[STACK_AT], .code = buffer[CODE_AT] };
#if defined(__x86_64__)
    ret->thread = buffer[TP_AT];
#else
    ret->link = buffer[LINK_AT];
#endif
    words_begin(w, &what);
    words_add(w, buffer, n);
    for (size_t i = 0; i < sizeof(more_sets) / sizeof(more_sets[0]); i++) {
        n = read_set(tid, more_sets[i], buffer, REGISTERS_ROOM - sizeof(uint64_t));
#if defined(__x86_64__)
        if (n > 0) {
            words_add(w, buffer, n);
            break; /* the first has all of the second */
        }
#else
        if (more_sets[i] == NT_ARM_TLS && n > 0)
            ret->thread = buffer[0];
        words_add(w, buffer, n);
#endif
    }
    words_end(w);
    return 0;
}

static void look_at_signal(words_found *w, pid_t pid, pid_t tid, const siginfo_t *info)
{
    words_range what = { .address = (uint64_t)info->si_signo, .pid = pid, .tid = tid, .kind = WORDS_SIGNAL };
    uint64_t value = (uint64_t)(uintptr_t)info->si_value.sival_ptr;

    if (info->si_code == SI_QUEUE || info->si_code == SI_TIMER || info->si_code == SI_MESGQ ||
        info->si_code == SI_ASYNCIO)
        words_put(w, &what, &value, 1);
}

void registers_look_at_signals(words_found *w, pid_t pid, pid_t tid, bool shared, bool stopped_by)
{
    siginfo_t infos[SIGNALS_AT_ONCE];
    struct __ptrace_peeksiginfo_args wanted = { .flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0,
                                                .nr = SIGNALS_AT_ONCE };
    long n;

    do {
        n = ptrace(PTRACE_PEEKSIGINFO, tid, &wanted, infos);
        for (long i = 0; i < n; i++)
            look_at_signal(w, pid, tid, &infos[i]);
        wanted.off += n > 0 ? (uint64_t)n : 0;
    } while (n == SIGNALS_AT_ONCE);
    if (stopped_by && ptrace(PTRACE_GETSIGINFO, tid, NULL, &infos[0]) == 0)
        look_at_signal(w, pid, tid, &infos[0]);
}
