// hard_nms: non-maximum suppression that removes neighbours altogether, in the field's two senses.
//
//   scores (T, K)   window (K,) tokens, total width, >= 0   threshold >= 0
//   -> kept (T, K)  the score of each detection, -1 where there is none
//
// greedy (the SoccerNet DevKit's, NetVLAD++'s): while the best score is >= threshold, pick it and
// remove
//   [m - window/2, m + int(window/2)) around it: ceil(window/2) tokens to the left,
//   floor(window/2) - 1 to the right. Equal scores: the earlier token first. With window 0 or 1,
//   where the DevKit never ends because that range misses m itself, the pick is removed all the
//   same.
// local (the official COMEDIAN code's): keep a score >= threshold that no score within
// int(window/2) on
//   either side exceeds. Equal maxima all stay, and a suppressed peak still suppresses.
// NaN is never kept and suppresses nothing. threshold is taken in the type of the scores.
//
// Cost. greedy: linear in T, for whoever beats all that could remove it can be picked at once, so a
// scan from the left climbs from peak to peak. local: T log(window), sliding maxima by doubling.
// Same result as ops.hard_nms_ref, bit by bit.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <memory>

namespace comedian {
namespace {

constexpr int kRemoved = -1;  // below every threshold

// One class; `x` is scratch. A pick at m removes [m - left, m + right].
template <typename T>
void suppress_greedily(T* x, int64_t length, int64_t left, int64_t right, T* kept, int64_t stride,
                       std::vector<int64_t>& climb) {
  int64_t from = 0;  // all to the left of it is settled
  while (from < length) {
    if (x[from] == T(kRemoved)) {
      ++from;
      continue;
    }
    // A rising path of peaks: each is the best within `left` to the right of the one before, so
    // nothing to the left of its top is better than that.
    climb.push_back(from);
    int64_t seen = 0, end = 0;  // nothing between the top and `seen` is better than the top
    while (!climb.empty()) {
      const int64_t top = climb.back();
      const int64_t horizon = std::min(length, top + left + 1);
      const int64_t better = first_maximum_above(x, std::max(top + 1, seen), horizon, x[top]);
      if (better >= 0) {
        climb.push_back(better);
        seen = horizon;
        continue;
      }
      kept[top * stride] = x[top];
      const int64_t begin = std::max<int64_t>(0, top - left);
      end = std::min(length, top + right + 1);
      std::fill(x + begin, x + end, T(kRemoved));
      while (!climb.empty() && climb.back() >= begin) climb.pop_back();
      seen = 0;
    }
    from = end;  // the last pick removed `from` and all up to here
  }
}

// One class. `x` has `reach` tokens of kRemoved before and after its `length` own ones.
template <typename T>
void keep_local_maxima(const T* x, int64_t length, int64_t reach, T* kept, int64_t stride,
                       std::vector<T>& ahead) {
  // ahead[i] = maximum of the `width` tokens from i on, for width 1, 2, 4 .. up to the window's. A
  // window is then covered by two such stretches, one from its beginning and one up to its end.
  const int64_t window = 2 * reach + 1, n = length + 2 * reach;
  ahead.assign(x, x + n);
  int64_t width = 1;
  for (; 2 * width <= window; width *= 2)
    for (int64_t i = 0; i + 2 * width <= n; ++i) ahead[i] = larger(ahead[i + width], ahead[i]);
  for (int64_t t = 0; t < length; ++t) {
    const T score = x[reach + t];
    if (score != T(kRemoved) && score >= larger(ahead[t], ahead[t + window - width]))
      kept[t * stride] = score;
  }
}

}  // namespace

template <typename T>
void hard_nms(const T* scores, int64_t length, int64_t n_classes, const double* window,
              double threshold, bool local, T* kept) {
  std::fill(kept, kept + length * n_classes, T(-1));
  const std::unique_ptr<T[]> columns(new T[length * n_classes]);
  to_columns(scores, length, n_classes, columns.get());
  std::vector<int64_t> climb;
  std::vector<T> padded, ahead;
  for (int64_t k = 0; k < n_classes; ++k) {
    const double half_width = std::min(window[k] / 2, double(length));  // wider changes nothing
    T* x = columns.get() + k * length;
    if (local) {
      // A score below the threshold removes no score above it, so all of those can be kRemoved.
      const int64_t reach = int64_t(half_width);
      padded.assign(length + 2 * reach, T(kRemoved));
      for (int64_t t = 0; t < length; ++t)
        if (x[t] >= T(threshold)) padded[reach + t] = x[t];
      keep_local_maxima(padded.data(), length, reach, kept + k, n_classes, ahead);
    } else {
      const int64_t left = int64_t(std::ceil(half_width));
      const int64_t right = std::max<int64_t>(int64_t(half_width) - 1, 0);
      for (int64_t t = 0; t < length; ++t) x[t] = x[t] >= T(threshold) ? x[t] : T(kRemoved);
      suppress_greedily(x, length, left, right, kept + k, n_classes, climb);
    }
  }
}

template void hard_nms(const float*, int64_t, int64_t, const double*, double, bool, float*);
template void hard_nms(const double*, int64_t, int64_t, const double*, double, bool, double*);

}  // namespace comedian
