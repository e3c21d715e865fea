#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/safetensors.h"
#include "distill/file_layout.h"
#include "distill/trainer.h"

namespace cohort::distill {
namespace {

struct FileTensor {
  std::string name;
  std::vector<std::int64_t> dims;
  Tensor value;
  const Parameter* parameter;  // null: a buffer
  bool shared;                 // of a network that is loaded by itself
};

std::vector<FileTensor> tensors_of(const models::Network& network) {
  std::vector<FileTensor> tensors;
  for (const Parameter& p : network.parameters().parameters())
    tensors.push_back({p.name, file_dims(p), p.value, &p, p.shared});
  for (const Buffer& b : network.parameters().buffers())
    tensors.push_back({b.name, dims_of(b.shape), b.value, nullptr, b.shared});
  return tensors;
}

std::vector<float> in_order(const FileTensor& t, std::vector<float> values, bool to_file) {
  return t.parameter == nullptr ? values : reorder(std::move(values), *t.parameter, to_file);
}

constexpr std::string_view kTracked = "num_batches_tracked";
constexpr std::string_view kRunningMean = "running_mean";

std::string_view strip_prefix(std::string_view name) {
  constexpr std::array<std::string_view, 4> kPrefixes = {"module.", "model.", "student.", "_orig_mod."};
  for (bool again = true; again;) {
    again = false;
    for (const std::string_view prefix : kPrefixes) {
      if (name.starts_with(prefix)) {
        name.remove_prefix(prefix.size());
        again = true;
      }
    }
  }
  return name;
}

std::string list_first(const std::vector<std::string>& lines) {
  constexpr std::size_t kMost = 8;
  std::string text;
  for (std::size_t i = 0; i < std::min(lines.size(), kMost); ++i) text += "\n  " + lines[i];
  if (lines.size() > kMost) text += fmt::format("\n  ... and {} more", lines.size() - kMost);
  return text;
}

}  // namespace

std::vector<std::byte> serialize_weights(Context& ctx, const models::Network& network,
                                         std::int64_t batches_tracked,
                                         const std::map<std::string, std::string>& metadata,
                                         const std::map<std::string, std::vector<double>>& folded) {
  std::vector<std::vector<float>> values;
  std::vector<TensorView> views;
  const std::vector<FileTensor> tensors = tensors_of(network);
  values.reserve(tensors.size());
  for (const FileTensor& t : tensors) {
    const auto replaced = folded.find(t.name);
    const std::vector<double> exact =
        replaced != folded.end() ? replaced->second : download_values(ctx, t.value);
    values.push_back(in_order(t, {exact.begin(), exact.end()}, /*to_file=*/true));
    views.push_back(
        {t.name, FileDType::kF32, t.dims, values.back().data(), values.back().size() * sizeof(float)});
    if (t.name.ends_with(kRunningMean)) {
      const std::string base = t.name.substr(0, t.name.size() - kRunningMean.size());
      views.push_back(
          {base + std::string(kTracked), FileDType::kI64, {}, &batches_tracked, sizeof(batches_tracked)});
    }
  }
  return serialize_safetensors(views, metadata);
}

std::int64_t load_weights(Context& ctx, models::Network& network, std::span<const std::byte> bytes,
                          const std::string& origin) {
  const SafetensorsFile file = parse_safetensors(bytes, origin, {.allow_nonfinite = false});
  const std::vector<FileTensor> wanted = tensors_of(network);
  std::map<std::string_view, const TensorView*> found;
  std::vector<const TensorView*> sources;  // of `wanted`, when nothing is wrong
  std::vector<std::string> wrong;
  std::int64_t tracked = 0;
  for (const TensorView& t : file.tensors()) {
    const std::string_view name = strip_prefix(t.name);
    if (name.ends_with(kTracked)) {
      if (t.dtype == FileDType::kI64 && t.bytes == sizeof(tracked))
        tracked = *static_cast<const std::int64_t*>(t.data);
      continue;
    }
    if (!found.emplace(name, &t).second) wrong.push_back(fmt::format("{}: twice in the file", name));
  }
  for (const FileTensor& w : wanted) {
    const auto it = found.find(w.name);
    if (it == found.end()) {
      wrong.push_back(
          fmt::format("{}: missing in the file, [{}] in the model", w.name, fmt::join(w.dims, ",")));
      continue;
    }
    const TensorView& t = *it->second;
    if (t.shape != w.dims || t.dtype != FileDType::kF32) {
      wrong.push_back(fmt::format("{}: {} [{}] in the file, F32 [{}] in the model", w.name, name_of(t.dtype),
                                  fmt::join(t.shape, ","), fmt::join(w.dims, ",")));
    }
    sources.push_back(&t);
    found.erase(it);
  }
  for (const auto& [name, view] : found) wrong.push_back(fmt::format("{}: not in the model", name));
  if (!wrong.empty()) {
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("weights do not fit network {} ({} classes): {}{}", network.model(),
                            network.num_classes(), origin, list_first(wrong)),
                "give the model and data set that the weights were trained with");
  }
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const FileTensor& w = wanted[i];
    if (w.shared) continue;
    const float* data = static_cast<const float*>(sources[i]->data);
    const std::vector<float> v =
        in_order(w, {data, data + sources[i]->bytes / sizeof(float)}, /*to_file=*/false);
    upload_values(ctx, w.value, {v.begin(), v.end()});
  }
  network.parameters().refresh_shadow(ctx);
  return tracked;
}

}  // namespace cohort::distill
