/*
 * goallocctl heap-map --svg: a valid picture of bounded size that says what is in the heap; by a daemon that tells no
 * size classes, and by one that lies, too; and a file that is there whole or as it was.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sys/stat.h>

#include "shm/layout.h"
#include "shm/sizeclass.h"
#include "tests/support/fakedaemon.h"
#include "tests/support/objects.h"

#define PICTURE_MAX (2u << 20) /* whatever the heap is */

/* --- looking at pictures --- */

static void run_in_shell(const char *command)
{
    int status = system(command);

    if (status != 0)
        fail_msg("%s: status %d", command, status);
}

static void place_of(const fixture *f, const char *name, char ret[160])
{
    (void)snprintf(ret, 160, "%s/%s", f->dir, name);
}

/* What is in the file, which the caller frees. */
static char *text_of(const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = calloc(1, PICTURE_MAX + 1);
    size_t n;

    assert_non_null(file);
    assert_non_null(text);
    n = fread(text, 1, PICTURE_MAX + 1, file);
    assert_true(n > 0 && n <= PICTURE_MAX);
    (void)fclose(file);
    return text;
}

/* A picture as XML has it, within its bounds, and one piece of the cells or more. */
static char *picture_at(const char *path)
{
    char command[256];
    char *text = text_of(path);

    if (system("command -v xmllint >/dev/null") == 0) {
        (void)snprintf(command, sizeof(command), "xmllint --noout '%s'", path);
        run_in_shell(command);
    } else {
        (void)fprintf(stderr, "xmllint is not installed\n");
    }
    assert_non_null(strstr(text, "<svg xmlns=\"http://www.w3.org/2000/svg\""));
    assert_null(strstr(text, "<script"));
    assert_null(strstr(text, "href"));
    return text;
}

/* Draw it into a file of the place. What is drawn; the caller frees it. */
static char *draw(const fixture *f, const char *more)
{
    char path[160];
    char words[200];
    char out[1024];

    place_of(f, "map.svg", path);
    (void)snprintf(words, sizeof(words), "heap-map --svg %s %s 2>&1", path, more);
    assert_int_equal(fixture_ctl(f, (const char *const[]){ words, NULL }, out, sizeof(out)), 0);
    assert_string_equal(out, "");
    return picture_at(path);
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;

    for (const char *at = strstr(text, what); at != NULL; at = strstr(at + 1, what))
        n++;
    return n;
}

static size_t cells_of(const char *picture)
{
    return count(picture, "<g><title>0x");
}

/* --- what is drawn --- */

static int allocate_by_size(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 20000; i++)
        CHECK(goalloc_malloc(100) != NULL && goalloc_malloc_noscan(3) != NULL);
    for (int i = 0; i < 100; i++)
        CHECK(goalloc_malloc(30000) != NULL);
    CHECK(goalloc_malloc(5 << 20) != NULL);
    (void)raise(SIGSTOP);
    return 0;
}

/* Bytes of that class in all cells that heap-map has. */
static uint64_t mapped_bytes(json_t *map, uint32_t class)
{
    uint64_t bytes = 0;
    json_t *cell;
    json_t *row;
    size_t i;
    size_t k;

    json_array_foreach(json_object_get(map, "cells"), i, cell)
    {
        assert_non_null(json_object_get(cell, "classes"));
        json_array_foreach(json_object_get(cell, "classes"), k, row)
        {
            bytes += figure(row, "class") == class ? figure(row, "bytes") : 0;
        }
    }
    return bytes;
}

static void picture_and_json_say_which_sizes_are_where(void **state)
{
    static const uint32_t sizes[] = { 100, 30000 };
    const fixture *f = *state;
    pid_t pid = child_start_stopped(f, allocate_by_size, NULL);
    json_t *map = json_by_ctl(f, "heap-map");
    char *picture = draw(f, "");
    char *less = draw(f, "--rows 4");
    size_t ncells = cells_of(picture);

    for (size_t i = 0; i < 2; i++) {
        uint32_t class = size_class_for(sizes[i]).n;

        assert_true(mapped_bytes(map, class) > 0);
        assert_int_equal(mapped_bytes(map, class), class_now(f, class).span_bytes);
    }
    assert_int_equal(mapped_bytes(map, SIZE_CLASS_TINY), class_now(f, SIZE_CLASS_TINY).span_bytes);
    assert_int_equal(mapped_bytes(map, 0), 5 << 20);
    assert_true(ncells > 1280 && ncells <= 2560);
    assert_true(cells_of(less) > 128 && cells_of(less) <= 256);
    assert_non_null(strstr(picture, FIXTURE_BASE "-0x"));
    assert_non_null(strstr(picture, "\n112 B: "));
    assert_non_null(strstr(picture, "\nlarge: "));
    assert_non_null(strstr(picture, "\ntiny: "));
    assert_non_null(strstr(picture, ">large: 5.0 MiB</text>"));
    assert_non_null(strstr(picture, ">up to 256 B: 2."));
    assert_non_null(strstr(picture, "class=\"k7\""));
    assert_null(strstr(picture, "does not say"));
    free(picture);
    free(less);
    json_decref(map);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
}

static void picture_on_stdout_is_the_same_as_in_a_file(void **state)
{
    const fixture *f = *state;
    char path[160];
    char words[200];
    char out[256];
    char *picture;

    place_of(f, "stdout.svg", path);
    (void)snprintf(words, sizeof(words), "heap-map --svg - > %s", path);
    assert_int_equal(fixture_ctl(f, (const char *const[]){ words, NULL }, out, sizeof(out)), 0);
    picture = picture_at(path);
    assert_non_null(strstr(picture, "</svg>\n"));
    free(picture);
    assert_int_equal(fixture_ctl(f, (const char *const[]){ "heap-map --svg - 2>&1 >/dev/full", NULL }, out,
                                 sizeof(out)),
                     1);
    assert_string_equal(out, "goallocctl: stdout: No space left on device\n");
}

#if !defined(__SANITIZE_THREAD__)
static int allocate_far(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 300000; i++)
        CHECK(goalloc_malloc(1000) != NULL);
    for (int i = 0; i < 3; i++)
        CHECK(goalloc_malloc((size_t)8 << 30) != NULL); /* of which nothing is touched */
    for (int i = 0; i < 100000; i++)
        CHECK(goalloc_malloc(1000) != NULL);
    (void)raise(SIGSTOP);
    return 0;
}

static void picture_of_a_reserve_of_1t_is_bounded(void **state)
{
    const fixture *f = *state;
    pid_t pid = child_start_stopped(f, allocate_far, NULL);
    char *picture = draw(f, "");

    assert_true(cells_of(picture) > 1280 && cells_of(picture) <= 2560);
    assert_non_null(strstr(picture, "arena of 1.0 TiB"));
    assert_non_null(strstr(picture, ">large: 24.0 GiB</text>"));
    assert_non_null(strstr(picture, ">up to 1 KiB: 39"));
    free(picture);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
}
#endif

/* --- other daemons --- */

static Goallocd__HeapMapReply fake_map = GOALLOCD__HEAP_MAP_REPLY__INIT;
static uint64_t fake_inuse[4096];
static uint64_t fake_backed[4096];
static uint32_t fake_cell[8192];
static uint32_t fake_number[8192];
static uint32_t fake_npages[8192];

static Goallocd__HeapMapReply *begin_map(Goallocd__Reply *reply, uint64_t end)
{
    reply->result_case = GOALLOCD__REPLY__RESULT_HEAP_MAP;
    reply->heap_map = &fake_map;
    fake_map = (Goallocd__HeapMapReply)GOALLOCD__HEAP_MAP_REPLY__INIT;
    fake_map.inuse = fake_inuse;
    fake_map.backed = fake_backed;
    fake_map.class_cell = fake_cell;
    fake_map.class_number = fake_number;
    fake_map.class_npages = fake_npages;
    fake_map.end = fake_map.arena_pages = end;
    fake_map.arena_base = SHM_BASE_DEFAULT;
    return &fake_map;
}

/* Of a version that knows nothing of size classes, and wants multiples of 64: half of each cell is in use. */
static void answer_as_older(Goallocd__Reply *reply, const Goallocd__Request *request)
{
    const Goallocd__HeapMap *ask = request->heap_map;
    Goallocd__HeapMapReply *map;
    size_t n = 0;

    if (ask->cell_pages == 0 || ask->cell_pages % 64 != 0 || ask->start % 64 != 0) {
        reply->error = EINVAL;
        reply->message = (char *)(uintptr_t)"cells of no pages, or of no multiple of 64";
        return;
    }
    map = begin_map(reply, 3 * SHM_HEAP_ARENA_PAGES);
    for (uint64_t page = ask->start; page < map->end && n < ask->max_cells && n < 4096; page += ask->cell_pages) {
        fake_inuse[n] = ask->cell_pages / 2;
        fake_backed[n++] = 0;
    }
    map->n_inuse = map->n_backed = n;
}

static void daemon_that_tells_no_classes_is_drawn_without(void **state)
{
    fixture fake;
    pid_t pid;
    char *picture;
    json_t *map;

    (void)state;
    fixture_make_place(&fake);
    pid = fakedaemon_start(&fake, answer_as_older);
    picture = draw(&fake, "");
    map = json_by_ctl(&fake, "heap-map");
    assert_non_null(strstr(picture, "this daemon does not say which size classes it has"));
    assert_non_null(strstr(picture, ">in use: 96.0 MiB</text>"));
    assert_non_null(strstr(picture, ">released: 96.0 MiB</text>"));
    assert_null(strstr(picture, "large"));
    assert_int_equal(cells_of(picture), 3 * SHM_HEAP_ARENA_PAGES / 64);
    assert_null(json_object_get(json_array_get(json_object_get(map, "cells"), 0), "classes"));
    json_decref(map);
    free(picture);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
}

/* All that can't be: more pages than a cell has, cells and classes that there are not, lists of different lengths. */
static void answer_with_lies(Goallocd__Reply *reply, const Goallocd__Request *request)
{
    uint64_t seed = request->heap_map->start + 1;
    Goallocd__HeapMapReply *map = begin_map(reply, UINT64_MAX);

    for (size_t i = 0; i < 512; i++) {
        fake_inuse[i] = i % 3 == 0 ? UINT64_MAX : test_random(&seed) % 20000;
        fake_backed[i] = i % 5 == 0 ? UINT64_MAX : test_random(&seed) % 20000;
    }
    for (size_t i = 0; i < 3000; i++) {
        fake_cell[i] = i % 7 == 0 ? UINT32_MAX - (uint32_t)i : (uint32_t)(test_random(&seed) % 600);
        fake_number[i] = i % 11 == 0 ? UINT32_MAX : (uint32_t)(test_random(&seed) % 80);
        fake_npages[i] = i % 13 == 0 ? UINT32_MAX : (uint32_t)(test_random(&seed) % 300);
    }
    map->has_classes = true;
    map->n_inuse = 512;
    map->n_backed = 500;
    map->n_class_cell = 3000;
    map->n_class_number = 2990;
    map->n_class_npages = 2980;
    map->arena_base = UINT64_MAX - 5;
}

/* The worst that is true: all size classes in each cell of a terabyte. */
static void answer_with_all_classes(Goallocd__Reply *reply, const Goallocd__Request *request)
{
    Goallocd__HeapMapReply *map = begin_map(reply, UINT64_C(1) << 27);
    uint32_t k = 0;

    map->has_classes = true;
    for (uint32_t i = 0; i < 100 && i < request->heap_map->max_cells; i++) {
        fake_inuse[i] = fake_backed[i] = request->heap_map->cell_pages * 2 / 5;
        for (uint32_t class = 0; class <= SIZE_CLASS_COUNT; class++, k++) {
            fake_cell[k] = i;
            fake_number[k] = class;
            fake_npages[k] = 40;
        }
        map->n_inuse = map->n_backed = i + 1;
    }
    map->n_class_cell = map->n_class_number = map->n_class_npages = k;
}

static void whatever_a_daemon_answers_the_picture_is_valid_and_bounded(void **state)
{
    static fakedaemon_answer *const answers[] = { answer_with_lies, answer_with_all_classes };

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        static char out[1 << 16];
        fixture fake;
        char *picture;
        pid_t pid;

        fixture_make_place(&fake);
        pid = fakedaemon_start(&fake, answers[i]);
        picture = draw(&fake, "");
        assert_int_equal(cells_of(picture), 2048);
        free(picture);
        assert_int_equal(fixture_ctl(&fake, (const char *const[]){ "heap-map", NULL }, out, sizeof(out)), 0);
        assert_null(strstr(out, "EiB"));
        (void)kill(pid, SIGKILL);
        (void)child_wait(pid);
    }
}

static void path_of_the_socket_is_escaped(void **state)
{
    const fixture *f = *state;
    static const char name[] = "a<b>&\"c\x1b[2J\xff.sock";
    char link[160];
    char path[160];
    char command[1024];
    char *picture;

    place_of(f, name, link);
    place_of(f, "map.svg", path);
    assert_int_equal(symlink(f->socket, link), 0);
    (void)snprintf(command, sizeof(command), "GOALLOC_SOCKET='%s' %s heap-map --svg %s", link, GOALLOCCTL_PATH, path);
    run_in_shell(command);
    picture = picture_at(path);
    assert_non_null(strstr(picture, "a&lt;b&gt;&amp;&quot;c?[2J?.sock</title>"));
    free(picture);
    (void)unlink(link);
}

/* --- files --- */

static size_t files_in(const fixture *f, const char *pattern)
{
    char command[256];
    FILE *out;
    unsigned n = 0;

    (void)snprintf(command, sizeof(command), "ls -d %s/%s 2>/dev/null | wc -l", f->dir, pattern);
    out = popen(command, "re");
    assert_non_null(out);
    assert_int_equal(fscanf(out, "%u", &n), 1);
    (void)pclose(out);
    return n;
}

/* Until all of it is written the old file is there, and what was begun beside it goes. */
static void file_stays_as_it_was_if_it_cant_be_written(void **state)
{
    const fixture *f = *state;
    char path[160];
    char command[1024];
    char *text;

    place_of(f, "old.svg", path);
    (void)snprintf(command, sizeof(command), "echo old > %s", path);
    run_in_shell(command);
    (void)snprintf(command, sizeof(command),
                   "sh -c 'trap \"\" XFSZ; ulimit -f 8; %s --socket %s heap-map --svg %s 2>%s/said; test $? = 1'",
                   GOALLOCCTL_PATH, f->socket, path, f->dir);
    run_in_shell(command);
    text = text_of(path);
    assert_string_equal(text, "old\n");
    free(text);
    place_of(f, "said", path);
    text = text_of(path);
    assert_non_null(strstr(text, "old.svg: File too large\n"));
    free(text);
    assert_int_equal(files_in(f, "old.svg*"), 1);
}

static void file_that_cant_be_made_is_said_by_its_name(void **state)
{
    const fixture *f = *state;
    char words[200];
    char out[512];

    (void)snprintf(words, sizeof(words), "heap-map --svg %s/nowhere/map.svg 2>&1", f->dir);
    assert_int_equal(fixture_ctl(f, (const char *const[]){ words, NULL }, out, sizeof(out)), 1);
    assert_non_null(strstr(out, "/nowhere/map.svg: No such file or directory\n"));
    (void)snprintf(words, sizeof(words), "heap-map --svg %s 2>&1", f->dir);
    assert_int_equal(fixture_ctl(f, (const char *const[]){ words, NULL }, out, sizeof(out)), 1);
    assert_non_null(strstr(out, ": Is a directory\n"));
    assert_int_equal(fixture_ctl(f, (const char *const[]){ "heap-map --svg /dev/full 2>&1", NULL }, out, sizeof(out)),
                     1);
    assert_string_equal(out, "goallocctl: /dev/full: No space left on device\n");
    assert_int_equal(fixture_ctl(f, (const char *const[]){ "--json heap-map --svg - 2>/dev/null", NULL }, out,
                                 sizeof(out)),
                     2);
    assert_int_equal(fixture_ctl(f, (const char *const[]){ "heap-map --rows 41 2>&1", NULL }, out, sizeof(out)), 2);
}

/* A link stays one, a mode stays as it was, and a pipe is written to. */
static void file_that_is_replaced_stays_what_it_is(void **state)
{
    const fixture *f = *state;
    char path[160];
    char link[160];
    char command[1024];
    char *picture;
    struct stat st;

    place_of(f, "real.svg", path);
    place_of(f, "link.svg", link);
    (void)snprintf(command, sizeof(command), "echo old > %s; chmod 640 %s", path, path);
    run_in_shell(command);
    assert_int_equal(symlink("real.svg", link), 0);
    (void)snprintf(command, sizeof(command), "%s --socket %s heap-map --svg %s", GOALLOCCTL_PATH, f->socket, link);
    run_in_shell(command);
    picture = picture_at(path);
    free(picture);
    assert_true(lstat(link, &st) == 0 && S_ISLNK(st.st_mode));
    assert_true(stat(path, &st) == 0 && (st.st_mode & 0777) == 0640);
    place_of(f, "pipe", path);
    place_of(f, "piped.svg", link);
    assert_int_equal(mkfifo(path, 0600), 0);
    (void)snprintf(command, sizeof(command), "cat %s > %s & %s --socket %s heap-map --svg %s && wait", path, link,
                   GOALLOCCTL_PATH, f->socket, path);
    run_in_shell(command);
    picture = picture_at(link);
    free(picture);
    assert_true(lstat(path, &st) == 0 && S_ISFIFO(st.st_mode));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(picture_and_json_say_which_sizes_are_where),
        FIXTURE_TEST(picture_on_stdout_is_the_same_as_in_a_file),
#if !defined(__SANITIZE_THREAD__)
        FIXTURE_TEST_WITH(picture_of_a_reserve_of_1t_is_bounded, "--reserve", "1T", "--commit", "lazy"),
#endif
        cmocka_unit_test(daemon_that_tells_no_classes_is_drawn_without),
        cmocka_unit_test(whatever_a_daemon_answers_the_picture_is_valid_and_bounded),
        FIXTURE_TEST(path_of_the_socket_is_escaped),
        FIXTURE_TEST(file_stays_as_it_was_if_it_cant_be_written),
        FIXTURE_TEST(file_that_cant_be_made_is_said_by_its_name),
        FIXTURE_TEST(file_that_is_replaced_stays_what_it_is),
    };

    return cmocka_run_group_tests_name("goallocctl heap-map", tests, NULL, NULL);
}
