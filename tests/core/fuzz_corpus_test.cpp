// Replays the seeds and findings of the fuzz targets in every build. Each target is one function; a
// preprocessor name keeps them apart.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#define LLVMFuzzerTestOneInput fuzz_safetensors
#include "tests/fuzz/safetensors_fuzz.cpp"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_npz
#include "tests/fuzz/npz_fuzz.cpp"
#undef LLVMFuzzerTestOneInput

namespace {

using Target = int (*)(const std::uint8_t*, std::size_t);

// Each seed as it is, and with random changes: bytes set, cut out or doubled.
int replay(const std::string& name, Target target) {
  int files = 0;
  std::mt19937_64 random(1);
  for (const auto& entry :
       std::filesystem::directory_iterator(COHORT_SOURCE_DIR "/tests/fuzz/corpus/" + name)) {
    SCOPED_TRACE(entry.path());
    std::ifstream stream(entry.path(), std::ios::binary);
    const std::vector<char> seed{std::istreambuf_iterator<char>(stream), {}};
    ++files;
    target(reinterpret_cast<const std::uint8_t*>(seed.data()), seed.size());
    for (int i = 0; i < 200 && !seed.empty(); ++i) {
      std::vector<char> changed = seed;
      for (std::uint64_t changes = 1 + random() % 3; changes > 0 && !changed.empty(); --changes) {
        const auto at = static_cast<std::ptrdiff_t>(random() % changed.size());
        const std::uint64_t kind = random() % 4;
        if (kind < 2) changed[static_cast<std::size_t>(at)] = static_cast<char>(random());
        if (kind == 2) changed.erase(changed.begin() + at);
        if (kind == 3) changed.insert(changed.begin() + at, changed[static_cast<std::size_t>(at)]);
      }
      target(reinterpret_cast<const std::uint8_t*>(changed.data()), changed.size());
    }
  }
  return files;
}

TEST(FuzzCorpus, SafetensorsReplays) {
  EXPECT_GE(replay("safetensors", fuzz_safetensors), 20);
}

TEST(FuzzCorpus, NpzReplays) {
  EXPECT_GE(replay("npz", fuzz_npz), 12);
}

}  // namespace
