// threadIdx and its kin as variables that the scheduler writes. For kernels they are const, as the CUDA
// header has them: for one CUDA thread they are.
#pragma once

#define __STORAGE__ extern
#include <device_launch_parameters.h>
