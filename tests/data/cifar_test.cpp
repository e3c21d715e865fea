#include "data/cifar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/temporary_folder.h"

namespace cohort::data {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Bytes = std::vector<std::uint8_t>;

// Record i has labels (i mod 10) or (i mod 20, i mod 100); pixel (plane, y, x) is a hash of its address.
std::uint8_t pixel(int record, int plane, int y, int x) {
  return static_cast<std::uint8_t>(record * 31 + plane * 101 + y * 7 + x * 3);
}

Bytes mini_file(CifarKind kind, int records, int first = 0) {
  Bytes bytes;
  for (int i = first; i < first + records; ++i) {
    if (kind == CifarKind::kCifar100) bytes.push_back(static_cast<std::uint8_t>(i % 20));
    bytes.push_back(static_cast<std::uint8_t>(kind == CifarKind::kCifar100 ? i % 100 : i % 10));
    for (int plane = 0; plane < 3; ++plane) {
      for (int y = 0; y < 32; ++y) {
        for (int x = 0; x < 32; ++x) bytes.push_back(pixel(i, plane, y, x));
      }
    }
  }
  return bytes;
}

void write_cifar10(const fs::path& folder) {
  for (int batch = 1; batch <= 5; ++batch) {
    test::write_file(folder / ("data_batch_" + std::to_string(batch) + ".bin"),
                     mini_file(CifarKind::kCifar10, 4, batch * 4));
  }
  test::write_file(folder / "test_batch.bin", mini_file(CifarKind::kCifar10, 3));
}

// The message of the Error(kInput) that f throws.
template <class F>
std::string input_error(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput) << error.what();
    EXPECT_FALSE(error.hint().empty());
    return std::string(error.what()) + "\n" + error.hint();
  }
  ADD_FAILURE() << "no error";
  return {};
}

TEST(Cifar, TurnsPlanesIntoNhwc) {
  for (const CifarKind kind : {CifarKind::kCifar10, CifarKind::kCifar100}) {
    ImageSet set = empty_cifar_set(kind, false);
    parse_cifar(kind, mini_file(kind, 30), "a.bin", false, set);
    parse_cifar(kind, mini_file(kind, 95, 30), "b.bin", false, set);
    ASSERT_EQ(set.size(), 125);
    EXPECT_NO_THROW(set.check_usable());
    for (int i = 0; i < 125; ++i) {
      EXPECT_EQ(set.labels[static_cast<std::size_t>(i)], i % set.num_classes);
      for (int y = 0; y < 32; ++y) {
        for (int x = 0; x < 32; ++x) {
          for (int c = 0; c < 3; ++c) ASSERT_EQ(set.image(i)[(y * 32 + x) * 3 + c], pixel(i, c, y, x));
        }
      }
    }
  }
}

TEST(Cifar, CoarseLabels) {
  ImageSet set = empty_cifar_set(CifarKind::kCifar100, true);
  parse_cifar(CifarKind::kCifar100, mini_file(CifarKind::kCifar100, 50), "a.bin", true, set);
  EXPECT_EQ(set.num_classes, 20);
  for (std::size_t i = 0; i < 50; ++i) EXPECT_EQ(set.labels[i], static_cast<std::int32_t>(i % 20));
  test::TemporaryFolder root;
  write_cifar10(root.path());
  EXPECT_THROW(load_cifar(CifarKind::kCifar10, root.path(), {.coarse = true}), Error);
}

TEST(Cifar, EveryTruncationNamesTheRecordThatIsCut) {
  for (const CifarKind kind : {CifarKind::kCifar10, CifarKind::kCifar100}) {
    const std::int64_t record = cifar_record_bytes(kind);
    const Bytes whole = mini_file(kind, 4);
    for (std::int64_t size = 0; size <= static_cast<std::int64_t>(whole.size()); size += 512) {
      const std::span<const std::uint8_t> cut(whole.data(), static_cast<std::size_t>(size));
      ImageSet set = empty_cifar_set(kind, false);
      const std::string message = input_error([&] { parse_cifar(kind, cut, "x.bin", false, set); });
      EXPECT_THAT(message, HasSubstr("x.bin"));
      if (size > 0) {
        EXPECT_THAT(message, HasSubstr(std::to_string(size) + " bytes"));
        EXPECT_THAT(message, HasSubstr("record " + std::to_string(size / record) + " at offset " +
                                       std::to_string(size / record * record)));
      }
      EXPECT_EQ(set.size(), 0);
      EXPECT_TRUE(set.images.empty());
    }
  }
}

TEST(Cifar, LabelsOutOfRangeAreNamedAndNeverClamped) {
  struct Patch {
    CifarKind kind;
    int byte, first_bad;
    const char* what;
  };
  for (const Patch& patch :
       {Patch{CifarKind::kCifar10, 0, 10, "label"}, Patch{CifarKind::kCifar100, 0, 20, "coarse label"},
        Patch{CifarKind::kCifar100, 1, 100, "fine label"}}) {
    for (const int i : {0, 3, 6}) {
      for (const int label : {patch.first_bad, 255}) {
        Bytes bytes = mini_file(patch.kind, 7);
        const auto offset = i * cifar_record_bytes(patch.kind) + patch.byte;
        bytes[static_cast<std::size_t>(offset)] = static_cast<std::uint8_t>(label);
        ImageSet set = empty_cifar_set(patch.kind, false);
        parse_cifar(patch.kind, mini_file(patch.kind, 2), "good.bin", false, set);
        const std::string message =
            input_error([&] { parse_cifar(patch.kind, bytes, "bad.bin", false, set); });
        EXPECT_THAT(message,
                    HasSubstr("bad.bin: record " + std::to_string(i) + " at offset " +
                              std::to_string(offset) + ": " + patch.what + " " + std::to_string(label)));
        EXPECT_EQ(set.size(), 2);  // untouched
        EXPECT_EQ(set.images.size(), 2U * 3072U);
      }
      Bytes bytes = mini_file(patch.kind, 7);
      bytes[static_cast<std::size_t>(i * cifar_record_bytes(patch.kind) + patch.byte)] =
          static_cast<std::uint8_t>(patch.first_bad - 1);
      ImageSet set = empty_cifar_set(patch.kind, false);
      EXPECT_NO_THROW(parse_cifar(patch.kind, bytes, "good.bin", false, set));
    }
  }
}

TEST(Cifar, FindsTheUsualFolders) {
  for (const std::string folder : {"", "cifar-10-batches-bin", "cifar-10", "cifar10"}) {
    test::TemporaryFolder root;
    write_cifar10(root / folder);
    test::write_file(root / folder / "batches.meta.txt", Bytes{'a', '\n', 'b', '\n'});  // too few: ignored
    const Dataset dataset = load_cifar(CifarKind::kCifar10, root.path());
    EXPECT_EQ(dataset.train.size(), 20);
    EXPECT_EQ(dataset.test.size(), 3);
    EXPECT_EQ(dataset.train.labels[0], 4);  // batches in order
    EXPECT_EQ(dataset.train.labels[19], 3);
    EXPECT_EQ(dataset.train.class_names[9], "class 9");
  }
}

TEST(Cifar, ReadsClassNames) {
  test::TemporaryFolder root;
  const fs::path folder = root / "cifar-100-binary";
  test::write_file(folder / "train.bin", mini_file(CifarKind::kCifar100, 3));
  test::write_file(folder / "test.bin", mini_file(CifarKind::kCifar100, 2));
  std::string names;
  for (int c = 0; c < 20; ++c) names += "group" + std::to_string(c) + "\r\n";
  test::write_file(folder / "coarse_label_names.txt", Bytes(names.begin(), names.end()));
  EXPECT_EQ(load_cifar(CifarKind::kCifar100, root.path(), {.coarse = true}).test.class_names[19], "group19");
  EXPECT_EQ(load_cifar(CifarKind::kCifar100, root.path()).train.class_names.size(), 100U);
}

TEST(Cifar, EveryMissingFileIsNamedWithItsPathAndSize) {
  for (const std::string name :
       {"data_batch_1.bin", "data_batch_3.bin", "data_batch_5.bin", "test_batch.bin"}) {
    test::TemporaryFolder root;
    write_cifar10(root / "cifar10");
    fs::remove(root / "cifar10" / name);
    const std::string message = input_error([&] { load_cifar(CifarKind::kCifar10, root.path()); });
    EXPECT_THAT(message, HasSubstr((root / "cifar10" / name).string() + ": no such file"));
    EXPECT_THAT(message, HasSubstr(name + " (30730000 bytes)"));
  }
  test::TemporaryFolder empty;
  const std::string message = input_error([&] { load_cifar(CifarKind::kCifar100, empty.path()); });
  EXPECT_THAT(message, HasSubstr((empty / "cifar-100-binary").string()));
  EXPECT_THAT(message, HasSubstr("train.bin (153700000 bytes)"));
  input_error([&] { load_cifar(CifarKind::kCifar100, empty / "nowhere"); });
}

TEST(Cifar, AFolderInPlaceOfAFileIsRefused) {
  test::TemporaryFolder root;
  write_cifar10(root.path());
  fs::remove(root / "data_batch_2.bin");
  fs::create_directory(root / "data_batch_2.bin");
  EXPECT_THAT(input_error([&] { load_cifar(CifarKind::kCifar10, root.path()); }),
              HasSubstr("data_batch_2.bin: not a regular file"));
}

TEST(Cifar, PartialTrainingSetsMustBeAllowed) {
  test::TemporaryFolder root;
  write_cifar10(root.path());
  fs::remove(root / "data_batch_3.bin");
  fs::remove(root / "data_batch_4.bin");
  input_error([&] { load_cifar(CifarKind::kCifar10, root.path()); });
  std::vector<std::string> warnings;
  const Dataset dataset =
      load_cifar(CifarKind::kCifar10, root.path(),
                 {.allow_partial = true, .warn = [&](const std::string& text) { warnings.push_back(text); }});
  EXPECT_EQ(dataset.train.size(), 12);
  ASSERT_EQ(warnings.size(), 2U);
  EXPECT_THAT(warnings[0], HasSubstr("12 of 50000 images; absent: data_batch_3.bin, data_batch_4.bin"));
  EXPECT_THAT(warnings[1], HasSubstr("3 images instead of 10000"));
  fs::remove(root / "test_batch.bin");  // a test set is never optional
  input_error([&] { load_cifar(CifarKind::kCifar10, root.path(), {.allow_partial = true}); });
}

// A file of the published size with other contents is suspicious; a swapped pair is noticed by its counts.
TEST(Cifar, WarnsOfWrongChecksumsAndCounts) {
  test::TemporaryFolder root;
  test::write_file(root / "train.bin", mini_file(CifarKind::kCifar100, 10'000));
  test::write_file(root / "test.bin", mini_file(CifarKind::kCifar100, 10'000));
  std::vector<std::string> warnings;
  load_cifar(CifarKind::kCifar100, root.path(),
             {.warn = [&](const std::string& text) { warnings.push_back(text); }});
  ASSERT_EQ(warnings.size(), 2U);
  EXPECT_THAT(warnings[0], HasSubstr("10000 images instead of 50000"));
  EXPECT_THAT(warnings[1], HasSubstr("test.bin differs from the published file"));
}

void expect_real_set(const Dataset& dataset, std::int64_t train, double mean_of_red) {
  EXPECT_EQ(dataset.train.size(), train);
  EXPECT_EQ(dataset.test.size(), 10'000);
  std::vector<int> counts(static_cast<std::size_t>(dataset.test.num_classes), 0);
  for (const std::int32_t label : dataset.test.labels) ++counts[static_cast<std::size_t>(label)];
  for (const int count : counts) EXPECT_EQ(count, 10'000 / dataset.test.num_classes);
  EXPECT_NEAR(measure_normalisation(dataset.train).mean[0], mean_of_red, 0.002);
}

TEST(Cifar, RealFiles) {
  const char* const root = std::getenv("COHORT_DATA");
  if (root == nullptr) GTEST_SKIP() << "COHORT_DATA names no folder with the real sets";
  std::vector<std::string> warnings;
  const Warn warn = [&](const std::string& text) { warnings.push_back(text); };
  expect_real_set(load_cifar(CifarKind::kCifar100, root, {.warn = warn}), 50'000, 0.5071);
  EXPECT_TRUE(warnings.empty()) << warnings[0];
  const Dataset ten = load_cifar(CifarKind::kCifar10, root, {.allow_partial = true, .warn = warn});
  expect_real_set(ten, ten.train.size(), 0.4914);
  EXPECT_EQ(ten.train.class_names[0], "airplane");
}

}  // namespace
}  // namespace cohort::data
