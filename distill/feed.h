// What training steps take from the host, put into device memory one epoch at a time: which images, in which
// order, at which learning rates, and the counters that key random draws. A step then takes its share itself
// (kernels/step_feed.h), so that a captured step is replayed without a word from the host.
#pragma once

#include <cstdint>
#include <span>

#include "core/context.h"
#include "core/image_set.h"

namespace cohort::distill {

// A data set as kernels see it: bytes and labels in device memory.
struct DeviceImages {
  Tensor images;  // (N, H, W, C) u8
  Tensor labels;  // (N) i32
};
DeviceImages to_device(Context& ctx, const ImageSet& set);

class Feed {
 public:
  // Goes through images[indices], batch_size at a time; an epoch's last batch may be short. The order is
  // drawn anew per epoch, or is that of the indices. `columns`: learning rates per step.
  Feed(Context& ctx, const DeviceImages& images, std::span<const std::int32_t> indices,
       std::int64_t batch_size, bool shuffle, std::int64_t columns);

  std::int64_t steps_per_epoch() const { return (count_ + batch_size_ - 1) / batch_size_; }

  // The next step is number `position` of `epoch`; rates: (steps_per_epoch, columns). The host waits for the
  // steps before.
  void start(int epoch, std::int64_t position, std::span<const float> rates);

  // Rows of a step of the epoch.
  std::int64_t rows(std::int64_t position) const;
  // Of the next step; advance() goes on to the one after it.
  std::int64_t rows() const { return rows(position_); }
  std::int64_t position() const { return position_; }
  // Counted over all epochs, from 0.
  std::int64_t step() const { return epoch_ * steps_per_epoch() + position_; }
  void advance() { ++position_; }

  const DeviceImages& images() const { return images_; }

  // Inside a step: fills indices (rows) i32, epoch (1) i32, step (1) i32 and rates (columns) f32.
  void take(std::int64_t rows, const Tensor& indices, const Tensor& epoch, const Tensor& step,
            const Tensor& rates);
  // (1) i32: steps of the epoch that have been taken.
  const Tensor& cursor() const { return cursor_; }

 private:
  Context& ctx_;
  DeviceImages images_;
  std::int64_t count_, batch_size_, columns_;
  Tensor indices_;   // (count) i32; empty: the order never changes
  Tensor order_;     // (count) i32
  Tensor rates_;     // (steps, columns) f32
  Tensor epoch_of_;  // (2) i32
  Tensor cursor_;    // (1) i32
  Tensor scratch_;   // of the permutation; empty without one
  int epoch_ = 0;
  std::int64_t position_ = 0;
};

}  // namespace cohort::distill
