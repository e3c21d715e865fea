// Photographs for `predict`: PNG, JPEG, BMP and PNM, from untrusted files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace cohort::tools {

struct Image {
  int height = 0, width = 0, channels = 0;
  std::vector<std::uint8_t> pixels;  // (H, W, C)
};

constexpr std::int64_t kMaxImageFile = 64 << 20;
constexpr int kMaxImageSide = 8192;
constexpr std::int64_t kMaxImagePixels = std::int64_t{1} << 25;  // a decoder may need 30 bytes for each

// `channels` is 1 or 3: grey and colour are converted into each other, alpha is dropped. Throws
// Error(kInput).
Image decode_image(std::span<const std::byte> bytes, const std::string& origin, int channels);
Image read_image(const std::string& path, int channels);

// The largest centred square-pixel crop of the target's shape, then bilinear with the filter widened when
// shrinking (as torchvision with antialias). An image that already fits is returned as it is.
Image fit_image(const Image& image, int height, int width);

}  // namespace cohort::tools
