#include "distill/feed.h"

#include <algorithm>

#include "core/dispatch.h"
#include "kernels/permutation.h"
#include "kernels/step_feed.h"

namespace cohort::distill {

Feed::Feed(Context& ctx, const DeviceImages& images, std::span<const std::int32_t> indices,
           std::int64_t batch_size, bool shuffle, std::int64_t columns)
    : ctx_(ctx),
      images_(images),
      count_(static_cast<std::int64_t>(indices.size())),
      batch_size_(batch_size),
      columns_(columns) {
  check(count_ > 0 && batch_size > 0, "feed: no images");
  order_ = ctx.persistent_tensor({count_}, DType::i32);
  ctx.upload(order_, indices.data());
  rates_ = ctx.persistent_tensor({steps_per_epoch(), columns_}, DType::f32);
  epoch_of_ = ctx.persistent_tensor({2}, DType::i32);
  cursor_ = ctx.persistent_tensor({1}, DType::i32);
  if (images.host != nullptr) {
    host_ = std::make_unique<HostFeed>(ctx, images, indices, batch_size, shuffle);
  }
  if (!shuffle) return;
  indices_ = ctx.persistent_tensor({count_}, DType::i32);
  ctx.upload(indices_, indices.data());
  const std::size_t bytes =
      on_device(ctx, [&](auto stream) { return kernels::permutation_workspace(stream, count_); });
  scratch_ = ctx.persistent_tensor({static_cast<std::int64_t>(bytes)}, DType::u8);
}

void Feed::start(int epoch, std::int64_t position, std::span<const float> rates) {
  check(static_cast<std::int64_t>(rates.size()) == rates_.count(),
        "feed: one row of learning rates per step");
  if (host_) host_->start(epoch, position);
  if (!indices_.empty()) {
    const kernels::PermutationArgs args{.values = indices_.as<std::int32_t>(),
                                        .out = order_.as<std::int32_t>(),
                                        .count = count_,
                                        .seed = ctx_.seed(),
                                        .epoch = static_cast<std::uint32_t>(epoch)};
    const Workspace scratch{static_cast<std::byte*>(scratch_.data), scratch_.bytes()};
    on_device(ctx_, [&](auto stream) { kernels::permutation(stream, args, scratch); });
  }
  if (!rates.empty()) ctx_.upload(rates_, rates.data());
  epoch_ = epoch;
  position_ = position;
  const std::int32_t first[2] = {epoch, static_cast<std::int32_t>(epoch * steps_per_epoch())};
  ctx_.upload(epoch_of_, first);
  const auto cursor = static_cast<std::int32_t>(position);
  ctx_.upload(cursor_, &cursor);
}

void Feed::stage() {
  if (host_) host_->stage(position_);
}

std::int64_t Feed::rows(std::int64_t position) const {
  check(position < steps_per_epoch(), "feed: the epoch is over");
  return std::min(batch_size_, count_ - position * batch_size_);
}

void Feed::take(std::int64_t rows, const Taken& to) {
  on_device(ctx_, [&](auto stream) {
    kernels::step_feed(stream, {.order = order_.as<std::int32_t>(),
                                .epoch_of = epoch_of_.as<std::int32_t>(),
                                .rates = rates_.as<float>(),
                                .cursor = cursor_.as<std::int32_t>(),
                                .indices = to.indices.as<std::int32_t>(),
                                .image_rows = in_ring() ? to.image_rows.as<std::int32_t>() : nullptr,
                                .epoch = to.epoch.as<std::int32_t>(),
                                .step = to.step.as<std::int32_t>(),
                                .rates_out = to.rates.as<float>(),
                                .rows = rows,
                                .batch_size = batch_size_,
                                .columns = columns_,
                                .ring_steps = in_ring() ? host_->ring_steps() : 1});
  });
}

}  // namespace cohort::distill
