// SPDX-License-Identifier: Apache-2.0
// The C API: handles around the C++ client. No exception leaves.
#include "bindings/c/forebay.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "store/client.h"
#include "store/version.h"

struct forebay_client {
  forebay::Client client;
  std::atomic<int> users{1};  // the caller until forebay_close, and the lists
};
struct forebay_view {
  struct Group {
    std::vector<forebay::GroupMember> owned;
    std::vector<forebay_member> members;  // point into the former
  };
  forebay::View view = {};
  forebay::ArrayType type = {};            // filled by forebay_view_type
  std::unique_ptr<Group> group = nullptr;  // by forebay_view_group
};
struct forebay_private_view {
  forebay::PrivateView view;
  forebay::ArrayType type = {};
};
struct forebay_builder {
  forebay::Builder builder;
  size_t size;
};
struct forebay_claim {
  forebay::Claim claim;
  std::optional<forebay::Builder> builder = {};  // between create and seal
  forebay::View made = {};   // what was made, unless its maker took the view
  bool fulfilled = false;
  bool failed = false;
  std::string why = {};      // it failed
};
struct forebay_async {
  forebay::AsyncGets gets;
};
struct forebay_subscription {
  forebay::Subscription subscription;
  std::vector<forebay::Event> owned = {};
  std::vector<forebay_event> events = {};  // point into the former
};
struct forebay_list {
  explicit forebay_list(forebay_client* of, std::string_view ids) : client(of), prefix(ids) {
    client->users.fetch_add(1, std::memory_order_relaxed);
  }
  ~forebay_list();
  forebay_list(const forebay_list&) = delete;
  forebay_list& operator=(const forebay_list&) = delete;

  forebay_client* client;
  std::string prefix;
  forebay::ListPage page;
  size_t at = 0;
  bool begun = false;
};

namespace {

using forebay::Errc;
using forebay::Error;
using forebay::Result;

thread_local std::string last_error;
thread_local int last_code = 0;  // what last_error is about

int failed_with(int code, std::string why) {
  last_error = std::move(why);
  last_code = code;
  return code;
}

int failed(const Error& error) {
  const int code = error.code.value();
  return failed_with(error.code.category() == forebay::forebay_category() ? code : -code,
                     error.detail.empty() ? error.code.message() : error.detail);
}

int failed(Errc code, const char* why) { return failed(forebay::fail(code, why).error); }

// Runs a call; whatever is thrown (by us: only no memory; by a callback: it should not) becomes a
// code. The sentences are short enough for a string without an allocation.
template <class Body>
int guarded(Body&& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return failed_with(-ENOMEM, "out of memory");
  } catch (...) {
    return failed_with(-EIO, "exception");
  }
}

// Options of an older caller are shorter: what it does not know keeps its default.
template <class Options>
Options with_defaults(const Options* given, Options defaults) {
  if (given != nullptr)
    std::memcpy(&defaults, given, std::min(given->struct_size, sizeof(Options)));
  return defaults;
}

std::string_view bytes_of(const void* id, size_t size) {
  return {static_cast<const char*>(id), size};
}

forebay::Timeout timeout_of(uint64_t nanoseconds) {
  constexpr uint64_t longest = UINT64_C(366) * 24 * 3600 * 1000000000;
  return forebay::Timeout(static_cast<int64_t>(std::min(nanoseconds, longest)));
}

forebay::Timeout lifetime_of(uint64_t nanoseconds) {
  return forebay::Timeout(static_cast<int64_t>(std::min<uint64_t>(nanoseconds, INT64_MAX)));
}

std::optional<forebay::ArrayType> type_of(const forebay_array_type& type) {
  if (type.dtype == nullptr) return std::nullopt;
  return forebay::ArrayType{type.dtype,
                            std::vector<uint64_t>(type.shape, type.shape + type.ndim),
                            type.fortran_order != 0};
}

// Points into `type`.
forebay_array_type c_type_of(const forebay::ArrayType& type) {
  return {type.dtype.c_str(), type.shape.size(), type.shape.data(), type.fortran_order ? 1 : 0};
}

// What a view's `type` says, kept in `kept`.
int write_type(Result<forebay::ArrayType> found, forebay::ArrayType& kept,
               forebay_array_type* type) {
  if (!found && !found.error().is(Errc::type_mismatch)) return failed(found.error());
  if (!found) {
    *type = {nullptr, 0, nullptr, 0};
    return 0;
  }
  kept = std::move(*found);
  *type = c_type_of(kept);
  return 0;
}

forebay::PutOptions put_options(const forebay_put_options* given) {
  const forebay_put_options options = with_defaults(given, FOREBAY_PUT_OPTIONS_INIT);
  forebay::PutOptions out;
  out.version = options.version;
  out.timeout = timeout_of(options.timeout_ns);
  out.exist_ok = options.exist_ok != 0;
  out.evictable = options.evictable != 0;
  out.persistent = options.persistent != 0;
  out.keep = options.keep;
  out.ttl = lifetime_of(options.ttl_ns);
  out.type = type_of(options.type);
  return out;
}

forebay::GetOptions get_options(const forebay_get_options* given) {
  const forebay_get_options options = with_defaults(given, FOREBAY_GET_OPTIONS_INIT);
  forebay::GetOptions out;
  out.version = options.version;
  out.after = options.after;
  out.timeout = timeout_of(options.timeout_ns);
  return out;
}

forebay::ClaimOptions claim_options(const forebay_claim_options* given) {
  const forebay_claim_options options = with_defaults(given, FOREBAY_CLAIM_OPTIONS_INIT);
  forebay::ClaimOptions out;
  out.version = options.version;
  out.timeout = timeout_of(options.timeout_ns);
  return out;
}

Result<std::vector<forebay::Ref>> parse_refs(const char* const* refs, size_t count) {
  std::vector<forebay::Ref> parsed;
  parsed.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    auto ref = forebay::Ref::parse(refs[i]);
    if (!ref) return forebay::fail(std::move(ref.error()));
    parsed.push_back(std::move(*ref));
  }
  return parsed;
}

void write_holders(const std::vector<forebay::Holder>& from, forebay_holder* holders, size_t max,
                   size_t* count) {
  for (size_t i = 0; i < std::min(max, from.size()); ++i) {
    const forebay::Holder& holder = from[i];
    holders[i].pid = holder.pid;
    holders[i].pins = holder.pins;
    const size_t length = std::min(holder.name.size(), sizeof holders[i].name - 1);
    std::memcpy(holders[i].name, holder.name.data(), length);
    holders[i].name[length] = '\0';
  }
  if (count != nullptr) *count = from.size();
}

// Texts that are never freed.
const char* name_of_state(std::string_view state) {
  static constexpr const char* names[] = {"sealed",   "removing", "creating", "evicting",
                                          "spilled", "restoring", "free",    "tombstone"};
  for (const char* name : names)
    if (state == name) return name;
  return "unknown";
}

void release_user(forebay_client* client) {
  if (client->users.fetch_sub(1, std::memory_order_acq_rel) == 1) delete client;
}

void write_ref(const forebay::Ref& ref, char* text) {
  if (text == nullptr) return;
  const std::string written = ref.to_string();
  static_assert(FOREBAY_REF_BYTES > 8 + 36 + 1 + 64 + 1 + 3 * 255 + 2 + 2 * 20);
  std::memcpy(text, written.c_str(), written.size() + 1);
}

forebay_segment_info info_of(const forebay::SegmentInfo& info) {
  const auto since = info.sealed_at.time_since_epoch();
  return {info.id.data(),
          info.id.size(),
          info.version,
          info.serial,
          info.size,
          static_cast<uint64_t>(
              std::chrono::duration_cast<std::chrono::nanoseconds>(since).count()),
          info.evictable ? 1 : 0,
          info.persistent ? 1 : 0};
}

// The caller gets the view if it asked for one; else it stays with the claim.
int fulfil(forebay_claim& claim, forebay::View made, std::unique_ptr<forebay_view> handle,
           forebay_view** view) {
  claim.fulfilled = true;
  if (view == nullptr) {
    claim.made = std::move(made);
    return 0;
  }
  handle->view = std::move(made);
  *view = handle.release();
  return 0;
}

Error error_of(int code, std::string detail) {
  if (code < 0) return {{-code, std::system_category()}, std::move(detail)};
  return {forebay::make_error_code(static_cast<Errc>(code)), std::move(detail)};
}

// Runs a loader on its claim.
Result<forebay::View> load(forebay_client& client, std::string_view id, forebay_claim& claim,
                           forebay_loader loader, void* context) {
  last_code = 0;
  const int code = loader(context, &claim);
  if (code != 0 && claim.failed) return forebay::fail(error_of(code, claim.why));
  // What it returns is mostly what a call in it has returned.
  if (code != 0)
    return forebay::fail(
        error_of(code, last_code == code ? last_error : forebay_strerror(code)));
  if (claim.builder) return claim.builder->seal_and_get();
  if (claim.made) return std::move(claim.made);
  if (claim.fulfilled) {
    // It took the view itself.
    forebay::GetOptions exact;
    exact.version = claim.claim.version();
    return client.client.get(id, exact);
  }
  if (claim.failed) return forebay::fail(Errc::loader_failed, claim.why);
  return forebay::fail(Errc::bad_state, "the loader returned 0, and made nothing");
}

// As Client does with the refs that it is given.
Result<void> check_store(const forebay::Client& client, const forebay::Ref& ref) {
  if (ref.store != client.store() || ref.namespace_name != client.namespace_name())
    return forebay::fail(Errc::wrong_store, "the ref " + ref.to_string() +
                                                " belongs to another store or namespace than " +
                                                forebay::format_uuid(client.store()) + "/" +
                                                client.namespace_name());
  if (ref.version == 0 || ref.serial == 0)
    return forebay::fail(Errc::stale_ref, "the ref " + ref.to_string() + " names no segment");
  return {};
}

static_assert(FOREBAY_EVENT_MISSED == static_cast<int>(forebay::EventKind::missed));
static_assert(FOREBAY_CAUSE_LOST == static_cast<int>(forebay::RemovalCause::lost));

int write_events(forebay_subscription& subscription, Result<std::vector<forebay::Event>> came,
                 const forebay_event** events, size_t* count) {
  if (!came) return failed(came.error());
  std::vector<forebay_event> converted;
  converted.reserve(came->size());
  for (const forebay::Event& event : *came)
    converted.push_back({static_cast<int>(event.kind), static_cast<int>(event.cause),
                         event.id.data(), event.id.size(), event.version, event.serial,
                         event.size, event.missed});
  subscription.owned = std::move(*came);
  subscription.events = std::move(converted);
  *events = subscription.events.data();
  *count = subscription.events.size();
  return 0;
}

}  // namespace

static_assert(FOREBAY_ETIERDOWN == forebay::errc_last);
static_assert(FOREBAY_KEEP_ALL == forebay::keep_all && FOREBAY_KEEP_MAX == forebay::keep_max);

forebay_list::~forebay_list() { release_user(client); }

const char* forebay_strerror(int code) {
  if (code == 0) return "ok";
  if (code < 0) {
    thread_local std::string text;
    text = std::system_category().message(-code);
    return text.c_str();
  }
  return forebay::errc_name(static_cast<Errc>(code)).data();
}

const char* forebay_last_error(void) { return last_error.c_str(); }
const char* forebay_version(void) { return forebay::version_text; }

int forebay_connect(const forebay_connect_options* given, forebay_client** client) {
  return guarded([&] {
    const forebay_connect_options options = with_defaults(given, FOREBAY_CONNECT_OPTIONS_INIT);
    forebay::ConnectOptions out;
    if (options.address != nullptr) out.address = options.address;
    if (options.namespace_name != nullptr) out.namespace_name = options.namespace_name;
    out.start_daemon = options.start_daemon != 0;
    out.timeout = timeout_of(options.timeout_ns);
    auto connected = forebay::Client::connect(out);
    if (!connected) return failed(connected.error());
    *client = new forebay_client{std::move(*connected)};
    return 0;
  });
}

void forebay_close(forebay_client* client) {
  if (client == nullptr) return;
  (void)guarded([&] {
    client->client.close();
    return 0;
  });
  release_user(client);
}

int forebay_put(forebay_client* client, const void* id, size_t id_size, const void* data,
                size_t size, const forebay_put_options* options, char* ref) {
  return guarded([&] {
    const auto made =
        client->client.put(bytes_of(id, id_size),
                           std::span(static_cast<const std::byte*>(data), size),
                           put_options(options));
    if (!made) return failed(made.error());
    write_ref(*made, ref);
    return 0;
  });
}

int forebay_update(forebay_client* client, const void* id, size_t id_size,
                   const forebay_update_options* given, forebay_builder** builder) {
  return guarded([&] {
    const forebay_update_options options = with_defaults(given, FOREBAY_UPDATE_OPTIONS_INIT);
    forebay::UpdateOptions out;
    out.from_version = options.from_version;
    out.take = options.take != 0;
    out.timeout = timeout_of(options.timeout_ns);
    out.evictable = options.evictable != 0;
    out.persistent = options.persistent != 0;
    out.keep = options.keep;
    out.ttl = lifetime_of(options.ttl_ns);
    auto made = client->client.update(bytes_of(id, id_size), out);
    if (!made) return failed(made.error());
    const size_t size = made->bytes().size();
    *builder = new forebay_builder{std::move(*made), size};
    return 0;
  });
}

int forebay_put_group(forebay_client* client, const void* id, size_t id_size,
                      const forebay_member* members, size_t count,
                      const forebay_put_options* options, char* ref) {
  return guarded([&] {
    std::vector<forebay::GroupMember> group;
    group.reserve(count);
    for (size_t i = 0; i < count; ++i)
      group.push_back({std::string(bytes_of(members[i].name, members[i].name_size)),
                       std::span(static_cast<const std::byte*>(members[i].data), members[i].size),
                       type_of(members[i].type)});
    const auto made =
        client->client.put_group(bytes_of(id, id_size), group, put_options(options));
    if (!made) return failed(made.error());
    write_ref(*made, ref);
    return 0;
  });
}

int forebay_put_manifest(forebay_client* client, const void* id, size_t id_size,
                         const char* const* refs, size_t count,
                         const forebay_put_options* options, char* ref) {
  return guarded([&] {
    const auto members = parse_refs(refs, count);
    if (!members) return failed(members.error());
    const auto made =
        client->client.put_manifest(bytes_of(id, id_size), *members, put_options(options));
    if (!made) return failed(made.error());
    write_ref(*made, ref);
    return 0;
  });
}

int forebay_create(forebay_client* client, const void* id, size_t id_size, size_t size,
                   const forebay_put_options* options, forebay_builder** builder) {
  return guarded([&] {
    auto made = client->client.create(bytes_of(id, id_size), size, put_options(options));
    if (!made) return failed(made.error());
    *builder = new forebay_builder{std::move(*made), size};
    return 0;
  });
}

void* forebay_builder_data(forebay_builder* builder) { return builder->builder.bytes().data(); }
size_t forebay_builder_size(const forebay_builder* builder) { return builder->size; }
uint64_t forebay_builder_version(const forebay_builder* builder) {
  return builder->builder.version();
}

int forebay_seal(forebay_builder* builder, char* ref) {
  return guarded([&] {
    const auto sealed = builder->builder.seal();
    if (!sealed) return failed(sealed.error());
    write_ref(*sealed, ref);
    return 0;
  });
}

int forebay_abort(forebay_builder* builder) {
  return guarded([&] {
    const auto aborted = builder->builder.abort();
    return aborted ? 0 : failed(aborted.error());
  });
}

void forebay_builder_free(forebay_builder* builder) { delete builder; }

int forebay_put_many(forebay_client* client, forebay_put_item* items, size_t count,
                     const forebay_put_options* options) {
  return guarded([&] {
    std::vector<forebay::PutItem> batch;
    batch.reserve(count);
    for (size_t i = 0; i < count; ++i)
      batch.push_back({bytes_of(items[i].id, items[i].id_size),
                       std::span(static_cast<const std::byte*>(items[i].data), items[i].size)});
    const auto results = client->client.put_many(batch, put_options(options));
    if (!results) return failed(results.error());
    for (size_t i = 0; i < count; ++i)
      items[i].result = (*results)[i] ? 0 : failed((*results)[i].error());
    return 0;
  });
}

int forebay_get(forebay_client* client, const void* id, size_t id_size,
                const forebay_get_options* options, forebay_view** view) {
  return guarded([&] {
    auto found = client->client.get(bytes_of(id, id_size), get_options(options));
    if (!found) return failed(found.error());
    *view = new forebay_view{std::move(*found)};
    return 0;
  });
}

int forebay_get_ref(forebay_client* client, const char* ref, uint64_t timeout_ns,
                    forebay_view** view) {
  return guarded([&] {
    const auto parsed = forebay::Ref::parse(ref);
    if (!parsed) return failed(parsed.error());
    forebay::GetOptions options;
    options.timeout = timeout_of(timeout_ns);
    auto found = client->client.get(*parsed, options);
    if (!found) return failed(found.error());
    *view = new forebay_view{std::move(*found)};
    return 0;
  });
}

int forebay_get_many(forebay_client* client, forebay_get_item* items, size_t count,
                     const forebay_get_options* options) {
  return guarded([&] {
    std::vector<std::string_view> ids;
    ids.reserve(count);
    for (size_t i = 0; i < count; ++i) ids.push_back(bytes_of(items[i].id, items[i].id_size));
    auto views = client->client.get_many(ids, get_options(options));
    if (!views) return failed(views.error());
    for (size_t i = 0; i < count; ++i) {
      auto& found = (*views)[i];
      items[i].view = found ? new forebay_view{std::move(*found)} : nullptr;
      items[i].result = items[i].view != nullptr ? 0 : failed(found.error());
    }
    return 0;
  });
}

const void* forebay_view_data(const forebay_view* view) { return view->view.bytes().data(); }
size_t forebay_view_size(const forebay_view* view) { return view->view.bytes().size(); }
uint64_t forebay_view_version(const forebay_view* view) { return view->view.version(); }

int forebay_view_ref(const forebay_view* view, char* ref) {
  return guarded([&] {
    write_ref(view->view.ref(), ref);
    return 0;
  });
}

int forebay_view_type(forebay_view* view, forebay_array_type* type) {
  return guarded([&] { return write_type(view->view.type(), view->type, type); });
}

int forebay_view_group(forebay_view* view, const forebay_member** members, size_t* count) {
  return guarded([&] {
    if (view->group == nullptr) {
      auto found = view->view.group();
      if (!found) return failed(found.error());
      auto group = std::make_unique<forebay_view::Group>();
      group->owned = std::move(*found);
      group->members.reserve(group->owned.size());
      for (const forebay::GroupMember& member : group->owned)
        group->members.push_back({member.name.c_str(), member.name.size(), member.bytes.data(),
                                  member.bytes.size(),
                                  member.type ? c_type_of(*member.type)
                                              : forebay_array_type{nullptr, 0, nullptr, 0}});
      view->group = std::move(group);
    }
    *members = view->group->members.data();
    *count = view->group->members.size();
    return 0;
  });
}

void forebay_release(forebay_view* view) { delete view; }

int forebay_get_manifest(forebay_client* client, const void* id, size_t id_size,
                         const forebay_get_options* options, forebay_view*** views,
                         size_t* count) {
  return guarded([&] {
    auto found = client->client.get_manifest(bytes_of(id, id_size), get_options(options));
    if (!found) return failed(found.error());
    std::vector<std::unique_ptr<forebay_view>> owned;
    owned.reserve(found->size());
    for (forebay::View& view : *found)
      owned.emplace_back(new forebay_view{std::move(view)});
    auto array = std::make_unique<forebay_view*[]>(owned.size());
    for (size_t i = 0; i < owned.size(); ++i) array[i] = owned[i].release();
    *views = array.release();
    *count = owned.size();
    return 0;
  });
}

void forebay_release_many(forebay_view** views, size_t count) {
  if (views == nullptr) return;
  for (size_t i = 0; i < count; ++i) forebay_release(views[i]);
  delete[] views;
}

int forebay_get_private(forebay_client* client, const void* id, size_t id_size,
                        const forebay_get_options* options, forebay_private_view** view) {
  return guarded([&] {
    auto found = client->client.get_private(bytes_of(id, id_size), get_options(options));
    if (!found) return failed(found.error());
    *view = new forebay_private_view{std::move(*found)};
    return 0;
  });
}

void* forebay_private_view_data(const forebay_private_view* view) {
  return view->view.bytes().data();
}
size_t forebay_private_view_size(const forebay_private_view* view) {
  return view->view.bytes().size();
}

int forebay_private_view_ref(const forebay_private_view* view, char* ref) {
  return guarded([&] {
    write_ref(view->view.ref(), ref);
    return 0;
  });
}

int forebay_private_view_type(forebay_private_view* view, forebay_array_type* type) {
  return guarded([&] { return write_type(view->view.type(), view->type, type); });
}

void forebay_private_view_free(forebay_private_view* view) { delete view; }

// ------------------------------------------------------------------------------------- claims

int forebay_get_or_claim(forebay_client* client, const void* id, size_t id_size,
                         const forebay_claim_options* options, forebay_view** view,
                         forebay_claim** claim) {
  return guarded([&] {
    auto claimed = client->client.claim(bytes_of(id, id_size), claim_options(options));
    if (!claimed) return failed(claimed.error());
    forebay_view* found = nullptr;
    forebay_claim* made = nullptr;
    if (auto* there = std::get_if<forebay::View>(&*claimed))
      found = new forebay_view{std::move(*there)};
    else
      made = new forebay_claim{std::get<forebay::Claim>(std::move(*claimed))};
    *view = found;
    *claim = made;
    return 0;
  });
}

uint64_t forebay_claim_version(const forebay_claim* claim) { return claim->claim.version(); }

int forebay_claim_put(forebay_claim* claim, const void* data, size_t size,
                      const forebay_put_options* options, forebay_view** view) {
  return guarded([&] {
    auto handle = view != nullptr ? std::make_unique<forebay_view>() : nullptr;
    auto made = claim->claim.put(std::span(static_cast<const std::byte*>(data), size),
                                 put_options(options));
    if (!made) return failed(made.error());
    return fulfil(*claim, std::move(*made), std::move(handle), view);
  });
}

int forebay_claim_create(forebay_claim* claim, size_t size, const forebay_put_options* options,
                         void** data) {
  return guarded([&] {
    auto made = claim->claim.create(size, put_options(options));
    if (!made) return failed(made.error());
    claim->builder.emplace(std::move(*made));
    *data = claim->builder->bytes().data();
    return 0;
  });
}

int forebay_claim_seal(forebay_claim* claim, forebay_view** view) {
  return guarded([&] {
    if (!claim->builder)
      return failed(Errc::bad_state, "the claim has nothing to seal: forebay_claim_create first");
    auto handle = view != nullptr ? std::make_unique<forebay_view>() : nullptr;
    auto made = claim->builder->seal_and_get();
    if (!made) return failed(made.error());
    claim->builder.reset();
    return fulfil(*claim, std::move(*made), std::move(handle), view);
  });
}

void forebay_claim_fail(forebay_claim* claim, const char* why) {
  (void)guarded([&] {
    if (claim->fulfilled || claim->failed) return 0;
    claim->failed = true;
    claim->why = why != nullptr ? why : "";
    claim->claim.fail(claim->why);
    claim->builder.reset();
    return 0;
  });
}

void forebay_claim_free(forebay_claim* claim) { delete claim; }

int forebay_get_or_create(forebay_client* client, const void* id, size_t id_size,
                          const forebay_claim_options* options, forebay_loader loader,
                          void* context, forebay_view** view) {
  return guarded([&] {
    auto handle = std::make_unique<forebay_view>();
    auto claimed = client->client.claim(bytes_of(id, id_size), claim_options(options));
    if (!claimed) return failed(claimed.error());
    if (auto* there = std::get_if<forebay::View>(&*claimed)) {
      handle->view = std::move(*there);
      *view = handle.release();
      return 0;
    }
    forebay_claim claim{std::get<forebay::Claim>(std::move(*claimed))};
    auto loaded = load(*client, bytes_of(id, id_size), claim, loader, context);
    if (!loaded) {
      forebay_claim_fail(&claim, loaded.error().message().c_str());
      return failed(loaded.error());
    }
    handle->view = std::move(*loaded);
    *view = handle.release();
    return 0;
  });
}

// ------------------------------------------------------------------------------------ waiting

int forebay_wait(forebay_client* client, forebay_wait_item* items, size_t count, size_t needed,
                 uint64_t timeout_ns, size_t* ready_count) {
  return guarded([&] {
    std::vector<forebay::Ref> refs;
    refs.reserve(count);  // the items point into it
    std::vector<forebay::WaitItem> waited;
    waited.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      if (items[i].ref == nullptr) {
        waited.push_back({bytes_of(items[i].id, items[i].id_size), items[i].version,
                          items[i].after, 0});
        continue;
      }
      auto parsed = forebay::Ref::parse(items[i].ref);
      if (!parsed) return failed(parsed.error());
      const forebay::Ref& ref = refs.emplace_back(std::move(*parsed));
      if (auto checked = check_store(client->client, ref); !checked)
        return failed(checked.error());
      waited.push_back({ref.id, ref.version, 0, ref.serial});
    }
    const auto ready = client->client.wait(waited, needed, timeout_of(timeout_ns));
    if (!ready) return failed(ready.error());
    for (size_t i = 0; i < count; ++i) items[i].ready = 0;
    for (const size_t i : *ready) items[i].ready = 1;
    if (ready_count != nullptr) *ready_count = ready->size();
    return 0;
  });
}

int forebay_async_open(forebay_client* client, forebay_async** async) {
  return guarded([&] {
    auto gets = client->client.async_gets();
    if (!gets) return failed(gets.error());
    *async = new forebay_async{std::move(*gets)};
    return 0;
  });
}

int forebay_async_fd(const forebay_async* async) { return async->gets.fd(); }

int forebay_async_get(forebay_async* async, const void* id, size_t id_size,
                      const forebay_get_options* options, forebay_async_callback callback,
                      void* context, uint64_t* number) {
  return guarded([&] {
    const auto done = [callback, context](Result<forebay::View> found) {
      forebay_view* view = nullptr;
      const int result = guarded([&] {
        if (!found) return failed(found.error());
        view = new forebay_view{std::move(*found)};
        return 0;
      });
      callback(context, result, view);
    };
    const uint64_t given = async->gets.get(bytes_of(id, id_size), get_options(options), done);
    if (number != nullptr) *number = given;
    return 0;
  });
}

int forebay_async_cancel(forebay_async* async, uint64_t number) {
  return guarded([&] {
    if (async->gets.cancel(number)) return 0;
    return failed(Errc::not_found, "no get of that number is open");
  });
}

int forebay_async_dispatch(forebay_async* async, size_t* called_back) {
  return guarded([&] {
    const size_t count = async->gets.dispatch();
    if (called_back != nullptr) *called_back = count;
    return 0;
  });
}

size_t forebay_async_open_count(const forebay_async* async) { return async->gets.open_count(); }
void forebay_async_close(forebay_async* async) { delete async; }

// ------------------------------------------------------------------------------------- events

int forebay_subscribe(forebay_client* client, const void* prefix, size_t prefix_size,
                      const char* cursor, forebay_subscription** subscription) {
  return guarded([&] {
    forebay::EventCursor from;
    if (cursor != nullptr) {
      auto parsed = forebay::EventCursor::parse(cursor);
      if (!parsed) return failed(parsed.error());
      from = *parsed;
    }
    auto made = client->client.subscribe(bytes_of(prefix, prefix_size), from);
    if (!made) return failed(made.error());
    *subscription = new forebay_subscription{std::move(*made)};
    return 0;
  });
}

int forebay_subscription_next(forebay_subscription* subscription, uint64_t timeout_ns,
                              const forebay_event** events, size_t* count) {
  return guarded([&] {
    return write_events(*subscription, subscription->subscription.next(timeout_of(timeout_ns)),
                        events, count);
  });
}

int forebay_subscription_poll(forebay_subscription* subscription, const forebay_event** events,
                              size_t* count) {
  return guarded([&] {
    return write_events(*subscription, subscription->subscription.poll(), events, count);
  });
}

int forebay_subscription_fd(const forebay_subscription* subscription) {
  return subscription->subscription.fd();
}

int forebay_subscription_cursor(const forebay_subscription* subscription, char* cursor) {
  return guarded([&] {
    const std::string written = subscription->subscription.cursor().to_string();
    static_assert(FOREBAY_CURSOR_BYTES > 36 + 1 + 20);
    std::memcpy(cursor, written.c_str(), written.size() + 1);
    return 0;
  });
}

void forebay_subscription_close(forebay_subscription* subscription) { delete subscription; }

// ------------------------------------------------------------------------ looking and removing

int forebay_contains(forebay_client* client, const void* id, size_t id_size, uint64_t version,
                     int* contains) {
  return guarded([&] {
    const auto found = client->client.contains(bytes_of(id, id_size), version);
    if (!found) return failed(found.error());
    *contains = *found ? 1 : 0;
    return 0;
  });
}

int forebay_contains_many(forebay_client* client, forebay_contains_item* items, size_t count) {
  return guarded([&] {
    std::vector<std::string_view> ids;
    ids.reserve(count);
    for (size_t i = 0; i < count; ++i) ids.push_back(bytes_of(items[i].id, items[i].id_size));
    const auto there = client->client.contains_many(ids);
    if (!there) return failed(there.error());
    for (size_t i = 0; i < count; ++i) items[i].contains = (*there)[i] ? 1 : 0;
    return 0;
  });
}

int forebay_remove(forebay_client* client, const void* id, size_t id_size, uint64_t version,
                   uint64_t* removed) {
  return guarded([&] {
    const auto count = client->client.remove(bytes_of(id, id_size), version);
    if (!count) return failed(count.error());
    if (removed != nullptr) *removed = *count;
    return 0;
  });
}

int forebay_remove_ref(forebay_client* client, const char* ref) {
  return guarded([&] {
    const auto parsed = forebay::Ref::parse(ref);
    if (!parsed) return failed(parsed.error());
    const auto removed = client->client.remove(*parsed);
    return removed ? 0 : failed(removed.error());
  });
}

int forebay_remove_before(forebay_client* client, const void* id, size_t id_size,
                          uint64_t version, uint64_t* removed) {
  return guarded([&] {
    const auto count = client->client.remove_before(bytes_of(id, id_size), version);
    if (!count) return failed(count.error());
    if (removed != nullptr) *removed = *count;
    return 0;
  });
}

int forebay_remove_prefix(forebay_client* client, const void* prefix, size_t prefix_size,
                          uint64_t* removed) {
  return guarded([&] {
    const auto count = client->client.remove_prefix(bytes_of(prefix, prefix_size));
    if (!count) return failed(count.error());
    if (removed != nullptr) *removed = *count;
    return 0;
  });
}

int forebay_remove_many(forebay_client* client, forebay_remove_item* items, size_t count) {
  return guarded([&] {
    std::vector<std::string_view> ids;
    ids.reserve(count);
    for (size_t i = 0; i < count; ++i) ids.push_back(bytes_of(items[i].id, items[i].id_size));
    const auto results = client->client.remove_many(ids);
    if (!results) return failed(results.error());
    for (size_t i = 0; i < count; ++i) {
      const auto& removed = (*results)[i];
      items[i].removed = removed ? *removed : 0;
      items[i].result = removed ? 0 : failed(removed.error());
    }
    return 0;
  });
}

int forebay_remove_many_refs(forebay_client* client, const char* const* refs, size_t count,
                             int* results) {
  return guarded([&] {
    std::vector<forebay::Ref> parsed;
    std::vector<std::optional<Error>> refused(count);
    parsed.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      auto ref = forebay::Ref::parse(refs[i]);
      if (ref)
        parsed.push_back(std::move(*ref));
      else
        refused[i] = std::move(ref.error());
    }
    const auto removed = client->client.remove_many(parsed);
    if (!removed) return failed(removed.error());
    size_t at = 0;
    for (size_t i = 0; i < count; ++i) {
      if (refused[i])
        results[i] = failed(*refused[i]);
      else if (const auto& one = (*removed)[at++]; one)
        results[i] = 0;
      else
        results[i] = failed(one.error());
    }
    return 0;
  });
}

int forebay_list_open(forebay_client* client, const void* prefix, size_t prefix_size,
                      forebay_list** list) {
  return guarded([&] {
    if (prefix_size > 255)
      return failed(Errc::bad_argument, "a prefix is 255 bytes at most, as ids are");
    *list = new forebay_list(client, bytes_of(prefix, prefix_size));
    return 0;
  });
}

int forebay_list_next(forebay_list* list, forebay_segment_info* info) {
  return guarded([&] {
    if (list->at == list->page.segments.size()) {
      const bool ended = list->begun && !list->page.next;
      if (!ended) {
        auto page = list->client->client.list(
            list->prefix, list->begun ? *list->page.next : forebay::ListCursor{});
        if (!page) return failed(page.error());
        list->page = std::move(*page);
        list->begun = true;
        list->at = 0;
      }
      if (ended || list->page.segments.empty())
        return failed(Errc::not_found, "the list has ended");
    }
    *info = info_of(list->page.segments[list->at++]);
    return 0;
  });
}

void forebay_list_free(forebay_list* list) { delete list; }

int forebay_stat(forebay_client* client, const void* id, size_t id_size, uint64_t version,
                 forebay_segment_info* info, forebay_holder* holders, size_t holders_max,
                 size_t* holders_count) {
  return guarded([&] {
    auto stat = client->client.stat(bytes_of(id, id_size), version);
    if (!stat) return failed(stat.error());
    // Its id must outlive this call.
    thread_local forebay::SegmentInfo kept;
    kept = std::move(stat->info);
    if (info != nullptr) *info = info_of(kept);
    write_holders(stat->holders, holders, holders_max, holders_count);
    return 0;
  });
}

// ----------------------------------------------------------------------------------- retention

int forebay_hold(forebay_client* client, const void* id, size_t id_size, uint64_t version,
                 char* ref) {
  return guarded([&] {
    const auto held = client->client.hold(bytes_of(id, id_size), version);
    if (!held) return failed(held.error());
    write_ref(*held, ref);
    return 0;
  });
}

int forebay_hold_ref(forebay_client* client, const char* ref) {
  return guarded([&] {
    const auto parsed = forebay::Ref::parse(ref);
    if (!parsed) return failed(parsed.error());
    const auto held = client->client.hold(*parsed);
    return held ? 0 : failed(held.error());
  });
}

int forebay_unhold(forebay_client* client, const char* ref) {
  return guarded([&] {
    const auto parsed = forebay::Ref::parse(ref);
    if (!parsed) return failed(parsed.error());
    const auto done = client->client.unhold(*parsed);
    return done ? 0 : failed(done.error());
  });
}

int forebay_begin_scope(forebay_client* client, const void* prefix, size_t prefix_size) {
  return guarded([&] {
    const auto begun = client->client.begin_scope(bytes_of(prefix, prefix_size));
    return begun ? 0 : failed(begun.error());
  });
}

int forebay_end_scope(forebay_client* client, const void* prefix, size_t prefix_size,
                      uint64_t* removed) {
  return guarded([&] {
    const auto count = client->client.end_scope(bytes_of(prefix, prefix_size));
    if (!count) return failed(count.error());
    if (removed != nullptr) *removed = *count;
    return 0;
  });
}

int forebay_persist(forebay_client* client, const void* id, size_t id_size, uint64_t version,
                    char* ref) {
  return guarded([&] {
    const auto persisted = client->client.persist(bytes_of(id, id_size), version);
    if (!persisted) return failed(persisted.error());
    write_ref(*persisted, ref);
    return 0;
  });
}

int forebay_keep(forebay_client* client, const void* id, size_t id_size, uint32_t versions) {
  return guarded([&] {
    const auto done = client->client.keep(bytes_of(id, id_size), versions);
    return done ? 0 : failed(done.error());
  });
}

int forebay_stat_retention(forebay_client* client, const void* id, size_t id_size,
                           uint64_t version, forebay_retention* retention,
                           forebay_holder* leases, size_t leases_max, size_t* leases_count) {
  return guarded([&] {
    const auto stat = client->client.stat(bytes_of(id, id_size), version);
    if (!stat) return failed(stat.error());
    forebay_retention found = FOREBAY_RETENTION_INIT;
    found.struct_size = retention->struct_size;
    found.state = name_of_state(stat->state);
    found.keep = stat->keep;
    found.manifests = stat->manifests;
    found.expires = stat->expires_in ? 1 : 0;
    if (stat->expires_in)
      found.expires_in_ns = static_cast<uint64_t>(
          std::chrono::duration_cast<std::chrono::nanoseconds>(*stat->expires_in).count());
    // A caller of an older version has a shorter one.
    std::memcpy(retention, &found, std::min(retention->struct_size, sizeof found));
    write_holders(stat->leases, leases, leases_max, leases_count);
    return 0;
  });
}
