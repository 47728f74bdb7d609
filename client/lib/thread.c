/*
 * Thread: the list of mcaches, from a thread's first use of the heap to its exit.
 *
 * Called by refill.c (first use), pthread (a thread exits), the loader (the process exits, or loads or unloads the
 * library) and attach.c (detach, fork). Calls mcache.c, pool.c and mspan.c. Data: private, under list_lock.
 *
 * A thread that exits gives its spans to the pool and its mcache to the next thread. It does so under list_lock, which
 * a detach takes too, so that they do not meet. client/README.md has the order of locks; none is held over a wait.
 */
#include "client/lib/thread.h"

#include <pthread.h>

#include "client/lib/pool.h"

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static mcache *free_mcaches;
static mcache *all_mcaches;
static mcache *made_mcaches; /* all, by next_made */
static mcache *old_mcaches;  /* those of made_mcaches from here on are the parent's: free in this child */

static pthread_key_t exit_key;
static shm_u32 have_exit_key;

/*
 * A thread that allocated in the last round of its destructors has left its mcache, and this one has the name that it
 * had: so the spans count as its own, and the mcache must too. list_lock is held.
 */
static mcache *left_behind(void)
{
    mcache *mc = all_mcaches;

    while (mc != NULL && mc->thread != thread_self())
        mc = mc->next;
    return mc;
}

/* Memory for an mcache: one that a thread has left, one of the parent's, or new. list_lock is held. NULL: none. */
static mcache *mcache_new(void)
{
    mcache *mc = free_mcaches;
    void *p;

    if (mc != NULL) {
        free_mcaches = mc->next;
    } else if (old_mcaches != NULL) {
        mc = old_mcaches;
        old_mcaches = mc->next_made;
    } else if (mapping_private(mcache_bytes(), MAPPING_UNWIPED_UNIT, &p) == 0) {
        mc = p;
        mc->next_made = made_mcaches;
        made_mcaches = mc;
    }
    return mc;
}

mcache *thread_make_mcache(void)
{
    mcache *mc;

    (void)pthread_mutex_lock(&list_lock);
    mc = left_behind();
    if (mc == NULL) {
        mc = mcache_new();
        if (mc != NULL) {
            mcache_clear(mc);
            mc->thread = thread_self();
            mc->next = all_mcaches;
            all_mcaches = mc;
        }
    }
    (void)pthread_mutex_unlock(&list_lock);
    if (mc == NULL)
        return NULL;
    mc->trim_seen = process_trim_seq();
    mcache_tls = mc;
    if (u32_load_acquire(&have_exit_key) != 0)
        (void)pthread_setspecific(exit_key, mc);
    return mc;
}

/* A thread ends: its spans go to the process. list_lock is held. */
static void leave(mcache *mc)
{
    mcache_count_all(mc);
    mcache_close_tiny(mc);
    mcache_tls = &mcache_none;
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        mcache_put_current(mc, i);
        if (mc->slots[i].all != NULL)
            pool_put(mc->slots[i].all);
    }
    for (mcache **at = &all_mcaches; *at != NULL; at = &(*at)->next) {
        if (*at == mc) {
            *at = mc->next;
            break;
        }
    }
    mc->next = free_mcaches;
    free_mcaches = mc;
}

/* A thread that ends is not within the library for its user, who may detach meanwhile: hence the lock. */
static void on_thread_exit(void *data)
{
    (void)process_state_now(); /* in a child that does not know it yet this makes mcache_tls another one */
    (void)pthread_mutex_lock(&list_lock);
    if (data == mcache_tls && data != &mcache_none)
        leave(data);
    (void)pthread_mutex_unlock(&list_lock);
}

/* The process ends: the main thread's counts come in too. Or a program unloads the static library with a module. */
__attribute__((destructor)) static void on_process_exit(void)
{
    if (process_state_now() == PROCESS_ATTACHED)
        mcache_count_all(mcache_tls);
    if (u32_load_acquire(&have_exit_key) != 0) {
        u32_store_release(&have_exit_key, 0);
        (void)pthread_key_delete(exit_key); /* threads that end later must not come here */
    }
}

/* Before other constructors, which may allocate. */
__attribute__((constructor(101))) static void thread_init(void)
{
    /* At load time the key is one of the first, so that setting it never allocates. */
    u32_store_release(&have_exit_key, pthread_key_create(&exit_key, on_thread_exit) == 0);
}

void thread_forget_all(void)
{
    (void)pthread_mutex_lock(&list_lock);
    for (mcache *mc = all_mcaches; mc != NULL; mc = mc->next)
        mcache_count_all(mc);
    process_close_gate();
    pool_forget();
    /* mcaches stay, since threads point to them; spans need no walk, their table is unmapped. */
    for (mcache *mc = all_mcaches; mc != NULL; mc = mc->next) {
        for (uint32_t i = 0; i < SLOT_COUNT; i++)
            mspan_free_all(mc->slots[i].all);
        mcache_clear(mc);
    }
    (void)pthread_mutex_unlock(&list_lock);
}

/*
 * One of the parent's mcaches is still that of the thread that has forked. If this is another thread, the child's own,
 * it can't take it away from there: so that one stays empty, the structures that it named stay zero, and that thread
 * gets another mcache when it needs one (thread_mcache). Which of them it is, is not known: none is used again.
 */
void thread_reset(bool is_forker)
{
    (void)pthread_mutex_init(&list_lock, NULL);
    free_mcaches = NULL;
    all_mcaches = NULL;
    old_mcaches = is_forker ? made_mcaches : NULL;
    for (mcache *mc = is_forker ? NULL : made_mcaches; mc != NULL; mc = mc->next_made)
        mcache_clear(mc);
    pool_reset();
    mspan_reset(is_forker);
    mcache_tls = &mcache_none;
    if (u32_load_acquire(&have_exit_key) != 0)
        (void)pthread_setspecific(exit_key, NULL);
}
