/*
 * NumPy's C interface, as the files of goalloc._numpy include it: before all other headers. _numpy.c alone imports it,
 * and says so by GOALLOC_NUMPY_IMPORTS.
 */
#ifndef GOALLOC_NUMPY_API_H
#define GOALLOC_NUMPY_API_H

#define PY_SSIZE_T_CLEAN
#define PY_ARRAY_UNIQUE_SYMBOL goalloc_numpy_array_api
#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#define NPY_TARGET_VERSION NPY_1_22_API_VERSION
#ifndef GOALLOC_NUMPY_IMPORTS
#define NO_IMPORT_ARRAY
#endif
#include <Python.h>

#include <numpy/arrayobject.h>

#endif
