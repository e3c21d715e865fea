#include "data/cifar.h"

#include <fmt/format.h>

#include <array>
#include <fstream>
#include <system_error>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "kernels/base/error.h"

namespace cohort::data {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kPlane = 32 * 32;

struct CifarFile {
  const char* name;
  std::int64_t records;
  std::uint64_t hash;  // XXH3-64 of the published file; 0: unknown
};

constexpr std::array kCifar10Train{
    CifarFile{"data_batch_1.bin", 10000, 0x41ac9bacc0b7f4a7},
    CifarFile{"data_batch_2.bin", 10000, 0xfe2060fa6cda726a}, CifarFile{"data_batch_3.bin", 10000, 0},
    CifarFile{"data_batch_4.bin", 10000, 0}, CifarFile{"data_batch_5.bin", 10000, 0}};
constexpr std::array kCifar10Test{CifarFile{"test_batch.bin", 10000, 0x437077c166f279d4}};
constexpr std::array kCifar100Train{CifarFile{"train.bin", 50000, 0x08b8c1a6b6fdd3bb}};
constexpr std::array kCifar100Test{CifarFile{"test.bin", 10000, 0xb230695c566d03dd}};

struct Layout {
  const char* title;
  std::span<const CifarFile> train, test;
  std::array<const char*, 3> folders;
  const char* class_names;         // file, one name a line
  const char* coarse_class_names;  // null: none
};

Layout layout_of(CifarKind kind) {
  if (kind == CifarKind::kCifar10) {
    return {"CIFAR-10",         kCifar10Train, kCifar10Test, {"cifar-10-batches-bin", "cifar-10", "cifar10"},
            "batches.meta.txt", nullptr};
  }
  return {"CIFAR-100",
          kCifar100Train,
          kCifar100Test,
          {"cifar-100-binary", "cifar-100", "cifar100"},
          "fine_label_names.txt",
          "coarse_label_names.txt"};
}

std::string expected_files(const Layout& layout, CifarKind kind) {
  std::string text;
  for (const auto& files : {layout.train, layout.test}) {
    for (const CifarFile& file : files) {
      text += fmt::format("{}{} ({} bytes)", text.empty() ? "" : ", ", file.name,
                          file.records * cifar_record_bytes(kind));
    }
  }
  return text;
}

bool is_present(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// The folder that holds at least one of the set's files.
fs::path find_folder(const fs::path& root, const Layout& layout, CifarKind kind) {
  std::vector<fs::path> candidates;
  for (const char* folder : layout.folders) candidates.push_back(root / folder);
  candidates.push_back(root);
  std::string tried;
  for (const fs::path& candidate : candidates) {
    for (const auto& files : {layout.train, layout.test}) {
      for (const CifarFile& file : files) {
        if (is_present(candidate / file.name)) return candidate;
      }
    }
    tried += (tried.empty() ? "" : ", ") + candidate.string();
  }
  throw Error(ErrorKind::kInput, fmt::format("{} not found: looked in {}", layout.title, tried),
              fmt::format("the binary version is needed: {}", expected_files(layout, kind)));
}

std::vector<std::uint8_t> read_file(const fs::path& path, const std::string& hint) {
  auto fail = [&](const std::string& why) -> Error {
    return {ErrorKind::kInput, fmt::format("{}: {}", path.string(), why), hint};
  };
  std::error_code code;
  if (!fs::exists(path, code)) throw fail("no such file");
  if (!fs::is_regular_file(path, code)) throw fail("not a regular file");
  const std::uintmax_t size = fs::file_size(path, code);
  if (code) throw fail(code.message());
  constexpr std::uintmax_t kLimit = std::uintmax_t{1} << 31;
  if (size > kLimit) throw fail(fmt::format("{} bytes is far more than a CIFAR file holds", size));
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw fail("cannot be opened for reading");
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(size));
  stream.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (stream.gcount() != static_cast<std::streamsize>(bytes.size())) {
    throw fail(fmt::format("only {} of {} bytes could be read", stream.gcount(), size));
  }
  return bytes;
}

std::vector<std::string> read_class_names(const fs::path& path, int num_classes) {
  std::ifstream stream(path);
  std::vector<std::string> names;
  for (std::string line; std::getline(stream, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) names.push_back(line);
  }
  if (static_cast<int>(names.size()) == num_classes) return names;
  names.clear();  // the file is optional, and names are only for people
  for (int c = 0; c < num_classes; ++c) names.push_back(fmt::format("class {}", c));
  return names;
}

// Reads one half of the set; files that are absent are an error unless `partial`.
ImageSet load_files(CifarKind kind, const fs::path& folder, std::span<const CifarFile> files, bool partial,
                    const CifarOptions& options) {
  const Layout layout = layout_of(kind);
  const std::int64_t record = cifar_record_bytes(kind);
  ImageSet set = empty_cifar_set(kind, options.coarse);
  std::int64_t expected = 0;
  std::string absent;
  auto warn = [&](const std::string& text) {
    if (options.warn) options.warn(text);
  };
  for (const CifarFile& file : files) {
    expected += file.records;
    const fs::path path = folder / file.name;
    if (partial && !is_present(path)) {
      absent += fmt::format("{}{}", absent.empty() ? "" : ", ", file.name);
      continue;
    }
    const std::vector<std::uint8_t> bytes =
        read_file(path, fmt::format("{} needs {} (allow a partial training set to go on without some of the "
                                    "CIFAR-10 batches)",
                                    layout.title, expected_files(layout, kind)));
    parse_cifar(kind, bytes, path.string(), options.coarse, set);
    const bool complete = static_cast<std::int64_t>(bytes.size()) == file.records * record;
    if (complete && file.hash != 0 && XXH3_64bits(bytes.data(), bytes.size()) != file.hash) {
      warn(fmt::format("{} differs from the published file: pixels or labels may be damaged", path.string()));
    }
  }
  if (!absent.empty()) {
    warn(fmt::format("{}: training on {} of {} images; absent: {}", layout.title, set.size(), expected,
                     absent));
  } else if (set.size() != expected) {
    warn(fmt::format("{}: {} images instead of {} in {}: are the files swapped or shortened?", layout.title,
                     set.size(), expected, (folder / files.front().name).string()));
  }
  const char* const names = options.coarse ? layout.coarse_class_names : layout.class_names;
  set.class_names = read_class_names(folder / names, set.num_classes);
  return set;
}

}  // namespace

ImageSet empty_cifar_set(CifarKind kind, bool coarse) {
  ImageSet set{.height = 32, .width = 32, .channels = 3};
  if (kind == CifarKind::kCifar10) {
    set.name = "cifar10";
    set.num_classes = 10;
    set.normalisation = {{0.4914, 0.4822, 0.4465, 0}, {0.2023, 0.1994, 0.2010, 1}};
  } else {
    set.name = coarse ? "cifar100-coarse" : "cifar100";
    set.num_classes = coarse ? 20 : 100;
    set.normalisation = {{0.5071, 0.4867, 0.4408, 0}, {0.2675, 0.2565, 0.2761, 1}};
  }
  return set;
}

void parse_cifar(CifarKind kind, std::span<const std::uint8_t> bytes, const std::string& file, bool coarse,
                 ImageSet& set) {
  const std::int64_t record = cifar_record_bytes(kind);
  const auto size = static_cast<std::int64_t>(bytes.size());
  const std::int64_t count = size / record;
  const char* const hint =
      "fetch the file again, and check that it is the binary version of the right data set";
  if (size == 0) throw Error(ErrorKind::kInput, fmt::format("{}: empty file", file), hint);
  if (size % record != 0) {
    throw Error(
        ErrorKind::kInput,
        fmt::format("{}: {} bytes is no whole number of records of {} bytes: record {} at offset {} is cut "
                    "off after {} bytes",
                    file, size, record, count, count * record, size % record),
        hint);
  }
  auto check_label = [&](std::int64_t i, std::int64_t byte, int classes, const char* what) {
    const int label = bytes[static_cast<std::size_t>(i * record + byte)];
    if (label < classes) return label;
    throw Error(ErrorKind::kInput,
                fmt::format("{}: record {} at offset {}: {} {} is not below {}", file, i, i * record + byte,
                            what, label, classes),
                hint);
  };
  std::vector<std::int32_t> labels;
  labels.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    if (kind == CifarKind::kCifar10) {
      labels.push_back(check_label(i, 0, 10, "label"));
    } else {
      const int coarse_label = check_label(i, 0, 20, "coarse label");
      const int fine_label = check_label(i, 1, 100, "fine label");
      labels.push_back(coarse ? coarse_label : fine_label);
    }
  }
  const std::size_t old_size = set.images.size();
  set.images.resize(old_size + static_cast<std::size_t>(count * 3 * kPlane));
  set.labels.insert(set.labels.end(), labels.begin(), labels.end());
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint8_t* const planes = bytes.data() + (i + 1) * record - 3 * kPlane;
    std::uint8_t* const out = set.images.data() + old_size + i * 3 * kPlane;
    for (std::int64_t p = 0; p < kPlane; ++p) {
      out[3 * p] = planes[p];
      out[3 * p + 1] = planes[kPlane + p];
      out[3 * p + 2] = planes[2 * kPlane + p];
    }
  }
}

Dataset load_cifar(CifarKind kind, const fs::path& root, const CifarOptions& options) {
  const Layout layout = layout_of(kind);
  if (options.coarse && layout.coarse_class_names == nullptr) {
    throw Error(ErrorKind::kUsage, "CIFAR-10 has no coarse labels", "use cifar100 with coarse labels");
  }
  const fs::path folder = find_folder(root, layout, kind);
  Dataset dataset{
      load_files(kind, folder, layout.train, options.allow_partial && kind == CifarKind::kCifar10, options),
      load_files(kind, folder, layout.test, false, options)};
  dataset.train.check_usable();
  dataset.test.check_usable();
  return dataset;
}

}  // namespace cohort::data
