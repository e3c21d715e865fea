// What CUDA documents, computed by plain host code, against what the kernels of conformance.cu give.
// SIMT_GOLDEN=FILE writes the outputs down, one line a case, to compare a device with the emulator.
#include "simt/conformance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <limits>

#include "kernels/base/dtype.h"
#include "kernels/base/philox.h"
#if !defined(SIMT_ON_DEVICE)
#include "simt/support/flavour.h"
#endif

namespace simt::test {
namespace {

using Word = std::uint64_t;
constexpr int kThreads = kConformanceThreads;

// Collects expected words as the kernels do.
struct Words {
  std::vector<Word> words;

  template <class T>
  void operator()(T value) {
    if constexpr (sizeof(T) == 8) {
      words.push_back(std::bit_cast<Word>(value));
    } else {
      words.push_back(std::bit_cast<std::uint32_t>(value));
    }
  }
};

std::uint32_t low(int t) {
  return static_cast<std::uint32_t>(input_word(t));
}

// --- models, one per case: the words of thread t ---

enum class Move { kIndex, kUp, kDown, kXor };

// The thread whose value thread t gets, by the words of the programming guide.
int source(Move move, int t, int operand, int width) {
  const int warp = t / 32 * 32, lane = t % 32, group = lane / width * width;
  int from = lane;
  if (move == Move::kIndex) from = group + operand % width;
  if (move == Move::kUp && lane - operand >= group) from = lane - operand;
  if (move == Move::kDown && lane + operand < group + width) from = lane + operand;
  // A lane of an earlier group may be read, one of a later group not.
  if (move == Move::kXor && (lane ^ operand) < group + width) from = lane ^ operand;
  return warp + from;
}

void shuffles(int t, Words& out, bool wide) {
  const int operands[8] = {0, 1, 2, 5, 8, 15, 16, 31};
  for (int width = 32; width >= 1; width /= 2) {
    for (int i = 0; i < 8; ++i) {
      for (const Move move : {Move::kIndex, Move::kUp, Move::kDown, Move::kXor}) {
        const int operand = move == Move::kIndex && i == 7 ? 33 : operands[i];
        const int from = source(move, t, operand, width);
        out(wide ? input_word(from) : Word{low(from)});
      }
    }
  }
}

template <class F>
std::uint32_t over_warp(int t, unsigned mask, std::uint32_t start, F&& fold) {
  std::uint32_t result = start;
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1U) result = fold(result, lane, low(t / 32 * 32 + lane));
  }
  return result;
}

std::uint32_t sum(std::uint32_t a, int, std::uint32_t b) {
  return a + b;
}
std::uint32_t largest(std::uint32_t a, int, std::uint32_t b) {
  return std::max(a, b);
}
std::uint32_t smallest(std::uint32_t a, int, std::uint32_t b) {
  return std::min(a, b);
}
std::uint32_t largest_signed(std::uint32_t a, int, std::uint32_t b) {
  return static_cast<std::uint32_t>(std::max(static_cast<std::int32_t>(a), static_cast<std::int32_t>(b)));
}
std::uint32_t smallest_signed(std::uint32_t a, int, std::uint32_t b) {
  return static_cast<std::uint32_t>(std::min(static_cast<std::int32_t>(a), static_cast<std::int32_t>(b)));
}

unsigned ballot(unsigned mask, const std::function<bool(int)>& predicate) {
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1U) && predicate(lane)) bits |= 1U << lane;
  }
  return bits;
}

void partial_masks(int t, Words& out) {
  const int lane = t % 32;
  if (lane < 16) {
    out(low(t ^ 3));
    out(ballot(0xffffU, [](int i) { return i % 3 == 0; }));
    out(over_warp(t, 0xffffU, 0, sum));
  } else {
    out(low(lane >= 18 ? t - 2 : t));
    out(ballot(0xffff0000U, [](int i) { return i % 5 == 0; }));
    out(over_warp(t, 0xffff0000U, 0, largest));
  }
  out(low(t ^ 2));
  out(lane % 2);      // lane 7 is among the odd ones
  out(1 - lane % 2);  // all lanes of the even half are even
}

void votes(int t, Words& out) {
  out(ballot(~0U, [](int i) { return i % 3 == 0; })), out(1), out(0);
  out(~0U), out(1), out(1);
  out(0U), out(0), out(0);
  out(over_warp(t, ~0U, 0, sum)), out(over_warp(t, ~0U, 0, sum));
  out(over_warp(t, ~0U, ~0U, smallest)), out(over_warp(t, ~0U, 0x7fffffffU, smallest_signed));
  out(over_warp(t, ~0U, 0x80000000U, largest_signed));
  out(over_warp(t, ~0U, ~0U, [](std::uint32_t a, int, std::uint32_t b) { return a & (b | 0xff00U); }));
  out(over_warp(t, ~0U, 0, [](std::uint32_t a, int, std::uint32_t b) { return a | (b & 0xff00ffU); }) ^
      over_warp(t, ~0U, 0, [](std::uint32_t a, int, std::uint32_t b) { return a ^ b; }));
}

void block_votes(int, Words& out) {
  out(22), out(0), out(1), out(1), out(0), out(0);
}

// Values before each operation, worked out by hand from the definitions of the programming guide.
void atomics(int t, Words& out) {
  if (t != 0) return;
  const std::int32_t wrapped = std::numeric_limits<std::int32_t>::min() + 6;
  out(0), out(7), out(wrapped), out(wrapped - 3), out(-5);
  out(0U), out(7U), out(0U - 2U), out(4U);
  out(Word{0}), out(Word{7}), out(Word{1} << 40);
  out(0.0F), out(1.5F), out(1.75F), out(3.0F);
  out(0.0), out(1.5), out(1.75);
  out(-5), out(-9), out(-9), out(12), out(12);
  out(4U), out(2U), out(2U), out(0x80000000U), out(0x80000000U);
  const std::int64_t l = std::int64_t{1} << 40;
  out(std::int64_t{0}), out(-l), out(-l), out(2 * l), out(2 * l);
  out(Word{1} << 40), out(Word{3}), out(Word{3}), out(Word{1} << 63), out(Word{1} << 63);
  out(0x80000000U), out(0x80000000U), out(0x8000000fU), out(0x800000f0U);
  out(12), out(12), out(0x70c), out(~0x70c);
  out(0x800000f0U), out(0x800000f0U), out(6U);
  out(Word{1} << 63), out(Word{77});
  out(6U), out(7U), out(0U);
  out(0U), out(3U), out(2U);
}

void atomic_totals(int, Words& out) {
  Word best = 0;
  for (int t = 0; t < kThreads; ++t) best = std::max(best, input_word(t));
  out(63U * 32U), out(best), out(~0U), out(~0U);
}

void bits(int t, Words& out) {
  const Word w = t == 0 ? 0 : input_word(t) >> (t % 50);
  const auto u = static_cast<std::uint32_t>(w);
  const auto count = [](Word x, int size, auto&& stop) {
    int n = 0;
    while (n < size && !stop(x, n)) ++n;
    return n;
  };
  const auto bit = [](Word x, int i) { return (x >> i & 1U) != 0; };
  int set32 = 0, set64 = 0;
  std::uint32_t reversed = 0;
  for (int i = 0; i < 64; ++i) set64 += bit(w, i) ? 1 : 0;
  for (int i = 0; i < 32; ++i) {
    set32 += bit(u, i) ? 1 : 0;
    if (bit(u, i)) reversed |= 0x80000000U >> i;
  }
  out(set32), out(set64);
  out(count(u, 32, [&](Word x, int n) { return bit(x, 31 - n); }));
  out(count(w, 64, [&](Word x, int n) { return bit(x, 63 - n); }));
  out(u == 0 ? 0 : 1 + count(u, 32, bit)), out(w == 0 ? 0 : 1 + count(w, 64, bit));
  out(reversed);
  out(static_cast<std::uint32_t>(Word{u} * 0xdeadbeefU >> 32));
  out(static_cast<std::int32_t>((std::int64_t{static_cast<std::int32_t>(u)} * -123456789) >> 32));
  out(u & 0x7f7fffffU), out(u & 0x7f7fffffU), out(static_cast<double>(u));
}

void rounding(int t, Words& out) {
  const float a = 1.0F + static_cast<float>(input_word(t) & 0xfffffU) * 0x1p-20F;
  const float b = 1.0F + static_cast<float>(input_word(t + 64) & 0xfffffU) * 0x1p-20F;
  // One rounding each: products of floats are exact in double.
  const double ab = static_cast<double>(a) * static_cast<double>(b);
  const volatile float product = static_cast<float>(ab);
  const float c = -product;
  out(product + c);
  out(static_cast<float>(static_cast<double>(a) - static_cast<double>(b)));
  out(static_cast<float>(static_cast<double>(a) / static_cast<double>(b)));
  out(static_cast<float>(ab + static_cast<double>(c)));
  out(static_cast<float>(std::sqrt(static_cast<double>(a)))),
      out(static_cast<float>(1.0 / static_cast<double>(b)));
  const double x = static_cast<double>(a) / 3.0, y = static_cast<double>(b) / 7.0;
  const volatile double xy = x * y, plus = xy - x, minus = x - y;
  out(double{plus}), out(double{minus}), out(x / y), out(std::fma(x, y, -x));
  const float edges[8] = {0.5F, 1.5F, -2.5F, 3e9F, -3e9F, NAN, -0.75F, 7.25F};
  const std::array<std::array<int, 4>, 8> integers = {{{0, 0, 1, 0},
                                                       {2, 1, 2, 1},
                                                       {-2, -3, -2, -2},
                                                       {INT_MAX, INT_MAX, INT_MAX, INT_MAX},
                                                       {INT_MIN, INT_MIN, INT_MIN, INT_MIN},
                                                       {0, 0, 0, 0},
                                                       {-1, -1, 0, 0},
                                                       {7, 7, 8, 7}}};
  for (const int i : integers[static_cast<std::size_t>(t % 8)]) out(i);
  const float saturated[8] = {0.5F, 1.0F, 0.0F, 1.0F, 0.0F, 0.0F, 0.0F, 1.0F};
  out(saturated[t % 8]), out(t % 8 == 5 ? 1.0F : std::min(edges[t % 8], 1.0F)), out(std::max(t - 30, -3));
}

void bf16(int t, Words& out) {
  const std::uint32_t special[16] = {
      0x00000000U, 0x80000000U, 0x7f800000U, 0xff800000U, 0x7fc00001U, 0xffbfffffU, 0x7f800001U, 0x00000001U,
      0x00008000U, 0x00018000U, 0x3f808000U, 0x3f818000U, 0x7f7fffffU, 0xff7fffffU, 0x3f807fffU, 0x3f808001U};
  const std::uint32_t rounded[16] = {0x0000, 0x8000, 0x7f80, 0xff80, 0x7fc0, 0xffff, 0x7fc0, 0x0000,
                                     0x0000, 0x0002, 0x3f80, 0x3f82, 0x7f80, 0xff80, 0x3f80, 0x3f81};
  const float x = std::bit_cast<float>(t < 16 ? special[t] : low(t));
  const std::uint32_t r = t < 16 ? rounded[t] : cohort::bf16(x).bits;
  out(r), out(r << 16), out(std::uint32_t{cohort::bf16(static_cast<double>(t) / 3.0).bits});
}

template <class T>
void vectors(int t, Words& out) {
  out(static_cast<float>(T(static_cast<float>(t) + 1.5F)));
  const bool wide = 16 / sizeof(T) > 2;
  out(-1.0F), out(3.5F), out(wide ? 0.0F : -1.0F), out(wide ? 0.0F : -1.0F);
}

void loads(int t, Words& out) {
  for (int i = 0; i < 4; ++i) out(low(t));
  out(t), out(t + 1);
}

// A butterfly over W lanes: pairs at distance W/2 first.
template <class T>
T butterfly(int t, int width, T (*value)(int)) {
  std::array<T, 32> v;
  for (int lane = 0; lane < 32; ++lane) v[static_cast<std::size_t>(lane)] = value(t / 32 * 32 + lane);
  for (int step = width / 2; step > 0; step /= 2) {
    std::array<T, 32> next = v;
    for (std::size_t lane = 0; lane < 32; ++lane)
      next[lane] = v[lane] + v[lane ^ static_cast<std::size_t>(step)];
    v = next;
  }
  return v[static_cast<std::size_t>(t % 32)];
}

int small(int t) {
  return static_cast<int>(input_word(t) % 1000);
}
float small_float(int t) {
  return static_cast<float>(small(t)) * 0.1F;
}
double small_double(int t) {
  return static_cast<double>(small(t)) * 0.1;
}

void warp_helpers(int t, Words& out) {
  out(butterfly<int>(t, 32, small)), out(butterfly<int>(t, 8, small)), out(small(t));
  const auto largest_of = [](int begin, int n) {
    int best = small(begin);
    for (int i = 1; i < n; ++i) best = std::max(best, small(begin + i));
    return best;
  };
  out(largest_of(t / 4 * 4, 4)), out(largest_of(t / 32 * 32, 32));
  out(butterfly<float>(t, 32, small_float)), out(butterfly<double>(t, 16, small_double));
  out(t >= 32 ? 1 : 0);
  int best = -1;
  for (int lane = 0; lane < 32; ++lane) {
    if (lane == 3) continue;
    const auto hundreds = [&](int i) { return small(t / 32 * 32 + i) / 100; };
    if (best < 0 || hundreds(lane) < hundreds(best)) best = lane;
  }
  out(static_cast<float>(small(t / 32 * 32 + best) / 100)), out(best);
  int best4 = 0;
  for (int i = 1; i < 4; ++i) best4 = small(t / 4 * 4 + i) < small(t / 4 * 4 + best4) ? i : best4;
  out(small(t / 4 * 4 + best4)), out(best4);
}

void block_helpers(int, Words& out) {
  int total = 0, squares = 0, best = 0;
  for (int t = 0; t < kThreads; ++t) {
    total += small(t), squares += small(t) * small(t), best = std::max(best, small(t));
  }
  out(total), out(squares);
  out(butterfly<float>(0, 32, small_float) + butterfly<float>(32, 32, small_float));
  out(butterfly<double>(0, 32, small_double) + butterfly<double>(32, 32, small_double));
  out(best), out(1);
}

void philox(int t, Words& out) {
  const auto u = static_cast<std::uint32_t>(t);
  const cohort::PhiloxCounter c =
      t == 0 ? cohort::philox4x32({0, 0, 0, 0}, {0, 0}) : cohort::philox4x32({u, 1, 2, 3}, {u * 7, 9});
  if (t == 0) {  // known answer
    EXPECT_EQ(c.x, 0x6627e8d5U);
  }
  out(c.x), out(c.y), out(c.z), out(c.w);
}

void async_copy(int t, Words& out) {
  out(4 * t + 3), out(4 * t + 1);
}

// --- the comparison ---

const std::vector<ConformanceOutput>& outputs() {
  static const std::vector<ConformanceOutput> all = run_conformance();
  return all;
}

const std::vector<Word>& output(const std::string& name) {
  for (const ConformanceOutput& o : outputs()) {
    if (o.name == name) return o.words;
  }
  throw std::out_of_range(name);
}

void expect_case(const std::string& name, const std::function<void(int, Words&)>& model) {
  SCOPED_TRACE(name);
  const std::vector<Word>& got = output(name);
  const std::size_t per_thread = got.size() / kThreads;
  for (int t = 0; t < kThreads; ++t) {
    Words expected;
    model(t, expected);
    ASSERT_LE(expected.words.size(), per_thread);
    expected.words.resize(per_thread, 0);
    for (std::size_t i = 0; i < per_thread; ++i) {
      ASSERT_EQ(got[static_cast<std::size_t>(t) * per_thread + i], expected.words[i])
          << "thread " << t << " word " << i;
    }
  }
}

class Conformance : public testing::Test {
 protected:
  void SetUp() override {
#if defined(SIMT_ON_DEVICE)
    try {
      outputs();
    } catch (const std::exception& e) {
      GTEST_SKIP() << "no GPU on this machine: " << e.what();
    }
#endif
  }
};

TEST_F(Conformance, Shuffles) {
  for (const char* type : {"int", "unsigned", "float"}) {
    expect_case(std::string("shuffle_") + type, [](int t, Words& out) { shuffles(t, out, false); });
  }
  for (const char* type : {"long", "unsigned_long", "long_long", "unsigned_long_long", "double"}) {
    expect_case(std::string("shuffle_") + type, [](int t, Words& out) { shuffles(t, out, true); });
  }
}
TEST_F(Conformance, PartialMasks) {
  expect_case("partial_masks", partial_masks);
}
TEST_F(Conformance, VotesAndReductions) {
  expect_case("votes", votes);
}
TEST_F(Conformance, BlockVotes) {
  expect_case("block_votes", block_votes);
}
TEST_F(Conformance, Atomics) {
  expect_case("atomics", atomics);
}
TEST_F(Conformance, AtomicTotals) {
  expect_case("atomic_totals", atomic_totals);
}
TEST_F(Conformance, Bits) {
  expect_case("bits", bits);
}
TEST_F(Conformance, Rounding) {
  expect_case("rounding", rounding);
}
TEST_F(Conformance, Bf16) {
  expect_case("bf16", bf16);
}
TEST_F(Conformance, Vectors) {
  expect_case("vectors_f32", vectors<float>);
  expect_case("vectors_bf16", vectors<cohort::bf16>);
  expect_case("vectors_f64", vectors<double>);
}
TEST_F(Conformance, Loads) {
  expect_case("loads", loads);
}
TEST_F(Conformance, WarpHelpers) {
  expect_case("warp_helpers", warp_helpers);
}
TEST_F(Conformance, BlockHelpers) {
  expect_case("block_helpers", block_helpers);
}
TEST_F(Conformance, Philox) {
  expect_case("philox", philox);
}
TEST_F(Conformance, AsyncCopy) {
  expect_case("async_copy", async_copy);
}

// The device's fast functions differ in their last bits; __expf and __powf by more, as documented.
TEST_F(Conformance, Functions) {
  const std::vector<Word>& got = output("functions");
  for (int t = 0; t < kThreads; ++t) {
    const double x = static_cast<double>(0.1F + static_cast<float>(t) * 0.37F);
    const double expected[10] = {1 / std::sqrt(x),
                                 1 / std::sqrt(x),
                                 std::exp(x * 0.2),
                                 std::log(x + 1),
                                 std::log2(x + 1),
                                 std::pow(x, 0.3),
                                 x / 3,
                                 1 / std::sqrt(x),
                                 std::sin(x * 0.1),
                                 std::cos(x * 0.1)};
    for (int i = 0; i < 10; ++i) {
      const auto word = static_cast<std::uint32_t>(got[static_cast<std::size_t>(t * 10 + i)]);
      EXPECT_NEAR(static_cast<double>(std::bit_cast<float>(word)), expected[i],
                  4e-6 * (1 + std::abs(expected[i])))
          << "x " << x << " function " << i;
    }
  }
}

TEST_F(Conformance, Indices) {
  const std::vector<Word>& got = output("indices");
  std::size_t at = 0;
  for (Word block = 0; block < 12; ++block) {
    for (Word t = 0; t < 32; ++t) {
      EXPECT_EQ(got[at++], t % 4 | (t / 4 % 4) << 8 | (t / 16) << 16);
      EXPECT_EQ(got[at++], block % 3 | (block / 3 % 2) << 8 | (block / 6) << 16);
      EXPECT_EQ(got[at++], 4U | 4U << 8 | 2U << 16);
      EXPECT_EQ(got[at++], 3U | 2U << 8 | 2U << 16);
      EXPECT_EQ(got[at++], 32U);
    }
  }
}

TEST_F(Conformance, LastOfManyBlocks) {
  const std::vector<Word>& got = output("last_of_many");
  for (int t = 0; t < kThreads; ++t) {
    Word expected = 1;
    for (int b = 0; b < 5; ++b) expected += input_word((t + 1) % kThreads + b) >> 8;
    EXPECT_EQ(got[static_cast<std::size_t>(t)], expected) << "thread " << t;
  }
  EXPECT_EQ(got[kThreads], 0U);
  EXPECT_EQ(got[kThreads + 1], 0U);
}

TEST_F(Conformance, BarriersOfAllBlocks) {
  std::vector<Word> expected;
  for (const unsigned blocks : {kGridBlocks, kGridBlocks - 1}) {
    std::vector<Word> values;
    for (unsigned b = 0; b < blocks; ++b) {
      for (int t = 0; t < kThreads; ++t) values.push_back(input_word(t + static_cast<int>(b)));
    }
    for (int round = 0; round < kGridRounds; ++round) {
      const std::vector<Word> before = values;
      for (std::size_t b = 0; b < blocks; ++b) {
        for (std::size_t t = 0; t < kThreads; ++t) {
          values[b * kThreads + t] =
              3 * before[b * kThreads + t] + before[(b + 1) % blocks * kThreads + (t + 1) % kThreads];
        }
      }
    }
    expected.insert(expected.end(), values.begin(), values.end());
  }
  EXPECT_EQ(output("grid_rounds"), expected);
}

TEST_F(Conformance, LargeSharedMemory) {
  const std::vector<Word>& got = output("large_shared");
  for (Word t = 0; t < 256; ++t) {
    Word expected = 0;
    for (Word i = (t + 17) % 256; i < 25 * 1024; i += 256) expected += i * 3;
    EXPECT_EQ(got[t], expected);
  }
}

#if !defined(SIMT_ON_DEVICE)
TEST_F(Conformance, EveryScheduleGivesTheSameBits) {
  for (const Schedule& schedule : all_schedules()) {
    const ScopedSchedule scope(schedule);
    const std::vector<ConformanceOutput> again = run_conformance();
    for (std::size_t i = 0; i < again.size(); ++i) {
      EXPECT_EQ(again[i].words, outputs()[i].words) << again[i].name << " " << to_string(schedule);
    }
  }
}
#endif

TEST_F(Conformance, GoldenFile) {
  const char* const path = std::getenv("SIMT_GOLDEN");
  if (path == nullptr) GTEST_SKIP() << "SIMT_GOLDEN names no file";
  std::ofstream file(path);
  for (const ConformanceOutput& o : outputs()) {
    file << o.name << std::hex;
    for (const Word w : o.words) file << ' ' << w;
    file << std::dec << '\n';
  }
  EXPECT_TRUE(file.good());
}

}  // namespace
}  // namespace simt::test
