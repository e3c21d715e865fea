// A least-squares discriminator of feature maps: of which network is a map? Mao et al., "Least squares
// generative adversarial networks", ICCV 2017; the layers are those of AFD's third-party code for 4x4 maps.
//
//   [conv 3x3 stride 2 (c -> c), BN, LeakyReLU]  until no side is longer than 4
//   conv 2x2 (c -> c/2), BN, LeakyReLU 0.01, conv 2x2 stride 2 (c/2 -> 1), sigmoid
//
// Maps with a side shorter than 3 are padded by one before the first 2x2 window. It is used in training only,
// so its batch normalisations keep no running statistics.
#pragma once

#include <string>
#include <vector>

#include "core/context.h"
#include "core/parameter.h"

namespace cohort::distill {

class Discriminator {
 public:
  // For maps of this shape, (any number, H, W, C). Its parameters join `parameters`.
  Discriminator(ParameterSet& parameters, const Shape& map);

  // Verdicts in (0, 1): (N, h, w, 1), h and w 1 but for oblong maps. `learns`: they depend on its parameters;
  // else those are constants.
  Tensor judge(Context& ctx, const Tensor& map, bool learns) const;

 private:
  struct Layer {
    const Parameter* weight;
    const Parameter* bias;          // null where a normalisation follows
    const Parameter *gamma, *beta;  // null where none does
    int stride, padding;
  };
  void add(ParameterSet& parameters, std::int64_t in, std::int64_t out, int kernel, int stride, int padding,
           bool last);

  std::vector<Layer> layers_;
};

// mean((verdicts - target)^2) over the valid rows; weight (() A) times it is added to `loss` (empty:
// nowhere), and its gradient goes to the verdicts. No logarithm: a verdict of 0 or 1 has a gradient.
struct Judgement {
  Tensor weight;           // () A
  Tensor valid_rows = {};  // () i32; empty: all
  Tensor loss = {};        // () A
};
Tensor least_squares(Context& ctx, const Tensor& verdicts, double target, const Judgement& how);

}  // namespace cohort::distill
