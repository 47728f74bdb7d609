"""Text as people write it in comments and in --help, as mdoc(7). Used by mkman alone."""

import re
import textwrap


def inline(text):
    """One line of text, with what roff would take for its own made harmless, and functions and commands bold."""
    text = text.replace("\\", "\\e").replace("~", "\\(ti").replace("^", "\\(ha")
    text = re.sub(r"(?<![\w-])-(?=[\w-])", r"\\-", text)  # of options and errors
    text = text.replace("\\--", "\\-\\-")
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fP", text)
    text = re.sub(r"(?<!')'([^' ]+)'(?!')", r"\\(aq\1\\(aq", text)
    text = re.sub(r"(?<!\w)([A-Za-z_]\w+)\(\)", r"\\fB\1\\fP()", text)
    return re.sub(r"(?<!\S)(?=\S*[_/])", r"\\%", text)  # no name is cut at a line's end


def lines(text):
    """A paragraph of filled text; a sentence begins a line."""
    out = []
    for sentence in re.split(r"(?<=[.!?])\s+|(?<=[.!?]\))\s+", " ".join(text.split())):
        for line in textwrap.wrap(inline(sentence), 76, break_long_words=False, break_on_hyphens=False):
            out.append("\\&" + line if line[0] in ".'" else line)
    return out


def quoted(text):
    """An argument of a macro."""
    return '"' + inline(text).replace('"', "\\(dq") + '"'


def tagged(entries):
    """A list of (tag, already mdoc, and body, lines of mdoc)."""
    out = [".Bl -tag -width Ds"]
    for tag, body in entries:
        out += [f".It {tag}"] + body
    return out + [".El"]


# What begins an entry of an indented list: an error, a number, anything that two spaces end.
ENTRY = re.compile(r"(-?E[A-Z]{3,}(?:, -?E[A-Z]{3,})*|\d+\.|\S+(?: \S+)*?(?=  ))\s+(.*)")


def list_entries(block):
    """The entries of an indented list. An entry may have another one at its right, far away."""
    entries = []
    for line in block:
        if len(line) - len(line.lstrip()) <= 3:
            for part in re.split(r"\s{3,}(?=-E[A-Z])", line.strip()):
                match = ENTRY.match(part)
                if not match:
                    raise ValueError(f"not an entry of a list: {line}")
                entries.append([match.group(1), match.group(2)])
        else:
            entries[-1][1] += " " + line.strip()
    return [(quoted(tag), lines(body)) for tag, body in entries]


def body(text, headings=False):
    """Lines of a comment: paragraphs, and lists that are indented. headings: 'Word: ' at the start of one is one."""
    out, place = [], 0
    while place < len(text):
        end = place
        kind = text[place].startswith("  ")
        while end < len(text) and text[end] and text[end].startswith("  ") == kind:
            end += 1
        block = text[place:end]
        if block and kind:
            out += tagged(list_entries(block))
        elif block:
            paragraph = " ".join(block)
            heading = re.match(r"([A-Z][a-z]+): ", paragraph) if headings else None
            if heading:
                out.append(f".Ss {heading.group(1)}")
                paragraph = paragraph[heading.end():]
                paragraph = paragraph[0].upper() + paragraph[1:]
            elif out and not out[-1].startswith((".Ss", ".Pp")):
                out.append(".Pp")
            out += lines(paragraph)
        place = end + (end < len(text) and not text[end])
    return out
