/*
 * completion: scripts for shells, from the tables of command.h: goallocctl completion.
 *
 * The build runs it and installs what it prints, so a new command or option is completed without a word here. Both
 * scripts find the command among the words before the cursor, for which they know which options have a value.
 */
#include <stdio.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"

static bool is_zsh;

bool completion_set(const arguments *args)
{
    is_zsh = strcmp(args->words[0], "zsh") == 0;
    return is_zsh || strcmp(args->words[0], "bash") == 0;
}

/* Of the option, as patterns of a case: "--socket|-s". */
static void print_pattern(const option_row *row)
{
    (void)printf("--%s", row->name);
    if (row->key < OPTION_NO_LETTER)
        (void)printf("|-%c", row->key);
}

/* The options that have a value which must be there, as one pattern. */
static void print_value_pattern(void)
{
    bool any = false;

    for (const option_row *row = option_rows; row->name != NULL; row++) {
        if (row->value == NULL || row->optional)
            continue;
        (void)fputs(any ? "|" : "", stdout);
        print_pattern(row);
        any = true;
    }
}

/* The names of all commands, or what the arguments of one may be. */
static void print_words(const command *c)
{
    if (c == NULL || (c->values != NULL && strcmp(c->values, "COMMAND") == 0)) {
        for (const command *one = commands; one->name != NULL; one++)
            (void)printf("%s%s", one == commands ? "" : " ", one->name);
    } else if (c->values != NULL && strcmp(c->values, "KEY") == 0) {
        for (size_t i = 0; i < stats_figures(); i++)
            (void)printf("%s%s", i == 0 ? "" : " ", stats_figure_name(i));
    } else {
        (void)fputs(c->values, stdout);
    }
}

static void print_values(const option_row *row)
{
    if (strcmp(row->values, "KEY") == 0)
        (void)fputs(roster_key_names(), stdout);
    else
        (void)fputs(row->values, stdout);
}

/* The command among the words before the cursor, in `command`; words is the shell's name for them. */
static void print_finder(const char *words, int first, const char *end)
{
    (void)printf("    for ((i = %d; i < %s; i++)); do\n"
                 "        case ${%s[i]} in\n        ",
                 first, end, words);
    print_value_pattern();
    (void)printf(")\n"
                 "            ((i++))\n"
                 "            [[ ${%s[i]} == = ]] && ((i++))\n"
                 "            ;;\n"
                 "        -*|=) ;;\n"
                 "        *) command=${%s[i]}; break ;;\n"
                 "        esac\n"
                 "    done\n",
                 words, words);
}

/* --- bash --- */

static void print_bash_values(void)
{
    (void)puts("    [[ $cur == = ]] && cur=\n"
               "    [[ $prev == = ]] && ((COMP_CWORD > 1)) && prev=${COMP_WORDS[COMP_CWORD-2]}\n"
               "    case $prev in");
    for (const option_row *row = option_rows; row->name != NULL; row++) {
        bool file = row->values != NULL && strcmp(row->values, "file") == 0;
        bool dir = row->values != NULL && strcmp(row->values, "dir") == 0;

        if (row->value == NULL || row->optional)
            continue;
        (void)fputs("    ", stdout);
        print_pattern(row);
        (void)fputs(")\n        ", stdout);
        if (file || dir) {
            (void)printf("mapfile -t COMPREPLY < <(compgen -%c -- \"$cur\")\n", file ? 'f' : 'd');
        } else if (row->values != NULL) {
            (void)fputs("mapfile -t COMPREPLY < <(compgen -W '", stdout);
            print_values(row);
            (void)puts("' -- \"$cur\")");
        } else {
            (void)puts(":");
        }
        (void)puts("        return ;;");
    }
    (void)puts("    esac");
}

static void print_bash_options(void)
{
    (void)fputs("        words='", stdout);
    for (const option_row *row = option_rows; row->name != NULL; row++) {
        if (row->commands == NULL)
            (void)printf("%s--%s", row == option_rows ? "" : " ", row->name);
    }
    (void)puts("'\n        case $command in");
    for (const command *c = commands; c->name != NULL; c++) {
        (void)printf("        %s) words+='", c->name);
        for (const option_row *row = option_rows; row->name != NULL; row++) {
            if (row->commands != NULL && command_has(c, row))
                (void)printf(" --%s", row->name);
        }
        (void)puts("' ;;");
    }
    (void)puts("        esac");
}

static void print_bash(void)
{
    (void)puts("# bash completion for goallocctl. Made by: goallocctl completion bash\n"
               "_goallocctl()\n"
               "{\n"
               "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= words= i\n"
               "    COMPREPLY=()");
    print_finder("COMP_WORDS", 1, "COMP_CWORD");
    print_bash_values();
    (void)puts("    if [[ $cur == -* ]]; then");
    print_bash_options();
    (void)fputs("    elif [[ -z $command ]]; then\n        words='", stdout);
    print_words(NULL);
    (void)puts("'\n    else\n        case $command in");
    for (const command *c = commands; c->name != NULL; c++) {
        if (c->values == NULL)
            continue;
        (void)printf("        %s) words='", c->name);
        print_words(c);
        (void)puts("' ;;");
    }
    (void)puts("        esac\n"
               "    fi\n"
               "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
               "}\n"
               "complete -F _goallocctl goallocctl");
}

/* --- zsh --- */

/* Text within '...' and within [...] of a specification. */
static void print_quoted(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '\'')
            (void)fputs("'\\''", stdout);
        else if (strchr("[]:\\", *text) != NULL)
            (void)printf("\\%c", *text);
        else
            (void)putchar(*text);
    }
}

static void print_zsh_option(const option_row *row)
{
    if (row->key < OPTION_NO_LETTER)
        (void)printf("'(-%c --%s)'{-%c%s,--%s%s}'[", row->key, row->name, row->key,
                     row->value != NULL && !row->optional ? "+" : "", row->name,
                     row->value != NULL && !row->optional ? "=" : row->optional ? "=-" : "");
    else
        (void)printf("'--%s[", row->name);
    print_quoted(row->help);
    (void)putchar(']');
    if (row->value != NULL) {
        (void)printf(":%s%s:", row->optional ? ":" : "", row->value);
        if (row->values != NULL && strcmp(row->values, "file") == 0) {
            (void)fputs("_files", stdout);
        } else if (row->values != NULL && strcmp(row->values, "dir") == 0) {
            (void)fputs("_files -/", stdout);
        } else if (row->values != NULL) {
            (void)putchar('(');
            print_values(row);
            (void)putchar(')');
        }
    }
    (void)putchar('\'');
}

static void print_zsh(void)
{
    (void)puts("#compdef goallocctl\n"
               "# zsh completion for goallocctl. Made by: goallocctl completion zsh\n"
               "_goallocctl()\n"
               "{\n"
               "    local command= i\n"
               "    local -a specs names values");
    print_finder("words", 2, "CURRENT");
    (void)puts("    specs=(");
    for (const option_row *row = option_rows; row->name != NULL; row++) {
        if (row->commands != NULL)
            continue;
        (void)fputs("        ", stdout);
        print_zsh_option(row);
        (void)putchar('\n');
    }
    (void)puts("    )\n    names=(");
    for (const command *c = commands; c->name != NULL; c++) {
        (void)printf("        '%s:", c->name);
        print_quoted(c->summary);
        (void)puts("'");
    }
    (void)puts("    )\n    case $command in");
    for (const command *c = commands; c->name != NULL; c++) {
        (void)printf("    %s)\n        specs+=(", c->name);
        for (const option_row *row = option_rows; row->name != NULL; row++) {
            if (row->commands == NULL || !command_has(c, row))
                continue;
            (void)fputs("\n            ", stdout);
            print_zsh_option(row);
        }
        (void)fputs(")\n        values=(", stdout);
        if (c->values != NULL)
            print_words(c);
        (void)puts(")\n        ;;");
    }
    (void)puts("    esac\n"
               "    if [[ -z $command ]]; then\n"
               "        _arguments -s $specs '1:command:{_describe command names}'\n"
               "    else\n"
               "        _arguments -s $specs '1:command:' '*:argument:{compadd -a values}'\n"
               "    fi\n"
               "}\n"
               "_goallocctl \"$@\"");
}

int completion_run(const arguments *args)
{
    if (args->json)
        return ctl_fail(CTL_E_USAGE, 0, "completion: a script is no JSON; goallocctl --json help has what is in it");
    if (is_zsh)
        print_zsh();
    else
        print_bash();
    return fflush(stdout) == 0 ? CTL_OK : ctl_fail(CTL_E_OUTPUT, 0, "stdout can't be written");
}
