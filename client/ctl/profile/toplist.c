/*
 * Toplist: sums by name. A function that calls itself counts once a stack.
 */
#include "client/ctl/profile/toplist.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int by_amount(const void *a, const void *b)
{
    const toplist_row *one = a;
    const toplist_row *other = b;

    if (one->own != other->own)
        return one->own < other->own ? 1 : -1;
    if (one->all != other->all)
        return one->all < other->all ? 1 : -1;
    return strcmp(one->function, other->function);
}

int toplist_make(toplist *t, const snapshot *s, const symbols *sy, enum snapshot_value value)
{
    size_t *last; /* chain that has counted for a name, plus 1 */

    *t = (toplist){ 0 };
    if (chains_init(&t->chains, s, sy, value) < 0)
        return -ENOMEM;
    t->n = t->chains.nnames;
    t->rows = calloc(t->n, sizeof(t->rows[0]));
    last = calloc(t->n, sizeof(last[0]));
    if (t->rows == NULL || last == NULL) {
        free(last);
        toplist_free(t);
        return -ENOMEM;
    }
    for (size_t i = 0; i < t->n; i++)
        t->rows[i].function = t->chains.names[i];
    for (size_t i = 0; i < t->chains.n; i++) {
        const chain *p = &t->chains.list[i];
        uint64_t amount = p->row->values[value];

        t->rows[p->names[p->n - 1]].own += amount;
        for (uint32_t k = 0; k < p->n; k++) {
            if (last[p->names[k]] != i + 1)
                t->rows[p->names[k]].all += amount;
            last[p->names[k]] = i + 1;
        }
    }
    free(last);
    qsort(t->rows, t->n, sizeof(t->rows[0]), by_amount);
    while (t->n > 0 && t->rows[t->n - 1].all == 0)
        t->n--;
    return 0;
}

void toplist_free(toplist *t)
{
    chains_free(&t->chains);
    free(t->rows);
    *t = (toplist){ 0 };
}
