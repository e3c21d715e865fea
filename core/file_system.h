// Everything that Cohort reads or writes on disk goes through FileSystem, so that tests can make every call
// fail, crash or tear. The virtual calls are system calls: they return a value >= 0 or -errno and never
// throw. File and the functions below turn them into results or Errors: write errors are ErrorKind::kOutput;
// the kind of a read error is the caller's choice (kInput for data, kCheckpoint for checkpoints).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/error.h"

namespace cohort {

enum class OpenMode {
  kRead,          // an existing file; links are followed (input may be a link)
  kReadNoFollow,  // an existing file, never through a link
  kCreateNew,     // a new file for writing; fails when anything of that name exists, a link included
  kAppend,        // read, and write at the end; made when missing; never through a link
  kDirectory      // an existing folder, for sync
};

struct FileInfo {
  enum class Kind { kFile, kFolder, kLink, kOther };
  Kind kind = Kind::kOther;
  std::int64_t bytes = 0;
};

class FileSystem {
 public:
  FileSystem() = default;
  FileSystem(const FileSystem&) = delete;
  FileSystem& operator=(const FileSystem&) = delete;
  virtual ~FileSystem() = default;

  virtual int open(const std::string& path, OpenMode mode);
  virtual int close(int fd);
  virtual std::int64_t write(int fd, const void* data, std::size_t bytes);
  virtual std::int64_t read_at(int fd, void* data, std::size_t bytes, std::int64_t offset);
  virtual int truncate(int fd, std::int64_t bytes);
  virtual int sync(int fd);       // fsync
  virtual int sync_data(int fd);  // fdatasync
  virtual int lock(int fd);       // flock, exclusive, without waiting: -EWOULDBLOCK when held
  virtual int info_of(int fd, FileInfo& info);
  virtual int info(const std::string& path, FileInfo& info);  // lstat
  virtual int rename(const std::string& from, const std::string& to);
  virtual int unlink(const std::string& path);
  virtual int make_folder(const std::string& path);
  virtual int remove_folder(const std::string& path);
  virtual int make_link(const std::string& target, const std::string& path);
  virtual int read_link(const std::string& path, std::string& target);
  virtual int list(const std::string& path, std::vector<std::string>& names);  // without . and ..
  virtual std::int64_t free_bytes(const std::string& path);  // of the file system that holds the path
};

// The real one.
FileSystem& system_file_system();

// An open file. Interrupted calls are repeated and short writes continued. A failed sync is never repeated on
// the same file: the kernel may have dropped the pages, and the second call would report success.
class File {
 public:
  File(FileSystem& fs, std::string path, OpenMode mode, ErrorKind kind);
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&&) = delete;

  const std::string& path() const { return path_; }
  std::int64_t size();
  void write_all(std::span<const std::byte> bytes);
  void read_exact(void* data, std::size_t bytes, std::int64_t offset);  // an early end of file is an error
  void truncate(std::int64_t bytes);
  void sync();
  void sync_data();
  bool try_lock();  // false: another process holds it
  void close();     // reports errors; the destructor cannot

 private:
  [[noreturn]] void fail(const char* operation, std::int64_t error, std::int64_t needed = 0);

  FileSystem& fs_;
  std::string path_;
  ErrorKind kind_;
  int fd_ = -1;
};

// Throws Error(kind, "cannot <operation> <path>: <reason>") with a hint that fits; `error` is an errno,
// negative or positive. A full disk adds the bytes needed (when > 0) and free.
[[noreturn]] void throw_file_error(FileSystem& fs, ErrorKind kind, const char* operation,
                                   const std::string& path, std::int64_t error, std::int64_t needed = 0);

// The whole file. Refuses folders, devices and pipes, and files above max_bytes before allocating.
std::vector<std::byte> read_file(FileSystem& fs, const std::string& path, std::int64_t max_bytes,
                                 ErrorKind kind, OpenMode mode = OpenMode::kRead);

// A new file that is on disk (synced, closed) on return; its folder is not synced.
void write_new_file(FileSystem& fs, const std::string& path, std::span<const std::byte> bytes);

// Replaces or makes the file so that after a crash at any moment it has the old or the new bytes, and the new
// ones once this returned: new name in the same folder -> write -> fsync -> close -> rename -> fsync of the
// folder. A link at `path` is replaced, never followed.
void durable_replace(FileSystem& fs, const std::string& path, std::span<const std::byte> bytes);

// The same for a symbolic link.
void durable_replace_link(FileSystem& fs, const std::string& path, const std::string& target);

void sync_folder(FileSystem& fs, const std::string& path);

// Makes a folder that must not exist yet; its parent is not synced.
void make_new_folder(FileSystem& fs, const std::string& path);

// Makes the folder when it is missing; its parent must exist. A link or file of that name is an error.
void ensure_folder(FileSystem& fs, const std::string& path);

// Makes the folder and those above it where they are missing, also while another process makes the same ones.
// Links to folders are followed.
void make_folders(FileSystem& fs, const std::string& path);

// False when nothing of that name exists (links are not followed). Other errors throw.
bool find_entry(FileSystem& fs, const std::string& path, FileInfo& info, ErrorKind kind);

std::vector<std::string> list_folder(FileSystem& fs, const std::string& path, ErrorKind kind);  // sorted

void rename_entry(FileSystem& fs, const std::string& from, const std::string& to);

// Removes a file, a link (not what it points to) or a folder with its contents; missing is fine.
void remove_tree(FileSystem& fs, const std::string& path);

std::string join_path(std::string_view folder, std::string_view name);
std::string parent_path(std::string_view path);  // "." for a plain name

// A name that no other live process of this machine uses: "tmp-<process id>-<counter>".
std::string unique_name();
bool is_temporary_name(std::string_view name);

// Removes what unique_name()s a killed process left in the folder. Only for the holder of the run folder's
// lock.
void remove_leftovers(FileSystem& fs, const std::string& folder);

}  // namespace cohort
