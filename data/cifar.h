// CIFAR-10 and CIFAR-100 in their binary versions (https://www.cs.toronto.edu/~kriz/cifar.html).
//
// A record is 1 (CIFAR-10: class) or 2 (CIFAR-100: coarse, fine) label bytes and 3,072 pixel bytes: the red
// plane, then green, then blue, each 32x32 row by row. Files hold nothing else, so a size that is no multiple
// of the record, or a label out of range, is damage and refused; damaged pixels show only in the checksum,
// which gives a warning.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "data/dataset.h"

namespace cohort::data {

enum class CifarKind : std::uint8_t { kCifar10, kCifar100 };

struct CifarOptions {
  bool coarse = false;         // CIFAR-100: the 20 superclasses instead of the 100 classes
  bool allow_partial = false;  // CIFAR-10: train on the batches that are present
  Warn warn = {};
};

constexpr std::int64_t cifar_record_bytes(CifarKind kind) {
  return (kind == CifarKind::kCifar10 ? 1 : 2) + 3072;
}

// Appends the records in `bytes` to `set`, pixels as NHWC. `file` names them in messages. Throws
// Error(kInput) and leaves `set` as it was.
void parse_cifar(CifarKind kind, std::span<const std::uint8_t> bytes, const std::string& file, bool coarse,
                 ImageSet& set);

// An empty set with shape, number of classes and the customary normalisation.
ImageSet empty_cifar_set(CifarKind kind, bool coarse);

// Reads the set from `root` or from the first of its usual folders below `root` that exists:
// cifar-10-batches-bin, cifar-10, cifar10 and cifar-100-binary, cifar-100, cifar100.
Dataset load_cifar(CifarKind kind, const std::filesystem::path& root, const CifarOptions& options = {});

}  // namespace cohort::data
