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


def find_halves(root):
    """All halves below `root`, sorted by match and number.

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
    return sorted(halves, key=lambda half: (half.match, half.number))


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
                        f"{max(half.n_tokens for half in halves)}): choose a shorter --window")
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


# ------------------------------------------------------------------ frames
def read_frame(path):
    """(H, W, 3) uint8, red first. DataError names a file that is missing or not an image."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path}: missing, empty or not an image; extract this half's frames again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class FrameReader:
    """Decodes the frames of many clips or windows in a pool of threads (OpenCV frees the lock)."""

    def __init__(self, workers=0):
        self.pool = concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count())

    def read(self, picks, n_frames):
        """picks: B pairs (half, first frame). Returns (B, n_frames, H, W, 3) uint8 on the host."""
        half, frame = picks[0]
        shape = read_frame(half.path(frame)).shape
        out = np.empty((len(picks), n_frames, *shape), np.uint8)        # (B, T, H, W, 3)

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
        return torch.from_numpy(out)


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
    return features


# ------------------------------------------------------------------ windows of a half
def window_starts(n_tokens, window, stride):
    """First tokens of windows that cover a half: 0, stride, 2 stride, ... and one ending with it.

    A half shorter than the window gets one window, as long as the half.
    """
    if n_tokens <= window:
        return [0]
    starts = list(range(0, n_tokens - window + 1, stride))
    return starts if starts[-1] == n_tokens - window else [*starts, n_tokens - window]


# ------------------------------------------------------------------ images in batch
# Each takes x (B, T, 3, H, W), float in [0, 1], and draws one number per sample: all T frames of a
# clip or window share it, so that the only motion the network sees is the match's own. Draws are
# made on the CPU (the same on every device). `p` is the share of samples that an operation touches;
# only they are worked on, and x is changed in place where it keeps its size.
LUMA = (0.299, 0.587, 0.114)          # ITU-R BT.601, as in every image library


def to_float(frames, device):
    """(B, T, H, W, 3) uint8 on host -> (B, T, 3, H, W) float32 grey levels 0..255 on `device`."""
    return frames.to(device, non_blocking=True).permute(0, 1, 4, 2, 3).contiguous().float()


def some(n, p, device):
    """Which of n samples: indices, each there with probability p."""
    return torch.nonzero(torch.rand(n) < p)[:, 0].to(device)


def per_sample(values, x):
    """(B,) -> (B, 1, 1, 1, 1) on x's device."""
    return values.to(x.device, x.dtype, non_blocking=True).view(-1, 1, 1, 1, 1)


def separable(x, rows, columns):
    """rows (B, H', H) @ x (B, T, C, H, W) @ columns (B, W', W)^T -> (B, T, C, H', W').

    Resizing, cropping and blurring are all of this form: two matrix products per sample.
    """
    B, T, C, H, W = x.shape
    x = x.reshape(B, T * C * H, W) @ columns.to(x).transpose(1, 2)            # (B, T C H, W')
    x = x.view(B, T * C, H, columns.shape[1]).transpose(1, 2).flatten(2)      # (B, H, T C W')
    x = (rows.to(x) @ x).view(B, rows.shape[1], T, C, columns.shape[1])       # (B, H', T, C, W')
    return x.permute(0, 2, 3, 1, 4).contiguous()


def resize_matrix(start, length, n_in, n_out):
    """(B, n_out, n_in): bilinear resampling of pixels [start, start + length) to n_out pixels.

    With antialiasing, as PIL and torch's antialias=True: the triangle is widened by the shrink
    factor and cut off at the crop's border. start, length: (B,).
    """
    start, length = start.view(-1, 1, 1).float(), length.view(-1, 1, 1).float()
    scale = length / n_out                                    # input pixels per output pixel
    centre = start + (torch.arange(n_out)[:, None] + 0.5) * scale             # (B, n_out, 1)
    pixel = torch.arange(n_in)[None, None] + 0.5                              # (1, 1, n_in)
    weight = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    weight = weight * ((pixel > start) & (pixel < start + length))            # (B, n_out, n_in)
    return weight / weight.sum(2, keepdim=True)


def crop_resize(x, box, size):
    """Cuts box (B, 4) = top, left, height, width out of x, in grey levels 0..255, to size x size.

    Rounded to grey levels as if the resized image had been stored, then scaled to [0, 1].
    """
    top, left, height, width = box.unbind(1)
    rows = resize_matrix(top, height, x.shape[3], size)
    columns = resize_matrix(left, width, x.shape[4], size)
    return separable(x, rows, columns).round_().clamp_(0, 255).div_(255)


def resize(x, size):
    """Whole frames squeezed to size x size (398x224 loses its aspect, as in the official code)."""
    if x.shape[3] == x.shape[4] == size:
        return x / 255
    box = torch.tensor([[0, 0, x.shape[3], x.shape[4]]])
    return crop_resize(x, box.expand(len(x), 4), size)


def random_boxes(n, height, width, scale, ratio):
    """(n, 4) boxes of random area (share `scale` of the frame) and aspect `ratio` = width / height.

    Like torchvision's RandomResizedCrop: ten tries per box, then the largest box of legal aspect.
    """
    area = height * width * torch.empty(n, 10).uniform_(*scale)
    aspect = torch.empty(n, 10).uniform_(*np.log(ratio)).exp()                # log-uniform
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)                             # the first try that fits
    w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
    none = ~fits.any(1)                                                       # fallback, centred
    legal = min(max(width / height, ratio[0]), ratio[1])
    w[none], h[none] = round(min(width, height * legal)), round(min(height, width / legal))
    place = torch.rand(2, n)
    place[:, none] = 0.5
    top = (place[0] * (height - h + 1)).floor().minimum(height - h)
    left = (place[1] * (width - w + 1)).floor().minimum(width - w)
    return torch.stack([top, left, h, w], 1)


def luminance(x):
    """(B, T, 3, H, W) -> (B, T, 1, H, W)."""
    red, green, blue = x.split(1, dim=2)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def brightness(x, factor):
    """x times factor (B,); new tensor, like the next three."""
    return (x * per_sample(factor, x)).clamp_(0, 1)


def contrast(x, factor):
    """Away from or towards the frame's mean luminance."""
    mean = luminance(x).mean((3, 4), keepdim=True)
    return torch.lerp(mean, x, per_sample(factor, x)).clamp_(0, 1)


def saturation(x, factor):
    """Away from or towards grey; factor 0 is a grey image."""
    return torch.lerp(luminance(x), x, per_sample(factor, x)).clamp_(0, 1)


def hue(x, shift):
    """Turns the colour circle by `shift` of a full turn, in [-0.5, 0.5] (through HSV)."""
    top, bottom = x.amax(2), x.amin(2)                                        # (B, T, H, W)
    red, green, blue = x.unbind(2)
    chroma = (top - bottom).clamp(min=1e-8)
    h = torch.where(top == red, (green - blue) / chroma,
                    torch.where(top == green, 2 + (blue - red) / chroma,
                                4 + (red - green) / chroma))
    h = h + 6 * per_sample(shift, x)[:, :, 0]
    # A channel of a colour with hue h (in sixths of a turn), value v and chroma c is
    # v - c * m(n + h) with n = 5, 3, 1 for red, green, blue: the closed form of the six-case
    # HSV to RGB table.
    k = torch.stack([h + 5, h + 3, h + 1], 2) % 6                             # (B, T, 3, H, W)
    return top[:, :, None] - (top - bottom)[:, :, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def color_jitter(x, strength, p):
    """Brightness, contrast, saturation and hue by factors within 1 +- strength, in random order.

    strength: four numbers (0 = off). The order is one per batch.
    """
    i = some(len(x), p, x.device)
    part = x[i]
    for k in torch.randperm(4).tolist():
        if strength[k]:
            draw = torch.empty(len(i)).uniform_(-strength[k], strength[k])
            part = (hue(part, draw) if k == 3
                    else (brightness, contrast, saturation)[k](part, 1 + draw))
    x[i] = part
    return x


def grayscale(x, p):
    """Same luminance in all channels."""
    i = some(len(x), p, x.device)
    x[i] = luminance(x[i]).expand(-1, -1, 3, -1, -1)
    return x


def blur_matrix(sigma, n, radius):
    """(B, n, n): Gaussian blur of n pixels with 2 radius + 1 taps, edges reflected.

    sigma (B,) in pixels.
    """
    offset = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)                 # (B, 2 radius + 1)
    weight = weight / weight.sum(1, keepdim=True)
    source = (torch.arange(n)[:, None] + offset).abs()                        # reflected at 0 ...
    source = (n - 1) - ((n - 1) - source).abs()                               # ... and at n - 1
    matrix = torch.zeros(len(sigma), n, n)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1),
                               weight[:, None].expand(-1, n, -1))


def gaussian_blur(x, p, sigma=(0.1, 2.0), radius=11):
    """sigma and radius (11: 23 taps) in pixels of a 224-pixel frame, scaled to x's width."""
    i = some(len(x), p, x.device)
    draw = torch.empty(len(i)).uniform_(*sigma) * (x.shape[4] / 224)
    radius = max(1, round(radius * x.shape[4] / 224))
    x[i] = separable(x[i], *(blur_matrix(draw, n, radius) for n in x.shape[3:]))
    return x


def solarize(x, p, threshold=0.5):
    """Inverts the pixels at or above the threshold."""
    i = some(len(x), p, x.device)
    part = x[i]
    x[i] = torch.where(part >= threshold, 1 - part, part)
    return x


def hflip(x, p):
    """Mirrors left and right."""
    i = some(len(x), p, x.device)
    x[i] = x[i].flip(4)
    return x


def normalize(x, per_frame=False):
    """What the network eats: (x - 0.45) / 0.225 (official code, all channels), or, with
    per_frame, each channel of each frame to mean 0 and deviation 1 (ours; small
    networks learn much faster)."""
    if not per_frame:
        return (x - 0.45) / 0.225
    flat = x.flatten(3)                                                       # (B, T, 3, H W)
    flat = flat - flat.mean(3, keepdim=True)
    deviation = flat.norm(dim=3, keepdim=True) / flat.shape[3] ** 0.5
    return flat.div_(deviation + 1e-3).view(x.shape)
