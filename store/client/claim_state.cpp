// SPDX-License-Identifier: Apache-2.0
#include "store/client/claim_state.h"

#include "store/id.h"
#include "store/shm/group.h"
#include "store/shm/object.h"

namespace forebay {

Claim::Claim(std::unique_ptr<client::ClaimState> state) : state_(std::move(state)) {}
Claim::Claim(Claim&&) noexcept = default;
Claim& Claim::operator=(Claim&&) noexcept = default;
Claim::~Claim() = default;

std::uint64_t Claim::version() const { return state_->version(); }
Result<View> Claim::put(std::span<const std::byte> bytes, const PutOptions& options) {
  return state_->put(bytes, options);
}
Result<View> Claim::put_group(std::span<const GroupMember> members, const PutOptions& options) {
  const auto plan = shm::plan_group(members);
  if (!plan) return forebay::fail(plan.error());
  return state_->put(
      plan->size_bytes,
      [&](std::span<std::byte> payload) {
        shm::write_group(*plan, members, payload);
        return true;
      },
      options, plan->description);
}
Result<View> Claim::put_object(std::span<const ObjectPart> parts, const PutOptions& options) {
  const auto plan = shm::plan_object(parts);
  if (!plan) return forebay::fail(plan.error());
  return state_->put(
      plan->size_bytes,
      [&](std::span<std::byte> payload) { return shm::write_object(*plan, parts, payload); }, options,
      plan->description);
}
Result<Builder> Claim::create(std::uint64_t size_bytes, const PutOptions& options) {
  return state_->create(size_bytes, options);
}
void Claim::fail(std::string_view why) {
  state_->end(why.empty() ? std::string_view("its loader did not say why") : why);
}
void Claim::give_up() { state_->end({}); }

namespace client {

Claim Access::claim(std::unique_ptr<ClaimState> state) { return Claim(std::move(state)); }

ClaimState::ClaimState(std::shared_ptr<Core> core, std::string id, const wire::ClaimReply& reply,
                       std::uint64_t token)
    : core_(std::move(core)),
      id_(std::move(id)),
      reserved_{reply.entry, reply.version, reply.serial, shm::Location(), reply.store, 0},
      token_(token),
      fork_generation_(core_->fork_generation()) {}

ClaimState::~ClaimState() { end({}); }

Result<void> ClaimState::check_open() const {
  if (fork_generation_ != core_->fork_generation())
    return fail(Errc::bad_state, "the claim to make " + shown(id_, version()) +
                                     " belongs to the process that this one was forked from");
  if (!open_)
    return fail(Errc::bad_state, "the claim to make " + shown(id_, version()) + " has ended");
  return {};
}

PutOptions ClaimState::of_this_version(const PutOptions& options) const {
  PutOptions exact = options;
  exact.version = version();
  exact.exist_ok = false;
  return exact;
}

Result<View> ClaimState::put(std::uint64_t size, const Core::Filler& fill,
                             const PutOptions& options, const shm::Description& description) {
  if (size <= wire::inline_bytes_max) {
    std::vector<std::byte> bytes(size);
    if (!fill(bytes)) return could_not_make(id_);
    return put(bytes, options, &description);
  }
  if (auto checked = check_open(); !checked) return fail(std::move(checked.error()));
  // Pinned all the time: nobody can take it away before it is seen.
  auto builder = core_->create(id_, size, of_this_version(options),
                               {.description = &description, .claim = token_});
  if (!builder) return fail(std::move(builder.error()));
  // The builder's end aborts it, and the claim goes on to the next.
  if (!fill(builder->bytes())) return could_not_make(id_);
  open_ = false;
  return builder->seal_and_get();
}

Result<View> ClaimState::put(std::span<const std::byte> bytes, const PutOptions& options,
                             const shm::Description* description) {
  if (auto checked = check_open(); !checked) return fail(std::move(checked.error()));
  const Making fulfilling{.description = description, .claim = token_};
  if (bytes.size() > wire::inline_bytes_max) {
    auto builder = core_->create(id_, bytes.size(), of_this_version(options), fulfilling, bytes);
    if (!builder) return fail(std::move(builder.error()));
    open_ = false;
    return builder->seal_and_get();
  }
  auto ref = core_->put(id_, bytes, of_this_version(options), fulfilling);
  if (!ref) return fail(std::move(ref.error()));
  open_ = false;
  GetOptions exact;
  exact.version = ref->version;
  auto view = core_->get(id_, exact, &*ref);
  if (view || !view.error().is(Errc::stale_ref)) return view;
  // It went in this moment: somebody removed it, or it is older than what its id keeps. It is made again,
  // pinned all the time, unless somebody else was quicker.
  auto builder =
      core_->create(id_, bytes.size(), of_this_version(options), {.description = description}, bytes);
  if (builder) return builder->seal_and_get();
  return core_->get(id_, exact, nullptr);
}

Result<Builder> ClaimState::create(std::uint64_t size, const PutOptions& options) {
  if (auto checked = check_open(); !checked) return fail(std::move(checked.error()));
  auto builder = core_->create(id_, size, of_this_version(options), {.claim = token_});
  if (builder) {
    // Its abort lets the next try; `fail` still says why to those who wait.
    open_ = false;
    builds_ = true;
    reserved_ = Access::reserved_of(*builder);
  }
  return builder;
}

void ClaimState::end(std::string_view why) {
  const bool says_why_of_builder = builds_ && !why.empty();
  if (!open_ && !says_why_of_builder) return;
  if (fork_generation_ != core_->fork_generation()) return;
  open_ = false;
  builds_ = false;
  if (core_->closed()) return;
  constexpr std::size_t why_bytes_max = 4096;
  wire::AbortRequest request{reserved_.store, reserved_.entry, reserved_.serial, 0, 0,
                             why.substr(0, why_bytes_max)};
  (void)core_->abort(request);
}

}  // namespace client

Result<ViewOrClaim> Client::claim(std::string_view id, const ClaimOptions& options) {
  if (auto checked = check_id(id); !checked) return forebay::fail(std::move(checked.error()));
  if (options.timeout < Timeout::zero())
    return forebay::fail(Errc::bad_argument, "a timeout below zero");
  const client::Deadline until = core_->deadline_after(options.timeout);
  while (true) {
    bool missed = false;
    if (View view = core_->get_resident(id, options.version, nullptr, missed))
      return ViewOrClaim(std::move(view));
    wire::ClaimRequest request;
    request.id = id;
    request.version = options.version;
    request.token = core_->new_token();
    const auto remaining = [&] {
      const auto left = until - std::chrono::steady_clock::now();
      return left > Timeout::zero() ? static_cast<std::uint64_t>(Timeout(left).count()) : 0;
    };
    request.timeout_ns = remaining();
    const client::Deadline answered_by = until + (core_->deadline() - std::chrono::steady_clock::now());
    auto answer = core_->request<wire::ClaimReply>(request, answered_by,
                                                   [&] { request.timeout_ns = remaining(); });
    if (!answer) {
      // It may be granted to nobody's ears.
      if (answer.error().is(Errc::timed_out)) core_->give_up(request.token);
      return forebay::fail(std::move(answer.error()));
    }
    if (answer->message.yours != 0)
      return ViewOrClaim(client::Access::claim(std::make_unique<client::ClaimState>(
          core_, std::string(id), answer->message, request.token)));
    // It is there, or was a moment ago.
    GetOptions exact;
    exact.version = options.version;
    auto view = core_->get(id, exact, nullptr);
    if (view) return ViewOrClaim(std::move(*view));
    if (!view.error().is(Errc::not_found) || std::chrono::steady_clock::now() >= until)
      return forebay::fail(std::move(view.error()));
  }
}

Result<View> Client::get_or_create(std::string_view id, const Loader& loader,
                                   const ClaimOptions& options) {
  auto claimed = claim(id, options);
  if (!claimed) return forebay::fail(std::move(claimed.error()));
  if (auto* view = std::get_if<View>(&*claimed)) return std::move(*view);
  Claim& claim = std::get<Claim>(*claimed);
  auto loaded = loader();
  if (!loaded) {
    claim.fail(loaded.error().message());
    return forebay::fail(std::move(loaded.error()));
  }
  PutOptions put;
  put.type = std::move(loaded->type);
  auto view = claim.put(loaded->bytes, put);
  if (!view) claim.fail(view.error().message());
  return view;
}

}  // namespace forebay
