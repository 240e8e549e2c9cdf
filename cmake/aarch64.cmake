# Toolchain: cross-built for 64-bit Arm, run under emulation, to test the kernels that are not x86's.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64;-L;/usr/aarch64-linux-gnu)

# What heed needs is headers, the same for every architecture; only GoogleTest must be built anew.
set(HEED_GTEST_SOURCE /usr/src/googletest)
