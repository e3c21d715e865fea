#include "core/npz.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>

#include "tests/support/temporary_folder.h"

namespace cohort {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

// Written by NumPy 1.24: numpy.savez(f, ...) and numpy.savez_compressed(f, ...) of the arrays below.
std::string numpy_file(const std::string& name) {
  return COHORT_SOURCE_DIR "/tests/fuzz/corpus/npz/" + name;
}

template <class T>
std::vector<T> values(const NpyArray& array) {
  std::vector<T> result(array.data.size() / sizeof(T));
  if (!result.empty()) std::memcpy(result.data(), array.data.data(), array.data.size());
  return result;
}

template <class T>
std::vector<T> counting(std::size_t count) {
  std::vector<T> result(count);
  std::iota(result.begin(), result.end(), T{0});
  return result;
}

std::string refusal(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput) << error.what();
    EXPECT_THAT(error.what(), HasSubstr("x.np"));
    return error.what();
  }
  return "accepted";
}

std::vector<std::byte> npy_of(const std::string& header, std::size_t data_bytes) {
  std::vector<std::byte> file(10 + header.size() + data_bytes);
  std::memcpy(file.data(), "\x93NUMPY\x01\x00", 8);
  const auto length = static_cast<std::uint16_t>(header.size());
  std::memcpy(file.data() + 8, &length, 2);
  std::memcpy(file.data() + 10, header.data(), header.size());
  return file;
}

std::string npy_refusal(std::span<const std::byte> bytes) {
  return refusal([&] { parse_npy(bytes, "x.npy"); });
}

std::string npz_refusal(std::span<const std::byte> bytes, const NpzReadOptions& options = {}) {
  return refusal([&] { parse_npz(bytes, "x.npz", options); });
}

class NpzTest : public ::testing::Test {
 protected:
  std::vector<float> f32_ = counting<float>(6);
  std::vector<double> f64_ = counting<double>(3);
  std::vector<std::int32_t> i32_ = counting<std::int32_t>(1);
  std::vector<std::int64_t> i64_ = counting<std::int64_t>(24);
  std::vector<std::uint8_t> u8_ = counting<std::uint8_t>(200);
  std::vector<NpyView> views_ = {
      {"logits", DType::f32, {2, 3}, f32_.data()}, {"b", DType::f64, {3}, f64_.data()},
      {"scalar", DType::i32, {}, i32_.data()},     {"i", DType::i64, {2, 3, 4}, i64_.data()},
      {"u", DType::u8, {200, 1}, u8_.data()},      {"none", DType::f32, {0, 5}, nullptr}};

  void expect_same(const NpzArrays& arrays) {
    ASSERT_EQ(arrays.size(), views_.size());
    for (const NpyView& view : views_) {
      const NpyArray& array = arrays.at(view.name);
      EXPECT_EQ(array.dtype, view.dtype);
      EXPECT_EQ(array.shape, view.shape);
      EXPECT_TRUE(array.data.empty() || std::memcmp(array.data.data(), view.data, array.data.size()) == 0);
    }
    EXPECT_EQ(values<float>(arrays.at("logits")), f32_);
    EXPECT_EQ(values<std::uint8_t>(arrays.at("u")), u8_);
    EXPECT_EQ(values<std::int64_t>(arrays.at("i")), i64_);
  }
};

TEST_F(NpzTest, RoundTripsAndIsDeterministic) {
  const auto file = serialize_npz(views_);
  EXPECT_EQ(file, serialize_npz(views_));
  expect_same(parse_npz(file, "x.npz"));
  EXPECT_TRUE(parse_npz(serialize_npz({}), "x.npz").empty());
  test::TemporaryFolder folder;
  durable_replace(system_file_system(), folder / "x.npz", file);
  durable_replace(system_file_system(), folder / "x.npy", serialize_npy(views_[0]));
  expect_same(read_npz(system_file_system(), folder / "x.npz"));
  EXPECT_EQ(values<float>(read_npy(system_file_system(), folder / "x.npy")), f32_);
}

TEST_F(NpzTest, ReadsWhatNumPyWrites) {
  expect_same(read_npz(system_file_system(), numpy_file("savez.npz")));
  expect_same(read_npz(system_file_system(), numpy_file("savez_compressed.npz")));
}

TEST_F(NpzTest, HeaderIsTheOneOfTheFormat) {
  for (const NpyView& view : views_) {
    const auto npy = serialize_npy(view);
    const std::size_t length = std::to_integer<std::size_t>(npy[8]) | std::to_integer<std::size_t>(npy[9])
                                                                          << 8;
    EXPECT_EQ((10 + length) % 64, 0U);
    EXPECT_EQ(npy[9 + length], std::byte{'\n'});
  }
  const auto npy = serialize_npy(views_[0]);
  const std::string text(reinterpret_cast<const char*>(npy.data()), npy.size());
  EXPECT_EQ(text.substr(0, 69), std::string("\x93NUMPY\x01\x00\x76\x00", 10) +
                                    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
  const auto one = serialize_npy(views_[1]);
  EXPECT_THAT(std::string(reinterpret_cast<const char*>(one.data()), one.size()),
              HasSubstr("'shape': (3,), }"));
}

TEST_F(NpzTest, RefusesBadHeadersWithAReason) {
  const auto dict = [](const std::string& descr, const std::string& order, const std::string& shape) {
    return "{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }\n";
  };
  EXPECT_EQ(npy_refusal(npy_of(dict("'<f4'", "False", "(2,)"), 8)), "accepted");
  EXPECT_EQ(npy_refusal(npy_of("{\"shape\":(),\"descr\":\"<f4\",\"fortran_order\":False}", 4)), "accepted");
  const std::vector<std::pair<std::string, const char*>> bad = {
      {dict("'<f4'", "True", "(2,)"), "ascontiguousarray"},
      {dict("'<f4'", "Maybe", "(2,)"), "neither True nor False"},
      {dict("'>f4'", "False", "(2,)"), "big-endian"},
      {dict("'|O'", "False", "(2,)"), "never loaded"},
      {dict("'<f2'", "False", "(2,)"), "another width"},
      {dict("'<U4'", "False", "(2,)"), "another type"},
      {dict("[('a', '<f4')]", "False", "(2,)"), "structured"},
      {dict("4", "False", "(2,)"), "needs a text"},
      {dict("'<f4", "False", "(2,)"), "another width"},
      {dict("'<f4'", "False", "(-2,)"), "something else than sizes"},
      {dict("'<f4'", "False", "(2.0,)"), "needs a ')'"},
      {dict("'<f4'", "False", "(a,)"), "something else than sizes"},
      {dict("'<f4'", "False", "2"), "needs a '('"},
      {dict("'<f4'", "False", "(99999999999999999999,)"), "something else than sizes"},
      {dict("'<f4'", "False", "(4294967296, 4294967296)"), "more than 2^63"},
      {dict("'<f4'", "False", "(3,)"), "8 bytes of data, but f32 (3) needs 12"},
      {dict("'<f4'", "False", "(1,)"), "8 bytes of data, but f32 (1) needs 4"},
      {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "'descr' twice"},
      {"{'descr': '<f4', 'fortran_order': False}", "needs descr, fortran_order and shape"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}", "unknown key 'x'"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x", "goes on"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,", "something else than sizes"},
      {"{'descr", "without an end"},
      {"", "needs a '{'"},
      {dict(
           "'<f4'", "False",
           "(" +
               [] {
                 std::string ones;
                 for (int i = 0; i < 65; ++i) ones += "1, ";
                 return ones;
               }() +
               ")"),
       "more than 64 dimensions"}};
  for (const auto& [header, reason] : bad)
    EXPECT_THAT(npy_refusal(npy_of(header, 8)), HasSubstr(reason)) << header;
  EXPECT_THAT(npy_refusal({}), HasSubstr("not an .npy"));
  auto version = npy_of(dict("'<f4'", "False", "(2,)"), 8);
  version[6] = std::byte{4};
  EXPECT_THAT(npy_refusal(version), HasSubstr("version 4"));
  auto length = npy_of(dict("'<f4'", "False", "(2,)"), 8);
  length[9] = std::byte{0xff};
  EXPECT_THAT(npy_refusal(length), HasSubstr("claims a header"));
}

TEST_F(NpzTest, EveryCutIsRefused) {
  const auto npz = serialize_npz(views_);
  const auto npy = serialize_npy(views_[0]);
  for (std::size_t size = 0; size < npz.size(); ++size)
    EXPECT_NE(npz_refusal(std::span(npz).first(size)), "accepted");
  for (std::size_t size = 0; size < npy.size(); ++size)
    EXPECT_NE(npy_refusal(std::span(npy).first(size)), "accepted");
}

TEST_F(NpzTest, AFlippedBitOfAnArrayIsFound) {
  for (const char* name : {"savez.npz", "savez_compressed.npz"}) {
    const auto good = read_file(system_file_system(), numpy_file(name), 1 << 20, ErrorKind::kInput);
    std::mt19937_64 random(4);
    int refused = 0;
    for (int i = 0; i < 2000; ++i) {
      auto bad = good;
      const std::size_t bit = random() % (8 * bad.size());
      bad[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      try {  // dates and attributes carry nothing; what is accepted must be equal, but for a changed name
        const NpzArrays arrays = parse_npz(bad, "x.npz");
        EXPECT_TRUE(!arrays.contains("i") || values<std::int64_t>(arrays.at("i")) == i64_);
        EXPECT_TRUE(!arrays.contains("u") || values<std::uint8_t>(arrays.at("u")) == u8_);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kInput);
        ++refused;
      }
    }
    EXPECT_GT(refused, 500);
  }
}

class ZipFieldTest : public NpzTest {
 protected:
  // The file with one field of its (only) directory entry or end record changed.
  template <class T>
  std::string with(std::size_t from_end, T value) {
    auto file =
        serialize_npz({views_.data(), 1});  // "logits.npy": 46 + 10 bytes of directory, 22 of end record
    std::memcpy(file.data() + file.size() - from_end, &value, sizeof(T));
    return npz_refusal(file);
  }
  static constexpr std::size_t kEnd = 22, kEntry = 22 + 46 + 10;
};

TEST_F(ZipFieldTest, HostileFieldsAreRefused) {
  EXPECT_EQ(with(kEntry, std::uint32_t{0x02014b50}), "accepted");
  EXPECT_THAT(with(kEntry, std::uint32_t{0}), HasSubstr("damaged zip directory"));
  EXPECT_THAT(with(kEntry - 8, std::uint16_t{1}), HasSubstr("encrypted"));
  EXPECT_THAT(with(kEntry - 10, std::uint16_t{12}), HasSubstr("method 12"));
  EXPECT_THAT(with(kEntry - 16, std::uint32_t{1}), HasSubstr("CRC-32"));
  EXPECT_THAT(with(kEntry - 20, std::uint32_t{5}), HasSubstr("claims 152 bytes from 5"));
  EXPECT_THAT(with(kEntry - 24, std::uint32_t{0xfffffffe}), HasSubstr("claims 4294967294 bytes"));
  EXPECT_THAT(with(kEntry - 24, std::uint32_t{0xffffffff}), HasSubstr("zip64"));
  EXPECT_THAT(with(kEntry - 28, std::uint16_t{0xffff}), HasSubstr("damaged zip directory"));
  EXPECT_THAT(with(kEntry - 42, std::uint32_t{1}), HasSubstr("no local header"));
  EXPECT_THAT(with(kEntry - 42, std::uint32_t{0xfffffff0}), HasSubstr("no local header"));
  EXPECT_THAT(with(kEntry - 46, 'X'), HasSubstr("another name"));
  EXPECT_THAT(with(kEnd - 4, std::uint32_t{1}), HasSubstr("split"));
  EXPECT_THAT(with(kEnd - 10, std::uint16_t{2}), HasSubstr("damaged zip directory"));
  EXPECT_THAT(with(kEnd - 10, std::uint16_t{0}), HasSubstr("longer than its entries"));
  EXPECT_THAT(with(kEnd - 10, std::uint16_t{0xffff}), HasSubstr("zip64"));
  EXPECT_THAT(with(kEnd - 16, std::uint32_t{0xfffffff0}), HasSubstr("outside the file"));
  EXPECT_THAT(with(kEnd - 20, std::uint16_t{1}), HasSubstr("no end record"));
}

TEST_F(NpzTest, TheLimitHoldsForAllArraysTogether) {
  const auto file = serialize_npz(views_);
  EXPECT_EQ(npz_refusal(file, {.max_bytes = 2000}), "accepted");
  EXPECT_THAT(npz_refusal(file, {.max_bytes = 1000}), HasSubstr("at most 1000"));
}

TEST_F(NpzTest, MisuseOfTheWriterIsABugReport) {
  const auto fails = [](std::vector<NpyView> views) {
    try {
      serialize_npz(views);
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kInternal;
    }
    return false;
  };
  EXPECT_TRUE(fails({views_[0], views_[0]}));
  EXPECT_TRUE(fails({{"", DType::f32, {2, 3}, f32_.data()}}));
  EXPECT_TRUE(fails({{"a", DType::bf16, {2, 3}, f32_.data()}}));
  EXPECT_TRUE(fails({{"a", DType::f32, {-1}, f32_.data()}}));
}

}  // namespace
}  // namespace cohort
