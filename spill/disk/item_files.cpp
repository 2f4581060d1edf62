// SPDX-License-Identifier: Apache-2.0
#include "spill/disk/item_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include <algorithm>
#include <new>

#include "spill/checksum.h"

namespace forebay::spill {

namespace {
// A call that is interrupted, or moves less than a page, so often in a row does not get anywhere.
constexpr int fruitless_tries = 100;
// A range that begins this near to the first page is read together with it.
constexpr std::uint64_t near_first_page = 64 * 1024;

// By a signal, on some file systems.
int open_uninterrupted(FileIo& io, int folder, const std::string& name, int flags, mode_t mode) {
  int file = -EINTR;
  for (int i = 0; i < fruitless_tries && file == -EINTR; ++i)
    file = io.open(folder, name.c_str(), flags, mode);
  return file;
}

std::uint64_t page_of(std::uint64_t offset) { return offset / page_bytes * page_bytes; }
}  // namespace

// Closes a file by the interface by which it was opened.
struct ItemFiles::Closed {
  FileIo& io;
  int file;
  // The result does not matter: what was to be kept has been synced.
  ~Closed() { (void)io.close(file); }
};

TransferBuffer::TransferBuffer()
    : memory_(static_cast<std::byte*>(::aligned_alloc(page_bytes, size)), ::free) {
  if (memory_ == nullptr) throw std::bad_alloc();
}

Result<void> ItemFiles::failed(int number, const std::string& doing,
                               const std::string& name) const {
  const std::string what = doing + " " + directory_.path() + "/" + name;
  if (number == ENOSPC || number == EDQUOT)
    return fail(Errc::store_full, what + ": the file system has no room; make some, or give the "
                                         "disk tier a capacity that is there");
  return fail_errno(number, what);
}

Result<void> ItemFiles::write(const ItemHeader& header, const std::string& incoming,
                              const Fill& fill, TransferBuffer& buffer) {
  const std::string name = "incoming/" + incoming;
  const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  const int file = open_uninterrupted(io_, directory_.incoming(), incoming,
                                      flags | (direct_ ? O_DIRECT : 0), 0600);
  if (file < 0) return failed(-file, "making", name);
  const Closed closed{io_, file};
  const std::uint64_t whole = file_bytes(header.size);
  if (const int error = io_.allocate(file, static_cast<off_t>(whole));
      error < 0 && error != -EOPNOTSUPP && error != -ENOSYS && error != -EINTR)
    return failed(-error, "making room for", name);

  std::uint64_t written = 0;
  std::uint64_t filled = 0;
  while (written < whole) {
    const std::span<std::byte> all = buffer.bytes();
    std::size_t used = 0;
    if (written == 0) {
      write_header(header, all.first<header_bytes>());
      used = header_bytes;
    }
    const auto next = static_cast<std::size_t>(
        std::min<std::uint64_t>(all.size() - used, header.size - filled));
    if (!fill(all.subspan(used, next)))
      return fail(Errc::cancelled, "the put of " + name + " was given up");
    filled += next;
    used += next;
    const auto padded = static_cast<std::size_t>(whole_pages(used));
    std::fill(all.begin() + static_cast<std::ptrdiff_t>(used),
              all.begin() + static_cast<std::ptrdiff_t>(padded), std::byte{0});
    if (auto done = write_all(file, all.first(padded), written, name); !done) return done;
    written += padded;
  }
  // Once, whatever it says: a kernel that failed to write pages forgets that they are dirty, and
  // the next call would say that all is well.
  if (const int error = io_.sync_data(file); error < 0) return failed(-error, "syncing", name);
  // What was spilled shall not stay in memory by another name.
  if (!direct_) (void)::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  return {};
}

Result<void> ItemFiles::write_all(int file, std::span<const std::byte> pages,
                                  std::uint64_t offset, const std::string& name) {
  std::uint64_t done = 0;
  int fruitless = 0;
  while (done < pages.size()) {
    const ssize_t size =
        io_.write(file, pages.subspan(done), static_cast<off_t>(offset + done));
    if (size < 0 && size != -EINTR) return failed(static_cast<int>(-size), "writing", name);
    // Past the cache, only whole pages can be gone on from: a torn one is written again.
    const std::uint64_t moved = size < 0 ? 0 : page_of(static_cast<std::uint64_t>(size));
    done += moved;
    fruitless = moved > 0 ? 0 : fruitless + 1;
    if (fruitless == fruitless_tries) return failed(EIO, "writing", name);
  }
  return {};
}

Result<void> ItemFiles::publish(const std::string& incoming, const TierKey& key) {
  const std::string name = item_name(key);
  const int error = io_.rename(directory_.incoming(), incoming.c_str(), directory_.items(),
                               name.c_str());
  if (error < 0) return failed(-error, "naming", "items/" + name);
  return {};
}

Result<void> ItemFiles::sync_names() {
  const int error = io_.sync_folder(directory_.items());
  if (error < 0) return failed(-error, "syncing", "items");
  return {};
}

Result<void> ItemFiles::remove_incoming(const std::string& incoming) {
  const int error = io_.remove(directory_.incoming(), incoming.c_str());
  if (error < 0 && error != -ENOENT) return failed(-error, "removing", "incoming/" + incoming);
  return {};
}

Result<void> ItemFiles::remove(const TierKey& key) {
  const std::string name = item_name(key);
  const int error = io_.remove(directory_.items(), name.c_str());
  if (error < 0 && error != -ENOENT) return failed(-error, "removing", "items/" + name);
  return {};
}

Result<void> ItemFiles::check_file(int file, const TierItem& item) {
  const std::string name = "items/" + item_name(item.key);
  struct stat about {};
  if (const int error = io_.stat(file, about); error < 0)
    return failed(-error, "looking at", name);
  if (!S_ISREG(about.st_mode)) return fail(Errc::lost, name + " is not a file any more");
  if (static_cast<std::uint64_t>(about.st_size) != file_bytes(item.place.size))
    return fail(Errc::lost, name + ": it has another length now");
  return {};
}

Result<void> ItemFiles::check_page(std::span<const std::byte> page, const TierItem& item) {
  const std::string name = item_name(item.key);
  auto header = read_header(page.first<header_bytes>());
  if (!header) return fail(Errc::lost, "items/" + name + ": " + header.error().detail);
  if (header->key != item.key || header->size != item.place.size ||
      header->incarnation != item.place.incarnation || header->crc32c != item.crc32c)
    return fail(Errc::lost, "items/" + name + ": it is another item now");
  return {};
}

Result<void> ItemFiles::read_all(int file, std::span<std::byte> pages, std::uint64_t offset,
                                 const std::string& name) {
  std::uint64_t done = 0;
  int fruitless = 0;
  while (done < pages.size()) {
    const ssize_t size = io_.read(file, pages.subspan(done), static_cast<off_t>(offset + done));
    if (size == 0) return fail(Errc::lost, name + ": it has become shorter");
    if (size < 0 && size != -EINTR) return failed(static_cast<int>(-size), "reading", name);
    const std::uint64_t moved = size < 0 ? 0 : page_of(static_cast<std::uint64_t>(size));
    done += moved;
    fruitless = moved > 0 ? 0 : fruitless + 1;
    // A file that ends within a page brings less than one for ever.
    if (fruitless == fruitless_tries) return fail(Errc::lost, name + ": it has become shorter");
  }
  return {};
}

Result<void> ItemFiles::read(const TierItem& item, std::uint64_t offset, std::uint64_t size,
                             const Take& take, TransferBuffer& buffer, bool& damaged) {
  damaged = false;
  const std::string name = item_name(item.key);
  const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
  const int file =
      open_uninterrupted(io_, directory_.items(), name, flags | (direct_ ? O_DIRECT : 0), 0);
  if (file == -ENOENT) return fail(Errc::lost, "items/" + name + " is not there any more");
  // A link, a socket, a folder.
  if (file == -ELOOP || file == -ENXIO || file == -EINVAL || file == -EISDIR) {
    damaged = true;
    return fail(Errc::lost, "items/" + name + " is not a file any more");
  }
  if (file < 0) return failed(-file, "opening", "items/" + name);
  const Closed closed{io_, file};
  if (auto sound = check_file(file, item); !sound) {
    damaged = sound.error().is(Errc::lost);
    return sound;
  }

  const bool whole = offset == 0 && size == item.place.size;
  const std::uint64_t end = header_bytes + offset + size;
  std::uint64_t at = header_bytes + offset;  // of the next byte that is wanted
  std::uint64_t from = page_of(at);          // of the next page that is read
  if (from <= near_first_page) from = 0;
  std::uint32_t sum = 0;
  bool checked = false;
  while (!checked || at < end) {
    // The first page comes with the first bytes, or by itself when they are far from it.
    const bool alone = !checked && from != 0;
    const std::uint64_t start = alone ? 0 : from;
    const auto length = static_cast<std::size_t>(
        alone ? header_bytes
              : std::min<std::uint64_t>(TransferBuffer::size, whole_pages(end) - start));
    const std::span<std::byte> pages = buffer.bytes().first(length);
    Result<void> done = read_all(file, pages, start, "items/" + name);
    if (done && !checked) done = check_page(pages, item);
    if (!done) {
      damaged = done.error().is(Errc::lost);
      return done;
    }
    checked = true;
    if (alone) continue;
    from = start + length;
    const std::uint64_t wanted_end = std::min(from, end);
    if (wanted_end <= at) continue;
    const auto wanted = std::span<const std::byte>(pages).subspan(
        static_cast<std::size_t>(at - start), static_cast<std::size_t>(wanted_end - at));
    if (!take(wanted)) return fail(Errc::cancelled, "the get of items/" + name + " was given up");
    if (whole) sum = crc32c(wanted, sum);
    at = wanted_end;
  }
  if (whole && sum != item.crc32c) {
    damaged = true;
    return fail(Errc::lost, "items/" + name + ": its bytes do not fit their checksum");
  }
  return {};
}

}  // namespace forebay::spill
