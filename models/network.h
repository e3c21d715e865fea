// A classifier: parameters by their PyTorch names, and a forward pass that exposes what distillation methods
// look at.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/parameter.h"
#include "nn/layers.h"

namespace cohort::models {

struct InputShape {
  int channels = 3;
  int height = 32;
  int width = 32;
};

struct ForwardOptions {
  bool training = true;
  // Also return the maps before their last activation. Off by default: the fused layers never write them.
  bool preactivation = false;
};

// The last linear layer, for methods that send re-weighted maps through it. Its gradients add up with those
// of the network's own logits.
struct Classifier {
  Tensor weight;  // (classes, C), activation dtype
  Tensor bias;    // (classes), parameter dtype
};

// What a forward pass returns. Maps are (N, H, W, C).
struct Outputs {
  Tensor logits;  // (N, classes), accumulator dtype
  Classifier classifier;
  Tensor pooled;               // (N, C): the input of the classifier
  std::vector<Tensor> stages;  // f0 (after the stem), f1, ...: the last is what is pooled; after activation
  std::vector<Tensor> stages_pre;  // the same before activation; empty unless asked for
};

// The next stage of a network, with its map before the activation where there is one.
inline void keep_stage(Outputs& out, const nn::Activated& map) {
  out.stages.push_back(map.post);
  if (!map.pre.empty()) out.stages_pre.push_back(map.pre);
}

// The end of every network here: the last stage, pooled, through the last linear layer.
void classify(Context& ctx, Outputs& out, const nn::Linear& classifier);

class Network {
 public:
  virtual ~Network() = default;

  // x: (N, H, W, C) in the activation dtype of the context.
  virtual Outputs forward(Context& ctx, const Tensor& x, const ForwardOptions& options) const = 0;

  const std::string& model() const { return model_; }
  int num_classes() const { return num_classes_; }
  const InputShape& input() const { return input_; }
  ParameterSet& parameters() { return parameters_; }
  const ParameterSet& parameters() const { return parameters_; }

  // Allocates the parameters and draws their initial values.
  void materialize(Context& ctx, std::uint64_t seed, std::uint32_t member) {
    parameters_.materialize(ctx);
    parameters_.initialize(ctx, seed, member);
  }

 protected:
  Network(std::string model, int num_classes, const InputShape& input)
      : model_(std::move(model)), num_classes_(num_classes), input_(input) {}

  ParameterSet parameters_;

 private:
  std::string model_;
  int num_classes_;
  InputShape input_;
};

}  // namespace cohort::models
