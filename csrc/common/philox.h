// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a keyed bijection of
// a 128-bit counter. A draw is a function of its counter alone, so no thread, batch split or device order can
// change it. Torch-free, host and device.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/host_device.h"
#if defined(__SSE2__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

namespace spanbert_ext {

constexpr uint64_t kLow32 = 0xFFFFFFFFu;

// Draws made side by side: on a CPU they hide each other's latency and fill a vector.
template <int kLanes>
struct PhiloxLanes {
  uint64_t word[4][kLanes];  // [word of the counter or of the result, lane], each below 2^32
};

// The product of the lower 32 bits of each lane; of a vector too, where there is an instruction for it.
SPANBERT_EXT_HOST_DEVICE uint64_t multiply_low(uint64_t a, uint64_t b) { return (a & kLow32) * (b & kLow32); }
#if defined(__AVX2__) && !defined(__CUDACC__)
typedef uint64_t WidestLanes __attribute__((vector_size(32)));
SPANBERT_EXT_HOST_DEVICE WidestLanes multiply_low(const WidestLanes& a, const WidestLanes& b) {
  return reinterpret_cast<WidestLanes>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
#elif defined(__SSE2__) && !defined(__CUDACC__)
typedef uint64_t WidestLanes __attribute__((vector_size(16)));
SPANBERT_EXT_HOST_DEVICE WidestLanes multiply_low(const WidestLanes& a, const WidestLanes& b) {
  return reinterpret_cast<WidestLanes>(
      _mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
}
#else
typedef uint64_t WidestLanes;
#endif

template <int kLanes>
SPANBERT_EXT_HOST_DEVICE PhiloxLanes<kLanes> philox4x32(uint64_t key, const PhiloxLanes<kLanes>& counter) {
  constexpr int kWidest = sizeof(WidestLanes) / sizeof(uint64_t);
  using Vector = std::conditional_t<kLanes % kWidest == 0, WidestLanes, uint64_t>;
  constexpr int kVectors = kLanes * sizeof(uint64_t) / sizeof(Vector);
  constexpr uint64_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint64_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  constexpr int kRounds = 10;
  Vector word[4][kVectors];  // above the lower 32 bits is rubbish until the end
  static_assert(sizeof(word) == sizeof(counter.word));
  std::memcpy(word, counter.word, sizeof(word));
  Vector key0 = Vector{} + key, key1 = Vector{} + (key >> 32);
  for (int round = 0; round < kRounds; ++round) {
    for (int i = 0; i < kVectors; ++i) {
      const Vector product0 = multiply_low(word[0][i], Vector{} + kMultiplier0);
      const Vector product1 = multiply_low(word[2][i], Vector{} + kMultiplier1);
      word[0][i] = (product1 >> 32) ^ word[1][i] ^ key0;
      word[2][i] = (product0 >> 32) ^ word[3][i] ^ key1;
      word[1][i] = product1;
      word[3][i] = product0;
    }
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  PhiloxLanes<kLanes> result;
  for (auto& row : word) {
    for (Vector& x : row) x &= Vector{} + kLow32;
  }
  std::memcpy(result.word, word, sizeof(word));
  return result;
}

}  // namespace spanbert_ext
