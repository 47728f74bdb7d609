/*
 * Board: see board.h. No stdio and no malloc once workers run: it is used in children of processes with threads.
 */
#include "tests/storm/board.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/storm/pattern.h"

board *the_board;

void board_make(const storm_options *options)
{
    void *p = mmap(NULL, sizeof(*the_board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        perror("storm: no memory for the board");
        exit(2);
    }
    the_board = p;
    the_board->options = *options;
}

void board_begin_round(unsigned round)
{
    uint32_t n = atomic_load(&the_board->nintents);

    memset(the_board->intents, 0, n * sizeof(the_board->intents[0]));
    atomic_store(&the_board->nintents, 0);
    atomic_store(&the_board->stop, 0);
    the_board->round = round;
}

intent *board_intent(unsigned worker, unsigned thread, bool reclaims)
{
    uint32_t n = atomic_fetch_add(&the_board->nintents, 1);
    intent *i;

    if (n >= INTENTS_MAX)
        storm_die(NULL, "more than %u threads in a round: make --round shorter", INTENTS_MAX);
    i = &the_board->intents[n];
    i->worker = (uint16_t)worker;
    i->thread = (uint8_t)thread;
    i->reclaims = reclaims;
    atomic_store(&i->pid, getpid());
    return i;
}

const char *intent_state_name(uint32_t state)
{
    static const char *const names[] = { "IDLE",   "ALLOCATING", "FILLING",  "OWNED",        "PUTTING",
                                         "TAKING", "FREEING",    "CLAIMING", "REALLOCATING", "PRIVATE" };

    return state < sizeof(names) / sizeof(names[0]) ? names[state] : "?";
}

/* "worker 3 pid 17 thread 1 op 412 realloc ..." */
static int describe(char *ret, size_t size, const intent *i)
{
    uint64_t word = atomic_load(&i->word);
    const char *doing = atomic_load(&i->doing);
    int n = snprintf(ret, size, "worker %u pid %d thread %u%s, operation %llu: %s, %s, entry %u, object %p, size %llu",
                     i->worker, atomic_load(&i->pid), i->thread, i->reclaims ? " (reclaims)" : "",
                     (unsigned long long)atomic_load(&i->nops), doing != NULL ? doing : "nothing yet",
                     intent_state_name(atomic_load(&i->state)), atomic_load(&i->entry), word_pointer(word),
                     (unsigned long long)atomic_load(&i->size));

    return n;
}

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        _exit(3);
}

__attribute__((format(printf, 2, 0))) static void vfail(const intent *who, const char *format, va_list arguments)
{
    char deaths[128];
    char line[1600];
    int n;

    options_name_deaths(the_board->options.deaths, deaths, sizeof(deaths));
    n = snprintf(line, sizeof(line), "storm: %s--seed %llu --deaths %s, round %u: ",
                 atomic_exchange(&the_board->failed, 1) ? "(and) " : "FAILED: ",
                 (unsigned long long)the_board->options.seed, deaths, the_board->round);
    if (who != NULL) {
        n += describe(line + n, sizeof(line) - (size_t)n, who);
        n += snprintf(line + n, sizeof(line) - (size_t)n, ": ");
    }
    n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, arguments);
    if (n > (int)sizeof(line) - 2)
        n = (int)sizeof(line) - 2;
    line[n] = '\n';
    line[n + 1] = '\0';
    say(line);
}

void board_fail(const intent *who, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vfail(who, format, arguments);
    va_end(arguments);
}

void storm_die(const intent *who, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vfail(who, format, arguments);
    va_end(arguments);
    _exit(3);
}

void board_dump(pid_t pid)
{
    uint32_t n = atomic_load(&the_board->nintents);

    for (uint32_t k = 0; k < n && k < INTENTS_MAX; k++) {
        const intent *i = &the_board->intents[k];
        char line[512] = "    ";

        if (atomic_load(&i->pid) != pid)
            continue;
        (void)describe(line + 4, sizeof(line) - 6, i);
        (void)strcat(line, "\n");
        say(line);
    }
}
