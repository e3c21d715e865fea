#include "core/image_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "kernels/base/error.h"

namespace cohort {

ImageSet ImageSet::subset(std::span<const std::int32_t> indices) const {
  ImageSet result{.name = name,
                  .height = height,
                  .width = width,
                  .channels = channels,
                  .num_classes = num_classes,
                  .normalisation = normalisation,
                  .class_names = class_names};
  const std::int64_t plane = std::int64_t{height} * width;
  result.images.reserve(indices.size() * static_cast<std::size_t>(image_bytes()));
  result.labels.reserve(indices.size());
  for (const std::int32_t i : indices) {
    if (i < 0 || i >= size()) {
      internal_error(fmt::format("image set '{}': index {} of {}", name, i, size()));
    }
    result.images.insert(result.images.end(), image(i), image(i) + image_bytes());
    result.labels.push_back(labels[static_cast<std::size_t>(i)]);
    if (!masks.empty()) {
      const std::uint8_t* const mask = masks.data() + i * plane;
      result.masks.insert(result.masks.end(), mask, mask + plane);
    }
  }
  return result;
}

std::uint64_t ImageSet::fingerprint() const {
  const std::int64_t header[] = {height, width, channels, num_classes, size()};
  std::uint64_t hash = XXH3_64bits(header, sizeof header);
  hash = XXH3_64bits_withSeed(labels.data(), labels.size() * sizeof(std::int32_t), hash);
  hash = XXH3_64bits_withSeed(images.data(), images.size(), hash);
  return XXH3_64bits_withSeed(masks.data(), masks.size(), hash);
}

void ImageSet::check_usable() const {
  if (labels.empty()) {
    throw Error(ErrorKind::kInput, fmt::format("data set '{}' holds no images", name),
                "check the data folder and the limits on its size");
  }
  if (num_classes < 2) {
    throw Error(ErrorKind::kInput, fmt::format("data set '{}' has {} class", name, num_classes),
                "with one class every softmax is 1 and there is nothing to learn: use two or more");
  }
  const std::int64_t plane = std::int64_t{height} * width;
  if (height < 1 || width < 1 || channels < 1 || channels > kernels::kMaxImageChannels ||
      static_cast<std::int64_t>(images.size()) != size() * image_bytes() ||
      (!masks.empty() && static_cast<std::int64_t>(masks.size()) != size() * plane)) {
    internal_error(fmt::format("image set '{}': {} labels, {} image bytes, {} mask bytes for {}x{}x{}", name,
                               labels.size(), images.size(), masks.size(), height, width, channels));
  }
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0 || labels[i] >= num_classes) {
      throw Error(ErrorKind::kInput,
                  fmt::format("data set '{}': image {} has label {}, but there are {} classes", name, i,
                              labels[i], num_classes),
                  "labels count from 0");
    }
  }
}

kernels::Normalisation measure_normalisation(const ImageSet& set) {
  kernels::Normalisation result;
  const auto channels = static_cast<std::size_t>(set.channels);
  std::uint64_t sums[kernels::kMaxImageChannels] = {};
  std::uint64_t squares[kernels::kMaxImageChannels] = {};
  for (std::size_t i = 0; i < set.images.size(); i += channels) {
    for (std::size_t c = 0; c < channels; ++c) {
      const std::uint64_t pixel = set.images[i + c];
      sums[c] += pixel;
      squares[c] += pixel * pixel;
    }
  }
  const double count = std::max(1.0, static_cast<double>(set.images.size() / channels));
  for (std::size_t c = 0; c < channels; ++c) {
    const double mean = static_cast<double>(sums[c]) / count;
    const double variance = static_cast<double>(squares[c]) / count - mean * mean;
    result.mean[c] = mean / 255.0;
    result.std[c] = variance > 1e-6 ? std::sqrt(variance) / 255.0 : 1.0;
  }
  return result;
}

}  // namespace cohort
