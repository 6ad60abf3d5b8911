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
// Cost: linear in T. greedy: whoever beats all that could remove it can be picked at once, so a
// scan from the left climbs from peak to peak; local: sliding maximum by van Herk's block
// prefixes. Same result as ops.hard_nms_ref, bit by bit.
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
  for (int64_t from = 0; from < length; ++from) {
    // Left of `from` all is settled. `climb` holds a rising path: each entry is the best within
    // `left` to the right of the one before, so nothing left of its top is better.
    while (x[from] != T(kRemoved)) {
      if (climb.empty()) climb.push_back(from);
      const int64_t top = climb.back();
      const int64_t better =
          first_maximum_above(x, top + 1, std::min(length, top + left + 1), x[top]);
      if (better >= 0) {
        climb.push_back(better);
        continue;
      }
      kept[top * stride] = x[top];
      const int64_t begin = std::max<int64_t>(0, top - left);
      std::fill(x + begin, x + std::min(length, top + right + 1), T(kRemoved));
      while (!climb.empty() && climb.back() >= begin) climb.pop_back();
    }
  }
}

// One class; x[-reach, length + reach) is readable and kRemoved outside [0, length).
template <typename T>
void keep_local_maxima(const T* x, int64_t length, int64_t reach, T* kept, int64_t stride,
                       std::vector<T>& prefix, std::vector<T>& suffix) {
  // Cut the padded column into blocks of the window's width: a window spans the tail of one block
  // and the head of the next, whose maxima are running maxima from the right and from the left.
  const int64_t width = 2 * reach + 1, n = length + 2 * reach;
  prefix.resize(n);
  suffix.resize(n);
  const T* padded = x - reach;
  for (int64_t i = 0; i < n; ++i)
    prefix[i] = i % width == 0 ? padded[i] : std::max(prefix[i - 1], padded[i]);
  for (int64_t i = n - 1; i >= 0; --i)
    suffix[i] = i == n - 1 || (i + 1) % width == 0 ? padded[i] : std::max(suffix[i + 1], padded[i]);
  for (int64_t t = 0; t < length; ++t)
    if (x[t] != T(kRemoved) && x[t] >= std::max(suffix[t], prefix[t + width - 1]))
      kept[t * stride] = x[t];
}

}  // namespace

template <typename T>
void hard_nms(const T* scores, int64_t length, int64_t n_classes, const double* window,
              double threshold, bool local, T* kept) {
  std::fill(kept, kept + length * n_classes, T(-1));
  const std::unique_ptr<T[]> columns(new T[length * n_classes]);
  to_columns(scores, length, n_classes, columns.get());
  std::vector<int64_t> climb;
  std::vector<T> padded, prefix, suffix;
  for (int64_t k = 0; k < n_classes; ++k) {
    const double half_width = std::min(window[k] / 2, double(length));  // wider changes nothing
    T* x = columns.get() + k * length;
    if (local) {
      // A score below the threshold removes no score above it, so all of those can be kRemoved.
      const int64_t reach = int64_t(half_width);
      padded.assign(length + 2 * reach, T(kRemoved));
      for (int64_t t = 0; t < length; ++t)
        if (x[t] >= T(threshold)) padded[reach + t] = x[t];
      keep_local_maxima(padded.data() + reach, length, reach, kept + k, n_classes, prefix, suffix);
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
