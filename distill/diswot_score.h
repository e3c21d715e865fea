// Which student suits a teacher, told without training: DisWOT's distances between networks that have just
// been drawn (Dong et al., CVPR 2023).
#pragma once

#include <string>

#include "core/context.h"
#include "core/image_set.h"

namespace cohort::distill {

struct DiswotScore {
  double relation = 0;  // R and Sem of docs/methods.md
  double semantic = 0;
  double score() const { return -(relation + semantic); }  // the larger the better
};

// Both networks are drawn by the context's seed, the teacher as network 0, and see the whole set as one batch
// in training mode. Where their pooled vectors differ in size, the student's goes through a drawn linear map.
DiswotScore diswot_score(Context& ctx, const std::string& student, const std::string& teacher,
                         const ImageSet& images);

}  // namespace cohort::distill
