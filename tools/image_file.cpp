#include "tools/image_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "core/file_system.h"
#include "tools/stb_decoder.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

// Weights of the source pixels [begin, begin + weights.size()) for one output pixel.
struct Tap {
  int begin = 0;
  std::vector<double> weights;
};

std::vector<Tap> triangle_taps(int source_begin, int source_size, int size) {
  const double scale = static_cast<double>(source_size) / size;
  const double support = std::max(1.0, scale);
  std::vector<Tap> taps;
  for (int i = 0; i < size; ++i) {
    const double center = (i + 0.5) * scale - 0.5;
    const int low = std::max(0, static_cast<int>(std::floor(center - support)));
    const int high = std::min(source_size - 1, static_cast<int>(std::ceil(center + support)));
    Tap tap{source_begin + low, {}};
    double sum = 0;
    for (int j = low; j <= high; ++j) {
      tap.weights.push_back(std::max(0.0, 1.0 - std::abs(j - center) / support));
      sum += tap.weights.back();
    }
    for (double& weight : tap.weights) weight /= sum;
    taps.push_back(std::move(tap));
  }
  return taps;
}

[[noreturn]] void fail(const std::string& origin, const char* why) {
  throw Error(ErrorKind::kInput, fmt::format("cannot read the image '{}': {}", printable(origin), why),
              "PNG, JPEG, BMP and PNM are read");
}

void check_sides(const std::string& origin, std::int64_t width, std::int64_t height) {
  if (width < 1 || height < 1) fail(origin, "it has no pixels");
  if (width > kMaxImageSide || height > kMaxImageSide) fail(origin, "a side is longer than 8192 pixels");
  if (width * height > kMaxImagePixels) fail(origin, "it has more than 33 million pixels");
}

// A Huffman table of more than 256 codes writes behind its array in stb_image releases before 2023 (Debian
// 12's is one). `at` is behind the marker. False: the segment holds such a table.
bool huffman_tables_fit(std::span<const std::byte> bytes, std::size_t at) {
  const auto byte = [&](std::size_t i) { return i < bytes.size() ? static_cast<std::size_t>(bytes[i]) : 0; };
  std::size_t left = byte(at) * 256 + byte(at + 1);
  at += 2;
  left = left < 2 ? 0 : left - 2;
  while (left > 0 && at < bytes.size()) {
    std::size_t codes = 0;
    for (std::size_t i = 1; i <= 16; ++i) codes += byte(at + i);
    if (codes > 256) return false;
    if (left < 17 + codes) return true;  // the decoder refuses it
    left -= 17 + codes;
    at += 17 + codes;
  }
  return true;
}

// Every table that the decoder could come across. Segments of applications are skipped, as it does: they hold
// anything.
bool is_safe_jpeg(std::span<const std::byte> bytes) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned>(bytes[i]); };
  bool scan = false;  // behind the first start of scan, markers may follow anywhere
  std::size_t at = 2;
  while (at + 1 < bytes.size()) {
    if (byte(at) != 0xFF || byte(at + 1) == 0xFF) {
      ++at;
      continue;
    }
    const unsigned marker = byte(at + 1);
    at += 2;
    if (marker == 0xC4 && !huffman_tables_fit(bytes, at)) return false;
    if (marker == 0xDA) scan = true;
    const bool segment = marker == 0xC4 || marker == 0xDB || marker == 0xDD || marker == 0xFE ||
                         (marker >= 0xC0 && marker <= 0xC2) || (marker >= 0xE0 && marker <= 0xEF);
    if (segment && !scan && at + 1 < bytes.size()) {
      const std::size_t length = byte(at) * 256 + byte(at + 1);
      at += length < 2 ? 0 : length;
    }
  }
  return true;
}

// A chunk of a PNG that claims more bytes than the file has would be allocated before it is read.
bool is_safe_png(std::span<const std::byte> bytes) {
  for (std::size_t at = 8; at + 8 <= bytes.size();) {
    std::size_t length = 0;
    for (std::size_t i = 0; i < 4; ++i) length = length * 256 + static_cast<std::size_t>(bytes[at + i]);
    if (length > bytes.size() - at - 8) return false;
    at += 12 + length;
  }
  return true;
}

bool is_pnm(std::span<const std::byte> bytes) {
  return bytes.size() > 2 && bytes[0] == std::byte{'P'} &&
         (bytes[1] == std::byte{'5'} || bytes[1] == std::byte{'6'});
}

// Binary, 8 bits: P5 (grey) and P6 (colour).
Image decode_pnm(std::span<const std::byte> bytes, const std::string& origin, int channels) {
  std::size_t at = 2;
  const auto peek = [&] { return at < bytes.size() ? static_cast<char>(bytes[at]) : '\0'; };
  const auto is_blank = [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; };
  std::int64_t numbers[3] = {0, 0, 0};  // width, height, largest value
  for (std::int64_t& number : numbers) {
    while (is_blank(peek()) || peek() == '#') {
      const bool comment = peek() == '#';
      while (comment && at < bytes.size() && peek() != '\n') ++at;
      if (!comment) ++at;
    }
    const std::size_t begin = at;
    for (; peek() >= '0' && peek() <= '9' && at - begin < 6; ++at) number = 10 * number + (peek() - '0');
    if (at == begin) fail(origin, "its header is not a PNM's");
  }
  if (!is_blank(peek()) || numbers[2] != 255) fail(origin, "it is no PNM of 8 bits");
  check_sides(origin, numbers[0], numbers[1]);
  const std::size_t found = bytes[1] == std::byte{'6'} ? 3 : 1;
  const std::size_t pixels = static_cast<std::size_t>(numbers[0] * numbers[1]);
  if (bytes.size() - at - 1 < pixels * found) fail(origin, "the file is cut short");
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data()) + at + 1;
  Image image{static_cast<int>(numbers[1]), static_cast<int>(numbers[0]), channels, {}};
  image.pixels.reserve(pixels * static_cast<std::size_t>(channels));
  for (std::size_t i = 0; i < pixels; ++i) {
    const std::uint8_t* p = data + i * found;
    for (int c = 0; c < channels; ++c) {
      // Grey from colour as stb_image does for the other formats.
      const bool mix = found == 3 && channels == 1;
      const int value = mix ? (p[0] * 77 + p[1] * 150 + p[2] * 29) >> 8 : p[found == 3 ? c : 0];
      image.pixels.push_back(static_cast<std::uint8_t>(value));
    }
  }
  return image;
}

}  // namespace

Image decode_image(std::span<const std::byte> bytes, const std::string& origin, int channels) {
  if (is_pnm(bytes)) return decode_pnm(bytes, origin, channels);
  const auto* data = reinterpret_cast<const stbi_uc*>(bytes.data());
  const int size = static_cast<int>(bytes.size());
  Image image;
  int found = 0;
  // The header first: a small file must not make us allocate gigabytes.
  if (size == 0) fail(origin, "it is empty");
  const bool png = static_cast<unsigned>(bytes[0]) == 0x89;
  if (png && !is_safe_png(bytes)) fail(origin, "a chunk is longer than the file");
  const bool jpeg = static_cast<unsigned>(bytes[0]) == 0xFF;
  if (jpeg && !is_safe_jpeg(bytes)) fail(origin, "bad Huffman table");
  if (stbi_info_from_memory(data, size, &image.width, &image.height, &found) == 0) {
    fail(origin, stbi_failure_reason());
  }
  check_sides(origin, image.width, image.height);
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(data, size, &image.width, &image.height, &found, channels), stbi_image_free);
  if (!pixels) fail(origin, stbi_failure_reason());
  image.channels = channels;
  const std::size_t count = static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.height) *
                            static_cast<std::size_t>(channels);
  image.pixels.assign(pixels.get(), pixels.get() + count);
  return image;
}

Image read_image(const std::string& path, int channels) {
  const std::vector<std::byte> bytes =
      read_file(system_file_system(), path, kMaxImageFile, ErrorKind::kInput);
  return decode_image(bytes, path, channels);
}

Image fit_image(const Image& image, int height, int width) {
  if (image.height == height && image.width == width) return image;
  const double scale =
      std::min(static_cast<double>(image.height) / height, static_cast<double>(image.width) / width);
  const int crop_height = std::clamp(static_cast<int>(std::lround(scale * height)), 1, image.height);
  const int crop_width = std::clamp(static_cast<int>(std::lround(scale * width)), 1, image.width);
  const std::vector<Tap> rows = triangle_taps((image.height - crop_height) / 2, crop_height, height);
  const std::vector<Tap> columns = triangle_taps((image.width - crop_width) / 2, crop_width, width);
  const int c = image.channels;
  std::vector<double> wide(static_cast<std::size_t>(image.height) * static_cast<std::size_t>(width * c));
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < width * c; ++x) {
      const Tap& tap = columns[static_cast<std::size_t>(x / c)];
      double sum = 0;
      for (std::size_t j = 0; j < tap.weights.size(); ++j) {
        const auto column = static_cast<std::size_t>(tap.begin) + j;
        const std::size_t at =
            (static_cast<std::size_t>(y) * static_cast<std::size_t>(image.width) + column) *
                static_cast<std::size_t>(c) +
            static_cast<std::size_t>(x % c);
        sum += tap.weights[j] * image.pixels[at];
      }
      wide[static_cast<std::size_t>(y) * static_cast<std::size_t>(width * c) + static_cast<std::size_t>(x)] =
          sum;
    }
  }
  Image out{height, width, c, {}};
  for (int y = 0; y < height; ++y) {
    const Tap& tap = rows[static_cast<std::size_t>(y)];
    for (int x = 0; x < width * c; ++x) {
      double sum = 0;
      for (std::size_t j = 0; j < tap.weights.size(); ++j) {
        sum += tap.weights[j] *
               wide[(static_cast<std::size_t>(tap.begin) + j) * static_cast<std::size_t>(width * c) +
                    static_cast<std::size_t>(x)];
      }
      out.pixels.push_back(static_cast<std::uint8_t>(std::clamp(std::lround(sum), 0L, 255L)));
    }
  }
  return out;
}

}  // namespace cohort::tools
