#include "kernels/cuda/plan_cache.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "tests/support/random.h"
#include "tests/support/temporary_folder.h"

namespace cohort::kernels::cuda {
namespace {

const ConvolutionKey kKey{
    .shape = {.n = 128, .h = 32, .w = 32, .c = 16, .k = 16, .kh = 3, .kw = 3, .padding = 1},
    .dtype = DType::bf16,
    .result = DType::bf16};

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void put(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path) << text;
}

class PlanCacheTest : public ::testing::Test {
 protected:
  PlanCache open(const std::string& gpu = "GPU A", const std::string& library = "cuDNN 9.19.0") {
    return PlanCache(path, gpu, library);
  }
  test::TemporaryFolder folder;
  std::string path = folder.path().string() + "/cohort/plans.json";
};

TEST_F(PlanCacheTest, KeepsAChoicePerGpuLibraryAndConvolution) {
  EXPECT_EQ(open().store(kKey, "eng45_k2=4", 12.5), "eng45_k2=4");
  EXPECT_EQ(open().find(kKey), "eng45_k2=4");
  EXPECT_EQ(open("GPU B").find(kKey), std::nullopt);
  EXPECT_EQ(open("GPU A", "cuDNN 9.20.0").find(kKey), std::nullopt);
  ConvolutionKey other = kKey;
  other.pass = Conv2dPass::kBackwardData;
  EXPECT_EQ(open().find(other), std::nullopt);
  open("GPU B").store(kKey, "eng1", 1);
  EXPECT_EQ(open().find(kKey), "eng45_k2=4") << "another GPU's choice must not push ours out";
  EXPECT_EQ(open().problem(), "");
}

TEST_F(PlanCacheTest, KeysThatDifferHaveDifferentTexts) {
  std::set<std::string> texts;
  std::size_t keys = 0;
  const auto add = [&](auto change) {
    ConvolutionKey key = kKey;
    change(key);
    texts.insert(text_of(key));
    ++keys;
  };
  add([](ConvolutionKey&) {});
  add([](ConvolutionKey& k) { k.shape.n = 1; });
  add([](ConvolutionKey& k) { k.shape.h = 1; });
  add([](ConvolutionKey& k) { k.shape.w = 1; });
  add([](ConvolutionKey& k) { k.shape.c = 1; });
  add([](ConvolutionKey& k) { k.shape.k = 1; });
  add([](ConvolutionKey& k) { k.shape.kh = 1; });
  add([](ConvolutionKey& k) { k.shape.kw = 1; });
  add([](ConvolutionKey& k) { k.shape.stride = 2; });
  add([](ConvolutionKey& k) { k.shape.padding = 2; });
  add([](ConvolutionKey& k) { k.shape.dilation = 2; });
  add([](ConvolutionKey& k) { k.shape.groups = 2; });
  add([](ConvolutionKey& k) { k.dtype = DType::f32; });
  add([](ConvolutionKey& k) { k.result = DType::f32; });
  add([](ConvolutionKey& k) { k.pass = Conv2dPass::kBackwardWeights; });
  add([](ConvolutionKey& k) { k.accumulate = true; });
  add([](ConvolutionKey& k) {
    k.dtype = DType::f32;
    k.tf32 = true;
  });
  EXPECT_EQ(texts.size(), keys);
}

TEST_F(PlanCacheTest, TheFirstProcessToStoreAChoiceWins) {
  PlanCache ours = open();
  EXPECT_EQ(open().store(kKey, "eng7", 3), "eng7");
  EXPECT_EQ(ours.store(kKey, "eng8", 2), "eng7");
  EXPECT_EQ(ours.find(kKey), "eng7");
  EXPECT_EQ(open().find(kKey), "eng7");
}

TEST_F(PlanCacheTest, AStaleChoiceIsReplacedAndOnlyThat) {
  open().store(kKey, "eng7", 3);
  EXPECT_EQ(open().store(kKey, "eng8", 2, "eng6"), "eng7");
  EXPECT_EQ(open().store(kKey, "eng8", 2, "eng7"), "eng8");
  EXPECT_EQ(open().find(kKey), "eng8");
}

TEST_F(PlanCacheTest, NothingIsLeftBesideTheFile) {
  open().store(kKey, "eng7", 3);
  std::size_t entries = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator(folder.path().string() + "/cohort")) {
    ++entries;
  }
  EXPECT_EQ(entries, 1U);
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST_F(PlanCacheTest, WhatIsNoCacheIsIgnoredWithAReasonAndNotWrittenOver) {
  const std::string item =
      R"({"gpu":"GPU A","library":"cuDNN 9.19.0","convolution":"x","plan":"eng1","microseconds":1})";
  const auto whole = [](const std::string& items, const std::string& format = "cohort-convolution-plans-1") {
    return R"({"format":")" + format + R"(","plans":[)" + items + "]}";
  };
  put(path, whole(item));
  EXPECT_EQ(open().problem(), "") << "the samples below are wrong in one thing each";
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = item;
    changed.replace(changed.find(from), from.size(), to);
    return whole(changed);
  };
  const std::vector<std::string> hostile = {"",
                                            "{",
                                            "null",
                                            "[]",
                                            "{}",
                                            std::string(100'000, '['),
                                            whole(item, "cohort-convolution-plans-2"),
                                            R"({"format":"cohort-convolution-plans-1","plans":{}})",
                                            R"({"format":"cohort-convolution-plans-1"})",
                                            whole("1"),
                                            whole("{}"),
                                            whole(item + "," + item + "x"),
                                            with("eng1", "eng1; rm"),
                                            with("eng1", ""),
                                            with("eng1", "1"),
                                            with("\"eng1\"", "1"),
                                            with("eng1", std::string(300, '1')),
                                            with("GPU A", "GPU\\u0000A"),
                                            with("GPU A", "\xff"),
                                            with("\"GPU A\"", "{}"),
                                            with("microseconds", "time"),
                                            with(":1}", ":\"1\"}"),
                                            with(":1}", ":1,\"more\":1}"),
                                            with("\"x\"", "null")};
  for (const std::string& text : hostile) {
    put(path, text);
    PlanCache cache = open();
    EXPECT_FALSE(cache.keeps()) << text.substr(0, 100);
    EXPECT_NE(cache.problem().find(path + " is ignored: "), std::string::npos) << text.substr(0, 100);
    EXPECT_EQ(cache.find(kKey), std::nullopt);
    EXPECT_EQ(cache.store(kKey, "eng9", 1), "eng9");
    EXPECT_EQ(cache.find(kKey), "eng9") << "a choice holds for this process";
    EXPECT_EQ(contents(path), text);
  }
}

TEST_F(PlanCacheTest, AnyFlippedOrCutByteIsReadOrIgnoredButNeverWorse) {
  open().store(kKey, "eng45_k2=4", 12.5);
  const std::string good = contents(path);
  test::Random random(test::base_seed());
  for (int i = 0; i < 2000; ++i) {
    std::string bad = good;
    if (i % 4 == 0) {
      bad.resize(static_cast<std::size_t>(random.integer(0, static_cast<int>(bad.size()))));
    } else {
      bad[static_cast<std::size_t>(random.integer(0, static_cast<int>(bad.size()) - 1))] =
          static_cast<char>(random.integer(0, 255));
    }
    put(path, bad);
    const auto found = open().find(kKey);
    EXPECT_EQ(found.value_or("eng").substr(0, 3), "eng");
  }
}

TEST_F(PlanCacheTest, LinksFoldersPipesAndOtherUsersFilesAreIgnored) {
  std::filesystem::create_directories(folder.path().string() + "/cohort");
  put(folder.path().string() + "/elsewhere", "x");
  std::filesystem::create_symlink(folder.path().string() + "/elsewhere", path);
  EXPECT_NE(open().problem(), "");
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  EXPECT_NE(open().problem(), "");
  std::filesystem::remove(path);
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_NE(open().problem().find("not a plain file"), std::string::npos);
  std::filesystem::remove(path);
  open().store(kKey, "eng1", 1);
  ASSERT_EQ(::chmod(path.c_str(), 0666), 0);
  EXPECT_NE(open().problem().find("another user"), std::string::npos);
}

TEST_F(PlanCacheTest, WithoutAPlaceItKeepsNothing) {
  PlanCache cache("", "GPU A", "cuDNN 9.19.0");
  EXPECT_FALSE(cache.keeps());
  EXPECT_EQ(cache.problem(), "");
  PlanCache nowhere("/proc/cohort/plans.json", "GPU A", "cuDNN 9.19.0");
  EXPECT_EQ(nowhere.store(kKey, "eng1", 1), "eng1");
  EXPECT_NE(nowhere.problem().find("cannot be written"), std::string::npos);
}

TEST(PlanCachePath, FollowsTheXdgRules) {
  const char* const home = std::getenv("HOME");
  const std::string saved = home == nullptr ? "" : home;
  ::setenv("XDG_CACHE_HOME", "/caches", 1);
  EXPECT_EQ(default_plan_cache_path(), "/caches/cohort/convolution-plans.json");
  ::setenv("XDG_CACHE_HOME", "relative", 1);
  ::setenv("HOME", "/home/somebody", 1);
  EXPECT_EQ(default_plan_cache_path(), "/home/somebody/.cache/cohort/convolution-plans.json");
  ::unsetenv("XDG_CACHE_HOME");
  ::unsetenv("HOME");
  EXPECT_EQ(default_plan_cache_path(), "");
  if (!saved.empty()) ::setenv("HOME", saved.c_str(), 1);
}

}  // namespace
}  // namespace cohort::kernels::cuda
