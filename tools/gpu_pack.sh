#!/usr/bin/env bash
# Builds here, for a machine with an NVIDIA GPU that has no compiler and no packages of ours: collects the binaries, the libraries
# that are not CUDA's, the peers and tools/gpu_check.sh in one folder of at most 60 MiB. CUDA's own libraries (cuDNN, cuBLASLt)
# are found on the target, also inside a PyTorch installation.
#
#   tools/gpu_pack.sh [FOLDER]      default: build/gpu_pack
#   on the target:  FOLDER/gpu_check.sh RESULTS
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
pack=${1:-build/gpu_pack}
limit_mib=60

cmake --preset release -DCOHORT_CUDA=ON
cmake --build build/release --target cohort gpu_tests cohort_bench simt_conformance_device

rm -rf "$pack"
mkdir -p "$pack/bin" "$pack/lib" "$pack/peers"
for binary in cohort cohort_bench kernels_gpu_tests core_gpu_tests ops_gpu_tests distill_gpu_tests simt_conformance_device; do
  strip -o "$pack/bin/$binary" "build/release/bin/$binary"
done
# Everything a binary loads but the C library's own parts, which must match the target's kernel and loader. The binaries find
# them in ../lib beside them (DT_RPATH: cohort_packed in cmake/cohort_cuda.cmake).
loaded() { ldd "$pack"/bin/* | awk '$2 == "=>" {print $3 ~ /^\// ? $3 : $1}' | sort -u | grep -vE '/(libc|libm|libmvec|libdl|librt|libpthread|libresolv|ld-linux[^/]*)\.so'; }
loaded | xargs -I{} cp -L {} "$pack/lib/"
absolute=$(cd "$pack" && pwd)
stray=$(loaded | grep -v "^$absolute/" || true)
if [[ -n $stray ]]; then
  echo "error: the packed binaries do not find these in $pack/lib:" $stray >&2
  exit 1
fi
# oneDNN alone has 40 MB; compressed, all of it is a third. gpu_check.sh unpacks it into a temporary folder.
tar -C "$pack" -czf "$pack/binaries.tar.gz" bin lib
rm -r "$pack/bin" "$pack/lib"
cp bench/peers/*.py "$pack/peers/"
cp tools/gpu_check.sh "$pack/"
{ git describe --always --dirty 2>/dev/null || echo unknown; } > "$pack/commit"

size=$(du -sm "$pack" | cut -f1)
if ((size > limit_mib)); then
  echo "error: $pack is $size MiB, at most $limit_mib are meant to travel: build fewer architectures (-DCMAKE_CUDA_ARCHITECTURES=90)" >&2
  exit 1
fi
echo "$pack: $size MiB; on the machine with the GPU: $pack/gpu_check.sh RESULTS"
