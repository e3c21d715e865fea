// Keeps a second run out of a run folder: an exclusive flock on <run>/.lock for as long as the object lives.
// The kernel drops it with the process, so a crash or a reboot leaves no stale lock; the text in the file
// (pid, host, start) only tells people who holds it. The file itself is never removed: removing it would let
// two processes hold "the" lock.
//
// A file system without flock is an error (kOutput): there is no safe way to share a run folder on it.
#pragma once

#include <string>

#include "core/file_system.h"

namespace cohort {

class RunLock {
 public:
  // Throws Error(kBusy) that names pid, host and start of the holder.
  RunLock(FileSystem& fs, const std::string& run_folder);

 private:
  File file_;
};

}  // namespace cohort
