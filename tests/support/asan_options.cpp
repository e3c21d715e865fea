// Tests ask for more memory than there is: that fails with an error of ours, as it does without
// AddressSanitizer.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1";
}
