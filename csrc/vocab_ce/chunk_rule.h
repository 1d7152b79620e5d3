// SPDX-License-Identifier: Apache-2.0
// How many rows of logits CUDA makes at a time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vocab_ce/vocab_ce_cuda.h"

namespace spanbert_ext {

// A chunk's logits take at most this much, unless that were too few rows for GEMMs to run at their best rate
// and for dw, read and written once per chunk, to cost little.
constexpr int64_t kChunkBytes = int64_t{512} << 20;
constexpr int64_t kFewestChunkRows = 2048;
constexpr int64_t kMostChunkRows = int64_t{65535} * kSliceRows;  // CUDA's limit of a grid's second dimension

// Output tiles of cuBLAS' largest kernels, which multiprocessors work off in waves.
constexpr int64_t kTileRows = 128, kTileColumns = 256;

// A chunk more reads and writes dw once more. In waves of the product that makes dh: its bytes at 4.2 TB/s
// against a tile's operations at 5 TFLOP/s, which is V'-free and in proportion to D over the multiprocessors.
constexpr double kWavesPerExtraChunk = 0.019;

struct ChunkSizes {
  int64_t rows;  // of compact, a multiple of kRowMultiple
  int64_t width, pitch, element_bytes;
  int multiprocessors;
};

inline int64_t waves(int64_t rows, const ChunkSizes& sizes) {
  const int64_t tiles = divide_up(rows, kTileRows) * divide_up(sizes.width, kTileColumns);
  return divide_up(tiles, std::max(sizes.multiprocessors, 1));
}

// The multiple of kRowMultiple with the least waves of dh's product and passes over dw in all chunks; of
// equals the smallest, which needs the least memory.
inline int64_t best_chunk_rows(const ChunkSizes& sizes) {
  const int64_t fitting = kChunkBytes / std::max<int64_t>(sizes.pitch * sizes.element_bytes, 1);
  const int64_t most = std::min(std::clamp(fitting, kFewestChunkRows, kMostChunkRows), sizes.rows);
  const double per_chunk =
      kWavesPerExtraChunk * static_cast<double>(sizes.width) / std::max(sizes.multiprocessors, 1);
  int64_t best = std::max<int64_t>(sizes.rows, kRowMultiple);
  double least = -1;
  for (int64_t rows = kRowMultiple; rows <= most; rows += kRowMultiple) {
    const int64_t full = sizes.rows / rows, rest = sizes.rows % rows;
    const int64_t chunks = full + (rest > 0 ? 1 : 0);
    const int64_t all_waves = full * waves(rows, sizes) + (rest > 0 ? waves(rest, sizes) : 0);
    const double cost = static_cast<double>(all_waves) + per_chunk * static_cast<double>(chunks);
    if (least < 0 || cost < least) {
      least = cost;
      best = rows;
    }
  }
  return best;
}

}  // namespace spanbert_ext
