#!/bin/sh
# The kernels under the sanitizers.       tests/fuzz/sanitize.sh [python]
#   1. addresses and undefined behaviour: each kernel alone on random bytes, $ROUNDS rounds
#   2. threads: all of them on several halves at a time
#   3. addresses and undefined behaviour again, inside the extension, through their tests
set -e
cd "$(dirname "$0")/../.."
python=${1:-python3}
cxx=${CXX:-c++}
build=build/sanitize
flags="-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
sources="-Icsrc tests/fuzz/fuzz_main.cpp $(ls csrc/*.cpp | grep -v bindings.cpp)"
mkdir -p $build

$cxx -std=c++17 -Wall -Wextra $flags -o $build/fuzz $sources
for kernel in merge_windows soft_nms hard_nms detections average_map; do
    $build/fuzz $kernel ${ROUNDS:-200000}
done

$cxx -std=c++17 -Wall -Wextra -g -O1 -fsanitize=thread -pthread -o $build/fuzz_threads $sources
# The thread sanitizer wants the addresses that it knows: setarch -R switches their shuffling off.
TSAN_OPTIONS=halt_on_error=1 setarch "$(uname -m)" -R $build/fuzz_threads threads 500

# The whole package lies in $build, so that no test finds the extension of the work tree.
CFLAGS="$flags" LDFLAGS="$flags" $python setup.py -q build \
    --build-lib $build/lib --build-temp $build/objects > $build/build.log 2>&1 ||
    { cat $build/build.log; exit 1; }
# Python itself is not built with the sanitizers, so they must be loaded before it. Its own
# allocations, which it keeps until it ends, are no leaks of ours.
export LD_PRELOAD="$($cxx -print-file-name=libasan.so) $($cxx -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONDONTWRITEBYTECODE=1
$python -c "
import sys; sys.path[0] = '$build/lib'
import torch, comedian._C as c; assert '$build' in c.__file__, c.__file__"
$python -m pytest -q -p no:cacheprovider -o "pythonpath=$build/lib ." tests/test_ops.py
