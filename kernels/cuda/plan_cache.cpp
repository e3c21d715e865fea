#include "kernels/cuda/plan_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

namespace cohort::kernels::cuda {
namespace {

using Json = nlohmann::json;

constexpr const char* kFormat = "cohort-convolution-plans-1";
constexpr off_t kMaxBytes = off_t{4} << 20;
constexpr std::size_t kMaxText = 256;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

bool is_plain_text(std::string_view text) {
  if (text.empty() || text.size() > kMaxText) return false;
  for (const char c : text) {
    if (c < ' ' || c > '~') return false;
  }
  return true;
}

// "eng45", "eng45_k2=4_k12=-1".
bool is_plan_name(std::string_view text) {
  if (!is_plain_text(text) || text.substr(0, 3) != "eng") return false;
  return text.find_first_not_of("0123456789_k=-", 3) == std::string_view::npos;
}

// Empty when there is no file; sets `problem` when there is one that cannot be read.
std::string read_text(const std::string& path, std::string& problem) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (file.get() < 0) {
    if (errno != ENOENT && errno != ENOTDIR) problem = std::strerror(errno);
    return "";
  }
  struct stat info {};
  if (::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    problem = "not a plain file";
    return "";
  }
  if (info.st_uid != ::geteuid() || (info.st_mode & S_IWOTH) != 0) {
    problem = "another user can write it";
    return "";
  }
  if (info.st_size > kMaxBytes) {
    problem = "larger than 4 MiB";
    return "";
  }
  std::string text(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(file.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    done += static_cast<std::size_t>(got);
  }
  text.resize(done);
  if (text.empty()) problem = "empty";
  return text;
}

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t put = ::write(fd, text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(put));
  }
  return ::fsync(fd) == 0;
}

// The member `name` of a JSON object, if it is a text that passes `is_valid`.
template <class F>
std::optional<std::string> text_member(const Json& object, const char* name, F is_valid) {
  const auto at = object.find(name);
  if (at == object.end() || !at->is_string()) return std::nullopt;
  std::string text = at->get<std::string>();
  if (!is_valid(text)) return std::nullopt;
  return text;
}

const char* name_of(Conv2dPass pass) {
  switch (pass) {
    case Conv2dPass::kForward:
      return "forward";
    case Conv2dPass::kBackwardData:
      return "backward data";
    case Conv2dPass::kBackwardWeights:
      return "backward weights";
  }
  return "";
}

}  // namespace

std::string text_of(const ConvolutionKey& key) {
  const Conv2dShape& s = key.shape;
  std::string text = name_of(key.pass);
  text += std::string(" ") + (key.tf32 ? "tf32" : cohort::name_of(key.dtype)) + " -> " +
          cohort::name_of(key.result) + (key.accumulate ? " added" : "");
  const auto add = [&](const char* name, std::int64_t value) { text += name + std::to_string(value); };
  add(" n", s.n);
  add(" h", s.h);
  add(" w", s.w);
  add(" c", s.c);
  add(" k", s.k);
  add(" kernel", s.kh);
  add("x", s.kw);
  add(" stride", s.stride);
  add(" padding", s.padding);
  add(" dilation", s.dilation);
  add(" groups", s.groups);
  return text;
}

std::string default_plan_cache_path() {
  const auto environment = [](const char* name) -> std::string {
    const char* const value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  std::string folder = environment("XDG_CACHE_HOME");
  if (folder.empty() || folder.front() != '/') {
    folder = environment("HOME");
    if (folder.empty() || folder.front() != '/') return "";
    folder += "/.cache";
  }
  return folder + "/cohort/convolution-plans.json";
}

PlanCache::PlanCache(std::string path, std::string gpu, std::string library)
    : path_(std::move(path)), gpu_(std::move(gpu)), library_(std::move(library)) {
  if (!path_.empty()) entries_ = read();
}

PlanCache::Entries PlanCache::read() {
  std::string reason;
  const std::string text = read_text(path_, reason);
  Entries entries;
  const auto ignore = [&](const std::string& why) {
    problem_ = path_ + " is ignored: " + why;
    return Entries{};
  };
  if (!reason.empty()) return ignore(reason);
  if (text.empty()) return entries;
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object() || json.size() != 2) return ignore("not a cache of plans");
  if (text_member(json, "format", is_plain_text) != kFormat) return ignore("another format");
  const auto plans = json.find("plans");
  if (plans == json.end() || !plans->is_array()) return ignore("it holds no plans");
  for (const Json& item : *plans) {
    if (!item.is_object() || item.size() != 5) return ignore("a malformed plan");
    const auto gpu = text_member(item, "gpu", is_plain_text);
    const auto library = text_member(item, "library", is_plain_text);
    const auto convolution = text_member(item, "convolution", is_plain_text);
    const auto plan = text_member(item, "plan", is_plan_name);
    const auto time = item.find("microseconds");
    if (!gpu || !library || !convolution || !plan || time == item.end() || !time->is_number()) {
      return ignore("a malformed plan");
    }
    entries[{*gpu, *library, *convolution}] = {*plan, time->get<double>()};
  }
  return entries;
}

std::optional<std::string> PlanCache::find(const ConvolutionKey& key) const {
  const auto at = entries_.find({gpu_, library_, text_of(key)});
  if (at == entries_.end()) return std::nullopt;
  return at->second.plan;
}

std::string PlanCache::store(const ConvolutionKey& key, const std::string& plan, double microseconds,
                             const std::string& stale) {
  const Id id{gpu_, library_, text_of(key)};
  if (!keeps()) {
    entries_[id] = {plan, microseconds};
    return plan;
  }
  for (auto& [other, entry] : read()) entries_.try_emplace(other, entry);
  if (!keeps()) return plan;  // somebody put something else there
  const auto old = entries_.find(id);
  if (old != entries_.end() && old->second.plan == stale) entries_.erase(old);
  const auto [at, added] =
      entries_.try_emplace(id, Entry{plan, std::isfinite(microseconds) ? microseconds : 0});
  if (added && !write()) problem_ = path_ + " cannot be written: " + std::strerror(errno);
  return at->second.plan;
}

bool PlanCache::write() const {
  namespace fs = std::filesystem;
  Json plans = Json::array();
  for (const auto& [id, entry] : entries_) {
    plans.push_back({{"gpu", id.gpu},
                     {"library", id.library},
                     {"convolution", id.convolution},
                     {"plan", entry.plan},
                     {"microseconds", entry.microseconds}});
  }
  const std::string text = Json{{"format", kFormat}, {"plans", std::move(plans)}}.dump(
      1, ' ', true, Json::error_handler_t::replace);
  std::error_code error;
  fs::create_directories(fs::path(path_).parent_path(), error);
  const std::string temporary = path_ + ".tmp-" + std::to_string(::getpid());
  {
    const Descriptor file(
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, S_IRUSR | S_IWUSR));
    if (file.get() < 0) return false;
    if (!write_all(file.get(), text)) {
      const int reason = errno;
      ::unlink(temporary.c_str());
      errno = reason;
      return false;
    }
  }
  if (::rename(temporary.c_str(), path_.c_str()) == 0) return true;
  const int reason = errno;
  ::unlink(temporary.c_str());
  errno = reason;
  return false;
}

}  // namespace cohort::kernels::cuda
