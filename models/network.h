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

// A network is a stem, stages, and the same end for all of them: the last map pooled, through a linear layer.
// The stem and each stage are a part, so that a method can do something between them or let several networks
// share the first ones. A part keeps one map of Outputs::stages; where activation comes late (Wide ResNet),
// that of the part before it.
class Network {
 public:
  virtual ~Network() = default;

  // x: (N, H, W, C) in the activation dtype of the context.
  Outputs forward(Context& ctx, const Tensor& x, const ForwardOptions& options) const;

  int num_parts() const { return static_cast<int>(ends_.size()); }
  // Parts [first, last) of the network. x is what part first - 1 returned (the images where first is 0), the
  // result what part `last` takes; maps are appended to `out`.
  Tensor run(Context& ctx, int first, int last, Tensor x, const ForwardOptions& options, Outputs& out) const;
  // The end: `map` is the last stage's, or what a method made of it.
  void classify(Context& ctx, const Tensor& map, Outputs& out) const;
  virtual const nn::Linear& classifier() const = 0;

  // The first `parts` parts are those of `owner`, a network of the same model that is materialized: the same
  // memory, and `owner` trains it. Before materialize().
  void share(const Network& owner, int parts);

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

  // Part `index`: what it hands on, its map kept in `out`.
  virtual Tensor run_part(Context& ctx, int index, const Tensor& x, const ForwardOptions& options,
                          Outputs& out) const = 0;
  // The parameters declared since the last call are those of the next part.
  void end_part() { ends_.push_back({parameters_.parameters().size(), parameters_.buffers().size()}); }

  ParameterSet parameters_;

 private:
  struct End {
    std::size_t parameters, buffers;
  };

  std::string model_;
  int num_classes_;
  InputShape input_;
  std::vector<End> ends_;  // of the parts, in the set
};

}  // namespace cohort::models
