// Compiled once per instruction set. Raw pointers and at::vec only: a weak symbol of anything else could be
// linked into code that an older CPU runs.
#include "vocab_ce/vocab_ce_kernel.h"

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <limits>
#include <type_traits>

namespace spanbert_ext::CPU_CAPABILITY {
namespace {

using at::vec::Vectorized;

template <typename acc_t>
inline Vectorized<acc_t> load(const acc_t* p) {
  return Vectorized<acc_t>::loadu(p);
}
inline Vectorized<float> load(const c10::BFloat16* p) {
  Vectorized<float> x;
  at::vec::load_fp32_from_bf16(p, x);
  return x;
}

template <typename acc_t>
inline acc_t bias_at(const acc_t* bias, int64_t v) {
  return bias == nullptr ? acc_t(0) : bias[v];
}

}  // namespace

template <typename T, typename acc_t>
void column_statistics(const T* logits, const acc_t* bias, int64_t v_begin, int64_t v_end, int64_t columns,
                       ColumnStatistics<acc_t> out) {
  using Vec = Vectorized<acc_t>;
  static_assert(kColumnMultiple % (2 * Vec::size()) == 0);
  for (int64_t c = 0; c < columns; ++c) {
    out.maximum[c] = std::numeric_limits<acc_t>::lowest();
    out.sum_exp[c] = 0;
    out.best_tile[c] = v_begin;
    if (out.sum != nullptr) out.sum[c] = 0;
  }
  for (int64_t v0 = v_begin; v0 < v_end; v0 += kTile) {
    const int64_t v1 = v0 + kTile < v_end ? v0 + kTile : v_end;
    for (int64_t c = 0; c < columns; c += Vec::size()) {
      const Vec before = load(out.maximum + c);
      Vec maximum = before;
      Vec total(acc_t(0));
      for (int64_t v = v0; v < v1; ++v) {
        const Vec x = load(logits + v * columns + c) + Vec(bias_at(bias, v));
        maximum = at::vec::maximum(maximum, x);
        total = total + x;
      }
      // Both finite, also where every logit so far is -inf: a column of nothing else ends in log(0) - (-inf)
      // = NaN.
      Vec sum_exp = load(out.sum_exp + c) * (before - maximum).exp();
      for (int64_t v = v0; v < v1; ++v) {
        sum_exp = sum_exp + (load(logits + v * columns + c) + Vec(bias_at(bias, v)) - maximum).exp();
      }
      sum_exp.store(out.sum_exp + c);
      if (out.sum != nullptr) (load(out.sum + c) + total).store(out.sum + c);
      // A new maximum becomes rare after the first tiles.
      acc_t was[Vec::size()], is[Vec::size()];
      before.store(was);
      maximum.store(is);
      for (int lane = 0; lane < Vec::size(); ++lane) {
        if (is[lane] > was[lane]) out.best_tile[c + lane] = v0;
      }
      maximum.store(out.maximum + c);
    }
  }
}

template <typename T, typename acc_t>
void logits_gradient(T* logits, const acc_t* bias, int64_t v_begin, int64_t v_end, int64_t columns,
                     const acc_t* log_sum_exp, const acc_t* coefficient, acc_t uniform, acc_t* grad,
                     acc_t* grad_bias) {
  using Vec = Vectorized<acc_t>;
  for (int64_t v = v_begin; v < v_end; ++v) {
    T* row = logits + v * columns;
    acc_t* grad_row = grad + (v - v_begin) * columns;
    const Vec b(bias_at(bias, v));
    Vec row_sum(acc_t(0));
    for (int64_t c = 0; c < columns; c += 2 * Vec::size()) {
      const int64_t c2 = c + Vec::size();
      const Vec g1 =
          load(coefficient + c) * ((load(row + c) + b - load(log_sum_exp + c)).exp() - Vec(uniform));
      const Vec g2 =
          load(coefficient + c2) * ((load(row + c2) + b - load(log_sum_exp + c2)).exp() - Vec(uniform));
      g1.store(grad_row + c);
      g2.store(grad_row + c2);
      if constexpr (!std::is_same_v<T, acc_t>) at::vec::convert_from_float<T>(g1, g2).store(row + c);
      row_sum = row_sum + g1 + g2;
    }
    acc_t lanes[Vec::size()];
    row_sum.store(lanes);
    acc_t sum = 0;
    for (int lane = 0; lane < Vec::size(); ++lane) sum += lanes[lane];
    grad_bias[v] += sum;
  }
}

#define INSTANTIATE(T, acc_t)                                                                        \
  template void column_statistics<T, acc_t>(const T*, const acc_t*, int64_t, int64_t, int64_t,       \
                                            ColumnStatistics<acc_t>);                                \
  template void logits_gradient<T, acc_t>(T*, const acc_t*, int64_t, int64_t, int64_t, const acc_t*, \
                                          const acc_t*, acc_t, acc_t*, acc_t*);
INSTANTIATE(double, double)
INSTANTIATE(float, float)
INSTANTIATE(c10::BFloat16, float)

}  // namespace spanbert_ext::CPU_CAPABILITY
