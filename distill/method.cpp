#include "distill/method.h"

#include <fmt/core.h>

#include "core/ops/cohort_loss.h"

namespace cohort::distill {

void Method::check_members(int members) const {
  if (members < 1 || members > kernels::kMaxMembers) {
    throw Error(ErrorKind::kUsage,
                fmt::format("a cohort has 1 to {} networks, not {}", kernels::kMaxMembers, members),
                "give --net once per network");
  }
}

bool Method::frozen(int) const {
  return false;
}

bool Method::wants_former(int) const {
  return false;
}

Sharing Method::sharing(const models::Network&) const {
  return {};
}

void Method::setup_shared(Context&, const Tensor&) {}

void Method::prepare(Context&, const RunShape&) {}

void Method::setup_meeting(Context&, Meeting, const std::vector<Tensor>&) {}

std::vector<Tensor> Method::meet(Context&, Meeting, const std::vector<Tensor>& maps, bool) {
  return maps;
}

Tensor Method::transform(Context&, int, const Tensor& map, bool) {
  return map;
}

std::map<std::string, std::vector<double>> Method::folded(Context&, int, const models::Network&) {
  return {};
}

void Method::feature_losses(Context&, StepView&, int) {}

std::vector<ParameterSet*> Method::extra_parameters(int) {
  return {};
}

double Method::weight_decay(const ParameterSet&, double of_network) {
  return of_network;
}

std::vector<ParameterSet*> Method::adam_parameters(int) {
  return {};
}

void Method::second_losses(Context&, StepView&, int) {}

std::vector<ParameterSet*> own_parameters(Method& method, int member) {
  std::vector<ParameterSet*> sets = method.extra_parameters(member);
  for (ParameterSet* set : method.adam_parameters(member)) sets.push_back(set);
  return sets;
}

void Method::end_of_epoch(Context&, const HeldOut&) {}

void Method::set_state(Context&, const std::vector<double>& state) {
  check(state.empty(), "method: a state that it does not have");
}

void check_teacher_and_student(const char* method, int members) {
  if (members >= 2) return;
  throw Error(ErrorKind::kUsage, fmt::format("{} needs a teacher and at least one student", method),
              "the first --net is the teacher: --net resnet56:init=teacher.safetensors --net resnet20");
}

void upload_values(Context& ctx, const Tensor& to, const std::vector<double>& values) {
  check(static_cast<std::int64_t>(values.size()) == to.count(), "upload_values: count");
  if (to.dtype == DType::f64) {
    ctx.upload(to, values.data());
  } else if (to.dtype == DType::f32) {
    const std::vector<float> rounded(values.begin(), values.end());
    ctx.upload(to, rounded.data());
  } else if (to.dtype == DType::i32) {
    const std::vector<std::int32_t> rounded(values.begin(), values.end());
    ctx.upload(to, rounded.data());
  } else {
    internal_error("upload_values: dtype");
  }
}

std::vector<double> download_values(Context& ctx, const Tensor& from) {
  const auto read = [&]<class T>(T) {
    std::vector<T> raw(static_cast<std::size_t>(from.count()));
    ctx.download(raw.data(), from);
    std::vector<double> values;
    values.reserve(raw.size());
    for (const T& x : raw) values.push_back(static_cast<double>(x));
    return values;
  };
  switch (from.dtype) {
    case DType::f64:
      return read(double{});
    case DType::f32:
      return read(float{});
    case DType::bf16:
      return read(bf16{});
    case DType::i32:
      return read(std::int32_t{});
    default:
      internal_error("download_values: dtype");
  }
}

LossWeights LossWeights::make(Context& ctx, int members) {
  const DType a = ctx.parameter_dtype();
  LossWeights weights{ctx.persistent_tensor({members}, a), ctx.persistent_tensor({members, members}, a),
                      ctx.persistent_tensor({members}, a)};
  upload_values(ctx, weights.ce, std::vector<double>(static_cast<std::size_t>(members), 1.0));
  return weights;
}

LossWeights LossWeights::of_students(Context& ctx, int members, double ce, double kl) {
  const LossWeights weights = make(ctx, members);
  const auto m = static_cast<std::size_t>(members);
  std::vector<double> of_ce(m, ce), of_kl(m * m, 0.0);
  of_ce[0] = 1;
  for (std::size_t student = 1; student < m; ++student) of_kl[student * m] = kl;
  upload_values(ctx, weights.ce, of_ce);
  upload_values(ctx, weights.kl, of_kl);
  return weights;
}

Tensor constant(Context& ctx, const Shape& shape, const std::vector<double>& values) {
  const Tensor t = ctx.persistent_tensor(shape, ctx.parameter_dtype());
  upload_values(ctx, t, values);
  return t;
}

void materialize_part(Context& ctx, ParameterSet& part, std::uint64_t stream, int member) {
  part.materialize(ctx);
  part.initialize(ctx, ctx.seed() ^ stream, static_cast<std::uint32_t>(member));
}

}  // namespace cohort::distill
