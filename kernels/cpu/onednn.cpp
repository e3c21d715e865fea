#include "kernels/cpu/onednn.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "kernels/base/error.h"

namespace cohort::kernels::onednn {
namespace {

void require(dnnl_status_t status, const char* what) {
  if (status == dnnl_success) return;
  if (status == dnnl_out_of_memory) throw Error(ErrorKind::kMemory, std::string("out of memory: ") + what);
  internal_error(std::string("oneDNN: ") + what + " failed with status " + std::to_string(status));
}

// A primitive remembers the number of threads it was made for, and libgomp's default is all cores: pinned
// here too, for callers without a pool.
void pin_to_one_thread() {
  if (omp_get_max_threads() != 1) omp_set_num_threads(1);
}

// Never destroyed: memory objects of threads that outlive main() refer to it.
dnnl_engine_t engine() {
  static const dnnl_engine_t instance = [] {
    dnnl_engine_t made = nullptr;
    require(dnnl_engine_create(&made, dnnl_cpu, 0), "creating the CPU engine");
    return made;
  }();
  return instance;
}

dnnl_stream_t this_thread_stream() {
  struct Stream {
    dnnl_stream_t handle = nullptr;
    Stream() {
      require(dnnl_stream_create(&handle, engine(), dnnl_stream_default_flags), "creating a stream");
    }
    ~Stream() { dnnl_stream_destroy(handle); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
  };
  thread_local Stream stream;
  return stream.handle;
}

dnnl_data_type_t data_type(DType dtype) {
  return dtype == DType::bf16 ? dnnl_bf16 : dnnl_f32;
}

// A primitive, the layouts of its arguments in the order of `names`, and a process-wide number under which
// each thread keeps its own memory objects for it (an execution only sets their pointers).
struct Primitive {
  static constexpr int kMaxArguments = 6;
  dnnl_primitive_t handle = nullptr;
  int count = 0;
  std::array<int, kMaxArguments> names{};
  std::array<dnnl_memory_desc_t, kMaxArguments> layouts{};
  std::size_t id = 0;

  void add(int name, const dnnl_memory_desc_t& layout) {
    names[count] = name;
    layouts[count++] = layout;
  }
};

struct ThreadMemories {
  std::array<dnnl_exec_arg_t, Primitive::kMaxArguments> arguments{};
  int count = 0;

  explicit ThreadMemories(const Primitive& primitive) {
    for (int i = 0; i < primitive.count; ++i) {
      dnnl_memory_t memory = nullptr;
      require(dnnl_memory_create(&memory, &primitive.layouts[i], engine(), DNNL_MEMORY_NONE),
              "creating memory");
      arguments[i] = {primitive.names[i], memory};
      ++count;
    }
  }
  ~ThreadMemories() {
    for (int i = 0; i < count; ++i) dnnl_memory_destroy(arguments[i].memory);
  }
  ThreadMemories(const ThreadMemories&) = delete;
  ThreadMemories& operator=(const ThreadMemories&) = delete;
};

ThreadMemories& this_thread_memories(const Primitive& primitive) {
  thread_local std::vector<std::unique_ptr<ThreadMemories>> all;
  if (all.size() <= primitive.id) all.resize(primitive.id + 1);
  if (!all[primitive.id]) all[primitive.id] = std::make_unique<ThreadMemories>(primitive);
  return *all[primitive.id];
}

// oneDNN takes inputs as void* too; it does not write them. (Setting the pointer of a weight whose channels
// are padded writes the zeros of its padding again: the same zeros, from every thread.)
void run(const Primitive& primitive, const std::array<const void*, Primitive::kMaxArguments>& pointers) {
  pin_to_one_thread();
  const ThreadMemories& memories = this_thread_memories(primitive);
  const dnnl_stream_t stream = this_thread_stream();
  for (int i = 0; i < memories.count; ++i) {
    require(
        dnnl_memory_set_data_handle_v2(memories.arguments[i].memory, const_cast<void*>(pointers[i]), stream),
        "setting a pointer");
  }
  require(dnnl_primitive_execute(primitive.handle, stream, memories.count, memories.arguments.data()),
          "executing");
}

std::size_t next_id() {
  static std::size_t count = 0;  // under the cache's lock
  return count++;
}

dnnl_memory_desc_t nhwc(std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c, DType dtype) {
  dnnl_memory_desc_t desc;
  const dnnl_dims_t dims = {n, c, h, w};
  require(dnnl_memory_desc_init_by_tag(&desc, 4, dims, data_type(dtype), dnnl_nhwc),
          "describing an activation");
  return desc;
}

// (K, C/groups, kh, kw), with a leading dimension for the groups when there are several. `strides` null: any
// layout.
dnnl_memory_desc_t weight_layout(const Conv2dShape& s, DType dtype, bool any) {
  const std::int64_t c = s.c / s.groups;
  const std::int64_t k = s.k / s.groups;
  const std::int64_t row = s.kw * c;
  const std::int64_t filter = s.kh * row;
  const dnnl_dims_t grouped = {s.groups, k, c, s.kh, s.kw};
  const dnnl_dims_t grouped_strides = {k * filter, filter, 1, row, c};
  const int skip = s.groups == 1 ? 1 : 0;
  dnnl_memory_desc_t desc;
  require(any ? dnnl_memory_desc_init_by_tag(&desc, 5 - skip, grouped + skip, data_type(dtype),
                                             dnnl_format_tag_any)
              : dnnl_memory_desc_init_by_strides(&desc, 5 - skip, grouped + skip, data_type(dtype),
                                                 grouped_strides + skip),
          "describing a weight");
  return desc;
}

class PrimitiveDesc {
 public:
  PrimitiveDesc() = default;
  ~PrimitiveDesc() {
    if (handle_ != nullptr) dnnl_primitive_desc_destroy(handle_);
  }
  PrimitiveDesc(const PrimitiveDesc&) = delete;
  PrimitiveDesc& operator=(const PrimitiveDesc&) = delete;

  bool create(const dnnl_convolution_desc_t& desc, dnnl_primitive_desc_t hint = nullptr) {
    dnnl_primitive_attr_t attributes = nullptr;
    require(dnnl_primitive_attr_create(&attributes), "creating attributes");
    require(dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user),
            "setting attributes");
    const dnnl_status_t status = dnnl_primitive_desc_create(&handle_, &desc, attributes, engine(), hint);
    dnnl_primitive_attr_destroy(attributes);
    return status == dnnl_success;
  }
  void create_reorder(const dnnl_memory_desc_t& from, const dnnl_memory_desc_t& to) {
    require(dnnl_reorder_primitive_desc_create(&handle_, &from, engine(), &to, engine(), nullptr),
            "describing a weight conversion");
  }

  dnnl_primitive_desc_t get() const { return handle_; }
  const dnnl_memory_desc_t& layout(dnnl_query_t what) const {
    return *dnnl_primitive_desc_query_md(handle_, what, 0);
  }
  std::string implementation() const {
    const char* name = nullptr;
    require(dnnl_primitive_desc_query(handle_, dnnl_query_impl_info_str, 0, static_cast<void*>(&name)),
            "asking");
    return name;
  }
  dnnl_primitive_t primitive() const {
    dnnl_primitive_t made = nullptr;
    require(dnnl_primitive_create(&made, handle_), "creating a primitive");
    return made;
  }

 private:
  dnnl_primitive_desc_t handle_ = nullptr;
};

// What oneDNN is asked for, for one key.
struct ConvolutionDescs {
  dnnl_memory_desc_t x, y, weight, bias;
  dnnl_dims_t strides, dilates, padding;

  explicit ConvolutionDescs(const ConvolutionKey& key) {
    const Conv2dShape& s = key.shape;
    const bool backward_data = key.pass == Conv2dPass::kBackwardData;
    x = nhwc(s.n, s.h, s.w, s.c, backward_data ? key.result : key.dtype);
    y = nhwc(s.n, s.out_h(), s.out_w(), s.k, key.pass == Conv2dPass::kForward ? key.result : key.dtype);
    weight = weight_layout(s, key.pass == Conv2dPass::kBackwardWeights ? key.result : key.dtype, true);
    const dnnl_dims_t k = {s.k};
    require(dnnl_memory_desc_init_by_tag(&bias, 1, k, dnnl_f32, dnnl_a), "describing a bias");
    strides[0] = strides[1] = s.stride;
    dilates[0] = dilates[1] = s.dilation - 1;
    padding[0] = padding[1] = s.padding;
  }

  bool forward(const ConvolutionKey& key, PrimitiveDesc& made) const {
    dnnl_convolution_desc_t desc;
    return dnnl_dilated_convolution_forward_desc_init(&desc, dnnl_forward_training, dnnl_convolution_direct,
                                                      &x, &weight, key.bias ? &bias : nullptr, &y, strides,
                                                      dilates, padding, padding) == dnnl_success &&
           made.create(desc);
  }

  bool backward(const ConvolutionKey& key, PrimitiveDesc& made) const {
    dnnl_convolution_desc_t desc;
    const dnnl_status_t status =
        key.pass == Conv2dPass::kBackwardData
            ? dnnl_dilated_convolution_backward_data_desc_init(&desc, dnnl_convolution_direct, &x, &weight,
                                                               &y, strides, dilates, padding, padding)
            : dnnl_dilated_convolution_backward_weights_desc_init(&desc, dnnl_convolution_direct, &x, &weight,
                                                                  nullptr, &y, strides, dilates, padding,
                                                                  padding);
    // The hint is the forward pass of the same operands, whatever dtype the result of this pass has.
    ConvolutionKey hint_key = key;
    hint_key.pass = Conv2dPass::kForward;
    hint_key.result = key.dtype;
    hint_key.bias = false;
    PrimitiveDesc hint;
    return status == dnnl_success && ConvolutionDescs(hint_key).forward(hint_key, hint) &&
           made.create(desc, hint.get());
  }
};

class CachedConvolution final : public Convolution {
 public:
  CachedConvolution(const ConvolutionKey& key, const PrimitiveDesc& desc) : pass_(key.pass) {
    implementation_ = "onednn:" + desc.implementation();
    main_.handle = desc.primitive();
    main_.id = next_id();
    const bool weights = pass_ == Conv2dPass::kBackwardWeights;
    const dnnl_memory_desc_t& weight =
        desc.layout(weights ? dnnl_query_diff_weights_md : dnnl_query_weights_md);
    switch (pass_) {
      case Conv2dPass::kForward:
        main_.add(DNNL_ARG_SRC, desc.layout(dnnl_query_src_md));
        main_.add(DNNL_ARG_WEIGHTS, weight);
        main_.add(DNNL_ARG_DST, desc.layout(dnnl_query_dst_md));
        break;
      case Conv2dPass::kBackwardData:
        main_.add(DNNL_ARG_DIFF_DST, desc.layout(dnnl_query_diff_dst_md));
        main_.add(DNNL_ARG_WEIGHTS, weight);
        main_.add(DNNL_ARG_DIFF_SRC, desc.layout(dnnl_query_diff_src_md));
        break;
      case Conv2dPass::kBackwardWeights:
        main_.add(DNNL_ARG_SRC, desc.layout(dnnl_query_src_md));
        main_.add(DNNL_ARG_DIFF_DST, desc.layout(dnnl_query_diff_dst_md));
        main_.add(DNNL_ARG_DIFF_WEIGHTS, weight);
        break;
    }
    const dnnl_memory_desc_t& scratch = desc.layout(dnnl_query_scratchpad_md);
    main_.add(DNNL_ARG_SCRATCHPAD, scratch);
    if (key.bias) main_.add(DNNL_ARG_BIAS, ConvolutionDescs(key).bias);
    scratch_bytes_ = dnnl_memory_desc_get_size(&scratch);
    weight_bytes_ = dnnl_memory_desc_get_size(&weight);

    const dnnl_memory_desc_t dense = weight_layout(key.shape, weights ? key.result : key.dtype, false);
    PrimitiveDesc reorder;
    reorder.create_reorder(weights ? weight : dense, weights ? dense : weight);
    convert_.handle = reorder.primitive();
    convert_.id = next_id();
    convert_.add(DNNL_ARG_FROM, weights ? weight : dense);
    convert_.add(DNNL_ARG_TO, weights ? dense : weight);
  }

  void execute(const Pointers& p) const override {
    // Some of the kernels multiply unused lanes of their scratch by zero: NaN left there would reach the
    // result.
    if (scratch_bytes_ != 0) std::memset(p.scratch, 0, scratch_bytes_);
    switch (pass_) {
      case Conv2dPass::kForward:
        run(main_, {p.x, p.weight, p.result, p.scratch, p.bias});
        break;
      case Conv2dPass::kBackwardData:
        run(main_, {p.grad_y, p.weight, p.result, p.scratch});
        break;
      case Conv2dPass::kBackwardWeights:
        run(main_, {p.x, p.grad_y, p.result, p.scratch});
        break;
    }
  }
  void pack_weight(const void* weight, void* packed) const override { run(convert_, {weight, packed}); }
  void unpack_grad_weight(const void* packed, void* grad_weight) const override {
    run(convert_, {packed, grad_weight});
  }

 private:
  Conv2dPass pass_;
  Primitive main_;
  Primitive convert_;
};

std::unique_ptr<Convolution> create(const ConvolutionKey& key) {
  pin_to_one_thread();
  // jit_bf16 of 2.6.3 reads past the end of an image narrower than the stride (seen as NaN x 0).
  const bool reads_outside =
      key.dtype == DType::bf16 && key.pass == Conv2dPass::kBackwardWeights && key.shape.w < key.shape.stride;
  if (reads_outside) return nullptr;
  const ConvolutionDescs wanted(key);
  PrimitiveDesc desc;
  const bool made = key.pass == Conv2dPass::kForward ? wanted.forward(key, desc) : wanted.backward(key, desc);
  // The reference code of oneDNN is slower than our plain loops.
  if (!made || desc.implementation().find("ref") != std::string::npos) return nullptr;
  return std::make_unique<CachedConvolution>(key, desc);
}

}  // namespace

const Convolution* convolution(const ConvolutionKey& key) {
  static std::mutex mutex;
  static auto* const cache = new std::map<ConvolutionKey, std::unique_ptr<Convolution>>();
  const std::lock_guard lock(mutex);
  const auto found = cache->find(key);
  if (found != cache->end()) return found->second.get();
  return cache->emplace(key, create(key)).first->second.get();
}

void sgemm(const SgemmArgs& args) {
  pin_to_one_thread();
  require(dnnl_sgemm(args.transpose_a ? 'T' : 'N', args.transpose_b ? 'T' : 'N', args.m, args.n, args.k, 1.0F,
                     args.a, args.lda, args.b, args.ldb, args.beta, args.c, args.ldc),
          "multiplying matrices");
}

std::string version() {
  const dnnl_version_t* v = dnnl_version();
  return std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
}

}  // namespace cohort::kernels::onednn
