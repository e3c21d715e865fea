#include "distill/host_feed.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <system_error>
#include <type_traits>

#include "core/dispatch.h"
#include "kernels/memory.h"
#include "kernels/permutation.h"

namespace cohort::distill {
namespace {

std::int64_t num_steps(std::int64_t count, std::int64_t batch_size) {
  return (count + batch_size - 1) / batch_size;
}

std::int64_t image_bytes(const DeviceImages& images) {
  return images.images.count() / images.images.shape[0];
}

// Not more than half of an epoch: two chunks hold all of it.
std::int64_t steps_of_chunk(const DeviceImages& images, std::int64_t count, std::int64_t batch_size) {
  const auto fitting = static_cast<std::int64_t>(images.chunk_bytes) / (batch_size * image_bytes(images));
  return std::clamp<std::int64_t>(fitting, 1, (num_steps(count, batch_size) + 1) / 2);
}

}  // namespace

std::size_t HostFeed::pinned_bytes(const DeviceImages& images, std::int64_t count, std::int64_t batch_size) {
  return static_cast<std::size_t>(kSlots * steps_of_chunk(images, count, batch_size) * batch_size *
                                  image_bytes(images));
}

HostFeed::Event::Event(Context& context) : ctx(context) {
  on_device(ctx, [&](auto stream) { marker = kernels::make_marker(stream); });
}

HostFeed::Event::~Event() {
  on_device(ctx, [&](auto stream) { kernels::release(stream, marker); });
}

HostFeed::Slot::Slot(Context& ctx, std::size_t bytes)
    : buffer(static_cast<std::byte*>(
                 on_device(ctx, [&](auto stream) { return kernels::allocate_pinned(stream, bytes); })),
             [&ctx](std::byte* data) {
               on_device(ctx, [&](auto stream) { kernels::deallocate_pinned(stream, data); });
             }),
      copied(ctx),
      used(ctx) {}

template <class F>
void HostFeed::on_copy_stream(F&& f) {
  on_device(ctx_, [&]<class Stream>(Stream stream) {
    if constexpr (std::is_same_v<Stream, CudaStream>) {
      f(copy_stream_);
    } else {
      f(stream);
    }
  });
}

HostFeed::HostFeed(Context& ctx, const DeviceImages& images, std::span<const std::int32_t> indices,
                   std::int64_t batch_size, bool shuffle)
    : ctx_(ctx),
      images_(images.host),
      image_bytes_(image_bytes(images)),
      count_(static_cast<std::int64_t>(indices.size())),
      batch_size_(batch_size),
      shuffle_(shuffle),
      indices_(indices.begin(), indices.end()),
      order_(indices_) {
  check(images_ != nullptr, "host feed: the images are on the device");
  for (const std::int32_t i : indices_)
    check(i >= 0 && i < images.images.shape[0], "host feed: an index outside of the set");
  chunk_steps_ = steps_of_chunk(images, count_, batch_size);
  const std::int64_t steps = num_steps(count_, batch_size);
  num_chunks_ = next_ = (steps + chunk_steps_ - 1) / chunk_steps_;
  slot_bytes_ = static_cast<std::size_t>(chunk_steps_ * batch_size * image_bytes_);
  const Shape& set = images.images.shape;
  ring_ = ctx.persistent_tensor({ring_steps() * batch_size, set[1], set[2], set[3]}, DType::u8);
  if (ctx.device().kind == DeviceKind::kCuda) copy_stream_ = ctx.copy_stream();
  for (std::unique_ptr<Slot>& slot : slots_) slot = std::make_unique<Slot>(ctx, slot_bytes_);
  if (shuffle) {
    const std::size_t bytes = kernels::permutation_workspace(CpuStream{}, count_);
    scratch_.resize((bytes + sizeof(std::uint64_t) - 1) / sizeof(std::uint64_t));
  }
  try {
    thread_ = std::thread([this] { produce(); });
  } catch (const std::system_error& error) {
    throw Error(ErrorKind::kMemory,
                fmt::format("cannot start the thread that gathers images: {}", error.what()),
                "raise the limit on threads (ulimit -u), or close other programs");
  }
}

HostFeed::~HostFeed() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
  for (const std::unique_ptr<Slot>& slot : slots_) {
    try {
      release(*slot, /*wait=*/true);  // its buffer is being read
    } catch (const Error&) {          // the device is lost: nothing reads any more
    }
  }
}

std::int64_t HostFeed::rows_of(std::int64_t chunk) const {
  return std::min(chunk_steps_ * batch_size_, count_ - first_row(chunk));
}

void HostFeed::start(int epoch, std::int64_t position) {
  {
    std::unique_lock lock(mutex_);
    next_ = num_chunks_;  // what the thread has begun is the last of the old order
    changed_.wait(lock, [&] { return !busy_; });
  }
  for (const std::unique_ptr<Slot>& slot : slots_) {
    release(*slot, /*wait=*/true);
    on_device(ctx_, [&](auto stream) { kernels::mark(stream, slot->used.marker); });
  }
  {
    const std::lock_guard lock(mutex_);
    for (const std::unique_ptr<Slot>& slot : slots_) slot->state = State::kFree;
    failure_ = nullptr;
    epoch_ = epoch;
    next_ = position / chunk_steps_;
    current_ = copied_ = next_ - 1;
  }
  changed_.notify_all();
}

void HostFeed::stage(std::int64_t position) {
  const std::int64_t chunk = position / chunk_steps_;
  const bool entered = chunk != current_;
  if (entered) {
    check(chunk == current_ + 1, "host feed: steps are staged in order");
    // Every step of the chunk before is enqueued, none of this one.
    if (chunk > 0) {
      on_device(ctx_, [&](auto stream) { kernels::mark(stream, slot_of(chunk - 1).used.marker); });
    }
    if (copied_ < chunk) copy(chunk, /*wait=*/true);
    on_device(ctx_, [&](auto stream) { kernels::follow(stream, slot_of(chunk).copied.marker); });
    current_ = chunk;
  }
  for (const std::unique_ptr<Slot>& slot : slots_) release(*slot, /*wait=*/false);
  if (copied_ == chunk && chunk + 1 < num_chunks_) copy(chunk + 1, /*wait=*/false);
}

// Gives the buffer back to the thread when its copy is over; false: it is not, yet.
bool HostFeed::release(Slot& slot, bool wait) {
  {
    const std::lock_guard lock(mutex_);
    if (slot.state != State::kCopying) return true;
  }
  // Nobody but this thread takes a slot out of this state.
  const bool over = on_device(ctx_, [&](auto stream) {
    if (wait) kernels::wait(stream, slot.copied.marker);
    return wait || kernels::reached(stream, slot.copied.marker);
  });
  if (!over) return false;
  {
    const std::lock_guard lock(mutex_);
    slot.state = State::kFree;
  }
  changed_.notify_all();
  return true;
}

// Enqueues the copy of a chunk; false: it is not gathered yet, or its buffer's last copy is not over.
bool HostFeed::copy(std::int64_t chunk, bool wait) {
  Slot& slot = slot_of(chunk);
  if (!release(slot, wait)) return false;
  {
    std::unique_lock lock(mutex_);
    const auto gathered = [&] { return slot.state == State::kFilled || failure_ != nullptr; };
    if (wait) changed_.wait(lock, gathered);
    if (failure_ != nullptr) std::rethrow_exception(failure_);
    if (!gathered()) return false;
  }
  std::uint8_t* const half =
      ring_.as<std::uint8_t>() + chunk % kSlots * static_cast<std::int64_t>(slot_bytes_);
  const auto bytes = static_cast<std::size_t>(rows_of(chunk) * image_bytes_);
  on_copy_stream([&](auto stream) {
    kernels::follow(stream, slot.used.marker);
    kernels::copy_from_pinned(stream, half, slot.buffer.get(), bytes);
    kernels::mark(stream, slot.copied.marker);
  });
  {
    const std::lock_guard lock(mutex_);
    slot.state = State::kCopying;
  }
  copied_ = chunk;
  return true;
}

// --- the thread ---

void HostFeed::produce() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] {
      return stopping_ ||
             (failure_ == nullptr && next_ < num_chunks_ && slot_of(next_).state == State::kFree);
    });
    if (stopping_) return;
    const std::int64_t chunk = next_;
    const int epoch = epoch_;
    Slot& slot = slot_of(chunk);
    busy_ = true;
    lock.unlock();
    std::exception_ptr failure;
    try {
      order_epoch(epoch);
      gather(chunk, slot.buffer.get());
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    busy_ = false;
    failure_ = failure;
    slot.state = State::kFilled;
    ++next_;
    changed_.notify_all();
  }
}

void HostFeed::order_epoch(int epoch) {
  if (!shuffle_ || order_of_ == epoch) return;
  order_of_ = -1;
  kernels::permutation(CpuStream{},
                       {.values = indices_.data(),
                        .out = order_.data(),
                        .count = count_,
                        .seed = ctx_.seed(),
                        .epoch = static_cast<std::uint32_t>(epoch)},
                       std::as_writable_bytes(std::span(scratch_)));
  order_of_ = epoch;
}

void HostFeed::gather(std::int64_t chunk, std::byte* buffer) const {
  const std::int32_t* const order = order_.data() + first_row(chunk);
  for (std::int64_t row = 0; row < rows_of(chunk); ++row) {
    std::memcpy(buffer + row * image_bytes_, images_ + order[row] * image_bytes_,
                static_cast<std::size_t>(image_bytes_));
  }
}

}  // namespace cohort::distill
