// The JSON header of a safetensors file, between its text and checked tables. Used by safetensors.cpp only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/safetensors.h"

namespace cohort {

struct SafetensorsEntry {
  std::string name;
  FileDType dtype = FileDType::kF32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of their data; packed from 0 to the end of the data
  SafetensorsMetadata metadata;
};

inline constexpr std::uint64_t kMaxSafetensorsHeader = std::uint64_t{16} << 20;
inline constexpr char kSafetensorsChecksumKey[] = "cohort.xxh3";
inline constexpr char kSafetensorsTensorPrefix[] = "cohort.xxh3.";

std::optional<FileDType> parse_file_dtype(std::string_view text);

// Product of the dimensions and the element size; nullopt when it passes 2^63 - 1 or a dimension is negative.
std::optional<std::uint64_t> checked_tensor_bytes(const std::vector<std::int64_t>& shape,
                                                  std::size_t element_bytes);

// Parses and checks; data_bytes is what follows the header in the file.
SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_bytes,
                                           const std::string& origin, ErrorKind kind);

// XXH3-64 of all names, shapes, dtypes and metadata (but the key of this value itself), independent of the
// order and the white space of the JSON: another program may rewrite the file.
std::uint64_t safetensors_summary(const SafetensorsHeader& header);

}  // namespace cohort
