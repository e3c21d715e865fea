// Needs far more registers than two blocks of 1,024 threads leave it.
__global__ void __launch_bounds__(1024, 2) spills(float* x) {
  float v[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) v[i] = x[i * 4096 + threadIdx.x];
#pragma unroll
  for (int i = 0; i < 96; ++i)
    x[(95 - i) * 8192 + threadIdx.x] = v[i] * v[(i * 7 + 3) % 96] + v[(i * 31 + 7) % 96];
}
