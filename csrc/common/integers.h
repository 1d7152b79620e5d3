// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace spanbert_ext {

// Of numbers that are not negative.
SPANBERT_EXT_HOST_DEVICE int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
SPANBERT_EXT_HOST_DEVICE int64_t round_up(int64_t n, int64_t multiple) {
  return divide_up(n, multiple) * multiple;
}

}  // namespace spanbert_ext
