#include "core/ops/loss_select.h"

#include "core/dispatch.h"

namespace cohort::ops {

LossSelection loss_select(Context& ctx, const LossSelectInputs& in) {
  if (in.ce.shape.rank() != 1) {
    internal_error("loss_select: ce " + in.ce.shape.to_string() + " is not (members)");
  }
  const std::int64_t members = in.ce.shape[0];
  const bool rows = !in.ce_rows.empty();
  if (rows &&
      (in.ce_rows.shape.rank() != 2 || in.ce_rows.shape[0] != members || in.ce_rows.dtype != in.ce.dtype)) {
    internal_error("loss_select: ce_rows " + in.ce_rows.shape.to_string() + " vs ce " +
                   in.ce.shape.to_string());
  }
  LossSelection out;
  out.teacher = ctx.empty({}, DType::i32);
  if (rows) out.row_winner = ctx.empty({in.ce_rows.shape[1]}, DType::i32);
  out.kl_weight = ctx.empty({members, members}, in.ce.dtype);
  out.feature_weight = ctx.empty({members, members}, in.ce.dtype);
  const kernels::LossSelectArgs args{.dtype = in.ce.dtype,
                                     .members = static_cast<int>(members),
                                     .rows = rows ? in.ce_rows.shape[1] : 0,
                                     .rule = in.rule,
                                     .kl = in.kl,
                                     .feature = in.feature,
                                     .ce = in.ce.data,
                                     .ce_rows = in.ce_rows.data,
                                     .masked_member = static_cast<const std::int32_t*>(in.masked_member.data),
                                     .valid_rows = static_cast<const std::int32_t*>(in.valid_rows.data),
                                     .teacher = static_cast<std::int32_t*>(out.teacher.data),
                                     .row_winner = static_cast<std::int32_t*>(out.row_winner.data),
                                     .kl_weight = out.kl_weight.data,
                                     .feature_weight = out.feature_weight.data};
  on_device(ctx, [&](auto stream) { kernels::loss_select(stream, args); });
  return out;
}

Tensor entry(const Tensor& vector, std::int64_t i) {
  check(vector.shape.rank() == 1 && i >= 0 && i < vector.shape[0], "entry: index outside of the vector");
  const auto offset = static_cast<std::size_t>(i) * size_of(vector.dtype);
  return {static_cast<std::byte*>(vector.data) + offset, Shape{}, vector.dtype, nullptr};
}

Tensor entry(const Tensor& matrix, std::int64_t i, std::int64_t j) {
  check(matrix.shape.rank() == 2 && i >= 0 && i < matrix.shape[0] && j >= 0 && j < matrix.shape[1],
        "entry: index outside of the matrix");
  const auto offset = static_cast<std::size_t>(i * matrix.shape[1] + j) * size_of(matrix.dtype);
  return {static_cast<std::byte*>(matrix.data) + offset, Shape{}, matrix.dtype, nullptr};
}

}  // namespace cohort::ops
