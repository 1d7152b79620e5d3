// SPDX-License-Identifier: Apache-2.0
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

template <typename acc_t>
inline acc_t bias_at(const acc_t* bias, int64_t v) {
  return bias == nullptr ? acc_t(0) : bias[v];
}

template <typename acc_t>
inline acc_t sum_lanes(const Vectorized<acc_t>& v) {
  acc_t lanes[Vectorized<acc_t>::size()];
  v.store(lanes);
  acc_t sum = 0;
  for (int lane = 0; lane < Vectorized<acc_t>::size(); ++lane) sum += lanes[lane];
  return sum;
}

// The bits of a float as a bfloat16, to nearest even, in the upper half; NaN stays NaN.
inline uint32_t rounded_bits(const float* p) {
  uint32_t bits;
  static_assert(sizeof(bits) == sizeof(*p));
  __builtin_memcpy(&bits, p, sizeof(bits));
  const uint32_t rounded = bits + 0x7FFF + ((bits >> 16) & 1);
  return *p != *p ? 0x7FC00000u : rounded;
}
inline uint32_t rounded_bits(const c10::BFloat16* p) { return static_cast<uint32_t>(p->x) << 16; }

}  // namespace

template <typename acc_t>
void column_statistics(LogitsTile<acc_t> tile, ColumnStatistics<acc_t> out) {
  const auto [logits, bias, size, columns] = tile;
  using Vec = Vectorized<acc_t>;
  static_assert(kColumnMultiple % Vec::size() == 0);
  for (int64_t c = 0; c < columns; ++c) {
    out.maximum[c] = std::numeric_limits<acc_t>::lowest();
    out.sum_exp[c] = 0;
    out.best_strip[c] = 0;
    if (out.sum != nullptr) out.sum[c] = 0;
  }
  for (int64_t v0 = 0; v0 < size; v0 += kStripRows) {
    const int64_t v1 = v0 + kStripRows < size ? v0 + kStripRows : size;
    for (int64_t c = 0; c < columns; c += Vec::size()) {
      const Vec before = load(out.maximum + c);
      Vec maximum = before;
      for (int64_t v = v0; v < v1; ++v) {
        maximum = at::vec::maximum(maximum, load(logits + v * columns + c) + Vec(bias_at(bias, v)));
      }
      // Both finite, also where every logit so far is -inf: a column of nothing else ends in log(0) - (-inf)
      // = NaN.
      // Strips are summed by themselves: fewer roundings of large sums.
      Vec sum_exp(acc_t(0)), total(acc_t(0));
      for (int64_t v = v0; v < v1; ++v) {
        const Vec x = load(logits + v * columns + c) + Vec(bias_at(bias, v)) - maximum;
        sum_exp = sum_exp + x.exp();
        total = total + x;
      }
      (load(out.sum_exp + c) * (before - maximum).exp() + sum_exp).store(out.sum_exp + c);
      if (out.sum != nullptr) {
        if (v0 > 0) total = total + load(out.sum + c) + Vec(static_cast<acc_t>(v0)) * (before - maximum);
        total.store(out.sum + c);
      }
      // A new maximum becomes rare after the first strips.
      acc_t was[Vec::size()], is[Vec::size()];
      before.store(was);
      maximum.store(is);
      for (int lane = 0; lane < Vec::size(); ++lane) {
        if (is[lane] > was[lane]) out.best_strip[c + lane] = v0;
      }
      maximum.store(out.maximum + c);
    }
  }
}

template <typename T, typename acc_t>
void logits_gradient(LogitsTile<acc_t> tile, ColumnSoftmax<acc_t> softmax, T* grad, acc_t* grad_bias) {
  const auto [logits, bias, size, columns] = tile;
  using Vec = Vectorized<acc_t>;
  constexpr int64_t kStep = Vec::size();
  for (int64_t v = 0; v < size; ++v) {
    const acc_t* row = logits + v * columns;
    T* grad_row = grad + v * columns;
    const Vec b(bias_at(bias, v));
    const auto gradient = [&](int64_t c) {
      const Vec x = load(row + c) + b - load(softmax.maximum + c);
      const Vec g = load(softmax.scale + c) * (x.exp() - load(softmax.uniform + c));
      // Below the smallest normal number products take a hundred cycles each. NaN is kept.
      return Vec::blendv(g, Vec(acc_t(0)), g.abs() < Vec(std::numeric_limits<acc_t>::min()));
    };
    Vec row_sum(acc_t(0));
    int64_t c = 0;
    for (; c + 2 * kStep <= columns; c += 2 * kStep) {
      const Vec first = gradient(c), second = gradient(c + kStep);
      if constexpr (std::is_same_v<T, acc_t>) {
        first.store(grad_row + c);
        second.store(grad_row + c + kStep);
      } else {
        at::vec::convert_from_float<T>(first, second).store(grad_row + c);
      }
      row_sum = row_sum + first + second;
    }
    if constexpr (std::is_same_v<T, acc_t>) {  // bfloat16 columns are whole panels
      if (c < columns) {
        const Vec last = gradient(c);
        last.store(grad_row + c);
        row_sum = row_sum + last;
      }
    }
    grad_bias[v] += sum_lanes(row_sum);
  }
}

template <typename T>
void transpose_tile(const T* from, int64_t size, int64_t columns, T* to, int64_t to_pitch) {
  constexpr int64_t kSide = 16;  // a cache line of float32, written whole
  static_assert(kColumnMultiple % kSide == 0);
  int64_t i = 0;
  for (; i + kSide <= size; i += kSide) {
    for (int64_t j = 0; j < columns; ++j) {
      const T* column = from + i * columns + j;
      T* row = to + j * to_pitch + i;
      for (int64_t k = 0; k < kSide; ++k) row[k] = column[k * columns];
    }
  }
  for (; i < size; ++i) {
    for (int64_t j = 0; j < columns; ++j) to[j * to_pitch + i] = from[i * columns + j];
  }
}

void round_to_bfloat16(const float* from, int64_t count, c10::BFloat16* to) {
  for (int64_t i = 0; i < count; ++i) to[i].x = static_cast<uint16_t>(rounded_bits(from + i) >> 16);
}

template <typename T, typename S>
void pack_panels(const S* from, int64_t from_pitch, int64_t rows, int64_t columns, int64_t panel, T* to) {
  constexpr int64_t pair = kPair<T>;
  // A row is a short run of a wider matrix' row, at whose end the hardware stops to read ahead.
  constexpr int64_t kAhead = 8, kLine = 64 / sizeof(S);
  const int64_t steps = (rows + pair - 1) / pair;
  for (int64_t i = 0; i < steps; ++i, from += pair * from_pitch) {
    for (int64_t k = kAhead; k < kAhead + pair && i * pair + k < rows; ++k) {
      for (int64_t j = 0; j < columns; j += kLine) __builtin_prefetch(from + k * from_pitch + j);
    }
    for (int64_t first = 0; first < columns; first += panel) {
      const int64_t size = columns - first < panel ? columns - first : panel;
      const S* row = from + first;
      T* out = to + (first / panel * steps + i) * panel * pair;
      if constexpr (kPair<T> == 1) {
        for (int64_t j = 0; j < size; ++j) out[j] = row[j];
      } else {
        // A pair is one store of 32 bits: then compilers fill a vector without moving lanes.
        const bool has_second = i * pair + 1 < rows;
        const S* second = has_second ? row + from_pitch : row;
        const uint32_t keep = has_second ? 0xFFFF0000u : 0;
        for (int64_t j = 0; j < size; ++j) {
          const uint32_t both = rounded_bits(row + j) >> 16 | (rounded_bits(second + j) & keep);
          __builtin_memcpy(out + 2 * j, &both, sizeof(both));
        }
      }
    }
  }
}

// The kernels of one choice of types: `decltype` repeats no argument list.
#define INSTANTIATE(T, acc_t)                                             \
  template decltype(logits_gradient<T, acc_t>) logits_gradient<T, acc_t>; \
  template decltype(transpose_tile<T>) transpose_tile<T>;
INSTANTIATE(double, double)
INSTANTIATE(float, float)
INSTANTIATE(c10::BFloat16, float)
template decltype(column_statistics<double>) column_statistics<double>;
template decltype(column_statistics<float>) column_statistics<float>;
template decltype(pack_panels<double, double>) pack_panels<double, double>;
template decltype(pack_panels<float, float>) pack_panels<float, float>;
template decltype(pack_panels<c10::BFloat16, float>) pack_panels<c10::BFloat16, float>;
template decltype(pack_panels<c10::BFloat16, c10::BFloat16>) pack_panels<c10::BFloat16, c10::BFloat16>;

}  // namespace spanbert_ext::CPU_CAPABILITY
