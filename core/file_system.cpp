#include "core/file_system.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

namespace cohort {
namespace {

std::int64_t result(std::int64_t value) {
  return value < 0 ? -static_cast<std::int64_t>(errno) : value;
}

int int_result(int value) {
  return value < 0 ? -errno : value;
}

template <class Call>
auto repeat_interrupted(Call&& call) {
  auto value = call();
  while (value == -EINTR) value = call();
  return value;
}

FileInfo make_info(const struct stat& status) {
  FileInfo info;
  info.kind = S_ISREG(status.st_mode)   ? FileInfo::Kind::kFile
              : S_ISDIR(status.st_mode) ? FileInfo::Kind::kFolder
              : S_ISLNK(status.st_mode) ? FileInfo::Kind::kLink
                                        : FileInfo::Kind::kOther;
  info.bytes = status.st_size;
  return info;
}

std::string hint_for(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "free some disk space (or choose another folder) and start again with --resume";
    case EROFS:
    case EACCES:
    case EPERM:
      return "choose a folder that this user may read and write";
    case ELOOP:
      return "it is a symbolic link: Cohort never writes through one";
    case ENOENT:
      return "check the path";
    case EIO:
      return "the disk or its connection reports damage: check the system log";
    default:
      return {};
  }
}

}  // namespace

int FileSystem::open(const std::string& path, OpenMode mode) {
  int flags = O_CLOEXEC;
  switch (mode) {
    case OpenMode::kRead:
      flags |= O_RDONLY | O_NONBLOCK;  // opening a pipe must not wait for a writer; regular files ignore it
      break;
    case OpenMode::kReadNoFollow:
      flags |= O_RDONLY | O_NONBLOCK | O_NOFOLLOW;
      break;
    case OpenMode::kCreateNew:
      flags |= O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
      break;
    case OpenMode::kAppend:
      flags |= O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK;
      break;
    case OpenMode::kDirectory:
      flags |= O_RDONLY | O_DIRECTORY;
      break;
  }
  return int_result(::open(path.c_str(), flags, 0666));
}

int FileSystem::close(int fd) {
  return int_result(::close(fd));
}

std::int64_t FileSystem::write(int fd, const void* data, std::size_t bytes) {
  return result(::write(fd, data, bytes));
}

std::int64_t FileSystem::read_at(int fd, void* data, std::size_t bytes, std::int64_t offset) {
  return result(::pread(fd, data, bytes, offset));
}

int FileSystem::truncate(int fd, std::int64_t bytes) {
  return int_result(::ftruncate(fd, bytes));
}

int FileSystem::sync(int fd) {
  return int_result(::fsync(fd));
}

int FileSystem::sync_data(int fd) {
  return int_result(::fdatasync(fd));
}

int FileSystem::lock(int fd) {
  return int_result(::flock(fd, LOCK_EX | LOCK_NB));
}

int FileSystem::info_of(int fd, FileInfo& info) {
  struct stat status = {};
  const int code = int_result(::fstat(fd, &status));
  if (code == 0) info = make_info(status);
  return code;
}

int FileSystem::info(const std::string& path, FileInfo& info) {
  struct stat status = {};
  const int code = int_result(::lstat(path.c_str(), &status));
  if (code == 0) info = make_info(status);
  return code;
}

int FileSystem::rename(const std::string& from, const std::string& to) {
  return int_result(std::rename(from.c_str(), to.c_str()));
}

int FileSystem::unlink(const std::string& path) {
  return int_result(::unlink(path.c_str()));
}

int FileSystem::make_folder(const std::string& path) {
  return int_result(::mkdir(path.c_str(), 0777));
}

int FileSystem::remove_folder(const std::string& path) {
  return int_result(::rmdir(path.c_str()));
}

int FileSystem::make_link(const std::string& target, const std::string& path) {
  return int_result(::symlink(target.c_str(), path.c_str()));
}

int FileSystem::read_link(const std::string& path, std::string& target) {
  std::string buffer(4096, '\0');
  const std::int64_t length = result(::readlink(path.c_str(), buffer.data(), buffer.size()));
  if (length < 0) return static_cast<int>(length);
  buffer.resize(static_cast<std::size_t>(length));
  target = std::move(buffer);
  return 0;
}

int FileSystem::list(const std::string& path, std::vector<std::string>& names) {
  std::error_code error;
  names.clear();
  std::filesystem::directory_iterator entry(path, error);
  while (!error && entry != std::filesystem::directory_iterator()) {
    names.push_back(entry->path().filename().string());
    entry.increment(error);
  }
  return -error.value();
}

std::int64_t FileSystem::free_bytes(const std::string& path) {
  struct statvfs status = {};
  if (::statvfs(path.c_str(), &status) != 0) return -errno;
  return static_cast<std::int64_t>(status.f_bavail) * static_cast<std::int64_t>(status.f_frsize);
}

FileSystem& system_file_system() {
  static FileSystem instance;
  return instance;
}

void throw_file_error(FileSystem& fs, ErrorKind kind, const char* operation, const std::string& path,
                      std::int64_t error, std::int64_t needed) {
  const int code = static_cast<int>(error < 0 ? -error : error);
  std::string message =
      fmt::format("cannot {} {}: {}", operation, path, std::generic_category().message(code));
  if (code == ENOSPC || code == EDQUOT) {
    const std::int64_t available = fs.free_bytes(parent_path(path));
    if (needed > 0) message += fmt::format(" ({} bytes needed", needed);
    if (available >= 0) message += fmt::format("{}{} bytes free", needed > 0 ? ", " : " (", available);
    if (needed > 0 || available >= 0) message += ")";
  }
  throw Error(kind, message, hint_for(code));
}

File::File(FileSystem& fs, std::string path, OpenMode mode, ErrorKind kind)
    : fs_(fs), path_(std::move(path)), kind_(kind) {
  fd_ = repeat_interrupted([&] { return fs_.open(path_, mode); });
  if (fd_ < 0) fail(mode == OpenMode::kCreateNew ? "create" : "open", fd_);
}

File::~File() {
  if (fd_ >= 0) fs_.close(fd_);
}

File::File(File&& other) noexcept
    : fs_(other.fs_), path_(std::move(other.path_)), kind_(other.kind_), fd_(std::exchange(other.fd_, -1)) {}

void File::fail(const char* operation, std::int64_t error, std::int64_t needed) {
  throw_file_error(fs_, kind_, operation, path_, error, needed);
}

std::int64_t File::size() {
  FileInfo info;
  const int code = repeat_interrupted([&] { return fs_.info_of(fd_, info); });
  if (code < 0) fail("look at", code);
  if (info.kind == FileInfo::Kind::kFolder) fail("read", EISDIR);
  if (info.kind != FileInfo::Kind::kFile) {
    throw Error(kind_, fmt::format("{} is not a regular file", path_), "give the path of a file");
  }
  return info.bytes;
}

void File::write_all(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::int64_t written =
        repeat_interrupted([&] { return fs_.write(fd_, bytes.data(), bytes.size()); });
    // A regular file never takes 0 bytes of a non-empty write without an error; do not loop for ever if one
    // does.
    if (written <= 0) fail("write", written == 0 ? EIO : written, static_cast<std::int64_t>(bytes.size()));
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void File::read_exact(void* data, std::size_t bytes, std::int64_t offset) {
  auto* to = static_cast<std::byte*>(data);
  while (bytes > 0) {
    const std::int64_t got = repeat_interrupted([&] { return fs_.read_at(fd_, to, bytes, offset); });
    if (got < 0) fail("read", got);
    if (got == 0) {
      throw Error(kind_, fmt::format("{} ends early: {} bytes missing at offset {}", path_, bytes, offset),
                  "the file was cut while it was read");
    }
    to += got;
    offset += got;
    bytes -= static_cast<std::size_t>(got);
  }
}

void File::truncate(std::int64_t bytes) {
  const int code = repeat_interrupted([&] { return fs_.truncate(fd_, bytes); });
  if (code < 0) fail("truncate", code);
}

void File::sync() {
  const int code = repeat_interrupted([&] { return fs_.sync(fd_); });
  if (code < 0) fail("sync", code);
}

void File::sync_data() {
  const int code = repeat_interrupted([&] { return fs_.sync_data(fd_); });
  if (code < 0) fail("sync", code);
}

bool File::try_lock() {
  const int code = repeat_interrupted([&] { return fs_.lock(fd_); });
  if (code == -EWOULDBLOCK) return false;
  if (code < 0) fail("lock", code);
  return true;
}

void File::close() {
  // Linux frees the descriptor even when close is interrupted: never call it twice.
  const int code = fs_.close(std::exchange(fd_, -1));
  if (code < 0 && code != -EINTR) fail("close", code);
}

std::vector<std::byte> read_file(FileSystem& fs, const std::string& path, std::int64_t max_bytes,
                                 ErrorKind kind, OpenMode mode) {
  File file(fs, path, mode, kind);
  const std::int64_t size = file.size();
  if (size > max_bytes) {
    throw Error(kind,
                fmt::format("{} is too large: {} bytes, at most {} are allowed", path, size, max_bytes));
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(size));
  file.read_exact(bytes.data(), bytes.size(), 0);
  return bytes;
}

void write_new_file(FileSystem& fs, const std::string& path, std::span<const std::byte> bytes) {
  File file(fs, path, OpenMode::kCreateNew, ErrorKind::kOutput);
  file.write_all(bytes);
  file.sync();
  file.close();
}

void durable_replace(FileSystem& fs, const std::string& path, std::span<const std::byte> bytes) {
  const std::string folder = parent_path(path);
  const std::string temporary = join_path(folder, unique_name());
  try {
    write_new_file(fs, temporary, bytes);
    rename_entry(fs, temporary, path);
  } catch (const Error&) {
    fs.unlink(temporary);  // best effort: the first error is the one to report
    throw;
  }
  sync_folder(fs, folder);
}

void durable_replace_link(FileSystem& fs, const std::string& path, const std::string& target) {
  const std::string folder = parent_path(path);
  const std::string temporary = join_path(folder, unique_name());
  const int code = repeat_interrupted([&] { return fs.make_link(target, temporary); });
  if (code < 0) throw_file_error(fs, ErrorKind::kOutput, "make the link", path, code);
  try {
    rename_entry(fs, temporary, path);
  } catch (const Error&) {
    fs.unlink(temporary);
    throw;
  }
  sync_folder(fs, folder);
}

void sync_folder(FileSystem& fs, const std::string& path) {
  File folder(fs, path, OpenMode::kDirectory, ErrorKind::kOutput);
  folder.sync();
  folder.close();
}

void make_new_folder(FileSystem& fs, const std::string& path) {
  const int code = repeat_interrupted([&] { return fs.make_folder(path); });
  if (code < 0) throw_file_error(fs, ErrorKind::kOutput, "make the folder", path, code);
}

void ensure_folder(FileSystem& fs, const std::string& path) {
  const int code = repeat_interrupted([&] { return fs.make_folder(path); });
  if (code == 0) return sync_folder(fs, parent_path(path));
  if (code != -EEXIST) throw_file_error(fs, ErrorKind::kOutput, "make the folder", path, code);
  FileInfo info;
  if (find_entry(fs, path, info, ErrorKind::kOutput) && info.kind == FileInfo::Kind::kFolder) return;
  if (info.kind == FileInfo::Kind::kLink) throw_file_error(fs, ErrorKind::kOutput, "use", path, ELOOP);
  throw Error(ErrorKind::kOutput, fmt::format("{} exists and is not a folder", path), "choose another path");
}

void make_folders(FileSystem& fs, const std::string& path) {
  for (std::size_t end = 0; end != std::string::npos;) {
    end = path.find('/', end + 1);
    const std::string part = path.substr(0, end);
    FileInfo info;
    if (find_entry(fs, part, info, ErrorKind::kOutput)) continue;
    const int code = repeat_interrupted([&] { return fs.make_folder(part); });
    if (code < 0 && code != -EEXIST) throw_file_error(fs, ErrorKind::kOutput, "make the folder", part, code);
  }
}

bool find_entry(FileSystem& fs, const std::string& path, FileInfo& info, ErrorKind kind) {
  const int code = repeat_interrupted([&] { return fs.info(path, info); });
  if (code == -ENOENT) return false;
  if (code < 0) throw_file_error(fs, kind, "look at", path, code);
  return true;
}

std::vector<std::string> list_folder(FileSystem& fs, const std::string& path, ErrorKind kind) {
  std::vector<std::string> names;
  const int code = repeat_interrupted([&] { return fs.list(path, names); });
  if (code < 0) throw_file_error(fs, kind, "list", path, code);
  std::sort(names.begin(), names.end());
  return names;
}

void rename_entry(FileSystem& fs, const std::string& from, const std::string& to) {
  const int code = repeat_interrupted([&] { return fs.rename(from, to); });
  if (code < 0) throw_file_error(fs, ErrorKind::kOutput, "rename to", to, code);
}

void remove_tree(FileSystem& fs, const std::string& path) {
  FileInfo info;
  if (!find_entry(fs, path, info, ErrorKind::kOutput)) return;
  int code = 0;
  if (info.kind == FileInfo::Kind::kFolder) {
    for (const std::string& name : list_folder(fs, path, ErrorKind::kOutput)) {
      remove_tree(fs, join_path(path, name));
    }
    code = repeat_interrupted([&] { return fs.remove_folder(path); });
  } else {
    code = repeat_interrupted([&] { return fs.unlink(path); });
  }
  if (code < 0 && code != -ENOENT) throw_file_error(fs, ErrorKind::kOutput, "remove", path, code);
}

void remove_leftovers(FileSystem& fs, const std::string& folder) {
  for (const std::string& name : list_folder(fs, folder, ErrorKind::kOutput)) {
    if (is_temporary_name(name)) remove_tree(fs, join_path(folder, name));
  }
}

std::string join_path(std::string_view folder, std::string_view name) {
  std::string path(folder);
  if (!path.empty() && path.back() != '/') path += '/';
  return path += name;
}

std::string parent_path(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  const std::size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return ".";
  return std::string(path.substr(0, slash == 0 ? 1 : slash));
}

std::string unique_name() {
  static std::atomic<std::uint64_t> counter = 0;
  return fmt::format("tmp-{}-{}", ::getpid(), counter++);
}

bool is_temporary_name(std::string_view name) {
  constexpr std::string_view kDigits = "0123456789";
  if (!name.starts_with("tmp-")) return false;
  name.remove_prefix(4);
  const std::size_t dash = name.find_first_not_of(kDigits);
  return dash != 0 && dash != std::string_view::npos && name[dash] == '-' && dash + 1 < name.size() &&
         name.find_first_not_of(kDigits, dash + 1) == std::string_view::npos;
}

}  // namespace cohort
