"""
What these tests prove about the bank on disk (comedian/bank.py) and the one way in which files are
written (comedian/__init__.py):
  1. features: rows are those that numpy.save wrote, as unit vectors; what does not fit is one line
  2. the bank: every feature, in the order of the halves; each token gets the second of its clip
  3. stored tables: the same on a terminal and off it, for any number of rows; what lies there is
     checked when it is opened, and made again, with a line that says why
  4. write_file: whole or not at all, with a full disk in one line and nothing left behind
"""
import contextlib
import io
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import half_of, refused
from conftest import unit as unit64

import stage2_distill as stage2
from comedian import DataError, bank, write_file, write_text
from comedian.frames import find_halves


def unit(*shape, seed=0):
    return unit64(*shape, seed=seed).float()


def a_feature_file(root, rows, **more):
    path = root / "m" / "1_teacher.npy"
    path.parent.mkdir(exist_ok=True)
    np.save(path, rows, **more)
    return path


# ------------------------------------------------------------------ 1. features
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "u2", "i8"])
@pytest.mark.parametrize("order", "CF")
def test_rows_are_those_that_were_saved(dtype, order, tmp_path):
    """Any part of them, in any numbers and order numpy has, as float32 unit vectors."""
    rows = (100 * np.random.default_rng(0).random((20, 6)) + 1).astype(dtype, order)
    a_feature_file(tmp_path, rows)
    features = bank.open_features(tmp_path, half_of(41), "teacher")
    assert features.shape == (20, 6)
    expected = rows.astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for first, last in ((0, 20), (0, 1), (7, 13), (19, 20)):
        got = features.read(first, last)
        assert got.dtype == torch.float32 and got.is_contiguous()
        np.testing.assert_allclose(got, expected[first:last], rtol=1e-6)


def test_long_headers_are_read(tmp_path):
    """numpy.save writes version 2 of the format where a header is long; some write it always."""
    path, rows = a_feature_file(tmp_path, np.zeros(1)), np.eye(5, dtype=np.float32)
    with open(path, "wb") as file:
        np.lib.format.write_array(file, rows, version=(2, 0))
    features = bank.open_features(tmp_path, half_of(10), "teacher")
    assert np.array_equal(features.read(0, 5), rows)


@pytest.mark.parametrize("seconds, fits", [
    (20, True), (10, True), (30, True), (9, False), (31, False)])
def test_features_end_about_where_the_frames_end(seconds, fits, tmp_path):
    """Ten seconds more or less: SoccerNet's own are not exact either."""
    a_feature_file(tmp_path, np.ones((seconds, 4)))
    with contextlib.nullcontext() if fits else pytest.raises(
            DataError, match=f"{seconds} rows for a half of 20 s, which is {seconds / 20:.3g} rows "
                             "per second instead of 1; correct --features-fps"):
        bank.open_features(tmp_path, half_of(40), "teacher")


def npy(header, size=4):
    """A .npy file with this header, and bytes for 20 rows of 4 numbers of `size` bytes."""
    n_bytes, version = (2, b"\1\0") if len(header) < 65536 else (4, b"\2\0")
    return (b"\x93NUMPY" + version + len(header).to_bytes(n_bytes, "little")
            + header.encode("latin1") + bytes(80 * size))


def described(shape, dtype="'<f4'", size=4):
    return npy(f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}", size)


STRANGE = [b"", b"\x93NUM", b"\x93NUMPY\1\0", b"\x93NUMPY\1\0\x76\0{", b"PK\3\4" + bytes(100),
           b"\x93NUMPY\x09\0" + bytes(100), npy(""), npy("[1]"), npy("{'descr': '<f4'}"),
           npy("{'descr': '<f4', 'fortran_order': 0, 'shape': 4}"), npy("{'descr':\n  'shape'"),
           *map(described, ("(-1, 4)", "(2**70, 4)", f"({2 ** 70}, 4)", "(4.5, 4)", "(True, 4)",
                            "(0, 4)")),
           *(described("(20, 4)", dtype, size) for dtype, size in
             (("'<M8[s]'", 8), ("[('a', '<f4')]", 4), ("'|b1'", 1), ("'<U1'", 4), ("'<c8'", 8),
              ("'|O'", 8), ("'q9'", 8))),
           *map(npy, ("(" * 10, "-" * 9000 + "1", "(" * 150 + ")" * 150, "'\\", "x" * 70000,
                      "\xff\xfe"))]


@pytest.mark.parametrize("content", STRANGE, ids=range(len(STRANGE)))
def test_a_strange_file_is_one_line(content, tmp_path):
    path = a_feature_file(tmp_path, np.zeros(1))
    path.write_bytes(content)
    with refused(match=f"^{path}: "):
        bank.open_features(tmp_path, half_of(40), "teacher")


# ------------------------------------------------------------------ 2. the bank
@pytest.mark.parametrize("first, align, fps, n_features, rows", [
    (0, "middle", 1, 12, [0, 1, 2]), (0, "first", 1, 12, [0, 1, 2]),     # from a whole second both
    (7, "middle", 1, 12, [4, 5, 6]),                 # clip of frames 7, 8: its middle is second 4.0
    (7, "first", 1, 12, [3, 4, 5]),                       # ... and it begins at 3.5, in second 3
    (20, "middle", 1, 12, [10, 11, 11]),             # features shorter than the half: the last row
    (7, "middle", 2.0, 100, [8, 10, 12]), (7, "middle", 0.5, 100, [2, 2, 3]),     # at other rates
    (7, "middle", 4.0, 100, [16, 20, 24]), (7, "middle", 1.5, 100, [6, 7, 9])])
def test_feature_of_a_token(first, align, fps, n_features, rows):
    assert bank.feature_rows(first, 3, half_of(40), n_features, align, fps).tolist() == rows


def test_feature_of_a_token_at_another_frame_rate():
    """At 25/12 fps a token lasts 0.96 s: after 25 tokens it is one second behind."""
    rows = bank.feature_rows(0, 100, half_of(200, fps=25 / 12), 1000, "middle")
    assert rows.tolist() == [int((2 * k + 1) / (25 / 12)) for k in range(100)]


def test_a_bank_of_two_features_per_second(tmp_path):
    rows = np.random.default_rng(0).standard_normal((41, 4)).astype(np.float32)
    a_feature_file(tmp_path, rows)
    half = half_of(40)
    with pytest.raises(DataError, match="which is 2.05 rows per second instead of 1; correct --"):
        bank.open_features(tmp_path, half, "teacher")
    features = [bank.open_features(tmp_path, half, "teacher", 2.0)]
    assert bank.describe_features(features, [half]) == (
        "data: bank of 41 features x 4, 2 per second; they end within 0.5 s of the frames")
    teacher = bank.Bank(features, [half], torch.device("cpu"), torch.float32)
    p, index = teacher.of_windows([(0, 3)], 5, "middle")  # later frames 4, 6, ..: the same rows
    assert index.tolist() == [[4, 6, 8, 10, 12]] and len(teacher.rows) == 41
    assert torch.equal(p[0], F.normalize(torch.from_numpy(rows[4:13:2]), dim=1))


def test_the_bank_is_every_feature_as_a_unit_vector(matches):
    """`of_windows` gives those of a window's tokens, and their places. 61 frames are 30.5 s."""
    halves = find_halves(matches)
    features = [bank.open_features(matches, half, "teacher") for half in halves]
    assert bank.describe_features(features, halves) == (
        "data: bank of 99 features x 12, 1 per second; they end within 0.5 s of the frames")
    teacher = bank.Bank(features, halves, torch.device("cpu"), torch.float32)
    saved = [np.load(matches / half.match / f"{half.number}_teacher.npy") for half in halves]
    expected = F.normalize(torch.from_numpy(np.concatenate(saved)), dim=1)
    assert torch.equal(teacher.rows, expected) and teacher.rows.shape == (99, 12)
    p, i = teacher.of_windows([(1, 3), (2, 0), (3, 31)], 8, "middle")
    assert p.shape == (3, 8, 12) and torch.equal(p, expected[torch.from_numpy(i)])
    assert i[0].tolist() == list(range(30 + 2, 30 + 10))  # frame 3 is 1.5 s into the second half
    assert i[1].tolist() == list(range(50, 58))
    assert i[2].tolist() == [*range(76 + 16, 99), 98]     # 23 seconds: the last one occurs twice
    assert teacher.of_windows([(3, 31)], 8, "first")[1].tolist() == [list(range(76 + 15, 99))]
    half = bank.Bank(features, halves, torch.device("cpu"), torch.bfloat16)
    assert half.rows.dtype == torch.bfloat16 and torch.equal(half.rows, expected.bfloat16())
    assert half.of_windows([(2, 0)], 8, "middle")[0].dtype == torch.float32


def test_ids_of_rows_are_equal_where_rows_are():
    P = unit(5000, 12)
    P[4000:4100] = P[:100]                                # across two chunks
    P[4900, :6], P[4901, :6] = 0.0, -0.0                  # equal by value, not bit by bit
    P[4901, 6:] = P[4900, 6:]
    ids = bank.row_ids(P)
    assert ids.dtype == torch.int64 and len(ids.unique()) == 5000 - 100 - 1
    assert torch.equal(ids[4000:4100], ids[:100]) and ids[4900] == ids[4901]
    assert torch.equal(ids, bank.row_ids(P, chunk=7))
    other = P.clone()
    other[50, 3] = torch.nextafter(P[50, 3], torch.tensor(2.0))       # the last bit of one
    assert (bank.row_ids(other) != ids).nonzero().tolist() == [[50]]
    other[50, 3], other[50, 4] = P[50, 4], P[50, 3]                   # the same numbers, swapped
    assert bank.row_ids(other)[50] != ids[50]
    halves = P[:100].bfloat16()
    assert len(bank.row_ids(halves).unique()) == len(halves.unique(dim=0))


# ------------------------------------------------------------------ 3. stored tables
def maker(P, tau_m=0.07):
    """What stage 2 gives to `load_or_make`: Eq. 4 for some rows."""
    ids = bank.row_ids(P)
    return lambda rows: stage2.soft_targets(rows, P, tau_m, ids).pack()


def dense(P, tau_m=0.07):
    """The soft targets of all rows at once, for a bank without equal rows."""
    logits = (P @ P.T / tau_m).fill_diagonal_(-torch.inf)
    s2 = logits.softmax(1)
    return torch.cat([s2 @ P, -torch.xlogy(s2, s2).sum(1, keepdim=True), torch.zeros(len(P), 1)], 1)


@pytest.mark.parametrize("rows", [5, 1024, 1025, 2048])  # below, at, above a chunk; two chunks
@pytest.mark.parametrize("on", [True, False])
def test_a_table_is_the_same_on_a_terminal_and_off_it(rows, on, tmp_path, monkeypatch, capsys):
    """Off it a progress bar never counts."""
    stream = io.StringIO()
    stream.isatty = lambda: on
    monkeypatch.setattr(sys, "stderr", stream)
    P, path = unit(rows, 6), tmp_path / "new folder" / "table.npy"
    table = bank.load_or_make(path, P, maker(P))
    assert ("soft centroids" in stream.getvalue()) == on
    assert isinstance(table, np.memmap) and table.shape == (rows, 8) and table.dtype == np.float32
    np.testing.assert_allclose(table, dense(P), rtol=1e-3, atol=1e-4)
    assert [file.name for file in path.parent.iterdir()] == ["table.npy"]
    assert capsys.readouterr().out == f"data: {path}: written\n"


def test_a_table_is_made_once(tmp_path, capsys):
    """The second time only the 16 rows that are checked are computed, the last one among them."""
    P, asked = unit(1500, 6), []

    def spied(rows):
        asked.append(rows.tolist())
        return maker(P)(rows)

    first = np.array(bank.load_or_make(tmp_path / "t.npy", P, spied))
    assert sorted(sum(asked[1:], [])) == list(range(1500))            # asked[0]: how wide it is
    asked.clear()
    written = (tmp_path / "t.npy").stat().st_mtime_ns
    capsys.readouterr()
    assert np.array_equal(bank.load_or_make(tmp_path / "t.npy", P, spied), first)
    assert (tmp_path / "t.npy").stat().st_mtime_ns == written and capsys.readouterr().out == ""
    (rows,) = asked
    assert len(rows) == 16 and rows[0] == 0 and rows[-1] == 1499
    assert np.diff(rows).min() == 99 and np.diff(rows).max() == 100   # spread over the file


def saved(table):
    file = io.BytesIO()
    np.save(file, table, allow_pickle=True)
    return file.getvalue()


def changed(table, row, value):
    table = table.copy()
    table[row] = value
    return table


SHAPE, TYPE = r"has shape .* of float32, not \(1500, 8\)", "of float64, not"
NONSENSE, DAMAGED = "not a whole .npy array", "is of another bank, or damaged"
NUMBERS = "has values that are not finite"
LENGTHS = "has averages of unit vectors that are 0 or longer than 1"
SPOILT = {                            # what is in the file, why it is not believed
    "another shape": (lambda t: saved(t[:-1]), SHAPE), "flat": (lambda t: saved(t.ravel()), SHAPE),
    "no rows": (lambda t: saved(t[:0]), SHAPE), "one number": (lambda t: saved(t[0, 0]), ".*"),
    "another type": (lambda t: saved(t.astype(np.float64)), TYPE),
    "NaN": (lambda t: saved(changed(t, (700, 3), np.nan)), NUMBERS),
    "infinite": (lambda t: saved(changed(t, (701, 6), np.inf)), NUMBERS),
    "zeros but for the first": (lambda t: saved(changed(t, slice(1, None), 0)), LENGTHS),
    "too long": (lambda t: saved(changed(t, 702, 3)), LENGTHS),
    "of another bank": (lambda t: saved(dense(unit(1500, 6, seed=1)).numpy()), DAMAGED),
    "the next row": (lambda t: saved(np.roll(t, -1, 0)), DAMAGED),
    "the last row wrong": (lambda t: saved(changed(t, -1, t[3])), DAMAGED),
    "entropies wrong": (lambda t: saved(changed(t, (slice(None), 6), 1)), DAMAGED),
    "cut short": (lambda t: saved(t)[:-1], NONSENSE), "empty": (lambda t: b"", NONSENSE),
    "pickled": (lambda t: saved(np.array([{"rows": t}], object)), NONSENSE)}


@pytest.fixture(scope="module")
def bank_of_1500():
    P = unit(1500, 6)
    return P, maker(P), maker(P)(torch.arange(1500)).numpy()


@pytest.mark.parametrize("spoil, why", SPOILT.values(), ids=SPOILT)
def test_a_table_is_checked_when_it_is_opened(spoil, why, bank_of_1500, tmp_path, capsys):
    P, make, right = bank_of_1500
    path = tmp_path / "t.npy"
    path.write_bytes(spoil(right))
    table = bank.load_or_make(path, P, make)
    np.testing.assert_allclose(table, right, rtol=1e-5, atol=1e-6)
    said, written = capsys.readouterr().out.splitlines()
    assert said.startswith(f"data: {path}: ") and said.endswith("; computing it again")
    assert re.search(why, said)
    assert written == f"data: {path}: written"
    bank.load_or_make(path, P, make)                            # and believed from then on
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("byte", [0x00, ord("y"), 0xa0])
def test_a_flipped_byte_behind_the_header_is_no_traceback(byte, bank_of_1500, tmp_path):
    """np.load would raise a ValueError of its own for what our reader finds readable."""
    P, make, right = bank_of_1500
    path = tmp_path / "t.npy"
    bank.load_or_make(path, P, make)
    content = bytearray(path.read_bytes())
    content[90] = byte                                     # among the blanks that fill the header
    path.write_bytes(content)
    np.testing.assert_allclose(bank.load_or_make(path, P, make), right, rtol=1e-5, atol=1e-6)


def test_the_table_of_another_bank_has_another_name():
    """One bit more in one row, other rows, another order: the name tells them apart."""
    P = unit(50, 6)
    other = P.clone()
    other[5, 3] = torch.nextafter(P[5, 3], torch.tensor(2.0))
    names = {bank.fingerprint(bank.row_ids(rows)) for rows in (P, other, P.flip(0), P[:-1])}
    assert len(names) == 4 and all(len(name) == 12 for name in names)
    assert bank.fingerprint(bank.row_ids(P.clone())) in names


def test_a_table_of_half_precision_is_believed(tmp_path, capsys):
    """A bfloat16 bank: 16 rows alone come out as they did among 1,024."""
    P = unit(3000, 64).bfloat16()
    for said in ("written", ""):
        bank.load_or_make(tmp_path / "t.npy", P, maker(P))
        assert capsys.readouterr().out.endswith(f"{said}\n" if said else "")
        assert "computing it again" not in capsys.readouterr().out


# ------------------------------------------------------------------ 4. whole or not at all
@contextlib.contextmanager
def a_disk_of(n_bytes):
    """No file can grow beyond n_bytes: the system call fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS = {                           # ways in which the project fills a file, each of about 1 MB
    "bytes": lambda file: file.write(bytes(10 ** 6)),
    "many small parts": lambda file: [file.write(bytes(1000)) for _ in range(1000)],
    "numpy.save": lambda file: np.save(file, np.zeros(10 ** 6, np.uint8)),
    "numpy.savez": lambda file: np.savez(file, a=np.zeros(10 ** 6, np.uint8)),
    "torch.save": lambda file: torch.save({"a": torch.zeros(250_000)}, file),
}


@pytest.mark.parametrize("fill", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_one_line(fill, tmp_path):
    """What was there before is there after; nothing else is."""
    path = tmp_path / "file"
    path.write_text("before")
    with a_disk_of(2 ** 16), refused(
            match=rf"^{path}: cannot be written \(.*\); make room or choose another place$"):
        write_file(path, fill)
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_text() == "before"
    write_file(path, fill)                                # with room it fits
    assert path.stat().st_size > 900_000 and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_fills_while_a_table_is_made(tmp_path):
    """No SIGBUS, as a memory map would get, and no file of the right size with holes in it."""
    P = unit(5000, 6)
    with a_disk_of(2 ** 16), pytest.raises(DataError, match="t.npy: cannot be written .File too"):
        bank.load_or_make(tmp_path / "t.npy", P, maker(P))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [
    ValueError("of the program"), RuntimeError("shapes"), KeyboardInterrupt(),
    OSError(28, os.strerror(28))], ids=lambda e: type(e).__name__)
def test_other_errors_are_not_hidden(error, tmp_path):
    """A mistake in the code, or Ctrl-C, leaves the old file and goes on up; a full disk is told."""
    write_text(tmp_path / "f", "before")

    def fails(file):
        file.write(b"half")
        raise error

    wanted = DataError if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted) as raised:
        write_file(tmp_path / "f", fails)
    assert raised.value is error or (
        "f: cannot be written (No space left on device); make room" in str(raised.value))
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text() == "before"


def test_a_file_appears_at_once(tmp_path):
    """While it is written the old one is there; missing folders are made; text is UTF-8."""
    path = tmp_path / "a" / "b" / "f.txt"
    write_text(path, "Köln")
    assert path.read_bytes() == "Köln".encode()

    def save(file):
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == "Köln".encode()

    write_file(path, save)
    assert path.read_bytes() == b"new" and len(list(path.parent.iterdir())) == 1


def test_places_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "f").mkdir(parents=True)
    for path in (tmp_path / "file" / "f", tmp_path / "folder" / "f", tmp_path / ("x" * 300)):
        with pytest.raises(DataError, match="cannot be written"):
            write_text(path, "a")
    assert not list((tmp_path / "folder" / "f").iterdir())
    assert len(list(tmp_path.iterdir())) == 2 and len(list((tmp_path / "folder").iterdir())) == 1


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    """But not what a living one is writing, nor what is another file's or another machine's."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host, path = os.uname().nodename, tmp_path / "last.pt"
    left = tmp_path / f".last.pt.{host}.{ended.pid}.unfinished"
    kept = [tmp_path / f".last.pt.{host}.{os.getppid()}.unfinished",
            tmp_path / f".last.pt.not-{host}.{ended.pid}.unfinished",
            tmp_path / f".other.pt.{host}.{ended.pid}.unfinished", tmp_path / "last.pt.unfinished"]
    for file in (left, *kept):
        file.write_text("half")
    write_text(path, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, *kept])
    write_text(tmp_path / "[a].pt", "whole")              # a name with a pattern in it
    assert (tmp_path / "[a].pt").read_text() == "whole"


def test_a_kill_leaves_the_old_file(tmp_path):
    """SIGKILL in the middle of writing; the next writer cleans up."""
    path = tmp_path / "f"
    path.write_text("before")
    code = ("import os, sys; from comedian import write_file\n"
            "def save(file):\n    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)\n"
            "write_file(sys.argv[1], save)")
    done = subprocess.run([sys.executable, "-c", code, path])
    assert done.returncode == -9 and path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2
    write_text(path, "after")
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]
