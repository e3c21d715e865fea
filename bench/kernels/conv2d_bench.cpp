// The convolutions of ResNet-32 on CIFAR at batch 128: every layer, pass, dtype and 1 or 2 threads, and on a
// GPU. FLOP from conv2d_flops; the label is the code that ran. The last group is the weighted sum of a whole
// network: images/s as if convolutions were all of its training.
#include "kernels/conv2d.h"

#include <benchmark/benchmark.h>

#include <array>
#include <random>
#include <string>
#include <vector>

#include "bench/support/device_bench.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

struct Layer {
  const char* name;
  Conv2dShape shape;
  int count;  // in ResNet-32
};

constexpr std::int64_t kBatch = bench::scaled(128);

const std::array kLayers = {
    Layer{"stem", {.n = kBatch, .h = 32, .w = 32, .c = 3, .k = 16, .kh = 3, .kw = 3, .padding = 1}, 1},
    Layer{"16", {.n = kBatch, .h = 32, .w = 32, .c = 16, .k = 16, .kh = 3, .kw = 3, .padding = 1}, 10},
    Layer{"16-32/2",
          {.n = kBatch, .h = 32, .w = 32, .c = 16, .k = 32, .kh = 3, .kw = 3, .stride = 2, .padding = 1},
          1},
    Layer{"1x1:16-32/2", {.n = kBatch, .h = 32, .w = 32, .c = 16, .k = 32, .stride = 2}, 1},
    Layer{"32", {.n = kBatch, .h = 16, .w = 16, .c = 32, .k = 32, .kh = 3, .kw = 3, .padding = 1}, 9},
    Layer{"32-64/2",
          {.n = kBatch, .h = 16, .w = 16, .c = 32, .k = 64, .kh = 3, .kw = 3, .stride = 2, .padding = 1},
          1},
    Layer{"1x1:32-64/2", {.n = kBatch, .h = 16, .w = 16, .c = 32, .k = 64, .stride = 2}, 1},
    Layer{"64", {.n = kBatch, .h = 8, .w = 8, .c = 64, .k = 64, .kh = 3, .kw = 3, .padding = 1}, 9},
};

constexpr std::array kPasses = {Conv2dPass::kForward, Conv2dPass::kBackwardData,
                                Conv2dPass::kBackwardWeights};
constexpr std::array kPassNames = {"forward", "backward_data", "backward_weights"};

// Operands of one layer, f32 or bf16 in the same bytes.
class Operands {
 public:
  Operands(CpuStream stream, const Conv2dShape& shape, DType dtype)
      : stream_(stream),
        shape_(shape),
        dtype_(dtype),
        x_(filled(shape.num_x())),
        weight_(filled(shape.num_weight())),
        y_(filled(shape.num_y())),
        grad_weight_(static_cast<std::size_t>(shape.num_weight()) * sizeof(float)) {
    std::size_t bytes = 0;
    for (const Conv2dPass pass : kPasses)
      bytes = std::max(bytes, conv2d_workspace(stream, shape, dtype, pass));
    workspace_.resize(bytes + 64);
  }

  void run(Conv2dPass pass) {
    const auto base = (reinterpret_cast<std::uintptr_t>(workspace_.data()) + 63) / 64 * 64;
    const Workspace workspace{reinterpret_cast<std::byte*>(base), workspace_.size() - 64};
    switch (pass) {
      case Conv2dPass::kForward:
        conv2d_forward(stream_, {.shape = shape_,
                                 .dtype = dtype_,
                                 .x = x_.data(),
                                 .weight = weight_.data(),
                                 .y = y_.data(),
                                 .workspace = workspace});
        break;
      case Conv2dPass::kBackwardData:
        conv2d_backward_data(stream_, {.shape = shape_,
                                       .dtype = dtype_,
                                       .grad_y = y_.data(),
                                       .weight = weight_.data(),
                                       .grad_x = x_.data(),
                                       .workspace = workspace});
        break;
      case Conv2dPass::kBackwardWeights:
        conv2d_backward_weights(stream_, {.shape = shape_,
                                          .dtype = dtype_,
                                          .x = x_.data(),
                                          .grad_y = y_.data(),
                                          .grad_weight = grad_weight_.data(),
                                          .workspace = workspace});
        break;
    }
  }

 private:
  // Small random values: repeated runs stay finite. Never zeros, which may run faster.
  std::vector<std::byte> filled(std::int64_t count) const {
    std::vector<std::byte> bytes(static_cast<std::size_t>(count) * size_of(dtype_));
    std::minstd_rand random(1);
    std::uniform_real_distribution<float> uniform(-0.1F, 0.1F);
    for (std::int64_t i = 0; i < count; ++i) {
      if (dtype_ == DType::f32) {
        reinterpret_cast<float*>(bytes.data())[i] = uniform(random);
      } else {
        reinterpret_cast<bf16*>(bytes.data())[i] = bf16(uniform(random));
      }
    }
    return bytes;
  }

  CpuStream stream_;
  Conv2dShape shape_;
  DType dtype_;
  std::vector<std::byte> x_, weight_, y_, grad_weight_, workspace_;
};

void run_layer(benchmark::State& state, const Layer& layer, Conv2dPass pass, DType dtype, int threads) {
  ThreadPool pool(threads);
  Operands operands(CpuStream{&pool}, layer.shape, dtype);
  for (auto _ : state) operands.run(pass);
  state.counters["FLOP"] = benchmark::Counter(static_cast<double>(conv2d_flops(layer.shape)),
                                              benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(conv2d_implementation(CpuStream{&pool}, layer.shape, dtype, pass));
}

void run_network(benchmark::State& state, DType dtype, int threads) {
  ThreadPool pool(threads);
  std::vector<Operands> operands;
  for (const Layer& layer : kLayers) operands.emplace_back(CpuStream{&pool}, layer.shape, dtype);
  for (auto _ : state) {
    for (std::size_t i = 0; i < kLayers.size(); ++i) {
      for (int repeat = 0; repeat < kLayers[i].count; ++repeat) {
        for (const Conv2dPass pass : kPasses) {
          if (i != 0 || pass != Conv2dPass::kBackwardData) operands[i].run(pass);
        }
      }
    }
  }
  state.counters["images"] =
      benchmark::Counter(static_cast<double>(kBatch), benchmark::Counter::kIsIterationInvariantRate);
}

template <class T>
void run_on_device(benchmark::State& state, bench::Mode mode, const Conv2dShape& shape, Conv2dPass pass) {
  bench::measure(
      state, mode, {.flops = static_cast<double>(conv2d_flops(shape))},
      [&](auto stream, bench::Memory& memory) {
        constexpr DType kType = dtype_of<T>();
        T* const x = memory.normals<T>(shape.num_x(), 0.1);
        T* const weight = memory.normals<T>(shape.num_weight(), 0.1);
        T* const y = memory.normals<T>(shape.num_y(), 0.1);
        float* const grad_weight = memory.empty<float>(shape.num_weight());
        const Workspace workspace = memory.workspace(conv2d_workspace(stream, shape, kType, pass));
        state.SetLabel(conv2d_implementation(stream, shape, kType, pass));
        return [=](auto on) {
          if (pass == Conv2dPass::kForward) {
            conv2d_forward(
                on,
                {.shape = shape, .dtype = kType, .x = x, .weight = weight, .y = y, .workspace = workspace});
          } else if (pass == Conv2dPass::kBackwardData) {
            conv2d_backward_data(on, {.shape = shape,
                                      .dtype = kType,
                                      .grad_y = y,
                                      .weight = weight,
                                      .grad_x = x,
                                      .workspace = workspace});
          } else {
            conv2d_backward_weights(on, {.shape = shape,
                                         .dtype = kType,
                                         .x = x,
                                         .grad_y = y,
                                         .grad_weight = grad_weight,
                                         .workspace = workspace});
          }
        };
      });
}

[[maybe_unused]] const bool registered_on_device = [] {
  for (const Layer& layer : kLayers) {
    for (std::size_t i = 0; i < kPasses.size(); ++i) {
      if (layer.shape.c == 3 && kPasses[i] == Conv2dPass::kBackwardData) continue;
      const std::string name = "conv2d/" + std::string(layer.name) + "/" + kPassNames[i];
      bench::add_on_device(name + "/f32", [&layer, i](benchmark::State& state, bench::Mode mode) {
        run_on_device<float>(state, mode, layer.shape, kPasses[i]);
      });
      bench::add_on_device(name + "/bf16", [&layer, i](benchmark::State& state, bench::Mode mode) {
        run_on_device<bf16>(state, mode, layer.shape, kPasses[i]);
      });
    }
  }
  return true;
}();

[[maybe_unused]] const bool registered = [] {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int threads : {1, 2}) {
      const std::string suffix = std::string("/") + name_of(dtype) + "/threads:" + std::to_string(threads);
      for (const Layer& layer : kLayers) {
        for (std::size_t i = 0; i < kPasses.size(); ++i) {
          if (layer.shape.c == 3 && kPasses[i] == Conv2dPass::kBackwardData) continue;
          benchmark::RegisterBenchmark(
              ("conv2d/" + std::string(layer.name) + "/" + kPassNames[i] + suffix).c_str(),
              [&layer, i, dtype, threads](benchmark::State& state) {
                run_layer(state, layer, kPasses[i], dtype, threads);
              })
              ->Unit(benchmark::kMicrosecond)
              ->UseRealTime();
        }
      }
      benchmark::RegisterBenchmark(
          ("conv2d/resnet32" + suffix).c_str(),
          [dtype, threads](benchmark::State& state) { run_network(state, dtype, threads); })
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
    }
  }
  return true;
}();

}  // namespace
}  // namespace cohort::kernels
