/*
 * Magazine: a thread's slot of two spans with two objects each, whose frees go through a magazine, while another process
 * frees remotely, a third worker gets the spans that are given back, and the thread may die between any two steps.
 *
 *   owner    malloc (magazine, cache, load), free (push, past the magazine), flush, return, the end of the thread
 *            (client/lib/alloc.c, magazine.h, mcache.c, refill.c, thread.c)
 *   freer    frees remotely what lives, of whomever
 *   other    leases a span that is free, or that the owner has left; allocates in it, and returns it
 *   watcher  what has to be true in every state
 *
 * One access to a shared word is one step; private steps are merged with the access before or after them.
 *
 * Broken on purpose: LOAD_EARLY (a word is loaded while the magazine has entries), EMPTY_BY_BITS (a span is returned
 * whose bits are all clear, though the magazine has entries of it), LEAVE_UNFLUSHED (a thread ends, and its spans go on
 * while its magazine is in use), CACHED_PUSH (a free of a cached word is pushed and put into the cache as well).
 */
#define FREE  0 /* the daemon's */
#define OWNER 1
#define OTHER 2

#define BIT(o)  (1 << ((o) % 2))
#define SPAN(o) ((o) / 2)
#define NONE    9

typedef words {
    unsigned lease : 2;
    unsigned alloc : 2;
    unsigned remote : 2;
    unsigned live : 2; /* ghost: returned by a malloc, and no free of it has taken effect */
};

words span[2];
byte pending[2] = NONE; /* ghost, of owner and other: the object whose bit is set and which malloc has not returned */
bit alive = 1;
bit left;

/* The owner's, global for the watcher's sake. */
byte mag[2] = NONE;
byte nmag;
byte cache;         /* objects of the current span */
byte current = NONE;
byte used[2];       /* of spans that are not current: mspan.nfrees */
bit held[2];

#define COUNT(x)   (((x) & 1) + ((x) >> 1))
#define FREE_OF(s) (~span[s].alloc & 3)
#define IN_MAG(o)  ((nmag > 0 && mag[0] == (o)) || (nmag > 1 && mag[1] == (o)))

inline fold(s, r)
{
    r = span[s].remote;
    if
    :: r == 0
    :: else ->
        span[s].alloc = span[s].alloc & ~r;
        atomic { span[s].remote = span[s].remote & ~r; r = 0 }
    fi
}

inline set_bit(w, who, o)
{
    atomic {
        assert(span[SPAN(o)].lease == who);              /* nobody else writes the alloc word */
        assert((span[SPAN(o)].live & BIT(o)) == 0);      /* it has no owner */
        assert(pending[0] != o && pending[1] != o);
        span[SPAN(o)].alloc = span[SPAN(o)].alloc | BIT(o);
        pending[w] = o
    }
    atomic { span[SPAN(o)].live = span[SPAN(o)].live | BIT(o); pending[w] = NONE }
}

inline flush()
{
    do
    :: atomic { nmag > 0 -> nmag--; 
        if
        :: SPAN(mag[nmag]) != current -> used[SPAN(mag[nmag])]--
        :: else
        fi;
        mag[nmag] = NONE }
    :: atomic { nmag == 0 -> break }
    od
}

#define OWN_FREE(O)                                                                                                  \
    :: atomic { held[SPAN(O)] && (span[SPAN(O)].live & BIT(O)) -> o = O; /* nobody else frees it */                     \
        span[SPAN(O)].live = span[SPAN(O)].live & ~BIT(O) } goto do_free

proctype owner()
{
    byte o, s, r;

next:
    atomic { o = 0; s = 0; r = 0 }
    do
    :: !alive -> goto dead
    :: atomic { nmag > 0 -> nmag--; o = mag[nmag]; mag[nmag] = NONE } set_bit(0, OWNER, o); goto next
    :: atomic { nmag == 0 && cache != 0 -> s = (cache & 1 -> 0 : 1); cache = cache & ~(1 << s); o = current * 2 + s }
        set_bit(0, OWNER, o); goto next
#ifdef LOAD_EARLY
    :: cache == 0 -> goto do_load
#else
    :: nmag == 0 && cache == 0 -> goto do_load
#endif
    OWN_FREE(0)
    OWN_FREE(1)
    OWN_FREE(2)
    OWN_FREE(3)
    :: goto do_flush
#ifdef EMPTY_BY_BITS
    :: atomic { held[0] && current != 0 && span[0].alloc == 0 -> s = 0 } goto do_return
    :: atomic { held[1] && current != 1 && span[1].alloc == 0 -> s = 1 } goto do_return
#else
    :: atomic { held[0] && current != 0 && used[0] == 0 -> s = 0 } goto do_return
    :: atomic { held[1] && current != 1 && used[1] == 0 -> s = 1 } goto do_return
#endif
    :: goto do_leave
    od;

do_load: /* refill_near, refill_far */
    if
    :: current != NONE -> fold(current, r); atomic { cache = FREE_OF(current) }
    :: current == NONE
    fi;
    if
    :: cache != 0 -> goto next
    :: else
    fi;
    atomic {
        if
        :: current != NONE -> used[current] = 2; current = NONE
        :: else
        fi
    }
    if
    :: atomic { held[0] -> s = 0 }
    :: atomic { held[1] -> s = 1 }
    :: atomic { !held[0] && span[0].lease == FREE -> span[0].lease = OWNER; held[0] = 1; used[0] = 0; s = 0 }
    :: atomic { !held[1] && span[1].lease == FREE -> span[1].lease = OWNER; held[1] = 1; used[1] = 0; s = 1 }
    :: goto next
    fi;
    fold(s, r);
    atomic { current = s; cache = FREE_OF(s) }
    goto next;

do_free: /* own_free */
    assert(span[SPAN(o)].alloc & ~span[SPAN(o)].remote & BIT(o)); /* it is not taken for a double free */
    if
    :: atomic { nmag < 2 -> mag[nmag] = o; nmag++;
        span[SPAN(o)].alloc = span[SPAN(o)].alloc & ~BIT(o);
#ifdef CACHED_PUSH
        if
        :: SPAN(o) == current -> cache = cache | BIT(o)
        :: else
        fi
#endif
        }
    :: atomic { true -> span[SPAN(o)].alloc = span[SPAN(o)].alloc & ~BIT(o);
        if
        :: SPAN(o) != current -> used[SPAN(o)]--
        :: else
        fi }
    fi;
    goto next;

do_flush: /* trim: flush, then fold what is not current */
    flush();
    goto next;

do_return: /* mspan_delete, then the lease ends: the message is the daemon's store */
    atomic { held[s] = 0; used[s] = 0 }
    atomic { assert(span[s].lease == OWNER); assert(span[s].live == 0); span[s].lease = FREE }
    goto next;

do_leave: /* the thread ends: its spans go to another one of the process */
#ifndef LEAVE_UNFLUSHED
    flush();
    atomic { current = NONE; cache = 0; held[0] = 0; held[1] = 0; left = 1; used[0] = 0; used[1] = 0 }
    goto gone;
#else
    atomic { current = NONE; cache = 0; held[0] = 0; held[1] = 0; left = 1; used[0] = 0; used[1] = 0 }
    goto next;
#endif
dead:
    atomic { nmag = 0; mag[0] = NONE; mag[1] = NONE; current = NONE; cache = 0; held[0] = 0; held[1] = 0; left = 1;
        used[0] = 0; used[1] = 0; pending[0] = NONE }
gone:
    skip
}

#define REMOTE_FREE(O)                                                                                               \
    :: atomic { (span[SPAN(O)].live & BIT(O)) && !(span[SPAN(O)].remote & BIT(O)) ->                                   \
        span[SPAN(O)].remote = span[SPAN(O)].remote | BIT(O); span[SPAN(O)].live = span[SPAN(O)].live & ~BIT(O) }

active proctype freer()
{
end:
    do
    REMOTE_FREE(0)
    REMOTE_FREE(1)
    REMOTE_FREE(2)
    REMOTE_FREE(3)
    od
}

#define OTHER_TAKES(S)                                                                                               \
    :: atomic { span[S].lease == FREE || (left && span[S].lease == OWNER) -> span[S].lease = OTHER }                   \
    :: atomic { span[S].lease == OTHER -> s = S } fold(s, r);                                                          \
        if                                                                                                           \
        :: atomic { FREE_OF(s) != 0 -> o = s * 2 + (FREE_OF(s) & 1 -> 0 : 1) } set_bit(1, OTHER, o)                    \
        :: atomic { span[s].alloc == 0 -> span[s].lease = FREE }                                                     \
        :: true                                                                                                      \
        fi

active proctype other()
{
    byte o, s, r;

end:
    do
    OTHER_TAKES(0)
    OTHER_TAKES(1)
    od
}

active proctype fate()
{
end:
    if
    :: alive = 0
    fi
}

#define TOLD(o) ((span[SPAN(o)].live & BIT(o)) != 0)
#define FREE_BIT(o) ((span[SPAN(o)].alloc & BIT(o)) == 0)

/* What lives has its alloc bit and no remote bit. */
#define SPAN_IS_RIGHT(s) ((span[s].live & ~(span[s].alloc & ~span[s].remote)) == 0)
/* An entry is free by the bits, in a span that the thread holds, and in no cache. */
#define IS_RIGHT(o)                                                                                                  \
    (!TOLD(o) && FREE_BIT(o) && span[SPAN(o)].lease == OWNER && (SPAN(o) != current || (cache & BIT(o)) == 0))
#define ALL_IS_RIGHT                                                                                                 \
    (SPAN_IS_RIGHT(0) && SPAN_IS_RIGHT(1) && (nmag < 1 || IS_RIGHT(mag[0])) &&                                         \
        (nmag < 2 || (IS_RIGHT(mag[1]) && mag[0] != mag[1])))

active proctype watcher()
{
end:
    atomic { !ALL_IS_RIGHT -> assert(false) }
}

init
{
    run owner()
}
