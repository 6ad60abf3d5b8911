"""
What lies on disk, and what comes off it: matches, halves, frames, labels, teacher features, the
windows of a half; and the batched image operations that every stage's views are made of.

Layout (SoccerNet's own; any depth of folders above a match):

    <root>/<league>/<season>/<match>/1_224p/00000001.jpg  frames of half 1, 2 per second
    <root>/<league>/<season>/<match>/Labels-v2.json       labels, if the match has any
    <root>/<league>/<season>/<match>/1_<name>.npy         teacher features of half 1, (seconds, D_t)

A folder of images is a half; the folder that holds it is a match. `1/000000.jpg` (with
`fps.txt` beside the images) and `half1/frame0.jpg` are read as well: frames sort by number, and
the first number is whatever it is.

Letters, here and in all files: B batch, T frames, L tokens per window (the paper's T_l),
D width, K classes, H W pixels. A clip is T_s = 2 frames and becomes one token: at 2 fps token k
of a half covers seconds [k, k+1).

Nothing here knows a loss or stage. Randomness comes in as arguments: functions take what was drawn.
"""
import collections
import concurrent.futures
import json
import os
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

try:
    import cv2
except ImportError as error:          # the wheel needs libGL, which servers often lack
    print(f"error: OpenCV cannot be imported ({error}); on a machine without a screen: "
          "pip uninstall opencv-python && pip install opencv-python-headless", file=sys.stderr)
    sys.exit(2)

CLIP_FRAMES = 2                       # T_s: one clip, one tubelet, one token
FEATURE_SLACK_S = 10                  # features and frames of a half may end this far apart
DEFAULT_FPS = 2.0                     # the paper's sampling rate, unless fps.txt says otherwise

# SoccerNet-v2's classes in the order of the official evaluator.
SOCCERNET_CLASSES = (
    "Penalty", "Kick-off", "Goal", "Substitution", "Offside", "Shots on target", "Shots off target",
    "Clearance", "Ball out of play", "Throw-in", "Foul", "Indirect free-kick", "Direct free-kick",
    "Corner", "Yellow card", "Red card", "Yellow->red card")


class DataError(ValueError):
    """Something on disk or the command line is not as it must be; the message is for the user."""


def read_classes(path=None):
    """Class names: SoccerNet's 17, or one per line of the file `path`. Returns a tuple of str."""
    if path is None:
        return SOCCERNET_CLASSES
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the list of classes ({error})") from None
    names = tuple(name for name in names if name)
    if not names or len(set(names)) < len(names):
        raise DataError(f"{path}: needs one class name per line, each once; got {len(names)} names")
    return names


# ------------------------------------------------------------------ matches and halves
@dataclass(frozen=True)
class Half:
    """One video as a folder of images: `prefix`, number with `digits` digits
    (1: not padded), `suffix`."""
    match: str                        # folder of the match, relative to the root
    number: int                       # 1 or 2 in SoccerNet
    folder: str
    prefix: str
    digits: int
    suffix: str
    first: int                        # number of the first image: 0 or 1
    n_frames: int
    fps: float = DEFAULT_FPS

    @property
    def n_tokens(self):
        """Whole clips in this half; an odd last frame has no partner and is left out."""
        return self.n_frames // CLIP_FRAMES

    @property
    def token_s(self):
        """Seconds from one token to the next: 1.0 at 2 fps."""
        return CLIP_FRAMES / self.fps

    def path(self, frame):
        """The file of frame `frame`, counted from 0."""
        return (f"{self.folder}/{self.prefix}"
                f"{str(self.first + frame).zfill(self.digits)}{self.suffix}")


IMAGE_NAME = re.compile(r"(.*?)(\d+)(\.(?:jpg|jpeg|png))", re.IGNORECASE)
HALF_NAME = re.compile(r"(?:half[_-]?)?(\d)(?:_.*)?", re.IGNORECASE)      # 1_224p, 1, half1


def find_halves(root, split=None):
    """All halves below `root`, sorted by match and number; with `split` those of its games alone.

    Raises DataError if there are none, if frames are missing in the middle of a half, or if two
    folders claim to be the same half.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --data wants the folder above your frame folders")
    folders = collections.defaultdict(list)                # match -> [(folder, images)]
    for folder, below, files in os.walk(root, followlinks=True):
        below.sort()
        images = [m for m in map(IMAGE_NAME.fullmatch, files) if m]
        if images:
            match = os.path.relpath(Path(folder).parent, root) if Path(folder) != root else "."
            folders[match].append((Path(folder), images))
    halves = []
    for match, videos in sorted(folders.items()):
        names = [HALF_NAME.fullmatch(folder.name) for folder, _ in videos]
        numbers = ([int(name[1]) for name in names] if all(names)
                   else range(1, len(videos) + 1))         # any other names: in their order
        if len(set(numbers)) < len(videos):
            raise DataError(f"{root / match}: two folders for one half "
                            f"({', '.join(folder.name for folder, _ in videos)}); keep one of them")
        halves += [frame_folder(match, number, folder, images)
                   for number, (folder, images) in zip(numbers, videos, strict=True)]
    if not halves:
        raise DataError(f"{root}: no folder of .jpg or .png frames below it; "
                        "see README, 'Data on disk', for the layouts that are read")
    halves.sort(key=lambda half: (half.match, half.number))
    return in_split(halves, split, root) if split else halves


def frame_folder(match, number, folder, images):
    """A Half from the regex matches of its image names; checks that the numbering has no hole."""
    numbers = sorted(int(m[2]) for m in images)
    have = set(numbers)
    if not numbers[-1] - numbers[0] + 1 == len(numbers) == len(have):
        hole = next((i for i in range(numbers[0], numbers[-1]) if i not in have), numbers[0])
        raise DataError(f"{folder}: frame number {hole} is missing or there twice "
                        f"({len(numbers)} images, numbers {numbers[0]} to {numbers[-1]})")
    sample = images[0]
    digits = min(len(m[2]) for m in images)                # 1 where numbers are not padded
    fps = DEFAULT_FPS
    if (folder / "fps.txt").exists():
        text = (folder / "fps.txt").read_text(errors="replace").strip()
        try:
            fps = float(text)
        except ValueError:
            raise DataError(f"{folder / 'fps.txt'}: wants one number, got {text!r}") from None
        if not 0 < fps < 1000:
            raise DataError(f"{folder / 'fps.txt'}: frames per second must be positive, got {text}")
    return Half(match, number, str(folder), sample[1], digits, sample[3],
                numbers[0], len(numbers), fps)


def of_length(halves, n_tokens, what):
    """Halves with at least `n_tokens` tokens; says how many are too short, refuses if all are."""
    long = [half for half in halves if half.n_tokens >= n_tokens]
    if not long:
        raise DataError(f"no half is as long as {what} ({n_tokens} tokens; the longest has "
                        f"{max(half.n_tokens for half in halves)})")
    if len(long) < len(halves):
        print(f"data: {len(halves) - len(long)} of {len(halves)} halves are shorter than {what}: "
              "left out")
    return long


def describe(halves, root):
    """One line for the top of a run: what was found below `root`."""
    rates = sorted({half.fps for half in halves})
    rates = f"{rates[0]:g} fps" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g} fps"
    hours = sum(half.n_frames / half.fps for half in halves) / 3600
    return (f"data: {root}: {len({half.match for half in halves})} matches, {len(halves)} halves, "
            f"{sum(half.n_frames for half in halves):,} frames at {rates} ({hours:.1f} h), "
            f"like {Path(halves[0].path(0)).relative_to(root)}")


# ------------------------------------------------------------------ lists of games
SPLITS = Path(__file__).resolve().with_name("splits")                # SoccerNet's own lists


def read_games(names):
    """The games of "train", "valid", "test" or "challenge", several joined by +, or of a text file
    with one path per line: a list of str like "league/season/game"."""
    if Path(names).is_file():
        lists = [Path(names)]
    else:
        lists = [SPLITS / f"{name}.txt" for name in names.split("+")]
    games = []
    for path in lists:
        try:
            games += [line.strip() for line in path.read_text(encoding="utf-8").splitlines()
                      if line.strip()]
        except (OSError, UnicodeDecodeError):
            known = ", ".join(sorted(known.stem for known in SPLITS.glob("*.txt")))
            raise DataError(f"{names}: neither a readable text file with a game per line, nor "
                            f"names of lists joined by + ({known})") from None
    if not games:
        raise DataError(f"{names}: an empty list of games")
    return games


def in_split(items, names, root, complete=False):
    """Those of `items`, halves or matches below `root`, that belong to the games of `names` (see
    `read_games`), in their order. Prints how many of these games there are.

    Games go by the last three parts of their path (a shorter line by all of its), so that
    <root>/test/<league>/... and <root>/<league>/... are the same to it, and some peers' _ for a
    space. DataError if none is there, or if one is missing and `complete` is wanted.
    """
    def key(path, n_parts):
        return tuple(part.replace(" ", "_") for part in Path(path).parts[-n_parts:])

    games = {key(game, 3): game for game in read_games(names)}
    lengths = sorted({len(game) for game in games})
    found, kept = set(), []
    for item in items:
        path = Path(root).resolve() / (item if isinstance(item, str) else item.match)
        its = {key(path, n) for n in lengths} & games.keys()
        found |= its
        kept += [item] * bool(its)
    missing = [game for its, game in games.items() if its not in found]
    if not kept or (complete and missing):
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise DataError(f"{root}: {len(missing)} of the {len(games)} games of {names} are not "
                        f"below it: {'; '.join(missing[:10])}{more}")
    print(f"data: {root}: {len(found)} of the {len(games)} games of {names}")
    return kept


# ------------------------------------------------------------------ frames
def read_frame(path):
    """(H, W, 3) uint8, red first. DataError names a file that is missing, cut short or no image."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        content = b""
    # Of a JPEG that was cut short OpenCV makes a picture, grey where nothing is left. The marker
    # that ends a JPEG cannot occur within its pixels; some writers add a few bytes after it.
    if content.startswith(b"\xff\xd8") and b"\xff\xd9" not in content[-1024:]:
        raise DataError(f"{path}: cut short; extract this half's frames again")
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None:
        raise DataError(f"{path}: missing, empty or not an image; extract this half's frames again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class FrameReader:
    """Decodes the frames of many clips or windows in a pool of threads (OpenCV frees the lock).

    pin: into page-locked memory, from which a GPU fetches while it computes.
    """

    def __init__(self, workers=0, pin=False):
        self.pool = concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count())
        self.pin = pin

    def read(self, picks, n_frames):
        """picks: B pairs (half, first frame). Returns (B, n_frames, H, W, 3) uint8 on the host."""
        half, frame = picks[0]
        shape = read_frame(half.path(frame)).shape
        frames = torch.empty((len(picks), n_frames, *shape), dtype=torch.uint8,
                             pin_memory=self.pin)                       # (B, T, H, W, 3)
        out = frames.numpy()

        def decode(b):
            half, first = picks[b]
            for t in range(n_frames):
                image = read_frame(half.path(first + t))
                if image.shape != shape:
                    raise DataError(f"{half.path(first + t)}: "
                                    f"{image.shape[1]}x{image.shape[0]} pixels, "
                                    f"others have {shape[1]}x{shape[0]}: "
                                    "frames of one run need one size")
                out[b, t] = image

        for _ in self.pool.map(decode, range(len(picks))):
            pass                                            # re-raises what a thread raised
        return frames


def ahead(load, steps, depth=2):
    """Yields load(step) for `steps` in order, computed up to `depth` steps ahead in a thread.

    `load` must depend on the step alone: then nothing is lost or repeated when a run is resumed.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as runner:
        pending = collections.deque()
        try:
            for step in steps:
                pending.append(runner.submit(load, step))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


# ------------------------------------------------------------------ labels
class Event(NamedTuple):
    """One annotated action. `position_ms` counts from the start of the half's video."""
    half: int
    label: int                        # index into the classes
    position_ms: int
    visible: bool                     # False: annotated although the broadcast does not show it


def read_list(path, key, what):
    """The list under `key` of a JSON file; `path` may lie in a zip (zipfile.Path)."""
    try:
        with (Path(path) if isinstance(path, str) else path).open(encoding="utf-8") as file:
            return list(json.load(file)[key])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not {what} ({type(error).__name__}: {error})") from None


def read_labels(path, classes):
    """Events of a Labels-v2.json as the official evaluator reads them, in file order.

    `position` counts if there is one, else `gameTime`'s minutes and seconds (its last two
    digits each, as there); labels outside `classes` are left out. Raises DataError for what
    that program crashes on.
    """
    index = {name: k for k, name in enumerate(classes)}
    events = []
    for number, annotation in enumerate(read_list(path, "annotations", "a SoccerNet label file")):
        try:
            time = annotation["gameTime"]
            half, minutes, seconds = int(time[0]), int(time[-5:-3]), int(time[-2:])
            position_ms = (int(annotation["position"]) if "position" in annotation
                           else 1000 * (60 * minutes + seconds))
            if annotation["label"] in index:
                events.append(Event(half, index[annotation["label"]], position_ms,
                                    annotation.get("visibility") != "not shown"))
        except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
            raise DataError(f"{path}: annotation {number} has a malformed or missing gameTime, "
                            f"position or label ({type(error).__name__}: {error})") from None
    return events


def frame_labels(events, half, radius_s, n_classes):
    """(n_frames, K) bool: frame i has class c iff an event of c lies within `radius_s` of i / fps.

    The bound is inclusive and the same for all classes, visible or not (the paper's epsilon).
    """
    labels = np.zeros((half.n_frames, n_classes), bool)
    times_s = np.arange(half.n_frames) / half.fps
    for event in events:
        if event.half == half.number:
            labels[:, event.label] |= np.abs(times_s - event.position_ms / 1000) <= radius_s
    return labels


# ------------------------------------------------------------------ predictions on disk
class Detections(NamedTuple):
    """The spotted actions of one match: four arrays (n,), a row each, in file order."""
    half: np.ndarray                  # 1 or 2
    label: np.ndarray                 # index into the classes
    position_ms: np.ndarray           # from the start of the half's video
    confidence: np.ndarray            # float64


def find_files(source, name):
    """{match: path} of every file called `name` below a folder or in a zip, sorted by match.

    The match is the file's folder relative to `source`.
    Paths into a zip are zipfile.Path: they open alike.
    """
    source = Path(source)
    if source.is_dir():
        found = {}
        for folder, below, files in os.walk(source, followlinks=True):
            if name in files:
                found[Path(folder).relative_to(source).as_posix()] = Path(folder) / name
                below.clear()         # a match holds no other match, but thousands of frames
    elif zipfile.is_zipfile(source):
        archive = zipfile.ZipFile(source)
        inside = [entry for entry in archive.namelist() if entry.split("/")[-1] == name]
        found = {os.path.dirname(entry) or ".": zipfile.Path(archive, entry) for entry in inside}
    else:
        raise DataError(f"{source}: no such folder, and not a zip file either")
    if not found:
        raise DataError(f"{source}: no {name} in it; "
                        f"it must lie at <league>/<season>/<match>/{name}, "
                        "or in any other folder of its own per match")
    return dict(sorted(found.items()))


def read_predictions(path, classes):
    """Detections of a results_spotting.json as the official evaluator reads them, in file order.

    Numbers may be written as strings. Labels outside `classes` and halves other than 1 and 2
    are left out. Raises DataError for what that program crashes on: `position` must be whole
    milliseconds, for one.
    """
    index = {name: k for k, name in enumerate(classes)}
    rows = []
    for number, entry in enumerate(read_list(path, "predictions", "a SoccerNet prediction file")):
        try:
            position_ms, half = int(entry["position"]), int(entry["half"])
            label = index.get(entry["label"])
            if label is None or half not in (1, 2):
                continue
            confidence = entry["confidence"]          # null is NaN there, and so never counts
            rows.append((half, label, position_ms,
                         float("nan") if confidence is None else float(confidence)))
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise DataError(f"{path}: prediction {number} has a malformed or missing "
                            "label, half, position (whole ms) or confidence "
                            f"({type(error).__name__}: {error})") from None
    table = np.array(rows, np.float64).reshape(-1, 4)                    # (n, 4)
    return Detections(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64),
                      table[:, 2], table[:, 3])


def write_predictions(path, url_local, detections, classes):
    """Writes results_spotting.json as the official evaluator and the challenge server take it.

    Sorted by half, then time. The file appears whole or not at all.
    """
    predictions = []
    for i in np.lexsort((detections.position_ms, detections.half)).tolist():
        half, position_ms = int(detections.half[i]), int(detections.position_ms[i])
        minutes, seconds = divmod(position_ms // 1000, 60)
        predictions.append({"gameTime": f"{half} - {minutes:02d}:{seconds:02d}",
                            "label": classes[detections.label[i]], "position": str(position_ms),
                            "half": str(half), "confidence": float(detections.confidence[i])})
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps({"UrlLocal": url_local, "predictions": predictions}),
                              encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None


# ------------------------------------------------------------------ teacher features
def open_features(root, half, name):
    """Memory-mapped (seconds, D_t) features of a half: <root>/<match>/<half>_<name>.npy."""
    path = Path(root) / half.match / f"{half.number}_{name}.npy"
    try:
        features = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise DataError(f"{path}: no teacher features for this half; see --features and "
                        "--features-name") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a plain .npy array ({error})") from None
    if features.ndim != 2 or not len(features):
        raise DataError(f"{path}: features must have shape (seconds, width), got {features.shape}")
    seconds = half.n_frames / half.fps
    if abs(len(features) - seconds) > FEATURE_SLACK_S:
        raise DataError(f"{path}: {len(features)} rows for a half of {seconds:.0f} s; the stages "
                        "want 1 row per second of this half's video")
    return features


def describe_features(features, halves):
    """One line for the top of a run: how many features of which width, and how they fit the
    frames. Raises DataError if they have not all the same width."""
    for f in features:
        if f.shape[1] != features[0].shape[1]:
            raise DataError(f"{f.filename}: features of width {f.shape[1]}, those of "
                            f"{features[0].filename} have {features[0].shape[1]}: one teacher for "
                            "all halves")
    off_s = max(abs(len(f) - half.n_frames / half.fps)
                for f, half in zip(features, halves, strict=True))
    return (f"data: bank of {sum(map(len, features)):,} features x {features[0].shape[1]}, 1 per "
            f"second; they end within {off_s:.1f} s of the frames")


# ------------------------------------------------------------------ windows of a half
def window_starts(n_tokens, window, stride):
    """First tokens of windows that cover a half: 0, stride, 2 stride, ... and one ending with it.

    A half shorter than the window gets one window, as long as the half.
    """
    if n_tokens <= window:
        return [0]
    starts = list(range(0, n_tokens - window + 1, stride))
    return starts if starts[-1] == n_tokens - window else [*starts, n_tokens - window]
