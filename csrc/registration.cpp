// SPDX-License-Identifier: Apache-2.0
// Every operator's schema; the implementations are registered beside them, one line per device.
// spanbert_ext/ops/ holds, per operator, the public function, the fake kernel and the autograd formula.
#include "boundary_mlp/boundary_mlp.h"
#include "common/operator.h"
#include "head_targets/head_targets.h"
#include "span_mask/span_mask.h"
#include "vocab_ce/vocab_ce.h"

namespace spanbert_ext {

// clang-format off: a schema is read as a line of arguments, not as wrapped string literals
TORCH_LIBRARY(spanbert_ext, m) {
  m.def(
      "span_mask(Tensor input_ids, Tensor kinds, Tensor random_ids, Tensor seed, Tensor epoch, *,"
      " Tensor? attention_mask, Tensor? sample_ids, Tensor? candidates, int? vocab_size, int mask_token_id, int pad_token_id,"
      " float ratio, float p, int max_words, int position_slots, float mask_share, float random_share,"
      " bool replace_per_token, bool fill_after_candidates, float candidate_share)"
      " -> (Tensor masked_ids, Tensor labels, Tensor masked_positions, Tensor left_boundary, Tensor right_boundary)");
  m.def(
      "boundary_mlp(Tensor x, Tensor masked_positions, Tensor left_boundary, Tensor right_boundary,"
      " Tensor positions, Tensor weight1, Tensor bias1, Tensor norm1_weight, Tensor norm1_bias,"
      " Tensor weight2, Tensor bias2, Tensor norm2_weight, Tensor norm2_bias, float eps, ScalarType compute_dtype,"
      " SymInt? max_rows=None, Tensor? token_rows=None)"
      " -> (Tensor y, Tensor rows, Tensor z1, Tensor z2, Tensor statistics, Tensor kept, Tensor count,"
      " Tensor weight1_operand, Tensor weight2_operand)");
  m.def(
      "boundary_mlp_backward(Tensor? grad_y, Tensor? grad_rows, Tensor x, Tensor masked_positions,"
      " Tensor left_boundary, Tensor right_boundary, Tensor positions, Tensor weight1, Tensor bias1,"
      " Tensor norm1_weight, Tensor norm1_bias, Tensor weight2, Tensor bias2, Tensor norm2_weight, Tensor norm2_bias,"
      " Tensor z1, Tensor z2, Tensor statistics, Tensor kept, Tensor count, Tensor weight1_operand,"
      " Tensor weight2_operand, ScalarType compute_dtype, bool need_x, bool need_parameters, SymInt? max_rows=None,"
      " Tensor? token_rows=None)"
      " -> (Tensor grad_x, Tensor grad_positions, Tensor grad_weight1, Tensor grad_bias1, Tensor grad_norm1_weight,"
      " Tensor grad_norm1_bias, Tensor grad_weight2, Tensor grad_bias2, Tensor grad_norm2_weight,"
      " Tensor grad_norm2_bias)");
  m.def(
      "head_targets(Tensor labels, Tensor masked_positions, Tensor? left_boundary, Tensor? num_items,"
      " Tensor? num_sbo_items, float sbo_weight, ScalarType dtype, SymInt? max_rows)"
      " -> (Tensor token_rows, Tensor ranks, Tensor targets, Tensor row_weight, Tensor counts)");
  m.def(
      "head_statistics(Tensor nll, Tensor prediction, Tensor targets, Tensor ranks, bool has_sbo)"
      " -> (Tensor row_statistics, Tensor means, Tensor mlm_prediction, Tensor sbo_prediction)");
  m.def(
      "vocab_ce(Tensor h, Tensor weight, Tensor? bias, SymInt[] first_rows, Tensor targets, Tensor row_weight,"
      " ScalarType compute_dtype, float label_smoothing, SymInt? max_rows, bool need_dh, bool need_dw, bool need_db)"
      " -> (Tensor loss, Tensor nll, Tensor prediction, Tensor grad_unit, Tensor dh_rows, Tensor compact_rows,"
      " Tensor dw, Tensor db)");
  m.def("vocab_ce_gradient_rows(Tensor dh_rows, Tensor compact_rows, Tensor scale, ScalarType dtype) -> Tensor");
  m.def("vocab_ce_scale_(Tensor(a!) gradient, Tensor scale) -> ()");
}
// clang-format on

// A test build runs the CUDA operators on the CPU, see tests/emulated_cuda.
#ifdef SPANBERT_EXT_EMULATE_CUDA
#define SPANBERT_EXT_CPU_OR_EMULATED(name) operator_of<&name##_cuda>()
#else
#define SPANBERT_EXT_CPU_OR_EMULATED(name) operator_of<&name##_cpu>()
#endif

TORCH_LIBRARY_IMPL(spanbert_ext, CPU, m) {
  m.impl("span_mask", SPANBERT_EXT_CPU_OR_EMULATED(span_mask));
  m.impl("boundary_mlp", SPANBERT_EXT_CPU_OR_EMULATED(boundary_mlp));
  m.impl("boundary_mlp_backward", SPANBERT_EXT_CPU_OR_EMULATED(boundary_mlp_backward));
  m.impl("head_targets", SPANBERT_EXT_CPU_OR_EMULATED(head_targets));
  m.impl("head_statistics", SPANBERT_EXT_CPU_OR_EMULATED(head_statistics));
  m.impl("vocab_ce", SPANBERT_EXT_CPU_OR_EMULATED(vocab_ce));
  m.impl("vocab_ce_gradient_rows", SPANBERT_EXT_CPU_OR_EMULATED(vocab_ce_gradient_rows));
  m.impl("vocab_ce_scale_", SPANBERT_EXT_CPU_OR_EMULATED(vocab_ce_scale));
}

#ifdef SPANBERT_EXT_WITH_CUDA
TORCH_LIBRARY_IMPL(spanbert_ext, CUDA, m) {
  m.impl("span_mask", operator_of<&span_mask_cuda>());
  m.impl("boundary_mlp", operator_of<&boundary_mlp_cuda>());
  m.impl("boundary_mlp_backward", operator_of<&boundary_mlp_backward_cuda>());
  m.impl("head_targets", operator_of<&head_targets_cuda>());
  m.impl("head_statistics", operator_of<&head_statistics_cuda>());
  m.impl("vocab_ce", operator_of<&vocab_ce_cuda>());
  m.impl("vocab_ce_gradient_rows", operator_of<&vocab_ce_gradient_rows_cuda>());
  m.impl("vocab_ce_scale_", operator_of<&vocab_ce_scale_cuda>());
}
#endif

}  // namespace spanbert_ext
