// SPDX-License-Identifier: Apache-2.0
#include "common/cpu_capability.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "common/instruction_sets.h"

namespace spanbert_ext {
namespace {

Capability detect() {
#if defined(__x86_64__)
#define SPANBERT_EXT_HAS(feature) &&__builtin_cpu_supports(feature)
  const bool avx2 = true SPANBERT_EXT_AVX2(SPANBERT_EXT_HAS);
  const bool avx512 = avx2 SPANBERT_EXT_AVX512(SPANBERT_EXT_HAS);
#undef SPANBERT_EXT_HAS
  if (avx512) return Capability::kAvx512;
  if (avx2) return Capability::kAvx2;
#endif
  return Capability::kDefault;
}

Capability requested(Capability best) {
  const char* variable = std::getenv("SPANBERT_EXT_CPU_CAPABILITY");
  if (variable == nullptr || *variable == '\0') return best;
  for (Capability capability : {Capability::kDefault, Capability::kAvx2, Capability::kAvx512}) {
    if (std::string(variable) == capability_name(capability)) return std::min(capability, best);
  }
  throw std::runtime_error("SPANBERT_EXT_CPU_CAPABILITY is '" + std::string(variable) +
                           "'; expected default, avx2 or avx512");
}

// Of the first leaves of cpuid: the vendor's name and the signature, which holds the family.
constexpr bool slow_bit_select(std::string_view vendor, unsigned signature) {
  const unsigned base = signature >> 8 & 0xF, family = base == 0xF ? base + (signature >> 20 & 0xFF) : base;
  return (vendor == "AuthenticAMD" || vendor == "HygonGenuine") && family < 0x19;
}
static_assert(slow_bit_select("AuthenticAMD", 0x00830F10) &&
              slow_bit_select("HygonGenuine", 0x00900F01));  // Zen 2, Dhyana
static_assert(slow_bit_select("AuthenticAMD", 0x00660F51));  // Excavator
static_assert(!slow_bit_select("AuthenticAMD", 0x00A20F10) &&
              !slow_bit_select("GenuineIntel", 0x000306C3));  // Zen 3, Haswell

}  // namespace

bool has_slow_bit_select() {
#if defined(__x86_64__)
  static const bool slow = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0, signature = 0;
    if (!__get_cpuid(0, &eax, &ebx, &ecx, &edx)) return false;
    char vendor[12];
    std::memcpy(vendor, &ebx, 4);
    std::memcpy(vendor + 4, &edx, 4);
    std::memcpy(vendor + 8, &ecx, 4);
    if (!__get_cpuid(1, &signature, &ebx, &ecx, &edx)) return false;
    return slow_bit_select(std::string_view(vendor, sizeof(vendor)), signature);
  }();
  return slow;
#else
  return false;
#endif
}

Capability cpu_capability() {
  static const Capability chosen = requested(detect());
  return chosen;
}

const char* capability_name(Capability capability) {
  switch (capability) {
    case Capability::kAvx512:
      return "avx512";
    case Capability::kAvx2:
      return "avx2";
    default:
      return "default";
  }
}

}  // namespace spanbert_ext
