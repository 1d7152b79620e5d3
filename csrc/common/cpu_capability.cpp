#include "common/cpu_capability.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace spanbert_ext {
namespace {

Capability detect() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    return Capability::kAvx512;
  }
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

}  // namespace

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
