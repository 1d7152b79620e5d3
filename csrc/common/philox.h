// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a keyed bijection of
// a 128-bit counter. A draw is a function of its counter alone, so no thread, batch split or device order can
// change it. Torch-free, host and device.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace spanbert_ext {

// Draws made side by side: on a CPU they hide each other's latency, or fill a vector.
template <int kLanes>
struct PhiloxLanes {
  uint32_t word[4][kLanes];  // [word of the counter or of the result, lane]
};

template <int kLanes>
SPANBERT_EXT_HOST_DEVICE PhiloxLanes<kLanes> philox4x32(uint64_t key, PhiloxLanes<kLanes> counter) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  constexpr int kRounds = 10;
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kRounds; ++round) {
    SPANBERT_EXT_SIMD
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint64_t product0 = kMultiplier0 * counter.word[0][lane];
      const uint64_t product1 = kMultiplier1 * counter.word[2][lane];
      counter.word[0][lane] = static_cast<uint32_t>(product1 >> 32) ^ counter.word[1][lane] ^ key0;
      counter.word[2][lane] = static_cast<uint32_t>(product0 >> 32) ^ counter.word[3][lane] ^ key1;
      counter.word[1][lane] = static_cast<uint32_t>(product1);
      counter.word[3][lane] = static_cast<uint32_t>(product0);
    }
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

}  // namespace spanbert_ext
