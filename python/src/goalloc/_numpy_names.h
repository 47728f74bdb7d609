/* Names: published arrays; _numpy_names.c says how. Methods of the module goalloc._numpy. */
#ifndef GOALLOC_NUMPY_NAMES_H
#define GOALLOC_NUMPY_NAMES_H

#include "_numpy_api.h"

PyObject *names_publish(PyObject *module, PyObject *args);
PyObject *names_lookup(PyObject *module, PyObject *args);
PyObject *names_unlink(PyObject *module, PyObject *args);

#endif
