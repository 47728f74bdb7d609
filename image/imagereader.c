/*
 * Imagereader: checks an image from the outside in, so that each number is bounded before it is used.
 *
 * Called by goallocctl image, which shows one, and by the daemon's loader. Data: private memory.
 *
 *   1. header   magic, format, its checksum, the file's length, sizes that fit to each other, the mark, zeroes
 *   2. index    its checksum; blocks that lie side by side between header and index, kinds in order, lengths below
 *               their bounds
 *   3. roots, spans   each block's checksum; names that the daemon would take; spans that a heap of this size can have,
 *               by address, with objects in them
 *   4. pages    each block's checksum; extents that are the next pages in which objects live, and no others
 *
 * So an image that passes all four is one that a writer could have made, page for page, and what is loaded from it is
 * exactly that. A number of spans or roots that the header claims is never believed: room is made as they come, for no
 * more roots than a heap can have, and for no more spans than the header says, which is bounded by the arena's size.
 */
#include "image/imagereader.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zstd.h>

#include "image/imageio.h"
#include "shm/limits.h"
#include "shm/sizeclass.h"

#define THREADS_MAX IMAGE_THREADS_MAX

static int damaged(image_error *why, uint64_t at, const char *what)
{
    return image_fail(why, -EUCLEAN, "at byte %" PRIu64 ": %s", at, what);
}

/* --- the header --- */

static bool is_zero(const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] != 0)
            return false;
    }
    return true;
}

/* Of the first page, whose header has been found whole. */
static int check_rest(image *im, const char *page, image_error *why)
{
    size_t mark_end = IMAGE_MARK_OFF + sizeof(im->mark);

    memcpy(&im->mark, page + IMAGE_MARK_OFF, sizeof(im->mark));
    if (im->mark != IMAGE_CLEAN && im->mark != IMAGE_LOADED && im->mark != IMAGE_COPY)
        return damaged(why, IMAGE_MARK_OFF, "the mark is none of those that there are");
    if (!is_zero(page + sizeof(im->header), IMAGE_MARK_OFF - sizeof(im->header)) ||
        !is_zero(page + mark_end, IMAGE_BLOCKS_OFF - mark_end))
        return damaged(why, sizeof(im->header), "bytes behind the header, or behind the mark, are not zero");
    return 0;
}

static int check_version(const image_header *h, image_error *why)
{
    char text[VERSION_TEXT_BYTES];
    const shm_version version = { .major = h->major, .minor = h->minor, .needed = h->needed, .writing = h->writing };

    if (version_check(&version, version_own(), VERSION_SERVES) == 0)
        return 0;
    return image_fail(why, -ENOEXEC, "%s",
                      version_explain(text, sizeof(text), &version, version_own(), VERSION_SERVES, "this build"));
}

/* What the header says of the heap and of the file: bounds of all that follows. */
static int check_sizes(const image_header *h, uint64_t file_bytes, image_error *why)
{
    uint64_t npages = h->arena_bytes / PAGE_BYTES;

    if (h->file_bytes != file_bytes)
        return image_fail(why, -EUCLEAN, "it has %" PRIu64 " bytes, and should have %" PRIu64 ": %s", file_bytes,
                          h->file_bytes, file_bytes < h->file_bytes ? "the rest is missing" : "it is too long");
    if (h->arena_bytes == 0 || h->arena_bytes > SHM_ARENA_BYTES_MAX || h->arena_bytes % SHM_HEAP_ARENA_BYTES != 0 ||
        h->base == 0 || h->base % SHM_HEAP_ARENA_BYTES != 0 || h->generation == 0)
        return damaged(why, offsetof(image_header, base), "no heap can have that address or size");
    if (h->nspans >= npages || h->npages >= npages || h->nzero_pages >= npages || h->nroots > SHM_ROOTS_MAX)
        return damaged(why, offsetof(image_header, nspans), "more than a heap of that size can have");
    if (h->index_off < IMAGE_BLOCKS_OFF || h->index_off > file_bytes ||
        (file_bytes - h->index_off) != h->nblocks * sizeof(image_entry))
        return damaged(why, offsetof(image_header, index_off), "the index is not where it should be");
    if (memchr(h->version, 0, sizeof(h->version)) == NULL)
        return damaged(why, offsetof(image_header, version), "the version of who saved it does not end");
    for (const char *at = h->version; *at != 0; at++) { /* it is shown on terminals */
        if (*at < 0x20 || *at > 0x7e)
            return damaged(why, offsetof(image_header, version), "the version of who saved it is no text");
    }
    return is_zero((const char *)h->reserved, sizeof(h->reserved))
               ? 0
               : damaged(why, offsetof(image_header, reserved), "reserved words are used");
}

static int read_header(image *im, image_error *why)
{
    char page[IMAGE_BLOCKS_OFF];
    image_header *h = &im->header;
    struct stat st;
    int r = fstat(im->fd, &st) < 0 ? -errno : 0;

    if (r < 0)
        return image_fail(why, r, "%s", strerror(-r));
    if (!S_ISREG(st.st_mode))
        return image_fail(why, -EINVAL, "it is no regular file");
    r = image_read_all(im->fd, page, sizeof(page), 0);
    if (r == -EUCLEAN)
        return image_fail(why, r, "it has %" PRIu64 " bytes: not even a header", (uint64_t)st.st_size);
    if (r < 0)
        return image_fail(why, r, "%s", strerror(-r));
    memcpy(h, page, sizeof(*h));
    if (memcmp(h->magic, IMAGE_MAGIC, sizeof(h->magic)) != 0)
        return damaged(why, 0, "it is no image of a heap");
    if (h->checksum != XXH3_64bits(h, offsetof(image_header, checksum)))
        return damaged(why, 0, "the checksum of the header is wrong");
    if (h->format != IMAGE_FORMAT)
        return image_fail(why, -ENOEXEC, "its format is %u, and this build knows %u", h->format, IMAGE_FORMAT);
    r = check_version(h, why);
    if (r == 0)
        r = check_sizes(h, (uint64_t)st.st_size, why);
    return r < 0 ? r : check_rest(im, page, why);
}

/* --- the index --- */

static int by_off(const void *a, const void *b)
{
    const image_entry *one = a;
    const image_entry *other = b;

    return one->off < other->off ? -1 : one->off > other->off;
}

/* The blocks lie side by side, and are all that there is between header and index. */
static int check_places(const image *im, image_error *why)
{
    image_entry *sorted = calloc(im->header.nblocks + UINT64_C(1), sizeof(*sorted));
    uint64_t at = IMAGE_BLOCKS_OFF;
    int r = 0;

    if (sorted == NULL)
        return image_fail(why, -ENOMEM, "no memory for its index");
    memcpy(sorted, im->entries, im->header.nblocks * sizeof(*sorted));
    qsort(sorted, im->header.nblocks, sizeof(*sorted), by_off);
    for (uint32_t i = 0; i < im->header.nblocks && r == 0; i++) {
        if (sorted[i].off != at)
            r = damaged(why, at, "blocks don't lie side by side");
        at += sorted[i].stored_bytes;
    }
    if (r == 0 && at != im->header.index_off)
        r = damaged(why, at, "the blocks don't end where the index begins");
    free(sorted);
    return r;
}

static int read_index(image *im, image_error *why)
{
    const image_header *h = &im->header;
    uint64_t bytes = h->nblocks * sizeof(image_entry);
    uint32_t kind = IMAGE_ROOTS;
    int r;

    im->entries = malloc(bytes + 1);
    if (im->entries == NULL)
        return image_fail(why, -ENOMEM, "no memory for its index");
    r = image_read_all(im->fd, im->entries, bytes, h->index_off);
    if (r < 0)
        return image_fail(why, r, "at byte %" PRIu64 ": the index: %s", h->index_off, strerror(-r));
    if (XXH3_64bits(im->entries, bytes) != h->index_checksum)
        return damaged(why, h->index_off, "the checksum of the index is wrong");
    for (uint32_t i = 0; i < h->nblocks; i++) {
        const image_entry *entry = &im->entries[i];
        uint64_t at = h->index_off + i * sizeof(*entry);

        if (entry->kind < kind || entry->kind >= IMAGE_KINDS)
            return damaged(why, at, "a block of no kind that could stand there");
        kind = entry->kind;
        if (entry->raw_bytes == 0 || entry->raw_bytes > IMAGE_RAW_MAX || entry->stored_bytes == 0 ||
            entry->stored_bytes > entry->raw_bytes || entry->reserved != 0)
            return damaged(why, at, "a block of no length that it could have");
        im->nroot_blocks += kind == IMAGE_ROOTS;
        im->nspan_blocks += kind == IMAGE_SPANS;
    }
    return check_places(im, why);
}

/* --- blocks --- */

int image_bench_make(image_bench *b)
{
    *b = (image_bench){ .stored = malloc(IMAGE_RAW_MAX), .raw = malloc(IMAGE_RAW_MAX), .zstd = ZSTD_createDCtx() };
    if (b->stored != NULL && b->raw != NULL && b->zstd != NULL)
        return 0;
    image_bench_free(b);
    return -ENOMEM;
}

void image_bench_free(image_bench *b)
{
    free(b->stored);
    free(b->raw);
    (void)ZSTD_freeDCtx(b->zstd);
    *b = (image_bench){ .stored = NULL };
}

/* The content of a block; NULL: why. */
static const char *read_block(const image *im, image_bench *b, uint32_t i, int *ret_r, image_error *why)
{
    const image_entry *entry = &im->entries[i];
    int r = image_read_all(im->fd, b->stored, entry->stored_bytes, entry->off);
    size_t n;

    if (r < 0) {
        *ret_r = image_fail(why, r, "at byte %" PRIu64 ": %s", entry->off,
                            r == -EUCLEAN ? "it has become shorter" : strerror(-r));
        return NULL;
    }
    *ret_r = -EUCLEAN;
    if (XXH3_64bits(b->stored, entry->stored_bytes) != entry->checksum) {
        (void)damaged(why, entry->off, "the checksum of a block is wrong");
        return NULL;
    }
    if (entry->stored_bytes == entry->raw_bytes)
        return b->stored;
    n = ZSTD_decompressDCtx(b->zstd, b->raw, entry->raw_bytes, b->stored, entry->stored_bytes);
    if (ZSTD_isError(n) != 0 || n != entry->raw_bytes) {
        (void)damaged(why, entry->off, "a block can't be decompressed");
        return NULL;
    }
    return b->raw;
}

static int take_roots(image *im, const char *raw, const image_entry *entry, image_error *why)
{
    char *more;

    if (im->roots_bytes + entry->raw_bytes > SHM_ROOTS_MAX * (sizeof(image_root) + SHM_ROOT_NAME_BYTES))
        return damaged(why, entry->off, "more roots than a heap can have");
    more = realloc(im->roots, im->roots_bytes + entry->raw_bytes);
    if (more == NULL)
        return image_fail(why, -ENOMEM, "no memory for its roots");
    im->roots = more;
    for (uint64_t at = 0; at < entry->raw_bytes;) {
        image_root root;

        if (entry->raw_bytes - at < sizeof(root))
            return damaged(why, entry->off, "a root is cut");
        memcpy(&root, raw + at, sizeof(root));
        at += sizeof(root);
        if (root.name_bytes == 0 || root.name_bytes > SHM_ROOT_NAME_MAX ||
            image_name_room(root.name_bytes) > entry->raw_bytes - at || root.offset == 0 ||
            root.offset >= im->header.arena_bytes)
            return damaged(why, entry->off, "a root has no name or no place that it could have");
        at += image_name_room(root.name_bytes);
    }
    memcpy(im->roots + im->roots_bytes, raw, entry->raw_bytes);
    im->roots_bytes += entry->raw_bytes;
    return 0;
}

const image_root *image_root_at(const image *im, size_t at, const char **ret_name, size_t *ret_next)
{
    const image_root *root;

    if (at >= im->roots_bytes)
        return NULL;
    root = (const image_root *)(const void *)(im->roots + at);
    *ret_name = im->roots + at + sizeof(*root);
    *ret_next = at + sizeof(*root) + image_name_room(root->name_bytes);
    return root;
}

/* True if a heap of that many pages can have the span behind the ones before it. */
static bool span_is_right(const image *im, const image_span *span, uint64_t end)
{
    uint8_t class = span_class_size((span_class){ span->spc }).n;
    uint64_t npages = im->header.arena_bytes / PAGE_BYTES;

    return span->first >= end && span->first < npages && span->npages != 0 && span->npages <= npages - span->first &&
           class <= SIZE_CLASS_TINY && span->spc != SPAN_CLASS_TINY - 1 && span->lessee_folds <= 1 &&
           span->reserved == 0 && span->nelems != 0 &&
           span->nelems == (class == 0 ? 1 : size_class_span_nelems(class, span->npages));
}

/* True if an object lives in it, and no bit is set of objects that it does not have. */
static bool bits_are_right(const image_span *span, const uint64_t *bits)
{
    uint64_t any = 0;

    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
        any |= bits[w];
        if ((bits[w] & ~bits_mask(span->nelems, w)) != 0)
            return false;
    }
    return any != 0;
}

static int take_spans(image *im, const char *raw, const image_entry *entry, image_error *why)
{
    for (uint64_t at = 0; at < entry->raw_bytes;) {
        const image_span *last = im->spans.n > 0 ? &im->spans.spans[im->spans.n - 1] : NULL;
        uint64_t bits[IMAGE_SPAN_WORDS];
        image_span span;
        uint64_t nbytes;

        if (entry->raw_bytes - at < sizeof(span))
            return damaged(why, entry->off, "a span is cut");
        memcpy(&span, raw + at, sizeof(span));
        at += sizeof(span);
        if (!span_is_right(im, &span, last == NULL ? 1 : (uint64_t)last->first + last->npages))
            return damaged(why, entry->off, "a span that no heap could have there");
        nbytes = bits_nwords(span.nelems) * UINT64_C(8);
        if (nbytes > entry->raw_bytes - at)
            return damaged(why, entry->off, "a span is cut");
        memcpy(bits, raw + at, nbytes);
        at += nbytes;
        if (!bits_are_right(&span, bits))
            return damaged(why, entry->off, "a span's bits are not those of its objects");
        if (im->spans.n >= im->header.nspans)
            return damaged(why, entry->off, "more spans than the header says");
        if (image_spans_add(&im->spans, &span, bits) < 0)
            return image_fail(why, -ENOMEM, "no memory for its spans");
    }
    return 0;
}

static uint64_t count_roots(const image *im)
{
    const char *name;
    uint64_t n = 0;

    for (size_t at = 0; image_root_at(im, at, &name, &at) != NULL;)
        n++;
    return n;
}

static int read_tables(image *im, image_error *why)
{
    image_bench b;
    int r = image_bench_make(&b);

    if (r < 0)
        return image_fail(why, r, "no memory to read it");
    for (uint32_t i = 0; i < im->nroot_blocks + im->nspan_blocks && r == 0; i++) {
        const char *raw = read_block(im, &b, i, &r, why);

        if (raw == NULL)
            break;
        r = im->entries[i].kind == IMAGE_ROOTS ? take_roots(im, raw, &im->entries[i], why)
                                               : take_spans(im, raw, &im->entries[i], why);
    }
    if (r == 0 && (im->spans.n != im->header.nspans || count_roots(im) != im->header.nroots))
        r = damaged(why, offsetof(image_header, nspans), "there are not as many spans or roots");
    image_bench_free(&b);
    return r;
}

int image_open(image *ret, const char *path, bool for_writing, image_error *why)
{
    image im = { .fd = open(path, (for_writing ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) };
    int r;

    if (im.fd < 0) {
        r = -errno;
        return image_fail(why, r, "%s", strerror(-r));
    }
    r = read_header(&im, why);
    if (r == 0)
        r = read_index(&im, why);
    if (r == 0)
        r = read_tables(&im, why);
    if (r < 0)
        image_close(&im);
    else
        *ret = im;
    return r;
}

void image_close(image *im)
{
    (void)close(im->fd);
    free(im->entries);
    free(im->roots);
    image_spans_free(&im->spans);
    *im = (image){ .fd = -1 };
}

/* --- pages --- */

/* The extents are the next pages that live, from *pos on. *ret_ncontent: how many have content. */
static bool extents_are_right(const image_spans *s, const image_extents *e, image_pos *pos, uint64_t *ret_ncontent)
{
    uint64_t ncontent = 0;

    for (uint32_t i = 0; i < e->n; i++) {
        uint32_t npages = e->extents[i].npages & ~IMAGE_EXTENT_ZERO;
        bool zero = (e->extents[i].npages & IMAGE_EXTENT_ZERO) != 0;
        const image_span *span = pos->span < s->n ? &s->spans[pos->span] : NULL;

        if (span == NULL || npages == 0 || e->extents[i].first != span->first + pos->page ||
            npages > span->npages - pos->page || (!zero && npages > IMAGE_BLOCK_PAGES))
            return false;
        if (span_class_size((span_class){ span->spc }).n == 0) { /* all of a large object lives */
            *pos = image_pos_next(s, (image_pos){ pos->span, pos->page + npages - 1 });
        } else {
            uint32_t at = pos->span;

            if (zero)
                return false;
            for (uint32_t k = 0; k < npages; k++) {
                if (pos->span != at || s->spans[at].first + pos->page != e->extents[i].first + k)
                    return false;
                *pos = image_pos_next(s, *pos);
            }
        }
        ncontent += zero ? 0 : npages;
    }
    *ret_ncontent = ncontent;
    return true;
}

int image_read_pages(const image *im, image_bench *b, uint32_t i, image_pages *ret, image_error *why)
{
    uint32_t at = im->nroot_blocks + im->nspan_blocks + i;
    const image_entry *entry = &im->entries[at];
    const image_extents *e;
    uint64_t ncontent;
    const char *raw;
    int r;

    raw = read_block(im, b, at, &r, why);
    if (raw == NULL)
        return r;
    e = (const image_extents *)(const void *)raw;
    if (entry->raw_bytes < sizeof(*e) || e->n == 0 || e->n > IMAGE_EXTENTS_MAX || e->ncontent > IMAGE_BLOCK_PAGES ||
        image_content_off(e->n) + e->ncontent * PAGE_BYTES != entry->raw_bytes)
        return damaged(why, entry->off, "a block of pages has another length than its pages");
    if (!image_pos_at(&im->spans, e->extents[0].first, &ret->first))
        return damaged(why, entry->off, "pages in which no object lives");
    ret->next = ret->first;
    if (!extents_are_right(&im->spans, e, &ret->next, &ncontent) || ncontent != e->ncontent)
        return damaged(why, entry->off, "other pages than those in which objects live");
    ret->extents = e;
    ret->content = raw + image_content_off(e->n);
    return 0;
}

/* --- all of them --- */

typedef struct reading {
    const image *im;
    image_each *f;
    void *data;
    shm_u64 *ndone;
    struct seam { /* of each block: where it begins, and where the next one has to */
        image_pos first;
        image_pos next;
    } *seams;
    pthread_mutex_t lock;
    uint32_t next; /* under it: the block that nobody has begun, */
    int failed;    /* 0, or what the first failure was, */
    image_error why; /* and its reason */
} reading;

static bool take_block(reading *rd, int r, const image_error *why, uint32_t *ret)
{
    uint32_t n = image_npage_blocks(rd->im);

    (void)pthread_mutex_lock(&rd->lock);
    if (r != 0 && rd->failed == 0) {
        rd->failed = r;
        rd->why = *why;
    }
    *ret = rd->failed != 0 ? n : rd->next++;
    (void)pthread_mutex_unlock(&rd->lock);
    return *ret < n;
}

static void *read_some(void *data)
{
    reading *rd = data;
    image_error why = { "no memory to read it" };
    image_bench b;
    int r = image_bench_make(&b);
    bool made = r == 0;
    uint32_t i;

    while (take_block(rd, r, &why, &i)) {
        image_pages pages;

        r = image_read_pages(rd->im, &b, i, &pages, &why);
        if (r == 0)
            r = rd->f(rd->data, &pages, &why);
        if (r == 0)
            rd->seams[i] = (struct seam){ pages.first, pages.next };
        if (rd->ndone != NULL)
            u64_add_relaxed(rd->ndone, 1);
    }
    if (made)
        image_bench_free(&b);
    return NULL;
}

/* Each block begins where the one before it ends, the first one at the first page that lives; no page is left. */
static int check_seams(const reading *rd, image_error *why)
{
    const image *im = rd->im;
    image_pos pos = image_pos_first(&im->spans);

    for (uint32_t i = 0; i < image_npage_blocks(im); i++) {
        const struct seam *seam = &rd->seams[i];

        if (seam->first.span != pos.span || seam->first.page != pos.page)
            return damaged(why, im->entries[im->nroot_blocks + im->nspan_blocks + i].off,
                           "pages are missing before this block, or it is there twice");
        pos = seam->next;
    }
    return pos.span == im->spans.n ? 0 : damaged(why, im->header.index_off, "pages are missing at the end");
}

int image_for_all_pages(const image *im, unsigned nthreads, image_each *f, void *data, shm_u64 *ndone, image_error *why)
{
    reading rd = { .im = im, .f = f, .data = data, .ndone = ndone, .lock = PTHREAD_MUTEX_INITIALIZER };
    unsigned n = image_threads(nthreads, image_npage_blocks(im));
    pthread_t threads[THREADS_MAX];
    unsigned started = 0;
    int r;

    rd.seams = calloc(image_npage_blocks(im) + UINT64_C(1), sizeof(*rd.seams));
    if (rd.seams == NULL)
        return image_fail(why, -ENOMEM, "no memory to read it");
    while (started + 1 < n && pthread_create(&threads[started], NULL, read_some, &rd) == 0)
        started++;
    (void)read_some(&rd);
    for (unsigned i = 0; i < started; i++)
        (void)pthread_join(threads[i], NULL);
    r = rd.failed;
    if (r != 0)
        *why = rd.why;
    else
        r = check_seams(&rd, why);
    free(rd.seams);
    return r;
}
