/*
 * Collectanswer: what goallocd-collector --once writes to descriptor COLLECT_ANSWER_FD with --answer, in one write,
 * when it is done; for goalloc_collect() (collect.c), which has started it. Before that it reads one byte from there:
 * it may begin.
 */
#ifndef GOALLOC_LIB_COLLECTANSWER_H
#define GOALLOC_LIB_COLLECTANSWER_H

#include <stdint.h>

#define COLLECT_ANSWER_MAGIC UINT32_C(0x31414347) /* "GCA1"; another one: of another build */
#define COLLECT_ANSWER_FD    3

typedef struct collect_answer {
    uint32_t magic;
    int32_t error; /* 0, or a negative errno: what goalloc_collect() returns */
    int32_t pid;   /* in the way; 0: none */
    uint32_t pause_us;
    uint64_t garbage_objects;
    uint64_t garbage_bytes;
    uint64_t freed_objects;
    uint64_t freed_bytes;
} collect_answer;

#endif
