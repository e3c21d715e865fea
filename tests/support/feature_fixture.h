// The feature fixture of the method specification: two samples, two channels, 1x2 positions.
#pragma once

#include <cstddef>
#include <vector>

namespace cohort::test {

// As printed: [sample][channel][position]; F1 the teacher's map, F2 the student's.
inline const std::vector<double> kGoldenF1 = {0.6, -0.2, 0.3, 0.5, 0.1, 0.4, -0.3, 0.2};
inline const std::vector<double> kGoldenF2 = {0.5, 0.1, -0.1, 0.4, 0.2, 0.15, 0.3, -0.4};
// Classifiers (3 classes, 2 channels).
inline const std::vector<double> kTeacherWeight = {1.0, -0.5, 0.2, 0.8, -0.6, 0.4};
inline const std::vector<double> kTeacherBias = {0.1, 0, -0.1};
inline const std::vector<double> kStudentWeight = {0.7, 0.3, -0.4, 0.9, 0.5, -0.2};
inline const std::vector<double> kStudentBias = {0, 0.1, -0.1};

// [2][2 channels][2 positions] -> [2][2 positions][2 channels]
template <class T = double>
std::vector<T> nhwc(const std::vector<double>& nchw) {
  std::vector<T> out(8);
  for (std::size_t n = 0; n < 2; ++n) {
    for (std::size_t c = 0; c < 2; ++c) {
      for (std::size_t p = 0; p < 2; ++p) out[n * 4 + p * 2 + c] = static_cast<T>(nchw[n * 4 + c * 2 + p]);
    }
  }
  return out;
}

// (rows, inputs) x (outputs, inputs)' + bias
inline std::vector<double> fully_connected(const std::vector<double>& x, const std::vector<double>& weight,
                                           const std::vector<double>& bias) {
  const std::size_t outputs = bias.size();
  const std::size_t inputs = weight.size() / outputs;
  std::vector<double> y;
  for (std::size_t n = 0; n < x.size() / inputs; ++n) {
    for (std::size_t k = 0; k < outputs; ++k) {
      double sum = bias[k];
      for (std::size_t c = 0; c < inputs; ++c) sum += x[n * inputs + c] * weight[k * inputs + c];
      y.push_back(sum);
    }
  }
  return y;
}

// The gradient of fully_connected with respect to x.
inline std::vector<double> fully_connected_backward(const std::vector<double>& grad,
                                                    const std::vector<double>& weight, std::size_t outputs) {
  const std::size_t inputs = weight.size() / outputs;
  std::vector<double> dx(grad.size() / outputs * inputs, 0);
  for (std::size_t n = 0; n < grad.size() / outputs; ++n) {
    for (std::size_t k = 0; k < outputs; ++k) {
      for (std::size_t c = 0; c < inputs; ++c) {
        dx[n * inputs + c] += grad[n * outputs + k] * weight[k * inputs + c];
      }
    }
  }
  return dx;
}

}  // namespace cohort::test
