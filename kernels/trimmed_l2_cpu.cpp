#include <algorithm>

#include "kernels/base/square_key.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cpu/parallel.h"
#include "kernels/trimmed_l2.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kChunk = 16384;
constexpr int kBins = 256;

std::int64_t chunks_of(std::int64_t group_size) {
  return std::max<std::int64_t>(1, ceil_div(group_size, kChunk));
}

template <class A>
struct Group {
  TrimBorder<A> border;
  std::uint32_t to_drop = 0;  // among those that share the digits found so far
};

template <class T>
struct Job {
  using A = Accumulator<T>;
  const T *student, *teacher;
  std::int64_t group_size, chunks, stride;  // elements of a group that count, and between two groups
  Group<A>* groups;
  double* partial;       // (groups, chunks)
  std::uint32_t* count;  // (groups, chunks, bins)

  A difference(std::int64_t i) const { return static_cast<A>(student[i]) - static_cast<A>(teacher[i]); }

  // f(group, its number, chunk, begin, end) over all chunks.
  template <class F>
  void each_chunk(CpuStream stream, std::int64_t num_groups, F&& f) const {
    parallel_chunks(stream, num_groups * chunks, [&](std::int64_t at, int) {
      const std::int64_t group = at / chunks, first = group * stride + at % chunks * kChunk;
      f(groups[group], at, first, std::min(group * stride + group_size, first + kChunk));
    });
  }

  void find_borders(CpuStream stream, std::int64_t num_groups) const {
    using Key = SquareKey<A>;
    for (int shift = 8 * static_cast<int>(sizeof(A)) - 8; shift >= 0; shift -= 8) {
      each_chunk(
          stream, num_groups, [&](Group<A>& group, std::int64_t at, std::int64_t begin, std::int64_t end) {
            std::uint32_t* const bins = count + at * kBins;
            std::fill(bins, bins + kBins, 0U);
            const Key found = shift + 8 < 8 * static_cast<int>(sizeof(A)) ? ~Key{0} << (shift + 8) : Key{0};
            for (std::int64_t i = begin; i < end; ++i) {
              const A d = difference(i);
              const Key key = key_of_square<A>(d * d);
              if ((key & found) == group.border.key) ++bins[(key >> shift) & 255U];
            }
          });
      for (std::int64_t g = 0; g < num_groups; ++g) next_digit(g, shift);
    }
  }

  // The digit of the border: from the largest down, the first with which the dropped ones are enough.
  void next_digit(std::int64_t g, int shift) const {
    Group<A>& group = groups[g];
    for (int bin = kBins - 1; bin >= 0; --bin) {
      std::uint32_t here = 0;
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) here += count[(g * chunks + chunk) * kBins + bin];
      if (group.to_drop > here) {
        group.to_drop -= here;
        continue;
      }
      group.border.key |= static_cast<SquareKey<A>>(bin) << shift;
      group.border.of_border = static_cast<A>(here - group.to_drop) / static_cast<A>(here);
      return;
    }
  }
};

template <class T>
void clear(T* grad, std::int64_t begin, std::int64_t end, GradMode mode) {
  if (grad != nullptr && mode == GradMode::kOverwrite && begin < end)
    std::fill(grad + begin, grad + end, T{});
}

template <class T>
void run(CpuStream stream, const TrimmedL2Args& args, Workspace workspace) {
  using A = Accumulator<T>;
  const TrimmedL2Shape& shape = args.shape;
  const std::int64_t rows = count_valid(args.valid_rows, shape.rows);
  const double weight = static_cast<double>(*static_cast<const A*>(args.weight));
  auto* const grad = static_cast<T*>(args.grad_student);
  if (weight == 0 || rows * shape.row_size == 0) {
    clear(grad, 0, shape.elements(), args.grad_mode);
    if (args.value != nullptr) *static_cast<A*>(args.value) = 0;
    return;
  }
  const std::int64_t num_groups = shape.per_row ? rows : 1;
  const std::int64_t size = shape.per_row ? shape.row_size : rows * shape.row_size, chunks = chunks_of(size);
  auto* const partial = reinterpret_cast<double*>(workspace.data());
  auto* const groups = reinterpret_cast<Group<A>*>(partial + num_groups * chunks);
  auto* const count = reinterpret_cast<std::uint32_t*>(groups + num_groups);
  const Job<T> job{static_cast<const T*>(args.student),
                   static_cast<const T*>(args.teacher),
                   size,
                   chunks,
                   size,
                   groups,
                   partial,
                   count};
  const std::int64_t dropped = size / 3;
  for (std::int64_t g = 0; g < num_groups; ++g)
    groups[g] = {{.all = dropped == 0}, static_cast<std::uint32_t>(dropped)};
  if (dropped > 0) job.find_borders(stream, num_groups);
  const double scale = 1.0 / (static_cast<double>(size - dropped) * static_cast<double>(num_groups));
  const auto k = static_cast<A>(2 * weight * scale);
  job.each_chunk(
      stream, num_groups, [&](const Group<A>& group, std::int64_t at, std::int64_t begin, std::int64_t end) {
        A sum = 0;
        for (std::int64_t i = begin; i < end; ++i) {
          const A d = job.difference(i), keep = group.border.keeps(key_of_square<A>(d * d));
          sum += keep * (d * d);
          if (grad == nullptr) continue;
          const A g = k * keep * d;
          grad[i] = static_cast<T>(args.grad_mode == GradMode::kAccumulate ? static_cast<A>(grad[i]) + g : g);
        }
        job.partial[at] = static_cast<double>(sum);
      });
  clear(grad, rows * shape.row_size, shape.elements(), args.grad_mode);
  double sum = 0;
  for (std::int64_t i = 0; i < num_groups * chunks; ++i) sum += partial[i];
  const double value = scale * sum;
  if (args.value != nullptr) *static_cast<A*>(args.value) = static_cast<A>(value);
  if (args.loss != nullptr) *static_cast<A*>(args.loss) += static_cast<A>(weight * value);
}

}  // namespace

std::size_t trimmed_l2_workspace(CpuStream, const TrimmedL2Shape& shape) {
  const auto groups = static_cast<std::size_t>(shape.groups());
  const std::size_t chunks = groups * static_cast<std::size_t>(chunks_of(shape.group_size()));
  return chunks * (sizeof(double) + kBins * sizeof(std::uint32_t)) + groups * sizeof(Group<double>);
}

void trimmed_l2(CpuStream stream, const TrimmedL2Args& args, Workspace workspace) {
  validate(args, workspace, trimmed_l2_workspace(stream, args.shape));
  dispatch_float(args.shape.dtype, [&]<class T>(std::type_identity<T>) { run<T>(stream, args, workspace); });
}

}  // namespace cohort::kernels
