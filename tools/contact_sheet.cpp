#include "tools/contact_sheet.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/base/error.h"
#include "tools/stb_encoder.h"
#include "tools/svg_chart.h"

namespace cohort::tools {
namespace {

constexpr int kLabelWidth = 310, kTitleHeight = 44, kMargin = 16, kRowGap = 14, kHeadingHeight = 22;
constexpr int kSmallest = 64;  // height at which an image is shown, at least

// All images of a row side by side, a white gap between them: one picture per row keeps the file small.
Image strip(const std::vector<Image>& images, int gap) {
  const Image& first = images.front();
  const int count = static_cast<int>(images.size());
  Image out{first.height, count * (first.width + gap) - gap, first.channels, {}};
  const std::size_t row_bytes = static_cast<std::size_t>(out.width * out.channels);
  out.pixels.assign(static_cast<std::size_t>(out.height) * row_bytes, 255);
  for (int k = 0; k < count; ++k) {
    const Image& image = images[static_cast<std::size_t>(k)];
    check(image.height == first.height && image.width == first.width && image.channels == first.channels,
          "contact sheet: images of one size");
    const std::size_t bytes = static_cast<std::size_t>(image.width * image.channels);
    for (int y = 0; y < image.height; ++y) {
      std::copy_n(image.pixels.begin() + static_cast<std::ptrdiff_t>(y * bytes), bytes,
                  out.pixels.begin() + static_cast<std::ptrdiff_t>(y * row_bytes) +
                      k * (image.width + gap) * image.channels);
    }
  }
  return out;
}

void append(void* text, void* data, int bytes) {
  static_cast<std::string*>(text)->append(static_cast<const char*>(data), static_cast<std::size_t>(bytes));
}

}  // namespace

std::string encode_png(const Image& image) {
  std::string bytes;
  const int done = stbi_write_png_to_func(append, &bytes, image.width, image.height, image.channels,
                                          image.pixels.data(), image.width * image.channels);
  if (done == 0) throw Error(ErrorKind::kMemory, "no memory for a PNG", "");
  return bytes;
}

std::string base64(std::string_view bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t word = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      word = word << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      text += i + k > bytes.size() ? '=' : kDigits[word >> (18 - 6 * k) & 63U];
    }
  }
  return text;
}

std::string svg_contact_sheet(const std::string& title, const std::vector<SheetRow>& rows,
                              const std::vector<std::string>& columns) {
  check(!rows.empty() && !rows.front().images.empty(), "contact sheet: no images");
  const Image& first = rows.front().images.front();
  const int scale = std::max(1, (kSmallest + first.height - 1) / first.height);
  const int gap = std::max(1, 4 / scale);
  const int count = static_cast<int>(rows.front().images.size());
  const int row_height = first.height * scale + kRowGap;
  const int strip_width = (count * (first.width + gap) - gap) * scale;
  const int width = kLabelWidth + strip_width + kMargin;
  const int head = kTitleHeight + (columns.empty() ? 0 : kHeadingHeight);
  const int height = head + static_cast<int>(rows.size()) * row_height + kMargin;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "font-family=\"sans-serif\">\n"
      "<title>{2}</title>\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>\n"
      "<text x=\"{3}\" y=\"28\" font-size=\"17\" font-weight=\"bold\">{2}</text>\n",
      width, height, escape_html(title), kMargin);
  for (std::size_t k = 0; k < columns.size(); ++k) {
    svg += fmt::format("<text x=\"{}\" y=\"{}\" font-size=\"12\" fill=\"#555\">{}</text>\n",
                       kLabelWidth + static_cast<int>(k) * (first.width + gap) * scale, kTitleHeight + 12,
                       escape_html(columns[k]));
  }
  int y = head;
  for (const SheetRow& row : rows) {
    check(static_cast<int>(row.images.size()) == count, "contact sheet: rows of one length");
    const int middle = y + first.height * scale / 2;
    const std::string tag =
        row.tag.empty()
            ? ""
            : fmt::format(" <tspan font-size=\"12\" font-weight=\"normal\" fill=\"#777\">{}</tspan>",
                          escape_html(row.tag));
    svg += fmt::format(
        "<text x=\"{0}\" y=\"{1}\" font-size=\"15\" font-weight=\"bold\">{2}{3}</text>\n"
        "<text x=\"{0}\" y=\"{4}\" font-size=\"12\" fill=\"#555\">{5}</text>\n"
        "<image x=\"{6}\" y=\"{7}\" width=\"{8}\" height=\"{9}\" style=\"image-rendering:pixelated\" "
        "href=\"data:image/png;base64,{10}\"/>\n",
        kMargin, middle - 3, escape_html(row.name), tag, middle + 15, escape_html(row.note), kLabelWidth, y,
        strip_width, first.height * scale, base64(encode_png(strip(row.images, gap))));
    y += row_height;
  }
  return svg + "</svg>\n";
}

}  // namespace cohort::tools
