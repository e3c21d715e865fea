#include "tools/text.h"

#include <gtest/gtest.h>

#include <clocale>
#include <cmath>
#include <limits>
#include <locale>

namespace cohort::tools {
namespace {

TEST(Text, NumbersReadBackExactly) {
  for (const double value :
       {0.0, 1.0, -1.0, 0.1, 5e-4, 1e-300, 1e300, 123456789.0, 1.0 / 3, 2.5e-7, 1e15, 1e16}) {
    const std::string text = format_float(value);
    EXPECT_EQ(parse_float(text), value) << text;
    EXPECT_NE(text.find_first_of(".e"), std::string::npos) << text;
  }
  EXPECT_EQ(format_float(1), "1.0");
  EXPECT_EQ(format_float(5e-4), "5e-4");
  EXPECT_EQ(format_float(0.1), "0.1");
  EXPECT_EQ(format_float(-std::numeric_limits<double>::infinity()), "-inf");
  EXPECT_FALSE(parse_float("1,5"));
  EXPECT_FALSE(parse_float("1.5x"));
  EXPECT_FALSE(parse_float(""));
  EXPECT_FALSE(parse_int("1.0"));
  EXPECT_EQ(parse_int("-42"), -42);
}

// A number with a decimal comma in config.toml would be lost work. The facet stands in for locales that are
// not installed everywhere.
TEST(Text, NumbersIgnoreTheLocale) {
  struct Comma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Comma));
  std::setlocale(LC_ALL, "de_DE.UTF-8");
  EXPECT_EQ(format_float(1234.5), "1234.5");
  EXPECT_EQ(parse_float("1234.5"), 1234.5);
  EXPECT_EQ(upper("title"), "TITLE");
  std::setlocale(LC_ALL, "C");
  std::locale::global(before);
}

TEST(Text, DidYouMean) {
  EXPECT_EQ(did_you_mean("methd", {"method"}), "did you mean 'method'?");
  EXPECT_EQ(did_you_mean("x", {"method"}), "");
}

TEST(Text, Utf8) {
  EXPECT_FALSE(find_invalid_utf8("plain \xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80"));
  EXPECT_EQ(find_invalid_utf8("ab\x80"), 2u);
  EXPECT_EQ(find_invalid_utf8("\xC0\xAF"), 0u) << "overlong";
  EXPECT_EQ(find_invalid_utf8("\xED\xA0\x80"), 0u) << "surrogate";
  EXPECT_EQ(find_invalid_utf8("\xF4\x90\x80\x80"), 0u) << "above U+10FFFF";
  EXPECT_EQ(find_invalid_utf8("a\xE2\x82"), 1u) << "cut off";
  EXPECT_EQ(display_width("\xE2\x82\xAC"), 1);
  EXPECT_EQ(printable("a\x1b[31m\n\xFF\xC2\x9B"), "a\\x1b[31m\\x0a\\xff\\u009b");
  EXPECT_EQ(printable("caf\xC3\xA9"), "caf\xC3\xA9");
}

TEST(Text, Splitting) {
  EXPECT_EQ(split("a,b,,c", ',').size(), 4u);
  EXPECT_EQ(split("", ',').size(), 1u);
  EXPECT_EQ(trim("  a b \n"), "a b");
  EXPECT_EQ(trim(" \t"), "");
  EXPECT_EQ(join({"a", "b"}, ", "), "a, b");
}

}  // namespace
}  // namespace cohort::tools
