#include "core/checkpoint_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/checksum.h"

namespace cohort {
namespace {

constexpr int kManifestVersion = 1;
constexpr std::int64_t kMaxManifestBytes = 16 << 20;
constexpr char kManifest[] = "manifest.json";
constexpr char kDone[] = "DONE";
constexpr char kOldPrefix[] = "old-";
constexpr char kDamagedHint[] = "use another checkpoint, or start the run again";

std::string numbered(std::string_view prefix, std::int64_t step) {
  return fmt::format("{}-{:08}", prefix, step);
}

// The step of "<prefix>-<digits>" in its one canonical form.
std::optional<std::int64_t> parse_numbered(std::string_view prefix, std::string_view name) {
  if (!name.starts_with(prefix) || name.size() <= prefix.size() + 1) return std::nullopt;
  const char* first = name.data() + prefix.size() + 1;
  std::int64_t step = -1;
  const auto [end, error] = std::from_chars(first, name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size() || step < 0) return std::nullopt;
  if (numbered(prefix, step) != name) return std::nullopt;
  return step;
}

bool is_plain_name(std::string_view name) {
  return !name.empty() && name.size() <= 200 && name != "." && name != ".." && name != kManifest &&
         name != kDone && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

std::string done_text(std::string_view manifest) {
  return fmt::format("xxh3 {}\n", checksum_text(xxh3_64(manifest.data(), manifest.size())));
}

std::string manifest_text(std::int64_t step, std::span<const CheckpointFile> files) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const CheckpointFile& file : files) {
    rows.push_back({{"name", file.name},
                    {"bytes", file.bytes.size()},
                    {"xxh3", checksum_text(xxh3_64(file.bytes.data(), file.bytes.size()))}});
  }
  const nlohmann::ordered_json manifest = {{"version", kManifestVersion}, {"step", step}, {"files", rows}};
  return manifest.dump(1) + "\n";
}

// Never passed over by latest(): the run would silently go on from older weights.
class NewerVersion final : public Error {
 public:
  using Error::Error;
};

struct ManifestRow {
  std::string name;
  std::int64_t bytes = 0;
  std::uint64_t xxh3 = 0;
};

// `text` has passed its checksum in DONE, so what is wrong here was written wrong, or by a newer version.
std::vector<ManifestRow> parse_manifest(const std::string& text, std::int64_t step, const std::string& path) {
  const auto refuse = [&](const char* problem) {
    throw Error(ErrorKind::kCheckpoint, fmt::format("{}: {}", path, problem), kDamagedHint);
  };
  const auto manifest = nlohmann::json::parse(text, nullptr, false);
  if (!manifest.is_object() || !manifest.contains("version") || !manifest["version"].is_number_integer()) {
    refuse("not a checkpoint manifest");
  }
  if (manifest["version"].get<std::int64_t>() > kManifestVersion) {
    throw NewerVersion(ErrorKind::kCheckpoint,
                       fmt::format("{} has format version {}; this program reads up to version {}", path,
                                   manifest["version"].get<std::int64_t>(), kManifestVersion),
                       "use a newer version of cohort");
  }
  std::vector<ManifestRow> rows;
  std::set<std::string> names;
  try {
    if (manifest.at("step").get<std::int64_t>() != step) refuse("belongs to another step");
    for (const auto& file : manifest.at("files")) {
      ManifestRow row{file.at("name").get<std::string>(), file.at("bytes").get<std::int64_t>(), 0};
      const auto checksum = parse_checksum(file.at("xxh3").get<std::string>());
      if (!checksum || row.bytes < 0) refuse("has a bad size or checksum");
      if (!is_plain_name(row.name) || !names.insert(row.name).second)
        refuse("has a bad or repeated file name");
      row.xxh3 = *checksum;
      rows.push_back(std::move(row));
    }
  } catch (const nlohmann::json::exception&) {
    refuse("misses a field, or one has the wrong type");
  }
  return rows;
}

}  // namespace

const std::vector<std::byte>& Checkpoint::file(const std::string& name) const {
  const auto found = files.find(name);
  if (found != files.end()) return found->second;
  throw Error(ErrorKind::kCheckpoint, fmt::format("checkpoint {} has no file {}", path, name), kDamagedHint);
}

CheckpointStore::CheckpointStore(FileSystem& fs, std::string folder, CheckpointAccess access, int keep)
    : fs_(fs), folder_(std::move(folder)), access_(access), keep_(keep <= 0 ? 0 : std::max(keep, 2)) {
  if (access_ == CheckpointAccess::kWrite) {
    ensure_folder(fs_, folder_);
    recover();
  }
}

std::vector<std::string> CheckpointStore::entries() {
  return list_folder(fs_, folder_,
                     access_ == CheckpointAccess::kWrite ? ErrorKind::kOutput : ErrorKind::kCheckpoint);
}

// What a killed process left: temporary folders, and a folder moved aside whose successor never got its name.
void CheckpointStore::recover() {
  remove_leftovers(fs_, folder_);
  for (const std::string& name : entries()) {
    if (!name.starts_with(kOldPrefix)) continue;
    const std::string original = name.substr(sizeof(kOldPrefix) - 1);
    if (!parse_numbered("step", original) && !parse_numbered("best", original)) continue;
    FileInfo info;
    if (find_entry(fs_, path_of(original), info, ErrorKind::kOutput)) {
      remove_tree(fs_, path_of(name));
    } else {
      rename_entry(fs_, path_of(name), path_of(original));
    }
  }
  sync_folder(fs_, folder_);
}

void CheckpointStore::write_folder(const std::string& path, std::int64_t step,
                                   std::span<const CheckpointFile> files) {
  make_new_folder(fs_, path);
  for (const CheckpointFile& file : files) write_new_file(fs_, join_path(path, file.name), file.bytes);
  const std::string manifest = manifest_text(step, files);
  write_new_file(fs_, join_path(path, kManifest), as_byte_span(manifest));
  write_new_file(fs_, join_path(path, kDone), as_byte_span(done_text(manifest)));
  sync_folder(fs_, path);
}

void CheckpointStore::commit(const std::string& name, std::int64_t step,
                             std::span<const CheckpointFile> files) {
  check(access_ == CheckpointAccess::kWrite, "CheckpointStore: saving to a store opened for reading");
  check(step >= 0, "CheckpointStore: negative step");
  std::set<std::string> names;
  for (const CheckpointFile& file : files) {
    if (!is_plain_name(file.name) || !names.insert(file.name).second) {
      internal_error(fmt::format("CheckpointStore: bad or repeated file name '{}'", file.name));
    }
  }
  const std::string temporary = path_of(unique_name());
  const std::string aside = path_of(kOldPrefix + name);
  FileInfo info;
  bool replaces = false;
  try {
    write_folder(temporary, step, files);
    replaces = find_entry(fs_, path_of(name), info, ErrorKind::kOutput);
    if (replaces) {  // the same step again, after going back; rename cannot replace a folder that is not
                     // empty
      remove_tree(fs_, aside);
      rename_entry(fs_, path_of(name), aside);
    }
    rename_entry(fs_, temporary, path_of(name));
  } catch (const Error&) {
    // Best effort: give the space back and the old folder its name. The first error is the one to report.
    try {
      if (replaces && !find_entry(fs_, path_of(name), info, ErrorKind::kOutput))
        fs_.rename(aside, path_of(name));
      remove_tree(fs_, temporary);
    } catch (const Error&) {
    }
    throw;
  }
  sync_folder(fs_, folder_);
  if (replaces) remove_tree(fs_, aside);
}

void CheckpointStore::save(std::int64_t step, std::span<const CheckpointFile> files) {
  const std::string name = numbered("step", step);
  commit(name, step, files);
  durable_replace_link(fs_, path_of("last"), name);
  prune();
}

void CheckpointStore::save_best(std::int64_t step, std::span<const CheckpointFile> files) {
  const std::string name = numbered("best", step);
  commit(name, step, files);
  const std::string link = path_of("best");
  durable_replace_link(fs_, link, name);
  std::vector<std::string> others;
  for (const std::string& entry : entries()) {
    if (entry != name && parse_numbered("best", entry)) others.push_back(entry);
  }
  remove_entries(others);
}

// Renamed first and synced, so that no folder with DONE is ever half empty.
void CheckpointStore::remove_entries(const std::vector<std::string>& names) {
  std::vector<std::string> doomed;
  for (const std::string& name : names) {
    doomed.push_back(path_of(unique_name()));
    rename_entry(fs_, path_of(name), doomed.back());
  }
  if (doomed.empty()) return;
  sync_folder(fs_, folder_);
  for (const std::string& path : doomed) remove_tree(fs_, path);
}

void CheckpointStore::prune() {
  if (keep_ == 0) return;
  const std::vector<std::int64_t> all = steps();
  std::vector<std::string> doomed;
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep_) < all.size(); ++i) {
    doomed.push_back(numbered("step", all[i]));
  }
  remove_entries(doomed);
}

void CheckpointStore::discard_after(std::int64_t step) {
  check(access_ == CheckpointAccess::kWrite, "CheckpointStore: discarding in a store opened for reading");
  std::vector<std::string> doomed;
  for (const std::int64_t later : steps()) {
    if (later > step) doomed.push_back(numbered("step", later));
  }
  if (doomed.empty()) return;
  durable_replace_link(fs_, path_of("last"), numbered("step", step));
  remove_entries(doomed);
}

std::vector<std::int64_t> CheckpointStore::steps() {
  std::vector<std::int64_t> found;
  for (const std::string& name : entries()) {
    if (const auto step = parse_numbered("step", name)) found.push_back(*step);
  }
  std::sort(found.begin(), found.end());
  return found;
}

Checkpoint CheckpointStore::load_folder(const std::string& name, std::int64_t step) {
  constexpr ErrorKind kKind = ErrorKind::kCheckpoint;
  constexpr OpenMode kMode = OpenMode::kReadNoFollow;
  Checkpoint checkpoint{step, path_of(name), {}, {}};
  FileInfo info;
  if (!find_entry(fs_, checkpoint.path, info, kKind)) {
    throw Error(kKind, fmt::format("there is no checkpoint {}", checkpoint.path), "check the step");
  }
  if (info.kind != FileInfo::Kind::kFolder) {
    throw Error(kKind, fmt::format("{} is a link or a file, not a checkpoint folder", checkpoint.path),
                kDamagedHint);
  }
  const auto text_of = [&](const char* file, std::int64_t limit) {
    const auto bytes = read_file(fs_, join_path(checkpoint.path, file), limit, kKind, kMode);
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  const std::string done = text_of(kDone, 1024);
  const std::string manifest = text_of(kManifest, kMaxManifestBytes);
  const std::string manifest_path = join_path(checkpoint.path, kManifest);
  if (done != done_text(manifest)) {
    throw Error(kKind, fmt::format("{} does not match its checksum in DONE", manifest_path), kDamagedHint);
  }
  for (const ManifestRow& row : parse_manifest(manifest, step, manifest_path)) {
    const std::string path = join_path(checkpoint.path, row.name);
    std::vector<std::byte> bytes = read_file(fs_, path, row.bytes, kKind, kMode);
    if (static_cast<std::int64_t>(bytes.size()) != row.bytes) {
      throw Error(kKind, fmt::format("{} has {} bytes instead of {}", path, bytes.size(), row.bytes),
                  kDamagedHint);
    }
    const std::uint64_t actual = xxh3_64(bytes.data(), bytes.size());
    if (actual != row.xxh3) {
      throw Error(kKind,
                  fmt::format("{} is damaged: checksum {} instead of {}", path, checksum_text(actual),
                              checksum_text(row.xxh3)),
                  kDamagedHint);
    }
    checkpoint.files.emplace(row.name, std::move(bytes));
  }
  return checkpoint;
}

Checkpoint CheckpointStore::load(std::int64_t step) {
  return load_folder(numbered("step", step), step);
}

Checkpoint CheckpointStore::latest() {
  std::vector<std::int64_t> candidates = steps();
  std::string problems;
  for (int attempt = 0; attempt < 10; ++attempt) {
    problems.clear();
    for (auto step = candidates.rbegin(); step != candidates.rend(); ++step) {
      try {
        Checkpoint checkpoint = load(*step);
        if (!problems.empty()) checkpoint.warning = fmt::format("going back to step {}: {}", *step, problems);
        return checkpoint;
      } catch (const NewerVersion&) {
        throw;
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kCheckpoint) throw;
        problems += (problems.empty() ? "" : "; ") + std::string(error.what());
      }
    }
    // A run that saves beside this reader may have pruned all that were listed.
    std::vector<std::int64_t> now = steps();
    if (now == candidates) break;
    candidates = std::move(now);
  }
  throw Error(ErrorKind::kCheckpoint,
              fmt::format("no usable checkpoint in {}{}{}", folder_, problems.empty() ? "" : ": ", problems),
              "start the run again without --resume");
}

Checkpoint CheckpointStore::best() {
  const std::string link = path_of("best");
  for (int attempt = 0;; ++attempt) {
    std::string target;
    const int code = fs_.read_link(link, target);
    if (code < 0) throw_file_error(fs_, ErrorKind::kCheckpoint, "read the link", link, code);
    const auto step = parse_numbered("best", target);
    if (!step) {
      throw Error(ErrorKind::kCheckpoint,
                  fmt::format("{} points to {}, which is not a checkpoint of this run", link, target),
                  kDamagedHint);
    }
    try {
      return load_folder(target, *step);
    } catch (const NewerVersion&) {
      throw;
    } catch (const Error&) {
      // A run that saves beside this reader may have replaced it in between.
      std::string now;
      if (attempt >= 10 || fs_.read_link(link, now) < 0 || now == target) throw;
    }
  }
}

}  // namespace cohort
