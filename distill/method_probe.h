// A method's losses and gradients on given arrays, without networks: what `cohort loss` evaluates, so that
// every method can be checked against an independent implementation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "distill/method.h"

namespace cohort::distill {

// A feature map of a member, (N, C, H, W) row-major as other frameworks store it.
struct ProbeMap {
  std::int64_t channels = 0, height = 0, width = 0;
  std::vector<double> values;
};

// A member's classifier, for methods that send re-weighted maps through it.
struct ProbeClassifier {
  std::vector<double> weight;  // (classes, channels of the member's map)
  std::vector<double> bias;    // (classes)
};

// A trainable tensor of the method itself (an adapter, ...), in PyTorch's layout. Given ones may also be what
// it keeps beside those (ADM's predictions of an epoch ago).
struct ProbeParameter {
  int member;
  std::string name;
  std::vector<std::int64_t> dims;
  std::vector<double> values, gradient;
};

struct ProbeInput {
  bool double_precision = true;  // false: everything is rounded to f32 and computed in f32
  std::int64_t rows = 0, classes = 0;
  std::vector<std::vector<double>> logits = {};     // per member (rows, classes)
  std::vector<std::int32_t> labels = {};            // (rows)
  std::vector<ProbeMap> features = {};              // per member its last map, or empty
  std::vector<std::vector<ProbeMap>> earlier = {};  // per member the maps before that, or empty
  std::vector<ProbeClassifier> classifiers = {};    // per member, or empty
  std::vector<ProbeParameter> parameters = {};      // values to take the place of drawn ones
  // Per member the logits of its network of an epoch ago (rows, classes), or none: StepView::former.
  std::vector<std::vector<double>> former = {};
  std::vector<double> gate = {};   // (rows, members) in place of a computed one, or empty
  std::vector<double> fused = {};  // (rows, classes): a fusion's logits in place of computed ones, or empty
};

struct ProbeOutput {
  std::vector<double> loss;                        // per member, everything in force
  std::vector<std::vector<double>> grad_logits;    // per member (rows, classes); zeros for a frozen one
  std::vector<std::vector<double>> grad_features;  // per member (N, C, H, W); empty without features
  std::vector<std::vector<std::vector<double>>> grad_earlier;  // the same of the maps before
  std::vector<ProbeClassifier> grad_classifiers;               // per member; empty without classifiers
  std::vector<ProbeParameter> parameters;                      // the method's own, with the values they had
  int teacher = -1;                                            // -1: the method chooses none
  std::vector<double> kl_weight;                               // (members, members)
  std::vector<double> target;           // (rows, classes); empty without a shared target
  std::vector<double> gate, grad_gate;  // (rows, members); empty where the method has none
  std::vector<double> grad_fused;       // (rows, classes); empty where no fusion's logits were given
  std::vector<double> step_mask;        // (members); empty where the method pauses nobody
};

// A step without epochs (nothing warms up), in which logits and maps are independent of each other. The first
// member's map is what shared parts hand on; a method that learns something of held-out images sees the given
// samples as those. Throws Error(kUsage) for shapes that disagree and labels out of range.
ProbeOutput probe_method(Method& method, const ProbeInput& input, std::uint64_t seed = 0);

}  // namespace cohort::distill
