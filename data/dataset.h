// What a loader returns, and what every loader is told.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/image_set.h"
#include "kernels/base/stream.h"

namespace cohort::data {

struct Dataset {
  ImageSet train, test;
};

// Receives one line about something odd that is no error. May be empty.
using Warn = std::function<void(const std::string&)>;

}  // namespace cohort::data
