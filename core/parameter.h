// The parameters of one network: declared one by one while the model is built, then laid out in flat blocks
// (values, gradients, momenta, bf16 shadow), so that the optimiser, averaging and checkpointing are single
// operations.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "core/context.h"

namespace cohort {

enum class ParameterKind : std::uint8_t { kConv, kLinearWeight, kVector };

// How a parameter starts. Draws are keyed by (seed, member, index of the parameter, element), so a network
// starts the same whatever else is in the cohort.
struct Initializer {
  enum class Kind : std::uint8_t { kConstant, kNormal, kUniform };
  Kind kind = Kind::kConstant;
  double scale = 0.0;  // the constant; the standard deviation; U(-scale, scale)
};

struct Parameter {
  std::string name;  // PyTorch's state-dict name
  Shape shape;       // ours: convolutions (K, kh, kw, C/groups)
  ParameterKind kind = ParameterKind::kVector;
  Initializer init;
  Tensor value;    // master copy, parameter dtype; carries the gradient slot
  Tensor compute;  // what operations read: `value`, or its bf16 shadow with the same gradient slot
  Tensor grad;
  bool shared = false;  // of another set, which trains it
};

// Non-trainable state: running statistics.
struct Buffer {
  std::string name;
  Shape shape;
  double init = 0.0;
  Tensor value;
  bool shared = false;
};

class ParameterSet {
 public:
  ParameterSet() = default;
  ParameterSet(const ParameterSet&) = delete;
  ParameterSet& operator=(const ParameterSet&) = delete;

  // Handles stay valid; tensors are set by materialize().
  Parameter* add(std::string name, const Shape& shape, ParameterKind kind, Initializer init);
  Buffer* add_buffer(std::string name, const Shape& shape, double init);

  // Before materialize(): the first parameters and buffers declared are those of `owner`, which is
  // materialized and outlives this set: the same tensors, no part of this set's blocks.
  void share(const ParameterSet& owner, std::size_t parameters, std::size_t buffers);

  // Lays everything out in persistent memory (zero-filled). Only convolution and linear weights get a shadow.
  void materialize(Context& ctx);
  // The same without gradients and momenta: of a network that only answers.
  void materialize_untrained(Context& ctx);

  // Draws the initial values of network `member` and sets buffers to theirs; refreshes the shadow.
  void initialize(Context& ctx, std::uint64_t seed, std::uint32_t member);

  // Takes over values, shadow and buffers of a set with the same declarations, on the device.
  void copy_from(Context& ctx, const ParameterSet& other);

  // Makes the next write of every gradient an overwrite: the start of a backward pass.
  void reset_grads();
  // From now on gradients are written to `block`, laid out as grads() is, where they are written at first;
  // the next write overwrites.
  void collect_grads_in(const Tensor& block);
  // Refreshes the shadow from the master values (after initialisation or loading; the optimiser keeps it
  // afterwards).
  void refresh_shadow(Context& ctx);

  std::deque<Parameter>& parameters() { return parameters_; }
  const std::deque<Parameter>& parameters() const { return parameters_; }
  std::deque<Buffer>& buffers() { return buffers_; }
  const std::deque<Buffer>& buffers() const { return buffers_; }

  // Flat blocks of the set's own parameters in order of declaration, each parameter padded to 16 elements;
  // padding stays zero.
  const Tensor& values() const { return values_; }
  const Tensor& grads() const { return grads_; }      // empty where nobody trains the set
  const Tensor& momenta() const { return momenta_; }  // likewise
  const Tensor& shadow() const { return shadow_; }    // empty unless the precision is bf16

  std::int64_t num_parameters() const;  // without padding, shared ones included

 private:
  void lay_out(Context& ctx, bool trained);

  std::deque<Parameter> parameters_;
  std::deque<Buffer> buffers_;
  std::deque<GradSlot> slots_;
  Tensor values_, grads_, momenta_, shadow_;
};

}  // namespace cohort
