// Trainer::state() and Trainer::restore().
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "core/safetensors.h"
#include "distill/file_layout.h"
#include "distill/trainer.h"

namespace cohort::distill {
namespace {

using Json = nlohmann::json;

constexpr int kStateVersion = 1;
constexpr const char* kOptimFile = "optim.safetensors";
constexpr const char* kStateFile = "state.json";

// A tensor of the optimiser file and where it lives.
struct OptimTensor {
  std::string name;
  Tensor value;
};

// A parameter's part of a flat block.
Tensor part_of(const Tensor& block, const ParameterSet& set, const Parameter& p) {
  const auto offset =
      static_cast<const std::byte*>(p.value.data) - static_cast<const std::byte*>(set.values().data);
  return {static_cast<std::byte*>(block.data) + offset, p.shape, block.dtype, nullptr};
}

// The method's own parts of a member, statistics included. Sets count from 2 where there are several: names
// may repeat. Those of Adam have no momenta.
void add_extra(std::vector<OptimTensor>& tensors, Method& method, int member, const std::string& id) {
  const std::vector<ParameterSet*> sets = own_parameters(method, member);
  const std::size_t of_sgd = method.extra_parameters(member).size();
  for (std::size_t i = 0; i < sets.size(); ++i) {
    const ParameterSet& set = *sets[i];
    const std::string number = i == 0 ? "" : std::to_string(i + 1), of = "." + id + ".";
    for (const Parameter& p : set.parameters()) {
      tensors.push_back({"extra" + number + of + p.name, p.value});
      if (i < of_sgd)
        tensors.push_back({"extra_momentum" + number + of + p.name, part_of(set.momenta(), set, p)});
    }
    for (const Buffer& b : set.buffers()) tensors.push_back({"extra" + number + of + b.name, b.value});
  }
}

std::vector<OptimTensor> optim_tensors(Cohort& cohort) {
  std::vector<OptimTensor> tensors;
  for (int k = 0; k < cohort.size(); ++k) {
    Cohort::Member& member = cohort.members()[static_cast<std::size_t>(k)];
    ParameterSet& set = member.network->parameters();
    if (!member.frozen) {
      for (const Parameter& p : set.parameters()) {
        if (p.shared) continue;
        tensors.push_back({"momentum." + member.spec.id + "." + p.name, part_of(set.momenta(), set, p)});
      }
    }
    if (member.former) {
      const ParameterSet& former = member.former->parameters();
      for (const Parameter& p : former.parameters())
        tensors.push_back({"former." + member.spec.id + "." + p.name, p.value});
      for (const Buffer& b : former.buffers())
        tensors.push_back({"former." + member.spec.id + "." + b.name, b.value});
    }
    // Those whose place in the weight file is taken by what makes up for the method's parts.
    const auto folded = cohort.method().folded(cohort.context(), k, *member.network);
    for (const Parameter& p : set.parameters()) {
      if (folded.count(p.name) > 0) tensors.push_back({"own." + member.spec.id + "." + p.name, p.value});
    }
    add_extra(tensors, cohort.method(), k, member.spec.id);
    if (cohort.second_update() == nullptr) continue;
    for (const auto& [name, tensor] : cohort.second_update()->state(k))
      tensors.push_back({"adam." + member.spec.id + "." + name, tensor});
  }
  return tensors;
}

Json to_json(const Scores& s) {
  return {{"loss", s.loss}, {"top1", s.top1}, {"top5", s.top5}, {"ece", s.ece}};
}

// JSON has no NaN: null stands for it.
double number_or_nan(const Json& j) {
  return j.is_number() ? j.get<double>() : std::nan("");
}

Json to_json(const std::optional<CohortScores>& scores) {
  if (!scores) return nullptr;
  Json json = {{"ensemble", to_json(scores->ensemble)},
               {"agreement", scores->agreement},
               {"samples", scores->samples}};
  for (const Scores& s : scores->members) json["members"].push_back(to_json(s));
  return json;
}

Scores scores_from(const Json& j) {
  return {number_or_nan(j.at("loss")), number_or_nan(j.at("top1")), number_or_nan(j.at("top5")),
          number_or_nan(j.at("ece"))};
}

std::optional<CohortScores> cohort_scores_from(const Json& j) {
  if (j.is_null()) return std::nullopt;
  CohortScores scores{{}, scores_from(j.at("ensemble")), j.at("agreement"), j.at("samples")};
  for (const Json& s : j.at("members")) scores.members.push_back(scores_from(s));
  return scores;
}

std::span<const std::byte> find(std::span<const NamedBytes> files, const std::string& name) {
  for (const NamedBytes& file : files) {
    if (file.name == name) return file.bytes;
  }
  throw Error(ErrorKind::kCheckpoint, "the checkpoint has no file " + name,
              "resume from another checkpoint of the run");
}

}  // namespace

std::vector<NamedBytes> Trainer::state() const {
  std::vector<NamedBytes> files;
  Json json = {{"version", kStateVersion},
               {"step", step_},
               {"epoch_sums", {{"loss", sums_.loss}, {"correct", sums_.correct}, {"rows", sums_.rows}}},
               {"skipped", skipped_},
               {"last_held_out", to_json(last_held_out_)},
               {"last_test", to_json(last_test_)}};
  const std::vector<double> method_state = cohort_.method().state();
  if (!method_state.empty()) json["method"] = method_state;
  for (int k = 0; k < cohort_.size(); ++k) {
    const Cohort::Member& member = cohort_.members()[static_cast<std::size_t>(k)];
    const models::InputShape& in = member.network->input();
    files.push_back(
        {member.spec.id + ".safetensors",
         serialize_weights(ctx_, *member.network, member.batches_tracked,
                           {{"cohort.arch", member.spec.model},
                            {"cohort.classes", std::to_string(member.network->num_classes())},
                            {"cohort.input", fmt::format("{}x{}x{}", in.channels, in.height, in.width)},
                            {"cohort.step", std::to_string(step_)}},
                           cohort_.method().folded(ctx_, k, *member.network))});
    json["members"].push_back({{"id", member.spec.id}, {"model", member.spec.model}});
  }
  for (const Best& b : best_) {
    json["best"].push_back({{"value", b.value},
                            {"epoch", b.epoch},
                            {"selected", to_json(b.selected)},
                            {"test", b.test ? to_json(*b.test) : Json()}});
  }
  std::vector<std::vector<float>> values;
  std::vector<TensorView> views;
  const std::vector<OptimTensor> tensors = optim_tensors(cohort_);
  values.reserve(tensors.size());
  for (const OptimTensor& t : tensors) {
    const std::vector<double> exact = download_values(ctx_, t.value);
    values.emplace_back(exact.begin(), exact.end());
    views.push_back({t.name, FileDType::kF32, dims_of(t.value.shape), values.back().data(),
                     values.back().size() * sizeof(float)});
  }
  files.push_back({kOptimFile, serialize_safetensors(views, {})});
  const std::string text = json.dump(1) + "\n";
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  files.push_back({kStateFile, {begin, begin + text.size()}});
  return files;
}

void Trainer::restore(std::span<const NamedBytes> files) {
  const std::span<const std::byte> text = find(files, kStateFile);
  const Json json = Json::parse(reinterpret_cast<const char*>(text.data()),
                                reinterpret_cast<const char*>(text.data()) + text.size(), nullptr, false);
  const auto refuse = [](const std::string& what) {
    throw Error(ErrorKind::kCheckpoint, std::string(kStateFile) + ": " + what,
                "resume with the configuration that the run was started with");
  };
  try {
    if (json.is_discarded()) refuse("not JSON");
    if (json.at("version").get<int>() != kStateVersion) refuse("written by another version of cohort");
    if (json.at("members").size() != cohort_.members().size()) {
      refuse(fmt::format("{} networks, the configuration has {}", json.at("members").size(), cohort_.size()));
    }
    for (std::size_t k = 0; k < cohort_.members().size(); ++k) {
      const Json& member = json.at("members")[k];
      const MemberSpec& spec = cohort_.members()[k].spec;
      if (member.at("id") != spec.id || member.at("model") != spec.model) {
        refuse(fmt::format("network {} is {} ({}), the configuration says {} ({})", k,
                           member.at("id").get<std::string>(), member.at("model").get<std::string>(), spec.id,
                           spec.model));
      }
    }
    const SafetensorsFile optim =
        parse_safetensors(find(files, kOptimFile), kOptimFile, {.allow_nonfinite = false});
    const std::vector<OptimTensor> tensors = optim_tensors(cohort_);
    if (optim.tensors().size() != tensors.size()) refuse("the optimiser's state is of another cohort");
    for (const OptimTensor& t : tensors) {
      const TensorView* view = optim.find(t.name);
      if (view == nullptr || view->shape != dims_of(t.value.shape) || view->dtype != FileDType::kF32) {
        refuse("the optimiser's state does not fit at " + t.name);
      }
    }
    EpochSums sums{json.at("epoch_sums").at("loss"), json.at("epoch_sums").at("correct"),
                   json.at("epoch_sums").at("rows")};
    std::vector<Best> best;
    for (const Json& b : json.at("best")) {
      best.push_back({b.at("value"), b.at("epoch"), scores_from(b.at("selected")), std::nullopt});
      if (!b.at("test").is_null()) best.back().test = scores_from(b.at("test"));
    }
    std::optional<CohortScores> last_held_out = cohort_scores_from(json.at("last_held_out"));
    std::optional<CohortScores> last_test = cohort_scores_from(json.at("last_test"));
    std::vector<int> skipped = json.at("skipped");
    if (sums.loss.size() != sums_.loss.size() || sums.correct.size() != sums_.correct.size() ||
        best.size() != best_.size() || skipped.size() != skipped_.size()) {
      refuse("records of another number of networks");
    }
    const std::vector<double> method_state = json.value("method", std::vector<double>{});
    if (method_state.size() != cohort_.method().state().size()) refuse("the state of another method");
    for (Cohort::Member& member : cohort_.members()) {
      const std::string name = member.spec.id + ".safetensors";
      member.batches_tracked = load_weights(ctx_, *member.network, find(files, name), name);
    }
    for (const OptimTensor& t : tensors) {
      const TensorView* view = optim.find(t.name);
      const float* data = static_cast<const float*>(view->data);
      upload_values(ctx_, t.value, {data, data + t.value.count()});
    }
    cohort_.method().set_state(ctx_, method_state);
    step_ = json.at("step").get<std::int64_t>();
    sums_ = std::move(sums);
    best_ = std::move(best);
    skipped_ = std::move(skipped);
    last_held_out_ = std::move(last_held_out);
    last_test_ = std::move(last_test);
  } catch (const Json::exception& e) {
    refuse(e.what());
  }
  for (int k = 0; k < cohort_.size(); ++k) {
    const Cohort::Member& member = cohort_.members()[static_cast<std::size_t>(k)];
    member.network->parameters().refresh_shadow(ctx_);
    if (member.former) member.former->parameters().refresh_shadow(ctx_);
    for (ParameterSet* own : own_parameters(cohort_.method(), k)) own->refresh_shadow(ctx_);
  }
}

}  // namespace cohort::distill
