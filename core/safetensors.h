// The safetensors format (https://github.com/huggingface/safetensors): 8 bytes little-endian header length N
// | N bytes of JSON | data. The reader is strict: everything that the format forbids is an error that names
// the tensor, and nothing is allocated before the header has been checked against the size of the file.
//
// Checksums: metadata key `cohort.xxh3.<tensor>` holds XXH3-64 (16 hex digits) of the tensor's bytes, and
// `cohort.xxh3` that of everything else (see safetensors_summary in the .cpp). Files without any such key are
// accepted unchecked: they come from other programs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file_system.h"
#include "kernels/base/dtype.h"

namespace cohort {

// Ascending in the order of the reference implementation, which writes the largest first: so every tensor of
// a packed file is aligned to its own element.
enum class FileDType : std::uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64
};

std::size_t size_of(FileDType dtype);
const char* name_of(FileDType dtype);  // as in the file: "F32", "BF16", ...
FileDType file_dtype(DType dtype);

struct TensorView {
  std::string name;
  FileDType dtype = FileDType::kF32;
  std::vector<std::int64_t> shape;
  const void* data = nullptr;  // row-major, packed; aligned to its element when it comes from the reader
  std::size_t bytes = 0;
};

using SafetensorsMetadata = std::map<std::string, std::string>;

struct SafetensorsReadOptions {
  bool allow_nonfinite = true;  // false: NaN or Inf is an error that names the tensor and the index
  ErrorKind kind = ErrorKind::kCheckpoint;
};

class SafetensorsFile {
 public:
  const std::vector<TensorView>& tensors() const { return tensors_; }  // in the order of their data
  const SafetensorsMetadata& metadata() const { return metadata_; }    // without the checksums
  bool has_checksums() const { return has_checksums_; }
  const TensorView* find(std::string_view name) const;  // nullptr when there is none

 private:
  friend class SafetensorsReader;
  std::vector<std::byte> data_;
  std::vector<std::vector<std::byte>> aligned_copies_;  // of tensors that the writer did not align
  std::vector<TensorView> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
  SafetensorsMetadata metadata_;
  bool has_checksums_ = false;
};

SafetensorsFile read_safetensors(FileSystem& fs, const std::string& path,
                                 const SafetensorsReadOptions& options = {});

// `origin` stands for the path in messages.
SafetensorsFile parse_safetensors(std::span<const std::byte> bytes, const std::string& origin,
                                  const SafetensorsReadOptions& options = {});

struct SafetensorsWriteOptions {
  bool checksums = true;
};

// The bytes of a file: tensors ordered by dtype, then name; metadata gains "format": "pt" when it has no
// format. Same input, same bytes. Names must be unique and UTF-8.
std::vector<std::byte> serialize_safetensors(std::span<const TensorView> tensors,
                                             const SafetensorsMetadata& metadata,
                                             const SafetensorsWriteOptions& options = {});

}  // namespace cohort
