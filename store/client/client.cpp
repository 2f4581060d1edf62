// SPDX-License-Identifier: Apache-2.0
// The public classes, on what does their work.
#include "store/client.h"

#include <algorithm>

#include "store/client/attachment.h"
#include "store/client/core.h"
#include "store/shm/description.h"
#include "store/wire/address.h"

namespace forebay {

Failure client::could_not_make(std::string_view id) {
  return fail(Errc::bad_argument, "the bytes of " + shown(id) + " could not be made");
}

Failure client::no_array(std::uint64_t brief) {
  const char* what = "plain bytes";
  switch (shm::Brief::from_bits(brief).kind) {
    case shm::Kind::group:
      what = "a group, whose members are arrays: see View::group";
      break;
    case shm::Kind::manifest:
      what = "a manifest, which lists segments: see Client::get_manifest";
      break;
    case shm::Kind::object:
      what = "an object in parts: see View::object";
      break;
    default:
      break;
  }
  return fail(Errc::type_mismatch,
              std::string("the segment is no array: it was put as ") + what);
}

// ------------------------------------------------------------------------------------------ View

void View::release_pin() noexcept {
  client::Attachment* const home = std::exchange(home_, nullptr);
  home->release(entry_);
  home->drop_share();
  data_ = nullptr;
  size_ = 0;
}

Result<void> View::check_elements(std::size_t size, std::size_t alignment,
                                  std::string_view dtype) const {
  if (size_ % size != 0)
    return fail(Errc::type_mismatch, std::to_string(size_) +
                                         " bytes are no whole number of elements of " +
                                         std::to_string(size) + " bytes");
  if (reinterpret_cast<std::uintptr_t>(data_) % alignment != 0)
    return fail(Errc::type_mismatch, "the bytes are not aligned for elements of " +
                                         std::to_string(alignment) + " bytes");
  if (home_ == nullptr || dtype.empty()) return {};
  const auto type = home_->type_of(entry_);
  if (type && *type && (*type)->dtype != dtype)
    return fail(Errc::type_mismatch, "the segment is an array of " + (*type)->dtype + ", not of " +
                                         std::string(dtype));
  return {};
}

Result<ArrayType> View::type() const {
  if (home_ == nullptr) return fail(Errc::bad_state, "the view is of nothing");
  auto type = home_->type_of(entry_);
  if (!type) return fail(std::move(type.error()));
  if (!*type) return client::no_array(brief());
  return std::move(**type);
}

std::uint64_t View::brief() const {
  return home_ == nullptr ? 0 : home_->entry(entry_).brief.load(std::memory_order_relaxed);
}

std::uint64_t View::version() const {
  return home_ == nullptr ? 0 : home_->entry(entry_).version.load(std::memory_order_relaxed);
}
std::uint64_t View::serial() const {
  return home_ == nullptr ? 0 : home_->entry(entry_).serial.load(std::memory_order_relaxed);
}
Ref View::ref() const { return home_ == nullptr ? Ref{} : home_->ref_of(entry_); }

// ---------------------------------------------------------------------------------------- Client

Client::Client(std::shared_ptr<client::Core> core) : core_(std::move(core)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&& other) noexcept {
  if (this != &other) {
    if (core_ != nullptr) core_->close();
    core_ = std::move(other.core_);
  }
  return *this;
}
Client::~Client() {
  if (core_ != nullptr) core_->close();
}

Result<std::string> Client::default_address() {
  auto address = wire::resolve_address({});
  if (!address) return fail(std::move(address.error()));
  return std::move(address->path);
}

Result<Client> Client::connect(const ConnectOptions& options) {
  auto core = client::Core::connect(options);
  if (!core) return fail(std::move(core.error()));
  return Client(std::move(*core));
}

Result<Builder> Client::create(std::string_view id, std::uint64_t size_bytes,
                               const PutOptions& options) {
  return core_->create(id, size_bytes, options);
}
Result<Ref> Client::put(std::string_view id, std::span<const std::byte> bytes,
                        const PutOptions& options) {
  return core_->put(id, bytes, options);
}
Result<Ref> Client::put(std::string_view id, std::uint64_t size_bytes,
                        const std::function<bool(std::span<std::byte>)>& fill,
                        const PutOptions& options) {
  return core_->put(id, size_bytes, fill, options);
}

View Client::get_resident(std::string_view id, std::uint64_t version) const noexcept {
  bool missed = false;
  return core_->get_resident(id, version, nullptr, missed);
}
View Client::get_resident(const Ref& ref) const noexcept {
  bool missed = false;
  if (ref.namespace_name != core_->namespace_name()) return {};
  return core_->get_resident(ref.id, ref.version, &ref, missed);
}
Result<View> Client::get(std::string_view id) const { return core_->get(id, {}, nullptr); }
Result<View> Client::get(std::string_view id, const GetOptions& options) const {
  return core_->get(id, options, nullptr);
}
Result<View> Client::get(const Ref& ref, const GetOptions& options) const {
  GetOptions exact = options;
  exact.version = ref.version;
  return core_->get(ref.id, exact, &ref);
}

Result<bool> Client::contains(std::string_view id, std::uint64_t version) const {
  return core_->contains(id, version);
}
Result<std::uint64_t> Client::remove(std::string_view id, std::uint64_t version) {
  return core_->remove(id, version, nullptr);
}
Result<void> Client::remove(const Ref& ref) {
  if (auto checked = core_->check_store(ref, core_->store()); !checked) return checked;
  auto removed = core_->remove(ref.id, ref.version, &ref);
  if (!removed) return fail(std::move(removed.error()));
  return {};
}
Result<ListPage> Client::list(std::string_view prefix, const ListCursor& from,
                              std::size_t limit) const {
  return core_->list(prefix, from, limit);
}
Result<SegmentStat> Client::stat(std::string_view id, std::uint64_t version) const {
  return core_->stat(id, version);
}

Result<std::vector<Result<Ref>>> Client::put_many(std::span<const PutItem> items,
                                                  const PutOptions& options) {
  return core_->put_many(items, options);
}
Result<std::vector<Result<View>>> Client::get_many(std::span<const std::string_view> ids,
                                                   const GetOptions& options) const {
  return core_->get_many(ids, options);
}

Result<std::string> Client::status() const { return core_->status(); }
Result<std::vector<Holder>> Client::holders() const { return core_->holders(); }
Result<void> Client::dump(const std::function<void(std::string_view)>& write) const {
  return core_->dump(write);
}
Result<void> Client::stop_daemon(bool drop) { return core_->stop_daemon(drop); }

StoreUuid Client::store() const { return core_->store(); }
const std::string& Client::address() const { return core_->address(); }
const std::string& Client::namespace_name() const { return core_->namespace_name(); }
std::uint64_t Client::capacity_bytes() const { return core_->capacity_bytes(); }
void Client::close() { core_->close(); }
bool Client::closed() const { return core_->closed(); }

}  // namespace forebay
