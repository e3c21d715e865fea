// The corpus of the fuzz target (valid files, and every input that ever broke something), without a fuzzer.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#define LLVMFuzzerTestOneInput config_fuzz_one  // several targets in one executable
#include "tests/fuzz/config_fuzz.cpp"
#undef LLVMFuzzerTestOneInput

namespace {

TEST(ConfigFuzz, CorpusReplays) {
  int count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(COHORT_SOURCE_DIR "/tests/fuzz/corpus/config")) {
    std::ifstream file(entry.path(), std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    // Every prefix too: a file cut short anywhere.
    for (std::size_t size = 0; size <= text.size(); size += 1 + text.size() / 200) {
      config_fuzz_one(reinterpret_cast<const std::uint8_t*>(text.data()), size);
    }
    config_fuzz_one(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
    ++count;
  }
  EXPECT_GE(count, 10);
}

}  // namespace
