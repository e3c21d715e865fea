// COHORT_HOST_DEVICE marks what both compilers see: plain C++ everywhere, host and device code under nvcc.
#pragma once

#if defined(__CUDACC__)
#define COHORT_HOST_DEVICE __host__ __device__
#else
#define COHORT_HOST_DEVICE
#endif
