#include "kernels/cuda/cudnn_graph.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/cuda/shared_library.h"

namespace cohort::kernels::cuda {
namespace {

// More than any heuristics mode proposes (60 seen).
constexpr std::int64_t kMaxConfigs = 256;
constexpr std::int64_t kMaxKnobs = CUDNN_KNOB_TYPE_COUNTS;
constexpr std::int64_t kAlignment = 16;

cudnnDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return CUDNN_DATA_BFLOAT16;
    case DType::f64:
      return CUDNN_DATA_DOUBLE;
    default:
      return CUDNN_DATA_FLOAT;
  }
}

struct Extents {
  std::int64_t n, c, h, w;
};

// cuDNN's order of dimensions is N, C, H, W whatever the layout; the strides say that channels are innermost.
Descriptor tensor(std::int64_t id, const Extents& e, DType dtype, bool is_virtual = false) {
  Descriptor made(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const cudnnDataType_t type = data_type(dtype);
  made.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type, "a tensor's dtype");
  made.set_ints(CUDNN_ATTR_TENSOR_DIMENSIONS, {e.n, e.c, e.h, e.w}, "a tensor's shape");
  made.set_ints(CUDNN_ATTR_TENSOR_STRIDES, {e.h * e.w * e.c, 1, e.w * e.c, e.c}, "a tensor's strides");
  made.set_int(CUDNN_ATTR_TENSOR_UNIQUE_ID, id, "a tensor's id");
  if (is_virtual) {
    made.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual, "a tensor's kind");
  }
  made.set_int(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kAlignment, "a tensor's alignment");
  made.finalize("describing a tensor");
  return made;
}

Descriptor convolution_descriptor(const Conv2dShape& s) {
  Descriptor made(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  const std::vector<std::int64_t> padding(2, s.padding);
  made.set_int(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 2, "a convolution's dimensions");
  made.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute, "a convolution's dtype");
  made.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode, "a convolution's mode");
  made.set_ints(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, padding, "a convolution's padding");
  made.set_ints(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, padding, "a convolution's padding");
  made.set_ints(CUDNN_ATTR_CONVOLUTION_DILATIONS, {s.dilation, s.dilation}, "a convolution's dilation");
  made.set_ints(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, {s.stride, s.stride}, "a convolution's stride");
  made.finalize("describing a convolution");
  return made;
}

// No single operation writes another dtype than it reads. A conversion behind it does, in the same kernel.
Descriptor identity_descriptor() {
  Descriptor made(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  const cudnnPointwiseMode_t mode = CUDNN_POINTWISE_IDENTITY;
  const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  made.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode, "a conversion's mode");
  made.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute, "a conversion's dtype");
  made.finalize("describing a conversion");
  return made;
}

Descriptor pointwise(const Descriptor& parameters, const Descriptor& from, const Descriptor& to) {
  Descriptor made(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  made.set_descriptor(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, parameters, "a conversion's parameters");
  made.set_descriptor(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, from, "a conversion's operand");
  made.set_descriptor(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, to, "a conversion's result");
  made.finalize("describing a conversion");
  return made;
}

// The names of one pass's attributes.
struct PassAttributes {
  cudnnBackendDescriptorType_t operation;
  cudnnBackendAttributeName_t convolution, x, weight, y, alpha, beta;
};

PassAttributes attributes_of(Conv2dPass pass) {
  switch (pass) {
    case Conv2dPass::kForward:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
    case Conv2dPass::kBackwardData:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
    case Conv2dPass::kBackwardWeights:
      break;
  }
  return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
}

EngineNotes notes_of(const Descriptor& engine) {
  EngineNotes notes;
  for (const auto note : engine.values<cudnnBackendNumericalNote_t>(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                                                    CUDNN_TYPE_NUMERICAL_NOTE)) {
    switch (note) {
      case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
        notes.nondeterministic = true;
        break;
      case CUDNN_NUMERICAL_NOTE_TENSOR_CORE:
        notes.tensor_core = true;
        break;
      case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS:
      case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
        notes.converts_down = true;
        break;
      case CUDNN_NUMERICAL_NOTE_FFT:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13:
        notes.transforms = true;
        break;
      default:
        break;
    }
  }
  for (const auto note :
       engine.values<cudnnBackendBehaviorNote_t>(CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE)) {
    if (note == CUDNN_BEHAVIOR_NOTE_SUPPORTS_CUDA_GRAPH_NATIVE_API) notes.native_cuda_graph = true;
  }
  return notes;
}

std::string name_of(const Descriptor& config, const Descriptor& engine) {
  const auto index = engine.values<std::int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64);
  std::string name = "eng" + std::to_string(index.empty() ? -1 : index.front());
  for (const Descriptor& knob :
       config.children(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, kMaxKnobs)) {
    const auto type =
        knob.values<cudnnBackendKnobType_t>(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE);
    const auto value = knob.values<std::int64_t>(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64);
    if (type.empty() || value.empty()) continue;
    name += "_k" + std::to_string(type.front()) + "=" + std::to_string(value.front());
  }
  return name;
}

}  // namespace

const CudnnApi& cudnn() {
  static const CudnnApi api = [] {
    const SharedLibrary library(cudnn_name());
    CudnnApi made;
    library.load(made.version, "cudnnGetVersion");
    library.load(made.error_string, "cudnnGetErrorString");
    library.load(made.last_error_string, "cudnnGetLastErrorString");
    library.load(made.create_handle, "cudnnCreate");
    library.load(made.set_stream, "cudnnSetStream");
    library.load(made.create, "cudnnBackendCreateDescriptor");
    library.load(made.destroy, "cudnnBackendDestroyDescriptor");
    library.load(made.set, "cudnnBackendSetAttribute");
    library.load(made.get, "cudnnBackendGetAttribute");
    library.load(made.finalize, "cudnnBackendFinalize");
    library.load(made.execute, "cudnnBackendExecute");
    made.path = library.path();
    return made;
  }();
  return api;
}

void require(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  std::array<char, 1024> detail{};
  cudnn().last_error_string(detail.data(), detail.size());
  detail.back() = '\0';
  throw Error(ErrorKind::kDevice,
              std::string("cuDNN: ") + what + " failed: " + cudnn().error_string(status) +
                  (detail.front() == '\0' ? "" : std::string(" (") + detail.data() + ")"),
              "'cohort doctor' lists the libraries found and their versions");
}

Descriptor::Descriptor(cudnnBackendDescriptorType_t type) {
  require(cudnn().create(type, &handle_), "making a descriptor");
}

Descriptor::~Descriptor() {
  if (handle_ != nullptr) cudnn().destroy(handle_);
}

Descriptor::Descriptor(Descriptor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(handle_, other.handle_);
  return *this;
}

void Descriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count,
                     const void* values, const char* what) {
  require(cudnn().set(handle_, name, type, count, values), what);
}

bool Descriptor::try_finalize(const char* what) {
  const cudnnStatus_t status = cudnn().finalize(handle_);
  const int category = CUDNN_STATUS_CATEGORY(static_cast<int>(status));
  // cuDNN reports what it cannot do as "not supported", and some shapes as a bad parameter.
  if (category == CUDNN_STATUS_NOT_SUPPORTED || category == 2000) return false;
  require(status, what);
  return true;
}

std::vector<Descriptor> Descriptor::children(cudnnBackendAttributeName_t name,
                                             cudnnBackendDescriptorType_t type, std::int64_t limit) const {
  // The number cannot be asked for without descriptors to fill (it is 0 then, for knobs).
  std::vector<Descriptor> made;
  std::vector<cudnnBackendDescriptor_t> handles;
  for (std::int64_t i = 0; i < limit; ++i) {
    made.emplace_back(type);
    handles.push_back(made.back().get());
  }
  std::int64_t count = 0;
  const cudnnStatus_t status =
      cudnn().get(handle_, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, limit, &count, handles.data());
  if (status != CUDNN_STATUS_SUCCESS) count = 0;
  while (static_cast<std::int64_t>(made.size()) > std::min(count, limit)) made.pop_back();
  return made;
}

Descriptor described_device(const std::string& json) {
  Descriptor device(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  device.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
             static_cast<std::int64_t>(json.size()), json.data(), "reading a device's description");
  device.finalize("describing a device");
  return device;
}

bool acceptable(const EngineNotes& notes, const ConvolutionKey& key) {
  if (notes.nondeterministic || notes.converts_down || notes.transforms) return false;
  return key.dtype == DType::bf16 || key.tf32 || !notes.tensor_core;
}

std::optional<ConvolutionGraph> ConvolutionGraph::make(const ConvolutionKey& key, const PlanTarget& target) {
  const Conv2dShape& s = key.shape;
  const bool mixed = key.result != key.dtype;
  if (mixed && key.accumulate) return std::nullopt;
  const std::array<Extents, 3> extents = {
      {{s.n, s.c, s.h, s.w}, {s.k, s.c / s.groups, s.kh, s.kw}, {s.n, s.k, s.out_h(), s.out_w()}}};
  const std::array<std::int64_t, 3> ids = {kX, kWeight, kY};
  const std::size_t result = key.pass == Conv2dPass::kForward        ? 2
                             : key.pass == Conv2dPass::kBackwardData ? 0
                                                                     : 1;
  std::vector<Descriptor> parts;
  for (std::size_t i = 0; i < 3; ++i) {
    const bool sums = mixed && i == result;
    parts.push_back(tensor(sums ? kSums : ids[i], extents[i], sums ? DType::f32 : key.dtype, sums));
  }
  parts.push_back(convolution_descriptor(s));

  const PassAttributes names = attributes_of(key.pass);
  Descriptor operation(names.operation);
  const float alpha = 1.0F;
  const float beta = key.accumulate ? 1.0F : 0.0F;
  operation.set_descriptor(names.x, parts[0], "a convolution's x");
  operation.set_descriptor(names.weight, parts[1], "a convolution's weight");
  operation.set_descriptor(names.y, parts[2], "a convolution's y");
  operation.set_descriptor(names.convolution, parts[3], "a convolution's parameters");
  operation.set(names.alpha, CUDNN_TYPE_FLOAT, 1, &alpha, "a convolution's alpha");
  operation.set(names.beta, CUDNN_TYPE_FLOAT, 1, &beta, "a convolution's beta");
  if (!operation.try_finalize("describing a convolution pass")) return std::nullopt;
  parts.push_back(std::move(operation));

  std::vector<cudnnBackendDescriptor_t> operations = {parts.back().get()};
  if (mixed) {
    parts.push_back(tensor(ids[result], extents[result], key.result));
    parts.push_back(identity_descriptor());
    parts.push_back(pointwise(parts[parts.size() - 1], parts[result], parts[parts.size() - 2]));
    operations.push_back(parts.back().get());
  }
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
            static_cast<std::int64_t>(operations.size()), operations.data(), "a graph's operations");
  if (target.handle != nullptr) {
    graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &target.handle, "a graph's handle");
  }
  if (!graph.try_finalize("finishing a graph")) return std::nullopt;
  return ConvolutionGraph(key, std::move(graph), std::move(parts));
}

std::vector<EngineConfig> ConvolutionGraph::propose(cudnnBackendHeurMode_t mode,
                                                    const PlanTarget& target) const {
  Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set_descriptor(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph_, "asking heuristics");
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode, "asking heuristics");
  if (target.device != nullptr) {
    heuristics.set_descriptor(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *target.device, "asking heuristics");
  }
  std::vector<EngineConfig> configs;
  if (!heuristics.try_finalize("asking heuristics")) return configs;
  for (Descriptor& config :
       heuristics.children(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, kMaxConfigs)) {
    std::vector<Descriptor> engine =
        config.children(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1);
    if (engine.empty()) continue;
    std::string name = name_of(config, engine.front());
    configs.push_back({std::move(config), std::move(name), notes_of(engine.front())});
  }
  return configs;
}

std::vector<EngineConfig> ConvolutionGraph::candidates(const PlanTarget& target,
                                                       std::size_t limit_per_mode) const {
  std::vector<EngineConfig> accepted;
  std::set<std::string> seen;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B, CUDNN_HEUR_MODE_FALLBACK}) {
    std::size_t taken = 0;
    for (EngineConfig& config : propose(mode, target)) {
      if (taken == limit_per_mode) break;
      if (acceptable(config.notes, key_) && seen.insert(config.name).second) {
        accepted.push_back(std::move(config));
        ++taken;
      }
    }
  }
  return accepted;
}

std::optional<ExecutionPlan> ExecutionPlan::make(EngineConfig config, const PlanTarget& target) {
  Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set_descriptor(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config.descriptor, "planning");
  if (target.handle != nullptr) {
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &target.handle, "planning");
  }
  if (target.device != nullptr) {
    plan.set_descriptor(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *target.device, "planning");
  }
  // Whatever the reason (an engine that cannot compile its kernel for this driver, say): there are others.
  if (cudnn().finalize(plan.get()) != CUDNN_STATUS_SUCCESS) return std::nullopt;
  ExecutionPlan made(std::move(config), std::move(plan));
  const auto bytes =
      made.plan_.values<std::int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64);
  if (!bytes.empty()) made.workspace_bytes_ = static_cast<std::size_t>(bytes.front());
  return made;
}

void ExecutionPlan::execute(cudnnHandle_t handle, const void* x, const void* weight, const void* y,
                            void* workspace) const {
  const std::array<std::int64_t, 3> ids = {ConvolutionGraph::kX, ConvolutionGraph::kWeight,
                                           ConvolutionGraph::kY};
  const std::array<const void*, 3> pointers = {x, weight, y};
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 3, ids.data(), "passing operands");
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 3, pointers.data(),
           "passing operands");
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace, "passing a workspace");
  pack.finalize("passing operands");
  require(cudnn().execute(handle, plan_.get(), pack.get()), "running a convolution");
}

}  // namespace cohort::kernels::cuda
