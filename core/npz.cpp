#include "core/npz.h"

#define ZLIB_CONST
#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "core/safetensors_header.h"  // checked_tensor_bytes

namespace cohort {
namespace {

struct DescrRow {
  DType dtype;
  std::string_view descr;
};

constexpr DescrRow kDescrs[] = {
    {DType::f32, "<f4"}, {DType::f64, "<f8"}, {DType::i32, "<i4"}, {DType::i64, "<i8"}, {DType::u8, "|u1"}};

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr std::size_t kMaxHeader = 64 << 10;
constexpr char kHint[] = "the file is cut, damaged or not written by numpy.save or numpy.savez";

template <class T>
T load(std::span<const std::byte> bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

void append(std::vector<std::byte>& to, const void* data, std::size_t bytes) {
  const std::size_t at = to.size();
  to.resize(at + bytes);
  if (bytes > 0) std::memcpy(to.data() + at, data, bytes);
}

template <class T>
void store(std::vector<std::byte>& to, T value) {
  append(to, &value, sizeof(value));
}

void store_text(std::vector<std::byte>& to, std::string_view text) {
  append(to, text.data(), text.size());
}

// The header is a Python dictionary with the keys descr, fortran_order and shape; nothing else of Python is
// understood.
class NpyHeaderParser {
 public:
  NpyHeaderParser(std::string_view text, const std::string& origin, ErrorKind kind)
      : rest_(text), origin_(origin), kind_(kind) {}

  NpyArray parse() {
    NpyArray array;
    std::set<std::string_view> keys;
    expect('{');
    while (!take('}')) {
      const std::string_view key = quoted();
      if (!keys.insert(key).second) fail(fmt::format("has the key '{}' twice", key));
      expect(':');
      if (key == "descr") {
        array.dtype = dtype();
      } else if (key == "fortran_order") {
        c_order();
      } else if (key == "shape") {
        array.shape = shape();
      } else {
        fail(fmt::format("has the unknown key '{}'", key));
      }
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (!rest_.empty()) fail("goes on after its dictionary");
    if (keys.size() != 3) fail("needs descr, fortran_order and shape");
    return array;
  }

 private:
  [[noreturn]] void fail(const std::string& problem) {
    throw Error(kind_, fmt::format("{}: the array header {}", origin_, problem), kHint);
  }

  void skip_space() {
    while (!rest_.empty() && (rest_.front() == ' ' || rest_.front() == '\n')) rest_.remove_prefix(1);
  }

  bool take(char c) {
    skip_space();
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }

  void expect(char c) {
    if (!take(c)) fail(fmt::format("needs a '{}' {} bytes before its end", c, rest_.size()));
  }

  std::string_view quoted() {
    skip_space();
    const char quote = rest_.empty() ? '\0' : rest_.front();
    if (quote != '\'' && quote != '"')
      fail(fmt::format("needs a text {} bytes before its end", rest_.size()));
    const std::size_t end = rest_.find(quote, 1);
    if (end == std::string_view::npos) fail("has a text without an end");
    const std::string_view text = rest_.substr(1, end - 1);
    rest_.remove_prefix(end + 1);
    return text;
  }

  DType dtype() {
    skip_space();
    if (!rest_.empty() && rest_.front() == '[')
      fail("describes a structured array: only plain numbers are read");
    const std::string_view descr = quoted();
    for (const DescrRow& row : kDescrs) {
      if (row.descr == descr) return row.dtype;
    }
    const char* reason = descr.starts_with('>')    ? "big-endian"
                         : descr.starts_with("|O") ? "Python objects, which are never loaded"
                         : descr.find('f') == 1 || descr.find('i') == 1 ? "another width"
                                                                        : "another type";
    fail(fmt::format("has the dtype '{}' ({}); only <f4 <f8 <i4 <i8 |u1 are read", descr, reason));
  }

  void c_order() {
    skip_space();
    if (rest_.starts_with("False")) {
      rest_.remove_prefix(5);
    } else if (rest_.starts_with("True")) {
      fail("says fortran_order: save numpy.ascontiguousarray(x) instead");
    } else {
      fail("has neither True nor False as fortran_order");
    }
  }

  std::vector<std::int64_t> shape() {
    std::vector<std::int64_t> dims;
    expect('(');
    while (!take(')')) {
      skip_space();
      std::int64_t dim = -1;
      const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), dim);
      if (error != std::errc() || dim < 0) fail("has a shape with something else than sizes");
      rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
      dims.push_back(dim);
      if (dims.size() > 64) fail("has more than 64 dimensions");
      if (!take(',')) {
        expect(')');
        break;
      }
    }
    return dims;
  }

  std::string_view rest_;
  const std::string& origin_;
  ErrorKind kind_;
};

struct ZipEntry {
  std::string name;
  int method = 0;
  std::uint32_t crc = 0;
  std::uint64_t packed_bytes = 0;
  std::uint64_t bytes = 0;
  std::uint64_t offset = 0;  // of its local header
};

constexpr std::uint32_t kLocalSignature = 0x04034b50;
constexpr std::uint32_t kCentralSignature = 0x02014b50;
constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::size_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22;
constexpr std::uint32_t kZip64 = 0xffffffff;

// Reads by the central directory; the local headers only tell where the data begins.
class ZipReader {
 public:
  ZipReader(std::span<const std::byte> file, const std::string& origin, const NpzReadOptions& options)
      : file_(file), origin_(origin), options_(options) {}

  std::vector<ZipEntry> entries() {
    const std::size_t end = find_end();
    const auto count = load<std::uint16_t>(file_, end + 10);
    const auto directory_bytes = load<std::uint32_t>(file_, end + 12);
    const auto directory = load<std::uint32_t>(file_, end + 16);
    if (count == 0xffff || directory == kZip64) fail("is a zip64 file (above 4 GiB), which is not read");
    if (load<std::uint32_t>(file_, end + 4) != 0) fail("is a part of a split zip");
    if (std::uint64_t{directory} + directory_bytes > end) fail("has a zip directory outside the file");
    directory_ = directory;
    std::vector<ZipEntry> found;
    std::span<const std::byte> rest = file_.subspan(directory, directory_bytes);
    std::uint64_t packed = 0, bytes = 0;
    for (int i = 0; i < count; ++i) {
      found.push_back(next_entry(rest));
      packed += found.back().packed_bytes;
      bytes += found.back().bytes;
    }
    if (!rest.empty()) fail("has a zip directory that is longer than its entries");
    if (packed > file_.size()) fail("has overlapping zip entries");
    if (bytes > options_.max_bytes) {
      fail(fmt::format("unpacks to {} bytes, at most {} are allowed", bytes, options_.max_bytes));
    }
    return found;
  }

  std::vector<std::byte> unpack(const ZipEntry& entry) {
    const std::span<const std::byte> packed = packed_data(entry);
    std::vector<std::byte> data;
    if (entry.method == 0) {
      data.assign(packed.begin(), packed.end());
    } else {
      data = inflate_all(packed, entry);
    }
    if (crc32_z(0, reinterpret_cast<const Bytef*>(data.data()), data.size()) != entry.crc) {
      fail(fmt::format("entry '{}' is damaged: its CRC-32 does not match", entry.name));
    }
    return data;
  }

 private:
  [[noreturn]] void fail(const std::string& problem) {
    throw Error(options_.kind, fmt::format("{}: {}", origin_, problem), kHint);
  }

  // The end record is the last thing in the file, before a comment of up to 65,535 bytes.
  std::size_t find_end() {
    for (std::size_t back = kEndBytes; back <= file_.size() && back <= kEndBytes + 0xffff; ++back) {
      const std::size_t at = file_.size() - back;
      if (load<std::uint32_t>(file_, at) != kEndSignature) continue;
      if (load<std::uint16_t>(file_, at + 20) == back - kEndBytes) return at;
    }
    fail("is not a zip file (no end record)");
  }

  ZipEntry next_entry(std::span<const std::byte>& rest) {
    if (rest.size() < kCentralBytes || load<std::uint32_t>(rest, 0) != kCentralSignature) {
      fail("has a damaged zip directory");
    }
    const std::size_t name_bytes = load<std::uint16_t>(rest, 28);
    const std::size_t length =
        kCentralBytes + name_bytes + load<std::uint16_t>(rest, 30) + load<std::uint16_t>(rest, 32);
    if (length > rest.size()) fail("has a damaged zip directory");
    ZipEntry entry;
    entry.name.assign(reinterpret_cast<const char*>(rest.data()) + kCentralBytes, name_bytes);
    entry.method = load<std::uint16_t>(rest, 10);
    entry.crc = load<std::uint32_t>(rest, 16);
    entry.packed_bytes = load<std::uint32_t>(rest, 20);
    entry.bytes = load<std::uint32_t>(rest, 24);
    entry.offset = load<std::uint32_t>(rest, 42);
    if ((load<std::uint16_t>(rest, 8) & 1) != 0) fail(fmt::format("entry '{}' is encrypted", entry.name));
    if (entry.packed_bytes == kZip64 || entry.bytes == kZip64 || entry.offset == kZip64) {
      fail(fmt::format("entry '{}' is zip64 (above 4 GiB), which is not read", entry.name));
    }
    if (entry.method != 0 && entry.method != Z_DEFLATED) {
      fail(fmt::format("entry '{}' is compressed by method {}; only stored and deflate are read", entry.name,
                       entry.method));
    }
    // Deflate packs at most 1032 bytes into one; a stored entry has one size.
    const std::uint64_t most = entry.method == 0 ? entry.packed_bytes : 1032 * entry.packed_bytes + 1032;
    if (entry.bytes > most || (entry.method == 0 && entry.bytes != most)) {
      fail(fmt::format("entry '{}' claims {} bytes from {}", entry.name, entry.bytes, entry.packed_bytes));
    }
    rest = rest.subspan(length);
    return entry;
  }

  std::span<const std::byte> packed_data(const ZipEntry& entry) {
    if (entry.offset + kLocalBytes > directory_ ||
        load<std::uint32_t>(file_, entry.offset) != kLocalSignature) {
      fail(fmt::format("entry '{}' has no local header", entry.name));
    }
    const std::size_t name_bytes = load<std::uint16_t>(file_, entry.offset + 26);
    const std::size_t extra_bytes = load<std::uint16_t>(file_, entry.offset + 28);
    const std::uint64_t begin = entry.offset + kLocalBytes + name_bytes + extra_bytes;
    if (begin + entry.packed_bytes > directory_)
      fail(fmt::format("entry '{}' passes the end of the data", entry.name));
    const auto* name = reinterpret_cast<const char*>(file_.data()) + entry.offset + kLocalBytes;
    if (std::string_view(name, name_bytes) != entry.name) {
      fail(fmt::format("entry '{}' has another name in its local header", entry.name));
    }
    return file_.subspan(begin, entry.packed_bytes);
  }

  std::vector<std::byte> inflate_all(std::span<const std::byte> packed, const ZipEntry& entry) {
    // One byte more than promised, so that a longer stream shows.
    std::vector<std::byte> data(entry.bytes + 1);
    z_stream stream = {};
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw Error(ErrorKind::kMemory, "zlib: out of memory");
    stream.next_in = reinterpret_cast<const Bytef*>(packed.data());
    stream.avail_in = static_cast<uInt>(packed.size());
    stream.next_out = reinterpret_cast<Bytef*>(data.data());
    stream.avail_out = static_cast<uInt>(data.size());
    const int code = inflate(&stream, Z_FINISH);
    const bool whole = code == Z_STREAM_END && stream.avail_in == 0 && stream.avail_out == 1;
    inflateEnd(&stream);
    if (!whole) fail(fmt::format("entry '{}' does not unpack to {} bytes", entry.name, entry.bytes));
    data.pop_back();
    return data;
  }

  std::span<const std::byte> file_;
  const std::string& origin_;
  const NpzReadOptions& options_;
  std::uint64_t directory_ = 0;
};

std::string_view descr_of(DType dtype) {
  for (const DescrRow& row : kDescrs) {
    if (row.dtype == dtype) return row.descr;
  }
  internal_error("npz: this dtype has no NumPy name; convert it to f32");
}

std::uint64_t checked_bytes(const NpyView& array) {
  const auto bytes = checked_tensor_bytes(array.shape, size_of(array.dtype));
  if (!bytes) internal_error("npz: bad shape");
  return *bytes;
}

void check_zip_size(std::uint64_t bytes) {
  if (bytes >= kZip64) {
    throw Error(ErrorKind::kOutput, "an .npz above 4 GiB cannot be written", "write several smaller files");
  }
}

struct WrittenEntry {
  std::string name;
  std::uint32_t crc = 0;
  std::uint32_t bytes = 0;
  std::uint32_t offset = 0;
};

// The fields that the local header and the directory share.
void store_common(std::vector<std::byte>& file, const WrittenEntry& entry) {
  store<std::uint16_t>(file, 20);      // version needed
  store<std::uint16_t>(file, 0x0800);  // names are UTF-8
  store<std::uint16_t>(file, 0);       // stored
  store<std::uint16_t>(file, 0);       // 00:00
  store<std::uint16_t>(file, 0x0021);  // 1980-01-01
  store<std::uint32_t>(file, entry.crc);
  store<std::uint32_t>(file, entry.bytes);
  store<std::uint32_t>(file, entry.bytes);
  store<std::uint16_t>(file, static_cast<std::uint16_t>(entry.name.size()));
  store<std::uint16_t>(file, 0);  // extra
}

void store_directory(std::vector<std::byte>& file, const std::vector<WrittenEntry>& entries) {
  const std::uint64_t directory = file.size();
  for (const WrittenEntry& entry : entries) {
    store(file, kCentralSignature);
    store<std::uint16_t>(file, 20 | 3 << 8);  // made on Unix
    store_common(file, entry);
    store<std::uint16_t>(file, 0);                             // comment
    store<std::uint16_t>(file, 0);                             // disk
    store<std::uint16_t>(file, 0);                             // internal attributes
    store<std::uint32_t>(file, std::uint32_t{0100644} << 16);  // external attributes: a file, rw-r--r--
    store(file, entry.offset);
    store_text(file, entry.name);
  }
  check_zip_size(file.size());
  const std::uint64_t directory_bytes = file.size() - directory;
  store(file, kEndSignature);
  store<std::uint32_t>(file, 0);  // disks
  store<std::uint16_t>(file, static_cast<std::uint16_t>(entries.size()));
  store<std::uint16_t>(file, static_cast<std::uint16_t>(entries.size()));
  store<std::uint32_t>(file, static_cast<std::uint32_t>(directory_bytes));
  store<std::uint32_t>(file, static_cast<std::uint32_t>(directory));
  store<std::uint16_t>(file, 0);  // comment
}

}  // namespace

NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& origin,
                   const NpzReadOptions& options) {
  const auto fail = [&](const std::string& problem) {
    throw Error(options.kind, fmt::format("{} {}", origin, problem), kHint);
  };
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  if (bytes.size() < 10 || std::string_view(text, kMagic.size()) != kMagic) fail("is not an .npy file");
  const int version = std::to_integer<int>(bytes[6]);
  if (version < 1 || version > 3) fail(fmt::format("has .npy version {}; 1 to 3 are read", version));
  const std::size_t start = version == 1 ? 10 : 12;
  if (bytes.size() < start) fail("ends in its header");
  const std::uint64_t length = version == 1 ? load<std::uint16_t>(bytes, 8) : load<std::uint32_t>(bytes, 8);
  if (length > kMaxHeader || length > bytes.size() - start) {
    fail(fmt::format("claims a header of {} bytes", length));
  }
  NpyArray array = NpyHeaderParser({text + start, length}, origin, options.kind).parse();
  const std::span<const std::byte> data = bytes.subspan(start + length);
  const auto expected = checked_tensor_bytes(array.shape, size_of(array.dtype));
  if (!expected || *expected != data.size()) {
    fail(fmt::format("has {} bytes of data, but {} ({}) needs {}", data.size(), name_of(array.dtype),
                     fmt::join(array.shape, ", "),
                     expected ? fmt::format("{}", *expected) : "more than 2^63"));
  }
  if (data.size() > options.max_bytes)
    fail(fmt::format("has {} bytes of data, above the limit", data.size()));
  array.data.assign(data.begin(), data.end());
  return array;
}

NpzArrays parse_npz(std::span<const std::byte> bytes, const std::string& origin,
                    const NpzReadOptions& options) {
  ZipReader zip(bytes, origin, options);
  NpzArrays arrays;
  for (const ZipEntry& entry : zip.entries()) {
    constexpr std::string_view kSuffix = ".npy";
    if (!entry.name.ends_with(kSuffix)) {
      throw Error(options.kind, fmt::format("{}: entry '{}' is not an .npy", origin, entry.name), kHint);
    }
    const std::string name = entry.name.substr(0, entry.name.size() - kSuffix.size());
    if (arrays.contains(name)) {
      throw Error(options.kind, fmt::format("{}: has two entries '{}'", origin, entry.name), kHint);
    }
    arrays.emplace(name,
                   parse_npy(zip.unpack(entry), fmt::format("{}: entry '{}'", origin, entry.name), options));
  }
  return arrays;
}

NpyArray read_npy(FileSystem& fs, const std::string& path, const NpzReadOptions& options) {
  return parse_npy(
      read_file(fs, path, static_cast<std::int64_t>(options.max_bytes + kMaxHeader), options.kind), path,
      options);
}

NpzArrays read_npz(FileSystem& fs, const std::string& path, const NpzReadOptions& options) {
  return parse_npz(read_file(fs, path, std::int64_t{1} << 32, options.kind), path, options);
}

std::vector<std::byte> serialize_npy(const NpyView& array) {
  std::string header =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", descr_of(array.dtype),
                  fmt::join(array.shape, ", "), array.shape.size() == 1 ? "," : "");
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  const std::uint64_t bytes = checked_bytes(array);
  std::vector<std::byte> file;
  file.reserve(10 + header.size() + bytes);
  store_text(file, kMagic);
  store<std::uint16_t>(file, 1);  // version 1.0
  store<std::uint16_t>(file, static_cast<std::uint16_t>(header.size()));
  store_text(file, header);
  append(file, array.data, bytes);
  return file;
}

std::vector<std::byte> serialize_npz(std::span<const NpyView> arrays) {
  std::vector<std::byte> file;
  std::vector<WrittenEntry> entries;
  std::set<std::string> names;
  check_zip_size(arrays.size() >= 0xffff ? kZip64 : 0);
  for (const NpyView& array : arrays) {
    if (array.name.empty() || array.name.size() > 1000 || !names.insert(array.name).second) {
      internal_error(fmt::format("serialize_npz: bad or repeated name '{}'", array.name));
    }
    const std::vector<std::byte> npy = serialize_npy(array);
    check_zip_size(file.size() + npy.size());
    WrittenEntry entry;
    entry.name = array.name + ".npy";
    entry.crc =
        static_cast<std::uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(npy.data()), npy.size()));
    entry.bytes = static_cast<std::uint32_t>(npy.size());
    entry.offset = static_cast<std::uint32_t>(file.size());
    store(file, kLocalSignature);
    store_common(file, entry);
    store_text(file, entry.name);
    append(file, npy.data(), npy.size());
    entries.push_back(std::move(entry));
  }
  store_directory(file, entries);
  return file;
}

}  // namespace cohort
