// A contact sheet: rows of small images with a name and a line of text, as one SVG file with the pixels
// inside. Text stays text, so it can be searched and edited, and pixels stay square when a slide enlarges
// them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/image_file.h"

namespace cohort::tools {

struct SheetRow {
  std::string name;
  std::string tag;            // beside the name
  std::string note;           // below it
  std::vector<Image> images;  // one size and number of channels throughout the sheet
};

// The same rows give the same bytes.
// `columns`: headings of the images of a row, or none.
std::string svg_contact_sheet(const std::string& title, const std::vector<SheetRow>& rows,
                              const std::vector<std::string>& columns = {});

std::string encode_png(const Image& image);
std::string base64(std::string_view bytes);

}  // namespace cohort::tools
