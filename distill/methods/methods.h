// The entries of the method registry, one per file in this folder.
#pragma once

#include "distill/addition.h"
#include "distill/method.h"

namespace cohort::distill {

MethodInfo independent_info();
MethodInfo kd_info();
MethodInfo dml_info();
MethodInfo kdcl_naive_info();
MethodInfo kdcl_minlogit_info();
MethodInfo kdcl_mean_info();
MethodInfo kdcl_linear_info();
MethodInfo kdcl_general_info();
MethodInfo competitive_info();
MethodInfo switokd_info();
MethodInfo dkd_info();
MethodInfo fitnet_info();
MethodInfo shake_info();
MethodInfo diswot_info();
MethodInfo adm_info();
MethodInfo norm_info();
MethodInfo one_info();
MethodInfo clnn_info();
MethodInfo afid_info();
MethodInfo afd_info();

AdditionInfo adm_addition();

}  // namespace cohort::distill
