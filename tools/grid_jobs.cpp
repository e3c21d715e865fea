#include "tools/grid_jobs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <functional>
#include <map>

#include "tools/build_info.h"
#include "tools/commands.h"
#include "tools/job_board.h"
#include "tools/memory_fit.h"
#include "tools/messages.h"
#include "tools/signals.h"
#include "tools/text.h"
#include "tools/train_run.h"

namespace cohort::tools {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr int kStopped = static_cast<int>(ErrorKind::kStopped);

struct Process {
  pid_t pid = -1;
  int fd = -1;  // what it writes to stderr, or its answer
};

// Runs `work` in a copy of this process, before any thread or device was opened here. With `quiet` its stderr
// goes to the pipe, else `work` gets the pipe's end. `others` are the ends that this process reads: a copy of
// one would keep its writer waiting for a reader for ever, should this process die.
Process start(const std::function<int(int)>& work, bool quiet, const std::vector<int>& others = {}) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    throw Error(ErrorKind::kInternal, "no pipe for another process", "fewer --jobs");
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) {
    ::close(ends[0]);
    ::close(ends[1]);
    throw Error(ErrorKind::kMemory, "the system starts no further process", "fewer --jobs");
  }
  if (pid > 0) {
    ::setpgid(pid, pid);
    ::close(ends[1]);
    return {pid, ends[0]};
  }
  // Ctrl-C on the terminal reaches the parent alone, which passes it on once: two would end a run unsaved.
  ::setpgid(0, 0);
  // A parent that is killed leaves no run behind: it saves and stops.
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(kStopped);
  ::close(ends[0]);
  for (const int fd : others) ::close(fd);
  if (quiet) ::dup2(ends[1], STDERR_FILENO);
  ::_exit(reporting([&] { return work(ends[1]); }));
}

// The exit code; a process that died of a signal is an internal error, and `signal` says of which.
int wait_for(pid_t pid, rusage* usage, int& signal) {
  int status = 0;
  while (::wait4(pid, &status, 0, usage) < 0 && errno == EINTR) {
  }
  signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : static_cast<int>(ErrorKind::kInternal);
}

// --- memory ---

struct Measured {
  MemoryUse use;
  std::size_t device_free = 0;
};

// One step in a process of its own: the largest resident set that it ever had, and what it took of the GPU.
// Nothing for an exit code that is not 0: the process has said why.
std::optional<Measured> measure(const Config& config, int threads, int& code) {
  const Process process = start(
      [&](int fd) {
        const DeviceMemory memory = memory_of_one_step(config, threads);
        const std::size_t words[2] = {memory.used, memory.free};
        return ::write(fd, words, sizeof words) == sizeof words ? 0 : static_cast<int>(ErrorKind::kInternal);
      },
      /*quiet=*/false);
  std::size_t words[2] = {0, 0};
  ssize_t got = -1;
  while ((got = ::read(process.fd, words, sizeof words)) < 0 && errno == EINTR) {
  }
  ::close(process.fd);
  rusage usage{};
  int signal = 0;
  code = wait_for(process.pid, &usage, signal);
  if (signal == SIGKILL) {
    throw Error(ErrorKind::kMemory, "one step of a cohort was killed, most likely for want of memory",
                "a smaller --batch-size or fewer networks need less");
  }
  if (code == 0 && got != sizeof words) code = static_cast<int>(ErrorKind::kInternal);
  if (code != 0) return std::nullopt;
  return Measured{{static_cast<std::size_t>(usage.ru_maxrss) * 1024, words[0]}, words[1]};
}

// Of the stop that was asked for.
int stop_code() {
  return static_cast<int>(stop_requested() == StopRequest::kInterrupt ? ErrorKind::kInterrupted
                                                                      : ErrorKind::kStopped);
}

std::string gib(std::size_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / kGiB);
}

// Returns the exit code of a step that failed, or 0.
int check_memory(const std::vector<const GridCell*>& cells, const JobOptions& options, int jobs,
                 int threads) {
  std::map<std::string, MemoryUse> known;  // by settings, without the seed
  std::vector<MemoryUse> uses;
  MemoryUse available{
      options.memory_gib ? static_cast<std::size_t>(*options.memory_gib * kGiB) : available_host_bytes(), 0};
  for (const GridCell* cell : cells) {
    Config config = cell->config;
    config.override_value("seed", std::int64_t{0}, "memory");
    const std::string key = config.to_toml();
    if (known.count(key) == 0) {
      int code = 0;
      const std::optional<Measured> measured = measure(config, threads, code);
      if (stop_requested() != StopRequest::kNone) return stop_code();
      if (!measured) return code;
      known[key] = measured->use;
      available.device = std::max(available.device, measured->device_free);
    }
    uses.push_back(known[key]);
  }
  const int fit = jobs_that_fit(uses, available, jobs);
  if (fit == jobs) return 0;
  const MemoryUse most = most_at_once(uses, jobs);
  const bool of_device = most.host <= available.host;
  throw Error(
      ErrorKind::kMemory,
      fmt::format("{} cohorts at once take up to {} of {} memory (measured, one step each), and {} is {}",
                  jobs, gib(of_device ? most.device : most.host), of_device ? "the GPU's" : "the host's",
                  gib(of_device ? available.device : available.host),
                  !of_device && options.memory_gib ? "allowed by --memory" : "free"),
      fmt::format("--jobs {}", fit));
}

// --- the cells ---

enum class State { kWaiting, kRunning, kDone, kFailed };

class Jobs {
 public:
  Jobs(const std::vector<GridCell>& cells, const std::vector<std::string>& command)
      : cells_(cells),
        command_(command),
        state_(cells.size(), State::kWaiting),
        board_(choose_progress_mode(cells.front().config.text("log.progress"), STDERR_FILENO),
               Progress::standard_error()) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      if (!plan_cell(cells[i], command)) state_[i] = State::kDone;
    }
  }

  std::vector<const GridCell*> waiting() const {
    std::vector<const GridCell*> list;
    for (std::size_t i = 0; i < cells_.size(); ++i) {
      if (state_[i] == State::kWaiting) list.push_back(&cells_[i]);
    }
    return list;
  }

  // Up to `jobs` at once, each with so many threads. Returns the exit code.
  int run(int jobs, int threads) {
    threads_ = threads;
    while (true) {
      while (!stopping_ && static_cast<int>(running_.size()) < jobs && start_next()) {
      }
      if (running_.empty()) break;
      listen();
      pass_on_stop();
      board_.show(statuses_);
    }
    board_.clear();
    return result();
  }

 private:
  struct Running {
    Process process;
    std::string text;  // of its stderr, up to the next end of a line
    std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
  };

  std::string label(std::size_t i) const {
    const std::string& folder = cells_[i].folder;
    const std::string name = folder.substr(folder.find_last_of('/') + 1);
    return cells_[i].pair.empty() ? name : cells_[i].pair + "/" + name;
  }

  // Whether every cell whose weights it starts from is done.
  bool ready(std::size_t i) const {
    for (const NetworkSettings& network : cells_[i].config.networks()) {
      for (std::size_t j = 0; j < cells_.size(); ++j) {
        if (state_[j] != State::kDone && network.init.starts_with(cells_[j].folder + "/")) return false;
      }
    }
    return true;
  }

  bool start_next() {
    for (std::size_t i = 0; i < cells_.size(); ++i) {
      if (state_[i] != State::kWaiting || !ready(i)) continue;
      std::vector<int> others;
      for (const auto& [key, job] : running_) others.push_back(job.process.fd);
      const Process process = start(
          [&](int) {
            TrainRequest request = plan_cell(cells_[i], command_).value();
            request.threads = threads_;
            request.progress = "json";
            return train(request);
          },
          /*quiet=*/true, others);
      const int key = static_cast<int>(i);
      running_[key] = {.process = process, .text = {}};
      statuses_.emplace(key, JobStatus(label(i), cells_[i].config.integer("train.epochs"),
                                       cells_[i].config.networks().size()));
      state_[i] = State::kRunning;
      board_.line(fmt::format("{}  starts ({} of {})", label(i), i + 1, cells_.size()));
      return true;
    }
    return false;
  }

  void listen() {
    std::vector<pollfd> ends;
    std::vector<int> keys;
    for (const auto& [key, job] : running_) {
      ends.push_back({job.process.fd, POLLIN, 0});
      keys.push_back(key);
    }
    if (::poll(ends.data(), ends.size(), 100) <= 0) return;  // also when a signal came
    for (std::size_t i = 0; i < ends.size(); ++i) {
      if (ends[i].revents == 0) continue;
      char buffer[1 << 16];
      const ssize_t got = ::read(ends[i].fd, buffer, sizeof buffer);
      if (got < 0 && errno == EINTR) continue;
      if (got > 0) {
        hear(keys[i], std::string_view(buffer, static_cast<std::size_t>(got)));
      } else {
        end(keys[i]);
      }
    }
  }

  void hear(int key, std::string_view part) {
    std::string& text = running_[key].text;
    text += part;
    std::size_t begin = 0;
    for (std::size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', begin)) {
      say(key, text.substr(begin, at - begin));
      begin = at + 1;
    }
    text.erase(0, begin);
  }

  void say(int key, const std::string& line) {
    Json event = line.starts_with("{") ? Json::parse(line, nullptr, false) : Json();
    JobStatus& status = statuses_.at(key);
    if (!event.is_object()) {
      board_.message(status.label() + "  " + line);
      return;
    }
    const std::string news = status.take(event);
    if (!news.empty()) board_.line(news);
    board_.event(std::move(event), cells_[static_cast<std::size_t>(key)].folder);
  }

  void end(int key) {
    Running& job = running_[key];
    if (!job.text.empty()) say(key, job.text);
    ::close(job.process.fd);
    int signal = 0;
    const int code = wait_for(job.process.pid, nullptr, signal);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - job.begin).count();
    const std::string name = statuses_.at(key).label();
    running_.erase(key);
    statuses_.erase(key);
    state_[static_cast<std::size_t>(key)] = code == 0 ? State::kDone : State::kFailed;
    if (code == 0) {
      board_.line(fmt::format("{}  done in {}", name, format_duration(seconds)));
      return;
    }
    if (code == kStopped || code == static_cast<int>(ErrorKind::kInterrupted)) {
      board_.line(fmt::format("{}  stopped and saved", name));
      stopping_ = true;  // a time limit of one is the limit of all
      stop_code_ = stop_code_ == 0 ? code : stop_code_;
      return;
    }
    board_.message(signal != 0 ? fmt::format("{}  was killed by signal {}", name, signal)
                               : fmt::format("{}  failed with exit code {}", name, code));
    failures_.push_back(name);
    if (fail_code_ == 0) fail_code_ = code;
  }

  void pass_on_stop() {
    const StopRequest request = stop_requested();
    if (request == StopRequest::kNone || passed_on_) return;
    passed_on_ = stopping_ = true;
    stop_code_ = stop_code();
    board_.line(fmt::format("stopping: {} runs save", running_.size()));
    for (const auto& [key, job] : running_)
      ::kill(job.process.pid, request == StopRequest::kInterrupt ? SIGINT : SIGTERM);
  }

  int result() const {
    const auto done = std::count(state_.begin(), state_.end(), State::kDone);
    if (!failures_.empty()) {
      print_note(fmt::format("{} of {} runs failed: {}; {} done", failures_.size(), cells_.size(),
                             join(failures_, ", "), done));
    }
    if (stop_code_ != 0) {
      print_note(fmt::format("stopped after {} of {} runs; the same command goes on", done, cells_.size()));
      return stop_code_;
    }
    return fail_code_;
  }

  const std::vector<GridCell>& cells_;
  const std::vector<std::string>& command_;
  int threads_ = 1;
  std::vector<State> state_;
  std::map<int, Running> running_;  // by cell
  std::map<int, JobStatus> statuses_;
  JobBoard board_;
  bool stopping_ = false, passed_on_ = false;
  int stop_code_ = 0, fail_code_ = 0;
  std::vector<std::string> failures_;
};

}  // namespace

int run_grid_jobs(const std::vector<GridCell>& cells, const std::vector<std::string>& command,
                  const JobOptions& options, std::vector<LabelledRun>& runs) {
  if (cells.empty()) return 0;
  const std::int64_t wanted = cells.front().config.integer("threads");
  const int threads = wanted > 0 ? static_cast<int>(wanted) : host_info().cores;
  Jobs jobs(cells, command);
  const std::vector<const GridCell*> waiting = jobs.waiting();
  const int at_once = std::min(options.jobs, static_cast<int>(waiting.size()));
  const int share = std::max(1, threads / std::max(1, at_once));
  if (at_once > 1) {
    const int code = check_memory(waiting, options, at_once, share);
    if (code != 0) return code;
  }
  const int code = jobs.run(at_once, share);
  if (code != 0) return code;
  for (const GridCell& cell : cells)
    runs.push_back({cell.pair, cell.row, read_run(system_file_system(), cell.folder).summary});
  return 0;
}

}  // namespace cohort::tools
