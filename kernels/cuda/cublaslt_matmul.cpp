// The matmul engine of the product: cuBLASLt, opened on first use.
//
// Row-major C = op(A) op(B) is column-major C^T = op(B)^T op(A)^T: the operands change places, and a bias
// along C's columns runs along C^T's rows, where the library's bias epilogue adds it. The first suggestion of
// the heuristics is taken, without timing (these products are small). Split sums are allowed only with
// partial results in the workspace, added in a separate step; every branch lends a workspace of its own, so
// that nothing depends on what runs beside it.
#include <cublasLt.h>

#include <map>
#include <mutex>
#include <tuple>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/matmul_engine.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/shared_library.h"

namespace cohort::kernels::cuda {
namespace {

constexpr std::size_t kWorkspace = std::size_t{4} << 20;

struct Api {
  decltype(&cublasLtCreate) create_handle = nullptr;
  decltype(&cublasLtGetStatusString) status_string = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulDescCreate) create_desc = nullptr;
  decltype(&cublasLtMatmulDescDestroy) destroy_desc = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_desc = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) create_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
};

const Api& api() {
  static const Api loaded = [] {
    const SharedLibrary library(cublaslt_name());
    Api made;
    library.load(made.create_handle, "cublasLtCreate");
    library.load(made.status_string, "cublasLtGetStatusString");
    library.load(made.matmul, "cublasLtMatmul");
    library.load(made.heuristic, "cublasLtMatmulAlgoGetHeuristic");
    library.load(made.create_desc, "cublasLtMatmulDescCreate");
    library.load(made.destroy_desc, "cublasLtMatmulDescDestroy");
    library.load(made.set_desc, "cublasLtMatmulDescSetAttribute");
    library.load(made.create_layout, "cublasLtMatrixLayoutCreate");
    library.load(made.destroy_layout, "cublasLtMatrixLayoutDestroy");
    library.load(made.create_preference, "cublasLtMatmulPreferenceCreate");
    library.load(made.destroy_preference, "cublasLtMatmulPreferenceDestroy");
    library.load(made.set_preference, "cublasLtMatmulPreferenceSetAttribute");
    return made;
  }();
  return loaded;
}

void require(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(ErrorKind::kDevice,
              std::string("cuBLASLt: ") + what + " failed: " + api().status_string(status),
              "'cohort doctor' lists the libraries found and their versions");
}

// A description that the library made, and its way back.
template <class Handle>
class Owned {
 public:
  explicit Owned(cublasStatus_t (*destroy)(Handle)) : destroy_(destroy) {}
  ~Owned() {
    if (handle_ != nullptr) destroy_(handle_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Handle* out() { return &handle_; }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
  cublasStatus_t (*destroy_)(Handle);
};

cudaDataType data_type(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f64:
      return CUDA_R_64F;
    default:
      return CUDA_R_32F;
  }
}

cublasComputeType_t compute_type(const MatmulKey& key) {
  if (key.dtype == DType::f64) return CUBLAS_COMPUTE_64F;
  if (key.dtype == DType::bf16) return CUBLAS_COMPUTE_32F;
  return key.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

// Descriptions of the operands and the algorithm for one key. The names are the library's: its A is our B.
struct Plan {
  Owned<cublasLtMatmulDesc_t> operation{api().destroy_desc};
  Owned<cublasLtMatrixLayout_t> a{api().destroy_layout};
  Owned<cublasLtMatrixLayout_t> b{api().destroy_layout};
  Owned<cublasLtMatrixLayout_t> c{api().destroy_layout};
  cublasLtMatmulAlgo_t algorithm{};

  Plan(cublasLtHandle_t handle, const MatmulKey& key) {
    const MatmulShape& s = key.shape;
    const cudaDataType operand = data_type(key.dtype);
    require(api().create_desc(operation.out(), compute_type(key),
                              key.dtype == DType::f64 ? CUDA_R_64F : CUDA_R_32F),
            "describing a product");
    set(CUBLASLT_MATMUL_DESC_TRANSA, s.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, s.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (key.bias) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(key.result));
    }
    // As stored, seen column by column.
    layout(a, operand, s.transpose_b ? s.k : s.n, s.transpose_b ? s.n : s.k);
    layout(b, operand, s.transpose_a ? s.m : s.k, s.transpose_a ? s.k : s.m);
    layout(c, data_type(key.result), s.n, s.m);
    choose(handle, key);
  }

  template <class T>
  void set(cublasLtMatmulDescAttributes_t name, T value) {
    require(api().set_desc(operation.get(), name, &value, sizeof value), "describing a product");
  }

 private:
  static void layout(Owned<cublasLtMatrixLayout_t>& made, cudaDataType type, std::int64_t rows,
                     std::int64_t columns) {
    require(api().create_layout(made.out(), type, static_cast<std::uint64_t>(rows),
                                static_cast<std::uint64_t>(columns), rows),
            "describing a matrix");
  }

  void choose(cublasLtHandle_t handle, const MatmulKey& key) {
    Owned<cublasLtMatmulPreference_t> preference{api().destroy_preference};
    require(api().create_preference(preference.out()), "choosing an algorithm");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t name, auto value) {
      require(api().set_preference(preference.get(), name, &value, sizeof value), "choosing an algorithm");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    for (const auto name :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      prefer(name, static_cast<std::uint32_t>(key.alignment));
    }
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    require(api().heuristic(handle, operation.get(), a.get(), b.get(), c.get(), c.get(), preference.get(), 1,
                            &result, &found),
            "choosing an algorithm");
    if (found == 0) require(CUBLAS_STATUS_NOT_SUPPORTED, "choosing an algorithm");
    require(result.state, "choosing an algorithm");
    algorithm = result.algo;
  }
};

// Plans hold a bias pointer while they run, so every branch has its own.
class Engine {
 public:
  static Engine& instance() {
    static Engine* const engine = new Engine;  // CUDA may be gone when static objects are destroyed
    return *engine;
  }

  void multiply(CudaStream stream, const MatmulKey& key, const MatmulPointers& p) {
    const std::lock_guard lock(mutex_);
    Plan& plan = plan_of(stream, key);
    if (key.bias) plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    const double one = 1, zero = 0;
    const float one_f = 1, zero_f = 0;
    const bool f64 = key.dtype == DType::f64;
    const void* const alpha = f64 ? static_cast<const void*>(&one) : &one_f;
    const void* const beta = f64 ? static_cast<const void*>(key.accumulate ? &one : &zero)
                                 : static_cast<const void*>(key.accumulate ? &one_f : &zero_f);
    require(api().matmul(handle_, plan.operation.get(), alpha, p.b, plan.a.get(), p.a, plan.b.get(), beta,
                         p.c, plan.c.get(), p.c, plan.c.get(), &plan.algorithm, p.workspace, kWorkspace,
                         native(stream)),
            "multiplying");
  }

 private:
  using Id = std::tuple<int, std::int64_t, std::int64_t, std::int64_t, bool, bool, DType, DType, bool, bool,
                        bool, int>;

  Engine() { require(api().create_handle(&handle_), "starting"); }

  Plan& plan_of(CudaStream stream, const MatmulKey& k) {
    const Id id{
        stream.branch, k.shape.m, k.shape.n,    k.shape.k, k.shape.transpose_a, k.shape.transpose_b, k.dtype,
        k.result,      k.bias,    k.accumulate, k.tf32,    k.alignment};
    const auto at = plans_.find(id);
    if (at != plans_.end()) return at->second;
    check(!is_capturing(stream), "matmul: a first use inside a captured step");
    return plans_.try_emplace(id, handle_, k).first->second;
  }

  std::mutex mutex_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Id, Plan> plans_;
};

}  // namespace

std::size_t matmul_engine_workspace() {
  return kWorkspace;
}

void multiply(CudaStream stream, const MatmulKey& key, const MatmulPointers& pointers) {
  if (stream.rehearsal != nullptr) return stream.rehearsal->node(Rehearsal::Node::kVendor);
  Engine::instance().multiply(stream, key, pointers);
}

}  // namespace cohort::kernels::cuda
