// One row of all members, by one team of threads: the device code of kernels/cohort_loss_cuda.cu.
//
// A team is kTeam threads (a warp, or a whole block of 128 or 512). Thread t owns the 16-byte groups t, t +
// kTeam, ... of every member's row in every pass, whatever the alignment, the number of members and the
// memory that the row is read from: so sums have the same bits in all of these cases, and what the row keeps
// in shared memory (the logits; softmax_T of everybody and the shared target, in A) is private to a thread
// and needs no barrier. What the whole team must know of a member is one struct in shared memory, written by
// one thread. Loops over members are loops: any number of members runs the same instructions.
#pragma once

#include "kernels/cuda/cohort_loss_math.cuh"
#include "kernels/cuda/loss_select_rule.cuh"

namespace cohort::kernels::loss {

template <class T, int kTeam>
class Row {
 public:
  using A = Accumulator<T>;
  static constexpr int kGroup = Group<T>::kSize;
  static constexpr int kTogether = 4;  // members that a pass handles together

  __device__ Row(const CohortLossArgs& args, const Plan<A>& plan, const Layout& layout, unsigned char* memory)
      : args_(args),
        plan_(plan),
        layout_(layout),
        member_(reinterpret_cast<Member<A>*>(memory)),
        partials_{reinterpret_cast<A*>(memory + layout.partial), args.shape.members},
        kl_(reinterpret_cast<A*>(memory + layout.kl)),
        stage_(reinterpret_cast<T*>(memory + layout.stage)),
        soft_(reinterpret_cast<A*>(memory + layout.soft)),
        lane_(static_cast<int>(threadIdx.x) % kTeam),
        members_(args.shape.members),
        classes_(static_cast<int>(args.shape.classes)),
        mixed_(args.mixed_member == nullptr ? -1 : *args.mixed_member),
        separate_(args.temperature != 1.0) {}

  // Asks for the row's logits: labels, largest logits, and a copy on chip. Needs no plan.
  __device__ void load(std::int64_t row) {
    row_ = row;
    std::int32_t label = 0;
    if (lane_ < members_) label = lane_ == mixed_ ? mixed_label(0) : args_.labels[row];
    aligned_ = true;
    for (int m = 0; m < members_; ++m) aligned_ = aligned_ && aligned16(logits(m));
#pragma unroll 1
    for (int first = 0; first < members_; first += kTogether) {
      A max[kTogether];
#pragma unroll
      for (int s = 0; s < kTogether; ++s) max[s] = -infinity<A>();
      for_groups([&](int c) {
        Group<T> group[kTogether];
#pragma unroll
        for (int s = 0; s < kTogether; ++s) {
          if (first + s < members_) group[s] = read(first + s, c);
        }
#pragma unroll
        for (int s = 0; s < kTogether; ++s) {
          if (first + s >= members_) continue;
          if (layout_.staged) group[s].store(stage_ + (first + s) * layout_.padded + c);
#pragma unroll
          for (int e = 0; e < kGroup; ++e) {
            const A v = to_float(group[s].v[e]);
            max[s] = v > max[s] ? v : max[s];
          }
        }
      });
#pragma unroll
      for (int s = 0; s < kTogether; ++s) {
        if (first + s < members_) partials_.put_max(lane_, partials_.max(first + s), max[s]);
      }
    }
    if (lane_ >= members_) return;
    member_[lane_].label = in_range(label) ? label : -1;
    member_[lane_].own = in_range(label) ? to_float(logits(lane_)[label]) : not_a_number<A>();
  }

  // The loaded row counts; what of it needs no weight. `slot` gets what it adds to the values.
  __device__ void measure(double* slot) {
    team_sync();
    statistics(slot);
    if (args_.decision.row_winner != nullptr) put(args_.decision.row_winner, best());
  }

  // The rest of a row that has been measured, by the plan.
  __device__ void teach_and_learn(double* slot) {
    if (wants_target()) form_target();
    keep_ = layout_.kept && (plan_.pairs != 0 || plan_.target != 0);
    if (keep_) keep();
    if (plan_.pairs != 0 || plan_.target != 0) {
      if (plan_.pairs != 0) divergences();
      if (plan_.target != 0) target_divergences();
      team_sync();
      report_divergences(slot);
      if (args_.attached) team_sync();  // kl_
    }
    if (args_.target != nullptr) write_target();
    for (int i = 0; i < members_; ++i) {
      if (args_.grad_logits[i] != nullptr) gradient(i);
    }
    team_sync();  // the next row writes members and partial sums
  }

  // It does not count.
  __device__ void skip() {
    for (int m = 0; m < members_; ++m) {
      if (args_.grad_logits[m] != nullptr && args_.grad_mode[m] == GradMode::kOverwrite) {
        T* out = gradient_row(m);
        for (int c = lane_; c < classes_; c += kTeam) out[c] = T{};
      }
      if (args_.ce_rows != nullptr && lane_ == m) ce_row(m) = 0;
    }
    if (args_.target != nullptr) {
      for (int c = lane_; c < classes_; c += kTeam) target_row()[c] = 0;
    }
    put(args_.winner, -1);
    put(args_.decision.row_winner, -1);
    team_sync();
  }

 private:
  using Numbers = A[kGroup];

  // --- the row in device memory ---

  __device__ const T* logits(int m) const {
    return static_cast<const T*>(args_.logits[m]) + row_ * args_.shape.classes;
  }
  __device__ T* gradient_row(int m) const {
    return static_cast<T*>(args_.grad_logits[m]) + row_ * args_.shape.classes;
  }
  __device__ A* target_row() const {
    return static_cast<A*>(args_.target) + row_ * args_.shape.classes;
  }
  __device__ A& ce_row(int m) const {
    return static_cast<A*>(args_.ce_rows)[m * args_.shape.rows + row_];
  }
  __device__ void put(std::int32_t* by_row, int value) const {
    if (by_row != nullptr && lane_ == 0) by_row[row_] = value;
  }
  __device__ int best() const {
    return finite_argmin(members_, [this](int m) { return member_[m].ce; });
  }
  __device__ std::int32_t mixed_label(int l) const {
    return args_.mixed_labels[row_ * kMixedLabels + l];
  }
  __device__ A mixed_weight(int l) const {
    return static_cast<const A*>(args_.mixed_weights)[row_ * kMixedLabels + l];
  }
  __device__ bool in_range(std::int32_t label) const {
    return label >= 0 && label < classes_;
  }
  __device__ bool wants_target() const {
    const bool written = args_.target != nullptr || args_.winner != nullptr;
    return args_.target_rule != TargetRule::kNone && (written || plan_.target != 0);
  }

  // -inf beyond the last class: it adds exactly nothing to any sum below.
  __device__ Group<T> read(int m, int c) const {
    const T* from = logits(m) + c;
    if (aligned_ && c + kGroup <= classes_) return Group<T>::load(from);
    return Group<T>::load_part(from, classes_ - c, static_cast<T>(-infinity<float>()));
  }

  // --- the team ---

  template <class F>
  __device__ void for_groups(F&& f) const {
    for (int c = lane_ * kGroup; c < layout_.padded; c += kTeam * kGroup) f(c);
  }

  __device__ void team_sync() const {
    if constexpr (kTeam == kWarp) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  // --- numbers of one group ---

  __device__ void fetch(int m, int c, Numbers& z) const {
    const Group<T> group = layout_.staged ? Group<T>::load(stage_ + m * layout_.padded + c) : read(m, c);
#pragma unroll
    for (int e = 0; e < kGroup; ++e) z[e] = to_float(group.v[e]);
  }

  // slot: a member, or `members_` for the shared target.
  __device__ A* kept(int slot, int c) const {
    return soft_ + slot * layout_.padded + c;
  }

  // ln of softmax_T before its sum is taken off.
  __device__ A soft(A z, A max) const {
    return clamp_low(mul_rn(sub_rn(z, max), plan_.inv_t));
  }

  __device__ void softmax(int m, int c, Numbers& q) const {
    return keep_ ? load_numbers(kept(m, c), q) : compute_softmax(m, c, q);
  }
  __device__ void compute_softmax(int m, int c, Numbers& q) const {
    fetch(m, c, q);
    const A max = member_[m].max;
    const A inv = member_[m].inv_soft;
#pragma unroll
    for (int e = 0; e < kGroup; ++e) q[e] = mul_rn(exp_of(soft(q[e], max)), inv);
  }

  // --- sums of the softmaxes, cross-entropies, ranks of the labels ---

  __device__ void statistics(double* slot) {
    const bool ranked = args_.correct_top1 != nullptr || args_.correct_top5 != nullptr;
    const bool second = separate_ && (plan_.pairs != 0 || wants_target());
#pragma unroll 1
    for (int m = 0; m < members_; ++m) {
      const A max = partials_.get_max(partials_.max(m)), own = member_[m].own;
      const int label = member_[m].label;
      A sum = 0, soft_sum = 0, before = 0;
      for_groups([&](int c) {
        Numbers z;
        fetch(m, c, z);
#pragma unroll
        for (int e = 0; e < kGroup; ++e) {
          sum += exp_of(clamp_low(sub_rn(z[e], max)));
          if (second) soft_sum += exp_of(soft(z[e], max));
          if (ranked) before += z[e] > own || (z[e] == own && c + e < label) ? A{1} : A{0};
        }
      });
      partials_.put_sum(lane_, partials_.sum(m), sum);
      if (second) partials_.put_sum(lane_, partials_.soft(m), soft_sum);
      if (ranked) partials_.put_sum(lane_, partials_.rank(m), before);
    }
    team_sync();
    if (lane_ < members_) conclude(lane_, ranked, second, slot);
    team_sync();
  }

  // By one thread per member.
  __device__ void conclude(int m, bool ranked, bool second, double* slot) {
    Member<A> own = member_[m];
    const A sum = partials_.get_sum(partials_.sum(m));
    const A log_sum = log_of(sum);
    own.max = partials_.get_max(partials_.max(m));
    own.inv_sum = 1 / sum;
    const A soft_sum = second ? partials_.get_sum(partials_.soft(m)) : sum;
    own.inv_soft = 1 / soft_sum;
    own.log_soft = second ? log_of(soft_sum) : log_sum;
    own.ce = cross_entropy(m, own, log_sum);
    slot[m] += static_cast<double>(own.ce);
    if (args_.ce_rows != nullptr) ce_row(m) = own.ce;
    if (ranked && own.label >= 0 && !is_nan(sum)) {
      const A before = partials_.get_sum(partials_.rank(m));
      slot[value_top1(members_, m)] += before < 1 ? 1 : 0;
      slot[value_top5(members_, m)] += before < 5 ? 1 : 0;
    }
    member_[m] = own;
  }

  __device__ A cross_entropy(int m, const Member<A>& own, A log_sum) const {
    const auto minus_log_p = [&](A z) { return -sub_rn(clamp_low(sub_rn(z, own.max)), log_sum); };
    if (m != mixed_) return own.label >= 0 ? minus_log_p(own.own) : not_a_number<A>();
    A ce = 0;
    for (int l = 0; l < kMixedLabels; ++l) {
      const A weight = mixed_weight(l);
      const std::int32_t label = mixed_label(l);
      if (weight == 0) continue;
      ce = in_range(label) ? fma_rn(weight, minus_log_p(to_float(logits(m)[label])), ce) : not_a_number<A>();
    }
    return ce;
  }

  // --- the shared target ---

  __device__ void form_target() {
    winner_ = args_.target_rule == TargetRule::kNaive ? best() : -1;
    no_target_ = args_.target_rule == TargetRule::kNaive && winner_ < 0;
    if (args_.target_rule == TargetRule::kMinLogit) min_logit();
    put(args_.winner, winner_);
  }

  // The least of z_m - z_m[label] over the members.
  __device__ void smallest(int c, Numbers& least) const {
#pragma unroll
    for (int e = 0; e < kGroup; ++e) least[e] = kLargest<A>;
#pragma unroll 1
    for (int m = 0; m < members_; ++m) {
      Numbers z;
      fetch(m, c, z);
      const A own = member_[m].own;
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
        const A v = sub_rn(z[e], own);
        least[e] = v < least[e] ? v : least[e];
      }
    }
#pragma unroll
    for (int e = 0; e < kGroup; ++e) least[e] = c + e < classes_ ? least[e] : -infinity<A>();
  }

  __device__ void min_logit() {
    for (int m = 0; m < members_; ++m) {
      no_target_ = no_target_ || is_nan(member_[m].ce) || member_[m].label < 0;
    }
    if (no_target_) return;
    A max = -infinity<A>();
    for_groups([&](int c) {
      Numbers least;
      smallest(c, least);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) max = least[e] > max ? least[e] : max;
    });
    partials_.put_max(lane_, partials_.target_max(), max);
    team_sync();
    target_max_ = partials_.get_max(partials_.target_max());
    A sum = 0;
    for_groups([&](int c) {
      Numbers least;
      smallest(c, least);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) sum += exp_of(soft(least[e], target_max_));
    });
    partials_.put_sum(lane_, partials_.target_sum(), sum);
    team_sync();
    sum = partials_.get_sum(partials_.target_sum());
    target_inv_ = 1 / sum;
    target_log_ = log_of(sum);
  }

  // Its probabilities and their logarithms.
  __device__ void compute_target(int c, Numbers& p, Numbers& log_p) const {
    A max = target_max_, inv = target_inv_, log_sum = target_log_;
    if (args_.target_rule == TargetRule::kGiven) {
      const A* given = static_cast<const A*>(args_.given_target) + row_ * args_.shape.classes;
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
        p[e] = c + e < classes_ ? given[c + e] : A{0};
        log_p[e] = p[e] == 0 ? A{0} : log_of(p[e]);
      }
      return;
    }
    if (no_target_) {
#pragma unroll
      for (int e = 0; e < kGroup; ++e) p[e] = log_p[e] = not_a_number<A>();
      return;
    }
    if (args_.target_rule == TargetRule::kNaive) {
      fetch(winner_, c, log_p);
      max = member_[winner_].max;
      inv = member_[winner_].inv_soft;
      log_sum = member_[winner_].log_soft;
    } else {
      smallest(c, log_p);
    }
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      const A x = soft(log_p[e], max);
      p[e] = mul_rn(exp_of(x), inv);
      log_p[e] = sub_rn(x, log_sum);
    }
  }
  __device__ void target(int c, Numbers& p) const {
    Numbers unused;
    return keep_ ? load_numbers(kept(members_, c), p) : compute_target(c, p, unused);
  }

  __device__ void write_target() const {
    for_groups([&](int c) {
      Numbers p;
      target(c, p);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
        if (c + e < classes_) target_row()[c + e] = p[e];
      }
    });
  }

  // --- divergences ---

  __device__ void keep() const {
    for_groups([&](int c) {
      Numbers p;
#pragma unroll 1
      for (int m = 0; m < members_; ++m) {
        compute_softmax(m, c, p);
        store_numbers(kept(m, c), p);
      }
      if (!wants_target()) return;
      Numbers unused;
      compute_target(c, p, unused);
      store_numbers(kept(members_, c), p);
    });
  }

  // The KL of a few students from one teacher, whose probabilities and logarithms `teacher` gives.
  template <class F>
  __device__ void divergences_of(int first, unsigned wanted, int place, int stride, F&& teacher) const {
    A kl[kTogether] = {}, max[kTogether], log_sum[kTogether];
#pragma unroll
    for (int s = 0; s < kTogether; ++s) {
      const int i = first + s < members_ ? first + s : first;
      max[s] = member_[i].max;
      log_sum[s] = member_[i].log_soft;
    }
    for_groups([&](int c) {
      Numbers p;
      Numbers log_p;
      teacher(c, p, log_p);
#pragma unroll
      for (int s = 0; s < kTogether; ++s) {
        if ((wanted >> s & 1) == 0) continue;
        Numbers z;
        fetch(first + s, c, z);
#pragma unroll
        for (int e = 0; e < kGroup; ++e) {
          kl[s] = fma_rn(p[e], sub_rn(log_p[e], sub_rn(soft(z[e], max[s]), log_sum[s])), kl[s]);
        }
      }
    });
#pragma unroll
    for (int s = 0; s < kTogether; ++s) {
      if ((wanted >> s & 1) != 0) partials_.put_sum(lane_, place + (first + s) * stride, kl[s]);
    }
  }

  __device__ void divergences() const {
#pragma unroll 1
    for (int j = 0; j < members_; ++j) {
#pragma unroll 1
      for (int first = 0; first < members_; first += kTogether) {
        const unsigned wanted = plan_.students[j] >> first & ((1U << kTogether) - 1);
        if (wanted == 0) continue;
        const A max = member_[j].max;
        const A log_sum = member_[j].log_soft;
        divergences_of(first, wanted, partials_.pair(0, j), members_, [&](int c, Numbers& q, Numbers& log_q) {
          softmax(j, c, q);
          fetch(j, c, log_q);
#pragma unroll
          for (int e = 0; e < kGroup; ++e) log_q[e] = sub_rn(soft(log_q[e], max), log_sum);
        });
      }
    }
  }

  __device__ void target_divergences() const {
#pragma unroll 1
    for (int first = 0; first < members_; first += kTogether) {
      const unsigned wanted = plan_.target >> first & ((1U << kTogether) - 1);
      if (wanted == 0) continue;
      divergences_of(first, wanted, partials_.target(0), 1,
                     [&](int c, Numbers& p, Numbers& log_p) { compute_target(c, p, log_p); });
    }
  }

  __device__ void report_divergences(double* slot) const {
    for (int n = lane_; n < members_ * members_; n += kTeam) {
      if ((plan_.students[n % members_] >> (n / members_) & 1) == 0) continue;
      const A kl = partials_.get_sum(partials_.pair(0, 0) + n);
      slot[value_pair(members_, n)] += static_cast<double>(kl);
      if (args_.attached) kl_[n] = kl;
    }
    if (lane_ < members_ && (plan_.target >> lane_ & 1) != 0) {
      slot[value_target(members_, lane_)] += static_cast<double>(partials_.get_sum(partials_.target(lane_)));
    }
  }

  // --- gradients ---

  __device__ void gradient(int i) const {
    const Member<A> own = member_[i];
    const unsigned teachers = plan_.pull[i];
    const unsigned students = args_.attached ? plan_.teach[i] : 0;
    const bool from_target = (plan_.target_pull >> i & 1) != 0;
    const bool soft_terms = teachers != 0 || students != 0 || from_target;
    for_groups([&](int c) {
      Numbers q;
      Numbers grad;
      if (soft_terms || !separate_) softmax(i, c, q);
      ce_gradient(i, own, c, q, grad);
#pragma unroll 1
      for (unsigned left = teachers; left != 0; left &= left - 1)
        pull(i, __ffs(static_cast<int>(left)) - 1, c, q, grad);
      if (from_target) {
        Numbers p;
        target(c, p);
#pragma unroll
        for (int e = 0; e < kGroup; ++e) grad[e] = fma_rn(plan_.target_grad[i], sub_rn(q[e], p[e]), grad[e]);
      }
#pragma unroll 1
      for (unsigned left = students; left != 0; left &= left - 1) {
        teach(i, own, __ffs(static_cast<int>(left)) - 1, c, q, grad);
      }
      write(i, c, grad);
    });
  }

  __device__ void ce_gradient(int i, const Member<A>& own, int c, const Numbers& q, Numbers& grad) const {
    const A k = plan_.ce_grad[i];
#pragma unroll
    for (int e = 0; e < kGroup; ++e) grad[e] = 0;
    if (k == 0) return;
    if (separate_) {
      fetch(i, c, grad);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
        grad[e] = mul_rn(exp_of(clamp_low(sub_rn(grad[e], own.max))), own.inv_sum);
      }
    } else {
#pragma unroll
      for (int e = 0; e < kGroup; ++e) grad[e] = q[e];
    }
    if (i == mixed_) return mixed_gradient(c, k, grad);
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      const A p = c + e == own.label ? sub_rn(grad[e], A{1}) : grad[e];
      grad[e] = own.label >= 0 ? mul_rn(k, p) : not_a_number<A>();
    }
  }

  __device__ void mixed_gradient(int c, A k, Numbers& grad) const {
    A total = 0;
    for (int l = 0; l < kMixedLabels; ++l) total += mixed_weight(l);
#pragma unroll
    for (int e = 0; e < kGroup; ++e) grad[e] = mul_rn(k, mul_rn(total, grad[e]));
#pragma unroll 1
    for (int l = 0; l < kMixedLabels; ++l) {
      const A weight = mixed_weight(l);
      const std::int32_t label = mixed_label(l);
      if (weight == 0) continue;
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
        if (!in_range(label)) grad[e] = not_a_number<A>();
        if (c + e == label) grad[e] = sub_rn(grad[e], mul_rn(k, weight));
      }
    }
  }

  // Pairwise differences: exactly zero for members with the same bits, which (sum of weights) q - ... would
  // not be.
  __device__ void pull(int i, int j, int c, const Numbers& q, Numbers& grad) const {
    const A k = plan_.pair_grad[i * kMaxMembers + j];
    Numbers other;
    softmax(j, c, other);
#pragma unroll
    for (int e = 0; e < kGroup; ++e) grad[e] = fma_rn(k, sub_rn(q[e], other[e]), grad[e]);
  }

  // The attached option: member i as the teacher of k.
  __device__ void teach(int i, const Member<A>& own, int k, int c, const Numbers& q, Numbers& grad) const {
    const A weight = plan_.pair_grad[k * kMaxMembers + i];
    const A kl = kl_[k * members_ + i];
    const A max = member_[k].max;
    const A log_sum = member_[k].log_soft;
    Numbers z;
    Numbers student;
    fetch(i, c, z);
    fetch(k, c, student);
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      const A log_q = sub_rn(soft(z[e], own.max), own.log_soft);
      const A log_student = sub_rn(soft(student[e], max), log_sum);
      grad[e] = fma_rn(mul_rn(weight, q[e]), sub_rn(sub_rn(log_q, log_student), kl), grad[e]);
    }
  }

  __device__ void write(int i, int c, const Numbers& grad) const {
    T* out = gradient_row(i) + c;
    const bool whole = c + kGroup <= classes_ && aligned16(out);
    Group<T> group;
    if (args_.grad_mode[i] == GradMode::kAccumulate) {
      group = whole ? Group<T>::load(out) : Group<T>::load_part(out, classes_ - c, T{});
#pragma unroll
      for (int e = 0; e < kGroup; ++e) group.v[e] = from_float<T>(to_float(group.v[e]) + grad[e]);
    } else {
#pragma unroll
      for (int e = 0; e < kGroup; ++e) group.v[e] = from_float<T>(grad[e]);
    }
    if (whole) return group.store(out);
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      if (c + e < classes_) out[e] = group.v[e];
    }
  }

  const CohortLossArgs& args_;
  const Plan<A>& plan_;
  const Layout& layout_;
  Member<A>* member_;
  Partials<A, kTeam> partials_;
  A* kl_;     // [i][j] of this row, for the attached option
  T* stage_;  // [member][padded]
  A* soft_;   // [member, target][padded]
  int lane_, members_, classes_, mixed_;
  bool separate_;  // softmax_T is not softmax_1

  std::int64_t row_ = 0;
  bool aligned_ = false, keep_ = false, no_target_ = false;
  int winner_ = -1;
  A target_max_ = 0, target_inv_ = 0, target_log_ = 0;  // kMinLogit
};

}  // namespace cohort::kernels::loss
