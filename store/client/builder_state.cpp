// SPDX-License-Identifier: Apache-2.0
#include "store/client/builder_state.h"

#include "store/shm/failpoint.h"

namespace forebay {

Builder::Builder(std::unique_ptr<client::BuilderState> state) : state_(std::move(state)) {}
Builder::Builder(Builder&&) noexcept = default;
Builder& Builder::operator=(Builder&&) noexcept = default;
Builder::~Builder() = default;

std::span<std::byte> Builder::bytes() { return state_->bytes(); }
std::uint64_t Builder::version() const { return state_->version(); }
Result<Ref> Builder::seal() { return state_->seal(); }
Result<View> Builder::seal_and_get() { return state_->seal_and_get(); }
Result<void> Builder::abort() { return state_->abort(); }
Result<View> Builder::abort_and_hold() { return state_->abort_and_hold(); }

namespace client {

const Core::Reserved& Access::reserved_of(const Builder& builder) {
  return builder.state_->reserved();
}
Builder Access::builder(std::unique_ptr<BuilderState> state) { return Builder(std::move(state)); }

BuilderState::BuilderState(std::shared_ptr<Core> core, Attachment* home,
                           const Core::Reserved& reserved, std::span<std::byte> bytes,
                           std::string id, const PutOptions& options)
    : core_(std::move(core)),
      home_(home),
      reserved_(reserved),
      bytes_(bytes),
      id_(std::move(id)),
      type_(options.type),
      fork_generation_(core_->fork_generation()) {}

BuilderState::~BuilderState() {
  // In a forked child this is the parent's to end.
  if (open() && fork_generation_ == core_->fork_generation() && !core_->closed())
    (void)send_abort();
  let_go();
}

void BuilderState::let_go() {
  if (home_ == nullptr) return;
  home_->release(reserved_.entry);
  home_->drop_share();
  home_ = nullptr;
}

Result<void> BuilderState::check_open(const char* verb) const {
  const std::string what = "cannot " + std::string(verb) + " '" + id_ + "' version " +
                           std::to_string(reserved_.version) + ": ";
  if (stage_ == Stage::sealed) return fail(Errc::bad_state, what + "it is sealed already");
  if (stage_ == Stage::aborted) return fail(Errc::bad_state, what + "it was aborted");
  if (fork_generation_ != core_->fork_generation())
    return fail(Errc::bad_state, what + "it belongs to the process that this one was forked from");
  return {};
}

Result<void> BuilderState::send_seal() {
  if (auto checked = check_open("seal"); !checked) return checked;
  shm::reached(shm::points::client_written);
  // Read-only first, visible second: no write of this process can reach a visible segment.
  if (auto closed = home_->close_window(reserved_.location, bytes_.size()); !closed) return closed;
  shm::reached(shm::points::client_window_closed);
  if (auto sealed = core_->seal(reserved_); !sealed) return sealed;
  shm::reached(shm::points::client_sealed);
  stage_ = Stage::sealed;
  home_->note_put();
  return {};
}

Result<void> BuilderState::send_abort() {
  if (auto checked = check_open("abort"); !checked) return checked;
  if (auto closed = home_->close_window(reserved_.location, bytes_.size()); !closed) return closed;
  stage_ = Stage::aborted;
  return core_->abort(reserved_);
}

Result<Ref> BuilderState::seal() {
  if (auto sealed = send_seal(); !sealed) return fail(std::move(sealed.error()));
  Ref ref = home_->ref_of(reserved_.entry);
  let_go();
  return ref;
}

View BuilderState::take_pin_as_view() {
  View view = Access::view(home_, reserved_.entry, bytes_.data(), bytes_.size());
  home_ = nullptr;
  return view;
}

Result<View> BuilderState::seal_and_get() {
  if (auto sealed = send_seal(); !sealed) return fail(std::move(sealed.error()));
  return take_pin_as_view();
}

Result<void> BuilderState::abort() {
  auto aborted = send_abort();
  if (stage_ == Stage::aborted) let_go();
  return aborted;
}

Result<View> BuilderState::abort_and_hold() {
  if (auto aborted = send_abort(); !aborted) return fail(std::move(aborted.error()));
  return take_pin_as_view();
}

}  // namespace client
}  // namespace forebay
