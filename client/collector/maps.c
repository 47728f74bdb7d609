/*
 * maps: reads /proc/PID/maps. See maps.h.
 *
 * Called by targets.c, ranges.c and shared.c. Data: the caller's, used again.
 *
 * Names are whatever a process has chosen, but for this: a name of a file begins with '/', anonymous memory that was
 * named is "[anon:...]", and a newline in a name is written as \012. So an entry without a file whose name is "[vdso]"
 * is the kernel's.
 */
#include "client/collector/maps.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/collector/grow.h"

static const char *hex(const char *at, uint64_t *ret)
{
    uint64_t value = 0;

    for (;; at++) {
        unsigned char c = (unsigned char)*at;

        if (c >= '0' && c <= '9')
            value = value << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (uint64_t)(c - 'a' + 10);
        else
            break;
    }
    *ret = value;
    return at;
}

/* "start-end perms offset major:minor inode name". NULL: it is not as expected; else the line's end. */
static char *parse(char *line, maps_entry *ret)
{
    maps_entry entry = { 0 };
    uint64_t major, minor;
    const char *at = hex(line, &entry.start);
    char *name, *end;

    if (*at != '-')
        return NULL;
    at = hex(at + 1, &entry.end);
    if (*at != ' ' || strnlen(at, 6) < 6)
        return NULL;
    entry.readable = at[1] == 'r';
    entry.writable = at[2] == 'w';
    entry.accessible = at[1] == 'r' || at[2] == 'w' || at[3] == 'x';
    entry.shared = at[4] == 's';
    at = hex(at + 6, &entry.offset);
    if (*at != ' ')
        return NULL;
    at = hex(at + 1, &major);
    if (*at != ':')
        return NULL;
    at = hex(at + 1, &minor);
    entry.file.device = major << 32 | minor;
    entry.file.inode = strtoull(at, &name, 10);
    while (*name == ' ')
        name++;
    end = strchr(name, '\n');
    if (end == NULL || entry.end <= entry.start)
        return NULL;
    *end = '\0';
    entry.name = name;
    *ret = entry;
    return end + 1;
}

int maps_parse(maps *m)
{
    char *line = m->text.text;

    m->n = 0;
    while (*line != '\0') {
        maps_entry *entries = grow(m->entries, &m->room, m->n + 1, 256, sizeof(*entries));

        if (entries == NULL)
            return -ENOMEM;
        m->entries = entries;
        line = parse(line, &m->entries[m->n]);
        if (line == NULL)
            return -EPROTO;
        m->n++;
    }
    return 0;
}

int maps_read(maps *m, pid_t pid)
{
    int r = proc_read(&m->text, pid, "maps");

    m->n = 0;
    return r == 0 ? maps_parse(m) : r;
}

void maps_free(maps *m)
{
    proc_text_free(&m->text);
    free(m->entries);
    *m = (maps){ 0 };
}

const maps_entry *maps_at(const maps *m, uint64_t address)
{
    uint32_t low = 0, high = m->n;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (m->entries[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < m->n && m->entries[low].start <= address ? &m->entries[low] : NULL;
}

bool maps_text_has_file(const char *text, maps_file file)
{
    char wanted[64];

    (void)snprintf(wanted, sizeof(wanted), " %02" PRIx64 ":%02" PRIx64 " %" PRIu64 " ", file.device >> 32,
                   file.device & UINT32_MAX, file.inode);
    return strstr(text, wanted) != NULL;
}

int maps_has_file(proc_text *text, pid_t pid, maps_file file)
{
    int r = proc_read(text, pid, "maps");

    return r < 0 ? r : maps_text_has_file(text->text, file); /* a name can only make it look closer */
}
