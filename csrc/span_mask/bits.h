// Search and select on the 64-bit words of a row's bit sets. Torch-free, host and device; the host versions
// need no instruction beyond the baseline of x86-64.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace spanbert_ext {

SPANBERT_EXT_HOST_DEVICE inline int count_ones(uint64_t bits) {
#ifdef __CUDA_ARCH__
  return __popcll(bits);
#else
  return __builtin_popcountll(bits);
#endif
}

SPANBERT_EXT_HOST_DEVICE inline int lowest_one(uint64_t bits) {  // bits != 0
#ifdef __CUDA_ARCH__
  return __ffsll(static_cast<long long>(bits)) - 1;
#else
  return __builtin_ctzll(bits);
#endif
}

SPANBERT_EXT_HOST_DEVICE inline int highest_one(uint64_t bits) {  // bits != 0
#ifdef __CUDA_ARCH__
  return 63 - __clzll(static_cast<long long>(bits));
#else
  return 63 - __builtin_clzll(bits);
#endif
}

SPANBERT_EXT_HOST_DEVICE inline bool has_bit(const uint64_t* set, int64_t position) {
  return (set[position >> 6] >> (position & 63)) & 1;
}

// Place of the one with `rank` ones below it; 0 <= rank < count_ones(bits).
SPANBERT_EXT_HOST_DEVICE inline int select_one(uint64_t bits, uint32_t rank) {
  constexpr uint64_t kBytes = 0x0101010101010101u;
  // Byte i of `below_or_in` holds the number of ones in bytes 0..i; the bytes with at most `rank` come before
  // ours.
  uint64_t sums = bits - ((bits >> 1) & (kBytes * 0x55));
  sums = (sums & (kBytes * 0x33)) + ((sums >> 2) & (kBytes * 0x33));
  sums = (sums + (sums >> 4)) & (kBytes * 0x0F);
  const uint64_t below_or_in = sums * kBytes;
  const uint64_t before = (((rank * kBytes) | (kBytes * 0x80)) - below_or_in) & (kBytes * 0x80);
  const int shift = static_cast<int>((((before >> 7) * kBytes) >> 56) * 8);
  uint32_t left = rank - static_cast<uint32_t>(((below_or_in << 8) >> shift) & 0xFF);
  uint32_t byte = static_cast<uint32_t>(bits >> shift) & 0xFF;
  for (; left > 0; --left) byte &= byte - 1;
  return shift + lowest_one(byte);
}

// First position >= `from` that is in the set (or, for next_in_either, in one of the two). It must exist.
SPANBERT_EXT_HOST_DEVICE inline int64_t next_in_either(const uint64_t* a, const uint64_t* b, int64_t from) {
  int64_t word = from >> 6;
  uint64_t bits = (a[word] | b[word]) & (~uint64_t{0} << (from & 63));
  while (bits == 0) {
    ++word;
    bits = a[word] | b[word];
  }
  return word * 64 + lowest_one(bits);
}

SPANBERT_EXT_HOST_DEVICE inline int64_t next_outside(const uint64_t* set, int64_t from) {
  int64_t word = from >> 6;
  uint64_t bits = ~set[word] & (~uint64_t{0} << (from & 63));
  while (bits == 0) bits = ~set[++word];
  return word * 64 + lowest_one(bits);
}

// Last position <= `from` that is in the set. It must exist.
SPANBERT_EXT_HOST_DEVICE inline int64_t previous_in(const uint64_t* set, int64_t from) {
  int64_t word = from >> 6;
  uint64_t bits = set[word] & (~uint64_t{0} >> (63 - (from & 63)));
  while (bits == 0) bits = set[--word];
  return word * 64 + highest_one(bits);
}

}  // namespace spanbert_ext
