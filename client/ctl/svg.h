/*
 * Svg: what the pictures of goallocctl have in common.
 */
#ifndef GOALLOC_CLIENT_CTL_SVG_H
#define GOALLOC_CLIENT_CTL_SVG_H

#include <stdio.h>

/* Begin a picture: its title, and text in it in a font of fixed width, white behind all. Width and height in pixels. */
void svg_begin(FILE *out, unsigned width, unsigned height, const char *title);
void svg_end(FILE *out);

/* Text as the content of an element: as ctl_plain_text() shows it, up to 1023 bytes, with what XML reads escaped. */
void svg_text(FILE *out, const char *text);

#endif
