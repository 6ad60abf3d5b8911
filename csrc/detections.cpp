// detections: what an NMS kept, from a table to a list.
//
//   kept (T, K)  a score where there is a detection, negative (or NaN) where there is none
//   -> half, cls, token (M,), score (M,): by class, then by token
//
// In two calls, because the caller must know M to make room: count_detections says how many each
// half holds, list_detections writes them. The order (half, class, token) is the one in which
// average_map needs no sorting. Cost O(T K).
#include "kernels.h"

#include <algorithm>
#include <memory>

namespace comedian {

template <typename T>
void count_detections(const T* kept, int64_t length, int64_t n_classes, int64_t* count) {
  constexpr int64_t kBlock = 1 << 16;  // counted in 32 bits, as wide as a float: that vectorises
  const int64_t n = length * n_classes;
  *count = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    int32_t here = 0;
    for (int64_t i = begin; i < std::min(n, begin + kBlock); ++i) here += kept[i] >= 0;
    *count += here;
  }
}

template <typename T>
void list_detections(const T* kept, int64_t length, int64_t n_classes, int64_t half_index,
                     int64_t* half, int64_t* cls, int64_t* token, T* score) {
  const std::unique_ptr<T[]> columns(new T[length * n_classes]);
  to_columns(kept, length, n_classes, columns.get());
  std::vector<int64_t> found(length);
  for (int64_t k = 0; k < n_classes; ++k) {
    const T* column = columns.get() + k * length;
    // Every token is written down and the next one overwrites it unless it is a detection: where
    // detections lie cannot be foreseen, and a wrongly predicted branch costs more than a store.
    int64_t n = 0;
    for (int64_t t = 0; t < length; ++t) {
      found[n] = t;
      n += column[t] >= 0;
    }
    for (int64_t i = 0; i < n; ++i) score[i] = column[found[i]];
    std::copy(found.begin(), found.begin() + n, token);
    std::fill(half, half + n, half_index);
    std::fill(cls, cls + n, k);
    half += n, cls += n, token += n, score += n;
  }
}

template void count_detections(const float*, int64_t, int64_t, int64_t*);
template void count_detections(const double*, int64_t, int64_t, int64_t*);
template void list_detections(const float*, int64_t, int64_t, int64_t, int64_t*, int64_t*,
                              int64_t*, float*);
template void list_detections(const double*, int64_t, int64_t, int64_t, int64_t*, int64_t*,
                              int64_t*, double*);

}  // namespace comedian
