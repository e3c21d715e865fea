// A batch whose last images are padding trains like a batch of the others alone, every operation of the step
// included: what lets one captured step serve the short last batch of an epoch.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "distill/method.h"
#include "models/registry.h"
#include "tests/support/random.h"

namespace cohort::distill {
namespace {

constexpr std::int64_t kValid = 5;
constexpr int kClasses = 7;
const models::InputShape kInput{3, 8, 8};
const std::vector<std::string> kModels = {"resnet8", "wrn_16_2"};

struct StepResult {
  std::vector<std::vector<double>> gradients, statistics;  // per network that learns
  std::vector<std::vector<double>> of_the_method;          // gradients of its own parts
  std::vector<double> loss, correct;
};

// One step of both networks on kValid images, behind which there may be padding: zeros, as the feed writes
// them.
StepResult step(const std::string& method_name, std::int64_t rows) {
  Context ctx({.device = {}, .precision = Precision::kF64, .num_threads = 2, .seed = 3});
  std::vector<std::unique_ptr<models::Network>> networks;
  std::vector<models::Outputs> probe;
  ctx.begin_step();
  ctx.set_recording(false);
  const Tensor black = ctx.persistent_tensor({1, kInput.height, kInput.width, kInput.channels}, DType::f64);
  for (std::size_t k = 0; k < kModels.size(); ++k) {
    networks.push_back(models::make_network(kModels[k], kClasses, kInput));
    networks.back()->materialize(ctx, 3, static_cast<std::uint32_t>(k));
    probe.push_back(networks.back()->forward(ctx, black, {.training = false}));
  }
  ctx.set_recording(true);
  const MethodInfo& info = find_method(method_name);
  const std::unique_ptr<Method> method = info.make(MethodOptions(info.options));
  method->setup(ctx, probe);

  test::Random random(11);
  const std::size_t count = static_cast<std::size_t>(kValid * kInput.height * kInput.width * kInput.channels);
  std::vector<double> images = random.normals<double>(count);
  images.resize(count / kValid * static_cast<std::size_t>(rows));
  std::vector<std::int32_t> labels(static_cast<std::size_t>(rows), -1);
  for (std::size_t i = 0; i < kValid; ++i) labels[i] = static_cast<std::int32_t>(3 * i % kClasses);
  const Tensor x = ctx.persistent_tensor({rows, kInput.height, kInput.width, kInput.channels}, DType::f64);
  upload_values(ctx, x, images);

  StepView view;
  view.labels = ctx.persistent_tensor({rows}, DType::i32);
  ctx.upload(view.labels, labels.data());
  if (rows > kValid) {
    view.valid_rows = ctx.persistent_tensor({}, DType::i32);
    const std::int32_t valid = kValid;
    ctx.upload(view.valid_rows, &valid);
    ctx.set_valid_images(view.valid_rows);
  }
  ctx.begin_step();
  for (std::size_t k = 0; k < networks.size(); ++k) {
    const bool learns = !method->frozen(static_cast<int>(k));
    ctx.set_recording(learns);
    view.outputs.push_back(networks[k]->forward(ctx, x, {.training = learns}));
  }
  ctx.set_recording(true);
  method->losses(ctx, view);
  for (int k = 0; k < view.members(); ++k) {
    if (method->frozen(k)) continue;
    networks[static_cast<std::size_t>(k)]->parameters().reset_grads();
    for (ParameterSet* own : own_parameters(*method, k)) own->reset_grads();
    method->feature_losses(ctx, view, k);
    method->second_losses(ctx, view, k);
  }
  ctx.backward();

  StepResult result;
  result.loss = download_values(ctx, view.report.loss);
  result.correct = download_values(ctx, view.report.correct_top1);
  for (std::size_t k = 0; k < networks.size(); ++k) {
    const auto& network = networks[k];
    for (ParameterSet* own : own_parameters(*method, static_cast<int>(k)))
      result.of_the_method.push_back(download_values(ctx, own->grads()));
    if (method->frozen(static_cast<int>(k))) continue;
    result.gradients.push_back(download_values(ctx, network->parameters().grads()));
    result.statistics.emplace_back();
    for (const Buffer& buffer : network->parameters().buffers()) {
      for (const double v : download_values(ctx, buffer.value)) result.statistics.back().push_back(v);
    }
  }
  return result;
}

double worst_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = a.size() == b.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    worst = std::max(worst, std::abs(a[i] - b[i]) / (1 + std::abs(b[i])));
  }
  return worst;
}

TEST(ShortBatch, PaddingTrainsNothing) {
  for (const char* method : {"independent", "kd", "dml", "kdcl-minlogit", "kdcl-mean", "kdcl-linear",
                             "kdcl-general", "switokd", "competitive", "fitnet", "shake", "diswot", "afd"}) {
    const StepResult alone = step(method, kValid);
    const StepResult padded = step(method, kValid + 3);
    SCOPED_TRACE(method);
    EXPECT_LT(worst_difference(padded.loss, alone.loss), 1e-12);
    EXPECT_EQ(padded.correct, alone.correct);
    for (std::size_t i = 0; i < alone.of_the_method.size(); ++i)
      EXPECT_LT(worst_difference(padded.of_the_method[i], alone.of_the_method[i]), 1e-11) << i;
    ASSERT_GE(alone.gradients.size(), 1U);
    for (std::size_t k = 0; k < alone.gradients.size(); ++k) {
      EXPECT_LT(worst_difference(padded.gradients[k], alone.gradients[k]), 1e-11) << k;
      EXPECT_LT(worst_difference(padded.statistics[k], alone.statistics[k]), 1e-12) << k;
      double largest = 0;
      for (const double g : alone.gradients[k]) largest = std::max(largest, std::abs(g));
      EXPECT_GT(largest, 1e-3) << "nothing was compared";
    }
  }
}

}  // namespace
}  // namespace cohort::distill
