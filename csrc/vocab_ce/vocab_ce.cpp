// CPU. Logits are made transposed, [V, rows], one chunk of rows at a time, so that a vocabulary bias is one
// scalar per contiguous run. A task is a vocabulary tile: what its product makes is read again while a core's
// L2 cache still holds it.
//
//   per chunk:  every tile:  logits = weight @ rows^T  ->  statistics
//               every row:   nll, prediction
//               every tile:  gradient of the logits  ->  dw += gradient @ rows; its transpose replaces the logits
//               every group of dh's columns, part of the vocabulary:  gradient^T @ weight, their sum is dh
#include "vocab_ce/vocab_ce.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/chunks.h"
#include "common/cpu_capability.h"
#include "common/dtypes.h"
#include "common/integers.h"
#include "common/plain_dispatch.h"
#include "common/small_gemm.h"
#include "common/tasks.h"
#include "vocab_ce/compact_capacity.h"
#include "vocab_ce/vocab_ce_kernel.h"

namespace spanbert_ext {
namespace {

// Rows of h decoded at once: dw is read and written once a chunk, and 320 rows of 28,996 float32 logits are
// 37 MB.
constexpr int64_t kChunkRows = 320;
constexpr int64_t kTileEntries =
    768;  // of the vocabulary; a shorter inner dimension costs the product of dh 10 %
constexpr int64_t kGroupColumns = 192;  // of dh, in one task
constexpr int64_t kMostParts = 16;

// The decoder matrix [V, D], stored as S, as operands of T: in place where the layouts agree, else in a
// task's buffer.
template <typename T, typename S>
class Weight {
 public:
  explicit Weight(const at::Tensor& weight)
      : tensor_(weight.to(c10::CppTypeToScalarType<S>::value).contiguous()),
        data_(tensor_.const_data_ptr<S>()),
        width_(tensor_.size(1)) {}

  // Rows [v, v + size), [size, D].
  const T* rows(int64_t v, int64_t size, std::vector<T>* buffer) const {
    const S* from = data_ + v * width_;
    if constexpr (std::is_same_v<T, S>) {
      return from;
    } else {
      buffer->resize(kTileEntries * width_);
      SPANBERT_EXT_CPU_DISPATCH(round_to_bfloat16(from, size * width_, buffer->data()));
      return buffer->data();
    }
  }

  struct Panel {
    const T* data;
    int64_t pitch;
  };

  // The same rows' columns [j, j + columns), at most a panel, for the right side of small_gemm.
  Panel panel(int64_t v, int64_t size, int64_t j, int64_t columns, std::vector<T>* buffer) const {
    const S* from = data_ + v * width_ + j;
    if constexpr (kPair<T> == 1) {
      return {from, width_};
    } else {
      const int64_t pitch = panel_columns();
      buffer->resize(round_up(kTileEntries, kPair<T>) * pitch);
      SPANBERT_EXT_CPU_DISPATCH(pair_rows(from, width_, size, columns, buffer->data(), pitch));
      return {buffer->data(), pitch};
    }
  }

 private:
  const at::Tensor tensor_;
  const S* const data_;
  const int64_t width_;
};

// GEMM operands of T (float64, float32 or bfloat16), the weight stored as S, everything else in acc_t.
template <typename T, typename S, typename acc_t>
class VocabCe {
 public:
  VocabCe(const VocabCeArguments& arguments, double grad_unit)
      : h_(arguments.h),
        targets_(arguments.targets.contiguous()),
        row_weight_(arguments.row_weight.contiguous()),
        weight_(arguments.weight),
        vocab_(arguments.weight.size(0)),
        width_(h_.size(1)),
        tiles_((vocab_ + kTileEntries - 1) / kTileEntries),
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
    if (bias.has_value()) bias_ = bias->to(acc.dtype()).contiguous();
    // A discarded row keeps the passes free of branches when only some gradients are asked for.
    db = at::zeros({bias.has_value() ? bias->size(0) : 1, vocab_}, acc);
  }

  void add_rows(int64_t group, const std::vector<int64_t>& rows) {
    const int64_t count = static_cast<int64_t>(rows.size());
    const int64_t chunk = round_up(chunk_rows(count, kChunkRows), kColumnMultiple);
    for (int64_t first = 0; first < count; first += chunk) {
      add_chunk(group, rows.data() + first, std::min(chunk, count - first));
    }
  }

  // After all rows.
  at::Tensor weight_gradient() { return dw_begun_ ? dw : dw.zero_(); }

  double loss = 0;
  at::Tensor nll, prediction, dh_rows, compact_rows, dw, db;

 private:
  // Vocabulary entries [begin, begin + size) and their logits [size, columns]; later, in the same memory, their gradient
  // transposed: [columns, pitch].
  struct VocabularyTile {
    int64_t begin, size, pitch;
    acc_t* logits;
  };

  VocabularyTile tile(int64_t b) const {
    const int64_t begin = b * kTileEntries, size = std::min(kTileEntries, vocab_ - begin);
    return {begin, size, round_up(size, kPair<T>),
            logits_.template mutable_data_ptr<acc_t>() + begin * columns_};
  }

  void add_chunk(int64_t group, const int64_t* rows, int64_t count) {
    count_ = count;
    columns_ = round_up(count, kColumnMultiple);
    rows_ = rows;
    const int64_t compact_begin = compact_filled_;
    for (int64_t c = 0; c < count; ++c) compact_rows.mutable_data_ptr<int64_t>()[rows[c]] = compact_filled_++;
    const at::Tensor index = at::from_blob(const_cast<int64_t*>(rows), {count}, targets_.options());
    // Padding columns hold zero rows and get a zero gradient.
    const at::Tensor chunk =
        at::zeros({columns_, width_}, h_.options().dtype(c10::CppTypeToScalarType<T>::value));
    chunk.narrow(0, 0, count).copy_(h_.index_select(0, index));
    if (!logits_.defined() || logits_.numel() < vocab_ * columns_)
      logits_ = at::empty({vocab_ * columns_}, dw.options());
    bias_row_ = bias_.defined() ? bias_.const_data_ptr<acc_t>() + group * vocab_ : nullptr;

    decode(chunk);
    finish_rows();
    if (!need_grad_) return;
    differentiate(chunk, db.mutable_data_ptr<acc_t>() + (bias_row_ == nullptr ? 0 : group * vocab_));
    dw_begun_ = true;
    if (need_dh_) dh_rows.narrow(0, compact_begin, count).copy_(grad_rows().narrow(0, 0, count));
  }

  const acc_t* bias_at(int64_t v) const { return bias_row_ == nullptr ? nullptr : bias_row_ + v; }

  // Logits, and per tile and column their statistics.
  void decode(const at::Tensor& chunk) {
    maximum_.resize(tiles_ * columns_);
    sum_exp_.resize(tiles_ * columns_);
    sum_.resize(smoothing_ > 0 ? tiles_ * columns_ : 0);
    best_strip_.resize(tiles_ * columns_);
    const at::Tensor panels = to_panels(chunk.t());
    share_tasks(tiles_, [&](TaskQueue& tasks) {
      const SmallGemmScope scope;
      std::vector<T> buffer;
      for (int64_t b; tasks.take(&b);) {
        const VocabularyTile at = tile(b);
        panel_gemm(at.size, columns_, width_, weight_.rows(at.begin, at.size, &buffer), width_,
                   panels.const_data_ptr<T>(), at.logits, columns_, false);
        const int64_t first = b * columns_;
        const ColumnStatistics<acc_t> out{maximum_.data() + first, sum_exp_.data() + first,
                                          sum_.empty() ? nullptr : sum_.data() + first,
                                          best_strip_.data() + first};
        SPANBERT_EXT_CPU_DISPATCH(
            column_statistics<acc_t>(at.logits, bias_at(at.begin), at.size, columns_, out));
      }
    });
  }

  // Fills what differentiate() needs of this chunk's rows; writes nll, prediction and the loss.
  void finish_rows() {
    const acc_t* logits = logits_.const_data_ptr<acc_t>();
    // Padding columns: exp(logit - infinity) is 0 for any bias.
    top_.assign(columns_, std::numeric_limits<acc_t>::infinity());
    scale_.assign(columns_, 0);
    uniform_exp_.assign(columns_, 0);
    target_.assign(columns_, 0);
    target_gradient_.assign(columns_, 0);
    target_correction_.assign(columns_, 0);
    const auto logit = [&](int64_t v, int64_t c) {
      return logits[v * columns_ + c] + (bias_row_ == nullptr ? acc_t(0) : bias_row_[v]);
    };
    for (int64_t c = 0; c < count_; ++c) {
      int64_t best = 0;
      for (int64_t b = 1; b < tiles_; ++b) {
        if (maximum_[b * columns_ + c] > maximum_[best * columns_ + c]) best = b;
      }
      const acc_t top = maximum_[best * columns_ + c];
      acc_t total = 0, logit_sum = 0;
      for (int64_t b = 0; b < tiles_; ++b) {
        const acc_t below = maximum_[b * columns_ + c] - top;
        total += sum_exp_[b * columns_ + c] * std::exp(below);
        if (!sum_.empty()) logit_sum += sum_[b * columns_ + c] + static_cast<acc_t>(tile(b).size) * below;
      }
      const int64_t row = rows_[c];
      const int64_t target = targets_.const_data_ptr<int64_t>()[row];
      const acc_t log_total = std::log(total), target_logit = logit(target, c);
      acc_t row_nll = (top - target_logit) + log_total;
      if (smoothing_ > 0) {
        row_nll =
            (1 - smoothing_) * row_nll + smoothing_ * (log_total - logit_sum / static_cast<acc_t>(vocab_));
      }
      int64_t predicted = best * kTileEntries + best_strip_[best * columns_ + c];
      const int64_t strip_end = std::min(vocab_, predicted + kStripRows);
      for (int64_t v = predicted; v < strip_end; ++v) {
        if (logit(v, c) == top) {
          predicted = v;
          break;
        }
      }
      const acc_t weight = row_weight_.const_data_ptr<acc_t>()[row];
      const acc_t coefficient = weight / grad_unit_;
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
      loss += static_cast<double>(weight) * static_cast<double>(row_nll);
    }
  }

  // Gradients of the logits into dw and `grad_bias` [V]; transposed, they replace the logits.
  void differentiate(const at::Tensor& chunk, acc_t* grad_bias) {
    const at::Tensor panels = need_dw_ ? to_panels(chunk) : at::Tensor();
    share_tasks(tiles_, [&](TaskQueue& tasks) {
      const SmallGemmScope scope;
      std::vector<T> grad(kTileEntries * columns_);
      for (int64_t b; tasks.take(&b);) {
        const VocabularyTile at = tile(b);
        const ColumnSoftmax<acc_t> softmax{top_.data(), scale_.data(), uniform_exp_.data()};
        SPANBERT_EXT_CPU_DISPATCH(logits_gradient(at.logits, bias_at(at.begin), at.size, columns_, softmax,
                                                  grad.data(), grad_bias + at.begin));
        subtract_one_hot(at, grad.data(), grad_bias);
        if (need_dw_) {
          panel_gemm(at.size, width_, columns_, grad.data(), columns_, panels.const_data_ptr<T>(),
                     dw.mutable_data_ptr<acc_t>() + at.begin * width_, width_, dw_begun_);
        }
        if (need_dh_) transpose(at, grad.data());
      }
    });
  }

  void subtract_one_hot(const VocabularyTile& at, T* grad, acc_t* grad_bias) const {
    for (int64_t c = 0; c < count_; ++c) {
      const int64_t v = target_[c];
      if (v < at.begin || v >= at.begin + at.size) continue;
      grad_bias[v] += target_correction_[c];
      grad[(v - at.begin) * columns_ + c] = static_cast<T>(target_gradient_[c]);
    }
  }

  void transpose(const VocabularyTile& at, const T* grad) const {
    T* out = reinterpret_cast<T*>(at.logits);
    SPANBERT_EXT_CPU_DISPATCH(transpose_tile(grad, at.size, columns_, out, at.pitch));
    for (int64_t c = 0; at.pitch > at.size && c < columns_; ++c) out[c * at.pitch + at.size] = T(0);
  }

  // Parts of the vocabulary that dh is summed over apart: tasks for more threads. Their sums [parts, columns, D] take an
  // eighth of the logits' memory at most.
  int64_t vocabulary_parts() const {
    const int64_t fit = vocab_ / std::max<int64_t>(1, 8 * width_);
    return std::clamp<int64_t>(fit, 1, std::min(tiles_, kMostParts));
  }

  // gradient^T @ weight: [columns, D]. A task is a group of dh's columns and a part of the vocabulary; the shape alone says
  // which, never the number of threads, on which the last bits of a sum would then depend.
  at::Tensor grad_rows() const {
    const int64_t groups = divide_up(width_, kGroupColumns), parts = vocabulary_parts();
    const int64_t panel = panel_columns();
    const at::Tensor sums = at::empty({parts, columns_, width_}, dw.options());
    share_tasks(groups * parts, [&](TaskQueue& tasks) {
      const SmallGemmScope scope;
      std::vector<T> buffer;
      for (int64_t task; tasks.take(&task);) {
        const int64_t part = task / groups, first_column = task % groups * kGroupColumns;
        const int64_t end_column = std::min(first_column + kGroupColumns, width_);
        const int64_t first = part * tiles_ / parts, end = (part + 1) * tiles_ / parts;
        acc_t* out = sums.mutable_data_ptr<acc_t>() + part * columns_ * width_;
        for (int64_t b = first; b < end; ++b) {
          const VocabularyTile at = tile(b);
          for (int64_t j = first_column; j < end_column; j += panel) {
            const int64_t size = std::min(panel, end_column - j);
            const auto right = weight_.panel(at.begin, at.size, j, size, &buffer);
            small_gemm(columns_, size, at.pitch, reinterpret_cast<const T*>(at.logits), at.pitch, right.data,
                       right.pitch, out + j, width_, b > first);
          }
        }
      }
    });
    const at::Tensor out = sums.select(0, 0);
    for (int64_t part = 1; part < parts; ++part) out.add_(sums.select(0, part));
    return out;
  }

  const at::Tensor h_, targets_, row_weight_;
  const Weight<T, S> weight_;
  const int64_t vocab_, width_, tiles_;
  const acc_t smoothing_, uniform_, grad_unit_;
  const bool need_dh_, need_dw_, need_grad_;
  bool dw_begun_ = false;  // until then its memory holds anything
  at::Tensor bias_;

  int64_t compact_filled_ = 0;

  // Of the chunk at hand: `count` rows of h, padded to `columns`.
  int64_t count_ = 0, columns_ = 0;
  const int64_t* rows_ = nullptr;
  const acc_t* bias_row_ = nullptr;
  at::Tensor logits_;                           // [V, columns]
  std::vector<acc_t> maximum_, sum_exp_, sum_;  // [tiles, columns]
  std::vector<int64_t> best_strip_;
  // [columns]: what ColumnSoftmax names; the target, the gradient of its logit, and how much that
  // differs from what logits_gradient makes of it.
  std::vector<acc_t> top_, scale_, uniform_exp_;
  std::vector<int64_t> target_;
  std::vector<acc_t> target_gradient_, target_correction_;
};

// Live rows (target >= 0) of each group.
std::vector<std::vector<int64_t>> live_rows(const at::Tensor& targets, at::IntArrayRef first_rows) {
  const at::Tensor ids = targets.contiguous();
  const int64_t* id = ids.const_data_ptr<int64_t>();
  std::vector<std::vector<int64_t>> live(first_rows.size());
  for (size_t g = 0; g < first_rows.size(); ++g) {
    const int64_t end = g + 1 < first_rows.size() ? first_rows[g + 1] : targets.size(0);
    for (int64_t row = first_rows[g]; row < end; ++row) {
      if (id[row] >= 0) live[g].push_back(row);
    }
  }
  return live;
}

// float16 gradients are kept in units of the largest row weight: divided by the number of rows, most of them
// would round to zero. A power of two, so that multiplying by it is exact. The other dtypes have float32's
// exponents.
double gradient_unit(const at::Tensor& row_weight, const at::Tensor& targets, at::ScalarType compute_dtype) {
  if (compute_dtype != at::kHalf || row_weight.numel() == 0) return 1;
  const double largest = row_weight.masked_fill(targets < 0, 0).abs().max().item<double>();
  return largest > 0 && std::isfinite(largest) ? std::exp2(std::ceil(std::log2(largest))) : 1;
}

template <typename T, typename S, typename acc_t>
VocabCeOutput run(const VocabCeArguments& arguments, double grad_unit) {
  VocabCe<T, S, acc_t> op(arguments, grad_unit);
  const auto live = live_rows(arguments.targets, arguments.first_rows);
  for (size_t g = 0; g < live.size(); ++g) op.add_rows(static_cast<int64_t>(g), live[g]);

  const auto& [weight, bias] = std::tie(arguments.weight, arguments.bias);
  const auto acc = op.nll.options();
  const at::Tensor dw =
      arguments.need_dw ? op.weight_gradient().to(weight.scalar_type()) : at::empty({0}, weight.options());
  const at::Tensor db = arguments.makes_db()
                            ? op.db.to(bias->scalar_type())
                            : at::empty({0}, bias.has_value() ? bias->options() : weight.options());
  return {at::full({}, op.loss, acc),
          op.nll,
          op.prediction,
          at::full({}, grad_unit, acc),
          op.dh_rows,
          op.compact_rows,
          dw,
          db};
}

}  // namespace

VocabCeOutput vocab_ce_cpu(const VocabCeArguments& arguments) {
  const PlainDispatch plain;
  check_vocab_ce(arguments);
  check_targets(arguments.targets, arguments.weight.size(0), arguments.max_rows);
  const at::ScalarType compute_dtype = arguments.compute_dtype;
  const double grad_unit = gradient_unit(arguments.row_weight, arguments.targets, compute_dtype);
  const auto call = [&]<typename T, typename S, typename acc_t>() {
    return run<T, S, acc_t>(arguments, grad_unit);
  };
  if (compute_dtype == at::kDouble) return call.template operator()<double, double, double>();
  // Rows in pairs have an even width.
  if (cpu_gemm_dtype(compute_dtype) == at::kBFloat16 && arguments.h.size(1) % 2 == 0) {
    if (arguments.weight.scalar_type() == at::kFloat)
      return call.template operator()<at::BFloat16, float, float>();
    return call.template operator()<at::BFloat16, at::BFloat16, float>();
  }
  return call.template operator()<float, float, float>();
}

}  // namespace spanbert_ext
