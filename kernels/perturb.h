// Stochastic perturbation: in a step, one member of the cohort sees its batch through one operation of a
// pool.
//
// One call draws the member r and the operation from (seed, step), permutes the rows, writes the targets that
// go with the perturbed batch, and rewrites member r's batch. Everything is decided in device memory: the
// host learns neither r nor the operation, so a captured step stays valid.
//
//   r, op  ~ uniform over members and pool; r = -1 in steps that are no multiple of the period
//   labels : mixed_labels[b,0] = labels[b], [b,k] = labels[permutation_k(b)] for k = 1, 2, 3
//            label_weights[b] sum to 1 (CE is the weighted sum); (1,0,0,0) where nothing is mixed
//   images : kernels/perturb_math.h, one formula per operation
//
// Rows mix with other rows, so member r's batch is made from a clean one that stays as it is: sources[r].
// Where all members see the same images that may be the batch of any other member.
//
// Losses of member r use the mixed labels, those of all other members the plain ones. Only the rows below
// valid_rows are permuted among themselves; padding rows keep their zeros, with weights (1,0,0,0).
//
// Parameters are drawn once per batch, with `per_sample` once per row. All draws are addressed by (seed,
// member, step, row): a resumed run repeats them.
//
// Determinism: element-wise, and one exact sum (an image's mean grey). Bits depend neither on threads nor on
// the device.
//
// Bytes: 2 * B*H*W*C*size_of(dtype); nothing in steps without perturbation. CUDA: one launch, no workspace,
// at most 16 members.
//
// Sources: Competitive distillation (its stochastic perturbation); Zhang et al., mixup, 2018; Yun et al.,
// CutMix, 2019; Takahashi et al., RICAP, 2018 (splice); Simard et al., 2003 (elastic); torchvision transforms
// (affine, rotation, resized crop, ColorJitter, GaussianBlur).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/base/dtype.h"
#include "kernels/base/error.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"
#include "kernels/perturb_math.h"

namespace cohort::kernels {

struct PerturbArgs {
  // M pointers each to (B,H,W,C) of dtype, one per member: r's batch is written, from r's source, which holds
  // the same values and is not that batch.
  std::span<void* const> batches = {};
  std::span<const void* const> sources = {};
  const std::int32_t* labels = nullptr;      // (B)
  const std::int32_t* step = nullptr;        // (1), the global step
  const std::int32_t* valid_rows = nullptr;  // (1), or null: all B
  // Written.
  std::int32_t* member = nullptr;        // (1), r or -1
  std::int32_t* operation = nullptr;     // (1), a PerturbOp
  std::int32_t* moved_member = nullptr;  // (1), r when the operation is geometric, else -1; or null
  std::int32_t* mixed_labels = nullptr;  // (B,4)
  void* label_weights = nullptr;         // (B,4) of accumulator_of(dtype)
  std::int32_t* permutations = nullptr;  // (3,B)
  std::int64_t batch_size = 0;
  int height = 0, width = 0, channels = 3;
  DType dtype = DType::f32;
  std::uint64_t seed = 0;
  PerturbOptions options = {};
  Normalisation normalisation = {};  // of the batches, to find pixels in [0, 1] and black
};

// By the formula above.
inline Traffic traffic(const PerturbArgs& a) {
  return {2 * bytes_of(a.dtype, a.batch_size * a.height * a.width * a.channels)};
}

inline void validate(const PerturbArgs& args) {
  check(!args.batches.empty() && args.batches.size() <= 16, "perturb: members must be in [1, 16]");
  check(args.sources.size() == args.batches.size(), "perturb: one source per member");
  for (std::size_t m = 0; m < args.batches.size(); ++m)
    check(args.sources[m] != args.batches[m], "perturb: a batch is not its own source");
  check(args.channels >= 1 && args.channels <= kMaxImageChannels, "perturb: 1 to 4 channels");
}

// The CPU's scratch grows with the threads of the stream.
std::size_t perturb_workspace(CpuStream stream, const PerturbArgs& args);
std::size_t perturb_workspace(CudaStream stream, const PerturbArgs& args);

void perturb(CpuStream stream, const PerturbArgs& args, Workspace workspace);
void perturb(CudaStream stream, const PerturbArgs& args, Workspace workspace);

}  // namespace cohort::kernels
