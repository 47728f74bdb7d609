/*
 * Elffile: addresses to functions, files and lines, by elfutils' libdw.
 *
 * Called in a child process (symbols.c), which may end at any instruction: the file is whatever somebody has put there,
 * and libdw, the demangler and the kernel's patience are not made for the worst. So nothing is kept between two calls,
 * and what was written before the end counts.
 *
 * A place's functions are those of the debugging information if the file has any, or if there is a separate file for
 * its build id: the innermost inlined function first, each with the line at which the next one is left. Else there is
 * the one that the symbol table names. C++ names are demangled by libstdc++ if that is installed.
 */
#include "client/ctl/profile/elffile.h"

#include <dlfcn.h>
#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwfl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef char *demangle_fn(const char *name, char *buf, size_t *len, int *status);

typedef struct look_up {
    Dwfl_Module *module;
    demangle_fn *demangle; /* NULL: there is none */
    FILE *out;
} look_up;

/* --- writing --- */

static uint32_t text_bytes(const char *text)
{
    return (uint32_t)strnlen(text, ELFFILE_TEXT_MAX);
}

static void write_line(const look_up *l, uint32_t place, const char *linkage, const char *file, int line)
{
    int status = -1;
    char *readable = l->demangle != NULL && strncmp(linkage, "_Z", 2) == 0
                         ? l->demangle(linkage, NULL, NULL, &status)
                         : NULL;
    const char *function = readable != NULL && status == 0 ? readable : linkage;
    elffile_record r = { .kind = ELFFILE_LINE, .place = place, .line = line > 0 ? (uint32_t)line : 0,
                         .nfunction = text_bytes(function), .nlinkage = text_bytes(linkage),
                         .nfile = text_bytes(file) };

    (void)fwrite(&r, sizeof(r), 1, l->out);
    (void)fwrite(function, 1, r.nfunction, l->out);
    (void)fwrite(linkage, 1, r.nlinkage, l->out);
    (void)fwrite(file, 1, r.nfile, l->out);
    free(readable);
}

/* --- one place --- */

/* What a function is called: by the linker, else in the source. NULL: it has no name. */
static const char *name_of(Dwarf_Die *die)
{
    Dwarf_Attribute attr;
    const char *name = NULL;

    if (dwarf_attr_integrate(die, DW_AT_linkage_name, &attr) != NULL ||
        dwarf_attr_integrate(die, DW_AT_MIPS_linkage_name, &attr) != NULL)
        name = dwarf_formstring(&attr);
    return name != NULL ? name : dwarf_diename(die);
}

/* Where an inlined function is called. */
static void caller_of(Dwarf_Die *die, Dwarf_Files *files, const char **ret_file, int *ret_line)
{
    Dwarf_Attribute attr;
    Dwarf_Word value;
    const char *file = NULL;

    *ret_line = 0;
    if (files != NULL && dwarf_formudata(dwarf_attr(die, DW_AT_call_file, &attr), &value) == 0)
        file = dwarf_filesrc(files, value, NULL, NULL);
    if (dwarf_formudata(dwarf_attr(die, DW_AT_call_line, &attr), &value) == 0 && value <= INT32_MAX)
        *ret_line = (int)value;
    *ret_file = file != NULL ? file : "";
}

/* True if the first function among the scopes is inlined somewhere. */
static bool is_inlined(Dwarf_Die *scopes, int n)
{
    for (int i = 0; i < n; i++) {
        int tag = dwarf_tag(&scopes[i]);

        if (tag == DW_TAG_inlined_subroutine || tag == DW_TAG_subprogram)
            return tag == DW_TAG_inlined_subroutine;
    }
    return false;
}

/*
 * The blocks and functions around an address, from the innermost on, as they lie in each other. *ret: to be freed. What
 * dwarf_getscopes() says of an inlined function goes on with where that is defined, so who is around it is looked up
 * once more, which takes a walk through the unit.
 */
static int scopes_at(Dwarf_Die *unit, Dwarf_Addr address, Dwarf_Die **ret)
{
    Dwarf_Die innermost;
    int n = dwarf_getscopes(unit, address, ret);

    if (n <= 0)
        return 0;
    if (!is_inlined(*ret, n))
        return n;
    innermost = (*ret)[0];
    free(*ret);
    *ret = NULL;
    return dwarf_getscopes_die(&innermost, ret);
}

/*
 * The unit that an address belongs to. gcc makes a table of addresses for that; of what clang has made, which does not,
 * all units are looked through.
 */
static Dwarf_Die *unit_at(Dwfl_Module *module, uint64_t address, Dwarf_Addr *ret_bias)
{
    Dwarf_Die *unit = dwfl_module_addrdie(module, address, ret_bias);

    if (unit == NULL) {
        while ((unit = dwfl_module_nextcu(module, unit, ret_bias)) != NULL && dwarf_haspc(unit, address - *ret_bias) <= 0)
            ;
    }
    return unit;
}

/* Where in the sources an address is. NULL: nothing says so. */
static const char *source_at(Dwarf_Die *unit, Dwarf_Addr address, int *ret_line)
{
    Dwarf_Line *source = dwarf_getsrc_die(unit, address);
    const char *file = source == NULL ? NULL : dwarf_linesrc(source, NULL, NULL);

    if (file == NULL || dwarf_lineno(source, ret_line) != 0)
        *ret_line = 0;
    return file;
}

/* True if the debugging information has said something. */
static bool write_functions(const look_up *l, uint32_t place, uint64_t address)
{
    Dwarf_Addr bias = 0;
    Dwarf_Die *unit = unit_at(l->module, address, &bias);
    const char *file;
    int line = 0;
    Dwarf_Die *scopes = NULL;
    Dwarf_Files *files = NULL;
    unsigned nwritten = 0;

    if (unit == NULL)
        return false;
    file = source_at(unit, address - bias, &line);
    file = file != NULL ? file : "";
    (void)dwarf_getsrcfiles(unit, &files, NULL);

    int n = scopes_at(unit, address - bias, &scopes);

    for (int i = 0; i < n && nwritten < ELFFILE_LINES_MAX; i++) {
        int tag = dwarf_tag(&scopes[i]);
        const char *name = NULL;

        if (tag != DW_TAG_inlined_subroutine && tag != DW_TAG_subprogram)
            continue;
        name = name_of(&scopes[i]);
        write_line(l, place, name != NULL ? name : "?", file, line);
        nwritten++;
        if (tag == DW_TAG_subprogram)
            break;
        caller_of(&scopes[i], files, &file, &line);
    }
    free(scopes);
    return nwritten > 0;
}

static void write_place(const look_up *l, uint32_t place, uint64_t address)
{
    GElf_Off offset;
    GElf_Sym symbol;
    const char *name;

    if (write_functions(l, place, address))
        return;
    name = dwfl_module_addrinfo(l->module, address, &offset, &symbol, NULL, NULL, NULL);
    if (name != NULL)
        write_line(l, place, name, "", 0);
}

/* --- the file --- */

static bool is_same_build(Dwfl_Module *module, const uint8_t *build_id, uint32_t build_id_bytes)
{
    const unsigned char *bits;
    GElf_Addr at;
    GElf_Addr bias;

    if (dwfl_module_getelf(module, &bias) == NULL)
        return false;
    return dwfl_module_build_id(module, &bits, &at) == (int)build_id_bytes &&
           memcmp(bits, build_id, build_id_bytes) == 0;
}

/* The part of the file that has code. */
static void find_code(Dwfl_Module *module, elffile_record *ret)
{
    GElf_Addr bias;
    Elf *elf = dwfl_module_getelf(module, &bias);
    size_t n = 0;

    if (elf == NULL || elf_getphdrnum(elf, &n) != 0)
        return;
    for (int i = 0; i < (int)n; i++) {
        GElf_Phdr memory;
        const GElf_Phdr *part = gelf_getphdr(elf, i, &memory);

        if (part == NULL || part->p_type != PT_LOAD || !(part->p_flags & PF_X))
            continue;
        ret->start = part->p_vaddr & ~UINT64_C(4095);
        ret->limit = part->p_vaddr + part->p_memsz;
        ret->file_offset = part->p_offset & ~UINT64_C(4095);
        return;
    }
}

static Dwfl_Module *open_module(Dwfl *dwfl, int fd, const char *path)
{
    Dwfl_Module *module;

    dwfl_report_begin(dwfl);
    module = dwfl_report_elf(dwfl, "module", path, fd, 0, true);
    if (module == NULL)
        (void)close(fd);
    return dwfl_report_end(dwfl, NULL, NULL) == 0 ? module : NULL;
}

void elffile_read(int fd, const char *path, const uint8_t *build_id, uint32_t build_id_bytes,
                  const uint64_t *addresses, size_t n, FILE *out)
{
    static char *nowhere_else; /* the places that libdw knows by itself */
    static const Dwfl_Callbacks callbacks = { .find_debuginfo = dwfl_standard_find_debuginfo,
                                              .section_address = dwfl_offline_section_address,
                                              .debuginfo_path = &nowhere_else };
    elffile_record end = { .kind = ELFFILE_END, .verdict = ELFFILE_BROKEN };
    look_up l = { .out = out };
    Dwfl *dwfl = dwfl_begin(&callbacks);
    void *library = dlopen("libstdc++.so.6", RTLD_NOW | RTLD_LOCAL);

    if (library != NULL)
        *(void **)&l.demangle = dlsym(library, "__cxa_demangle");
    l.module = dwfl != NULL ? open_module(dwfl, fd, path) : NULL;
    if (l.module != NULL && !is_same_build(l.module, build_id, build_id_bytes)) {
        end.verdict = ELFFILE_OTHER_BUILD;
    } else if (l.module != NULL) {
        end.verdict = ELFFILE_READ;
        find_code(l.module, &end);
        for (size_t i = 0; i < n; i++)
            write_place(&l, (uint32_t)i, addresses[i]);
    }
    (void)fwrite(&end, sizeof(end), 1, out);
    (void)fflush(out);
    dwfl_end(dwfl);
}
