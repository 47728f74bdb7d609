/*
 * Elffile: what a file says about addresses in it, for a process of its own.
 */
#ifndef GOALLOC_CLIENT_CTL_PROFILE_ELFFILE_H
#define GOALLOC_CLIENT_CTL_PROFILE_ELFFILE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define ELFFILE_TEXT_MAX  1000u /* bytes of a name */
#define ELFFILE_LINES_MAX 16u   /* functions that are inlined into each other at a place */

/* What is written: an ELFFILE_LINE for each line of a place, innermost first, and an ELFFILE_END last. */
enum elffile_kind { ELFFILE_LINE = 0x4c494e45, ELFFILE_END = 0x454e4421 };

enum elffile_verdict { ELFFILE_READ, ELFFILE_OTHER_BUILD, ELFFILE_BROKEN };

typedef struct elffile_record {
    uint32_t kind;
    uint32_t verdict; /* END: an enum elffile_verdict */
    uint32_t place;   /* LINE: its number among those that were asked for */
    uint32_t line;
    uint32_t nfunction; /* bytes of text that follow, one behind the other */
    uint32_t nlinkage;
    uint32_t nfile;
    uint32_t reserved;
    uint64_t start; /* END: of its code, if it was read */
    uint64_t limit;
    uint64_t file_offset;
} elffile_record;

/*
 * Look up n addresses in the file that fd is, if it has that build id, and write records to out. Takes fd. The path is
 * that by which separate debugging information is looked for.
 */
void elffile_read(int fd, const char *path, const uint8_t *build_id, uint32_t build_id_bytes,
                  const uint64_t *addresses, size_t n, FILE *out);

#endif
