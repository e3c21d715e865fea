// Replays the fuzzer's corpus in every build, so that what was once found stays found.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "tests/fuzz/cifar_fuzz.cpp"

namespace {

TEST(CifarFuzz, CorpusReplays) {
  int files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(COHORT_SOURCE_DIR "/tests/fuzz/corpus/cifar")) {
    SCOPED_TRACE(entry.path());
    std::ifstream stream(entry.path(), std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(stream), {}};
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    ++files;
  }
  EXPECT_GE(files, 11);
}

}  // namespace
