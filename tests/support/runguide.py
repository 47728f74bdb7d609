"""Run the commands of a guide for operators. Used by check-guide.

A block of ```sh is preceded by a comment that says what it is:

    <!-- run; prints: REGEX; prints: REGEX -->   it succeeds, and prints lines in which these are found, in this order
    <!-- run; fails; prints: REGEX -->           its last command fails
    <!-- by hand: REASON -->                     it is not run

Each is run by itself by bash -e, in a directory of its own, in which build is the build directory; its programs are in
PATH. What it has started is ended afterwards, keepers too. A command that asks the daemon waits until the one is there
that the block has started: who reads the guide takes longer than that. Options and commands of the project's programs
are looked up in their --help, in all blocks and in what the text quotes.
"""

import os
import re
import signal
import subprocess
import tempfile

SECONDS = 120  # that a block may take
PROGRAMS = {"goallocd": "daemon", "goallocctl": "client/ctl", "goalloc-replay": "client/replay"}

# What stands before a block. A ping looks, since a socket may be there without a daemon.
PREAMBLE = """
set -e
wait_for_daemon() {
    until timeout 60 goallocctl ping >/dev/null 2>&1 || ((SECONDS > 60)); do sleep 0.05; done
}
goallocctl() {
    case " $* " in *" keeper "* | *" image "* | *" --socket "*) ;; *) wait_for_daemon ;; esac
    command goallocctl "$@"
}
goalloc-replay() {
    wait_for_daemon
    command goalloc-replay "$@"
}
"""


class Block:
    def __init__(self, number, marks, code):
        self.number, self.code = number, code
        self.by_hand = marks.startswith("by hand: ")
        self.is_run = re.match(r"run\b", marks) is not None
        self.fails = "; fails" in marks
        self.prints = [one.strip() for one in re.findall(r"prints: ((?:[^;])*)", marks)]


def blocks(text):
    """Of each block of sh: where it begins, what is said about it, its code."""
    marks, lines = "", iter(enumerate(text.split("\n"), 1))
    for number, line in lines:
        if line == "```sh":
            code = []
            for _, line in lines:
                if line == "```":
                    break
                code.append(line)
            yield Block(number, marks, "\n".join(code) + "\n")
        match = re.fullmatch(r"<!-- (.*) -->", line)
        if match:
            marks = f"{marks}; {match.group(1)}" if marks else match.group(1)
        elif line.strip():
            marks = ""


def end_all(directory, process):
    """End what a block has left: its process group, and the keepers, which are in none."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    for parent, _, names in os.walk(directory):
        if "keeper.sock" in names:
            subprocess.run(["goallocctl", "--yes", "keeper", "--end", "--state-dir", parent], check=False,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(block, build):
    """What is wrong, or None."""
    with tempfile.TemporaryDirectory() as directory:
        if build:
            os.symlink(os.path.abspath(build), os.path.join(directory, "build"))
        with open(os.path.join(directory, "output"), "w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(["bash", "-c", PREAMBLE + block.code], cwd=directory, stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                status = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                end_all(directory, process)
            output.seek(0)
            text = output.read()
    said = "it prints\n" + re.sub(r"^", "    ", text, flags=re.M)
    if status is None:
        return f"takes longer than {SECONDS} s; {said}"
    if (status != 0) != block.fails:
        return f"exit status {status}; {said}"
    at = 0
    for expected in block.prints:
        match = re.compile(expected).search(text, at)
        if not match:
            return f"does not print '{expected}'; {said}"
        at = match.end()
    return None


def help_of(program, *arguments):
    return subprocess.run([program, *arguments], text=True, capture_output=True, check=True).stdout


def names_of_programs():
    """(options, commands of goallocctl) that there are."""
    texts = [help_of(program, "--help") for program in PROGRAMS]
    commands = {name for text in texts for name in
                re.findall(r"^  ([a-z][a-z-]*)", text.partition("\nCommands:\n")[2].partition("\n\n")[0], flags=re.M)}
    texts += [help_of("goallocctl", "help", name) for name in commands]  # each has options of its own
    return set(re.findall(r"^ {2,6}(?:-\S, )? *--([a-z][\w-]*)", "\n".join(texts), flags=re.M)), commands


def wrong_names(text, options, commands):
    """Options and commands that stand in code and do not exist."""
    complaints = []
    for number, line in enumerate(re.sub(r"<!--.*?-->", "", text).split("\n"), 1):
        line = line.split(" # ")[0].rstrip("` |")
        quoted = [line] if re.match(r"(goalloc|kill|ulimit)", line) else re.findall(r"`([^`]+)(?:`|$)", line)
        for code in quoted:
            if re.match(r"(?:--|goalloc)", code):
                complaints += [f"{number}: there is no option --{name}"
                               for name in re.findall(r"(?<![\w-])--([a-z][\w-]*)", code) if name not in options]
            match = re.match(r"goallocctl (?:--\w+ )*([a-z][a-z-]*)", code)
            if match and match.group(1) not in commands:
                complaints.append(f"{number}: goallocctl has no command {match.group(1)}")
    return complaints


def check(path, text, build):
    """The complaints, a text each, and how many blocks there are."""
    complaints, count = [], 0
    if build:
        places = [os.path.join(os.path.abspath(build), place) for place in PROGRAMS.values()]
        os.environ["PATH"] = os.pathsep.join(places + [os.environ["PATH"]])
        complaints += [f"{path}:{one}" for one in wrong_names(text, *names_of_programs())]
    for block in blocks(text):
        count += 1
        if not block.is_run and not block.by_hand:
            complaints.append(f"{path}:{block.number}: it is not said whether this is run")
        elif block.is_run and build:
            wrong = run(block, build)
            if wrong:
                complaints.append(f"{path}:{block.number}: {wrong}")
    return complaints, count


FENCE = "```"
CASES = [  # a text, and what must be said of it
    (f"<!-- run; prints: a+; prints: b -->\n{FENCE}sh\necho aa\necho b\n{FENCE}\n", None),
    (f"<!-- run; prints: b; prints: a -->\n{FENCE}sh\necho aa\necho b\n{FENCE}\n", "does not print 'a'"),
    (f"<!-- run -->\n{FENCE}sh\nfalse\ntrue\n{FENCE}\n", "exit status 1"),
    (f"<!-- run; fails -->\n{FENCE}sh\ntrue\n{FENCE}\n", "exit status 0"),
    (f"<!-- run; fails -->\n{FENCE}sh\nfalse\n{FENCE}\n", None),
    (f"<!-- by hand: false -->\n{FENCE}sh\nfalse\n{FENCE}\n", None),
    (f"{FENCE}sh\ntrue\n{FENCE}\n", "not said"),
]


def self_test():
    failed = 0
    for number, (text, expected) in enumerate(CASES):
        said = [run(block, None) if block.is_run else None if block.by_hand else "not said" for block in blocks(text)]
        if len(said) != 1 or (said[0] is None) != (expected is None) or (expected and expected not in said[0]):
            print(f"self-test: commands {number}: what is said is {said}")
            failed += 1
    if len(wrong_names("`goallocctl nonsense` and `--nonsense`", set(), {"stats"})) != 2:
        print("self-test: a wrong name is not noticed")
        failed += 1
    return failed
