// kernels::cohort_loss from its formula: plain loops in double over the rounded inputs, with the admissible
// error of every gradient and value beside it.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/cohort_case.h"

namespace cohort::test {

struct CohortReference {
  std::vector<std::vector<double>> grad, grad_tol;  // [member][row * classes + class]
  std::vector<double> loss, ce, kl, kl_pair, target_kl, ce_rows, target, loss_tol;
  std::vector<std::int32_t> winner, top1, top5;
};

template <class T>
class CohortReferenceRun {
 public:
  explicit CohortReferenceRun(const CohortCase<T>& c)
      : c_(c), m_(c.members), n_(c.rows), k_(c.classes), valid_(c.valid < 0 ? c.rows : c.valid) {
    // Relative error of a softmax: of its sum on at least 4 lanes, and of the exponent.
    factor_ = (sum_factor(k_, 4) + 16) * unit_roundoff(accumulator_of(dtype_of<T>()));
    scale_ = c.t_squared ? c.temperature * c.temperature : 1;
    const auto size = static_cast<std::size_t>(n_ * k_);
    const auto members = static_cast<std::size_t>(m_);
    r_.grad.assign(members, std::vector<double>(size, 0));
    r_.grad_tol = r_.grad;
    for (auto* v : {&r_.loss, &r_.ce, &r_.kl, &r_.target_kl, &r_.loss_tol}) v->assign(members, 0);
    r_.kl_pair.assign(members * members, 0);
    r_.ce_rows.assign(members * static_cast<std::size_t>(n_), 0);
    r_.target.assign(size, 0);
    r_.winner.assign(static_cast<std::size_t>(n_), -1);
    r_.top1.assign(members, 0);
    r_.top5.assign(members, 0);
  }

  CohortReference run() {
    for (int b = 0; b < valid_; ++b) row(b);
    for (int i = 0; i < m_; ++i) {
      const auto s = static_cast<std::size_t>(i);
      for (int j = 0; j < m_; ++j) r_.kl[s] += w(i, j) * r_.kl_pair[at(i, j, m_)];
      r_.kl[s] += e(i) * r_.target_kl[s];
      r_.loss[s] = ce_weight(i) * r_.ce[s] + r_.kl[s];
      for (std::size_t x = 0; x < r_.grad[s].size(); ++x) {
        if (!c_.accumulate.empty()) r_.grad[s][x] += static_cast<double>(c_.accumulate[s][x]);
        r_.grad_tol[s][x] += 4 * unit_roundoff(dtype_of<T>()) * std::abs(r_.grad[s][x]) + 1e-300;
        if (!c_.accumulate.empty()) {
          r_.grad_tol[s][x] +=
              unit_roundoff(dtype_of<T>()) * std::abs(static_cast<double>(c_.accumulate[s][x]));
        }
      }
    }
    return r_;
  }

 private:
  using Row = std::vector<double>;

  static std::size_t at(int i, int j, int width) { return static_cast<std::size_t>(i * width + j); }
  double w(int i, int j) const { return i == j ? 0 : static_cast<double>(c_.kl_weight[at(i, j, m_)]); }
  double e(int i) const {
    return c_.rule == kernels::TargetRule::kNone ? 0 : static_cast<double>(c_.target_weight[at(0, i, m_)]);
  }
  double ce_weight(int i) const { return static_cast<double>(c_.ce_weight[at(0, i, m_)]); }
  Row logits(int i, int b) const {
    const auto* z = c_.logits[at(0, i, m_)].data() + b * k_;
    Row out(static_cast<std::size_t>(k_));
    for (std::size_t c = 0; c < out.size(); ++c) out[c] = static_cast<double>(z[c]);
    return out;
  }
  static Row log_softmax(Row z, double t) {
    const double max = *std::max_element(z.begin(), z.end());
    double sum = 0;
    for (double& v : z) sum += std::exp(v = (v - max) / t);
    for (double& v : z) v -= std::log(sum);
    return z;
  }
  static double spread(const Row& log_p) {
    return 1 + *std::max_element(log_p.begin(), log_p.end()) - *std::min_element(log_p.begin(), log_p.end());
  }

  // Labels of one row and their weights.
  std::vector<std::pair<int, double>> labels(int i, int b) const {
    if (i != c_.mixed_member) return {{c_.labels[at(0, b, n_)], 1.0}};
    std::vector<std::pair<int, double>> out;
    for (int l = 0; l < 4; ++l) {
      const double weight = static_cast<double>(c_.mixed_weights[at(b, l, 4)]);
      out.emplace_back(c_.mixed_labels[at(b, l, 4)], weight);
    }
    return out;
  }

  void row(int b) {
    log_p_.clear();
    log_q_.clear();
    for (int i = 0; i < m_; ++i) {
      log_p_.push_back(log_softmax(logits(i, b), 1));
      log_q_.push_back(log_softmax(logits(i, b), c_.temperature));
      cross_entropy(i, b);
    }
    const Row log_t = target(b);
    for (int i = 0; i < m_; ++i) {
      for (int j = 0; j < m_; ++j) {
        if (w(i, j) == 0 && !(c_.all_pairs && i != j)) continue;
        const double kl = pull(i, b, log_q_[at(0, j, m_)], w(i, j));
        r_.kl_pair[at(i, j, m_)] += scale_ * kl / valid_;
        if (c_.attached) teach(i, j, b, kl);
      }
      if (c_.rule != kernels::TargetRule::kNone && (e(i) != 0 || c_.all_pairs)) {
        r_.target_kl[at(0, i, m_)] += scale_ * pull(i, b, log_t, e(i)) / valid_;
      }
    }
  }

  void cross_entropy(int i, int b) {
    const Row& log_p = log_p_[at(0, i, m_)];
    double ce = 0;
    const double k = ce_weight(i) / valid_;
    const double range = spread(log_p);
    for (const auto& [label, weight] : labels(i, b)) {
      if (weight != 0) ce -= weight * log_p[at(0, label, k_)];
      for (int c = 0; c < k_; ++c) {
        const double p = std::exp(log_p[at(0, c, k_)]);
        add(i, b, c, k * weight * (p - (c == label)), std::abs(k * weight) * (p * range + (c == label)));
      }
    }
    r_.ce_rows[at(i, b, n_)] = ce;
    r_.ce[at(0, i, m_)] += ce / valid_;
    r_.loss_tol[at(0, i, m_)] += ce_weight(i) * factor_ * range / valid_;
    const int main = labels(i, b)[0].first;
    const Row z = logits(i, b);
    const double own = z[at(0, main, k_)];
    int before = 0;
    for (int c = 0; c < k_; ++c) {
      const double v = z[at(0, c, k_)];
      before += v > own || (v == own && c < main);
    }
    r_.top1[at(0, i, m_)] += before < 1;
    r_.top5[at(0, i, m_)] += before < 5;
  }

  Row target(int b) {
    Row log_t(static_cast<std::size_t>(k_), 0);
    if (c_.rule == kernels::TargetRule::kNone) return log_t;
    if (c_.rule == kernels::TargetRule::kGiven) {
      for (int c = 0; c < k_; ++c)
        log_t[at(0, c, k_)] = std::log(static_cast<double>(c_.given[at(b, c, k_)]));
    } else if (c_.rule == kernels::TargetRule::kNaive) {
      int best = 0;
      for (int i = 1; i < m_; ++i) {
        if (r_.ce_rows[at(i, b, n_)] < r_.ce_rows[at(best, b, n_)]) best = i;
      }
      r_.winner[at(0, b, n_)] = best;
      log_t = log_q_[at(0, best, m_)];
    } else {
      Row z(static_cast<std::size_t>(k_), std::numeric_limits<double>::infinity());
      for (int i = 0; i < m_; ++i) {
        const Row own = logits(i, b);
        for (std::size_t c = 0; c < z.size(); ++c) {
          z[c] = std::min(z[c], own[c] - own[at(0, labels(i, b)[0].first, k_)]);
        }
      }
      log_t = log_softmax(z, c_.temperature);
    }
    for (int c = 0; c < k_; ++c) r_.target[at(b, c, k_)] = std::exp(log_t[at(0, c, k_)]);
    return log_t;
  }

  // The gradient of weight * S KL_T(p -> z_i) of one row; returns KL_T.
  double pull(int i, int b, const Row& log_p, double weight) {
    const Row& log_q = log_q_[at(0, i, m_)];
    const double k = weight * scale_ / c_.temperature / valid_;
    const double range = std::max(spread(log_q), spread(finite(log_p)));
    double kl = 0;
    double magnitude = 0;
    for (int c = 0; c < k_; ++c) {
      const double lp = log_p[at(0, c, k_)];
      const double lq = log_q[at(0, c, k_)];
      const double p = std::exp(lp);
      const double q = std::exp(lq);
      add(i, b, c, k * (q - p), std::abs(k) * (p + q) * range);
      if (p == 0) continue;
      kl += p * (lp - lq);
      magnitude += p * (std::abs(lp) + std::abs(lq) + range);
    }
    r_.loss_tol[at(0, i, m_)] += std::abs(weight) * scale_ * factor_ * magnitude / valid_;
    return kl;
  }

  void teach(int i, int j, int b, double kl) {
    const double k = w(i, j) * scale_ / c_.temperature / valid_;
    const double range = spread(log_q_[at(0, j, m_)]) + spread(log_q_[at(0, i, m_)]);
    for (int c = 0; c < k_; ++c) {
      const double lj = log_q_[at(0, j, m_)][at(0, c, k_)];
      const double li = log_q_[at(0, i, m_)][at(0, c, k_)];
      const double q = std::exp(lj);
      add(j, b, c, k * q * (lj - li - kl),
          2 * std::abs(k) * q * (std::abs(lj - li) + std::abs(kl) + 1) * range);
    }
  }

  static Row finite(Row log_p) {
    for (double& v : log_p) v = std::max(v, -100.0);
    return log_p;
  }

  void add(int i, int b, int c, double value, double magnitude) {
    r_.grad[at(0, i, m_)][at(b, c, k_)] += value;
    r_.grad_tol[at(0, i, m_)][at(b, c, k_)] += factor_ * magnitude;
  }

  const CohortCase<T>& c_;
  int m_, n_, k_, valid_;
  double factor_ = 0, scale_ = 1;
  CohortReference r_;
  std::vector<Row> log_p_, log_q_;
};

template <class T>
CohortReference reference(const CohortCase<T>& c) {
  return CohortReferenceRun<T>(c).run();
}

}  // namespace cohort::test
