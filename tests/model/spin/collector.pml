/*
 * Collector: a process that stops all others for an instant, looks what nobody reaches, lets them go, and frees that,
 * while processes, daemon and collectors may die between any two steps (client/collector).
 *
 * One place for an object, which is used again and again. References are bits: does this word point to the object?
 *
 *   worker A   has a session from the start; may fork C; links, unlinks by intent, adopts, sets the root
 *   worker C   A's child, that has not attached: it has the arena mapped, and loads and stores
 *   worker N   attaches at any time, twice at most: first its entry is OPEN, then it maps; looks up the root
 *   daemon     leases, folds, ends sessions and groups, settles intents, reclaims for an operator; may die, and is
 *              replaced by one that knows what is in shared memory only
 *   collector  BEGIN, PREPARE, SEIZE, search, STOP, SNAPSHOT, VALIDATE, resume, FREE, END; may die at each step: the
 *              kernel lets go who was stopped
 *   watcher    what has to be true in every state
 *
 * A's mode is chosen at the start: KEEP, RECLAIM, or RECLAIM in a group, whose end waits for C. One access to a shared
 * word is one step; what only stopped processes write is read in any order, so in one. Programs are honest: who frees
 * an object is the last one who reaches it. So whoever frees asserts that it lives, and that nobody reaches it.
 *
 * Switches: COLLECTORS; ATTACHES of N; FORK: there is C; OWNERS: all modes, and A adopts; ROOTS: A sets the root, N
 * looks it up; INTENTS: A unlinks; OPERATOR: the daemon reclaims; ALL: objects of leased spans are collected, too.
 * Broken on purpose: NO_VALIDATION, HEAP_LATE, SKIP_UNMAPPED, NO_STOP, ALLOC_FIRST, LEASE_LATE, LEASED_FREED,
 * FREE_FORGETS; with FORK: NO_SEARCH, NO_TRACEFORK, STAY_STOPPED; with two collectors: NO_ROLE, ROLE_LOST,
 * FREE_AFTER_END; with OWNERS: OWNED_FREED, BEGIN_ENDING, GROUP_UNSEEN; with ROOTS: SET_FORGETS, REPLY_UNSEEN,
 * DEAD_IN_PAUSE; with INTENTS: INTENTS_UNSEEN; with OPERATOR: RECLAIM_ANYTIME.
 */
#ifndef COLLECTORS
#define COLLECTORS 1
#endif
#ifndef ATTACHES
#define ATTACHES 1
#endif

/* Workers, and their sessions. */
#define A 0
#define C 1
#define N 2
/* Modes. */
#define KEEP    0
#define RECLAIM 1
#define GROUP   2
/* States of sessions and groups. */
#define FREE   0
#define OPEN   1
#define ENDING 2

/* --- shared words --- */

bit alloc;
bit remote;
unsigned lease : 2;  /* 0: nobody's; else the session's worker, plus 1 */
bit owner;           /* the span is owned by A, or by its group */
bit adopted;         /* by A, or its group; in a span without an owner */
bit hold;            /* A's intent names the place */
bit slot[2];         /* two words of an object that is always there */
bit root;
unsigned state : 2 = OPEN; /* of A's session */
unsigned nstate : 2;       /* of N's */
unsigned nepoch : 2;
unsigned gstate : 2;       /* of the group */
unsigned role : 2;         /* collecting: the collector that has it */

/* --- processes --- */

unsigned mode : 2;
bit alive[3];
bit mapped[3];
bit stopped[3];
unsigned tracer0 : 2;
unsigned tracer1 : 2;
unsigned tracer2 : 2;
bit reg[3];          /* what a stopped process shows: registers and memory */
bit secret[3];       /* it has, or makes, or frees the object, and shows no pointer */
bit asking;          /* N waits for a reply that has a pointer: what its page of declarations says */
bit msg;             /* A's request to make the object the root lies in the socket */
bit answered;        /* N's reply lies in the socket, */
bit reply;           /* with that pointer */
bit unlinking;       /* ghost: a slot is guarded by a lock that A holds, or that nobody takes before A is settled */
bit reclaiming;      /* of the daemon, private */
bit gone[3];         /* collector k is dead, and the daemon has not noticed */

#define TRACER(w)        ((w) == A -> tracer0 : ((w) == C -> tracer1 : tracer2))
#define SET_TRACER(w, k) if :: (w) == A -> tracer0 = (k) :: (w) == C -> tracer1 = (k) :: else -> tracer2 = (k) fi

#define RUNS(w) (alive[w] && !stopped[w])
#define LIVES   (alloc && !remote)
#define KNOWN   (slot[0] || slot[1] || root || msg || reply)
#define HAS(w)  (reg[w] || secret[w])
#define REACHED (KNOWN || HAS(A) || HAS(C) || HAS(N))
/* Nobody reaches the object but worker w. */
#define LAST(w) (!KNOWN && !hold && ((w) == A || !HAS(A)) && ((w) == C || !HAS(C)) && ((w) == N || !HAS(N)))
/* It is the heap's: no end of a session or group frees it. */
#define HEAPS   (!owner && !adopted)

/* --- workers --- */

inline die(w)
{
    alive[w] = 0;
    mapped[w] = 0;
    stopped[w] = 0;
    reg[w] = 0;
    secret[w] = 0;
    SET_TRACER(w, 0);
    if
    :: w == N -> asking = 0; answered = 0; reply = 0
    :: else
    fi
}

/* A step of worker me; it may be killed instead, also while it is stopped. */
#define STEP(action) if :: atomic { RUNS(me) -> action } :: atomic { alive[me] -> die(me) } goto dead fi

#define LEASES (me != C && RUNS(me) && lease == me + 1)

proctype worker(byte me)
{
    bit live;

dead:
    live = 0;
    if
    :: atomic { alive[me] && RUNS(me) } /* A at the start, C after a fork */
    :: atomic { me == N && nstate == FREE && nepoch < ATTACHES -> nstate = OPEN; nepoch++; alive[N] = 1 }
        STEP(mapped[N] = 1)
    fi;


    do
    :: atomic { alive[me] -> die(me) } goto dead
    /* memory */
    :: atomic { RUNS(me) && slot[0] && !unlinking && !reg[me] -> reg[me] = 1 }
    :: atomic { RUNS(me) && slot[1] && !unlinking && !reg[me] -> reg[me] = 1 }
    :: atomic { RUNS(me) && reg[me] && HEAPS && !slot[0] && !unlinking -> slot[0] = 1 }
    :: atomic { RUNS(me) && reg[me] && HEAPS && !slot[1] && !unlinking -> slot[1] = 1 }
    :: atomic { RUNS(me) && slot[0] && !unlinking -> slot[0] = 0 }
    :: atomic { RUNS(me) && slot[1] && !unlinking -> slot[1] = 0 }
    :: atomic { RUNS(me) && reg[me] -> reg[me] = 0 }
    /* malloc: the alloc bit, then the pointer */
    :: atomic { LEASES && !alloc && !remote -> assert(!REACHED); alloc = 1; secret[me] = 1 }
        STEP(reg[me] = 1; secret[me] = 0)
    /* a fold by the span's lessee */
    :: atomic { LEASES && remote && !hold -> assert(!REACHED); alloc = 0; adopted = 0 }
        STEP(remote = 0)
    /* its own free: it has looked; the alloc bit */
    :: atomic { LEASES && reg[me] && LAST(me) && !adopted -> assert(LIVES); secret[me] = 1; reg[me] = 0 }
        STEP(assert(LIVES); alloc = 0; secret[me] = 0)
    /* a remote free: it looks, sets the remote bit, and needs the pointer until then */
    :: atomic { me != C && RUNS(me) && lease != me + 1 && reg[me] && LAST(me) && HEAPS ->
                assert(LIVES); secret[me] = 1 }
#ifdef FREE_FORGETS
        reg[me] = 0;
#endif
        STEP(assert(LIVES && LAST(me)); remote = 1; secret[me] = 0; reg[me] = 0)
    /* a span goes back; one that is owned, without objects */
    :: atomic { LEASES && (!owner || (!alloc && !remote)) -> owner = 0; lease = 0 }
#ifdef FORK
    :: atomic { me == A && RUNS(A) && !alive[C] -> alive[C] = 1; mapped[C] = 1; reg[C] = reg[A] && HEAPS;
#ifndef NO_TRACEFORK
                tracer1 = tracer0
#endif
              }
#endif
#ifdef OWNERS
    :: atomic { me == A && mode != KEEP && RUNS(A) && reg[A] && LAST(A) && HEAPS && LIVES && lease == 0 ->
                adopted = 1 }
#endif
#ifdef ROOTS
    /* set the root; the pointer is kept until the reply */
    :: atomic { me == A && RUNS(A) && reg[A] && HEAPS && !root -> msg = 1 }
#ifdef SET_FORGETS
        reg[A] = 0;
#endif
        STEP(!msg)
    :: atomic { me == A && RUNS(A) && root -> root = 0 }
    /* look the root up */
    :: atomic { me == N && RUNS(N) && !reg[N] && !secret[N] && root -> asking = 1 }
        STEP(answered -> reg[N] = reply; asking = 0; answered = 0; reply = 0)
#endif
#ifdef INTENTS
    /* unlink_free: hold, slot, look, remote bit, the hold goes */
    :: atomic { me == A && RUNS(A) && !reg[A] && slot[0] && !slot[1] && !root && !msg && !reply && !HAS(C) &&
                !HAS(N) && HEAPS ->
                unlinking = 1; hold = 1 }
        STEP(slot[0] = 0);
        STEP(live = LIVES);
        if
        :: live -> STEP(assert(LIVES && !REACHED); remote = 1)
        :: !live
        fi;
        STEP(hold = 0; unlinking = 0; live = 0)
#endif
    od
}

/* --- the daemon --- */

/* A step of the daemon, after which another one may begin anew. */
#define STAY if :: true :: true -> reclaiming = 0; goto again fi

inline fold()
{
    atomic {
        if
        :: remote && !hold -> assert(!REACHED); alloc = 0; adopted = 0
        :: else
        fi;
        STAY
    }
    atomic {
        if
        :: remote && !alloc -> remote = 0
        :: else
        fi;
        STAY
    }
}

/* The lease of a session that has ended; the objects of a span that is owned go, if the owner ends with it. */
inline end_lease(w)
{
    if
    :: lease == w + 1 ->
        fold();
        if
        :: owner && mode == RECLAIM ->
            atomic { assert(!REACHED || hold); alloc = alloc && hold; STAY }
            atomic { owner = 0; STAY }
        :: else
        fi;
        atomic { lease = 0; STAY }
    :: else
    fi
}

/* What A, or its group, has adopted: the adoption goes, then the object is freed. */
inline end_adopted()
{
    if
    :: adopted ->
        atomic { adopted = 0; live = LIVES; STAY }
        if
        :: live -> atomic { assert(LIVES && !REACHED); remote = 1; live = 0; STAY }
        :: else
        fi
    :: else
    fi
}

inline settle()
{
    if
    :: hold ->
        atomic { live = LIVES && !slot[0]; STAY }
        if
        :: live -> atomic { assert(LIVES && !REACHED); remote = 1; live = 0; STAY }
        :: else
        fi;
        atomic { hold = 0; unlinking = 0; STAY }
    :: else
    fi
}

#define IS_FREE (lease == 0 && !owner && !alloc && !remote && !adopted)

proctype daemon()
{
    bit live;

again:
    live = 0;
end:
    do
    :: atomic { IS_FREE && alive[A] && state == OPEN -> lease = A + 1; owner = (mode != KEEP) }
    :: atomic { IS_FREE && alive[N] && mapped[N] && nstate == OPEN -> lease = N + 1 }
    :: lease == 0 && remote && !hold -> fold()
    :: atomic { msg -> root = 1; msg = 0 }
    :: atomic { asking && !answered -> answered = 1; reply = root }
    /* A is dead: its requests have been read before */
    :: atomic { !alive[A] && !msg && state == OPEN -> state = ENDING }
    :: state == ENDING ->
        settle();
        end_lease(A);
        if
        :: mode == RECLAIM -> end_adopted()
        :: else
        fi;
        state = FREE
    :: atomic { !alive[N] && nstate == OPEN -> nstate = ENDING }
    :: nstate == ENDING -> end_lease(N); nstate = FREE
    /* the group ends after its sessions and their children */
    :: atomic { gstate == OPEN && state == FREE && !alive[C] -> gstate = ENDING }
    :: gstate == ENDING ->
        if
        :: owner ->
            fold();
            atomic { assert(!REACHED); alloc = 0; STAY }
            atomic { owner = 0; STAY }
        :: else
        fi;
        end_adopted();
        gstate = FREE
    /* an operator has freed what a dead session has left, and what he knows that nobody reaches */
#ifdef OPERATOR
#ifdef RECLAIM_ANYTIME
    :: atomic { lease == 0 && LIVES && HEAPS && !hold && !REACHED && !reclaiming -> reclaiming = 1 }
#else
    :: atomic { role == 0 && lease == 0 && LIVES && HEAPS && !hold && !REACHED && !reclaiming -> reclaiming = 1 }
#endif
        atomic { if :: LIVES -> live = 1 :: else fi; STAY }
        if
        :: live -> atomic { assert(LIVES && !REACHED); remote = 1; STAY }
        :: else
        fi;
        reclaiming = 0
#endif
    :: atomic { role != 0 && gone[role] -> gone[role] = 0; role = 0 }
#ifdef ROLE_LOST
    :: atomic { role != 0 -> gone[role] = 0; role = 0 }
#endif
    od
}

/* --- the collector --- */

inline let_go(w)
{
    if
    :: TRACER(w) == k -> stopped[w] = 0; SET_TRACER(w, 0)
    :: else
    fi
}

/* A step of the collector, after which it may be dead. */
#define SURVIVE if :: true :: goto killed fi
#define ABORT   goto resume

inline seize(w)
{
    atomic {
        if
        :: TRACER(w) == k
        :: TRACER(w) == 0 && alive[w] && mapped[w] -> SET_TRACER(w, k)
        :: else -> ABORT
        fi;
        SURVIVE
    }
}

#define UNSEEN(w) (alive[w] && mapped[w] && TRACER(w) != k)
#define RUNNING(w) (TRACER(w) == k && !stopped[w])

proctype collector(byte k)
{
    bit found;     /* something that is stopped, or a root, has the object */
    bit candidate; /* it lived */
    bit freeing;   /* it is garbage */
    bit open, nopen, gopen;
    unsigned epoch : 2;
    bit r;
    unsigned at : 4; /* what of the heap is read next */
    bit looked;      /* at who is stopped */
#ifdef ALL
    unsigned lessee : 2;
    bit insideA, insideN; /* a thread of it is in the library */
#endif

idle:
#ifdef ALL
    lessee = 0; insideA = 0; insideN = 0;
#endif
    atomic { found = 0; candidate = 0; freeing = 0; open = 0; nopen = 0; gopen = 0; epoch = 0; r = 0; at = 0; looked = 0 }
end:
    /* BEGIN */
#ifdef NO_ROLE
    true;
#else
#ifdef RECLAIM_ANYTIME
    atomic { role == 0 && !gone[k] -> role = k };
#else
    atomic { role == 0 && !reclaiming && !gone[k] -> role = k };
#endif
#endif

    /* PREPARE */
    atomic {
        open = (state != FREE);
        nopen = (nstate != FREE);
        gopen = (gstate != FREE);
        epoch = nepoch;
#ifndef BEGIN_ENDING
        if
        :: state == ENDING || nstate == ENDING -> ABORT
        :: else
        fi;
#endif
#ifndef GROUP_UNSEEN
        if
        :: gstate == ENDING -> ABORT
        :: else
        fi;
#endif
        SURVIVE
    }

#ifndef NO_STOP
    /* SEIZE: a session's process that is dead, or does not map the arena, ends the cycle */
    if
#ifdef BEGIN_ENDING
    :: open && state == ENDING
    :: open && state != ENDING -> seize(A)
#else
    :: open -> seize(A)
#endif
    :: !open
    fi;
    if
#ifdef SKIP_UNMAPPED
    :: nopen && alive[N] && !mapped[N]
    :: nopen && (!alive[N] || mapped[N]) -> seize(N)
#else
#ifdef BEGIN_ENDING
    :: nopen && nstate == ENDING
    :: nopen && nstate != ENDING -> seize(N)
#else
    :: nopen -> seize(N)
#endif
#endif
    :: !nopen
    fi;

    /* the search, until it finds nothing more */
#ifndef NO_SEARCH
    do
    :: atomic { UNSEEN(A) -> if :: tracer0 == 0 -> tracer0 = k :: else -> ABORT fi }
    :: atomic { UNSEEN(C) -> if :: tracer1 == 0 -> tracer1 = k :: else -> ABORT fi }
    :: atomic { UNSEEN(N) -> if :: tracer2 == 0 -> tracer2 = k :: else -> ABORT fi }
    :: atomic { !UNSEEN(A) && !UNSEEN(C) && !UNSEEN(N) -> SURVIVE; break }
    od;
#endif

    /* STOP */
    do
    :: atomic { RUNNING(A) -> stopped[A] = 1; SURVIVE }
    :: atomic { RUNNING(C) -> stopped[C] = 1; SURVIVE }
    :: atomic { RUNNING(N) -> stopped[N] = 1; SURVIVE }
    :: atomic { !RUNNING(A) && !RUNNING(C) && !RUNNING(N) -> break }
    :: ABORT /* too late */
    od;
#endif

    /*
     * SNAPSHOT: one thread reads the bits, the words of the span, holds, roots, objects, in this order; others the
     * registers and memory of who is stopped, before, after or between
     */
    do
#ifdef ALLOC_FIRST
    :: atomic { at == 0 -> candidate = alloc; at++; SURVIVE }
    :: atomic { at == 1 -> candidate = candidate && !remote; at++; SURVIVE }
#else
    :: atomic { at == 0 -> r = remote; at++; SURVIVE }
    :: atomic { at == 1 -> candidate = alloc && !r; r = 0; at++; SURVIVE }
#endif
    :: atomic {
        at == 2 ->
#ifdef ALL
        lessee = lease;
#elif !defined(LEASE_LATE) && !defined(LEASED_FREED)
        found = found || lease != 0;
#endif
        at++;
        SURVIVE
    }
    :: atomic {
        at == 3 ->
#ifndef OWNED_FREED
        found = found || owner;
#endif
        at++;
        SURVIVE
    }
    :: atomic { at == 4 -> found = found || adopted; at++; SURVIVE }
    :: atomic {
        at == 5 ->
#ifndef INTENTS_UNSEEN
        found = found || hold;
#endif
        at++;
        SURVIVE
    }
    :: atomic { at == 6 -> found = found || root; at++; SURVIVE }
    :: atomic { at == 7 -> found = found || slot[0]; at++; SURVIVE }
    :: atomic { at == 8 -> found = found || slot[1]; at++; SURVIVE }
#ifdef NO_STOP
    :: atomic { !looked -> found = found || reg[A] || reg[C] || reg[N]; looked = 1; SURVIVE }
#else
    :: atomic {
        !looked ->
        if
        :: tracer0 == k -> found = found || reg[A]
#ifndef DEAD_IN_PAUSE
        :: tracer0 != k && open && state != ENDING -> ABORT
#endif
        :: else
        fi;
        if
        :: tracer1 == k -> found = found || reg[C]
        :: else
        fi;
        if
        :: tracer2 == k -> found = found || reg[N];
#ifndef REPLY_UNSEEN
            if
            :: asking -> ABORT
            :: else
            fi
#endif
#if !defined(DEAD_IN_PAUSE) && !defined(SKIP_UNMAPPED)
        :: tracer2 != k && nopen && nstate != ENDING -> ABORT
#endif
        :: else
        fi;
#ifdef ALL
        insideA = secret[A];
        insideN = secret[N];
#endif
        looked = 1;
        SURVIVE
    }
#endif
    :: atomic {
        at == 9 && looked ->
#ifdef ALL
        /* no thread of the lessee's is in the library */
        found = found || (lessee == A + 1 && insideA) || (lessee == N + 1 && insideN);
        lessee = 0;
        insideA = 0;
        insideN = 0;
#endif
        at = 0;
        looked = 0;
        break
    }
    od;

    /* VALIDATE */
#ifndef NO_VALIDATION
    atomic {
        if
        :: open != (state != FREE) || nopen != (nstate != FREE) || epoch != nepoch -> ABORT
#ifndef BEGIN_ENDING
        :: state == ENDING || nstate == ENDING -> ABORT
#endif
#ifndef GROUP_UNSEEN
        :: gopen != (gstate != FREE) || gstate == ENDING -> ABORT
#endif
        :: else
        fi;
        SURVIVE
    }
#endif
#ifdef HEAP_LATE
    atomic { candidate = alloc && !remote; SURVIVE }
#endif
    freeing = candidate && !found;

resume:
    atomic {
#ifndef STAY_STOPPED
        let_go(C);
#endif
        let_go(A);
        let_go(N);
        candidate = 0; found = 0; open = 0; nopen = 0; gopen = 0; epoch = 0; r = 0; at = 0; looked = 0;
        SURVIVE
    }

#ifdef FREE_AFTER_END
    atomic { if :: role == k -> role = 0 :: else fi }
#endif

    /* FREE: it lives still; the remote bit */
#ifdef LEASE_LATE
    freeing = freeing && lease == 0;
#endif
    if
    :: freeing ->
        atomic { assert(LIVES); SURVIVE }
        atomic { assert(LIVES && !REACHED); remote = 1; SURVIVE }
    :: else
    fi;

    /* END */
    atomic { if :: role == k -> role = 0 :: else fi; goto idle }

killed:
    atomic { let_go(A); let_go(C); let_go(N); if :: role == k -> gone[k] = 1 :: else fi; goto idle }
}

#if defined(NO_ROLE) || defined(ROLE_LOST)
#define MAY_TRACE true
#else
#define MAY_TRACE (role != 0)
#endif

/* Who is stopped has a tracer, and who has one is in a cycle of it. */
#define NOBODY_STAYS                                                                                                 \
    ((!stopped[A] || tracer0 != 0) && (!stopped[C] || tracer1 != 0) && (!stopped[N] || tracer2 != 0) &&                \
     (MAY_TRACE || (tracer0 == 0 && tracer1 == 0 && tracer2 == 0)))

proctype watcher()
{
end:
    atomic { !((NOBODY_STAYS) && (!REACHED || LIVES)) -> assert(false) }
}

init
{
    atomic {
        if
        :: mode = KEEP
#ifdef OWNERS
        :: mode = RECLAIM
        :: mode = GROUP; gstate = OPEN
#endif
        fi;
        alive[A] = 1;
        mapped[A] = 1;
        run worker(A);
#ifdef FORK
        run worker(C);
#endif
        run worker(N);
        run daemon();
        run collector(1);
#if COLLECTORS == 2
        run collector(2);
#endif
        run watcher()
    }
}
