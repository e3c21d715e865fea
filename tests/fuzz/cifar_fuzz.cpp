// The CIFAR parser on arbitrary bytes. The first byte picks the kind (bit 0) and coarse labels (bit 1).
// Whatever the input, the parser returns a set that can be used, or throws Error(kInput) and leaves the set
// as it was.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "data/cifar.h"
#include "kernels/base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace cohort;
  if (size == 0) return 0;
  const auto kind = (data[0] & 1) == 0 ? data::CifarKind::kCifar10 : data::CifarKind::kCifar100;
  const bool coarse = kind == data::CifarKind::kCifar100 && (data[0] & 2) != 0;
  ImageSet set = data::empty_cifar_set(kind, coarse);
  try {
    data::parse_cifar(kind, {data + 1, size - 1}, "fuzz.bin", coarse, set);
    const auto records = static_cast<std::int64_t>(size - 1) / data::cifar_record_bytes(kind);
    if (set.size() != records) std::abort();
    set.check_usable();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kInput || set.size() != 0 || !set.images.empty()) std::abort();
  }
  return 0;
}
