// The safetensors reader on arbitrary bytes: it throws Error(kCheckpoint), or returns tensors whose bytes
// tile the data exactly, and writing and reading them again gives the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "core/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace cohort;
  const auto require = [](bool condition) {
    if (!condition) std::abort();
  };
  try {
    const SafetensorsFile file = parse_safetensors(std::as_bytes(std::span(data, size)), "fuzz");
    std::uint64_t header = 0;
    std::memcpy(&header, data, sizeof(header));
    std::size_t bytes = 0;
    for (const TensorView& tensor : file.tensors()) {
      require(reinterpret_cast<std::uintptr_t>(tensor.data) % size_of(tensor.dtype) == 0 ||
              tensor.bytes == 0);
      require(file.find(tensor.name) == &tensor);
      bytes += tensor.bytes;
    }
    require(8 + header + bytes == size);
    const auto written = serialize_safetensors(file.tensors(), file.metadata());
    const SafetensorsFile again = parse_safetensors(written, "again", {.kind = ErrorKind::kInternal});
    require(again.tensors().size() == file.tensors().size());
    for (const TensorView& tensor : file.tensors()) {
      const TensorView* same = again.find(tensor.name);
      require(same != nullptr && same->dtype == tensor.dtype && same->shape == tensor.shape);
      require(tensor.bytes == 0 || std::memcmp(same->data, tensor.data, tensor.bytes) == 0);
    }
    require(serialize_safetensors(again.tensors(), again.metadata()) == written);
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::kCheckpoint);
  }
  return 0;
}
