// What stands between two networks' feature maps of different shape: a 1x1 convolution (no bias) from the
// student's channels to the teacher's where these differ, one per ordered pair and stage, trained by the
// student's optimiser, in the checkpoint, dropped at deployment; and average pooling of the larger map where
// sizes differ (never upsampling).
#pragma once

#include <map>
#include <tuple>
#include <vector>

#include "core/parameter.h"
#include "models/network.h"

namespace cohort::distill {

// Stages of two networks that are compared: indices into Outputs::stages.
struct StagePair {
  std::size_t student, teacher;
};

// Outputs::stages or, of methods that look before the activation, Outputs::stages_pre.
inline const std::vector<Tensor>& maps_of(const models::Outputs& outputs, bool preactivation) {
  return preactivation ? outputs.stages_pre : outputs.stages;
}

class Adapters {
 public:
  // Declares the adapter of this pair where channels differ. `probe`: every member's maps, for their shapes.
  void add(const std::vector<std::vector<Tensor>>& probe, int student, int teacher, StagePair pair);
  // Allocates and draws (Kaiming normal, fan-out) all that were declared.
  void materialize(Context& ctx);

  // The parameters that member's optimiser trains: one set or none.
  std::vector<ParameterSet*> of(int member);

  // Both maps in the teacher's channels and the smaller size; the teacher's is detached.
  struct Maps {
    Tensor student, teacher;
  };
  Maps match(Context& ctx, const Tensor& student_map, const Tensor& teacher_map, int student, int teacher,
             std::size_t student_stage) const;

 private:
  std::vector<ParameterSet> sets_;                                          // per student
  std::map<std::tuple<int, int, std::size_t>, const Parameter*> adapters_;  // (student, teacher, stage)
};

}  // namespace cohort::distill
