"""What goalloc.h says: its comments, each with what it is about.

Read by mkman alone. The header's habit: a comment that begins in the first column belongs to the declarations behind
it, up to the next empty line; one with an empty line behind it is about what follows in general, and is known by the
words before its first colon, or between its dashes. Members and constants have their comments at their right, or a
comment of their own above. What does not fit stops the build: a docstring is never left out silently.
"""

import re


class Item:
    """A comment and what it is about."""

    def __init__(self, text, declaration):
        self.text = text  # without the marks of a comment, line by line, with its indentation
        self.declaration = declaration
        self.functions = functions_of(declaration)
        self.members = members_of(declaration)
        self.constants = constants_of(declaration, text)


class Function:
    def __init__(self, result, name, arguments):
        self.result, self.name, self.arguments = result, name, arguments


def strip_marks(comment):
    """The text of a comment, a list of lines; indentation that has a meaning stays."""
    lines = []
    for line in comment.strip().removeprefix("/*").removesuffix("*/").split("\n"):
        lines.append(re.sub(r"^ \* ?", "", line.rstrip()).rstrip())
    lines[0] = lines[0].strip()
    return "\n".join(lines).strip().split("\n")


def join_comment(comment):
    """The same as one line."""
    return " ".join(" ".join(line.strip().removeprefix("*") for line in comment.split("\n")).split())


def split_arguments(text):
    """What stands between commas that are in no inner brackets."""
    arguments, depth, start = [], 0, 0
    for place, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            arguments.append(text[start:place].strip())
            start = place + 1
    arguments.append(text[start:].strip())
    return arguments


def functions_of(declaration):
    functions = []
    code = re.sub(r"/\*.*?\*/", "", declaration, flags=re.S)
    for piece in re.findall(r"^GOALLOC_API\b(.*?);", code, flags=re.S | re.M):
        piece = " ".join(piece.split())
        piece = re.sub(r"GOALLOC_CHECK |GOALLOC_ALLOC\([\d, ]*\) |__attribute__\(\(.*?\)\)\)?\)? (?=[a-z])", "", piece)
        match = re.fullmatch(r"(.*?)(goalloc_\w+)\((.*)\)", piece)
        if not match or "__attribute__" in piece:
            raise ValueError(f"goalloc.h: not understood: {piece}")
        functions.append(Function(match.group(1).strip(), match.group(2), split_arguments(match.group(3))))
    return functions


def members_of(declaration):
    """(type and name, comment) of each member of the struct that is declared; none: it is no struct."""
    match = re.search(r"^typedef struct \w+ \{\n(.*?)^\} \w+;", declaration, flags=re.S | re.M)
    if not match:
        return []
    members = re.findall(r"^    (\S[^;/]*);(?:\s*/\*(.*?)\*/)?\n", match.group(1), flags=re.S | re.M)
    if len(members) != match.group(1).count(";\n") + len(re.findall(r"; +/\*", match.group(1))):
        raise ValueError(f"goalloc.h: members not understood: {declaration}")
    return [(name, join_comment(comment)) for name, comment in members]


def constants_of(declaration, text):
    """(name, text as lines) of each constant: its comment at the right, else the one above."""
    constants = []
    for name, rest in re.findall(r"^#define (GOALLOC_\w+)(.*)$", declaration, flags=re.M):
        comment = re.search(r"/\*(.*)\*/", rest)
        constants.append((name, [join_comment(comment.group(1))] if comment else text))
    return constants


def read(path):
    """({name: Item}, opening essay as lines). Names are those of functions, types and constants, or a heading."""
    with open(path, encoding="utf-8") as file:
        source = file.read()
    items, essay, done = {}, None, 0
    for match in re.finditer(r"^/\*.*?\*/\n|^(?=typedef|GOALLOC_API)", source, flags=re.S | re.M):
        if match.start() < done: # a comment within a declaration, or one more of them below a comment
            continue
        text, rest = strip_marks(match.group()) if match.group() else [], source[match.end():]
        declaration = rest[:re.search(r"\n\n|\Z", rest).start()] if not rest.startswith("\n") else ""
        done = match.end() + len(declaration)
        if essay is None:
            essay = text
            continue
        item = Item(text, declaration)
        names = [f.name for f in item.functions] + [name for name, _ in item.constants]
        names += re.findall(r"^\} (goalloc_\w+);", declaration, flags=re.M)
        names += re.findall(r"^typedef .*\(\*(\w+)\)", declaration, flags=re.M)
        if not declaration:
            names.append(re.match(r"(?:--- )?(.*?)(?:: | ---|$)", text[0]).group(1))
        for name in names:
            items[name] = item
    return items, essay
