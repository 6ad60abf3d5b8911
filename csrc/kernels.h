// The kernels of COMEDIAN's post-processing and metric: plain functions over pointers and sizes.
//
// Each file begins with the plain loop that defines the result; comedian/reference.py has the same
// in Python. Then the file says what the fast version does otherwise, and why the result is the
// same. tests/test_ops.py proves that it is, to the bit.
//
// No kernel knows torch, files or threads. Each call works on one half (or one class), reads its
// own inputs and writes its own outputs. So a caller may run any number of them at the same time,
// and the result does not depend on how many. bindings.cpp does that for torch, tests/fuzz/ for the
// sanitizers.
//
// Letters: L tokens per window, T tokens of one half, K classes, D tolerances. Tables are
// row-major.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

namespace comedian {

// merge_windows.cpp: overlapping windows of one half -> one score per token and class
template <typename T>
void merge_windows(const T* scores, const int64_t* start, int64_t n_windows, int64_t window_tokens,
                   int64_t n_classes, int64_t length, int64_t edge, bool mean, T* merged);

// soft_nms.cpp: linear soft non-maximum suppression of one half
template <typename T>
void soft_nms(const T* scores, int64_t length, int64_t n_classes, const double* window,
              double threshold, double min_weight, T* kept);

// hard_nms.cpp: greedy suppression, or the local-maximum filter, of one half
template <typename T>
void hard_nms(const T* scores, int64_t length, int64_t n_classes, const double* window,
              double threshold, bool local, T* kept);

// detections.cpp: what NMS kept, from a table to a list
template <typename T>
void count_detections(const T* kept, int64_t length, int64_t n_classes, int64_t* count);
template <typename T>
void list_detections(const T* kept, int64_t length, int64_t n_classes, int64_t half_index,
                     const int64_t* first, int64_t* half, int64_t* cls, int64_t* token, T* score);

// average_map.cpp: the official evaluator's average precision, in three steps
constexpr int64_t kThresholds = 200;  // confidences at which precision and recall are taken

// Events grouped by half and class: group g = half * n_classes + cls owns [first[g], first[g +
// 1]), in ascending frames, one event per frame. frame and value point into the caller's arrays
// where those were in order already, else into the stores below them.
template <typename Value>
struct Events {
  std::vector<int64_t> first;
  const int64_t* frame = nullptr;
  const Value* value = nullptr;  // a confidence, or for labels whether the event is visible
  std::vector<int64_t> frame_store;
  std::vector<Value> value_store;
};
template <typename Value>
int64_t group_events(const int64_t* half, const int64_t* cls, const int64_t* frame,
                     const Value* value, int64_t n, int64_t n_halves, int64_t n_classes,
                     Events<Value>& grouped);

// How many 64-bit counters one class needs: labels by region, detections, matches per tolerance.
constexpr int64_t tally_size(int64_t n_deltas) { return 2 + (1 + n_deltas) * 2 * kThresholds; }
void tally_halves(const Events<double>& predictions, const Events<uint8_t>& labels,
                  int64_t n_classes, int64_t half_begin, int64_t half_end,
                  const int64_t* delta_frames, int64_t n_deltas, int64_t* tallies);
void average_precision(const int64_t* tally, int64_t n_deltas, double* ap, int64_t ap_stride,
                       int64_t region_stride);

// A counter of a tally that is not 0: tally[at] = n. Of one match and class some 200 of them are.
struct Count {
  int64_t at, n;
};
void list_counts(const int64_t* tally, int64_t size, std::vector<Count>& counts);
void resample_precision(const std::vector<Count>* counts, int64_t n_classes, const int64_t* picks,
                        int64_t n_picks, int64_t n_deltas, double* ap);

// The walk over the classes of one half: visit(k, column) for every class k. column[t] is
// table[t][k], T values side by side, in scratch memory that visit may change.
// The table (T, K) is turned into columns (K, T) in blocks of rows, so that every cache line is
// read and written once. (static: each file has its own, which the compiler then inlines.)
template <typename T, typename Visit>
static void for_each_class(const T* table, int64_t length, int64_t n_classes,
                           const Visit& visit) {
  const std::unique_ptr<T[]> columns(new T[length * n_classes]);
  constexpr int64_t kBlock = 16;  // rows; 16 floats are one cache line of a column
  int64_t t = 0;
  for (; t + kBlock <= length; t += kBlock)
    for (int64_t k = 0; k < n_classes; ++k)
      for (int64_t i = 0; i < kBlock; ++i)
        columns[k * length + t + i] = table[(t + i) * n_classes + k];
  for (; t < length; ++t)
    for (int64_t k = 0; k < n_classes; ++k) columns[k * length + t] = table[t * n_classes + k];
  for (int64_t k = 0; k < n_classes; ++k) visit(k, columns.get() + k * length);
}

}  // namespace comedian
