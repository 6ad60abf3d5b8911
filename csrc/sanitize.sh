#!/bin/sh
# The kernels under the address and undefined-behaviour sanitizers: first alone, on random input,
# then inside the extension, through all of their tests.       csrc/sanitize.sh [python]
set -e
cd "$(dirname "$0")/.."
python=${1:-python3}
build=build/sanitize
flags="-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
mkdir -p $build

${CXX:-c++} -std=c++17 -Wall -Wextra $flags -o $build/fuzz \
    $(ls csrc/*.cpp | grep -v bindings.cpp)
$build/fuzz ${ROUNDS:-200000}

CFLAGS="$flags" LDFLAGS="$flags" $python setup.py -q build_ext \
    --build-lib $build --build-temp $build/objects > $build/build.log 2>&1 ||
    { cat $build/build.log; exit 1; }
# Python itself is not built with the sanitizers, so they must be loaded before it; and its own
# allocations, which it keeps until it ends, are no leaks of ours.
cxx=${CXX:-c++}
LD_PRELOAD="$($cxx -print-file-name=libasan.so) $($cxx -print-file-name=libstdc++.so)" \
ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONDONTWRITEBYTECODE=1 \
    $python -m pytest -q -p no:cacheprovider -o "pythonpath=$build ." tests/test_ops.py
