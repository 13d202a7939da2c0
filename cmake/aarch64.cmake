# Toolchain file for 64-bit Arm from an x86-64 Debian 12: -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake.
# Packages: g++-aarch64-linux-gnu, and qemu-user-static to run what was built. The whole program also needs its
# libraries for arm64 (dpkg --add-architecture arm64, then libcapnp-dev:arm64, libssl-dev:arm64, ...) and
# -DSHOAL_MPI=OFF, because Debian's Open MPI is not installable for two architectures at once.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static -cpu cortex-a76)
set(ENV{PKG_CONFIG_LIBDIR} /usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig)
