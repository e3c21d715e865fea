#include "tools/toml_reader.h"

// The parser of toml++ 3.3.0 lives in this file alone, built with its checks on: in its release form they
// turn into assumptions, and small wrong texts ("[/]", "a=\v") then run into undefined behaviour. A check
// that fails is thrown through the parser, which owns everything by value, and becomes a message like every
// other.
namespace cohort::tools::toml_library {
struct BrokenCheck {};
constexpr void check(bool holds) {
  if (!holds) throw BrokenCheck();
}
}  // namespace cohort::tools::toml_library
#undef NDEBUG
#define TOML_ASSERT(condition) ::cohort::tools::toml_library::check(static_cast<bool>(condition))
#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 1
#define TOML_ENABLE_FORMATTERS 0
#define TOML_MAX_NESTED_VALUES 64
#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "tools/text.h"

namespace cohort::tools {
namespace {

using Kind = TomlNode::Kind;

static_assert(TOML_LIB_MAJOR == 3);

constexpr int kMaxWordBytes = 60;

std::string cut_line_ends(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    out += text[i];
  }
  return out;
}

// Byte offsets of a text's lines, and marks from offsets and from the library's positions (which count code
// points).
class Lines {
 public:
  explicit Lines(std::string_view text) : text_(text) {
    begins_.push_back(0);
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\n') begins_.push_back(i + 1);
    }
  }

  int count() const { return static_cast<int>(begins_.size()); }
  std::size_t begin(int line) const { return begins_[static_cast<std::size_t>(line - 1)]; }
  // Without the line end; empty behind the last line.
  std::string_view operator[](int line) const {
    if (line < 1 || line > count()) return {};
    const std::size_t end = line == count() ? text_.size() : begin(line + 1) - 1;
    return text_.substr(begin(line), end - begin(line));
  }
  TomlMark at_offset(std::size_t offset) const {
    const auto next = std::upper_bound(begins_.begin(), begins_.end(), offset);
    const int line = static_cast<int>(next - begins_.begin());
    return {line, static_cast<int>(offset - begin(line)) + 1, 1};
  }
  int byte_column(toml::source_position at) const {
    const std::string_view text = (*this)[static_cast<int>(at.line)];
    std::size_t byte = 0;
    for (std::uint32_t column = 1; column < at.column; ++column, ++byte) {
      while (byte + 1 < text.size() && (static_cast<unsigned char>(text[byte + 1]) & 0xC0) == 0x80) ++byte;
    }
    return static_cast<int>(std::min(byte, text.size())) + 1;
  }
  // What spans lines is marked at its begin.
  TomlMark region(const toml::source_region& source) const {
    if (source.begin.line < 1) return {};
    TomlMark mark{static_cast<int>(source.begin.line), byte_column(source.begin), 1};
    if (source.end.line == source.begin.line)
      mark.length = std::max(1, byte_column(source.end) - mark.column);
    return mark;
  }

 private:
  std::string_view text_;
  std::vector<std::size_t> begins_;
};

bool is_word_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
         c == '+' || c == ':';
}

// What the library must never see, found before it reads: characters that TOML has in strings and comments
// only (it runs into undefined behaviour on some of them), words longer than the window in which it can step
// back, a key of very many parts (its tables destroy themselves recursively), values by the ten thousand (it
// searches lists of tables one by one). Strings and comments are skipped by TOML's rules; where a text breaks
// them the library stops at the same place, so that nothing behind it matters.
class Preflight {
 public:
  explicit Preflight(std::string_view text) : text_(text) {}

  struct Finding {
    std::size_t offset;
    std::string message;
    std::string note;
    bool of_whole = false;  // no line alone is at fault
  };

  std::optional<Finding> run() {
    while (i_ < text_.size()) {
      const std::size_t begin = i_;
      const char c = text_[i_];
      if (c == '#') {
        i_ = std::min(text_.find('\n', i_), text_.size());
        word_ = 0;
      } else if (c == '"' || c == '\'') {
        if (word_ > 0) return Finding{begin, "a quote cannot stand here", ""};
        if (auto finding = skip_string(c)) return finding;
      } else {
        if (auto finding = read(c)) return finding;
        ++i_;
      }
    }
    return std::nullopt;
  }

 private:
  std::optional<Finding> read(char c) {
    constexpr std::string_view kPunctuation = " \t\n.,=[]{}";
    const bool word = is_word_char(c);
    word_ = word ? word_ + 1 : 0;
    if (word_ > kMaxWordBytes) {
      return Finding{i_, fmt::format("a word of more than {} bytes", kMaxWordBytes), "text needs quotes"};
    }
    if (!word && kPunctuation.find(c) == std::string_view::npos) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte < 0x20 || byte == 0x7F) return Finding{i_, "control character", ""};
      std::size_t end = i_ + 1;
      while (end < text_.size() && (static_cast<unsigned char>(text_[end]) & 0xC0) == 0x80) ++end;
      return Finding{i_, fmt::format("'{}' cannot stand here", printable(text_.substr(i_, end - i_))),
                     "text needs quotes"};
    }
    nest(c);
    if (depth_ + dots_ > kMaxConfigDepth) {
      return Finding{i_, fmt::format("nested deeper than {} levels", kMaxConfigDepth), "", true};
    }
    if (values_ > kMaxConfigValues) {
      return Finding{i_, fmt::format("more than {} values in one file", kMaxConfigValues), "", true};
    }
    return std::nullopt;
  }

  void nest(char c) {
    if (c == '.') {
      ++dots_;
    } else if (c == '[' || c == '{') {
      open_.push_back(dots_ + 1);
      depth_ += open_.back();
      dots_ = 0;
    } else if ((c == ']' || c == '}') && !open_.empty()) {
      depth_ -= open_.back();
      open_.pop_back();
      dots_ = 0;
    } else if (c == ',' || c == '\n') {
      dots_ = 0;
    }
    if (c == '=' || c == ',' || c == '[') ++values_;
  }

  // Of a character beyond ASCII the library asks whether it is blank in what might be a number ("1.'x'") and
  // behind the backslash of a continued line, and has no answer for most.
  std::optional<Finding> skip_string(char quote) {
    const std::size_t begin = i_;
    const std::string triple(3, quote);
    const bool after_dot = i_ > 0 && text_[i_ - 1] == '.';
    const bool multi_line = text_.substr(i_, 3) == triple;
    i_ += multi_line ? 3 : 1;
    while (i_ < text_.size()) {
      const bool escape = text_[i_] == '\\' && quote == '"';
      const std::size_t asked = escape ? text_.find_first_not_of(" \t\n", i_ + 1) : i_;
      if ((escape || after_dot) && is_beyond_ascii(asked)) {
        return Finding{asked, "a character beyond ASCII cannot stand here", ""};
      }
      if (!multi_line && (text_[i_] == '\n' || (escape && text_.substr(i_ + 1, 1) == "\n"))) break;
      if (multi_line && text_.substr(i_, 3) == triple) {
        i_ += 3;
        for (int extra = 0; extra < 2 && i_ < text_.size() && text_[i_] == quote; ++extra) ++i_;
        return std::nullopt;
      }
      if (!multi_line && text_[i_] == quote) {
        ++i_;
        return std::nullopt;
      }
      i_ += escape ? 2 : 1;
    }
    return Finding{begin, "this string is never closed", "expected a quote"};
  }
  bool is_beyond_ascii(std::size_t i) const {
    return i < text_.size() && static_cast<unsigned char>(text_[i]) >= 0x80;
  }

  std::string_view text_;
  std::size_t i_ = 0;
  std::vector<int> open_;  // of each open bracket: the levels it stands for
  int depth_ = 0;
  int dots_ = 0;
  int values_ = 0;
  int word_ = 0;
};

class Converter {
 public:
  Converter(TomlDocument& document, const Lines& lines) : document_(document), lines_(lines) {}

  void table(const toml::table& source, TomlNode& out, int depth) {
    out.kind = Kind::kTable;
    for (const auto& [key, value] : source) {
      const TomlMark mark = lines_.region(key.source());
      TomlNode child;
      child.name = std::string(key.str());
      child.key = mark;
      if (node(value, child, mark, depth + 1)) out.children.push_back(std::move(child));
    }
    std::stable_sort(out.children.begin(), out.children.end(), [](const TomlNode& a, const TomlNode& b) {
      return std::pair(a.key.line, a.key.column) < std::pair(b.key.line, b.key.column);
    });
  }

 private:
  bool node(const toml::node& source, TomlNode& out, TomlMark mark, int depth) {
    out.value = lines_.region(source.source());
    if (mark.line == 0) mark = out.value;
    if (depth > kMaxConfigDepth) {
      document_.problems.push_back({mark, fmt::format("nested deeper than {} levels", kMaxConfigDepth), {}});
      return false;
    }
    if (const auto* boolean = source.as_boolean()) {
      out.kind = Kind::kBool;
      out.boolean = boolean->get();
    } else if (const auto* integer = source.as_integer()) {
      out.kind = Kind::kInt;
      out.integer = integer->get();
    } else if (const auto* real = source.as_floating_point()) {
      out.kind = Kind::kFloat;
      out.real = real->get();
    } else if (const auto* text = source.as_string()) {
      out.kind = Kind::kString;
      out.text = text->get();
    } else if (const auto* entries = source.as_table()) {
      table(*entries, out, depth);
    } else if (const auto* items = source.as_array()) {
      out.kind = Kind::kArray;
      for (const toml::node& item : *items) {
        TomlNode child;
        if (node(item, child, {}, depth + 1)) out.children.push_back(std::move(child));
      }
    } else {
      document_.problems.push_back(
          {out.value, "dates and times are not used in this file", "put it in quotes"});
      return false;
    }
    return true;
  }

  TomlDocument& document_;
  const Lines& lines_;
};

bool breaks_a_check(std::string_view text) {
  try {
    (void)toml::parse(text);
  } catch (const toml_library::BrokenCheck&) {
    return true;
  } catch (const toml::parse_error&) {
  }
  return false;
}

// The check knows no place. What is read up to a character does not depend on what follows, so the shortest
// begin of the text that breaks the check ends with the character at fault.
std::size_t broken_at(std::string_view text) {
  std::size_t fine = 0;
  std::size_t broken = text.size();
  while (broken - fine > 1) {
    std::size_t middle = fine + (broken - fine) / 2;
    while (middle > fine && (static_cast<unsigned char>(text[middle]) & 0xC0) == 0x80) --middle;
    if (middle == fine) break;
    (breaks_a_check(text.substr(0, middle)) ? broken : fine) = middle;
  }
  return broken - 1;
}

TomlProblem problem_of(const toml::parse_error& error, const Lines& lines) {
  TomlProblem problem{lines.region(error.source()), std::string(error.description()), {}};
  constexpr std::string_view kPreamble = "Error while parsing ";
  if (problem.message.compare(0, kPreamble.size(), kPreamble) == 0)
    problem.message.erase(0, kPreamble.size());
  problem.message = printable(problem.message);
  const auto says = [&](const char* part) { return problem.message.find(part) != std::string::npos; };
  if (says("could not determine value type")) problem.note = "text needs quotes";
  if (says("cannot redefine existing")) problem.note = "it is set further up";
  return problem;
}

// One text, parsed again without the statement at fault after every mistake, so that all of them are listed.
class Reader {
 public:
  explicit Reader(TomlDocument& document)
      : document_(document), text_(document.text), lines_(document.text) {}

  void read() {
    read_all();
    std::stable_sort(document_.problems.begin(), document_.problems.end(),
                     [](const TomlProblem& a, const TomlProblem& b) { return a.mark.line < b.mark.line; });
  }

 private:
  void read_all() {
    while (document_.problems.size() < static_cast<std::size_t>(kMaxConfigProblems)) {
      try {
        if (auto finding = Preflight(text_).run()) {
          add({lines_.at_offset(finding->offset), std::move(finding->message), std::move(finding->note)});
          if (finding->of_whole || !blank_statement(document_.problems.back().mark.line)) return;
          continue;
        }
        const toml::table table = toml::parse(std::string_view(text_));
        Converter(document_, lines_).table(table, document_.root, 0);
        return;
      } catch (const toml::parse_error& error) {
        add(problem_of(error, lines_));
      } catch (const toml_library::BrokenCheck&) {
        const std::size_t at = broken_at(text_);
        const std::string shown = printable(std::string_view(text_).substr(at, 1));
        add({lines_.at_offset(at), fmt::format("'{}' cannot stand here", shown), {}});
      }
      if (!blank_statement(document_.problems.back().mark.line)) return;
    }
  }

  void add(TomlProblem problem) { document_.problems.push_back(std::move(problem)); }

  static bool is_blank(std::string_view line) {
    return line.find_first_not_of(" \t") == std::string_view::npos;
  }
  static bool is_header(std::string_view line) { return !line.empty() && line[0] == '['; }
  static bool is_statement(std::string_view line) {
    const std::string_view word = trim(line.substr(0, std::min(line.find('='), line.size())));
    const bool bare =
        std::all_of(word.begin(), word.end(), [](char c) { return is_word_char(c) || c == '.'; });
    return is_header(line) || (bare && !word.empty() && line.find('=') != std::string_view::npos);
  }
  std::string_view line(int number) const {
    const std::size_t size = lines_[number].size();
    return std::string_view(text_).substr(lines_.begin(number), size);
  }

  // From the line that looks like its begin to the line before the next one. Without its header a section
  // means something else: it goes too.
  bool blank_statement(int at) {
    int first = std::min(at, lines_.count());
    while (first > 1 && (is_blank(line(first)) || !is_statement(line(first)))) --first;
    const bool header = is_header(line(first));
    int last = std::max(at, first);
    while (last < lines_.count() && !(header ? is_header(line(last + 1)) : is_statement(line(last + 1))))
      ++last;
    bool changed = false;
    for (int number = first; number <= std::min(last, lines_.count()); ++number) {
      changed = changed || !is_blank(line(number));
      text_.replace(lines_.begin(number), lines_[number].size(), lines_[number].size(), ' ');
    }
    return changed;
  }

  TomlDocument& document_;
  std::string text_;
  Lines lines_;
};

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
  return std::string(Lines(text)[number]);
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
  document.text = cut_line_ends(text);
  if (const auto bad = find_invalid_utf8(document.text)) {
    document.problems.push_back(
        {Lines(document.text).at_offset(*bad),
         fmt::format("not UTF-8: byte 0x{:02x}", static_cast<unsigned char>(document.text[*bad])),
         "save the file as UTF-8"});
  } else {
    Reader(document).read();
  }
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
