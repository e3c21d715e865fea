// Where two networks look alike: the per-pixel similarity of their last feature maps and the weight maps that
// asymmetric decision-making makes of it (distill/methods/adm_terms.h), for people and for reports.
#pragma once

#include <vector>

#include "core/image_set.h"
#include "distill/cohort.h"

namespace cohort::distill {

// Of N images, each (height, width): the size of the networks' last maps, the smaller one of the two.
struct SimilarityMaps {
  std::int64_t count = 0, height = 0, width = 0;
  std::vector<double> similarity;  // cosine over channels, in [-1, 1]
  std::vector<double> agreement;   // a_co, mean 1 per image
  std::vector<double> difference;  // a_di, mean 1 per image

  // Where in these the value is that covers pixel (y, x) of the n-th image: each cell has the pixels nearest
  // to it.
  std::size_t cell(std::int64_t n, int y, int x, int image_height, int image_width) const {
    return static_cast<std::size_t>((n * height + y * height / image_height) * width +
                                    x * width / image_width);
  }
};

// In evaluation mode, without augmentation, on maps before the last activation. Members a and b; throws
// Error(kUsage) when their last maps differ in channels: nothing compares these without a trained adapter.
SimilarityMaps similarity_maps(Cohort& cohort, const ImageSet& images, int a, int b);

// How much of a weight map lies on the images' foreground (ImageSet::masks), as a share of its sum over all
// images; each cell of the map covers the pixels nearest to it. A map that looks nowhere in particular has
// the share of the foreground's area.
double foreground_share(const SimilarityMaps& maps, const std::vector<double>& weights,
                        const ImageSet& images);

}  // namespace cohort::distill
