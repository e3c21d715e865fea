#include "distill/device_images.h"

#include <fmt/core.h>

#include <atomic>

#include "core/dispatch.h"
#include "kernels/memory.h"

namespace cohort::distill {
namespace {

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

// Half of what is free is left to activations, gradients and scratch, which are allocated as steps run.
bool stays_with_host(const Context& ctx, std::size_t bytes, Residency residency) {
  if (residency != Residency::kAuto) return residency == Residency::kHost;
  return bytes > on_device(ctx, [](auto stream) { return kernels::free_bytes(stream); }) / 2;
}

}  // namespace

DeviceImages to_device(Context& ctx, const ImageSet& set, const Placement& placement) {
  DeviceImages result;
  result.id = next_id();
  result.chunk_bytes = placement.chunk_bytes;
  result.images = {nullptr, {set.size(), set.height, set.width, set.channels}, DType::u8, nullptr};
  if (ctx.device().kind == DeviceKind::kCpu) {
    // The host's memory is the device's: no copy of a set that may be larger than the networks.
    result.images.data = const_cast<std::uint8_t*>(set.images.data());
    result.labels = {const_cast<std::int32_t*>(set.labels.data()), {set.size()}, DType::i32, nullptr};
    return result;
  }
  result.labels = ctx.persistent_tensor({set.size()}, DType::i32);
  ctx.upload(result.labels, set.labels.data());
  if (stays_with_host(ctx, result.images.bytes(), placement.residency)) {
    result.host = set.images.data();
    return result;
  }
  try {
    result.images = ctx.persistent_tensor(result.images.shape, DType::u8);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kMemory) throw;
    throw Error(ErrorKind::kMemory, fmt::format("the images of '{}' do not fit: {}", set.name, error.what()),
                "leave them in host memory with --set data.residency=host");
  }
  ctx.upload(result.images, set.images.data());
  return result;
}

}  // namespace cohort::distill
