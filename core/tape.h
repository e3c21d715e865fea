// The tape of one branch: the differentiable operations of a step in the order they ran. Backward walks it in
// reverse; creation order is a topological order, so there is no sort, no recursion, and one fixed order of
// accumulation.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "core/tensor.h"

namespace cohort {

class Context;

// One differentiable operation: the tensors it needs to go back, and how. Nodes are plain data in the tape's
// memory and are never destroyed one by one.
struct Node {
  const char* name;
  Tensor y;  // the result whose gradient backward() consumes

  virtual void backward(Context& ctx) = 0;

 protected:
  Node(const char* node_name, const Tensor& result) : name(node_name), y(result) {}
  Node(const Node&) = default;
  Node& operator=(const Node&) = default;
  ~Node() = default;
};

class Tape {
 public:
  template <class N>
  void push(const N& node) {
    static_assert(std::is_base_of_v<Node, N> && std::is_trivially_destructible_v<N>);
    nodes_.push_back(new (take(sizeof(N), alignof(N))) N(node));
  }

  // A gradient slot that lives until clear().
  GradSlot* new_slot(DType dtype, int branch) {
    return new (take(sizeof(GradSlot), alignof(GradSlot))) GradSlot{.dtype = dtype, .branch = branch};
  }

  const std::vector<Node*>& nodes() const { return nodes_; }

  void clear();

 private:
  void* take(std::size_t bytes, std::size_t alignment);

  static constexpr std::size_t kBlockBytes = 64 * 1024;
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
  std::size_t block_ = 0, offset_ = 0;
  std::vector<Node*> nodes_;
};

}  // namespace cohort
