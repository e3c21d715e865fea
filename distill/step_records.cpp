#include "distill/step_records.h"

#include "core/dispatch.h"
#include "kernels/step_record.h"

namespace cohort::distill {
namespace {

constexpr std::int64_t kWidth = 512;

std::size_t slot(std::int64_t step) {
  return static_cast<std::size_t>(step % StepRecords::kMaxAhead);
}

}  // namespace

StepRecords::StepRecords(Context& ctx) : ctx_(ctx) {
  on_device(ctx, [&](auto stream) {
    for (kernels::Marker& marker : markers_) marker = kernels::make_marker(stream);
    ring_ = static_cast<double*>(kernels::allocate_pinned(stream, kMaxAhead * kWidth * sizeof(double)));
  });
}

StepRecords::~StepRecords() {
  on_device(ctx_, [&](auto stream) {
    for (const kernels::Marker marker : markers_) kernels::release(stream, marker);
    kernels::deallocate_pinned(stream, ring_);
  });
}

void StepRecords::write(const std::vector<Tensor>& sources, const Tensor& step) {
  kernels::StepRecordArgs args{
      .ring = ring_, .width = kWidth, .capacity = kMaxAhead, .step = step.as<std::int32_t>()};
  std::int64_t width = 0;
  for (const Tensor& source : sources) {
    check(args.num_sources < kernels::kMaxRecordSources, "cohort: too many terms to record");
    args.sources[static_cast<std::size_t>(args.num_sources++)] = {
        source.data, static_cast<std::int32_t>(source.count()), source.dtype};
    width += source.count();
  }
  check(width <= kWidth, "cohort: too many values to record");
  on_device(ctx_, [&](auto stream) { kernels::step_record(stream, args); });
}

void StepRecords::mark(std::int64_t step, const Report* report) {
  on_device(ctx_, [&](auto stream) { kernels::mark(stream, markers_[slot(step)]); });
  reports_[slot(step)] = report;
}

std::pair<const double*, const Report*> StepRecords::read(std::int64_t step) {
  on_device(ctx_, [&](auto stream) { kernels::wait(stream, markers_[slot(step)]); });
  return {ring_ + static_cast<std::int64_t>(slot(step)) * kWidth, reports_[slot(step)]};
}

}  // namespace cohort::distill
