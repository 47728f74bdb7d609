/*
 * Screen: the whole terminal, for top.
 */
#ifndef GOALLOC_CLIENT_CTL_SCREEN_H
#define GOALLOC_CLIENT_CTL_SCREEN_H

#include <stdbool.h>

/* What screen_key() returns besides characters. */
enum {
    SCREEN_NO_KEY = -1,
    SCREEN_GONE = -2, /* the terminal is */
    SCREEN_UP = 1000,
    SCREEN_DOWN,
    SCREEN_PAGE_UP,
    SCREEN_PAGE_DOWN,
    SCREEN_RESIZED
};

enum screen_look { SCREEN_PLAIN, SCREEN_BOLD, SCREEN_REVERSE };

/*
 * Take the terminal. False: stdin and stdout are none, or one of which not enough is known. It is given back by
 * screen_close(), by exit(), and by every signal that ends the process and can be caught.
 */
bool screen_open(void);
void screen_close(void);

int screen_lines(void);
int screen_columns(void);

/* Draw anew: what is in the lines from 0 on, cut to the columns; then it is shown. */
void screen_begin(void);
void screen_draw(int line, const char *text, enum screen_look look);
void screen_end(void);

/* Wait for a key, that long at most. */
int screen_key(int timeout_ms);

#endif
