// Fuzz targets for the kernels, not part of the extension: sanitize.sh builds and runs them.
//
//   fuzz soft_nms 200000     so many rounds of random bytes for one kernel
//   fuzz threads 200         every kernel on several halves at a time, from several threads, which
//                            must give what one thread gives (for the thread sanitizer)
//
// Bytes decide sizes, options and values. Every table gets memory of exactly its size, so that a
// sanitizer sees each access outside of it. clang's libFuzzer can look for bytes that reach new
// code (the first byte then picks the kernel):
//
//   clang++ -std=c++17 -g -O1 -fsanitize=fuzzer,address,undefined -DLIBFUZZER -Icsrc
//       tests/fuzz/fuzz_main.cpp csrc/merge_windows.cpp csrc/soft_nms.cpp csrc/hard_nms.cpp
//       csrc/detections.cpp csrc/average_map.cpp -o build/fuzz && build/fuzz
//
// That the results are right is for tests/test_ops.py to say. Here stands only what holds for any
// input: detections lie where scores lie, greedy ones as far apart as they must, a precision is
// between 0 and 1.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <thread>

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

// ----- one target per kernel -------------------------------------------------------------------
template <typename T>
void fuzz_merge_windows(Bytes& bytes) {
  const int64_t length = bytes.below(80), n_classes = bytes.below(4);
  const int64_t n_windows = bytes.below(6), window_tokens = bytes.below(20);
  const std::vector<T> scores = table<T>(bytes, n_windows * window_tokens * n_classes);
  std::vector<int64_t> start(n_windows);
  for (int64_t& s : start) s = bytes.index();
  const int64_t edge = bytes.index();
  std::vector<T> merged(length * n_classes);
  for (const bool mean : {true, false})
    merge_windows(scores.data(), start.data(), n_windows, window_tokens, n_classes, length, edge,
                  mean, merged.data());
  for (const T m : merged)  // the last of them by maximum
    expect(m == 0 || m != m || std::find(scores.begin(), scores.end(), m) != scores.end(),
           "merge_windows made a maximum that is no window's score");
}

// What both kinds of NMS get.
template <typename T>
struct NmsCase {
  int64_t length, n_classes;
  std::vector<T> scores, kept;
  std::vector<double> window;
  double threshold;
  explicit NmsCase(Bytes& bytes) : length(bytes.below(80)), n_classes(bytes.below(4)) {
    scores = table<T>(bytes, length * n_classes);
    kept.resize(length * n_classes);
    window.resize(n_classes);
    for (double& w : window) w = bytes.width();
    threshold = bytes.byte() % 2 ? 0.0 : bytes.byte() / 255.0;
  }
};

template <typename T>
void fuzz_soft_nms(Bytes& bytes) {
  NmsCase<T> c(bytes);
  soft_nms(c.scores.data(), c.length, c.n_classes, c.window.data(), c.threshold,
           bytes.byte() / 255.0, c.kept.data());
  for (size_t i = 0; i < c.kept.size(); ++i)
    expect(c.kept[i] == T(-1) || (c.kept[i] <= c.scores[i] && c.kept[i] >= T(c.threshold)),
           "soft_nms kept a score that is above its input or below the threshold");
}

template <typename T>
void fuzz_hard_nms(Bytes& bytes) {
  NmsCase<T> c(bytes);
  for (const bool local : {true, false}) {
    hard_nms(c.scores.data(), c.length, c.n_classes, c.window.data(), c.threshold, local,
             c.kept.data());
    for (size_t i = 0; i < c.kept.size(); ++i)
      expect(c.kept[i] == T(-1) || c.kept[i] == c.scores[i], "hard_nms changed a score");
  }
  for (int64_t k = 0; k < c.n_classes; ++k)  // what was kept last is greedy
    for (int64_t t = 0, last = -1; t < c.length; ++t) {
      if (c.kept[t * c.n_classes + k] == T(-1)) continue;
      expect(last < 0 || double(t - last) >= std::floor(c.window[k] / 2),
             "hard_nms kept two detections within a window");
      last = t;
    }
}

template <typename T>
void fuzz_detections(Bytes& bytes) {
  const int64_t length = bytes.below(80), n_classes = bytes.below(4);
  const std::vector<T> kept = table<T>(bytes, length * n_classes);
  std::vector<int64_t> first(n_classes + 1);
  count_detections(kept.data(), length, n_classes, first.data() + 1);
  for (int64_t k = 0; k < n_classes; ++k) first[k + 1] += first[k];
  const int64_t found = first[n_classes];
  std::vector<int64_t> half(found), cls(found), token(found);
  std::vector<T> score(found);
  list_detections(kept.data(), length, n_classes, 7, first.data(), half.data(), cls.data(),
                  token.data(), score.data());
  for (int64_t i = 0; i < found; ++i) {
    expect(kept[token[i] * n_classes + cls[i]] == score[i], "list_detections misplaced a score");
    expect(i == 0 || cls[i - 1] < cls[i] || (cls[i - 1] == cls[i] && token[i - 1] < token[i]),
           "list_detections is not in order");
  }
}

void fuzz_average_map(Bytes& bytes) {
  // Now and then so many in one half and class that the predictions near a label are not looked at
  // one by one.
  const bool crowded = bytes.byte() % 8 == 0;
  const int64_t n_halves = crowded ? 1 : bytes.below(4), n_classes = crowded ? 1 : bytes.below(3);
  const int64_t n_deltas = bytes.below(4);
  const bool wild = bytes.byte() % 8 == 0;  // some events out of range, which must be noticed
  const bool no_place = !wild && n_halves * n_classes == 0;
  const int64_t n_predictions = no_place ? 0 : bytes.below(crowded ? 250 : 60);
  const int64_t n_labels = no_place ? 0 : bytes.below(crowded ? 120 : 20);
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
  // All as one match, drawn twice: every count doubles, and no ratio changes.
  std::vector<std::vector<Count>> counts(n_classes);
  for (int64_t k = 0; k < n_classes; ++k)
    list_counts(tallies.data() + k * size, size, counts[k]);
  std::vector<double> again(ap.size());
  const int64_t picks[2] = {0, 0};
  resample_precision(counts.data(), n_classes, picks, 2, n_deltas, again.data());
  expect(again == ap, "two copies of a match are not like one");
}

// ----- threads ----------------------------------------------------------------------------------
// Runs work(h) for every half, on so many threads.
template <typename Work>
void on_threads(int64_t n_threads, int64_t n_halves, const Work& work) {
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < n_threads; ++i)
    threads.emplace_back([&, i] {
      for (int64_t h = i; h < n_halves; h += n_threads) work(h);
    });
  for (std::thread& thread : threads) thread.join();
}

// Neighbouring halves lie side by side in every table, as bindings.cpp lays them.
void run_threads(std::mt19937& random) {
  constexpr int64_t kHalves = 8, kTokens = 37, kClasses = 3, kWindows = 4, kWindowTokens = 16;
  constexpr int64_t kHalf = kTokens * kClasses, kHalfWindows = kWindows * kWindowTokens * kClasses;
  constexpr int64_t kDeltas = 3, kLabels = 5;
  std::vector<float> scores(kHalves * kHalfWindows);
  for (float& s : scores) s = float(random() % 64) / 63;
  std::vector<int64_t> start(kHalves * kWindows), label_half, label_class, label_frame;
  for (int64_t& s : start) s = random() % kTokens;
  std::vector<uint8_t> visible;
  for (int64_t i = 0; i < kHalves * kLabels; ++i) {
    label_half.push_back(i / kLabels);
    label_class.push_back(random() % kClasses);
    label_frame.push_back(random() % kTokens);
    visible.push_back(random() % 2);
  }
  const std::vector<double> window(kClasses, random() % 24 / 2.0);
  const int64_t deltas[kDeltas] = {2, 6, 20}, size = tally_size(kDeltas);

  std::vector<double> results[2];
  for (const bool many : {false, true}) {
    const int64_t n_threads = many ? 4 : 1;
    std::vector<float> merged(kHalves * kHalf), soft(kHalves * kHalf), hard(kHalves * kHalf);
    std::vector<int64_t> first(kHalves * kClasses + 1, 0);
    on_threads(n_threads, kHalves, [&](int64_t h) {
      merge_windows(&scores[h * kHalfWindows], &start[h * kWindows], kWindows, kWindowTokens,
                    kClasses, kTokens, 2, h % 2 == 0, &merged[h * kHalf]);
      soft_nms(&merged[h * kHalf], kTokens, kClasses, window.data(), .01, .1, &soft[h * kHalf]);
      hard_nms(&merged[h * kHalf], kTokens, kClasses, window.data(), .01, h % 3 == 0,
               &hard[h * kHalf]);
      count_detections(&hard[h * kHalf], kTokens, kClasses, &first[1 + h * kClasses]);
    });
    for (int64_t i = 0; i < kHalves * kClasses; ++i) first[i + 1] += first[i];
    const int64_t n_found = first.back();
    std::vector<int64_t> half(n_found), cls(n_found), token(n_found);
    std::vector<float> score(n_found);
    on_threads(n_threads, kHalves, [&](int64_t h) {
      list_detections(&hard[h * kHalf], kTokens, kClasses, h, &first[h * kClasses],
                      half.data(), cls.data(), token.data(), score.data());
    });

    const std::vector<double> confidence(score.begin(), score.end());
    Events<double> predictions;
    Events<uint8_t> labels;
    group_events(half.data(), cls.data(), token.data(), confidence.data(), n_found, kHalves,
                 kClasses, predictions);
    group_events(label_half.data(), label_class.data(), label_frame.data(), visible.data(),
                 kHalves * kLabels, kHalves, kClasses, labels);
    std::vector<int64_t> tallies(kHalves * kClasses * size, 0);
    on_threads(n_threads, kHalves, [&](int64_t h) {
      tally_halves(predictions, labels, kClasses, h, h + 1, deltas, kDeltas,
                   &tallies[h * kClasses * size]);
    });
    for (int64_t i = kClasses * size; i < int64_t(tallies.size()); ++i)
      tallies[i % (kClasses * size)] += tallies[i];
    std::vector<double> ap(3 * kDeltas * kClasses);
    on_threads(n_threads, kClasses, [&](int64_t k) {
      average_precision(&tallies[k * size], kDeltas, &ap[k], kClasses, kDeltas * kClasses);
    });

    std::vector<double>& all = results[many];
    all.insert(all.end(), merged.begin(), merged.end());
    all.insert(all.end(), soft.begin(), soft.end());
    all.insert(all.end(), token.begin(), token.end());
    all.insert(all.end(), confidence.begin(), confidence.end());
    all.insert(all.end(), ap.begin(), ap.end());
  }
  expect(results[0] == results[1], "several threads give another result than one");
}

// A kernel's target, in either precision.
struct Target {
  const char* name;
  void (*single)(Bytes&);
  void (*twice)(Bytes&);
};
constexpr Target kTargets[] = {
    {"merge_windows", fuzz_merge_windows<float>, fuzz_merge_windows<double>},
    {"soft_nms", fuzz_soft_nms<float>, fuzz_soft_nms<double>},
    {"hard_nms", fuzz_hard_nms<float>, fuzz_hard_nms<double>},
    {"detections", fuzz_detections<float>, fuzz_detections<double>},
    {"average_map", fuzz_average_map, fuzz_average_map}};

void run(const Target& target, Bytes bytes) {
  if (bytes.byte() % 2) target.single(bytes);
  else target.twice(bytes);
}

}  // namespace

#ifdef LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes{data, size};
  run(kTargets[bytes.byte() % std::size(kTargets)], bytes);
  return 0;
}
#else
int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 20000;
  std::mt19937 random(0);
  bool known = name == "threads";
  if (known)
    for (int round = 0; round < rounds; ++round) run_threads(random);
  std::vector<uint8_t> data;
  for (const Target& target : kTargets) {
    if (name != target.name) continue;
    known = true;
    for (int round = 0; round < rounds; ++round) {
      data.resize(random() % 3000);
      for (uint8_t& b : data) b = uint8_t(random());
      run(target, {data.data(), data.size()});
    }
  }
  expect(known, "usage: fuzz KERNEL|threads [ROUNDS]");
  std::printf("fuzz %s: %d rounds without a report\n", name.c_str(), rounds);
}
#endif
