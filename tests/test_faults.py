"""
What breaks it: a catalogue of faults, each tried on the real commands.

    python tests/test_faults.py docs/faults.md       # all of it, `make faults`; writes the table
    python tests/test_faults.py --group zips         # one group
    python tests/test_faults.py --share 50           # 50 cases of each group

A Case is a command with something wrong: a file, an option, the surroundings. It must end within
SECONDS and MIB, with exit code 2 and exactly one line on stderr that begins with "error: " and says
which file or option (`line`), or, where `ok` says so, with the right result (`proves`); and files
that were there (`keeps`) must be as they were, with nothing unfinished left beside them.

Thousands of cases take minutes because the imports are done once: every case is a forked child of
one process that has imported everything and computed nothing, so that no thread runs in it yet.
pytest starts that process, too, for a share of the catalogue.
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
import pickle
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).resolve().parent.parent
SECONDS, MIB = 120, 1500              # of one case; this process itself has some 400 MiB
KINDS = ("clear", "ok", "unclear", "traceback", "silently wrong", "hang", "memory", "crash", "lost")
GOOD = ("clear", "ok")
SCRIPTS = {"stage1": "stage1_spatial.py", "stage2": "stage2_distill.py",
           "stage3": "stage3_finetune.py", "infer": "infer.py", "evaluate": "comedian/evaluate.py",
           "report": "comedian/report.py", "prepare": "comedian/prepare.py"}

# ------------------------------------------------------------------ the commands, all small
# {data}, {base} lie outside the case's own folder and are only read.
STAGES = ("stage1", "stage2", "stage3")
STAGE = "--data {data} --epochs 1 --steps 2 --out run --workers 1 --log-every 1 --device cpu " \
        "--model vivit_micro"
HALVES = "--batch 2 --window 8 --windows-per-half 2"
COMMANDS = {name: command.split() for name, command in {
    "stage1": f"stage1 {STAGE} --batch 8 --queue 64",
    "stage2": f"stage2 {STAGE} {HALVES} --features-name teacher --centroids bank",
    "stage3": f"stage3 {STAGE} {HALVES} --classes {{data}}/classes.txt --head-epochs 0",
    "infer": "infer --data {data} --checkpoint {base}/stage3/last.pt --out spots --workers 1 "
             "--device cpu",
    "evaluate": "evaluate --predictions {base}/spots --labels {data} --classes {data}/classes.txt",
    "sweep": "evaluate --sweep --scores {base}/spots --labels {data} --ignored 0 1 --windows 2 3",
    "curves": "report curves {base}/stage1 --out curves.png",
    "timeline": "report timeline {base}/spots --out timeline.png",
    "page": "report page new",
    "export": "report export {base}/spots --format csv --threshold 0 --out tables",
    "pca": "prepare pca --features {data} --name teacher --width 4 --out reduced --out-name four",
    "frames": "prepare frames --videos {base}/videos --out frames --jobs 1"}.items()}
OUTPUTS = [line.split() for line in (  # command, the option for what it writes, a name for that
    "stage1 out run", "stage2 out run", "stage2 centroids bank", "stage3 out run",
    "infer out spots", "infer json all.json", "evaluate json all.json", "sweep json all.json",
    "sweep plot plot.png", "curves out curves.png", "timeline out timeline.png",
    "export out tables", "pca out reduced", "frames out frames")]


class Case(NamedTuple):
    name: str
    argv: list                        # its script's name in SCRIPTS, then its arguments
    steps: tuple = ()                 # called in the case's folder before the command
    line: str = ""                    # regular expression of the one line; "": it must succeed
    ok: bool = False                  # it may succeed instead
    proves: object = None             # after success: called in the folder, says if it is right
    keeps: tuple = ()                 # files in the folder that must stay as the steps left them
    around: dict = {}                 # noqa: RUF012 (of a NamedTuple; never written to)
    rc: int = 0                       # exit code of a success
    group: str = ""


def case(name, argv, *steps, **more):
    if argv[:3] == COMMANDS["page"]:                       # it writes beside what it reads
        steps += (copied("spots", "new"),)
    return Case(name, argv, steps, **more)


def files(prefix, argv, path, contents, *before, **more):
    """Cases in which the file `path` has other contents: {name: bytes}, or (name, bytes, may it be
    right), a function instead of bytes that are many."""
    if isinstance(contents, dict):
        contents = ((name, content, False) for name, content in contents.items())
    for name, content, right in contents:
        yield case(prefix + name, argv, *before, writes(path, content), **{"ok": right} | more)


def kinds(prefix, argv, path, those, *before, **more):
    """Cases in which something else lies at `path` than a file: fifo, folder, dead link..."""
    for kind in those.split(", "):                         # see `becomes`
        yield case(f"{prefix}is a {kind}", argv, *before, becomes(path, kind), **more)


# ------------------------------------------------------------------ one case in a child
def child(case, here):
    """Becomes the command of the case, as Python would run it. Never returns."""
    code = 70                                             # a mistake of this file
    try:
        os.chdir(here)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        for step in case.steps:
            step()
        Path(".kept").write_text(json.dumps(prints(case.keeps)))
        code = surrounded(case.around, [arg.replace("{data}", f"{BASE}/data").replace(
            "{base}", str(BASE)) for arg in case.argv])
    except BaseException:                                 # noqa: BLE001 (said, and counted)
        with open(here / ".err", "a") as file:
            traceback.print_exc(file=file)
    finally:
        os._exit(code)


def surrounded(around, argv):
    """Runs a script as Python would: returns its exit code."""
    # Whoever starts this in the background or under nohup has signals ignored, and children too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.environ.update(around.get("env", {}))
    for name in around.get("unset", ()):
        os.environ.pop(name, None)
    if "limit" in around:
        which, value = around["limit"]
        resource.setrlimit(which, (value, value))
    for number, name, place in ((2, "stderr", around.get("stderr", ".err")),
                                (1, "stdout", around.get("stdout", ".out")),
                                (0, "stdin", "/dev/null")):
        os.close(number)               # downwards: what is opened next takes the lowest free number
        stream = None
        if place:
            os.set_inheritable(os.open(place, os.O_CREAT | bool(number) * os.O_WRONLY, 0o666), True)
        if place and number:           # as Python makes them at its start
            stream = open(number, "w", encoding=around.get("encoding", "utf-8"), closefd=False,
                          errors="strict" if number == 1 else "backslashreplace")
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


def judge(case, status, seconds, mib):
    """(kind, why) of a case that has ended; called in its folder."""
    def read(name):
        return Path(name).read_text(errors="replace") if Path(name).exists() else ""

    error, kept = read(".err"), json.loads(read(".kept") or "{}")
    lines, code = error.splitlines(), os.waitstatus_to_exitcode(status)
    lost = [f"{name} is changed" for name in kept
            if not Path(name).exists() or prints([name])[name] != kept[name]]
    lost += [f"{path} is left" for path in (*Path().rglob("*.unfinished"), *Path().glob("ran"))]
    if code == -signal.SIGALRM:
        return "hang", f"after {seconds:.0f} s"
    if mib > MIB:
        return "memory", f"{mib:.0f} MiB"
    if code < 0:
        return "crash", f"signal {-code}"
    if "Traceback" in error or code == 70:
        return "traceback", lines[-1] if lines else "70"
    if lost:
        return "lost", lost[0]
    if code == case.rc:
        if case.line and not case.ok:
            return "silently wrong", "it succeeded"
        right = not case.proves or case.proves()
        return ("ok", "") if right else ("silently wrong", "the result is wrong")
    hidden = case.around.get("stderr", ".err") != ".err"   # nobody sees a line there
    clear = code == 2 and (case.line or case.ok) and (hidden or (
        len(lines) == 1 and lines[0].startswith("error: ") and re.search(case.line, lines[0])
        and re.search(r"[;(:] ?[\w-]", lines[0][7:])))
    return ("clear", "") if clear else ("unclear", f"exit {code}: {lines}")


def run_all(cases, where, jobs=1):
    """Yields (case, kind, why, seconds, MiB) of all, `jobs` at a time, in folders below `where`."""
    waiting, running = list(enumerate(cases))[::-1], {}
    while waiting or running:
        while waiting and len(running) < jobs:
            number, case = waiting.pop()
            here = where / f"{number}"
            here.mkdir()
            here.chmod(0o777)                             # for the cases of another user
            pid = os.fork()
            if not pid:
                child(case, here)
            running[pid] = case, here, time.time()
        pid, status, usage = os.wait4(-1, 0)
        case, here, since = running.pop(pid)
        seconds, mib = time.time() - since, usage.ru_maxrss / 1024
        os.chdir(here)
        result = case, *judge(case, status, seconds, mib), seconds, mib
        os.chdir(where)
        if (here / "disk").is_dir():
            subprocess.run(["umount", "-q", "disk"], cwd=here, check=False,
                           stderr=subprocess.DEVNULL)
        shutil.rmtree(here, ignore_errors=True)
        yield result


# ------------------------------------------------------------------ what there is to spoil
def build():
    """A step: two tiny matches, their features and labels, and a video of 5 s."""
    rng, data = np.random.default_rng(0), BASE / "data"
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
    videos = BASE / "videos/game"
    videos.mkdir(parents=True)
    writer = cv2.VideoWriter(str(videos / "1.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(50):
        writer.write(np.full((48, 64, 3), 5 * i, np.uint8))
    writer.release()


def prepare_base(where):
    """Everything in BASE, by children of this process: a run of every stage on tiny matches, and
    what the other commands make of those."""
    def keep(kept):
        return lambda: [shutil.copytree(name, BASE / to) for name, to in kept.items()]

    for name, kept in {"stage1": {"run": "stage1"}, "stage2": {"run": "stage2", "bank": "bank"},
                       "stage3": {"run": "stage3"}, "infer": {"spots": "spots"},
                       "pca": {"reduced": "reduced"}}.items():
        steps = [build] if name == "stage1" else []
        result, = run_all([case(name, COMMANDS[name], *steps, proves=keep(kept))], where)
        assert result[1] == "ok", result


# A step is a function that is called in the case's folder, without arguments.
def copied(folder, to=None, left_out=()):
    """A step: a copy of a folder of the base, if there is none."""
    to, ignore = to or folder, shutil.ignore_patterns(*left_out)
    return lambda: Path(to).exists() or shutil.copytree(BASE / folder, to, ignore=ignore)


def writes(path, content):
    """A step: a file with this content, bytes or text; one that is there is replaced, not changed
    (it may be a link into the base)."""
    def write():
        given, target = content() if callable(content) else content, Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(given.encode() if isinstance(given, str) else given)
    return write


def becomes(path, kind):
    """A step: something else lies there instead of the file, or nothing ("gone")."""
    def make():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            os.mkdir(path)
        elif kind == "locked":                             # as by a run that is going on
            os.mkdir(path)
            fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)
        elif kind == "huge":                               # zeros, which take no room
            Path(path).touch()
            os.truncate(path, 2 ** 34)
        elif kind != "gone":
            os.symlink({"dead link": "nowhere"}.get(kind, kind), path)
    return make


def swap(command, **new):
    """The command with other values for some of its options."""
    argv = list(COMMANDS[command])
    for flag, value in new.items():
        flag = f"--{flag.replace('_', '-')}"
        at = argv.index(flag) if flag in argv else len(argv)
        end = next((i for i in range(at + 1, len(argv)) if argv[i].startswith("--")), len(argv))
        argv[at:end] = [flag, *(value if isinstance(value, list) else [value])]
    return argv


def spoilt(content, seed, cuts=20, flips=40):
    """(name, function that makes the bytes, may it be right): a file cut at many places, and with
    one byte changed at many others, its first and last hundred more often than the rest."""
    rng, n = random.Random(seed), len(content)
    places = {0, 1, 7, n - 1, n - 7, *(n * i // cuts for i in range(cuts))}
    for place in sorted(place for place in places if 0 <= place < n):
        yield f"cut at {place}", lambda place=place: content[:place], False
    for i in range(flips):
        place = rng.choice([rng.randrange(n), rng.randrange(min(n, 100)), n - 1 -
                            rng.randrange(min(n, 100))])
        change = 1 << rng.randrange(8) if i % 2 else rng.randrange(1, 256)
        yield f"byte {place} flipped, {i}", lambda place=place, change=change: (
            content[:place] + bytes([content[place] ^ change]) + content[place + 1:]), True


def result_in(path):
    """A `proves`: this file is there, and not empty."""
    return lambda: Path(path).exists() and Path(path).stat().st_size > 0


def finite_losses():
    log = Path("run/log.txt")
    return not log.exists() or not re.search(r"\b(nan|inf)\b", log.read_text())


# ------------------------------------------------------------------ options
# What no number may be; what it may be or not, as its bounds say. Huge ones are beyond all bounds.
NEVER = ("abc", "", "nan", "inf", "-inf", "1e309", "9" * 24, "1" * 5000, "1,5", "--")
PERHAPS = ("0", "-1", "1e-320", "1.5", "0x10", "1_0")
NAMES = ("", ".", "..", "../x", "a/../../x", "/nonexistent/x", "a/b", "a\\b", "{data}/x", " ")
PLACES = ("/nonexistent/x", "{data}/classes.txt", "fifo", "/dev/zero", "/dev/full", "caf\udce9/x",
          "x" * 300, "{base}/stage3/last.pt", "")


def options_of(name):
    """[argparse.Action] of a command in COMMANDS."""
    from comedian import run
    script, *rest = COMMANDS[name]
    kept, run.Parser.parse_args = run.Parser.parse_args, lambda parser, *_: sys.exit(parser)
    try:
        space = {"__name__": "parsed", "__file__": ""}
        exec(CODE[script], space)
        space["parse_args"]([])
    except SystemExit as caught:
        parser = caught.code
    finally:
        run.Parser.parse_args = kept
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parser = action.choices[rest[0]]
    return [action for action in parser._actions if action.dest != "help"]


def options():
    for name in COMMANDS:
        for action in options_of(name):
            if action.nargs == 0 or not action.option_strings:
                continue              # --resume and the like take no value
            flag = action.option_strings[0].removeprefix("--")
            copies = action.nargs if isinstance(action.nargs, int) else 1
            is_text = action.type is None and not action.choices
            is_name = getattr(action.type, "__name__", "") == "file_name"
            for value in PLACES if is_text else NAMES if is_name else (*NEVER, *PERHAPS):
                yield case(
                    f"{name} --{flag} {value[:30]!r}", swap(name, **{flag: [value] * copies}),
                    becomes("fifo", "fifo"), proves=finite_losses,
                    ok=(is_text and value != "") or value in PERHAPS or
                    (flag in ("start", "end") and value == "0"),
                    line=rf"--{flag}" if not is_text or value == "" else r"\S")
        yield case(f"{name} without anything", COMMANDS[name][:1], line="required|missing|--")
        yield case(f"{name} --unknown", [*COMMANDS[name], "--unknown"], line="--unknown")
    for place in ("/dev/zero", "/dev/full"):
        yield case(f"{place} is still a device", ["evaluate", "--help"],
                   proves=Path(place).is_char_device)


# ------------------------------------------------------------------ frames, rates, lists
HALF = "data/league/one/1_224p"
THIRD = f"{HALF}/00000003.jpg"


def frames():
    here, spot = swap("stage1", data="data", halves_per_batch="0"), swap("infer", data="data")
    jpeg, framed, rate = (BASE / THIRD).read_bytes(), copied("data"), f"{HALF}/fps.txt"
    at = jpeg.index(b"\xff\xc0") + 5
    yield from files("JPEG ", spot, THIRD, spoilt(jpeg, 1, 30, 60), framed,
                     line=r"00000003\.jpg")
    yield from files("a frame is ", spot, THIRD, {
        "header of 65500 x 65500": jpeg[:at] + struct.pack(">HH", 65500, 65500) + jpeg[at + 4:],
        "header of 0 x 0": jpeg[:at] + bytes(4) + jpeg[at + 4:],
        **{f"PNG of {w} x {h}": b"\x89PNG\r\n\x1a\n" + struct.pack(
            ">I4sIIBBBBB", 13, b"IHDR", w, h, 8, 2, 0, 0, 0) + bytes(200)
           for w, h in ((30000, 30000), (2 ** 31 - 1, 1))},
        "BMP of 30000 x 30000": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 30000, 30000,
                                                    1, 24, 0, 0, 0, 0, 0, 0),
        "text": b"no image", "empty": b"", "zeros": bytes(5000), "HTML": b"<!DOCTYPE html>" * 9,
        "only ff": b"\xff" * 5000, "start and end": b"\xff\xd8\xff\xd9", "d8 ff": b"\xff\xd8\xff"
        }, framed, line=r"00000003\.jpg")
    yield from kinds("a frame ", spot, THIRD, "fifo, /dev/zero, dead link, folder", framed,
                     line="1_224p")
    smaller = cv2.imencode(".jpg", np.zeros((40, 64, 3), np.uint8))[1].tobytes()
    for name, argv, line, *steps in (
            ("another size in the middle", spot, "pixels", writes(THIRD, smaller)),
            ("a hole", here, "number 9 is missing", becomes(f"{HALF}/00000009.jpg", "gone")),
            ("a number twice", here, "twice", writes(f"{HALF}/9.jpg", jpeg)),
            ("two folders for one half", here, "two folders",
             writes("data/league/one/half1/1.jpg", jpeg)),
            ("what macOS leaves", here, "", writes(f"{HALF}/._00000001.jpg", b"x"),
             writes("data/__MACOSX/1_224p/1.jpg", b"x")),
            ("a loop of links", here, "", becomes("data/league/loop", "..")),
            ("fps.txt is 5", here, "", writes(rate, "5\n"))):
        yield case(name, argv, framed, *steps, line=line)
    yield case("an empty folder", here, becomes("data", "folder"), line="no folder of")
    yield from files("fps.txt ", here, rate, {repr(text[:20]): text.encode("latin-1") for text in (
        "", "abc", "nan", "inf", "-2", "0", "1e-9", "1e309", "2 2", "2\n3", "9" * 5000,
        "\xff\xfe2", "2,0")}, framed, line=r"fps\.txt")
    yield from kinds("fps.txt ", here, rate, "fifo", framed, ok=True)
    yield from kinds("fps.txt ", here, rate, "huge", framed, line=r"fps\.txt")
    for flag, command in (("split", "stage1"), ("classes", "evaluate")):
        argv = swap(command, **{flag: "list.txt"})
        yield from files(f"--{flag} is ", argv, "list.txt", {
            "empty": b"", "blank lines": b"\n \n", "not UTF-8": b"\xff\xfe\x00",
            "zeros": bytes(100), "one thing twice": b"Goal\nGoal\n",
            "a million lines": b"".join(b"c%d\n" % i for i in range(10 ** 6))},
            line=r"list\.txt")
        yield from kinds(f"--{flag} ", argv, "list.txt", "fifo, huge", line=r"list\.txt")
    yield case("--classes with a mark before", swap("evaluate", classes="list.txt"),
               writes("list.txt", "\ufeffGoal\nFoul\n"))


# ------------------------------------------------------------------ JSON
LABELS, SPOTS = "league/one/Labels-v2.json", "league/one/results_spotting.json"
NOTE = {"gameTime": "1 - 00:02", "label": "Goal", "position": "2000", "visibility": "visible"}
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
TABLE = "video,time,label\nleague/one/1.mkv,"
TABLES = {
    "no time": TABLE + "45+2,Goal", "beyond the end": TABLE + "12:34:00,Goal",
    "two labels": TABLE.replace("\n", ",label\n") + "1,Goal,Foul",
    "a cell more": TABLE + "1,5,Goal", "another match": TABLE.replace("one", "One") + "1,Goal",
    "half 2.0": TABLE.replace("\n", ",half\n") + "1,Goal,2.0",
    "cp1252": (TABLE + "1,Fo\xfcl").encode("cp1252"),
    "no mark": (TABLE + "1,Goal").encode("utf-16-le")}


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
    """{name: text}: what no list under a key is."""
    deep = 100_000
    nested = "[" * deep + "]" * deep
    return {
        "empty": "", "null": "null", "number": "1", "text": '"x"', "list": "[]", "no key": "{}",
        "not closed": "[1", "two values": "{} {}", "NaN": "NaN", "a comment": "{} // x",
        "single quotes": f"{{'{key}': []}}", "key is null": f'{{"{key}": null}}',
        "key is a number": f'{{"{key}": 3}}', "key is a text": f'{{"{key}": "abc"}}',
        "key is an empty dict": f'{{"{key}": {{}}}}', "key is a dict": f'{{"{key}": {{"a": 1}}}}',
        "deep list": "[" * deep, "deep list, closed": nested, "deep dict": '{"a":' * deep,
        "deep below the key": f'{{"{key}": {nested}}}', "a number of 5000 digits":
        f'{{"{key}": {"9" * 5000}}}', "UTF-16": f'{{"{key}": []}}'.encode("utf-16"),
        "latin-1": b'{"\xe9": 1}', "zeros": bytes(999), "mark before": b"\xef\xbb\xbf{}",
        "an entry deep": json.dumps({key: [good]}).replace('"Goal"', nested)}


def json_files(name, argv, path, key, good, before, content=None, about=None, proves=None):
    """Cases of a JSON file: odd entries, and what it says `about` itself; with content, also what
    is no such JSON, cut, flipped, or no file."""
    line, name = re.escape(Path(path).name), f"{name}: "
    bodies = {what: {key: [entry]} for what, entry in odd_entries(good)} | {
        f"about: {what}": {key: [good], "about": entry}
        for what, entry in (odd_entries(about) if about else ())}
    yield from files(name, argv, path, {what: json.dumps(body) for what, body in bodies.items()},
                     before, ok=True, line=line, proves=proves)
    if content:
        yield from files(name, argv, path, documents(key, good), before, line=line)
        yield from files(name, argv, path, spoilt(content, 2, 40, 80), before,
                         line=r"new|Goal|Foul", proves=proves)
        yield from kinds(name, argv, path, "fifo, /dev/zero, dead link", before, line="new")
        yield from kinds(name, argv, path, "folder", before, line="new", ok=True)
        yield from kinds(name, argv, path, "huge", before, line=line)


def jsons():
    labels, spots = f"new/{LABELS}", f"new/{SPOTS}"
    yield from json_files("labels", swap("evaluate", labels="new"), labels, "annotations", NOTE,
                          copied("data", "new", ("*_224p", "*.npy", "*.txt")),
                          (BASE / "data" / LABELS).read_bytes())
    whole, results = (BASE / "spots" / SPOTS).read_bytes(), copied("spots", "new")
    yield from json_files("results", swap("evaluate", predictions="new"), spots, "predictions",
                          SPOT, results, whole)
    for name, content, about in (("page", whole, ABOUT), ("timeline", None, None),
                                 ("export csv", None, ABOUT), ("export osl", None, ABOUT)):
        yield from json_files(name, REPORTS[name], spots, "predictions", SPOT, results, content,
                              about, well_formed)                # the rest read as these
    for name, argv in REPORTS.items():
        for i, (key, value, must) in enumerate(ODD_RESULTS):
            spot, about = ({key: value}, {}) if key in SPOT else ({}, {key: value})
            yield case(f"{name}: {key} {ascii(value)[:40]} ({i})", argv, results, writes(
                spots, json.dumps({"predictions": [SPOT | spot], "about": ABOUT | about})),
                line="" if must else r"spotting\.json", proves=well_formed)
    for command in ("evaluate", "stage3"):
        yield from files(f"table: {command}, ", swap(command, labels="t.csv"), "t.csv", TABLES,
                         line=r"t\.csv|'league/One' \(did")


def well_formed():
    """What the reports wrote, read as strictly as other programs do."""
    for path in (*Path("new").rglob("actions*"), *Path("new").rglob("page.html")):
        try:
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".html":
                text = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
            if path.suffix in (".html", ".json"):
                json.loads(text, parse_constant=int)       # which refuses NaN
            elif path.suffix == ".xml":
                ElementTree.fromstring(text)
        except (ValueError, SyntaxError):                  # ParseError is one
            return False
    return True


# ------------------------------------------------------------------ zips
LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
HEADER_FIELDS = (                     # name, place in a local header, value
    ("encrypted", 6, b"\x01\0"), ("strongly encrypted", 6, b"\x41\0"),
    ("unknown method", 8, b"\x63\0"), ("no CRC", 14, bytes(4)),
    ("a size of 2^32 - 2", 22, b"\xfe\xff\xff\xff"), ("a size of 0", 22, bytes(4)),
    ("a size of 10", 22, b"\x0a\0\0\0"), ("a packed size of 2^32 - 2", 18, b"\xfe\xff\xff\xff"),
    ("a packed size of 5", 18, b"\x05\0\0\0"), ("a name of 65535", 26, b"\xff\xff"),
    ("more of 65535", 28, b"\xff\xff"))
END_FIELDS = (
    ("offset of the directory", 16, b"\xff\xff\xff\x7f"), ("comment", 20, b"\xff\xff"),
    ("size of the directory", 12, b"\xff\xff\xff\x7f"), ("number of entries", 10, b"\xff\x7f"))


def zipped(entries, method=zipfile.ZIP_DEFLATED):
    """The bytes of a zip of entries (name, content)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def patched(content, signature, offset, value):
    """A zip with a field of every local or central header replaced."""
    content, at = bytearray(content), 0
    while (at := content.find(signature, at)) >= 0:
        content[at + offset:at + offset + len(value)] = value
        at += 4
    return bytes(content)


def zips():
    def tried(prefix, contents, line=r"z\.zip", **more):
        return files(prefix, swap("evaluate", predictions="z.zip"), "z.zip", contents, line=line,
                     **more)

    whole = [(path.relative_to(BASE / "spots").as_posix(), path.read_bytes())
             for path in sorted((BASE / "spots").rglob("results_spotting.json"))]
    good, odd = zipped(whole), r"z\.zip|labelled"
    yield from tried("", {"whole": good, "stored": zipped(whole, zipfile.ZIP_STORED),
                          "with what macOS adds": zipped([*whole, (f"__MACOSX/{SPOTS}", b"x")])},
                     line="")
    yield from tried("", spoilt(good, 3, 60, 200), odd)
    yield from tried("local: ", {name: patched(good, LOCAL, at, value)
                                 for name, at, value in HEADER_FIELDS}, odd, ok=True)
    yield from tried("central: ", {name: patched(good, CENTRAL, at + 2, value)
                                   for name, at, value in HEADER_FIELDS}, odd)
    yield from tried("end: ", {name: patched(good, END, at, value)
                               for name, at, value in END_FIELDS}, ok=True)
    yield from tried("an entry called ", {name: zipped([*whole, (name, b"{}")]) for name in (
        f"../{SPOTS}", f"/{SPOTS}", f"a/../../{SPOTS}", f"..\\{SPOTS}", SPOTS)})
    yield from tried("", {
        "compressed with bzip2": zipped(whole, zipfile.ZIP_BZIP2), "no entry": zipped([]),
        "compressed with lzma": zipped(whole, zipfile.ZIP_LZMA), "text": b"no zip", "empty": b"",
        "a bomb of 200 MB": lambda: zipped([*whole, ("x/" + SPOTS, " " * 2 ** 28)]),
        "a deep JSON": lambda: zipped((dict(whole) | {SPOTS: "[" * 10 ** 6}).items()),
        "only its end": good[-22:]})
    yield from kinds("", swap("evaluate", predictions="z.zip"), "z.zip", "fifo", line=r"z\.zip")
    yield case("/dev/zero", swap("evaluate", predictions="/dev/zero"), line="/dev/zero")


# ------------------------------------------------------------------ numpy's arrays
def npy(header, body=b"", version=1):
    """The bytes of a .npy file with this header, whatever it says."""
    text = header.encode("latin-1")
    length = struct.pack("<H" if version == 1 else "<I", len(text) % 65536 if version == 1 else
                         len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + body


def saved(array):
    """The bytes of a .npy; of a compressed .npz if it is a dict of arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **array) if isinstance(array, dict) else np.save(buffer, array)
    return buffer.getvalue()


def arrays_of(rows, width):
    """(name, bytes, may it be right): features that are none."""
    good = np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)
    for kind in ("f2", "f8", ">f4", "i4", "u1"):
        yield f"of {kind}", saved((10 * good).astype(kind)), True
    for kind in ("c8", "M8[s]", "m8[s]", "U4", "S4", "V4", "?"):
        yield f"of {kind}", saved(np.zeros((rows, width), kind)), False
    for value in (np.nan, np.inf, -np.inf, 1e300):
        changed = good.astype(np.float64)
        changed[3, 3] = value
        yield f"with {value}", saved(changed), False
    for shape in ((rows * width,), (1, rows, width), (rows, 0), (0, width), (), (rows, width, 1)):
        yield f"of shape {shape}", saved(np.zeros(shape, np.float32)), False
    yield "structured", saved(np.zeros((rows, width), [("a", "f4")])), False
    yield "of objects", saved(np.array([[None] * width] * rows)), False
    yield "constant", saved(np.ones_like(good)), True
    yield "in Fortran's order", saved(np.asfortranarray(good)), True
    yield "of one row", saved(good[:1]), True
    yield "of twice the width", saved(np.concatenate([good, good], 1)), False
    body = good.tobytes()
    plain = "{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}\n"
    for what, descr, shape in (
            *(("shape", "<f4", shape) for shape in (
                "(-1, 12)", "(2**63, 12)", f"({2 ** 63}, 12)", f"({10 ** 30}, 1)", "(16, 12, )",
                "(16", "None", "[16, 12]", "(1.5, 2)", "('a', 2)", "(16, 12) + (1,)",
                f"({'1, ' * 200})", f"({10 ** 9}, 12)", "(True, 12)", "(16L, 12L)")),
            *(("type", descr, (rows, width)) for descr in (
                "<f3", "", "|O", "O", "<f99999", "<x4", "[('a', '<f4')]", "f", "<U0", "|V0",
                "__import__('os').system('touch ran')"))):
        name = f"header: {what} {(shape if what == 'shape' else descr)[:30]}"
        yield name, npy(plain.format(descr, False, shape), body), True
    for name, header in {"deep": "(" * 9000, "empty": "", "no dict": "3\n", "zeros": "\0" * 99,
                         "not Python": "{'descr'", "huge": " " * 60000,
                         "order is 3": plain.format("<f4", 3, (16, 12))}.items():
        yield f"header: {name}", npy(header, body), False
    for version in (0, 2, 3, 4, 255):
        yield f"version {version}", npy(plain.format("<f4", False, (rows, width)), body,
                                        version), version in (2, 3)
    yield "a header of 4 GB", b"\x93NUMPY\x02\0\xff\xff\xff\xff" + body, False
    yield "an .npz", (BASE / "reduced/four.npz").read_bytes(), False
    yield from spoilt(saved(good), 5, cuts=25, flips=60)


def features():
    without_frames = copied("data", "new", ("*.jpg", "*.json"))
    for command in ("stage2", "pca"):
        yield from files(f"{command}: ", swap(command, features="new"),
                         "new/league/one/1_teacher.npy", arrays_of(16, 12), without_frames,
                         line=r"_teacher\.npy|rows|equal", proves=finite_losses)
    again, there = swap("pca", out="reduced"), copied("reduced")
    path = "reduced/league/one/1_four.npy"
    yield from files("there already: ", again, path, arrays_of(16, 4), there,
                     line=r"1_four\.npy", ok=False, keeps=(path,))
    for name, argv, line, *steps in (
            (", the same", again, ""), (", half of them", again, "", becomes(path, "gone")),
            (": another width", swap("pca", out="reduced", width="3"), r"four\.npz"),
            (": no standardize", [*again, "--no-standardize"], r"four\.npz"),
            (": of fewer matches", swap("pca", out="reduced", features="new"), r"four\.npz",
             copied("data/league/one", "new/league/one"))):
        yield case(f"there already{name}", argv, there, *steps, line=line, proves=result_in(path))
    # Another centre, scale or variance is only another basis, as long as what it gives is finite.
    yield from npz_files("reduced/four.npz", [
        "prepare", "pca", "--features", "{data}", "--name", "teacher", "--out", "out",
        "--basis", "new/four.npz"], r"sources|float16|explained_variance|"
        r"(mean|scale|total_variance): (all|one) -?[\de+-]+$")


def odd_arrays(arrays):
    """(name, arrays): one of them left out, of another type, shape or value."""
    for key, value in arrays.items():
        yield f"no {key}", {k: v for k, v in arrays.items() if k != key}
        others = {"empty": value[:0] if value.ndim else np.zeros(0),
                  "one dimension more": value[None],
                  "a dict": np.array([{}], dtype=object), "complex": np.zeros(value.shape, complex),
                  "datetime": np.zeros(value.shape, "M8[s]"), "text": np.full(value.shape, "x"),
                  "bytes": np.full(value.shape, b"x"), "bool": np.zeros(value.shape, bool)}
        if value.ndim:
            others |= {"one dimension less": value[0], "one row less": value[:-1],
                       "twice": np.concatenate([value, value])}
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


def npz_files(where, argv, allowed):
    """Cases of an .npz file of the base; which arrays may be odd, a regular expression says."""
    prefix, (folder, _, name) = f"{argv[1]} ", where.partition("/")
    path, new, line = f"new/{name}", copied(folder, "new"), {"line": r"\.npz"}
    with np.load(BASE / where) as archive:
        arrays = dict(archive)
    yield from files(prefix, argv, path, ((name, saved(other), bool(re.search(allowed, name)))
                                          for name, other in odd_arrays(arrays)), new, **line)
    yield from files(prefix, argv, path, spoilt((BASE / where).read_bytes(), 6, 30, 80), new,
                     **line)
    yield from files(f"{prefix}is ", argv, path, {
        "text": b"no npz", "empty": b"", "an .npy": saved(np.zeros(3)),
        "a zip of text": zipped([("a", "b")]),
        "a bomb": saved(arrays | {"bomb": np.zeros(2 ** 27, "u1")})}, new, **line)
    yield from kinds(prefix, argv, path, "fifo", new, **line)


def scores():
    # What is not read may be anything; another time or class is only another time or class.
    free = r"url_local|start_s: (all 0|bool|all 1e-300|float16)|no start_s|bf16|no curve_" \
           r"|classes: text|token_s: float16" \
           r"|(windows|curve)_\d: (float16|all 0|all 1e-300|one (0|1e-300))"
    for command, more in {"sweep": "|curve_", "timeline": "|curve_2", "page": ""}.items():
        argv = [arg.replace("{base}/spots", "new") for arg in COMMANDS[command]]
        yield from npz_files("spots/league/one/scores.npz", argv, free + more)


# ------------------------------------------------------------------ soft centroids
def centroids():
    name = next((BASE / "bank").glob("centroids_*.npy")).name
    path, content = f"bank/{name}", (BASE / "bank" / name).read_bytes()
    for contents in (arrays_of(64, 14), spoilt(content, 8, 30, 0)):
        yield from files("", COMMANDS["stage2"], path, contents, copied("bank"), ok=False,
                         proves=lambda: Path(path).read_bytes() == content)   # made anew
    yield from kinds("", COMMANDS["stage2"], path, "fifo, folder", copied("bank"),
                     line="centroids_", ok=True)


# ------------------------------------------------------------------ log.txt
LOGS = {                              # what has become of the log of a run that was stopped
    "as it was": lambda log: log, "half a line": lambda log: log[:-30],
    "cut in its first line": lambda log: log[:10] + b"\n" + log.splitlines(True)[0],
    "a foreign line": lambda log: b"hello\n" + log, "zeros after": lambda log: log + bytes(500),
    "bytes not UTF-8": lambda log: log + b"\xff\xfe",
    "a line not UTF-8": lambda log: b"\xff\xfe\n" + log,
    "carriage returns": lambda log: log.replace(b"\n", b"\r\n"),
    "a step of 5000 digits": lambda log: log + b"| step " + b"9" * 5000 + b"/\n",
    "twice": lambda log: log.splitlines(True)[0] + b"".join(log.splitlines(True)[1:] * 2)}


def one_step(stage, edit=lambda state: None, log=lambda text: text):
    """A step: run/ as if the run had been stopped after its first step, and its files edited."""
    def stopped(state):
        state["step"] = 1
        for moments in state["optimizer"]["state"].values():
            moments["step"].fill_(1.0)
        return edit(state)

    def make():
        copied(stage, "run")()
        state_saved(stopped, stage, "run/last.pt")()
        Path("run/log.txt").write_bytes(log(Path("run/log.txt").read_bytes()))
    return make


def logs():
    def two_lines():
        lines = Path("run/log.txt").read_text(errors="replace").splitlines()
        steps = [m[1] for line in lines if (m := re.search(r"\| step (\d+)/2 \|.*left$", line))]
        return sorted(steps) == ["1", "2"]

    for stage in STAGES:
        argv = [*COMMANDS[stage], "--resume"]
        for name, edit in LOGS.items():
            yield case(f"{stage} resumed, log {name}", argv, one_step(stage, log=edit),
                       proves=two_lines)
        yield case(f"{stage} resumed, no log", argv, one_step(stage),
                   becomes("run/log.txt", "gone"))
    curves = ["report", "curves", "r", "--out", "c.png"]
    yield from files("curves, log ", curves, "r/log.txt", (
        *spoilt((BASE / "stage1/log.txt").read_bytes(), 4, 20, 40), ("zeros", bytes(999), True),
        ("not UTF-8", b"\xff" * 99, True)), ok=True, line=r"log\.txt")


# ------------------------------------------------------------------ checkpoints
DEEP = "deep!"                        # stands for lists in lists, which no pickler can write
GONE = object()                       # stands for no such entry
ODD_VALUES = {                        # what a section or field may become, or a function of it
    "None": None, "a text": "abc", "empty text": "", "-1": -1, "0": 0, "10^9": 10 ** 9,
    "2^70": 2 ** 70, "nan": float("nan"), "inf": float("inf"), "true": True, "1.5": 1.5,
    "a list": lambda v: [v], "empty list": [], "a dict": lambda v: {"a": v}, "empty dict": {},
    "deep": DEEP, "a tensor": lambda v: torch.ones(3), "{1: 2}": {1: 2}, "bytes": b"abc",
    "a pair": (1, 2), "[-1]": [-1], "complex": 1j}


def save_state(state, path, n=100_000):
    """torch.save; then a text DEEP in it becomes n lists, each in the one before."""
    torch.save(state, path)
    content = Path(path).read_bytes()
    if DEEP.encode() in content:
        text = re.compile(rb"X\x05\0\0\0" + DEEP.encode() + rb"(?:q.|r....)?", re.DOTALL)
        Path(path).write_bytes(repacked(content, zipfile.ZIP_STORED, lambda member: text.sub(
            b"]" * n + b"a" * (n - 1), member)))


def repacked(content, method, edit=lambda member: member):
    """A torch file whose members are compressed or edited."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        return zipped([(name, edit(old.read(name))) for name in old.namelist()], method)


def put(path, value=GONE):
    """An edit: the entry at "key/key/key" becomes the value, or what it makes of the old one."""
    def edit(state):
        *keys, last = (int(key) if key.isdigit() else key for key in path.split("/"))
        for key in keys:
            state = state[key]
        state[last] = value(state[last]) if callable(value) else value
        if value is GONE:
            del state[last]
    return edit


def added(path, entries):
    """An edit: the dict at "key/key" has other entries, too."""
    return put(path, lambda old: old | entries)


def odd_fields(fields, where=""):
    """{name: edit}: each field gone, and with each odd value."""
    edits = {}
    for field in fields:
        edits[f"no {where}{field}"] = put(where + field)
        for name, value in ODD_VALUES.items():
            edits[f"{where}{field} is {name}"] = put(where + field, value)
    return edits


def odd_tensors(t):
    """{name: what a tensor of weights may become}."""
    return {
        "of float64": t.double(), "of float16": t.half(), "of bfloat16": t.bfloat16(),
        "of int64": t.long(), "of bool": t.bool(), "of complex": t.to(torch.complex64),
        "sparse": t.to_sparse(), "of float8": t.to(torch.float8_e4m3fn),
        "with nan": t * float("nan"), "with inf": t + float("inf"), "empty": t[:0],
        "of another shape": t.flatten()[:-1], "with one more dimension": t[None],
        "on meta": t.to("meta"), "a view of one number": torch.zeros(1).expand(10 ** 6, 10 ** 6),
        "quantized": torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "a list": t.tolist(),
        "None": None, "nested": torch.nested.nested_tensor([t.flatten(), t.flatten()])}


def state_saved(edit=lambda state: None, stage="stage3", path="x.pt"):
    """A step: a checkpoint of the base with an edit."""
    def make():
        state = torch.load(BASE / stage / "last.pt", weights_only=True)
        save_state(edit(state) or state, path)
    return make


# infer.py looks at no more than model, config, stage; a field that is missing is what the model's
# name stands for; what has no weights and is a legal number is only another setting.
INFER_ALLOWS = r"^(no )?(step|args|log|best|optimizer)\b|^no config/(?!model$)" \
               r"|^config/drop_path is 0$|^config/(head_width|normalize_per_frame) is true$" \
               r"| of (float64|float16|bfloat16)$"
CONFIGS = {name: added("config", fields) for name, fields in {
    "one field more": {"new": 1}, "a field that is no text": {1: 2},
    "a field with a deep value": {"new": DEEP}, "heads that do not divide": {"num_heads": (3,)},
    "temporal heads that do not divide": {"temporal_heads": 7},
    "a network of a terabyte": {"embed_dim": 8192, "depth": (128,), "mlp_ratio": 64.0,
                                "num_heads": (1,)},
    "Swin": {"spatial": "swin"}, "an image that patches do not fill": {"image_size": 47},
    "a class twice": {"classes": ["Goal", "Goal"]},
    "a million classes": {"classes": [str(i) for i in range(10 ** 6)]}}.items()}


def checkpoints():
    argv, state = swap("infer", checkpoint="x.pt"), torch.load(BASE / "stage3/last.pt",
                                                               weights_only=True)
    edits = odd_fields(state) | odd_fields(state["config"], "config/") | CONFIGS
    for key in ("spatial.blocks.0.attn.qkv.weight", "temporal.pos_embed", "head.bias",
                "spatial.cls_token"):
        edits[f"no {key}"] = put(f"model/{key}")
        edits |= {f"{key} {name}": added("model", {key: tensor})
                  for name, tensor in odd_tensors(state["model"][key]).items()}
    edits |= {"a name more": added("model", {"new": torch.ones(2)}),
              "a name that is a number": added("model", {1: torch.ones(2)})}
    for name, edit in edits.items():
        yield case(name, argv, state_saved(edit), ok=bool(re.search(INFER_ALLOWS, name)),
                   line=r"x\.pt")
    yield case("as it was", argv, state_saved())
    for stage in ("stage1", "stage2"):
        yield case(f"of {stage}", argv, state_saved(stage=stage), line="no trained head")

    content = (BASE / "stage3/last.pt").read_bytes()
    yield from files("", argv, "x.pt", spoilt(content, 9, 40, 80), line=r"x\.pt")
    yield from files("is ", argv, "x.pt", {
        "empty": b"", "text": b"abc", "HTML": b"<!DOCTYPE html>" * 99, "zeros": bytes(9999),
        "an .npy": saved(np.zeros(3)), "a zip of text": zipped([("a", "b")]),
        "an encrypted zip": patched(zipped([("a", "b")]), LOCAL, 6, b"\x01\0"),
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "deflated": repacked(content, zipfile.ZIP_DEFLATED),
        "a pickle of protocol 5": pickle.dumps({"a": 1}, 5),
        "an .npz of nothing": saved({}), "an .npz of texts": saved({"a": np.array("x")}),
        "an .npz of objects": saved({"cls": np.array([{}], dtype=object)}),
        "an .npz, AugReg's, of zeros": saved({"Transformer/encoder_norm/scale":
                                             np.zeros(192, "f4")}),
        "an .npz bomb": saved({"cls": np.zeros(2 ** 28, "u1")})}, line=r"x\.pt")
    yield from kinds("", argv, "x.pt", "fifo, folder", line=r"x\.pt")
    yield case("is /dev/zero", swap("infer", checkpoint="/dev/zero"), line="/dev/zero")
    yield from safetensors()
    for stage in STAGES:
        yield from resumes(stage)


class RunsCode(tuple):
    """(function, its arguments): would touch a file when it is unpickled."""

    def __reduce__(self):
        return self[0], tuple(self[1:])


def pickles():
    for name, thing in {
            "os.system": RunsCode((os.system, "touch ran")), "open": RunsCode((open, "ran", "w")),
            "eval": RunsCode((eval, "__import__('os').system('touch ran')")),
            "exec": RunsCode((exec, "open('ran', 'w')")), "getattr": RunsCode((
                getattr, RunsCode((__import__, "os")), "system"))}.items():
        steps = {"legacy": writes("x.pt", pickle.dumps([thing], 2))} | {
            where: functools.partial(torch.save, state, "x.pt") for where, state in {
                "alone": thing, "in a dict": {"a": thing},
                "in the model": {"model": {"a": thing}, "config": {}, "stage": 3},
                "in the config": {"model": {}, "config": {"a": thing}, "stage": 3}}.items()}
        for where, step in steps.items():
            yield case(f"{name}, {where}", swap("infer", checkpoint="x.pt"), step, line=r"x\.pt")


def safetensors():
    def body(header, data=bytes(64), length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def entry(**fields):
        return {"a": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]} | fields}

    headers = {
        "fine, but no weights of ours": entry(), "no entry": {}, "a list": [], "null": None,
        "of only metadata": {"__metadata__": {}}, "an entry that is a list": {"a": [1]},
        "an unknown type": entry(dtype="F8"), "a type that is a list": entry(dtype=[]),
        "no shape": {"a": {"dtype": "F32"}}, "a negative side": entry(shape=[-4, -4]),
        "a huge side": entry(shape=[2 ** 40, 2 ** 40]), "a side of 10^30": entry(shape=[10 ** 30]),
        "sides that are texts": entry(shape=["4", 4]), "half a side": entry(shape=[4.0, 4]),
        "a hundred sides": entry(shape=[1] * 100), "one place": entry(data_offsets=[0]),
        "places past the end": entry(data_offsets=[64, 128]),
        "negative places": entry(data_offsets=[-64, 0]),
        "places backwards": entry(data_offsets=[64, 0]),
        "overlapping": entry() | {"b": entry()["a"]},
        "a gap": entry(data_offsets=[0, 32], shape=[2, 4])}
    contents = {name: body(header) for name, header in headers.items()} | {
        "header deep": body(b"[" * 10 ** 5), "header not closed": body(b'{"a": '),
        "header not UTF-8": body(b"\xff\xfe"), "length 2^63": body(b"{}", length=2 ** 63),
        "length of the file": body(b"{}", length=66), "4 bytes": b"abcd", "empty": b"",
        "length 0": bytes(8)}
    for some in (contents, spoilt(body({"cls_token": entry()["a"]}), 11, 20, 60)):
        yield from files("safetensors: ", swap("infer", checkpoint="x.safetensors"),
                         "x.safetensors", some, line="x.safetensors", ok=False)


NAN = float("nan")
STATES = {                            # edits of a checkpoint that a run goes on from
    "step 3 of 2": put("step", 3), "another seed": put("args/seed", 7),
    "optimizer without state": put("optimizer/state"),
    "optimizer's state empty": put("optimizer/state", {}),
    "optimizer's state a list": put("optimizer/state", lambda v: [v]),
    "one more parameter": put("optimizer/state", lambda v: v | {999: v[0]}),
    "two parameters fewer": put("optimizer/state", lambda v: dict(list(v.items())[2:])),
    "moments of another shape": put("optimizer/state/0/exp_avg", lambda v: v[:1].flatten()[:1]),
    "moments missing": put("optimizer/state/0/exp_avg_sq"),
    "moments with nan": put("optimizer/state/0/exp_avg", lambda v: v * NAN),
    "moments of int64": put("optimizer/state/0/exp_avg", lambda v: v.long()),
    "squares negative": put("optimizer/state/0/exp_avg_sq", lambda v: v - 1),
    "step of a parameter -1": put("optimizer/state/0/step", lambda v: v * 0 - 1),
    "log without sums": put("log/sums"), "log without steps": put("log/steps"),
    "log's sums a list": put("log/sums", []), "log's steps negative": put("log/steps", -3),
    "log's loss a text": put("log/sums/loss", "abc"),
    "log's loss nan": lambda s: s["log"]["sums"].update(
        loss=torch.tensor(NAN)),
    "log's loss a row": lambda s: s["log"]["sums"].update(loss=torch.ones(3)),
    "a flag's value a tensor": put("args/seed", lambda v: torch.ones(3)),
    "a flag's value deep": put("args/seed", DEEP), "a flag more": added("args", {"new": 1}),
    "a flag fewer": put("args/lr"), "a flag that is a number": added("args", {1: 2}),
    "another stage": put("stage", lambda v: v % 3 + 1),
    "another model's config": put("config/temporal_depth", 1),
    "weights as public ones": lambda state: state["model"]}
STATES_OF_STAGE_1 = {
    "queue of another size": put("queue", lambda v: v[:5]),
    "projector of another width": put("projector/0.weight", lambda v: v[:5]),
    "target with nan": put("target/1.0.bias", lambda v: v * NAN)}


def resumes(stage):
    """--resume of a checkpoint with one thing in it that is not what the stage wrote."""
    argv, prefix = [*COMMANDS[stage], "--resume"], f"{stage} resumed: "
    allowed = ["best is 1.5"] + ["another model's config"] * (stage == "stage1")
    sections = torch.load(BASE / stage / "last.pt", weights_only=True)
    edits = odd_fields(sections) | STATES | (STATES_OF_STAGE_1 if stage == "stage1" else {})
    for name, edit in edits.items():
        yield case(prefix + name, argv, one_step(stage, edit), ok=name in allowed,
                   line=r"run/last\.pt")
    yield case(f"{prefix}as it was", argv, one_step(stage))
    yield case(f"{prefix}a .tmp beside", argv, one_step(stage), writes("run/last.pt.tmp", b"x"))
    yield case(f"{prefix}no checkpoint", argv, line=r"last\.pt")
    yield from files(prefix, argv, "run/last.pt", spoilt(
        (BASE / stage / "last.pt").read_bytes(), 12, 12, 12), one_step(stage), line=r"last\.pt")


# ------------------------------------------------------------------ full disk
def is_full(size):
    """A step: `disk`, a file system of so many KiB. Needs root; without, the case is left out."""
    def make():
        os.mkdir("disk")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", "disk"], check=True)
        os.chmod("disk", 0o777)
    return make


def can_mount():
    """Whether a small file system can be mounted here."""
    with tempfile.TemporaryDirectory() as folder:
        return all(not subprocess.run([*command, folder], check=False, capture_output=True
                                      ).returncode
                   for command in (["mount", "-t", "tmpfs", "none"], ["umount"]))


def filled():
    """A step: disk/run/, and no room beside it."""
    os.mkdir("disk/run")
    with contextlib.suppress(OSError), open("disk/filler", "wb", 0) as file:
        while file.write(bytes(512)):
            pass


def full_disks():
    for command, flag, place in OUTPUTS:
        name, argv = f"{command} --{flag}", swap(command, **{flag: place})
        for kib in (1, 8, 64, 1024):
            yield case(f"{name}, files of at most {kib} KiB", argv, ok=True,
                       line=r"cannot be written|: \w", proves=result_in(place),
                       around={"limit": (resource.RLIMIT_FSIZE, 1024 * kib), "stdout": "/dev/null"})
            if MOUNTS:
                yield case(f"{name} on a disk of {kib} KiB", swap(
                    command, **{flag: f"disk/{place}"}), is_full(kib), ok=True, line=r"disk",
                    proves=result_in(f"disk/{place}"))
        if "." in place:
            yield case(f"{name}, a file is there", argv, writes(place, b"old"), ok=True,
                       line=r"cannot be written", keeps=(place,),
                       around={"limit": (resource.RLIMIT_FSIZE, 512), "stdout": "/dev/null"})
        for device in ("/dev/full", "/dev/null", "/dev/stdout") if flag == "json" else ():
            yield case(f"{name} {device}", swap(command, **{flag: device}), line=device,
                       ok=device != "/dev/full")
    for name in COMMANDS:
        yield case(f"{name} > /dev/full", COMMANDS[name], line="standard output",
                   around={"stdout": "/dev/full"})
    if MOUNTS:
        yield case("a run's log does not fit", swap("stage1", out="disk/run", save_every="9"),
                   is_full(8), filled, line="disk/run")


# ------------------------------------------------------------------ surroundings
AROUND = (                            # name, options, surroundings
    ("stdout closed", "", {"stdout": None}), ("stderr closed", "", {"stderr": None}),
    ("stdout and stderr closed", "", {"stdout": None, "stderr": None}),
    ("ASCII alone", "", {"encoding": "ascii",
                         "env": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}}),
    ("no HOME", "", {"unset": ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "MPLCONFIGDIR")}),
    ("64 open files", "", {"limit": (resource.RLIMIT_NOFILE, 64)}),
    ("20 columns", "", {"env": {"COLUMNS": "20", "LINES": "5"}}),
    ("a mistake and stderr closed", "--nothing", {"stderr": None}),
    ("a mistake and stderr full", "--nothing", {"stderr": "/dev/full"}),
    ("--help in ASCII", "--help", {"encoding": "ascii"}))
TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29999"}
ODD_NAME = os.fsdecode(b"caf\xe9 \xff\n $1")


def surroundings():
    for name in COMMANDS:
        for what, flags, around in AROUND:
            yield case(f"{name}, {what}", [*COMMANDS[name], *flags.split()], around=around,
                       line="nothing" * ("mistake" in what))
    for name, flag in (("stage1", "data"), ("stage3", "data"), ("infer", "data"),
                       ("evaluate", "labels"), ("pca", "features"), ("sweep", "labels")):
        for encoding in ("utf-8", "ascii"):
            yield case(f"{name} --{flag}, a name that is not UTF-8, {encoding}",
                       swap(name, **{flag: ODD_NAME}), becomes(ODD_NAME, BASE / "data"),
                       around={"encoding": encoding})
    for command, flag, place in OUTPUTS:
        name, odd, is_file = f"{command} --{flag}", ODD_NAME + place, "." in place
        yield case(f"{name}, a name that is not UTF-8", swap(command, **{flag: odd}),
                   proves=result_in(odd))
        yield case(f"{name} in a folder that is a file", swap(command, **{flag: f"file/{place}"}),
                   writes("file", "x"), line="file", keeps=("file",))
        yield case(f"{name} is a {'folder' if is_file else 'file'}", swap(command, **{flag: place}),
                   becomes(place, "folder") if is_file else writes(place, "x"),
                   line=re.escape(place), keeps=() if is_file else (place,))
        if os.getuid() == 0:
            yield case(f"{name}, read only", swap(command, **{flag: f"locked/{place}"}),
                       lambda: os.mkdir("locked", 0o555), line="locked", around={"user": 65534})
    for variables in (
            {"WORLD_SIZE": "2", "RANK": "0"}, TORCHRUN | {"RANK": "5"}, TORCHRUN | {"RANK": "x"},
            TORCHRUN | {"MASTER_PORT": "99999"}, *({"WORLD_SIZE": size} for size in (
                "2", "abc", "", "0", "-1", "9" * 30, "1.5"))):
        for stage in STAGES:
            yield case(f"{stage}, {variables}", COMMANDS[stage], line="WORLD_SIZE",
                       around={"env": variables})
    for variables in ({"WORLD_SIZE": "1"}, {"RANK": "3"}, {"LOCAL_RANK": "x"}):
        yield case(f"stage1, {variables}", COMMANDS["stage1"], around={"env": variables})
    yield from stopped_runs()
    yield from own_features()
    # What would only fail, or mean nothing, after hours of work.
    yield case("stage3, no label is of its classes", swap("stage3", classes="c.txt"), writes(
        "c.txt", "Header\n"), line="none of its labels")
    yield case("infer --chance of one match", [
        *swap("infer", data="{data}/league/one"), "--chance"], line="--chance")


def stopped_runs():
    """A run that a signal ends, and what it meets: another one, or what one left."""
    left = f"run/.last.pt.{os.uname().nodename}.4194999.unfinished"
    for stage in STAGES:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            yield case(f"{stage}, {number.name} saves", swap(stage, steps="500"),
                       rc=128 + number, proves=result_in("run/last.pt"),
                       around={"signal": (number, "run/log.txt", "step 1/")})
        yield case(f"{stage}, a run is there", COMMANDS[stage], copied("stage1", "run"),
                   line=r"last\.pt", keeps=("run/last.pt", "run/log.txt"))
    for name, out, step in (*((stage, "run", writes(left, b"x")) for stage in STAGES), (
            "frames", "frames", lambda: os.makedirs("frames/game/.1_224p.unfinished"))):
        yield case(f"{name}, two at once", COMMANDS[name], becomes(out, "locked"),
                   line="another run")
        yield case(f"{name}, leftovers of a killed run", COMMANDS[name], step)


def own_features():
    """infer --features into a folder in which there are some."""
    argv, path = [*swap("infer", out="f"), "--features", "own"], "f/league/one/1_own.npy"
    checkpoint = hashlib.sha256((BASE / "stage3/last.pt").read_bytes()).hexdigest()
    cut = (BASE / "data/league/one/1_teacher.npy").read_bytes()[:-9]
    yield case("infer --features, another checkpoint's", argv, writes(
        "f/own.json", '{"checkpoint_sha256": "0"}'), line=r"own\.json")
    yield case("infer --features, made by hand", argv, writes(path, b"x"), line="own",
               keeps=(path,))
    yield case("infer --features, one cut short", argv, writes("f/own.json", json.dumps(
        {"checkpoint_sha256": checkpoint, "bf16": False})), writes(path, cut),
        proves=lambda: Path(path).stat().st_size == 128 + 16 * 128 * 4)


# ------------------------------------------------------------------ the table
GROUPS = {"options": options, "frames": frames, "json": jsons, "zips": zips, "features": features,
          "scores": scores, "centroids": centroids, "log.txt": logs,
          "pickles that run code": pickles, "checkpoints": checkpoints, "full disk": full_disks,
          "surroundings": surroundings}


def table(results, seconds):
    """The markdown above "## What was left", which is written by hand."""
    counts = Counter((case.group, kind) for case, kind, *_ in results)
    rows = []
    for name, groups in (*((group, [group]) for group in GROUPS), ("**all**", GROUPS)):
        numbers = [sum(counts[group, kind] for group in groups) for kind in KINDS]
        rows.append(" | ".join(["", name, f"{sum(numbers):,}", *(
            f"{n:,}" if n else "" for n in numbers), ""]).strip())
    return f"""\
# What breaks it

Made by `make faults` (tests/test_faults.py, which has the rules and every case): {len(results):,} \
faults in {seconds / 60:.0f} minutes.
"clear" = one line that says what, where and how to mend, exit code 2, nothing lost. \
"ok" = allowed, and right.

| group | tried | {' | '.join(KINDS)} |
{"|---" * (len(KINDS) + 2)}|
{chr(10).join(rows)}

Largest memory of a case: {max(row[4] for row in results):.0f} MiB; longest: \
{max(row[3] for row in results):.0f} s.{"" if MOUNTS else " No small disk could be mounted here."}

"""


# ------------------------------------------------------------------ the process that forks
def prepare_imports():
    """Everything that the commands import, and their code, before the first fork."""
    global CODE, cv2, np, torch
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    sys.path.insert(0, str(HERE))
    sys.modules["matplotlib.pyplot"] = None               # nothing here may want a screen
    import encodings.cp437                                # noqa: F401 (another user's child may
    import encodings.utf_8_sig                            # noqa: F401 not read this Python's files)

    import cv2
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import numpy as np
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
    parser.add_argument("markdown", nargs="?", type=Path)
    parser.add_argument("--group", choices=GROUPS)
    parser.add_argument("--only", default="", help="regular expression on names")
    parser.add_argument("--share", type=int, help="so many cases of each group, evenly spread")
    parser.add_argument("--base", help="keep here what all cases read, for the next call")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args, since = parser.parse_args(), time.time()
    markdown = args.markdown and args.markdown.resolve()
    prepare_imports()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)                           # for the cases of another user
        where, BASE, MOUNTS = Path(folder, "cases"), Path(args.base or folder, "base"), can_mount()
        where.mkdir()
        if not BASE.exists():
            BASE.mkdir(parents=True)
            prepare_base(where)
        cases = []
        with warnings.catch_warnings():                   # zipfile's, of a name that occurs twice
            warnings.simplefilter("ignore")
            for group, made in GROUPS.items():
                if args.group in (None, group):
                    found = [case._replace(group=group) for case in made()
                             if re.search(args.only, case.name)]
                    cases += found[::max(1, len(found) // (args.share or len(found) or 1))]
        before, results = prints(sorted(p for p in BASE.rglob("*") if p.is_file())), []
        for result in run_all(cases, where, args.jobs):
            results.append(result)
            if result[1] not in GOOD:
                print(f"{result[1]}: {result[0].group}: {result[0].name}: {result[2]}", flush=True)
        assert prints(before) == before, "a case wrote into the files that all read"
    if markdown:
        there = markdown.read_text() if markdown.exists() else ""
        _, heading, left = there.partition("## What was left")
        markdown.write_text(table(results, time.time() - since) + heading + left)
    counts = Counter(kind for _, kind, *_ in results)
    print(json.dumps({"tried": len(results), "seconds": round(time.time() - since), "kinds": counts,
                      "groups": Counter(case.group for case, *_ in results)}))
    sys.exit(any(kind not in GOOD for kind in counts))


@pytest.mark.parametrize("arguments, at_least", [
    (["--share", "15"], 12 * 15),
    pytest.param([str(HERE / "docs/faults.md")], 8000, marks=pytest.mark.faults)])
def test_the_catalogue(arguments, at_least):
    """A share of every group, or all: one line or the right result, and nothing lost."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=False, text=True,
                          stdout=subprocess.PIPE)
    said = json.loads(done.stdout.splitlines()[-1])
    assert not done.returncode, done.stdout
    assert said["tried"] >= at_least and set(GROUPS) == set(said["groups"])


def check(folder, path, **more):
    """`python -m comedian.check` with this PYTHONPATH: (exit code, its lines)."""
    done = subprocess.run([sys.executable, "-m", "comedian.check"], check=False, cwd=folder,
                          env=os.environ | {"PYTHONPATH": str(path)}, text=True,
                          **{"stdout": subprocess.PIPE} | more, stderr=subprocess.PIPE)
    assert not done.stderr, done.stderr
    return done.returncode, (done.stdout or "").splitlines()


def test_check_prints_ten_lines(tmp_path):
    code, lines = check(tmp_path, HERE)
    assert [line.split()[0] for line in lines] == [
        "system", "python", "packages", "optional", "kernels", "cpu", "torch", "ffmpeg", "memory",
        "disk"]
    assert "torch" in lines[2] and "same results as reference.py" in lines[4] and code == 0


@pytest.mark.slow
def test_check_never_crashes(tmp_path):
    """Whatever is missing or broken is the answer of its line; the others stand."""
    for name, content in {"cv2": "raise SystemError('broken\\nbuild')", "numpy": "1 / 0"}.items():
        writes(tmp_path / name / f"{name}.py", content)()
        code, lines = check(tmp_path, f"{tmp_path / name}:{HERE}")
        assert code == 1 and len(lines) == 10, (name, lines)
        assert any("FAILED" in line for line in lines[2:4])
    unbuilt = tmp_path / "unbuilt"                         # a checkout before its first make
    for name in ("comedian", "csrc"):
        shutil.copytree(HERE / name, unbuilt / name, ignore=shutil.ignore_patterns("_C*.so"))
    code, lines = check(unbuilt, unbuilt)
    assert code == 1 and len(lines) == 10 and "FAILED" in lines[4] and "not built" in lines[4]
    with open("/dev/full", "w") as full:
        assert check(HERE, HERE, stdout=full) == (1, [])


if __name__ == "__main__":
    main()
