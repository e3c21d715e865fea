// A batch per member and everything that the perturbation kernels write.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/perturb.h"
#include "tests/support/devices.h"
#include "tests/support/guard.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace cohort::kernels {

inline constexpr Normalisation kTestNormalisation{{0.5, 0.4, 0.45, 0.3}, {0.25, 0.2, 0.3, 0.5}};

template <class T>
struct PerturbRun {
  PerturbRun(test::Place place_, int num_members, std::int64_t batch, int height_, int width_,
             int channels_ = 3)
      : place(place_), height(height_), width(width_), channels(channels_), batch_size(batch) {
    const std::size_t count = static_cast<std::size_t>(batch) * pixels();
    test::Random random(11);
    for (std::size_t i = 0; i < count; ++i) {  // normalised values of pixels
      const std::size_t c = i % static_cast<std::size_t>(channels);
      const double pixel = random.integer(0, 255) / 255.0;
      clean.push_back(T((pixel - kTestNormalisation.mean[c]) / kTestNormalisation.std[c]));
    }
    for (int m = 0; m < num_members; ++m) batches.emplace_back(clean);
    labels = random.integers<std::int32_t>(static_cast<std::size_t>(batch), 0, 9);
  }

  std::size_t pixels() const { return static_cast<std::size_t>(height * width * channels); }
  void reset() {
    for (auto& b : batches) std::copy(clean.begin(), clean.end(), b.data());
  }
  void run() {
    call();
    for (const auto& b : batches) EXPECT_TRUE(b.intact());
    EXPECT_TRUE(member.intact() && operation.intact() && moved_member.intact() && mixed_labels.intact() &&
                weights.intact() && permutations.intact());
  }
  void only(PerturbOp op) {
    options.pool[0] = op;
    options.pool_size = 1;
  }
  PerturbDraw draw(std::int64_t row) const {
    return draw_perturb(static_cast<PerturbOp>(operation[0]), options, seed,
                        static_cast<std::uint32_t>(member[0]), static_cast<std::uint32_t>(step),
                        static_cast<std::uint32_t>(row), height, width);
  }
  // Pixel (b, y, x, c) of the clean batch, in double.
  double at(std::int64_t b, int y, int x, int c) const {
    return static_cast<double>(
        clean[static_cast<std::size_t>(((b * height + y) * width + x) * channels + c)]);
  }
  std::int64_t partner(int k, std::int64_t b) const {
    return permutations[static_cast<std::size_t>(k * batch_size + b)];
  }

  test::Place place;
  int height, width, channels;
  std::int64_t batch_size;
  std::uint64_t seed = 99;
  std::int32_t step = 3;
  std::int32_t valid = static_cast<std::int32_t>(batch_size);
  PerturbOptions options = paper_perturbation(32);
  std::vector<T> clean;
  std::vector<test::Guarded<T>> batches;
  std::vector<std::int32_t> labels;
  test::Guarded<std::int32_t> member{1}, operation{1}, moved_member{1};
  test::Guarded<std::int32_t> mixed_labels{static_cast<std::size_t>(batch_size * 4)};
  test::Guarded<Accumulator<T>> weights{static_cast<std::size_t>(batch_size * 4)};
  test::Guarded<std::int32_t> permutations{static_cast<std::size_t>(batch_size * 3)};

 private:
  // On buffers of `place`, with scratch memory of exactly the size the kernel asks for.
  void call() {
    const std::vector<std::int32_t> steps{step}, valid_rows{valid};
    test::OnDevice on(place);
    const std::vector<T> before = clean;
    std::vector<void*> pointers;
    for (auto& b : batches) pointers.push_back(on(b));
    const std::vector<const void*> sources(batches.size(), on(clean));
    const PerturbArgs args{.batches = pointers,
                           .sources = sources,
                           .labels = on(labels),
                           .step = on(steps),
                           .valid_rows = on(valid_rows),
                           .member = on(member),
                           .operation = on(operation),
                           .moved_member = on(moved_member),
                           .mixed_labels = on(mixed_labels),
                           .label_weights = on(weights),
                           .permutations = on(permutations),
                           .batch_size = batch_size,
                           .height = height,
                           .width = width,
                           .channels = channels,
                           .dtype = dtype_of<T>(),
                           .seed = seed,
                           .options = options,
                           .normalisation = kTestNormalisation};
    std::size_t needed = 0;
    test::OnDevice(place).run([&](auto stream) { needed = perturb_workspace(stream, args); });
    test::Scratch scratch(needed);
    on.run([&](auto stream) { perturb(stream, args, on(scratch)); });
    EXPECT_TRUE(scratch.intact());
    EXPECT_TRUE(test::same_bits(clean, before));
  }
};

}  // namespace cohort::kernels
