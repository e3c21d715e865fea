// Parameter counts, multiply-accumulates, tensors and maps of the model zoo, as published (methods'
// specification, 5.1).
#include <gtest/gtest.h>

#include "models/registry.h"

namespace cohort::models {
namespace {

struct Row {
  const char* name;
  std::int64_t parameters_10, parameters_100;
  double macs_100;       // millions, two decimals as printed in the table
  std::int64_t tensors;  // of the state dict at 100 classes, num_batches_tracked included; 0: not stated
  std::vector<Shape> stages;
};

const std::vector<Shape> kNarrow = {{32, 32, 16}, {32, 32, 16}, {16, 16, 32}, {8, 8, 64}};
const std::vector<Shape> kWide4 = {{32, 32, 32}, {32, 32, 64}, {16, 16, 128}, {8, 8, 256}};

std::vector<Shape> wrn(std::int64_t k) {
  return {{32, 32, 16}, {32, 32, 16 * k}, {16, 16, 32 * k}, {8, 8, 64 * k}};
}

const std::vector<Shape> kVgg = {{32, 32, 64}, {16, 16, 128}, {8, 8, 256}, {4, 4, 512}, {4, 4, 512}};

const std::vector<Shape> kMobileV1 = {{32, 32, 32}, {16, 16, 128}, {8, 8, 256}, {4, 4, 512}, {2, 2, 1024}};
const std::vector<Shape> kMobileV2 = {{16, 16, 16}, {16, 16, 12}, {8, 8, 16},
                                      {4, 4, 48},   {2, 2, 160},  {2, 2, 1280}};
const std::vector<Shape> kShuffleV1 = {{32, 32, 24}, {16, 16, 240}, {8, 8, 480}, {4, 4, 960}};
const std::vector<Shape> kShuffleV2 = {{32, 32, 24}, {16, 16, 116}, {8, 8, 232}, {4, 4, 464}, {4, 4, 1024}};

class Counts : public testing::TestWithParam<Row> {};

TEST_P(Counts, MatchTheTable) {
  const Row& row = GetParam();
  const auto ten = make_network(row.name, 10);
  EXPECT_EQ(ten->parameters().num_parameters(), row.parameters_10);
  const auto network = make_network(row.name, 100);
  EXPECT_EQ(network->parameters().num_parameters(), row.parameters_100);
  if (row.tensors > 0) {
    std::int64_t tensors = static_cast<std::int64_t>(network->parameters().parameters().size());
    for (const Buffer& b : network->parameters().buffers())
      tensors += b.name.ends_with("running_mean") ? 2 : 1;
    EXPECT_EQ(tensors, row.tensors);
  }
  const ModelSummary summary = summarize(*network);
  EXPECT_NEAR(static_cast<double>(summary.macs) / 1e6, row.macs_100, row.macs_100 > 1000 ? 0.5 : 0.005001);
  EXPECT_EQ(summary.stages, row.stages);
  EXPECT_EQ(summary.parameters, row.parameters_100);
}

INSTANTIATE_TEST_SUITE_P(Cifar, Counts,
                         testing::Values(Row{"resnet8", 78042, 83892, 12.51, 56, kNarrow},
                                         Row{"resnet14", 175258, 181108, 26.66, 0, kNarrow},
                                         Row{"resnet20", 272474, 278324, 40.82, 128, kNarrow},
                                         Row{"resnet32", 466906, 472756, 69.13, 0, kNarrow},
                                         Row{"resnet56", 855770, 861620, 125.75, 344, kNarrow},
                                         Row{"resnet110", 1730714, 1736564, 253.16, 0, kNarrow},
                                         Row{"resnet152", 2411226, 2417076, 352.25, 0, kNarrow},
                                         Row{"resnet20_a", 269722, 275572, 40.56, 0, kNarrow},
                                         Row{"resnet32_a", 464154, 470004, 68.87, 0, kNarrow},
                                         Row{"resnet56_a", 853018, 858868, 125.49, 0, kNarrow},
                                         Row{"resnet110_a", 1727962, 1733812, 252.89, 0, kNarrow},
                                         Row{"resnet152_a", 2408474, 2414324, 351.98, 0, kNarrow},
                                         Row{"resnet8x4", 1210410, 1233540, 177.07, 62, kWide4},
                                         Row{"resnet32x4", 7410730, 7433860, 1083.04, 206, kWide4},
                                         Row{"wrn_16_2", 691674, 703284, 101.12, 83, wrn(2)},
                                         Row{"wrn_16_10", 17116634, 17174324, 2412, 0, wrn(10)},
                                         Row{"wrn_28_10", 36479194, 36536884, 5243, 0, wrn(10)},
                                         Row{"wrn_28_12", 52517850, 52587060, 7544, 0, wrn(12)},
                                         Row{"wrn_40_1", 563930, 569780, 83.29, 0, wrn(1)},
                                         Row{"wrn_40_2", 2243546, 2255156, 327.61, 227, wrn(2)},
                                         Row{"vgg8", 3918858, 3965028, 96.19, 37, kVgg},
                                         Row{"vgg13", 9416010, 9462180, 284.94, 72, kVgg},
                                         Row{"mobilenet_v1", 3217226, 3309476, 46.45, 164, kMobileV1},
                                         Row{"mobilenet_v2_half", 697546, 812836, 6.52, 320, kMobileV2},
                                         Row{"shufflenet_v1", 862768, 949258, 38.69, 296, kShuffleV1},
                                         Row{"shufflenet_v2", 1263278, 1355528, 44.50, 338, kShuffleV2}),
                         [](const auto& p) { return std::string(p.param.name); });

// What the option to decay neither norms nor biases leaves out, at 100 classes (specification, 5.5).
struct NormsAndBiases {
  const char* name;
  std::int64_t count;
};

class Undecayed : public testing::TestWithParam<NormsAndBiases> {};

TEST_P(Undecayed, MatchTheTable) {
  std::int64_t count = 0;
  const auto network = make_network(GetParam().name, 100);
  for (const Parameter& p : network->parameters().parameters()) {
    if (p.kind == ParameterKind::kVector) count += p.shape.count();
  }
  EXPECT_EQ(count, GetParam().count);
}

INSTANTIATE_TEST_SUITE_P(
    Cifar, Undecayed,
    testing::Values(NormsAndBiases{"resnet8x4", 2852}, NormsAndBiases{"resnet32x4", 10020},
                    NormsAndBiases{"wrn_16_2", 1924}, NormsAndBiases{"vgg8", 4516},
                    NormsAndBiases{"vgg13", 8932}, NormsAndBiases{"mobilenet_v2_half", 18468},
                    NormsAndBiases{"shufflenet_v1", 23836}, NormsAndBiases{"shufflenet_v2", 16280}),
    [](const auto& p) { return std::string(p.param.name); });

TEST(Registry, NamesTheNearestModel) {
  try {
    make_network("resnt20", 10);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    EXPECT_NE(e.hint().find("'resnet20'"), std::string::npos);
  }
}

}  // namespace
}  // namespace cohort::models
