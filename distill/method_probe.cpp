#include "distill/method_probe.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "core/ops/pool.h"
#include "distill/file_layout.h"

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
  if (!in.fused.empty() && in.fused.size() != count) refuse("fused differs in shape from logits_0");
  for (std::size_t k = 0; k < in.former.size(); ++k) {
    if (!in.former[k].empty() && (k >= in.logits.size() || in.former[k].size() != count))
      refuse(fmt::format("former_{} differs in shape from logits_0", k));
  }
  if (!in.features.empty() && in.features.size() != in.logits.size())
    refuse("features for some members only");
  const auto fits = [&](const ProbeMap& map) {
    if (static_cast<std::int64_t>(map.values.size()) != in.rows * map.channels * map.height * map.width) {
      refuse("a feature map whose first dimension is not the number of rows");
    }
  };
  for (const ProbeMap& map : in.features) fits(map);
  if (in.earlier.empty()) return;
  if (in.earlier.size() != in.features.size()) refuse("earlier maps without the last ones");
  for (const std::vector<ProbeMap>& maps : in.earlier) {
    for (const ProbeMap& map : maps) fits(map);
  }
}

void validate_gate(const ProbeInput& in) {
  if (in.gate.empty()) return;
  const std::size_t members = in.logits.size();
  bool good = in.gate.size() == static_cast<std::size_t>(in.rows) * members;
  for (std::size_t row = 0; good && row < in.gate.size(); row += members) {
    double sum = 0;
    for (std::size_t k = row; k < row + members; ++k) {
      good = good && in.gate[k] >= 0;
      sum += in.gate[k];
    }
    good = good && std::abs(sum - 1) < 1e-6;
  }
  if (good) return;
  throw Error(ErrorKind::kUsage, "a gate that is no distribution over the networks for each row",
              "gate is (rows, networks), not negative, every row with the sum 1");
}

void validate_classifiers(const ProbeInput& in) {
  if (in.classifiers.empty()) return;
  bool fit = in.classifiers.size() == in.features.size();
  for (std::size_t k = 0; fit && k < in.classifiers.size(); ++k) {
    fit =
        static_cast<std::int64_t>(in.classifiers[k].weight.size()) == in.classes * in.features[k].channels &&
        static_cast<std::int64_t>(in.classifiers[k].bias.size()) == in.classes;
  }
  if (fit) return;
  throw Error(
      ErrorKind::kUsage, "classifiers for some members only, or not of their maps' channels",
      "weight_K (classes, channels of features_K) and bias_K (classes) for every network, or for none");
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

// Member k's outputs, as if its network had just computed them.
models::Outputs outputs_of(Context& ctx, const Method& method, const ProbeInput& in, std::size_t k) {
  const DType dtype = ctx.activation_dtype();
  const auto variable = [&](const Shape& shape, const std::vector<double>& values) {
    const Tensor t = ctx.variable(shape, dtype);
    upload_values(ctx, t, values);
    return t;
  };
  models::Outputs out;
  out.logits = variable({in.rows, in.classes}, in.logits[k]);
  if (in.features.empty()) return out;
  const ProbeMap& map = in.features[k];
  const auto add_stage = [&](const ProbeMap& stage) {
    std::vector<double> nhwc(stage.values.size());
    for_each_pixel(in.rows, stage, [&](std::size_t nchw, std::size_t at) { nhwc[at] = stage.values[nchw]; });
    out.stages.push_back(variable({in.rows, stage.height, stage.width, stage.channels}, nhwc));
  };
  if (!in.earlier.empty()) {
    for (const ProbeMap& stage : in.earlier[k]) add_stage(stage);
  }
  add_stage(map);
  out.pooled = ops::global_avg_pool(ctx, out.stages.back());
  // The given maps are those that the method looks at.
  if (method.wants_preactivation()) out.stages_pre = out.stages;
  if (in.classifiers.empty()) return out;
  out.classifier = {variable({in.classes, map.channels}, in.classifiers[k].weight),
                    variable({in.classes}, in.classifiers[k].bias)};
  return out;
}

// (N, H, W, C) as the caller stores it.
std::vector<double> to_nchw(std::int64_t rows, const ProbeMap& map, const std::vector<double>& nhwc) {
  std::vector<double> nchw(nhwc.size());
  for_each_pixel(rows, map, [&](std::size_t to, std::size_t from) { nchw[to] = nhwc[from]; });
  return nchw;
}

// f(member, name, parameter) for all that is the method's own. A second set's names begin with "2.", ...
template <class F>
void for_each_parameter(Method& method, int members, F f) {
  for (int k = 0; k < members; ++k) {
    const std::vector<ParameterSet*> sets = own_parameters(method, k);
    for (std::size_t i = 0; i < sets.size(); ++i) {
      for (const Parameter& p : sets[i]->parameters())
        f(k, i == 0 ? p.name : fmt::format("{}.{}", i + 1, p.name), p);
    }
  }
}

std::vector<ProbeParameter> parameters_of(Context& ctx, Method& method, int members) {
  std::vector<ProbeParameter> all;
  for_each_parameter(method, members, [&](int k, const std::string& name, const Parameter& p) {
    all.push_back({k, name, file_dims(p), reorder(download_values(ctx, p.value), p, /*to_file=*/true),
                   reorder(gradient_of(ctx, p.value), p, /*to_file=*/true)});
  });
  return all;
}

Shape shape_of(const std::vector<std::int64_t>& dims) {
  return dims.size() == 2 ? Shape{dims[0], dims[1]} : dims.size() == 1 ? Shape{dims[0]} : Shape{};
}

// Statistics and tables too, which have nothing to be drawn and no gradient.
void set_parameters(Context& ctx, Method& method, const ProbeInput& in) {
  for (const ProbeParameter& given : in.parameters) {
    bool found = false;
    for_each_parameter(method, static_cast<int>(in.logits.size()),
                       [&](int k, const std::string& name, const Parameter& p) {
                         if (k != given.member || name != given.name || file_dims(p) != given.dims) return;
                         upload_values(ctx, p.value, reorder(given.values, p, /*to_file=*/false));
                         found = true;
                       });
    const bool somebody = given.member >= 0 && given.member < static_cast<int>(in.logits.size());
    for (const ParameterSet* set :
         somebody ? method.extra_parameters(given.member) : std::vector<ParameterSet*>{}) {
      for (const Buffer& b : set->buffers()) {
        if (b.name != given.name || b.shape != shape_of(given.dims)) continue;
        upload_values(ctx, b.value, given.values);
        found = true;
      }
    }
    if (found) continue;
    throw Error(ErrorKind::kUsage,
                fmt::format("the method has no tensor {} of network {} in the shape [{}]", given.name,
                            given.member, fmt::join(given.dims, ",")),
                "a run without it lists the tensors: parameter_K.NAME");
  }
}

std::vector<Tensor> last_maps(const StepView& view) {
  std::vector<Tensor> maps;
  for (const models::Outputs& outputs : view.outputs) maps.push_back(outputs.stages.back());
  return maps;
}

bool meets_at_the_end(const Method& method) {
  const std::vector<Meeting> meetings = method.meetings();
  return !meetings.empty() && meetings.back() == Meeting::kAfterLastStage;
}

// What transforms a map does so in training, on the branch of its member; where all maps meet, on the main
// one.
void show_maps(Context& ctx, Method& method, StepView& view) {
  if (meets_at_the_end(method)) method.meet(ctx, Meeting::kAfterLastStage, last_maps(view), true);
  for (int k = 0; k < view.members(); ++k) {
    ctx.on_branch(k + 1, [&] {
      ctx.set_recording(!method.frozen(k));
      method.transform(ctx, k, view.outputs[static_cast<std::size_t>(k)].stages.back(), /*training=*/true);
      ctx.set_recording(true);
    });
  }
}

// The gate's scores that give these shares.
Tensor scores_of(Context& ctx, const ProbeInput& in) {
  const auto members = static_cast<std::int64_t>(in.logits.size());
  const Tensor scores = ctx.variable({in.rows, members}, ctx.parameter_dtype());
  std::vector<double> logarithms;
  for (const double share : in.gate) logarithms.push_back(std::log(share));
  upload_values(ctx, scores, logarithms);
  return scores;
}

// The samples are the whole of a training set.
Tensor numbered(Context& ctx, std::int64_t rows) {
  const Tensor indices = ctx.persistent_tensor({rows}, DType::i32);
  std::vector<double> numbers(static_cast<std::size_t>(rows));
  std::iota(numbers.begin(), numbers.end(), 0.0);
  upload_values(ctx, indices, numbers);
  return indices;
}

// The given samples stand for the held-out ones too.
void show_held_out(Context& ctx, Method& method, const ProbeInput& in) {
  std::vector<std::vector<float>> logits;
  for (const std::vector<double>& z : in.logits) logits.emplace_back(z.begin(), z.end());
  method.end_of_epoch(ctx, {logits, in.labels, static_cast<int>(in.classes)});
}

// What networks of an epoch ago said, of those that the method asks.
std::vector<Tensor> former_of(Context& ctx, const Method& method, const ProbeInput& in) {
  std::vector<Tensor> former(in.logits.size());
  for (std::size_t k = 0; k < in.former.size(); ++k) {
    if (in.former[k].empty()) continue;
    if (!method.wants_former(static_cast<int>(k))) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("former_{}: the method does not ask what network {} said before", k, k),
                  "adm.di_form=kd and adm.q=frozen ask its teachers");
    }
    former[k] = ctx.empty({in.rows, in.classes}, ctx.parameter_dtype());
    upload_values(ctx, former[k], in.former[k]);
  }
  return former;
}

}  // namespace

ProbeOutput probe_method(Method& method, const ProbeInput& in, std::uint64_t seed) {
  validate(in);
  validate_classifiers(in);
  validate_gate(in);
  const int m = static_cast<int>(in.logits.size());
  method.check_members(m);
  Context ctx({.precision = in.double_precision ? Precision::kF64 : Precision::kF32,
               .num_threads = 1,
               .num_branches = m,
               .seed = seed});
  ctx.begin_step();
  StepView view;
  view.outputs.resize(in.logits.size());
  for (int k = 0; k < m; ++k) {
    const auto i = static_cast<std::size_t>(k);
    ctx.on_branch(k + 1, [&] {
      ctx.set_recording(!method.frozen(k));
      view.outputs[i] = outputs_of(ctx, method, in, i);
      ctx.set_recording(true);
    });
  }
  view.labels = ctx.persistent_tensor({in.rows}, DType::i32);
  ctx.upload(view.labels, in.labels.data());
  view.indices = numbered(ctx, in.rows);

  method.setup(ctx, view.outputs);
  method.prepare(ctx, {.samples = in.rows});
  if (method.wants_held_out()) show_held_out(ctx, method, in);
  if (!in.features.empty()) {
    view.shared = view.outputs.front().stages.back();
    method.setup_shared(ctx, view.shared);
    if (meets_at_the_end(method)) method.setup_meeting(ctx, Meeting::kAfterLastStage, last_maps(view));
  }
  set_parameters(ctx, method, in);
  view.former = former_of(ctx, method, in);
  if (!in.features.empty()) show_maps(ctx, method, view);
  if (!in.gate.empty()) view.gate_scores = scores_of(ctx, in);
  if (!in.fused.empty()) {
    view.fused_logits = ctx.variable({in.rows, in.classes}, ctx.parameter_dtype());
    upload_values(ctx, view.fused_logits, in.fused);
  }
  method.losses(ctx, view);
  ctx.backward();
  for (int k = 0; k < m; ++k) {
    if (method.frozen(k)) continue;
    ctx.on_branch(k + 1, [&] {
      method.feature_losses(ctx, view, k);
      ctx.backward();
      method.second_losses(ctx, view, k);
      ctx.backward();
    });
  }

  ProbeOutput out;
  out.loss = download_values(ctx, view.report.loss);
  for (std::size_t k = 0; k < in.logits.size(); ++k) {
    out.grad_logits.push_back(gradient_of(ctx, view.outputs[k].logits));
    if (in.features.empty()) continue;
    const models::Outputs& outputs = view.outputs[k];
    out.grad_features.push_back(to_nchw(in.rows, in.features[k], gradient_of(ctx, outputs.stages.back())));
    if (!in.earlier.empty()) {
      std::vector<std::vector<double>>& earlier = out.grad_earlier.emplace_back();
      for (std::size_t i = 0; i < in.earlier[k].size(); ++i)
        earlier.push_back(to_nchw(in.rows, in.earlier[k][i], gradient_of(ctx, outputs.stages[i])));
    }
    if (in.classifiers.empty()) continue;
    out.grad_classifiers.push_back(
        {gradient_of(ctx, outputs.classifier.weight), gradient_of(ctx, outputs.classifier.bias)});
  }
  out.parameters = parameters_of(ctx, method, m);
  if (!view.report.teacher.empty())
    out.teacher = static_cast<int>(download_values(ctx, view.report.teacher)[0]);
  out.kl_weight = download_values(ctx, view.report.kl_weight);
  if (!view.report.target.empty()) out.target = download_values(ctx, view.report.target);
  if (!view.report.gate.empty()) out.gate = download_values(ctx, view.report.gate);
  if (!view.report.grad_gate.empty()) out.grad_gate = download_values(ctx, view.report.grad_gate);
  if (!view.fused_logits.empty()) out.grad_fused = gradient_of(ctx, view.fused_logits);
  if (!view.report.step_mask.empty()) out.step_mask = download_values(ctx, view.report.step_mask);
  return out;
}

}  // namespace cohort::distill
