// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a keyed bijection of
// a 128-bit counter. A draw is a function of its counter alone, so no thread, batch split or device order can
// change it. Torch-free, host and device.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace spanbert_ext {

struct PhiloxBlock {
  uint32_t word[4];
};

SPANBERT_EXT_HOST_DEVICE inline PhiloxBlock philox4x32(uint64_t key, PhiloxBlock counter) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  constexpr int kRounds = 10;
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = kMultiplier0 * counter.word[0];
    const uint64_t product1 = kMultiplier1 * counter.word[2];
    counter = {
        {static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

// floor(bits * bound / 2^64): a uniform integer in [0, bound) without floating point.
SPANBERT_EXT_HOST_DEVICE inline uint64_t scale_to_bound(uint64_t bits, uint64_t bound) {
#ifdef __CUDA_ARCH__
  return __umul64hi(bits, bound);
#else
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits) * bound) >> 64);
#endif
}

}  // namespace spanbert_ext
