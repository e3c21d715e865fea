// The contact sheet, and `cohort perturb preview` run as a user runs it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/random.h"
#include "tests/support/run_cohort.h"
#include "tools/contact_sheet.h"

namespace cohort::tools {
namespace {

using test::read_text;
using test::run_cohort;
using test::RunResult;
using test::TemporaryFolder;
using testing::HasSubstr;
using testing::Not;

std::string from_base64(const std::string& text) {
  static const std::string kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  std::uint32_t word = 0;
  int bits = 0;
  for (const char c : text) {
    if (c == '=') break;
    word = word << 6 | static_cast<std::uint32_t>(kDigits.find(c));
    if ((bits += 6) >= 8) bytes += static_cast<char>(word >> (bits -= 8) & 255U);
  }
  return bytes;
}

Image decoded(const std::string& png, int channels) {
  return decode_image({reinterpret_cast<const std::byte*>(png.data()), png.size()}, "sheet", channels);
}

// The pictures of a sheet, top to bottom.
std::vector<Image> pictures(const std::string& svg, int channels = 3) {
  const std::string start = "base64,";
  std::vector<Image> found;
  for (std::size_t at = svg.find(start); at != std::string::npos; at = svg.find(start, at)) {
    at += start.size();
    found.push_back(decoded(from_base64(svg.substr(at, svg.find('"', at) - at)), channels));
  }
  return found;
}

Image random_image(std::uint64_t seed, int height, int width, int channels) {
  test::Random random(seed);
  return {height, width, channels,
          random.integers<std::uint8_t>(static_cast<std::size_t>(height * width * channels), 0, 255)};
}

TEST(ContactSheet, Base64) {  // RFC 4648, section 10
  for (const auto& [bytes, text] : {std::pair{"", ""},
                                    {"f", "Zg=="},
                                    {"fo", "Zm8="},
                                    {"foo", "Zm9v"},
                                    {"foob", "Zm9vYg=="},
                                    {"fooba", "Zm9vYmE="},
                                    {"foobar", "Zm9vYmFy"}}) {
    EXPECT_EQ(base64(bytes), text);
  }
  EXPECT_EQ(base64("\xff\xfe\xfd"), "//79");
}

TEST(ContactSheet, PngsKeepEveryPixel) {
  for (const int channels : {1, 3}) {
    for (const int width : {1, 7, 32}) {
      const Image image = random_image(3, 5, width, channels);
      const Image back = decoded(encode_png(image), channels);
      EXPECT_EQ(back.height, 5);
      EXPECT_EQ(back.width, width);
      EXPECT_EQ(back.pixels, image.pixels);
    }
  }
}

TEST(ContactSheet, RowsInOrderAndNamesEscaped) {
  const std::vector<SheetRow> rows = {
      {"<script>", "<b>", "a & b", {random_image(1, 64, 64, 3), random_image(2, 64, 64, 3)}},
      {"second", "", "", {random_image(3, 64, 64, 3), random_image(4, 64, 64, 3)}}};
  const std::string svg = svg_contact_sheet("1 < 2", rows);
  EXPECT_EQ(svg, svg_contact_sheet("1 < 2", rows));
  EXPECT_THAT(svg, HasSubstr("<title>1 &lt; 2</title>"));
  EXPECT_THAT(svg, HasSubstr("a &amp; b"));
  EXPECT_THAT(svg, Not(HasSubstr("<script")));
  EXPECT_THAT(svg, Not(HasSubstr("<b>")));
  const std::vector<Image> found = pictures(svg);
  ASSERT_EQ(found.size(), 2u);
  ASSERT_EQ(found[1].width, 2 * 64 + 4);  // a gap of four white columns
  for (int y = 0; y < 64; ++y) {
    const std::uint8_t* line = found[1].pixels.data() + y * found[1].width * 3;
    EXPECT_EQ(0, std::memcmp(line, rows[1].images[0].pixels.data() + y * 64 * 3, 64 * 3));
    EXPECT_EQ(line[64 * 3 + 1], 255);
    EXPECT_EQ(0, std::memcmp(line + 68 * 3, rows[1].images[1].pixels.data() + y * 64 * 3, 64 * 3));
  }
  EXPECT_THROW(svg_contact_sheet("t", {rows[0], {"short", "", "", {random_image(1, 64, 64, 3)}}}), Error);
  EXPECT_THROW(
      svg_contact_sheet("t", {{"mixed", "", "", {random_image(1, 64, 64, 3), random_image(1, 8, 8, 3)}}}),
      Error);
  EXPECT_THROW(svg_contact_sheet("t", {}), Error);
}

class PerturbPreview : public testing::Test {
 protected:
  RunResult preview(std::vector<std::string> more = {}) const {
    std::vector<std::string> words = {"perturb", "preview"};
    words.insert(words.end(), more.begin(), more.end());
    for (const char* word : {"-s", "data.size=16", "-s", "data.train_images=40"}) words.emplace_back(word);
    return run_cohort(words, folder_.path());
  }
  std::string sheet(const std::vector<std::string>& more = {}) const {
    const RunResult result = preview(more);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.out, "perturbations.svg\n");
    return read_text(folder_ / "perturbations.svg");
  }
  TemporaryFolder folder_;
};

TEST_F(PerturbPreview, ShowsEveryOperationAndTheSameBytesAgain) {
  const std::string svg = sheet({"--count", "5"});
  const std::vector<Image> rows = pictures(svg);
  ASSERT_EQ(rows.size(), 12u);
  for (const Image& row : rows) EXPECT_EQ(row.width, 5 * 16 + 4);
  for (std::size_t i = 1; i < rows.size(); ++i) EXPECT_NE(rows[i].pixels, rows[0].pixels) << i;
  for (const char* name :
       {">original<", ">mixup <", ">cutmix <", ">jitter<", "mixes labels", "seed 0, step 0"}) {
    EXPECT_NE(svg.find(name), std::string::npos) << name;
  }
  EXPECT_TRUE(sheet({"--count", "5"}) == svg);
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path()))
    files.push_back(entry.path().filename());
  EXPECT_EQ(files, std::vector<std::string>{"perturbations.svg"}) << "nothing temporary is left";
}

TEST_F(PerturbPreview, NamedOperationsInTheirOrder) {
  const std::vector<Image> rows = pictures(sheet({"flip-x", "flip-y", "--count", "1"}));
  ASSERT_EQ(rows.size(), 3u);
  for (int y = 0; y < 16; ++y) {
    for (int x = 0; x < 16; ++x) {
      const auto at = [&](std::size_t row, int yy, int xx) {
        return rows[row].pixels[static_cast<std::size_t>((yy * 16 + xx) * 3)];
      };
      ASSERT_EQ(at(1, y, x), at(0, y, 15 - x));
      ASSERT_EQ(at(2, y, x), at(0, 15 - y, x));
    }
  }
}

TEST_F(PerturbPreview, SeedAndStepChooseTheDraws) {
  const std::vector<Image> first = pictures(sheet({"crop"}));
  const std::vector<Image> later = pictures(sheet({"crop", "--step", "7"}));
  const std::vector<Image> other = pictures(sheet({"crop", "--seed", "5"}));
  EXPECT_EQ(first[0].pixels, later[0].pixels);
  EXPECT_NE(first[1].pixels, later[1].pixels);
  EXPECT_NE(first[1].pixels, other[1].pixels);
  const std::vector<Image> pixel = pictures(sheet({"noise"}));
  const std::vector<Image> normalised = pictures(sheet({"noise", "-s", "distill.cd.domain=normalised"}));
  EXPECT_NE(pixel[1].pixels, normalised[1].pixels);
}

TEST_F(PerturbPreview, MistakesHaveTheirExitCodesAndLeaveTheOldFile) {
  std::ofstream(folder_ / "perturbations.svg") << "old";
  std::filesystem::create_directory(folder_ / "empty");
  const struct {
    std::vector<std::string> words;
    int code;
    const char* message;
  } cases[] = {
      {{"cutmixx"}, 2, "choose from mixup, cutmix"},
      {{"--count", "0"}, 2, "--count"},
      {{"--count", "65"}, 2, "1 to 64"},
      {{"--step", "-1"}, 2, "--step"},
      {{"--out", "sheet.png"}, 2, ".svg"},
      {{"--data", "cifar10"}, 2, "--data-root"},
      {{"--data", "cifar10", "--data-root", "empty"}, 3, "empty"},
      {{"--out", "no/such/folder/x.svg"}, 4, "no/such/folder"},
  };
  for (const auto& c : cases) {
    const RunResult result = preview(c.words);
    EXPECT_EQ(result.code, c.code) << c.words[0] << "\n" << result.err;
    EXPECT_THAT(result.err, HasSubstr(c.message));
    EXPECT_EQ(result.out, "");
  }
  EXPECT_EQ(read_text(folder_ / "perturbations.svg"), "old");
}

}  // namespace
}  // namespace cohort::tools
