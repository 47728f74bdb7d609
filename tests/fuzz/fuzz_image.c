/*
 * What a daemon makes of an image of a heap (image/, daemon/heap/load.c): any file, with right checksums, since a wrong
 * one is seen at once. An input says which spans, roots and pages are in it, blocks of any bytes among them, words of
 * the header and of the index that are changed before they are summed, and bytes that are changed after it. What is
 * accepted is loaded, taken over and validated, its pages are those of the file, and it is saved again: the same number
 * of objects comes out. What is refused says why.
 */
#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zstd.h>

#include "daemon/heap/load.h"
#include "daemon/heap/mheap.h"
#include "image/imageplan.h"
#include "image/imagereader.h"
#include "shm/sizeclass.h"
#include "tests/fuzz/fuzz.h"

#define ARENA_BYTES (UINT64_C(64) * MIB)
#define BLOCKS_MAX  16u
#define FILE_MAX    (UINT64_C(8) * MIB)

typedef struct file {
    char *bytes;
    uint64_t n;
    image_header header;
    image_entry entries[BLOCKS_MAX];
} file;

static int memfd;
static char path[64];
static char raw[IMAGE_RAW_MAX];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    memfd = memfd_create("image", MFD_CLOEXEC);
    FUZZ_CHECK(memfd >= 0);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", memfd);
    return 0;
}

/* --- a file --- */

static void add_block(file *f, uint32_t kind, uint32_t n, bool packs)
{
    static char packed[ZSTD_COMPRESSBOUND(IMAGE_RAW_MAX)];
    const char *stored = raw;
    uint32_t nstored = n;

    if (f->header.nblocks == BLOCKS_MAX || n == 0 || f->n + n > FILE_MAX)
        return;
    if (packs) {
        size_t len = ZSTD_compress(packed, sizeof(packed), raw, n, 1);

        FUZZ_CHECK(ZSTD_isError(len) == 0);
        if (len < n) {
            stored = packed;
            nstored = (uint32_t)len;
        }
    }
    memcpy(f->bytes + f->n, stored, nstored);
    f->entries[f->header.nblocks++] = (image_entry){ .off = f->n, .checksum = XXH3_64bits(stored, nstored),
                                                     .stored_bytes = nstored, .raw_bytes = n, .kind = kind };
    f->n += nstored;
}

static void add_roots(file *f, fuzz_input *in)
{
    uint32_t n = 0;

    for (unsigned left = fuzz_u8(in) % 8; left > 0; left--) {
        image_root root = { .offset = fuzz_number(in) * 8, .size = fuzz_u8(in), .owner = fuzz_u8(in),
                            .name_bytes = fuzz_u8(in) % 20 };

        if (root.offset == 0 || fuzz_u8(in) < 250)
            root.offset = root.offset % ARENA_BYTES + 8;
        memcpy(raw + n, &root, sizeof(root));
        n += (uint32_t)sizeof(root);
        memset(raw + n, 0, 32);
        for (uint32_t i = 0; i < root.name_bytes; i++)
            raw[n + i] = (char)('a' + fuzz_u8(in) % 26);
        n += (root.name_bytes + 7) / 8 * 8;
        f->header.nroots++;
    }
    add_block(f, IMAGE_ROOTS, n, fuzz_u8(in) % 2);
}

/* Spans that could be, mostly; and the pages of them that live, into pages. */
static void add_spans(file *f, fuzz_input *in, image_spans *spans)
{
    uint32_t at = 1;
    uint32_t n = 0;

    for (unsigned left = fuzz_u8(in) % 32; left > 0; left--) {
        uint8_t class = fuzz_u8(in) % (SIZE_CLASS_TINY + 1);
        uint8_t how = fuzz_u8(in);
        uint32_t npages = class == 0 ? 1 + fuzz_u8(in) % 64u
                                     : how % 2 ? size_class_npages[class] : size_class_short_npages[class];
        image_span span = { .first = at + how / 64, .npages = npages,
                            .nelems = (uint16_t)(class == 0 ? 1 : size_class_span_nelems(class, npages)),
                            .spc = (uint8_t)(class * 2u + (class == SIZE_CLASS_TINY || how % 8 > 3)) };
        uint64_t bits[IMAGE_SPAN_WORDS] = { 0 };

        if (fuzz_u8(in) > 250)
            ((uint8_t *)&span)[fuzz_u8(in) % sizeof(span)] = fuzz_u8(in);
        for (uint32_t w = 0; w < bits_nwords(span.nelems) && w < IMAGE_SPAN_WORDS; w++)
            bits[w] = (fuzz_u8(in) % 2 ? UINT64_MAX : fuzz_u64(in)) & (w == 0 ? UINT64_MAX : bits_mask(span.nelems, w));
        if (span.nelems > 0 && span.nelems < 64)
            bits[0] &= bits_mask(span.nelems, 0);
        bits[0] |= 1;
        memcpy(raw + n, &span, sizeof(span));
        n += (uint32_t)sizeof(span);
        memcpy(raw + n, bits, bits_nwords(span.nelems) * UINT64_C(8) % sizeof(bits));
        n += bits_nwords(span.nelems) * 8u % (uint32_t)sizeof(bits);
        f->header.nspans++;
        at = span.first + span.npages;
        if (span.nelems > 0 && span.nelems <= SPAN_NELEMS_MAX && span.npages < 4096 && spans->n < 64 &&
            span_class_size((span_class){ span.spc }).n <= SIZE_CLASS_TINY && at < ARENA_BYTES / PAGE_BYTES)
            FUZZ_CHECK(image_spans_add(spans, &span, bits) == 0);
    }
    add_block(f, IMAGE_SPANS, n, fuzz_u8(in) % 2);
}

/* The pages in which objects live, in blocks of a few extents; and some that are not. */
static void add_pages(file *f, fuzz_input *in, const image_spans *spans)
{
    image_extents *e = (image_extents *)(void *)raw;
    image_pos pos = image_pos_first(spans);

    while (pos.span < spans->n && f->header.nblocks < BLOCKS_MAX) {
        uint32_t most = 1 + fuzz_u8(in) % 30u;
        uint8_t content = fuzz_u8(in);
        uint32_t off;

        e->n = e->ncontent = 0;
        for (; pos.span < spans->n && e->n < most && e->ncontent < IMAGE_BLOCK_PAGES; e->n++) {
            const image_span *span = &spans->spans[pos.span];
            bool zero = image_span_elem_bytes(span) > SMALL_BYTES_MAX && fuzz_u8(in) % 4 == 0;

            e->extents[e->n] = (image_extent){ span->first + pos.page, 1 | (zero ? IMAGE_EXTENT_ZERO : 0) };
            e->ncontent += !zero;
            pos = image_pos_next(spans, pos);
        }
        off = image_content_off(e->n);
        memset((char *)&e->extents[e->n], 0, off - sizeof(*e) - e->n * sizeof(image_extent));
        memset(raw + off, content, e->ncontent * PAGE_BYTES);
        f->header.npages += e->ncontent;
        if (content > 250)
            raw[fuzz_u16(in) % off] = (char)fuzz_u8(in);
        add_block(f, IMAGE_PAGES, off + e->ncontent * (uint32_t)PAGE_BYTES, content % 2);
    }
}

static void add_anything(file *f, fuzz_input *in)
{
    uint32_t n = fuzz_u8(in);

    for (uint32_t i = 0; i < n; i++)
        raw[i] = (char)fuzz_u8(in);
    add_block(f, fuzz_u8(in) % 4, n, fuzz_u8(in) % 2);
}

/* Index and header, changed or not; then bytes, changed or not. */
static void end_file(file *f, fuzz_input *in)
{
    static const uint64_t marks[] = { IMAGE_CLEAN, IMAGE_LOADED, IMAGE_COPY };
    uint64_t mark = marks[fuzz_u8(in) % 3];
    uint64_t index_bytes = f->header.nblocks * sizeof(image_entry);

    for (unsigned left = fuzz_u8(in) % 4; left > 0 && f->header.nblocks > 0; left--) {
        image_entry *entry = &f->entries[fuzz_u8(in) % f->header.nblocks];

        switch (fuzz_u8(in) % 8) {
        case 0:
            entry->off = fuzz_number(in);
            break;
        case 1:
            entry->stored_bytes = (uint32_t)fuzz_number(in);
            break;
        case 2:
            entry->raw_bytes = (uint32_t)fuzz_number(in);
            break;
        case 3:
            entry->kind = (uint32_t)fuzz_number(in);
            break;
        default: /* most inputs leave them as they are */
            break;
        }
    }
    f->header.index_off = f->n;
    f->header.file_bytes = f->n + index_bytes;
    if (fuzz_u8(in) > 240)
        ((uint64_t *)(void *)&f->header)[2 + fuzz_u8(in) % 24] = fuzz_number(in);
    f->header.index_checksum = XXH3_64bits(f->entries, index_bytes);
    f->header.checksum = XXH3_64bits(&f->header, offsetof(image_header, checksum));
    memcpy(f->bytes, &f->header, sizeof(f->header));
    memcpy(f->bytes + IMAGE_MARK_OFF, &mark, sizeof(mark));
    memcpy(f->bytes + f->n, f->entries, index_bytes);
    f->n += index_bytes;
    for (unsigned left = fuzz_u8(in) % 3; left > 0; left--)
        f->bytes[fuzz_u64(in) % f->n] ^= (char)fuzz_u8(in);
    if (fuzz_u8(in) > 250)
        f->n = fuzz_u64(in) % (f->n + 1);
}

/* --- what becomes of it --- */

/* The heap that was loaded: whole, and saved again it is what it was. */
static void look_at(heapfile *hf, const image *im)
{
    const image_source source = { .map = &hf->map, .arena_fd = hf->fds[HEAPFILE_ARENA] };
    const char *what = "";
    image_error why;
    image_plan plan;
    mheap heap;

    FUZZ_CHECK(mheap_recover(&heap, hf, 0, &what) == 0);
    FUZZ_CHECK(mheap_validate(&heap, stderr) == 0);
    FUZZ_CHECK(heap.ninuse_spans == im->spans.n);
    FUZZ_CHECK(image_plan_make(&plan, &source, &why) == 0);
    FUZZ_CHECK(plan.spans.n <= im->spans.n && plan.header.nroots <= im->header.nroots);
    image_plan_free(&plan);
    mheap_end(&heap);
}

static void load(const image *im)
{
    image_error why = { "" };
    heapfile hf;
    int r;

    if (im->header.arena_bytes > ARENA_BYTES)
        return;
    r = load_image(im, im->header.arena_bytes, false, NULL, &hf, &why);
    FUZZ_CHECK(r == 0 || why.text[0] != '\0');
    if (r < 0)
        return;
    look_at(&hf, im);
    heapfile_close(&hf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char bytes[FILE_MAX + IMAGE_RAW_MAX];
    fuzz_input in = { data, data + size };
    file f = { .bytes = bytes, .n = IMAGE_BLOCKS_OFF };
    image_spans spans = { .n = 0 };
    image_error why = { "" };
    image im;
    int r;

    memset(bytes, 0, IMAGE_BLOCKS_OFF);
    memcpy(f.header.magic, IMAGE_MAGIC, sizeof(f.header.magic));
    f.header.format = IMAGE_FORMAT;
    f.header.major = version_own()->major;
    f.header.minor = version_own()->minor;
    f.header.base = 64 * MIB;
    f.header.arena_bytes = ARENA_BYTES;
    f.header.generation = 1;
    if (fuzz_u8(&in) > 250)
        add_anything(&f, &in);
    add_roots(&f, &in);
    add_spans(&f, &in, &spans);
    add_pages(&f, &in, &spans);
    if (fuzz_u8(&in) > 250)
        add_anything(&f, &in);
    end_file(&f, &in);
    image_spans_free(&spans);
    FUZZ_CHECK(ftruncate(memfd, 0) == 0 && pwrite(memfd, f.bytes, f.n, 0) == (ssize_t)f.n);
    r = image_open(&im, path, false, &why);
    FUZZ_CHECK(r == 0 || why.text[0] != '\0');
    if (r == 0) {
        load(&im);
        image_close(&im);
    }
    return 0;
}
