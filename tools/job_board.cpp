#include "tools/job_board.h"

#include <fmt/format.h>

#include <cmath>

#include "tools/signals.h"

namespace cohort::tools {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr double kHeartbeatSeconds = 60;

}  // namespace

std::string JobStatus::take(const Json& event) {
  const std::string kind = text_in(event, "kind");
  const std::string net = text_in(event, "net");
  const auto set = [&](double& value, const char* key) {
    const double given = number_in(event, key);
    if (std::isfinite(given)) value = given;
  };
  if (kind != "step" && kind != "epoch") return {};
  set(epoch_, "epoch");
  set(step_, "step");
  if (kind == "step") {
    losses_[net] = number_in(event, "loss");
    set(rate_, "img_s");
    return {};
  }
  for (const char* part : {"val", "test"}) {
    if (!event.contains(part)) continue;
    scores_ += fmt::format("  {} {} {:.2f}", net, part, 100 * number_in(event[part], "top1"));
    break;
  }
  if (++records_ < records_an_epoch_) return {};
  std::string text = fmt::format("{}  epoch {:.0f}/{}{}", label_, epoch_, epochs_, scores_);
  scores_.clear();
  records_ = 0;
  return text;
}

std::string JobStatus::line() const {
  if (step_ == 0) return label_ + "  starts";
  std::string text = fmt::format("{}  epoch {:.0f}/{}  step {:.0f}  loss", label_, epoch_, epochs_, step_);
  for (const auto& [net, loss] : losses_) text += fmt::format(" {} {:.3f}", net, loss);
  return text + "  " + format_rate(rate_);
}

void JobBoard::show(const std::map<int, JobStatus>& running) {
  const double now = terminal_.now();
  if (mode_ == ProgressMode::kLine) {
    if (last_ < 0) last_ = now;
    if (now - last_ < kHeartbeatSeconds) return;
    last_ = now;
    for (const auto& [key, status] : running) terminal_.write(status.line() + "\n");
  }
  if (mode_ != ProgressMode::kBar || now - last_ < kRedrawSeconds) return;
  last_ = now;
  if (take_window_change() || width_ == 0) width_ = terminal_.width();
  clear();
  std::string text;
  for (const auto& [key, status] : running) text += first_columns(status.line(), width_ - 1) + "\n";
  terminal_.write(text);
  shown_ = static_cast<int>(running.size());
}

void JobBoard::line(std::string_view text) {
  if (mode_ == ProgressMode::kBar || mode_ == ProgressMode::kLine) message(text);
}

void JobBoard::message(std::string_view text) {
  clear();
  terminal_.write(fmt::format("{}\n", text));
  last_ = mode_ == ProgressMode::kLine ? terminal_.now() : -1e30;
}

void JobBoard::event(Json event, const std::string& folder) {
  if (mode_ != ProgressMode::kJson) return;
  event["run"] = folder;
  terminal_.write(event.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
}

void JobBoard::clear() {
  if (shown_ == 0) return;
  terminal_.write(fmt::format("\x1b[{}A\r\x1b[J", shown_));
  shown_ = 0;
}

}  // namespace cohort::tools
