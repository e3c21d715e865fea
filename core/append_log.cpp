#include "core/append_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace cohort {

AppendLog::AppendLog(FileSystem& fs, std::string path)
    : fs_(fs), file_(fs, std::move(path), OpenMode::kAppend, ErrorKind::kOutput) {
  const std::int64_t size = file_.size();
  if (size == 0) {
    sync_folder(fs_, parent_path(file_.path()));
    return;
  }
  std::int64_t complete = 0;
  hash_ = hash_prefix(size, &complete);
  bytes_ = size;
  if (complete != size) cut(complete);
}

Xxh3Stream AppendLog::hash_prefix(std::int64_t bytes, std::int64_t* complete_lines) {
  Xxh3Stream stream;
  std::string buffer(static_cast<std::size_t>(std::min<std::int64_t>(bytes, 1 << 20)), '\0');
  for (std::int64_t offset = 0; offset < bytes;) {
    const auto part = static_cast<std::size_t>(std::min<std::int64_t>(bytes - offset, 1 << 20));
    file_.read_exact(buffer.data(), part, offset);
    stream.update(buffer.data(), part);
    const std::size_t feed = std::string_view(buffer.data(), part).rfind('\n');
    if (complete_lines != nullptr && feed != std::string_view::npos) {
      *complete_lines = offset + static_cast<std::int64_t>(feed) + 1;
    }
    offset += static_cast<std::int64_t>(part);
  }
  return stream;
}

void AppendLog::cut(std::int64_t bytes) {
  Xxh3Stream shorter = hash_prefix(bytes, nullptr);
  file_.truncate(bytes);
  hash_ = std::move(shorter);
  bytes_ = bytes;
}

void AppendLog::append(std::string_view line) {
  if (!broken_.empty()) throw Error(ErrorKind::kOutput, broken_, "start again with --resume");
  if (line.find('\n') != std::string_view::npos)
    internal_error("AppendLog::append: the line holds a line feed");
  std::string text(line);
  text += '\n';
  try {
    file_.write_all(as_byte_span(text));
  } catch (const Error& error) {
    try {
      file_.truncate(bytes_);
    } catch (const Error&) {
      broken_ = error.what();
    }
    throw;
  }
  hash_.update(text);
  bytes_ += static_cast<std::int64_t>(text.size());
}

AppendLog::Mark AppendLog::sync() {
  if (!broken_.empty()) throw Error(ErrorKind::kOutput, broken_, "start again with --resume");
  try {
    file_.sync_data();
  } catch (const Error& error) {
    broken_ = error.what();  // the kernel may have dropped the pages: a second fdatasync would prove nothing
    throw;
  }
  return {bytes_, hash_.digest()};
}

void AppendLog::truncate_to(const Mark& mark) {
  const char* hint = "it does not belong to this checkpoint: restore both from the same place";
  if (mark.bytes < 0 || mark.bytes > bytes_) {
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("{} has {} bytes, but the checkpoint was saved when it had {}", file_.path(),
                            bytes_, mark.bytes),
                hint);
  }
  if (hash_prefix(mark.bytes, nullptr).digest() != mark.xxh3) {
    throw Error(
        ErrorKind::kCheckpoint,
        fmt::format("the first {} bytes of {} have changed since the checkpoint", mark.bytes, file_.path()),
        hint);
  }
  cut(mark.bytes);
  file_.sync();
}

std::vector<std::string> read_log_lines(FileSystem& fs, const std::string& path) {
  const std::vector<std::byte> bytes =
      read_file(fs, path, std::numeric_limits<std::int64_t>::max(), ErrorKind::kInput);
  std::string_view rest(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::vector<std::string> lines;
  for (std::size_t feed = rest.find('\n'); feed != std::string_view::npos; feed = rest.find('\n')) {
    lines.emplace_back(rest.substr(0, feed));
    rest.remove_prefix(feed + 1);
  }
  return lines;
}

}  // namespace cohort
