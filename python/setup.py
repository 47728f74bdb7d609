"""The extension modules of the package goalloc, for setuptools; pyproject.toml has the rest.

goalloc._core uses the limited API of Python 3.11: one binary for this version and all later ones (abi3). libgoalloc and
its header are found by pkg-config; GOALLOC_CFLAGS and GOALLOC_LIBS say where they are instead, for a build that is not
installed. NumPy's part (goalloc._numpy) is built if NumPy is there, unless GOALLOC_NUMPY is 0; a wheel with it is for one
version of Python. CMakeLists.txt compiles the same files for the
tests and for Debian's package.
"""

import glob
import os
import shlex
import subprocess

from setuptools import Extension, setup

HERE = os.path.dirname(os.path.abspath(__file__))
LIMITED_API = "0x030b0000"


def flags(variable, option):
    """Words for the compiler: what the variable says, else what pkg-config does."""
    if variable in os.environ:
        return shlex.split(os.environ[variable])
    try:
        return shlex.split(subprocess.check_output(["pkg-config", option, "goalloc"], text=True))
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            "setup.py: pkg-config does not find goalloc (Debian: apt install pkg-config libgoalloc-dev): "
            f"{error}"
        ) from None


def extensions():
    sources = sorted(os.path.relpath(path, HERE) for path in glob.glob(os.path.join(HERE, "src/goalloc/*.c")))
    common = {
        "extra_compile_args": ["-std=gnu11", *flags("GOALLOC_CFLAGS", "--cflags")],
        "extra_link_args": flags("GOALLOC_LIBS", "--libs"),
        "depends": glob.glob(os.path.join(HERE, "src/goalloc/*.h")),
    }
    numpy_part = [path for path in sources if os.path.basename(path).startswith("_numpy")]
    both = [path for path in sources if os.path.basename(path) in ("process.c", "link.c")]
    result = [
        Extension(
            "goalloc._core",
            [path for path in sources if path not in numpy_part],
            define_macros=[("Py_LIMITED_API", LIMITED_API), ("_GNU_SOURCE", None)],
            py_limited_api=True,
            **common,
        )
    ]
    if os.environ.get("GOALLOC_NUMPY") != "0":
        try:
            import numpy
        except ImportError:
            print("setup.py: no NumPy, so goalloc._numpy is left out")
        else:
            result.append(
                Extension(
                    "goalloc._numpy",
                    numpy_part + both,
                    define_macros=[("_GNU_SOURCE", None)],
                    include_dirs=[numpy.get_include()],
                    **common,
                )
            )
    return result


def abi3(modules):
    """The wheel is for all later versions of Python, unless a module in it is for one alone."""
    return {"bdist_wheel": {"py_limited_api": "cp311"}} if all(m.py_limited_api for m in modules) else {}


MODULES = extensions()
setup(ext_modules=MODULES, options=abi3(MODULES))
