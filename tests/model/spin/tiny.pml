/*
 * Tiny: a page with one tiny block that has room for two objects, from its lease to its use for something else.
 *
 *   owner    opens the block, bumps, closes it, frees by itself, folds, gives the page back
 *            (client/lib/tiny.c, client/lib/mcache.c)
 *   freers   two other processes that free what they were told of (tiny_free_remote in shm/tiny.c)
 *   daemon   leases the page, ends the lease, settles, sweeps, frees the page, makes it another kind of span for a while
 *            (daemon/heap: lease.c, mcentral.c, mheap.c)
 *   watcher  what has to be true in every state
 *
 * One access to a shared word is one step. A process that dies does so right after a step, so between any two. Another
 * one comes at once, that knows what is in shared memory only; and what the dead one was to free, somebody else knows
 * of. Neither deaths nor operations are counted, but for the daemon's deaths: the states are finite.
 *
 * Broken on purpose: HINT_LATE, NO_HINT, FOLD_DROPS_HINT, FOLD_OPEN, SETTLE_BY_HINT, END_LIVING.
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

/* Ghosts, and private knowledge that the watcher wants to see. */
unsigned who1 : 2;    /* who is to free the first object */
unsigned who2 : 2;    /* the second */
unsigned pending : 2; /* an object whose bit is set, and whose malloc has not returned; of a dead owner: lost */
bit given_up;         /* the lessee has died, or given the page back: the daemon learns it sooner or later */
bit holds;            /* the owner has the page */
bit open;             /* the block is its open block */
bit owner_idle;       /* it is between two operations */
bit dbusy = 1;        /* the daemon is within one */
bit unswept;          /* this daemon has found the page CENTRAL and not settled it yet */
byte daemons_left = DAEMON_DEATHS;

#define WHO(b)      ((b) == 1 -> who1 : who2)
#define SET(b, who) if :: (b) == 1 -> who1 = who :: else -> who2 = who fi
#define LIVING      ((who1 != 0 -> 1 : 0) | (who2 != 0 -> 2 : 0))
#define SURVIVE     if :: true :: goto dead fi
#define STAY        if :: true :: daemons_left > 0 -> goto dead fi /* of the daemon */

/* --- the owner --- */

proctype owner()
{
    byte used;    /* 0, 1, 2: objects bumped in the open block */
    bit free_bit; /* cache: the block may be opened */
    bit h, none, giving;
    byte b;

next:
    atomic { h = 0; b = 0; none = 0; owner_idle = 1 }
    do
    :: atomic { lease == LEASED && !given_up && !holds -> holds = 1; owner_idle = 0 } goto do_fold /* a reply */
    :: atomic { lease == LEASED && !given_up && !holds -> given_up = 1 } /* nobody sees the reply */
    :: atomic { holds && free_bit && !open -> owner_idle = 0 } goto do_open
    :: atomic { holds && open && used < 2 -> owner_idle = 0 } goto do_bump
    :: atomic { holds && open -> owner_idle = 0 } goto do_close
    :: atomic { holds && who1 == OWNER -> b = 1; owner_idle = 0 } goto do_free
    :: atomic { holds && who2 == OWNER -> b = 2; owner_idle = 0 } goto do_free
    :: atomic { holds && hint -> owner_idle = 0 } goto do_fold
    :: atomic { holds && !open -> owner_idle = 0; goto dead } /* a return: it forgets the page */
    :: atomic { holds -> owner_idle = 0; goto dead }
    od;

do_open: /* tiny_open: the word while the alloc bit is clear, then the alloc bit */
    atomic { assert(!alloc); word = 1; SURVIVE }
    atomic { alloc = 1; free_bit = 0; pending = 1; assert(LIVING == 0); SURVIVE }
    atomic { open = 1; used = 1; b = 1 }
told:
    atomic {
        pending = 0;
        if /* whom it tells, who is to free it */
        :: true -> SET(b, 1)
        :: true -> SET(b, 2)
        :: true -> SET(b, OWNER)
        fi;
        SURVIVE;
        goto next
    }

do_bump: /* tiny_alloc: no byte is used twice before the block is opened anew */
    atomic { assert(alloc && WHO(used + 1) == 0); word = word | 2; pending = 2; used = 2; b = 2; SURVIVE; goto told }

do_close: /* mcache_close_tiny */
    open = 0;
    atomic { used = 0; none = (word == 0); SURVIVE }
    if
    :: none -> goto end_block
    :: else -> goto next
    fi;

do_free: /* tiny_free */
    atomic { assert(alloc && (word & b)); SURVIVE }
    atomic { none = (word == b); word = word & ~b; SET(b, 0); SURVIVE }
    if
    :: !none || open -> goto next
    :: else
    fi;
end_block:
    atomic { assert(lease == LEASED && word == 0); alloc = 0; free_bit = 1; SURVIVE; goto next }

do_fold: /* tiny_fold_word */
    atomic { h = hint; SURVIVE }
#ifdef FOLD_OPEN
    atomic { none = h && alloc && word == 0; SURVIVE }
#else
    atomic { none = h && alloc && !open && word == 0; SURVIVE }
#endif
    atomic { alloc = alloc && !none; SURVIVE }
#ifdef FOLD_DROPS_HINT
    atomic { hint = hint && !h; free_bit = !alloc; SURVIVE; goto next }
#else
    atomic { hint = hint && !(h && (none || !alloc)); free_bit = !alloc; SURVIVE; goto next }
#endif

dead:
    atomic {
        if :: who1 == OWNER -> who1 = 1 :: else fi;
        if :: who2 == OWNER -> who2 = 2 :: else fi;
        given_up = 1; holds = 0; open = 0; used = 0; free_bit = 0;
        goto next
    }
}

/* --- others who free --- */

proctype freer(bit f)
{
    unsigned b : 2, old : 2;
    bit hinted;

next:
    atomic { b = 0; old = 0; hinted = 0 }
    if
    :: who1 == 1 + f -> b = 1
    :: who2 == 1 + f -> b = 2
    fi;
    atomic { assert(alloc && (lease == LEASED || lease == CENTRAL)); SURVIVE }
    atomic { old = word; SURVIVE }
again:
    assert(old & b); /* it is not taken for a double free */
#if !defined(NO_HINT) && !defined(HINT_LATE)
    if
    :: atomic { old == b && !hinted -> hint = 1; hinted = 1; SURVIVE }
    :: else
    fi;
#endif
    if
    :: atomic { word == old -> word = old & ~b; SET(b, 0); SURVIVE }
    :: atomic { word != old -> old = word; goto again }
    fi;
#ifdef HINT_LATE
    if
    :: old == b -> hint = 1
    :: else
    fi;
#endif
dead:
    goto next
}

/* --- the daemon --- */

/* tiny_settle_word, and where the page goes: span_fold, mcentral_insert, mheap_free_span */
inline settle()
{
    atomic { h = hint; STAY }
#ifdef SETTLE_BY_HINT
    atomic { none = h && alloc && word == 0; STAY }
#else
    atomic { none = alloc && word == 0; STAY }
#endif
    atomic { alloc = alloc && !none; STAY }
    atomic { hint = hint && !(h && (none || !alloc)); unswept = 0; STAY }
}

#ifdef END_LIVING
#define MAY_END true
#else
#define MAY_END given_up
#endif

proctype daemon()
{
    bit h, none;

serve:
    atomic { h = 0; none = 0; dbusy = 0 }
    do
    :: atomic { lease == FREE -> dbusy = 1 } goto do_lease
    :: atomic { lease == FREE -> dbusy = 1 } goto do_other
    :: atomic { lease == OTHER -> alloc = 0; lease = FREE }
    :: atomic { lease == LEASED && MAY_END -> dbusy = 1 } goto do_end
    :: atomic { lease == CENTRAL -> dbusy = 1 } goto do_take
    :: atomic { lease == CENTRAL && (hint || !alloc || word == 0 || unswept) -> dbusy = 1 } goto do_sweep /* else: no effect */
    od;

do_lease: /* mheap_alloc_span, lease_give */
    atomic { alloc = 0; STAY }
    atomic { hint = 0; STAY }
give:
    atomic { lease = LEASED; given_up = 0; unswept = 0; STAY; goto serve }

do_other: /* the same for another class; its user sets the object's bit and writes to it */
    atomic { alloc = 0; STAY }
    atomic { hint = 0; STAY }
    atomic { lease = OTHER; alloc = 1; word = BYTES; unswept = 0; STAY; goto serve }

do_take: /* mcentral_take: other blocks of the page are free */
    settle();
    goto give;

do_end: /* mcentral_put */
    atomic { lease = CENTRAL; STAY }
do_sweep: /* mcentral_sweep */
    settle();
    if
    :: atomic { !alloc -> assert(LIVING == 0 && pending == 0); lease = FREE; STAY; goto serve }
    :: atomic { alloc -> goto serve }
    fi;

dead: /* the next one rebuilds its lists from the lease word */
    atomic { daemons_left = daemons_left - 1; unswept = 1; goto serve }
}

/*
 * In every state: no bit and no byte of the other span changes. The block's word says what is live. While its owner,
 * or the daemon if nobody leases the page, is between two operations, a block without objects that is not open has a
 * hint, so that the next fold ends it.
 */
#define TRUE_NOW                                                                                                     \
    ((lease != OTHER || (alloc && !hint && word == BYTES)) &&                                                         \
     (lease == OTHER || lease == FREE || (alloc -> word : 0) == (LIVING | pending)) &&                                \
     (lease != FREE || (LIVING | pending) == 0) &&                                                                    \
     (!(lease == LEASED && holds && owner_idle && !open && alloc && word == 0) || hint) &&                            \
     (!(lease == CENTRAL && !dbusy && !unswept && alloc && word == 0) || hint))

proctype watcher()
{
end:
    atomic { !TRUE_NOW -> assert(false) }
}

init
{
    atomic {
        run owner();
        run freer(0);
        run freer(1);
        run daemon();
        run watcher()
    }
}
