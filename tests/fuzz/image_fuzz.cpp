// Any bytes as an image file: refused with Error(kInput), or decoded into as many bytes as its size says, all
// of them defined, which then fit any input of a network. The first byte picks the channels.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <span>

#include "kernels/base/error.h"
#include "tools/image_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace cohort;
  if (size == 0) return 0;
  const int channels = (data[0] & 1) == 0 ? 3 : 1;
  try {
    const tools::Image image =
        tools::decode_image(std::as_bytes(std::span(data + 1, size - 1)), "fuzz", channels);
    const auto expected = static_cast<std::size_t>(image.height) * static_cast<std::size_t>(image.width) *
                          static_cast<std::size_t>(channels);
    if (image.pixels.size() != expected || expected == 0) std::abort();
    // Reads every byte: a sanitizer sees one that was never written.
    volatile unsigned sum = std::accumulate(image.pixels.begin(), image.pixels.end(), 0U);
    static_cast<void>(sum);
    if (image.height <= 512 && image.width <= 512 &&
        tools::fit_image(image, 8, 8).pixels.size() != 64U * static_cast<unsigned>(channels)) {
      std::abort();
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kInput) std::abort();
  }
  return 0;
}
