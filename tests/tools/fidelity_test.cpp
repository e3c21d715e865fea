// Variants of methods: they set options of the method and nothing else, below everything that a user sets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "distill/method.h"
#include "tests/support/run_cohort.h"
#include "tests/support/temporary_folder.h"
#include "tools/config.h"
#include "tools/run_setup.h"

namespace cohort::tools {
namespace {

using nlohmann::json;
using test::run_cohort;
using test::RunResult;
using test::TemporaryFolder;
using testing::HasSubstr;

ConfigSources of_method(const std::string& method, const std::string& fidelity) {
  ConfigSources sources;
  sources.flags = {{"--method", "method", method}, {"--fidelity", "fidelity", fidelity}};
  return sources;
}

std::string formula(const Config& config) {
  return make_method(config)->formula(2);
}

TEST(Fidelity, EveryVariantSetsOptionsOfItsMethod) {
  int count = 0;
  for (const distill::MethodInfo& info : distill::registry()) {
    std::set<std::string> names;
    for (const distill::Fidelity& fidelity : info.fidelities) {
      SCOPED_TRACE(info.name + " " + fidelity.name);
      ++count;
      EXPECT_TRUE(names.insert(fidelity.name).second);
      EXPECT_FALSE(fidelity.help.empty());
      distill::MethodOptions options(info.options);
      std::set<std::string> keys;
      const Config config = resolve_config(of_method(info.name, fidelity.name));
      EXPECT_EQ(config.text("fidelity"), fidelity.name);
      for (const auto& [key, value] : fidelity.settings) {
        EXPECT_NO_THROW(options.set(key, value));
        EXPECT_TRUE(keys.insert(key).second) << key << " twice";
        EXPECT_EQ(config.origin("distill." + key), "fidelity " + fidelity.name);
      }
      EXPECT_FALSE(keys.empty());
      // What was resolved gives itself back from the file of a run.
      EXPECT_TRUE(parse_config(config.to_toml(), "config.toml").difference(config).empty());
    }
  }
  EXPECT_GE(count, 20);
}

TEST(Fidelity, LiesBelowEverythingThatIsSet) {
  const Config okddip = resolve_config(of_method("dml", "okddip"));
  EXPECT_EQ(okddip.number("distill.dml.T"), 3);
  EXPECT_TRUE(okddip.flag("distill.dml.attached"));
  EXPECT_NE(formula(okddip), formula(resolve_config(of_method("dml", "paper"))));

  const Config file =
      parse_config("method = \"dml\"\nfidelity = \"okddip\"\n[distill.dml]\nT = 2.0\n", "run.toml");
  EXPECT_EQ(file.number("distill.dml.T"), 2) << "the file wins, wherever it names the variant";
  EXPECT_EQ(file.origin("distill.dml.T"), "run.toml:4");
  EXPECT_TRUE(file.flag("distill.dml.attached"));

  ConfigSources sources = of_method("dml", "okddip");
  sources.sets = {"distill.dml.T=5"};
  EXPECT_EQ(resolve_config(sources).number("distill.dml.T"), 5);
  sources.sets = {"fidelity=paper"};
  EXPECT_EQ(resolve_config(sources).number("distill.dml.T"), 3) << "named flags come after --set";
  sources.flags.pop_back();
  EXPECT_EQ(resolve_config(sources).text("fidelity"), "paper");

  ConfigSources preset;  // the preset's method, and the variant over the preset's values
  preset.flags = {{"--preset", "preset", "cd.cifar"}, {"--fidelity", "fidelity", "official-code"}};
  const Config code = resolve_config(preset);
  EXPECT_EQ(code.text("method"), "competitive");
  EXPECT_EQ(code.text("distill.cd.rule"), "all_better");
  EXPECT_EQ(code.integer("distill.cd.period"), 10);
  EXPECT_EQ(code.integer("train.epochs"), 200) << "the recipe stays the preset's";
}

TEST(Fidelity, NumbersAreThoseOfTheSources) {
  const auto number = [](const char* method, const char* fidelity, const char* key) {
    return resolve_config(of_method(method, fidelity)).number(key);
  };
  EXPECT_EQ(number("kd", "crd", "distill.kd.b"), 0.9);
  EXPECT_EQ(number("kd", "mdistiller-imagenet", "distill.kd.T"), 1);
  EXPECT_EQ(number("kd", "kdcl-table7", "distill.kd.a"), 1);
  EXPECT_EQ(number("dkd", "mdistiller-wrn", "distill.dkd.beta"), 6);
  EXPECT_EQ(number("kdcl-mean", "third-party", "distill.mean.a"), 0.5);
  EXPECT_EQ(number("kdcl-minlogit", "adm-tables", "distill.kdcl.T"), 1);
  EXPECT_EQ(number("adm", "paper-imagenet", "distill.adm.beta"), 0.6);
  EXPECT_EQ(resolve_config(of_method("adm", "paper-imagenet")).text("distill.adm.co_form"), "kd");
  EXPECT_EQ(resolve_config(of_method("dml", "switokd-code")).text("distill.dml.norm"), "sum");
  EXPECT_FALSE(resolve_config(of_method("switokd", "paper")).flag("distill.swit.guard"));
}

TEST(Fidelity, OnTheCommandLine) {
  const TemporaryFolder folder;
  const auto shown = [&](std::vector<std::string> words) {
    words.insert(words.begin(), {"config", "show"});
    return run_cohort(words, folder.path());
  };
  EXPECT_THAT(shown({"--fidelity", "okddip"}).out, HasSubstr("fidelity okddip"));
  const RunResult wrong = shown({"--fidelity", "okdip"});
  EXPECT_EQ(wrong.code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("'okdip' is no variant of dml; did you mean 'okddip'?"));
  EXPECT_THAT(wrong.err, HasSubstr("dml has paper, official-tf1, okddip, switokd-code"));
  EXPECT_EQ(shown({"--method", "kd", "--fidelity", "okddip"}).code, 2) << "another method's";
  const RunResult none = shown({"--method", "independent", "--fidelity", "paper"});
  EXPECT_EQ(none.code, 2);
  EXPECT_THAT(none.err, HasSubstr("independent has none"));

  const json methods = json::parse(run_cohort({"list", "methods", "--json"}, folder.path()).out);
  const auto dml =
      std::find_if(methods.begin(), methods.end(), [](const json& m) { return m["name"] == "dml"; });
  ASSERT_NE(dml, methods.end());
  EXPECT_THAT((*dml)["help"].get<std::string>(), HasSubstr("fidelity: paper, official-tf1, okddip"));
  EXPECT_THAT(run_cohort({"list", "fidelities"}, folder.path()).out, HasSubstr("dml.T=3"));

  const RunResult grid = run_cohort({"compare",
                                     "--methods",
                                     "dml,dml:okddip",
                                     "--net",
                                     "resnet8",
                                     "--net",
                                     "resnet8",
                                     "-s",
                                     "data.size=8",
                                     "-s",
                                     "data.train_images=40",
                                     "-s",
                                     "data.test_images=20",
                                     "--batch-size",
                                     "20",
                                     "--epochs",
                                     "1",
                                     "--threads",
                                     "1",
                                     "--out",
                                     "grid",
                                     "--json"},
                                    folder.path());
  ASSERT_EQ(grid.code, 0) << grid.err;
  EXPECT_EQ(json::parse(grid.out)[3]["method"], "dml:okddip");
  EXPECT_THAT(test::read_text(folder / "grid/dml_okddip-s0/config.toml"), HasSubstr("fidelity = \"okddip\""));
}

}  // namespace
}  // namespace cohort::tools
