/*
 * handle: the text by which a process opens a block of another one.
 *
 * Called by buffer.c. The form is "goalloc1:HEAP:KEY:HOLDER", all of it lower-case hexadecimal: the heap's id, the
 * block's key (32 digits), and the word of whoever gave the handle out, which holds the block (block.c). A text from
 * outside is any text: it names a block only if the table of blocks has its key, and what is dropped by it was held for
 * handles (block_handle()), never what a process's buffers or a name hold.
 */
#include "handle.h"

#include <stdio.h>
#include <string.h>

#define PREFIX "goalloc1:"
#define DIGITS_MAX 16

void handle_write(char text[HANDLE_MAX], uint64_t heap, const char key[BLOCK_KEY], holder who)
{
    char hex[(size_t)2 * BLOCK_KEY + 1] = "";

    for (size_t i = 0; i < BLOCK_KEY; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", (unsigned)(unsigned char)key[i]);
    (void)snprintf(text, HANDLE_MAX, PREFIX "%llx:%s:%llx", (unsigned long long)heap, hex, (unsigned long long)who);
}

static int digit_of(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The number up to `end`, which is passed over; false if it is none. */
static bool parse_number(const char **at, char end, uint64_t *ret)
{
    size_t n = 0;

    *ret = 0;
    for (; digit_of(**at) >= 0 && n < DIGITS_MAX; (*at)++, n++)
        *ret = *ret << 4 | (uint64_t)digit_of(**at);
    return n > 0 && *(*at)++ == end;
}

bool handle_parse(const char *text, uint64_t *ret_heap, char key[BLOCK_KEY], holder *ret_who)
{
    const char *at = text + strlen(PREFIX);

    if (strncmp(text, PREFIX, strlen(PREFIX)) != 0 || !parse_number(&at, ':', ret_heap))
        return false;
    for (size_t i = 0; i < BLOCK_KEY; i++, at += 2) {
        if (digit_of(at[0]) < 0 || digit_of(at[1]) < 0)
            return false;
        key[i] = (char)(digit_of(at[0]) << 4 | digit_of(at[1]));
    }
    return *at++ == ':' && parse_number(&at, '\0', ret_who) && block_handle(*ret_who) == *ret_who;
}
