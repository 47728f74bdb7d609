/* Memory: NumPy's allocations in the shared heap (NEP 49). _numpy_memory.c says how. */
#ifndef GOALLOC_NUMPY_MEMORY_H
#define GOALLOC_NUMPY_MEMORY_H

#include "goalloc_python.h"

#include <stdint.h>

#define MEMORY_ALIGNMENT 64

/* An object of size bytes, aligned to 64, that holds no pointers. NULL with errno. May wait for the daemon. */
void *memory_block(size_t size, int is_zeroed);

/* Before all else: api is goalloc._core's. 0, or -1 with an exception. */
int memory_init(const goalloc_python_api *api);

/* Methods of the module: the handler is set for this context, and what was set before is returned. */
PyObject *memory_set_handler(PyObject *module, PyObject *handler);

/* The handler, a capsule. Borrowed. */
PyObject *memory_handler(void);

#endif
