#include "simt/conformance.h"

#include "kernels/base/philox.h"
#include "kernels/cuda/grid_barrier.cuh"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vec.cuh"
#include "simt/support/memory.h"

namespace simt::test {
namespace {

using cohort::Accumulator;
using namespace cohort::kernels;
using Word = std::uint64_t;

// Appends results of any type to a thread's words.
struct Out {
  Word* next;

  template <class T>
  __device__ void operator()(T value) {
    if constexpr (sizeof(T) == 8) {
      *next++ = __builtin_bit_cast(Word, value);
    } else {
      static_assert(sizeof(T) == 4);
      *next++ = __builtin_bit_cast(std::uint32_t, value);
    }
  }
};

__device__ Word input(int t) {
  Word z = (static_cast<Word>(t) + 1) * 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  return z ^ (z >> 27);
}

template <class T>
__device__ T input_as(int t) {
  if constexpr (sizeof(T) == 8) return __builtin_bit_cast(T, input(t));
  if constexpr (sizeof(T) == 4) return __builtin_bit_cast(T, static_cast<std::uint32_t>(input(t)));
}

template <class Case>
__global__ void conform(Word* out, unsigned* scratch) {
  Case::run(thread_in_block(), Out{out + thread_in_block() * Case::kWords}, scratch);
}

// --- shuffles ---

template <class T>
struct Shuffles {
  static constexpr int kWords = 4 * 6 * 8;
  __device__ static void run(int t, Out out, unsigned*) {
    const T value = input_as<T>(t);
    const int operands[8] = {0, 1, 2, 5, 8, 15, 16, 31};
    for (int width = 32; width >= 1; width /= 2) {
      for (int i = 0; i < 8; ++i) {
        out(__shfl_sync(kFullMask, value, i == 7 ? 33 : operands[i], width));
        out(__shfl_up_sync(kFullMask, value, static_cast<unsigned>(operands[i]), width));
        out(__shfl_down_sync(kFullMask, value, static_cast<unsigned>(operands[i]), width));
        out(__shfl_xor_sync(kFullMask, value, operands[i], width));
      }
    }
  }
};

struct PartialMasks {
  static constexpr int kWords = 6;
  __device__ static void run(int t, Out out, unsigned*) {
    const int lane = t % 32;
    const unsigned value = static_cast<unsigned>(input(t));
    if (lane < 16) {
      out(__shfl_xor_sync(0x0000ffffU, value, 3));
      out(__ballot_sync(0x0000ffffU, lane % 3 == 0));
      out(__reduce_add_sync(0x0000ffffU, value));
    } else {
      out(__shfl_up_sync(0xffff0000U, value, 2U, 16));
      out(__ballot_sync(0xffff0000U, lane % 5 == 0));
      out(__reduce_max_sync(0xffff0000U, value));
    }
    __syncwarp();
    const unsigned odd = lane % 2 != 0 ? 0xaaaaaaaaU : 0x55555555U;
    __syncwarp(odd);
    out(__shfl_xor_sync(odd, value, 2));
    out(__any_sync(odd, lane == 7));
    out(__all_sync(odd, lane % 2 == 0));
  }
};

struct Votes {
  static constexpr int kWords = 9 + 7;
  __device__ static void run(int t, Out out, unsigned*) {
    const int lane = t % 32;
    const bool predicates[3] = {lane % 3 == 0, true, false};
    for (const bool p : predicates) {
      out(__ballot_sync(kFullMask, p));
      out(__any_sync(kFullMask, p));
      out(__all_sync(kFullMask, p));
    }
    const unsigned u = static_cast<unsigned>(input(t));
    const int s = static_cast<int>(u);
    out(__reduce_add_sync(kFullMask, u));
    out(__reduce_add_sync(kFullMask, s));
    out(__reduce_min_sync(kFullMask, u));
    out(__reduce_min_sync(kFullMask, s));
    out(__reduce_max_sync(kFullMask, s));
    out(__reduce_and_sync(kFullMask, u | 0xff00U));
    out(__reduce_or_sync(kFullMask, u & 0xff00ffU) ^ __reduce_xor_sync(kFullMask, u));
  }
};

struct BlockVotes {
  static constexpr int kWords = 6;
  __device__ static void run(int t, Out out, unsigned*) {
    out(__syncthreads_count(t % 3 == 0 ? 5 : 0));
    out(__syncthreads_and(t != 40));
    out(__syncthreads_and(t + 1));
    out(__syncthreads_or(t == 63));
    out(__syncthreads_or(t == 64));
    __syncthreads();
    out(__syncthreads_count(0));
  }
};

// --- atomics ---

template <class T>
__device__ void compare_atomics(Out& out, T* word, T low, T high) {
  out(atomicMin(word, low));
  out(atomicMin(word, high));
  out(atomicMax(word, high));
  out(atomicMax(word, low));
  out(*word);
}

struct Atomics {
  static constexpr int kWords = 64;
  __device__ static void run(int t, Out out, unsigned* scratch) {
    if (t != 0) return;
    auto* const i = reinterpret_cast<int*>(scratch);
    auto* const u = scratch + 1;
    auto* const ull = reinterpret_cast<unsigned long long*>(scratch + 2);
    auto* const ll = reinterpret_cast<long long*>(scratch + 4);
    auto* const f = reinterpret_cast<float*>(scratch + 6);
    auto* const d = reinterpret_cast<double*>(scratch + 8);
    out(atomicAdd(i, 7)), out(atomicAdd(i, 0x7fffffff)), out(atomicSub(i, 3)), out(atomicExch(i, -5)),
        out(*i);
    out(atomicAdd(u, 7U)), out(atomicSub(u, 9U)), out(atomicExch(u, 4U)), out(*u);
    out(atomicAdd(ull, 7ULL)), out(atomicExch(ull, 1ULL << 40)), out(*ull);
    out(atomicAdd(f, 1.5F)), out(atomicAdd(f, 0.25F)), out(atomicExch(f, 3.0F)), out(*f);
    out(atomicAdd(d, 1.5)), out(atomicAdd(d, 0.25)), out(*d);
    compare_atomics(out, i, -9, 12);
    compare_atomics(out, u, 2U, 0x80000000U);
    compare_atomics(out, ll, -(1LL << 40), 1LL << 41);
    compare_atomics(out, ull, 3ULL, 1ULL << 63);
    out(atomicAnd(u, 0xf0f0f0f0U)), out(atomicOr(u, 0x0fU)), out(atomicXor(u, 0xffU)), out(*u);
    out(atomicAnd(i, 0xff)), out(atomicOr(i, 0x700)), out(atomicXor(i, -1)), out(*i);
    out(atomicCAS(u, 5U, 6U)), out(atomicCAS(u, *u, 6U)), out(*u);
    out(atomicCAS(ull, 1ULL << 63, 77ULL)), out(*ull);
    out(atomicInc(u, 7U)), out(atomicInc(u, 7U)), out(*u);
    out(atomicDec(u, 3U)), out(atomicDec(u, 3U)), out(*u);
  }
};

struct AtomicTotals {
  static constexpr int kWords = 4;
  __device__ static void run(int t, Out out, unsigned* scratch) {
    auto* const largest = reinterpret_cast<unsigned long long*>(scratch + 2);
    atomicAdd(&scratch[0], static_cast<unsigned>(t));
    const unsigned ticket = atomicInc(&scratch[1], 1000U);
    atomicMax(largest, static_cast<unsigned long long>(input(t)));
    atomicOr(&scratch[4 + ticket / 32], 1U << (ticket % 32));
    __syncthreads();
    out(atomicAdd(&scratch[0], 0U));
    out(atomicMax(largest, 0ULL));
    out(atomicOr(&scratch[4], 0U));
    out(atomicOr(&scratch[5], 0U));
  }
};

// --- arithmetic ---

struct BitCounts {
  static constexpr int kWords = 12;
  __device__ static void run(int t, Out out, unsigned*) {
    const Word w = t == 0 ? 0 : input(t) >> (t % 50);
    const auto u = static_cast<unsigned>(w);
    out(__popc(u)), out(__popcll(w)), out(__clz(static_cast<int>(u))),
        out(__clzll(static_cast<long long>(w)));
    out(__ffs(static_cast<int>(u))), out(__ffsll(static_cast<long long>(w))), out(__brev(u));
    out(__umulhi(u, 0xdeadbeefU)), out(__mulhi(static_cast<int>(u), -123456789));
    out(__float_as_int(__int_as_float(static_cast<int>(u & 0x7f7fffffU))));
    out(__float_as_uint(__uint_as_float(u & 0x7f7fffffU)));
    out(__longlong_as_double(__double_as_longlong(static_cast<double>(u))));
  }
};

struct Rounding {
  static constexpr int kWords = 17;
  __device__ static void run(int t, Out out, unsigned*) {
    const float a = 1.0F + static_cast<float>(input(t) & 0xfffffU) * 0x1p-20F;
    const float b = 1.0F + static_cast<float>(input(t + 64) & 0xfffffU) * 0x1p-20F;
    const float c = -a * b;
    out(__fadd_rn(__fmul_rn(a, b), c)), out(__fsub_rn(a, b)), out(__fdiv_rn(a, b)), out(__fmaf_rn(a, b, c));
    out(__fsqrt_rn(a)), out(__frcp_rn(b));
    const double x = static_cast<double>(a) / 3.0, y = static_cast<double>(b) / 7.0;
    out(__dadd_rn(__dmul_rn(x, y), -x)), out(__dsub_rn(x, y)), out(__ddiv_rn(x, y)), out(__fma_rn(x, y, -x));
    const float edges[8] = {0.5F, 1.5F, -2.5F, 3e9F, -3e9F, __int_as_float(0x7fc00000), -0.75F, 7.25F};
    const float e = edges[t % 8];
    out(__float2int_rn(e)), out(__float2int_rd(e)), out(__float2int_ru(e)), out(__float2int_rz(e));
    out(__saturatef(e)), out(min(e, 1.0F)), out(max(t - 30, -3));
  }
};

// Within a few last bits only: the test allows for it.
struct Functions {
  static constexpr int kWords = 10;
  __device__ static void run(int t, Out out, unsigned*) {
    const float x = 0.1F + static_cast<float>(t) * 0.37F;
    out(rsqrtf(x)), out(static_cast<float>(rsqrt(static_cast<double>(x)))), out(__expf(x * 0.2F)),
        out(__logf(x + 1.0F));
    out(__log2f(x + 1.0F)), out(__powf(x, 0.3F)), out(__fdividef(x, 3.0F)), out(__frsqrt_rn(x));
    out(__sinf(x * 0.1F)), out(__cosf(x * 0.1F));
  }
};

// --- our own helpers ---

struct Bf16 {
  static constexpr int kWords = 3;
  __device__ static void run(int t, Out out, unsigned*) {
    const unsigned special[16] = {0x00000000U, 0x80000000U, 0x7f800000U, 0xff800000U,
                                  0x7fc00001U, 0xffbfffffU, 0x7f800001U, 0x00000001U,
                                  0x00008000U, 0x00018000U, 0x3f808000U, 0x3f818000U,
                                  0x7f7fffffU, 0xff7fffffU, 0x3f807fffU, 0x3f808001U};
    const float x = __uint_as_float(t < 16 ? special[t] : static_cast<unsigned>(input(t)));
    out(static_cast<unsigned>(from_float<cohort::bf16>(x).bits));
    out(to_float(from_float<cohort::bf16>(x)));
    out(static_cast<unsigned>(cohort::bf16(static_cast<double>(t) / 3.0).bits));
  }
};

// Copies 64 values with 16-byte accesses, then 5 values one by one, and back out of a shared array.
template <class T>
struct Vectors {
  static constexpr int kWords = 5;
  __device__ static void run(int t, Out out, unsigned*) {
    SIMT_SHARED(T, from, [80]);
    SIMT_SHARED(T, to, [80]);
    constexpr int kWidth = Vec<T>::kWidth;
    from[t] = from_float<T>(static_cast<Accumulator<T>>(t) + Accumulator<T>{0.5});
    to[t] = from_float<T>(Accumulator<T>{-1});
    if (t < 16) to[64 + t] = from_float<T>(Accumulator<T>{-1});
    __syncthreads();
    if (t < 64 / kWidth) {
      auto v = t % 2 == 0 ? Vec<T>::load(&from[t * kWidth]) : Vec<T>::load_streaming(&from[t * kWidth]);
      for (int i = 0; i < kWidth; ++i) v[i] += Accumulator<T>{1};
      if (t % 4 < 2) {
        v.store(&to[t * kWidth]);
      } else {
        v.store_streaming(&to[t * kWidth]);
      }
    }
    __syncthreads();
    out(static_cast<float>(to_float(to[t])));
    __syncthreads();
    if (t == 0) Vec<T>::load_part(&from[3], 1).store_part(&to[65], kWidth - 1);
    __syncthreads();
    for (int i = 0; i < 4; ++i) out(static_cast<float>(to_float(to[64 + i])));
  }
};

struct Loads {
  static constexpr int kWords = 6;
  __device__ static void run(int t, Out out, unsigned* scratch) {
    scratch[t] = static_cast<unsigned>(input(t));
    out(__ldg(&scratch[t])), out(__ldcs(&scratch[t])), out(__ldcg(&scratch[t])), out(__ldca(&scratch[t]));
    __stcs(&scratch[t], static_cast<unsigned>(t));
    out(scratch[t]);
    __stcg(&scratch[t], static_cast<unsigned>(t + 1));
    out(scratch[t]);
  }
};

struct WarpHelpers {
  static constexpr int kWords = 12;
  __device__ static void run(int t, Out out, unsigned*) {
    const int value = static_cast<int>(input(t) % 1000);
    out(warp_sum(value)), out(warp_sum<8>(value)), out(warp_sum<1>(value)), out(warp_max<4>(value)),
        out(warp_max(value));
    out(warp_sum(static_cast<float>(value) * 0.1F)), out(warp_sum<16>(static_cast<double>(value) * 0.1));
    const float nan = __int_as_float(0x7fc00000);
    out(static_cast<int>(warp_max(t == 40 ? nan : 1.0F) != 1.0F));
    const auto best =
        warp_argmin(ValueIndex<float>{t % 32 == 3 ? nan : static_cast<float>(value / 100), t % 32});
    out(best.value), out(best.index);
    const auto best4 = warp_argmin<4>(ValueIndex<int>{value, t % 4});
    out(best4.value), out(best4.index);
  }
};

struct BlockHelpers {
  static constexpr int kWords = 6;
  __device__ static void run(int t, Out out, unsigned* scratch) {
    const int value = static_cast<int>(input(t) % 1000);
    out(block_sum(value)), out(block_sum(value * value));
    out(block_sum(static_cast<float>(value) * 0.1F)), out(block_sum(static_cast<double>(value) * 0.1));
    out(block_max(value, -1));
    out(static_cast<int>(last_block(scratch, 1)));
  }
};

struct Philox {
  static constexpr int kWords = 4;
  __device__ static void run(int t, Out out, unsigned*) {
    const auto u = static_cast<std::uint32_t>(t);
    const auto c =
        t == 0 ? cohort::philox4x32({0, 0, 0, 0}, {0, 0}) : cohort::philox4x32({u, 1, 2, 3}, {u * 7, 9});
    out(c.x), out(c.y), out(c.z), out(c.w);
  }
};

struct AsyncCopy {
  static constexpr int kWords = 2;
  __device__ static void run(int t, Out out, unsigned* scratch) {
    SIMT_SHARED(unsigned, tile, [2][kConformanceThreads][4]);
    for (int i = 0; i < 4; ++i) scratch[4 * t + i] = static_cast<unsigned>(4 * t + i);
    copy_async16(&tile[0][t][0], &scratch[4 * t]);
    commit_async();
    copy_async16(&tile[1][t][0], &scratch[4 * t]);
    commit_async();
    wait_async<1>();
    out(tile[0][t][3]);
    wait_async<0>();
    out(tile[1][t][1]);
  }
};

__global__ void indices(Word* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  Out put{out + (block * 32 + static_cast<unsigned>(thread_in_block())) * 5};
  const auto pack = [](unsigned x, unsigned y, unsigned z) { return x | y << 8 | z << 16; };
  put(pack(threadIdx.x, threadIdx.y, threadIdx.z)), put(pack(blockIdx.x, blockIdx.y, blockIdx.z));
  put(pack(blockDim.x, blockDim.y, blockDim.z)), put(pack(gridDim.x, gridDim.y, gridDim.z)), put(warpSize);
}

// Every word of a large dynamic block is written by one thread and read by another one.
__global__ void large_shared(Word* out, int words) {
  SIMT_SHARED_DYN(raw);
  auto* const tile = reinterpret_cast<unsigned*>(raw);
  const int t = thread_in_block();
  for (int i = t; i < words; i += threads_in_block()) tile[i] = static_cast<unsigned>(i * 3);
  __syncthreads();
  Word sum = 0;
  for (int i = (t + 17) % threads_in_block(); i < words; i += threads_in_block()) sum += tile[i];
  out[t] = sum;
}

// The last of several blocks adds what all of them wrote, twice in one launch.
__global__ void last_of_many(Word* out, unsigned* counters) {
  const int t = thread_in_block();
  const int blocks = static_cast<int>(gridDim.x);
  Word* const parts = out + kConformanceThreads;
  for (int round = 0; round < 2; ++round) {
    Word* const row = parts + (round * blocks + static_cast<int>(blockIdx.x)) * kConformanceThreads;
    row[t] = input(t + static_cast<int>(blockIdx.x)) >> 8;
    if (!last_block(&counters[round], gridDim.x)) continue;
    Word sum = 0;
    for (int b = 0; b < blocks; ++b) {
      sum += parts[(round * blocks + b) * kConformanceThreads + (t + 1) % kConformanceThreads];
    }
    out[t] = sum + static_cast<Word>(round);
  }
}

// Every block adds what its neighbour wrote in the round before: two barriers of all blocks per round.
__global__ void grid_rounds(Word* out, unsigned* word) {
  const int t = thread_in_block();
  const unsigned next = (blockIdx.x + 1) % gridDim.x;
  Word* const own = out + blockIdx.x * kConformanceThreads;
  Word value = input(t + static_cast<int>(blockIdx.x));
  for (int round = 0; round < kGridRounds; ++round) {
    own[t] = value;
    grid_barrier(word);
    value = value * 3 + out[next * kConformanceThreads + (t + 1) % kConformanceThreads];
    grid_barrier(word);
  }
  own[t] = value;
}

template <class Case>
ConformanceOutput output(const char* name) {
  Memory<Word> out(static_cast<std::size_t>(kConformanceThreads * Case::kWords), 0);
  Memory<unsigned> scratch(4 * kConformanceThreads, 0U);
  launch(conform<Case>, {.grid = 1, .block = kConformanceThreads}, out.data(), scratch.data());
  return {name, out.values()};
}

}  // namespace

std::vector<ConformanceOutput> run_conformance() {
  std::vector<ConformanceOutput> outputs = {
      output<Shuffles<int>>("shuffle_int"),
      output<Shuffles<unsigned>>("shuffle_unsigned"),
      output<Shuffles<long>>("shuffle_long"),
      output<Shuffles<unsigned long>>("shuffle_unsigned_long"),
      output<Shuffles<long long>>("shuffle_long_long"),
      output<Shuffles<unsigned long long>>("shuffle_unsigned_long_long"),
      output<Shuffles<float>>("shuffle_float"),
      output<Shuffles<double>>("shuffle_double"),
      output<PartialMasks>("partial_masks"),
      output<Votes>("votes"),
      output<BlockVotes>("block_votes"),
      output<Atomics>("atomics"),
      output<AtomicTotals>("atomic_totals"),
      output<BitCounts>("bits"),
      output<Rounding>("rounding"),
      output<Functions>("functions"),
      output<Bf16>("bf16"),
      output<Vectors<float>>("vectors_f32"),
      output<Vectors<cohort::bf16>>("vectors_bf16"),
      output<Vectors<double>>("vectors_f64"),
      output<Loads>("loads"),
      output<WarpHelpers>("warp_helpers"),
      output<BlockHelpers>("block_helpers"),
      output<Philox>("philox"),
      output<AsyncCopy>("async_copy")};
  Memory<Word> index_out(3 * 2 * 2 * 32 * 5, 0);
  launch(indices, {.grid = {3, 2, 2}, .block = {4, 4, 2}}, index_out.data());
  outputs.push_back({"indices", index_out.values()});
  constexpr int kBlocks = 5;
  Memory<Word> last_out(static_cast<std::size_t>((1 + 2 * kBlocks) * kConformanceThreads), 0);
  Memory<unsigned> counters(2, 0U);
  launch(last_of_many, {.grid = kBlocks, .block = kConformanceThreads}, last_out.data(), counters.data());
  outputs.push_back({"last_of_many", last_out.values()});
  outputs.back().words.resize(kConformanceThreads);
  for (const unsigned counter : counters.values()) outputs.back().words.push_back(counter);
  // Twice with one word of memory, the second time with another number of blocks.
  Memory<unsigned> turns(1, 0U);
  std::vector<Word> rounds;
  for (const unsigned blocks : {kGridBlocks, kGridBlocks - 1}) {
    Memory<Word> grid_out(static_cast<std::size_t>(blocks * kConformanceThreads), 0);
    launch(grid_rounds, {.grid = blocks, .block = kConformanceThreads, .cooperative = true}, grid_out.data(),
           turns.data());
    const std::vector<Word> words = grid_out.values();
    rounds.insert(rounds.end(), words.begin(), words.end());
  }
  outputs.push_back({"grid_rounds", rounds});
  Memory<Word> large_out(256, 0);
  launch(large_shared, {.grid = 1, .block = 256, .shared = 100 * 1024}, large_out.data(), 25 * 1024);
  outputs.push_back({"large_shared", large_out.values()});
  return outputs;
}

}  // namespace simt::test
