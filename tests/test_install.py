"""
What these tests prove about installing, each without a network (slow):
  1. the source distribution holds all that the build and the tests need
  2. `pip install --no-build-isolation .` of it puts comedian/ into site-packages and nothing beside
     it, with the kernels, the splits, py.typed and the metadata of pyproject.toml
  3. `from comedian import ops` then needs torch and numpy only, and the commands of the package run
     from any folder; the unpacked tests can be imported, and some are run
"""
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("*.py", "*.md", "*.cff", "*.toml", "LICENSE", "MANIFEST.in", "Makefile",
           "requirements*.txt", "comedian", "csrc", "tests", "benchmarks", "docs")
pytestmark = pytest.mark.slow


def run(*command, cwd):
    """A command's output, from a folder and without a PYTHONPATH that leads to this repository."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def listed(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")
            if path.is_file() and path.suffix not in (".pyc", ".so")}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The source distribution, unpacked as a user does it; it is complete. It is made in a copy of
    the sources alone: setuptools would believe a list of files that lies here."""
    source, folder = (tmp_path_factory.mktemp(name) for name in ("source", "unpacked"))
    for path in (path for pattern in SOURCES for path in ROOT.glob(pattern)):
        if path.is_dir():
            shutil.copytree(path, source / path.name,
                            ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(path, source)
    expected = listed(source)
    assert {"setup.py", "csrc/kernels.h", "tests/conftest.py"} <= expected
    run(sys.executable, "-c", "import setuptools.build_meta as build; build.build_sdist('dist')",
        cwd=source)
    with tarfile.open(next((source / "dist").glob("*.tar.gz"))) as archive:
        archive.extractall(folder)
    unpacked, = folder.iterdir()
    assert expected <= listed(unpacked)
    return unpacked


@pytest.fixture(scope="module")
def environment(unpacked, tmp_path_factory):
    """A new environment with the package in it: its python and its site-packages. What this python
    has (torch, numpy and what the build needs) is visible there, but not installed again."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python, site = folder / "bin" / "python", next(folder.glob("lib/python*/site-packages"))
    (site / "outer.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")))
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("needs pip")
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index",
        "--disable-pip-version-check", "--no-build-isolation", ".", cwd=unpacked)
    return python, site


def test_installs_one_package_and_nothing_beside_it(environment):
    _, site = environment
    assert {path.name for path in site.iterdir()} == {"comedian", "comedian-0.1.0.dist-info",
                                                      "outer.pth"}
    assert listed(site / "comedian") == listed(ROOT / "comedian")
    assert {"py.typed", "splits/test.txt", "ops.py", "page.html", "page.js"} <= listed(
        site / "comedian")
    kernels, = (site / "comedian").glob("_C.*")
    assert kernels.stat().st_size < 2**20                     # stripped: it was 5.4 MB
    package, = importlib.metadata.distributions(name="comedian", path=[str(site)])
    info = package.metadata
    assert (info["License-Expression"], info["Requires-Python"]) == ("MIT", ">=3.10")
    assert {r for r in package.requires if "extra ==" not in r} == {"numpy", "torch>=2.11"}
    assert info["Description-Content-Type"] == "text/markdown" and "# " in info.get_payload()


def test_the_package_runs_from_any_folder(environment, tmp_path):
    """The kernels with torch and numpy alone."""
    python, site = environment
    printed = run(python, "-c", """
import sys
sys.modules |= dict.fromkeys(("cv2", "tqdm", "matplotlib", "av", "PIL", "pybind11", "ninja"))
import torch
from comedian import ops
kept = ops.soft_nms(torch.tensor([[.5], [.9], [.8]]), torch.tensor([3]), window=4)
print(ops.__file__, [round(score, 2) for score in kept.flatten().tolist()])
""", cwd=tmp_path)
    assert printed.strip() == f"{site / 'comedian' / 'ops.py'} [0.25, 0.9, 0.4]"
    for command in ("evaluate", "prepare", "report"):
        assert "usage: " in run(python, "-m", f"comedian.{command}", "--help", cwd=tmp_path)


def test_unpacked_source_passes_its_tests(environment, unpacked):
    """All can be imported; some of the kernels and pages pass, with the kernels pip built."""
    _, site = environment
    shutil.copy(next((site / "comedian").glob("_C.*")), unpacked / "comedian")
    pytest_ = sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"
    run(*pytest_, "--collect-only", cwd=unpacked)
    run(*pytest_, "tests/test_ops.py", "tests/test_docs.py", "-k", "published or kernels_runs",
        cwd=unpacked)                                         # exits with 5 if there is none
