#include "core/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "core/checksum.h"
#include "core/safetensors_header.h"
#include "tests/support/temporary_folder.h"

namespace cohort {
namespace {

using ::testing::HasSubstr;

__extension__ using Int128 = __int128;

std::vector<std::byte> file_of(const std::string& header, std::size_t data_bytes, std::size_t cut = 0) {
  std::vector<std::byte> file(8 + header.size() + data_bytes);
  const std::uint64_t length = header.size();
  std::memcpy(file.data(), &length, 8);
  std::memcpy(file.data() + 8, header.data(), header.size());
  for (std::size_t i = 0; i < data_bytes; ++i) file[8 + header.size() + i] = static_cast<std::byte>(i);
  file.resize(file.size() - cut);
  return file;
}

std::string refusal(std::span<const std::byte> file, const SafetensorsReadOptions& options = {}) {
  try {
    parse_safetensors(file, "model.safetensors", options);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), options.kind) << error.what();
    EXPECT_THAT(error.what(), HasSubstr("model.safetensors"));
    return error.what();
  }
  return "accepted";
}

// Values 0, 1, 2, ... of any element type, as bytes.
template <class T>
std::vector<T> counting(std::size_t count) {
  std::vector<T> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<T>(i);
  return values;
}

template <class T>
TensorView view_of(const std::string& name, FileDType dtype, std::vector<std::int64_t> shape,
                   const std::vector<T>& values) {
  return {name, dtype, std::move(shape), values.data(), values.size() * sizeof(T)};
}

TEST(Safetensors, WritesTheKnownGoodHeaderByteForByte) {
  const std::string expected =
      R"({"__metadata__":{"format":"pt"},"bn1.num_batches_tracked":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
      R"("fc.bias":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},)"
      R"("fc.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[16,40]}})";
  const auto weight = counting<float>(6), bias = counting<float>(2);
  const auto tracked = counting<std::int64_t>(1);
  const TensorView tensors[] = {view_of("fc.weight", FileDType::kF32, {2, 3}, weight),
                                view_of("fc.bias", FileDType::kF32, {2}, bias),
                                view_of("bn1.num_batches_tracked", FileDType::kI64, {}, tracked)};
  const auto file = serialize_safetensors(tensors, {}, {.checksums = false});
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  EXPECT_EQ(length, 232U);
  std::string header(reinterpret_cast<const char*>(file.data()) + 8, length);
  EXPECT_EQ(header.substr(0, expected.size()), expected);
  EXPECT_EQ(header.substr(expected.size()), std::string(length - expected.size(), ' '));
  EXPECT_EQ(file.size(), 8 + length + 40);
  EXPECT_EQ(std::memcmp(file.data() + 8 + length, tracked.data(), 8), 0);
  EXPECT_EQ(std::memcmp(file.data() + 8 + length + 16, weight.data(), 24), 0);
}

struct BadFile {
  const char* header;
  std::size_t data_bytes;
  const char* problem;  // part of the message
};

// One file for each rule of the format.
const BadFile kBadFiles[] = {
    {"", 0, "does not begin with '{'"},
    {" {}", 0, "does not begin with '{'"},
    {"[]", 0, "does not begin with '{'"},
    {"null", 0, "does not begin with '{'"},
    {"{", 0, "not JSON"},
    {"{}}", 0, "not JSON"},
    {"{} x", 0, "not JSON"},
    {"{'a':1}", 0, "not JSON"},
    {"{\"a\":1,}", 0, "a number in its header"},
    {"{\"\xff\":{}}", 0, "not JSON"},
    {"{\"a\xc0\xaf\":{}}", 0, "not JSON"},
    {"{\"\xed\xa0\x80\":{}}", 0, "not JSON"},  // a surrogate
    {"{\"a\":[]}", 0, "an array in its header where a tensor is needed ('a')"},
    {"{\"a\":\"x\"}", 0, "a string in its header"},
    {"{\"a\":null}", 0, "null in its header"},
    {"{\"a\":true}", 0, "a boolean in its header"},
    {"{\"a\":{}}", 0, "tensor 'a' has no 'dtype'"},
    {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "tensor 'a' has no 'data_offsets'"},
    {R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "tensor 'a' has no 'shape'"},
    {R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "tensor 'a' has no 'dtype'"},
    {R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype 'F33'"},
    {R"({"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype 'f32'"},
    {R"({"a":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", 4, "tensor 'a' has a number in 'dtype'"},
    {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "a negative number in 'shape'"},
    {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "the number 1.0 in 'shape'"},
    {R"({"a":{"dtype":"F32","shape":[1e3],"data_offsets":[0,4]}})", 4, "in 'shape'"},
    {R"({"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})", 4, "a string in 'shape'"},
    {R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4, "an array in 'shape'"},
    {R"({"a":{"dtype":"F32","shape":{"x":1},"data_offsets":[0,4]}})", 4, "an object in 'shape'"},
    {R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "a number in 'shape'"},
    {R"({"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}})", 4, "in 'shape'"},
    {R"({"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]}})", 4, "above 2^63 - 1"},
    {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
     "needs more than 2^63 bytes"},
    {R"({"a":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}})", 4,
     "needs more than 2^63 bytes"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "tensor 'a' F32 [2] needs 8 bytes"},
    {R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,8]}})", 8, "tensor 'a' F32 [] needs 4 bytes"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "needs two data_offsets"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4, "a number in 'data_offsets'"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,-4]}})", 4, "a negative number in 'data_offsets'"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "ends before it begins"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3, "ends at 4, but the data has 3 bytes"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,0]}})", 4,
     "ends before it begins"},
    {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]}})", 4,
     "ends at"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5, "1 bytes follow the last tensor"},
    {"{}", 1, "1 bytes follow the last tensor"},
    {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", 3, "a hole"},
    {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})",
     5, "tensor 'b' begins at 3, but the tensor before it ends at 2: a hole"},
    {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
     3, "tensor 'b' begins at 1, but the tensor before it ends at 2: they overlap"},
    {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
     2, "they overlap"},
    {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
     2, "two tensors named 'a'"},
    {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
     2, "two tensors named 'a'"},
    {R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1, "the field 'dtype' twice"},
    {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", 1, "the unknown field 'x'"},
    {R"({"__metadata__":{"a":1}})", 0, "where a string is needed, in the metadata key 'a'"},
    {R"({"__metadata__":{"a":null}})", 0, "metadata key 'a'"},
    {R"({"__metadata__":{"a":{}}})", 0, "metadata key 'a'"},
    {R"({"__metadata__":{"a":["x"]}})", 0, "metadata key 'a'"},
    {R"({"__metadata__":{"a":"x","a":"y"}})", 0, "metadata key 'a' twice"},
    {R"({"__metadata__":{},"__metadata__":{}})", 0, "two '__metadata__'"},
    {R"({"__metadata__":"x"})", 0, "('__metadata__')"},
};

TEST(Safetensors, RefusesEveryBrokenRuleAndNamesTheTensor) {
  for (const BadFile& bad : kBadFiles) {
    const auto file = file_of(bad.header, bad.data_bytes);
    EXPECT_THAT(refusal(file), HasSubstr(bad.problem)) << bad.header;
  }
}

TEST(Safetensors, RefusesBadLengthsBeforeAllocating) {
  for (const std::size_t size : {0, 1, 7})
    EXPECT_THAT(refusal(std::vector<std::byte>(size)), HasSubstr("too short"));
  for (const std::uint64_t length :
       {kMaxSafetensorsHeader + 1, std::uint64_t{1} << 40, std::numeric_limits<std::uint64_t>::max()}) {
    std::vector<std::byte> file(64);
    std::memcpy(file.data(), &length, 8);
    EXPECT_THAT(refusal(file), HasSubstr("at most 16777216 are read"));
  }
  std::vector<std::byte> file(64);
  const std::uint64_t length = 57;
  std::memcpy(file.data(), &length, 8);
  EXPECT_THAT(refusal(file), HasSubstr("claims 57 bytes, but only 56 follow"));
}

TEST(Safetensors, RefusesDeepNestingQuickly) {
  for (const char* opening : {"{\"a\":", "{\"a\":[", "{\"__metadata__\":{\"a\":["}) {
    std::string header;
    while (header.size() < 1'000'000) header += opening;
    EXPECT_NE(refusal(file_of(header, 0)), "accepted");
  }
  EXPECT_NE(refusal(file_of("{\"a\":{\"shape\":" + std::string(1'000'000, '['), 0)), "accepted");
}

TEST(Safetensors, EveryCutIsRefused) {
  const auto values = counting<float>(10);
  const TensorView tensor = view_of("w", FileDType::kF32, {10}, values);
  const auto file = serialize_safetensors({&tensor, 1}, {});
  for (std::size_t size = 0; size < file.size(); ++size) {
    EXPECT_NE(refusal(std::span(file).first(size)), "accepted") << size;
  }
}

TEST(Safetensors, AcceptsWhatTheFormatAllows) {
  // A scalar, a zero dimension beside a huge one, JSON order other than data order, spaces, and data that is
  // not aligned to its element.
  const auto file = file_of(
      R"({ "z":{"shape":[2],"data_offsets":[1,9],"dtype":"F32"}, "e":{"dtype":"F64","shape":[4611686018427387904,0,7],)"
      R"("data_offsets":[9,9]}, "s":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"é\n":{"dtype":"U8","shape":[0],)"
      R"("data_offsets":[0,0]}, "__metadata__":{"k":"v"} }      )",
      9);
  const SafetensorsFile parsed = parse_safetensors(file, "foreign");
  EXPECT_FALSE(parsed.has_checksums());
  EXPECT_EQ(parsed.tensors().size(), 4U);
  EXPECT_EQ(parsed.metadata(), (SafetensorsMetadata{{"k", "v"}}));
  const TensorView* z = parsed.find("z");
  ASSERT_NE(z, nullptr);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(z->data) % 4, 0U);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(static_cast<const unsigned char*>(z->data)[i], i + 1);
  EXPECT_EQ(parsed.find("s")->shape.size(), 0U);
  EXPECT_EQ(parsed.find("e")->bytes, 0U);
  EXPECT_NE(parsed.find("é\n"), nullptr);
  EXPECT_EQ(parsed.find("nothing"), nullptr);
  EXPECT_EQ(parse_safetensors(file_of("{}", 0), "empty").tensors().size(), 0U);
}

TEST(Safetensors, ProductOfDimensionsAgreesWith128BitArithmetic) {
  const bool holds = rc::check([](const std::vector<std::uint32_t>& raw) {
    const std::vector<int> shifts =
        *rc::gen::container<std::vector<int>>(raw.size(), rc::gen::inRange(0, 32));
    std::vector<std::int64_t> shape;
    Int128 product = 8;
    for (std::size_t i = 0; i < raw.size() && i < 12; ++i) {
      shape.push_back(std::int64_t{raw[i] >> shifts[i]} + 1);
      if (product <= INT64_MAX) product *= shape.back();
    }
    const auto actual = checked_tensor_bytes(shape, 8);
    RC_ASSERT(actual.has_value() == (product <= INT64_MAX));
    if (actual) RC_ASSERT(static_cast<Int128>(*actual) == product);
  });
  EXPECT_TRUE(holds);
}

constexpr FileDType kAllDTypes[] = {FileDType::kBool,   FileDType::kU8,  FileDType::kI8,  FileDType::kF8E5M2,
                                    FileDType::kF8E4M3, FileDType::kI16, FileDType::kU16, FileDType::kF16,
                                    FileDType::kBF16,   FileDType::kI32, FileDType::kU32, FileDType::kF32,
                                    FileDType::kC64,    FileDType::kF64, FileDType::kI64, FileDType::kU64};

TEST(Safetensors, RoundTripsAllDTypesShapesNamesAndMetadata) {
  for (const FileDType dtype : kAllDTypes) EXPECT_EQ(parse_file_dtype(name_of(dtype)), dtype);
  const bool holds =
      rc::check([](const std::map<std::string, std::string>& raw_metadata, std::uint32_t seed) {
        std::mt19937 random(seed);
        SafetensorsMetadata metadata;
        const auto ascii = [](std::string text) {
          for (char& c : text) c = static_cast<char>(c & 0x7f);
          return text;
        };
        for (const auto& [key, value] : raw_metadata) metadata["m" + ascii(key)] = ascii(value);
        std::vector<std::vector<std::byte>> storage;
        std::vector<TensorView> tensors;
        for (std::size_t i = 0; i < 12; ++i) {
          TensorView tensor;
          tensor.name = "t\"\\/\x01\t\xc3\xa9." + std::to_string(random() % 1000) + "." + std::to_string(i);
          tensor.dtype = kAllDTypes[random() % std::size(kAllDTypes)];
          for (std::size_t d = random() % 5; d > 0; --d)
            tensor.shape.push_back(random() % 4 + (random() % 8 != 0));
          tensor.bytes = *checked_tensor_bytes(tensor.shape, size_of(tensor.dtype));
          storage.emplace_back(tensor.bytes);
          for (std::byte& byte : storage.back()) byte = static_cast<std::byte>(random());
          tensor.data = storage.back().data();
          tensors.push_back(tensor);
        }
        const auto file = serialize_safetensors(tensors, metadata);
        std::shuffle(tensors.begin(), tensors.end(), random);
        RC_ASSERT(file == serialize_safetensors(tensors, metadata));
        const SafetensorsFile parsed = parse_safetensors(file, "round trip");
        RC_ASSERT(parsed.has_checksums());
        RC_ASSERT(parsed.tensors().size() == tensors.size());
        for (const TensorView& tensor : tensors) {
          const TensorView* back = parsed.find(tensor.name);
          RC_ASSERT(back != nullptr);
          RC_ASSERT(back->dtype == tensor.dtype);
          RC_ASSERT(back->shape == tensor.shape);
          RC_ASSERT(back->bytes == tensor.bytes);
          RC_ASSERT((tensor.bytes == 0 || std::memcmp(back->data, tensor.data, tensor.bytes) == 0));
        }
        metadata.try_emplace("format", "pt");
        RC_ASSERT(parsed.metadata() == metadata);
        const TensorView* last = nullptr;  // packed, large elements first
        for (const TensorView& tensor : parsed.tensors()) {
          if (tensor.bytes == 0) continue;
          RC_ASSERT((last == nullptr || last->dtype >= tensor.dtype));
          last = &tensor;
        }
      });
  EXPECT_TRUE(holds);
}

class DamageTest : public ::testing::Test {
 protected:
  DamageTest() {
    const TensorView tensors[] = {view_of("conv1.weight", FileDType::kF32, {4, 3, 5}, weight_),
                                  view_of("bn1.running_mean", FileDType::kF64, {7, 0}, nothing_),
                                  view_of("bn1.num_batches_tracked", FileDType::kI64, {}, tracked_)};
    file_ = serialize_safetensors(tensors, {{"cohort.arch", "resnet20"}, {"cohort.step", "391"}});
    std::memcpy(&length_, file_.data(), 8);
  }

  std::vector<float> weight_ = counting<float>(60);
  std::vector<double> nothing_;
  std::vector<std::int64_t> tracked_ = counting<std::int64_t>(1);
  std::vector<std::byte> file_;
  std::uint64_t length_ = 0;
};

// A flip may only pass when it changes white space into other white space, which carries nothing.
TEST_F(DamageTest, EveryChangedHeaderByteIsFound) {
  const SafetensorsFile good = parse_safetensors(file_, "good");
  std::int64_t accepted = 0;
  for (std::size_t at = 0; at < 8 + length_; ++at) {
    for (int i = 0; i < 20; ++i) {  // all single bits, then others
      const int change =
          i < 8 ? 1 << i : 1 + static_cast<int>((at * 31 + static_cast<std::size_t>(i) * 97) % 255);
      auto bad = file_;
      bad[at] ^= static_cast<std::byte>(change);
      try {
        const SafetensorsFile parsed = parse_safetensors(bad, "bad");
        ++accepted;
        EXPECT_EQ(file_[at], std::byte{' '}) << "byte " << at << " ^ " << change;
        EXPECT_EQ(parsed.metadata(), good.metadata());
        EXPECT_EQ(parsed.tensors().size(), good.tensors().size());
      } catch (const Error& error) {
        ASSERT_EQ(error.kind(), ErrorKind::kCheckpoint);
      }
    }
  }
  EXPECT_LE(accepted, 7 * 3);  // at most 7 spaces of padding, each to tab, line feed or carriage return
}

TEST_F(DamageTest, EveryFlippedPayloadBitIsFoundAndTheTensorNamed) {
  for (std::size_t bit = (8 + length_) * 8; bit < file_.size() * 8; ++bit) {
    auto bad = file_;
    bad[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    const char* name = bit / 8 < 8 + length_ + 8 ? "'bn1.num_batches_tracked'" : "'conv1.weight'";
    EXPECT_THAT(refusal(bad, {.kind = ErrorKind::kCheckpoint}).replace(0, 0, "model.safetensors "),
                HasSubstr(name));
  }
}

TEST_F(DamageTest, ALostChecksumIsFound) {
  // Drops one key at a time, as an editor would; the file without any is a foreign one.
  const std::string text(reinterpret_cast<const char*>(file_.data()) + 8, length_);
  int keys = 0;
  for (std::size_t at = text.find("\"cohort.xxh3"); at != std::string::npos;
       at = text.find("\"cohort.xxh3", at + 1)) {
    ++keys;
    const std::size_t end = text.find(',', at) + 1;
    const std::string header = text.substr(0, at) + text.substr(end);
    auto bad = file_of(header, 0);
    bad.insert(bad.end(), file_.begin() + static_cast<std::ptrdiff_t>(8 + length_), file_.end());
    EXPECT_THAT(refusal(bad), HasSubstr("checksum"));
  }
  EXPECT_EQ(keys, 4);
}

TEST(Safetensors, RefusesNonFiniteValuesOnRequest) {
  const auto check = [](FileDType dtype, auto values, std::size_t index, auto bad) {
    const auto make = [&] {
      const TensorView tensor = view_of(
          "net.w", dtype, {static_cast<std::int64_t>(values.size() * sizeof(bad) / size_of(dtype))}, values);
      return serialize_safetensors({&tensor, 1}, {});
    };
    EXPECT_EQ(refusal(make(), {.allow_nonfinite = false}), "accepted");
    values[index] = bad;
    EXPECT_EQ(refusal(make()), "accepted");
    EXPECT_THAT(refusal(make(), {.allow_nonfinite = false, .kind = ErrorKind::kInput}),
                HasSubstr("'net.w' holds NaN or Inf at index " + std::to_string(index)));
  };
  check(FileDType::kF32, counting<float>(9), 8, std::numeric_limits<float>::quiet_NaN());
  check(FileDType::kF32, counting<float>(9), 0, -std::numeric_limits<float>::infinity());
  check(FileDType::kF64, counting<double>(9), 3, std::numeric_limits<double>::infinity());
  check(FileDType::kC64, counting<float>(8), 5, std::numeric_limits<float>::infinity());
  check(FileDType::kBF16, std::vector<std::uint16_t>(5, 0x7f7f), 2, std::uint16_t{0xff80});
  check(FileDType::kF16, std::vector<std::uint16_t>(5, 0x7bff), 4, std::uint16_t{0x7e00});
  const auto words = std::vector<std::int32_t>(4, -1);  // bits of a NaN, but integers
  const TensorView tensor = view_of("i", FileDType::kI32, {4}, words);
  EXPECT_EQ(refusal(serialize_safetensors({&tensor, 1}, {}), {.allow_nonfinite = false}), "accepted");
}

TEST(Safetensors, ReadsFilesAndReportsTheCallersKind) {
  test::TemporaryFolder folder;
  const auto values = counting<float>(5);
  const TensorView tensor = view_of("w", FileDType::kF32, {5}, values);
  const auto bytes = serialize_safetensors({&tensor, 1}, {{"cohort.version", "1"}});
  FileSystem& fs = system_file_system();
  durable_replace(fs, folder / "m.safetensors", bytes);
  const SafetensorsFile file = read_safetensors(fs, folder / "m.safetensors");
  EXPECT_EQ(std::memcmp(file.find("w")->data, values.data(), 20), 0);
  EXPECT_EQ(file.metadata().at("cohort.version"), "1");
  std::filesystem::resize_file(folder / "m.safetensors", bytes.size() - 1);
  std::filesystem::create_directory(folder / "d.safetensors");
  std::ofstream(folder / "short.safetensors") << "1234567";
  for (const char* name : {"m.safetensors", "d.safetensors", "short.safetensors", "none.safetensors"}) {
    try {
      read_safetensors(fs, folder / name, {.kind = ErrorKind::kInput});
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      EXPECT_THAT(error.what(), HasSubstr(folder / name));
    }
  }
  std::filesystem::create_symlink(folder / "short.safetensors", folder / "link");  // input may be a link
  EXPECT_THROW(read_safetensors(fs, folder / "link"), Error);
}

TEST(Safetensors, MisuseOfTheWriterIsABugReport) {
  const auto values = counting<float>(2);
  const auto fails = [](std::vector<TensorView> tensors, const SafetensorsMetadata& metadata = {}) {
    try {
      serialize_safetensors(tensors, metadata);
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kInternal;
    }
    return false;
  };
  const TensorView good = view_of("a", FileDType::kF32, {2}, values);
  EXPECT_FALSE(fails({good}));
  EXPECT_TRUE(fails({good, good}));
  EXPECT_TRUE(fails({view_of("a", FileDType::kF32, {3}, values)}));
  EXPECT_TRUE(fails({view_of("a", FileDType::kF32, {-2, -1}, values)}));
  EXPECT_TRUE(fails({view_of("__metadata__", FileDType::kF32, {2}, values)}));
  EXPECT_TRUE(fails({view_of("\xff", FileDType::kF32, {2}, values)}));
  EXPECT_TRUE(fails({good}, {{"k", "\xff"}}));
}

}  // namespace
}  // namespace cohort
