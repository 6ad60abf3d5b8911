// detections: what an NMS kept, from a table to a list.
//
//   kept (T, K)  a score where there is a detection, negative (or NaN) where there is none
//   -> half, cls, token (M,), score (M,): by class, then by token
//
// The plain loop:
//
//   for (k = 0; k < K; ++k)
//     for (t = 0; t < T; ++t)
//       if (kept[t][k] >= 0) append half_index, k, t and kept[t][k] to the four lists;
//
// It stands here as two functions, because the caller must know M to make room: count_detections
// says how many each half holds, list_detections writes them. In the order (half, class, token)
// average_map need not sort. Cost O(T K).
//
// What is done otherwise. The count does not depend on the order, so it runs over the table as it
// lies in memory, without a branch. The list writes down every token, and the next one overwrites
// it unless it was a detection: nobody can foresee where detections lie, and a wrongly predicted
// branch costs more than a store.
#include "kernels.h"

#include <algorithm>
#include <vector>

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
  std::vector<int64_t> found(length);
  for_each_class(kept, length, n_classes, [&](int64_t k, const T* column) {
    int64_t n = 0;
    for (int64_t t = 0; t < length; ++t) {
      found[n] = t;  // stays only if n moves on
      n += column[t] >= 0;
    }
    for (int64_t i = 0; i < n; ++i) score[i] = column[found[i]];
    std::copy(found.begin(), found.begin() + n, token);
    std::fill(half, half + n, half_index);
    std::fill(cls, cls + n, k);
    half += n, cls += n, token += n, score += n;
  });
}

template void count_detections(const float*, int64_t, int64_t, int64_t*);
template void count_detections(const double*, int64_t, int64_t, int64_t*);
template void list_detections(const float*, int64_t, int64_t, int64_t, int64_t*, int64_t*,
                              int64_t*, float*);
template void list_detections(const double*, int64_t, int64_t, int64_t, int64_t*, int64_t*,
                              int64_t*, double*);

}  // namespace comedian
