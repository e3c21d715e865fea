// The .npy and .npz readers on arbitrary bytes: each throws Error(kInput), or returns arrays whose data fit
// their shapes, and which come back the same when written and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "core/npz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace cohort;
  const auto require = [](bool condition) {
    if (!condition) std::abort();
  };
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto check = [&](const NpyArray& array) {
    std::size_t count = 1;
    for (const std::int64_t dim : array.shape) count *= static_cast<std::size_t>(dim);
    require(count * size_of(array.dtype) == array.data.size());
    const auto written = serialize_npy({"", array.dtype, array.shape, array.data.data()});
    const NpyArray again = parse_npy(written, "again", {.kind = ErrorKind::kInternal});
    require(again.dtype == array.dtype && again.shape == array.shape && again.data == array.data);
  };
  try {
    check(parse_npy(bytes, "fuzz"));
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::kInput);
  }
  try {
    for (const auto& [name, array] : parse_npz(bytes, "fuzz", {.max_bytes = 64 << 20})) check(array);
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::kInput);
  }
  return 0;
}
