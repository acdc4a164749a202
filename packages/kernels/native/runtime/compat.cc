// Keeps the binary loadable where glibc is 2.31 and libstdc++ 6.0.28 (Ubuntu 20.04, Debian 11).
//
// Two symbols that newer headers call are defined here, hidden, so that the linker does not ask the system for them:
// the flag behind shared_ptr's single-thread shortcut (0 means: always count atomically), and the function that reports
// a negative array size.
#if defined(__GLIBC__) || defined(__linux__)
#include <cstdlib>

extern "C" {
[[gnu::visibility("hidden")]] char __libc_single_threaded = 0;
}

namespace std {
[[noreturn, gnu::visibility("hidden")]] void __throw_bad_array_new_length();
void __throw_bad_array_new_length() { abort(); }
}  // namespace std
#endif
