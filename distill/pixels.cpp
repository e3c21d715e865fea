#include "distill/pixels.h"

#include <numeric>

#include "kernels/augment.h"

namespace cohort::distill {

std::vector<double> pixels_of(const ImageSet& images) {
  std::vector<double> values(static_cast<std::size_t>(images.size() * images.image_bytes()));
  std::vector<std::int32_t> indices(static_cast<std::size_t>(images.size()));
  std::iota(indices.begin(), indices.end(), 0);
  void* const batches[] = {values.data()};
  kernels::augment(CpuStream{}, {.images = images.images.data(),
                                 .indices = indices.data(),
                                 .batches = batches,
                                 .batch_size = images.size(),
                                 .height = images.height,
                                 .width = images.width,
                                 .channels = images.channels,
                                 .dtype = DType::f64,
                                 .options = kernels::kNoAugment,
                                 .normalisation = images.normalisation});
  return values;
}

}  // namespace cohort::distill
