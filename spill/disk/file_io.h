// SPDX-License-Identifier: Apache-2.0
// FileIo: the system calls by which items become files, in one place, so that a test can have each
// of them fail, stall, or be the last one before a crash.
//
// Each returns what the call returns, or -errno. Nothing is retried here. May be called from any
// thread.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <span>

namespace forebay::spill {

class FileIo {
 public:
  virtual ~FileIo() = default;
  virtual int open(int folder, const char* name, int flags, mode_t mode);
  virtual int close(int file);
  virtual int stat(int file, struct ::stat& about);
  virtual int allocate(int file, off_t size);  // blocks for all of the file, which gets that size
  virtual ssize_t read(int file, std::span<std::byte> into, off_t offset);
  virtual ssize_t write(int file, std::span<const std::byte> bytes, off_t offset);
  virtual int sync_data(int file);
  virtual int sync_folder(int folder);
  virtual int rename(int from_folder, const char* from, int to_folder, const char* to);
  virtual int remove(int folder, const char* name);
};

}  // namespace forebay::spill
