// An append-only file of lines (metrics.jsonl). Each line is one write, so a killed process tears at most the
// last one, which readers drop. A checkpoint stores the Mark of the log; on resume truncate_to(mark) cuts
// what came after it, and the replayed steps write the same lines again: every line stands in the log exactly
// once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/checksum.h"
#include "core/file_system.h"

namespace cohort {

class AppendLog {
 public:
  struct Mark {
    std::int64_t bytes = 0;
    std::uint64_t xxh3 = 0x2d06800538d394c2;  // of these bytes; this is the value of none
  };

  // Makes the file when it is missing. A torn last line of an earlier process is cut.
  AppendLog(FileSystem& fs, std::string path);

  // `line` without the line feed. After an error nothing of the line is left in the file (or, where even that
  // failed, every later call throws the first error again).
  void append(std::string_view line);

  std::int64_t bytes() const { return bytes_; }

  // All lines so far are on disk when this returns.
  Mark sync();

  // Cuts the log to a mark of an earlier sync(). Throws Error(kCheckpoint) when the log is shorter than the
  // mark or its beginning has changed, and then leaves it as it is.
  void truncate_to(const Mark& mark);

 private:
  // Reads [0, bytes): the checksum of it, and the length up to the last line feed.
  Xxh3Stream hash_prefix(std::int64_t bytes, std::int64_t* complete_lines);
  void cut(std::int64_t bytes);

  FileSystem& fs_;
  File file_;
  std::int64_t bytes_ = 0;
  Xxh3Stream hash_;
  std::string broken_;  // why no more can be written
};

// The complete lines of a log; a torn last line is dropped. A missing file is Error(kInput).
std::vector<std::string> read_log_lines(FileSystem& fs, const std::string& path);

}  // namespace cohort
