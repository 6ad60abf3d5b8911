"""
What these tests prove about prepare.py's `pca`: one pass gives the directions of an SVD in float64;
a basis is kept, applied, and not mixed up. (`frames`: test_video.py. Features by a network:
test_infer.py.)
"""
import os
import resource

import numpy as np
import pytest
import torch
from conftest import refused

from comedian import DataError, prepare


# ------------------------------------------------------------------ pca
def pca(root, *options):
    args = prepare.parse_args(["pca", "--features", str(root), "--name", "x", *map(str, options)])
    args.run(args)


def write_features(root, rows, name="x", dtype=np.float32):
    """{match: [rows of half 1, of half 2]}, below `root`."""
    for match, halves in rows.items():
        (root / match).mkdir(parents=True, exist_ok=True)
        for number, values in enumerate(halves, 1):
            np.save(root / match / f"{number}_{name}.npy", values.astype(dtype))


def correlated(seed, *lengths, width=24):
    """One array per length, (length, width): correlated, off centre, on very different scales."""
    mix = np.random.default_rng(99).standard_normal((width, width)) * np.logspace(0, 3, width)
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((n, width)) @ mix + 500).astype(np.float32) for n in lengths]


@pytest.fixture
def raw(tmp_path):
    """A root with three matches of features "x", and all their rows, float64."""
    rows = {"l/s/a": correlated(0, 31, 40), "l/s/b": correlated(1, 50, 7),
            "l/s/c d": correlated(2, 64)}
    write_features(tmp_path / "raw", rows)
    return tmp_path / "raw", {match: np.concatenate(halves).astype(np.float64)
                              for match, halves in rows.items()}


def by_svd(x, width, standardize):
    """(mean, scale, components, variances) as the textbook has them, all rows at once."""
    mean, scale = x.mean(0), x.std(0) if standardize else np.ones(x.shape[1])
    _, s, vt = np.linalg.svd((x - mean) / scale, full_matrices=False)
    sign = np.sign(vt[np.arange(len(vt)), np.abs(vt).argmax(1)])
    return mean, scale, (sign[:, None] * vt)[:width], (s ** 2 / (len(x) - 1))[:width]


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("rows", [4096, 16])               # a half is one block, or several
def test_pca_equals_an_svd(raw, monkeypatch, standardize, rows, capsys):
    root, x = raw
    monkeypatch.setattr(prepare, "ROWS", rows)
    pca(root, "--out-name", "y", "--width", 5,
        "--standardize" if standardize else "--no-standardize")
    everything = np.concatenate(list(x.values()))
    assert f"computing the 5 components of {len(everything)} rows x " in capsys.readouterr().out
    mean, scale, components, variance = by_svd(everything, 5, standardize)
    basis = prepare.read_basis(root / "y.npz")
    np.testing.assert_allclose(basis.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(basis.scale, scale, rtol=1e-10)
    np.testing.assert_allclose(basis.components, components, atol=1e-8)
    np.testing.assert_allclose(basis.explained_variance, variance, rtol=1e-9)
    np.testing.assert_allclose(basis.total_variance,
                               ((everything - mean) / scale).var(0, ddof=1).sum())
    assert list(basis.sources) == ["l/s/a/1_x.npy", "l/s/a/2_x.npy", "l/s/b/1_x.npy",
                                   "l/s/b/2_x.npy", "l/s/c d/1_x.npy"]
    for match, own in x.items():
        halves = [np.load(path) for path in sorted((root / match).glob("?_y.npy"))]
        assert all(half.dtype == np.float32 for half in halves)
        np.testing.assert_allclose(np.concatenate(halves), ((own - mean) / scale) @ components.T,
                                   rtol=1e-5, atol=1e-5)


def test_pca_of_part_of_the_games_reduces_all(raw, tmp_path, capsys):
    """Fitted on a list, applied to all; then, by the file, to a match that came later."""
    root, x = raw
    (tmp_path / "list.txt").write_text("l/s/a\nl/s/c d\n")
    pca(root, "--width", 4, "--split", tmp_path / "list.txt", "--out", tmp_path / "out")
    _, _, components, _ = by_svd(np.concatenate([x["l/s/a"], x["l/s/c d"]]), 4, True)
    basis = prepare.read_basis(tmp_path / "out" / "pca_4_std_x.npz")
    np.testing.assert_allclose(basis.components, components, atol=1e-8)
    assert "b/1_x" not in " ".join(basis.sources)
    assert (tmp_path / "out" / "l" / "s" / "b" / "2_pca_4_std_x.npy").exists()
    assert not list(root.rglob("*pca*"))

    new = {"l/s/new": correlated(7, 20, 21)}
    write_features(tmp_path / "later", new)
    pca(tmp_path / "later", "--basis", tmp_path / "out" / "pca_4_std_x.npz")
    got = np.load(tmp_path / "later" / "l" / "s" / "new" / "2_pca_4_std_x.npy")
    expected = (new["l/s/new"][1] - basis.mean) / basis.scale @ basis.components.T
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert not list((tmp_path / "later").rglob("*.npz"))


def test_pca_resumes(raw, monkeypatch, capsys):
    """What was finished is not written again; an unfinished file is under another name."""
    root, _ = raw
    save, saved = np.save, []

    def killed(file, array):
        if len(saved) == 2:
            file.write(b"half a file")
            raise KeyboardInterrupt
        saved.append(array)
        save(file, array)

    monkeypatch.setattr(np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        pca(root, "--width", 4)
    monkeypatch.setattr(np, "save", save)
    done = {path: path.stat().st_mtime_ns for path in root.rglob("?_pca_4_std_x.npy")}
    assert len(done) == 2
    monkeypatch.setattr(prepare, "fit_basis", None)            # it is kept, too
    pca(root, "--width", 4)
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())
    assert len(list(root.rglob("?_pca_4_std_x.npy"))) == 5 and not list(root.rglob(".*"))
    assert "3 halves written, 2 existed already" in capsys.readouterr().out


def test_pca_leaves_constant_numbers_alone(tmp_path):
    """They have no scale (officially NaN): here they count for nothing, inexact mean or not."""
    x = correlated(0, 43)[0].astype(np.float64)
    x[:, 3] = 0.1
    assert torch.from_numpy(x).mean(0)[3] != 0.1
    write_features(tmp_path, {"m": [x]}, dtype=np.float64)
    pca(tmp_path, "--width", 20)
    reduced = np.load(tmp_path / "m" / "1_pca_20_std_x.npy")
    assert np.isfinite(reduced).all()
    basis = prepare.read_basis(tmp_path / "pca_20_std_x.npz")
    assert basis.scale[3] == 1 and np.abs(basis.components[:, 3]).max() < 1e-12


def test_pca_of_more_halves_than_files_may_be_open(tmp_path):
    """SoccerNet has 1,100 halves; 1,024 open files is what many systems allow."""
    write_features(tmp_path, {f"m{i}": correlated(i, 9, 9) for i in range(40)})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(number) for number in os.listdir("/proc/self/fd")}
    limit = next(n for n in range(20, 9999) if n - len(used & {*range(n)}) == 20)     # 20 are free
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        pca(tmp_path, "--width", 4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(tmp_path.rglob("?_pca_4_std_x.npy"))) == 80


@pytest.mark.parametrize("spoil, message", [
    (lambda x: x[:, :5], "1_x.npy: 5 wide, but .*1_x.npy is 24"),
    (lambda x: np.insert(x, 3, [*x[0, 1:], np.nan], 0), "1_x.npy: row 3 is not finite"),
    (lambda x: np.insert(x.astype(float), 3, [*x[0, 1:], -1e300], 0),
     "row 3 is not finite, or beyond 1e100; extract this half's features again"),
    (lambda x: x[:0], r"must be numbers of shape \(seconds, width\), got \(0, 24\)"),
    (lambda x: x[0], r"got \(24,\)"), (lambda x: x[:, None], r"got \(50, 1, 24\)"),
    (lambda x: x.astype(str), "got .* of <U"),
    (lambda x: np.array({"features": x}, dtype=object),
     "not a plain .npy array .*Python objects: save the array in it alone")])
def test_pca_names_the_file_that_is_not_features(raw, spoil, message):
    root, _ = raw
    path = root / "l/s/b/1_x.npy"
    np.save(path, spoil(np.load(path)))
    with refused("l/s/b/1_x.npy", match=message):
        pca(root, "--width", 4)


def test_pca_refuses_what_would_mix_bases(raw, tmp_path, capsys):
    root, _ = raw
    pca(root, "--width", 4)
    assert f"{root / 'l/s/c d'}: no 2_x.npy" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"y.npz: reduces 24 to 4 numbers, not 24 to 5"):
        (root / "y.npz").write_bytes((root / "pca_4_std_x.npz").read_bytes())
        pca(root, "--width", 5, "--out-name", "y")
    (root / "pca_4_std_x.npz").unlink()
    write_features(root, {"l/s/e": correlated(5, 60, 60)})
    with pytest.raises(DataError, match="1_pca_4_std_x.npy: exists already, from another basis"):
        pca(root, "--width", 4)                            # fitted anew, on more rows
    write_features(tmp_path / "wide", {"m": correlated(5, 30, width=25)})
    with pytest.raises(DataError, match="reduces 24 to 4 numbers, not 25"):
        pca(tmp_path / "wide", "--basis", root / "pca_4_std_x.npz")


@pytest.mark.parametrize("options, message", [
    (["--name", "y"], r"no <match>/<half>_y.npy below it"),
    (["--width", "25"], r"--width 25: 192 rows of 24 numbers have at most 24 directions"),
    (["--split", "test"], "100 of the 100 games of test are not below it"),
    (["--basis", "nowhere.npz"], "nowhere.npz: no such basis"),
    (["--basis", __file__], "test_prepare.py: not a basis")])
def test_pca_refuses(raw, options, message):
    root, _ = raw
    with pytest.raises(DataError, match=message):
        pca(root, "--width", 4, *options)
