// soft_nms: linear soft non-maximum suppression as the official COMEDIAN code and spivak define it.
//
//   scores (T, K)   window (K,) tokens, total width, >= 0   threshold >= 0   min_weight in [0, 1]
//   -> kept (T, K)  the score of each detection at the moment it was picked, -1 where there is none
//
// Per class: while the best score is >= threshold (and > 0), pick it, then multiply every score at
// distance d <= ceil(radius), radius = window / 2, by
//   clip(min_weight + (1 - min_weight) * (d / radius), 0, 1)
// Equal scores: the earlier token first. NaN and negative scores are never picked. window 0: no
// decay. All arithmetic, threshold included, in the type of the scores, in the order written here;
// products in the order of the picks.
//
// Cost: linear in T. There is no global maximum to look for: every weight is <= 1, so scores only
// fall, and two picks touch a common token only within 2R of each other (R = ceil(radius)).
// Whoever is the best within 2R on both sides can be picked at once, and the products come out in
// the global order. Same result as ops.soft_nms_ref, bit by bit.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <memory>

namespace comedian {
namespace {

// One class. `x` is scratch: 0 = can never be picked (again). Picks go to kept[token * stride].
template <typename T>
void suppress(T* x, int64_t length, const std::vector<T>& weight, T threshold, T* kept,
              int64_t stride, std::vector<int64_t>& climb) {
  const int64_t reach = weight.size() / 2;  // weight[reach + d] is for distance d
  int64_t seen = 0;  // nothing between the top of the climb and here is better than that top
  for (int64_t from = 0; from < length; ++from) {
    // Left of `from` nothing can be picked any more. `climb` holds a rising path: each entry is the
    // best within 2 reach to the right of the one before, so nothing left of its top is better.
    while (x[from] >= threshold && x[from] > 0) {
      if (climb.empty()) climb.push_back(from);
      const int64_t top = climb.back();
      const int64_t horizon = std::min(length, top + 2 * reach + 1);
      const int64_t better = first_maximum_above(x, std::max(top + 1, seen), horizon, x[top]);
      if (better >= 0) {
        climb.push_back(better);
        seen = horizon;
        continue;
      }
      seen = 0;
      kept[top * stride] = x[top];
      const int64_t begin = std::max<int64_t>(0, top - reach);
      const int64_t end = std::min(length, top + reach + 1);
      const T* w = weight.data() + reach + begin - top;
      for (int64_t i = begin; i < end; ++i) x[i] *= w[i - begin];
      x[top] = 0;
      // Entries that have just decayed may no longer lead the path: climb again from before them.
      while (!climb.empty() && climb.back() >= begin) climb.pop_back();
    }
  }
}

}  // namespace

template <typename T>
void soft_nms(const T* scores, int64_t length, int64_t n_classes, const double* window,
              double threshold, double min_weight, T* kept) {
  std::fill(kept, kept + length * n_classes, T(-1));
  const std::unique_ptr<T[]> columns(new T[length * n_classes]);
  to_columns(scores, length, n_classes, columns.get());
  const T least = T(threshold), lowest = T(min_weight), rest = T(1 - min_weight);
  std::vector<T> weight;
  std::vector<int64_t> climb;
  for (int64_t k = 0; k < n_classes; ++k) {
    const double radius = window[k] / 2;
    const int64_t reach = int64_t(std::min(std::ceil(radius), double(length)));
    weight.assign(2 * reach + 1, T(1));
    for (int64_t d = 1; d <= reach; ++d)
      weight[reach - d] = weight[reach + d] =
          std::min(std::max(lowest + rest * (T(d) / T(radius)), T(0)), T(1));
    T* x = columns.get() + k * length;
    for (int64_t t = 0; t < length; ++t) x[t] = x[t] >= least && x[t] > 0 ? x[t] : T(0);
    suppress(x, length, weight, least, kept + k, n_classes, climb);
  }
}

template void soft_nms(const float*, int64_t, int64_t, const double*, double, double, float*);
template void soft_nms(const double*, int64_t, int64_t, const double*, double, double, double*);

}  // namespace comedian
