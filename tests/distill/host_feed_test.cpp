// Images that stay in host memory: training and evaluation have the bits of a set that lies on the device.
#include "distill/host_feed.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "core/dispatch.h"
#include "kernels/permutation.h"
#include "tests/support/devices.h"
#include "tests/support/tiny_training.h"

#if defined(COHORT_EMULATED_DEVICE)
#include "tests/simt/runtime/runtime.h"
#endif

namespace cohort::distill {
namespace {

using test::patterns;
using test::RunOptions;
using test::TestRun;

constexpr std::size_t kImageBytes = 8 * 8 * 3;
constexpr std::size_t kBatchBytes = 4 * kImageBytes;

std::vector<std::int32_t> some_indices(std::int64_t count, std::int32_t set_size) {
  std::vector<std::int32_t> indices(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < indices.size(); ++i)
    indices[i] = static_cast<std::int32_t>((7 * i + 3) % static_cast<std::size_t>(set_size));
  return indices;
}

std::vector<std::int32_t> epoch_order(const Context& ctx, const std::vector<std::int32_t>& indices,
                                      int epoch) {
  std::vector<std::int32_t> order(indices.size());
  const auto count = static_cast<std::int64_t>(indices.size());
  std::vector<std::uint64_t> scratch(kernels::permutation_workspace(CpuStream{}, count) / 8 + 1);
  kernels::permutation(CpuStream{},
                       {.values = indices.data(),
                        .out = order.data(),
                        .count = count,
                        .seed = ctx.seed(),
                        .epoch = static_cast<std::uint32_t>(epoch)},
                       std::as_writable_bytes(std::span(scratch)));
  return order;
}

// The thread, the chunks and the ring by themselves; where the copies are the CPU's, so is the ring.
TEST(HostFeed, BringsTheImagesOfEveryStep) {
  Context ctx({.num_threads = 1, .seed = 5});
  const ImageSet set = patterns(40, 5, 3, 0);
  const std::vector<std::int32_t> indices = some_indices(35, 40);
  DeviceImages images = to_device(ctx, set);
  images.host = set.images.data();
  for (const bool shuffle : {true, false}) {
    for (const std::size_t chunk :
         {std::size_t{1}, 2 * kBatchBytes, 3 * kBatchBytes + 5, kBatchBytes * 100}) {
      images.chunk_bytes = chunk;
      HostFeed feed(ctx, images, indices, 4, shuffle);
      EXPECT_LE(feed.ring_steps(), 10) << "never more than an epoch of 9 steps, rounded to chunks";
      for (const auto& [epoch, first] : {std::pair{0, 0}, {1, 5}, {1, 8}, {2, 0}}) {
        const std::vector<std::int32_t> order = shuffle ? epoch_order(ctx, indices, epoch) : indices;
        feed.start(epoch, first);
        const int last = epoch == 1 ? first + 1 : 9;  // some epochs are left in the middle
        for (std::int64_t k = first; k < last; ++k) {
          feed.stage(k);
          for (std::int64_t row = 0; row < std::min<std::int64_t>(4, 35 - 4 * k); ++row) {
            const std::uint8_t* const found =
                feed.ring().as<std::uint8_t>() +
                (k % feed.ring_steps() * 4 + row) * static_cast<std::int64_t>(kImageBytes);
            ASSERT_TRUE(std::equal(found, found + kImageBytes,
                                   set.image(order[static_cast<std::size_t>(4 * k + row)])))
                << "chunk " << chunk << " epoch " << epoch << " step " << k << " row " << row;
          }
        }
      }
    }
  }
}

// What the thread has begun for one epoch is not taken for another's.
TEST(HostFeed, IsStartedAnewAtAnyMoment) {
  Context ctx({.num_threads = 1, .seed = 5});
  ImageSet set = patterns(40, 5, 3, 0);
  set.height = 400;  // long enough to be still under way
  set.images.resize(40 * static_cast<std::size_t>(set.image_bytes()));
  for (std::size_t i = 0; i < set.images.size(); ++i) set.images[i] = static_cast<std::uint8_t>(i / 9600);
  DeviceImages images = to_device(ctx, set);
  images.host = set.images.data();
  images.chunk_bytes = 12 * 9600;
  HostFeed feed(ctx, images, some_indices(35, 40), 4, /*shuffle=*/true);
  for (int epoch = 0; epoch < 400; ++epoch) {
    const int first = 3 * (epoch % 3);
    feed.start(epoch, first);
    if (epoch % 5 != 4) continue;
    feed.stage(first);
    const std::vector<std::int32_t> order = epoch_order(ctx, some_indices(35, 40), epoch);
    for (int row = 0; row < 4; ++row) {
      const std::uint8_t* const found =
          feed.ring().as<std::uint8_t>() + (first % feed.ring_steps() * 4 + row) * 9600;
      ASSERT_EQ(found[0], order[static_cast<std::size_t>(4 * first + row)]) << "epoch " << epoch;
      ASSERT_EQ(found[9599], found[0]);
    }
  }
}

TEST(HostFeed, TheCpuReadsASetInPlace) {
  Context ctx({.num_threads = 1});
  const ImageSet set = patterns(6, 3, 3, 0);
  for (const Residency residency : {Residency::kAuto, Residency::kDevice, Residency::kHost}) {
    const DeviceImages images = to_device(ctx, set, {.residency = residency});
    EXPECT_EQ(images.images.data, set.images.data());
    EXPECT_EQ(images.labels.data, set.labels.data());
    EXPECT_EQ(images.host, nullptr);
  }
}

// --- whole runs ---

struct Trained {
  std::vector<StepRecord> steps;
  std::vector<EpochRecord> epochs;
  std::vector<NamedBytes> state;
};

Trained trained(const RunOptions& options) {
  TestRun run(options);
  run.trainer->run();
  EXPECT_EQ(run.trainer->train_images().host != nullptr,
            options.device.kind == DeviceKind::kCuda && options.placement.residency == Residency::kHost);
  return {run.recorder.steps, run.recorder.epochs, run.trainer->state()};
}

void expect_same_scores(const std::optional<CohortScores>& a, const std::optional<CohortScores>& b) {
  ASSERT_EQ(a.has_value(), b.has_value());
  if (!a) return;
  EXPECT_EQ(a->ensemble.loss, b->ensemble.loss);
  for (std::size_t k = 0; k < a->members.size(); ++k) {
    EXPECT_EQ(a->members[k].loss, b->members[k].loss);
    EXPECT_EQ(a->members[k].top1, b->members[k].top1);
  }
}

void expect_same(const Trained& a, const Trained& b) {
  ASSERT_EQ(a.steps.size(), b.steps.size());
  for (std::size_t i = 0; i < a.steps.size(); ++i) {
    EXPECT_EQ(a.steps[i].operation, b.steps[i].operation);
    for (std::size_t k = 0; k < a.steps[i].members.size(); ++k) {
      EXPECT_EQ(a.steps[i].members[k].loss, b.steps[i].members[k].loss) << "step " << i << " member " << k;
      EXPECT_EQ(a.steps[i].members[k].correct_top1, b.steps[i].members[k].correct_top1);
    }
  }
  ASSERT_EQ(a.epochs.size(), b.epochs.size());
  for (std::size_t i = 0; i < a.epochs.size(); ++i) {
    expect_same_scores(a.epochs[i].held_out, b.epochs[i].held_out);
    expect_same_scores(a.epochs[i].test, b.epochs[i].test);
  }
  ASSERT_EQ(a.state.size(), b.state.size());
  for (std::size_t i = 0; i < a.state.size(); ++i)
    EXPECT_TRUE(a.state[i].bytes == b.state[i].bytes) << a.state[i].name;
}

// 18 images to train on: four full batches and a short one, 1 or 2 to a chunk.
RunOptions tiny(const char* method) {
  RunOptions options{.method = method,
                     .poison = true,
                     .epochs = 3,
                     .device = {DeviceKind::kCuda, 0},
                     .images = 21,
                     .batch_size = 4};
  if (std::string(method) == "competitive") options.settings = {{"cd.perturb", "true"}};
  return options;
}

RunOptions host_fed(RunOptions options, std::size_t chunk_bytes) {
  options.placement = {Residency::kHost, chunk_bytes};
  return options;
}

class HostFedTraining : public testing::Test {
 protected:
  void SetUp() override {
    if (!test::kHasDevice) GTEST_SKIP() << "this build has no CUDA backend, emulated or real";
    COHORT_SKIP_WITHOUT(test::Device::kCuda);
  }
};

TEST_F(HostFedTraining, HasTheBitsOfAResidentSet) {
  const RunOptions options = tiny("dml");
  const Trained expected = trained(options);
  for (const std::size_t steps : {1U, 2U}) {
    SCOPED_TRACE(steps);
    expect_same(expected, trained(host_fed(options, steps * kBatchBytes)));
  }
}

TEST_F(HostFedTraining, HasTheBitsOfAResidentSetWithoutGraphs) {
  RunOptions options = tiny("kdcl-naive");
  options.graph = false;
  expect_same(trained(options), trained(host_fed(options, kBatchBytes)));
}

// Rows of a batch take part in each other's perturbation.
TEST_F(HostFedTraining, HasTheBitsOfAResidentSetUnderPerturbation) {
  const RunOptions options = tiny("competitive");
  expect_same(trained(options), trained(host_fed(options, 2 * kBatchBytes)));
}

TEST_F(HostFedTraining, HasTheBitsOfAResidentSetWithOwnViews) {
  RunOptions options = tiny("dml");
  options.independent_augmentation = true;
  options.precision = Precision::kBF16;
  expect_same(trained(options), trained(host_fed(options, kBatchBytes)));
}

// Stopped after any step of an epoch, in and between chunks, and gone on with from wherever the set lies.
TEST_F(HostFedTraining, ResumesBitwise) {
  RunOptions resident = tiny("dml");
  resident.epochs = 2;
  const RunOptions host = host_fed(resident, 2 * kBatchBytes);
  const Trained expected = trained(resident);
  for (const std::int64_t stop : {3, 4, 7}) {
    const bool host_first = stop % 2 != 0;
    TestRun first(host_first ? host : resident);
    first.recorder.stop_at = stop;
    EXPECT_EQ(first.trainer->run().stopped, StopRequest::kTerminate);
    TestRun second(stop == 7 ? resident : host);
    second.trainer->restore(first.trainer->state());
    second.trainer->run();
    const std::vector<NamedBytes> state = second.trainer->state();
    for (std::size_t i = 0; i < state.size(); ++i)
      EXPECT_TRUE(state[i].bytes == expected.state[i].bytes) << "stop " << stop << ": " << state[i].name;
  }
}

TEST_F(HostFedTraining, EvaluatesInChunks) {
  TestRun run(tiny("independent"));
  const ImageSet set = patterns(620, 5, 3, 1);
  std::vector<std::int32_t> indices = some_indices(610, 620);
  const auto resident = run.cohort->predict(to_device(run.context(), set, {Residency::kDevice}), indices);
  const DeviceImages host = to_device(run.context(), set, {Residency::kHost, 1});
  for (int again = 0; again < 3; ++again)  // eager, eager, captured
    EXPECT_EQ(run.cohort->predict(host, indices), resident);
}

#if defined(COHORT_EMULATED_DEVICE)
std::ptrdiff_t num_threads() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                       std::filesystem::directory_iterator());
}

// What only the emulated device can show.
class HostFedEmulated : public HostFedTraining {
 protected:
  void TearDown() override {
    simt::set_order({});
    simt::reset();
  }
};

// The host is as far ahead as it can be: whole epochs of steps are queued, and each finds its own images, in
// whatever order the device runs copies and steps. Instrumented for ThreadSanitizer as host_feed_tests_tsan.
TEST_F(HostFedEmulated, EveryStepFindsItsImagesInAnyOrderOfTheQueues) {
  const ImageSet set = patterns(40, 5, 3, 0);
  const std::vector<std::int32_t> indices = some_indices(35, 40);
  for (const simt::StreamOrder order : simt::all_orders()) {
    for (const std::size_t chunk : {std::size_t{1}, 2 * kBatchBytes, kBatchBytes * 100}) {
      SCOPED_TRACE(simt::to_string(order) + " " + std::to_string(chunk));
      simt::set_order(order);
      Context ctx({.device = {DeviceKind::kCuda, 0}, .num_threads = 1, .seed = 5});
      HostFeed feed(ctx, to_device(ctx, set, {Residency::kHost, chunk}), indices, 4, /*shuffle=*/true);
      const auto stream = static_cast<cudaStream_t>(ctx.cuda_stream().handle);
      int right = 0, steps = 0;
      for (const auto& [epoch, first] : {std::pair{0, 0}, {1, 5}, {2, 0}}) {
        const std::vector<std::int32_t> images = epoch_order(ctx, indices, epoch);
        feed.start(epoch, first);
        for (std::int64_t k = first; k < 9; ++k, ++steps) {
          feed.stage(k);
          const auto rows = static_cast<std::size_t>(std::min<std::int64_t>(4, 35 - 4 * k));
          const std::uint8_t* const ring =
              feed.ring().as<std::uint8_t>() + k % feed.ring_steps() * static_cast<std::int64_t>(kBatchBytes);
          std::vector<std::uint8_t> expected;
          for (std::size_t row = 0; row < rows; ++row) {
            const std::uint8_t* const image = set.image(images[static_cast<std::size_t>(4 * k) + row]);
            expected.insert(expected.end(), image, image + kImageBytes);
          }
          simt::enqueue(stream, "step", [ring, expected, &right] {
            right += std::equal(expected.begin(), expected.end(), ring) ? 1 : 0;
          });
        }
      }
      ctx.synchronize();
      EXPECT_EQ(right, steps);
    }
  }
}

TEST_F(HostFedEmulated, AnEpochOfTwoChunksIsTwoCopiesAndNoWait) {
  TestRun run(host_fed(tiny("dml"), 4 * kBatchBytes));
  const ImageSet set = patterns(30, 5, 3, 0);
  const DeviceImages images = to_device(run.context(), set, {Residency::kHost, 4 * kBatchBytes});
  std::vector<std::int32_t> indices(30);
  std::iota(indices.begin(), indices.end(), 0);
  Feed feed = run.cohort->make_feed(images, indices, 4, /*shuffle=*/true);
  const auto steps = static_cast<std::size_t>(feed.steps_per_epoch());
  const std::vector<float> rates = run.cohort->rate_table({steps, std::vector<double>(2, 0.05)});
  for (int epoch = 0; epoch < 4; ++epoch) {
    feed.start(epoch, 0, rates);
    run.context().synchronize();
    const auto calls = [] {
      return std::vector<int>{simt::calls("launch"),
                              simt::calls("cudaMalloc"),
                              simt::calls("cudaMemsetAsync"),
                              simt::calls("cudaStreamSynchronize"),
                              simt::calls("cudaDeviceSynchronize"),
                              simt::calls("cudaEventSynchronize")};
    };
    const std::vector<int> before = calls();
    const int graphs = simt::calls("cudaGraphLaunch"), copies = simt::calls("cudaMemcpyAsync");
    for (std::size_t i = 0; i < steps; ++i) run.cohort->train(feed);
    if (epoch < 3) continue;  // steps of both sizes are captured
    EXPECT_EQ(calls(), before) << "kernels, memory, waits";
    EXPECT_EQ(simt::calls("cudaMemcpyAsync") - copies, 2);
    EXPECT_EQ(simt::calls("cudaGraphLaunch") - graphs, static_cast<int>(steps));
    EXPECT_GT(simt::num_pending(), 0) << "the host is ahead of the device";
  }
  run.context().synchronize();
}

TEST_F(HostFedEmulated, OutOfPinnedMemory) {
  { TestRun once(host_fed(tiny("dml"), kBatchBytes)); }  // what a process stages its uploads in stays
  const std::ptrdiff_t threads = num_threads();
  const std::size_t pinned = simt::pinned_bytes();
  for (const int nth : {2, 3}) {  // the first is the cohort's, for what steps measured
    simt::fail_next("cudaHostAlloc", cudaErrorMemoryAllocation, nth);
    RunOptions options = host_fed(tiny("dml"), kBatchBytes);
    options.threads = 1;
    try {
      TestRun run(options);
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kMemory);
      EXPECT_NE(std::string(error.what()).find("out of pinned host memory: 768 bytes"), std::string::npos)
          << error.what();
    }
    EXPECT_EQ(simt::pinned_bytes(), pinned);
    EXPECT_EQ(num_threads(), threads);
  }
}

// A copy that cannot be made ends the run where it would be needed, and the thread with it.
TEST_F(HostFedEmulated, FailedCopiesAreReported) {
  const std::ptrdiff_t threads = num_threads();
  for (const char* call : {"cudaMemcpyAsync", "cudaEventQuery", "cudaStreamWaitEvent"}) {
    Context ctx({.device = {DeviceKind::kCuda, 0}, .num_threads = 1});
    const ImageSet set = patterns(12, 3, 3, 0);
    const DeviceImages images = to_device(ctx, set, {Residency::kHost, 1});
    HostFeed feed(ctx, images, some_indices(12, 12), 4, /*shuffle=*/true);
    EXPECT_EQ(num_threads(), threads + 1);
    feed.start(0, 0);
    simt::fail_next(call, cudaErrorInvalidValue);
    try {
      for (int step = 0; step < 3; ++step) feed.stage(step);
      FAIL() << call;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kDevice);
      EXPECT_NE(std::string(error.what()).find(call), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(num_threads(), threads);
}

TEST_F(HostFedEmulated, TheChoiceIsLeftToTheDevicesMemory) {
  simt::set_devices({.memory = simt::device_bytes() + (std::size_t{24} << 20)});
  Context ctx({.device = {DeviceKind::kCuda, 0}, .num_threads = 1});
  const ImageSet small = patterns(60, 5, 3, 0);
  ImageSet large = small;  // 20 MiB, where 16 are free
  large.height = large.width = 1024;
  large.channels = 1;
  large.labels.resize(20);
  large.images.assign(std::size_t{20} << 20, 3);
  EXPECT_EQ(to_device(ctx, small).host, nullptr);
  EXPECT_EQ(to_device(ctx, large).host, large.images.data());
  EXPECT_EQ(to_device(ctx, small, {Residency::kHost}).host, small.images.data());
  try {
    to_device(ctx, large, {Residency::kDevice});
    FAIL() << "it fits";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kMemory);
    EXPECT_NE(std::string(error.what()).find("'patterns' do not fit"), std::string::npos) << error.what();
    EXPECT_NE(error.hint().find("data.residency=host"), std::string::npos);
  }
}
#endif

}  // namespace
}  // namespace cohort::distill
