#include "core/run_lock.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "core/checksum.h"

namespace cohort {
namespace {

std::string own_description() {
  char host[256] = {};
  if (::gethostname(host, sizeof(host) - 1) != 0) host[0] = '?';
  const auto now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  const nlohmann::ordered_json description = {
      {"pid", static_cast<std::int64_t>(::getpid())},
      {"host", host},
      {"start",
       fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::chrono::system_clock::to_time_t(now)))}};
  return description.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

// What the holder wrote; it may be between locking and writing, or the text may be damaged.
std::string describe_holder(File& file) {
  std::string text(static_cast<std::size_t>(std::clamp<std::int64_t>(file.size(), 0, 4096)), '\0');
  file.read_exact(text.data(), text.size(), 0);
  const auto holder = nlohmann::json::parse(text, nullptr, false);
  const auto field = [&](const char* key) -> std::string {
    if (!holder.is_object() || !holder.contains(key)) return "unknown";
    return holder[key].is_string() ? holder[key].get<std::string>() : holder[key].dump();
  };
  return fmt::format("pid {} on host {}, started {}", field("pid"), field("host"), field("start"));
}

}  // namespace

RunLock::RunLock(FileSystem& fs, const std::string& run_folder)
    : file_(fs, join_path(run_folder, ".lock"), OpenMode::kAppend, ErrorKind::kOutput) {
  if (!file_.try_lock()) {
    throw Error(ErrorKind::kBusy,
                fmt::format("{} is in use by another run: {}", run_folder, describe_holder(file_)),
                "wait for it, stop it, or choose another folder");
  }
  file_.truncate(0);
  file_.write_all(as_byte_span(own_description()));
}

}  // namespace cohort
