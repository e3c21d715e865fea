#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>

#include "core/ops/conv2d.h"
#include "core/ops/loss_select.h"
#include "core/ops/pool.h"
#include "distill/discriminator.h"
#include "distill/integer_list.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"

namespace cohort::distill {
namespace {

// "75,150": epochs, ascending.
std::vector<int> parse_epochs(const std::string& text) {
  const auto epochs = parse_integers(text, 1);
  const auto no_step = [](int a, int b) { return a >= b; };
  const auto ascending = [&] {
    return std::adjacent_find(epochs->begin(), epochs->end(), no_step) == epochs->end();
  };
  if (epochs && ascending() && (epochs->empty() || epochs->back() <= 1'000'000)) return *epochs;
  throw Error(ErrorKind::kUsage, fmt::format("afd.drops: '{}' is no ascending list of epochs", text),
              "epochs from 1, separated by commas: 75,150; empty: the rate stays");
}

// The rate's factor in every epoch up to the last drop.
std::vector<double> factors(const std::vector<int>& drops) {
  std::vector<double> table{1};
  double factor = 1;
  for (const int epoch : drops) {
    table.resize(static_cast<std::size_t>(epoch), factor);
    table.push_back(factor /= 10);
  }
  return table;
}

// What a member brings to the game: its transfer layer (a 1x1 convolution, where its map has more channels
// than another's) and its discriminator.
struct Player {
  Player(const Shape& own, const Shape& common) : discriminator(parameters(own, common), common) {}

  ParameterSet set;
  const Parameter* transfer = nullptr;  // null: the identity
  Discriminator discriminator;

 private:
  // What the discriminator is declared in, with the transfer layer before it.
  ParameterSet& parameters(const Shape& own, const Shape& common) {
    if (own[3] != common[3]) {
      transfer = set.add("transfer.weight", {common[3], 1, 1, own[3]}, ParameterKind::kConv,
                         {Initializer::Kind::kUniform, 1.0 / std::sqrt(static_cast<double>(own[3]))});
    }
    return set;
  }
};

// Chung et al., "Feature-map-level online adversarial knowledge distillation", ICML 2020. o(k) = (k + 1) mod
// M, T_k = Tr_k(F_k), F_k the last map:
//
//   L_logit,k = CE_k + lambda mean_{j != k} T^2 KL_T(z_j -> z_k)    by SGD, all of the network
//   L_G,k = mean (1 - D_k(T_k))^2, D_k a constant                   by Adam, the network but its classifier
//   L_D,k = mean (1 - D_k(sg T_o(k)))^2 + mean D_k(sg T_k)^2        by Adam, D_k
//
// All from one forward pass; L_G goes back by a pass of its own. The map of network k is to look, to D_k,
// like its partner's.
class Afd final : public Method {
 public:
  explicit Afd(const MethodOptions& o)
      : temperature_(o.number("afd.T")),
        lambda_(o.number("afd.lambda")),
        rate_(o.number("afd.lr")),
        decay_(o.number("afd.wd")),
        drops_(parse_epochs(o.text("afd.drops"))),
        summed_(o.flag("afd.summed")) {}

  std::string formula(int members) const override {
    const char* const half = summed_ ? "1/2 " : "";
    return fmt::format(
        "net i: CE(z_i, y) + {:g} mean_(j != i) T^2 KL(softmax(z_j/T) || softmax(z_i/T)), T={:g}, batchmean, "
        "targets {}; + {}mean (1 - D_i(T_i))^2, {}; D_i: {}mean (1 - D_i(T_o))^2 + {}mean D_i(T_i)^2, maps "
        "detached, o = i + 1 mod {}, by Adam; Adam: rate {:g}{}, L2 decay {:g}",
        lambda_, temperature_, summed_ ? "attached" : "detached", half,
        summed_ ? "summed with it, the gradient to SGD and Adam" : "by Adam, all but the classifier", half,
        half, members, rate_,
        drops_.empty() ? "" : fmt::format(", /10 at epochs {}", fmt::join(drops_, ", ")), decay_);
  }

  void check_members(int members) const override {
    Method::check_members(members);
    if (members >= 2) return;
    throw Error(ErrorKind::kUsage, "afd needs two networks or more", "give --net once per network");
  }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    const std::size_t m = probe.size();
    weights_ = LossWeights::make(ctx, static_cast<int>(m));
    std::vector<double> kl(m * m, lambda_ / static_cast<double>(m - 1));
    for (std::size_t k = 0; k < m; ++k) kl[k * m + k] = 0;
    upload_values(ctx, weights_.kl, kl);
    weight_ = constant(ctx, {}, {summed_ ? 0.5 : 1.0});
    // Arrays without maps (`cohort loss`) have the part on logits alone.
    for (const models::Outputs& outputs : probe)
      if (outputs.stages.empty()) return;
    const Shape& first = probe[0].stages.back().shape;
    std::int64_t h = first[1], w = first[2], channels = first[3];
    for (const models::Outputs& outputs : probe) {
      const Shape& own = outputs.stages.back().shape;
      h = std::min(h, own[1]);
      w = std::min(w, own[2]);
      channels = std::min(channels, own[3]);
    }
    common_ = {1, h, w, channels};
    for (std::size_t k = 0; k < m; ++k) {
      players_.emplace_back(probe[k].stages.back().shape, common_);
      materialize_part(ctx, players_.back().set, 0xafd0'0000'0001ULL, static_cast<int>(k));
    }
  }

  std::optional<AdamUpdates> adam_updates() const override {
    return AdamUpdates{
        .learning_rate = rate_, .weight_decay = decay_, .factors = factors(drops_), .separate = !summed_};
  }
  std::vector<ParameterSet*> adam_parameters(int member) override {
    if (players_.empty()) return {};
    return {&players_[static_cast<std::size_t>(member)].set};
  }

  void losses(Context& ctx, StepView& view) override {
    logit_losses(ctx, view, weights_, {.temperature = temperature_, .attached = summed_});
  }

  // What the discriminators learn; no gradient of theirs leaves them.
  void feature_losses(Context& ctx, StepView& view, int member) override {
    if (players_.empty()) return;
    if (summed_) deceive(ctx, view, member);
    const Discriminator& discriminator = players_[static_cast<std::size_t>(member)].discriminator;
    const auto judge = [&](int whose, double target) {
      ctx.set_recording(false);
      const Tensor map = transferred(ctx, view, whose, /*learns=*/false);
      ctx.set_recording(true);
      least_squares(ctx, discriminator.judge(ctx, map, /*learns=*/true), target,
                    {.weight = weight_, .valid_rows = view.valid_rows});
    };
    judge((member + 1) % view.members(), 1);
    judge(member, 0);
  }

  void second_losses(Context& ctx, StepView& view, int member) override {
    if (!players_.empty() && !summed_) deceive(ctx, view, member);
  }

 private:
  // L_G of the member.
  void deceive(Context& ctx, StepView& view, int member) {
    const Tensor map = transferred(ctx, view, member, /*learns=*/true);
    const Tensor verdicts =
        players_[static_cast<std::size_t>(member)].discriminator.judge(ctx, map, /*learns=*/false);
    const Tensor value = least_squares(
        ctx, verdicts, 1,
        {.weight = weight_, .valid_rows = view.valid_rows, .loss = ops::entry(view.report.loss, member)});
    view.report.feature_terms.push_back({member, weight_, value});
  }

  // Of a member; the same shape for all.
  Tensor transferred(Context& ctx, const StepView& view, int member, bool learns) const {
    const auto k = static_cast<std::size_t>(member);
    Tensor map = view.outputs[k].stages.back();
    if (!learns) map = map.detached();
    const int h = static_cast<int>(common_[1]), w = static_cast<int>(common_[2]);
    if (map.shape[1] != h || map.shape[2] != w) map = ops::adaptive_avg_pool(ctx, map, h, w);
    if (const Parameter* weight = players_[k].transfer)
      map = ops::conv2d(ctx, map, learns ? weight->compute : weight->compute.detached());
    return learns ? map : map.detached();
  }

  double temperature_, lambda_, rate_, decay_;
  std::vector<int> drops_;
  bool summed_;
  LossWeights weights_;
  Tensor weight_;  // of the adversarial terms
  Shape common_;   // of what the discriminators see: the fewest channels, the shortest sides
  std::deque<Player> players_;
};

std::vector<OptionSpec> options() {
  return {
      {.key = "afd.T", .default_value = "3", .help = "temperature of the KL terms", .min = 1e-3},
      {.key = "afd.lambda", .default_value = "1", .help = "weight of the KL terms", .min = 0},
      {.key = "afd.lr", .default_value = "2e-5", .help = "Adam's learning rate", .min = 0},
      {.key = "afd.wd", .default_value = "0.1", .help = "Adam's L2 weight decay", .min = 0},
      {.key = "afd.drops",
       .type = OptionType::kText,
       .default_value = "75,150",
       .help = "epochs at which Adam's rate is divided by 10, of 300; empty: none"},
      {.key = "afd.summed",
       .type = OptionType::kBool,
       .default_value = "false",
       .help =
           "one backward pass, its gradient to SGD and Adam; targets attached, adversarial terms halved"}};
}

}  // namespace

MethodInfo afd_info() {
  return {
      .name = "afd",
      .summary = "networks teach each other by logits, and each one's last map is to pass for its partner's",
      .equation =
          "L_k = CE_k + lambda mean_{j != k} T^2 KL_T(z_j -> z_k); L_G,k = mean (1 - D_k(F_k))^2; L_D,k = "
          "mean "
          "(1 - D_k(F_o))^2 + mean D_k(F_k)^2, o = k + 1 mod M",
      .paper = "Chung et al., Feature-map-level online adversarial knowledge distillation, ICML 2020",
      .options = options(),
      .fidelities =
          {{"paper",
            "T = 3; each loss by its own optimiser; Adam's rate falls at 75 and 150 of 300 epochs",
            {{"afd.T", "3"}, {"afd.lambda", "1"}, {"afd.drops", "75,150"}, {"afd.summed", "false"}}},
           {"third-party",
            "a third-party code: one backward pass for SGD and Adam, targets attached, drops at 50 and 100 "
            "of 200",
            {{"afd.T", "3"},
             {"afd.lambda", "1"},
             {"afd.lr", "2e-5"},
             {"afd.wd", "0.1"},
             {"afd.drops", "50,100"},
             {"afd.summed", "true"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> { return std::make_unique<Afd>(o); }};
}

}  // namespace cohort::distill
