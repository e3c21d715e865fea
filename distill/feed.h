// What training steps take from the host, put into device memory one epoch at a time: which images, in which
// order, at which learning rates, and the counters that key random draws. A step then takes its share itself
// (kernels/step_feed.h), so that a captured step is replayed without a word from the host.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/context.h"
#include "distill/device_images.h"
#include "distill/host_feed.h"

namespace cohort::distill {

class Feed {
 public:
  // Goes through images[indices], batch_size at a time; an epoch's last batch may be short. The order is
  // drawn anew per epoch, or is that of the indices. `columns`: learning rates per step.
  Feed(Context& ctx, const DeviceImages& images, std::span<const std::int32_t> indices,
       std::int64_t batch_size, bool shuffle, std::int64_t columns);

  std::int64_t batch_size() const { return batch_size_; }
  std::int64_t steps_per_epoch() const { return (count_ + batch_size_ - 1) / batch_size_; }

  // The next step is number `position` of `epoch`; rates: (steps_per_epoch, columns). The host waits for the
  // steps before.
  void start(int epoch, std::int64_t position, std::span<const float> rates);

  // Rows of a step of the epoch.
  std::int64_t rows(std::int64_t position) const;
  // Before the next step is enqueued; advance() goes on to the one after it. The host waits only where images
  // that stay in host memory are late.
  void stage();
  void advance() { ++position_; }
  std::int64_t rows() const { return rows(position_); }
  std::int64_t position() const { return position_; }
  // Counted over all epochs, from 0.
  std::int64_t step() const { return epoch_ * steps_per_epoch() + position_; }

  // Where steps find images, (any, H, W, C) u8, and labels, (N) i32.
  const Tensor& images() const { return host_ ? host_->ring() : images_.images; }
  const Tensor& labels() const { return images_.labels; }
  // The rows of images() are those that take() writes; else they are the indices.
  bool in_ring() const { return host_ != nullptr; }
  std::size_t pinned_bytes() const { return host_ ? host_->pinned_bytes() : 0; }

  // Inside a step: fills indices (rows) i32, epoch (1) i32, step (1) i32, rates (columns) f32, and image_rows
  // (rows) i32 when images are in a ring.
  struct Taken {
    Tensor indices, image_rows, epoch, step, rates;
  };
  void take(std::int64_t rows, const Taken& to);
  // (1) i32: steps of the epoch that have been taken.
  const Tensor& cursor() const { return cursor_; }

 private:
  Context& ctx_;
  DeviceImages images_;
  std::int64_t count_, batch_size_, columns_;
  Tensor indices_;                  // (count) i32; empty: the order never changes
  Tensor order_;                    // (count) i32
  Tensor rates_;                    // (steps, columns) f32
  Tensor epoch_of_;                 // (2) i32
  Tensor cursor_;                   // (1) i32
  Tensor scratch_;                  // of the permutation; empty without one
  std::unique_ptr<HostFeed> host_;  // of images that stay in host memory
  int epoch_ = 0;
  std::int64_t position_ = 0;
};

}  // namespace cohort::distill
