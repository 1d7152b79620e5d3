// SPDX-License-Identifier: Apache-2.0
// What each masked token is to the two heads, and what a row of each weighs in the loss; host and device.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace spanbert_ext {

constexpr int kRowSums = 6;  // of a batch row: MLM nll, rows, correct; SBO nll, rows, correct
constexpr int kMeans = 4;    // of a batch: mean MLM nll, mean SBO nll, MLM accuracy, SBO accuracy

struct HeadBatch {
  const int64_t* labels;            // [B, L]
  const int64_t* masked_positions;  // [B, K]
  const int64_t* left_boundary;     // [B, K] or null: no SBO
  int64_t length, entries, total;   // L, K, B * K
};

struct HeadEntry {
  int64_t token = -1;   // in [0, B * L), or -1 where nothing is predicted
  int64_t target = -1;  // the MLM's id, or negative
  bool has_sbo = false;
};

constexpr int64_t kNoId = INT64_MAX;  // beyond any vocabulary: the loss becomes NaN

// A position past the row is read nowhere.
SPANBERT_EXT_HOST_DEVICE HeadEntry head_entry(const HeadBatch& batch, int64_t entry) {
  HeadEntry result;
  const int64_t position = batch.masked_positions[entry];
  if (position < 0) return result;
  if (position >= batch.length) {
    result.target = kNoId;
    return result;
  }
  const int64_t token = entry / batch.entries * batch.length + position;
  result.target = batch.labels[token];
  if (result.target < 0) return result;
  result.token = token;
  result.has_sbo = batch.left_boundary != nullptr && batch.left_boundary[entry] >= 0;
  return result;
}

template <typename A>
struct HeadWeights {
  A mlm, sbo;  // of one row
};

// 1 / n and sbo_weight / m, where n and m are the heads' rows in this batch or, with num_items and
// num_sbo_items, in all batches of the step. With num_items alone the mean of the SBO is scaled by this
// batch's share of the MLM's rows.
template <typename A>
SPANBERT_EXT_HOST_DEVICE HeadWeights<A> head_weights(int64_t mlm_count, int64_t sbo_count, const A* num_items,
                                                     const A* num_sbo_items, A sbo_weight) {
  const auto reciprocal = [](A count) { return A(1) / (count > A(1) || count != count ? count : A(1)); };
  const A mlm = reciprocal(num_items == nullptr ? static_cast<A>(mlm_count) : *num_items);
  A sbo = reciprocal(num_sbo_items == nullptr ? static_cast<A>(sbo_count) : *num_sbo_items);
  if (num_items != nullptr && num_sbo_items == nullptr) sbo *= static_cast<A>(mlm_count) * mlm;
  return {mlm, sbo_weight * sbo};
}

// The sums of one head over some rows.
template <typename A>
struct HeadSums {
  A nll = 0, rows = 0, correct = 0;
};

template <typename A>
SPANBERT_EXT_HOST_DEVICE void add_row(HeadSums<A>& sums, A nll, int64_t prediction, int64_t target) {
  if (target < 0) return;
  sums.nll += nll;
  sums.rows += A(1);
  sums.correct += prediction == target ? A(1) : A(0);
}

// A mean over no rows is 0.
template <typename A>
SPANBERT_EXT_HOST_DEVICE A mean_of(A sum, A rows) {
  return sum / (rows > A(1) ? rows : A(1));
}

}  // namespace spanbert_ext
