// SPDX-License-Identifier: Apache-2.0
// The C API: handles around the C++ client. No exception leaves.
#include "bindings/c/forebay.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <vector>

#include "store/client.h"
#include "store/version.h"

struct forebay_client {
  forebay::Client client;
};
struct forebay_view {
  forebay::View view;
  forebay::ArrayType type;  // filled by forebay_view_type
};
struct forebay_builder {
  forebay::Builder builder;
  size_t size;
};
struct forebay_list {
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

int failed(const Error& error) {
  last_error = error.detail.empty() ? error.code.message() : error.detail;
  const int code = error.code.value();
  return error.code.category() == forebay::forebay_category() ? code : -code;
}

int failed(Errc code, const char* why) { return failed(forebay::fail(code, why).error); }

// Runs a call; whatever is thrown (there is only no memory) becomes a code.
template <class Body>
int guarded(Body&& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return -ENOMEM;
  } catch (...) {
    return -EIO;
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

forebay::PutOptions put_options(const forebay_put_options* given) {
  const forebay_put_options options = with_defaults(given, FOREBAY_PUT_OPTIONS_INIT);
  forebay::PutOptions out;
  out.version = options.version;
  out.timeout = timeout_of(options.timeout_ns);
  out.exist_ok = options.exist_ok != 0;
  out.evictable = options.evictable != 0;
  out.persistent = options.persistent != 0;
  if (options.type.dtype != nullptr)
    out.type = forebay::ArrayType{
        options.type.dtype,
        std::vector<uint64_t>(options.type.shape, options.type.shape + options.type.ndim),
        options.type.fortran_order != 0};
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

}  // namespace

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

void forebay_close(forebay_client* client) { delete client; }

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
    *view = new forebay_view{std::move(*found), {}};
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
    *view = new forebay_view{std::move(*found), {}};
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
      items[i].view = found ? new forebay_view{std::move(*found), {}} : nullptr;
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
  return guarded([&] {
    auto found = view->view.type();
    if (!found && !found.error().is(Errc::type_mismatch)) return failed(found.error());
    if (!found) {
      *type = {nullptr, 0, nullptr, 0};
      return 0;
    }
    view->type = std::move(*found);
    *type = {view->type.dtype.c_str(), view->type.shape.size(), view->type.shape.data(),
             view->type.fortran_order ? 1 : 0};
    return 0;
  });
}

void forebay_release(forebay_view* view) { delete view; }

int forebay_contains(forebay_client* client, const void* id, size_t id_size, uint64_t version,
                     int* contains) {
  return guarded([&] {
    const auto found = client->client.contains(bytes_of(id, id_size), version);
    if (!found) return failed(found.error());
    *contains = *found ? 1 : 0;
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

int forebay_list_open(forebay_client* client, const void* prefix, size_t prefix_size,
                      forebay_list** list) {
  return guarded([&] {
    if (prefix_size > 255)
      return failed(Errc::bad_argument, "a prefix is 255 bytes at most, as ids are");
    *list = new forebay_list{client, std::string(bytes_of(prefix, prefix_size)), {}, 0, false};
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
    for (size_t i = 0; i < std::min(holders_max, stat->holders.size()); ++i) {
      const forebay::Holder& holder = stat->holders[i];
      holders[i].pid = holder.pid;
      holders[i].pins = holder.pins;
      const size_t length = std::min(holder.name.size(), sizeof holders[i].name - 1);
      std::memcpy(holders[i].name, holder.name.data(), length);
      holders[i].name[length] = '\0';
    }
    if (holders_count != nullptr) *holders_count = stat->holders.size();
    return 0;
  });
}
