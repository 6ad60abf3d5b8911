// average_map: average precision as the official evaluator (SoccerNet 0.2.0) computes it, to the
// last bit.
//
//   predictions: half, class, frame, score (P,)     labels: half, class, frame, visible (G,)
//   delta_frames (D,) full widths >= 0
//   -> ap (3, D, K) for any, visible, unshown labels
//
// The plain loop, for each class and each delta:
//
//   for each half, for each of its labels g in ascending frames:                      // matching
//     the best unused prediction with |frame - g| <= delta / 2, if there is one, is a hit
//   for (i = 0; i < 200; ++i)                                                         // counting
//     reached = predictions of all halves with score >= i * (1 / 199); hits = the hits among them
//     precision[i] = hits / reached; recall[i] = hits / labels                        // x / 0 = 0
//   ap = mean over r = 0, 0.1 .. 1 of the highest precision[i] with recall[i] >= r, else 0
//
// Best: the highest score, the earliest frame where scores are equal. Events may come in any order.
// Of several with the same half, class and frame the last one counts, for labels and predictions
// alike. A prediction whose score is negative or NaN is none.
// The visible and the unshown AP count only the predictions of that region. A prediction belongs to
// the region of the label whose frame is closest, whichever label it matched. (The midpoint of two
// labels, rounded down, belongs to the later one. Without a label of the class in the half, a
// prediction is unshown.)
//
// What is done otherwise, with integer counts only, so that no order of adding changes a bit:
//   grouping  Events by half, class and frame: used where they lie if they come in that order, as
//             those of `detections` do; else by a counting sort and a small sort in each group.
//   matching  A label and up to 64 deltas at once: a set of deltas is a 64-bit word, bit d is
//             delta d. No delta's matches depend on another's, so the predictions near a label are
//             looked at once for all of them. Where these
//             are too many, a delta at a time, with a heap of the predictions in reach: labels
//             ascend, so each prediction comes into reach once and goes once.
//   counting  Every prediction counts once, at the highest threshold that it reaches. Sums from the
//             top then give the numbers at all 200.
// Cost O(P + G c D), c = predictions within the widest delta of a label, but never more than
// O(D (P + G) log P).
//
// resampled_map: the same of resamples of the matches, as a bootstrap draws them
//
//   picks (R, M) the matches of each resample   -> ap (R, 3, D, K)
//
// The plain loop: for each resample, average_map of a list of matches with as many copies of each
// as were drawn. No match's tallies depend on another's, and they are sums of whole numbers. So
// each match is matched once, its counters that are not 0 are listed, and a resample adds lists.
#include "kernels.h"

#include <algorithm>
#include <cstdlib>
#include <queue>
#include <utility>

namespace comedian {
namespace {

// The highest of the thresholds i * (1 / 199), numpy's linspace(0, 1, 200), that a score >= 0
// reaches: the nearest one, or the one below it.
int32_t highest_threshold(double score) {
  constexpr double kStep = 1.0 / (kThresholds - 1);  // 199 * kStep is 1.0 exactly
  const double capped = std::min(score, 1.0);
  const int32_t nearest = int32_t(capped * (kThresholds - 1) + 0.5);
  return nearest - (capped < nearest * kStep);
}

// One class of one half: labels and predictions in ascending frames.
struct Group {
  const int64_t* label;
  const uint8_t* visible;
  int64_t n_labels;
  const int64_t* frame;
  const double* score;
  int64_t n_events;
};

// Counts the predictions in the table detected (2, 200): region and highest threshold reached.
// cell[i] is where prediction i counts in it.
void count_detected(const Group& group, int64_t* detected, std::vector<int32_t>& cell) {
  cell.resize(group.n_events);
  for (int64_t g = 0, i = 0; i < group.n_events; ++g) {
    int64_t end = group.n_events;  // of the predictions to which label g is the closest
    if (g + 1 < group.n_labels) {
      const int64_t midpoint = group.label[g] + (group.label[g + 1] - group.label[g]) / 2;
      for (end = i; end < group.n_events && group.frame[end] < midpoint;) ++end;
    }
    const int32_t region = group.n_labels > 0 && group.visible[g] ? 0 : 1;
    for (; i < end; ++i) {
      if (!(group.score[i] >= 0)) continue;
      cell[i] = region * kThresholds + highest_threshold(group.score[i]);
      ++detected[cell[i]];
    }
  }
}

// Whether the labels have more predictions near them, all counted together, than can be looked at
// one by one.
bool is_crowded(const Group& group, int64_t widest) {
  constexpr int64_t kMany = 16;  // a turn through the heap takes as long as some 16 such looks
  const int64_t most = kMany * (group.n_labels + group.n_events);
  if (group.n_labels * double(group.n_events) <= most) return false;
  int64_t pairs = 0;
  for (int64_t g = 0, first = 0, last = 0; g < group.n_labels; ++g) {
    while (first < group.n_events && group.label[g] - group.frame[first] > widest) ++first;
    while (last < group.n_events && group.frame[last] - group.label[g] <= widest) ++last;
    pairs += last - first;
    if (pairs > most) return true;
  }
  return false;
}

// Matches labels and predictions at one delta, whose half is `reach`.
void count_matched_crowded(const Group& group, const std::vector<int32_t>& cell, int64_t reach,
                           int64_t* matched) {
  std::priority_queue<std::pair<double, int64_t>> in_reach;  // (score, -index): earliest of equals
  int64_t next = 0;
  for (int64_t g = 0; g < group.n_labels; ++g) {
    const int64_t label = group.label[g];
    for (; next < group.n_events && group.frame[next] - label <= reach; ++next)
      if (group.score[next] >= 0 && label - group.frame[next] <= reach)
        in_reach.emplace(group.score[next], -next);
    while (!in_reach.empty() && label - group.frame[-in_reach.top().second] > reach)
      in_reach.pop();  // gone for all later labels, too
    if (in_reach.empty()) continue;
    ++matched[cell[-in_reach.top().second]];
    in_reach.pop();
  }
}

// A prediction near a label.
struct Candidate {
  int64_t at;
  double score;
  uint64_t free;  // the deltas at which the label reaches it and no earlier label took it
};

// Matches labels and predictions at up to 64 deltas at once: bit d of a word is delta d. Frames are
// whole, so |frame - label| <= delta / 2 can be asked with reach = delta / 2 rounded down. A match
// at delta d counts in matched (D, 2, 200), in the prediction's cell.
constexpr int64_t kWord = 64;
void count_matched(const Group& group, const std::vector<int32_t>& cell, const int64_t* reach,
                   int64_t n_deltas, int64_t* matched) {
  const int64_t widest = *std::max_element(reach, reach + n_deltas);
  std::vector<uint64_t> taken(group.n_events, 0);  // deltas at which a label took the prediction
  std::vector<Candidate> near;
  int64_t first = 0;
  for (int64_t g = 0; g < group.n_labels; ++g) {
    const int64_t label = group.label[g];
    while (first < group.n_events && label - group.frame[first] > widest) ++first;
    near.clear();
    for (int64_t i = first; i < group.n_events && group.frame[i] - label <= widest; ++i) {
      if (!(group.score[i] >= 0)) continue;
      const int64_t distance = std::abs(group.frame[i] - label);
      uint64_t within = 0;
      for (int64_t d = 0; d < n_deltas; ++d) within |= uint64_t(distance <= reach[d]) << d;
      near.push_back({i, group.score[i], within & ~taken[i]});
    }
    // The best candidate serves every delta at which it is free, the next best those that are
    // left, and so on. > keeps the earliest of equals.
    uint64_t open = ~uint64_t(0);
    for (;;) {
      const Candidate* best = nullptr;
      for (const Candidate& c : near)
        if ((c.free & open) != 0 && (best == nullptr || c.score > best->score)) best = &c;
      if (best == nullptr) break;
      const uint64_t won = best->free & open;
      open &= ~won;
      taken[best->at] |= won;
      for (int64_t d = 0; d < n_deltas; ++d)
        matched[d * 2 * kThresholds + cell[best->at]] += won >> d & 1;
    }
  }
}

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

// Adds to `tallies`, tally_size(D) counters per class, what the halves [half_begin, half_end) hold:
//   tally[0], tally[1]            labels of the class that are visible, unshown
//   then (1 + D, 2, 200)          row 0: predictions by region and highest threshold reached
//                                 row 1 + d: those of them that matched a label at delta d
void tally_halves(const Events<double>& predictions, const Events<uint8_t>& labels,
                  int64_t n_classes, int64_t half_begin, int64_t half_end,
                  const int64_t* delta_frames, int64_t n_deltas, int64_t* tallies) {
  std::vector<int64_t> reach(n_deltas);
  for (int64_t d = 0; d < n_deltas; ++d) reach[d] = delta_frames[d] / 2;
  std::vector<int32_t> cell;
  for (int64_t at = half_begin * n_classes; at < half_end * n_classes; ++at) {
    const int64_t first_label = labels.first[at], first_event = predictions.first[at];
    const Group group = {
        labels.frame + first_label,      labels.value + first_label,
        labels.first[at + 1] - first_label,
        predictions.frame + first_event, predictions.value + first_event,
        predictions.first[at + 1] - first_event};
    int64_t* const tally = tallies + at % n_classes * tally_size(n_deltas);
    int64_t* const detected = tally + 2;
    for (int64_t g = 0; g < group.n_labels; ++g) ++tally[group.visible[g] ? 0 : 1];
    count_detected(group, detected, cell);
    if (n_deltas > 0 && is_crowded(group, *std::max_element(reach.begin(), reach.end()))) {
      for (int64_t d = 0; d < n_deltas; ++d)
        count_matched_crowded(group, cell, reach[d], detected + (1 + d) * 2 * kThresholds);
      continue;
    }
    for (int64_t d = 0; d < n_deltas; d += kWord)
      count_matched(group, cell, reach.data() + d, std::min(kWord, n_deltas - d),
                    detected + (1 + d) * 2 * kThresholds);
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

// Lists what is not 0 in a tally of `size` counters.
void list_counts(const int64_t* tally, int64_t size, std::vector<Count>& counts) {
  counts.clear();
  for (int64_t at = 0; at < size; ++at)
    if (tally[at] != 0) counts.push_back({at, tally[at]});
  counts.shrink_to_fit();
}

// The average precision ap (3, D, K) of one resample: picks, n_picks matches. counts[match *
// n_classes + cls] is the list of each match and class.
void resample_precision(const std::vector<Count>* counts, int64_t n_classes, const int64_t* picks,
                        int64_t n_picks, int64_t n_deltas, double* ap) {
  std::vector<int64_t> tally(tally_size(n_deltas));
  for (int64_t cls = 0; cls < n_classes; ++cls) {
    std::fill(tally.begin(), tally.end(), 0);
    for (int64_t i = 0; i < n_picks; ++i)
      for (const Count& count : counts[picks[i] * n_classes + cls]) tally[count.at] += count.n;
    average_precision(tally.data(), n_deltas, ap + cls, n_classes, n_deltas * n_classes);
  }
}

template int64_t group_events(const int64_t*, const int64_t*, const int64_t*, const double*,
                              int64_t, int64_t, int64_t, Events<double>&);
template int64_t group_events(const int64_t*, const int64_t*, const int64_t*, const uint8_t*,
                              int64_t, int64_t, int64_t, Events<uint8_t>&);

}  // namespace comedian
