"""
Football that nobody here made: Google Research Football plays, renders and labels matches.

    python benchmarks/football3d/make.py build         # 5 minutes, once: fetch, edit, compile
    python benchmarks/football3d/make.py render        # 76 matches of 2 x 95 s: 80 minutes of CPU
    python benchmarks/football3d/make.py encode        # matches/: small videos and one table
    python benchmarks/football3d/make.py example       # docs/example: three minutes, larger
    python benchmarks/football3d/make.py measure       # what might give a label away

The built-in AI plays both sides. Every step goes on where it was stopped. What is large lies below
--build, outside the checkout: the engine, the log of every half, every picture without loss. The
number of a match is its seed, so the same number is the same match, to the bit of every picture.
engine.py has what is changed in the engine and runs in its Python; README.md has the rest.
"""
import collections
import concurrent.futures
import glob
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]
from comedian import DataError, command, write_file, write_text  # noqa: E402
from engine import FPS, edit  # noqa: E402

# Which matches there are. `pretrain` are those of train, too.
SETS = {"valid": range(1, 5), "train": range(101, 113), "test": range(201, 213),
        "pretrain": (*range(101, 113), *range(301, 349))}
EXAMPLE = 909                                    # docs/example/match.mp4: in no set
HALF_S, SIZE = 95, (208, 116)                    # a half: seconds; width (of 4s) and height
CANDIDATES = 3              # halves played blind, of which the liveliest is rendered; pretrain: 1
STATE = 96                                       # numbers per picture: see engine.play
SDIST = "gfootball-2.10.2"
PYTHON = "/usr/bin/python3"                      # Debian's, for which its Boost.Python is built

NEEDS = {  # Debian package: a file of it
    "cmake": "/usr/bin/cmake", "make": "/usr/bin/make", "g++": "/usr/bin/g++",
    "libsdl2-dev": "/usr/include/SDL2/SDL.h", "libsdl2-image-dev": "/usr/include/SDL2/SDL_image.h",
    "libsdl2-ttf-dev": "/usr/include/SDL2/SDL_ttf.h",
    "libsdl2-gfx-dev": "/usr/include/SDL2/SDL2_gfxPrimitives.h",
    "libboost-python-dev": "/usr/include/boost/python.hpp",
    "libboost-thread-dev": "/usr/lib/*/libboost_thread.so",
    "libboost-system-dev": "/usr/lib/*/libboost_system.so",
    "libboost-filesystem-dev": "/usr/lib/*/libboost_filesystem.so",
    "libgl1-mesa-dev": "/usr/include/GL/gl.h", "libegl-dev": "/usr/include/EGL/egl.h",
    "libgl1-mesa-dri": "/usr/lib/*/dri/swrast_dri.so",
    "python3-dev": "/usr/include/python3*/Python.h"}


# ------------------------------------------------------------------ the engine
def build(args):
    """Leaves <build>/gfootball-2.10.2/third_party, edited and compiled."""
    missing = [package for package, file in NEEDS.items() if not glob.glob(file)]
    if missing:
        raise DataError(f"{SDIST}: Debian packages are missing to compile it; apt-get install -y "
                        f"--no-install-recommends {' '.join(missing)}")
    if library(args.build).exists():
        print(f"football3d: {library(args.build)} is there")
        return
    archive = args.build / f"{SDIST}.tar.gz"
    if not archive.exists():
        run_tool(args.build / "pip.log", sys.executable, "-m", "pip", "download", "--no-deps",
                 "--no-binary", ":all:", "--no-build-isolation", "-d", args.build,
                 SDIST.replace("-", "=="))
    source = args.build / SDIST
    shutil.rmtree(source, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(args.build, filter="data")
    engine, out = source / "third_party/gfootball_engine", args.build / "cmake"
    try:
        edit(engine)
    except ValueError as error:
        raise DataError(error) from None
    run_tool(args.build / "cmake.log", "cmake", "-S", engine, "-B", out, "-DPython_ROOT_DIR=/usr",
             "-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=10")
    run_tool(args.build / "make.log", "make", "-C", out, f"-j{args.jobs}")
    write_file(library(args.build), lambda file: file.write((out / "libgame.so").read_bytes()))
    print(f"football3d: {library(args.build)} is built")


def library(folder):
    return folder / SDIST / "third_party/gfootball_engine/_gameplayfootball.so"


def run_tool(log, *words):
    """Runs a program; what it prints goes into the file `log`. DataError if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"football3d: {' '.join(map(str, words[:4]))} ... ({log})", flush=True)
    with open(log, "wb") as file:
        done = subprocess.run(list(map(str, words)), stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise stopped(log, f"{words[0]} ended with code {done.returncode}")


def stopped(log, what):
    lines = log.read_text(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if "rror" in line), "".join(lines[-2:]))
    return DataError(f"{log}: {what}: {last.strip()[:200]!r}; its whole log is there")


# ------------------------------------------------------------------ what is played
def plan(match, half, candidate, seconds, size=None):
    """Everything that is drawn for a half, from its number alone: what engine.play wants."""
    look, rng = random.Random(match), random.Random(f"{match}/{half}/{candidate}")
    seed = match * 1000 + half * 100 + candidate
    return {"seed": seed, "seconds": seconds, "size": size,
            "skip_s": rng.randrange(500, 2000) / 100,          # the first kick-off is not recorded
            "slides": rng.choice([0.03, 0.06, 0.1]), "kicks": rng.choice([0.1, 0.2, 0.3]),
            "skill": [rng.uniform(0.3, 1) for _ in "ab"],
            "environment": {"GF_SEED": str(seed), "GF_VIEW": str(look.randrange(600, 800)),
                            "GF_PITCH": str(look.randrange(300, 650)),
                            "GF_SWAY": str(look.randrange(60, 150))}}


COLOURS = np.array([(200, 30, 35), (30, 60, 190), (235, 235, 235), (240, 220, 50), (110, 190, 235),
                    (20, 110, 60), (240, 130, 30), (100, 40, 130), (30, 30, 34), (120, 20, 50)])


def shirts(match, half, data, folder):
    """The engine's data folder with the shirts of this match: links, and two pictures. The teams
    change ends: who played from the left plays from the right in half 2."""
    import cv2
    rng = random.Random(f"{match}/shirts")
    teams = Path("databases/default/images_teams/primeradivision")
    while True:
        kits = [[COLOURS[i] for i in rng.choices(range(len(COLOURS)), k=3)] for _ in "ab"]
        if np.abs(kits[0][0] - kits[1][0]).sum() > 200:         # two teams, not one
            break
    shutil.rmtree(folder, ignore_errors=True)
    (folder / teams).mkdir(parents=True)
    (folder / "media").symlink_to(data / "media")
    stripes = [rng.choice([0, 0, 0, 8, 16]) for _ in kits]
    for file in sorted((data / teams).iterdir()):
        if "kit" not in file.name:
            (folder / teams / file.name).symlink_to(file)
            continue
        team = ("fcb" in file.name) ^ (half == 2)
        shirt, shorts, stripe = kits[team]
        image = np.empty((128, 256, 3), np.uint8)                # the engine's are 1024 x 2048
        image[:52], image[52:73], image[73:] = shirt, shorts, shirt
        if stripes[team]:
            columns = np.arange(256) // stripes[team] % 2 == 1
            image[:52, columns] = stripe
        cv2.imwrite(str(folder / teams / file.name), image[..., ::-1])
    return folder


def play(args, todo, stem, match, half):
    """Plays the half that `todo` (of `plan`) describes, in a process of its own: the engine has one
    screen per process. Yields a state (96,) and, with a size, a picture (height, width, 3) at a
    time, and leaves <stem>.events.tsv."""
    third_party = library(args.build).parents[1]
    if not library(args.build).exists():
        raise DataError(f"{library(args.build)}: no engine; python {Path(sys.argv[0])} build")
    stem.parent.mkdir(parents=True, exist_ok=True)
    size, kits, n_bytes = todo["size"], None, 0
    events, log = Path(f"{stem}.events.unfinished"), Path(f"{stem}.log")
    environment = todo["environment"] | {"GF_EVENTS": str(events)}
    if size:
        kits = shirts(match, half, third_party / "gfootball_engine/data", Path(f"{stem}.data"))
        environment["GFOOTBALL_DATA_DIR"], n_bytes = str(kits), 3 * size[0] * size[1]
    with open(log, "wb") as errors, subprocess.Popen(
            [PYTHON, str(HERE / "engine.py"), str(third_party),
             json.dumps(todo | {"environment": environment})],
            stdout=subprocess.PIPE, stderr=errors) as process:
        try:
            for _ in range(todo["seconds"] * FPS):
                data = process.stdout.read(4 * STATE + n_bytes)
                if len(data) < 4 * STATE + n_bytes:
                    raise stopped(log, f"the engine stopped within half {half} of match {match}")
                state = np.frombuffer(data, "<f4", STATE)
                yield state, (np.frombuffer(data, np.uint8, offset=4 * STATE).reshape(
                    size[1], size[0], 3)[::-1] if size else None)           # from below, as in GL
        finally:
            process.kill()
    os.replace(events, f"{stem}.events.tsv")
    log.unlink()
    if kits:
        shutil.rmtree(kits)


# ------------------------------------------------------------------ the log -> labels
SHOT, DEFLECT, CATCH = "8", "9", "10"                          # e_FunctionType
RESTARTS = {"1": "Kick-off", "2": "Goal kick", "3": "Free-kick", "4": "Corner", "5": "Throw-in",
            "6": "Penalty"}                                    # e_GameMode


def read_events(log, skip_s, seconds):
    """The text of an events.tsv -> [(second in the video, label)], in the order of time.

    Picture i shows the game at skip_s + (i + 1) / FPS seconds, and stands at i / FPS in the video.
    A restart is when its taker touches the ball; a shot, by one team within a second, is one.
    """
    found, shot, card_s, kicked_off = [], (-99, ""), -99, False
    for line in log.splitlines():
        ms, what, team = line.split("\t")
        kind, _, what = what.partition(":")
        function, _, touch = what.partition(":")
        t = int(ms) / 1000 - skip_s - 1 / FPS
        if kind == "message":
            if "goal" in what.lower():
                found.append((t, "Goal"))
            elif "offside" in what or "foul" in what:
                found.append((t, "Offside" if "offside" in what else "Foul"))
                card = "Red card" if "red" in what else "Yellow card"
        elif kind == "card shown":
            if t - card_s > 5:
                found.append((t, card))
            card_s = t
        elif kind == "stop" and RESTARTS[what] in ("Throw-in", "Corner", "Goal kick"):
            found.append((t, "Ball out of play"))
        elif kind == "taken":
            kicked_off = what == "1"             # "taken" is the whistle there, and the ball waits
            if not kicked_off:
                found.append((t, RESTARTS[what]))
        elif kind == "touch":
            if kicked_off:
                found.append((t, "Kick-off"))
            kicked_off = False
            if function == SHOT and touch == "0" and not (shot[1] == team and t - shot[0] < 1):
                found.append((t, "Shot"))
                shot = t, team
            elif function in (DEFLECT, CATCH) and shot[1] != team and t - shot[0] < 3:
                found.append((t, "Save"))
                shot = -99, ""
    return sorted((t, label) for t, label in found if 0 <= t < seconds)


WORTH = {"Corner": 4, "Throw-in": 3, "Penalty": 3, "Goal": 2, "Save": 2, "Yellow card": 0}


def liveliest(args, match, half, seconds):
    """The plan of that of CANDIDATES halves, played blind, that has most of what is rare."""
    plans = [plan(match, half, candidate, seconds) for candidate in range(CANDIDATES)]
    if match in SETS["pretrain"] and match not in SETS["train"]:
        return plans[0]
    worth = []
    for todo in plans:
        stem = args.build / f"blind/{todo['seed']:06d}"
        if not (log := Path(f"{stem}.events.tsv")).exists():
            collections.deque(play(args, todo, stem, match, half), maxlen=0)
        worth.append(sum(WORTH.get(label, 0.5) for _, label in read_events(
            log.read_text(), todo["skip_s"], seconds)))
    return plans[int(np.argmax(worth))]


# ------------------------------------------------------------------ pictures
def render(args):
    """Leaves <build>/renders/<match>/<half>.mkv (without loss), .state.npy, .json per half."""
    numbers = args.matches or dict.fromkeys(n for numbers in SETS.values() for n in numbers)
    jobs = [(n, half) for n in numbers for half in (1, 2)]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        waiting = [pool.submit(render_half, args, *job, SIZE, HALF_S) for job in jobs]
        try:
            for job in concurrent.futures.as_completed(waiting):
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)


def render_half(args, match, half, size, seconds):
    stem = args.build / f"renders/{match:03d}/{half}"
    video = Path(f"{stem}.mkv")
    if video.exists():
        return video
    begin = time.time()
    todo = liveliest(args, match, half, seconds) | {"size": size}
    states, unfinished = [], video.with_suffix(".unfinished.mkv")
    stem.parent.mkdir(parents=True, exist_ok=True)

    def pictures():
        for state, picture in play(args, todo, stem, match, half):
            states.append(state)
            yield picture

    write_video(unfinished, pictures(), "ffv1", "bgr0", {"level": "3"})
    np.save(f"{stem}.state.npy", np.array(states, np.float32))
    write_text(Path(f"{stem}.json"), json.dumps(todo))
    os.replace(unfinished, video)
    print(f"football3d: {match:03d}/{half}: {len(states)} pictures, {len(half_labels(stem))} "
          f"labels, {time.time() - begin:.0f} s", flush=True)
    return video


def write_video(path, pictures, codec, pix_fmt, options):
    """pictures: (height, width, 3) RGB, one at a time."""
    import av
    os.environ.setdefault("SVT_LOG", "1")                      # it says nothing but errors
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=FPS, options=options)
        stream.pix_fmt, stream.codec_context.thread_count = pix_fmt, 1
        for i, picture in enumerate(pictures):
            if not i:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def read_video(path):
    """The pictures, (height, width, 3) RGB, one at a time."""
    import av
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def half_labels(stem):
    """[(second in the video, label)] of a half that was rendered."""
    todo = json.loads(Path(f"{stem}.json").read_text())
    return read_events(Path(f"{stem}.events.tsv").read_text(), todo["skip_s"], todo["seconds"])


# ------------------------------------------------------------------ what the repository gets
AV1 = {"crf": "35", "preset": "2", "svtav1-params": "lp=1:keyint=250:scd=1"}
H264 = {"crf": "23", "preset": "veryslow", "movflags": "+faststart"}
# Steps of the state's whole numbers: of the length of the pitch, 109 m for 2, they are 11 cm and
# 0.3 m/s (the engine gives a velocity for 20 ms).
STEP = np.array([2e-3, 2e-3, 0.02, 1e-4, 1e-4, 0.01, 1, 1] + [2e-3, 2e-3, 1e-4, 1e-4] * 22)


def encode(args):
    """Leaves in <out> of every set that is rendered: <match>/<half>.mp4, labels.csv, the lists,
    counts.txt, and state.npz of those to pretrain on."""
    rows, states, counts = [], {}, collections.defaultdict(collections.Counter)
    stems = {(n, half): args.build / f"renders/{n:03d}/{half}" for numbers in SETS.values()
             for n in numbers for half in (1, 2)}
    late = sorted({n for (n, _), stem in stems.items() if not Path(f"{stem}.mkv").exists()})
    sets = {name: numbers for name, numbers in SETS.items() if not set(numbers) & set(late)}
    if not sets:
        raise DataError(f"{args.build}/renders: no set is there in whole, match {late[0]:03d} is "
                        f"missing; python {sys.argv[0]} render")
    for name, numbers in sets.items():
        write_text(args.out / f"{name}.txt", "".join(f"{n:03d}\n" for n in numbers))
    wanted = sorted({n for numbers in sets.values() for n in numbers})
    for n, half in [(n, half) for n in wanted for half in (1, 2)]:
        stem, video = stems[n, half], args.out / f"{n:03d}/{half}.mp4"
        if not video.exists():
            encode_video(video, f"{stem}.mkv", "libsvtav1", AV1)
        labels = half_labels(stem)
        rows += [(f"{n:03d}/{half}.mp4", f"{t:.2f}", label) for t, label in labels] or [
            (f"{n:03d}/{half}.mp4", "", "")]                    # watched, and nothing happened
        for name, numbers in sets.items():
            counts[name].update(label for _, label in labels) if n in numbers else None
        if n in SETS["pretrain"]:
            state = np.round(np.load(f"{stem}.state.npy") / STEP)            # (pictures, 96)
            states[f"{n:03d}_{half}"] = np.diff(state, axis=0, prepend=0).astype("<i2").T    # small
    write_table(args.out / "labels.csv", rows)
    if "pretrain" in sets:
        write_file(args.out / "state.npz",
                   lambda file: np.savez_compressed(file, step=STEP, **states))
    minutes = {name: f"{len(numbers) * 2 * HALF_S / 60:.0f}" for name, numbers in sets.items()}
    table = [f"{'':17}" + "".join(f"{name:>9}" for name in sets),
             *(f"{what:17}" + "".join(f"{of[name]:>9}" for name in sets) for what, of in [
                 ("matches", {name: len(numbers) for name, numbers in sets.items()}),
                 ("minutes", minutes), ("labels", {name: counts[name].total() for name in sets}),
                 *((label, {name: counts[name][label] for name in sets})
                   for label in sorted(set().union(*counts.values())))])]
    write_text(args.out / "counts.txt", "\n".join(table) + "\n")
    if "train" in sets:                # what is rarer cannot be learned
        write_text(args.out / "classes.txt", "".join(
            f"{label}\n" for label, n in sorted(counts["train"].items()) if n >= 5))
    print(*table, sep="\n")
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(f"football3d: {args.out}: {', '.join(sets)}; {size / 1e6:.1f} MB"
          + (f"; {len(late)} matches are not rendered yet" if late else ""))


def encode_video(path, source, codec, options):
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished.mp4")
    write_video(unfinished, read_video(source), codec, "yuv420p", options)
    os.replace(unfinished, path)


def write_table(path, rows):
    write_text(path, "".join(",".join(row) + "\n" for row in [("video", "time", "label"), *rows]))


def example(args):
    """Leaves <out>/match.mp4, three minutes of a match of no set at 400x224, and its labels.csv."""
    source = render_half(args, EXAMPLE, 1, (400, 224), 180)
    encode_video(args.out / "match.mp4", source, "libx264", H264)
    rows = half_labels(source.with_suffix(""))
    write_table(args.out / "labels.csv", [("match.mp4", f"{t:.2f}", label) for t, label in rows])
    print(f"football3d: {args.out}: {len(rows)} labels, "
          f"{(args.out / 'match.mp4').stat().st_size / 1e6:.2f} MB")


# ------------------------------------------------------------------ what gives a label away
CUT, JUMP = 25, 0.15         # a cut: grey levels of mean change, or a player is 8 m further on


def measure(args):
    """Prints per class, of the rendered halves: when the picture was last cut before a label, when
    it is next cut after it, and how much the picture changes in the second before."""
    found = collections.defaultdict(list)
    for video in sorted(args.build.glob("renders/*/[12].mkv")):
        grey = np.array([picture.mean(2) for picture in read_video(video)], np.float32)
        change = np.r_[0, np.abs(np.diff(grey, axis=0)).mean((1, 2))]       # [i]: from i - 1 to i
        places = np.load(video.with_suffix(".state.npy"))[:, 8::4]               # x of 22 players
        jump = np.r_[0, np.abs(np.diff(places, axis=0)).max(1)]
        is_cut = (change > CUT) | (jump > JUMP)
        cuts = np.flatnonzero(is_cut) / FPS
        anywhen = [(t, "(any moment)") for t in np.arange(1, len(grey) / FPS - 1, 2.5)]
        for t, label in half_labels(video.with_suffix("")) + anywhen:
            i = round(t * FPS)
            near = [change[j] for j in range(max(1, i - 1), i + 1) if not is_cut[j]]
            found[label].append((min((t - c for c in cuts if c <= t), default=99),
                                 min((c - t for c in cuts if c > t), default=99),
                                 statistics.mean(near) if near else np.nan))
    if not found:
        raise DataError(f"{args.build}/renders: nothing is rendered; python {sys.argv[0]} render")
    print("class            |    n | s since a cut: 10 50 90 % | s to a cut: 10 50 90 % | change")
    for label, rows in sorted(found.items()):
        since, until, change = zip(*rows, strict=True)
        print(f"{label:16} | {len(rows):4} | "
              + " | ".join(" ".join(f"{q:6.1f}" for q in np.percentile(of, (10, 50, 90)))
                           for of in (since, until)) + f" | {np.nanmedian(change):5.1f}")


STEPS = {"build": build, "render": render, "encode": encode, "example": example,
         "measure": measure}


def main(args):
    args.build = args.build.expanduser().resolve()             # the engine wants it whole
    args.out = args.out or {"example": ROOT / "docs/example"}.get(args.step, ROOT / "matches")
    STEPS[args.step](args)


def parser():
    p = command.Parser(__doc__)
    p.add_argument("step", choices=STEPS)
    p.add_argument("--build", type=Path, default=Path("~/.cache/comedian-football3d"),
                   help="folder of the engine and of all that is large")
    p.add_argument("--out", type=Path, help="default: matches, or docs/example")
    p.add_argument("--jobs", type=command.number(1, 256), default=2, help="processes side by side")
    p.add_argument("--matches", type=command.number(1, 999), nargs="+",
                   help="render: these numbers; default: all")
    return p


if __name__ == "__main__":
    command.run_as_command(main, parser().parse_args())
