// Configuration files: toml++ behind limits that it lacks (1 MiB, depth 64, 4096 values, words of 60 bytes),
// as a tree with the position of every key and value in the order of the file. Every mistake is listed, not
// only the first. Dates and times, which no key uses, are refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cohort::tools {

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;
constexpr int kMaxConfigDepth = 64;     // tables, dotted keys, arrays and inline tables together
constexpr int kMaxConfigValues = 4096;  // keys and array elements of one document
constexpr int kMaxConfigProblems = 20;  // reported; the reader stops there

struct TomlMark {
  int line = 0;    // 1-based; 0: the whole text
  int column = 0;  // 1-based, in bytes
  int length = 1;
};

struct TomlNode {
  enum class Kind { kBool, kInt, kFloat, kString, kArray, kTable };

  Kind kind = Kind::kTable;
  std::string name;  // the key; empty for array elements and the root
  TomlMark key;
  TomlMark value;
  bool boolean = false;
  std::int64_t integer = 0;
  double real = 0;
  std::string text;
  std::vector<TomlNode> children;  // elements of an array, entries of a table in file order

  TomlNode* find(std::string_view child);
  const TomlNode* find(std::string_view child) const;
};

struct TomlProblem {
  TomlMark mark;
  std::string message;
  std::string note;
};

struct TomlDocument {
  TomlNode root;
  std::vector<TomlProblem> problems;  // empty: the whole text was valid
  std::string text;                   // without byte order mark, line ends as \n

  std::string line(int number) const;  // 1-based, for messages
};

// Never throws for any input text (but std::bad_alloc); values that were read before a problem are in the
// tree.
TomlDocument read_toml(std::string_view text);

// A string as a TOML basic string, with quotes.
std::string toml_quote(std::string_view text);

const char* toml_kind_name(TomlNode::Kind kind);

}  // namespace cohort::tools
