#include "core/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "core/checksum.h"
#include "core/safetensors_header.h"

namespace cohort {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors data is little-endian and is not swapped here");

constexpr std::uint64_t kLengthBytes = 8;

std::uint64_t checked_header_length(std::uint64_t length, std::uint64_t file_bytes, const std::string& origin,
                                    ErrorKind kind) {
  const char* hint = "the file is cut, damaged or not a safetensors file";
  if (length > kMaxSafetensorsHeader) {
    throw Error(kind,
                fmt::format("{}: the header claims {} bytes, at most {} are read", origin, length,
                            kMaxSafetensorsHeader),
                hint);
  }
  if (length > file_bytes - kLengthBytes) {
    throw Error(kind,
                fmt::format("{}: the header claims {} bytes, but only {} follow", origin, length,
                            file_bytes - kLengthBytes),
                hint);
  }
  return length;
}

[[noreturn]] void fail_too_short(std::uint64_t bytes, const std::string& origin, ErrorKind kind) {
  throw Error(kind, fmt::format("{} has {} bytes: too short for a safetensors file", origin, bytes),
              "the file is cut or not a safetensors file");
}

// Index of the first NaN or Inf, or -1. All-ones exponent bits mark both.
template <class Word>
std::int64_t first_nonfinite(const void* data, std::size_t count, Word exponent) {
  const auto* words = static_cast<const Word*>(data);
  for (std::size_t i = 0; i < count; ++i) {
    if ((words[i] & exponent) == exponent) return static_cast<std::int64_t>(i);
  }
  return -1;
}

std::int64_t first_nonfinite(const TensorView& tensor) {
  const std::size_t count = tensor.bytes / size_of(tensor.dtype);
  switch (tensor.dtype) {
    case FileDType::kF64:
      return first_nonfinite<std::uint64_t>(tensor.data, count, 0x7ff0000000000000U);
    case FileDType::kF32:
      return first_nonfinite<std::uint32_t>(tensor.data, count, 0x7f800000U);
    case FileDType::kC64:
      return first_nonfinite<std::uint32_t>(tensor.data, 2 * count, 0x7f800000U);
    case FileDType::kBF16:
      return first_nonfinite<std::uint16_t>(tensor.data, count, 0x7f80U);
    case FileDType::kF16:
      return first_nonfinite<std::uint16_t>(tensor.data, count, 0x7c00U);
    default:
      return -1;
  }
}

}  // namespace

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

// Builds a SafetensorsFile from a checked header and the data.
class SafetensorsReader {
 public:
  SafetensorsReader(const std::string& origin, const SafetensorsReadOptions& options)
      : origin_(origin), options_(options) {}

  SafetensorsFile build(SafetensorsHeader header, std::vector<std::byte> data) {
    file_.data_ = std::move(data);
    for (const SafetensorsEntry& entry : header.entries) add(entry);
    verify_checksums(header);
    if (!options_.allow_nonfinite) {
      for (const TensorView& tensor : file_.tensors_) refuse_nonfinite(tensor);
    }
    for (auto& [key, value] : header.metadata) {
      if (key != kSafetensorsChecksumKey && !key.starts_with(kSafetensorsTensorPrefix)) {
        file_.metadata_.emplace(key, std::move(value));
      }
    }
    return std::move(file_);
  }

 private:
  void add(const SafetensorsEntry& entry) {
    TensorView view{entry.name, entry.dtype, entry.shape, file_.data_.data() + entry.begin,
                    static_cast<std::size_t>(entry.end - entry.begin)};
    if (entry.begin % size_of(entry.dtype) != 0 && view.bytes > 0) {
      const auto* from = static_cast<const std::byte*>(view.data);
      file_.aligned_copies_.emplace_back(from, from + view.bytes);
      view.data = file_.aligned_copies_.back().data();
    }
    file_.index_.emplace(entry.name, file_.tensors_.size());
    file_.tensors_.push_back(std::move(view));
  }

  // All or none: a file with some of the keys lost one to damage.
  void verify_checksums(const SafetensorsHeader& header) {
    const auto& metadata = header.metadata;
    file_.has_checksums_ = std::any_of(metadata.begin(), metadata.end(), [](const auto& item) {
      return item.first.starts_with(kSafetensorsChecksumKey);
    });
    if (!file_.has_checksums_) return;
    for (const TensorView& tensor : file_.tensors_) {
      const auto stored = metadata.find(kSafetensorsTensorPrefix + tensor.name);
      const bool found = stored != metadata.end();
      const auto expected = found ? parse_checksum(stored->second) : std::nullopt;
      if (!expected) fail(fmt::format("tensor '{}' has no valid checksum", tensor.name));
      const std::uint64_t actual = xxh3_64(tensor.data, tensor.bytes);
      if (*expected != actual) {
        fail(fmt::format("tensor '{}' is damaged: checksum {} instead of {}", tensor.name,
                         checksum_text(actual), stored->second));
      }
    }
    const auto summary = metadata.find(kSafetensorsChecksumKey);
    const bool found = summary != metadata.end();
    const auto expected = found ? parse_checksum(summary->second) : std::nullopt;
    if (!expected || *expected != safetensors_summary(header)) {
      fail("the header (names, shapes or metadata) does not match its checksum");
    }
  }

  void refuse_nonfinite(const TensorView& tensor) {
    const std::int64_t index = first_nonfinite(tensor);
    if (index < 0) return;
    throw Error(options_.kind,
                fmt::format("{}: tensor '{}' holds NaN or Inf at index {}", origin_, tensor.name, index),
                "use an earlier checkpoint, or allow such values explicitly");
  }

  [[noreturn]] void fail(const std::string& problem) {
    throw Error(
        options_.kind, fmt::format("{}: {}", origin_, problem),
        "the file is damaged; if another program changed it on purpose, remove its 'cohort.xxh3' metadata");
  }

  const std::string& origin_;
  const SafetensorsReadOptions& options_;
  SafetensorsFile file_;
};

SafetensorsFile read_safetensors(FileSystem& fs, const std::string& path,
                                 const SafetensorsReadOptions& options) {
  File file(fs, path, OpenMode::kRead, options.kind);
  const auto file_bytes = static_cast<std::uint64_t>(file.size());
  if (file_bytes < kLengthBytes) fail_too_short(file_bytes, path, options.kind);
  std::uint64_t length = 0;
  file.read_exact(&length, sizeof(length), 0);
  checked_header_length(length, file_bytes, path, options.kind);
  std::string text(length, '\0');
  file.read_exact(text.data(), text.size(), kLengthBytes);
  const std::uint64_t data_bytes = file_bytes - kLengthBytes - length;
  SafetensorsHeader header = parse_safetensors_header(text, data_bytes, path, options.kind);
  std::vector<std::byte> data(data_bytes);
  file.read_exact(data.data(), data.size(), static_cast<std::int64_t>(kLengthBytes + length));
  return SafetensorsReader(path, options).build(std::move(header), std::move(data));
}

SafetensorsFile parse_safetensors(std::span<const std::byte> bytes, const std::string& origin,
                                  const SafetensorsReadOptions& options) {
  if (bytes.size() < kLengthBytes) fail_too_short(bytes.size(), origin, options.kind);
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  checked_header_length(length, bytes.size(), origin, options.kind);
  const auto* text = reinterpret_cast<const char*>(bytes.data() + kLengthBytes);
  const auto data = bytes.subspan(kLengthBytes + length);
  SafetensorsHeader header = parse_safetensors_header({text, length}, data.size(), origin, options.kind);
  return SafetensorsReader(origin, options).build(std::move(header), {data.begin(), data.end()});
}

namespace {

SafetensorsHeader plan_file(std::span<const TensorView> tensors, std::vector<const TensorView*>& order) {
  for (const TensorView& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorView* a, const TensorView* b) {
    return std::tie(b->dtype, a->name) < std::tie(a->dtype, b->name);
  });
  SafetensorsHeader header;
  std::map<std::string, int> count;
  std::uint64_t offset = 0;
  for (const TensorView* tensor : order) {
    if (++count[tensor->name] > 1 || tensor->name == "__metadata__") {
      internal_error(fmt::format("serialize_safetensors: the name '{}' is taken", tensor->name));
    }
    if (checked_tensor_bytes(tensor->shape, size_of(tensor->dtype)) != tensor->bytes) {
      internal_error(fmt::format("serialize_safetensors: tensor '{}' has {} bytes, which its shape denies",
                                 tensor->name, tensor->bytes));
    }
    header.entries.push_back({tensor->name, tensor->dtype, tensor->shape, offset, offset + tensor->bytes});
    offset += tensor->bytes;
  }
  return header;
}

std::string header_text(const SafetensorsHeader& header) {
  const auto quoted = [](const std::string& text) {
    try {
      return nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
      internal_error("serialize_safetensors: a name or metadata text is not UTF-8");
    }
  };
  std::string text = "{\"__metadata__\":{";
  const char* comma = "";
  for (const auto& [key, value] : header.metadata) {
    text += fmt::format("{}{}:{}", comma, quoted(key), quoted(value));
    comma = ",";
  }
  text += "}";
  for (const SafetensorsEntry& entry : header.entries) {
    text +=
        fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", quoted(entry.name),
                    name_of(entry.dtype), fmt::join(entry.shape, ","), entry.begin, entry.end);
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

}  // namespace

std::vector<std::byte> serialize_safetensors(std::span<const TensorView> tensors,
                                             const SafetensorsMetadata& metadata,
                                             const SafetensorsWriteOptions& options) {
  std::vector<const TensorView*> order;
  SafetensorsHeader header = plan_file(tensors, order);
  header.metadata = metadata;
  header.metadata.try_emplace("format", "pt");
  if (options.checksums) {
    for (const TensorView* tensor : order) {
      header.metadata[kSafetensorsTensorPrefix + tensor->name] =
          checksum_text(xxh3_64(tensor->data, tensor->bytes));
    }
    header.metadata[kSafetensorsChecksumKey] = checksum_text(safetensors_summary(header));
  }
  const std::string text = header_text(header);
  if (text.size() > kMaxSafetensorsHeader) {
    throw Error(ErrorKind::kOutput,
                fmt::format("a safetensors header of {} bytes: at most {} can be read back", text.size(),
                            kMaxSafetensorsHeader));
  }
  const std::uint64_t data_bytes = header.entries.empty() ? 0 : header.entries.back().end;
  std::vector<std::byte> file(kLengthBytes + text.size() + data_bytes);
  const std::uint64_t length = text.size();
  std::memcpy(file.data(), &length, sizeof(length));
  std::memcpy(file.data() + kLengthBytes, text.data(), text.size());
  std::byte* to = file.data() + kLengthBytes + text.size();
  for (const TensorView* tensor : order) {
    if (tensor->bytes > 0) std::memcpy(to, tensor->data, tensor->bytes);
    to += tensor->bytes;
  }
  return file;
}

}  // namespace cohort
