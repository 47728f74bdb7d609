"""The package's types (*.pyi): they say what the modules have, the documents' examples fit, and mistakes are found.

mypy's stubtest compares each module with its stubs, both ways. Pieces of Python in README.md and in the documents are
type-checked, and so are a program that uses all that users see, and one in which each line is wrong. The first program
is run, too, so that what a call returns is of the type that its stub says.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import unittest

from support import PATIENCE, HeapTest, main

try:
    import mypy.version
    import numpy  # noqa: F401  (its types are in _arrays.pyi)
except ImportError as error:
    print(f"skipped: {error} (Debian: mypy python3-numpy)")
    sys.exit(77)

SOURCE = os.environ.get("GOALLOC_SOURCE") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
DOCUMENTS = ("README.md", "docs/PYTHON.md", "docs/PYTHON_ARRAYS.md", "python/README.md")
VERSION = tuple(int(part) for part in re.findall(r"\d+", mypy.version.__version__)[:2])

# All that is strict, but for functions without types, which users may write.
OPTIONS = ("--strict", "--allow-untyped-defs", "--allow-incomplete-defs", "--allow-untyped-calls")

# What stubtest finds and is right: regular expressions, with the reason.
ALLOWED = {
    r"goalloc(\._core)?\.Buffer\.__buffer__": "type checkers ask for it; Python has it from 3.12 on",
}

# An older mypy knows the buffers of the standard library by name, and no others.
OLD_BUFFERS = re.compile(r'has incompatible type "Buffer"; expected "Union\[bytes, ')

# What the pieces of the documents use, and others make.
PRELUDE = """
import multiprocessing
import numpy as np
import goalloc

size, name, text = 100, "name", "text"
buffer = goalloc.alloc(size)
array = np.ones(10)
shape = (3, 4)
"""

RIGHT = '''
from typing import Any, Iterator, assert_type

import numpy as np

import goalloc
import goalloc.shared_memory

with goalloc.attach(label="typed", group="types", timeout=3.5) as session:
    assert_type(session, goalloc.Session)
    assert_type(goalloc.is_attached(), bool)
    assert_type(goalloc.is_current(), bool)
    assert_type(goalloc.heap_id(), int)
    assert_type(goalloc.library_version(), str)
    assert_type(goalloc.stats()["live_objects"], int)
    assert_type(goalloc.set_label("other"), None)
    assert_type(goalloc.set_label(None), None)
    assert_type(goalloc.trim(), None)
    assert_type(goalloc.collect(), int)

    d = goalloc.dict("types", max_bytes=1 << 20)
    assert_type(d, goalloc.Dict)
    d[b"k"] = b"v"
    d[bytearray(b"l")] = memoryview(b"w")
    assert_type(d[b"k"], bytes)
    assert_type(d.get(b"k"), bytes | None)
    assert_type(d.get(b"none", 5), bytes | int)
    assert_type(d.pop(b"l"), bytes)
    assert_type(d.pop(b"l", None), bytes | None)
    assert_type(d.setdefault(b"k", b"w"), bytes)
    assert_type(d.incr(b"n"), int)
    assert_type(d.incr(b"n", 4), int)
    assert_type(d.set(b"k", b"w"), None)
    assert_type(b"k" in d, bool)
    assert_type(len(d), int)
    assert_type(iter(d), Iterator[bytes])
    assert_type([key for key in d], list[bytes])
    assert_type(d.keys(), list[bytes])
    assert_type(d.values(), list[bytes])
    assert_type(d.items(), list[tuple[bytes, bytes]])
    assert_type(d.name, str)
    assert_type(d.max_bytes, int)
    assert_type(d.nbytes, int)
    assert_type(d.clear(), None)

    with goalloc.alloc(100) as buffer:
        assert_type(buffer, goalloc.Buffer)
        assert_type(buffer.size, int)
        assert_type(buffer.address, int)
        assert_type(buffer.offset, int)
        assert_type(buffer.readonly, bool)
        assert_type(buffer.freed, bool)
        assert_type(len(buffer), int)
        text = goalloc.handle(buffer)
        assert_type(text, str)
        assert_type(buffer.handle(), str)
        assert_type(goalloc.from_handle(text, take=True), goalloc.Buffer)
        goalloc.roots["typed"] = buffer
        assert_type(goalloc.roots["typed"], goalloc.Buffer)
        assert_type(goalloc.roots.get("none"), goalloc.Buffer | None)
        assert_type(goalloc.roots.wait("typed", 1.5), goalloc.Buffer)
        assert_type(goalloc.roots.names(), list[str])
        assert_type(goalloc.roots.pop("typed"), goalloc.Buffer)

    shm = goalloc.SharedMemory(create=True, size=10)
    assert_type(shm.buf[0], int)
    assert_type(shm.name, str)
    assert_type(shm.size, int)
    shm.unlink()
    shm.close()
    listed = goalloc.shared_memory.ShareableList([1, 2])
    assert_type(listed.shm.name, str)
    listed.shm.unlink()
    listed.shm.close()

    a = goalloc.share(np.ones(10))
    assert_type(a, goalloc.SharedArray[Any, Any])
    assert_type(goalloc.shared_empty((2, 3), np.int32, order="F"), goalloc.SharedArray[Any, Any])
    assert_type(goalloc.publish("typed array", a), goalloc.SharedArray[Any, Any])
    assert_type(goalloc.open("typed array", writable=True), goalloc.SharedArray[Any, Any])
    assert_type(goalloc.unlink("typed array"), None)
    assert_type(goalloc.is_shared(a), bool)
    assert_type(goalloc.in_heap(a), bool)
    assert_type(goalloc.collect_arrays(), tuple[int, int, int])
    with goalloc.arrays() as context:
        assert_type(context, goalloc.arrays)
    del a

try:
    goalloc.detach()
except goalloc.HeapGoneError as gone:
    assert_type(gone, goalloc.HeapGoneError)
except ConnectionError:
    print("typed")
'''

WRONG = """
d["k"] = b"v"
d[b"k"] = "v"
d.incr(b"k", "1")
d.get("k")
"k" in d
d.nbytes = 5
goalloc.alloc("10")
goalloc.alloc(1).size = 5
goalloc.Buffer(5)
goalloc.from_handle(text, True)
goalloc.roots["x"] = b"bytes"
goalloc.roots[b"x"]
goalloc.attach(timeout="5")
goalloc.attach(None, None, None, True, True)
goalloc.dict(b"name")
goalloc.dict("name", 5)
goalloc.share()
goalloc.shared_empty(3, order="A")
goalloc.open("name", True)
goalloc.size
goalloc.SharedMemory(5)
"""


def pieces(document):
    """The pieces of Python of a document: what is indented, or fenced as such, and can be parsed."""
    with open(os.path.join(SOURCE, document), encoding="utf-8") as file:
        text = file.read()
    found = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    if document != "README.md":
        found += [textwrap.dedent(piece) for piece in re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.M)]
    for piece in found:
        try:
            ast.parse(piece)
        except SyntaxError:
            continue  # a list of calls with their defaults, or commands of a shell
        yield piece


class Types(HeapTest):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="goalloc-stubs.", dir=os.environ.get("GOALLOC_TEST_DIR"))
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def run_module(self, *words):
        return subprocess.run([sys.executable, "-B", "-m", *words], cwd=self.directory, capture_output=True, text=True,
                              check=False, timeout=4 * PATIENCE)

    def errors_of(self, *paths):
        """What mypy says of programs, as (file, line, text); `no error` is told from `mypy did not run`."""
        result = self.run_module("mypy", "--no-error-summary", "--cache-dir", os.devnull, *OPTIONS, *paths)
        self.assertIn(result.returncode, (0, 1), result.stdout + result.stderr)
        found = re.findall(r"^(.*?):(\d+): error: (.*)$", result.stdout, re.M)
        self.assertEqual(bool(found), result.returncode == 1, result.stdout + result.stderr)
        return [(os.path.basename(file), int(line), text) for file, line, text in found
                if VERSION >= (1, 4) or not OLD_BUFFERS.search(text)]

    def test_the_stubs_say_what_the_modules_have(self):
        allowed = self.write("allowed", "".join(f"{what}  # {why}\n" for what, why in ALLOWED.items()))
        options = ["--allowlist", allowed] + (["--ignore-unused-allowlist"] if sys.version_info >= (3, 12) else [])
        result = self.run_module("mypy.stubtest", "goalloc", *options)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertIn("7 modules", result.stdout)

    def test_a_program_and_the_documents_examples_fit_and_mistakes_are_found(self):
        documents = []
        for number, document in enumerate(DOCUMENTS):
            all_of_it = list(pieces(document))
            self.assertTrue(all_of_it, f"{document} has no Python")
            functions = [f"def piece{i}() -> None:\n" + textwrap.indent(one, "    ") for i, one in enumerate(all_of_it)]
            documents.append(self.write(f"document{number}.py", PRELUDE + "\n".join(functions)))
        wrong = PRELUDE + 'd = goalloc.dict("wrong")' + WRONG
        # In one go: most of the time goes into NumPy's types.
        found = self.errors_of(*documents, self.write("right.py", RIGHT), self.write("wrong.py", wrong))
        self.assertEqual([error for error in found if error[0] != "wrong.py"], [])
        lines = wrong.split("\n")
        first = lines.index('d["k"] = b"v"') + 1
        missed = [lines[n - 1] for n in range(first, len(lines)) if n not in {line for _, line, _ in found}]
        self.assertEqual((missed, [line for _, line, _ in found if line < first]), ([], []))

    def test_what_calls_return_is_what_their_types_say(self):
        check = ("import typing\n"
                 "def assert_type(value, kind):\n"
                 "    kinds = typing.get_args(kind) if type(kind).__name__ == 'UnionType' else (kind,)\n"
                 "    kinds = tuple(typing.get_origin(k) or k or type(None) for k in kinds)\n"
                 "    if not isinstance(value, kinds):\n"
                 "        raise SystemExit(f'{value!r} is no {kind}')\n"
                 "    return value\n"
                 "typing.assert_type = assert_type\n")
        self.assertEqual(self.run_python(check + RIGHT), "typed\n")


if __name__ == "__main__":
    main()
