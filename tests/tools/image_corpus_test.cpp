// The corpus of the image fuzz target, and every file of it cut short anywhere, without a fuzzer.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#define LLVMFuzzerTestOneInput image_fuzz_one  // several targets in one executable
#include "tests/fuzz/image_fuzz.cpp"
#undef LLVMFuzzerTestOneInput

namespace {

using cohort::tools::decode_image;

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

const std::filesystem::path kCorpus = COHORT_SOURCE_DIR "/tests/fuzz/corpus/image";

TEST(ImageFuzz, CorpusReplays) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kCorpus)) {
    const std::string bytes = read(entry.path());
    for (std::size_t size = 0; size <= bytes.size(); ++size) {
      image_fuzz_one(reinterpret_cast<const std::uint8_t*>(bytes.data()), size);
    }
    ++count;
  }
  EXPECT_GE(count, 12);
}

TEST(Image, KnownPixels) {
  const auto decode = [](const char* name, int channels) {
    const std::string bytes = read(kCorpus / name).substr(1);
    return decode_image(std::as_bytes(std::span(bytes.data(), bytes.size())), name, channels);
  };
  const auto ppm = decode("color.ppm", 3);
  ASSERT_EQ(ppm.height, 3);
  ASSERT_EQ(ppm.width, 4);
  for (int i = 0; i < 36; ++i) EXPECT_EQ(ppm.pixels[static_cast<std::size_t>(i)], i);
  const auto png = decode("rgb.png", 3);
  for (int y = 0; y < 8; ++y) {
    for (int x = 0; x < 8; ++x) {
      for (int c = 0; c < 3; ++c) {
        EXPECT_EQ(png.pixels[static_cast<std::size_t>((y * 8 + x) * 3 + c)], (x * 30 + y * 7 + c * 50) % 256);
      }
    }
  }
  EXPECT_EQ(decode("baseline.jpg", 3).pixels.size(), 16U * 16U * 3U);
  EXPECT_EQ(decode("color.ppm", 1).pixels[1], (3 * 77 + 4 * 150 + 5 * 29) >> 8);
  for (const char* name : {"cut.ppm", "deep.ppm", "bomb.ppm", "overflow.ppm", "gif.gif", "text"}) {
    EXPECT_THROW(decode(name, 3), cohort::Error) << name;
  }
}

}  // namespace
