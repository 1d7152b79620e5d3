// CUDA. Rows with a target are moved to the front (compacted) and decoded a chunk at a time into logits
// [rows, pitch]:
//
//   per chunk:  logits = rows @ weight^T  ->  loss, prediction, gradient in place  ->  db
//               dw += grad^T @ rows,  dh = grad @ weight
//
// The host never learns how many rows take part: GEMMs are sized by max_rows, where the caller knows a bound,
// else by N. Peak memory beside the outputs: chunk * pitch logits, N * D rows and their gradient, one [V, D]
// copy of the weight where it is cast, one [V, D] of float32 where the weight's gradient is.
#include "vocab_ce/vocab_ce_cuda.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "common/chunks.h"
#include "common/cuda_host.h"
#include "common/dtypes.h"
#include "common/plain_dispatch.h"
#include "common/row_moves.h"
#include "vocab_ce/vocab_ce.h"

namespace spanbert_ext {
namespace {

// A chunk's logits take at most this much, unless that were too few rows for GEMMs to run at their best rate
// and for dw, read and written once per chunk, to cost little.
constexpr int64_t kChunkBytes = int64_t{512} << 20;
constexpr int64_t kFewestChunkRows = 2048;
constexpr int64_t kMostChunkRows = int64_t{65535} * kSliceRows;  // CUDA's limit of a grid's second dimension

int64_t most_chunk_rows(int64_t vocab, int64_t element_bytes) {
  const int64_t rows = kChunkBytes / (logits_pitch(vocab) * element_bytes);
  return std::clamp(rows, kFewestChunkRows, kMostChunkRows);
}

RowBlocks row_blocks(at::IntArrayRef first_rows) {
  TORCH_CHECK_VALUE(first_rows.size() <= kMaxBlocks, "vocab_ce: first_rows has ", first_rows.size(),
                    " entries, expected at most ", kMaxBlocks, " on CUDA");
  RowBlocks blocks{.count = static_cast<int>(first_rows.size()), .first = {}};
  std::copy(first_rows.begin(), first_rows.end(), blocks.first);
  return blocks;
}

// float16 gradients are kept in units of the largest row weight, see vocab_ce.cpp; made on the device.
at::Tensor gradient_unit(const at::Tensor& row_weight, const at::Tensor& targets,
                         at::ScalarType compute_dtype) {
  if (compute_dtype != at::kHalf || row_weight.numel() == 0) return at::ones({}, row_weight.options());
  const at::Tensor largest = row_weight.masked_fill(targets < 0, 0).abs().amax();
  const at::Tensor unit = largest.log2().ceil().exp2();
  return at::where((largest > 0).logical_and(largest.isfinite()), unit, at::ones_like(unit));
}

MoveRows row_move(const at::Tensor& from, const at::Tensor& to, const at::Tensor& rows) {
  const int64_t bytes = from.element_size();
  return {.from = from.const_data_ptr(),
          .to = to.mutable_data_ptr(),
          .from_stride = from.stride(0) * bytes,
          .to_stride = to.stride(0) * bytes,
          .row_bytes = from.size(1) * bytes,
          .element_bytes = static_cast<int>(bytes),
          .rows = rows.const_data_ptr<int64_t>(),
          .n = rows.size(0)};
}

}  // namespace

VocabCeOutput vocab_ce_cuda(const at::Tensor& h, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, at::IntArrayRef first_rows,
                            const at::Tensor& targets, const at::Tensor& row_weight,
                            at::ScalarType compute_dtype, double label_smoothing,
                            std::optional<int64_t> max_rows, bool need_dh, bool need_dw, bool need_db) {
  const PlainDispatch plain;
  check_vocab_ce(h, weight, bias, first_rows, targets, row_weight, compute_dtype, label_smoothing, max_rows);
  const RowBlocks blocks = row_blocks(first_rows);
  if (debug_checks()) check_targets(targets.cpu(), weight.size(0), max_rows);
  const CudaScope scope(h);
  const cudaStream_t stream = scope.stream();
  need_db = need_db && bias.has_value();
  const bool need_grad = need_dh || need_dw || need_db;

  const int64_t total = h.size(0), width = h.size(1), vocab = weight.size(0), pitch = logits_pitch(vocab);
  const int64_t capacity = std::min(total, max_rows.value_or(total));
  const auto acc = h.options().dtype(accumulation_dtype(compute_dtype));
  const auto compute = h.options().dtype(compute_dtype);
  const at::Tensor ids = targets.contiguous(), weights = row_weight.contiguous();
  const at::Tensor operand = weight.to(compute_dtype).contiguous();  // [V, D]
  const at::Tensor bias_rows = bias.has_value() ? bias->to(acc.dtype()).contiguous() : at::Tensor();
  const at::Tensor nll = at::zeros({total}, acc), weighted_nll = at::zeros({total}, acc);
  const at::Tensor prediction = at::full({total}, -1, ids.options());
  const at::Tensor grad_unit = gradient_unit(weights, ids, compute_dtype);

  const at::Tensor rows = at::empty({capacity}, ids.options()), row_count = at::empty({1}, ids.options());
  check_launch("vocab_ce", launch_compact_rows({.ids = ids.const_data_ptr<int64_t>(),
                                                .n = total,
                                                .capacity = capacity,
                                                .rows = rows.mutable_data_ptr<int64_t>(),
                                                .count = row_count.mutable_data_ptr<int64_t>()},
                                               stream));
  const at::Tensor source = h.to(compute_dtype).contiguous();
  const at::Tensor compact = at::empty({capacity, width}, compute);
  check_launch("vocab_ce", launch_gather_rows(row_move(source, compact, rows), stream));

  // Rows that did not fit are in no chunk: their loss has to say so.
  const at::Tensor overflow = at::zeros({}, acc).masked_fill_(row_count.squeeze(0) > capacity,
                                                              std::numeric_limits<double>::quiet_NaN());
  const at::Tensor grad_compact = at::empty({need_dh ? capacity : 0, width}, compute);
  const at::Tensor dw = at::zeros({need_dw ? vocab : 0, width}, acc);
  const at::Tensor db = at::zeros({need_db ? blocks.count : 0, vocab}, acc);
  const int64_t chunk =
      chunk_rows(capacity, most_chunk_rows(vocab, static_cast<int64_t>(operand.element_size())));
  const at::Tensor buffer = at::empty({chunk, pitch}, compute);
  for (int64_t first = 0; first < capacity; first += chunk) {
    const int64_t count = std::min(chunk, capacity - first);
    const at::Tensor logits =
        buffer.narrow(0, 0, count).narrow(1, 0, vocab);               // [count, V], rows `pitch` apart
    const at::Tensor operand_rows = compact.narrow(0, first, count);  // [count, D]
    multiply_cuda(logits, operand_rows, operand.t());
    const LogitsChunk view{.type = float_type(compute_dtype),
                           .logits = logits.mutable_data_ptr(),
                           .rows = count,
                           .vocab = vocab,
                           .pitch = pitch,
                           .row_index = rows.const_data_ptr<int64_t>() + first,
                           .blocks = blocks};
    check_launch("vocab_ce",
                 launch_cross_entropy({.chunk = view,
                                       .row_count = row_count.const_data_ptr<int64_t>(),
                                       .capacity = capacity,
                                       .targets = ids.const_data_ptr<int64_t>(),
                                       .row_weight = weights.const_data_ptr(),
                                       .bias = bias_rows.defined() ? bias_rows.const_data_ptr() : nullptr,
                                       .grad_unit = grad_unit.const_data_ptr(),
                                       .smoothing = label_smoothing,
                                       .need_grad = need_grad,
                                       .nll = nll.mutable_data_ptr(),
                                       .weighted_nll = weighted_nll.mutable_data_ptr(),
                                       .prediction = prediction.mutable_data_ptr<int64_t>()},
                                      stream));
    if (need_db) {
      const at::Tensor partial = at::empty({column_slices(count), blocks.count, vocab}, acc);
      check_launch("vocab_ce", launch_column_sums(view, partial.mutable_data_ptr(), stream));
      db.add_(partial.sum(0));
    }
    if (need_dw) multiply_cuda(dw, logits.t(), operand_rows, /*accumulate=*/first > 0);
    if (need_dh) multiply_cuda(grad_compact.narrow(0, first, count), logits, operand);
  }

  const at::Tensor loss = weighted_nll.sum(at::kDouble).to(acc.dtype().toScalarType()).add_(overflow);
  at::Tensor dh = at::empty({0}, h.options());
  if (need_dh) {
    dh = at::zeros({total, width}, compute);
    check_launch("vocab_ce", launch_scatter_rows(row_move(grad_compact, dh, rows), stream));
    dh = dh.to(h.scalar_type());
  }
  return {loss,
          nll,
          prediction,
          grad_unit,
          dh,
          need_dw ? dw.to(weight.scalar_type()) : at::empty({0}, weight.options()),
          need_db ? db.to(bias->scalar_type())
                  : at::empty({0}, bias.has_value() ? bias->options() : weight.options())};
}

}  // namespace spanbert_ext
