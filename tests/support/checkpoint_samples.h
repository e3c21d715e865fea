// Checkpoints whose bytes follow from the step, and the questions that every crash test asks afterwards.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "core/checkpoint_store.h"

namespace cohort::test {

inline std::vector<std::byte> sample_bytes(std::int64_t step, int which) {
  std::mt19937_64 random(static_cast<std::uint64_t>(step) * 10 + static_cast<std::uint64_t>(which));
  std::vector<std::byte> bytes(1200 + random() % 400);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

class SampleCheckpoint {
 public:
  explicit SampleCheckpoint(std::int64_t step) : a_(sample_bytes(step, 0)), b_(sample_bytes(step, 1)) {
    files_ = {{"a.safetensors", a_}, {"state.json", b_}};
  }
  SampleCheckpoint(const SampleCheckpoint&) = delete;
  std::span<const CheckpointFile> files() const { return files_; }

 private:
  std::vector<std::byte> a_, b_;
  std::vector<CheckpointFile> files_;
};

inline bool is_sample(const Checkpoint& checkpoint) {
  return checkpoint.files.size() == 2 &&
         checkpoint.file("a.safetensors") == sample_bytes(checkpoint.step, 0) &&
         checkpoint.file("state.json") == sample_bytes(checkpoint.step, 1);
}

// Folders that show DONE but are not complete: a script that looks for DONE would take them.
inline int half_folders(FileSystem& fs, const std::string& folder) {
  int count = 0;
  for (const std::string& name : list_folder(fs, folder, ErrorKind::kInput)) {
    FileInfo info;
    const std::string path = join_path(folder, name);
    if (!name.starts_with("step-") && !name.starts_with("best-")) continue;
    if (!find_entry(fs, join_path(path, "DONE"), info, ErrorKind::kInput)) continue;
    for (const int which : {0, 1}) {
      const std::string file = join_path(path, which == 0 ? "a.safetensors" : "state.json");
      const auto wanted = sample_bytes(std::stoll(name.substr(5)), which);
      const bool whole = find_entry(fs, file, info, ErrorKind::kInput) &&
                         read_file(fs, file, 1 << 20, ErrorKind::kInput) == wanted;
      count += whole ? 0 : 1;
    }
  }
  return count;
}

inline int leftovers(FileSystem& fs, const std::string& folder) {
  int count = 0;
  for (const std::string& name : list_folder(fs, folder, ErrorKind::kInput)) {
    count += name.starts_with("tmp-") || name.starts_with("old-") ? 1 : 0;
  }
  return count;
}

}  // namespace cohort::test
