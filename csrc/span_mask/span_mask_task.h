// SPDX-License-Identifier: Apache-2.0
// What the CPU's and CUDA's host sides share: checks of the arguments, the outputs, the batch as kernels see it.
#pragma once

#include "span_mask/span_batch.h"
#include "span_mask/span_mask.h"

namespace spanbert_ext {

// Every check that reads no element of a tensor.
void check_arguments(const SpanMaskArguments& arguments);

// The checks of elements. They need contiguous CPU tensors, and arguments that passed check_arguments.
// check_rows alone reads every token: the CPU calls it to name what its row loop stopped at.
void check_elements(const SpanMaskArguments& arguments);
void check_rows(const SpanMaskArguments& arguments, int64_t begin, int64_t end);

// Ids are those below: without a table of kinds or a vocab_size, all that fit the ids' own type.
int64_t vocabulary_of(const SpanMaskArguments& arguments);
// A share of 2^32.
uint64_t share_threshold(double share);

// The same arguments with tensors that are contiguous and lie on `device`.
SpanMaskArguments contiguous_on(at::Device device, SpanMaskArguments arguments);

// The same arguments for a batch of no rows. Rows without tokens may be 2^40: nothing is made or read for each.
SpanMaskArguments without_rows(SpanMaskArguments arguments);

SpanMaskTensors empty_outputs(const SpanMaskArguments& arguments);

// Both of them point into tensors: contiguous arguments, and outputs of empty_outputs.
SpanRules span_rules(const SpanMaskArguments& arguments);
template <typename Id>
SpanBatch<Id> span_batch(const SpanMaskArguments& arguments, const SpanMaskTensors& outputs);

}  // namespace spanbert_ext
