/*
 * Hostile: attacks a daemon, and says what its honest clients notice of that.
 *
 *   hostile.c          the attacks one after the other, medians of their runs, the table
 *     scene.c          one attack: the daemon, all processes, the phases
 *       honest.c       clients that measure and check
 *       attack_*.c     clients that attack, by enemy.c; attacks.c has the table of them
 *     board.h          what all of them have in common
 *
 * A scene has a process of its own, so that one that fails does not end the others.
 */
#include <jansson.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "tests/hostile/scene.h"

#define RUNS_MAX 15u

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The median of each figure, and all that has failed. */
static void merge_runs(const scene_result *runs, unsigned n, scene_result *ret)
{
    *ret = runs[0];
    for (unsigned i = 1; i < n && ret->failed[0] == '\0'; i++)
        memcpy(ret->failed, runs[i].failed, sizeof(ret->failed));
    for (unsigned figure = 0; figure < FIGURES; figure++) {
        double values[RUNS_MAX];

        for (unsigned i = 0; i < n; i++)
            values[i] = runs[i].figures[figure];
        qsort(values, n, sizeof(values[0]), compare_doubles);
        ret->figures[figure] = values[n / 2];
    }
}

/* In a process of its own; the result is in shared memory. */
static void run_scene(const hostile_options *o, const attack *what, scene_result *shared)
{
    int status = -1;
    pid_t pid;

    (void)fflush(NULL);
    memset(shared, 0, sizeof(*shared));
    pid = fork();
    if (pid == 0) {
        scene_run(o, what, shared);
        exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        (void)snprintf(shared->failed, sizeof(shared->failed), "the run itself has failed");
}

/* --- the table --- */

static void print_heading(void)
{
    (void)printf("%-13s | %-26s | %-17s | %-35s | %-7s | %-15s | %-7s | %-13s | %s\n", "", "refill, us: calm", "burn",
                 "under attack", "p99 to", "attach p99, us", "back", "RssAnon, MiB", "honest clients");
    (void)printf("%-13s | %8s %8s %8s | %8s %8s | %8s %8s %8s %8s | %7s | %7s %7s | %7s | %6s %6s | %s\n", "attack",
                 "p50", "p99", "p99.9", "p99", "p99.9", "p50", "p99", "p99.9", "max", "burn", "calm", "attack", "ms",
                 "peak", "after", "refused, ended, wrong");
}

static void print_row(const attack *what, const scene_result *r)
{
    const double *f = r->figures;

    (void)printf("%-13s | %8.0f %8.0f %8.0f | %8.0f %8.0f | %8.0f %8.0f %8.0f %8.0f | %7.1f | %7.0f %7.0f | %7.0f | "
                 "%6.1f %6.1f | %.0f %.0f %.0f%s%s%s\n",
                 what->name, f[REFILL_CALM + P50], f[REFILL_CALM + P99], f[REFILL_CALM + P999], f[REFILL_BURN + P99],
                 f[REFILL_BURN + P999], f[REFILL_ATTACK + P50], f[REFILL_ATTACK + P99], f[REFILL_ATTACK + P999],
                 f[REFILL_ATTACK + MAX], f[REFILL_BURN + P99] > 0 ? f[REFILL_ATTACK + P99] / f[REFILL_BURN + P99] : 0,
                 f[ATTACH_CALM + P99], f[ATTACH_ATTACK + P99], f[BACK_MS], f[RSS_PEAK_KIB] / 1024,
                 f[RSS_AFTER_KIB] / 1024, f[REFUSED], f[ENDED], f[WRONG], r->failed[0] != '\0' ? ": FAILED: " : "",
                 r->failed, r->not_here ? " (not on this system)" : "");
}

static void print_json(const attack *what, const scene_result *r)
{
    static const char *const groups[] = { "refill_calm_us",  "refill_burn_us", "refill_attack_us",
                                          "refill_after_us", "attach_calm_us", "attach_attack_us" };
    json_t *object = json_pack("{s:s, s:s, s:b}", "attack", what->name, "failed", r->failed, "not_here", r->not_here);

    for (unsigned g = 0; g < sizeof(groups) / sizeof(groups[0]); g++) {
        json_t *quantiles = json_object();

        for (unsigned q = 0; q < QUANTILES; q++)
            (void)json_object_set_new(quantiles, quantile_names[q], json_real(r->figures[g * QUANTILES + q]));
        (void)json_object_set_new(object, groups[g], quantiles);
    }
    for (unsigned i = BACK_MS; i < FIGURES; i++)
        (void)json_object_set_new(object, figure_names[i - BACK_MS], json_real(r->figures[i]));
    (void)json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    (void)printf("\n");
    json_decref(object);
}

int main(int argc, char **argv)
{
    static scene_result runs[RUNS_MAX];
    hostile_options o;
    scene_result *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bool good = true;
    bool found = false;

    options_parse(argc, argv, &o);
    if (shared == MAP_FAILED)
        return EXIT_FAILURE;
    if (!o.list && !o.json && !o.brief)
        print_heading();
    for (const attack *what = attacks; what->name != NULL; what++) {
        scene_result merged;

        if (o.attack != NULL && strcmp(o.attack, what->name) != 0)
            continue;
        found = true;
        if (o.list) {
            (void)printf("%-13s %s\n", what->name, what->text);
            continue;
        }
        for (unsigned i = 0; i < o.runs; i++) {
            run_scene(&o, what, shared);
            runs[i] = *shared;
        }
        merge_runs(runs, o.runs, &merged);
        good = good && merged.failed[0] == '\0';
        if (o.json)
            print_json(what, &merged);
        else if (o.brief)
            (void)printf("%s: %s\n", what->name,
                         merged.failed[0] != '\0' ? merged.failed
                         : merged.not_here        ? "not on this system"
                                                  : "held");
        else
            print_row(what, &merged);
        (void)fflush(stdout);
    }
    if (!found)
        (void)fprintf(stderr, "hostile: there is no attack '%s'; --list names them\n", o.attack);
    return good && found ? EXIT_SUCCESS : EXIT_FAILURE;
}
