/*
 * reload: what has become of the configuration that the daemon was asked to read again: goallocctl reload.
 */
#include <stdio.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "proto/reload.h"

#define TEXT_BYTES 1024

static const char *result_of(const Goallocd__ReloadKey *key)
{
    return key->result == RELOAD_APPLIED ? "applied" : key->result == RELOAD_REFUSED ? "refused" : "unchanged";
}

/* What has not become as files and command line want it, to stderr, since the command fails then. */
static void print_key(const Goallocd__ReloadKey *key)
{
    bool refused = key->result == RELOAD_REFUSED;
    FILE *out = refused ? stderr : stdout;
    char name[64];
    char old[TEXT_BYTES];
    char wanted[TEXT_BYTES];
    char origin[TEXT_BYTES];

    (void)fprintf(out, "%s %s: '%s' -> '%s'%s%s\n", refused ? "refused" : "applied",
                  ctl_plain_text(key->name, name, sizeof(name)), ctl_plain_text(key->old, old, sizeof(old)),
                  ctl_plain_text(key->wanted, wanted, sizeof(wanted)), key->origin[0] != '\0' ? ", " : "",
                  ctl_plain_text(key->origin, origin, sizeof(origin)));
}

void reload_text(const Goallocd__Reply *reply)
{
    const Goallocd__ReloadReply *r = reply->reload;
    unsigned n[3] = { 0, 0, 0 };

    for (size_t i = 0; i < r->n_keys; i++) {
        n[r->keys[i]->result <= RELOAD_REFUSED ? r->keys[i]->result : RELOAD_UNCHANGED]++;
        if (r->keys[i]->result != RELOAD_UNCHANGED)
            print_key(r->keys[i]);
    }
    for (size_t i = 0; i < r->n_mistakes; i++)
        ctl_print_lines(r->mistakes[i], stderr);
    if (r->nmore_mistakes > 0)
        (void)fprintf(stderr, "%u more mistakes\n", r->nmore_mistakes);
    if (r->n_mistakes > 0)
        (void)fprintf(stderr, "goallocctl: nothing has changed, because of these mistakes\n");
    else
        (void)printf("%u applied, %u unchanged, %u refused\n", n[RELOAD_APPLIED], n[RELOAD_UNCHANGED],
                     n[RELOAD_REFUSED]);
    if (n[RELOAD_REFUSED] > 0)
        (void)fprintf(stderr, "goallocctl: what was refused takes a restart of goallocd\n");
}

bool reload_failed(const Goallocd__Reply *reply)
{
    for (size_t i = 0; i < reply->reload->n_keys; i++) {
        if (reply->reload->keys[i]->result == RELOAD_REFUSED)
            return true;
    }
    return reply->reload->n_mistakes > 0;
}

static json_t *key_json(const Goallocd__Reply *reply, size_t i)
{
    const Goallocd__ReloadKey *key = reply->reload->keys[i];
    char name[64];
    char old[TEXT_BYTES];
    char wanted[TEXT_BYTES];
    char origin[TEXT_BYTES];

    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "key", ctl_plain_text(key->name, name, sizeof(name)), "result",
                     result_of(key), "old", ctl_plain_text(key->old, old, sizeof(old)), "wanted",
                     ctl_plain_text(key->wanted, wanted, sizeof(wanted)), "origin",
                     ctl_plain_text(key->origin, origin, sizeof(origin)));
}

static json_t *mistake_json(const Goallocd__Reply *reply, size_t i)
{
    char text[TEXT_BYTES];

    return json_string(ctl_plain_text(reply->reload->mistakes[i], text, sizeof(text)));
}

bool reload_json(json_t *object, const Goallocd__Reply *reply)
{
    return ctl_json_append(object, "keys", reply, reply->reload->n_keys, key_json) &&
           ctl_json_append(object, "mistakes", reply, reply->reload->n_mistakes, mistake_json) &&
           ctl_json_set(object, "more_mistakes", reply->reload->nmore_mistakes);
}
