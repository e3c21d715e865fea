#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "core/device.h"
#include "kernels/conv2d.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/devices.h"
#include "tools/build_info.h"
#include "tools/commands.h"
#include "tools/cuda_libraries.h"
#include "tools/messages.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

// None in a build without CUDA.
std::optional<kernels::CudaDevices> cuda_devices() {
  if constexpr (kHasCuda) return kernels::query_cuda_devices();
  return std::nullopt;
}

std::string cuda_version(int version) {
  return version == 0 ? "none" : fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

std::vector<std::string> cuda_lines(const std::optional<kernels::CudaDevices>& cuda) {
  if (!cuda) return {"not in this build (configure with a CUDA toolkit and -DCOHORT_CUDA=ON)"};
  const std::string versions =
      fmt::format("built with CUDA {}, driver serves {}", cuda_version(cuda->runtime_version),
                  cuda_version(cuda->driver_version));
  if (!cuda->problem.empty()) return {versions, "no device: " + cuda->problem};
  std::vector<std::string> lines = {versions};
  for (std::size_t i = 0; i < cuda->devices.size(); ++i) {
    const kernels::CudaDevice& device = cuda->devices[i];
    lines.push_back(fmt::format("cuda:{} {}, compute capability {}.{}, {} SMs, {:.1f} GiB", i, device.name,
                                device.compute_major, device.compute_minor, device.num_sms,
                                static_cast<double>(device.memory_bytes) / (1024.0 * 1024.0 * 1024.0)));
  }
  return lines;
}

void add_cuda(nlohmann::ordered_json& json, const std::optional<kernels::CudaDevices>& cuda) {
  json["devices"] = nlohmann::ordered_json::array({"cpu"});
  if (!cuda) return;
  json["cuda_runtime"] = cuda->runtime_version;
  json["cuda_driver"] = cuda->driver_version;
  json["cuda_problem"] = cuda->problem;
  json["cuda_devices"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < cuda->devices.size(); ++i) {
    const kernels::CudaDevice& device = cuda->devices[i];
    json["devices"].push_back(fmt::format("cuda:{}", i));
    json["cuda_devices"].push_back({{"name", device.name},
                                    {"compute_capability", {device.compute_major, device.compute_minor}},
                                    {"sms", device.num_sms},
                                    {"memory_bytes", device.memory_bytes}});
  }
}

struct SampleConvolution {
  const char* name;
  kernels::Conv2dShape shape;
};

// One of each kind in the CIFAR networks, at batch 128.
const std::vector<SampleConvolution>& sample_convolutions() {
  static const std::vector<SampleConvolution> samples = {
      {"3x3 3->16 32x32", {.n = 128, .h = 32, .w = 32, .c = 3, .k = 16, .kh = 3, .kw = 3, .padding = 1}},
      {"3x3 16->16 32x32", {.n = 128, .h = 32, .w = 32, .c = 16, .k = 16, .kh = 3, .kw = 3, .padding = 1}},
      {"3x3/2 16->32 32x32",
       {.n = 128, .h = 32, .w = 32, .c = 16, .k = 32, .kh = 3, .kw = 3, .stride = 2, .padding = 1}},
      {"1x1/2 16->32 32x32", {.n = 128, .h = 32, .w = 32, .c = 16, .k = 32, .stride = 2}},
      {"3x3 64->64 8x8", {.n = 128, .h = 8, .w = 8, .c = 64, .k = 64, .kh = 3, .kw = 3, .padding = 1}}};
  return samples;
}

struct ConvolutionLine {
  const char* name;
  const char* dtype;
  std::string implementations[3];  // forward, backward data, backward weights
};

std::vector<ConvolutionLine> convolution_lines() {
  using kernels::Conv2dPass;
  ThreadPool pool(1);
  std::vector<ConvolutionLine> lines;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const SampleConvolution& sample : sample_convolutions()) {
      ConvolutionLine line{sample.name, dtype == DType::f32 ? "f32" : "bf16", {}};
      for (const Conv2dPass pass :
           {Conv2dPass::kForward, Conv2dPass::kBackwardData, Conv2dPass::kBackwardWeights}) {
        line.implementations[static_cast<std::size_t>(pass)] =
            kernels::conv2d_implementation(CpuStream{&pool}, sample.shape, dtype, pass);
      }
      lines.push_back(line);
    }
  }
  return lines;
}

int run_doctor(const Arguments& arguments) {
  const BuildInfo build = build_info();
  const HostInfo host = host_info();
  const std::optional<kernels::CudaDevices> cuda = cuda_devices();
  const bool usable = host.missing_flags.empty();
  if (arguments.has("--json")) {
    nlohmann::ordered_json json = nlohmann::ordered_json::parse(build_info_json());
    json["system"] = host.system;
    json["cpu"] = host.cpu;
    json["cpu_flags"] = host.flags;
    json["missing_cpu_flags"] = host.missing_flags;
    json["cores"] = host.cores;
    json["memory_gib"] = host.memory_gib;
    add_cuda(json, cuda);
    for (const ConvolutionLine& line : convolution_lines()) {
      json["convolutions"].push_back({{"shape", line.name},
                                      {"dtype", line.dtype},
                                      {"forward", line.implementations[0]},
                                      {"backward_data", line.implementations[1]},
                                      {"backward_weights", line.implementations[2]}});
    }
    json["cuda_libraries"] = cuda_libraries_json();
    print_out(json.dump(2) + "\n");
  } else {
    print_out(fmt::format("cohort    {} ({}, {})\n", build.version, build.build_type, build.compiler));
    print_out(fmt::format("system    {}\n", host.system));
    print_out(
        fmt::format("cpu       {}; {} cores usable; {}\n", host.cpu, host.cores, join(host.flags, " ")));
    print_out(fmt::format("memory    {:.1f} GiB\n", host.memory_gib));
    print_out(fmt::format("oneDNN    {}\n", build.onednn));
    print_out(fmt::format("kernels   {}\n",
                          build.cpu_arch.empty() ? "the compiler's default" : "-march=" + build.cpu_arch));
    const char* label = "cuda";
    for (const std::string& line : cuda_lines(cuda)) {
      print_out(fmt::format("{:<9} {}\n", label, line));
      label = "";
    }
    print_out("convolutions at batch 128: forward; backward data; backward weights\n");
    for (const ConvolutionLine& line : convolution_lines()) {
      print_out(fmt::format("  {:<4}  {:<18}  {}; {}; {}\n", line.dtype, line.name, line.implementations[0],
                            line.implementations[1], line.implementations[2]));
    }
    print_out(cuda_libraries_text());
  }
  if (!usable) {
    throw Error(ErrorKind::kDevice,
                fmt::format("this CPU lacks {}, which the build needs", join(host.missing_flags, ", ")),
                "build with -DCOHORT_CPU_ARCH= for this machine");
  }
  return 0;
}

}  // namespace

CommandSpec doctor_command() {
  CommandSpec spec;
  spec.name = "doctor";
  spec.summary = "what works on this machine; text to paste into a bug report";
  spec.examples = {{"cohort doctor", ""}, {"cohort doctor --json", ""}};
  spec.flags = {json_flag()};
  spec.run = run_doctor;
  return spec;
}

}  // namespace cohort::tools
