#include "core/ops/peer_loss.h"

#include "core/dispatch.h"

namespace cohort::ops {

void peer_loss(Context& ctx, const PeerLossInputs& in) {
  const auto members = static_cast<std::int64_t>(in.logits.size());
  check(members >= 2 && members <= kernels::kMaxMembers, "peer_loss: 2 to 16 members");
  const Tensor& first = in.logits.front();
  check(first.shape.rank() == 2, "peer_loss: logits are (rows, classes)");
  for (const Tensor& vector : {in.weight, in.loss, in.kl}) {
    check(vector.shape == Shape{members} && vector.dtype == accumulator_of(first.dtype),
          "peer_loss: weight, loss and kl are (members) A");
  }
  kernels::PeerLossArgs args{
      .shape = {first.dtype, static_cast<int>(members), first.shape[0], first.shape[1]},
      .weight = in.weight.data,
      .form = in.form,
      .temperature = in.temperature,
      .t_squared = in.t_squared,
      .valid_rows = static_cast<const std::int32_t*>(in.valid_rows.data),
      .loss = in.loss.data,
      .kl = in.kl.data};
  for (std::size_t k = 0; k < in.logits.size(); ++k) {
    check(in.logits[k].shape == first.shape && in.logits[k].dtype == first.dtype,
          "peer_loss: logits of different shapes or types");
    args.logits[k] = in.logits[k].data;
    if (const GradTarget target = ctx.grad_target(in.logits[k])) {
      args.grad_logits[k] = target.grad.data;
      args.grad_mode[k] = target.mode;
    }
  }
  on_device(ctx, [&](auto stream) {
    kernels::peer_loss(stream, args, ctx.workspace(kernels::peer_loss_workspace(stream, args.shape)));
  });
}

}  // namespace cohort::ops
