"""
Frames on disk: which matches and halves there are, and the reader that fills a batch with them.

Layout (SoccerNet's own; any depth of folders above a match):

    <root>/<league>/<season>/<match>/1_224p/00000001.jpg  frames of half 1, 2 per second

A folder of images is a half; the folder above it is a match. `1/000000.jpg` (with `fps.txt` beside
the images) and `half1/frame0.jpg` are read as well: frames sort by number, which may start
anywhere. Other files in the folder of a match (labels: see soccernet.py; teacher features: see
bank.py) are ignored here. Letters as in model.py.
"""
import collections
import concurrent.futures
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from comedian import DataError, formats
from comedian.formats import (  # noqa: F401  (others find them here)
    VIDEO_NAME, VIDEO_SUFFIXES, half_number)

CLIP_FRAMES = 2                       # T_s: one clip, one tubelet, one token
DEFAULT_FPS = 2.0                     # the paper's sampling rate, unless fps.txt says otherwise
LARGE = 4                             # so many times the network's pixels: a hint to shrink frames


# ------------------------------------------------------------------ matches and halves
@dataclass(frozen=True)
class Half:
    """One video as a folder of images, called `prefix`, number with `digits` digits
    (1: not padded), `suffix`."""
    match: str                        # folder of the match, relative to the root
    number: int                       # 1 or 2 in SoccerNet
    folder: str
    prefix: str
    digits: int
    suffix: str
    first: int                        # number of the first image
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


IMAGE = re.compile(r".*\.(?:jpg|jpeg|png)", re.IGNORECASE)
IMAGE_NAME = re.compile(r"(.*?)(\d+)(\.(?:jpg|jpeg|png))", re.IGNORECASE)
HALF_NAME = re.compile(r"(?:half[_-]?)?(\d{1,2})(?:_.*)?", re.IGNORECASE)       # 1_224p, 1, half1


def walk(root):
    """Yields (folder, names of the folders in it, names of its files) as os.walk does, in order.

    Links are followed, every real folder is visited once. Hidden files and what macOS leaves behind
    (`._*`, `__MACOSX`) are left out.
    """
    def unreadable(error):             # not one match too few without a word
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); change its "
                        "permissions, or move it elsewhere")

    visited = set()
    for folder, below, files in os.walk(root, followlinks=True, onerror=unreadable):
        where = os.stat(folder)
        if (where.st_dev, where.st_ino) in visited:        # a link back up, or to a place seen
            below.clear()
            continue
        visited.add((where.st_dev, where.st_ino))
        below[:] = sorted(name for name in below if name != "__MACOSX" and name[0] != ".")
        yield folder, below, [name for name in files if name[0] != "."]


def describe_content(folder):
    """"; runs/ holds a.mp4, b/ and 12 more": the end of a message about a file missing in runs/."""
    folder = Path(folder)
    if not folder.is_dir():
        return ""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir()
                   if path.name[0] != ".")
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"; {folder}/ holds {', '.join(names[:6]) + more if names else 'nothing'}"


def natural(name):
    """A key that sorts names as people do: half2 before half10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(name))]


def find_halves(root, split=None):
    """All halves below `root`, sorted by match and number; with `split` only those of its games.

    Raises DataError if there are none, if frames are missing in the middle of a half, or if two
    folders claim to be the same half.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give --data the folder above your frame folders"
                        f"{describe_content(root.parent)}")
    folders, odd = collections.defaultdict(list), None     # match -> [(folder, images)]
    for folder, _, files in walk(root):
        images = [m for m in map(IMAGE_NAME.fullmatch, files) if m]
        if images:
            match = os.path.relpath(Path(folder).parent, root) if Path(folder) != root else "."
            folders[match].append((Path(folder), images))
        else:
            odd = odd or next((Path(folder, name) for name in files if IMAGE.fullmatch(name)), None)
    if not folders and odd:
        raise DataError(f"{odd}: the name of a frame must end in its number, as frame1.jpg does; "
                        "rename the frames")
    if not folders:
        raise DataError(f"{root}: no folder of .jpg or .png frames below it; make frames from "
                        "videos with python -m comedian.prepare frames, or see the layouts in "
                        f"docs/soccernet.md{describe_content(root)}")
    halves = []
    for match, videos in sorted(folders.items()):
        videos.sort(key=lambda video: natural(video[0].name))
        names = [HALF_NAME.fullmatch(folder.name) for folder, _ in videos]
        numbers = ([int(name[1]) for name in names] if all(names)
                   else range(1, len(videos) + 1))         # any other names: in their order
        if len(set(numbers)) < len(videos):
            raise DataError(f"{root / match}: two folders for one half "
                            f"({', '.join(folder.name for folder, _ in videos)}); keep one of them")
        halves += [frame_folder(match, number, folder, images)
                   for number, (folder, images) in zip(numbers, videos, strict=True)]
    halves.sort(key=lambda half: (half.match, half.number))
    return in_split(halves, split, root) if split else halves


def frame_folder(match, number, folder, images):
    """A Half from the regex matches of its image names; checks that the numbering has no hole."""
    numbers = sorted(int(m[2]) for m in images)
    have = set(numbers)
    if not numbers[-1] - numbers[0] + 1 == len(numbers) == len(have):
        hole = next((i for i in range(numbers[0], numbers[-1]) if i not in have), numbers[0])
        raise DataError(f"{folder}: frame number {hole} is missing or exists twice "
                        f"({len(numbers)} images, numbers {numbers[0]} to {numbers[-1]}); "
                        "extract this half's frames again")
    sample = images[0]
    digits = min(len(m[2]) for m in images)                # 1 where numbers are not padded
    return Half(match, number, str(folder), sample[1], digits, sample[3],
                numbers[0], len(numbers), read_rate(folder / "fps.txt"))


def read_rate(path):
    """The frames per second that a folder's fps.txt gives, if there is one."""
    if not path.exists():
        return DEFAULT_FPS
    text = formats.read_text(path, "a rate in frames per second").strip()
    try:
        fps = float(text)
    except ValueError:
        fps = 0.0
    if not 0.01 <= fps <= 1000:
        raise DataError(f"{path}: has {text[:40]!r}; write the frames per second, one number from "
                        "0.01 to 1000")
    return fps


def of_length(halves, n_tokens, what):
    """Halves with at least `n_tokens` tokens; prints how many are too short. DataError if all are.
    """
    long = [half for half in halves if half.n_tokens >= n_tokens]
    if not long:
        raise DataError(f"{halves[0].folder}: no half is as long as {what} ({n_tokens} tokens; the "
                        f"longest has {max(half.n_tokens for half in halves)}); give longer videos"
                        + (" or a shorter --window" if "window" in what else ""))
    if len(long) < len(halves):
        print(f"data: {len(halves) - len(long)} of {len(halves)} halves are shorter than {what}: "
              "left out")
    return long


def describe(halves, root, image_size=None):
    """The first line of a run: what was found below `root`; and a hint if the frames are much
    larger than the network's image, `image_size` pixels on each side."""
    rates = sorted({half.fps for half in halves})
    rates = f"{rates[0]:g} fps" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g} fps"
    hours = sum(half.n_frames / half.fps for half in halves) / 3600
    extra = sorted({half.number for half in halves} - {1, 2})
    large = ""
    if image_size:
        height, width, _ = read_frame(halves[0].path(0)).shape
        if height * width > LARGE * image_size ** 2:
            large = (f"\nhint: the frames have {width}x{height} pixels, the network's image has "
                     f"{image_size}x{image_size}: reading them would take most of the time; "
                     "python -m comedian.prepare frames --size writes smaller ones")
    return (f"data: {root}: {len({half.match for half in halves})} matches, {len(halves)} halves, "
            f"{sum(half.n_frames for half in halves):,} frames at {rates} ({hours:.1f} h), "
            f"like {Path(halves[0].path(0)).relative_to(root)}"
            + (f"; halves {', '.join(map(str, extra))} are spotted and trained on, but SoccerNet's "
               "metric counts only halves 1 and 2" if extra else "") + large)


def open_halves(root, split=None, image_size=None):
    """The halves that `find_halves` finds; prints the line of `describe`."""
    halves = find_halves(root, split)
    print(describe(halves, root, image_size))
    return halves


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
            games += formats.read_lines(path, "a list of games")
        except DataError:
            known = ", ".join(sorted(known.stem for known in SPLITS.glob("*.txt")))
            raise DataError(f"{names}: neither a text file with a game per line nor names of lists "
                            f"joined by + ({known}); give one of these") from None
    if not games:
        raise DataError(f"{names}: an empty list of games; give one with a game per line")
    return games


def in_split(items, names, root, complete=False):
    """Those of `items`, halves or matches below `root`, that belong to the games of `names` (see
    `read_games`), in their order. Prints how many of these games there are.

    Games are compared by the last three parts of their path (a shorter line by all of its parts),
    so <root>/test/<league>/... and <root>/<league>/... are the same game. A space equals _, and the
    encoding of accents does not matter. DataError if none is found, or with `complete` if one is
    missing.
    """
    def key(path, n_parts):
        return tuple(unicodedata.normalize("NFC", part.replace(" ", "_"))
                     for part in Path(path).parts[-n_parts:])

    games = {key(game, 3): game for game in read_games(names)}
    lengths = sorted({len(parts) for parts in games})
    found, kept = set(), []
    for item in items:
        path = Path(root).resolve() / (item if isinstance(item, str) else item.match)
        named = {key(path, n) for n in lengths} & games.keys()         # games that it may be
        if named:
            found |= named
            kept.append(item)
    missing = [game for parts, game in games.items() if parts not in found]
    if not kept or (complete and missing):
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise DataError(f"{root}: {len(missing)} of the {len(games)} games of {names} are not "
                        f"below it: {'; '.join(missing[:10])}{more}")
    print(f"data: {root}: {len(found)} of the {len(games)} games of {names}")
    return kept


# ------------------------------------------------------------------ frames
MAX_PIXELS = 8192 * 8192              # of one frame; a header that promises more is a damaged one
MAX_BYTES = 2 ** 28                   # read of one file: more than so many pixels take


def opencv():
    """The module cv2, imported when the first image is read. DataError if it cannot be imported:
    its wheel needs libGL, which servers often lack."""
    try:
        import cv2
    except ImportError as error:
        raise DataError(f"OpenCV cannot be imported ({error}); on a machine without a screen: pip "
                        "uninstall opencv-python && pip install opencv-python-headless") from None
    return cv2


def read_frame(path):
    """(H, W, 3) uint8, red first. DataError names a file that is missing, cut short or no image."""
    mend = "extract this half's frames again"
    try:
        if not os.path.isfile(path):                       # a fifo or a device would never end
            raise DataError(f"{path}: missing, or not a file; {mend}")
        with open(path, "rb") as file:
            # Not read(MAX_BYTES): Python takes that much memory first, for every frame.
            content = file.read(min(os.fstat(file.fileno()).st_size, MAX_BYTES))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {mend}") from None
    # Of a JPEG that was cut short OpenCV makes a picture, grey where nothing is left. The marker
    # that ends a JPEG cannot occur within its pixels; some writers add a few bytes after it.
    if content.startswith(b"\xff\xd8") and b"\xff\xd9" not in content[-1024:]:
        raise DataError(f"{path}: cut short; {mend}")
    pixels = promised_pixels(content)
    if not pixels:                                         # OpenCV would read other formats, too
        raise DataError(f"{path}: empty or not an image, JPEG or PNG; {mend}")
    if pixels > MAX_PIXELS:
        raise DataError(f"{path}: its header claims more than {MAX_PIXELS:,} pixels; {mend}")
    cv2 = opencv()
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        image = None
    if image is None:
        raise DataError(f"{path}: empty or not an image; {mend}")
    return image


def promised_pixels(content):
    """Height times width by the header of a PNG or JPEG, before anything is decoded; 0: neither."""
    if content.startswith(b"\x89PNG"):
        return int.from_bytes(content[16:20], "big") * int.from_bytes(content[20:24], "big")
    at = 2                                                 # a JPEG is a chain of segments
    while content.startswith(b"\xff\xd8") and content[at:at + 1] == b"\xff":
        kind = content[at + 1:at + 2].hex()
        if kind == "ff":                                   # any number of these may come before
            at += 1
            continue
        if "c0" <= kind <= "cf" and kind not in ("c4", "c8", "cc"):                # start of frame
            return (int.from_bytes(content[at + 5:at + 7], "big")
                    * int.from_bytes(content[at + 7:at + 9], "big"))
        at += 2 + int.from_bytes(content[at + 2:at + 4], "big")
    return 0


class FrameReader:
    """Decodes the frames of many clips or windows in a pool of threads (OpenCV frees the lock)."""

    def __init__(self, workers=0, for_gpu=False):
        self.pool = concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count())
        self.for_gpu = for_gpu

    def read(self, picks, n_frames):
        """picks: B pairs (half, first frame). Returns (B, n_frames, H, W, 3) uint8 on the host, for
        a GPU in page-locked memory, from which it fetches while it computes."""
        import torch                  # here: who only looks for frames need not wait for it
        half, frame = picks[0]
        shape = read_frame(half.path(frame)).shape
        frames = torch.empty((len(picks), n_frames, *shape), dtype=torch.uint8,
                             pin_memory=self.for_gpu)                   # (B, T, H, W, 3)
        out = frames.numpy()

        def decode(b):
            half, first = picks[b]
            for t in range(n_frames):
                image = read_frame(half.path(first + t))
                if image.shape != shape:
                    raise DataError(f"{half.path(first + t)}: "
                                    f"{image.shape[1]}x{image.shape[0]} pixels, "
                                    f"others have {shape[1]}x{shape[0]}; "
                                    "extract all frames of a run in one size")
                out[b, t] = image

        for _ in self.pool.map(decode, range(len(picks))):
            pass                                            # raises here what a thread raised
        return frames

    def batches(self, load, steps):
        """Yields (step, load(step)) for `steps` in order.

        For a GPU batches are loaded two steps ahead in a thread. On a CPU they are not: decoding
        would take the cores that the step needs (up to 13 % slower, benchmarks/throughput.txt).
        `load` must depend on the step alone: then nothing is lost or repeated when a run is
        resumed.
        """
        batches = map(load, steps)
        return zip(steps, ahead(batches) if self.for_gpu else batches, strict=True)


def ahead(items, depth=2):
    """The items of an iterator in order, made in a thread up to `depth` ahead of their use."""
    end = object()
    with concurrent.futures.ThreadPoolExecutor(1) as runner:
        def order():
            return runner.submit(next, items, end)

        pending = collections.deque(order() for _ in range(depth))
        try:
            while True:
                pending.append(order())
                item = pending.popleft().result()
                if item is end:
                    return
                yield item
        finally:
            for future in pending:
                future.cancel()
