// merge_windows: the overlapping windows of one half become one score per token and class.
//
//   scores (N, L, K)   start (N,) first token of each window, >= 0, in any order
//   -> merged (T, K), T = length
//
// The plain loop; all of `merged` and `covered` is 0 before it:
//
//   for each window w and its tokens t = start[w] .. start[w] + L - 1, those with t < length:
//     if (t - start[w] < edge && t > edge) continue;                            // its first tokens
//     if (start[w] + L - 1 - t < edge && length - 1 - t > edge) continue;       // its last tokens
//     for each class k, s = scores[w][t - start[w]][k], m = merged[t][k]:
//       m = covered[t] == 0 ? s : mean ? m + s : (s > m || isnan(s)) ? s : m;
//     ++covered[t];
//   if (mean) merged[t][k] /= covered[t];                                       // where covered
//
// A window has seen little context at its two ends, so its outer `edge` tokens are ignored there.
// Tokens at most `edge` from the half's own ends are not: no other window sees more around them.
// NaN wins a maximum, so that it is seen. A mean is the sum in the order of the windows, over their
// count. A token that no window covers scores 0.
//
// What is done otherwise. The two conditions change their value at four tokens of a window at most.
// So a window is walked in runs of tokens that share one fate, and a run is one loop over
// neighbouring scores that the compiler turns into vector instructions. The order of windows is
// kept, so the sums are rounded alike. Every score is read once: cost O(N L K).
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
    // Whether a token is ignored can change at these only. (A window longer than the half has no
    // last tokens to ignore.)
    const int64_t borders[] = {edge + 1, s + edge, s + std::min(window_tokens, length) - edge,
                               length - 1 - edge};
    for (int64_t t = s, next; t < end; t = next) {
      next = end;
      for (int64_t border : borders)
        if (border > t) next = std::min(next, border);
      if (ignored(t)) continue;
      // [t, next) counts. In it, a stretch that is covered for the first time is copied.
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
