// The devices that a kernel is tested on, and the way of a test's buffers to them and back.
//
//   using Types = test::OnDevices<float, bf16, double>;             // "cpu_f32", "emulated_f32", ...
//   TYPED_TEST_SUITE(AddKernel, Types, test::DeviceNames);
//   TYPED_TEST(AddKernel, Adds) {
//     using T = typename TypeParam::Type;
//     test::OnDevice on(TypeParam::device);
//     on.run([&](auto stream) { add(stream, {.a = on(a), .b = on(b), .y = on(y)}); });
//
// on(buffer) copies the buffer to the device and is its address there; run() calls the kernel, waits and
// copies back what the kernel may have written, canaries included. On the CPU both cost nothing: the kernel
// gets the buffers themselves.
//
// A binary has the CPU and at most one other device: the emulated one (tests/simt), or the GPU, whose tests
// are skipped where there is none.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/memory.h"
#include "tests/support/guard.h"
#include "tests/support/shapes.h"

#if defined(COHORT_EMULATED_DEVICE)
#include "tests/simt/emulator/schedule.h"
#endif

extern "C" void __asan_init() __attribute__((weak));  // NOLINT: there in sanitized binaries only

namespace cohort::test {

enum class Device { kCpu, kCuda };

#if defined(COHORT_EMULATED_DEVICE)
inline constexpr bool kHasDevice = true;
inline constexpr bool kEmulated = true;
#else
inline constexpr bool kHasDevice = COHORT_HAS_CUDA != 0;
inline constexpr bool kEmulated = false;
#endif

inline const char* name_of(Device device) {
  return device == Device::kCpu ? "cpu" : kEmulated ? "emulated" : "cuda";
}

inline std::vector<Device> all_devices() {
  if constexpr (kHasDevice) return {Device::kCpu, Device::kCuda};
  return {Device::kCpu};
}

// Whether the kernels of this binary are watched by AddressSanitizer: it guards the ends of a block, and sees
// reads beyond them too. The tests themselves may be compiled without it, so this is asked of the binary.
inline bool exact_blocks() {
  return &__asan_init != nullptr;
}

// Memory of the device. The emulated device's is the host's, at exactly the size asked for.
class DeviceBlock {
 public:
  explicit DeviceBlock(std::size_t bytes) : bytes_(bytes) {
    if constexpr (kEmulated) {
      data_ = ::operator new (bytes, std::align_val_t{256});
    } else if constexpr (kHasDevice) {
      data_ = kernels::allocate(CudaStream{}, bytes);
    }
  }
  ~DeviceBlock() {
    if constexpr (kEmulated) {
      ::operator delete (data_, std::align_val_t{256});
    } else if constexpr (kHasDevice) {
      kernels::deallocate(CudaStream{}, data_);
    }
  }
  DeviceBlock(const DeviceBlock&) = delete;
  DeviceBlock& operator=(const DeviceBlock&) = delete;

  void copy_in([[maybe_unused]] const void* host) {
    if (bytes_ == 0) return;
    if constexpr (kEmulated) {
      std::memcpy(data_, host, bytes_);
    } else if constexpr (kHasDevice) {
      kernels::copy_to_device(CudaStream{}, data_, host, bytes_);
    }
  }
  void copy_out([[maybe_unused]] void* host) const {
    if (bytes_ == 0) return;
    if constexpr (kEmulated) {
      std::memcpy(host, data_, bytes_);
    } else if constexpr (kHasDevice) {
      kernels::copy_to_host(CudaStream{}, host, data_, bytes_);
    }
  }
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Whether tests on `device` can run on this machine.
inline bool present(Device device) {
  if (device == Device::kCpu) return true;
  try {
    const DeviceBlock probe(16);
    return true;
  } catch (const Error&) {
    return false;
  }
}

#define COHORT_SKIP_WITHOUT(device) \
  if (!::cohort::test::present(device)) GTEST_SKIP() << "no GPU on this machine"

// A device, and for the CPU the threads to use.
struct Place {
  Place(Device d, CpuStream stream = {}) : device(d), cpu(stream) {}  // NOLINT: a device is a place
  Place(CpuStream stream) : device(Device::kCpu), cpu(stream) {}      // NOLINT
  Device device;
  CpuStream cpu{};
};

class OnDevice {
 public:
  explicit OnDevice(Place place) : place_(place) {}

  template <class T>
  T* operator()(Guarded<T>& buffer) {
    return mirror(buffer, false);
  }
  template <class T>
  const T* operator()(const Guarded<T>& buffer) {
    return mirror(const_cast<Guarded<T>&>(buffer), true);
  }
  template <class T>
  T* operator()(std::vector<T>& values) {
    return reinterpret_cast<T*>(mirror(values.data(), values.size() * sizeof(T), 0, 0, false));
  }
  template <class T>
  const T* operator()(const std::vector<T>& values) {
    void* const data = const_cast<T*>(values.data());
    return reinterpret_cast<const T*>(mirror(data, values.size() * sizeof(T), 0, 0, true));
  }
  template <class T>
  requires std::is_arithmetic_v<T>
  const T* operator()(const T& scalar) {
    void* const data = const_cast<T*>(&scalar);
    return reinterpret_cast<const T*>(mirror(data, sizeof(T), 0, 0, true));
  }
  Workspace operator()(Scratch& scratch) {
    return {reinterpret_cast<std::byte*>((*this)(scratch.buffer())), scratch.buffer().size()};
  }

  // f(stream), and everything back on the host before the return.
  template <class F>
  void run(F&& f) {
    if (place_.device == Device::kCpu) return static_cast<void>(f(place_.cpu));
    if constexpr (kHasDevice) {
      f(CudaStream{});
      kernels::synchronize(CudaStream{});
      for (const Copy& copy : copies_) {
        if (!copy.read_only) copy.block->copy_out(copy.host - copy.before);
      }
      copies_.clear();
    }
  }

 private:
  struct Copy {
    std::byte* host;  // the first element
    std::size_t before;
    bool read_only;
    std::unique_ptr<DeviceBlock> block;
  };

  template <class T>
  T* mirror(Guarded<T>& buffer, bool read_only) {
    const std::size_t shift = buffer.misalign() * sizeof(T);
    const std::size_t canary = exact_blocks() ? 0 : Guarded<T>::kCanary;
    return reinterpret_cast<T*>(
        mirror(buffer.data(), buffer.size() * sizeof(T), shift + canary, canary, read_only));
  }

  // `before` and `after` bytes around the elements travel with them. The same buffer is the same memory:
  // arguments that alias on the host alias on the device.
  std::byte* mirror(void* data, std::size_t bytes, std::size_t before, std::size_t after, bool read_only) {
    std::byte* const host = static_cast<std::byte*>(data);
    if (place_.device == Device::kCpu) return host;
    for (Copy& copy : copies_) {
      if (copy.host != host || host == nullptr) continue;
      copy.read_only &= read_only;
      return copy.block->data() + copy.before;
    }
    copies_.push_back({host, before, read_only, std::make_unique<DeviceBlock>(before + bytes + after)});
    if (before + bytes + after != 0) copies_.back().block->copy_in(host - before);
    return copies_.back().block->data() + before;
  }

  Place place_;
  std::vector<Copy> copies_;
};

// f(place): the CPU with 1, 2 and 3 threads, the device, the emulated one under three schedules. The bits
// must be the same.
template <class F>
void for_each_place(Device device, F&& f) {
#if defined(COHORT_EMULATED_DEVICE)
  if (device != Device::kCpu) {
    for (const char* name : {"forward", "reverse", "random:7"}) {
      SCOPED_TRACE(name);
      const simt::ScopedSchedule schedule(simt::parse_schedule(name));
      f(Place(device));
    }
    return;
  }
#endif
  if (device != Device::kCpu) return static_cast<void>(f(Place(device)));
  for_each_thread_count([&](CpuStream stream) { f(Place(stream)); });
}

// --- typed tests ---

template <class T, Device kDevice>
struct On {
  using Type = T;
  static constexpr Device device = kDevice;
};

template <bool kDevice, class... T>
struct OnDevicesOf {
  using Types = ::testing::Types<On<T, Device::kCpu>...>;
};
template <class... T>
struct OnDevicesOf<true, T...> {
  using Types = ::testing::Types<On<T, Device::kCpu>..., On<T, Device::kCuda>...>;
};
template <class... T>
using OnDevices = typename OnDevicesOf<kHasDevice, T...>::Types;

struct DeviceNames {
  template <class Param>
  static std::string GetName(int) {
    return std::string(name_of(Param::device)) + "_" + cohort::name_of(dtype_of<typename Param::Type>());
  }
};

// Base of typed suites; a test names its T = typename TypeParam::Type.
template <class Param>
class TypedDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override { COHORT_SKIP_WITHOUT(Param::device); }
};

// --- tests whose parameter is the device ---

class DeviceTest : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override { COHORT_SKIP_WITHOUT(GetParam()); }
};

#define COHORT_INSTANTIATE_DEVICES(suite)                                                 \
  INSTANTIATE_TEST_SUITE_P(On, suite, ::testing::ValuesIn(::cohort::test::all_devices()), \
                           [](auto& i) { return std::string(::cohort::test::name_of(i.param)); })

}  // namespace cohort::test
