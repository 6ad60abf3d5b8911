"""
What breaks it: a catalogue of faults, each tried on the real commands.

    python tests/test_faults.py docs/faults.md       # all of it, `make faults`; writes the table
    python tests/test_faults.py --group zips -v      # one group, each bad case

A Case is a command with something wrong: a file, an option, the surroundings. It must end within
SECONDS and MIB, with exit code 2 and exactly one line on stderr that begins with "error: " and says
which file or option (`line`), or, where `ok` says so, with the right result (`proves`); and files
that were there (`keeps`) must be as they were, with nothing unfinished left beside them.

Thousands of cases take minutes because the imports are done once: every case is a forked child of
one process that has imported everything and computed nothing, so that no thread runs in it yet.
pytest starts that process, too, for a share of the catalogue (every fourth `short` case).
"""
import argparse
import contextlib
import fcntl
import functools
import gc
import hashlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).resolve().parent.parent
SECONDS, MIB = 120, 1500              # of one case; this process itself has some 400 MiB
KINDS = ("clear", "ok", "unclear", "traceback", "silently wrong", "hang", "memory", "crash", "lost")
GOOD = ("clear", "ok")
SCRIPTS = {"stage1": "stage1_spatial.py", "stage2": "stage2_distill.py",
           "stage3": "stage3_finetune.py", "infer": "infer.py", "evaluate": "comedian/evaluate.py",
           "report": "comedian/report.py", "prepare": "comedian/prepare.py"}

# ------------------------------------------------------------------ the commands, all small
# {data}, {base} lie outside the case's own folder and are only read; `-` begins no name.
STAGE = ["--data", "{data}", "--epochs", "1", "--steps", "2", "--out", "run", "--workers", "1",
         "--log-every", "1", "--device", "cpu", "--model", "vivit_micro"]
COMMANDS = {
    "stage1": ["stage1", *STAGE, "--batch", "8", "--queue", "64"],
    "stage2": ["stage2", *STAGE, "--batch", "2", "--features-name", "teacher", "--window", "8",
               "--windows-per-half", "2", "--centroids", "bank"],
    "stage3": ["stage3", *STAGE, "--batch", "2", "--classes", "{data}/classes.txt", "--window", "8",
               "--windows-per-half", "2", "--head-epochs", "0"],
    "infer": ["infer", "--data", "{data}", "--checkpoint", "{base}/stage3/last.pt", "--out",
              "spots", "--workers", "1", "--device", "cpu"],
    "evaluate": ["evaluate", "--predictions", "{base}/spots", "--labels", "{data}", "--classes",
                 "{data}/classes.txt"],
    "sweep": ["evaluate", "--sweep", "--scores", "{base}/spots", "--labels", "{data}",
              "--ignored", "0", "1", "--windows", "2", "3"],
    "curves": ["report", "curves", "{base}/stage1", "--out", "curves.png"],
    "timeline": ["report", "timeline", "{base}/spots", "--out", "timeline.png"],
    "page": ["report", "page", "new"],
    "export": ["report", "export", "{base}/spots", "--format", "csv", "--threshold", "0", "--out",
               "tables"],
    "pca": ["prepare", "pca", "--features", "{data}", "--name", "teacher", "--width", "4", "--out",
            "reduced", "--out-name", "four"],
    "synthetic": ["prepare", "synthetic", "--out", "small", "--train", "1", "--labelled", "1",
                  "--test", "1", "--seconds", "30", "--size", "32", "--jobs", "1"],
    "frames": ["prepare", "frames", "--videos", "{base}/videos", "--out", "frames", "--jobs", "1"]}


class Case(NamedTuple):
    group: str
    name: str
    argv: list                        # its script's name in SCRIPTS, then its arguments
    make: object = None               # called in the case's folder before the command
    line: str = ""                    # regular expression: what the one line must have
    ok: bool = False                  # it may succeed instead
    proves: object = None             # after success: called in the folder, returns what is wrong
    keeps: tuple = ()                 # files in the folder that must stay as `make` left them
    around: dict = {}                 # noqa: RUF012 (of a NamedTuple; never written to)
    must: bool = False                # it must succeed
    rc: int = 0                       # exit code of a success
    short: bool = False


CASES = []


def results_here(base):
    """A step: new/, a copy of the base's results, if it is not there yet."""
    if not Path("new").exists():
        shutil.copytree(base / "spots", "new")


def add(group, name, argv, make=None, **more):
    if argv[:3] == COMMANDS["page"]:                       # it writes beside what it reads
        make = then(*([make] if make else []), results_here)
    CASES.append(Case(group, name, [str(arg) for arg in argv], make, **more))


# ------------------------------------------------------------------ one case in a child
def child(case, here, base):
    """Becomes the command of the case, as Python would run it. Never returns."""
    code = 70                                             # a mistake of this file
    try:
        os.chdir(here)
        fill = {"{data}": f"{base}/data", "{base}": str(base)}
        argv = [functools.reduce(lambda text, pair: text.replace(*pair), fill.items(), arg)
                for arg in case.argv]
        if case.make:
            case.make(base)
        (here / ".kept").write_text(json.dumps(prints(case.keeps)))
        code = surrounded(case, argv)
    except BaseException:                                 # noqa: BLE001 (said, and counted)
        with open(here / ".err", "a") as file:
            traceback.print_exc(file=file)
    finally:
        os._exit(code)


def surrounded(case, argv):
    around = case.around
    # Whoever starts this in the background or under nohup has signals ignored, and children too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.environ.update(around.get("env", {}))
    for name in around.get("unset", ()):
        os.environ.pop(name, None)
    if "limit" in around:
        which, value = around["limit"]
        resource.setrlimit(which, (value, value))
    streams = {0: "/dev/null", 1: around.get("stdout", ".out"), 2: around.get("stderr", ".err")}
    for number, place in streams.items():
        opened = os.open(place or "/dev/null", (os.O_WRONLY if number else os.O_RDONLY)
                         | os.O_CREAT, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    for number, place in streams.items():                  # now, or the next one takes its place
        if not place:
            os.close(number)
    encoding = around.get("encoding", "utf-8")
    sys.stdin = None
    for name, number in (("stdout", 1), ("stderr", 2)):    # as Python makes them at its start
        errors = "strict" if number == 1 else "backslashreplace"
        stream = (open(number, "w", encoding=encoding, errors=errors, closefd=False)
                  if streams[number] else None)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if "signal" in around:
        threading.Thread(target=send, args=around["signal"], daemon=True).start()
    if "user" in around:
        os.setgid(around["user"])
        os.setuid(around["user"])
    sys.argv = [str(HERE / SCRIPTS[argv[0]]), *argv[1:]]
    try:
        exec(CODE[argv[0]], {"__name__": "__main__", "__file__": sys.argv[0]})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:                                 # noqa: BLE001 (as Python at the top)
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:
                stream.flush()
        except OSError:
            code = 120                                    # Python's own, with a line on stderr
    return code


def send(number, path, text):
    """Sends this process a signal once the file `path` has `text` in it."""
    while not (os.path.exists(path) and text in Path(path).read_text()):
        time.sleep(0.002)
    os.kill(os.getpid(), number)


def prints(names):
    """{file: hash of what is in it}."""
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names}


class Result(NamedTuple):
    case: Case
    kind: str
    why: str
    seconds: float
    mib: float


def judge(case, here, status, seconds, mib, timed_out):
    error = (here / ".err").read_text(errors="replace") if (here / ".err").exists() else ""
    lines, code = error.splitlines(), os.waitstatus_to_exitcode(status)
    kept = json.loads((here / ".kept").read_text()) if (here / ".kept").exists() else {}
    left = [path.name for path in here.rglob("*.unfinished")]
    with contextlib.chdir(here) if hasattr(contextlib, "chdir") else into(here):
        same = all(Path(name).exists() for name in kept) and prints(kept) == kept
        succeeded = code == case.rc and (case.ok or case.must)
        wrong = case.proves() if succeeded and case.proves else None
    if timed_out:
        return "hang", f"after {seconds:.0f} s"
    if mib > MIB:
        return "memory", f"{mib:.0f} MiB"
    if code < 0:
        return "crash", f"signal {-code}"
    if "Traceback" in error or code == 70:
        return "traceback", lines[-1] if lines else "70"
    if not same or left:
        return "lost", f"{kept} is changed" if not same else f"{left} is left"
    if succeeded:
        return ("silently wrong", wrong) if wrong else ("ok", "")
    if code == case.rc:
        return "silently wrong", "it succeeded"
    hidden = case.around.get("stderr", ".err") != ".err"   # nobody sees a line there
    clear = code == 2 and not case.must and (hidden or (
        len(lines) == 1 and lines[0].startswith("error: ") and re.search(case.line, lines[0])
        and re.search(r"[;(:] ?[\w-]", lines[0][7:])))
    return ("clear", lines[0] if lines else "") if clear else ("unclear", f"exit {code}: {lines}")


@contextlib.contextmanager
def into(folder):
    before = os.getcwd()
    os.chdir(folder)
    yield
    os.chdir(before)


def run_all(cases, base, where, jobs, tell=lambda result: None):
    """The Results of all cases, `jobs` at a time, in folders below `where`."""
    waiting, running, results = list(enumerate(cases))[::-1], {}, []
    while waiting or running:
        while waiting and len(running) < jobs:
            number, case = waiting.pop()
            here = where / f"{number}"
            here.mkdir(mode=0o777)
            here.chmod(0o777)
            pid = os.fork()
            if not pid:
                child(case, here, base)
            running[pid] = case, here, time.time(), False
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if not pid:
            for pid, (case, here, since, late) in running.items():
                if time.time() - since > SECONDS and not late:
                    os.kill(pid, signal.SIGKILL)
                    running[pid] = case, here, since, True
            time.sleep(0.005)
            continue
        case, here, since, late = running.pop(pid)
        seconds, mib = time.time() - since, usage.ru_maxrss / 1024
        result = Result(case, *judge(case, here, status, seconds, mib, late), seconds, mib)
        results.append(result)
        tell(result)
        subprocess.run(["umount", "-q", here / "disk"], check=False, stderr=subprocess.DEVNULL
                       ) if (here / "disk").is_dir() else None
        shutil.rmtree(here, ignore_errors=True)
    return results


# ------------------------------------------------------------------ what there is to spoil
def build(base):
    """Two tiny matches, a run of every stage on them, and what the other commands make of those."""
    import cv2
    import numpy as np
    rng, data = np.random.default_rng(0), base / "data"
    for match in ("one", "two"):
        notes = []
        for half in (1, 2):
            folder = data / "league" / match / f"{half}_224p"
            folder.mkdir(parents=True)
            for i in range(32):
                image = rng.integers(40, 216, (3, 4, 3), np.uint8).repeat(16, 0).repeat(16, 1)
                cv2.imwrite(str(folder / f"{i + 1:08d}.jpg"), image)
            np.save(folder.parent / f"{half}_teacher.npy",
                    rng.standard_normal((16, 12)).astype(np.float32))
            notes += [{"gameTime": f"{half} - 00:{s:02d}", "label": ("Goal", "Foul")[s % 2],
                       "position": str(1000 * s), "visibility": "visible"} for s in (2, 5, 9, 12)]
        (folder.parent / "Labels-v2.json").write_text(json.dumps({"annotations": notes}))
    (data / "classes.txt").write_text("Goal\nFoul\n")
    videos = base / "videos" / "game"
    videos.mkdir(parents=True)
    writer = cv2.VideoWriter(str(videos / "1.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(50):
        writer.write(np.full((48, 64, 3), 5 * i, np.uint8))
    writer.release()


def prepare_base(base):
    """Everything in `base`, made by children of this process."""
    def made_by(*commands):
        for case in commands:
            result, = run_all([case], base, base / "making", 1)
            assert result.kind == "ok", result

    def keep(*names):
        return lambda: [shutil.copytree(name, base / to) for name, to in names] and None

    (base / "making").mkdir()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            build(base)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    for stage in ("stage1", "stage2", "stage3"):
        made_by(Case("", stage, COMMANDS[stage], must=True,
                     proves=keep(("run", stage), *[("bank", "bank")] * (stage == "stage2"))))
        shutil.rmtree(base / "making")
        (base / "making").mkdir()
    made_by(Case("", "infer", COMMANDS["infer"], must=True, proves=keep(("spots", "spots"))))
    shutil.rmtree(base / "making")
    (base / "making").mkdir()
    made_by(Case("", "pca", COMMANDS["pca"], must=True, proves=keep(("reduced", "reduced"))))
    shutil.rmtree(base / "making")
    (base / "making").mkdir()
    made_by(Case("", "small", COMMANDS["synthetic"], must=True, proves=keep(("small", "small"))))


def copied(*names, **to):
    """A `make` that copies folders of the base here (writable), then calls what follows."""
    def copy(base):
        for name in names:
            shutil.copytree(base / name, name, symlinks=True)
    return copy


def then(*steps):
    """A `make` of several; a step is called with the base."""
    def make(base):
        for step in steps:
            step(base)
    return make


def writes(path, content):
    """A step: a file with this content, bytes or text; one that is there is replaced, not changed
    (it may be a link into the base)."""
    def write(base):
        given = content(base) if callable(content) else content
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(given.encode() if isinstance(given, str) else given)
    return write


def swap(command, **new):
    """The command with other values for some of its options."""
    argv = list(COMMANDS[command])
    for flag, value in new.items():
        flag = f"--{flag.replace('_', '-')}"
        values = value if isinstance(value, list) else [value]
        if flag in argv:
            at = argv.index(flag)
            end = next((i for i in range(at + 1, len(argv)) if argv[i].startswith("--")), len(argv))
            argv[at:end] = [flag, *values]
        else:
            argv += [flag, *values]
    return argv


def spoilt(content, seed, cuts=20, flips=40):
    """(name, function that makes the bytes): a file cut at many places, and with one byte changed
    at many others, its first and last hundred more often than the rest."""
    rng, n = random.Random(seed), len(content)
    places = sorted({0, 1, 7, n - 1, n - 7, *(n * i // cuts for i in range(cuts))} & set(range(n)))
    yield from ((f"cut at {place}", lambda base, place=place: content[:place])
                for place in places)
    for i in range(flips):
        place = rng.choice([rng.randrange(n), rng.randrange(min(n, 100)), n - 1 -
                            rng.randrange(min(n, 100))])
        change = 1 << rng.randrange(8) if i % 2 else rng.randrange(1, 256)
        yield f"byte {place} flipped, {i}", lambda base, place=place, change=change: (
            content[:place] + bytes([content[place] ^ change]) + content[place + 1:])


def result_in(*paths):
    """A `proves`: these files must be there, and not empty."""
    return lambda: next((f"no {path}" for path in paths if not Path(path).exists()
                         or not Path(path).stat().st_size), None)


# ------------------------------------------------------------------ options
# What no number may be; what it may be or not, as its bounds say. Huge ones are beyond all bounds.
NEVER = ("abc", "", "nan", "inf", "-inf", "1e309", "9" * 24, "1" * 5000, "1,5", "--")
PERHAPS = ("0", "-1", "1e-320", "1.5", "0x10", "1_0")
NAMES = ("", ".", "..", "../x", "a/../../x", "/nonexistent/x", "a/b", "a\\b", "{data}/x", " ")
PLACES = ("/nonexistent/x", "{data}/classes.txt", "fifo", "/dev/zero", "/dev/full", "caf\udce9/x",
          "x" * 300, "{base}/stage3/last.pt")


class Captured(Exception):            # noqa: N818 (no error: it carries a parser out)
    pass


def options_of(name):
    """[argparse.Action] of a command in COMMANDS."""
    from comedian import run
    script, *rest = COMMANDS[name]

    def capture(parser, *_):
        raise Captured(parser)

    kept, run.Parser.parse_args = run.Parser.parse_args, capture
    try:
        exec(CODE[script], {"__name__": "parsed", "__file__": "", "parsed": True})
        space = {"__name__": "parsed", "__file__": ""}
        exec(CODE[script], space)
        space["parse_args"]([])
    except Captured as caught:
        parser = caught.args[0]
    finally:
        run.Parser.parse_args = kept
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parser = action.choices[rest[0]]
    return [action for action in parser._actions if action.dest != "help"]


def finite_losses():
    log = Path("run/log.txt")
    if log.exists() and re.search(r"\b(nan|inf)\b", log.read_text()):
        return "its log has losses that are not finite"
    return None


def options():
    for name in COMMANDS:
        for action in options_of(name):
            if action.nargs == 0 or not action.option_strings:
                continue              # --resume and the like take no value
            flag = action.option_strings[0].removeprefix("--")
            copies = action.nargs if isinstance(action.nargs, int) else 1
            is_text = action.type is None and not action.choices
            for i, value in enumerate(
                    (*PLACES, "") if is_text else
                    NAMES if getattr(action.type, "__name__", "") == "file_name" else
                    (*NEVER, *PERHAPS)):
                argv = swap(name, **{flag: [value] * copies})
                add("options", f"{name} --{flag} {value[:30]!r}", argv,
                    make=lambda base: os.mkfifo("fifo"), proves=finite_losses,
                    ok=(is_text and value != "") or value in PERHAPS or
                    (flag in ("start", "end") and value == "0"),
                    line=rf"--{flag}" if not is_text or value == "" else r"\S",
                    short=name in ("stage1", "evaluate", "pca") and i % 5 == 0 and not is_text)
        add("options", f"{name} without anything", COMMANDS[name][:1], line="required|missing|--")
        add("options", f"{name} --unknown", [*COMMANDS[name], "--unknown"], line="--unknown")
    for place in ("/dev/zero", "/dev/full"):
        add("options", f"{place} is still a device", ["evaluate", "--help"], must=True,
            proves=lambda place=place: None if Path(place).is_char_device() else "it is replaced")


# ------------------------------------------------------------------ frames, rates, lists
HALF = "data/league/one/1_224p"


def jpeg(base):
    return (base / HALF / "00000003.jpg").read_bytes()


def png(width, height):
    """The beginning of a PNG of this size."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 2, 0, 0,
                                            0) + bytes(200)


def framed(base):
    """data/ here, its files linked to the base's."""
    shutil.copytree(base / "data", "data", copy_function=os.link)


def frames():
    here = swap("stage1", data="data", halves_per_batch="0")
    spot = swap("infer", data="data")
    sample = BASE / HALF / "00000003.jpg"
    for i, (name, content) in enumerate(spoilt(sample.read_bytes(), 1, cuts=30, flips=60)):
        add("frames", f"JPEG {name}", spot, then(framed, writes(f"{HALF}/00000003.jpg", content)),
            line=r"00000003\.jpg", ok="flipped" in name, short=i % 15 == 0)
    start = sample.read_bytes()
    at = start.index(b"\xff\xc0") + 5
    bodies = {
        "header of 65500 x 65500": start[:at] + struct.pack(">HH", 65500, 65500) + start[at + 4:],
        "header of 0 x 0": start[:at] + bytes(4) + start[at + 4:],
        "PNG of 30000 x 30000": png(30000, 30000), "PNG of 2^31": png(2 ** 31 - 1, 1),
        "BMP of 30000 x 30000": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 30000, 30000,
                                                    1, 24, 0, 0, 0, 0, 0, 0),
        "text": b"no image", "empty": b"", "zeros": bytes(5000), "HTML": b"<!DOCTYPE html>" * 9,
        "only ff": b"\xff" * 5000, "start and end": b"\xff\xd8\xff\xd9", "d8 ff": b"\xff\xd8\xff"}
    for name, body in bodies.items():
        add("frames", f"a frame is {name}", spot, then(framed, writes(
            f"{HALF}/00000003.jpg", body)), line=r"00000003\.jpg", short=True)
    odd = {
        "fifo": lambda base: (os.unlink(f"{HALF}/00000003.jpg"),
                              os.mkfifo(f"{HALF}/00000003.jpg")),
        "link to /dev/zero": lambda base: (os.unlink(f"{HALF}/00000003.jpg"),
                                           os.symlink("/dev/zero", f"{HALF}/00000003.jpg")),
        "dead link": lambda base: (os.unlink(f"{HALF}/00000003.jpg"),
                                   os.symlink("nowhere", f"{HALF}/00000003.jpg")),
        "folder": lambda base: (os.unlink(f"{HALF}/00000003.jpg"),
                                os.mkdir(f"{HALF}/00000003.jpg"))}
    for name, step in odd.items():
        add("frames", f"a frame is a {name}", spot, then(framed, step), line="1_224p", short=True)
    add("frames", "a hole", here, then(framed, lambda base: os.unlink(f"{HALF}/00000009.jpg")),
        line="frame number 9 is missing")
    add("frames", "a number twice", here, then(framed, writes(f"{HALF}/9.jpg", jpeg)), line="twice")
    add("frames", "what macOS leaves", here, then(
        framed, writes(f"{HALF}/._00000001.jpg", b"x"), writes("data/__MACOSX/1_224p/1.jpg", b"x")),
        must=True)
    add("frames", "two folders for one half", here, then(
        framed, writes("data/league/one/half1/1.jpg", jpeg)), line="two folders")
    add("frames", "a loop of links", here, then(framed, lambda base: os.symlink(
        "..", "data/league/loop")), must=True)
    add("frames", "an empty folder", here, lambda base: os.mkdir("data"), line="no folder of")
    add("frames", "another size in the middle", spot, then(framed, writes(
        f"{HALF}/00000003.jpg", lambda base: resized(jpeg(base)))), line="pixels")
    for text in ("", "abc", "nan", "inf", "-2", "0", "1e-9", "1e309", "2 2", "2\n3", "9" * 5000,
                 "\xff\xfe2", "2,0"):
        add("frames", f"fps.txt {text[:20]!r}", here, then(framed, writes(
            f"{HALF}/fps.txt", text.encode("latin-1"))), line=r"fps\.txt", short=True)
    add("frames", "fps.txt is a fifo", here, then(framed, lambda base: os.mkfifo(
        f"{HALF}/fps.txt")), ok=True, short=True)
    add("frames", "fps.txt is huge", here, then(framed, sparse(f"{HALF}/fps.txt", 2 ** 34)),
        line=r"fps\.txt")
    add("frames", "fps.txt is 5", here, then(framed, writes(f"{HALF}/fps.txt", "5\n")), must=True)
    for flag, command in (("split", "stage1"), ("classes", "evaluate")):
        for name, body in {"empty": b"", "blank lines": b"\n \n", "not UTF-8": b"\xff\xfe\x00",
                           "zeros": bytes(100), "one thing twice": b"Goal\nGoal\n",
                           "a million lines": b"".join(b"c%d\n" % i for i in range(10 ** 6)),
                           }.items():
            add("frames", f"--{flag} is {name}", swap(command, **{flag: "list.txt"}),
                writes("list.txt", body), line=r"list\.txt", short=True)
        add("frames", f"--{flag} is a fifo", swap(command, **{flag: "list.txt"}),
            lambda base: os.mkfifo("list.txt"), line=r"list\.txt", short=True)
        add("frames", f"--{flag} is huge", swap(command, **{flag: "list.txt"}),
            sparse("list.txt", 2 ** 34), line=r"list\.txt")
    add("frames", "--classes with a mark before", swap("evaluate", classes="list.txt"),
        writes("list.txt", "\ufeffGoal\nFoul\n"), must=True)


def resized(content):
    import cv2
    import numpy as np
    image = cv2.imdecode(np.frombuffer(content, np.uint8), 1)
    return cv2.imencode(".jpg", image[:40])[1].tobytes()


def sparse(path, size):
    """A step: a file of zeros that takes no room."""
    def make(base):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.truncate(size)
    return make


# ------------------------------------------------------------------ JSON
LABELS, SPOTS = "league/one/Labels-v2.json", "league/one/results_spotting.json"


def odd_entries(good):
    """(name, entry): one thing of an entry left out, or of another type or size."""
    values = (None, True, -1, 1.5, 1e400, "", "abc", [], {}, [[]], "9" * 4000, "9" * 5000, 10 ** 30,
              -10 ** 30, "1e5", "\ud800", " 1 ", {"a": 1})
    for key in good:
        yield f"no {key}", {k: v for k, v in good.items() if k != key}
        for i, value in enumerate(values):
            yield f"{key} is {ascii(value)[:20]} ({i})", good | {key: value}
    for i, entry in enumerate((None, 1, "abc", [], {}, [good], True)):
        yield f"entry is {entry} ({i})", entry


def documents(key, good):
    """(name, text): what no list under a key is."""
    deep = 100_000
    yield from {
        "empty": "", "null": "null", "number": "1", "text": '"x"', "list": "[]", "no key": "{}",
        "not closed": "[1", "two values": "{} {}", "NaN": "NaN", "a comment": "{} // x",
        "single quotes": f"{{'{key}': []}}", "key is null": f'{{"{key}": null}}',
        "key is a number": f'{{"{key}": 3}}', "key is a text": f'{{"{key}": "abc"}}',
        "key is an empty dict": f'{{"{key}": {{}}}}', "key is a dict": f'{{"{key}": {{"a": 1}}}}',
        "deep list": "[" * deep, "deep list, closed": "[" * deep + "]" * deep,
        "deep dict": '{"a":' * deep, "deep below the key": f'{{"{key}": ' + "[" * deep + "]" * deep
        + "}", "a number of 5000 digits": f'{{"{key}": {"9" * 5000}}}',
        "UTF-16": f'{{"{key}": []}}'.encode("utf-16"), "latin-1": b'{"\xe9": 1}',
        "zeros": bytes(999),
        "mark before": b"\xef\xbb\xbf{}"}.items()
    yield "an entry deep", json.dumps({key: [good]}).replace('"Goal"', "[" * deep + "]" * deep)


def documents_tried(where, name, key, good, argv, make, group="json", proves=None, about=None):
    """Cases of a JSON file: entries, what it says `about` itself, documents, cut and flipped."""
    content, path = (BASE / where).read_bytes(), f"new/{where.split('/', 1)[1]}"
    short, line = name in ("labels", "page"), re.escape(Path(where).name)
    bodies = [(what, {key: [entry]}) for what, entry in odd_entries(good)]
    bodies += [(f"about: {what}", {key: [good], "about": entry})
               for what, entry in odd_entries(about or {}) if about]
    for i, (what, body) in enumerate(bodies):
        add(group, f"{name}: {what}", argv, then(make, writes(path, json.dumps(body))), ok=True,
            line=line, proves=proves, short=short and i % 6 == 0)
    if name.startswith(("export", "timeline")):            # they read as the page does
        return
    for what, text in documents(key, good):
        add(group, f"{name}: {what}", argv, then(make, writes(path, text)), line=line,
            short=short)
    for i, (what, body) in enumerate(spoilt(content, 2, cuts=40, flips=80)):
        add(group, f"{name}: {what}", argv, then(make, writes(path, body)),
            ok="flipped" in what, line=r"new|Goal|Foul", proves=proves,
            short=short and i % 20 == 0)
    for what, step in (("fifo", lambda path: os.mkfifo(path)),
                       ("/dev/zero", lambda path: os.symlink("/dev/zero", path)),
                       ("folder", lambda path: os.mkdir(path)),
                       ("dead link", lambda path: os.symlink("nowhere", path))):
        add(group, f"{name}: is a {what}", argv, then(make, lambda base, step=step: (
            os.unlink(path), step(path))), line="new", short=True, ok=what == "folder")
    add(group, f"{name}: is huge", argv, then(make, sparse(path, 2 ** 34)), line=line)


def jsons():
    def labels(base):
        for path in (base / "data").rglob("*.json"):
            writes(f"new/{path.relative_to(base / 'data')}", path.read_bytes())(base)

    def spots(base):
        for path in (base / "spots").rglob("*.json"):
            writes(f"new/{path.relative_to(base / 'spots')}", path.read_bytes())(base)

    documents_tried(f"data/{LABELS}", "labels", "annotations",
                    {"gameTime": "1 - 00:02", "label": "Goal", "position": "2000",
                     "visibility": "visible"}, swap("evaluate", labels="new"), labels)
    documents_tried(f"spots/{SPOTS}", "results", "predictions",
                    SPOT, swap("evaluate", predictions="new"), spots)
    for name, argv in REPORTS.items():
        if name in ("page", "timeline", "export csv", "export osl"):     # the rest read as these
            documents_tried(f"spots/{SPOTS}", name, "predictions", SPOT, argv, results_here,
                            proves=well_formed, about=ABOUT if name != "timeline" else None)
        for i, (key, value, ok) in enumerate(ODD_RESULTS):
            body = {"predictions": [SPOT | {key: value}], "about": ABOUT} if key in SPOT else {
                "predictions": [SPOT], "about": ABOUT | {key: value}}
            add("json", f"{name}: {key} {ascii(value)[:40]} ({i})", argv, then(results_here, writes(
                f"new/{SPOTS}", json.dumps(body))), must=ok, line=r"spotting\.json", short=True,
                proves=well_formed)
    head = "video,time,label\nleague/one/1.mkv,"
    for i, (name, text) in enumerate({
            "no time": head + "45+2,Goal", "beyond the end": head + "12:34:00,Goal",
            "two labels": head.replace("\n", ",label\n") + "1,Goal,Foul",
            "a cell more": head + "1,5,Goal",
            "another match": head.replace("one", "One") + "1,Goal",
            "half 2.0": head.replace("\n", ",half\n") + "1,Goal,2.0",
            "cp1252": (head + "1,Fo\xfcl").encode("cp1252"),
            "no mark": (head + "1,Goal").encode("utf-16-le")}.items()):
        for command in ("evaluate", "stage3"):
            add("json", f"table: {command}, {name}", swap(command, labels="t.csv"),
                writes("t.csv", text), line=r"t\.csv|'league/One' \(did", short=i % 4 == 1)


SPOT = {"gameTime": "1 - 00:02", "label": "Goal", "position": "2000", "half": "1",
        "confidence": 0.5}
ABOUT = {"program": "comedian", "checkpoint": ["best.pt"], "classes": ["Goal", "Foul"],
         "settings": {"nms": "soft"}, "videos": {"1": "1.mp4"}}
REPORTS = {"page": COMMANDS["page"], "timeline": ["report", "timeline", "new", "--out", "t.png"],
           **{f"export {kind}": ["report", "export", "new", "--format", kind, "--threshold", "0"]
              for kind in ("csv", "vtt", "srt", "sportscode", "osl")}}
ODD_RESULTS = [                       # what is changed, into what, whether it must succeed
    *(("confidence", value, False) for value in (1e400, None, "nan", "-Infinity", 1.0001, -1e-9)),
    *(("position", value, False) for value in (-1, -99999999999, 2 ** 52)),
    *(("label", value, False) for value in ("x\ud800", "\udce9")),
    *(("label", value, True) for value in (
        "", "=1+1", "\tx", "a\rb\nc\0", "\xa0\u3000\u2028\x85\ufffe", "]]>&<", "<!--", "-->")),
    ("checkpoint", 5, True), ("checkpoint", {"a": [1]}, True), ("settings", {"a": [{}]}, True),
    ("settings", {"a": 1e400}, False), ("program", ["\ud800"], False),
    ("videos", {"1": "\ud800"}, False), *(("videos", {"1": value}, True) for value in (
        "", ".", "..", "/", "/..", "a\0b", "caf\udce9", "/dev/zero", "javascript:alert(1)"))]


def well_formed():
    """What the reports wrote, read as strictly as other programs do."""
    from xml.etree import ElementTree

    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    for path in (*Path("new").rglob("actions*"), *Path("new").rglob("page.html")):
        try:
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".html":
                text = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
            if path.suffix in (".html", ".json"):
                json.loads(text, parse_constant=refuse)
            elif path.suffix == ".xml":
                ElementTree.fromstring(text)
        except (ValueError, SyntaxError) as error:         # ParseError is one
            return f"{path}: {error}"
    return None


# ------------------------------------------------------------------ zips
def zipped(base, method=zipfile.ZIP_DEFLATED, more=(), without=None):
    """The bytes of a zip of the base's results, and of other entries (name, content)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for path in sorted((base / "spots").rglob("results_spotting.json")):
            name = path.relative_to(base / "spots").as_posix()
            if name != without:
                archive.writestr(name, path.read_bytes())
        for name, content in more:
            archive.writestr(name, content)
    return buffer.getvalue()


def patched(content, signature, offset, value):
    """A zip with a field of every local or central header replaced."""
    content, at = bytearray(content), 0
    while (at := content.find(signature, at)) >= 0:
        content[at + offset:at + offset + len(value)] = value
        at += 4
    return bytes(content)


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def zips():
    import warnings
    warnings.simplefilter("ignore")                       # zipfile says that a name is there twice
    argv, good = swap("evaluate", predictions="z.zip"), zipped(BASE)

    def tried(name, content, **more):
        add("zips", name, argv, writes("z.zip", content), **{"line": r"z\.zip"} | more)

    tried("whole", good, must=True, line="", short=True)
    tried("stored", zipped(BASE, zipfile.ZIP_STORED), must=True)
    tried("with what macOS adds", zipped(BASE, more=[(f"__MACOSX/{SPOTS}", b"x")]), must=True)
    for i, (name, content) in enumerate(spoilt(good, 3, cuts=60, flips=200)):
        tried(name, content, ok="flipped" in name, short=i % 25 == 0, line=r"z\.zip|labelled")
    for name, method in (("bzip2", zipfile.ZIP_BZIP2), ("lzma", zipfile.ZIP_LZMA)):
        tried(f"compressed with {name}", zipped(BASE, method), short=True)
    for signature, shift in ((LOCAL, 0), (CENTRAL, 2)):
        which = "local" if signature == LOCAL else "central"
        for name, offset, value in (
                ("encrypted", 6, b"\x01\0"), ("strongly encrypted", 6, b"\x41\0"),
                ("unknown method", 8, b"\x63\0"), ("no CRC", 14, bytes(4)),
                ("a size of 2^32 - 2", 22, b"\xfe\xff\xff\xff"), ("a size of 0", 22, bytes(4)),
                ("a size of 10", 22, b"\x0a\0\0\0"), ("a packed size of 2^32 - 2", 18,
                                                     b"\xfe\xff\xff\xff"),
                ("a packed size of 5", 18, b"\x05\0\0\0"), ("a name of 65535", 26, b"\xff\xff"),
                ("more of 65535", 28, b"\xff\xff")):
            tried(f"{which}: {name}", patched(good, signature, offset + shift, value),
                  ok=which == "local", short=name in ("encrypted", "no CRC", "unknown method"),
                  line=r"z\.zip|labelled")
    for name, offset, value in (("offset of the directory", 16, b"\xff\xff\xff\x7f"),
                                ("size of the directory", 12, b"\xff\xff\xff\x7f"),
                                ("number of entries", 10, b"\xff\x7f"),
                                ("comment", 20, b"\xff\xff")):
        tried(f"end: {name}", patched(good, END, offset, value), ok=True)
    tried("a bomb of 200 MB", lambda base: zipped(base, more=[("x/" + SPOTS, " " * 2 ** 28)]),
          short=True)
    tried("a deep JSON", lambda base: zipped(base, more=[(SPOTS, "[" * 10 ** 6)], without=SPOTS))
    for name in (f"../{SPOTS}", f"/{SPOTS}", f"a/../../{SPOTS}", f"..\\{SPOTS}", SPOTS):
        tried(f"an entry called {name}", zipped(BASE, more=[(name, b"{}")]), short=True)
    tried("no entry", zipped(Path("/nonexistent")), ok=False)
    tried("text", b"no zip"), tried("empty", b""), tried("only its end", good[-22:])
    add("zips", "a fifo", argv, lambda base: os.mkfifo("z.zip"), line=r"z\.zip", short=True)
    add("zips", "/dev/zero", swap("evaluate", predictions="/dev/zero"), line="/dev/zero")


# ------------------------------------------------------------------ numpy's arrays
def npy(header, body=b"", version=1):
    """The bytes of a .npy file with this header, whatever it says."""
    text = header.encode("latin-1")
    length = struct.pack("<H" if version == 1 else "<I", len(text) % 65536 if version == 1 else
                         len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + body


def saved(array, **more):
    import numpy as np
    buffer = io.BytesIO()
    np.save(buffer, array, **more)
    return buffer.getvalue()


def arrays_of(rows, width):
    """(name, bytes, may it be right): features that are none."""
    import numpy as np
    good = np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)
    for kind in ("f2", "f8", ">f4", "i4", "u1"):
        yield f"of {kind}", saved((10 * good).astype(kind)), True
    for kind in ("c8", "M8[s]", "m8[s]", "U4", "S4", "V4", "?"):
        yield f"of {kind}", saved(np.zeros((rows, width), kind)), False
    yield "structured", saved(np.zeros((rows, width), [("a", "f4")])), False
    yield "of objects", saved(np.array([[None] * width] * rows), allow_pickle=True), False
    for value in (np.nan, np.inf, -np.inf, 1e300):
        changed = good.astype(np.float64)
        changed[3, 3] = value
        yield f"with {value}", saved(changed), False
    yield "constant", saved(np.ones_like(good)), True
    yield "in Fortran's order", saved(np.asfortranarray(good)), True
    for shape in ((rows * width,), (1, rows, width), (rows, 0), (0, width), (), (rows, width, 1)):
        yield f"of shape {shape}", saved(np.zeros(shape, np.float32)), False
    yield "of one row", saved(good[:1]), True
    yield "of twice the width", saved(np.concatenate([good, good], 1)), False
    body = good.tobytes()
    plain = "{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}\n"
    for shape in ("(-1, 12)", "(2**63, 12)", f"({2 ** 63}, 12)", f"({10 ** 30}, 1)", "(16, 12, )",
                  "(16", "None", "[16, 12]", "(1.5, 2)", "('a', 2)", "(16, 12) + (1,)",
                  f"({'1, ' * 200})", f"({10 ** 9}, 12)", "(True, 12)", "(16L, 12L)"):
        yield f"header: shape {shape[:30]}", npy(plain.format("<f4", False, shape), body), True
    for descr in ("<f3", "", "|O", "O", "<f99999", "<x4", "[('a', '<f4')]", "f", "<U0", "|V0",
                  "__import__('os').system('touch ran')"):
        header = plain.format(descr, False, (rows, width))
        yield f"header: type {descr[:30]}", npy(header, body), True
    for name, header in {"deep": "(" * 9000, "empty": "", "no dict": "3\n", "zeros": "\0" * 99,
                         "not Python": "{'descr'", "huge": " " * 60000,
                         "order is 3": plain.format("<f4", 3, (16, 12))}.items():
        yield f"header: {name}", npy(header, body), False
    for version in (0, 2, 3, 4, 255):
        yield f"version {version}", npy(plain.format("<f4", False, (rows, width)), body,
                                        version), version in (2, 3)
    yield "a header of 4 GB", b"\x93NUMPY\x02\0\xff\xff\xff\xff" + body, False
    yield "an .npz", (BASE / "reduced/four.npz").read_bytes(), False
    for name, content in spoilt(saved(good), 5, cuts=25, flips=60):
        yield name, content, "flipped" in name


def npys():
    for i, (name, content, ok) in enumerate(arrays_of(16, 12)):
        for command, group in (("stage2", "features"), ("pca", "features")):
            argv = swap(command, features="new") + (["--data", "{data}"] * (command == "stage2"))
            add(group, f"{command}: {name}", argv, then(
                lambda base: shutil.copytree(base / "data", "new", ignore=shutil.ignore_patterns(
                    "*.jpg", "*.json")), writes("new/league/one/1_teacher.npy", content)),
                line=r"_teacher\.npy|rows|equal", ok=ok, proves=finite_losses,
                short=i % 8 == 0 or "objects" in name or "2**63" in name or "deep" in name)
    reduced = "reduced/league/one/1_four.npy"
    for name, content, _ in arrays_of(16, 4):
        add("features", f"there already: {name}", swap("pca", out="reduced"),
            then(copied("reduced"), writes(reduced, content)), line=r"1_four\.npy",
            ok="flipped" in name and False, keeps=(reduced,), short=name == "of f8")
    add("features", "there already, the same", swap("pca", out="reduced"), copied("reduced"),
        must=True, short=True)
    add("features", "there already, half of them", swap("pca", out="reduced"), then(
        copied("reduced"), lambda base: os.unlink(reduced)), must=True,
        proves=result_in(reduced), short=True)
    for name, more in {"another width": {"width": "3"},
                       "no standardize": {"no-standardize": []}}.items():
        add("features", f"there already: {name}", swap("pca", out="reduced", **more),
            copied("reduced"), line=r"four\.npz", short=True)
    add("features", "there already, of fewer matches", swap("pca", out="reduced", features="new"),
        then(copied("reduced"), lambda base: shutil.copytree(base / "data/league/one",
                                                             "new/league/one")),
        line=r"four\.npz", short=True)


def npz_of(arrays, compressed=False):
    import numpy as np
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def loaded(path):
    import numpy as np
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays}


def odd_arrays(arrays):
    """(name, arrays): one of them left out, of another type, shape or value."""
    import numpy as np
    for key, value in arrays.items():
        yield f"no {key}", {k: v for k, v in arrays.items() if k != key}
        others = {"empty": value[:0] if value.ndim else np.zeros(0),
                  "one dimension more": value[None],
                  "a dict": np.array([{}], dtype=object), "complex": np.zeros(value.shape, complex),
                  "datetime": np.zeros(value.shape, "M8[s]"), "text": np.full(value.shape, "x"),
                  "bytes": np.full(value.shape, b"x"), "bool": np.zeros(value.shape, bool)}
        if value.ndim:
            others["one dimension less"] = value[0]
            others["one row less"] = value[:-1]
            others["twice"] = np.concatenate([value, value])
        if value.dtype.kind in "fiu":
            for number in (0, -1, 10 ** 9, 2 ** 62):
                others[f"all {number}"] = np.full_like(value, number)
        if value.dtype.kind == "f":
            for number in (np.nan, np.inf, -np.inf, 1e-300, 1e300):
                others[f"all {number}"] = np.full(value.shape, number)
                if value.ndim:
                    some = value.astype(float)
                    some.flat[len(some.flat) // 2] = number
                    others[f"one {number}"] = some
            others["float16"] = value.astype(np.float16)
        yield from ((f"{key}: {name}", arrays | {key: other}) for name, other in others.items())


def npz_tried(group, where, argv, allowed, short):
    arrays, content = loaded(BASE / where), (BASE / where).read_bytes()
    target = f"new/{where.split('/', 1)[1]}"

    def make(base):
        shutil.copytree(base / where.split("/")[0], "new")

    for i, (name, other) in enumerate(odd_arrays(arrays)):
        add(group, f"{argv[1]} {name}", argv, then(make, writes(target, npz_of(other))),
            ok=bool(re.search(allowed, name)), line=r"\.npz", short=short and i % 7 == 0)
    for i, (name, body) in enumerate(spoilt(content, 6, cuts=30, flips=80)):
        add(group, f"{argv[1]} {name}", argv, then(make, writes(target, body)),
            ok="flipped" in name, line=r"\.npz", short=short and i % 25 == 0)
    bomb = npz_of(arrays | {"bomb": __import__("numpy").zeros(2 ** 27, "u1")}, compressed=True)
    for name, body in (("text", b"no npz"), ("empty", b""), ("a bomb", bomb),
                       ("an .npy", saved(__import__("numpy").zeros(3))),
                       ("a zip of text", zipped(BASE))):
        add(group, f"{argv[1]} is {name}", argv, then(make, writes(target, body)), line=r"\.npz",
            short=short)
    add(group, f"{argv[1]} is a fifo", argv, then(make, lambda base: (
        os.unlink(target), os.mkfifo(target))), line=r"\.npz", short=short)


def scores():
    # What is not read may be anything; another time or class is only another time or class.
    free = r"url_local|start_s: (all 0|bool|all 1e-300|float16)|no start_s|bf16|no curve_" \
           r"|classes: text|token_s: float16" \
           r"|(windows|curve)_\d: (float16|all 0|all 1e-300|one (0|1e-300))"
    for command, more in {"sweep": "|curve_", "timeline": "|curve_2", "page": ""}.items():
        argv = [arg.replace("{base}/spots", "new") for arg in COMMANDS[command]]
        npz_tried("scores", "spots/league/one/scores.npz", argv, free + more, command == "sweep")


def bases():
    argv = ["prepare", "pca", "--features", "{data}", "--name", "teacher", "--out", "out",
            "--basis", "new/four.npz"]
    # Another centre, scale or variance is only another basis, as long as what it gives is finite.
    npz_tried("features", "reduced/four.npz", argv, r"sources|float16|explained_variance|"
              r"(mean|scale|total_variance): (all|one) -?[\de+-]+$", False)


# ------------------------------------------------------------------ soft centroids
def centroids():
    name = next((BASE / "bank").glob("centroids_*.npy")).name
    want = hashlib.sha256((BASE / "bank" / name).read_bytes()).hexdigest()

    def same():
        is_same = hashlib.sha256(Path("bank", name).read_bytes()).hexdigest() == want
        return None if is_same else "another table than the right one is used"

    for i, (what, content, _) in enumerate(arrays_of(64, 14)):
        add("centroids", what, COMMANDS["stage2"], then(copied("bank"), writes(
            f"bank/{name}", content)), must=True, proves=same, short=i % 12 == 0)
    for what, content in spoilt((BASE / "bank" / name).read_bytes(), 8, 30, 0):
        add("centroids", what, COMMANDS["stage2"], then(copied("bank"), writes(
            f"bank/{name}", content)), must=True, proves=same)
    for what, step in (("a fifo", os.mkfifo), ("a folder", os.mkdir)):
        add("centroids", what, COMMANDS["stage2"], then(copied("bank"), lambda base, step=step: (
            os.unlink(f"bank/{name}"), step(f"bank/{name}"))), line="centroids_", ok=True)


# ------------------------------------------------------------------ log.txt, synthetic.json
def resumed(stage):
    """The command that goes on from a copy of the base's run, one step later."""
    return [*swap(stage), "--resume"]


def one_step(stage, edit=lambda state: None, then_log=lambda text: text):
    """A step: run/ as if the run had been stopped after its first step, and its files edited."""
    def make(base):
        import torch
        shutil.copytree(base / stage, "run")
        state = torch.load("run/last.pt", weights_only=True)
        state["step"] = 1
        for moments in state["optimizer"]["state"].values():
            moments["step"].fill_(1.0)
        save_state(edit(state) or state, "run/last.pt")
        log = Path("run/log.txt").read_bytes()
        Path("run/log.txt").write_bytes(then_log(log))
    return make


def logs():
    def two_lines():
        lines = Path("run/log.txt").read_text(errors="replace").splitlines()
        steps = [m[1] for line in lines if (m := re.search(r"\| step (\d+)/2 \|.*left$", line))]
        return None if sorted(steps) == ["1", "2"] else f"the log's steps are {steps}"

    edits = {
        "as it was": lambda log: log, "half a line": lambda log: log[:-30],
        "cut in its first line": lambda log: log[:10] + b"\n" + log.splitlines(True)[0],
        "a foreign line": lambda log: b"hello\n" + log,
        "bytes not UTF-8": lambda log: log + b"\xff\xfe",
        "a line not UTF-8": lambda log: b"\xff\xfe\n" + log,
        "zeros after": lambda log: log + bytes(500),
        "carriage returns": lambda log: log.replace(b"\n", b"\r\n"),
        "a step of 5000 digits": lambda log: log + b"| step " + b"9" * 5000 + b"/\n",
        "twice": lambda log: log.splitlines(True)[0] + b"".join(log.splitlines(True)[1:] * 2)}
    for stage in ("stage1", "stage2", "stage3"):
        for name, edit in edits.items():
            add("log.txt, synthetic.json", f"{stage} resumed, log {name}", resumed(stage),
                one_step(stage, then_log=edit), must=True, proves=two_lines,
                short=stage == "stage1" and name in ("half a line", "bytes not UTF-8"))
        add("log.txt, synthetic.json", f"{stage} resumed, no log", resumed(stage), then(
            one_step(stage), lambda base: os.unlink("run/log.txt")), must=True)
    log = (BASE / "stage1/log.txt").read_bytes()
    for name, content in (*spoilt(log, 4, 20, 40), ("zeros", bytes(999)),
                          ("not UTF-8", b"\xff" * 99)):
        add("log.txt, synthetic.json", f"curves, log {name}", [
            "report", "curves", "r", "--out", "c.png"], writes("r/log.txt", content), ok=True,
            line=r"log\.txt")
    record = (BASE / "small/synthetic.json").read_text()
    good = json.loads(record)
    edits = {
        **{f"JSON {name}": text for name, text in documents("settings", good["settings"])},
        **{name: body for name, body in spoilt(record.encode(), 5, 10, 20)},
        "another seed": json.dumps({**good, "settings": good["settings"] | {"seed": 7}}),
        "settings deep": '{"finished": true, "settings": ' + "[" * 900 + "]" * 900 + "}",
        "settings are a list": '{"finished": true, "settings": [1]}'}
    for i, (name, text) in enumerate(edits.items()):
        add("log.txt, synthetic.json", f"record: {name}", COMMANDS["synthetic"], then(
            copied("small"), writes("small/synthetic.json", text)), line=r"synthetic\.json",
            ok="flipped" in name, keeps=("small/classes.txt",), short=i % 8 == 0)

    def whole():
        images = [len(list(Path("small", split).rglob("*.jpg"))) for split in ("train", "test")]
        return None if images == [120, 120] else f"{images} images"

    gone = {"a match": lambda base: shutil.rmtree(next(Path("small/test").rglob("* - *"))),
            "a frame": lambda base: next(Path("small").rglob("00000030.jpg")).unlink(),
            "its features": lambda base: next(Path("small").rglob("2_physics.npy")).unlink()}
    for name, step in gone.items():
        add("log.txt, synthetic.json", f"there already, but {name}", COMMANDS["synthetic"],
            then(copied("small"), step), must=True, proves=whole, short=True)
    add("log.txt, synthetic.json", "another's folder", COMMANDS["synthetic"], writes(
        "small/mine.txt", "x"), line="small", keeps=("small/mine.txt",))


# ------------------------------------------------------------------ checkpoints
DEEP = "deep!"                        # stands for lists in lists, which no pickler can write


def save_state(state, path, n=100_000):
    """torch.save; then a text DEEP in it becomes n lists, each in the one before."""
    import torch
    torch.save(state, path)
    content = Path(path).read_bytes()
    if DEEP.encode() in content:
        text = re.compile(rb"X\x05\0\0\0" + DEEP.encode() + rb"(?:q.|r....)?", re.DOTALL)
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                new.writestr(name, text.sub(b"]" * n + b"a" * (n - 1), old.read(name)))


class RunsCode:
    """Would touch a file when it is unpickled."""

    def __init__(self, call=os.system, arguments=("touch ran",)):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def odd_values():
    """(name, function of a value): what a section or field may become."""
    import torch
    return {
        "None": lambda v: None, "a text": lambda v: "abc", "empty text": lambda v: "",
        "-1": lambda v: -1, "0": lambda v: 0, "10^9": lambda v: 10 ** 9, "2^70": lambda v: 2 ** 70,
        "nan": lambda v: float("nan"), "inf": lambda v: float("inf"), "true": lambda v: True,
        "1.5": lambda v: 1.5, "a list": lambda v: [v], "empty list": lambda v: [],
        "a dict": lambda v: {"a": v}, "empty dict": lambda v: {}, "deep": lambda v: DEEP,
        "a tensor": lambda v: torch.ones(3), "{1: 2}": lambda v: {1: 2}, "bytes": lambda v: b"abc",
        "a pair": lambda v: (1, 2), "[-1]": lambda v: [-1], "complex": lambda v: 1j}


def odd_tensors(t):
    """(name, what a tensor of weights may become)."""
    import torch
    yield from {
        "of float64": t.double(), "of float16": t.half(), "of bfloat16": t.bfloat16(),
        "of int64": t.long(), "of bool": t.bool(), "of complex": t.to(torch.complex64),
        "sparse": t.to_sparse(), "of float8": t.to(torch.float8_e4m3fn),
        "with nan": t * float("nan"), "with inf": t + float("inf"), "empty": t[:0],
        "of another shape": t.flatten()[:-1], "with one more dimension": t[None],
        "on meta": t.to("meta"), "a view of one number": torch.zeros(1).expand(10 ** 6, 10 ** 6),
        "quantized": torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "a list": t.tolist(),
        "None": None, "nested": torch.nested.nested_tensor([t.flatten(), t.flatten()])}.items()


def state_saved(stage, edit, path="x.pt"):
    def make(base):
        import torch
        state = torch.load(base / stage / "last.pt", weights_only=True)
        save_state(edit(state) or state, path)
    return make


def put(*keys, value=None):
    """An edit: the entry at these keys becomes value(old), or goes."""
    def edit(state):
        at = state
        for key in keys[:-1]:
            at = at[key]
        if value is None:
            del at[keys[-1]]
        else:
            at[keys[-1]] = value(at[keys[-1]])
    return edit


def renamed(old, new):
    def edit(state):
        state["model"][new] = state["model"].pop(old)
    return edit


def checkpoints():
    import warnings
    warnings.simplefilter("ignore")
    infer, odd = swap("infer", checkpoint="x.pt"), odd_values()

    def tried(name, make, **more):
        add("checkpoints", name, infer, make, **{"line": r"x\.pt"} | more)

    tried("as it was", state_saved("stage3", lambda s: None), must=True, line="", short=True)
    fine = {"step", "args", "log", "best", "optimizer"}   # infer.py does not look at them
    sections = ("model", "config", "stage", *fine)
    for section in sections:
        tried(f"no {section}", state_saved("stage3", put(section)), ok=section in fine)
        for i, (name, value) in enumerate(odd.items()):
            tried(f"{section} is {name}", state_saved("stage3", put(section, value=value)),
                  ok=section in fine or name == "deep" and section == "x", short=i % 9 == 0)
    for field in ("model", "spatial", "image_size", "patch_size", "embed_dim", "depth", "num_heads",
                  "mlp_ratio", "temporal_depth", "temporal_heads", "window_tokens", "drop_path",
                  "normalize_per_frame", "head_width", "classes"):
        # What has no weights and is a legal number is only another setting; so is a missing field,
        # which the model's name stands for.
        free = {"drop_path": ("0",), "head_width": ("true",), "normalize_per_frame": ("true",),
                "classes": ()}.get(field, ())
        tried(f"config without {field}", state_saved("stage3", put("config", field)),
              ok=field != "model")
        for i, (name, value) in enumerate(odd.items()):
            tried(f"config.{field} is {name}", state_saved("stage3", put(
                "config", field, value=value)), ok=name in free, short=i % 11 == 0)
    for name, edit in {
            "one field more": lambda s: s["config"].update(new=1),
            "a field that is no text": lambda s: s["config"].update({1: 2}),
            "a field with a deep value": lambda s: s["config"].update(new=DEEP),
            "heads that do not divide": lambda s: s["config"].update(num_heads=(3,)),
            "temporal heads that do not divide": lambda s: s["config"].update(temporal_heads=7),
            "a network of a terabyte": lambda s: s["config"].update(
                embed_dim=8192, depth=(128,), mlp_ratio=64.0, num_heads=(1,)),
            "Swin": lambda s: s["config"].update(spatial="swin"),
            "an image that patches do not fill": lambda s: s["config"].update(image_size=47),
            "a class twice": lambda s: s["config"].update(classes=["Goal", "Goal"]),
            "a million classes": lambda s: s["config"].update(
                classes=[str(i) for i in range(10 ** 6)])}.items():
        tried(name, state_saved("stage3", edit), short=True)
    import torch
    model = torch.load(BASE / "stage3/last.pt", weights_only=True)["model"]
    for key in ("spatial.blocks.0.attn.qkv.weight", "temporal.pos_embed", "head.bias",
                "spatial.cls_token"):
        tried(f"no {key}", state_saved("stage3", put("model", key)))
        for i, (name, tensor) in enumerate(odd_tensors(model[key])):
            tried(f"{key} {name}", state_saved("stage3", put(
                "model", key, value=lambda v, tensor=tensor: tensor)),
                ok=name in ("of float64", "of float16", "of bfloat16"), short=i % 4 == 0)
    tried("a name more", state_saved("stage3", lambda s: s["model"].update(new=torch.ones(2))))
    tried("a name that is a number", state_saved("stage3", lambda s: s["model"].update(
        {1: torch.ones(2)})))
    content = (BASE / "stage3/last.pt").read_bytes()
    for i, (name, body) in enumerate(spoilt(content, 9, 40, 80)):
        tried(name, writes("x.pt", body), ok="flipped" in name, short=i % 40 == 0)
    for stage in ("stage1", "stage2"):
        tried(f"of {stage}", state_saved(stage, lambda s: None), line="no trained head", short=True)

    # -- other containers, and pickles that would run code
    import pickle

    import numpy as np
    bodies = {
        "empty": b"", "text": b"abc", "HTML": b"<!DOCTYPE html>" * 99, "zeros": bytes(9999),
        "an .npy": saved(np.zeros(3)), "a zip of text": zipped(BASE),
        "an encrypted zip": patched(zipped(BASE), LOCAL, 6, b"\x01\0"),
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "deflated": repacked(content), "a pickle of protocol 5": pickle.dumps({"a": 1}, 5),
        "an .npz of nothing": npz_of({}), "an .npz of texts": npz_of({"a": np.array("x")}),
        "an .npz of objects": npz_of({"cls": np.array([{}], dtype=object)}),
        "an .npz, AugReg's, of zeros": npz_of({"Transformer/encoder_norm/scale":
                                              np.zeros(192, "f4")}),
        "an .npz bomb": npz_of({"cls": np.zeros(2 ** 28, "u1")}, True)}
    for name, body in bodies.items():
        tried(f"is {name}", writes("x.pt", body), short=True)
    for name, thing in {
            "os.system": RunsCode(),
            "eval": RunsCode(eval, ("__import__('os').system('touch ran')",)),
            "open": RunsCode(open, ("ran", "w")), "exec": RunsCode(exec, ("open('ran', 'w')",)),
            "getattr": RunsCode(getattr, (RunsCode(__import__, ("os",)), "system"))}.items():
        for where in ("alone", "in a dict", "in the model", "in the config", "legacy"):
            def make(base, thing=thing, where=where):
                state = {"alone": thing, "in a dict": {"a": thing}, "legacy": [thing],
                         "in the model": {"model": {"a": thing}, "config": {}, "stage": 3},
                         "in the config": {"model": {}, "config": {"a": thing}, "stage": 3}}[where]
                if where == "legacy":
                    Path("x.pt").write_bytes(pickle.dumps(state, 2))
                else:
                    torch.save(state, "x.pt")
                Path("ran").unlink(missing_ok=True)
            add("pickles that run code", f"{name}, {where}", infer, make, line=r"x\.pt",
                keeps=(), proves=lambda: "ran" if Path("ran").exists() else None,
                short=name == "os.system")
    tried("is a fifo", lambda base: os.mkfifo("x.pt"), short=True)
    add("checkpoints", "is a folder", infer, lambda base: os.mkdir("x.pt"), line=r"x\.pt")
    add("checkpoints", "is /dev/zero", swap("infer", checkpoint="/dev/zero"), line="/dev/zero")
    safetensors(tried)
    resumes(odd)


def repacked(content):
    """A torch file whose members are compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(
            buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


def safetensors(tried):
    def body(header, data=bytes(64), length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    entry = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
    cases = {
        "fine, but no weights of ours": {"a": entry}, "no entry": {}, "a list": [], "null": None,
        "of only metadata": {"__metadata__": {}}, "an entry that is a list": {"a": [1]},
        "an unknown type": {"a": entry | {"dtype": "F8"}}, "a type that is a list": {
            "a": entry | {"dtype": []}}, "no shape": {"a": {"dtype": "F32"}},
        "a negative side": {"a": entry | {"shape": [-4, -4]}},
        "a huge side": {"a": entry | {"shape": [2 ** 40, 2 ** 40]}},
        "a side of 10^30": {"a": entry | {"shape": [10 ** 30]}},
        "sides that are texts": {"a": entry | {"shape": ["4", 4]}},
        "half a side": {"a": entry | {"shape": [4.0, 4]}}, "a hundred sides": {
            "a": entry | {"shape": [1] * 100}},
        "places past the end": {"a": entry | {"data_offsets": [64, 128]}},
        "negative places": {"a": entry | {"data_offsets": [-64, 0]}},
        "places backwards": {"a": entry | {"data_offsets": [64, 0]}},
        "one place": {"a": entry | {"data_offsets": [0]}},
        "overlapping": {"a": entry, "b": entry}, "a gap": {
            "a": entry | {"data_offsets": [0, 32], "shape": [2, 4]}}}
    for name, header in cases.items():
        tried(f"safetensors: {name}", writes("x.safetensors", body(header)), line="x.safetensors",
              short=True)
        CASES[-1] = CASES[-1]._replace(argv=swap("infer", checkpoint="x.safetensors"))
    for name, content in {
            "header deep": body(b"[" * 10 ** 5), "header not closed": body(b'{"a": '),
            "header not UTF-8": body(b"\xff\xfe"), "length 2^63": body(b"{}", length=2 ** 63),
            "length of the file": body(b"{}", length=66), "4 bytes": b"abcd", "empty": b"",
            "length 0": bytes(8)}.items():
        tried(f"safetensors: {name}", writes("x.safetensors", content), line="x.safetensors",
              short=True)
        CASES[-1] = CASES[-1]._replace(argv=swap("infer", checkpoint="x.safetensors"))
    for name, content in spoilt(body({"cls_token": entry}), 11, 20, 60):
        tried(f"safetensors: {name}", writes("x.safetensors", content), line="x.safetensors")
        CASES[-1] = CASES[-1]._replace(argv=swap("infer", checkpoint="x.safetensors"))


def resumes(odd):
    """--resume of a checkpoint with one thing in it that is not what the stage wrote."""
    for stage in ("stage1", "stage2", "stage3"):
        import torch
        state = torch.load(BASE / stage / "last.pt", weights_only=True)
        group = "checkpoints"

        def tried(name, edit, stage=stage, group=group, **more):
            add(group, f"{stage} resumed: {name}", resumed(stage), one_step(stage, edit),
                **{"line": r"run/last\.pt"} | more)

        tried("as it was", lambda s: None, must=True, line="", short=True)
        for section in state:
            tried(f"no {section}", put(section), short=stage == "stage1")
            for i, (name, value) in enumerate(odd.items()):
                legal = {"step": ("0",) and (), "best": ("1.5",)}.get(section, ())
                tried(f"{section} is {name}", put(section, value=value), ok=name in legal,
                      short=stage == "stage1" and i % 11 == 0)
        for name, edit in {
                "step 3 of 2": put("step", value=lambda v: 3),
                "optimizer without state": put("optimizer", "state"),
                "optimizer's state empty": put("optimizer", "state", value=lambda v: {}),
                "optimizer's state a list": put("optimizer", "state", value=lambda v: [v]),
                "one more parameter": put("optimizer", "state", value=lambda v: v | {999: v[0]}),
                "two parameters fewer": put("optimizer", "state", value=lambda v: dict(
                    list(v.items())[2:])),
                "moments of another shape": put("optimizer", "state", 0, "exp_avg",
                                                value=lambda v: v[:1].flatten()[:1]),
                "moments missing": put("optimizer", "state", 0, "exp_avg_sq"),
                "moments with nan": put("optimizer", "state", 0, "exp_avg",
                                        value=lambda v: v * float("nan")),
                "moments of int64": put("optimizer", "state", 0, "exp_avg",
                                        value=lambda v: v.long()),
                "squares negative": put("optimizer", "state", 0, "exp_avg_sq",
                                        value=lambda v: v - 1),
                "step of a parameter -1": put("optimizer", "state", 0, "step",
                                              value=lambda v: v * 0 - 1),
                "log without sums": put("log", "sums"), "log without steps": put("log", "steps"),
                "log's sums a list": put("log", "sums", value=lambda v: []),
                "log's steps negative": put("log", "steps", value=lambda v: -3),
                "log's loss a text": lambda s: s["log"]["sums"].update(loss="abc"),
                "log's loss nan": lambda s: s["log"]["sums"].update(
                    loss=torch.tensor(float("nan"))),
                "log's loss a row": lambda s: s["log"]["sums"].update(loss=torch.ones(3)),
                "another seed": put("args", "seed", value=lambda v: 7),
                "a flag's value a tensor": put("args", "seed", value=lambda v: torch.ones(3)),
                "a flag's value deep": put("args", "seed", value=lambda v: DEEP),
                "a flag more": lambda s: s["args"].update(new=1),
                "a flag fewer": put("args", "lr"), "a flag that is a number": lambda s: s[
                    "args"].update({1: 2}),
                "another stage": put("stage", value=lambda v: v % 3 + 1),
                "another model's config": lambda s: s["config"].update(temporal_depth=1),
                "weights as public ones": lambda s: s["model"]}.items():
            tried(name, edit, short=stage == "stage1" or "moments of another" in name,
                  ok=stage == "stage1" and name == "another model's config")
        if stage == "stage1":
            tried("queue of another size", put("queue", value=lambda v: v[:5]), short=True)
            tried("projector of another width", put("projector", "0.weight",
                                                    value=lambda v: v[:5]), short=True)
            tried("target with nan", put("target", "1.0.bias", value=lambda v: v * float("nan")))
        add("checkpoints", f"{stage} resumed: a .tmp beside", resumed(stage), then(
            one_step(stage), writes("run/last.pt.tmp", b"x")), must=True)
        add("checkpoints", f"{stage} resumed: no checkpoint", resumed(stage), line=r"last\.pt")
        body = (BASE / stage / "last.pt").read_bytes()
        for name, content in spoilt(body, 12, 12, 12):
            add("checkpoints", f"{stage} resumed: {name}", resumed(stage), then(
                one_step(stage), writes("run/last.pt", content)), line=r"last\.pt",
                ok="flipped" in name)


# ------------------------------------------------------------------ full disk
def is_full(size):
    """A step: `disk`, a file system of so many KiB. Needs root; without, the case is left out."""
    def make(base):
        os.mkdir("disk")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", "disk"], check=True)
        os.chmod("disk", 0o777)
    return make


def can_mount():
    """Whether a small file system can be mounted here."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder],
                              check=False, capture_output=True).returncode == 0
        if done:
            subprocess.run(["umount", folder], check=True)
    return done


def outputs():
    """(command, the option for what it writes, a file of that name)."""
    yield from (("stage1", "out", "run"), ("stage2", "out", "run"), ("stage2", "centroids", "bank"),
                ("stage3", "out", "run"), ("infer", "out", "spots"), ("infer", "json", "all.json"),
                ("evaluate", "json", "all.json"), ("sweep", "json", "all.json"),
                ("sweep", "plot", "plot.png"), ("curves", "out", "curves.png"),
                ("timeline", "out", "timeline.png"), ("export", "out", "tables"),
                ("pca", "out", "reduced"), ("synthetic", "out", "small"),
                ("frames", "out", "frames"))


def full_disks():
    for command, flag, place in outputs():
        for kib in (1, 8, 64, 1024):
            add("full disk", f"{command} --{flag}, files of at most {kib} KiB",
                swap(command, **{flag: place}), ok=True, line=r"cannot be written|: \w",
                proves=lambda place=place: None if Path(place).exists() else f"no {place}",
                around={"limit": (resource.RLIMIT_FSIZE, 1024 * kib), "stdout": "/dev/null",
                        "stderr": ".err"}, short=kib == 8)
            if MOUNTS:
                add("full disk", f"{command} --{flag} on a disk of {kib} KiB",
                    swap(command, **{flag: f"disk/{place}"}), is_full(kib), ok=True,
                    line=r"disk", proves=lambda place=place: None if Path(
                        "disk", place).exists() else f"no {place}",
                    short=kib == 64 and command in ("stage1", "pca", "evaluate"))
        if "." in place:
            add("full disk", f"{command} --{flag}, a file is there", swap(command, **{flag: place}),
                writes(place, b"old"), ok=True, line=r"cannot be written", keeps=(place,),
                around={"limit": (resource.RLIMIT_FSIZE, 512), "stdout": "/dev/null"}, short=True)
            for device in ("/dev/full", "/dev/null", "/dev/stdout"):
                if place.endswith("json"):
                    add("full disk", f"{command} --{flag} {device}",
                        swap(command, **{flag: device}), line=device, ok=device != "/dev/full",
                        short=True)
    for name in COMMANDS:
        add("full disk", f"{name} > /dev/full", COMMANDS[name], line="standard output",
            around={"stdout": "/dev/full"}, short=name in ("stage1", "evaluate", "frames"))
    add("full disk", "a run's log does not fit", swap("stage1", out="disk/run", save_every="9"),
        then(is_full(8), lambda base: (os.mkdir("disk/run"), fill("disk"))) if MOUNTS else None,
        line="disk/run") if MOUNTS else None


def fill(folder):
    with contextlib.suppress(OSError), open(Path(folder, "filler"), "wb", 0) as file:
        while file.write(bytes(512)):
            pass


# ------------------------------------------------------------------ surroundings
def surroundings():
    group = "surroundings"
    for name in COMMANDS:
        for closed in (("stdout",), ("stderr",), ("stdout", "stderr")):
            add(group, f"{name}, {' and '.join(closed)} closed", COMMANDS[name], must=True,
                around=dict.fromkeys(closed), short=name in ("stage1", "infer"))
        add(group, f"{name}, ASCII alone", COMMANDS[name], must=True, around={
            "encoding": "ascii", "env": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}})
        add(group, f"{name}, no HOME", COMMANDS[name], must=True, around={"unset": (
            "HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "MPLCONFIGDIR")})
        add(group, f"{name}, 64 open files", COMMANDS[name], must=True,
            around={"limit": (resource.RLIMIT_NOFILE, 64)}, short=name == "stage2")
        add(group, f"{name}, 20 columns", COMMANDS[name], must=True, around={
            "env": {"COLUMNS": "20", "LINES": "5"}})
        add(group, f"{name}, a mistake and stderr closed", [*COMMANDS[name], "--nothing"],
            around={"stderr": None}, short=True)
        add(group, f"{name}, a mistake and stderr full", [*COMMANDS[name], "--nothing"],
            around={"stderr": "/dev/full"})
        add(group, f"{name} --help in ASCII", [*COMMANDS[name], "--help"], must=True,
            around={"encoding": "ascii"})
    odd = os.fsdecode(b"caf\xe9 \xff\n $1")
    for name, flag in (("stage1", "data"), ("stage3", "data"), ("infer", "data"),
                       ("evaluate", "labels"), ("pca", "features"), ("sweep", "labels")):
        for encoding in ("utf-8", "ascii"):
            add(group, f"{name} --{flag}, a name that is not UTF-8, {encoding}", swap(
                name, **{flag: odd}), lambda base: os.symlink(base / "data", odd), must=True,
                around={"encoding": encoding}, short=name in ("stage1", "infer"))
    for command, flag, place in outputs():
        add(group, f"{command} --{flag}, a name that is not UTF-8", swap(
            command, **{flag: odd + place}), must=True, proves=result_in(odd + place))
        add(group, f"{command} --{flag} in a folder that is a file", swap(command, **{
            flag: f"file/{place}"}), writes("file", "x"), line="file", keeps=("file",), short=True)
        add(group, f"{command} --{flag} is a file" if "." not in place else
            f"{command} --{flag} is a folder", swap(command, **{flag: place}),
            writes(place, "x") if "." not in place else lambda base, place=place: os.mkdir(place),
            line=re.escape(place), keeps=(place,) if "." not in place else ())
        add(group, f"{command} --{flag}, read only", swap(command, **{flag: f"locked/{place}"}),
            lambda base: os.mkdir("locked", 0o555), line="locked", around={"user": 65534},
            short=command in ("stage1", "pca")) if os.getuid() == 0 else None
    whole = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": "29999"}
    for variables in (*({"WORLD_SIZE": size} for size in (
            "2", "abc", "", "0", "-1", "9" * 30, "1.5")), {"WORLD_SIZE": "2", "RANK": "0"},
            whole | {"RANK": "5"}, whole | {"RANK": "x"}, whole | {"MASTER_PORT": "99999"}):
        for stage in ("stage1", "stage2", "stage3"):
            add(group, f"{stage}, {variables}", COMMANDS[stage], line="WORLD_SIZE",
                around={"env": variables}, short=True)
    for variables in ({"WORLD_SIZE": "1"}, {"RANK": "3"}, {"LOCAL_RANK": "x"}):
        add(group, f"stage1, {variables}", COMMANDS["stage1"], must=True, around={"env": variables})

    def saved_at_a_step():
        return None if Path("run/last.pt").stat().st_size > 10 ** 5 else "no checkpoint"

    for stage in ("stage1", "stage2", "stage3"):
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            add(group, f"{stage}, {number.name} saves", swap(stage, steps="500"), rc=128 + number,
                must=True, proves=saved_at_a_step, around={"signal": (
                    number, "run/log.txt", "step 1/")}, short=number == signal.SIGHUP)
        add(group, f"{stage}, two runs in one folder", COMMANDS[stage], lambda base: hold("run"),
            line="another run", short=stage == "stage1")
        add(group, f"{stage}, a run is there", COMMANDS[stage], lambda base: shutil.copytree(
            base / "stage1", "run"), line=r"last\.pt", keeps=("run/last.pt", "run/log.txt"))

        def leave(base):
            os.mkdir("run")
            Path("run", f".last.pt.{os.uname().nodename}.4194999.unfinished").write_bytes(b"x")
        add(group, f"{stage}, leftovers of a killed run", COMMANDS[stage], leave, must=True,
            short=stage == "stage1")
    add(group, "frames, leftovers of a killed run", COMMANDS["frames"], lambda base: [
        os.makedirs("frames/game/.1_224p.unfinished")], must=True)
    add(group, "frames, two at once", COMMANDS["frames"], lambda base: hold("frames"),
        line="another run", short=True)
    own = [*swap("infer", out="f"), "--features", "own"]
    add(group, "infer --features, another checkpoint's", own, writes(
        "f/own.json", '{"checkpoint_sha256": "0"}'), line=r"own\.json", short=True)
    add(group, "infer --features, made by hand", own, writes(
        "f/league/one/1_own.npy", b"x"), line="own", keeps=("f/league/one/1_own.npy",))

    def cut_one(base):
        record = {"checkpoint_sha256": hashlib.sha256((base / "stage3/last.pt").read_bytes()
                                                      ).hexdigest(), "bf16": False}
        writes("f/own.json", json.dumps(record))(base)
        writes("f/league/one/1_own.npy", (base / "data/league/one/1_teacher.npy").read_bytes()[:-9]
               )(base)

    def right_length():
        size = Path("f/league/one/1_own.npy").stat().st_size
        return None if size == 128 + 16 * 128 * 4 else "features that were cut short are believed"

    add(group, "infer --features, one cut short", own, cut_one, must=True,
        proves=right_length, short=True)
    # What would only fail, or mean nothing, after hours of work.
    add(group, "stage3, no label is of its classes", swap("stage3", classes="c.txt"), writes(
        "c.txt", "Header\n"), line="none of its labels")
    add(group, "infer --chance of one match", [
        *swap("infer", data="{data}/league/one"), "--chance"], line="--chance")


def hold(folder):
    """Locks a folder as a run that is going on does; the lock lasts as long as this process."""
    os.mkdir(folder)
    fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX)


# ------------------------------------------------------------------ the table
BEFORE = {                            # commit a3d1123, with about as many faults of the same kinds:
    # tried, clear, ok, unclear, traceback, silently wrong, hang, memory, crash, lost
    "options": (638, 462, 102, 31, 19, 14, 6, 4, 0, 0),
    "frames": (116, 77, 30, 0, 3, 1, 2, 3, 0, 0),
    "json": (377, 228, 132, 0, 15, 1, 1, 0, 0, 0), "zips": (52, 28, 12, 0, 10, 1, 0, 1, 0, 0),
    "features": (232, 131, 54, 12, 23, 12, 0, 0, 0, 0),
    "scores": (161, 72, 39, 2, 36, 10, 1, 1, 0, 0), "centroids": (68, 0, 8, 2, 49, 9, 0, 0, 0, 0),
    "log.txt, synthetic.json": (53, 30, 9, 0, 14, 0, 0, 0, 0, 0),
    "pickles that run code": (93, 87, 0, 5, 1, 0, 0, 0, 0, 0),
    "checkpoints": (483, 219, 63, 18, 155, 22, 3, 3, 0, 0),
    "full disk": (25, 9, 2, 3, 7, 0, 0, 0, 1, 3),
    "surroundings": (95, 33, 35, 10, 11, 4, 0, 0, 2, 0)}
GROUPS = {"options": options, "frames": frames, "json": jsons, "zips": zips, "features": npys,
          "bases": bases, "scores": scores, "centroids": centroids, "log": logs,
          "checkpoints": checkpoints, "full disk": full_disks, "surroundings": surroundings}
LEFT = """\
## What was left as it is

- A frame, a feature or a weight in which a byte changed and which is still of its format is used:
  nothing says what it was. (A JPEG that is damaged in its middle decodes; OpenCV gives no sign.)
- The soft centroids are read through a memory map. If somebody cuts the file under a running
  stage, the system ends the process (SIGBUS). It is the stage's own file; features are read without
  a map. `prepare pca` maps features while it reads them.
- A process of torchrun whose companions never come waits 12 hours for them: the first validates
  alone. (torchrun ends it when one of them dies; after the start the others end by themselves, with
  a line, and torchrun's own report follows it.)
- Numbers within their bounds may still be foolish: a rate of 10^6 ends in losses that are not
  finite, which is one line.
- A zip or a JSON that is small and legal, but full of as many entries as its bound allows, takes
  some seconds.
- Damaged videos are FFmpeg's to judge: tests/test_video.py, tests/test_video_kinds.py.
"""


def table(rows, seconds):
    """The markdown of rows (group, kind, seconds, MiB)."""
    counts = defaultdict(Counter)
    for group, kind, _, _ in rows:
        counts[group][kind] += 1
    lines = ["# What breaks it", "",
             "Made by `make faults` (tests/test_faults.py, which has the rules and every case): "
             f"{len(rows):,} faults in {seconds / 60:.0f} minutes.",
             "\"clear\" = one line that says what, where and how to mend, exit code 2, nothing "
             "lost. \"ok\" = allowed, and right.", "Each second line: commit a3d1123, with other "
             "cases of the same kinds.", "",
             f"| group | tried | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 2) + "|"]

    def row(name, numbers):
        return f"| {name} | " + " | ".join(f"{n:,}" if n else "" for n in numbers) + " |"

    for group, before in BEFORE.items():
        lines += [row(group, [sum(counts[group].values()), *(counts[group][k] for k in KINDS)]),
                  row("&nbsp; before", before)]
    total = Counter(kind for _, kind, _, _ in rows)
    lines += [row("**all**", [len(rows), *(total[kind] for kind in KINDS)]),
              row("&nbsp; before", [sum(column) for column in zip(*BEFORE.values(), strict=True)]),
              "", f"Largest memory of a case: {max(row[3] for row in rows):.0f} MiB; longest: "
              f"{max(row[2] for row in rows):.0f} s."]
    if not MOUNTS:
        lines.append("No small disk could be mounted here: those cases are left out.")
    return "\n".join([*lines, "", LEFT])


# ------------------------------------------------------------------ the process that forks
def prepare_imports():
    """Everything that the commands import, and their code, before the first fork."""
    global CODE
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    sys.path.insert(0, str(HERE))
    sys.modules["matplotlib.pyplot"] = None               # nothing here may want a screen
    import encodings.cp437                                # noqa: F401 (another user's child may
    import encodings.utf_8_sig                            # noqa: F401 not read this Python's files)

    import cv2
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import torch
    matplotlib.get_configdir(), matplotlib.get_cachedir()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    import torch._dynamo                                  # noqa: F401 (an optimizer brings it)

    import infer                                          # noqa: F401 (and with it all the rest)
    from comedian import prepare                          # noqa: F401
    gc.collect()
    gc.freeze()                                           # else a child copies what it visits
    CODE = {name: compile((HERE / path).read_text(), str(HERE / path), "exec")
            for name, path in SCRIPTS.items()}


def main():
    global BASE, MOUNTS
    parser = argparse.ArgumentParser()
    parser.add_argument("markdown", nargs="?")
    parser.add_argument("--group", choices=GROUPS)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--base", help="keep here what all cases read, for the next call")
    parser.add_argument("--only", help="regular expression on names")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--count", action="store_true", help="only count them")
    parser.add_argument("-v", action="store_true")
    args = parser.parse_args()
    since = time.time()
    prepare_imports()
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)                           # for the cases of another user
        BASE, MOUNTS = Path(args.base or folder, "base"), can_mount()
        if not BASE.exists():
            BASE.mkdir(parents=True)
            prepare_base(BASE)
        for name, fill_in in GROUPS.items():
            if args.group in (None, name):
                fill_in()
        cases = [case for case in CASES if (case.short or not args.short)
                 and re.search(args.only or "", case.name)]
        cases = cases[::4] if args.short else cases       # 40 s on two quiet cores
        before = prints(sorted(map(str, (path for path in BASE.rglob("*") if path.is_file()))))

        def tell(result):
            if args.v and result.kind not in GOOD:
                print(f"{result.kind}: {result.case.group}: {result.case.name}: {result.why}",
                      flush=True)

        where = Path(folder, "cases")
        where.mkdir(mode=0o755)
        if args.count:
            sys.exit(str(Counter(case.group for case in cases)))
        results = run_all(cases, BASE, where, args.jobs, tell)
        assert prints(before) == before, "a case wrote into the files that all read"
    bad = [result for result in results if result.kind not in GOOD]
    if args.markdown:                                     # the rows of a group, too, can be joined
        rows = [[r.case.group, r.kind, r.seconds, r.mib] for r in results]
        if args.group:
            Path(args.markdown).write_text(json.dumps([rows, time.time() - since]))
        else:
            Path(args.markdown).write_text(table(rows, time.time() - since))
    if args.v:
        spent = Counter()
        for result in results:
            spent[result.case.group] += result.seconds
        print({group: round(seconds) for group, seconds in spent.items()}, file=sys.stderr)
    print(json.dumps({"tried": len(results), "seconds": round(time.time() - since, 1),
                      "kinds": Counter(result.kind for result in results),
                      "groups": Counter(result.case.group for result in results),
                      "bad": [[r.kind, r.case.group, r.case.name, r.why] for r in bad]}))
    sys.exit(bool(bad))


def run_catalogue(*arguments):
    """Runs this file; returns what it says at its end, after it is sure that nothing was bad."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=False, text=True,
                          stdout=subprocess.PIPE)
    said = json.loads(done.stdout.splitlines()[-1])
    assert not said["bad"], "\n".join(": ".join(map(str, bad)) for bad in said["bad"])
    return said


def test_a_share_of_the_catalogue():
    """Of every group some cases: one line or the right result, and nothing lost."""
    said = run_catalogue("--short")
    assert said["tried"] > 100 and set(BEFORE) == set(said["groups"])


@pytest.mark.faults
def test_the_whole_catalogue():
    """All of them; writes docs/faults.md."""
    assert run_catalogue(str(HERE / "docs/faults.md"))["tried"] > 5000


def check(*arguments, **more):
    """`python -m comedian.check`: (exit code, its lines, what it says on stderr)."""
    done = subprocess.run([sys.executable, "-m", "comedian.check", *arguments], check=False,
                          capture_output=True, text=True, **more)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_check_says_ten_things(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    code, lines, error = check(cwd=tmp_path, env=environment)
    names = [line.split()[0] for line in lines]
    assert names == ["system", "python", "packages", "optional", "kernels", "cpu", "torch",
                     "ffmpeg", "memory", "disk"]
    assert "torch" in lines[2] and "equal to their references" in lines[4]
    assert code == 0 and not error


@pytest.mark.slow
def test_check_never_crashes(tmp_path):
    """Whatever is missing or broken is the answer of its line; the others stand."""
    for name, content in {"cv2": "raise SystemError('broken\\nbuild')",
                          "numpy": "1 / 0"}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.py").write_text(content)
        environment = os.environ | {"PYTHONPATH": f"{folder}:{HERE}"}
        code, lines, error = check(cwd=tmp_path, env=environment)
        assert code == 1 and len(lines) == 10 and not error, (name, lines, error)
        assert any("FAILED" in line for line in lines[2:4])
    unbuilt = tmp_path / "unbuilt"                         # a checkout before its first make
    shutil.copytree(HERE / "comedian", unbuilt / "comedian", ignore=lambda *_: {
        file.name for file in (HERE / "comedian").glob("_C*.so")})
    shutil.copytree(HERE / "csrc", unbuilt / "csrc")
    code, lines, error = check(cwd=unbuilt, env=os.environ | {"PYTHONPATH": str(unbuilt)})
    assert code == 1 and len(lines) == 10 and not error
    assert "FAILED" in lines[4] and "not built" in lines[4]
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "comedian.check"], stdout=full, check=False,
                              cwd=HERE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and not done.stderr


if __name__ == "__main__":
    main()
