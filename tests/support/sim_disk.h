// A file system in memory that knows what a power cut may leave. Every file keeps its bytes as seen by
// programs and as of its last fsync; every folder keeps its entries in the same two forms and the operations
// in between. for_each_crash calls back with disks that a cut at this moment may leave: any subset of the
// unsynced folder operations, and each unsynced file lost, kept, torn at 512 bytes or filled with zeros. (An
// ordered journal leaves a prefix of the operations, which is one of the subsets.)
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/file_system.h"

namespace cohort::test {

class SimDisk : public FileSystem {
 public:
  SimDisk() { nodes_[kRoot].kind = FileInfo::Kind::kFolder; }
  SimDisk(const SimDisk& other) : FileSystem(), nodes_(other.nodes_), next_(other.next_) {}

  std::function<void()> after_call;  // after every call that changes the disk or what would survive
  bool sync_folders = true;          // false: a planted bug
  bool sync_files = true;            // false: a planted bug

  // Calls f(disk) for each state, all of them when there are at most max_states, else that many random ones.
  template <class F>
  void for_each_crash(std::size_t max_states, std::mt19937_64& random, F&& f) const {
    std::vector<int> folders, files;
    double total = 1;
    for (const auto& [id, node] : nodes_) {
      if (!node.pending.empty()) folders.push_back(id);
      for (std::size_t i = 0; i < node.pending.size(); ++i) total *= 2;
      if (node.kind == FileInfo::Kind::kFile && node.bytes != node.durable) files.push_back(id);
    }
    for (std::size_t i = 0; i < files.size(); ++i) total *= 4;
    const bool all = total <= static_cast<double>(max_states);
    const std::size_t count = all ? static_cast<std::size_t>(total) : max_states;
    for (std::size_t i = 0; i < count; ++i) {
      std::uint64_t choice = all ? i : random();
      std::uint64_t left = 64;
      const auto draw = [&](std::uint64_t bits) {
        if (left < bits) {
          choice = random();
          left = 64;
        }
        const std::uint64_t value = choice & ((1U << bits) - 1);
        choice >>= bits;
        left -= bits;
        return value;
      };
      SimDisk disk(*this);
      for (const int id : folders) disk.crash_folder(id, [&] { return draw(1) == 1; });
      for (const int id : files) disk.crash_file(id, draw(2));
      disk.settle();
      f(disk);
    }
  }

  int open(const std::string& path, OpenMode mode) override {
    int id = find(path);
    if (id < 0 && id != -ENOENT) return id;
    const bool creates = mode == OpenMode::kCreateNew || mode == OpenMode::kAppend;
    if (mode == OpenMode::kCreateNew && id >= 0) return -EEXIST;
    if (id < 0 && !creates) return id;
    if (id >= 0 && nodes_.at(id).kind == FileInfo::Kind::kLink) return -ELOOP;
    if (id < 0) {
      id = make(path, FileInfo::Kind::kFile);
      if (id < 0) return id;
    }
    if (mode == OpenMode::kDirectory && nodes_.at(id).kind != FileInfo::Kind::kFolder) return -ENOTDIR;
    if (creates && nodes_.at(id).kind == FileInfo::Kind::kFolder) return -EISDIR;
    open_[++last_fd_] = id;
    return last_fd_;
  }
  int close(int fd) override { return open_.erase(fd) == 1 ? 0 : -EBADF; }
  std::int64_t write(int fd, const void* data, std::size_t bytes) override {
    nodes_.at(open_.at(fd)).bytes.append(static_cast<const char*>(data), bytes);
    changed();
    return static_cast<std::int64_t>(bytes);
  }
  std::int64_t read_at(int fd, void* data, std::size_t bytes, std::int64_t offset) override {
    const std::string& content = nodes_.at(open_.at(fd)).bytes;
    const auto from = std::min(static_cast<std::size_t>(offset), content.size());
    return static_cast<std::int64_t>(content.copy(static_cast<char*>(data), bytes, from));
  }
  int truncate(int fd, std::int64_t bytes) override {
    nodes_.at(open_.at(fd)).bytes.resize(static_cast<std::size_t>(bytes));
    changed();
    return 0;
  }
  int sync(int fd) override {
    Node& node = nodes_.at(open_.at(fd));
    if (node.kind == FileInfo::Kind::kFolder && sync_folders) {
      node.durable_entries = node.entries;
      node.pending.clear();
    } else if (node.kind == FileInfo::Kind::kFile && sync_files) {
      node.durable = node.bytes;
    }
    changed();
    return 0;
  }
  int sync_data(int fd) override { return sync(fd); }
  int lock(int) override { return 0; }
  int info_of(int fd, FileInfo& info) override { return describe(open_.at(fd), info); }
  int info(const std::string& path, FileInfo& info) override {
    const int id = find(path);
    return id < 0 ? id : describe(id, info);
  }
  int rename(const std::string& from, const std::string& to) override {
    const int id = find(from);
    if (id < 0) return id;
    const int target = find(to);
    if (target >= 0 && nodes_.at(target).kind == FileInfo::Kind::kFolder) {
      if (nodes_.at(id).kind != FileInfo::Kind::kFolder) return -EISDIR;
      if (!nodes_.at(target).entries.empty()) return -ENOTEMPTY;
    }
    if (parent_path(from) != parent_path(to)) return -EXDEV;  // not needed by the code under test
    apply(parent_path(from), {{name_of(from), kNone}, {name_of(to), id}});
    return 0;
  }
  int unlink(const std::string& path) override {
    const int id = find(path);
    if (id < 0) return id;
    if (nodes_.at(id).kind == FileInfo::Kind::kFolder) return -EISDIR;
    apply(parent_path(path), {{name_of(path), kNone}});
    return 0;
  }
  int make_folder(const std::string& path) override {
    if (find(path) >= 0) return -EEXIST;
    const int id = make(path, FileInfo::Kind::kFolder);
    return id < 0 ? id : 0;
  }
  int remove_folder(const std::string& path) override {
    const int id = find(path);
    if (id < 0) return id;
    if (!nodes_.at(id).entries.empty()) return -ENOTEMPTY;
    apply(parent_path(path), {{name_of(path), kNone}});
    return 0;
  }
  int make_link(const std::string& target, const std::string& path) override {
    if (find(path) >= 0) return -EEXIST;
    const int id = make(path, FileInfo::Kind::kLink, target);
    return id < 0 ? id : 0;
  }
  int read_link(const std::string& path, std::string& target) override {
    const int id = find(path);
    if (id < 0) return id;
    if (nodes_.at(id).kind != FileInfo::Kind::kLink) return -EINVAL;
    target = nodes_.at(id).bytes;
    return 0;
  }
  int list(const std::string& path, std::vector<std::string>& names) override {
    const int id = find(path);
    if (id < 0) return id;
    names.clear();
    for (const auto& [name, entry] : nodes_.at(id).entries) names.push_back(name);
    return 0;
  }
  std::int64_t free_bytes(const std::string&) override { return 1 << 30; }

 private:
  static constexpr int kRoot = 1;
  static constexpr int kNone = 0;
  using Entries = std::map<std::string, int>;
  using Operation = std::vector<std::pair<std::string, int>>;  // entries set, or removed (kNone), in one go

  struct Node {
    FileInfo::Kind kind = FileInfo::Kind::kFile;
    std::string bytes, durable;  // of a file; the target of a link
    Entries entries, durable_entries;
    std::vector<Operation> pending;
  };

  static std::string name_of(const std::string& path) { return path.substr(path.rfind('/') + 1); }

  static void apply_to(Entries& entries, const Operation& operation) {
    for (const auto& [name, id] : operation) {
      if (id == kNone) {
        entries.erase(name);
      } else {
        entries[name] = id;
      }
    }
  }

  int find(const std::string& path) const {
    int id = kRoot;
    for (std::size_t at = 1; at < path.size();) {
      const std::size_t end = std::min(path.find('/', at), path.size());
      const Node& node = nodes_.at(id);
      if (node.kind != FileInfo::Kind::kFolder) return -ENOTDIR;
      const auto entry = node.entries.find(path.substr(at, end - at));
      if (entry == node.entries.end()) return -ENOENT;
      id = entry->second;
      at = end + 1;
    }
    return id;
  }

  int make(const std::string& path, FileInfo::Kind kind, const std::string& target = {}) {
    if (find(parent_path(path)) < 0) return -ENOENT;
    const int id = next_++;
    nodes_[id].kind = kind;
    nodes_[id].bytes = nodes_[id].durable = target;
    apply(parent_path(path), {{name_of(path), id}});
    return id;
  }

  void apply(const std::string& folder, const Operation& operation) {
    Node& node = nodes_.at(find(folder));
    apply_to(node.entries, operation);
    node.pending.push_back(operation);
    changed();
  }

  void changed() {
    if (after_call) after_call();
  }

  int describe(int id, FileInfo& info) const {
    info = {nodes_.at(id).kind, static_cast<std::int64_t>(nodes_.at(id).bytes.size())};
    return 0;
  }

  template <class Keep>
  void crash_folder(int id, Keep&& keep) {
    Node& node = nodes_.at(id);
    node.entries = node.durable_entries;
    for (const Operation& operation : node.pending) {
      if (keep()) apply_to(node.entries, operation);
    }
  }

  void crash_file(int id, std::uint64_t choice) {
    Node& node = nodes_.at(id);
    const std::size_t from = node.durable.size(), to = node.bytes.size();
    if (choice == 0) {
      node.bytes = node.durable;
    } else if (choice == 2 && to > from) {
      node.bytes.resize(from + (to - from) / 2 / 512 * 512);
    } else if (choice == 3 && to > from) {
      node.bytes.replace(from, to - from, to - from, '\0');
    }
  }

  // The machine is up again: what is there is durable. (Folders whose entries changed were set by
  // crash_folder.)
  void settle() {
    for (auto& [id, node] : nodes_) {
      node.durable = node.bytes;
      node.durable_entries = node.entries;
      node.pending.clear();
    }
  }

  std::map<int, Node> nodes_;
  std::map<int, int> open_;
  int next_ = kRoot + 1;
  int last_fd_ = 0;
};

}  // namespace cohort::test
