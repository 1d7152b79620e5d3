// CPU. Logits are made transposed, [V, rows], one chunk of rows at a time: weight @ h^T, grad^T @ weight and
// grad @ h are the GEMM layouts that run fastest, and a vocabulary bias is one scalar per contiguous run.
//
//   per chunk:  logits = weight @ rows^T  ->  statistics  ->  nll, prediction
//               grad in place  ->  dw += grad @ rows,  dh = grad^T @ weight
#include "vocab_ce/vocab_ce.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/chunks.h"
#include "common/cpu_capability.h"
#include "common/dtypes.h"
#include "common/plain_dispatch.h"
#include "vocab_ce/vocab_ce_kernel.h"

namespace spanbert_ext {
namespace {

// 192 rows of 28,996 logits are 22 MB in float32: GEMMs are near their best rate and the chunk stays in a
// large cache.
constexpr int64_t kChunkRows = 192;
// One task of the element-wise passes, and the slice of float32 gradient beside reduced-precision logits.
// Fixed, so that sums do not depend on the number of threads.
constexpr int64_t kVocabBlock = 1024;
constexpr int64_t kGradientBlock = 8 * kVocabBlock;

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// GEMM operands of T (float64, float32 or bfloat16), everything else in acc_t.
template <typename T, typename acc_t>
class VocabCe {
 public:
  VocabCe(const at::Tensor& h, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
          const at::Tensor& targets, const at::Tensor& row_weight, double label_smoothing, double grad_unit,
          bool need_dh, bool need_dw, bool need_db)
      : h_(h),
        weight_(weight.to(c10::CppTypeToScalarType<T>::value).contiguous()),
        targets_(targets.contiguous()),
        row_weight_(row_weight.contiguous()),
        vocab_(weight.size(0)),
        width_(h.size(1)),
        smoothing_(static_cast<acc_t>(label_smoothing)),
        uniform_(static_cast<acc_t>(label_smoothing / static_cast<double>(vocab_))),
        grad_unit_(static_cast<acc_t>(grad_unit)),
        need_dh_(need_dh),
        need_dw_(need_dw) {
    const auto acc = h.options().dtype(c10::CppTypeToScalarType<acc_t>::value);
    const int64_t rows = h.size(0);
    nll = at::zeros({rows}, acc);
    prediction = at::full({rows}, -1, targets.options());
    dh = need_dh ? at::zeros({rows, width_}, h.options()) : at::empty({0}, h.options());
    dw = at::zeros({need_dw ? vocab_ : 0, width_}, acc);
    if (bias.has_value()) bias_ = bias->to(acc.dtype()).contiguous();
    need_grad_ = need_dh || need_dw || need_db;
    // A discarded row keeps the passes free of branches when only some gradients are asked for.
    db = at::zeros({bias.has_value() ? bias->size(0) : 1, vocab_}, acc);
  }

  void add_rows(int64_t group, const std::vector<int64_t>& rows) {
    const int64_t count = static_cast<int64_t>(rows.size());
    const int64_t chunk = chunk_rows(count, kChunkRows);
    for (int64_t first = 0; first < count; first += chunk) {
      add_chunk(group, rows.data() + first, std::min(chunk, count - first));
    }
  }

  double loss = 0;
  at::Tensor nll, prediction, dh, dw, db;

 private:
  void add_chunk(int64_t group, const int64_t* rows, int64_t count) {
    const int64_t columns = round_up(count, kColumnMultiple);
    const auto acc = dw.options();
    const at::Tensor index = at::from_blob(const_cast<int64_t*>(rows), {count}, targets_.options());
    // Padding columns hold zero rows and get a zero gradient.
    at::Tensor chunk = at::zeros({columns, width_}, acc);  // [columns, D]
    chunk.narrow(0, 0, count).copy_(h_.index_select(0, index));
    const at::Tensor operand = chunk.to(weight_.scalar_type());
    if (!logits_.defined() || logits_.size(1) != columns)
      logits_ = at::empty({vocab_, columns}, weight_.options());
    at::mm_out(logits_, weight_, operand.t());  // [V, columns]

    const acc_t* bias = bias_.defined() ? bias_.const_data_ptr<acc_t>() + group * vocab_ : nullptr;
    statistics(bias, rows, count, columns);
    if (!need_grad_) return;

    acc_t* grad_bias = db.mutable_data_ptr<acc_t>() + (bias == nullptr ? 0 : group * vocab_);
    constexpr bool in_place = std::is_same_v<T, acc_t>;
    const int64_t block = in_place ? vocab_ : std::min(vocab_, kGradientBlock);
    if (!in_place && (!grad_.defined() || grad_.size(1) != columns)) grad_ = at::empty({block, columns}, acc);
    for (int64_t v_begin = 0; v_begin < vocab_; v_begin += block) {
      const int64_t v_end = std::min(vocab_, v_begin + block);
      const at::Tensor grad = in_place ? logits_ : grad_.narrow(0, 0, v_end - v_begin);  // [block, columns]
      gradient(bias, v_begin, v_end, count, columns, grad.template mutable_data_ptr<acc_t>(), grad_bias);
      if (need_dw_) dw.narrow(0, v_begin, v_end - v_begin).addmm_(grad, chunk);
    }
    if (need_dh_)
      dh.index_copy_(0, index, at::mm(logits_.t(), weight_).narrow(0, 0, count).to(dh.scalar_type()));
  }

  // Fills log_sum_exp_, coefficient_, target_ and target_logit_ of this chunk; writes nll, prediction and the
  // loss.
  void statistics(const acc_t* bias, const int64_t* rows, int64_t count, int64_t columns) {
    const T* logits = logits_.template const_data_ptr<T>();
    const int64_t blocks = (vocab_ + kVocabBlock - 1) / kVocabBlock;
    std::vector<acc_t> maximum(blocks * columns), sum_exp(blocks * columns);
    std::vector<acc_t> sum(smoothing_ > 0 ? blocks * columns : 0);
    std::vector<int64_t> best_tile(blocks * columns);
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const ColumnStatistics<acc_t> out{maximum.data() + b * columns, sum_exp.data() + b * columns,
                                          sum.empty() ? nullptr : sum.data() + b * columns,
                                          best_tile.data() + b * columns};
        auto* kernel = SPANBERT_EXT_CPU_DISPATCH(column_statistics<T, acc_t>);
        kernel(logits, bias, b * kVocabBlock, std::min(vocab_, (b + 1) * kVocabBlock), columns, out);
      }
    });

    // Padding columns: exp(logit - infinity) is 0 for any bias.
    log_sum_exp_.assign(columns, std::numeric_limits<acc_t>::infinity());
    coefficient_.assign(columns, 0);
    target_.assign(columns, 0);
    target_logit_.assign(columns, 0);
    const auto logit = [&](int64_t v, int64_t c) {
      return static_cast<acc_t>(logits[v * columns + c]) + (bias == nullptr ? acc_t(0) : bias[v]);
    };
    for (int64_t c = 0; c < count; ++c) {
      int64_t best = 0;
      for (int64_t b = 1; b < blocks; ++b) {
        if (maximum[b * columns + c] > maximum[best * columns + c]) best = b;
      }
      const acc_t top = maximum[best * columns + c];
      acc_t total = 0, logit_sum = 0;
      for (int64_t b = 0; b < blocks; ++b) {
        total += sum_exp[b * columns + c] * std::exp(maximum[b * columns + c] - top);
        if (!sum.empty()) logit_sum += sum[b * columns + c];
      }
      const int64_t row = rows[c];
      const int64_t target = targets_.const_data_ptr<int64_t>()[row];
      const acc_t log_sum_exp = top + std::log(total);
      acc_t row_nll = log_sum_exp - logit(target, c);
      if (smoothing_ > 0) {
        row_nll =
            (1 - smoothing_) * row_nll + smoothing_ * (log_sum_exp - logit_sum / static_cast<acc_t>(vocab_));
      }
      int64_t predicted = best_tile[best * columns + c];
      const int64_t tile_end = std::min(vocab_, predicted + kTile);
      for (int64_t v = predicted; v < tile_end; ++v) {
        if (logit(v, c) == top) {
          predicted = v;
          break;
        }
      }
      const acc_t weight = row_weight_.template const_data_ptr<acc_t>()[row];
      log_sum_exp_[c] = log_sum_exp;
      coefficient_[c] = weight / grad_unit_;
      target_[c] = target;
      target_logit_[c] = logit(target, c);
      nll.mutable_data_ptr<acc_t>()[row] = row_nll;
      prediction.mutable_data_ptr<int64_t>()[row] = predicted;
      loss += static_cast<double>(weight) * static_cast<double>(row_nll);
    }
  }

  void gradient(const acc_t* bias, int64_t v_begin, int64_t v_end, int64_t count, int64_t columns,
                acc_t* grad, acc_t* grad_bias) {
    T* logits = logits_.template mutable_data_ptr<T>();
    const int64_t blocks = (v_end - v_begin + kVocabBlock - 1) / kVocabBlock;
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      auto* kernel = SPANBERT_EXT_CPU_DISPATCH(logits_gradient<T, acc_t>);
      const int64_t first = v_begin + begin * kVocabBlock;
      kernel(logits, bias, first, std::min(v_end, v_begin + end * kVocabBlock), columns, log_sum_exp_.data(),
             coefficient_.data(), uniform_, grad + (first - v_begin) * columns, grad_bias);
    });
    for (int64_t c = 0; c < count; ++c) {
      const int64_t v = target_[c];
      if (v < v_begin || v >= v_end) continue;
      // p - 1 in full precision, then rounded once.
      const acc_t probability = std::exp(target_logit_[c] - log_sum_exp_[c]);
      const acc_t value = coefficient_[c] * (probability - 1 + smoothing_ - uniform_);
      acc_t& entry = grad[(v - v_begin) * columns + c];
      grad_bias[v] += value - entry;
      entry = value;
      logits[v * columns + c] = static_cast<T>(value);
    }
  }

  const at::Tensor h_, weight_, targets_, row_weight_;
  at::Tensor bias_, logits_, grad_;
  const int64_t vocab_, width_;
  const acc_t smoothing_, uniform_, grad_unit_;
  const bool need_dh_, need_dw_;
  bool need_grad_ = false;
  std::vector<acc_t> log_sum_exp_, coefficient_, target_logit_;
  std::vector<int64_t> target_;
};

// Live rows (target >= 0) of each block of rows.
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

template <typename T, typename acc_t>
VocabCeOutput run(const at::Tensor& h, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                  at::IntArrayRef first_rows, const at::Tensor& targets, const at::Tensor& row_weight,
                  double label_smoothing, double grad_unit, bool need_dh, bool need_dw, bool need_db) {
  VocabCe<T, acc_t> op(h, weight, bias, targets, row_weight, label_smoothing, grad_unit, need_dh, need_dw,
                       need_db);
  const auto live = live_rows(targets, first_rows);
  for (size_t g = 0; g < live.size(); ++g) op.add_rows(static_cast<int64_t>(g), live[g]);

  const auto acc = op.nll.options();
  const at::Tensor dw = need_dw ? op.dw.to(weight.scalar_type()) : at::empty({0}, weight.options());
  const at::Tensor db = need_db ? op.db.to(bias->scalar_type())
                                : at::empty({0}, bias.has_value() ? bias->options() : weight.options());
  return {at::full({}, op.loss, acc), op.nll, op.prediction, at::full({}, grad_unit, acc), op.dh, dw, db};
}

}  // namespace

VocabCeOutput vocab_ce_cpu(const at::Tensor& h, const at::Tensor& weight,
                           const std::optional<at::Tensor>& bias, at::IntArrayRef first_rows,
                           const at::Tensor& targets, const at::Tensor& row_weight,
                           at::ScalarType compute_dtype, double label_smoothing,
                           std::optional<int64_t> max_rows, bool need_dh, bool need_dw, bool need_db) {
  const PlainDispatch plain;
  check_vocab_ce(h, weight, bias, first_rows, targets, row_weight, compute_dtype, label_smoothing, max_rows);
  check_targets(targets, weight.size(0), max_rows);
  need_db = need_db && bias.has_value();
  const double grad_unit = gradient_unit(row_weight, targets, compute_dtype);
  const auto call = [&]<typename T, typename acc_t>() {
    return run<T, acc_t>(h, weight, bias, first_rows, targets, row_weight, label_smoothing, grad_unit,
                         need_dh, need_dw, need_db);
  };
  switch (cpu_gemm_dtype(compute_dtype)) {
    case at::kDouble:
      return call.template operator()<double, double>();
    case at::kBFloat16:
      return call.template operator()<c10::BFloat16, float>();
    default:
      return call.template operator()<float, float>();
  }
}

}  // namespace spanbert_ext
