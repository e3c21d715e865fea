// What one training step of a cohort consists of on a GPU: graph nodes, bytes, memory. Counted by going
// through the step without a device (ContextOptions::rehearse), by the very code that launches it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "distill/cohort.h"

namespace cohort::distill {

struct StepCosts {
  kernels::CapturedStep graph;
  std::vector<Rehearsal::Operation> operations;  // in the order of their first calls

  Traffic traffic;  // of all operations
  // The unit of traffic: what the networks' convolutions write in one forward pass, in the dtype of
  // activations.
  std::int64_t convolution_outputs = 0;

  // Bytes of device memory that arenas take, and what for. `reserved` is what is taken from the device:
  // arenas grow by chunks, so it is more than the sum of the others. Workspace is without that of cuDNN's
  // plans.
  struct Memory {
    std::size_t weights = 0;    // values, and their bf16 shadow; of former networks too
    std::size_t gradients = 0;  // of weights
    std::size_t momenta = 0;
    std::size_t images = 0;
    std::size_t other = 0;  // running statistics, labels, tables, constants
    std::size_t step = 0;   // activations and their gradients
    std::size_t workspace = 0;
    std::size_t reserved = 0;
  } memory;

  int casts() const;  // nodes that only convert
};

// `cohort` belongs to a context that rehearses, as do the images. `rows` images a batch; they come again when
// the set is shorter.
StepCosts step_costs(Cohort& cohort, const DeviceImages& images, std::int64_t rows);

}  // namespace cohort::distill
