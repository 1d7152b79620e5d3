// SPDX-License-Identifier: Apache-2.0
// The passes of vocab_ce on CPUs. Logits are made transposed, [V, rows], one chunk of rows at a time, so that a vocabulary
// bias is one scalar per contiguous run. A task is a vocabulary tile: what its product makes is read again while a core's
// L2 cache still holds it.
//
//   per chunk:  every tile:  logits = weight @ rows^T  ->  statistics
//               every row:   nll, prediction
//               every tile:  gradient of the logits  ->  its transpose replaces them; dw += gradient @ rows
//               every group of dh's columns, part of the vocabulary:  gradient^T @ weight, their sum is dh
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/chunks.h"
#include "common/cpu_capability.h"
#include "common/cpu_pages.h"
#include "common/integers.h"
#include "common/small_gemm.h"
#include "common/tasks.h"
#include "vocab_ce/compact_capacity.h"
#include "vocab_ce/decoder_weight.h"
#include "vocab_ce/tile_statistics.h"
#include "vocab_ce/vocab_ce.h"
#include "vocab_ce/vocab_ce_kernel.h"

namespace spanbert_ext {

// Rows of h decoded at once: dw is read and written once a chunk, and 320 rows of 28,996 float32 logits are
// 37 MB.
constexpr int64_t kChunkRows = 320;
// With AMX bfloat16 products take about as long as that: up to twice the rows, but at most a third of the call's (or
// kChunkRows), all of whose logits eager keeps in float32.
constexpr int64_t kBfloat16ChunkRows = 640;

// Entries of the vocabulary. With brgemm a tile's logits and their gradient, each 0.65 MB of float32, stay in the L2 cache
// together; with ATen a shorter inner dimension costs the product of dh 10 %.
constexpr int64_t kBrgemmTile = 512, kAtenTile = 768;

constexpr int64_t kGroupColumns = 192;  // of dh, in one task
constexpr int64_t kMostParts = 16;
constexpr int64_t kRowGrain = 16;  // rows that a thread finishes at least: a cache line of float32 statistics

// GEMM operands of T (float64, float32 or bfloat16), the weight stored as S, everything else in acc_t.
template <typename T, typename S, typename acc_t>
class VocabCe {
 public:
  // `live`: rows of the call with a target.
  VocabCe(const VocabCeArguments& arguments, int64_t live, double grad_unit)
      : h_(arguments.h),
        targets_(arguments.targets.contiguous()),
        row_weight_(arguments.row_weight.contiguous()),
        weight_(arguments.weight),
        vocab_(arguments.weight.size(0)),
        width_(h_.size(1)),
        chunk_limit_(kOperands != at::kBFloat16 ? kChunkRows
                                                : std::clamp(live / 3, kChunkRows, kBfloat16ChunkRows)),
        tile_entries_(has_brgemm(kOperands) ? kBrgemmTile : kAtenTile),
        tiles_(divide_up(vocab_, tile_entries_)),
        smoothing_(static_cast<acc_t>(arguments.label_smoothing)),
        uniform_(static_cast<acc_t>(arguments.label_smoothing / static_cast<double>(vocab_))),
        grad_unit_(static_cast<acc_t>(grad_unit)),
        need_dh_(arguments.need_dh),
        need_dw_(arguments.need_dw),
        need_grad_(need_dh_ || need_dw_ || arguments.makes_db()) {
    const auto& [h, weight, bias, first_rows, targets, row_weight, compute_dtype, label_smoothing, max_rows,
                 need_dh, need_dw, need_db] = arguments;
    const auto acc = h.options().dtype(c10::CppTypeToScalarType<acc_t>::value);
    const int64_t rows = h.size(0);
    nll = at::zeros({rows}, acc);
    prediction = at::full({rows}, -1, targets.options());
    compact_rows = at::full({rows}, -1, targets.options());
    const auto compute = h.options().dtype(compute_dtype);
    dh_rows =
        need_dh ? at::zeros({compact_capacity(rows, max_rows), width_}, compute) : at::empty({0}, compute);
    dw = at::empty({need_dw ? vocab_ : 0, width_}, acc);
    want_huge_pages(dw);
    if (bias.has_value()) bias_ = bias->to(acc.dtype()).contiguous();
    // A discarded row keeps the passes free of branches when only some gradients are asked for.
    db = at::zeros({bias.has_value() ? bias->size(0) : 1, vocab_}, acc);
  }

  void add_rows(int64_t group, const std::vector<int64_t>& rows) {
    const int64_t count = static_cast<int64_t>(rows.size());
    const int64_t chunk = round_up(chunk_rows(count, chunk_limit_), column_multiple());
    for (int64_t first = 0; first < count; first += chunk) {
      add_chunk(group, rows.data() + first, std::min(chunk, count - first));
    }
  }

  // After all rows.
  at::Tensor weight_gradient() { return dw_begun_ ? dw : dw.zero_(); }

  double loss = 0;
  at::Tensor nll, prediction, dh_rows, compact_rows, dw, db;

 private:
  static constexpr at::ScalarType kOperands = c10::CppTypeToScalarType<T>::value;

  // brgemm compiles a kernel for each size and pitch, on every thread: whole panels of columns are few of them.
  static int64_t column_multiple() {
    return has_brgemm(kOperands) ? panel_columns(kOperands) : kColumnMultiple;
  }

  // Vocabulary entries [begin, begin + size) and their logits [size, columns]; later, in the same memory, their gradient
  // transposed: [columns, pitch].
  struct VocabularyTile {
    int64_t begin, size, pitch;
    acc_t* logits;
  };

  VocabularyTile tile_at(int64_t index) const {
    const int64_t begin = index * tile_entries_, size = std::min(tile_entries_, vocab_ - begin);
    return {begin, size, round_up(size, kPair<T>),
            logits_.template mutable_data_ptr<acc_t>() + begin * columns_};
  }

  LogitsTile<acc_t> logits_of(const VocabularyTile& tile) const {
    return {tile.logits, bias_row_ == nullptr ? nullptr : bias_row_ + tile.begin, tile.size, columns_};
  }

  void add_chunk(int64_t group, const int64_t* rows, int64_t count) {
    count_ = count;
    columns_ = round_up(count, column_multiple());
    rows_ = rows;
    const int64_t compact_begin = compact_filled_;
    for (int64_t c = 0; c < count; ++c) compact_rows.mutable_data_ptr<int64_t>()[rows[c]] = compact_filled_++;
    const at::Tensor index = at::from_blob(const_cast<int64_t*>(rows), {count}, targets_.options());
    // Padding columns hold the last row, so that nothing in them is NaN or infinite unless its loss is; finish_rows gives
    // them no gradient.
    const at::Tensor chunk = at::empty({columns_, width_}, h_.options().dtype(kOperands));
    chunk.narrow(0, 0, count).copy_(h_.index_select(0, index));
    chunk.narrow(0, count, columns_ - count)
        .copy_(chunk.narrow(0, count - 1, 1).expand({columns_ - count, width_}));
    if (!logits_.defined() || logits_.numel() < vocab_ * columns_) {
      logits_ = at::empty({vocab_ * columns_}, dw.options());
      want_huge_pages(logits_);
    }
    bias_row_ = bias_.defined() ? bias_.const_data_ptr<acc_t>() + group * vocab_ : nullptr;

    decode(chunk);
    finish_rows();
    if (!need_grad_) return;
    differentiate(chunk, db.mutable_data_ptr<acc_t>() + (bias_row_ == nullptr ? 0 : group * vocab_));
    dw_begun_ = true;
    if (need_dh_) dh_rows.narrow(0, compact_begin, count).copy_(grad_rows().narrow(0, 0, count));
  }

  // Logits, and their statistics per tile and column.
  void decode(const at::Tensor& chunk) {
    statistics_.resize(tiles_, columns_, smoothing_ > 0);
    const at::Tensor panels = to_panels(chunk.t());
    share_tasks(tiles_, [&](TaskQueue& tasks) {
      const SmallGemmScope<T> scope;
      std::vector<T> buffer;
      for (int64_t index; tasks.take(&index);) {
        const VocabularyTile tile = tile_at(index);
        small_gemm<T, acc_t>({.m = tile.size,
                              .n = columns_,
                              .k = width_,
                              .a = weight_.rows(tile.begin, tile.size, &buffer),
                              .a_pitch = width_,
                              .b = panels_of(panels, width_),
                              .c = tile.logits,
                              .c_pitch = columns_,
                              .accumulate = false});
        SPANBERT_EXT_CPU_DISPATCH(column_statistics(logits_of(tile), statistics_.of_tile(index)));
      }
    });
  }

  static Panels<T> panels_of(const at::Tensor& packed, int64_t k) {
    return Panels<T>::packed(packed.const_data_ptr<T>(), k, panel_columns(kOperands));
  }

  // Fills what differentiate() needs of this chunk's rows; writes nll, prediction and the loss.
  void finish_rows() {
    // Padding columns: exp(logit - infinity) is 0.
    top_.assign(columns_, std::numeric_limits<acc_t>::infinity());
    scale_.assign(columns_, 0);
    uniform_exp_.assign(columns_, 0);
    target_.assign(columns_, 0);
    target_gradient_.assign(columns_, 0);
    target_correction_.assign(columns_, 0);
    at::parallel_for(0, count_, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) finish_row(c);
    });
    const acc_t *weight = row_weight_.const_data_ptr<acc_t>(), *row_nll = nll.const_data_ptr<acc_t>();
    for (int64_t c = 0; c < count_; ++c) {
      loss += static_cast<double>(weight[rows_[c]]) * static_cast<double>(row_nll[rows_[c]]);
    }
  }

  void finish_row(int64_t c) {
    const acc_t* logits = logits_.template const_data_ptr<acc_t>();
    const auto logit = [&](int64_t v) {
      return logits[v * columns_ + c] + (bias_row_ == nullptr ? acc_t(0) : bias_row_[v]);
    };
    const auto [top, total, logit_sum, tile, best_strip] = statistics_.of_column(c, tile_entries_, vocab_);
    const int64_t row = rows_[c];
    const int64_t target = targets_.const_data_ptr<int64_t>()[row];
    const acc_t log_total = std::log(total), target_logit = logit(target);
    acc_t row_nll = (top - target_logit) + log_total;
    if (smoothing_ > 0) {
      row_nll =
          (1 - smoothing_) * row_nll + smoothing_ * (log_total - logit_sum / static_cast<acc_t>(vocab_));
    }
    int64_t predicted = tile * tile_entries_ + best_strip;
    const int64_t strip_end = std::min(vocab_, predicted + kStripRows);
    for (int64_t v = predicted; v < strip_end; ++v) {
      if (logit(v) == top) {
        predicted = v;
        break;
      }
    }
    const acc_t coefficient = row_weight_.const_data_ptr<acc_t>()[row] / grad_unit_;
    top_[c] = top;
    scale_[c] = coefficient / total;
    uniform_exp_[c] = uniform_ * total;
    target_[c] = target;
    // p - 1 in full precision, then rounded once.
    const acc_t probability = std::exp(target_logit - top) / total;
    target_gradient_[c] = coefficient * (probability - 1 + smoothing_ - uniform_);
    target_correction_[c] = target_gradient_[c] - coefficient * (probability - uniform_);
    nll.mutable_data_ptr<acc_t>()[row] = row_nll;
    prediction.mutable_data_ptr<int64_t>()[row] = predicted;
  }

  // Gradients of the logits into dw and `grad_bias` [V]; transposed, they replace the logits.
  void differentiate(const at::Tensor& chunk, acc_t* grad_bias) {
    const at::Tensor panels = need_dw_ ? to_panels(chunk) : at::Tensor();
    share_tasks(tiles_, [&](TaskQueue& tasks) {
      const SmallGemmScope<T> scope;
      std::vector<T> grad(tile_entries_ * columns_);
      for (int64_t index; tasks.take(&index);) {
        const VocabularyTile tile = tile_at(index);
        const ColumnSoftmax<acc_t> softmax{top_.data(), scale_.data(), uniform_exp_.data()};
        SPANBERT_EXT_CPU_DISPATCH(
            logits_gradient(logits_of(tile), softmax, grad.data(), grad_bias + tile.begin));
        subtract_one_hot(tile, grad.data(), grad_bias);
        if (need_dh_) transpose(tile, grad.data());  // while the logits that it overwrites are in the cache
        if (need_dw_) {
          small_gemm<T, acc_t>({.m = tile.size,
                                .n = width_,
                                .k = columns_,
                                .a = grad.data(),
                                .a_pitch = columns_,
                                .b = panels_of(panels, columns_),
                                .c = dw.mutable_data_ptr<acc_t>() + tile.begin * width_,
                                .c_pitch = width_,
                                .accumulate = dw_begun_});
        }
      }
    });
  }

  void subtract_one_hot(const VocabularyTile& tile, T* grad, acc_t* grad_bias) const {
    for (int64_t c = 0; c < count_; ++c) {
      const int64_t v = target_[c];
      if (v < tile.begin || v >= tile.begin + tile.size) continue;
      grad_bias[v] += target_correction_[c];
      grad[(v - tile.begin) * columns_ + c] = static_cast<T>(target_gradient_[c]);
    }
  }

  void transpose(const VocabularyTile& tile, const T* grad) const {
    T* out = reinterpret_cast<T*>(tile.logits);
    SPANBERT_EXT_CPU_DISPATCH(transpose_tile(grad, tile.size, columns_, out, tile.pitch));
    for (int64_t c = 0; tile.pitch > tile.size && c < columns_; ++c) out[c * tile.pitch + tile.size] = T(0);
  }

  // Parts of the vocabulary that dh is summed over apart: tasks for more threads. Their sums
  // [parts, columns, D] take an eighth of the logits' memory at most, where there is more than one.
  int64_t vocabulary_parts() const {
    const int64_t fit = vocab_ / std::max<int64_t>(1, 8 * width_);
    return std::clamp<int64_t>(fit, 1, std::min(tiles_, kMostParts));
  }

  // gradient^T @ weight: [columns, D]. A task is a group of dh's columns and a part of the vocabulary; the shape alone says
  // which, never the number of threads, on which the last bits of a sum would then depend.
  at::Tensor grad_rows() const {
    const int64_t groups = divide_up(width_, kGroupColumns), parts = vocabulary_parts();
    const at::Tensor sums = at::empty({parts, columns_, width_}, dw.options());
    share_tasks(groups * parts, [&](TaskQueue& tasks) {
      const SmallGemmScope<T> scope;
      std::vector<T> buffer;
      for (int64_t task; tasks.take(&task);) {
        const int64_t part = task / groups, column = task % groups * kGroupColumns;
        const int64_t columns = std::min(kGroupColumns, width_ - column);
        const int64_t first = part * tiles_ / parts, end = (part + 1) * tiles_ / parts;
        for (int64_t index = first; index < end; ++index) {
          const VocabularyTile tile = tile_at(index);
          small_gemm<T, acc_t>({.m = columns_,
                                .n = columns,
                                .k = tile.pitch,
                                .a = reinterpret_cast<const T*>(tile.logits),
                                .a_pitch = tile.pitch,
                                .b = weight_.columns(tile.begin, tile.size, column, columns, &buffer),
                                .c = sums.mutable_data_ptr<acc_t>() + part * columns_ * width_ + column,
                                .c_pitch = width_,
                                .accumulate = index > first});
        }
      }
    });
    const at::Tensor out = sums.select(0, 0);
    for (int64_t part = 1; part < parts; ++part) out.add_(sums.select(0, part));
    return out;
  }

  const at::Tensor h_, targets_, row_weight_;
  const DecoderWeight<T, S> weight_;
  const int64_t vocab_, width_, chunk_limit_, tile_entries_, tiles_;
  const acc_t smoothing_, uniform_, grad_unit_;
  const bool need_dh_, need_dw_, need_grad_;
  bool dw_begun_ = false;  // until then its memory holds anything
  at::Tensor bias_;

  int64_t compact_filled_ = 0;

  // Of the chunk at hand: `count` rows of h, padded to `columns`.
  int64_t count_ = 0, columns_ = 0;
  const int64_t* rows_ = nullptr;
  const acc_t* bias_row_ = nullptr;
  at::Tensor logits_;  // [V, columns]
  TileStatistics<acc_t> statistics_;
  // [columns]: what ColumnSoftmax names; the target, the gradient of its logit, and how much that
  // differs from what logits_gradient makes of it.
  std::vector<acc_t> top_, scale_, uniform_exp_;
  std::vector<int64_t> target_;
  std::vector<acc_t> target_gradient_, target_correction_;
};

}  // namespace spanbert_ext
