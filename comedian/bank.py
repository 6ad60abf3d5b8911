"""
The bank P of stage 2: teacher features on disk, as unit vectors in memory, and what is computed
from them once and stored. The equations are in stage2_distill.py.

    <features>/<league>/<season>/<match>/1_<name>.npy      of half 1: (seconds, D_t), 1 per second
                                                           (or as many as --features-fps says)
"""
import hashlib
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from comedian import DataError, write_file, write_text
from comedian.command import file_name, number
from comedian.formats import open_array, sha256
from comedian.frames import CLIP_FRAMES

FEATURE_SLACK_S = 10                  # features and frames of a half may end this far apart
CHECKED_ROWS = 16                     # of a table are computed again when it is opened


def add_flags(add):
    """Adds the flags that say where stage 2 finds its teacher's features."""
    add("--features", help="folder of the teacher features; default: --data")
    add("--features-name", type=file_name, default="pca_512_std_baidu_soccer_embeddings",
        help="reads <match>/<half>_NAME.npy, (rows, width)")
    add("--features-fps", type=number(0.01, 1000.0), default=1.0,
        help="rows per second of these files")


class Features(NamedTuple):
    """The features of one half, in a .npy file. Rows are read when they are needed, without a
    memory map: SoccerNet has more halves than files that many systems let a process open, and if a
    mapped file is cut, the system kills the process (SIGBUS) without a message."""
    path: Path
    shape: tuple                      # (rows, D_t)
    dtype: np.dtype
    fortran_order: bool               # column by column: of `values.T`, or of `values[:, columns]`
    data_start: int                   # byte of the file where row 0 begins
    fps: float = 1.0                  # rows per second: row k stands for [k, k + 1) / fps seconds

    def read(self, first, last):
        """Rows [first, last) as float32 unit vectors, (last - first, D_t)."""
        n_rows, width = self.shape
        if self.fortran_order:        # a piece of every column
            starts, length = range(first, n_rows * width, n_rows), last - first
        else:
            starts, length = [first * width], (last - first) * width
        values = np.empty((len(starts), length), self.dtype)
        with open(self.path, "rb") as file:
            for start, piece in zip(starts, values, strict=True):
                file.seek(self.data_start + start * self.dtype.itemsize)
                if file.readinto(piece) < piece.nbytes:
                    raise DataError(f"{self.path}: was cut short; extract this half's features "
                                    "again")
        rows = values.T if self.fortran_order else values.reshape(-1, width)
        with np.errstate(over="ignore"):                  # too large becomes inf: refused below
            rows = torch.from_numpy(np.ascontiguousarray(rows, np.float32))
        if not rows.isfinite().all():
            raise DataError(f"{self.path}: has values that are not finite; extract this half's "
                            "features again")
        return F.normalize(rows, dim=1)


def open_features(root, half, name, fps=1.0):
    """The Features of a half, `fps` rows per second: <root>/<match>/<half>_<name>.npy. DataError if
    they do not fit it."""
    path = Path(root) / half.match / f"{half.number}_{name}.npy"
    try:
        shape, dtype, fortran_order, data_start = open_array(path)
    except FileNotFoundError:
        there = sorted({file.stem[2:] for file in path.parent.glob("[0-9]_*.npy")})     # NAME
        raise DataError(f"{path}: no teacher features for this half; check --features and "
                        "--features-name" + (f" (the folder has {', '.join(there)})" if there
                                             else "")) from None
    if len(shape) != 2 or min(shape) < 1 or dtype.kind not in "fiu":
        raise DataError(f"{path}: features must be numbers of shape (seconds, width), got {shape} "
                        f"of {dtype}; save them in this shape")
    seconds = half.n_frames / half.fps
    if abs(shape[0] / fps - seconds) > FEATURE_SLACK_S:
        raise DataError(f"{path}: {shape[0]} rows for a half of {seconds:.0f} s, which is "
                        f"{shape[0] / seconds:.3g} rows per second instead of {fps:g}; correct "
                        "--features-fps, or extract this half's features again")
    return Features(path, shape, dtype, fortran_order, data_start, fps)


def describe_features(features, halves):
    """A line for the start of a run: number and width of the features, and how well they fit the
    frames. DataError if their widths differ."""
    width = features[0].shape[1]
    for f in features:
        if f.shape[1] != width:
            raise DataError(f"{f.path}: features of width {f.shape[1]}, but {features[0].path} has "
                            f"{width}; use one teacher for all halves")
    off_s = max(abs(f.shape[0] / f.fps - half.n_frames / half.fps)
                for f, half in zip(features, halves, strict=True))
    return (f"data: bank of {sum(f.shape[0] for f in features):,} features x {width}, "
            f"{features[0].fps:g} per second; they end within {off_s:.1f} s of the frames")


def feature_rows(first_frame, n_tokens, half, n_features, align, fps=1.0):
    """For each token of a window, the row of the half's features, (L,) int64: that of the second
    (or the fps-th part of one) of its clip's later frame ("middle") or earlier one ("first").
    Features may end up to FEATURE_SLACK_S before the frames: the last row is then used again."""
    frame = first_frame + CLIP_FRAMES * np.arange(n_tokens)           # first frame of each clip
    if align == "middle":
        frame = frame + CLIP_FRAMES // 2
    return np.minimum((frame / half.fps * fps).astype(np.int64), n_features - 1)


class Bank:
    """P, the features of all halves in use as unit vectors: `rows` (M, D_t), which the loss
    streams, on the device in `dtype`; their `ids` (M,), equal for equal rows; and those of a batch,
    `of_windows`, from the disk in float32, for `rows` may be rounded to bfloat16."""

    def __init__(self, features, halves, device, dtype):
        lengths = [f.shape[0] for f in features]
        self.features, self.halves = features, halves
        self.first_row = np.cumsum([0, *lengths])                     # of each half
        self.rows = torch.empty(sum(lengths), features[0].shape[1],
                                dtype=dtype, device=device)           # (M, D_t)
        for f, rows in zip(features, self.rows.split(lengths), strict=True):
            rows.copy_(f.read(0, f.shape[0]))
        self.ids = row_ids(self.rows)                                 # (M,)

    def of_windows(self, picks, window, align):
        """For the windows of a batch, pairs (half index, first frame): the feature P_i of every
        token (B, L, D_t), and its row number in the bank (B, L)."""
        p, index = [], []
        for h, first in picks:
            f = self.features[h]
            row = feature_rows(first, window, self.halves[h], f.shape[0], align, f.fps)   # (L,)
            p.append(f.read(row[0], row[-1] + 1)[row - row[0]])                           # (L, D_t)
            index.append(self.first_row[h] + row)
        return torch.stack(p), np.stack(index)


def row_ids(bank, chunk=2048):
    """(M,) int64, equal for equal rows: a random integer combination of their bits.

    Different rows get the same number about once in 2^63 pairs: among the 1.6 million features of
    SoccerNet's training matches with probability 1e-7 (rows of bfloat16, whose low bits are 0:
    once in 2^48 pairs, so 0.5 %). Two such rows would then be taken for one.
    """
    gen = torch.Generator().manual_seed(0)
    code = torch.randint(-2 ** 62, 2 ** 62, (bank.shape[1],), generator=gen).to(bank.device)
    return torch.cat([((rows.float() + 0).view(torch.int32) * code).sum(1)        # wraps around
                      for rows in bank.split(chunk)])                 # + 0, as -0.0 equals 0.0


def open_bank(root, name, fps, halves, process):
    """The Bank of the features of these halves, <root>/<match>/<half>_<name>.npy with `fps` rows a
    second; prints what was found. DataError for features that are missing or do not fit."""
    features = [open_features(root, half, name, fps) for half in halves]
    print(describe_features(features, halves))
    return Bank(features, halves, process.device,
                torch.bfloat16 if process.bf16 else torch.float32)


# ------------------------------------------------------------------ features that we write
def per_second(tokens, half):
    """(n_tokens, D) -> (seconds, D): row k is the token of second [k, k + 1) or, if fps is not 2,
    the token at its middle. The inverse of `feature_rows`."""
    seconds = np.arange(n_seconds(len(tokens), half))
    return tokens[np.minimum((seconds + 0.5) / half.token_s, len(tokens) - 1).astype(np.int64)]


def n_seconds(n_tokens, half):
    """Whole seconds that so many tokens of a half fill, at least 1."""
    return max(1, math.floor(n_tokens * half.token_s + 1e-6))


def side_by_side(tokens):
    """Tokens (n, D) of one network, or of several, (n, sum of D): each then of unit length, as in
    Baidu's bank of five networks, so that none outweighs another. On the CPU, float32."""
    tokens = [rows.float().cpu() for rows in tokens]
    return torch.cat([F.normalize(rows, dim=1) for rows in tokens] if len(tokens) > 1 else tokens,
                     1).numpy()


def made_by(checkpoints, bf16):
    """Identifies the networks that made features: the checksums of their checkpoints, and bf16."""
    sums = [sha256(path) for path in checkpoints]
    return {"checkpoint_sha256": sums[0] if len(sums) == 1 else sums, "bf16": bf16}


def missing_features(out, name, made_by, halves, width):
    """The halves whose features <out>/<match>/<half>_<name>.npy are missing or not whole. made_by:
    a dict that identifies the network; it is stored in <out>/<name>.json. DataError if another
    network made features of this name."""
    record, paths = Path(out, f"{name}.json"), [
        Path(out, half.match, f"{half.number}_{name}.npy") for half in halves]
    if record.exists() and record.read_text(errors="replace") != json.dumps(made_by):
        raise DataError(f"{record}: another network or other flags made the features of this name; "
                        "choose another name")
    if not record.exists() and any(path.exists() for path in paths):
        raise DataError(f"{out}: features called {name} exist, but this command did not make them; "
                        "choose another name")

    def is_whole(path, half):
        try:
            return open_array(path).shape == (n_seconds(half.n_tokens, half), width)
        except (DataError, FileNotFoundError):
            return False

    missing = [half for path, half in zip(paths, halves, strict=True) if not is_whole(path, half)]
    if len(missing) < len(halves):
        print(f"features: {len(halves) - len(missing)} of {len(halves)} halves exist already")
    return missing


def write_features(out, name, made_by, half, rows):
    """Writes the features of a half, one row a second, (seconds, D) float32."""
    write_text(Path(out, f"{name}.json"), json.dumps(made_by))
    write_file(Path(out, half.match, f"{half.number}_{name}.npy"),
               lambda file: np.save(file, rows))


def write_missing(out, name, made_by, halves, width, encode, rank, ranks, barrier):
    """Writes this process's share of the missing features, and prints how to use them.
    encode(halves) yields (half, rows (seconds, D))."""
    missing = missing_features(out, name, made_by, halves, width)
    barrier()                                              # all have looked before one writes
    mine = missing[rank::ranks]
    for half, rows in tqdm(encode(mine), desc="features", total=len(mine), unit="half",
                           disable=None if rank == 0 else True):
        write_features(out, name, made_by, half, rows)
    barrier()
    print(f"features: {out}/<match>/<half>_{name}.npy; stage2_distill.py --features-name {name}")


# ------------------------------------------------------------------ what the bank alone gives
class SoftTargets(NamedTuple):
    """What stage 2's loss needs that depends on the teacher alone, for n rows of the bank. The
    equations are in stage2_distill.py. On disk these are the columns of a table, (M, D_t + 2)."""
    centroid: torch.Tensor            # (n, D_t): the mean of the other rows, weighted by Eq. 4
    entropy: torch.Tensor             # (n,): of these weights
    log_n: torch.Tensor               # (n,): log of how many rows are equal to this one

    def pack(self):
        """As rows of the table, (n, D_t + 2)."""
        return torch.cat([self.centroid, self.entropy[:, None], self.log_n[:, None]], 1)

    @classmethod
    def unpack(cls, rows):
        """From rows of the table, (..., D_t + 2): the three of (..., D_t), (...), (...)."""
        return cls(rows[..., :-2], rows[..., -2], rows[..., -1])


def open_soft_targets(folder, bank, name, process, make):
    """The packed SoftTargets of a whole bank, (M, D_t + 2), memory-mapped from
    <folder>/centroids_<name>_<fingerprint>.npy, which is made if it is missing. make(index): the
    SoftTargets of the bank rows `index` (n,)."""
    if (bank.ids == bank.ids[0]).all():
        raise DataError(f"{bank.features[0].path}: all {len(bank.ids):,} features of the bank are "
                        "equal, so Eq. 4 has nothing to compare; extract the features again")

    path = Path(folder, f"centroids_{name}_{fingerprint(bank.ids)}.npy")
    with process.first_alone():                            # it writes the file, the others read it
        return load_or_make(path, bank.rows, lambda index: make(index).pack())


def load_or_make(path, bank, make):
    """Averages of bank rows, a table (M, D_t + n_extra) float32, memory-mapped from `path`.

    make(index) computes the table's rows for these rows of the bank, (n,) int64 ->
    (n, D_t + n_extra): the average that belongs to each, then what else is kept with it.

    The file is made if it is missing, and made again, with a line that names the reason, if
      - its shape or type differ
      - a value is not finite
      - an average is zero, or longer than a unit vector
      - one of CHECKED_ROWS rows spread over the file, the last one among them, is not what `make`
        gives
      - the checksum (SHA-256) that ends the file is not that of its values.
    """
    path = Path(path)
    wrong = path.exists() and find_fault(path, bank, make)
    if wrong:
        print(f"data: {path}: {wrong}; computing it again")
    if wrong or not path.exists():
        width = make(torch.zeros(1, dtype=torch.int64)).shape[1]

        def save(file):
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": (len(bank), width)})
            checksum = hashlib.sha256()
            for rows in tqdm(torch.arange(len(bank)).split(1024), desc="soft centroids",
                             unit=" x 1024 rows", disable=None):
                values = make(rows).float().cpu().numpy().tobytes()
                checksum.update(values)
                file.write(values)
            file.write(checksum.digest())

        write_file(path, save)
        print(f"data: {path}: written")
    return mapped(path, open_array(path))


def mapped(path, header):
    """The table in a .npy file, memory-mapped. (np.load would parse the header again, and a flipped
    byte would raise something else than a DataError.)"""
    return np.memmap(path, header.dtype, "r", header.data_start, header.shape)


def find_fault(path, bank, make):
    """What is wrong with a stored table, as a text; None if nothing is."""
    try:
        header = open_array(path)
    except DataError:
        return "not a whole .npy array"
    rows = torch.linspace(0, len(bank) - 1, CHECKED_ROWS, dtype=torch.float64).long()
    again = make(rows).float().cpu().numpy()                          # (16, D_t + n_extra)
    shape, width = (len(bank), again.shape[1]), bank.shape[1]
    if header.dtype != np.float32 or header.shape != shape or header.fortran_order:
        return f"has shape {header.shape} of {header.dtype}, not {shape} of float32"
    table, checksum = mapped(path, header), hashlib.sha256()
    for first in range(0, len(table), 65536):
        part = table[first:first + 65536]
        checksum.update(part)
        if not np.isfinite(part).all():
            return "has values that are not finite"
        norm = np.linalg.norm(part[:, :width].astype(np.float64), axis=1)        # (65536,)
        if norm.min() == 0 or norm.max() > 1.01:                      # rounded, in bfloat16 perhaps
            return "has averages of unit vectors that are 0 or longer than 1"
    if not np.allclose(table[rows], again, rtol=1e-3, atol=1e-3):
        return "is of another bank, or damaged"
    with open(path, "rb") as file:
        file.seek(-32, 2)
        ending = file.read()
    if ending != checksum.digest():
        return "is damaged: its checksum is wrong"
    return None


def fingerprint(ids):
    """12 hexadecimal digits that identify a bank, from its `row_ids`."""
    return hashlib.sha256(ids.cpu().numpy().tobytes()).hexdigest()[:12]
