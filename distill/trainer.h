// The training loop: epochs of steps, evaluation, the records that people look at, and the state that a
// resumed run needs. It knows no files: an observer stores what it is given.
//
// Every random draw is addressed by (seed, purpose, epoch, sample), so the state is small: a run that stops
// at any step and goes on from state() takes the same steps, bit for bit.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "distill/cohort.h"
#include "distill/evaluation.h"
#include "nn/schedule.h"

namespace cohort::distill {

enum class NanPolicy {
  kStop,  // the first step that is not finite ends the run: Error(kNotFinite); weights keep their last finite
          // values
  kSkip,  // a member with such numbers skips that step; three in a row end the run
  kIgnore  // it skips for ever
};

struct TrainerOptions {
  int epochs = 10;
  int batch_size = 128;
  bool shuffle = true;
  nn::Schedule schedule;
  NanPolicy nan = NanPolicy::kStop;
  std::int64_t max_steps = 0;  // stop after so many steps; 0: no limit
  Placement placement = {};    // of the images
};

// Borrowed sets; they outlive the trainer.
struct TrainerData {
  const ImageSet* train = nullptr;
  std::vector<std::int32_t> train_indices;  // what is trained on
  std::vector<std::int32_t>
      held_out_indices;            // of `train`; selects the best epoch; empty: the test set selects
  const ImageSet* test = nullptr;  // null: no test set
};

struct MemberStep {
  double loss = 0, ce = 0, kl = 0, feature = 0;  // loss = everything in force
  double learning_rate = 0;
  int rows = 0;  // of its batch; 0: it had none, and is paused
  int correct_top1 = 0;
  bool stepped = true;  // false: its numbers were not finite
  bool paused = false;  // the method did not let it step: it learnt nothing
  int mode = -1;        // of a teacher 1 (expert) or 0 (learning), else -1
};

struct StepRecord {
  std::int64_t step = 0;  // completed steps
  int epoch = 0;          // 0-based
  int rows = 0;           // of all batches
  int teacher = -1, perturbed = -1, operation = -1;
  std::vector<MemberStep> members;
};

struct EpochRecord {
  int epoch = 0;  // 0-based
  std::int64_t step = 0;
  std::vector<double> train_loss, train_top1;  // per member, over the epoch
  std::vector<double> learning_rates;          // per member, of the epoch's last step
  std::optional<CohortScores> held_out;
  std::optional<CohortScores> test;  // when some member has a new best, and after the last epoch
  std::vector<bool> new_best;        // per member, then the ensemble
};

enum class StopRequest { kNone, kInterrupt, kTerminate, kTimeLimit };

class TrainerObserver {
 public:
  virtual ~TrainerObserver() = default;
  virtual void on_step(const StepRecord&) {}
  virtual void on_epoch(const EpochRecord&) {}
  // Asked after every step (and its on_step / on_epoch).
  virtual StopRequest poll() { return StopRequest::kNone; }
};

struct Best {
  double value = -1;  // top-1 on the selecting set
  int epoch = -1;
  Scores selected;             // on the selecting set
  std::optional<Scores> test;  // at that epoch
};

struct RunResult {
  StopRequest stopped = StopRequest::kNone;
  std::int64_t steps = 0;
  int epochs = 0;          // completed
  std::vector<Best> best;  // per member, then the ensemble
  std::optional<CohortScores> last_held_out, last_test;
};

struct NamedBytes {
  std::string name;
  std::vector<std::byte> bytes;
};

class Trainer {
 public:
  Trainer(Context& ctx, Cohort& cohort, TrainerData data, const TrainerOptions& options,
          TrainerObserver& observer);

  // Runs to the end of the last epoch, a stop request or max_steps. May be called again after a stop.
  RunResult run();

  std::int64_t step() const { return step_; }
  std::int64_t steps_per_epoch() const;
  const DeviceImages& train_images() const { return train_images_; }
  const DeviceImages& test_images() const { return test_images_; }
  // Pinned host memory of the feeds, those of evaluations included, which come later.
  std::size_t pinned_bytes() const;

  // Everything a resumed run needs: <id>.safetensors per member (weights, with PyTorch's names),
  // optim.safetensors, state.json. Same state, same bytes.
  std::vector<NamedBytes> state() const;
  // Throws Error(kCheckpoint), before anything is changed, with the tensors that are missing, extra or of
  // other shape.
  void restore(std::span<const NamedBytes> files);

 private:
  struct EpochSums {
    std::vector<double> loss;
    std::vector<std::int64_t> correct;
    std::int64_t rows = 0;  // of all batches
  };
  std::int64_t epoch_rows(std::size_t member) const;
  void start_epoch(int epoch, std::int64_t position);
  void finish_step();
  void finish_epoch();
  StepRecord next_record();
  // `show`: the method sees the logits, as those of the held-out images.
  CohortScores evaluate(const DeviceImages& images, const std::vector<std::int32_t>& indices,
                        std::span<const std::int32_t> labels, bool show = false);
  std::vector<double> learning_rates(std::int64_t step) const;
  RunResult result(StopRequest stopped) const;

  Context& ctx_;
  Cohort& cohort_;
  TrainerData data_;
  TrainerOptions options_;
  TrainerObserver& observer_;
  DeviceImages train_images_, test_images_;
  std::unique_ptr<Feed> feed_;
  std::int64_t step_ = 0;  // taken in; the device may be ahead of it while run() runs
  EpochSums sums_;
  std::vector<int> skipped_;  // consecutive steps per member
  std::vector<double> last_rates_;
  std::vector<Best> best_;
  std::optional<CohortScores> last_held_out_, last_test_;
};

// --- weights of one network in files (distill/weights.cpp) ---

// PyTorch's names and layouts (convolutions OIHW, num_batches_tracked) as f32 safetensors bytes. `folded`:
// parameters by name that are written with these values, in our order (Method::folded).
std::vector<std::byte> serialize_weights(Context& ctx, const models::Network& network,
                                         std::int64_t batches_tracked,
                                         const std::map<std::string, std::string>& metadata,
                                         const std::map<std::string, std::vector<double>>& folded = {});
// Those of parts that the network shares are the owner's: checked and left alone.
// Strict: every tensor of the network once, in its shape (num_batches_tracked may be absent). Known prefixes
// (module., model., student., _orig_mod.) are stripped. `origin` names the file in errors. Throws
// Error(kCheckpoint) before anything is changed. Returns the number of batches tracked.
std::int64_t load_weights(Context& ctx, models::Network& network, std::span<const std::byte> bytes,
                          const std::string& origin);

}  // namespace cohort::distill
