/*
 * Crash: named points at which a test can have a process killed. An ordinary build has none of them.
 *
 * They are compiled in with -DGOALLOC_CRASH_POINTS=ON. Then $GOALLOC_CRASH, "name" or "name:n", makes a process kill
 * itself with SIGKILL when it comes to that point for the n-th time (the first by default), its forked children
 * counted. Points stand between the stores of the sequences that change shared state.
 */
#ifndef GOALLOC_SHM_CRASH_H
#define GOALLOC_SHM_CRASH_H

/*
 * X(name, who passes it): c the library, r the library in a session that reclaims, n the library in one that samples, d
 * the daemon, g the daemon when sessions have a group, b the daemon when a process comes back to it, q the daemon when
 * many sessions have come and gone, e the daemon when it settles what a dead process has left half done, p the daemon
 * when sessions begin or cease to sample, k the daemon when a session collects, a the collector while others go on or
 * stand still, t the daemon when it takes over a heap, s when it is stopped and drops the heap, l when it lets a heap go
 * that it does not take over, f when it reads its configuration again; h its helper; i who saves an image, and o the
 * daemon when it loads one.
 */
/* clang-format off: a line has points that follow each other */
#define CRASH_POINTS(X)                                                                                       \
    X(malloc_before_bit, c) X(malloc_after_bit, c)                                                            \
    X(own_free_before_bit, c) X(own_free_after_kept, r) X(own_free_after_bit, c)                              \
    X(magazine_push, c) X(magazine_pop, c) X(magazine_flush, c)                                               \
    X(remote_free_before_bit, c) X(remote_free_after_bit, c)                                                  \
    X(fold_before_alloc, c) X(fold_after_alloc, c) X(fold_after_remote, c)                                    \
    X(tiny_open_after_word, c) X(tiny_add_after_bit, c)                                                       \
    X(tiny_free_after_bit, c) X(tiny_end_after_bit, c)                                                        \
    X(tiny_remote_after_hint, c) X(tiny_remote_after_bit, c) X(tiny_fold_after_alloc, c)                      \
    X(sample_before_record, n) X(sample_before_bit, n) X(sample_after_bit, n) X(large_after_record, c)        \
    X(refill_after_reply, c) X(return_before_send, c) X(return_after_send, c)                                 \
    X(large_before_bit, c) X(large_after_bit, c) X(large_free_after_word, c) X(large_free_after_bit, c)       \
    X(large_remote_before_message, c)                                                                         \
    X(offer_before_word, c) X(offer_after_word, c) X(offer_after_take_back, c)                                \
    X(publish_after_bit, r) X(adopt_before_reply, r)                                                          \
    X(intent_after_record, c) X(intent_after_hold, c) X(intent_after_release, c)                              \
    X(unlink_after_slot, c) X(unlink_after_free, c) X(link_after_publish, r) X(link_after_slot, r)            \
    X(graph_after_publish, r)                                                                                 \
    X(settle_after_free, e) X(settle_after_unpublish, e) X(settle_after_release, e)                           \
    X(making_after_reserve, c) X(making_after_alloc, c) X(making_after_announce, c) X(making_after_init, c)   \
    X(making_after_publish, r) X(making_after_finish, c)                                                      \
    X(profile_after_claim, n) X(profile_after_fill, n) X(profile_after_site, n) X(profile_after_sample, n)    \
    X(span_after_description, d) X(span_after_bits, d) X(span_after_map, d)                                   \
    X(lease_after_mark, d) X(lease_after_origin, d) X(lease_after_owner, d) X(lease_after_list, d)            \
    X(lease_after_word, d)                                                                                    \
    X(refill_before_reply, d) X(lease_end_after_unlink, d)                                                    \
    X(reclaim_after_fold, d) X(reclaim_after_bits, d)                                                         \
    X(offer_before_take, d) X(offer_after_take, d) X(offer_after_lease_end, d)                                \
    X(sweep_after_word, d) X(sweep_after_claim, d) X(put_after_word, d)                                       \
    X(free_span_after_word, d) X(free_span_after_map, d) X(unmap_after_entries, d) X(unmap_after_npages, d)   \
    X(extend_after_map, d) X(extend_after_npages, d)                                                          \
    X(shrink_after_npages, d) X(shrink_after_map, d)                                                          \
    X(session_after_sign, d) X(session_after_shelf, d) X(session_after_token, d) X(session_before_state, d)   \
    X(session_after_died, d)                                                                                  \
    X(session_after_state, d) X(session_end_half, d)                                                          \
    X(process_half, d) X(process_after_inode, d)                                                              \
    X(group_after_shelf, g)                                                                                   \
    X(group_before_word, g) X(group_after_word, g) X(group_after_ending, g) X(group_end_half, g)              \
    X(group_before_free, g) X(group_after_free, g)                                                            \
    X(label_half, d)                                                                                          \
    X(root_after_entry, d) X(root_after_name, d) X(root_after_set, d)                                         \
    X(root_after_pending, d) X(root_change_after_value, d) X(root_change_after_word, d)                       \
    X(root_reuse_after_word, d) X(root_after_done, d)                                                         \
    X(adopt_after_counters, d) X(adopt_after_entry, d) X(adopt_after_kept, d)                                 \
    X(adopt_remove_after_entry, d) X(adopt_remove_after_counters, d)                                          \
    X(arena_after_npages, d) X(zeroed_base_after, d) X(backed_base_after, d)                                  \
    X(shelf_after_gather, q) X(shelf_after_take_out, q)                                                       \
    X(profile_after_shelf, p) X(profile_after_header, p) X(profile_after_feature, p) X(profile_half_words, p) \
    X(profile_before_remove, p)                                                                               \
    X(reload_before_apply, f) X(reload_half_applied, f) X(reload_after_apply, f)                              \
    X(reattach_before_reply, b) X(reattach_after_own, b)                                                      \
    X(shelf_half_read, t)                                                                                     \
    X(version_after_optional, t) X(version_after_minor, t)                                                    \
    X(recover_after_files, t) X(recover_half_spans, t) X(recover_after_heap, t) X(recover_half_sessions, t)   \
    X(recover_after_sessions, t) X(helper_after_epoch, t)                                                     \
    X(helper_before_ready, h) X(helper_before_fill, h) X(holes_half_fill, h) X(helper_after_fill, h)          \
    X(helper_after_word, h) X(holes_after_bits, h) X(holes_before_pages, h) X(helper_after_punch, h)          \
    X(helper_after_clear, h) X(helper_before_answer, h) X(helper_after_answer, h)                             \
    X(drop_after_word, s) X(let_go_after_word, l)                                                             \
    X(collect_before_word, k) X(collect_after_word, k) X(collect_after_confirm, k) X(collect_after_end, k)    \
    X(collector_after_begin, a) X(collector_after_prepare, a) X(collector_after_seize, a)                     \
    X(collector_after_stop, a) X(collector_after_heap, a) X(collector_after_words, a)                         \
    X(collector_after_validate, a) X(collector_after_resume, a) X(collector_half_freed, a)                    \
    X(collector_after_free, a) X(collector_after_end, a)                                                      \
    X(image_after_part, i) X(image_after_block, i) X(image_before_header, i) X(image_before_sync, i)          \
    X(image_before_rename, i) X(image_after_rename, i)                                                        \
    X(load_after_tables, o) X(load_after_block, o) X(load_after_pages, o) X(load_after_mark, o)
/* clang-format on */

#ifdef GOALLOC_CRASH_POINTS
void crash_here(const char *name);
#define CRASH_POINT(name) crash_here(#name)
#else
#define CRASH_POINT(name) ((void)0)
#endif

#endif
