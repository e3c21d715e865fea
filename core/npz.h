// NumPy's .npy and .npz (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html):
// little-endian f32, f64, i32, i64 and u8 arrays in C order. An .npz is a zip of .npy files; entries are read
// stored or deflated, and written stored. zip64 (above 4 GiB) is neither read nor written.
//
// Reading is strict, and every size is checked against the bytes that are there before anything is allocated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/file_system.h"
#include "kernels/base/dtype.h"

namespace cohort {

struct NpyArray {
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> data;
};

using NpzArrays = std::map<std::string, NpyArray>;  // by name, without ".npy"

struct NpyView {
  std::string name;  // of the entry in an .npz, without ".npy"; unused in an .npy
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  const void* data = nullptr;
};

struct NpzReadOptions {
  std::uint64_t max_bytes = std::uint64_t{4} << 30;  // of all arrays together
  ErrorKind kind = ErrorKind::kInput;
};

NpyArray read_npy(FileSystem& fs, const std::string& path, const NpzReadOptions& options = {});
NpzArrays read_npz(FileSystem& fs, const std::string& path, const NpzReadOptions& options = {});

// `origin` stands for the path in messages.
NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& origin,
                   const NpzReadOptions& options = {});
NpzArrays parse_npz(std::span<const std::byte> bytes, const std::string& origin,
                    const NpzReadOptions& options = {});

// Same input, same bytes: entries carry the oldest date that zip knows. The data of an .npy begins at a
// multiple of 64.
std::vector<std::byte> serialize_npy(const NpyView& array);
std::vector<std::byte> serialize_npz(std::span<const NpyView> arrays);

}  // namespace cohort
