// Images that stay in host memory, on their way to the device in the order in which an epoch takes them.
//
//   host memory --a thread gathers--> pinned buffer --copy stream--> ring in device memory --> steps
//
// An epoch is cut into chunks of some steps. There are two pinned buffers and the ring holds two chunks, so
// that one chunk is gathered and one is copied while the steps of a third run. The order is the one that
// Feed computes on the device, computed here a second time (kernels/permutation.h: the same bits); row r of
// step k lies at row (k mod ring_steps()) * batch_size + r of the ring (kernels/step_feed.h), so a captured
// step finds its images without a word from the host.
//
//   buffer:  gathered after the copy before it, which the host has seen to be over
//   copy:    after the last step on the same half of the ring      (Slot::used, on the device)
//   step:    after the copy of its chunk                           (Slot::copied, on the device)
//
// The host waits only where the thread is late, or a buffer's copy is: never for a step. The thread calls
// nothing of CUDA; errors of copies and of the thread are thrown by stage().
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "distill/device_images.h"
#include "kernels/readback.h"

namespace cohort::distill {

class HostFeed {
 public:
  // `images` stay in host memory; the arguments are Feed's. Throws Error(kMemory).
  HostFeed(Context& ctx, const DeviceImages& images, std::span<const std::int32_t> indices,
           std::int64_t batch_size, bool shuffle);
  ~HostFeed();
  HostFeed(const HostFeed&) = delete;
  HostFeed& operator=(const HostFeed&) = delete;

  // The next step is number `position` of `epoch`.
  void start(int epoch, std::int64_t position);
  // Before step `position` is enqueued, in order: from here on the main branch finds its images in the ring.
  void stage(std::int64_t position);

  // What such a feed of `count` indices pins; its ring is as large.
  static std::size_t pinned_bytes(const DeviceImages& images, std::int64_t count, std::int64_t batch_size);
  std::size_t pinned_bytes() const { return kSlots * slot_bytes_; }

  const Tensor& ring() const { return ring_; }  // (ring_steps() * batch_size, H, W, C) u8
  std::int64_t ring_steps() const { return kSlots * chunk_steps_; }

 private:
  static constexpr std::int64_t kSlots = 2;
  enum class State { kFree, kFilled, kCopying };

  struct Event {
    explicit Event(Context& context);
    ~Event();
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    Context& ctx;
    kernels::Marker marker;
  };

  // A pinned buffer and the half of the ring that it is copied to: of every second chunk.
  struct Slot {
    Slot(Context& ctx, std::size_t bytes);
    std::unique_ptr<std::byte, std::function<void(std::byte*)>> buffer;
    Event copied, used;
    State state = State::kFree;
  };
  Slot& slot_of(std::int64_t chunk) { return *slots_[static_cast<std::size_t>(chunk % kSlots)]; }

  void produce();
  void order_epoch(int epoch);
  void gather(std::int64_t chunk, std::byte* buffer) const;
  // Of the epoch's order.
  std::int64_t first_row(std::int64_t chunk) const { return chunk * chunk_steps_ * batch_size_; }
  std::int64_t rows_of(std::int64_t chunk) const;
  bool release(Slot& slot, bool wait);
  bool copy(std::int64_t chunk, bool wait);
  template <class F>
  void on_copy_stream(F&& f);

  Context& ctx_;
  const std::uint8_t* const images_;
  const std::int64_t image_bytes_, count_, batch_size_;
  const bool shuffle_;
  std::int64_t chunk_steps_ = 1, num_chunks_ = 0;
  std::size_t slot_bytes_ = 0;
  Tensor ring_;
  CudaStream copy_stream_;
  std::array<std::unique_ptr<Slot>, kSlots> slots_;
  std::int64_t current_ = -1;  // the chunk of the last step that was staged
  std::int64_t copied_ = -1;   // the last chunk whose copy was enqueued

  // The thread's own.
  const std::vector<std::int32_t> indices_;
  std::vector<std::int32_t> order_;
  std::vector<std::uint64_t> scratch_;
  int order_of_ = -1;  // epoch

  std::mutex mutex_;
  std::condition_variable changed_;
  // Under the mutex, and the slots' states with them.
  std::int64_t next_ = 0;  // the chunk to gather next; num_chunks_: none
  int epoch_ = 0;
  bool busy_ = false, stopping_ = false;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace cohort::distill
