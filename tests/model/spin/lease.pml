/*
 * Lease: spans, their bits and their leases, while workers and the daemon may die between any two steps.
 *
 * Two workers, one daemon (and those that take its place), NSPANS spans of two objects. One access to a shared word is
 * one step; everything else interleaves. Private steps are merged with the access before or after them.
 *
 *   worker   malloc, free of its own, remote free, fold, refill, return, coming back after a lost connection
 *            (client/lib/, shm/object.c)
 *   daemon   refill, return, lease list, attach, end of a session, sweep, taking over
 *            (daemon/serve/, daemon/heap/mcentral.c, daemon/heap/mheap.c)
 *   fate     kills workers and cuts connections
 *   watcher  what has to be true in every state
 *
 * A daemon that dies does so right after a step, so between any two. There is no limit to the number of operations: the
 * states are finite.
 *
 * Switches: NSPANS 1 or 2; DAEMON_DEATHS; NO_CUTS: connections end only with their daemon; NO_LATE: no request is given
 * up before its reply comes; ONE_LEASES: worker 1 only frees what it is told of.
 * Broken on purpose: FOLD_REMOTE_FIRST, RETURN_LATE_FORGET, TAKE_FROM_LOST, TAKE_OVER_ALL, SWEEP_LEASED,
 * TELL_BEFORE_BIT, NO_RECONCILE.
 */
#ifndef NSPANS
#define NSPANS 1
#endif
#ifndef DAEMON_DEATHS
#define DAEMON_DEATHS 2
#endif

/* The lease word. */
#define FREE      0
#define LEASED(w) (1 + (w))
#define CENTRAL   3

/* Requests; replies carry the same kind. */
#define REFILL 1 /* reply: the span + 1, 0: there is none */
#define RETURN 2 /* not replied to */
#define LIST   3 /* reply: a mask of spans */

/* A session, as its slot says. LOST is OPEN without a connection. */
#define ENDED  0
#define OPEN   1
#define ENDING 2

typedef span_words {
    unsigned lease : 2;
    unsigned alloc : 2;
    unsigned remote : 2;
    /* Ghosts: what the program that uses the heap believes. */
    unsigned live : 2; /* returned by malloc, and no free of it has taken effect */
    unsigned his : 2;  /* of these: worker 1 may free it; else worker 0 */
};

span_words span[NSPANS];
byte sess[2] = OPEN; /* survives the daemon */
bit alive[2] = 1;    /* the life lock */
bit up[2];           /* there is a connection */
bit want[2];         /* a worker connects and attaches with its token */
chan req[2] = [1] of { byte, byte };
#ifdef NO_LATE
#define REPLIES 1
#else
#define REPLIES 2
#endif
chan rep[2] = [REPLIES] of { byte, byte };
byte daemons_left = DAEMON_DEATHS;

/* A worker's private knowledge: global for the watcher's sake, gone with the worker. */
byte held[2]; /* mspan_of: mask of spans */
bit late[2];  /* the next reply to a refill is to one that was given up */

/* Ghosts. */
byte pending[2]; /* object + 1 whose alloc bit is set and which malloc has not returned yet; stays after a death */
bit idle[2];     /* the worker is between two operations */
bit dbusy = 1;   /* the daemon is within one */

#define BIT(s)           (1 << (s))
#define OBJECT(s, b)     ((s) * 2 + (b)) /* b is 1 or 2; never 0 */
#define IN_SPAN(o, s)    ((o) > (s) * 2 && (o) <= (s) * 2 + 2)
#define PENDING_OF(w, s) (IN_SPAN(pending[w], s) -> pending[w] - (s) * 2 : 0)
#define LIVE_BITS(s)     (span[s].alloc & ~span[s].remote & 3)
#define KNOWN_LIVE(s)    (span[s].live | PENDING_OF(0, s) | PENDING_OF(1, s))
#define IS_HIS(w, s, b)  ((span[s].live & (b)) && (((span[s].his & (b)) != 0) == (w)))

inline drain(c)
{
    do
    :: nempty(c) -> c?_, _
    :: empty(c) -> break
    od
}

/* A daemon may die after each of its steps. */
#define STAY_IF(mortal) if :: true :: mortal -> goto dead fi
#define STAY            STAY_IF(daemons_left > 0)

/* Fold the remote frees of s: shm/object.c. Nobody but the caller writes the alloc word meanwhile. */
inline fold(s, mortal)
{
    atomic { r = span[s].remote; STAY_IF(mortal) }
    if
    :: r == 0
    :: else ->
#ifdef FOLD_REMOTE_FIRST
        atomic { span[s].remote = span[s].remote & ~r; STAY_IF(mortal) }
        atomic { span[s].alloc = span[s].alloc & ~r; r = 0; STAY_IF(mortal) }
#else
        atomic { span[s].alloc = span[s].alloc & ~r; STAY_IF(mortal) }
        atomic { span[s].remote = span[s].remote & ~r; r = 0; STAY_IF(mortal) }
#endif
    fi
}

/* --- workers --- */

#define CHOOSE(S)                                                                                                    \
    :: atomic { cache[S] != 0 -> s = S; b = (cache[S] & 1 -> 1 : 2); idle[w] = 0 } goto do_malloc                    \
    :: atomic { IS_HIS(w, S, 1) && (held[w] & BIT(S)) -> s = S; b = 1; idle[w] = 0 } goto do_own_free                 \
    :: atomic { IS_HIS(w, S, 2) && (held[w] & BIT(S)) -> s = S; b = 2; idle[w] = 0 } goto do_own_free                 \
    :: atomic { IS_HIS(w, S, 1) && !(held[w] & BIT(S)) -> s = S; b = 1; idle[w] = 0 } goto do_remote_free             \
    :: atomic { IS_HIS(w, S, 2) && !(held[w] & BIT(S)) -> s = S; b = 2; idle[w] = 0 } goto do_remote_free             \
    :: atomic { (held[w] & BIT(S)) && span[S].remote != 0 -> s = S; idle[w] = 0 } goto do_fold                        \
    :: atomic { (held[w] & BIT(S)) -> s = S; idle[w] = 0 } goto do_return

#ifdef ONE_LEASES
#define MAY_LEASE(w) ((w) == 0)
#else
#define MAY_LEASE(w) true
#endif

proctype worker(bit w)
{
    byte cache[NSPANS]; /* free objects of spans that it holds, not handed out yet */
    byte s, b, r, x;

    {
        goto next;
next:   atomic { s = 0; b = 0; r = 0; x = 0; idle[w] = 1 }
        do
        CHOOSE(0)
#if NSPANS > 1
        CHOOSE(1)
#endif
        :: atomic { MAY_LEASE(w) && held[w] != BIT(NSPANS) - 1 -> idle[w] = 0 } goto do_refill
        od;

do_malloc: /* slot_take */
#ifdef TELL_BEFORE_BIT
        atomic { span[s].live = span[s].live | b; span[s].his = (w -> span[s].his | b : span[s].his & ~b) }
        atomic { span[s].alloc = span[s].alloc | b; cache[s] = cache[s] & ~b; goto next }
#else
        atomic {
            assert(span[s].lease == LEASED(w)); /* nobody else writes the alloc word */
            assert((KNOWN_LIVE(s) & b) == 0);   /* it has no owner */
            span[s].alloc = span[s].alloc | b;
            cache[s] = cache[s] & ~b;
            pending[w] = OBJECT(s, b)
        }
        atomic {
            pending[w] = 0;
            span[s].live = span[s].live | b;
            span[s].his = (w -> span[s].his | b : span[s].his & ~b);
            if /* he keeps it, or tells the other one, who is to free it */
            :: true
            :: alive[1 - w] -> span[s].his = span[s].his ^ b
            fi;
            goto next
        }
#endif

do_own_free: /* own_free() */
        assert(LIVE_BITS(s) & b); /* it is not taken for a double free */
        atomic {
            assert(span[s].lease == LEASED(w));
            span[s].alloc = span[s].alloc & ~b;
            span[s].live = span[s].live & ~b;
            span[s].his = span[s].his & ~b;
            cache[s] = cache[s] | b;
            goto next
        }

do_remote_free: /* object_find, object_free_remote: remote word, alloc word, fetch_or */
        atomic { assert(span[s].lease != FREE); assert((span[s].remote & b) == 0) }
        assert(span[s].alloc & b);
        atomic {
            assert((span[s].remote & b) == 0);
            span[s].remote = span[s].remote | b;
            span[s].live = span[s].live & ~b;
            span[s].his = span[s].his & ~b;
            goto next
        }

do_fold: /* fold_word() in mspan.c */
        fold(s, false);
        atomic { cache[s] = ~span[s].alloc & 3; goto next }

do_return: /* returns_add, outbox_return: the span is forgotten first */
#ifndef RETURN_LATE_FORGET
        atomic { held[w] = held[w] & ~BIT(s); cache[s] = 0 }
#endif
        if
        :: atomic { !up[w] -> goto next }
#ifdef RETURN_LATE_FORGET
        :: atomic { up[w] && nfull(req[w]) -> req[w]!RETURN, s }
        fi;
        atomic { held[w] = held[w] & ~BIT(s); cache[s] = 0; goto next }
#else
        :: atomic { up[w] && nfull(req[w]) -> req[w]!RETURN, s; goto next }
        fi;
#endif

do_refill: /* connection_refill */
        if
        :: !up[w] -> goto come_back
        :: atomic { up[w] && nfull(req[w]) -> req[w]!REFILL, 0 }
        fi;
wait:
        if
        :: atomic { !late[w] && rep[w]?[REFILL, x] -> rep[w]?REFILL, x;
            if
            :: x == 0 -> goto next
            :: else -> s = x - 1; x = 0; held[w] = held[w] | BIT(s); goto do_fold
            fi }
        :: atomic { late[w] && rep[w]?[REFILL, x] -> rep[w]?REFILL, x; late[w] = 0 } /* drop_late_reply */
        :: !up[w] -> goto come_back
#ifndef NO_LATE
        :: atomic { up[w] && !late[w] -> late[w] = 1; goto next }
#endif
        fi;
        if
        :: atomic { x == 0 || !up[w] -> x = 0 }
        :: atomic { x != 0 && up[w] && nfull(req[w]) -> req[w]!RETURN, x - 1; x = 0 }
        fi;
        goto wait;

come_back: /* reattach, reconcile */
        atomic { drain(rep[w]); late[w] = 0; want[w] = 1; x = 0 }
        (up[w] || !want[w]);
#ifndef NO_RECONCILE
        if
        :: !up[w] -> goto come_back
        :: atomic { up[w] && nfull(req[w]) -> req[w]!LIST, 0 }
        fi;
        if
        :: atomic { rep[w]?LIST, x; x = x & ~held[w] }
        :: !up[w] -> goto come_back
        fi;
        do
        :: x == 0 -> break
        :: x != 0 && !up[w] -> goto come_back
        :: atomic { x != 0 && up[w] && nfull(req[w]) -> s = (x & 1 -> 0 : 1); req[w]!RETURN, s; x = x & ~BIT(s); s = 0 }
        od;
#endif
        goto do_refill
    } unless {
        !alive[w]
    };
dead:
    atomic {
        s = 0; b = 0; r = 0; x = 0; cache[0] = 0;
#if NSPANS > 1
        cache[1] = 0;
#endif
    }
}

/* --- the daemon --- */

/* The lease of s ends: lease_end, mcentral_put, mheap_free_span. s is in no list afterwards, or in that of CENTRAL. */
inline put(s)
{
    atomic {
        place[s] = FREE;
        assert((held[0] & BIT(s)) == 0 && (held[1] & BIT(s)) == 0); /* its lessee is dead, or has given it up */
        span[s].lease = CENTRAL;
        STAY
    }
    settle(s)
}

inline settle(s)
{
    fold(s, daemons_left > 0);
    if
    :: span[s].alloc == 0 -> atomic { assert(KNOWN_LIVE(s) == 0); span[s].lease = FREE; STAY }
    :: else -> place[s] = CENTRAL
    fi
}

#define SWEEPABLE(S) (place[S] == CENTRAL && (span[S].remote != 0 || span[S].alloc == 0))

#define SERVE(W)                                                                                                     \
    :: atomic { up[W] && sess[W] == OPEN && req[W]?[REFILL, s] -> req[W]?_, _; v = W; dbusy = 1 } goto do_refill       \
    :: atomic { up[W] && sess[W] == OPEN && req[W]?[RETURN, 0] -> req[W]?_, s; v = W; dbusy = 1 } goto do_return       \
    :: atomic { up[W] && sess[W] == OPEN && req[W]?[RETURN, 1] -> req[W]?_, s; v = W; dbusy = 1 } goto do_return       \
    :: atomic { up[W] && sess[W] == OPEN && req[W]?[LIST, s] -> req[W]?_, _; v = W; dbusy = 1 } goto do_list           \
    :: atomic { want[W] && alive[W] && sess[W] == OPEN -> drain(req[W]); drain(rep[W]); want[W] = 0; up[W] = 1 }       \
    :: atomic { !alive[W] && sess[W] == OPEN -> drain(req[W]); drain(rep[W]); up[W] = 0; sess[W] = ENDING }            \
    :: atomic { TAKE_LOST(W) && sess[W] == OPEN -> sess[W] = ENDING }                                                \
    :: atomic { sess[W] == ENDING -> v = W; dbusy = 1 } goto do_end

#ifdef TAKE_FROM_LOST
#define TAKE_LOST(W) (!up[W] && held[W] != 0)
#else
#define TAKE_LOST(W) false
#endif

#ifdef SWEEP_LEASED
#define SWEEP_NOW(S) (SWEEPABLE(S) || (place[S] != FREE && span[S].remote != 0))
#else
#define SWEEP_NOW(S) SWEEPABLE(S)
#endif

#define SWEEP(S) :: atomic { SWEEP_NOW(S) -> s = S; dbusy = 1 } goto do_sweep

#define TAKE(S)                                                                                                      \
    :: atomic { place[S] == CENTRAL -> s = S; place[S] = FREE } goto take_central                                     \
    :: atomic { place[S] == FREE && span[S].lease == FREE -> s = S } goto take_fresh

proctype daemon()
{
    byte place[NSPANS]; /* private lists: whose list a span is in; FREE: none */
    byte s, v, r, x;

boot:
        /* session_table_recover: sessions from their slots and the life lock, spans from their lease words */
        atomic {
            do
            :: v < 2 ->
                if
#ifdef TAKE_OVER_ALL
                :: sess[v] == OPEN && daemons_left < DAEMON_DEATHS -> sess[v] = ENDING
#else
                :: sess[v] == OPEN && !alive[v] -> sess[v] = ENDING
#endif
                :: else
                fi;
                v = v + 1
            :: else -> break
            od;
            v = 0;
            STAY
        }
        do
        :: s < NSPANS ->
            if
            :: atomic { span[s].lease == CENTRAL || span[s].lease == FREE -> place[s] = span[s].lease; s = s + 1 }
            :: atomic { span[s].lease == LEASED(0) && sess[0] != ENDED -> place[s] = LEASED(0); s = s + 1 }
            :: atomic { span[s].lease == LEASED(1) && sess[1] != ENDED -> place[s] = LEASED(1); s = s + 1 }
            :: else -> put(s); s = s + 1
            fi
        :: else -> break
        od;

serve:  atomic { s = 0; v = 0; r = 0; x = 0; dbusy = 0 }
        do
        SERVE(0)
        SERVE(1)
        SWEEP(0)
#if NSPANS > 1
        SWEEP(1)
#endif
        :: daemons_left > 0 -> goto dead
        :: atomic { sess[0] == ENDED && sess[1] == ENDED && !SWEEPABLE(0) && !SWEEPABLE(NSPANS - 1) -> goto quiet }
        od;

do_refill: /* handle_refill */
        if
        TAKE(0)
#if NSPANS > 1
        TAKE(1)
#endif
        :: else -> goto reply_refill
        fi;
take_central: /* mcentral_take */
        fold(s, daemons_left > 0);
        if
        :: span[s].alloc == 3 -> atomic { place[s] = CENTRAL; goto reply_refill }
        :: else -> goto give
        fi;
take_fresh: /* mheap_alloc_span */
        atomic { span[s].alloc = 0; STAY }
        atomic { span[s].remote = 0; STAY }
give:   /* lease_give */
        atomic { place[s] = LEASED(v); span[s].lease = LEASED(v); x = s + 1; STAY }
reply_refill:
        atomic {
            if
            :: up[v] -> assert(len(rep[v]) < REPLIES); rep[v]!REFILL, x
            :: else
            fi;
            STAY;
            goto serve
        }

do_return: /* handle_return: who returns what it does not lease is thrown out, and no honest worker ever is */
        assert(span[s].lease == LEASED(v));
        put(s);
        goto serve;

do_list: /* handle_lease_list */
        atomic {
            x = (place[0] == LEASED(v) -> 1 : 0);
#if NSPANS > 1
            x = x | (place[1] == LEASED(v) -> 2 : 0);
#endif
            if
            :: up[v] -> assert(len(rep[v]) < REPLIES); rep[v]!LIST, x
            :: else
            fi;
            STAY;
            goto serve
        }

do_end: /* session_end_step */
        do
        :: s < NSPANS && place[s] == LEASED(v) -> put(s); s = s + 1
        :: s < NSPANS && place[s] != LEASED(v) -> s = s + 1
        :: s == NSPANS -> break
        od;
        atomic { sess[v] = ENDED; STAY; goto serve }

do_sweep: /* mcentral_sweep */
#ifdef SWEEP_LEASED
        if
        :: place[s] != CENTRAL -> fold(s, daemons_left > 0); goto serve
        :: else
        fi;
#endif
        place[s] = FREE;
        settle(s);
        goto serve
dead:   /* another daemon: it knows nothing but the shared words */
        atomic {
            daemons_left = daemons_left - 1;
            up[0] = 0; up[1] = 0;
            drain(req[0]); drain(req[1]); /* a reply that is on its way may still be read */
            dbusy = 1; s = 0; v = 0; r = 0; x = 0; place[0] = 0; place[NSPANS - 1] = 0;
            goto boot
        }

quiet:  /* both workers are dead, their sessions ended, all swept */
    s = 0;
    do
    :: s < NSPANS ->
        assert(span[s].lease == FREE || span[s].lease == CENTRAL);
        assert(span[s].remote == 0);
        assert(span[s].alloc == KNOWN_LIVE(s)); /* at most one for each dead worker is not live: pending */
        assert((span[s].alloc == 0) == (span[s].lease == FREE));
        s = s + 1
    :: else -> break
    od
}

/* --- what happens to them --- */

#define FATE(W)                                                                                                      \
    :: d_step { alive[W] -> alive[W] = 0; held[W] = 0; late[W] = 0; want[W] = 0; idle[W] = 0; INHERIT(W, 0);          \
                INHERIT(W, NSPANS - 1) }                                                                             \
    CUT(W)

#ifdef NO_CUTS
#define CUT(W)
#else
#define CUT(W) :: atomic { up[W] && alive[W] -> up[W] = 0; drain(req[W]) } /* a reply that has arrived may be read */
#endif

/* What the dead worker could have freed, the other one knows of, too. */
#define INHERIT(W, s) span[s].his = (W || !alive[1] -> 0 : span[s].live)

proctype fate()
{
end:
    do
    FATE(0)
    FATE(1)
    od
}

/* A worker between two operations, with nothing on its way and a connection: what it leases, it knows. */
#define KNOWS(w, s)                                                                                                  \
    (!(alive[w] && idle[w] && up[w] && !late[w] && len(req[w]) == 0 && len(rep[w]) == 0 && !dbusy) ||             \
     (span[s].lease == LEASED(w)) == ((held[w] & BIT(s)) != 0))

#define HOLDS_IT(w, s) (!(held[w] & BIT(s)) || span[s].lease == LEASED(w))
#define TRUE_OF(s)                                                                                                   \
    (LIVE_BITS(s) == KNOWN_LIVE(s) && (span[s].lease != FREE || KNOWN_LIVE(s) == 0) && HOLDS_IT(0, s) &&              \
     HOLDS_IT(1, s) && KNOWS(0, s) && KNOWS(1, s))

/*
 * In every state: the bits say exactly what is live, and which of it malloc has yet to return; a span with an object is
 * not FREE; who holds a span leases it, so no two do.
 */
proctype watcher()
{
end:
    atomic { !(TRUE_OF(0) && TRUE_OF(NSPANS - 1)) -> assert(false) }
}

init
{
    atomic {
        run worker(0);
        run worker(1);
        run daemon();
        run fate();
        run watcher()
    }
}
