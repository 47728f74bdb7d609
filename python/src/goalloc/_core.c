/*
 * _core: the extension module goalloc._core, in the limited API of Python 3.11.
 *
 * Users see the package goalloc (__init__.py), which gives these functions their signatures. Here are the module, what
 * concerns the process as a whole, and the capsule for other extension modules (goalloc_python.h). What the process is
 * to the daemon is one for all interpreters: the state is static, and a subinterpreter with a GIL of its own can't
 * import this module (Py_LIMITED_API 3.11 does not declare it able to).
 */
#include "core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "goalloc_python.h"

static PyObject *detach(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    if (heap_is_attached() && !heap_has_pins())
        buffer_forget_all();
    return heap_detach();
}

static PyObject *is_attached(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyBool_FromLong(heap_is_attached());
}

static PyObject *is_current(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyBool_FromLong(goalloc_is_current());
}

static PyObject *heap_id(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLongLong(goalloc_heap_id());
}

static PyObject *library_version(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyUnicode_FromString(goalloc_version());
}

static PyObject *ticket(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return heap_ticket();
}

static PyObject *trim(PyObject *module, PyObject *unused)
{
    int r;

    (void)module;
    (void)unused;
    if (heap_ensure() < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    r = goalloc_trim();
    Py_END_ALLOW_THREADS
    if (r < 0)
        return heap_error(r, "trim");
    Py_RETURN_NONE;
}

static PyObject *set_label(PyObject *module, PyObject *args)
{
    const char *label;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "z:set_label", &label) || heap_ensure() < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    r = goalloc_set_label(label);
    Py_END_ALLOW_THREADS
    if (r < 0)
        return heap_error(r, "set_label");
    Py_RETURN_NONE;
}

#define FIELD(name) { #name, offsetof(goalloc_stats_t, name) }
static const struct {
    const char *name;
    size_t at;
} stats_fields[] = {
    FIELD(live_objects),       FIELD(live_bytes),         FIELD(committed_bytes),  FIELD(released_bytes),
    FIELD(metadata_bytes),     FIELD(sessions),           FIELD(leased_spans),     FIELD(roots),
    FIELD(session_held_bytes), FIELD(session_rpcs),       FIELD(free_bytes),       FIELD(arena_bytes),
    FIELD(memory_limit_bytes), FIELD(max_memory_bytes),   FIELD(peak_committed_bytes),
    FIELD(group_live_objects), FIELD(group_live_bytes),
};

static PyObject *stats(PyObject *module, PyObject *unused)
{
    goalloc_stats_t s = { .struct_size = sizeof(s) };
    PyObject *result;
    int r;

    (void)module;
    (void)unused;
    if (heap_ensure() < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    r = goalloc_stats(&s);
    Py_END_ALLOW_THREADS
    if (r < 0)
        return heap_error(r, "stats");
    result = PyDict_New();
    for (size_t i = 0; result != NULL && i < sizeof(stats_fields) / sizeof(stats_fields[0]); i++) {
        uint64_t value;
        PyObject *number;

        memcpy(&value, (const char *)&s + stats_fields[i].at, sizeof(value));
        number = PyLong_FromUnsignedLongLong(value);
        if (number == NULL || PyDict_SetItemString(result, stats_fields[i].name, number) < 0)
            Py_CLEAR(result);
        Py_XDECREF(number);
    }
    return result;
}

static PyObject *before_fork(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    buffer_before_fork();
    Py_RETURN_NONE;
}

static PyObject *after_fork_in_child(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    buffer_after_fork_in_child();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    { "attach", heap_attach, METH_VARARGS, NULL },
    { "detach", detach, METH_NOARGS, NULL },
    { "is_attached", is_attached, METH_NOARGS, NULL },
    { "is_current", is_current, METH_NOARGS, NULL },
    { "heap_id", heap_id, METH_NOARGS, NULL },
    { "library_version", library_version, METH_NOARGS, NULL },
    { "ticket", ticket, METH_NOARGS, NULL },
    { "trim", trim, METH_NOARGS, NULL },
    { "set_label", set_label, METH_VARARGS, NULL },
    { "stats", stats, METH_NOARGS, NULL },
    { "before_fork", before_fork, METH_NOARGS, NULL },
    { "after_fork_in_child", after_fork_in_child, METH_NOARGS, NULL },
    { "alloc", buffer_alloc, METH_VARARGS, NULL },
    { "from_handle", buffer_from_handle, METH_VARARGS, NULL },
    { "drop_handle", buffer_drop_handle, METH_VARARGS, NULL },
    { "collect", buffer_collect, METH_NOARGS, NULL },
    { "segment", buffer_segment, METH_VARARGS, NULL },
    { "segment_unlink", buffer_segment_unlink, METH_VARARGS, NULL },
    { NULL, NULL, 0, NULL },
};

static const goalloc_python_api api = {
    .struct_size = sizeof(api),
    .heap_pin = heap_pin,
    .heap_unpin = heap_unpin,
    .raise = heap_error,
    .buffer_borrow = buffer_borrow,
    .is_readonly = heap_is_readonly,
    .attach_ticket = heap_ticket,
};

static int add_constant(PyObject *module, const char *name, long value)
{
    return PyModule_AddIntConstant(module, name, value);
}

static int module_exec(PyObject *module)
{
    PyObject *capsule;
    int r;

    if (heap_init(module) < 0 || buffer_init(module) < 0 || dict_init(module) < 0 ||
        PyModule_AddFunctions(module, roots_methods) < 0 ||
        add_constant(module, "ATTACH_RECLAIM", GOALLOC_ATTACH_RECLAIM) < 0 ||
        add_constant(module, "ATTACH_READONLY", GOALLOC_ATTACH_READONLY) < 0 ||
        add_constant(module, "ATTACH_DUMP", GOALLOC_ATTACH_DUMP) < 0)
        return -1;
    capsule = PyCapsule_New((void *)(uintptr_t)&api, GOALLOC_PYTHON_CAPSULE, NULL);
    if (capsule == NULL)
        return -1;
    r = PyModule_AddObjectRef(module, "_C_API", capsule);
    Py_DECREF(capsule);
    return r;
}

static PyModuleDef_Slot slots[] = { { Py_mod_exec, (void *)module_exec }, { 0, NULL } };

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "goalloc._core",
    .m_doc = "The heap of goallocd, for Python: see the package goalloc.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
