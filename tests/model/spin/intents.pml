/*
 * Intents: goalloc_unlink_free and goalloc_link, while their processes and the daemon may die between any two steps.
 *
 * One place, which three objects have in turn. The first one is unlinked by process 0; the span's owner folds, and
 * allocates the place again; the second object is unlinked by process 1; the third one stays. One access to a shared
 * word is one step.
 *
 *   process  record, hold, slot, look at the object's bits, remote bit, the hold goes, the record ends
 *            (client/lib/linking.c, intent.c; shm/object.c)
 *   owner    fold: remote bit, each hold of the bucket, alloc bit, remote bit; malloc (shm/object.c)
 *   daemon   settles a process that is dead, by its hold and its slot (daemon/heap/intents.c)
 *   fate     kills processes
 *   watcher  what has to be true in every state
 *
 * With LINK: one object that its session has not published, a process that links it, and the daemon that settles it and
 * then ends its session.
 *
 * Switches: LINK; DAEMON_DEATHS.
 * Broken on purpose: FOLD_HELD, UNHOLD_EARLY, HOLD_LATE, FREE_FIRST, NAMELESS_HOLD, SETTLE_UNHOLDS_FIRST; with LINK:
 * PUBLISH_FIRST, SLOT_FIRST, END_FIRST, SETTLE_UNHOLDS_FIRST.
 */
#ifndef DAEMON_DEATHS
#define DAEMON_DEATHS 2
#endif

bit alive[2] = 1;
bit settled[2];
byte daemons_left = DAEMON_DEATHS;

/* A step of process me, if it lives. */
#define STEP(action) if :: atomic { alive[me] -> action } :: !alive[me] -> goto dead fi
/* A step of the daemon, after which another one may begin anew. */
#define STAY if :: true :: daemons_left > 0 -> daemons_left--; goto again fi

#ifndef LINK

bit alloc = 1;
bit remote;
bit hold[2];
bit record[2];
bit has[2]; /* the slot has the object; else it has the next one */
bit finished[2];

/* Ghosts: which object has the place, and which have been freed. */
byte object = 1;
bit freed[4];

#ifdef NAMELESS_HOLD
bit any_hold;
#define SET_HOLD(w)   any_hold = 1
#define CLEAR_HOLD(w) any_hold = 0
#define HOLDS(w)      (record[w] && any_hold)
#define IS_HELD(w)    any_hold
#else
#define SET_HOLD(w)   hold[w] = 1
#define CLEAR_HOLD(w) hold[w] = 0
#define HOLDS(w)      hold[w]
#define IS_HELD(w)    hold[w]
#endif

/* The remote bit is set for process w: it must be its own object, and free by nobody else. */
#define FREE_FOR(w) assert(object == (w) + 1 && !freed[object]); remote = 1; freed[object] = 1

proctype unlinker(byte me)
{
    bit live;

end:
    if
    :: has[me]
    :: !alive[me] -> goto dead
    fi
    STEP(record[me] = 1);
#ifdef HOLD_LATE
    STEP(has[me] = 0);
    STEP(SET_HOLD(me));
#else
    STEP(SET_HOLD(me));
#ifdef FREE_FIRST
    STEP(FREE_FOR(me));
#endif
    STEP(has[me] = 0);
#endif
#ifdef UNHOLD_EARLY
    STEP(CLEAR_HOLD(me));
#endif
#ifndef FREE_FIRST
    STEP(live = alloc && !remote);
    if
    :: live -> STEP(FREE_FOR(me))
    :: !live
    fi
#endif
#ifndef UNHOLD_EARLY
    STEP(CLEAR_HOLD(me));
#endif
    STEP(record[me] = 0);
    STEP(finished[me] = 1);
dead:
    skip
}

proctype owner()
{
    bit held;

end:
    do
    :: remote ->
#ifndef FOLD_HELD
        held = IS_HELD(0);
        if
        :: !held -> held = IS_HELD(1)
        :: else
        fi;
#endif
        if
        :: !held ->
            atomic { assert(freed[object]); alloc = 0 }
            remote = 0
        :: held -> held = 0
        fi
    :: atomic { !alloc && !remote && object < 3 -> alloc = 1; object++; has[1] = (object == 2 -> 1 : has[1]) }
    od
}

inline settle(w)
{
    atomic { h = HOLDS(w); STAY }
    if
    :: h ->
#ifdef SETTLE_UNHOLDS_FIRST
        atomic { s = has[w]; CLEAR_HOLD(w); STAY }
#else
        atomic { s = has[w]; STAY }
#endif
        if
        :: !s ->
            atomic { live = alloc && !remote; STAY }
            if
            :: live -> atomic { FREE_FOR(w); STAY }
            :: !live
            fi
        :: s
        fi;
        atomic { CLEAR_HOLD(w); STAY }
    :: !h
    fi;
    settled[w] = 1
}

proctype daemon()
{
    bit h, s, live;

again:
end:
    do
    :: atomic { !alive[0] && !settled[0] -> h = 0; s = 0; live = 0 } settle(0)
    :: atomic { !alive[1] && !settled[1] -> h = 0; s = 0; live = 0 } settle(1)
    od
}

/* When all is done: what is in the slot lives, and what is not in it is free. */
#define IS_DONE(w)  (finished[w] || settled[w])
#define IS_RIGHT(w) (!IS_DONE(w) || object < (w) + 1 || has[w] != freed[(w) + 1])
#define ALL_IS_RIGHT                                                                                                 \
    (IS_RIGHT(0) && IS_RIGHT(1) && !freed[3] && (!(finished[0] || settled[0]) || !(finished[1] || settled[1]) ||        \
                                                 !(hold[0] || hold[1])))

#else /* LINK */

bit hold;
bit kept;
bit has;
bit lives = 1;
bit ended;
bit finished;

proctype linker(byte me)
{
#ifdef PUBLISH_FIRST
    STEP(kept = 1);
    STEP(hold = 1);
#else
    STEP(hold = 1);
#ifdef SLOT_FIRST
    STEP(has = 1);
    STEP(kept = 1);
#else
    STEP(kept = 1);
#endif
#endif
    STEP(has = 1);
    STEP(hold = 0);
    STEP(finished = 1);
dead:
    skip
}

proctype daemon()
{
    bit h, s;

end:
    !alive[0];
again:
#ifdef END_FIRST
    atomic { lives = kept; STAY }
#endif
    atomic { h = hold; s = 0; STAY }
    if
    :: h ->
#ifdef SETTLE_UNHOLDS_FIRST
        atomic { s = has; hold = 0; STAY }
#else
        atomic { s = has; STAY }
#endif
        if
        :: !s -> atomic { kept = 0; STAY }
        :: s
        fi;
        atomic { hold = 0; STAY }
    :: !h
    fi;
#ifndef END_FIRST
    atomic { lives = lives && kept; STAY }
#endif
    ended = 1
}

#define ALL_IS_RIGHT ((!ended || has == lives) && (!has || lives || !ended) && (!finished || (kept && has)))

#endif

proctype fate()
{
end:
    do
    :: alive[0] = 0; break
    :: alive[1] = 0
    :: true -> break
    od
}

proctype watcher()
{
end:
    atomic { !(ALL_IS_RIGHT) -> assert(false) }
}

init
{
    atomic {
#ifdef LINK
        run linker(0);
#else
        has[0] = 1;
        run unlinker(0);
        run unlinker(1);
        run owner();
#endif
        run daemon();
        run fate();
        run watcher()
    }
}
