#include "tools/table.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

std::string pad(const std::string& text, std::size_t width, Align align) {
  const auto shown = static_cast<std::size_t>(display_width(text));
  const std::string blank(width > shown ? width - shown : 0, ' ');
  return align == Align::kRight ? blank + text : text + blank;
}

std::string escape_markdown(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

}  // namespace

void Table::add(std::vector<std::string> cells) {
  check(cells.size() <= columns_.size(), "table: more cells than columns");
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::vector<std::size_t> Table::widths() const {
  std::vector<std::size_t> result;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    int width = display_width(columns_[c].title);
    for (const auto& row : rows_) width = std::max(width, display_width(row[c]));
    result.push_back(static_cast<std::size_t>(width));
  }
  return result;
}

std::string Table::text() const {
  const std::vector<std::size_t> width = widths();
  std::string out;
  const auto line = [&](const auto& cell) {
    std::string row;
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      if (c != 0) row += "  ";
      row += pad(cell(c), width[c], columns_[c].align);
    }
    row.erase(row.find_last_not_of(' ') + 1);
    out += row + "\n";
  };
  line([&](std::size_t c) { return columns_[c].title; });
  for (const auto& row : rows_) {
    line([&](std::size_t c) { return row[c]; });
  }
  return out;
}

std::string Table::markdown() const {
  std::string out = "|";
  for (const Column& column : columns_) out += " " + escape_markdown(column.title) + " |";
  out += "\n|";
  for (const Column& column : columns_) out += column.align == Align::kRight ? "---:|" : "---|";
  out += "\n";
  for (const auto& row : rows_) {
    out += "|";
    for (const std::string& cell : row) out += " " + escape_markdown(cell) + " |";
    out += "\n";
  }
  return out;
}

}  // namespace cohort::tools
