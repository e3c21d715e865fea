#include "data/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/base/error.h"
#include "tests/support/temporary_folder.h"

namespace cohort::data {
namespace {

TEST(Registry, GeneratesShapes) {
  const Dataset dataset =
      load_dataset(CpuStream{}, "shapes",
                   {.train_size = 30, .test_size = 10, .image_size = 16, .num_classes = 5, .seed = 4});
  EXPECT_EQ(dataset.train.size(), 30);
  EXPECT_EQ(dataset.test.size(), 10);
  EXPECT_EQ(dataset.test.width, 16);
  EXPECT_EQ(dataset.test.num_classes, 5);
}

TEST(Registry, EveryEntryLoadsOrAsksForItsFiles) {
  test::TemporaryFolder empty;
  for (const DatasetEntry& entry : dataset_entries()) {
    SCOPED_TRACE(entry.name);
    const DatasetOptions options{.root = empty.path(), .train_size = 10, .test_size = 10};
    if (!entry.needs_files) {
      EXPECT_NO_THROW(load_dataset(CpuStream{}, entry.name, options));
      continue;
    }
    try {
      load_dataset(CpuStream{}, entry.name, options);
      ADD_FAILURE() << "loaded from an empty folder";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      EXPECT_THAT(error.what(), testing::HasSubstr(empty.path().string()));
    }
  }
}

TEST(Registry, UnknownNamesListTheKnownOnes) {
  try {
    load_dataset(CpuStream{}, "cifar1000", {});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_THAT(error.hint(), testing::HasSubstr("shapes, cifar10, cifar100"));
  }
}

}  // namespace
}  // namespace cohort::data
