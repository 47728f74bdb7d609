/*
 * Screen: ncurses, and the way back.
 *
 * Called by top.c alone. Data: ncurses' own, and what is needed to give the terminal back: its modes, and the sequences
 * that leave the alternate screen, show the cursor and end attributes, which are looked up when the terminal is taken.
 *
 * A signal that ends the process gives the terminal back first, by write() and tcsetattr(), which a handler may call;
 * endwin() is none of these. Then the signal has its usual effect, so that a shell sees what has ended it. The handlers
 * are set before newterm(), which leaves them alone. SIGTSTP and SIGWINCH are ncurses' own. After SIGKILL the terminal
 * is as it was left.
 *
 * Text reaches this file fit for a terminal (ctl.c). In a locale that is not UTF-8 what is not ASCII becomes '?'.
 */
#include "client/ctl/screen.h"

#include "client/ctl/ctl.h" /* before those of ncurses, which have macros of common names */

#include <curses.h>
#include <langinfo.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <term.h>
#include <termios.h>
#include <unistd.h>

#define LINE_BYTES 1024u

static struct {
    SCREEN *screen; /* NULL: the terminal is not taken */
    volatile sig_atomic_t taken;
    struct termios modes;
    char leave[256];
    size_t leave_bytes;
    bool utf8;
} the;

/* --- the way back --- */

static const int ending_signals[] = { SIGINT,  SIGTERM, SIGHUP, SIGQUIT, SIGPIPE,
                                      SIGABRT, SIGSEGV, SIGBUS, SIGFPE,  SIGILL };

/* Its disposition is the default by now (SA_RESETHAND), and it is blocked until this returns. */
static void on_ending_signal(int number)
{
    if (the.taken) {
        ssize_t n = write(STDOUT_FILENO, the.leave, the.leave_bytes);

        (void)n;
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &the.modes);
    }
    (void)raise(number);
}

static int remember(int c)
{
    if (the.leave_bytes < sizeof(the.leave))
        the.leave[the.leave_bytes++] = (char)c;
    return c;
}

static void remember_string(const char *capability)
{
    char *sequence = tigetstr((NCURSES_CONST char *)(uintptr_t)capability);

    if (sequence != NULL && sequence != (char *)-1)
        (void)tputs(sequence, 1, remember);
}

void screen_close(void)
{
    if (the.screen == NULL)
        return;
    (void)endwin();
    the.taken = 0;
    delscreen(the.screen);
    the.screen = NULL;
}

bool screen_open(void)
{
    struct sigaction action = { .sa_handler = on_ending_signal, .sa_flags = (int)SA_RESETHAND };
    int found;

    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) || tcgetattr(STDIN_FILENO, &the.modes) < 0)
        return false;
    if (setupterm(NULL, STDOUT_FILENO, &found) != OK) /* newterm() would say so on stderr, and leak */
        return false;
    (void)del_curterm(cur_term);
    for (size_t i = 0; i < sizeof(ending_signals) / sizeof(ending_signals[0]); i++) {
        struct sigaction old;

        if (sigaction(ending_signals[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            (void)sigaction(ending_signals[i], &action, NULL);
    }
    the.screen = newterm(NULL, stdout, stdin);
    if (the.screen == NULL)
        return false;
    the.leave_bytes = 0;
    remember_string("sgr0");
    remember_string("rmkx");
    remember_string("cnorm");
    remember_string("rmcup");
    the.taken = 1;
    (void)atexit(screen_close);
    the.utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    (void)cbreak();
    (void)noecho();
    (void)keypad(stdscr, TRUE);
    (void)curs_set(0);
    return true;
}

/* --- drawing --- */

int screen_lines(void)
{
    return LINES;
}

int screen_columns(void)
{
    return COLS;
}

void screen_begin(void)
{
    (void)erase();
}

void screen_draw(int line, const char *text, enum screen_look look)
{
    char shown[LINE_BYTES];
    attr_t attribute = look == SCREEN_BOLD ? A_BOLD : look == SCREEN_REVERSE ? A_REVERSE : A_NORMAL;

    if (line >= LINES || COLS < 1)
        return;
    (void)snprintf(shown, sizeof(shown), "%s", text);
    (void)ctl_pad(shown, sizeof(shown), (size_t)COLS);
    for (char *c = shown; !the.utf8 && *c != '\0'; c++) {
        if ((*c & 0x80) != 0)
            *c = '?';
    }
    (void)attrset((int)attribute);
    (void)mvaddstr(line, 0, shown);
    (void)attrset(A_NORMAL);
}

void screen_end(void)
{
    (void)refresh();
}

/* --- keys --- */

int screen_key(int timeout_ms)
{
    struct pollfd input = { .fd = STDIN_FILENO };
    int key;

    timeout(timeout_ms);
    key = getch();
    switch (key) {
    case KEY_UP:
        return SCREEN_UP;
    case KEY_DOWN:
        return SCREEN_DOWN;
    case KEY_PPAGE:
        return SCREEN_PAGE_UP;
    case KEY_NPAGE:
        return SCREEN_PAGE_DOWN;
    case KEY_RESIZE:
        return SCREEN_RESIZED;
    case ERR:
        return poll(&input, 1, 0) > 0 && (input.revents & (POLLHUP | POLLERR)) != 0 ? SCREEN_GONE : SCREEN_NO_KEY;
    default:
        return key < 256 ? key : SCREEN_NO_KEY;
    }
}
