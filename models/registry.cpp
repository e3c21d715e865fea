#include "models/registry.h"

#include "core/spelling.h"
#include "models/mobilenet_v1.h"
#include "models/mobilenet_v2.h"
#include "models/resnet_cifar.h"
#include "models/shufflenet_v1.h"
#include "models/shufflenet_v2.h"
#include "models/vgg.h"
#include "models/wide_resnet.h"

namespace cohort::models {
namespace {

constexpr const char* kResnetPaper = "He et al., Deep residual learning for image recognition, CVPR 2016";
constexpr const char* kVggPaper =
    "Simonyan & Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015";
constexpr const char* kWidePaper = "Zagoruyko & Komodakis, Wide residual networks, BMVC 2016";

ModelInfo resnet(int depth, bool option_a) {
  const std::string name = "resnet" + std::to_string(depth) + (option_a ? "_a" : "");
  const ResnetCifarConfig config{.blocks_per_stage = (depth - 2) / 6, .option_a = option_a};
  return {
      name,
      "CIFAR ResNet-" + std::to_string(depth) + (option_a ? ", shortcuts without parameters (option A)" : ""),
      kResnetPaper,
      [=](int classes, const InputShape& input) { return make_resnet_cifar(name, classes, input, config); }};
}

ModelInfo resnet_x4(int depth) {
  const std::string name = "resnet" + std::to_string(depth) + "x4";
  const ResnetCifarConfig config{.blocks_per_stage = (depth - 2) / 6, .widths = {32, 64, 128, 256}};
  return {
      name, "CIFAR ResNet-" + std::to_string(depth) + ", four times as wide", kResnetPaper,
      [=](int classes, const InputShape& input) { return make_resnet_cifar(name, classes, input, config); }};
}

ModelInfo wide(int depth, int widen) {
  const std::string name = "wrn_" + std::to_string(depth) + "_" + std::to_string(widen);
  const WideResnetConfig config{.blocks_per_group = (depth - 4) / 6, .widen = widen};
  return {
      name, "Wide ResNet-" + std::to_string(depth) + "-" + std::to_string(widen), kWidePaper,
      [=](int classes, const InputShape& input) { return make_wide_resnet(name, classes, input, config); }};
}

ModelInfo vgg(int depth) {
  const std::string name = "vgg" + std::to_string(depth);
  const VggConfig config{.layers_per_block = (depth - 3) / 5};
  return {name, "CIFAR VGG-" + std::to_string(depth) + " with batch normalisation", kVggPaper,
          [=](int classes, const InputShape& input) { return make_vgg(name, classes, input, config); }};
}

std::vector<ModelInfo> mobile_models() {
  return {{"mobilenet_v1", "CIFAR MobileNet, stem of stride 1",
           "Howard et al., MobileNets: efficient convolutional neural networks for mobile vision "
           "applications, 2017",
           [](int classes, const InputShape& input) {
             return make_mobilenet_v1("mobilenet_v1", classes, input);
           }},
          {"mobilenet_v2_half", "CIFAR MobileNetV2, half as wide",
           "Sandler et al., MobileNetV2: inverted residuals and linear bottlenecks, CVPR 2018",
           [](int classes, const InputShape& input) {
             return make_mobilenet_v2("mobilenet_v2_half", classes, input, {.width = 0.5});
           }},
          {"shufflenet_v1", "CIFAR ShuffleNet, three groups",
           "Zhang et al., ShuffleNet: an extremely efficient convolutional neural network for mobile "
           "devices, CVPR 2018",
           [](int classes, const InputShape& input) {
             return make_shufflenet_v1("shufflenet_v1", classes, input);
           }},
          {"shufflenet_v2", "CIFAR ShuffleNetV2, width 1",
           "Ma et al., ShuffleNet V2: practical guidelines for efficient CNN architecture design, ECCV 2018",
           [](int classes, const InputShape& input) {
             return make_shufflenet_v2("shufflenet_v2", classes, input);
           }}};
}

std::vector<ModelInfo> all_models() {
  std::vector<ModelInfo> models;
  for (const int depth : {8, 14, 20, 32, 44, 56, 110, 152}) models.push_back(resnet(depth, false));
  for (const int depth : {20, 32, 44, 56, 110, 152}) models.push_back(resnet(depth, true));
  for (const int depth : {8, 32}) models.push_back(resnet_x4(depth));
  for (const auto& [depth, widen] : {std::pair{16, 2}, {16, 10}, {28, 10}, {28, 12}, {40, 1}, {40, 2}}) {
    models.push_back(wide(depth, widen));
  }
  for (const int depth : {8, 13}) models.push_back(vgg(depth));
  for (ModelInfo& model : mobile_models()) models.push_back(std::move(model));
  return models;
}

}  // namespace

const std::vector<ModelInfo>& registry() {
  static const std::vector<ModelInfo> models = all_models();
  return models;
}

std::unique_ptr<Network> make_network(std::string_view name, int num_classes, const InputShape& input) {
  const ModelInfo* closest = &registry().front();
  for (const ModelInfo& info : registry()) {
    if (info.name == name) return info.make(num_classes, input);
    if (edit_distance(info.name, name) < edit_distance(closest->name, name)) closest = &info;
  }
  throw Error(ErrorKind::kUsage, "unknown model '" + std::string(name) + "'",
              "did you mean '" + closest->name + "'? 'cohort list models' lists all");
}

ModelSummary summarize(Network& network) {
  Context ctx({.num_threads = 1});
  network.materialize(ctx, 0, 0);
  ctx.set_recording(false);
  ModelSummary summary;
  ctx.set_layer_log(&summary.layers);
  const InputShape& in = network.input();
  const Tensor x = ctx.persistent_tensor({1, in.height, in.width, in.channels}, DType::f32);
  ctx.begin_step();
  const Outputs out = network.forward(ctx, x, {.training = false});
  for (const Tensor& stage : out.stages)
    summary.stages.push_back({stage.shape[1], stage.shape[2], stage.shape[3]});
  for (const LayerRecord& layer : summary.layers) summary.macs += layer.macs;
  summary.parameters = network.parameters().num_parameters();
  return summary;
}

}  // namespace cohort::models
