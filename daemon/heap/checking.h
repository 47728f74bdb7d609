/*
 * Checking: how a table is recounted while it changes.
 *
 * x_validate_begin() and then x_validate_step(), until it is not VALIDATE_E_MORE, go over a table in slices. Between
 * two of them the table changes, so a count of what has been gone over would be wrong at the end. It is kept right: who
 * changes something that lies before the place up to which has been counted changes the count, too. So at the end
 * counted and noted figures are those of one moment, whatever has gone on meanwhile; and a word that was forgotten in
 * either is found. What concerns one entry alone (links, summaries, what two words say of the same) is compared when it
 * is its turn.
 *
 * The cost for who changes something is a comparison, while nothing is checked too.
 */
#ifndef GOALLOC_DAEMON_HEAP_CHECKING_H
#define GOALLOC_DAEMON_HEAP_CHECKING_H

/* What a caller handles itself: the next step goes on. */
enum { VALIDATE_E_MORE = 1 };

#endif
