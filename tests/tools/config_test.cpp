// The merge of all sources, the messages for every class of mistake, and the round trip of the resolved file.
#include "tools/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <locale>
#include <regex>

#include "tools/option_keys.h"
#include "tools/presets.h"
#include "tools/schedule_spec.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

using testing::HasSubstr;

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/cohort-config-XXXXXX";
    path_ = mkdtemp(name);
  }
  ~Folder() { (void)!system(("rm -rf '" + path_ + "'").c_str()); }
  std::string write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << content;
    return path_ + "/" + name;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string errors_of(const ConfigSources& sources) {
  try {
    resolve_config(sources);
  } catch (const UsageErrors& error) {
    EXPECT_EQ(error.exit_code(), 2);
    return error.what();
  }
  return "";
}

std::string errors_of_text(const std::string& toml) {
  try {
    parse_config(toml, "run.toml");
  } catch (const UsageErrors& error) {
    return error.what();
  }
  return "";
}

TEST(Config, DefaultsNeedNoDownload) {
  const Config config = resolve_config({});
  EXPECT_EQ(config.text("method"), "dml");
  EXPECT_EQ(config.text("data.name"), "shapes");
  ASSERT_EQ(config.networks().size(), 2u);
  EXPECT_EQ(config.networks()[0].id, "a");
  EXPECT_EQ(config.networks()[1].id, "b");
  EXPECT_EQ(config.networks()[1].model, "resnet20");
  EXPECT_EQ(config.origin("optim.lr"), "default");
}

// Each source alone beats all sources before it, whatever the order in which they are listed.
TEST(Config, LaterSourcesWin) {
  const Folder folder;
  ConfigSources sources;
  const auto epochs = [&] { return resolve_config(sources).integer("train.epochs"); };
  const auto origin = [&] { return resolve_config(sources).origin("train.epochs"); };
  EXPECT_EQ(epochs(), 10);
  sources.flags = {{"--preset", "preset", "dml.paper"}};
  EXPECT_EQ(epochs(), 200);
  EXPECT_EQ(origin(), "preset dml.paper:4");
  sources.files = {folder.write("a.toml", "[train]\nepochs = 1\nbatch_size = 11")};
  EXPECT_EQ(epochs(), 1);
  sources.files.push_back(folder.write("b.toml", "train.epochs = 2"));
  EXPECT_EQ(epochs(), 2);
  EXPECT_EQ(resolve_config(sources).integer("train.batch_size"), 11) << "a later file adds to an earlier one";
  sources.environment = {{"COHORT_TRAIN_EPOCHS", "3"}};
  EXPECT_EQ(epochs(), 3);
  EXPECT_EQ(origin(), "COHORT_TRAIN_EPOCHS");
  sources.sets = {"train.epochs=4"};
  EXPECT_EQ(epochs(), 4);
  sources.sets.emplace_back("train.epochs = 5");
  EXPECT_EQ(epochs(), 5);
  sources.flags.push_back({"--epochs", "train.epochs", "6"});
  EXPECT_EQ(epochs(), 6);
  EXPECT_EQ(origin(), "--epochs");
}

TEST(Config, APresetMayComeFromAnySource) {
  const Folder folder;
  ConfigSources sources;
  sources.files = {folder.write("a.toml", "preset = \"kd.cifar\"\ntrain.batch_size = 7")};
  EXPECT_EQ(resolve_config(sources).text("method"), "kd");
  EXPECT_EQ(resolve_config(sources).number("distill.kd.T"), 4);
  EXPECT_EQ(resolve_config(sources).integer("train.batch_size"), 7);
  sources.environment = {{"COHORT_PRESET", "kdcl.cifar"}};
  EXPECT_EQ(resolve_config(sources).text("method"), "kdcl-minlogit");
  sources.sets = {"preset=cd.cifar"};
  EXPECT_EQ(resolve_config(sources).text("method"), "competitive");
  sources.flags = {{"--preset", "preset", "okd.cifar"}};
  EXPECT_EQ(resolve_config(sources).text("method"), "dml");
}

TEST(Config, EveryPresetIsValid) {
  for (const Preset& preset : presets()) {
    ConfigSources sources;
    sources.flags = {{"--preset", "preset", preset.name}};
    const Config config = resolve_config(sources);
    EXPECT_EQ(config.text("data.name"), "cifar100") << preset.name;
    EXPECT_EQ(config.origin("train.epochs").substr(0, 7 + preset.name.size()), "preset " + preset.name);
  }
}

TEST(Config, NetworksReplaceAndNeverAppend) {
  const Folder folder;
  ConfigSources sources;
  sources.files = {
      folder.write("a.toml",
                   "[[networks]]\nid = \"x\"\nmodel = \"resnet32\"\noptim = { lr = 0.05 }\n"
                   "[[networks]]\nmodel = \"resnet8\"\n[[networks]]\nid = \"a\"\nmodel = \"wrn_40_1\"\n")};
  Config config = resolve_config(sources);
  ASSERT_EQ(config.networks().size(), 3u);
  EXPECT_EQ(config.networks()[0].number("optim.lr", 9), 0.05);
  EXPECT_EQ(config.networks()[1].number("optim.lr", 9), 9);
  EXPECT_EQ(config.networks()[1].id, "b") << "'a' is taken by the third";
  sources.files.push_back(
      folder.write("b.toml", "networks = [ { model = \"resnet20\", init = \"w.safetensors\" } ]"));
  config = resolve_config(sources);
  ASSERT_EQ(config.networks().size(), 1u);
  EXPECT_EQ(config.networks()[0].init, "w.safetensors");
  sources.nets = {"resnet8:id=s,lr=0.01,weight_decay=1e-4", "wrn_16_2"};
  config = resolve_config(sources);
  ASSERT_EQ(config.networks().size(), 2u);
  EXPECT_EQ(config.networks()[0].id, "s");
  EXPECT_EQ(config.networks()[0].number("optim.lr", 9), 0.01);
  EXPECT_EQ(config.networks()[0].number("optim.weight_decay", 9), 1e-4);
  EXPECT_EQ(config.networks()[1].model, "wrn_16_2");
}

// The exact block of the documentation.
TEST(Config, AnUnknownKeyIsShownInItsLine) {
  EXPECT_EQ(errors_of_text("method = \"dml\"\n[train]\nbatch_sise = 128\n"),
            "error: unknown key 'train.batch_sise'\n"
            "  --> run.toml:3:1\n"
            "   3 | batch_sise = 128\n"
            "     | ^^^^^^^^^^ did you mean 'batch_size'?\n"
            "  help: 'cohort list options' shows every key\n");
}

struct Mistake {
  const char* toml;
  const char* pattern;
};

TEST(Config, MistakesInFiles) {
  const std::vector<Mistake> cases = {
      {"epochs = 3", "unknown key 'epochs'[^]*run.toml:1:1[^]*did you mean 'train.epochs'"},
      {"[trian]\nepochs = 3", "unknown key 'trian'[^]*run.toml:1:2"},
      {"[train]\nepochs = 3.0",
       "'train.epochs'[^]*run.toml:2:10[^]*expected an integer from 1 to 1000000, not a number"},
      {"[train]\nepochs = \"3\"", "run.toml:2:10[^]*not text"},
      {"[train]\nepochs = 0", "run.toml:2:10[^]*from 1 to 1000000, not 0"},
      {"[train]\nepochs = -1", "not -1"},
      {"[train]\nepochs = 1000001", "not 1000001"},
      {"[train]\nepochs = 99999999999999999999", "64 bits"},
      {"[train]\nepochs = true", "not a boolean"},
      {"[train]\nepochs = [3]", "not a list"},
      {"[train]\nepochs = { a = 1 }", "not a table"},
      {"train = 3", "'train' is a section, not a value[^]*run.toml:1:1"},
      {"[optim]\nlr = nan", "a number from 0 to 100, not nan"},
      {"[optim]\nlr = inf", "not inf"},
      {"[optim]\nlr = -0.1", "not -0.1"},
      {"[optim]\nlr = 1e9", "not 1e"},
      {"[optim]\nmomentum = 1", "of at least 0 and below 1, not 1"},
      {"[optim]\nnesterov = 1", "expected true or false, not an integer"},
      {"[optim]\nschedule = \"stp:1:2\"", "run.toml:2:12[^]*no schedule"},
      {"[optim]\nschedule = \"step:100,50:0.1\"", "must ascend"},
      {"[distill.dml]\nT = 0", "of at least 0.001, not 0"},
      {"[distill.dml]\nT = 1e-4", "not 1e-4"},
      {"method = \"competitive\"\n[distill.cd]\npool = [\"mixup\", \"mixdown\"]", "mixdown"},
      {"[distill.cd]\npool = [1]", "run.toml:2:8[^]*text or a list of texts, not an integer"},
      {"method = \"dmll\"", "run.toml:1:10[^]*did you mean 'dml'"},
      {"device = \"gpu\"", "expected auto, cpu, cuda or cuda:N"},
      {"schema = 2", "an integer from 1 to 1, not 2"},
      {"seed = -1", "not -1"},
      {"[data]\nval_fraction = 1", "below 1, not 1"},
      {"[data]\nroot = \"a\\u0000b\"", "NUL"},
      {"[[networks]]\nid = \"a\"", "this network has no model[^]*run.toml:1:1"},
      {"[[networks]]\nmodel = \"resnet8\"\nlr = 1",
       "unknown key 'lr' of a network[^]*did you mean 'optim.lr'"},
      {"[[networks]]\nmodel = \"resnet8\"\nid = \"a\"\n[[networks]]\nmodel = \"resnet8\"\nid = \"a\"",
       "two networks have the id 'a'"},
      {"[[networks]]\nmodel = \"resnet8\"\nid = \"a/b\"", "no network id"},
      {"networks = 3", "must be a list of tables"},
      {"networks = []", "must be a list of tables"},
      {"networks = [1]", "must be a list of tables"},
      {"[networks]\nmodel = \"resnet8\"", "must be a list of tables"},
      {"[distill.dml]\nweights = \"1,2,3\"", "weights"},
      {"[[networks]]\nmodel = \"resnet21\"", "unknown model 'resnet21'; did you mean 'resnet20'"},
      {"[optim]\nwarmup_epochs = 50", "longer than the run"},
      {"a = 1\na = 2", "cannot redefine[^]*run.toml:2:5[^]*set further up"},
      {"[/]", "run.toml:1:2"},
      {"x = \"\xff\"", "not UTF-8[^]*run.toml:1:6"},
  };
  for (const Mistake& c : cases) {
    const std::string text = errors_of_text(c.toml);
    EXPECT_TRUE(std::regex_search(text, std::regex(c.pattern))) << c.toml << "\n" << text;
  }
}

TEST(Config, AllMistakesAreListedFromTopToBottom) {
  const std::string text =
      errors_of_text("metod = 1\n[train]\nepochs = yes\nbatch_size = 0\n[optim]\nlr = \"x\"\n");
  std::size_t last = 0;
  for (const char* place : {"run.toml:1:1", "run.toml:3:10", "run.toml:4:14", "run.toml:6:6"}) {
    const std::size_t at = text.find(place);
    ASSERT_NE(at, std::string::npos) << place << "\n" << text;
    EXPECT_GT(at, last);
    last = at;
  }
}

TEST(Config, MistakesInArguments) {
  ConfigSources sources;
  sources.sets = {"optim.lrr=1",  "noequals",           "=3", "train.epochs=x", "train=3",
                  "networks.a=1", "train.epochs=1\nb=2"};
  sources.environment = {{"COHORT_SEED", "1.5"}};
  sources.flags = {{"--epochs", "train.epochs", "0"}, {"--method", "method", ""}};
  sources.nets = {"", "resnet20:idd=1", "resnet20:lr", "resnet20:lr=x"};
  const std::string text = errors_of(sources);
  for (const char* part :
       {"--set: unknown key 'optim.lrr'; did you mean 'optim.lr'?", "'noequals' is not KEY=VALUE",
        "'=3' is not KEY", "'train.epochs': expected an integer from 1 to 1000000, not 'x'",
        "it is a section: train.KEY=VALUE", "networks are set with --net", "not '1\\x0ab=2'",
        "COHORT_SEED: 'seed': expected an integer", "--epochs: expected an integer from 1 to 1000000, not 0",
        "--method: '' is not one of", "'' names no model",
        "unknown key 'idd' of a network; did you mean 'id'?", "'lr' needs a value",
        "--net: 'lr': expected a number"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(Config, TextsAndListsGoWithoutQuotes) {
  ConfigSources sources;
  sources.sets = {"method=kdcl-minlogit", "data.root=a b=c", "distill.cd.pool=mixup,flip-x",
                  "optim.nesterov=true"};
  Config config = resolve_config(sources);
  EXPECT_EQ(config.text("method"), "kdcl-minlogit");
  EXPECT_EQ(config.text("data.root"), "a b=c");
  EXPECT_EQ(config.text("distill.cd.pool"), "mixup,flip-x");
  EXPECT_TRUE(config.flag("optim.nesterov"));
  for (const char* pool : {"distill.cd.pool=[mixup,flip-x]", "distill.cd.pool=[\"mixup\", 'flip-x']"}) {
    sources.sets = {pool, "method=\"dml\""};
    EXPECT_EQ(resolve_config(sources).text("distill.cd.pool"), "mixup,flip-x") << pool;
  }
}

TEST(Config, FilesThatCannotBeRead) {
  const Folder folder;
  ConfigSources sources;
  sources.files = {folder.path() + "/none.toml", folder.path(),
                   folder.write("big.toml", std::string(kMaxConfigBytes + 1, ' '))};
  const std::string text = errors_of(sources);
  EXPECT_THAT(text, HasSubstr("none.toml': No such file"));
  EXPECT_THAT(text, HasSubstr("it is a folder"));
  EXPECT_THAT(text, HasSubstr("it is larger than"));
}

TEST(Config, UnknownVariablesOnlyWarn) {
  ConfigSources sources;
  sources.environment = {{"COHORT_SEDE", "1"}, {"COHORT_XYZZY", "1"}};
  const Config config = resolve_config(sources);
  ASSERT_EQ(config.warnings().size(), 2u);
  EXPECT_THAT(config.warnings()[0].headline, HasSubstr("did you mean 'COHORT_SEED'?"));
}

TEST(Config, VariablesOfTheCudaBackendAreNoSettings) {
  ::setenv("COHORT_CUDA_LIBRARIES", "/opt/cudnn/lib", 1);
  ::setenv("COHORT_SEED", "7", 1);
  std::vector<std::string> names;
  for (const auto& [name, value] : cohort_environment()) names.push_back(name);
  ::unsetenv("COHORT_CUDA_LIBRARIES");
  ::unsetenv("COHORT_SEED");
  EXPECT_THAT(names, testing::Contains("COHORT_SEED"));
  EXPECT_THAT(names, testing::Not(testing::Contains("COHORT_CUDA_LIBRARIES")));
}

// What the run folder keeps gives the same run back, to the bit, in any locale.
TEST(Config, TheResolvedFileRoundTrips) {
  ConfigSources sources;
  sources.flags = {{"--preset", "preset", "cd.cifar"}};
  sources.sets = {"optim.lr=0.1234567890123456789", "data.root=/tmp/\"quoted\"\\path \xC3\xA9",
                  "seed=9007199254740993", "distill.cd.pool=[mixup, noise]"};
  sources.nets = {"resnet32:lr=0.05", "wrn_16_2:id=w-1,init=/a b/c.safetensors"};
  struct Comma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
  };
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Comma));
  const Config config = resolve_config(sources);
  const std::string text = config.to_toml();
  const Config again = parse_config(text, "config.toml");
  std::locale::global(before);
  EXPECT_EQ(config.difference(again), std::vector<std::string>());
  EXPECT_EQ(again.to_toml(), text);
  EXPECT_EQ(again.integer("seed"), 9007199254740993);
  EXPECT_EQ(parse_config(config.to_toml(true), "c").difference(config), std::vector<std::string>());
  EXPECT_EQ(parse_config(config_template(config), "c").difference(config), std::vector<std::string>());
  for (const OptionKey& key : option_table().keys()) {
    const std::string leaf = key.path.substr(key.path.rfind('.') + 1);
    EXPECT_THAT(text, HasSubstr("\n" + (key.path == "schema" ? "preset" : leaf) + " = "));
  }
}

TEST(Config, DifferenceNamesTheKeys) {
  const Config a = parse_config("[optim]\nlr = 0.2", "a");
  const Config b = parse_config("[optim]\nlr = 0.3\n[[networks]]\nmodel = \"resnet8\"", "b");
  EXPECT_EQ(a.difference(b), (std::vector<std::string>{"optim.lr", "networks"}));
}

TEST(OptionTable, EveryDefaultIsValidAndDescribed) {
  for (const OptionTable* table : {&option_table(), &network_table()}) {
    for (const OptionKey& key : table->keys()) {
      const TomlDocument document = read_toml("v = " + to_toml(key.default_value));
      ASSERT_TRUE(document.problems.empty()) << key.path;
      const Converted converted = convert_value(key, document.root.children[0]);
      EXPECT_EQ(converted.problem, "") << key.path;
      EXPECT_EQ(converted.value, key.default_value) << key.path;
      EXPECT_FALSE(key.help.empty()) << key.path;
      EXPECT_LT(key.help.size(), 120u) << key.path;
      const bool is_switch = key.type == KeyType::kBool && !key.flag.empty();  // --no-graph
      EXPECT_EQ(key.flag.empty() || is_switch, key.metavar.empty()) << key.path;
    }
  }
}

TEST(Schedule, FormsAndMistakes) {
  const ParsedSchedule step = parse_schedule("step:100,150:0.1");
  EXPECT_EQ(step.problem, "");
  EXPECT_EQ(step.spec.epochs, (std::vector<int>{100, 150}));
  EXPECT_EQ(step.spec.factor, 0.1);
  EXPECT_EQ(parse_schedule("every:60:0.2").spec.epochs, std::vector<int>{60});
  EXPECT_EQ(parse_schedule("cosine").spec.kind, ScheduleSpec::Kind::kCosine);
  EXPECT_EQ(parse_schedule("constant").spec.kind, ScheduleSpec::Kind::kConstant);
  for (const char* text : {"",
                           "step",
                           "step:",
                           "step:100",
                           "step:100:",
                           "step:0:0.1",
                           "step:-5:0.1",
                           "step:a:0.1",
                           "step:100,100:0.1",
                           "step:100:nan",
                           "step:100:-1",
                           "step:100:0.1:2",
                           "every:10,20:0.1",
                           "cosine:2",
                           "cosine:x",
                           "cosine:0:0",
                           "constant:1",
                           "Cosine",
                           "step:9999999:0.1",
                           "step:1,5:0,1"}) {
    EXPECT_NE(parse_schedule(text).problem, "") << text;
  }
}

}  // namespace
}  // namespace cohort::tools
