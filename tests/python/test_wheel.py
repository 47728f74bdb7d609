"""The wheel, as a user has it: built without a network, installed in an environment of its own, README's example run."""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile

from support import PATIENCE, HeapTest, main

SOURCE = os.environ.get("GOALLOC_SOURCE") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
LIBRARY = os.environ.get("GOALLOC_LIBRARY")


def example():
    """README.md's Python."""
    with open(os.path.join(SOURCE, "README.md"), encoding="utf-8") as readme:
        blocks = re.findall(r"^```python\n(.*?)^```", readme.read(), re.S | re.M)
    if len(blocks) != 1:
        raise AssertionError(f"README.md has {len(blocks)} pieces of Python, not one")
    return blocks[0]


class Wheel(HeapTest):
    @classmethod
    def setUpClass(cls):
        if LIBRARY is None:
            raise unittest.SkipTest("takes a build: GOALLOC_LIBRARY")
        for module in ("pip", "setuptools", "wheel", "venv"):
            if subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False).returncode:
                raise unittest.SkipTest(f"there is no {module} (Debian: python3-pip python3-setuptools python3-wheel python3-venv)")
        super().setUpClass()
        cls.directory = tempfile.mkdtemp(prefix="goalloc-wheel.", dir=os.environ.get("GOALLOC_TEST_DIR"))
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        sources = os.path.join(cls.directory, "python")
        shutil.copytree(os.path.join(SOURCE, "python"), sources)
        directory = os.path.dirname(LIBRARY)
        cls.environment = dict(
            os.environ, GOALLOC_CFLAGS=f"-I{os.path.abspath(SOURCE)}/client/include", GOALLOC_LIBS=f"-L{directory} -lgoalloc",
            GOALLOC_NUMPY="0", LD_LIBRARY_PATH=directory, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INDEX="1",
        )
        cls.environment.pop("PYTHONPATH", None)
        cls.run_quietly(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir",
                        cls.directory, sources)
        (cls.wheel,) = glob.glob(os.path.join(cls.directory, "*.whl"))
        cls.run_quietly(sys.executable, "-m", "venv", "--without-pip", cls.directory + "/venv")
        cls.python = cls.directory + "/venv/bin/python"
        cls.run_quietly(sys.executable, "-m", "pip", "--python", cls.python, "install", "--no-deps", cls.wheel)

    @classmethod
    def run_quietly(cls, *command):
        result = subprocess.run(command, env=cls.environment, capture_output=True, text=True, timeout=4 * PATIENCE,
                                check=False)
        if result.returncode:
            raise AssertionError(f"{command}: {result.stdout}{result.stderr}")
        return result.stdout

    def tearDown(self):
        pass

    def test_one_wheel_is_for_all_versions_from_3_11_on(self):
        self.assertRegex(os.path.basename(self.wheel), r"^goalloc-[0-9.]+-cp311-abi3-linux_\w+\.whl$")
        with zipfile.ZipFile(self.wheel) as wheel:
            names = wheel.namelist()
        for name in ("goalloc/_core.abi3.so", "goalloc/__init__.py", "goalloc/py.typed", "goalloc/_core.pyi"):
            self.assertIn(name, names)

    def test_the_version_is_the_headers(self):
        with open(os.path.join(SOURCE, "client", "include", "goalloc.h"), encoding="utf-8") as header:
            parts = re.findall(r"^#define GOALLOC_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$", header.read(), re.M)
        said = self.run_quietly(self.python, "-c", "import goalloc, importlib.metadata as m\n"
                                "print(goalloc.__version__, m.version('goalloc'), goalloc.library_version())")
        self.assertEqual(said.split(), [".".join(parts)] * 3)

    def test_the_readmes_example_runs(self):
        path = os.path.join(self.directory, "example.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(example())
        self.assertEqual(self.run_quietly(self.python, path), "100 b'hello'\n")

    def test_without_the_library_the_import_says_what_to_install(self):
        environment = dict(self.environment)
        environment.pop("LD_LIBRARY_PATH")
        result = subprocess.run([self.python, "-c", "import goalloc"], env=environment, capture_output=True, text=True,
                                check=False, timeout=PATIENCE)
        if result.returncode == 0:
            self.skipTest("the library is installed on this machine")
        self.assertIn("ImportError: goalloc needs the library libgoalloc.so.1", result.stderr)
        self.assertIn("apt install libgoalloc1", result.stderr)


if __name__ == "__main__":
    main()
