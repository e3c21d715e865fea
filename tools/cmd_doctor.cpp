#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/build_info.h"
#include "tools/commands.h"
#include "tools/messages.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

const char* cuda_line(bool cuda) {
  return cuda ? "in this build" : "not in this build (configure with a CUDA toolkit and -DCOHORT_CUDA=ON)";
}

int run_doctor(const Arguments& arguments) {
  const BuildInfo build = build_info();
  const HostInfo host = host_info();
  const bool usable = host.missing_flags.empty();
  if (arguments.has("--json")) {
    nlohmann::ordered_json json = nlohmann::ordered_json::parse(build_info_json());
    json["system"] = host.system;
    json["cpu"] = host.cpu;
    json["cpu_flags"] = host.flags;
    json["missing_cpu_flags"] = host.missing_flags;
    json["cores"] = host.cores;
    json["memory_gib"] = host.memory_gib;
    json["devices"] = nlohmann::ordered_json::array({"cpu"});
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
    print_out(fmt::format("cuda      {}\n", cuda_line(build.cuda)));
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
