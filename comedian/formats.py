"""
Files that anybody may have written, read with care: text, JSON, zip, numpy's .npy and .npz.

Every file of these kinds is read through here, once for all formats that are built on them. A file
is opened only if it is a regular one (a fifo never ends, a device neither), what it promises is
compared with what it can hold before any memory is taken, and whatever is wrong is a DataError:

    FILE: not WHAT (the reason); what to do.

WHAT, in words, comes from the caller: "a SoccerNet label file". Nothing here runs code of a file.
"""
import contextlib
import hashlib
import json
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from comedian import DataError

TEXT_BYTES = 2 ** 24                  # of a list of classes or games
JSON_BYTES = 2 ** 26                  # labels have 0.1 MB, predictions of a match some 10 MB
ZIP_BYTES = 2 ** 26                   # this much may be in any zip, however small;
ZIP_RATIO = 100                       # in a larger one this many times its own size
MEND = "copy or make it again"


def refused(path, what, reason):
    """The DataError for a file that is not what it should be."""
    return DataError(f"{path}: not {what} ({reason}); {MEND}")


# ------------------------------------------------------------------ bytes and text
def open_file(path):
    """Opens a regular file for reading, in binary. OSError for what is none: a fifo, a device."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(0, "it is not a regular file", str(path))
    return file


def read_bytes(path, what, limit):
    """The bytes of a file or of a Member of a zip, at most `limit` of them, or DataError."""
    if isinstance(path, Member):
        return read_member(path, what, limit)
    try:
        with open_file(path) as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise refused(path, what, error.strerror) from None
    if len(content) > limit:
        raise refused(path, what, f"it has more than {limit // 2 ** 20} MiB")
    return content


def read_text(path, what, limit=TEXT_BYTES):
    """A text in UTF-8, with or without the mark that some editors put before it."""
    try:
        return read_bytes(path, what, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refused(path, what, f"byte {error.start} is not UTF-8") from None


def read_lines(path, what):
    """The lines of a text that are not empty, without the blanks around them."""
    return [line.strip() for line in read_text(path, what).splitlines() if line.strip()]


# ------------------------------------------------------------------ JSON
def parse_json(text):
    """The value that a JSON text describes; ValueError if it is none, or nested too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_json(path, what):
    """The value in a JSON file, with or without a mark before it, gzipped or not, or in a Member of
    a zip."""
    content = read_bytes(path, what, JSON_BYTES)
    try:
        if content[:2] == b"\x1f\x8b":
            unpack = zlib.decompressobj(wbits=31)
            content = unpack.decompress(content, 4 * JSON_BYTES)
            if not unpack.eof:
                raise ValueError("its end is missing, or it is too large")
        return parse_json(content.decode("utf-8-sig"))
    except (ValueError, zlib.error) as error:              # UnicodeDecodeError is one, too
        raise refused(path, what, f"{type(error).__name__}: {error}") from None


def read_list(path, key, what):
    """The list under `key` of a JSON file; `path` may lie in a zip (Member)."""
    content = read_json(path, what)
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise refused(path, what, f"it has no list called {key!r}")
    return content[key]


@contextlib.contextmanager
def malformed(path, which, wants):
    """DataError, naming the entry `which` of a file, where it lacks what it must have."""
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{path}: {which} has a malformed or missing {wants} ({reason})") from None


KINDS = {str: "text", list: "list", dict: "object", int: "whole number", float: "number"}


def value_of(entry, name, kind, *default):
    """What a JSON object has under this name, of a kind of KINDS, a number also as text; where it
    has nothing or null, the default. KeyError or ValueError if there is none."""
    if not isinstance(entry, dict):
        raise ValueError(f"{json.dumps(entry)[:40]} is no object")
    value = entry.get(name)
    if default and value is None or name not in entry:
        return default[0] if default else entry[name]
    try:
        if isinstance(value, kind) or kind in (int, float):
            return kind(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} is {json.dumps(value)[:40]}, no {KINDS[kind]}")


# ------------------------------------------------------------------ zip
# What the zipfile module raises for a damaged archive, by its parts. (NotImplementedError, for what
# it does not know, is a RuntimeError, as is its word for an encrypted member.)
ZIP_ERRORS = (zipfile.BadZipFile, RuntimeError, ValueError, OverflowError, EOFError, OSError,
              struct.error, zlib.error)


class Member(NamedTuple):
    """A file in a zip; its name in words is that of the zip, then its own."""
    archive: zipfile.ZipFile
    info: zipfile.ZipInfo

    def __str__(self):
        return f"{self.archive.filename}/{self.info.filename}"


def is_zip(path):
    """Whether a file begins as a zip does. OSError if it cannot be read."""
    with open_file(path) as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def open_zip(path, what, name=None):
    """[Member] of a zip: all its files, or those called `name` in whatever folder.

    DataError for a damaged directory, for names that are there twice or lead out of the archive,
    for encrypted or oddly compressed members, and if they promise to be larger than all of
    ZIP_BYTES and ZIP_RATIO times the file. Nothing is unpacked yet.
    """
    try:
        file = open_file(path)
        size = os.fstat(file.fileno()).st_size
        archive = zipfile.ZipFile(file)
    except ZIP_ERRORS as error:
        raise refused(path, what, f"as a zip it is damaged: {shown(error)}") from None
    members = [Member(archive, info) for info in archive.infolist()
               if not info.is_dir() and (name is None or is_file_named(info.filename, name))]
    names = set()
    for info in (member.info for member in members):
        parts = info.filename.replace("\\", "/").split("/")
        wrong = (f"{info.filename!r} occurs twice" if info.filename in names else
                 f"the name {info.filename!r} points outside the zip"
                 if ".." in parts or not parts[0] else
                 f"{info.filename!r} is encrypted" if info.flag_bits & 1 else
                 f"{info.filename!r} reaches beyond its end"
                 if info.header_offset + info.compress_size > size else
                 f"{info.filename!r} is compressed by a method that is not read"
                 if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else None)
        if wrong:
            raise refused(path, what, wrong)
        names.add(info.filename)
    total = sum(member.info.file_size for member in members)
    if total > max(ZIP_BYTES, ZIP_RATIO * size):
        raise refused(path, what, f"its {size:,} bytes claim to unpack to {total:,}")
    return members


def is_file_named(entry, name):
    """Whether an entry of a zip is a file of this name; what macOS adds beside files is none."""
    *folders, last = entry.split("/")
    return last == name and "__MACOSX" not in folders


def read_member(member, what, limit):
    """All bytes of a Member, checked against its size and checksum, or DataError."""
    archive, info = member
    if info.file_size > limit:
        raise refused(member, what, f"it has more than {limit // 2 ** 20} MiB")
    try:
        with archive.open(info) as file:
            content = file.read(info.file_size + 1)
    except ZIP_ERRORS as error:
        raise refused(member, what, f"in the zip it is damaged: {shown(error)}") from None
    if len(content) != info.file_size:
        raise refused(member, what, f"in the zip it has {len(content):,} of {info.file_size:,} "
                      "bytes")
    return content


def shown(error):
    """An exception of a library on one line, not too long."""
    return " ".join(f"{type(error).__name__} {error}".split())[:200]


# ------------------------------------------------------------------ numpy's arrays
class Header(NamedTuple):
    """The beginning of a .npy file."""
    shape: tuple
    dtype: np.dtype                   # of plain numbers or of text
    fortran_order: bool
    data_start: int                   # byte where the values begin


def parse_header(start, size):
    """The Header of a .npy file from its first bytes; `size`: how many it has in all.

    Numpy evaluates this text as Python. Here it is matched: a dict of three known entries.
    ValueError for anything else, for other types than numbers and text, and for more values than
    the file holds.
    """
    if start[:6] != b"\x93NUMPY" or len(start) < 12 or start[6] not in (1, 2, 3):
        raise ValueError("it does not begin as one")
    length_bytes = 2 if start[6] == 1 else 4
    data_start = 8 + length_bytes + int.from_bytes(start[8:8 + length_bytes], "little")
    text = start[8 + length_bytes:data_start].decode("latin-1")
    if data_start > len(start):
        raise ValueError("its header is cut short, or too long")
    found = [re.search(rf"'{key}':\s*{value}\s*[,}}]", text) for key, value in (
        ("descr", r"'([<>|=]?[a-zA-Z]\d{0,6})'"), ("fortran_order", "(True|False)"),
        ("shape", r"\(([\d, ]{0,200})\)"))]
    if "'O'" in text or "'|O" in text:
        raise ValueError("it holds Python objects: save the array in it alone")
    if not all(found):
        raise ValueError("its values are not plain numbers, or its header is damaged")
    try:
        dtype = np.dtype(found[0][1])
    except TypeError:
        raise ValueError(f"its values are of an unknown type, {found[0][1]}") from None
    if dtype.kind not in "biufcU" or not dtype.itemsize:
        raise ValueError(f"its values are {dtype}, not numbers")
    shape = tuple(int(n) for n in found[2][1].replace(" ", "").split(",") if n)
    if data_start + math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"cut short, its header promises {shape} of {dtype}")
    return Header(shape, dtype, found[1][1] == "True", data_start)


def parse_array(content):
    """The array of a .npy file from all its bytes, in this machine's byte order."""
    shape, dtype, fortran_order, data_start = parse_header(content, len(content))
    values = np.frombuffer(content, dtype, math.prod(shape), data_start)
    values = values.reshape(shape, order="F" if fortran_order else "C")
    return values.astype(dtype.newbyteorder("="))


def open_array(path, what="a plain .npy array"):
    """The Header of a .npy file. DataError if it is damaged, FileNotFoundError if not there."""
    try:
        with open_file(path) as file:
            return parse_header(file.read(2 ** 16), os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise refused(path, what, getattr(error, "strerror", None) or error) from None


def read_npz(path, what):
    """{name: array} of a .npz. DataError if one of them is no plain array."""
    arrays = {}
    for member in open_zip(path, what):
        name = member.info.filename
        try:
            if not name.endswith(".npy"):
                raise ValueError("it is no array")
            arrays[name.removesuffix(".npy")] = parse_array(
                read_member(member, what, member.info.file_size))
        except DataError:
            raise
        except ValueError as error:
            raise refused(member, what, error) from None
    return arrays


def checked_array(arrays, name, kinds, n_dims):
    """arrays[name], checked: of a type in `kinds` ("f", "iu", "U"), of n_dims dimensions, finite.
    ValueError says what is not so."""
    if name not in arrays:
        raise ValueError(f"{name} is missing")
    array = arrays[name]
    if array.dtype.kind not in kinds or array.ndim != n_dims:
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    return array


# ------------------------------------------------------------------ names and sums of files
VIDEO_NAME = re.compile(r"(?:half[_-]?)?([12])(?:_(\d+p|HQ))?|(\d{3,4}p)",        # 1_224p, 1, half1
                        re.IGNORECASE)                     # 224p: the ball-action set's only half
VIDEO_SUFFIXES = set(
    ".mkv .webm .mp4 .m4v .mov .qt .3gp .3g2 .flv .f4v .avi .divx .wmv .asf .mxf .gxf "
    ".ts .mts .m2ts .m2t .mpg .mpeg .vob .m2v .ogv .ogm .rm .rmvb .dv .h264 .h265 "
    ".hevc".split())
WEIGHTS, CONFIG = "model.safetensors", "config.json"       # in a folder of weights


def half_number(path):
    """1 or 2 if the file is named as the half of a match (1_224p.mkv, 2.mp4; 224p.mp4 is 1), else
    None."""
    name = VIDEO_NAME.fullmatch(Path(path).stem)
    return int(name[1] or 1) if name else None


def weights_file(path):
    """The file of a checkpoint: of a folder, as `comedian.share weights` writes it, its weights."""
    return Path(path, WEIGHTS) if Path(path).is_dir() else Path(path)


def sha256(path):
    """Of a file of any size, or of the weights in a folder; DataError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_file(weights_file(path)) as file:
            while part := file.read(2 ** 20):
                digest.update(part)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a file") from None
    return digest.hexdigest()
