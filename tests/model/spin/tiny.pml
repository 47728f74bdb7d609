/*
 * Tiny: a page with one tiny block that has room for two objects, from its lease to its use for something else.
 *
 *   owner    opens the block, bumps, closes it, frees by itself, folds, gives the page back (client/tiny.c,
 *            client/mcache.c); when it has died, another one comes
 *   freers   two other processes that free what they were told of (tiny_free_remote in shm/tiny.c)
 *   daemon   ends the lease, settles, sweeps, frees the page, leases it anew, or makes it another kind of span for a
 *            while (daemon/mcentral.c, daemon/mheap.c); when it dies, the next one knows the shared words only
 *   watcher  what has to be true in every state
 *
 * One access to a shared word is one step. A process that dies does so right after a step, so between any two; the
 * owner any number of times, each freer once, the daemon DAEMON_DEATHS times. Operations are not counted.
 *
 * Broken on purpose: HINT_LATE, NO_HINT, FOLD_DROPS_HINT, END_UNSEEN, FOLD_OPEN, SETTLE_BY_HINT.
 */
#ifndef DAEMON_DEATHS
#define DAEMON_DEATHS 2
#endif

/* The page's lease word. */
#define FREE    0
#define LEASED  1
#define CENTRAL 2
#define OTHER   3 /* a span of another class, with an object behind the same bit and bytes of its own in the word */
#define BYTES   7 /* these: nobody but its user changes them */

#define OWNER  3  /* who is to free an object: freer 0 or 1, as 1 or 2, or its owner; 0: it does not live */

unsigned lease : 2 = FREE;
bit alloc;          /* the block's alloc bit */
bit hint;           /* its remote bit */
unsigned word : 3;  /* the block's word: bits 1 and 2 for its two objects */

/* Ghosts and private knowledge that the watcher wants to see. */
unsigned who0 : 2;  /* who is to free the first object */
unsigned who1 : 2;  /* the second */
unsigned pending : 2; /* live, and its malloc has not returned; of a dead owner: lost until the end of the run */
bit holds;          /* the owner has the page */
bit open;           /* the block is its open block */
bit owner_idle;     /* it is between two operations */
bit busy[2];        /* a freer is within a free */
bit dbusy = 1;      /* the daemon is within an operation */
bit gone;           /* nobody comes after the owner any more */
byte daemons_left = DAEMON_DEATHS;

#define WHO(b)      ((b) == 1 -> who0 : who1)
#define SET(b, who) if :: (b) == 1 -> who0 = who :: else -> who1 = who fi
#define LIVING      ((who0 != 0 -> 1 : 0) | (who1 != 0 -> 2 : 0))
#define SURVIVE     if :: true :: goto dead fi

/* --- the owner --- */

proctype owner()
{
    byte used;    /* 0, 1, 2: objects bumped in the open block */
    bit free_bit; /* cache: the block may be opened */
    bit h, empty, giving;
    byte b;

next:
    atomic { h = 0; b = 0; empty = 0; owner_idle = 1 }
    do
    :: atomic { lease == LEASED && !holds -> holds = 1; owner_idle = 0 } goto do_fold /* the daemon's reply */
    :: atomic { holds && free_bit && !open -> owner_idle = 0 } goto do_open
    :: atomic { holds && open && used < 2 -> owner_idle = 0 } goto do_bump
    :: atomic { holds && open -> owner_idle = 0 } goto do_close
    :: atomic { holds && who0 == OWNER -> b = 1; owner_idle = 0 } goto do_free
    :: atomic { holds && who1 == OWNER -> b = 2; owner_idle = 0 } goto do_free
    :: atomic { holds && hint -> owner_idle = 0 } goto do_fold
    :: atomic { holds && !open -> holds = 0; free_bit = 0; used = 0; lease_given_up = 1 }
    :: atomic { !gone -> owner_idle = 0; goto dead }
    :: atomic { !gone && !holds && lease != LEASED -> gone = 1; goto last }
    od;

do_open: /* tiny_alloc_slow: the word while the alloc bit is clear, then the alloc bit */
    atomic { assert(!alloc); word = 1; SURVIVE }
    atomic { alloc = 1; free_bit = 0; pending = 1; assert(LIVING == 0); SURVIVE }
    atomic { open = 1; used = 1; b = 1 }
told:
    atomic {
        pending = 0;
        if /* whom it tells, who is to free it */
        :: SET(b, 1)
        :: SET(b, 2)
        :: SET(b, OWNER)
        fi;
        SURVIVE;
        goto next
    }

do_bump: /* tiny_alloc: no byte is used twice before the block is opened anew */
    atomic { assert(alloc && WHO(used + 1) == 0); word = word | 2; pending = 2; used = 2; b = 2; SURVIVE; goto told }

do_close: /* tiny_close */
    open = 0;
    atomic { used = 0; empty = (word == 0); SURVIVE }
    if
    :: empty -> goto end_block
    :: else -> goto next
    fi;

do_free: /* tiny_free */
    atomic { assert(alloc && (word & b)); SURVIVE }
    atomic { empty = (word == b); word = word & ~b; SET(b, 0); SURVIVE }
    if
#ifdef END_UNSEEN
    :: !empty -> goto next
#else
    :: !empty || open -> goto next
#endif
    :: else
    fi;
end_block:
    atomic { assert(lease == LEASED && word == 0); alloc = 0; free_bit = 1; SURVIVE; goto next }

do_fold: /* tiny_fold_word */
    atomic { h = hint; SURVIVE }
#ifdef FOLD_OPEN
    atomic { empty = h && alloc && word == 0; SURVIVE }
#else
    atomic { empty = h && alloc && !open && word == 0; SURVIVE }
#endif
    atomic { alloc = alloc && !empty; SURVIVE }
#ifdef FOLD_DROPS_HINT
    atomic { hint = hint && !h; free_bit = !alloc; SURVIVE; goto next }
#else
    atomic { hint = hint && !(h && (empty || !alloc)); free_bit = !alloc; SURVIVE; goto next }
#endif

dead: /* what it was to free stays, or others know of it */
    atomic {
        if :: who0 == OWNER && !gone -> who0 = 1 :: else fi;
        if :: who1 == OWNER && !gone -> who1 = 2 :: else fi;
        holds = 0; open = 0; used = 0; free_bit = 0
    }
    goto next;
last:
    skip
}
