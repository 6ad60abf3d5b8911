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
// says how many each class holds, list_detections writes them. In the order (half, class, token)
// average_map need not sort. Cost O(T K).
//
// What is done otherwise. Both functions read the table as it lies in memory, a few rows at a time,
// and need no memory of its size. The count does not depend on the order, so it adds up several
// rows side by side, without a branch. The list writes down every token, and the next one
// overwrites it unless it was a detection: nobody can foresee where detections lie, and a wrongly
// predicted branch costs more than a store.
#include "kernels.h"

#include <algorithm>

namespace comedian {

template <typename T>
void count_detections(const T* kept, int64_t length, int64_t n_classes, int64_t* count) {
  constexpr int64_t kRows = 8;         // side by side, so that tables of one class vectorise too
  constexpr int64_t kTurns = 1 << 16;  // counted in 32 bits, as wide as a float
  const int64_t n = length * n_classes, lanes = std::min(n, kRows * n_classes);
  std::vector<int32_t> here(lanes);
  int32_t* const lane = here.data();
  std::fill(count, count + n_classes, 0);
  for (int64_t i = 0; i < n;) {
    std::fill(here.begin(), here.end(), 0);
    for (int64_t turn = 0; turn < kTurns && i < n; ++turn) {
      const int64_t wide = std::min(lanes, n - i);
      for (int64_t l = 0; l < wide; ++l) lane[l] += kept[i + l] >= 0;
      i += wide;
    }
    for (int64_t l = 0; l < lanes; ++l) count[l % n_classes] += lane[l];
  }
}

// first (K + 1,): where the list of each class begins in half, cls, token and score, and the end.
template <typename T>
void list_detections(const T* kept, int64_t length, int64_t n_classes, int64_t half_index,
                     const int64_t* first, int64_t* half, int64_t* cls, int64_t* token, T* score) {
  constexpr int64_t kBlock = 512;  // rows; the cache keeps them while every class looks at them
  int32_t found[kBlock];
  std::vector<int64_t> next(first, first + n_classes);
  for (int64_t begin = 0; begin < length; begin += kBlock) {
    const T* const rows = kept + begin * n_classes;
    const int64_t n_rows = std::min(kBlock, length - begin);
    for (int64_t k = 0; k < n_classes; ++k) {
      int64_t n = 0;
      for (int64_t t = 0; t < n_rows; ++t) {
        found[n] = int32_t(t);  // stays only if n moves on
        n += rows[t * n_classes + k] >= 0;
      }
      for (int64_t i = 0; i < n; ++i) {
        token[next[k] + i] = begin + found[i];
        score[next[k] + i] = rows[found[i] * n_classes + k];
      }
      next[k] += n;
    }
  }
  std::fill(half + first[0], half + first[n_classes], half_index);
  for (int64_t k = 0; k < n_classes; ++k) std::fill(cls + first[k], cls + first[k + 1], k);
}

template void count_detections(const float*, int64_t, int64_t, int64_t*);
template void count_detections(const double*, int64_t, int64_t, int64_t*);
template void list_detections(const float*, int64_t, int64_t, int64_t, const int64_t*, int64_t*,
                              int64_t*, int64_t*, float*);
template void list_detections(const double*, int64_t, int64_t, int64_t, const int64_t*, int64_t*,
                              int64_t*, int64_t*, double*);

}  // namespace comedian
