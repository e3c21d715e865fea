#include "kernels/append_rows.h"

namespace cohort::kernels {

void append_rows(CpuStream, const AppendRowsArgs& args) {
  const std::int64_t offset = (*args.cursor - 1) * args.batch_size * args.columns;
  for (std::size_t m = 0; m < static_cast<std::size_t>(args.members); ++m) {
    dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
      const T* const in = static_cast<const T*>(args.in[m]);
      for (std::int64_t i = 0; i < args.rows * args.columns; ++i)
        args.out[m][offset + i] = static_cast<float>(in[i]);
    });
  }
}

}  // namespace cohort::kernels
