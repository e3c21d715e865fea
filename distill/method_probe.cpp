#include "distill/method_probe.h"

#include <fmt/core.h>

namespace cohort::distill {
namespace {

void validate(const ProbeInput& in) {
  const auto refuse = [](const std::string& what) {
    throw Error(ErrorKind::kUsage, what, "every member has logits (rows, classes), labels are (rows)");
  };
  const auto count = static_cast<std::size_t>(in.rows * in.classes);
  if (in.rows < 1 || in.classes < 2)
    refuse(fmt::format("logits of shape [{},{}]: need rows and two classes", in.rows, in.classes));
  for (std::size_t k = 0; k < in.logits.size(); ++k) {
    if (in.logits[k].size() != count) refuse(fmt::format("logits_{} differ in shape from logits_0", k));
  }
  if (in.labels.size() != static_cast<std::size_t>(in.rows)) {
    refuse(fmt::format("{} labels for {} rows", in.labels.size(), in.rows));
  }
  for (std::size_t i = 0; i < in.labels.size(); ++i) {
    if (in.labels[i] < 0 || in.labels[i] >= in.classes) {
      refuse(fmt::format("label {} at row {} is not in [0, {})", in.labels[i], i, in.classes));
    }
  }
  if (!in.features.empty() && in.features.size() != in.logits.size())
    refuse("features for some members only");
  for (const ProbeMap& map : in.features) {
    if (static_cast<std::int64_t>(map.values.size()) != in.rows * map.channels * map.height * map.width) {
      refuse("a feature map whose first dimension is not the number of rows");
    }
  }
}

// Index of (n, c, y, x) in either layout.
template <class F>
void for_each_pixel(std::int64_t rows, const ProbeMap& map, F f) {
  for (std::int64_t n = 0; n < rows; ++n) {
    for (std::int64_t c = 0; c < map.channels; ++c) {
      for (std::int64_t y = 0; y < map.height; ++y) {
        for (std::int64_t x = 0; x < map.width; ++x) {
          f(static_cast<std::size_t>(((n * map.channels + c) * map.height + y) * map.width + x),
            static_cast<std::size_t>(((n * map.height + y) * map.width + x) * map.channels + c));
        }
      }
    }
  }
}

std::vector<double> gradient_of(Context& ctx, const Tensor& t) {
  if (t.grad == nullptr || !t.grad->written)
    return std::vector<double>(static_cast<std::size_t>(t.count()), 0.0);
  return download_values(ctx, ctx.grad_of(t));
}

}  // namespace

ProbeOutput probe_method(Method& method, const ProbeInput& in, std::uint64_t seed) {
  validate(in);
  const int m = static_cast<int>(in.logits.size());
  method.check_members(m);
  Context ctx({.precision = in.double_precision ? Precision::kF64 : Precision::kF32,
               .num_threads = 1,
               .num_branches = m,
               .seed = seed});
  const DType dtype = ctx.activation_dtype();
  ctx.begin_step();
  StepView view;
  view.outputs.resize(in.logits.size());
  for (int k = 0; k < m; ++k) {
    const auto i = static_cast<std::size_t>(k);
    ctx.on_branch(k + 1, [&] {
      ctx.set_recording(!method.frozen(k));
      models::Outputs& out = view.outputs[i];
      out.logits = ctx.variable({in.rows, in.classes}, dtype);
      upload_values(ctx, out.logits, in.logits[i]);
      if (!in.features.empty()) {
        const ProbeMap& map = in.features[i];
        std::vector<double> nhwc(map.values.size());
        for_each_pixel(in.rows, map, [&](std::size_t nchw, std::size_t at) { nhwc[at] = map.values[nchw]; });
        out.stages.push_back(ctx.variable({in.rows, map.height, map.width, map.channels}, dtype));
        upload_values(ctx, out.stages.back(), nhwc);
      }
      ctx.set_recording(true);
    });
  }
  view.labels = ctx.persistent_tensor({in.rows}, DType::i32);
  ctx.upload(view.labels, in.labels.data());

  method.setup(ctx, view.outputs);
  method.losses(ctx, view);
  for (int k = 0; k < m; ++k) {
    if (method.frozen(k)) continue;
    ctx.on_branch(k + 1, [&] {
      method.feature_losses(ctx, view, k);
      ctx.backward();
    });
  }

  ProbeOutput out;
  out.loss = download_values(ctx, view.report.loss);
  for (std::size_t k = 0; k < in.logits.size(); ++k) {
    out.grad_logits.push_back(gradient_of(ctx, view.outputs[k].logits));
    if (in.features.empty()) continue;
    const std::vector<double> nhwc = gradient_of(ctx, view.outputs[k].stages[0]);
    std::vector<double> nchw(nhwc.size());
    for_each_pixel(in.rows, in.features[k], [&](std::size_t to, std::size_t from) { nchw[to] = nhwc[from]; });
    out.grad_features.push_back(std::move(nchw));
  }
  if (!view.report.teacher.empty())
    out.teacher = static_cast<int>(download_values(ctx, view.report.teacher)[0]);
  out.kl_weight = download_values(ctx, view.report.kl_weight);
  if (!view.report.target.empty()) out.target = download_values(ctx, view.report.target);
  return out;
}

}  // namespace cohort::distill
