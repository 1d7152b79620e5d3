// SPDX-License-Identifier: Apache-2.0
// Products, and search and select on the bit words of a row's bit sets. Torch-free, host and device; the
// host versions use what the instruction set that they are compiled for has.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#if defined(__BMI2__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

namespace spanbert_ext {

// floor(a * b / 2^64). With uniform bits for `a`, a uniform integer in [0, b) without floating point.
SPANBERT_EXT_HOST_DEVICE uint64_t multiply_high(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
  return __umul64hi(a, b);
#else
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
#endif
}

// Both halves of the 128-bit product, folded into one.
SPANBERT_EXT_HOST_DEVICE uint64_t fold_product(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
  return (a * b) ^ __umul64hi(a, b);
#else
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
#endif
}

SPANBERT_EXT_HOST_DEVICE int count_ones(uint64_t bits) {
#ifdef __CUDA_ARCH__
  return __popcll(bits);
#elif defined(__POPCNT__)
  return __builtin_popcountll(bits);
#else  // baseline x86-64 has no such instruction: a compiler's built-in would be a call
  constexpr uint64_t kBytes = 0x0101010101010101u;
  bits -= (bits >> 1) & (kBytes * 0x55);
  bits = (bits & (kBytes * 0x33)) + ((bits >> 2) & (kBytes * 0x33));
  return static_cast<int>((((bits + (bits >> 4)) & (kBytes * 0x0F)) * kBytes) >> 56);
#endif
}

SPANBERT_EXT_HOST_DEVICE int lowest_one(uint64_t bits) {  // bits != 0
#ifdef __CUDA_ARCH__
  return __ffsll(static_cast<long long>(bits)) - 1;
#else
  return __builtin_ctzll(bits);
#endif
}

SPANBERT_EXT_HOST_DEVICE int highest_one(uint64_t bits) {  // bits != 0
#ifdef __CUDA_ARCH__
  return 63 - __clzll(static_cast<long long>(bits));
#else
  return 63 - __builtin_clzll(bits);
#endif
}

SPANBERT_EXT_HOST_DEVICE bool has_bit(const uint64_t* set, int64_t position) {
  return (set[position >> 6] >> (position & 63)) & 1;
}

// Byte i of `below_or_in` is the number of ones in places 0..i, at most 127: how many places have at most
// `rank`.
SPANBERT_EXT_HOST_DEVICE int count_places_before(uint64_t below_or_in, uint32_t rank) {
  constexpr uint64_t kBytes = 0x0101010101010101u;
  const uint64_t before = (((rank * kBytes) | (kBytes * 0x80)) - below_or_in) & (kBytes * 0x80);
  return static_cast<int>(((before >> 7) * kBytes) >> 56);
}

// Place of the one with `rank` ones below it; 0 <= rank < count_ones(bits). No branch: a random rank would
// mispredict it.
SPANBERT_EXT_HOST_DEVICE int select_one(uint64_t bits, uint32_t rank) {
#if defined(__BMI2__) && !defined(__CUDACC__)
  return lowest_one(_pdep_u64(uint64_t{1} << rank, bits));
#else
  constexpr uint64_t kBytes = 0x0101010101010101u;
  uint64_t sums = bits - ((bits >> 1) & (kBytes * 0x55));
  sums = (sums & (kBytes * 0x33)) + ((sums >> 2) & (kBytes * 0x33));
  sums = ((sums + (sums >> 4)) & (kBytes * 0x0F)) * kBytes;  // ones in bytes 0..i
  const int shift = 8 * count_places_before(sums, rank);
  rank -= static_cast<uint32_t>(((sums << 8) >> shift) & 0xFF);
  const uint64_t spread =
      (((bits >> shift) & 0xFF) * kBytes) & 0x8040201008040201u;  // bit i of our byte in byte i
  const uint64_t ones = ((spread + kBytes * 0x7F) >> 7) & kBytes;
  return shift + count_places_before(ones * kBytes, rank);
#endif
}

// First position >= `from` that is in the set. It must exist.
SPANBERT_EXT_HOST_DEVICE int64_t next_in(const uint64_t* set, int64_t from) {
  int64_t bit_word = from >> 6;
  uint64_t bits = set[bit_word] & (~uint64_t{0} << (from & 63));
  while (bits == 0) bits = set[++bit_word];
  return bit_word * 64 + lowest_one(bits);
}

SPANBERT_EXT_HOST_DEVICE int64_t next_outside(const uint64_t* set, int64_t from) {
  int64_t bit_word = from >> 6;
  uint64_t bits = ~set[bit_word] & (~uint64_t{0} << (from & 63));
  while (bits == 0) bits = ~set[++bit_word];
  return bit_word * 64 + lowest_one(bits);
}

// Last position <= `from` that is in the set. It must exist.
SPANBERT_EXT_HOST_DEVICE int64_t previous_in(const uint64_t* set, int64_t from) {
  int64_t bit_word = from >> 6;
  uint64_t bits = set[bit_word] & (~uint64_t{0} >> (63 - (from & 63)));
  while (bits == 0) bits = set[--bit_word];
  return bit_word * 64 + highest_one(bits);
}

// The highest bit is whether an id is outside [0, largest]: its sign, or that of its distance to the
// largest. Baseline x86-64 has no vector comparison of 64 bits.
SPANBERT_EXT_HOST_DEVICE uint64_t outside_sign(int64_t id, uint64_t largest) {
  return static_cast<uint64_t>(id) | (largest - static_cast<uint64_t>(id));
}

// Whether one of `size` ids is outside [0, limit).
template <typename Id>
SPANBERT_EXT_HOST_DEVICE bool has_outside(const Id* ids, int64_t size, int64_t limit) {
  const uint64_t largest = static_cast<uint64_t>(limit) - 1;
  uint64_t signs = 0;
  for (int64_t i = 0; i < size; ++i) signs |= outside_sign(ids[i], largest);
  return signs >> 63;
}

}  // namespace spanbert_ext
