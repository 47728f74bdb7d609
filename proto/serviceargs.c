/*
 * Serviceargs: argp as the services use it. Called by their options.c. Data: none.
 */
#include "proto/serviceargs.h"

#define EXIT_COMMAND_LINE 2

error_t serviceargs_other(int key, const char *arg, struct argp_state *state)
{
    if (key != ARGP_KEY_ARG)
        return ARGP_ERR_UNKNOWN;
    argp_error(state, "'%s': there are options alone", arg);
    return 0;
}

void serviceargs_parse(const struct argp *argp, int argc, char **argv, void *options)
{
    argp_err_exit_status = EXIT_COMMAND_LINE;
    (void)argp_parse(argp, argc, argv, 0, NULL, options);
}
