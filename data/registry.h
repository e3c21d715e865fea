// Data sets by name.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "data/dataset.h"

namespace cohort::data {

struct DatasetOptions {
  std::filesystem::path root = {};  // folder with the files of real sets
  bool coarse_labels = false;       // cifar100
  bool allow_partial = false;       // cifar10
  Warn warn = {};
  // The generated set.
  std::int64_t train_size = 10'000;
  std::int64_t test_size = 2'000;
  int image_size = 32;
  int num_classes = 10;
  std::uint64_t seed = 0;
};

struct DatasetEntry {
  const char* name;
  const char* summary;
  bool needs_files;  // below DatasetOptions::root
};

// Every known set, in the order of a help page.
std::span<const DatasetEntry> dataset_entries();

// Loads or generates the set on the threads of `stream`. Throws Error(kUsage) for a name that is not known,
// listing those that are.
Dataset load_dataset(CpuStream stream, std::string_view name, const DatasetOptions& options);

}  // namespace cohort::data
