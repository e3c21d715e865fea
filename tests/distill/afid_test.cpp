// AFID: golden numbers, the exchange against plain loops, the whole of it against differences, and what the
// networks are without each other.
#include <gtest/gtest.h>

#include <cmath>

#include "distill/method_probe.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"
#include "tests/support/whole_step.h"

namespace cohort::distill {
namespace {

using test::RunOptions;
using test::TestRun;
using Values = std::vector<double>;

std::unique_ptr<Method> afid(const std::vector<std::pair<std::string, std::string>>& settings = {}) {
  const MethodInfo& info = find_method("afid");
  MethodOptions options(info.options);
  for (const auto& [key, value] : settings) options.set(key, value);
  return info.make(options);
}

ProbeInput golden_input(bool double_precision) {
  return {.double_precision = double_precision,
          .rows = 2,
          .classes = 3,
          .logits = {{2.0, 1.2, -0.5, 0.9, 0.6, -0.8}, {1.0, -0.5, 1.2, -0.6, 1.4, 0.8}},
          .labels = {0, 1}};
}

template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    EXPECT_FALSE(e.hint().empty());
    return e.what();
  }
  return "";
}

class AfidGolden : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Precision, AfidGolden, testing::Values(true, false),
                         [](const auto& p) { return p.param ? "f64" : "f32"; });

TEST_P(AfidGolden, Losses) {
  ProbeInput in = golden_input(GetParam());
  in.fused = {1.5, 0.3, 0.2, 0.1, 1.2, 0.4};
  const ProbeOutput out = probe_method(*afid(), in);
  const double tolerance = GetParam() ? 2e-6 : 1e-5;
  EXPECT_NEAR(out.loss[0] + out.loss[1], 2.372945, tolerance);
  EXPECT_NEAR(out.loss[1], 0.707557 + 0.193806, tolerance);
  EXPECT_NEAR(out.loss[0], 0.690169 + 0.257240 + (1.913373 - 0.690169 - 0.707557) + 0.008526, 2 * tolerance);
  const Values g1 = {-0.138773, 0.235157, -0.096383, 0.443914, -0.368446, -0.075469};
  const Values gf = {-0.170099, 0.096711, 0.073388, 0.058663, -0.216773, 0.158110};
  EXPECT_TRUE(test::all_near(out.grad_logits[0], g1, tolerance));
  EXPECT_TRUE(test::all_near(out.grad_fused, gf, tolerance));
  EXPECT_EQ(out.kl_weight, Values(4, 0.0)) << "nobody teaches the other one directly";
}

TEST(Afid, RefusesWhatItCannotTrain) {
  const ProbeInput plain = golden_input(true);
  EXPECT_NE(refusal([&] { probe_method(*afid(), plain); }).find("fusion's logits"), std::string::npos);
  ProbeInput three = plain;
  three.logits.push_back(three.logits[0]);
  EXPECT_EQ(refusal([&] { probe_method(*afid(), three); }), "afid trains two networks, not 3");
  ProbeInput maps = plain;
  maps.features = {{2, 4, 4, Values(64, 1)}, {2, 2, 2, Values(16, 1)}};
  EXPECT_NE(refusal([&] { probe_method(*afid(), maps); }).find("after the last stage are 4x4 and 2x2"),
            std::string::npos);
  EXPECT_EQ(refusal([&] { TestRun({.method = "afid", .independent_augmentation = true}); }),
            "networks that exchange maps see the same images");
}

// A network's map in plain loops: scores of its pixels before their sigmoid.
struct PlainAttention {
  std::int64_t height, width, channels;
  Values down, up, conv;  // (hidden, C), (C, hidden), (1, 7, 7, 2)

  Values channel_gate(const Values& x) const {
    const auto c_count = static_cast<std::size_t>(channels), pixels = x.size() / c_count;
    const std::size_t hidden = down.size() / c_count;
    Values gate(c_count, 0.0);
    for (const bool largest : {false, true}) {
      Values pooled(c_count), inner(hidden, 0.0);
      for (std::size_t c = 0; c < c_count; ++c) {
        double sum = 0, most = x[c];
        for (std::size_t p = 0; p < pixels; ++p) {
          sum += x[p * c_count + c];
          most = std::max(most, x[p * c_count + c]);
        }
        pooled[c] = largest ? most : sum / static_cast<double>(pixels);
      }
      for (std::size_t h = 0; h < hidden; ++h) {
        for (std::size_t c = 0; c < c_count; ++c) inner[h] += down[h * c_count + c] * pooled[c];
        inner[h] = std::max(inner[h], 0.0);
      }
      for (std::size_t c = 0; c < c_count; ++c)
        for (std::size_t h = 0; h < hidden; ++h) gate[c] += up[c * hidden + h] * inner[h];
    }
    for (double& g : gate) g = 1 / (1 + std::exp(-g));
    return gate;
  }

  // sigmoid(conv7x7([mean_c u; max_c u])), u = gate x, of one image.
  Values pixel_gate(const Values& x) const {
    const Values gate = channel_gate(x);
    const auto c_count = static_cast<std::size_t>(channels);
    const auto looked_at = [&](std::int64_t py, std::int64_t px, std::size_t what) {
      if (py < 0 || px < 0 || py >= height || px >= width) return 0.0;
      const double* u = x.data() + static_cast<std::size_t>(py * width + px) * c_count;
      double mean = 0, most = gate[0] * u[0];
      for (std::size_t c = 0; c < c_count; ++c) {
        mean += gate[c] * u[c] / static_cast<double>(channels);
        most = std::max(most, gate[c] * u[c]);
      }
      return what == 0 ? mean : most;
    };
    Values out;
    for (std::int64_t py = 0; py < height; ++py) {
      for (std::int64_t px = 0; px < width; ++px) {
        double score = 0;
        for (std::int64_t i = 0; i < 7; ++i)
          for (std::int64_t j = 0; j < 7; ++j)
            for (std::size_t what = 0; what < 2; ++what)
              score += conv[static_cast<std::size_t>(i * 7 + j) * 2 + what] *
                       looked_at(py + i - 3, px + j - 3, what);
        out.push_back(1 / (1 + std::exp(-score)));
      }
    }
    return out;
  }
};

// Maps of one shape share their channels' attention; of two shapes each has its own.
TEST(Afid, TheExchangeIsWhatPlainLoopsMakeOfIt) {
  constexpr std::int64_t kImages = 2, kHeight = 5, kWidth = 3;
  for (const std::int64_t second_channels : {32, 48}) {
    Context ctx({.precision = Precision::kF64, .num_branches = 2, .seed = 5});
    test::Random random(test::base_seed() + 3);
    std::vector<Tensor> maps;
    std::vector<Values> values;
    for (const std::int64_t channels : {std::int64_t{32}, second_channels}) {
      maps.push_back(ctx.persistent_tensor({kImages, kHeight, kWidth, channels}, DType::f64));
      values.push_back(random.normals<double>(static_cast<std::size_t>(maps.back().count())));
      upload_values(ctx, maps.back(), values.back());
    }
    const std::unique_ptr<Method> method = afid();
    models::Outputs outputs;
    outputs.logits = ctx.persistent_tensor({kImages, 7}, DType::f64);
    method->setup(ctx, {outputs, outputs});
    method->setup_meeting(ctx, Meeting::kAfterStem, maps);
    const std::vector<ParameterSet*> sets = method->extra_parameters(0);
    ASSERT_EQ(sets.size(), 1U);
    const auto parameter = [&](const std::string& name) {
      for (const Parameter& p : sets[0]->parameters())
        if (p.name == name) return download_values(ctx, p.value);
      return Values{};
    };
    ctx.begin_step();
    const std::vector<Tensor> met = method->meet(ctx, Meeting::kAfterStem, maps, true);
    for (std::size_t k = 0; k < 2; ++k) {
      const std::size_t other = 1 - k;
      const std::string ca = second_channels != 32 && other == 1 ? "stem.ca1.fc" : "stem.ca.fc";
      const PlainAttention plain{kHeight,
                                 kWidth,
                                 maps[other].shape[3],
                                 parameter(ca + ".0.weight"),
                                 parameter(ca + ".2.weight"),
                                 parameter("stem.sa.conv1.weight")};
      ASSERT_EQ(plain.down.size(),
                static_cast<std::size_t>(maps[other].shape[3] * (maps[other].shape[3] / 16)));
      const Values changed = download_values(ctx, met[k]);
      const std::size_t own = values[k].size() / kImages, others = values[other].size() / kImages;
      for (std::size_t n = 0; n < kImages; ++n) {
        const auto begin = values[other].begin() + static_cast<std::ptrdiff_t>(n * others);
        const Values gate = plain.pixel_gate(Values(begin, begin + static_cast<std::ptrdiff_t>(others)));
        for (std::size_t i = 0; i < own; ++i) {
          const double expected = values[k][n * own + i] * gate[i / (own / (kHeight * kWidth))];
          ASSERT_NEAR(changed[n * own + i], expected, 1e-12) << "network " << k;
        }
      }
    }
  }
}

// Without targets, which are constants: networks whose stems reach all three cross-entropies, the attention
// between them and the fusion behind them. Small steps, for a maximum over many may change hands.
void expect_gradient(test::WholeStep& step, const ParameterSet& set, const std::string& name) {
  step.expect_gradient(set, name, /*factor=*/1, /*h=*/1e-7);
}

TEST(Afid, GradientsOfTwoAlikeAgreeWithDifferences) {
  test::WholeStep step({.method = "afid", .settings = {{"afid.lambda", "0"}}});
  expect_gradient(step, step.run.parameters(0), "conv1.weight");
  const std::vector<ParameterSet*> own = step.run.cohort->method().extra_parameters(0);
  ASSERT_EQ(own.size(), 3U);
  for (const char* name : {"fusion.conv1.weight", "fusion.bn2.weight", "fusion.fc.bias"})
    expect_gradient(step, *own[0], name);
  for (const char* name : {"end.ca.fc.0.weight", "end.sa.conv1.weight"}) expect_gradient(step, *own[1], name);
  expect_gradient(step, *own[2], "stem.sa.conv1.weight");
}

// Of 16 channels the attention to them has one inner unit, which maps behind a ReLU may leave at 0 for good;
// Wide ResNet's stem has none.
TEST(Afid, GradientsOfTwoModelsAgreeWithDifferences) {
  test::WholeStep step(
      {.method = "afid", .settings = {{"afid.lambda", "0"}}, .models = {"wrn_16_2", "resnet8"}});
  expect_gradient(step, step.run.parameters(1), "conv1.weight");
  const std::vector<ParameterSet*> own = step.run.cohort->method().extra_parameters(0);
  expect_gradient(step, *own[1], "end.ca1.fc.2.weight");
  for (const char* name : {"stem.ca.fc.0.weight", "stem.ca.fc.2.weight"})
    expect_gradient(step, *own[2], name);
}

// A weight file is a plain network: alone it answers as the run says where the run looks at networks alone.
TEST(Afid, WeightFilesAnswerAsNetworksAlone) {
  const ImageSet set = test::patterns(20, 5, 3, 1);
  const std::vector<std::int32_t> indices = {0, 3, 7, 11, 19};
  for (const bool alone : {true, false}) {
    TestRun run({.method = "afid",
                 .settings = {{"afid.eval", alone ? "alone" : "exchange"}},
                 .models = {"resnet8", "wrn_16_2"}});
    run.trainer->run();
    const auto answers = run.cohort->predict(to_device(run.context(), set), indices);
    TestRun plain({.method = "independent", .models = {"resnet8", "wrn_16_2"}});
    for (const NamedBytes& file : run.trainer->state()) {
      for (std::size_t k = 0; k < 2; ++k) {
        if (file.name == std::string(1, static_cast<char>('a' + k)) + ".safetensors")
          load_weights(plain.context(), *plain.cohort->members()[k].network, file.bytes, file.name);
      }
    }
    EXPECT_EQ(plain.cohort->predict(to_device(plain.context(), set), indices) == answers, alone);
  }
}

// One step: the fusion's weight decay is its own and changes nothing else.
TEST(Afid, TheFusionHasItsOwnWeightDecay) {
  const auto after = [](const char* decay) {
    auto run = std::make_unique<TestRun>(
        RunOptions{.method = "afid", .settings = {{"afid.wd", decay}}, .epochs = 1, .batch_size = 128});
    run->trainer->run();
    EXPECT_EQ(run->recorder.steps.size(), 1U);
    return run;
  };
  const auto none = after("0"), much = after("0.5");
  const auto own = [](TestRun& run, std::size_t i) {
    return download_values(run.context(), run.cohort->method().extra_parameters(0)[i]->values());
  };
  EXPECT_NE(own(*none, 0), own(*much, 0));
  EXPECT_EQ(own(*none, 1), own(*much, 1));
  EXPECT_EQ(own(*none, 2), own(*much, 2));
  for (std::size_t k = 0; k < 2; ++k) EXPECT_EQ(none->weights(k), much->weights(k));
}

// ADM's terms look at the maps before they are exchanged.
TEST(Afid, TrainsWithAdmAndResumesBitwise) {
  const RunOptions options{.method = "afid", .add = "adm", .models = {"wrn_16_2", "resnet8"}, .poison = true};
  TestRun whole(options);
  whole.trainer->run();
  ASSERT_EQ(whole.recorder.steps.size(), 6U);
  EXPECT_GT(whole.recorder.steps[0].members[1].feature, 0) << "the student's";
  TestRun bare({.method = "afid", .models = options.models});
  bare.trainer->run();
  EXPECT_NE(bare.weights(1), whole.weights(1));
  TestRun first(options);
  first.recorder.stop_at = 3;
  first.trainer->run();
  TestRun second(options);
  second.trainer->restore(first.trainer->state());
  second.trainer->run();
  for (std::size_t k = 0; k < 2; ++k) EXPECT_EQ(second.weights(k), whole.weights(k));
}

}  // namespace
}  // namespace cohort::distill
