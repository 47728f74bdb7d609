/*
 * Svg: a picture that stands alone: nothing is fetched, and no script is in it.
 *
 * Foreign text comes in by svg_text() alone. What ctl_plain_text() leaves of it are characters that XML allows.
 */
#include "client/ctl/svg.h"

#include "client/ctl/ctl.h"

void svg_text(FILE *out, const char *text)
{
    char plain[1024];

    for (const char *c = ctl_plain_text(text, plain, sizeof(plain)); *c != '\0'; c++) {
        switch (*c) {
        case '&':
            (void)fputs("&amp;", out);
            break;
        case '<':
            (void)fputs("&lt;", out);
            break;
        case '>':
            (void)fputs("&gt;", out);
            break;
        case '"':
            (void)fputs("&quot;", out);
            break;
        default:
            (void)putc(*c, out);
        }
    }
}

void svg_begin(FILE *out, unsigned width, unsigned height, const char *title)
{
    (void)fprintf(out,
                  "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" height=\"%u\" viewBox=\"0 0 %u %u\" "
                  "role=\"img\" font-family=\"ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace\" "
                  "font-size=\"12\">\n<title>",
                  width, height, width, height);
    svg_text(out, title);
    (void)fprintf(out, "</title>\n<rect width=\"%u\" height=\"%u\" rx=\"6\" fill=\"#ffffff\"/>\n", width, height);
}

void svg_end(FILE *out)
{
    (void)fputs("</svg>\n", out);
}
