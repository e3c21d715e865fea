// Tensors as files hold them: PyTorch's shapes and order, convolutions as (K, C, kh, kw).
#pragma once

#include <cstdint>
#include <vector>

#include "core/parameter.h"

namespace cohort::distill {

inline std::vector<std::int64_t> dims_of(const Shape& shape) {
  std::vector<std::int64_t> dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

inline std::vector<std::int64_t> file_dims(const Parameter& p) {
  return dims_of(p.kind == ParameterKind::kConv ? Shape{p.shape[0], p.shape[3], p.shape[1], p.shape[2]}
                                                : p.shape);
}

// The values of a parameter from our order, (K, kh, kw, C) for a convolution, to the file's, or back.
template <class T>
std::vector<T> reorder(std::vector<T> from, const Parameter& p, bool to_file) {
  if (p.kind != ParameterKind::kConv) return from;
  std::vector<T> to(from.size());
  const std::int64_t k = p.shape[0], window = p.shape[1] * p.shape[2], c = p.shape[3];
  for (std::int64_t o = 0; o < k; ++o) {
    for (std::int64_t w = 0; w < window; ++w) {
      for (std::int64_t i = 0; i < c; ++i) {
        const auto ours = static_cast<std::size_t>((o * window + w) * c + i);
        const auto file = static_cast<std::size_t>((o * c + i) * window + w);
        to_file ? to[file] = from[ours] : to[ours] = from[file];
      }
    }
  }
  return to;
}

}  // namespace cohort::distill
