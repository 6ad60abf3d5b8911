"""
What these tests prove about installing, each without a network:
  1. `pip install --no-build-isolation .` puts comedian/ into site-packages and nothing beside it,
     with the kernels, the splits, py.typed and the metadata of pyproject.toml
  2. `from comedian import ops` then needs torch and numpy only, and the commands of the package run
     from any folder
  3. the source distribution holds all that the build and the tests need

pip builds from the unpacked source distribution, so each part also tests the one before it.
"""
import email
import os
import re
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
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources alone: setuptools would believe a list of files that lies here."""
    folder = tmp_path_factory.mktemp("source")
    for path in (path for pattern in SOURCES for path in ROOT.glob(pattern)):
        if path.is_dir():
            shutil.copytree(path, folder / path.name,
                            ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def unpacked(source, tmp_path_factory):
    """The source distribution, unpacked as a user does it."""
    folder = tmp_path_factory.mktemp("unpacked")
    run(sys.executable, "-c", "import setuptools.build_meta as build; build.build_sdist('dist')",
        cwd=source)
    with tarfile.open(next((source / "dist").glob("*.tar.gz"))) as archive:
        archive.extractall(folder)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def environment(unpacked, tmp_path_factory):
    """A new environment with the package in it: its python and its site-packages. What this python
    has (torch, numpy and what the build needs) is visible there, but not installed again."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python, site = folder / "bin" / "python", next(folder.glob("lib/python*/site-packages"))
    assert not list(site.iterdir())
    (site / "outer.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")))
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("needs pip")
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index",
        "--disable-pip-version-check", "--no-build-isolation", ".", cwd=unpacked)
    return python, site


def test_source_distribution_is_complete(source, unpacked):
    made_by_the_build = re.compile(r"(dist|build|\w+\.egg-info)/")
    expected = {name for name in listed(source) if not made_by_the_build.match(name)}
    assert {"setup.py", "csrc/kernels.h", "tests/conftest.py"} <= expected
    assert not expected - listed(unpacked)


def test_installs_one_package_and_nothing_beside_it(environment):
    _, site = environment
    assert {path.name for path in site.iterdir()} == {"comedian", "comedian-0.1.0.dist-info",
                                                      "outer.pth"}
    installed = {name for name in listed(site / "comedian") if "__pycache__" not in name}
    kernels = {name for name in installed if name.startswith("_C.")}
    sources = {name for name in listed(ROOT / "comedian")
               if not name.endswith((".so", ".pyc"))}
    assert len(kernels) == 1 and installed - kernels == sources
    assert {"py.typed", "splits/test.txt", "ops.py", "page.html"} <= installed
    if sys.platform == "linux":                               # stripped: it was 5.4 MB
        assert (site / "comedian" / kernels.pop()).stat().st_size < 2**20


def test_metadata(environment):
    _, site = environment
    info = email.message_from_string(
        (site / "comedian-0.1.0.dist-info" / "METADATA").read_text(encoding="utf-8"))
    assert (info["Name"], info["License-Expression"], info["Requires-Python"]) == (
        "comedian", "MIT", ">=3.10")
    required = [r for r in info.get_all("Requires-Dist") if "extra ==" not in r]
    assert sorted(required) == ["numpy", "torch>=2.11"]
    assert set(info.get_all("Provides-Extra")) == {"scripts", "dev"}
    assert info["Description-Content-Type"] == "text/markdown" and "# " in info.get_payload()
    assert info["Summary"] and info.get_all("Project-URL") and info.get_all("Classifier")


def test_kernels_need_torch_and_numpy_only(environment, tmp_path):
    python, site = environment
    script = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("cv2", "tqdm", "matplotlib", "av", "PIL", "pybind11", "ninja"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
import torch
from comedian import ops
kept = ops.soft_nms(torch.tensor([[.5], [.9], [.8]]), torch.tensor([3]), window=4)
print(ops.__file__, [round(score, 2) for score in kept.flatten().tolist()])
"""
    printed = run(python, "-c", script, cwd=tmp_path)
    assert printed.strip() == f"{site / 'comedian' / 'ops.py'} [0.25, 0.9, 0.4]"


@pytest.mark.parametrize("command", ["evaluate", "prepare", "report"])
def test_commands_run_from_any_folder(environment, command, tmp_path):
    python, _ = environment
    assert "usage: " in run(python, "-m", f"comedian.{command}", "--help", cwd=tmp_path)


def test_unpacked_source_passes_its_tests(environment, unpacked):
    """All test files can be imported; those of the kernels' fixtures and of the README pass, with
    the kernels that pip built."""
    _, site = environment
    shutil.copy(next((site / "comedian").glob("_C.*")), unpacked / "comedian")
    pytest_ = sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"
    run(*pytest_, "--collect-only", cwd=unpacked)
    run(*pytest_, "tests/test_ops.py", "tests/test_readme.py", "-k", "published or test_readme",
        cwd=unpacked)                                         # exits with 5 if there is none
