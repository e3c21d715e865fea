// Configuration texts: the rules of TOML 1.0 (valid, invalid), positions, limits, and texts that break the
// library below when they reach it.
#include "tools/toml_reader.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tools/text.h"

namespace cohort::tools {
namespace {

// One line for a tree: {a=1 b={c="x"} d=[1 2]}.
std::string show(const TomlNode& node) {
  using Kind = TomlNode::Kind;
  std::string out;
  switch (node.kind) {
    case Kind::kBool:
      return node.boolean ? "true" : "false";
    case Kind::kInt:
      return std::to_string(node.integer);
    case Kind::kFloat:
      return std::isnan(node.real) ? "nan" : format_float(node.real);
    case Kind::kString:
      return toml_quote(node.text);
    case Kind::kArray:
      for (const TomlNode& item : node.children) out += (out.empty() ? "" : " ") + show(item);
      return "[" + out + "]";
    case Kind::kTable:
      break;
  }
  std::vector<std::string> entries;
  for (const TomlNode& child : node.children) entries.push_back(child.name + "=" + show(child));
  std::sort(entries.begin(), entries.end());
  return "{" + join(entries, " ") + "}";
}

struct Valid {
  std::string text;
  const char* tree;
};

TEST(TomlReader, ReadsWhatIsValid) {
  const std::vector<Valid> cases = {
      {"", R"({})"},
      {"\n\n# only a comment\n", R"({})"},
      {"a = 1", R"({a=1})"},
      {"a = +1_000\nb = -0\nc = 0xDEAD_beef\nd = 0o755\ne = 0b1101\nf = 9223372036854775807\ng = "
       "-9223372036854775808",
       R"({a=1000 b=0 c=3735928559 d=493 e=13 f=9223372036854775807 g=-9223372036854775808})"},
      {"a = 3.14\nb = -0.01\nc = 5e+22\nd = 1e06\ne = -2E-2\nf = 6.626e-34\ng = 224_617.445_991\nh = inf\ni "
       "= "
       "-inf\nj = nan",
       R"({a=3.14 b=-0.01 c=5e+22 d=1e+6 e=-0.02 f=6.626e-34 g=224617.445991 h=inf i=-inf j=nan})"},
      {"a = true\nb = false", R"({a=true b=false})"},
      {"s = \"a \\\"quoted\\\" \\t tab \\u00E9 \\U0001F600 \\\\ \"", R"({s="a \"quoted\" \t tab é 😀 \\ "})"},
      {"s = 'C:\\path\\no\\escapes'", R"({s="C:\\path\\no\\escapes"})"},
      {"s = \"\"\"\nfirst\nsecond \\\n   joined\"\"\"", R"({s="first\nsecond joined"})"},
      {"s = '''\nraw \\ text\n  stays'''", R"({s="raw \\ text\n  stays"})"},
      {"s = \"\"\"ends in quotes\"\"\"\"\"", R"({s="ends in quotes\"\""})"},
      {"s = \"\"\"one \" two \"\" inside\"\"\"", R"({s="one \" two \"\" inside"})"},
      {"a.b.c = 1\na.b.d = 2\na.e = 3", R"({a={b={c=1 d=2} e=3}})"},
      {"\"quoted key\" = 1\n'literal key' = 2\nbare-key_9 = 3\n\"\" = 4",
       R"({=4 bare-key_9=3 literal key=2 quoted key=1})"},
      {"a . \"b c\" . d = 1", R"({a={b c={d=1}}})"},
      {"[t]\na = 1\n[t.u]\nb = 2\n[v.w.x]\nc = 3\n[v]\nd = 4", R"({t={a=1 u={b=2}} v={d=4 w={x={c=3}}}})"},
      {"[[n]]\na = 1\n[[n]]\na = 2\n[n.sub]\nb = 3\n[[n.list]]\nc = 4",
       R"({n=[{a=1} {a=2 list=[{c=4}] sub={b=3}}]})"},
      {"a = []\nb = [1, 2, 3,]\nc = [ # comment\n 1,\n\n 2 # more\n , 3 ]\nd = [[1], [\"x\", 'y'], []]",
       R"({a=[] b=[1 2 3] c=[1 2 3] d=[[1] ["x" "y"] []]})"},
      {"a = { }\nb = { x = 1, y.z = 2, w = { v = [1] } }", R"({a={} b={w={v=[1]} x=1 y={z=2}}})"},
      {"a = [ { x = 1 }, { x = 2 } ]", R"({a=[{x=1} {x=2}]})"},
      {"\xEF\xBB\xBF"
       "a = 1\r\n[b]\r\nc = \"\xC3\xA9\"\r\n",
       R"({a=1 b={c="é"}})"},
      {"a = \"\"\"\r\none\r\ntwo\"\"\"\r\n", R"({a="one\ntwo"})"},
      {"fruit.apple.colour = 1\n[fruit.apple.texture]\nsmooth = true",
       R"({fruit={apple={colour=1 texture={smooth=true}}}})"},
      {"1 = 2\n3.4 = 5", R"({1=2 3={4=5}})"},
      {"a=1#comment\n\tb\t=\t2\t", R"({a=1 b=2})"},
  };
  for (const Valid& c : cases) {
    const TomlDocument document = read_toml(c.text);
    ASSERT_TRUE(document.problems.empty()) << c.text << "\n" << document.problems[0].message;
    EXPECT_EQ(show(document.root), c.tree) << c.text;
  }
}

struct Invalid {
  const char* text;
  const char* message;  // a part of it
  int line;
  int column;
};

TEST(TomlReader, NamesThePlaceOfEveryMistake) {
  const std::vector<Invalid> cases = {
      {"[/]", "cannot stand here", 1, 2},
      {"a", "end-of-file", 1, 2},
      {"a =", "end-of-file", 1, 4},
      {"a = \n", "expected value", 1, 5},
      {"= 1", "expected keys", 1, 1},
      {"a = 1 b = 2", "saw 'b'", 1, 7},
      {"a = 1\na = 2", "cannot redefine", 2, 5},
      {"a = 1\n[a]\nb = 2", "cannot redefine", 2, 1},
      {"[a]\n[a]", "cannot redefine", 2, 1},
      {"[a.b]\n[a]\nb = 1", "cannot redefine", 3, 5},
      {"a.b = 1\n[a]", "cannot redefine", 2, 1},
      {"a = { b = 1 }\n[a.c]", "inline table", 2, 6},
      {"a = { b = 1 }\na.c = 2", "cannot redefine", 2, 1},
      {"a = [1]\n[[a]]", "cannot redefine", 2, 1},
      {"[[a]]\n[a]", "cannot redefine", 2, 1},
      {"[a.b.c]\nd = 1\n[a]\nb.c.e = 2", "cannot redefine", 4, 3},
      {"[a", "end-of-file", 1, 3},
      {"[[a]", "end-of-file", 1, 5},
      {"[]", "blank bare keys", 1, 2},
      {"[a.]", "saw ']'", 1, 4},
      {"a = \"x", "never closed", 1, 5},
      {"a = \"x\ny\"", "never closed", 1, 5},
      {"a = '''x", "never closed", 1, 5},
      {"a = \"\\q\"", "unknown escape", 1, 7},
      {"a = \"\\u12\"", "hex digit", 1, 10},
      {"a = \"\\uD800\"", "surrogates", 1, 12},
      {"a = \"\\U00110000\"", "U+10FFFF", 1, 16},
      {"a = \"\x01\"", "control character", 1, 6},
      {"a = 1 # \x7F", "control character", 1, 9},
      {"a = [1 2]", "expected comma", 1, 8},
      {"a = [1,\n", "end-of-file", 1, 8},
      {"a = [,]", "expected value", 1, 6},
      {"a = {b = 1,}", "dangling comma", 1, 12},
      {"a = {b = 1", "end-of-file", 1, 11},
      {"a = {b = 1\n}", "closing '}'", 1, 11},
      {"a = {b = 1, b = 2}", "cannot redefine", 1, 17},
      {"a = yes", "could not determine", 1, 5},
      {"a = 01", "leading zeroes", 1, 7},
      {"a = 1__0", "underscores", 1, 7},
      {"a = _1", "underscores", 1, 5},
      {"a = 1.", "end-of-file", 1, 7},
      {"a = .5", "expected decimal digit", 1, 5},
      {"a = 1e", "end-of-file", 1, 7},
      {"a = 0x", "end-of-file", 1, 7},
      {"a = 0x-1", "expected digit", 1, 7},
      {"a = 0b2", "expected digit", 1, 7},
      {"a = --1", "digit or sign", 1, 6},
      {"a = 9223372036854775808", "64 bits", 1, 24},
      {"a = 1e999", "could not be interpreted", 1, 10},
      {"a = 1979-05-27", "dates", 1, 5},
      {"a = 07:32:00", "dates", 1, 5},
      {"a = \xFF", "not UTF-8", 1, 5},
      {"ok = 1\nb = \"\xC0\xAF\"", "not UTF-8", 2, 6},
      {"a = 1\rb = 2", "control character", 1, 6},
      {"\"\"\"k\"\"\" = 1", "multi-line", 1, 1},
      // On these the library stops on a check of its own, or runs into undefined behaviour.
      {"[}", "'}' cannot stand here", 1, 2},
      {"a = 1\n\xC3\xA9 = 1\n[}", "'\xC3\xA9' cannot stand here", 2, 1},
      {"a = 1\"\xC3\xA9\"", "a quote cannot stand here", 1, 6},
      {"a = 1.'\xC3\xA9'", "beyond ASCII", 1, 8},
      {"a = \"\"\"x \\\n  \xC3\xA9\"\"\"", "beyond ASCII", 2, 3},
      {"a = 1_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0_0", "a word of more than 60", 1, 65},
  };
  for (const Invalid& c : cases) {
    const TomlDocument document = read_toml(c.text);
    ASSERT_FALSE(document.problems.empty()) << c.text;
    const TomlProblem& problem = document.problems[0];
    EXPECT_NE(problem.message.find(c.message), std::string::npos) << c.text << "\n" << problem.message;
    EXPECT_EQ(problem.mark.line, c.line) << c.text;
    EXPECT_EQ(problem.mark.column, c.column) << c.text;
  }
}

TEST(TomlReader, GoesOnAfterAMistake) {
  const TomlDocument document = read_toml("a = yes\nb = 2\nc = [1,\n  x,\n  3]\nd = 4\n[/]\ne = 5\n");
  ASSERT_EQ(document.problems.size(), 3u);
  EXPECT_EQ(document.problems[0].mark.line, 1);
  EXPECT_EQ(document.problems[1].mark.line, 4);
  EXPECT_EQ(document.problems[2].mark.line, 7);
  EXPECT_NE(document.root.find("b"), nullptr);
  EXPECT_NE(document.root.find("d"), nullptr);
}

TEST(TomlReader, IsBoundedInSizeDepthAndCount) {
  const std::string big(kMaxConfigBytes + 1, ' ');
  EXPECT_EQ(read_toml(big).problems.size(), 1u);
  EXPECT_TRUE(read_toml(std::string_view(big).substr(1)).problems.empty());

  const auto dotted = [](int parts) {
    std::string key = "a";
    for (int i = 1; i < parts; ++i) key += ".a";
    return key + " = 1";
  };
  EXPECT_TRUE(read_toml(dotted(kMaxConfigDepth)).problems.empty());
  EXPECT_FALSE(read_toml(dotted(kMaxConfigDepth + 1)).problems.empty());
  EXPECT_FALSE(read_toml(dotted(200000)).problems.empty());
  const auto brackets = [](int depth) {
    return "a = " + std::string(static_cast<std::size_t>(depth), '[') +
           std::string(static_cast<std::size_t>(depth), ']');
  };
  EXPECT_TRUE(read_toml(brackets(kMaxConfigDepth - 1)).problems.empty());
  EXPECT_FALSE(read_toml(brackets(kMaxConfigDepth + 1)).problems.empty());
  EXPECT_FALSE(read_toml(brackets(200000)).problems.empty());
  std::string braces = "a = ";
  for (int i = 0; i < 100000; ++i) braces += "{a=";
  EXPECT_FALSE(read_toml(braces).problems.empty());
  std::string headers;
  for (int i = 0; i < 40; ++i) headers += "a.";
  EXPECT_FALSE(read_toml("[" + headers + "a]\n" + headers + "b = 1").problems.empty()) << "both parts count";

  std::string many;
  for (int i = 0; i < 100000; ++i) many += "k" + std::to_string(i) + "=1\n";
  EXPECT_EQ(read_toml(many).problems.size(), 1u);
  std::string wrong;
  for (int i = 0; i < 1000; ++i) wrong += "k" + std::to_string(i) + "=x\n";
  EXPECT_EQ(read_toml(wrong).problems.size(), static_cast<std::size_t>(kMaxConfigProblems));
}

TEST(TomlReader, MarksKeysAndValues) {
  const TomlDocument document = read_toml("[train]\n  batch_size  =  128 # x\nname = \"cifar\"\n");
  const TomlNode* batch = document.root.find("train")->find("batch_size");
  EXPECT_EQ(batch->key.line, 2);
  EXPECT_EQ(batch->key.column, 3);
  EXPECT_EQ(batch->key.length, 10);
  EXPECT_EQ(batch->value.column, 18);
  EXPECT_EQ(batch->value.length, 3);
  EXPECT_EQ(document.line(2), "  batch_size  =  128 # x");
  EXPECT_EQ(document.line(9), "");
}

TEST(TomlReader, QuotesWhatItReadsBack) {
  std::string all;
  for (int c = 1; c < 128; ++c) all += static_cast<char>(c);
  all += "\xC3\xA9";
  const TomlDocument document = read_toml("s = " + toml_quote(all));
  ASSERT_TRUE(document.problems.empty());
  EXPECT_EQ(document.root.find("s")->text, all);
}

}  // namespace
}  // namespace cohort::tools
