#include "tools/presets.h"

namespace cohort::tools {

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = {
      {"okd.cifar", "online distillation on CIFAR-100: 300 epochs, drops at 140, 200, 250", R"(
method = "dml"
data.name = "cifar100"
train = { epochs = 300, batch_size = 128 }
optim = { lr = 0.1, momentum = 0.9, nesterov = false, weight_decay = 5e-4, schedule = "step:140,200,250:0.1" }
distill.dml = { T = 1.0, lambda = 1.0, norm = "mean" }
)"},
      {"dml.paper", "Deep Mutual Learning: 200 epochs, batch 64, Nesterov, a drop every 60 epochs", R"(
method = "dml"
data.name = "cifar100"
train = { epochs = 200, batch_size = 64 }
optim = { lr = 0.1, momentum = 0.9, nesterov = true, weight_decay = 5e-4, schedule = "every:60:0.1" }
distill.dml = { T = 1.0, lambda = 1.0, norm = "mean" }
)"},
      {"kdcl.cifar", "KDCL on CIFAR-100: 200 epochs, drops at 100 and 150, T = 2", R"(
method = "kdcl-minlogit"
data.name = "cifar100"
train = { epochs = 200, batch_size = 128 }
optim = { lr = 0.1, momentum = 0.9, nesterov = false, weight_decay = 5e-4, schedule = "step:100,150:0.1" }
distill.kdcl = { T = 2.0, lambda = 1.0 }
)"},
      {"cd.cifar", "Competitive Distillation: 200 epochs, Nesterov, a drop every 60 epochs", R"(
method = "competitive"
data.name = "cifar100"
train = { epochs = 200, batch_size = 128 }
optim = { lr = 0.1, momentum = 0.9, nesterov = true, weight_decay = 5e-4, schedule = "every:60:0.1" }
distill.cd = { T = 1.0, a = 1.0, b = 1.0, pool = "paper", period = 1 }
)"},
      {"kd.cifar", "offline distillation (CRD recipe): 240 epochs, batch 64, 0.1 CE + 0.9 KL, T = 4", R"(
method = "kd"
data.name = "cifar100"
train = { epochs = 240, batch_size = 64 }
optim = { lr = 0.05, momentum = 0.9, nesterov = false, weight_decay = 5e-4, schedule = "step:150,180,210:0.1" }
distill.kd = { T = 4.0, a = 0.1, b = 0.9 }
)"},
  };
  return all;
}

const Preset* find_preset(std::string_view name) {
  for (const Preset& preset : presets()) {
    if (preset.name == name) return &preset;
  }
  return nullptr;
}

}  // namespace cohort::tools
