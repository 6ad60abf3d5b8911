// A fuzz target for the kernels, not part of the extension: csrc/sanitize.sh builds and runs it.
// Bytes decide sizes, options and values; every table gets memory of exactly its size, so that a
// sanitizer sees each access outside of it. It has a main that feeds it random bytes; for clang's
// libFuzzer, which looks for bytes that reach new code:
//
//   clang++ -std=c++17 -g -O1 -fsanitize=fuzzer,address,undefined -DLIBFUZZER csrc/fuzz_main.cpp
//       csrc/merge_windows.cpp csrc/soft_nms.cpp csrc/hard_nms.cpp csrc/detections.cpp
//       csrc/average_map.cpp -o build/fuzz && build/fuzz
//
// That the results are right is for tests/test_ops.py to say; here stands only what holds for any
// input: detections lie where scores lie, greedy ones as far apart as they must, and a precision is
// between 0 and 1.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>

#include "kernels.h"

namespace {

using namespace comedian;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

// Takes numbers from the bytes; zeros when they are used up.
struct Bytes {
  const uint8_t* at;
  size_t left;
  uint8_t byte() { return left > 0 ? (--left, *at++) : 0; }
  int64_t below(int64_t n) { return (byte() * 256 + byte()) % n; }
  int64_t index() {  // mostly small, sometimes huge, as a caller may pass it
    const uint8_t b = byte();
    return b == 255 ? std::numeric_limits<int64_t>::max() : b == 254 ? int64_t(1) << 40 : b % 64;
  }
  double score() {
    const double odd[] = {0.0, -0.0, -1.0, 1.0, 2.0, INFINITY, -INFINITY, NAN, 1e-320, 0.5};
    const uint8_t b = byte();
    return b < 10 ? odd[b] : (b % 32) / 31.0;  // few levels, so that ties are common
  }
  double width() { return byte() % 4 ? byte() / 4.0 : double(index()); }
};

template <typename T>
std::vector<T> table(Bytes& bytes, int64_t n) {
  std::vector<T> t(n);
  for (T& x : t) x = T(bytes.score());
  t.shrink_to_fit();
  return t;
}

template <typename T>
void run_tables(Bytes& bytes) {
  const int64_t length = bytes.below(80), n_classes = bytes.below(4), n = length * n_classes;
  const std::vector<T> scores = table<T>(bytes, n);
  std::vector<double> window(n_classes);
  for (double& w : window) w = bytes.width();
  const double threshold = bytes.byte() % 2 ? 0.0 : bytes.byte() / 255.0;
  std::vector<T> kept(n);
  soft_nms(scores.data(), length, n_classes, window.data(), threshold, bytes.byte() / 255.0,
           kept.data());
  for (int64_t i = 0; i < n; ++i)
    expect(kept[i] == T(-1) || (kept[i] <= scores[i] && kept[i] >= T(threshold)),
           "soft_nms kept a score that is above its input or below the threshold");
  for (const bool local : {true, false}) {
    hard_nms(scores.data(), length, n_classes, window.data(), threshold, local, kept.data());
    for (int64_t i = 0; i < n; ++i)
      expect(kept[i] == T(-1) || kept[i] == scores[i], "hard_nms changed a score");
  }
  for (int64_t k = 0; k < n_classes; ++k)
    for (int64_t t = 0, last = -1; t < length; ++t) {
      if (kept[t * n_classes + k] == T(-1)) continue;
      expect(last < 0 || double(t - last) >= std::floor(window[k] / 2),
             "hard_nms kept two detections within a window");
      last = t;
    }

  int64_t found = 0;
  count_detections(kept.data(), length, n_classes, &found);
  std::vector<int64_t> half(found), cls(found), token(found);
  std::vector<T> score(found);
  list_detections(kept.data(), length, n_classes, 7, half.data(), cls.data(), token.data(),
                  score.data());
  for (int64_t i = 0; i < found; ++i)
    expect(kept[token[i] * n_classes + cls[i]] == score[i], "list_detections misplaced a score");

  const int64_t n_windows = bytes.below(6), window_tokens = bytes.below(20);
  const std::vector<T> seen = table<T>(bytes, n_windows * window_tokens * n_classes);
  std::vector<int64_t> start(n_windows);
  for (int64_t& s : start) s = bytes.index();
  const int64_t edge = bytes.index();
  for (const bool mean : {true, false})
    merge_windows(seen.data(), start.data(), n_windows, window_tokens, n_classes, length, edge,
                  mean, kept.data());
}

void run_metric(Bytes& bytes) {
  const int64_t n_halves = bytes.below(4), n_classes = bytes.below(3), n_deltas = bytes.below(4);
  const bool wild = bytes.byte() % 8 == 0;  // some events out of range, which must be noticed
  const bool no_place = !wild && n_halves * n_classes == 0;
  const int64_t n_predictions = no_place ? 0 : bytes.below(60);
  const int64_t n_labels = no_place ? 0 : bytes.below(20);
  std::vector<int64_t> column[6];  // half, class, frame of predictions and of labels
  for (int i = 0; i < 6; ++i) {
    column[i].resize(i < 3 ? n_predictions : n_labels);
    const int64_t range = std::max<int64_t>(1, i % 3 == 0 ? n_halves : n_classes);
    for (int64_t& x : column[i]) {
      x = i % 3 == 2 ? bytes.index() : bytes.below(range);
      if (wild && bytes.byte() < 4) x = bytes.byte() % 2 ? -1 : range;
    }
  }
  const std::vector<double> score = table<double>(bytes, n_predictions);
  std::vector<uint8_t> visible(n_labels);
  for (uint8_t& v : visible) v = bytes.byte() % 2;
  std::vector<int64_t> deltas(n_deltas);
  for (int64_t& d : deltas) d = bytes.index();

  Events<double> predictions;
  Events<uint8_t> labels;
  if (group_events(column[0].data(), column[1].data(), column[2].data(), score.data(),
                   n_predictions, n_halves, n_classes, predictions) >= 0)
    return;
  if (group_events(column[3].data(), column[4].data(), column[5].data(), visible.data(), n_labels,
                   n_halves, n_classes, labels) >= 0)
    return;
  std::vector<double> ap(3 * n_deltas * n_classes);
  const int64_t size = tally_size(n_deltas);
  std::vector<int64_t> tallies(n_classes * size, 0);
  tally_halves(predictions, labels, n_classes, 0, n_halves, deltas.data(), n_deltas,
               tallies.data());
  for (int64_t k = 0; k < n_classes; ++k)
    average_precision(tallies.data() + k * size, n_deltas, ap.data() + k, n_classes,
                      n_deltas * n_classes);
  for (double p : ap) expect(p >= 0 && p <= 1, "an average precision lies outside [0, 1]");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes{data, size};
  switch (bytes.byte() % 3) {
    case 0: run_tables<float>(bytes); break;
    case 1: run_tables<double>(bytes); break;
    default: run_metric(bytes);
  }
  return 0;
}

#ifndef LIBFUZZER
int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 20000;
  std::mt19937 random(0);
  std::vector<uint8_t> data;
  for (int round = 0; round < rounds; ++round) {
    data.resize(random() % 1500);
    for (uint8_t& b : data) b = uint8_t(random());
    LLVMFuzzerTestOneInput(data.data(), data.size());
  }
  std::printf("fuzz: %d rounds without a report\n", rounds);
}
#endif
