// eval, predict, inspect, loss, bench, report and compare, run as a user runs them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/npz.h"
#include "tests/support/run_cohort.h"

namespace cohort::tools {
namespace {

using nlohmann::json;
using test::read_text;
using test::run_cohort;
using test::RunResult;
using test::TemporaryFolder;
using testing::HasSubstr;

// One run that all tests of this file look at.
class Commands : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    const RunResult result = run_cohort(
        {"train", "--net", "resnet8", "--net", "resnet8", "--epochs", "2", "-s", "data.size=8", "-s",
         "data.train_images=96", "-s", "data.test_images=20", "--batch-size", "20", "--out", "run"},
        folder_->path());
    ASSERT_EQ(result.code, 0) << result.err;
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static RunResult cohort(const std::vector<std::string>& words) {
    return run_cohort(words, folder_->path());
  }
  static json answer(const std::vector<std::string>& words) {
    const RunResult result = cohort(words);
    EXPECT_EQ(result.code, 0) << result.err;
    return json::parse(result.out, nullptr, false);
  }

  static TemporaryFolder* folder_;
};

TemporaryFolder* Commands::folder_ = nullptr;

TEST_F(Commands, EvaluationRepeatsTheScoresOfTheRun) {
  const json summary = json::parse(read_text(*folder_ / "run/summary.json"));
  const json last = answer({"eval", "run", "--checkpoint", "last", "--json"});
  EXPECT_EQ(last["samples"], 20);
  ASSERT_EQ(last["nets"].size(), 3u);
  for (std::size_t k = 0; k < 3; ++k)
    EXPECT_EQ(last["nets"][k]["top1"], summary["nets"][k]["test_last"]) << k;
  const json best = answer({"eval", "run", "--json"});
  for (std::size_t k = 0; k < 2; ++k)
    EXPECT_EQ(best["nets"][k]["top1"], summary["nets"][k]["test_at_best"]) << k;
  const json held_out = answer({"eval", "run", "--split", "val", "--json"});
  EXPECT_EQ(held_out["samples"], 10);
  for (std::size_t k = 0; k < 2; ++k)
    EXPECT_EQ(held_out["nets"][k]["top1"], summary["nets"][k]["val_best"]) << k;
  EXPECT_EQ(best["pairwise_agreement"][0][0], 1.0);
  EXPECT_EQ(best["pairwise_agreement"][0][1], best["agreement"]);
}

TEST_F(Commands, EvaluationOfWeightFiles) {
  const json whole = answer({"eval", "run", "--json"});
  const json file = answer({"eval", "run/checkpoints/best/b.safetensors", "-s", "data.size=8", "-s",
                            "data.train_images=96", "-s", "data.test_images=20", "--json"});
  EXPECT_EQ(file["nets"][0]["top1"], whole["nets"][1]["top1"]);
  EXPECT_EQ(file["nets"][0]["loss"], whole["nets"][1]["loss"]);
  EXPECT_EQ(cohort({"eval", "run/config.toml"}).code, 3);
  EXPECT_EQ(cohort({"eval", "nothing"}).code, 3);
  EXPECT_EQ(cohort({"eval", "run", "run"}).code, 2);
  EXPECT_EQ(cohort({"eval", "run", "--split", "tset"}).code, 2);
}

void write_ppm(const std::filesystem::path& path, int width, int height, int bias) {
  std::ofstream file(path, std::ios::binary);
  file << "P6 " << width << " " << height << " 255\n";
  for (int i = 0; i < width * height * 3; ++i) file.put(static_cast<char>((i * 37 + bias) % 251));
}

TEST_F(Commands, PredictionsAreProbabilities) {
  write_ppm(*folder_ / "x.ppm", 50, 40, 3);
  write_ppm(*folder_ / "y.ppm", 8, 8, 90);
  const json list = answer({"predict", "run", "x.ppm", "y.ppm", "--json", "--npy", "z.npy"});
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[1]["image"], "y.ppm");
  for (const json& image : list) {
    double before = 1;
    for (const json& top : image["top"]) {
      EXPECT_LE(top["probability"], before);
      before = top["probability"];
    }
    EXPECT_FALSE(image["top"][0]["name"].get<std::string>().empty());
  }
  // The logits give the same probabilities.
  const NpyArray logits = read_npy(system_file_system(), (*folder_ / "z.npy").string());
  ASSERT_EQ(logits.shape, (std::vector<std::int64_t>{2, 2, 10}));
  const auto* z = reinterpret_cast<const float*>(logits.data.data());
  double top = 0;
  for (int c = 0; c < 10; ++c) {
    double p = 0;
    for (int net = 0; net < 2; ++net) {
      double sum = 0;
      for (int j = 0; j < 10; ++j) sum += std::exp(static_cast<double>(z[net * 20 + 10 + j]));
      p += std::exp(static_cast<double>(z[net * 20 + 10 + c])) / sum / 2;
    }
    top = std::max(top, p);
  }
  EXPECT_NEAR(list[1]["top"][0]["probability"], top, 1e-12);
  EXPECT_EQ(cohort({"predict", "run/checkpoints/best/a.safetensors", "y.ppm"}).code, 0);
}

TEST_F(Commands, PredictionsRefuseWhatIsNoImage) {
  std::filesystem::copy_file(*folder_ / "run/checkpoints/best/a.safetensors", *folder_ / "alone.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  write_ppm(*folder_ / "y.ppm", 8, 8, 90);
  const RunResult alone = cohort({"predict", "alone.safetensors", "y.ppm"});
  EXPECT_EQ(alone.code, 2);
  EXPECT_THAT(alone.err, HasSubstr("--mean"));
  EXPECT_EQ(
      cohort({"predict", "alone.safetensors", "y.ppm", "--mean", "0.4,0.4,0.4", "--std", "0.2,0.2,0.2"}).code,
      0);
  EXPECT_EQ(cohort({"predict", "alone.safetensors", "y.ppm", "--mean", "0.4", "--std", "0.2,0.2,0.2"}).code,
            2);
  std::ofstream(*folder_ / "cut.ppm", std::ios::binary) << "P6 8 8 255\nabc";
  std::ofstream(*folder_ / "bomb.ppm", std::ios::binary) << "P6 100000 100000 255\nabc";
  std::ofstream(*folder_ / "empty.png", std::ios::binary) << "";
  std::ofstream(*folder_ / "text.png", std::ios::binary) << "no image";
  std::ofstream(*folder_ / "gif.gif", std::ios::binary) << "GIF89a\x01\x01\x01\x01";
  for (const char* name : {"cut.ppm", "bomb.ppm", "empty.png", "text.png", "gif.gif", "none.png", "run"}) {
    const RunResult result = cohort({"predict", "run", name});
    EXPECT_EQ(result.code, 3) << name << result.err;
    EXPECT_THAT(result.err, HasSubstr(name));
  }
}

TEST_F(Commands, InspectShowsWhatIsThere) {
  const json model = answer({"inspect", "model", "resnet20", "--classes", "100", "--json"});
  EXPECT_EQ(model["params"], 278324) << "the published count";
  EXPECT_NEAR(model["macs"].get<double>(), 40.82e6, 0.01e6);
  const RunResult text = cohort({"inspect", "model", "resnet20"});
  EXPECT_THAT(text.out, HasSubstr("278324"));
  EXPECT_EQ(cohort({"inspect", "model", "resnet21"}).code, 2);
  const json weights = answer({"inspect", "weights", "run/checkpoints/best/a.safetensors", "--json"});
  EXPECT_EQ(weights["metadata"]["cohort.arch"], "resnet8");
  EXPECT_EQ(weights["checksums"], true);
  EXPECT_EQ(cohort({"inspect", "weights", "run/config.toml"}).code, 3);
  const json data =
      answer({"inspect", "data", "shapes", "-s", "data.train_images=50", "-s", "data.size=8", "--json"});
  EXPECT_EQ(data["train"], 50);
  EXPECT_EQ(data["train_per_class"][0], 5);
  EXPECT_EQ(cohort({"inspect", "data", "shpaes"}).code, 2);
  const json run = answer({"inspect", "run", "run", "--json"});
  EXPECT_EQ(run["summary"]["status"], "finished");
  EXPECT_EQ(run["damaged_lines"], 0);
  EXPECT_EQ(cohort({"inspect", "run", "."}).code, 3);
}

TEST_F(Commands, ReportsAndComparisons) {
  EXPECT_EQ(cohort({"report", "run", "-o", "r.html"}).code, 0);
  EXPECT_EQ(read_text(*folder_ / "r.html"), read_text(*folder_ / "run/report.html"));
  const std::string html = read_text(*folder_ / "r.html");
  for (const char* part :
       {"<!doctype html>", "Validation top-1", "Training loss", "config.toml", "resnet8"}) {
    EXPECT_THAT(html, HasSubstr(part));
  }
  const std::string page = html.substr(0, html.find("<details>"));  // what follows is config.toml as it is
  for (const char* part : {"<script", "http:", "https:", "nan", "inf\""}) {
    EXPECT_THAT(page, testing::Not(HasSubstr(part))) << "self-contained, no broken coordinates";
  }
  EXPECT_THAT(cohort({"compare", "run", "run"}).out, HasSubstr("±"));
  EXPECT_THAT(cohort({"compare", "run", "--md"}).out, HasSubstr("| dml |"));
  EXPECT_EQ(cohort({"compare", "nothing"}).code, 3);
}

TEST_F(Commands, BenchGivesNumbers) {
  const json bench = answer({"bench", "step", "--net", "resnet8", "-s", "data.size=8", "--batch-size", "8",
                             "--steps", "3", "--warmup", "1", "--method", "independent", "--json"});
  EXPECT_GT(bench["images_per_second"], 0);
  EXPECT_LE(bench["min_ms"], bench["median_ms"]);
  EXPECT_EQ(bench["batch"], 8);
  EXPECT_LE(bench["p20_ms"], bench["median_ms"]);
  EXPECT_LE(bench["median_ms"], bench["p80_ms"]);
  EXPECT_GE(bench["p20_ms"], bench["min_ms"]);
  EXPECT_GT(bench["arena_bytes"], 0);
  EXPECT_GE(bench["primitives"], 2 * bench["operations"].get<int>()) << "forward and backward";
  const json short_name = answer({"bench", "step", "--net", "resnet8", "-s", "data.size=8", "--batch", "4",
                                  "--steps", "1", "--warmup", "1", "--json"});
  EXPECT_EQ(short_name["batch"], 4) << "--batch is --batch-size";
  EXPECT_EQ(cohort({"bench", "step", "--steps", "0"}).code, 2);
}

// What a step does on a GPU is counted by the host code of the CUDA backend: any build that has it can tell.
TEST_F(Commands, BenchCountsAStepWithoutRunningIt) {
  const std::vector<std::string> ask = {"bench",   "step", "--net",       "resnet32", "--net",    "resnet32",
                                        "--batch", "128",  "--precision", "bf16",     "--dry-run"};
  std::vector<std::string> ask_json = ask;
  ask_json.emplace_back("--json");
  if (COHORT_HAS_CUDA == 0) {
    const RunResult refused = cohort(ask_json);
    EXPECT_EQ(refused.code, 6);
    EXPECT_THAT(refused.err, HasSubstr("no CUDA backend"));
    return;
  }
  const json plan = answer(ask_json);
  EXPECT_GT(plan["nodes"], 400);
  EXPECT_LE(plan["nodes"], 500);
  EXPECT_EQ(plan["memsets"], 0);
  EXPECT_EQ(plan["casts"], 0);
  EXPECT_LE(plan["bytes_in_s"], 13.0);
  int nodes = 0;
  for (const json& o : plan["operations"])
    nodes += o["kernels"].get<int>() + o["library_calls"].get<int>() + o["memsets"].get<int>() +
             o["copies"].get<int>();
  EXPECT_EQ(nodes, plan["nodes"]);
  EXPECT_GT(plan["memory"]["peak"], plan["memory"]["step"]);
  EXPECT_THAT(cohort(ask).out, HasSubstr("cohort_loss"));
  std::vector<std::string> on_cpu = ask;
  on_cpu.insert(on_cpu.end(), {"--device", "cpu"});
  EXPECT_EQ(cohort(on_cpu).code, 2);
}

void write_npz(const std::filesystem::path& path, const std::vector<std::vector<double>>& logits,
               std::vector<std::int32_t> labels, bool f32 = false) {
  std::vector<NpyView> arrays;
  std::vector<std::vector<float>> rounded;
  for (const std::vector<double>& z : logits) rounded.emplace_back(z.begin(), z.end());
  for (std::size_t k = 0; k < logits.size(); ++k) {
    const void* data = f32 ? static_cast<const void*>(rounded[k].data()) : logits[k].data();
    arrays.push_back({"logits_" + std::to_string(k), f32 ? DType::f32 : DType::f64, {2, 3}, data});
  }
  arrays.push_back({"labels", DType::i32, {static_cast<std::int64_t>(labels.size())}, labels.data()});
  test::write_file(path, [&] {
    static std::vector<std::uint8_t> bytes;
    bytes.clear();
    for (const std::byte b : serialize_npz(arrays)) bytes.push_back(static_cast<std::uint8_t>(b));
    return std::span<const std::uint8_t>(bytes);
  }());
}

// Values of the method's published definition, computed by an independent script.
TEST_F(Commands, LossesOfTheGoldenFixture) {
  write_npz(*folder_ / "in.npz", {{2.0, 1.2, -0.5, 0.9, 0.6, -0.8}, {1.0, -0.5, 1.2, -0.6, 1.4, 0.8}},
            {0, 1});
  const json dml = answer({"loss", "--in", "in.npz", "--method", "dml", "--out", "out.npz", "--json"});
  EXPECT_NEAR(dml["loss"][0], 1.353294, 2e-6);
  EXPECT_NEAR(dml["loss"][1], 1.315154, 2e-6);
  const NpzArrays out = read_npz(system_file_system(), (*folder_ / "out.npz").string());
  const auto* g = reinterpret_cast<const double*>(out.at("grad_logits_0").data.data());
  const double golden[] = {-0.051547, 0.247769, -0.196223, 0.479706, -0.411746, -0.067960};
  for (int i = 0; i < 6; ++i) EXPECT_NEAR(g[i], golden[i], 2e-6) << i;
  EXPECT_EQ(*reinterpret_cast<const double*>(out.at("loss_1").data.data()), dml["loss"][1].get<double>());
  EXPECT_EQ(out.at("w").shape, (std::vector<std::int64_t>{2, 2}));
  const json kd = answer({"loss", "--in", "in.npz", "--method", "kd", "--json"});
  EXPECT_NEAR(kd["loss"][1], 0.866444, 2e-6);
  const json sharper = answer({"loss", "--in", "in.npz", "--method", "dml", "--set", "dml.T=2", "--json"});
  EXPECT_NE(sharper["loss"][0], dml["loss"][0]);
  EXPECT_EQ(sharper,
            answer({"loss", "--in", "in.npz", "--method", "dml", "--set", "distill.dml.T=2", "--json"}));
}

TEST_F(Commands, LossesOfFloatsAreComputedInFloat) {
  const std::vector<std::vector<double>> logits = {{2.0, 1.2, -0.5, 0.9, 0.6, -0.8},
                                                   {1.0, -0.5, 1.2, -0.6, 1.4, 0.8}};
  write_npz(*folder_ / "f32.npz", logits, {0, 1}, /*f32=*/true);
  const json answered = answer({"loss", "--in", "f32.npz", "--method", "competitive", "--set", "cd.lf=off",
                                "--out", "out32.npz", "--json"});
  EXPECT_EQ(answered["teacher"], 0);
  EXPECT_NEAR(answered["loss"][1], 0.707557 + 0.607597, 1e-5);
  const NpzArrays out = read_npz(system_file_system(), (*folder_ / "out32.npz").string());
  EXPECT_EQ(out.at("grad_logits_1").dtype, DType::f32);
  EXPECT_EQ(out.at("teacher").dtype, DType::i32);
}

TEST_F(Commands, LossRefusesArraysThatDoNotFit) {
  const std::vector<std::vector<double>> logits = {{2.0, 1.2, -0.5, 0.9, 0.6, -0.8},
                                                   {1.0, -0.5, 1.2, -0.6, 1.4, 0.8}};
  EXPECT_EQ(cohort({"loss"}).code, 2);
  EXPECT_EQ(cohort({"loss", "--in", "none.npz"}).code, 3);
  EXPECT_EQ(cohort({"loss", "--in", "run/config.toml"}).code, 3);
  write_npz(*folder_ / "bad.npz", logits, {0, 3});
  EXPECT_THAT(cohort({"loss", "--in", "bad.npz"}).err, HasSubstr("label 3"));
  write_npz(*folder_ / "few.npz", logits, {0});
  EXPECT_NE(cohort({"loss", "--in", "few.npz"}).code, 0);
}

}  // namespace
}  // namespace cohort::tools
