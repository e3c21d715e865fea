// From settings to the things that a run needs: here strings become enums, options and objects.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/split.h"
#include "distill/cohort.h"
#include "distill/trainer.h"
#include "nn/schedule.h"
#include "tools/config.h"

namespace cohort::tools {

ContextOptions context_options(const Config& config);
nn::Schedule make_schedule(const Config& config);
std::unique_ptr<distill::Method> make_method(const Config& config);
// "dml", or "dml+adm" with an addition.
std::string method_label(const Config& config);
std::vector<distill::MemberSpec> member_specs(const Config& config);
distill::CohortOptions cohort_options(const Config& config);
distill::Placement placement(const Config& config);
distill::TrainerOptions trainer_options(const Config& config);

// The set of data.*, cut to data.train_images and data.test_images; checked for use.
data::Dataset load_data(const Config& config, CpuStream stream, const data::Warn& warn);

// Everything up to the first step. Members are destroyed in reverse order: each borrows from those above it.
struct RunSetup {
  std::unique_ptr<Context> ctx;
  data::Dataset data;
  std::uint64_t fingerprint = 0;  // of both parts
  data::Split split;
  std::int64_t wrong_labels = 0;  // in the trained part, by data.label_noise
  std::unique_ptr<distill::Cohort> cohort;
  std::string formula;

  distill::TrainerData trainer_data() const;
};

// Reads the data and the networks' first weights; writes nothing. Throws the error that belongs to what is
// wrong. A run that is resumed has its weights in the checkpoint: the files it started from may be gone.
enum class FirstWeights { kRead, kFromCheckpoint };
RunSetup make_run(const Config& config, const data::Warn& warn, FirstWeights weights = FirstWeights::kRead);
// The same on a context that goes through steps of the CUDA backend without a device; no weights are read.
RunSetup make_rehearsal(const Config& config, const data::Warn& warn);

// One warning for every convolution of the networks that runs on a slow path with such batches (x86-64 only:
// the fast paths are that machine's). No error: the results are right, and an unusual model must stay
// trainable.
void warn_of_slow_convolutions(const RunSetup& run, std::int64_t batch, const data::Warn& warn);

// Weights from a file into a member of the cohort; errors name the file.
void load_member(Context& ctx, distill::Cohort::Member& member, const std::string& path);

}  // namespace cohort::tools
