// Which engine won for which convolution, kept on disk: timing a shape again could choose another one, and
// other engines round otherwise. One JSON file for all GPUs and library versions:
//
//   {"format": "cohort-convolution-plans-1",
//    "plans": [{"gpu": "...", "library": "cuDNN 9.19.0", "convolution": "forward bf16 -> bf16 n128 ...",
//               "plan": "eng45_k2=4", "microseconds": 12.3}]}
//
// The reader takes exactly that. A file that is anything else, too large, or not a plain file of this user is
// ignored, problem() says why, and nothing is written over it; it can be deleted at any time. What it names
// is looked up among what the library proposes, so that it can choose but never invent a plan.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "kernels/cuda/convolution_engine.h"

namespace cohort::kernels::cuda {

// "forward bf16 -> bf16 n128 h32 w32 c16 k16 kernel3x3 stride1 padding1 dilation1 groups1".
std::string text_of(const ConvolutionKey& key);

// cohort/convolution-plans.json in XDG_CACHE_HOME or ~/.cache; empty where there is no such place.
std::string default_plan_cache_path();

class PlanCache {
 public:
  // An empty path: nothing is kept.
  PlanCache(std::string path, std::string gpu, std::string library);

  bool keeps() const { return !path_.empty() && problem_.empty(); }
  const std::string& problem() const { return problem_; }

  std::optional<std::string> find(const ConvolutionKey& key) const;

  // Adds and rewrites the file: new name, then rename. What another process stored for this key meanwhile
  // wins, unless it is the plan `stale`; returns the plan that is kept. A failed write sets problem().
  std::string store(const ConvolutionKey& key, const std::string& plan, double microseconds,
                    const std::string& stale = {});

 private:
  struct Entry {
    std::string plan;
    double microseconds = 0;
  };
  // (gpu, library, convolution) of all that the file holds, ours or not.
  struct Id {
    std::string gpu, library, convolution;
    auto operator<=>(const Id&) const = default;
  };
  using Entries = std::map<Id, Entry>;

  Entries read();
  bool write() const;

  std::string path_, gpu_, library_, problem_;
  Entries entries_;
};

}  // namespace cohort::kernels::cuda
