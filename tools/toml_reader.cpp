#include "tools/toml_reader.h"

#include <fmt/format.h>

#include <charconv>
#include <utility>

#include "tools/text.h"
#include "tools/toml_number.h"

namespace cohort::tools {
namespace {

using Kind = TomlNode::Kind;
using Definition = TomlNode::Definition;

// Thrown inside the reader only: a mistake that ends the current line.
struct SyntaxError {
  TomlMark mark;
  std::string message;
  std::string note;
};

bool is_bare_key(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

void append_utf8(std::string& out, std::uint32_t code) {
  const auto put = [&](std::uint32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | (code >> 6));
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3F));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

struct KeyPart {
  std::string name;
  TomlMark mark;
};

class Reader {
 public:
  explicit Reader(TomlDocument& document) : document_(document), text_(document.text) {}

  void read() {
    document_.root.definition = Definition::kHeader;
    current_ = &document_.root;
    while (!at_end()) {
      try {
        read_line();
      } catch (const SyntaxError& error) {
        document_.problems.push_back({error.mark, error.message, error.note});
        if (full_ || document_.problems.size() >= static_cast<std::size_t>(kMaxConfigProblems)) return;
        skip_to_statement();
      }
    }
  }

 private:
  bool at_end() const { return position_ >= text_.size(); }
  char peek(std::size_t ahead = 0) const {
    return position_ + ahead < text_.size() ? text_[position_ + ahead] : '\0';
  }
  bool starts_with(std::string_view what) const { return text_.substr(position_, what.size()) == what; }
  void advance() {
    if (text_[position_] == '\n') {
      ++line_;
      line_begin_ = position_ + 1;
    }
    ++position_;
  }
  void advance(std::size_t count) {
    for (; count > 0 && !at_end(); --count) advance();
  }

  TomlMark here(int length = 1) const {
    return {line_, static_cast<int>(position_ - line_begin_) + 1, length};
  }
  // From `begin` to the current position; a value of several lines is marked on its first.
  TomlMark since(TomlMark begin, std::size_t from) const {
    begin.length = begin.line == line_ ? static_cast<int>(position_ - from) : 1;
    if (begin.length < 1) begin.length = 1;
    return begin;
  }
  [[noreturn]] void fail(TomlMark mark, std::string message, std::string note = {}) const {
    throw SyntaxError{mark, std::move(message), std::move(note)};
  }
  void count_value(TomlMark mark) {
    if (++values_ <= kMaxConfigValues) return;
    full_ = true;
    fail(mark, fmt::format("more than {} values in one file", kMaxConfigValues));
  }
  void check_depth(int depth, TomlMark mark) const {
    if (depth > kMaxConfigDepth) fail(mark, fmt::format("nested deeper than {} levels", kMaxConfigDepth));
  }

  void skip_blanks() {
    while (peek() == ' ' || peek() == '\t') advance();
  }
  void skip_comment() {
    if (peek() != '#') return;
    while (!at_end() && peek() != '\n') {
      if (is_control(peek())) fail(here(), "control character in a comment");
      advance();
    }
  }
  static bool is_control(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte < 0x20 && c != '\t') || byte == 0x7F;
  }
  void skip_blank_lines() {  // blanks, comments and line ends inside arrays
    while (!at_end()) {
      skip_blanks();
      skip_comment();
      if (peek() != '\n' || at_end()) return;
      advance();
    }
  }
  void end_of_statement() {
    skip_blanks();
    skip_comment();
    if (at_end()) return;
    if (peek() != '\n') {
      const TomlMark mark = here();
      fail(mark, fmt::format("expected the end of the line, found {}", found()));
    }
    advance();
  }
  std::string found() const {
    if (at_end()) return "the end of the file";
    if (peek() == '\n') return "the end of the line";
    return fmt::format("'{}'", printable(text_.substr(position_, 1)));
  }
  // After a mistake: go on at the next line that looks like a statement, so that one mistake gives one
  // message.
  void skip_to_statement() {
    const auto next_line = [&] {
      while (!at_end() && peek() != '\n') advance();
      if (!at_end()) advance();
    };
    next_line();
    while (!at_end()) {
      std::size_t i = position_;
      while (i < text_.size() && (text_[i] == ' ' || text_[i] == '\t')) ++i;
      if (i >= text_.size()) return;
      if (text_[i] == '[' && i == position_) return;
      const std::size_t begin = i;
      while (i < text_.size() && (is_bare_key(text_[i]) || text_[i] == '.')) ++i;
      const bool word = i > begin;
      while (i < text_.size() && (text_[i] == ' ' || text_[i] == '\t')) ++i;
      if (word && i < text_.size() && text_[i] == '=') return;
      next_line();
    }
  }

  void read_line() {
    skip_blanks();
    if (at_end() || peek() == '#' || peek() == '\n') {
      end_of_statement();
    } else if (peek() == '[') {
      read_header();
    } else {
      read_pair(*current_, current_depth_);
      end_of_statement();
    }
  }

  std::vector<KeyPart> read_key() {
    std::vector<KeyPart> parts;
    while (true) {
      skip_blanks();
      const TomlMark begin = here();
      const std::size_t from = position_;
      std::string name;
      if (peek() == '"' || peek() == '\'') {
        if (starts_with("\"\"\"") || starts_with("'''")) fail(begin, "a key cannot be a multi-line string");
        name = peek() == '"' ? read_basic_string() : read_literal_string();
      } else {
        while (!at_end() && is_bare_key(peek())) {
          name += peek();
          advance();
        }
        if (name.empty()) fail(begin, fmt::format("expected a key, found {}", found()));
      }
      parts.push_back({std::move(name), since(begin, from)});
      check_depth(static_cast<int>(parts.size()), begin);
      skip_blanks();
      if (peek() != '.') return parts;
      advance();
    }
  }

  void read_header() {
    const bool array = starts_with("[[");
    advance(array ? 2 : 1);
    const std::vector<KeyPart> parts = read_key();
    if (!starts_with(array ? "]]" : "]")) {
      fail(here(), fmt::format("expected '{}', found {}", array ? "]]" : "]", found()));
    }
    advance(array ? 2 : 1);
    TomlNode* table = &document_.root;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i)
      table = &open_table(*table, parts[i], Definition::kImplicit);
    const KeyPart& last = parts.back();
    current_ = array ? &append_to_array(*table, last) : &define_table(*table, last);
    current_depth_ = static_cast<int>(parts.size());
    end_of_statement();
  }

  TomlNode& add_child(TomlNode& table, const KeyPart& part, Kind kind, Definition definition) {
    count_value(part.mark);
    TomlNode child;
    child.kind = kind;
    child.definition = definition;
    child.name = part.name;
    child.key = part.mark;
    child.value = part.mark;
    table.children.push_back(std::move(child));
    return table.children.back();
  }
  [[noreturn]] void fail_defined(const TomlNode& node, const KeyPart& part) const {
    fail(part.mark, fmt::format("key '{}' is defined twice", printable(part.name)),
         fmt::format("first on line {}", node.key.line));
  }

  TomlNode& open_table(TomlNode& table, const KeyPart& part, Definition definition) {
    TomlNode* found_node = table.find(part.name);
    if (found_node == nullptr) return add_child(table, part, Kind::kTable, definition);
    if (found_node->definition == Definition::kArrayOfTables && definition == Definition::kImplicit) {
      return found_node->children.back();
    }
    const bool is_open = found_node->kind == Kind::kTable && found_node->definition != Definition::kInline;
    // A dotted key adds only to what dotted keys made.
    const bool may_extend =
        definition != Definition::kDotted || found_node->definition == Definition::kDotted;
    if (!is_open || !may_extend) fail_defined(*found_node, part);
    return *found_node;
  }
  TomlNode& define_table(TomlNode& table, const KeyPart& part) {
    TomlNode* found_node = table.find(part.name);
    if (found_node == nullptr) return add_child(table, part, Kind::kTable, Definition::kHeader);
    if (found_node->kind != Kind::kTable || found_node->definition != Definition::kImplicit) {
      fail_defined(*found_node, part);
    }
    found_node->definition = Definition::kHeader;
    return *found_node;
  }
  TomlNode& append_to_array(TomlNode& table, const KeyPart& part) {
    TomlNode* array = table.find(part.name);
    if (array == nullptr) array = &add_child(table, part, Kind::kArray, Definition::kArrayOfTables);
    if (array->definition != Definition::kArrayOfTables) fail_defined(*array, part);
    TomlNode& element = add_child(*array, part, Kind::kTable, Definition::kHeader);
    element.name.clear();
    return element;
  }

  void read_pair(TomlNode& table, int depth) {
    const std::vector<KeyPart> parts = read_key();
    check_depth(depth + static_cast<int>(parts.size()), parts.front().mark);
    if (peek() != '=') {
      fail(here(),
           fmt::format("expected '=' after the key '{}', found {}", printable(parts.back().name), found()));
    }
    advance();
    skip_blanks();
    TomlNode* target = &table;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i)
      target = &open_table(*target, parts[i], Definition::kDotted);
    const KeyPart& last = parts.back();
    if (const TomlNode* other = target->find(last.name)) fail_defined(*other, last);
    count_value(last.mark);
    TomlNode node = read_value(depth + static_cast<int>(parts.size()));
    node.name = last.name;
    node.key = last.mark;
    target->children.push_back(std::move(node));
  }

  TomlNode read_value(int depth) {
    const TomlMark begin = here();
    const std::size_t from = position_;
    check_depth(depth, begin);
    TomlNode node;
    const char first = peek();
    if (first == '"' || first == '\'') {
      node.kind = Kind::kString;
      node.text = read_string();
    } else if (first == '[') {
      read_array(node, depth);
    } else if (first == '{') {
      read_inline_table(node, depth);
    } else {
      read_scalar(node);
    }
    node.value = since(begin, from);
    return node;
  }

  void read_array(TomlNode& node, int depth) {
    node.kind = Kind::kArray;
    const TomlMark begin = here();
    advance();
    while (true) {
      skip_blank_lines();
      if (at_end()) fail(begin, "this array is never closed", "expected ']'");
      if (peek() == ']') break;
      count_value(here());
      node.children.push_back(read_value(depth + 1));
      skip_blank_lines();
      if (peek() == ',') {
        advance();
      } else if (peek() != ']') {
        fail(at_end() ? begin : here(), fmt::format("expected ',' or ']' in the array, found {}", found()));
      }
    }
    advance();
  }

  void read_inline_table(TomlNode& node, int depth) {
    node.kind = Kind::kTable;
    node.definition = Definition::kInline;
    advance();
    skip_blanks();
    while (peek() != '}') {
      read_pair(node, depth);
      skip_blanks();
      if (peek() == '}') break;
      if (peek() != ',')
        fail(here(), fmt::format("expected ',' or '}}' in the inline table, found {}", found()));
      advance();
      skip_blanks();
      if (peek() == '}') fail(here(), "an inline table has no trailing comma");
    }
    advance();
    seal(node);
  }
  // Nothing can be added to an inline table once it is closed, nor to the tables that its dotted keys made.
  static void seal(TomlNode& node) {
    for (TomlNode& child : node.children) {
      if (child.kind != Kind::kTable) continue;
      child.definition = Definition::kInline;
      seal(child);
    }
  }

  std::string read_string() {
    if (starts_with("\"\"\"")) return read_multi_line(true);
    if (starts_with("'''")) return read_multi_line(false);
    return peek() == '"' ? read_basic_string() : read_literal_string();
  }
  std::string read_basic_string() {
    const TomlMark begin = here();
    std::string out;
    advance();
    while (peek() != '"') {
      check_string_char(begin, false);
      if (peek() == '\\') {
        read_escape(out);
      } else {
        out += peek();
        advance();
      }
    }
    advance();
    return out;
  }
  std::string read_literal_string() {
    const TomlMark begin = here();
    std::string out;
    advance();
    while (peek() != '\'') {
      check_string_char(begin, false);
      out += peek();
      advance();
    }
    advance();
    return out;
  }
  void check_string_char(TomlMark begin, bool multi_line) const {
    if (at_end() || (!multi_line && peek() == '\n'))
      fail(begin, "this string is never closed", "expected a quote");
    if (peek() != '\n' && is_control(peek()))
      fail(here(), "control character in a string", "write it as \\uXXXX");
  }
  std::string read_multi_line(bool basic) {
    const TomlMark begin = here(3);
    const std::string_view quotes = basic ? "\"\"\"" : "'''";
    std::string out;
    advance(3);
    if (peek() == '\n') advance();
    while (!starts_with(quotes)) {
      check_string_char(begin, true);
      if (basic && peek() == '\\') {
        if (!skip_line_continuation()) read_escape(out);
      } else {
        out += peek();
        advance();
      }
    }
    advance(3);
    for (int extra = 0; extra < 2 && peek() == quotes[0]; ++extra) {  // """a"""" ends in a quote
      out += quotes[0];
      advance();
    }
    return out;
  }
  bool skip_line_continuation() {
    std::size_t i = position_ + 1;
    while (i < text_.size() && (text_[i] == ' ' || text_[i] == '\t')) ++i;
    if (i >= text_.size() || text_[i] != '\n') return false;
    advance();
    while (peek() == ' ' || peek() == '\t' || peek() == '\n') advance();
    return true;
  }
  void read_escape(std::string& out) {
    const TomlMark mark = here(2);
    advance();
    const char code = peek();
    static constexpr std::string_view kCodes = "btnfr\"\\";
    static constexpr std::string_view kValues = "\b\t\n\f\r\"\\";
    if (const std::size_t index = kCodes.find(code); index != std::string_view::npos && !at_end()) {
      out += kValues[index];
      advance();
      return;
    }
    if (code != 'u' && code != 'U')
      fail(mark, "unknown escape", "a backslash is written \\\\, or use 'single quotes'");
    const std::size_t digits = code == 'u' ? 4 : 8;
    advance();
    const std::string_view hex = text_.substr(position_, digits);
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), value, 16);
    const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
    if (hex.size() != digits || error != std::errc() || end != hex.data() + digits || surrogate ||
        value > 0x10FFFF) {
      fail(mark, fmt::format("\\{} needs {} hexadecimal digits of a Unicode character", code, digits));
    }
    advance(digits);
    append_utf8(out, value);
  }

  void read_scalar(TomlNode& node) {
    const TomlMark begin = here();
    const std::size_t from = position_;
    while (!at_end() && (is_bare_key(peek()) || peek() == '+' || peek() == '.' || peek() == ':')) advance();
    const std::string_view word = text_.substr(from, position_ - from);
    const TomlMark mark = since(begin, from);
    if (word.empty()) fail(begin, fmt::format("expected a value, found {}", found()));
    if (word == "true" || word == "false") {
      node.kind = Kind::kBool;
      node.boolean = word == "true";
      return;
    }
    const TomlNumber number = parse_toml_number(word);
    if (!number.problem.empty()) fail(mark, number.problem);
    if (number.kind != TomlNumber::Kind::kNone) {
      node.kind = number.kind == TomlNumber::Kind::kInt ? Kind::kInt : Kind::kFloat;
      node.integer = number.integer;
      node.real = number.real;
      return;
    }
    if (word.find(':') != std::string_view::npos || is_date(word)) {
      fail(mark, "dates and times are not used in this file", "put it in quotes");
    }
    fail(mark, fmt::format("'{}' is not a value", printable(word)), "text needs quotes");
  }
  static bool is_date(std::string_view word) {
    return word.size() >= 10 && word[4] == '-' && word[7] == '-' &&
           word.find_first_not_of("0123456789-T") == word.npos;
  }

  TomlDocument& document_;
  std::string_view text_;
  std::size_t position_ = 0;
  std::size_t line_begin_ = 0;
  int line_ = 1;
  int values_ = 0;
  bool full_ = false;
  TomlNode* current_ = nullptr;
  int current_depth_ = 0;
};

std::string normalise_line_ends(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    out += text[i];
  }
  return out;
}

}  // namespace

TomlNode* TomlNode::find(std::string_view child) {
  if (kind != Kind::kTable) return nullptr;
  for (TomlNode& node : children) {
    if (node.name == child) return &node;
  }
  return nullptr;
}

const TomlNode* TomlNode::find(std::string_view child) const {
  return const_cast<TomlNode*>(this)->find(child);
}

std::string TomlDocument::line(int number) const {
  std::size_t begin = 0;
  for (int i = 1; i < number; ++i) {
    begin = text.find('\n', begin);
    if (begin == std::string::npos) return {};
    ++begin;
  }
  return text.substr(begin, text.find('\n', begin) - begin);
}

TomlDocument read_toml(std::string_view text) {
  TomlDocument document;
  document.root.kind = Kind::kTable;
  if (text.size() > kMaxConfigBytes) {
    document.problems.push_back({{}, fmt::format("the file is larger than {} bytes", kMaxConfigBytes), {}});
    return document;
  }
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.substr(0, 3) == kByteOrderMark) text.remove_prefix(3);
  document.text = normalise_line_ends(text);
  if (const auto bad = find_invalid_utf8(document.text)) {
    const std::string before = document.text.substr(0, *bad);
    const std::size_t line_begin = before.rfind('\n') == std::string::npos ? 0 : before.rfind('\n') + 1;
    int line = 1;
    for (const char c : before) line += c == '\n' ? 1 : 0;
    document.problems.push_back(
        {{line, static_cast<int>(*bad - line_begin) + 1, 1},
         fmt::format("not UTF-8: byte 0x{:02x}", static_cast<unsigned char>(document.text[*bad])),
         "save the file as UTF-8"});
    return document;
  }
  Reader(document).read();
  return document;
}

std::string toml_quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\u{:04X}", byte);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

const char* toml_kind_name(TomlNode::Kind kind) {
  switch (kind) {
    case Kind::kBool:
      return "a boolean";
    case Kind::kInt:
      return "an integer";
    case Kind::kFloat:
      return "a number";
    case Kind::kString:
      return "text";
    case Kind::kArray:
      return "a list";
    case Kind::kTable:
      break;
  }
  return "a table";
}

}  // namespace cohort::tools
