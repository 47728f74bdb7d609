/*
 * Imageio: what readers and writers of images do to files.
 *
 * Called by the other parts of image, by the daemon's saver and loader, and by goallocctl save. Data: none of its own.
 * A heap's files are mapped without write access, so whoever has them here changes nothing, whatever becomes of it.
 */
#include "image/imageio.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int image_read_all(int fd, void *to, uint64_t nbytes, uint64_t off)
{
    char *at = to;

    while (nbytes > 0) {
        ssize_t n = pread(fd, at, nbytes, (off_t)off);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EUCLEAN;
        at += n;
        off += (uint64_t)n;
        nbytes -= (uint64_t)n;
    }
    return 0;
}

int image_write_all(int fd, const void *from, uint64_t nbytes, uint64_t off)
{
    const char *at = from;

    while (nbytes > 0) {
        ssize_t n = pwrite(fd, at, nbytes, (off_t)off);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        at += n;
        off += (uint64_t)n;
        nbytes -= (uint64_t)n;
    }
    return 0;
}

void image_dir_of(const char *name, char ret[IMAGE_PATH_BYTES])
{
    const char *slash = strrchr(name, '/');

    (void)snprintf(ret, IMAGE_PATH_BYTES, "%.*s", slash == NULL || slash == name ? 1 : (int)(slash - name),
                   slash == NULL ? "." : name);
}

static void *map_file(int fd, uint64_t *ret_bytes)
{
    struct stat st;
    void *p;

    if (fstat(fd, &st) < 0 || st.st_size <= 0)
        return NULL;
    *ret_bytes = (uint64_t)st.st_size;
    p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

int image_heap_map(image_heap *h, const int fds[IMAGE_FILES], enum version_use use, image_error *why)
{
    int r;

    *h = (image_heap){ .maps = { NULL } };
    for (int i = 0; i < IMAGE_FILES; i++) {
        h->maps[i] = map_file(fds[i], &h->bytes[i]);
        if (h->maps[i] == NULL)
            return image_fail(why, -ENOMEM, "the heap can't be mapped");
    }
    r = shm_header_check(h->maps[IMAGE_FILE_SPANS], use, h->bytes[IMAGE_FILE_SPANS], h->bytes[IMAGE_FILE_BITMAP]);
    if (r < 0)
        return image_fail(why, r, r == -ENOEXEC ? "the heap is of a layout that this build does not know"
                                                : "the header of the heap is damaged");
    shm_map_init(&h->map, h->maps[IMAGE_FILE_SPANS], h->maps[IMAGE_FILE_BITMAP], h->maps[IMAGE_FILE_ARENA]);
    return 0;
}

void image_heap_unmap(image_heap *h)
{
    for (int i = 0; i < IMAGE_FILES; i++) {
        if (h->maps[i] != NULL)
            (void)munmap(h->maps[i], h->bytes[i]);
        h->maps[i] = NULL;
    }
}
