#include "core/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/checksum.h"

namespace cohort {
namespace {

struct DTypeRow {
  FileDType dtype;
  const char* name;
  std::size_t bytes;
};

constexpr DTypeRow kDTypes[] = {
    {FileDType::kBool, "BOOL", 1},      {FileDType::kU8, "U8", 1},          {FileDType::kI8, "I8", 1},
    {FileDType::kF8E5M2, "F8_E5M2", 1}, {FileDType::kF8E4M3, "F8_E4M3", 1}, {FileDType::kI16, "I16", 2},
    {FileDType::kU16, "U16", 2},        {FileDType::kF16, "F16", 2},        {FileDType::kBF16, "BF16", 2},
    {FileDType::kI32, "I32", 4},        {FileDType::kU32, "U32", 4},        {FileDType::kF32, "F32", 4},
    {FileDType::kC64, "C64", 8},        {FileDType::kF64, "F64", 8},        {FileDType::kI64, "I64", 8},
    {FileDType::kU64, "U64", 8},
};

const DTypeRow& row_of(FileDType dtype) {
  return kDTypes[static_cast<std::size_t>(dtype)];
}

// The parser calls one method per JSON token; anything that does not fit the fixed form of the header stops
// it, so nesting never goes deeper than that form.
class HeaderHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderHandler(const std::string& origin, ErrorKind kind) : origin_(origin), kind_(kind) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t& text) override {
    return unexpected("the number " + text);
  }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ == State::kShape) {
      if (value > static_cast<std::uint64_t>(INT64_MAX)) refuse("has a dimension above 2^63 - 1");
      entry_.shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (state_ == State::kOffsets && num_offsets_ < 2) {
      (num_offsets_++ == 0 ? entry_.begin : entry_.end) = value;
      return true;
    }
    return unexpected("a number");
  }

  bool string(string_t& value) override {
    if (state_ == State::kMetadata) {
      header_.metadata[key_] = value;
      return true;
    }
    if (state_ == State::kTensor && key_ == "dtype") {
      const auto dtype = parse_file_dtype(value);
      if (!dtype) refuse(fmt::format("has the unknown dtype '{}'", value));
      entry_.dtype = *dtype;
      return true;
    }
    return unexpected("a string");
  }

  bool start_object(std::size_t) override {
    if (state_ == State::kStart) {
      state_ = State::kRoot;
    } else if (state_ == State::kRoot && key_ == "__metadata__") {
      state_ = State::kMetadata;
    } else if (state_ == State::kRoot) {
      state_ = State::kTensor;
      entry_ = {};
      entry_.name = key_;
      fields_.clear();
    } else {
      return unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (state_ == State::kTensor) {
      for (const char* field : {"dtype", "shape", "data_offsets"}) {
        if (!fields_.contains(field)) refuse(fmt::format("has no '{}'", field));
      }
      header_.entries.push_back(std::move(entry_));
    }
    state_ = state_ == State::kRoot ? State::kEnd : State::kRoot;
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ == State::kTensor && key_ == "shape") {
      state_ = State::kShape;
    } else if (state_ == State::kTensor && key_ == "data_offsets") {
      state_ = State::kOffsets;
      num_offsets_ = 0;
    } else {
      return unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    if (state_ == State::kOffsets && num_offsets_ != 2) refuse("needs two data_offsets");
    state_ = State::kTensor;
    return true;
  }

  bool key(string_t& value) override {
    if (state_ == State::kRoot && !names_.insert(value).second) {
      stop(value == "__metadata__" ? "has two '__metadata__'"
                                   : fmt::format("has two tensors named '{}'", value));
    }
    if (state_ == State::kMetadata && header_.metadata.contains(value)) {
      stop(fmt::format("has the metadata key '{}' twice", value));
    }
    if (state_ == State::kTensor) {
      if (value != "dtype" && value != "shape" && value != "data_offsets") {
        refuse(fmt::format("has the unknown field '{}'", value));
      }
      if (!fields_.insert(value).second) refuse(fmt::format("has the field '{}' twice", value));
    }
    key_ = value;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string what =
        error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 9: ..."
    const std::size_t start = what.find("] ");
    if (start != std::string::npos) what = what.substr(start + 2);
    stop(fmt::format("has a header that is not JSON: byte {} of it: {}", position, what));
  }

 private:
  enum class State { kStart, kRoot, kMetadata, kTensor, kShape, kOffsets, kEnd };

  bool unexpected(const std::string& what) {
    if (state_ == State::kMetadata) {
      stop(fmt::format("has {} where a string is needed, in the metadata key '{}'", what, key_));
    }
    if (state_ == State::kTensor || state_ == State::kShape || state_ == State::kOffsets) {
      refuse(fmt::format("has {} in '{}'", what, key_));
    }
    stop(fmt::format("has {} in its header where a tensor is needed{}", what,
                     state_ == State::kRoot ? fmt::format(" ('{}')", key_) : ""));
  }

  [[noreturn]] void refuse(const std::string& problem) {
    throw Error(kind_, fmt::format("{}: tensor '{}' {}", origin_, entry_.name, problem),
                "the file is damaged or not a safetensors file");
  }

  [[noreturn]] void stop(const std::string& problem) {
    throw Error(kind_, fmt::format("{} {}", origin_, problem),
                "the file is damaged or not a safetensors file");
  }

  const std::string& origin_;
  ErrorKind kind_;
  State state_ = State::kStart;
  std::string key_;
  SafetensorsEntry entry_;
  int num_offsets_ = 0;
  std::set<std::string> fields_;
  std::set<std::string> names_;
  SafetensorsHeader header_;
};

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ","));
}

// Offsets must tile the data: sorted by begin (then by end, for tensors without elements), each starts where
// the last one ended.
void check_layout(std::vector<SafetensorsEntry>& entries, std::uint64_t data_bytes, const std::string& origin,
                  ErrorKind kind) {
  const auto refuse = [&](const SafetensorsEntry& entry, const std::string& problem) {
    throw Error(kind, fmt::format("{}: tensor '{}' {}", origin, entry.name, problem),
                "the file is cut, damaged or not a safetensors file");
  };
  std::sort(entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  std::uint64_t expected = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin > entry.end) {
      refuse(entry, fmt::format("ends before it begins: data_offsets [{}, {}]", entry.begin, entry.end));
    }
    if (entry.end > data_bytes) {
      refuse(entry, fmt::format("ends at {}, but the data has {} bytes", entry.end, data_bytes));
    }
    const auto bytes = checked_tensor_bytes(entry.shape, size_of(entry.dtype));
    if (!bytes || *bytes != entry.end - entry.begin) {
      refuse(entry,
             fmt::format("{} {} needs {} bytes, but data_offsets [{}, {}] give {}", name_of(entry.dtype),
                         shape_text(entry.shape), bytes ? fmt::format("{}", *bytes) : "more than 2^63",
                         entry.begin, entry.end, entry.end - entry.begin));
    }
    if (entry.begin != expected) {
      refuse(entry, fmt::format("begins at {}, but the tensor before it ends at {}: {}", entry.begin,
                                expected, entry.begin < expected ? "they overlap" : "a hole"));
    }
    expected = entry.end;
  }
  if (expected != data_bytes) {
    throw Error(kind, fmt::format("{}: {} bytes follow the last tensor", origin, data_bytes - expected),
                "the file is damaged or not a safetensors file");
  }
}

}  // namespace

std::size_t size_of(FileDType dtype) {
  return row_of(dtype).bytes;
}

const char* name_of(FileDType dtype) {
  return row_of(dtype).name;
}

FileDType file_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return FileDType::kF32;
    case DType::bf16:
      return FileDType::kBF16;
    case DType::f64:
      return FileDType::kF64;
    case DType::u8:
      return FileDType::kU8;
    case DType::i32:
      return FileDType::kI32;
    case DType::i64:
      return FileDType::kI64;
  }
  internal_error("file_dtype: unknown dtype");
}

std::optional<FileDType> parse_file_dtype(std::string_view text) {
  for (const DTypeRow& row : kDTypes) {
    if (text == row.name) return row.dtype;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> checked_tensor_bytes(const std::vector<std::int64_t>& shape,
                                                  std::size_t element_bytes) {
  // A zero anywhere makes the product zero, however large the other dimensions are.
  if (std::any_of(shape.begin(), shape.end(), [](std::int64_t dim) { return dim < 0; })) return std::nullopt;
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  std::int64_t bytes = static_cast<std::int64_t>(element_bytes);
  for (const std::int64_t dim : shape) {
    if (__builtin_mul_overflow(bytes, dim, &bytes)) return std::nullopt;
  }
  return static_cast<std::uint64_t>(bytes);
}

SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_bytes,
                                           const std::string& origin, ErrorKind kind) {
  if (text.empty() || text.front() != '{') {
    throw Error(kind, fmt::format("{} has a header that does not begin with '{{'", origin),
                "the file is damaged or not a safetensors file");
  }
  HeaderHandler handler(origin, kind);
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
  SafetensorsHeader header = handler.take();
  check_layout(header.entries, data_bytes, origin, kind);
  return header;
}

std::uint64_t safetensors_summary(const SafetensorsHeader& header) {
  // Every field is preceded by its length, so that no two headers give the same text.
  std::map<std::string, std::string> lines;
  for (const SafetensorsEntry& entry : header.entries) {
    lines["t" + entry.name] = fmt::format("{} {}", name_of(entry.dtype), shape_text(entry.shape));
  }
  for (const auto& [key, value] : header.metadata) {
    if (key != kSafetensorsChecksumKey) lines["m" + key] = value;
  }
  Xxh3Stream stream;
  for (const auto& [key, value] : lines)
    stream.update(fmt::format("{}:{}{}:{}", key.size(), key, value.size(), value));
  return stream.digest();
}

}  // namespace cohort
