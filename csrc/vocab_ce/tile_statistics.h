// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "vocab_ce/vocab_ce_kernel.h"

namespace spanbert_ext {

// What is known of a chunk's logits per vocabulary tile and column, [tiles, columns], and of a column over all tiles.
template <typename acc_t>
class TileStatistics {
 public:
  void resize(int64_t tiles, int64_t columns, bool with_sum) {
    tiles_ = tiles;
    columns_ = columns;
    maximum_.resize(tiles * columns);
    sum_exp_.resize(tiles * columns);
    sum_.resize(with_sum ? tiles * columns : 0);
    best_strip_.resize(tiles * columns);
  }

  ColumnStatistics<acc_t> of_tile(int64_t tile) {
    const int64_t first = tile * columns_;
    return {maximum_.data() + first, sum_exp_.data() + first, sum_.empty() ? nullptr : sum_.data() + first,
            best_strip_.data() + first};
  }

  struct Column {
    acc_t maximum, sum_exp, sum;  // of exp(logit - maximum), of logit - maximum
    int64_t tile, best_strip;     // where the maximum is
  };

  // Tiles have `tile_entries` rows each, the last one what is left of `vocab`.
  Column of_column(int64_t column, int64_t tile_entries, int64_t vocab) const {
    int64_t best = 0;
    for (int64_t tile = 1; tile < tiles_; ++tile) {
      if (maximum_[tile * columns_ + column] > maximum_[best * columns_ + column]) best = tile;
    }
    const int64_t at_best = best * columns_ + column;
    Column of{.maximum = maximum_[at_best],
              .sum_exp = 0,
              .sum = 0,
              .tile = best,
              .best_strip = best_strip_[at_best]};
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      const int64_t i = tile * columns_ + column, left = vocab - tile * tile_entries;
      const acc_t below = maximum_[i] - of.maximum;
      of.sum_exp += sum_exp_[i] * std::exp(below);
      if (!sum_.empty())
        of.sum += sum_[i] + static_cast<acc_t>(left < tile_entries ? left : tile_entries) * below;
    }
    return of;
  }

 private:
  int64_t tiles_ = 0, columns_ = 0;
  std::vector<acc_t> maximum_, sum_exp_, sum_;
  std::vector<int64_t> best_strip_;
};

}  // namespace spanbert_ext
