#include "data/registry.h"

#include <fmt/format.h>

#include <array>

#include "data/cifar.h"
#include "data/shapes.h"
#include "kernels/base/error.h"

namespace cohort::data {
namespace {

using Loader = Dataset (*)(CpuStream stream, const DatasetOptions& options);

Dataset load_shapes(CpuStream stream, const DatasetOptions& options) {
  return make_shapes(stream, {.train_size = options.train_size,
                              .test_size = options.test_size,
                              .image_size = options.image_size,
                              .num_classes = options.num_classes,
                              .seed = options.seed});
}

Dataset load_cifar10(CpuStream, const DatasetOptions& options) {
  return load_cifar(
      CifarKind::kCifar10, options.root,
      {.coarse = options.coarse_labels, .allow_partial = options.allow_partial, .warn = options.warn});
}

Dataset load_cifar100(CpuStream, const DatasetOptions& options) {
  return load_cifar(CifarKind::kCifar100, options.root,
                    {.coarse = options.coarse_labels, .warn = options.warn});
}

constexpr std::array kEntries{
    DatasetEntry{"shapes", "generated figures on cluttered ground, any size and number of classes", false},
    DatasetEntry{"cifar10", "CIFAR-10, binary version: 50,000 + 10,000 images of 32x32, 10 classes", true},
    DatasetEntry{"cifar100", "CIFAR-100, binary version: 50,000 + 10,000 images of 32x32, 100 or 20 classes",
                 true}};
constexpr std::array<Loader, kEntries.size()> kLoaders{load_shapes, load_cifar10, load_cifar100};

}  // namespace

std::span<const DatasetEntry> dataset_entries() {
  return kEntries;
}

Dataset load_dataset(CpuStream stream, std::string_view name, const DatasetOptions& options) {
  std::string known;
  for (std::size_t i = 0; i < kEntries.size(); ++i) {
    if (name == kEntries[i].name) return kLoaders[i](stream, options);
    known += fmt::format("{}{}", i == 0 ? "" : ", ", kEntries[i].name);
  }
  throw Error(ErrorKind::kUsage, fmt::format("no data set is called '{}'", name),
              "known data sets: " + known);
}

}  // namespace cohort::data
