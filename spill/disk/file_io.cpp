// SPDX-License-Identifier: Apache-2.0
#include "spill/disk/file_io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

namespace forebay::spill {

namespace {
template <class Number>
Number or_errno(Number returned) {
  return returned < 0 ? static_cast<Number>(-errno) : returned;
}
}  // namespace

int FileIo::open(int folder, const char* name, int flags, mode_t mode) {
  return or_errno(::openat(folder, name, flags, mode));
}
int FileIo::close(int file) { return or_errno(::close(file)); }
int FileIo::stat(int file, struct ::stat& about) { return or_errno(::fstat(file, &about)); }
int FileIo::allocate(int file, off_t size) { return or_errno(::fallocate(file, 0, 0, size)); }
ssize_t FileIo::read(int file, std::span<std::byte> into, off_t offset) {
  return or_errno(::pread(file, into.data(), into.size(), offset));
}
ssize_t FileIo::write(int file, std::span<const std::byte> bytes, off_t offset) {
  return or_errno(::pwrite(file, bytes.data(), bytes.size(), offset));
}
int FileIo::sync_data(int file) { return or_errno(::fdatasync(file)); }
int FileIo::sync_folder(int folder) { return or_errno(::fsync(folder)); }
int FileIo::rename(int from_folder, const char* from, int to_folder, const char* to) {
  return or_errno(::renameat(from_folder, from, to_folder, to));
}
int FileIo::remove(int folder, const char* name) { return or_errno(::unlinkat(folder, name, 0)); }

}  // namespace forebay::spill
