// What both files of non-maximum suppression share: the search for a score that can be picked now.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace comedian {

// The larger of two; b where a is NaN.
template <typename T>
T larger(T a, T b) { return a > b ? a : b; }

// First index of the maximum of x[begin, end), if it exceeds `floor`; else -1. No NaN in x.
// Most calls find nothing. So the maximum is computed first, in lanes that the compiler keeps in
// vector registers, and its place only afterwards.
template <typename T>
static int64_t first_maximum_above(const T* x, int64_t begin, int64_t end, T floor) {
  constexpr int64_t kLanes = 8;
  T best = floor;
  if (end - begin < kLanes) {
    for (int64_t i = begin; i < end; ++i) best = larger(x[i], best);
  } else {
    T lane[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) lane[l] = larger(x[end - kLanes + l], floor);
    for (int64_t i = begin; i < end - kLanes; i += kLanes)
      for (int64_t l = 0; l < kLanes; ++l) lane[l] = larger(x[i + l], lane[l]);
    for (int64_t n = kLanes / 2; n > 0; n /= 2)
      for (int64_t l = 0; l < n; ++l) lane[l] = larger(lane[l + n], lane[l]);
    best = lane[0];
  }
  if (!(best > floor)) return -1;
  while (x[begin] != best) ++begin;
  return begin;
}

// A pick changes scores only near itself. So a score can be picked before a higher one that is far
// away: it is enough that no score within `span` tokens on either side is better. This finds such
// a peak. It starts at the last entry of `climb` and goes from best to best, to the right:
//
//     5                         #                   climb = {0, 3, 6}, span = 4
//     4             #           #       |
//     3         |   #           #   |   |           0 sees 1-4: the best is 3, higher than 0
//     2 #       |   #       |   #   |   |       |   3 sees 4-7: the best is 6, higher than 3
//     1 #   |   |   #   |   |   #   |   |   |   |   6 sees 7-10: none is higher, 6 is the peak
//     t 0   1   2   3   4   5   6   7   8   9  10
//
// What holds all the time:
//   climb   Left of climb[0] nothing can be picked any more. Each entry is the best that the one
//           before it saw. So the scores rise along `climb`, and from climb[0] up to the last entry
//           nothing is better than the last entry.
//   seen    Everything before `seen` was seen from the entry before, and the last entry was the
//           best of it: 3 need not look at 4 again, nor 6 at 7.
// The path is kept after a pick, so that the next search goes on from it. The caller drops the
// entries whose scores the pick has changed.
//
// Equal scores: the earlier token is the better one.
template <typename T>
static int64_t climb_to_peak(const T* x, int64_t length, int64_t span,
                             std::vector<int64_t>& climb) {
  for (int64_t seen = 0;;) {
    const int64_t top = climb.back();
    const int64_t horizon = std::min(length, top + span + 1);
    const int64_t better = first_maximum_above(x, std::max(top + 1, seen), horizon, x[top]);
    if (better < 0) return top;
    climb.push_back(better);
    seen = horizon;
  }
}

}  // namespace comedian
