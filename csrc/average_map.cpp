// average_map: average precision as the official evaluator (SoccerNet 0.2.0) computes it, to the
// last bit.
//
//   predictions: half, class, frame, score (P,)     labels: half, class, frame, visible (G,)
//   delta_frames (D,) full widths >= 0
//   -> ap (3, D, K) for any, visible, unshown labels
//
// Events may come in any order. Of several with the same half, class and frame the last one
// counts, for labels and predictions alike. A prediction whose score is negative or NaN is none.
// Matching, per half, class and delta: labels in ascending frames; each takes the unused
// prediction with the highest score among |frame - label| <= delta / 2, the earliest frame where
// scores are equal. Region: a prediction belongs to the label whose frame is closest (a floored
// midpoint belongs to the later label) and is visible or unshown as that label is, whichever label
// it matched; where the class has no label in the half it is unshown. Precision and recall are
// taken at the 200 thresholds i * (1 / 199), score >= threshold; AP is the mean over recall levels
// 0, 0.1 .. 1 of the best precision at that recall or more. Same result as ops.average_map_ref.
// Cost O(P + G + D G c), c predictions within delta of a label, when events come by half, class
// and frame; otherwise they are first sorted, in one pass plus a small sort per class and half.
// All tallies are integers, so splitting the halves over threads changes nothing.
#include "kernels.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace comedian {
namespace {

// numpy's linspace(0, 1, 200): i * (1 / 199), which differs from i / 199 by an ulp here and there.
struct Thresholds {
  double at[kThresholds];
  Thresholds() {
    for (int64_t i = 0; i < kThresholds; ++i) at[i] = double(i) * (1.0 / (kThresholds - 1));
    at[kThresholds - 1] = 1.0;
  }
};
const Thresholds thresholds;

// The highest threshold that a score >= 0 reaches. The product may be off by one, never by more.
int64_t highest_threshold(double score) {
  if (score >= 1) return kThresholds - 1;
  int64_t i = std::min<int64_t>(int64_t(score * (kThresholds - 1)), kThresholds - 2);
  i += score >= thresholds.at[i + 1];
  i -= score < thresholds.at[i];
  return i;
}

struct Prediction {
  int64_t frame;
  double score;
  int32_t level;   // highest threshold reached
  int32_t region;  // 0 visible, 1 unshown
  int64_t taken;   // 1 + the last delta at which a label took it
};

}  // namespace

// Returns the index of the first event with a half, class or frame out of range, or -1 if all are
// well.
template <typename Value>
int64_t group_events(const int64_t* half, const int64_t* cls, const int64_t* frame,
                     const Value* value, int64_t n, int64_t n_halves, int64_t n_classes,
                     Events<Value>& grouped) {
  const int64_t n_groups = n_halves * n_classes;
  std::vector<int64_t>& first = grouped.first;
  first.assign(n_groups + 1, 0);
  bool in_order = true;
  int64_t last_group = 0, last_frame = -1;
  int64_t run = 0;  // events of last_group since it came up, counted here: a register is faster
  for (int64_t i = 0; i < n; ++i) {
    if (half[i] < 0 || half[i] >= n_halves || cls[i] < 0 || cls[i] >= n_classes || frame[i] < 0)
      return i;
    const int64_t group = half[i] * n_classes + cls[i];
    if (group != last_group) {
      in_order &= group > last_group;
      first[last_group + 1] += run;
      run = 0;
      last_group = group;
    } else {
      in_order &= frame[i] > last_frame;
    }
    last_frame = frame[i];
    ++run;
  }
  if (n > 0) first[last_group + 1] += run;
  for (int64_t g = 0; g < n_groups; ++g) first[g + 1] += first[g];
  grouped.frame = frame;
  grouped.value = value;
  if (in_order) return -1;

  // Counting sort by group; it is stable, so the last of equals stays the last.
  grouped.frame_store.resize(n);
  grouped.value_store.resize(n);
  std::vector<int64_t> next(first.begin(), first.end() - 1);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t to = next[half[i] * n_classes + cls[i]]++;
    grouped.frame_store[to] = frame[i];
    grouped.value_store[to] = value[i];
  }
  // Each group by frame, one event per frame. Groups move to the left as events drop out.
  std::vector<std::pair<int64_t, Value>> group;
  int64_t n_kept = 0;
  for (int64_t g = 0; g < n_groups; ++g) {
    group.clear();
    for (int64_t i = first[g]; i < first[g + 1]; ++i)
      group.emplace_back(grouped.frame_store[i], grouped.value_store[i]);
    const auto earlier = [](const auto& a, const auto& b) { return a.first < b.first; };
    if (!std::is_sorted(group.begin(), group.end(), earlier))
      std::stable_sort(group.begin(), group.end(), earlier);
    first[g] = n_kept;
    for (size_t i = 0; i < group.size(); ++i) {
      if (i + 1 < group.size() && group[i + 1].first == group[i].first) continue;
      grouped.frame_store[n_kept] = group[i].first;
      grouped.value_store[n_kept++] = group[i].second;
    }
  }
  first[n_groups] = n_kept;
  grouped.frame = grouped.frame_store.data();
  grouped.value = grouped.value_store.data();
  return -1;
}

// Adds to `tally` what the halves [half_begin, half_end) hold of one class:
//   tally[0], tally[1]            labels that are visible, unshown
//   then (1 + D, 2, 200)          row 0: predictions by region and highest threshold reached
//                                 row 1 + d: those of them that matched a label at delta d
void tally_class(const Events<double>& predictions, const Events<uint8_t>& labels, int64_t cls,
                 int64_t n_classes, int64_t half_begin, int64_t half_end,
                 const int64_t* delta_frames, int64_t n_deltas, int64_t* tally) {
  int64_t* const detected = tally + 2;
  std::vector<Prediction> found;
  std::vector<int64_t> within;  // for each label, the first prediction within reach of it
  for (int64_t h = half_begin; h < half_end; ++h) {
    const int64_t group = h * n_classes + cls;
    const int64_t* label = labels.frame + labels.first[group];
    const uint8_t* visible = labels.value + labels.first[group];
    const int64_t n_labels = labels.first[group + 1] - labels.first[group];
    for (int64_t g = 0; g < n_labels; ++g) ++tally[visible[g] ? 0 : 1];

    const int64_t n_events = predictions.first[group + 1] - predictions.first[group];
    if (int64_t(found.size()) < n_events) found.resize(n_events);
    int64_t closest = 0, n_found = 0;
    for (int64_t i = predictions.first[group]; i < predictions.first[group + 1]; ++i) {
      const int64_t frame = predictions.frame[i];
      const double score = predictions.value[i];
      if (!(score >= 0)) continue;
      while (closest + 1 < n_labels &&
             label[closest] + (label[closest + 1] - label[closest]) / 2 <= frame)
        ++closest;
      const int32_t region = n_labels > 0 && visible[closest] ? 0 : 1;
      const int64_t level = highest_threshold(score);
      ++detected[region * kThresholds + level];
      found[n_found++] = {frame, score, int32_t(level), region, 0};
    }

    within.assign(n_labels, 0);
    for (int64_t d = 0; d < n_deltas; ++d) {
      int64_t* const matched = detected + (1 + d) * 2 * kThresholds;
      const int64_t reach = delta_frames[d] / 2;  // |f - g| <= delta / 2, for whole frames
      for (int64_t g = 0; g < n_labels; ++g) {
        // Search on from where the last delta, or at first the last label, had it: never far.
        int64_t first = within[d > 0 || g == 0 ? g : g - 1];
        while (first > 0 && label[g] - found[first - 1].frame <= reach) --first;
        while (first < n_found && label[g] - found[first].frame > reach) ++first;
        within[g] = first;
        int64_t best = -1;
        double best_score = -1;
        for (int64_t i = first; i < n_found && found[i].frame - label[g] <= reach; ++i)
          if (found[i].score > best_score && found[i].taken != d + 1) {
            best = i;
            best_score = found[i].score;
          }
        if (best < 0) continue;
        found[best].taken = d + 1;
        ++matched[found[best].region * kThresholds + found[best].level];
      }
    }
  }
}

// ap[region * region_stride + d * ap_stride] for regions any, visible, unshown and every delta d.
void average_precision(const int64_t* tally, int64_t n_deltas, double* ap, int64_t ap_stride,
                       int64_t region_stride) {
  const int64_t* const detected = tally + 2;
  for (int64_t region = 0; region < 3; ++region) {
    const bool use[2] = {region != 2, region != 1};  // any = visible + unshown
    const int64_t n_labels = use[0] * tally[0] + use[1] * tally[1];
    for (int64_t d = 0; d < n_deltas; ++d) {
      const int64_t* const matched = detected + (1 + d) * 2 * kThresholds;
      // Precision and recall at every threshold: counts of scores that reach it.
      double precision[kThresholds], recall[kThresholds];
      int64_t n_detected = 0, n_matched = 0;
      for (int64_t i = kThresholds - 1; i >= 0; --i) {
        n_detected += use[0] * detected[i] + use[1] * detected[kThresholds + i];
        n_matched += use[0] * matched[i] + use[1] * matched[kThresholds + i];
        precision[i] = n_detected > 0 ? double(n_matched) / double(n_detected) : 0;
        recall[i] = n_labels > 0 ? double(n_matched) / double(n_labels) : 0;
      }
      // Recall falls as the threshold rises, so those that reach a level are the first few.
      double level_precision[11] = {};
      double best = 0;
      int64_t level = 10;
      for (int64_t i = 0; i < kThresholds; ++i) {
        while (level >= 0 && recall[i] < double(level) / 10) level_precision[level--] = best;
        best = std::max(best, precision[i]);
      }
      while (level >= 0) level_precision[level--] = best;
      double sum = 0;
      for (double p : level_precision) sum += p;
      ap[region * region_stride + d * ap_stride] = sum / 11;
    }
  }
}

template int64_t group_events(const int64_t*, const int64_t*, const int64_t*, const double*,
                              int64_t, int64_t, int64_t, Events<double>&);
template int64_t group_events(const int64_t*, const int64_t*, const int64_t*, const uint8_t*,
                              int64_t, int64_t, int64_t, Events<uint8_t>&);

}  // namespace comedian
