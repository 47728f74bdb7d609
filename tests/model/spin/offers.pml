/*
 * Offers: one span of one object, which a worker offers and takes back, and the daemon takes and leases to others.
 *
 * Two workers, a daemon and its successors. One access to a shared word is one step; a daemon may die between any two.
 *
 *   worker 0  leases, allocates, frees, offers, takes back, forgets, comes back (client/lib/offer.c, comeback.c); it
 *             frees remotely what worker 1 has allocated there
 *   worker 1  leases, allocates, hands the object to worker 0, folds and returns
 *   daemon    ages and takes offers, leases, takes over (daemon/heap/lease.c, offers.c)
 *
 * A file of words is another one after a takeover: words[f]. Worker 0 maps file `mapped`, the daemon file `served`, of
 * which there is none until the worker has come back.
 *
 * Switches: DAEMON_DEATHS; LEASES: how many leases are given at all, which makes the states finite.
 */
#ifndef DAEMON_DEATHS
#define DAEMON_DEATHS 2
#endif
#ifndef LEASES
#define LEASES 4
#endif

#define NOBODY 2 /* lease */
#define NO_FILE 255

#define NONE    0
#define OFFERED 1
#define SEEN    2
#define TAKEN   3

#define WORD(state, n) ((state) + 4 * (n)) /* NONE is always 0 */

#define STANDS(word, n) ((word) == WORD(OFFERED, n) || (word) == WORD(SEEN, n))

/* Shared words. */
byte lease = NOBODY, nleases = 0;
bit alloc = 0, remote = 0;
byte words[DAEMON_DEATHS + 1];

/* The connection of worker 0, and its file. */
bool up = true;
byte mapped = 0, served = 0, nfiles = 0;
byte reply[2]; /* 1: the span was leased to the worker, which has not seen it yet */
byte daemons_left = DAEMON_DEATHS;
bool dead = false; /* the daemon is, and the next one has not begun */

/* Ghosts: who may write the alloc bit; whether an object lives, and whether it is worker 0's to free. */
bool writes[2];
bool live = false;
bool his = false;

#define FREE_IT live = false; his = false

/* --- worker 0 --- */

#define FORGOTTEN 0
#define HELD      1
#define OUT       2 /* offered */

byte structure = FORGOTTEN, n0;
bool forgetting = false;
bool unknown = false; /* it may lease a span that it does not know */

proctype worker0()
{
    byte w, l;

end:
    do
    /* refill */
    :: atomic { structure == FORGOTTEN && reply[0] == 1 ->
           reply[0] = 0; structure = HELD; n0 = nleases; assert(lease == 0); writes[0] = true }
    /* malloc, own free; fold is not needed: nobody else frees what worker 0 holds */
    :: structure == HELD && !live && alloc == 0 ->
       atomic { assert(writes[0] && !writes[1]); alloc = 1; live = true; his = true }
    :: atomic { structure == HELD && live && his -> assert(writes[0] && !writes[1] && alloc == 1); alloc = 0; FREE_IT }
    /* remote free of what worker 1 has handed over */
    :: atomic { structure != HELD && live && his -> assert(alloc == 1 && remote == 0); remote = 1; FREE_IT }
    /* offer */
    :: structure == HELD && !live && alloc == 0 ->
#ifdef OWNER_AFTER_WORD
       words[mapped] = WORD(OFFERED, n0);
       atomic { writes[0] = false; structure = OUT }
#else
       atomic { writes[0] = false; structure = OUT }
       words[mapped] = WORD(OFFERED, n0)
#endif
    /* take back */
    :: structure == OUT ->
       atomic {
           w = words[mapped];
           if
           :: STANDS(w, n0) -> words[mapped] = NONE; structure = HELD; writes[0] = true; w = 255
           :: else
           fi
       }
       if
       :: w == 255
       :: w != 255 && w == WORD(TAKEN, n0) -> goto forget
       :: w != 255 && w != WORD(TAKEN, n0) ->
#ifndef NO_LEASE_CHECK
          l = lease;
          if
          :: l != 0 || nleases != n0 -> goto forget
          :: else
          fi;
#endif
          atomic { structure = HELD; writes[0] = true }
       fi;
       w = 0; l = 0;
       goto end
    od;
forget:
    atomic { structure = FORGOTTEN; forgetting = true }
    l = lease;
#ifndef NO_UNKNOWN
    if
    :: l == 0 && nleases == n0 -> unknown = true
    :: else
    fi;
#endif
    atomic { forgetting = false; w = 0; l = 0; goto end }
}

/* Another thread of worker 0, which sends a request. */
proctype comeback0()
{
    byte w;

end:
    do
    /* coming back: new words, at one stroke; then what it leases and does not know is returned */
    :: atomic { !up && !dead -> up = true; nfiles = nfiles + 1; served = nfiles; reply[0] = 0; w = nfiles }
       atomic { mapped = w; unknown = true; w = 0 }
    :: atomic { up && !dead && unknown && served == mapped && reply[0] == 0 ->
           unknown = false;
           if
           :: lease == 0 && structure == FORGOTTEN && words[mapped] != WORD(TAKEN, nleases) ->
              lease = NOBODY; assert(!writes[0] && !writes[1])
           :: else
           fi
       }
    od
}

/* --- worker 1 --- */

proctype worker1()
{
end:
    do
    :: atomic { reply[1] == 1 -> reply[1] = 0; assert(lease == 1); writes[1] = true }
    :: atomic { writes[1] && !live && alloc == 0 && remote == 0 -> assert(!writes[0]); alloc = 1; live = true }
    :: atomic { writes[1] && live && !his -> his = true } /* handed over */
    :: atomic { writes[1] && live && !his -> assert(alloc == 1); alloc = 0; FREE_IT }
    :: writes[1] && remote == 1 -> atomic { assert(!writes[0]); alloc = 0 } remote = 0 /* fold */
    /* return, with an object in it or without; a daemon that is gone does not get it */
    :: atomic { writes[1] && !dead && remote == 0 -> writes[1] = false; lease = NOBODY }
    od
}

/* --- the daemon --- */

#define DIE :: daemons_left > 0 -> goto died

proctype daemon()
{
    byte n, to;

serve:
    atomic { n = 0; to = 0 }
end:
    do
    DIE
    /* lease; pages of a span without object are made anew, others are leased as they are */
    :: atomic { lease == NOBODY && nleases < LEASES && (alloc & (1 - remote)) == 0 ->
           if
           :: up && structure == FORGOTTEN && !unknown -> to = 0
           :: to = 1
           fi;
           alloc = 0; remote = 0 }
       nleases = nleases + 1;
       if
       DIE
       :: atomic { lease = to; reply[to] = 1 } goto serve
       fi
    /* age */
    :: atomic { served != NO_FILE && lease == 0 && words[served] == WORD(OFFERED, nleases) ->
           words[served] = WORD(SEEN, nleases) }
    /* take: look, swap, end the lease */
    :: atomic { served != NO_FILE && lease == 0 && STANDS(words[served], nleases) -> n = nleases }
       if
       :: (alloc & (1 - remote)) != 0 -> goto serve
       :: else
       fi;
#ifdef STORE_TAKEN
       words[served] = WORD(TAKEN, n);
#else
       atomic {
           if
           :: STANDS(words[served], n) -> words[served] = WORD(TAKEN, n)
           :: else -> goto serve
           fi
       }
#endif
       if
       DIE
       :: atomic { lease = NOBODY; assert(!writes[0]) } goto serve
       fi
    od;
died:
    atomic { dead = true; daemons_left = daemons_left - 1; up = false; served = NO_FILE; n = 0; to = 0 }
    atomic { dead = false; if :: lease == 1 && !writes[1] -> lease = NOBODY; reply[1] = 0 :: else fi } /* reply lost */
    goto serve
}

/* Worker 0 leases the span and does not know it, nothing of that is on its way, and nobody will look. */
#define LOST                                                                                                        \
    (up && !dead && lease == 0 && structure == FORGOTTEN && !forgetting && !unknown && reply[0] == 0 &&             \
     mapped == served && words[mapped] != WORD(TAKEN, nleases))

/* In every state: the alloc bit has one writer, who leases the span; what lives is what the bits say; none is lost. */
proctype watcher()
{
end:
    atomic { LOST || !(!(writes[0] && writes[1]) && (!writes[0] || lease == 0) && (!writes[1] || lease == 1) &&
               (!live || (alloc == 1 && remote == 0))) -> assert(false) }
}

init
{
    atomic { run worker0(); run comeback0(); run worker1(); run daemon(); run watcher() }
}
