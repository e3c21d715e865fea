// The layers of the model zoo: each holds handles to its parameters and calls operations of core. Names are
// PyTorch's state-dict names, so that weights travel both ways.
#pragma once

#include <string>

#include "core/ops/batch_norm.h"
#include "core/ops/conv2d.h"
#include "core/parameter.h"

namespace cohort::nn {

// How the weights of a convolution start. Source: He et al., "Delving deep into rectifiers", ICCV 2015.
enum class ConvInit {
  kKaimingFanOut,  // N(0, 2 / (kh kw K)) whatever the groups, as the CIFAR networks of the distillation codes
  kKaimingFanIn,   // N(0, 2 / (kh kw C/groups))
  kPyTorch         // U(-1/sqrt(fan in), 1/sqrt(fan in)), PyTorch's default; fan in = kh kw C/groups
};

// y = conv(x, weight) (+ bias). x: (N, H, W, C), weight: (K, kh, kw, C/groups), y: (N, H', W', K).
class Conv2d {
 public:
  struct Options {
    int kernel = 3;
    int stride = 1;
    int padding = 1;
    int dilation = 1;
    int groups = 1;
    bool bias = false;
    bool zero_bias = false;  // else it starts from U(-1/sqrt(fan in), 1/sqrt(fan in)), PyTorch's default
    ConvInit init = ConvInit::kKaimingFanOut;
  };
  Conv2d(ParameterSet& parameters, const std::string& name, std::int64_t in, std::int64_t out,
         const Options& options);

  Tensor forward(Context& ctx, const Tensor& x) const;

 private:
  std::string name_;
  Options options_;
  Parameter* weight_;
  Parameter* bias_ = nullptr;
};

// y = relu?(gamma (x - mean) / sqrt(var + eps) + beta (+ residual)) over N, H, W per channel; eps 1e-5,
// momentum 0.1 (running = 0.9 running + 0.1 batch, the variance unbiased). Ioffe & Szegedy, ICML 2015.
class BatchNorm2d {
 public:
  BatchNorm2d(ParameterSet& parameters, const std::string& name, std::int64_t channels);

  struct Options {
    bool training = true;
    bool relu = false;
  };
  Tensor forward(Context& ctx, const Tensor& x, const Options& options, const Tensor& residual = {}) const;

 private:
  std::string name_;
  Parameter* weight_;
  Parameter* bias_;
  Buffer* running_mean_;
  Buffer* running_var_;
};

// A map after its ReLU, and before it where that was asked for.
struct Activated {
  Tensor pre, post;
};

// relu(bn(x) + residual), fused unless `keep_pre` asks for the ReLU's input.
Activated activate(Context& ctx, const BatchNorm2d& bn, const Tensor& x, bool training, bool keep_pre,
                   const Tensor& residual = {});

// A convolution and its normalisation.
class ConvNorm {
 public:
  ConvNorm(ParameterSet& parameters, const std::string& conv_name, const std::string& norm_name,
           std::int64_t in, std::int64_t out, const Conv2d::Options& options)
      : conv_(parameters, conv_name, in, out, options), bn_(parameters, norm_name, out) {}

  Tensor forward(Context& ctx, const Tensor& x, const BatchNorm2d::Options& options,
                 const Tensor& residual = {}) const {
    return bn_.forward(ctx, conv_.forward(ctx, x), options, residual);
  }
  // relu(bn(conv(x)) + residual)
  Activated activated(Context& ctx, const Tensor& x, bool training, bool keep_pre,
                      const Tensor& residual = {}) const {
    return activate(ctx, bn_, conv_.forward(ctx, x), training, keep_pre, residual);
  }

 private:
  Conv2d conv_;
  BatchNorm2d bn_;
};

// The two halves of a separable convolution: 1x1 over the channels, and 3x3 within each of them.
inline Conv2d::Options pointwise(ConvInit init, int groups = 1) {
  return {.kernel = 1, .padding = 0, .groups = groups, .init = init};
}
inline Conv2d::Options depthwise(ConvInit init, int channels, int stride) {
  return {.stride = stride, .groups = channels, .init = init};
}

// How a linear layer starts.
enum class LinearInit {
  kPyTorch,   // weight and bias U(-1/sqrt(C), 1/sqrt(C))
  kZeroBias,  // that weight, bias 0: the WRN codes
  kNormal     // weight N(0, 0.01^2), bias 0: the VGG and MobileNetV2 codes
};

// y = x weight^T + bias. x: (N, C), weight: (K, C), y: (N, K) in accumulator dtype.
class Linear {
 public:
  Linear(ParameterSet& parameters, const std::string& name, std::int64_t in, std::int64_t out,
         LinearInit init = LinearInit::kPyTorch);

  Tensor forward(Context& ctx, const Tensor& x) const;
  const Parameter& weight() const { return *weight_; }
  const Parameter& bias() const { return *bias_; }

 private:
  std::string name_;
  Parameter* weight_;
  Parameter* bias_;
};

}  // namespace cohort::nn
