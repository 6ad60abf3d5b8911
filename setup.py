"""
Builds the kernels: csrc/*.cpp -> comedian/_C.*.so, for ops.py. All else is in pyproject.toml.

    pip install --no-build-isolation -e .     # into this environment, or, installing nothing:
    python setup.py build_ext --inplace

--no-build-isolation because pip would otherwise fetch a second torch only to compile against it.
One build serves every torch from 2.11 on (stable ABI), on the Python version it was built with.
"""
import hashlib
import os
import shutil
import sys
from pathlib import Path

if sys.version_info < (3, 10):
    sys.exit("error: this project needs Python 3.10 or newer, and this is "
             f"{sys.version.split()[0]}; make a virtual environment with a newer one")
try:
    import pybind11
    import torch
    from setuptools import setup
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError as e:
    sys.exit(f"error: the build needs {e.name}, which is not installed here; run "
             "pip install -r requirements.txt, then pip install --no-build-isolation -e .")

TORCH_MIN = (2, 11)
if tuple(int(n) for n in torch.__version__.split(".")[:2]) < TORCH_MIN:
    sys.exit(f"error: the kernels need torch {TORCH_MIN[0]}.{TORCH_MIN[1]} or newer, and this is "
             f"{torch.__version__}; run pip install -r requirements.txt")
compiler = os.environ.get("CXX", "c++" if sys.platform != "win32" else "cl")
if not shutil.which(compiler.split()[0]):
    sys.exit(f"error: no C++ compiler ({compiler}) found; on Debian or Ubuntu: "
             "sudo apt install g++, or name one in the environment variable CXX")

# setuptools wants paths relative to this file, and is called from this folder by pip.
os.chdir(Path(__file__).resolve().parent)
sources = sorted(str(f) for f in Path("csrc").glob("*.cpp"))
# comedian/ops.py computes the same hash at import and refuses a build older than its sources.
hashed = sorted(f for f in Path("csrc").iterdir() if f.suffix in (".cpp", ".h"))
source_hash = hashlib.sha256(b"".join(f.read_bytes() for f in hashed)).hexdigest()

# Without symbols the library is twenty times smaller. CFLAGS=-g keeps them.
strip = sys.platform == "linux" and "-g" not in os.environ.get("CFLAGS", "").split()

kernels = CppExtension(
    "comedian._C",
    sources,
    depends=[str(f) for f in Path("csrc").glob("*.h")],
    include_dirs=[pybind11.get_include()],
    define_macros=[("COMEDIAN_SOURCE_HASH", f'"{source_hash}"'),
                   # the oldest torch that the build must run with
                   ("TORCH_TARGET_VERSION", f"0x{TORCH_MIN[0]:02x}{TORCH_MIN[1]:02x}000000000000")],
    # Products and sums are rounded one by one, as in the reference: no fused multiply-add.
    extra_compile_args=["-O3", "-Wall", "-ffp-contract=off"],
    extra_link_args=["-Wl,-s"] if strip else [])

setup(ext_modules=[kernels], cmdclass={"build_ext": BuildExtension})
