/*
 * Search: a collector looks through /proc for processes that map the arena and are in no session, while these fork and
 * exit (client/collector). /proc is not read at one instant: a process that is ahead of the cursor forks one behind it
 * and exits before the cursor comes.
 *
 *   kin        processes that map the arena: each may fork, also when it is seized, and exit; a child of a seized one
 *              is born seized (PTRACE_O_TRACEFORK)
 *   others     fork, too, and so use up process numbers
 *   collector  passes over the numbers, in order, and seizes; it is done when PASSES passes in a row have found nothing
 *
 * Numbers are given out in a circle, as the kernel does. During a search fewer are given out than the circle has.
 *
 * Broken on purpose: ONE_PASS, TWO_PASSES.
 */
#define NUMBERS 7
#define GIVEN   4 /* numbers that are given out while the collector searches: with two that were taken, less than all */

#if defined(ONE_PASS)
#define PASSES 1
#elif defined(TWO_PASSES)
#define PASSES 2
#else
#define PASSES 3
#endif

#define FREE   0
#define LOOSE  1
#define SEIZED 2

byte who[NUMBERS];
byte last; /* the number that was given out last */
byte given;
byte nloose;

/* The next free number; there is one, since fewer are given out than there are. */
inline next_number()
{
    last = (last + 1) % NUMBERS;
    do
    :: who[last] != FREE -> last = (last + 1) % NUMBERS
    :: else -> break
    od;
    given++
}

proctype kin()
{
    byte n;

end:
    do
    :: atomic { given < GIVEN && n < NUMBERS && who[n] != FREE ->
                next_number();
                who[last] = who[n];
                nloose = nloose + (who[n] == LOOSE -> 1 : 0) }
    :: atomic { who[n] != FREE -> nloose = nloose - (who[n] == LOOSE -> 1 : 0); who[n] = FREE }
    :: atomic { given < GIVEN -> next_number() } /* somebody else's, who exits */
    :: atomic { n = (n + 1) % NUMBERS }
    od
}

proctype collector()
{
    byte cursor, quiet;
    bit found;

    do
    :: cursor < NUMBERS ->
        atomic {
            if
            :: who[cursor] == LOOSE -> who[cursor] = SEIZED; nloose--; found = 1
            :: else
            fi;
            cursor++
        }
    :: cursor == NUMBERS ->
        atomic {
            cursor = 0;
            quiet = (found -> 0 : quiet + 1);
            found = 0;
            if
            :: quiet == PASSES -> assert(nloose == 0); break
            :: else
            fi
        }
    od
}

init
{
    byte n;

    /* One or two, of any numbers; any number was given out last. */
    atomic {
        select(last : 0 .. NUMBERS - 1);
        select(n : 0 .. NUMBERS - 1);
        who[n] = LOOSE;
        select(n : 0 .. NUMBERS - 1);
        nloose = (who[n] == LOOSE -> 1 : 2);
        who[n] = LOOSE;
        n = 0;
        run kin();
        run collector()
    }
}
