// SPDX-License-Identifier: Apache-2.0
#include "spill/disk/item_directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>

#include "spill/checksum.h"
#include "spill/disk/item_header.h"

namespace forebay::spill {

namespace {

constexpr std::string_view incarnation_head = "forebay spill folder 1 ";

std::string hex(std::uint64_t number) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text(16, '0');
  for (auto digit = text.rbegin(); digit != text.rend(); ++digit, number >>= 4U)
    *digit = digits[number & 15U];
  return text;
}

std::optional<std::uint64_t> parse_hex(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, 16);
  if (error != std::errc() || end != text.data() + text.size() || hex(number) != text)
    return std::nullopt;
  return number;
}

bool on_the_network(const struct statfs& file_system) {
  constexpr std::array<std::uint32_t, 8> kinds{
      0x6969,      // NFS
      0xff534d42,  // CIFS
      0xfe534d42,  // SMB 2
      0x517b,      // SMB
      0x564c,      // NCP
      0x5346414f,  // AFS
      0x01021997,  // 9P
      0x0bd00bd0,  // Lustre
  };
  for (const std::uint32_t kind : kinds)
    if (static_cast<std::uint32_t>(file_system.f_type) == kind) return true;
  return false;
}

// Names in a folder, but for "." and "..".
Result<std::vector<std::string>> names_in(int folder, const std::string& path) {
  const int again = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (again < 0) return fail_errno(errno, "opening " + path + " to list it");
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(again), ::closedir);
  if (stream == nullptr) {
    const int number = errno;
    ::close(again);
    return fail_errno(number, "listing " + path);
  }
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(stream.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno != 0) return fail_errno(errno, "listing " + path);
  return names;
}

}  // namespace

OpenFile::~OpenFile() {
  if (file_ >= 0) ::close(file_);
}

std::string item_name(const TierKey& key) {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  for (std::size_t i = 0; i < 8; ++i) {
    high = high << 8U | key.store[i];
    low = low << 8U | key.store[i + 8];
  }
  return hex(high) + hex(low) + "-" + hex(key.number);
}

ItemDirectory::ItemDirectory(ItemDirectory&& other) noexcept
    : path_(std::move(other.path_)),
      report_(std::move(other.report_)),
      root_(std::move(other.root_)),
      items_(std::move(other.items_)),
      incoming_(std::move(other.incoming_)),
      damaged_(std::move(other.damaged_)),
      incarnation_(other.incarnation_),
      set_aside_(other.set_aside_.load()) {}

Result<ItemDirectory> ItemDirectory::open(const std::string& path, Report report) {
  ItemDirectory directory(path, std::move(report));
  if (auto opened = directory.open_root(); !opened) return fail(std::move(opened).error());
  if (auto known = directory.read_incarnation(); !known) return fail(std::move(known).error());
  for (const auto& [name, folder] : {std::pair{"items", &directory.items_},
                                     std::pair{"incoming", &directory.incoming_},
                                     std::pair{"damaged", &directory.damaged_}}) {
    auto opened = directory.open_folder(name);
    if (!opened) return fail(std::move(opened).error());
    *folder = std::move(*opened);
  }
  if (::fsync(directory.root_.get()) != 0) return fail_errno(errno, "syncing " + path);
  return directory;
}

Result<void> ItemDirectory::open_root() {
  const bool made = ::mkdir(path_.c_str(), 0700) == 0;
  if (!made && errno != EEXIST) return fail_errno(errno, "making the spill folder " + path_);
  const int root = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (root < 0) {
    if (errno == ELOOP || errno == ENOTDIR)
      return fail(Errc::denied, "the spill folder " + path_ +
                                    " is a link or no folder; give the folder itself");
    return fail_errno(errno, "opening the spill folder " + path_);
  }
  root_ = OpenFile(root);
  struct stat about {};
  struct statfs file_system {};
  if (::fstat(root, &about) != 0 || ::fstatfs(root, &file_system) != 0)
    return fail_errno(errno, "looking at the spill folder " + path_);
  if (about.st_uid != ::geteuid())
    return fail(Errc::denied, "the spill folder " + path_ + " belongs to user " +
                                  std::to_string(about.st_uid) + "; give one of your own");
  if ((about.st_mode & (S_IWGRP | S_IWOTH)) != 0)
    return fail(Errc::denied, "the spill folder " + path_ +
                                  " can be written by others; take that right away (chmod 700)");
  if (on_the_network(file_system))
    return fail(Errc::denied, "the spill folder " + path_ +
                                  " is on a file system of the network; give one on a local disk");
  if (::flock(root, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return fail(Errc::already_running, "the spill folder " + path_ +
                                             " is in use by another process; give each its own");
    return fail_errno(errno, "locking the spill folder " + path_);
  }
  if (!made) return {};
  // The folder's own name must survive a crash, too.
  const std::string parent = std::filesystem::path(path_ + "/..").string();
  const OpenFile above(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (above.get() < 0 || ::fsync(above.get()) != 0)
    return fail_errno(errno, "syncing the folder above " + path_);
  return {};
}

Result<void> ItemDirectory::read_incarnation() {
  const OpenFile file(::openat(root_.get(), "incarnation", O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (file.get() < 0) {
    if (errno != ENOENT) return fail_errno(errno, "opening " + path_ + "/incarnation");
    // It is the first thing made: where it is missing, there is nothing else, or it was deleted.
    if (::faccessat(root_.get(), "items", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
      return fail(Errc::bad_state, path_ + "/incarnation is missing, so that the items there "
                                           "cannot be told from others'; empty the folder");
    return make_incarnation();
  }
  std::array<char, 128> text{};
  const ssize_t size = ::pread(file.get(), text.data(), text.size(), 0);
  if (size < 0) return fail_errno(errno, "reading " + path_ + "/incarnation");
  const std::string_view line(text.data(), static_cast<std::size_t>(size));
  std::optional<std::uint64_t> number;
  if (line.size() == incarnation_head.size() + 17 && line.starts_with(incarnation_head) &&
      line.back() == '\n')
    number = parse_hex(line.substr(incarnation_head.size(), 16));
  if (!number || *number == 0)
    return fail(Errc::bad_state, path_ + "/incarnation is not what this program writes; empty the "
                                         "folder, or give another one");
  incarnation_ = *number;
  return {};
}

Result<void> ItemDirectory::make_incarnation() {
  while (incarnation_ == 0)
    if (::getrandom(&incarnation_, sizeof incarnation_, 0) < 0 && errno != EINTR)
      return fail_errno(errno, "asking for a random number");
  const std::string line = std::string(incarnation_head) + hex(incarnation_) + "\n";
  const OpenFile file(::openat(root_.get(), "incarnation.new",
                               O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (file.get() < 0) return fail_errno(errno, "making " + path_ + "/incarnation.new");
  const ssize_t written = ::pwrite(file.get(), line.data(), line.size(), 0);
  if (written != static_cast<ssize_t>(line.size()))
    return fail_errno(written < 0 ? errno : ENOSPC, "writing " + path_ + "/incarnation.new");
  if (::fsync(file.get()) != 0 ||
      ::renameat(root_.get(), "incarnation.new", root_.get(), "incarnation") != 0 ||
      ::fsync(root_.get()) != 0)
    return fail_errno(errno, "keeping " + path_ + "/incarnation");
  return {};
}

Result<OpenFile> ItemDirectory::open_folder(const char* name) {
  if (::mkdirat(root_.get(), name, 0700) != 0 && errno != EEXIST)
    return fail_errno(errno, "making " + path_ + "/" + name);
  OpenFile folder(
      ::openat(root_.get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (folder.get() < 0) return fail_errno(errno, "opening " + path_ + "/" + name);
  return folder;
}

Result<ItemDirectory::Found> ItemDirectory::scan() {
  auto leftovers = names_in(incoming_.get(), path_ + "/incoming");
  if (!leftovers) return fail(std::move(leftovers).error());
  for (const std::string& name : *leftovers)
    if (::unlinkat(incoming_.get(), name.c_str(), 0) != 0)
      say("cannot remove " + path_ + "/incoming/" + name + ": " + std::strerror(errno));
  auto names = names_in(items_.get(), path_ + "/items");
  if (!names) return fail(std::move(names).error());
  Found found;
  for (const std::string& name : *names)
    if (auto scanned = scan_item(name, found); !scanned) return fail(std::move(scanned).error());
  auto damaged = names_in(damaged_.get(), path_ + "/damaged");
  if (!damaged) return fail(std::move(damaged).error());
  for (const std::string& name : *damaged) {
    struct stat about {};
    if (::fstatat(damaged_.get(), name.c_str(), &about, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISREG(about.st_mode) && about.st_size > 0)
      found.damaged_bytes += static_cast<std::uint64_t>(about.st_size);
  }
  return found;
}

Result<void> ItemDirectory::scan_item(const std::string& name, Found& found) {
  // What is not a file must not be waited for: a pipe, say.
  const OpenFile file(
      ::openat(items_.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (file.get() < 0) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
      return fail_errno(errno, "opening " + path_ + "/items/" + name);
    set_aside(name, std::string("it cannot be opened: ") + std::strerror(errno));
    return {};
  }
  struct stat about {};
  if (::fstat(file.get(), &about) != 0)
    return fail_errno(errno, "looking at " + path_ + "/items/" + name);
  if (!S_ISREG(about.st_mode)) {
    set_aside(name, "it is not a file");
    return {};
  }
  (void)::posix_fadvise(file.get(), 0, 0, POSIX_FADV_RANDOM);  // only the first page is wanted
  std::array<std::byte, header_bytes> page{};
  const ssize_t size = ::pread(file.get(), page.data(), page.size(), 0);
  if (size != static_cast<ssize_t>(page.size())) {
    set_aside(name, size < 0 ? std::string("it cannot be read: ") + std::strerror(errno)
                             : std::string("it is too short"));
    return {};
  }
  auto header = read_header(page);
  if (!header) {
    set_aside(name, header.error().detail);
  } else if (item_name(header->key) != name || header->incarnation != incarnation_) {
    set_aside(name, "it is another item than its name says");
  } else if (file_bytes(header->size) != static_cast<std::uint64_t>(about.st_size)) {
    set_aside(name, "it is not as long as its first page says");
  } else {
    found.items.push_back({.key = header->key,
                           .place = {.incarnation = incarnation_, .size = header->size},
                           .crc32c = header->crc32c,
                           .label = std::move(header->label)});
  }
  return {};
}

bool ItemDirectory::set_aside(const std::string& name, const std::string& why) {
  std::uint64_t unique = 0;
  (void)!::getrandom(&unique, sizeof unique, 0);
  const std::string to = name.substr(0, 200) + "." + hex(unique ^ ++set_aside_);
  const std::string file = path_ + "/items/" + name;
  if (::renameat(items_.get(), name.c_str(), damaged_.get(), to.c_str()) != 0) {
    if (errno != ENOENT)
      say(file + " is of no use (" + why + ") and cannot be moved: " + std::strerror(errno));
    return false;
  }
  say(file + " is of no use: " + why + "; it is now damaged/" + to +
      ", and can be deleted when nobody wants to look at it");
  return true;
}

bool ItemDirectory::takes_direct_io() const {
  const char* const name = "direct";
  const OpenFile file(::openat(incoming_.get(), name,
                               O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC | O_DIRECT,
                               0600));
  bool takes = false;
  if (file.get() >= 0) {
    const std::unique_ptr<void, void (*)(void*)> page(::aligned_alloc(page_bytes, page_bytes),
                                                      ::free);
    if (page != nullptr) {
      std::memset(page.get(), 0, page_bytes);
      const auto whole = static_cast<ssize_t>(page_bytes);
      takes = ::pwrite(file.get(), page.get(), page_bytes, 0) == whole &&
              ::pread(file.get(), page.get(), page_bytes, 0) == whole;
    }
  }
  (void)::unlinkat(incoming_.get(), name, 0);
  return takes;
}

void ItemDirectory::say(const std::string& sentence) const {
  if (report_) report_(sentence);
}

}  // namespace forebay::spill
