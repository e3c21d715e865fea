// Checkpoints of a run that survive a crash or a power cut at any moment.
//
//   checkpoints/step-00000391/{files}, manifest.json, DONE     last -> step-00000391
//   checkpoints/best-00000391/{files}, manifest.json, DONE     best -> best-00000391
//
// save(): files, manifest (size and XXH3-64 of each file) and DONE (checksum of the manifest) are written
// into a temporary folder and synced one by one; the folder is synced, renamed, and the parent synced. Only
// then save() returns: that is the acknowledgement. A folder under its final name is therefore always
// complete; DONE is there for people and scripts. Older checkpoints are pruned afterwards, never the newest
// two.
//
// latest() checks every checksum and goes back to the previous checkpoint when the newest is damaged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file_system.h"

namespace cohort {

struct CheckpointFile {
  std::string name;  // a plain file name
  std::span<const std::byte> bytes;
};

struct Checkpoint {
  std::int64_t step = 0;
  std::string path;     // its folder
  std::string warning;  // empty, or why newer checkpoints were passed over
  std::map<std::string, std::vector<std::byte>> files;

  const std::vector<std::byte>& file(const std::string& name) const;  // Error(kCheckpoint) when there is none
};

enum class CheckpointAccess {
  kRead,  // changes nothing; safe beside a run that saves
  kWrite  // for the holder of the run folder's lock: makes the folder, removes what a crash left
};

class CheckpointStore {
 public:
  // `folder` is <run>/checkpoints. keep: how many steps to keep (at least 2), 0 for all.
  CheckpointStore(FileSystem& fs, std::string folder, CheckpointAccess access, int keep = 2);

  // Durable when it returns. On an error before the commit the earlier checkpoints are untouched and the
  // temporary folder is removed; errors are ErrorKind::kOutput.
  void save(std::int64_t step, std::span<const CheckpointFile> files);
  void save_best(std::int64_t step, std::span<const CheckpointFile> files);

  // Error(kCheckpoint) when no usable one exists; its message lists why.
  Checkpoint latest();
  Checkpoint load(std::int64_t step);
  Checkpoint best();

  // All steps with a folder, ascending, damaged ones included.
  std::vector<std::int64_t> steps();

  // Removes checkpoints after `step`: for a run that goes on from an older one, so that a later latest() does
  // not take the abandoned ones.
  void discard_after(std::int64_t step);

 private:
  void recover();
  void commit(const std::string& name, std::int64_t step, std::span<const CheckpointFile> files);
  void write_folder(const std::string& path, std::int64_t step, std::span<const CheckpointFile> files);
  void remove_entries(const std::vector<std::string>& names);
  void prune();
  Checkpoint load_folder(const std::string& name, std::int64_t step);
  std::vector<std::string> entries();
  std::string path_of(std::string_view name) const { return join_path(folder_, name); }

  FileSystem& fs_;
  std::string folder_;
  CheckpointAccess access_;
  int keep_;
};

}  // namespace cohort
