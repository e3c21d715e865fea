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

// The pixels of a binary PNM (P5, P6; 8 bits), which stb_image would take from uninitialised memory when they
// are cut. Empty when the header is not usable or bytes are missing.
std::span<const std::byte> pnm_pixels(std::span<const std::byte> bytes, int expected_channels) {
  std::size_t at = 2;
  const auto peek = [&] { return at < bytes.size() ? static_cast<char>(bytes[at]) : '\0'; };
  const auto is_blank = [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; };
  std::int64_t numbers[3] = {0, 0, 0};
  for (std::int64_t& number : numbers) {
    while (is_blank(peek()) || peek() == '#') {
      const bool comment = peek() == '#';
      while (comment && at < bytes.size() && peek() != '\n') ++at;
      if (!comment) ++at;
    }
    const std::size_t begin = at;
    for (; peek() >= '0' && peek() <= '9' && at - begin < 6; ++at) number = 10 * number + (peek() - '0');
    if (at == begin) return {};
  }
  if (!is_blank(peek()) || numbers[2] != 255) return {};
  const std::int64_t count = numbers[0] * numbers[1] * expected_channels;
  if (static_cast<std::int64_t>(bytes.size() - at) - 1 < count) return {};
  return bytes.subspan(at + 1, static_cast<std::size_t>(count));
}

}  // namespace

Image decode_image(std::span<const std::byte> bytes, const std::string& origin, int channels) {
  const auto* data = reinterpret_cast<const stbi_uc*>(bytes.data());
  const int size = static_cast<int>(bytes.size());
  const auto fail = [&](const char* why) {
    throw Error(ErrorKind::kInput, fmt::format("cannot read the image '{}': {}", printable(origin), why),
                "PNG, JPEG, BMP and PNM are read");
  };
  Image image;
  int found = 0;
  // The header first: a small file must not make us allocate gigabytes.
  if (size == 0 || stbi_info_from_memory(data, size, &image.width, &image.height, &found) == 0) {
    fail(size == 0 ? "it is empty" : stbi_failure_reason());
  }
  if (image.width < 1 || image.height < 1 || image.width > kMaxImageSide || image.height > kMaxImageSide) {
    fail("a side is longer than 8192 pixels");
  }
  if (static_cast<char>(bytes[0]) == 'P' && pnm_pixels(bytes, found).empty()) {
    fail("the file is cut short, or not an 8-bit binary PNM");
  }
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(data, size, &image.width, &image.height, &found, channels), stbi_image_free);
  if (!pixels) fail(stbi_failure_reason());
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
