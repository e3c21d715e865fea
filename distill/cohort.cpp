#include "distill/cohort.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "core/dispatch.h"
#include "core/ops/loss_select.h"
#include "kernels/append_rows.h"
#include "kernels/augment.h"
#include "models/registry.h"

namespace cohort::distill {

// What changes from step to step, in device memory.
struct Cohort::Inputs {
  Tensor indices;     // (capacity) i32
  Tensor image_rows;  // (capacity) i32
  Tensor labels;      // (capacity) i32
  Tensor epoch;       // (1) i32
  Tensor step;        // (1) i32
  std::int64_t capacity = 0;
};

// A pass over a set without gradients: its logits stay on the device until the end.
struct Cohort::Evaluation {
  Evaluation(Context& ctx, const DeviceImages& images, const std::vector<std::int32_t>& indices)
      : feed(ctx, images, indices, kEvalBatch, /*shuffle=*/false, 0) {}
  Feed feed;
  std::vector<Tensor> logits;  // per member (indices, classes) f32
  std::map<std::int64_t, std::unique_ptr<StepPlan>> plans;
};

namespace {

void share_parts(const Cohort::Member& owner, Cohort::Member& member, int parts) {
  if (member.spec.model != owner.spec.model) {
    throw Error(ErrorKind::kUsage,
                fmt::format("network '{}' is a {}, and the first parts of '{}', a {}, are to be its own too",
                            member.spec.id, member.spec.model, owner.spec.id, owner.spec.model),
                "networks that share parts are of one model: --net resnet32 --net resnet32");
  }
  member.network->share(*owner.network, parts);
}

}  // namespace

Cohort::Cohort(Context& ctx, const std::vector<MemberSpec>& specs, std::unique_ptr<Method> method,
               const ImageSet& data, const CohortOptions& options)
    : ctx_(ctx), method_(std::move(method)), options_(options), inputs_(std::make_unique<Inputs>()) {
  const int m = static_cast<int>(specs.size());
  method_->check_members(m);
  check(ctx.num_branches() >= m, "cohort: one branch per member");
  normalisation_ = data.normalisation;
  const models::InputShape input{data.channels, data.height, data.width};
  for (int k = 0; k < m; ++k) {
    Member member{specs[static_cast<std::size_t>(k)], nullptr, method_->frozen(k)};
    member.network = models::make_network(member.spec.model, data.num_classes, input);
    if (k == 0) {
      sharing_ = method_->sharing(*member.network);
    } else if (sharing_.parts > 0) {
      const bool second = sharing_.pair_parts > 0 && k % 2 == 1;
      share_parts(second ? members_.back() : members_.front(), member,
                  second ? sharing_.pair_parts : sharing_.parts);
    }
    member.network->materialize(ctx, ctx.seed(), static_cast<std::uint32_t>(k));
    members_.push_back(std::move(member));
  }
  meetings_ = method_->meetings();
  check(sharing_.parts == 0 || meetings_.empty(), "cohort: networks share parts or meet between them");
  if (options.independent_augmentation && (sharing_.parts > 0 || !meetings_.empty())) {
    throw Error(ErrorKind::kUsage,
                sharing_.parts > 0 ? "networks that share their first parts see the same images"
                                   : "networks that exchange maps see the same images",
                "distill.icl=false");
  }
  records_ = std::make_unique<StepRecords>(ctx);
  inputs_->epoch = ctx.persistent_tensor({1}, DType::i32);
  inputs_->step = ctx.persistent_tensor({1}, DType::i32);

  // Shapes of the maps, from one black image.
  ctx.begin_step();
  ctx.set_recording(false);
  std::vector<models::Outputs> probe;
  std::vector<std::vector<Tensor>> met(meetings_.size());
  Tensor shared;
  const Tensor black =
      ctx.persistent_tensor({1, data.height, data.width, data.channels}, ctx.activation_dtype());
  for (std::size_t k = 0; k < members_.size(); ++k) {
    const models::Network& network = *members_[k].network;
    const models::ForwardOptions how{.training = false, .preactivation = method_->wants_preactivation()};
    models::Outputs& out = probe.emplace_back();
    ctx.set_layer_log(k == 0 ? &members_[k].layers : nullptr);  // shared layers are the first member's
    const Tensor x = network.run(ctx, 0, sharing_.parts, black, how, out);
    if (k == 0) shared = x;
    ctx.set_layer_log(sharing_.pair_parts > 0 && k % 2 == 1 ? nullptr : &members_[k].layers);
    int done = first_own_part();
    Tensor map = network.run(ctx, sharing_.parts, done, x, how, out);
    ctx.set_layer_log(&members_[k].layers);
    for (std::size_t i = 0; i < meetings_.size(); ++i) {
      map = advance(network, meetings_[i], done, map, how, out);
      met[i].push_back(map);
    }
    network.run(ctx, done, network.num_parts(), map, how, out);
    network.classify(ctx, out.stages.back(), out);
  }
  ctx.set_layer_log(nullptr);
  ctx.set_recording(true);
  method_->setup(ctx, probe);
  if (sharing_.parts > 0) method_->setup_shared(ctx, shared);
  for (std::size_t i = 0; i < met.size(); ++i) method_->setup_meeting(ctx, meetings_[i], met[i]);
  for (std::size_t k = 0; k < members_.size(); ++k)
    if (method_->wants_former(static_cast<int>(k))) prepare_former(k, data);
  if (const std::optional<PerturbationChoice> choice = method_->perturbation()) {
    perturbation_ = std::make_unique<PerturbationStage>(ctx, *choice, data.height);
  }

  sgd_ = std::make_unique<nn::Sgd>(ctx, m, options.sgd);
  std::vector<std::int32_t> allowed;
  for (int k = 0; k < m; ++k) {
    Member& member = members_[static_cast<std::size_t>(k)];
    allowed.push_back(member.frozen ? 0 : 1);
    if (!member.frozen) sgd_->add(member.network->parameters(), k, member.spec.weight_decay);
    for (ParameterSet* extra : method_->extra_parameters(k))
      sgd_->add(*extra, k, method_->weight_decay(*extra, member.spec.weight_decay));
  }
  sgd_->set_allowed(allowed);
  if (const UpdateOrder order = method_->update_order(); order != UpdateOrder::kSimultaneous)
    prepare_turns(order == UpdateOrder::kNewBatch);
  if (method_->adam_updates()) prepare_second_update();
}

Cohort::~Cohort() = default;

// Of a network that answers by itself: nothing of the others and nothing of the method's goes into it.
void Cohort::prepare_former(std::size_t k, const ImageSet& data) {
  Member& member = members_[k];
  if (sharing_.parts > 0 || !meetings_.empty() ||
      !method_->folded(ctx_, static_cast<int>(k), *member.network).empty()) {
    throw Error(ErrorKind::kUsage,
                fmt::format("network '{}' of an epoch ago does not answer alone: the method takes part in it",
                            member.spec.id),
                "adm.q=table");
  }
  member.former = models::make_network(member.spec.model, data.num_classes, member.network->input());
  member.former->parameters().materialize_untrained(ctx_);
}

void Cohort::end_epoch() {
  for (Member& member : members_)
    if (member.former) member.former->parameters().copy_from(ctx_, member.network->parameters());
}

// Device memory for a batch of `rows`; a captured step keeps these addresses, so it is large enough for
// evaluation from the start.
void Cohort::reserve(std::int64_t rows) {
  if (rows <= inputs_->capacity) return;
  inputs_->capacity = std::max(rows, kEvalBatch);
  inputs_->indices = ctx_.persistent_tensor({inputs_->capacity}, DType::i32);
  inputs_->image_rows = ctx_.persistent_tensor({inputs_->capacity}, DType::i32);
  inputs_->labels = ctx_.persistent_tensor({inputs_->capacity}, DType::i32);
}

std::vector<Tensor> Cohort::make_batches(const Feed& feed, std::int64_t first, std::int64_t rows,
                                         bool training) {
  const bool own_views = training && options_.independent_augmentation;
  // A perturbed member's batch is rewritten, and which member that is only the device knows.
  const int count = own_views || (training && perturbation_) ? size() : 1;
  std::vector<Tensor> batches;
  std::vector<void*> pointers;
  const Shape& set = feed.images().shape;
  for (int i = 0; i < count; ++i) {
    batches.push_back(ctx_.empty({rows, set[1], set[2], set[3]}, ctx_.activation_dtype()));
    pointers.push_back(batches.back().data);
  }
  on_device(ctx_, [&](auto stream) {
    kernels::augment(stream,
                     {.images = feed.images().as<std::uint8_t>(),
                      .image_labels = feed.labels().as<std::int32_t>(),
                      .indices = inputs_->indices.as<std::int32_t>() + first,
                      .image_rows = feed.in_ring() ? inputs_->image_rows.as<std::int32_t>() + first : nullptr,
                      .epoch = inputs_->epoch.as<std::int32_t>(),
                      .batches = pointers,
                      .labels = inputs_->labels.as<std::int32_t>() + first,
                      .batch_size = rows,
                      .height = static_cast<int>(set[1]),
                      .width = static_cast<int>(set[2]),
                      .channels = static_cast<int>(set[3]),
                      .dtype = ctx_.activation_dtype(),
                      .seed = ctx_.seed(),
                      .independent = own_views,
                      .options = training ? options_.augment : kernels::kNoAugment,
                      .normalisation = normalisation_});
  });
  while (static_cast<int>(batches.size()) < size()) batches.push_back(batches.back());
  return batches;
}

// Of every member the images it sees, in another place than its batch.
std::vector<Tensor> Cohort::clean_copies(const Feed& feed, const std::vector<Tensor>& batches) {
  if (options_.independent_augmentation || size() == 1)
    return make_batches(feed, 0, batches.front().shape[0], /*training=*/true);
  std::vector<Tensor> copies = batches;  // all see the same: another member's
  std::rotate(copies.begin(), copies.begin() + 1, copies.end());
  return copies;
}

void Cohort::step_once(Feed& feed, Plan& plan, std::int64_t rows) {
  ctx_.begin_step();
  feed.take(rows, {inputs_->indices, inputs_->image_rows, inputs_->epoch, inputs_->step, sgd_->rates()});
  for (std::size_t k = 0; k < members_.size(); ++k) {
    if (!members_[k].frozen) members_[k].network->parameters().reset_grads();
    for (ParameterSet* own : own_parameters(*method_, static_cast<int>(k))) own->reset_grads();
  }
  StepView view;
  view.epoch = inputs_->epoch;
  const std::vector<Update> updates =
      had_turn_.empty() ? update_on_one_batch(feed, view, rows) : update_with_new_batches(feed, view, rows);
  plan.report = updates.back().report;
  record(updates);
}

void Cohort::show_rows(StepView& view, std::int64_t first, std::int64_t rows) const {
  view.labels = {inputs_->labels.as<std::int32_t>() + first, {rows}, DType::i32, nullptr};
  view.indices = {inputs_->indices.as<std::int32_t>() + first, {rows}, DType::i32, nullptr};
}

std::vector<Cohort::Update> Cohort::update_on_one_batch(const Feed& feed, StepView& view, std::int64_t rows) {
  const std::vector<Tensor> batches = make_batches(feed, 0, rows, /*training=*/true);
  show_rows(view, 0, rows);
  if (perturbation_) {
    const std::vector<Tensor> sources = clean_copies(feed, batches);
    perturbation_->apply(ctx_, view, batches, sources, inputs_->step, normalisation_);
  }

  const Walk walked = walk(batches, /*training=*/true);
  view.outputs = walked.outputs;
  view.former = walked.former;
  if (!walked.shared.empty()) view.shared = ctx_.leaf(walked.shared);
  return turns_.empty() ? std::vector{update_all(view, walked)} : update_in_turn(view, walked);
}

std::int64_t Cohort::member_rows(const Feed& feed, std::int64_t rows, std::size_t k) const {
  if (had_turn_.empty()) return rows;
  const std::int64_t batch = feed.batch_size() / size();
  return std::clamp<std::int64_t>(rows - static_cast<std::int64_t>(k) * batch, 0, batch);
}

Feed Cohort::make_feed(const DeviceImages& images, std::span<const std::int32_t> indices,
                       std::int64_t batch_size, bool shuffle) {
  const auto count = static_cast<std::int64_t>(indices.size());
  if (count <= (batches_per_step() - 1) * batch_size) {
    throw Error(
        ErrorKind::kUsage,
        fmt::format("{} images are not a batch of {} for each of {} networks", count, batch_size, size()),
        "a smaller --batch-size, or dml.update=in-turn");
  }
  return {ctx_, images, indices, batch_size * batches_per_step(), shuffle, sgd_->rates().count()};
}

std::vector<float> Cohort::rate_table(const std::vector<std::vector<double>>& rates) const {
  std::vector<float> table;
  for (const std::vector<double>& members : rates) {
    const std::vector<float> row = sgd_->rates_of(members);
    table.insert(table.end(), row.begin(), row.end());
  }
  return table;
}

void Cohort::train(Feed& feed) {
  const std::int64_t rows = feed.rows();
  reserve(rows);
  Plan& plan = plans_[{feed.cursor().data, rows}];
  if (!plan.step) {
    plan.step = std::make_unique<StepPlan>(ctx_, [this, &feed, &plan, rows] { step_once(feed, plan, rows); });
  }
  feed.stage();
  plan.step->run();
  records_->mark(feed.step(), &plan.report);
  feed.advance();
  for (std::size_t k = 0; k < members_.size(); ++k) {
    if (!members_[k].frozen && member_rows(feed, rows, k) > 0) ++members_[k].batches_tracked;
  }
}

void Cohort::record(const std::vector<Update>& updates) {
  const auto m = static_cast<std::int64_t>(members_.size());
  const Report& report = updates.back().report;
  std::vector<Tensor> sources;
  const auto add = [&](const auto& of) {
    for (const Update& update : updates)
      check(of(update).count() == m, "cohort: a report has one value per member");
    if (updates.size() == 1) {
      sources.push_back(of(updates.front()));
      return;
    }
    // Of every member what its own turn measured, or the last one where it had none.
    for (std::int64_t k = 0; k < m; ++k)
      sources.push_back(
          ops::entry(of(updates[std::min(static_cast<std::size_t>(k), updates.size() - 1)]), k));
  };
  add([](const Update& u) { return u.report.loss; });
  add([](const Update& u) { return u.report.ce; });
  add([](const Update& u) { return u.report.kl; });
  add([](const Update& u) { return u.report.correct_top1; });
  add([](const Update& u) { return u.mask; });
  for (const Tensor& optional : {report.step_mask, report.mode, report.teacher}) {
    if (!optional.empty()) sources.push_back(optional);
  }
  if (perturbation_) {
    sources.push_back(perturbation_->member());
    sources.push_back(perturbation_->operation());
  }
  for (const FeatureTerm& term : report.feature_terms) {
    sources.push_back(term.weight);
    sources.push_back(term.value);
  }
  records_->write(sources, inputs_->step);
}

Cohort::StepValues Cohort::values(std::int64_t step) {
  const auto [row, report] = records_->read(step);
  const double* next = row;
  const auto take = [&]<class T>(std::vector<T>& values) {
    values.assign(next, next + members_.size());
    next += members_.size();
  };
  StepValues v;
  take(v.loss);
  take(v.ce);
  take(v.kl);
  take(v.correct_top1);
  take(v.stepped);
  std::vector<int> mask(members_.size(), 1);
  v.mode.assign(members_.size(), -1);
  if (!report->step_mask.empty()) take(mask);
  if (!report->mode.empty()) take(v.mode);
  for (std::size_t k = 0; k < members_.size(); ++k) {
    v.paused.push_back(mask[k] == 0);
    v.stepped[k] = v.stepped[k] || members_[k].frozen || v.paused[k];
  }
  if (!report->teacher.empty()) v.teacher = static_cast<int>(*next++);
  if (perturbation_) {
    v.perturbed = static_cast<int>(*next++);
    const int operation = static_cast<int>(*next++);
    if (v.perturbed >= 0) v.operation = operation;
  }
  v.feature.assign(members_.size(), 0.0);
  for (const FeatureTerm& term : report->feature_terms) {
    const double weight = *next++;
    v.feature[static_cast<std::size_t>(term.member)] += weight * *next++;
  }
  return v;
}

void Cohort::evaluate_once(Evaluation& evaluation, std::int64_t rows) {
  ctx_.begin_step();
  ctx_.set_recording(false);
  Feed& feed = evaluation.feed;
  feed.take(rows, {inputs_->indices, inputs_->image_rows, inputs_->epoch, inputs_->step, {}});
  const std::vector<Tensor> batches = make_batches(feed, 0, rows, /*training=*/false);
  kernels::AppendRowsArgs args{.dtype = ctx_.parameter_dtype(),
                               .members = size(),
                               .cursor = feed.cursor().as<std::int32_t>(),
                               .rows = rows,
                               .batch_size = kEvalBatch,
                               .columns = evaluation.logits.front().shape[1]};
  const Walk walked = walk(batches, /*training=*/false);
  for (std::size_t k = 0; k < members_.size(); ++k) {
    const Tensor& logits = walked.outputs[k].logits;
    check(logits.dtype == args.dtype, "cohort: logits have the dtype of parameters");
    args.in[k] = logits.data;
    args.out[k] = evaluation.logits[k].as<float>();
  }
  on_device(ctx_, [&](auto stream) { kernels::append_rows(stream, args); });
  ctx_.set_recording(true);
}

std::vector<std::vector<float>> Cohort::predict(const DeviceImages& images,
                                                const std::vector<std::int32_t>& indices) {
  const auto count = static_cast<std::int64_t>(indices.size());
  std::unique_ptr<Evaluation>& evaluation = evaluations_[{images.id, indices}];
  if (!evaluation) {
    reserve(kEvalBatch);
    evaluation = std::make_unique<Evaluation>(ctx_, images, indices);
    for (const Member& member : members_) {
      evaluation->logits.push_back(
          ctx_.persistent_tensor({count, member.network->num_classes()}, DType::f32));
    }
  }
  Feed& feed = evaluation->feed;
  feed.start(0, 0, {});
  for (; feed.position() < feed.steps_per_epoch(); feed.advance()) {
    const std::int64_t rows = feed.rows();
    std::unique_ptr<StepPlan>& plan = evaluation->plans[rows];
    if (!plan) {
      plan = std::make_unique<StepPlan>(ctx_, [this, &e = *evaluation, rows] { evaluate_once(e, rows); });
    }
    feed.stage();
    plan->run();
  }
  std::vector<std::vector<float>> logits(members_.size());
  for (std::size_t k = 0; k < members_.size(); ++k) {
    logits[k].resize(static_cast<std::size_t>(evaluation->logits[k].count()));
    ctx_.download(logits[k].data(), evaluation->logits[k]);
  }
  return logits;
}

int Cohort::num_recorded_operations() const {
  return plans_.empty() ? 0 : plans_.rbegin()->second.step->num_nodes();
}

kernels::CapturedStep Cohort::captured_step() const {
  return plans_.empty() ? kernels::CapturedStep{} : plans_.rbegin()->second.step->captured();
}

bool Cohort::replaying() const {
  return !plans_.empty() && plans_.rbegin()->second.step->ready();
}

}  // namespace cohort::distill
