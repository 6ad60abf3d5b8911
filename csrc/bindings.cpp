// The only file that knows torch. What stands where, from top to bottom:
//
//   checks              require, vector_of, scores_of, offsets_of, offsets_of_rows: a message names
//                       the argument, the rule and what was got
//   memory and threads  new_result, for_each_item (half by half), dispatch (float or double)
//   operators           merge_windows_cpu, soft_nms_cpu, hard_nms_cpu, detections_cpu,
//                       average_map_cpu, resampled_map_cpu: check the arguments, make room, call
//                       the kernel
//   registration        the six schemas of torch.ops.comedian, and the Python module: begin there
//
// What the operators compute is written at the head of each kernel's file, and in Python in
// comedian/reference.py.
//
// Written against torch's stable ABI (2.11 and later), so one build serves every torch from there
// on. Halves are handed out to as many threads as torch.get_num_threads() allows. No kernel's
// result depends on their number.
#include <pybind11/pybind11.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <sstream>
#include <stdexcept>

#include "kernels.h"

namespace comedian {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// ----- checks: argument, rule, what was got ----------------------------------------------------
template <typename... Words>
void require(bool met, const Words&... words) {
  if (met) return;
  std::ostringstream message;
  (message << ... << words);
  throw std::invalid_argument(message.str());  // Python sees a ValueError
}

std::string shape_of(const Tensor& t) {
  std::ostringstream s;
  s << "(";
  for (int64_t d = 0; d < t.dim(); ++d) s << (d ? ", " : "") << t.size(d);
  s << (t.dim() == 1 ? ",)" : ")");
  return s.str();
}

const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Long: return "int64";
    case ScalarType::Int: return "int32";
    case ScalarType::Bool: return "bool";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    default: return "another type";
  }
}

void require_cpu(const char* name, const Tensor& t) {
  require(t.is_cpu(), name, " must be on the CPU, got a tensor elsewhere; pass ", name, ".cpu()");
}

// A 1-d tensor of the given type and, unless n < 0, of length n.
Tensor vector_of(const char* name, const Tensor& t, ScalarType type, int64_t n,
                 const char* length) {
  require_cpu(name, t);
  require(t.scalar_type() == type, name, " must be ", name_of(type), ", got ",
          name_of(t.scalar_type()));
  require(t.dim() == 1 && (n < 0 || t.size(0) == n), name, " must have shape (", length, ",)",
          n < 0 ? "" : " = (" + std::to_string(n) + ",)", ", got ", shape_of(t));
  return torch::stable::contiguous(t);
}

Tensor scores_of(const char* name, const Tensor& t, int64_t dim, const char* shape) {
  require_cpu(name, t);
  require(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double, name,
          " must be float32 or float64, got ", name_of(t.scalar_type()));
  require(t.dim() == dim, name, " must have shape ", shape, ", got ", shape_of(t));
  return torch::stable::contiguous(t);
}

const int64_t* ints(const Tensor& t) { return static_cast<const int64_t*>(t.const_data_ptr()); }
int64_t* mutable_ints(const Tensor& t) { return static_cast<int64_t*>(t.mutable_data_ptr()); }

constexpr int64_t kMostTokens = int64_t(1) << 40;  // so that no index can overflow

// First token of each half, and the total behind them: (H,) tokens per half -> (H + 1,).
std::vector<int64_t> offsets_of(const Tensor& length) {
  std::vector<int64_t> offset(length.size(0) + 1, 0);
  for (int64_t h = 0; h < length.size(0); ++h) {
    const int64_t tokens = ints(length)[h];
    require(tokens >= 0 && tokens <= kMostTokens, "length must be in [0, ", kMostTokens,
            "] tokens, got ", tokens, " for half ", h);
    offset[h + 1] = offset[h] + tokens;
  }
  return offset;
}

// As offsets_of, for a table (S, K) of scores that must have one row per token.
std::vector<int64_t> offsets_of_rows(const char* name, const Tensor& table, const Tensor& length) {
  std::vector<int64_t> offset = offsets_of(length);
  require(table.size(0) == offset.back(), name, " must have one row per token, sum(length) = ",
          offset.back(), ", got ", table.size(0), " rows");
  return offset;
}

// ----- memory and threads ----------------------------------------------------------------------
// Memory for a result. The first touch of every fresh page costs a fault, and for a large result
// that takes as long as the kernel's own work. So ask Linux for pages of 2 MiB, as numpy does.
Tensor new_result(std::initializer_list<int64_t> sizes, ScalarType type) {
  const Tensor t = torch::stable::empty(sizes, type);
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(t.mutable_data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  const uintptr_t end = begin + t.numel() * t.element_size();
  if (end > first + (size_t(4) << 20))  // only advice: if it fails, nothing is lost
    madvise(reinterpret_cast<void*>(first), (end - first) / kPage * kPage, MADV_HUGEPAGE);
#endif
  return t;
}

// Runs work(i) for i in [0, n), on all threads. Halves differ in length, so a thread that is done
// takes the next ones. It takes a few at a time: neighbours in a fresh result share a large page,
// and two threads that touch it at the same moment would both clear it.
template <typename Work>
void for_each_item(int64_t n, const Work& work) {
  std::atomic<int64_t> next{0};
  const int64_t n_workers = std::min<int64_t>(n, torch::stable::get_num_threads());
  const int64_t few = n_workers > 0 ? std::max<int64_t>(1, n / (8 * n_workers)) : 1;
  torch::stable::parallel_for(0, n_workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t first; (first = next.fetch_add(few)) < n;)
        for (int64_t i = first; i < std::min(n, first + few); ++i) work(i);
  });
}

// Calls f with a null pointer of the scores' type, to pick the template.
template <typename F>
void dispatch(const Tensor& scores, const F& f) {
  if (scores.scalar_type() == ScalarType::Float) f(static_cast<float*>(nullptr));
  else f(static_cast<double*>(nullptr));
}

// ----- operators -------------------------------------------------------------------------------
Tensor merge_windows_cpu(const Tensor& scores_, const Tensor& start_, const Tensor& half_,
                         const Tensor& length_, int64_t edge, bool mean) {
  const Tensor scores = scores_of("scores", scores_, 3, "(N, L, K)");
  const int64_t n = scores.size(0), window_tokens = scores.size(1), n_classes = scores.size(2);
  const Tensor start = vector_of("start", start_, ScalarType::Long, n, "N");
  const Tensor half = vector_of("half", half_, ScalarType::Long, n, "N");
  const Tensor length = vector_of("length", length_, ScalarType::Long, -1, "H");
  const std::vector<int64_t> offset = offsets_of(length);
  const int64_t n_halves = length.size(0);
  require(edge >= 0, "edge must be >= 0 tokens, got ", edge);
  std::vector<int64_t> first(n_halves + 1, 0);  // first window of each half
  for (int64_t w = 0; w < n; ++w) {
    const int64_t h = ints(half)[w];
    require(ints(start)[w] >= 0, "start must be >= 0, got ", ints(start)[w], " for window ", w);
    require(h >= 0 && h < n_halves, "half must be in [0, ", n_halves, "), got ", h, " for window ",
            w);
    require(w == 0 || ints(half)[w - 1] <= h, "half must not decrease, got ", ints(half)[w - 1],
            " then ", h, " at window ", w);
    ++first[h + 1];
  }
  std::partial_sum(first.begin(), first.end(), first.begin());

  const Tensor merged = new_result({offset.back(), n_classes}, scores.scalar_type());
  dispatch(scores, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* in = static_cast<const T*>(scores.const_data_ptr());
    T* out = static_cast<T*>(merged.mutable_data_ptr());
    for_each_item(n_halves, [&](int64_t h) {
      merge_windows(in + first[h] * window_tokens * n_classes, ints(start) + first[h],
                    first[h + 1] - first[h], window_tokens, n_classes, ints(length)[h],
                    edge, mean, out + offset[h] * n_classes);
    });
  });
  return merged;
}

// What both kinds of NMS share: the checks, and suppress(scores, T, window, kept) for each half.
template <typename Suppress>
Tensor nms_by_half(const Tensor& scores_, const Tensor& length_, const Tensor& window_,
                   double threshold, const Suppress& suppress) {
  const Tensor scores = scores_of("scores", scores_, 2, "(S, K)");
  const int64_t n_classes = scores.size(1);
  const Tensor length = vector_of("length", length_, ScalarType::Long, -1, "H");
  const Tensor window = vector_of("window", window_, ScalarType::Double, n_classes, "K");
  const std::vector<int64_t> offset = offsets_of_rows("scores", scores, length);
  const double* widths = static_cast<const double*>(window.const_data_ptr());
  for (int64_t k = 0; k < n_classes; ++k)
    require(widths[k] >= 0 && std::isfinite(widths[k]),
            "window must be finite and >= 0 tokens, got ", widths[k], " for class ", k);
  require(threshold >= 0, "threshold must be >= 0, got ", threshold);

  const Tensor kept = new_result({scores.size(0), n_classes}, scores.scalar_type());
  dispatch(scores, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* in = static_cast<const T*>(scores.const_data_ptr());
    T* out = static_cast<T*>(kept.mutable_data_ptr());
    for_each_item(length.size(0), [&](int64_t h) {
      suppress(in + offset[h] * n_classes, ints(length)[h], widths, out + offset[h] * n_classes);
    });
  });
  return kept;
}

Tensor soft_nms_cpu(const Tensor& scores, const Tensor& length, const Tensor& window,
                    double threshold, double min_weight) {
  require(min_weight >= 0 && min_weight <= 1, "min_weight must be in [0, 1], got ", min_weight);
  const auto suppress = [&](const auto* in, int64_t n_tokens, const double* widths, auto* kept) {
    soft_nms(in, n_tokens, scores.size(1), widths, threshold, min_weight, kept);
  };
  return nms_by_half(scores, length, window, threshold, suppress);
}

Tensor hard_nms_cpu(const Tensor& scores, const Tensor& length, const Tensor& window,
                    double threshold, bool local) {
  const auto suppress = [&](const auto* in, int64_t n_tokens, const double* widths, auto* kept) {
    hard_nms(in, n_tokens, scores.size(1), widths, threshold, local, kept);
  };
  return nms_by_half(scores, length, window, threshold, suppress);
}

constexpr int64_t kMostGroups = int64_t(1) << 30;  // halves times classes: 8 GiB of offsets

std::tuple<Tensor, Tensor, Tensor, Tensor> detections_cpu(const Tensor& kept_,
                                                          const Tensor& length_) {
  const Tensor kept = scores_of("kept", kept_, 2, "(S, K)");
  const Tensor length = vector_of("length", length_, ScalarType::Long, -1, "H");
  const std::vector<int64_t> offset = offsets_of_rows("kept", kept, length);
  const int64_t n_classes = kept.size(1), n_halves = length.size(0);
  require(n_classes == 0 || n_halves <= kMostGroups / n_classes, "halves * classes must be <= ",
          kMostGroups, ", got ", n_halves, " * ", n_classes);
  Tensor half, cls, token, score;
  dispatch(kept, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* in = static_cast<const T*>(kept.const_data_ptr());
    // Where the list of each half and class begins, and the end of the last.
    std::vector<int64_t> first(n_halves * n_classes + 1, 0);
    for_each_item(n_halves, [&](int64_t h) {
      count_detections(in + offset[h] * n_classes, ints(length)[h], n_classes,
                       first.data() + 1 + h * n_classes);
    });
    std::partial_sum(first.begin(), first.end(), first.begin());
    half = new_result({first.back()}, ScalarType::Long);
    cls = new_result({first.back()}, ScalarType::Long);
    token = new_result({first.back()}, ScalarType::Long);
    score = new_result({first.back()}, kept.scalar_type());
    int64_t *const to_half = mutable_ints(half), *const to_class = mutable_ints(cls);
    int64_t* const to_token = mutable_ints(token);
    T* const to_score = static_cast<T*>(score.mutable_data_ptr());
    for_each_item(n_halves, [&](int64_t h) {
      list_detections(in + offset[h] * n_classes, ints(length)[h], n_classes, h,
                      first.data() + h * n_classes, to_half, to_class, to_token, to_score);
    });
  });
  return {half, cls, token, score};
}

// Groups the events named `who`, or says which of them is out of range.
template <typename Value>
void group_or_refuse(const char* who, const Tensor& half, const Tensor& cls,
                     const Tensor& frame, const Tensor& value, int64_t n_halves, int64_t n_classes,
                     Events<Value>& grouped) {
  const int64_t bad = group_events(ints(half), ints(cls), ints(frame),
                                   static_cast<const Value*>(value.const_data_ptr()), half.size(0),
                                   n_halves, n_classes, grouped);
  if (bad < 0) return;
  const int64_t h = ints(half)[bad], c = ints(cls)[bad], f = ints(frame)[bad];
  require(h >= 0 && h < n_halves, who, "_half must be in [0, ", n_halves, "), got ", h,
          " at event ", bad);
  require(c >= 0 && c < n_classes, who, "_class must be in [0, ", n_classes, "), got ", c,
          " at event ", bad);
  require(false, who, "_frame must be >= 0, got ", f, " at event ", bad);
}

// The arguments that average_map and resampled_map share, checked and grouped. Events point into
// the tensors.
struct Metric {
  Tensor deltas, p_frame, p_score, g_frame, g_visible;
  int64_t n_halves, n_classes, n_deltas;
  Events<double> predictions;
  Events<uint8_t> labels;

  Metric(const Tensor& pred_half, const Tensor& pred_class, const Tensor& pred_frame,
         const Tensor& pred_score, const Tensor& gt_half, const Tensor& gt_class,
         const Tensor& gt_frame, const Tensor& gt_visible, int64_t halves, int64_t classes,
         const Tensor& delta_frames)
      : n_halves(halves), n_classes(classes) {
    const Tensor p_half = vector_of("pred_half", pred_half, ScalarType::Long, -1, "P");
    const int64_t n_predicted = p_half.size(0);
    const Tensor p_class = vector_of("pred_class", pred_class, ScalarType::Long, n_predicted, "P");
    p_frame = vector_of("pred_frame", pred_frame, ScalarType::Long, n_predicted, "P");
    p_score = vector_of("pred_score", pred_score, ScalarType::Double, n_predicted, "P");
    const Tensor g_half = vector_of("gt_half", gt_half, ScalarType::Long, -1, "G");
    const int64_t n_labels = g_half.size(0);
    const Tensor g_class = vector_of("gt_class", gt_class, ScalarType::Long, n_labels, "G");
    g_frame = vector_of("gt_frame", gt_frame, ScalarType::Long, n_labels, "G");
    g_visible = vector_of("gt_visible", gt_visible, ScalarType::Bool, n_labels, "G");
    deltas = vector_of("delta_frames", delta_frames, ScalarType::Long, -1, "D");
    n_deltas = deltas.size(0);
    require(n_halves >= 0, "n_halves must be >= 0, got ", n_halves);
    require(n_classes >= 0, "n_classes must be >= 0, got ", n_classes);
    require(n_classes == 0 || n_halves <= kMostGroups / n_classes,
            "n_halves * n_classes must be <= ", kMostGroups, ", got ", n_halves, " * ", n_classes);
    for (int64_t d = 0; d < n_deltas; ++d)
      require(ints(deltas)[d] >= 0, "delta_frames must be >= 0, got ", ints(deltas)[d], " at ", d);
    group_or_refuse("pred", p_half, p_class, p_frame, p_score, n_halves, n_classes, predictions);
    group_or_refuse("gt", g_half, g_class, g_frame, g_visible, n_halves, n_classes, labels);
  }

  int64_t class_size() const { return tally_size(n_deltas); }
  void tally(int64_t half_begin, int64_t half_end, int64_t* tallies) const {
    tally_halves(predictions, labels, n_classes, half_begin, half_end, ints(deltas), n_deltas,
                 tallies);
  }
};

Tensor average_map_cpu(const Tensor& pred_half, const Tensor& pred_class, const Tensor& pred_frame,
                       const Tensor& pred_score, const Tensor& gt_half, const Tensor& gt_class,
                       const Tensor& gt_frame, const Tensor& gt_visible, int64_t n_halves,
                       int64_t n_classes, const Tensor& delta_frames) {
  const Metric metric(pred_half, pred_class, pred_frame, pred_score, gt_half, gt_class, gt_frame,
                      gt_visible, n_halves, n_classes, delta_frames);
  // One item of work is a stretch of halves; their tallies are added up afterwards.
  const int64_t n_threads = torch::stable::get_num_threads(), n_deltas = metric.n_deltas;
  const int64_t n_parts = std::max<int64_t>(1, std::min(n_halves, n_threads));
  const int64_t class_size = metric.class_size(), size = n_classes * class_size;
  std::vector<int64_t> tallies(n_parts * size, 0);
  for_each_item(n_parts, [&](int64_t part) {
    metric.tally(n_halves * part / n_parts, n_halves * (part + 1) / n_parts,
                 tallies.data() + part * size);
  });
  const Tensor ap = new_result({3, n_deltas, n_classes}, ScalarType::Double);
  double* const out = static_cast<double*>(ap.mutable_data_ptr());
  for_each_item(n_classes, [&](int64_t cls) {
    int64_t* const total = tallies.data() + cls * class_size;
    for (int64_t part = 1; part < n_parts; ++part)
      for (int64_t i = 0; i < class_size; ++i) total[i] += total[part * size + i];
    average_precision(total, n_deltas, out + cls, n_classes, n_deltas * n_classes);
  });
  return ap;
}

Tensor resampled_map_cpu(const Tensor& pred_half, const Tensor& pred_class,
                         const Tensor& pred_frame, const Tensor& pred_score, const Tensor& gt_half,
                         const Tensor& gt_class, const Tensor& gt_frame, const Tensor& gt_visible,
                         int64_t n_halves, int64_t n_classes, const Tensor& delta_frames,
                         int64_t match_halves, const Tensor& picks_) {
  const Metric metric(pred_half, pred_class, pred_frame, pred_score, gt_half, gt_class, gt_frame,
                      gt_visible, n_halves, n_classes, delta_frames);
  require(match_halves > 0 && n_halves % match_halves == 0, "match_halves must be > 0 and divide "
          "n_halves, ", n_halves, ", got ", match_halves);
  require_cpu("picks", picks_);
  require(picks_.scalar_type() == ScalarType::Long, "picks must be int64, got ",
          name_of(picks_.scalar_type()));
  require(picks_.dim() == 2, "picks must have shape (R, M), got ", shape_of(picks_));
  const Tensor picks = torch::stable::contiguous(picks_);
  const int64_t n_resamples = picks.size(0), n_picks = picks.size(1), n_deltas = metric.n_deltas;
  const int64_t n_matches = n_halves / match_halves, class_size = metric.class_size();
  for (int64_t i = 0; i < picks.numel(); ++i)
    require(ints(picks)[i] >= 0 && ints(picks)[i] < n_matches, "picks must be in [0, ", n_matches,
            "), got ", ints(picks)[i]);

  std::vector<std::vector<Count>> counts(n_matches * n_classes);
  for_each_item(n_matches, [&](int64_t match) {
    std::vector<int64_t> tallies(n_classes * class_size, 0);
    metric.tally(match * match_halves, (match + 1) * match_halves, tallies.data());
    for (int64_t cls = 0; cls < n_classes; ++cls)
      list_counts(tallies.data() + cls * class_size, class_size, counts[match * n_classes + cls]);
  });
  const Tensor ap = new_result({n_resamples, 3, n_deltas, n_classes}, ScalarType::Double);
  double* const out = static_cast<double*>(ap.mutable_data_ptr());
  for_each_item(n_resamples, [&](int64_t r) {
    resample_precision(counts.data(), n_classes, ints(picks) + r * n_picks, n_picks, n_deltas,
                       out + r * 3 * n_deltas * n_classes);
  });
  return ap;
}

}  // namespace
}  // namespace comedian

// ----- registration ----------------------------------------------------------------------------
STABLE_TORCH_LIBRARY(comedian, m) {
  m.def("merge_windows(Tensor scores, Tensor start, Tensor half, Tensor length, "
        "int edge, bool mean) -> Tensor");
  m.def("soft_nms(Tensor scores, Tensor length, Tensor window, "
        "float threshold, float min_weight) -> Tensor");
  m.def("hard_nms(Tensor scores, Tensor length, Tensor window, "
        "float threshold, bool local) -> Tensor");
  m.def("detections(Tensor kept, Tensor length) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("average_map(Tensor pred_half, Tensor pred_class, Tensor pred_frame, Tensor pred_score, "
        "Tensor gt_half, Tensor gt_class, Tensor gt_frame, Tensor gt_visible, "
        "int n_halves, int n_classes, Tensor delta_frames) -> Tensor");
  m.def("resampled_map(Tensor pred_half, Tensor pred_class, Tensor pred_frame, Tensor pred_score, "
        "Tensor gt_half, Tensor gt_class, Tensor gt_frame, Tensor gt_visible, int n_halves, "
        "int n_classes, Tensor delta_frames, int match_halves, Tensor picks) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(comedian, CPU, m) {
  m.impl("merge_windows", TORCH_BOX(&comedian::merge_windows_cpu));
  m.impl("soft_nms", TORCH_BOX(&comedian::soft_nms_cpu));
  m.impl("hard_nms", TORCH_BOX(&comedian::hard_nms_cpu));
  m.impl("detections", TORCH_BOX(&comedian::detections_cpu));
  m.impl("average_map", TORCH_BOX(&comedian::average_map_cpu));
  m.impl("resampled_map", TORCH_BOX(&comedian::resampled_map_cpu));
}

// `import comedian._C` registers the operators above. ops.py compares the hash with csrc/ as it is
// now.
PYBIND11_MODULE(_C, m) { m.attr("source_hash") = COMEDIAN_SOURCE_HASH; }
