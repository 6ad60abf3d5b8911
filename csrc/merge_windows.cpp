// merge_windows: the overlapping windows of one half become one score per token and class.
//
//   scores (N, L, K)   start (N,) first token of each window, >= 0, in any order
//   -> merged (T, K), T = length
//
// A window ignores its outer `edge` tokens on both sides, for there it has seen little context,
// except where the half itself begins or ends and no other window sees more. Token t is ignored iff
//   (t - start < edge          and  t > edge)               the window's first tokens
//   (start + L - 1 - t < edge  and  length - 1 - t > edge)  its last ones
// Tokens at or beyond `length` are ignored too. What is left is merged by maximum (NaN wins, so
// that it is seen) or by true mean: the sum in the order of the windows, over their count. A token
// that no window covers scores 0. Same result as ops.merge_windows_ref. Cost O(N L K), each score
// read once.
#include "kernels.h"

#include <algorithm>

namespace comedian {
namespace {

template <typename T>
void take_maximum(const T* from, int64_t n, T* to) {
  for (int64_t i = 0; i < n; ++i)
    to[i] = (from[i] > to[i]) | (from[i] != from[i]) ? from[i] : to[i];
}

template <typename T>
void add(const T* from, int64_t n, T* to) {
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

}  // namespace

template <typename T>
void merge_windows(const T* scores, const int64_t* start, int64_t n_windows, int64_t window_tokens,
                   int64_t n_classes, int64_t length, int64_t edge, bool mean, T* merged) {
  std::vector<int32_t> covered(length, 0);  // windows that have contributed to each token
  edge = std::min(edge, length);            // no token is further than that from an end

  for (int64_t w = 0; w < n_windows; ++w) {
    const int64_t s = start[w];
    if (s >= length) continue;
    const int64_t end = window_tokens < length - s ? s + window_tokens : length;
    const T* window = scores + w * window_tokens * n_classes;
    const auto ignored = [&](int64_t t) {
      return (t - s < edge && t > edge) ||
             (window_tokens - 1 - (t - s) < edge && length - 1 - t > edge);
    };
    // Walk in runs of tokens that share one fate, so that the loops over scores are long and plain.
    // Whether a token is ignored can change at these only (a longer window than the half has no
    // last tokens to ignore):
    const int64_t borders[] = {edge + 1, s + edge, s + std::min(window_tokens, length) - edge,
                               length - 1 - edge};
    for (int64_t t = s, next; t < end; t = next) {
      next = end;
      for (int64_t border : borders)
        if (border > t) next = std::min(next, border);
      if (ignored(t)) continue;
      for (int64_t run = t, stop; run < next; run = stop) {
        const bool first = covered[run] == 0;
        for (stop = run; stop < next && (covered[stop] == 0) == first; ++stop) ++covered[stop];
        const T* from = window + (run - s) * n_classes;
        T* to = merged + run * n_classes;
        const int64_t n = (stop - run) * n_classes;
        if (first) std::copy(from, from + n, to);
        else if (mean) add(from, n, to);
        else take_maximum(from, n, to);
      }
    }
  }
  for (int64_t t = 0; t < length; ++t) {
    T* const token = merged + t * n_classes;
    if (covered[t] == 0) std::fill(token, token + n_classes, T(0));
    else if (mean && covered[t] > 1)
      for (int64_t k = 0; k < n_classes; ++k) token[k] /= T(covered[t]);
  }
}

template void merge_windows(const float*, const int64_t*, int64_t, int64_t, int64_t, int64_t,
                            int64_t, bool, float*);
template void merge_windows(const double*, const int64_t*, int64_t, int64_t, int64_t, int64_t,
                            int64_t, bool, double*);

}  // namespace comedian
