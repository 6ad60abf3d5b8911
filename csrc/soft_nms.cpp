// soft_nms: linear soft non-maximum suppression as the official COMEDIAN code and spivak define it.
//
//   scores (T, K)   window (K,) tokens, total width, >= 0   threshold >= 0   min_weight in [0, 1]
//   -> kept (T, K)  the score of each detection at the moment it was picked, -1 where there is none
//
// The plain loop, for each class; x is its column of scores, radius = window / 2:
//
//   while ((best = max(x)) >= threshold && best > 0) {
//     m = first index of best;
//     kept[m] = best;
//     for (i = m - ceil(radius); i <= m + ceil(radius); ++i)         // those inside the half
//       x[i] *= clip(min_weight + (1 - min_weight) * (|i - m| / radius), 0, 1);
//     x[m] = 0;
//   }
//
// NaN and negative scores are never picked. window 0: no decay. All arithmetic is in the type of
// the scores, the threshold's included.
//
// What is done otherwise. The plain loop looks for the global maximum again for every pick: O(T)
// for each. Here a pick is the best within 2R on both sides, R = ceil(radius), and the picks come
// in another order. The result is the same, bit by bit:
//   - Two picks change a common score only if they are at most 2R apart.
//   - Every weight is <= 1, so scores only fall. A score that is the best within 2R stays so, and
//     the plain loop, too, picks it before all others within 2R.
//   - So every score is multiplied by the same weights in the same order.
// Each weight is computed once per class, and the cost is linear in T.
#include "kernels.h"
#include "nms.h"

#include <algorithm>
#include <cmath>

namespace comedian {
namespace {

// One class. x[t] = 0: t can never be picked (again). Picks go to kept[token * stride].
template <typename T>
void suppress_softly(T* x, int64_t length, const std::vector<T>& weight, T threshold, T* kept,
                     int64_t stride, std::vector<int64_t>& climb) {
  const int64_t reach = weight.size() / 2;  // weight[reach + d] is for distance d
  for (int64_t from = 0; from < length; ++from) {  // left of `from` all is settled
    while (x[from] >= threshold && x[from] > 0) {
      if (climb.empty()) climb.push_back(from);
      const int64_t peak = climb_to_peak(x, length, 2 * reach, climb);
      kept[peak * stride] = x[peak];
      const int64_t begin = std::max<int64_t>(0, peak - reach);
      const int64_t end = std::min(length, peak + reach + 1);
      const T* w = weight.data() + reach + begin - peak;
      for (int64_t i = begin; i < end; ++i) x[i] *= w[i - begin];
      x[peak] = 0;
      while (!climb.empty() && climb.back() >= begin) climb.pop_back();  // these have just decayed
    }
  }
}

}  // namespace

template <typename T>
void soft_nms(const T* scores, int64_t length, int64_t n_classes, const double* window,
              double threshold, double min_weight, T* kept) {
  std::fill(kept, kept + length * n_classes, T(-1));
  const T least = T(threshold), lowest = T(min_weight), rest = T(1 - min_weight);
  std::vector<T> weight;
  std::vector<int64_t> climb;
  for_each_class(scores, length, n_classes, [&](int64_t k, T* x) {
    const double radius = window[k] / 2;
    const int64_t reach = int64_t(std::min(std::ceil(radius), double(length)));
    weight.assign(2 * reach + 1, T(1));
    for (int64_t d = 1; d <= reach; ++d)
      weight[reach - d] = weight[reach + d] =
          std::min(std::max(lowest + rest * (T(d) / T(radius)), T(0)), T(1));
    for (int64_t t = 0; t < length; ++t) x[t] = x[t] >= least && x[t] > 0 ? x[t] : T(0);
    suppress_softly(x, length, weight, least, kept + k, n_classes, climb);
  });
}

template void soft_nms(const float*, int64_t, int64_t, const double*, double, double, float*);
template void soft_nms(const double*, int64_t, int64_t, const double*, double, double, double*);

}  // namespace comedian
