// hard_nms: non-maximum suppression that removes neighbours altogether, in the field's two senses.
//
//   scores (T, K)   window (K,) tokens, total width, >= 0   threshold >= 0
//   -> kept (T, K)  the score of each detection, -1 where there is none
//
// The plain loops, for each class; x is its column of scores:
//
//   greedy (the SoccerNet DevKit's, NetVLAD++'s)
//     while ((best = max(x)) >= threshold) {
//       m = first index of best;
//       kept[m] = best;
//       remove x[m - ceil(window / 2)] .. x[m + floor(window / 2) - 1], and x[m];
//     }
//   local (the official COMEDIAN code's)
//     for (t = 0; t < T; ++t)
//       if (x[t] >= threshold && no x[i] with |i - t| <= floor(window / 2) exceeds x[t])
//         kept[t] = x[t];
//
// greedy: with a window of 0 or 1 the DevKit's range misses m itself, and its loop never ends; here
// m is always removed. local: equal maxima all stay, and a score that is suppressed still
// suppresses others. NaN is never kept and suppresses nothing. The threshold is taken in the type
// of the scores.
//
// What is done otherwise, with the same result bit by bit:
//   greedy  The plain loop looks for the global maximum again for every pick. But a score can be
//           removed only by a better one at most ceil(window / 2) tokens away. Whatever is the best
//           within that distance is picked at once. Cost linear in T.
//   local   The plain loop looks at the whole window of every token. Here maxima over 1, 2, 4 ..
//           tokens are computed one from the other, and two of them cover a window. They may
//           overlap: a score that is looked at twice changes no maximum. Cost T log(window).
#include "kernels.h"
#include "nms.h"

#include <algorithm>
#include <cmath>

namespace comedian {
namespace {

constexpr int kRemoved = -1;  // below every threshold

// One class. A pick at m removes [m - left, m + right], and right <= left.
template <typename T>
void suppress_greedily(T* x, int64_t length, int64_t left, int64_t right, T* kept, int64_t stride,
                       std::vector<int64_t>& climb) {
  int64_t from = 0;  // left of it all is settled
  while (from < length) {
    if (x[from] == T(kRemoved)) {
      ++from;
      continue;
    }
    climb.push_back(from);
    int64_t end = 0;
    while (!climb.empty()) {
      const int64_t peak = climb_to_peak(x, length, left, climb);
      kept[peak * stride] = x[peak];
      const int64_t begin = std::max<int64_t>(0, peak - left);
      end = std::min(length, peak + right + 1);
      std::fill(x + begin, x + end, T(kRemoved));
      while (!climb.empty() && climb.back() >= begin) climb.pop_back();  // these are removed
    }
    from = end;  // the last pick removed `from` and everything up to here
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
  std::vector<int64_t> climb;
  std::vector<T> padded, ahead;
  for_each_class(scores, length, n_classes, [&](int64_t k, T* x) {
    const double half_width = std::min(window[k] / 2, double(length));  // wider changes nothing
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
  });
}

template void hard_nms(const float*, int64_t, int64_t, const double*, double, bool, float*);
template void hard_nms(const double*, int64_t, int64_t, const double*, double, bool, double*);

}  // namespace comedian
