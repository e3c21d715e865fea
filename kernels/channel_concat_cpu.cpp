#include <algorithm>
#include <type_traits>

#include "kernels/base/error.h"
#include "kernels/channel_concat.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

using Index = std::int64_t;

Index rows_per_chunk(Index channels) {
  constexpr Index kGrain = 1 << 15;  // elements per chunk, as of the elementwise kernels
  return std::max<Index>(1, kGrain / std::max<Index>(1, channels));
}

// f(k, count, at) for the runs of s within its channels [begin, end): s[k + i] is y[at + i * groups].
template <class F>
void for_runs(Index begin, Index end, Index per_group, Index groups, F&& f) {
  for (Index k = begin; k < end;) {
    const Index group = k / per_group;
    const Index stop = std::min(end, (group + 1) * per_group);
    f(k, stop - k, (k - group * per_group) * groups + group);
    k = stop;
  }
}

template <class T>
void forward(CpuStream stream, const ChannelConcatForwardArgs& args) {
  const Index channels = args.part_a.count + args.part_b.count;
  const Index groups = args.groups;
  const auto copy = [=](const ChannelPart& part, const T* x, T* y, Index offset) {
    for_runs(offset, offset + part.count, channels / groups, groups, [=](Index k, Index count, Index at) {
      const T* const from = x + part.first + (k - offset);
      T* const to = y + at;
      if (groups == 1) {
        std::copy_n(from, count, to);
      } else {
        for (Index i = 0; i < count; ++i) to[i * groups] = from[i];
      }
    });
  };
  parallel_for(stream, args.rows, rows_per_chunk(channels), [&](Index begin, Index end) {
    for (Index row = begin; row < end; ++row) {
      T* const y = static_cast<T*>(args.y) + row * channels;
      copy(args.part_a, static_cast<const T*>(args.a) + row * args.part_a.channels, y, 0);
      if (args.part_b.count > 0) {
        const T* const b = static_cast<const T*>(args.b) + row * args.part_b.channels;
        copy(args.part_b, b, y, args.part_a.count);
      }
    }
  });
}

template <class T>
void backward(CpuStream stream, const ChannelConcatBackwardArgs& args) {
  const ChannelPart part = args.part;
  const Index groups = args.groups;
  const bool accumulate = args.mode == GradMode::kAccumulate;
  parallel_for(stream, args.rows, rows_per_chunk(part.channels), [&](Index begin, Index end) {
    for (Index row = begin; row < end; ++row) {
      const T* const grad_y = static_cast<const T*>(args.grad_y) + row * args.channels;
      T* const grad = static_cast<T*>(args.grad_part) + row * part.channels;
      if (!accumulate) {
        std::fill_n(grad, part.first, T{});
        std::fill_n(grad + part.first + part.count, part.channels - part.first - part.count, T{});
      }
      for_runs(args.offset, args.offset + part.count, args.channels / groups, groups,
               [=](Index k, Index count, Index at) {
                 const T* const from = grad_y + at;
                 T* const to = grad + part.first + (k - args.offset);
                 if (accumulate) {
#pragma omp simd
                   for (Index i = 0; i < count; ++i) store(to, i, load(to, i) + load(from, i * groups));
                 } else {
                   for (Index i = 0; i < count; ++i) to[i] = from[i * groups];
                 }
               });
    }
  });
}

}  // namespace

void channel_concat_forward(CpuStream stream, const ChannelConcatForwardArgs& args) {
  check((args.part_a.count + args.part_b.count) % args.groups == 0, "channel_concat: groups do not divide");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { forward<T>(stream, args); });
}

void channel_concat_backward(CpuStream stream, const ChannelConcatBackwardArgs& args) {
  check(args.channels % args.groups == 0, "channel_concat: groups do not divide");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { backward<T>(stream, args); });
}

}  // namespace cohort::kernels
