/* SPDX-License-Identifier: Apache-2.0 */
/* The C API, compiled and used as C. argv[1] is the socket of a running daemon. */
#include "bindings/c/forebay.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int checks = 0;

static void check(int holds, const char* what, int line) {
  ++checks;
  if (holds) return;
  fprintf(stderr, "c_api_test.c:%d: FAILED: %s (last error: %s)\n", line, what,
          forebay_last_error());
  exit(1);
}
#define CHECK(condition) check((condition), #condition, __LINE__)

static void errors_have_names(void) {
  int code;
  for (code = 1; code <= FOREBAY_ETIERDOWN; ++code)
    CHECK(strcmp(forebay_strerror(code), "unknown") != 0);
  CHECK(strcmp(forebay_strerror(FOREBAY_ETIERDOWN + 1), "unknown") == 0);
  CHECK(strcmp(forebay_strerror(0), "ok") == 0);
  CHECK(strcmp(forebay_strerror(FOREBAY_ENOTFOUND), "not_found") == 0);
  CHECK(strcmp(forebay_strerror(FOREBAY_ELOADERFAILED), "loader_failed") == 0);
  CHECK(strcmp(forebay_strerror(FOREBAY_ECANCELLED), "cancelled") == 0);
  CHECK(strlen(forebay_strerror(-2)) > 0);
  CHECK(strlen(forebay_version()) > 0);
}

static void nobody_listens(void) {
  forebay_connect_options options = FOREBAY_CONNECT_OPTIONS_INIT;
  forebay_client* client = NULL;
  options.address = "/nowhere/at/all.sock";
  options.timeout_ns = 10 * 1000 * 1000;
  CHECK(forebay_connect(&options, &client) == FOREBAY_EDISCONNECTED);
  CHECK(strstr(forebay_last_error(), "/nowhere/at/all.sock") != NULL);
  CHECK(client == NULL);
}

static void put_and_get(forebay_client* client) {
  const double numbers[6] = {0, 1, 2, 3, 4, 5};
  const uint64_t shape[2] = {2, 3};
  forebay_put_options options = FOREBAY_PUT_OPTIONS_INIT;
  forebay_get_options get = FOREBAY_GET_OPTIONS_INIT;
  forebay_array_type type;
  forebay_view* view = NULL;
  char ref[FOREBAY_REF_BYTES];
  char again[FOREBAY_REF_BYTES];
  int contains = 0;
  uint64_t removed = 0;

  options.type.dtype = "<f8";
  options.type.ndim = 2;
  options.type.shape = shape;
  CHECK(forebay_put(client, "c/a", 3, numbers, sizeof numbers, &options, ref) == 0);
  CHECK(strncmp(ref, "forebay:", 8) == 0);
  CHECK(forebay_get(client, "c/a", 3, NULL, &view) == 0);
  CHECK(forebay_view_size(view) == sizeof numbers);
  CHECK(memcmp(forebay_view_data(view), numbers, sizeof numbers) == 0);
  CHECK((uintptr_t)forebay_view_data(view) % 64 == 0);
  CHECK(forebay_view_version(view) == 1);
  CHECK(forebay_view_type(view, &type) == 0);
  CHECK(strcmp(type.dtype, "<f8") == 0 && type.ndim == 2 && type.shape[1] == 3);
  CHECK(forebay_view_ref(view, again) == 0 && strcmp(ref, again) == 0);
  forebay_release(view);

  CHECK(forebay_get_ref(client, ref, 0, &view) == 0);
  forebay_release(view);
  CHECK(forebay_get_ref(client, "not a ref", 0, &view) == FOREBAY_EBADARGUMENT);

  options.version = 1;
  CHECK(forebay_put(client, "c/a", 3, numbers, sizeof numbers, &options, NULL) == FOREBAY_EEXISTS);
  options.exist_ok = 1;
  CHECK(forebay_put(client, "c/a", 3, numbers, sizeof numbers, &options, NULL) == 0);

  CHECK(forebay_get(client, "c/none", 6, NULL, &view) == FOREBAY_ENOTFOUND);
  get.timeout_ns = 5 * 1000 * 1000;
  CHECK(forebay_get(client, "c/none", 6, &get, &view) == FOREBAY_ETIMEDOUT);
  CHECK(forebay_put(client, "", 0, numbers, 8, NULL, NULL) == FOREBAY_EBADID);

  CHECK(forebay_contains(client, "c/a", 3, 0, &contains) == 0 && contains == 1);
  CHECK(forebay_remove(client, "c/a", 3, 0, &removed) == 0 && removed == 1);
  CHECK(forebay_contains(client, "c/a", 3, 0, &contains) == 0 && contains == 0);
  CHECK(forebay_get_ref(client, ref, 0, &view) == FOREBAY_ESTALEREF);
  CHECK(forebay_remove_ref(client, ref) == FOREBAY_ESTALEREF);
  CHECK(forebay_remove(client, "c/a", 3, 0, NULL) == FOREBAY_ENOTFOUND);
}

static void create_and_seal(forebay_client* client) {
  forebay_builder* builder = NULL;
  forebay_view* view = NULL;
  forebay_array_type type;
  char ref[FOREBAY_REF_BYTES];
  const size_t size = 100000;

  CHECK(forebay_create(client, "c/b", 3, size, NULL, &builder) == 0);
  CHECK(forebay_builder_size(builder) == size && forebay_builder_version(builder) == 1);
  memset(forebay_builder_data(builder), 7, size);
  CHECK(forebay_get(client, "c/b", 3, NULL, &view) == FOREBAY_ENOTFOUND);
  CHECK(forebay_seal(builder, ref) == 0);
  CHECK(forebay_builder_data(builder) == NULL);
  CHECK(forebay_seal(builder, ref) == FOREBAY_EBADSTATE);
  CHECK(forebay_abort(builder) == FOREBAY_EBADSTATE);
  forebay_builder_free(builder);

  CHECK(forebay_get_ref(client, ref, 0, &view) == 0);
  CHECK(((const char*)forebay_view_data(view))[size - 1] == 7);
  CHECK(forebay_view_type(view, &type) == 0 && type.dtype == NULL);
  forebay_release(view);

  CHECK(forebay_create(client, "c/gone", 6, size, NULL, &builder) == 0);
  CHECK(forebay_abort(builder) == 0);
  CHECK(forebay_seal(builder, NULL) == FOREBAY_EBADSTATE);
  forebay_builder_free(builder);
  CHECK(forebay_create(client, "c/gone", 6, size, NULL, &builder) == 0);
  forebay_builder_free(builder); /* aborts */
  CHECK(forebay_get(client, "c/gone", 6, NULL, &view) == FOREBAY_ENOTFOUND);
  forebay_builder_free(NULL);
  forebay_release(NULL);
}

static void batches_lists_and_stat(forebay_client* client) {
  forebay_put_item puts[3] = {
      {"l/1", 3, "one", 3, -1}, {"l/2", 3, "two", 3, -1}, {"", 0, "bad", 3, -1}};
  forebay_get_item gets[2] = {{"l/2", 3, NULL, -1}, {"l/none", 6, NULL, -1}};
  forebay_segment_info info;
  forebay_holder holders[4];
  forebay_list* list = NULL;
  size_t count = 0;

  CHECK(forebay_put_many(client, puts, 3, NULL) == 0);
  CHECK(puts[0].result == 0 && puts[1].result == 0 && puts[2].result == FOREBAY_EBADID);
  CHECK(forebay_get_many(client, gets, 2, NULL) == 0);
  CHECK(gets[0].result == 0 && forebay_view_size(gets[0].view) == 3);
  CHECK(gets[1].result == FOREBAY_ENOTFOUND && gets[1].view == NULL);

  CHECK(forebay_stat(client, "l/2", 3, 0, &info, holders, 4, &count) == 0);
  CHECK(count == 1 && holders[0].pins == 1 && info.size == 3 && info.sealed_at_ns > 0);
  forebay_release(gets[0].view);

  CHECK(forebay_list_open(client, "l/", 2, &list) == 0);
  CHECK(forebay_list_next(list, &info) == 0);
  CHECK(info.id_size == 3 && memcmp(info.id, "l/1", 3) == 0 && info.version == 1);
  CHECK(forebay_list_next(list, &info) == 0);
  CHECK(memcmp(info.id, "l/2", 3) == 0);
  CHECK(forebay_list_next(list, &info) == FOREBAY_ENOTFOUND);
  CHECK(forebay_list_next(list, &info) == FOREBAY_ENOTFOUND);
  forebay_list_free(list);
}

static const uint64_t second_ns = UINT64_C(1000000000);
static const uint64_t moment_ns = UINT64_C(20000000);

static void put_text(forebay_client* client, const char* id, const char* text, char* ref) {
  CHECK(forebay_put(client, id, strlen(id), text, strlen(text), NULL, ref) == 0);
}

static void retention(forebay_client* client) {
  forebay_put_options options = FOREBAY_PUT_OPTIONS_INIT;
  forebay_retention kept = FOREBAY_RETENTION_INIT;
  forebay_holder leases[2];
  forebay_view* view = NULL;
  char first[FOREBAY_REF_BYTES];
  char ref[FOREBAY_REF_BYTES];
  size_t count = 9;
  int contains = 1;

  /* keep: the second version pushes out the first, unless that is held. */
  options.keep = 1;
  CHECK(forebay_put(client, "r/k", 3, "1", 1, &options, first) == 0);
  CHECK(forebay_hold(client, "r/k", 3, 0, ref) == 0 && strcmp(first, ref) == 0);
  CHECK(forebay_put(client, "r/k", 3, "2", 1, &options, NULL) == 0);
  CHECK(forebay_contains(client, "r/k", 3, 1, &contains) == 0 && contains == 1);
  CHECK(forebay_stat_retention(client, "r/k", 3, 1, &kept, leases, 2, &count) == 0);
  CHECK(strcmp(kept.state, "sealed") == 0 && kept.keep == 1 && kept.manifests == 0);
  CHECK(count == 1 && leases[0].pid > 0 && leases[0].name[0] != '\0' && kept.expires == 0);
  CHECK(forebay_hold_ref(client, ref) == 0);
  CHECK(forebay_unhold(client, ref) == 0);
  CHECK(forebay_contains(client, "r/k", 3, 1, &contains) == 0 && contains == 1);
  CHECK(forebay_unhold(client, ref) == 0);
  CHECK(forebay_contains(client, "r/k", 3, 1, &contains) == 0 && contains == 0);
  CHECK(forebay_unhold(client, ref) == FOREBAY_EBADSTATE);
  CHECK(forebay_hold_ref(client, ref) == FOREBAY_ESTALEREF);
  CHECK(forebay_hold_ref(client, "not a ref") == FOREBAY_EBADARGUMENT);
  CHECK(forebay_hold(client, "r/none", 6, 0, NULL) == FOREBAY_ENOTFOUND);
  options.keep = FOREBAY_KEEP_ALL + 1;
  CHECK(forebay_put(client, "r/k", 3, "3", 1, &options, NULL) == FOREBAY_EBADARGUMENT);

  CHECK(forebay_keep(client, "r/k", 3, FOREBAY_KEEP_ALL) == 0);
  put_text(client, "r/k", "3", NULL);
  CHECK(forebay_contains(client, "r/k", 3, 2, &contains) == 0 && contains == 1);
  CHECK(forebay_persist(client, "r/k", 3, 2, ref) == 0);
  CHECK(forebay_keep(client, "r/k", 3, 1) == 0);
  CHECK(forebay_contains(client, "r/k", 3, 2, &contains) == 0 && contains == 1);
  CHECK(forebay_keep(client, "r/k", 3, 0) == FOREBAY_EBADARGUMENT);
  CHECK(forebay_keep(client, "r/none", 6, 1) == FOREBAY_ENOTFOUND);
  CHECK(forebay_persist(client, "r/none", 6, 0, NULL) == FOREBAY_ENOTFOUND);

  /* ttl: longer than a clock can count is for ever. */
  options.keep = 0;
  options.ttl_ns = 100 * second_ns;
  CHECK(forebay_put(client, "r/t", 3, "1", 1, &options, NULL) == 0);
  CHECK(forebay_stat_retention(client, "r/t", 3, 0, &kept, NULL, 0, NULL) == 0);
  CHECK(kept.expires == 1 && kept.expires_in_ns > 50 * second_ns &&
        kept.expires_in_ns <= 100 * second_ns);
  options.ttl_ns = UINT64_MAX;
  CHECK(forebay_put(client, "r/t", 3, "2", 1, &options, NULL) == 0);
  CHECK(forebay_contains(client, "r/t", 3, 2, &contains) == 0 && contains == 1);
  options.ttl_ns = 1;
  CHECK(forebay_put(client, "r/t", 3, "3", 1, &options, ref) == 0);
  while (forebay_get_ref(client, ref, 0, &view) == 0) forebay_release(view);
  CHECK(forebay_stat_retention(client, "r/none", 6, 0, &kept, NULL, 0, NULL) ==
        FOREBAY_ENOTFOUND);
}

static void scopes(forebay_client* client) {
  uint64_t removed = 9;
  int contains = 1;

  CHECK(forebay_begin_scope(client, "s/", 2) == 0);
  CHECK(forebay_begin_scope(client, "s/x", 3) == FOREBAY_ECONFLICT);
  CHECK(forebay_begin_scope(client, "", 0) == FOREBAY_EBADID);
  put_text(client, "s/1", "one", NULL);
  put_text(client, "s/2", "two", NULL);
  put_text(client, "s", "not inside", NULL);
  CHECK(forebay_end_scope(client, "s/x", 3, &removed) == FOREBAY_EBADSTATE && removed == 9);
  CHECK(forebay_end_scope(client, "s/", 2, &removed) == 0 && removed == 2);
  CHECK(forebay_contains(client, "s/1", 3, 0, &contains) == 0 && contains == 0);
  CHECK(forebay_contains(client, "s", 1, 0, &contains) == 0 && contains == 1);
  CHECK(forebay_end_scope(client, "s/", 2, NULL) == FOREBAY_EBADSTATE);
  CHECK(forebay_begin_scope(client, "s/", 2) == 0);
  CHECK(forebay_end_scope(client, "s/", 2, NULL) == 0);
  CHECK(forebay_remove(client, "s", 1, 0, NULL) == 0);
}

static void many_at_once(forebay_client* client) {
  forebay_contains_item contained[2] = {{"m/1", 3, -1}, {"m/none", 6, -1}};
  forebay_contains_item bad[1] = {{"", 0, -1}};
  forebay_remove_item removed[3] = {{"m/1", 3, 9, -1}, {"m/none", 6, 9, -1}, {"", 0, 9, -1}};
  const char* refs[3];
  int results[3] = {-1, -1, -1};
  char first[FOREBAY_REF_BYTES];
  char second[FOREBAY_REF_BYTES];
  uint64_t count = 9;

  put_text(client, "m/1", "one", NULL);
  put_text(client, "m/1", "two", NULL);
  put_text(client, "m/1", "three", NULL);
  CHECK(forebay_contains_many(client, contained, 2) == 0);
  CHECK(contained[0].contains == 1 && contained[1].contains == 0);
  CHECK(forebay_contains_many(client, bad, 1) == FOREBAY_EBADID && bad[0].contains == -1);

  CHECK(forebay_remove_before(client, "m/1", 3, 2, &count) == 0 && count == 1);
  CHECK(forebay_remove_before(client, "m/1", 3, 2, &count) == 0 && count == 0);
  CHECK(forebay_remove_before(client, "m/1", 3, 0, NULL) == FOREBAY_EBADARGUMENT);
  CHECK(forebay_remove_many(client, removed, 3) == 0);
  CHECK(removed[0].result == 0 && removed[0].removed == 2);
  CHECK(removed[1].result == FOREBAY_ENOTFOUND && removed[1].removed == 0);
  CHECK(removed[2].result == FOREBAY_EBADID);
  CHECK(forebay_remove_many(client, NULL, 0) == 0);

  put_text(client, "m/2", "one", first);
  put_text(client, "m/3", "two", second);
  CHECK(forebay_remove_ref(client, second) == 0);
  refs[0] = second;
  refs[1] = "not a ref";
  refs[2] = first;
  CHECK(forebay_remove_many_refs(client, refs, 3, results) == 0);
  CHECK(results[0] == FOREBAY_ESTALEREF && results[1] == FOREBAY_EBADARGUMENT && results[2] == 0);

  put_text(client, "m/4", "one", NULL);
  put_text(client, "m/5", "two", NULL);
  CHECK(forebay_remove_prefix(client, "m/", 2, &count) == 0 && count == 2);
  CHECK(forebay_remove_prefix(client, "m/", 2, &count) == 0 && count == 0);
}

static void* put_later(void* client) {
  const struct timespec pause = {0, 20 * 1000 * 1000};
  nanosleep(&pause, NULL);
  put_text(client, "w/late", "late", NULL);
  return NULL;
}

static void waiting(forebay_client* client) {
  char ref[FOREBAY_REF_BYTES];
  forebay_wait_item items[4];
  pthread_t thread;
  size_t count = 9;

  memset(items, 0, sizeof items);
  put_text(client, "w/here", "here", ref);
  items[0].id = "w/late";
  items[0].id_size = 6;
  items[1].ref = ref;
  items[2].id = "w/here";
  items[2].id_size = 6;
  items[2].after = 1;
  items[3].id = "w/here";
  items[3].id_size = 6;
  items[3].version = 1;
  CHECK(forebay_wait(client, items, 4, 4, 0, &count) == 0 && count == 2);
  CHECK(!items[0].ready && items[1].ready && !items[2].ready && items[3].ready);
  CHECK(forebay_wait(client, items, 4, 4, moment_ns, &count) == 0 && count == 2);
  CHECK(pthread_create(&thread, NULL, put_later, client) == 0);
  CHECK(forebay_wait(client, items, 4, 3, 10 * second_ns, &count) == 0 && count == 3);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(items[0].ready && items[1].ready && !items[2].ready && items[3].ready);
  CHECK(forebay_wait(client, NULL, 0, 0, 0, NULL) == 0);
  CHECK(forebay_wait(client, items, 4, 5, 0, NULL) == FOREBAY_EBADARGUMENT);
  CHECK(forebay_remove_ref(client, ref) == 0);
  CHECK(forebay_wait(client, items, 2, 2, second_ns, NULL) == FOREBAY_ESTALEREF);
  items[1].ref = "forebay:00000000-0000-0000-0000-000000000001/default/a@1#1";
  CHECK(forebay_wait(client, items, 2, 2, second_ns, NULL) == FOREBAY_EWRONGSTORE);
}

struct got {
  int calls;
  int result;
  size_t size;
  forebay_async* ask_again; /* from within */
};
static void note_got(void* context, int result, forebay_view* view) {
  struct got* got = context;
  ++got->calls;
  got->result = result;
  got->size = view != NULL ? forebay_view_size(view) : 0;
  CHECK((view != NULL) == (result == 0));
  CHECK(result == 0 || strlen(forebay_last_error()) > 0);
  forebay_release(view);
  if (got->ask_again != NULL)
    CHECK(forebay_async_get(got->ask_again, "a/here", 6, NULL, note_got, got + 1, NULL) == 0);
}

static void dispatch_until_called(forebay_async* async, const struct got* got) {
  struct pollfd descriptor;
  size_t called = 0;
  descriptor.fd = forebay_async_fd(async);
  descriptor.events = POLLIN;
  while (got->calls == 0) {
    CHECK(poll(&descriptor, 1, 10000) == 1);
    CHECK(forebay_async_dispatch(async, &called) == 0);
  }
}

static void async_gets(forebay_client* client) {
  forebay_get_options wait = FOREBAY_GET_OPTIONS_INIT;
  forebay_async* async = NULL;
  struct got got[2];
  uint64_t number = 9;

  CHECK(forebay_async_open(client, &async) == 0);
  put_text(client, "a/here", "here", NULL);
  memset(got, 0, sizeof got);
  CHECK(forebay_async_get(async, "a/here", 6, NULL, note_got, got, &number) == 0);
  CHECK(number == 0 && got->calls == 1 && got->result == 0 && got->size == 4);
  memset(got, 0, sizeof got);
  CHECK(forebay_async_get(async, "", 0, NULL, note_got, got, &number) == 0);
  CHECK(number == 0 && got->calls == 1 && got->result == FOREBAY_EBADID);
  memset(got, 0, sizeof got);
  CHECK(forebay_async_get(async, "a/none", 6, NULL, note_got, got, NULL) == 0);
  CHECK(got->calls == 1 && got->result == FOREBAY_ENOTFOUND);

  wait.timeout_ns = 10 * second_ns;
  memset(got, 0, sizeof got);
  got->ask_again = async;
  CHECK(forebay_async_get(async, "a/late", 6, &wait, note_got, got, &number) == 0);
  CHECK(number != 0 && got->calls == 0 && forebay_async_open_count(async) == 1);
  put_text(client, "a/late", "later", NULL);
  dispatch_until_called(async, got);
  CHECK(got->calls == 1 && got->result == 0 && got->size == 5);
  CHECK(got[1].calls == 1 && got[1].result == 0);
  CHECK(forebay_async_open_count(async) == 0);
  CHECK(forebay_async_cancel(async, number) == FOREBAY_ENOTFOUND);

  wait.timeout_ns = moment_ns;
  memset(got, 0, sizeof got);
  CHECK(forebay_async_get(async, "a/none", 6, &wait, note_got, got, NULL) == 0);
  dispatch_until_called(async, got);
  CHECK(got->result == FOREBAY_ETIMEDOUT);

  wait.timeout_ns = 10 * second_ns;
  memset(got, 0, sizeof got);
  CHECK(forebay_async_get(async, "a/none", 6, &wait, note_got, got, &number) == 0);
  CHECK(forebay_async_cancel(async, number) == 0);
  CHECK(got->calls == 1 && got->result == FOREBAY_ECANCELLED);
  memset(got, 0, sizeof got);
  CHECK(forebay_async_get(async, "a/none", 6, &wait, note_got, got, NULL) == 0);
  forebay_async_close(async);
  CHECK(got->calls == 1 && got->result == FOREBAY_ECANCELLED);
  forebay_async_close(NULL);
}

static void events(forebay_client* client) {
  forebay_subscription* subscription = NULL;
  const forebay_event* came = NULL;
  char cursor[FOREBAY_CURSOR_BYTES];
  struct pollfd descriptor;
  size_t count = 9;

  CHECK(forebay_subscribe(client, "e/", 2, NULL, &subscription) == 0);
  CHECK(forebay_subscription_poll(subscription, &came, &count) == 0 && count == 0);
  CHECK(forebay_subscription_next(subscription, moment_ns, &came, &count) == FOREBAY_ETIMEDOUT);
  put_text(client, "e/1", "event", NULL);
  CHECK(forebay_subscription_next(subscription, 10 * second_ns, &came, &count) == 0);
  CHECK(count == 1 && came[0].kind == FOREBAY_EVENT_SEALED);
  CHECK(came[0].cause == FOREBAY_CAUSE_NONE && came[0].missed == 0);
  CHECK(came[0].id_size == 3 && memcmp(came[0].id, "e/1", 3) == 0);
  CHECK(came[0].version == 1 && came[0].serial > 0 && came[0].size == 5);
  CHECK(forebay_subscription_cursor(subscription, cursor) == 0);
  CHECK(forebay_remove(client, "e/1", 3, 0, NULL) == 0);
  descriptor.fd = forebay_subscription_fd(subscription);
  descriptor.events = POLLIN;
  do {
    CHECK(poll(&descriptor, 1, 10000) == 1);
    CHECK(forebay_subscription_poll(subscription, &came, &count) == 0);
  } while (count == 0);
  CHECK(count == 1 && came[0].kind == FOREBAY_EVENT_REMOVED);
  CHECK(came[0].cause == FOREBAY_CAUSE_REMOVED);
  forebay_subscription_close(subscription);

  /* Whoever has stored the cursor goes on there. */
  CHECK(forebay_subscribe(client, "e/", 2, cursor, &subscription) == 0);
  CHECK(forebay_subscription_next(subscription, 10 * second_ns, &came, &count) == 0);
  CHECK(count == 1 && came[0].kind == FOREBAY_EVENT_REMOVED);
  forebay_subscription_close(subscription);
  forebay_subscription_close(NULL);

  CHECK(forebay_subscribe(client, "e/", 2, "not a cursor", &subscription) ==
        FOREBAY_EBADARGUMENT);
  CHECK(forebay_subscribe(client, "e/", 2, "00000000-0000-0000-0000-000000000001:1",
                          &subscription) == FOREBAY_EWRONGSTORE);
}

/* Asks for a claim's id meanwhile, in another thread. */
struct asker {
  forebay_client* client;
  const char* id;
  int result;
  char error[200];
  forebay_view* view;
  forebay_claim* claim;
};
static void* ask(void* context) {
  struct asker* asker = context;
  forebay_claim_options options = FOREBAY_CLAIM_OPTIONS_INIT;
  options.timeout_ns = 10 * second_ns;
  asker->result = forebay_get_or_claim(asker->client, asker->id, strlen(asker->id), &options,
                                       &asker->view, &asker->claim);
  snprintf(asker->error, sizeof asker->error, "%s", forebay_last_error());
  return NULL;
}
static struct asker asking(forebay_client* client, const char* id) {
  struct asker asker;
  memset(&asker, 0, sizeof asker);
  asker.client = client;
  asker.id = id;
  return asker;
}
static void start(pthread_t* thread, struct asker* asker) {
  const struct timespec pause = {0, 50 * 1000 * 1000}; /* until it waits */
  CHECK(pthread_create(thread, NULL, ask, asker) == 0);
  nanosleep(&pause, NULL);
}

static void claims(forebay_client* client) {
  forebay_claim_options options = FOREBAY_CLAIM_OPTIONS_INIT;
  forebay_claim* claim = NULL;
  forebay_view* view = NULL;
  struct asker asker;
  pthread_t thread;
  void* data = NULL;

  CHECK(forebay_get_or_claim(client, "k/a", 3, NULL, &view, &claim) == 0);
  CHECK(view == NULL && claim != NULL && forebay_claim_version(claim) == 1);
  options.timeout_ns = moment_ns;
  {
    forebay_view* no_view = NULL;
    forebay_claim* no_claim = NULL;
    CHECK(forebay_get_or_claim(client, "k/a", 3, &options, &no_view, &no_claim) ==
          FOREBAY_ETIMEDOUT);
    CHECK(no_view == NULL && no_claim == NULL);
  }
  /* Whoever waits gets what is made in place. */
  asker = asking(client, "k/a");
  start(&thread, &asker);
  CHECK(forebay_claim_seal(claim, NULL) == FOREBAY_EBADSTATE);
  CHECK(forebay_claim_create(claim, UINT64_C(1) << 50, NULL, &data) == FOREBAY_ETOOLARGE);
  CHECK(forebay_claim_create(claim, 5, NULL, &data) == 0);
  CHECK(forebay_claim_create(claim, 5, NULL, &data) == FOREBAY_EBADSTATE);
  memcpy(data, "claim", 5);
  CHECK(forebay_claim_seal(claim, &view) == 0);
  CHECK(forebay_view_size(view) == 5 && memcmp(forebay_view_data(view), "claim", 5) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(asker.result == 0 && asker.claim == NULL && forebay_view_version(asker.view) == 1);
  forebay_release(asker.view);
  forebay_release(view);
  CHECK(forebay_claim_put(claim, "x", 1, NULL, NULL) == FOREBAY_EBADSTATE);
  forebay_claim_fail(claim, "too late");
  forebay_claim_free(claim);
  CHECK(forebay_get_or_claim(client, "k/a", 3, NULL, &view, &claim) == 0);
  CHECK(view != NULL && claim == NULL);
  forebay_release(view);

  /* It is told why nothing was made. */
  CHECK(forebay_get_or_claim(client, "k/b", 3, NULL, &view, &claim) == 0 && claim != NULL);
  asker = asking(client, "k/b");
  start(&thread, &asker);
  forebay_claim_fail(claim, "no such file");
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(asker.result == FOREBAY_ELOADERFAILED);
  CHECK(strstr(asker.error, "no such file") != NULL);
  CHECK(forebay_claim_put(claim, "x", 1, NULL, NULL) == FOREBAY_EBADSTATE);
  forebay_claim_free(claim);

  /* Or takes over from one that gives up, with and without having begun. */
  CHECK(forebay_get_or_claim(client, "k/c", 3, NULL, &view, &claim) == 0 && claim != NULL);
  asker = asking(client, "k/c");
  start(&thread, &asker);
  CHECK(forebay_claim_create(claim, 5, NULL, &data) == 0);
  forebay_claim_free(claim);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(asker.result == 0 && asker.view == NULL && asker.claim != NULL);
  claim = asker.claim;
  asker = asking(client, "k/c");
  start(&thread, &asker);
  CHECK(forebay_claim_create(claim, 5, NULL, &data) == 0);
  forebay_claim_fail(claim, "begun, and not ended");
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(asker.result == FOREBAY_ELOADERFAILED);
  CHECK(strstr(asker.error, "begun, and not ended") != NULL);
  forebay_claim_free(claim);
  CHECK(forebay_get_or_claim(client, "k/c", 3, NULL, &view, &claim) == 0 && claim != NULL);
  asker = asking(client, "k/c");
  start(&thread, &asker);
  forebay_claim_free(claim);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(asker.result == 0 && asker.claim != NULL);
  CHECK(forebay_claim_put(asker.claim, "bytes", 5, NULL, &view) == 0);
  CHECK(memcmp(forebay_view_data(view), "bytes", 5) == 0);
  forebay_release(view);
  forebay_claim_free(asker.claim);
  forebay_claim_free(NULL);
  CHECK(forebay_get_or_claim(client, "", 0, NULL, &view, &claim) == FOREBAY_EBADID);
}

/* Loaders, in the ways that they may go. `context` counts. */
static int load_in_place(void* context, forebay_claim* claim) {
  forebay_put_options options = FOREBAY_PUT_OPTIONS_INIT;
  const uint64_t shape[1] = {2};
  void* data = NULL;
  int code;
  ++*(int*)context;
  options.type.dtype = "<f8";
  options.type.ndim = 1;
  options.type.shape = shape;
  code = forebay_claim_create(claim, 2 * sizeof(double), &options, &data);
  if (code != 0) return code;
  ((double*)data)[0] = 1;
  ((double*)data)[1] = 2;
  return 0;
}
static int load_by_put(void* context, forebay_claim* claim) {
  ++*(int*)context;
  return forebay_claim_put(claim, "put", 3, NULL, NULL);
}
static int load_and_take_view(void* context, forebay_claim* claim) {
  forebay_view* view = NULL;
  const int code = load_in_place(context, claim);
  if (code != 0) return code;
  CHECK(forebay_claim_seal(claim, &view) == 0);
  forebay_release(view);
  return 0;
}
static int load_nothing(void* context, forebay_claim* claim) {
  (void)claim;
  ++*(int*)context;
  return 0;
}
static int load_too_much(void* context, forebay_claim* claim) {
  void* data = NULL;
  ++*(int*)context;
  return forebay_claim_create(claim, UINT64_C(1) << 50, NULL, &data);
}
static int load_with_a_reason(void* context, forebay_claim* claim) {
  ++*(int*)context;
  forebay_claim_fail(claim, "the file has gone");
  return 0;
}
static int load_with_errno(void* context, forebay_claim* claim) {
  (void)claim;
  ++*(int*)context;
  return -ENOENT;
}
static int load_half(void* context, forebay_claim* claim) {
  void* data = NULL;
  ++*(int*)context;
  CHECK(forebay_claim_create(claim, 100, NULL, &data) == 0);
  forebay_claim_fail(claim, "the file is short");
  return FOREBAY_ELOST;
}

static void get_or_create(forebay_client* client) {
  forebay_view* view = NULL;
  forebay_array_type type;
  int calls = 0;
  const struct {
    forebay_loader load;
    int result;
    const char* error;
  } failures[] = {
      {load_nothing, FOREBAY_EBADSTATE, "made nothing"},
      {load_too_much, FOREBAY_ETOOLARGE, ""},
      {load_with_a_reason, FOREBAY_ELOADERFAILED, "the file has gone"},
      {load_with_errno, -ENOENT, ""},
      {load_half, FOREBAY_ELOST, "the file is short"},
  };
  size_t i;

  CHECK(forebay_get_or_create(client, "o/a", 3, NULL, load_in_place, &calls, &view) == 0);
  CHECK(calls == 1 && ((const double*)forebay_view_data(view))[1] == 2);
  CHECK(forebay_view_type(view, &type) == 0 && strcmp(type.dtype, "<f8") == 0);
  forebay_release(view);
  CHECK(forebay_get_or_create(client, "o/a", 3, NULL, load_in_place, &calls, &view) == 0);
  CHECK(calls == 1 && forebay_view_version(view) == 1);
  forebay_release(view);
  CHECK(forebay_get_or_create(client, "o/b", 3, NULL, load_by_put, &calls, &view) == 0);
  CHECK(calls == 2 && memcmp(forebay_view_data(view), "put", 3) == 0);
  forebay_release(view);
  CHECK(forebay_get_or_create(client, "o/c", 3, NULL, load_and_take_view, &calls, &view) == 0);
  CHECK(calls == 3 && forebay_view_size(view) == 2 * sizeof(double));
  forebay_release(view);

  view = NULL;
  calls = 0;
  for (i = 0; i < sizeof failures / sizeof *failures; ++i) {
    CHECK(forebay_get_or_create(client, "o/d", 3, NULL, failures[i].load, &calls, &view) ==
          failures[i].result);
    CHECK(strlen(forebay_last_error()) > 0);
    CHECK(strstr(forebay_last_error(), failures[i].error) != NULL);
    CHECK(view == NULL && calls == (int)i + 1);
  }
  CHECK(forebay_get_or_create(client, "o/d", 3, NULL, load_by_put, &calls, &view) == 0);
  forebay_release(view);
}

static void updates(forebay_client* client) {
  forebay_update_options options = FOREBAY_UPDATE_OPTIONS_INIT;
  forebay_put_options typed = FOREBAY_PUT_OPTIONS_INIT;
  const size_t size = 1 << 20;
  const uint64_t shape[1] = {1 << 20};
  forebay_builder* builder = NULL;
  forebay_view* view = NULL;
  forebay_array_type type;
  char* bytes = malloc(size);

  memset(bytes, 1, size);
  typed.type.dtype = "|u1";
  typed.type.ndim = 1;
  typed.type.shape = shape;
  CHECK(forebay_put(client, "u/a", 3, bytes, size, &typed, NULL) == 0);
  CHECK(forebay_update(client, "u/a", 3, NULL, &builder) == 0);
  CHECK(forebay_builder_size(builder) == size && forebay_builder_version(builder) == 2);
  CHECK(memcmp(forebay_builder_data(builder), bytes, size) == 0);
  ((char*)forebay_builder_data(builder))[0] = 2;
  CHECK(forebay_seal(builder, NULL) == 0);
  forebay_builder_free(builder);

  CHECK(forebay_get(client, "u/a", 3, NULL, &view) == 0);
  CHECK(((const char*)forebay_view_data(view))[0] == 2);
  CHECK(((const char*)forebay_view_data(view))[1] == 1);
  CHECK(forebay_view_type(view, &type) == 0 && strcmp(type.dtype, "|u1") == 0);
  options.take = 1;
  CHECK(forebay_update(client, "u/a", 3, &options, &builder) == FOREBAY_ECONFLICT);
  forebay_release(view);
  CHECK(forebay_update(client, "u/a", 3, &options, &builder) == 0);
  CHECK(forebay_builder_size(builder) == size);
  CHECK(((const char*)forebay_builder_data(builder))[0] == 2);
  CHECK(forebay_seal(builder, NULL) == 0);
  forebay_builder_free(builder);
  {
    forebay_get_options former = FOREBAY_GET_OPTIONS_INIT;
    former.version = 2;
    CHECK(forebay_get(client, "u/a", 3, &former, &view) == FOREBAY_ESUPERSEDED);
    former.version = 1;
    CHECK(forebay_get(client, "u/a", 3, &former, &view) == 0);
    forebay_release(view);
  }
  CHECK(forebay_get(client, "u/a", 3, NULL, &view) == 0);
  CHECK(forebay_view_version(view) == 3 && forebay_view_size(view) == size);
  CHECK(forebay_view_type(view, &type) == 0 && strcmp(type.dtype, "|u1") == 0);
  forebay_release(view);
  CHECK(forebay_update(client, "u/none", 6, &options, &builder) == FOREBAY_ENOTFOUND);
  options.take = 0;
  options.from_version = 2;
  CHECK(forebay_update(client, "u/a", 3, &options, &builder) == FOREBAY_ESUPERSEDED);
  free(bytes);
}

static void private_views(forebay_client* client) {
  const size_t sizes[3] = {0, 100, 1 << 20};
  forebay_private_view* copy = NULL;
  forebay_put_options options = FOREBAY_PUT_OPTIONS_INIT;
  forebay_view* view = NULL;
  forebay_array_type type;
  char* bytes = malloc(sizes[2]);
  char ref[FOREBAY_REF_BYTES];
  char again[FOREBAY_REF_BYTES];
  size_t i;

  memset(bytes, 1, sizes[2]);
  options.type.dtype = "|u1";
  options.type.ndim = 1;
  for (i = 0; i < 3; ++i) {
    const uint64_t shape[1] = {sizes[i]};
    options.type.shape = shape;
    CHECK(forebay_put(client, "p/a", 3, bytes, sizes[i], &options, ref) == 0);
    CHECK(forebay_get_private(client, "p/a", 3, NULL, &copy) == 0);
    CHECK(forebay_private_view_size(copy) == sizes[i]);
    CHECK(forebay_private_view_ref(copy, again) == 0 && strcmp(ref, again) == 0);
    CHECK(forebay_private_view_type(copy, &type) == 0 && type.ndim == 1 &&
          type.shape[0] == sizes[i]);
    if (sizes[i] > 0) {
      CHECK(memcmp(forebay_private_view_data(copy), bytes, sizes[i]) == 0);
      memset(forebay_private_view_data(copy), 2, sizes[i]);
      CHECK(forebay_get(client, "p/a", 3, NULL, &view) == 0);
      CHECK(memcmp(forebay_view_data(view), bytes, sizes[i]) == 0);
      forebay_release(view);
    }
    forebay_private_view_free(copy);
  }
  CHECK(forebay_get_private(client, "p/none", 6, NULL, &copy) == FOREBAY_ENOTFOUND);
  forebay_private_view_free(NULL);
  free(bytes);
}

static void groups(forebay_client* client) {
  const double numbers[4] = {1, 2, 3, 4};
  const uint64_t shape[2] = {2, 2};
  forebay_member members[2];
  const forebay_member* got = NULL;
  forebay_view* view = NULL;
  char ref[FOREBAY_REF_BYTES];
  size_t count = 0;

  memset(members, 0, sizeof members);
  members[0].name = "x";
  members[0].name_size = 1;
  members[0].data = numbers;
  members[0].size = sizeof numbers;
  members[0].type.dtype = "<f8";
  members[0].type.ndim = 2;
  members[0].type.shape = shape;
  members[0].type.fortran_order = 1;
  members[1].name = "text";
  members[1].name_size = 4;
  members[1].data = "plain";
  members[1].size = 5;
  CHECK(forebay_put_group(client, "g/a", 3, members, 2, NULL, ref) == 0);
  CHECK(forebay_get_ref(client, ref, 0, &view) == 0);
  CHECK(forebay_view_group(view, &got, &count) == 0 && count == 2);
  CHECK(strcmp(got[0].name, "x") == 0 && got[0].name_size == 1);
  CHECK(got[0].size == sizeof numbers && memcmp(got[0].data, numbers, sizeof numbers) == 0);
  CHECK(strcmp(got[0].type.dtype, "<f8") == 0 && got[0].type.ndim == 2);
  CHECK(got[0].type.shape[0] == 2 && got[0].type.shape[1] == 2 && got[0].type.fortran_order == 1);
  CHECK(strcmp(got[1].name, "text") == 0 && got[1].type.dtype == NULL);
  CHECK(got[1].size == 5 && memcmp(got[1].data, "plain", 5) == 0);
  CHECK((uintptr_t)got[1].data % 64 == 0);
  {
    const forebay_member* again = NULL;
    CHECK(forebay_view_group(view, &again, &count) == 0 && again == got);
  }
  forebay_release(view);

  members[1].name = "x";
  members[1].name_size = 1;
  CHECK(forebay_put_group(client, "g/b", 3, members, 2, NULL, NULL) == FOREBAY_EBADARGUMENT);
  CHECK(forebay_put_group(client, "g/b", 3, NULL, 0, NULL, NULL) == 0);
  CHECK(forebay_get(client, "g/b", 3, NULL, &view) == 0);
  CHECK(forebay_view_group(view, &got, &count) == 0 && count == 0);
  forebay_release(view);
  put_text(client, "g/c", "no group", NULL);
  CHECK(forebay_get(client, "g/c", 3, NULL, &view) == 0);
  CHECK(forebay_view_group(view, &got, &count) == FOREBAY_ETYPE);
  forebay_release(view);
}

static void manifests(forebay_client* client) {
  forebay_retention kept = FOREBAY_RETENTION_INIT;
  char first[FOREBAY_REF_BYTES];
  char second[FOREBAY_REF_BYTES];
  const char* refs[2];
  forebay_view** views = NULL;
  forebay_view* mine;
  size_t count = 0;

  put_text(client, "f/1", "one", first);
  put_text(client, "f/2", "two", second);
  refs[0] = second;
  refs[1] = first;
  CHECK(forebay_put_manifest(client, "f/m", 3, refs, 2, NULL, NULL) == 0);
  CHECK(forebay_get_manifest(client, "f/m", 3, NULL, &views, &count) == 0 && count == 2);
  CHECK(memcmp(forebay_view_data(views[0]), "two", 3) == 0);
  CHECK(memcmp(forebay_view_data(views[1]), "one", 3) == 0);
  mine = views[1];
  views[1] = NULL;
  forebay_release_many(views, count);
  CHECK(memcmp(forebay_view_data(mine), "one", 3) == 0);
  forebay_release(mine);
  forebay_release_many(NULL, 0);

  CHECK(forebay_stat_retention(client, "f/1", 3, 0, &kept, NULL, 0, NULL) == 0);
  CHECK(kept.manifests == 1);
  CHECK(forebay_remove_ref(client, first) == FOREBAY_ECONFLICT);
  CHECK(forebay_get_manifest(client, "f/1", 3, NULL, &views, &count) == FOREBAY_ETYPE);
  CHECK(forebay_get_manifest(client, "f/none", 6, NULL, &views, &count) == FOREBAY_ENOTFOUND);
  CHECK(forebay_remove(client, "f/m", 3, 0, NULL) == 0);
  CHECK(forebay_remove_ref(client, first) == 0);
  CHECK(forebay_put_manifest(client, "f/m", 3, refs, 2, NULL, NULL) == FOREBAY_ENOTFOUND);
  refs[0] = first;
  CHECK(forebay_put_manifest(client, "f/m", 3, refs, 2, NULL, NULL) == FOREBAY_EBADARGUMENT);
  refs[0] = "not a ref";
  CHECK(forebay_put_manifest(client, "f/m", 3, refs, 2, NULL, NULL) == FOREBAY_EBADARGUMENT);
}

/* Options of a program that was built when they were shorter. */
static void older_options(forebay_client* client) {
  forebay_put_options options = FOREBAY_PUT_OPTIONS_INIT;
  forebay_retention kept = FOREBAY_RETENTION_INIT;
  options.keep = FOREBAY_KEEP_ALL + 1;
  options.ttl_ns = 1;
  options.struct_size = offsetof(forebay_put_options, keep);
  CHECK(forebay_put(client, "v/a", 3, "1", 1, &options, NULL) == 0);
  kept.struct_size = offsetof(forebay_retention, manifests);
  kept.manifests = 77;
  CHECK(forebay_stat_retention(client, "v/a", 3, 0, &kept, NULL, 0, NULL) == 0);
  CHECK(kept.state != NULL && kept.manifests == 77 && kept.keep == 0);
}

/* Everything that is got from a client may outlive it. */
static void closing(const char* address) {
  forebay_connect_options options = FOREBAY_CONNECT_OPTIONS_INIT;
  forebay_get_options wait = FOREBAY_GET_OPTIONS_INIT;
  forebay_client* client = NULL;
  forebay_list* begun = NULL;
  forebay_list* fresh = NULL;
  forebay_builder* builder = NULL;
  forebay_claim* claim = NULL;
  forebay_claim* filled = NULL;
  forebay_async* async = NULL;
  forebay_subscription* subscription = NULL;
  forebay_private_view* copy = NULL;
  forebay_view* view = NULL;
  forebay_view* group = NULL;
  forebay_segment_info info;
  forebay_member member;
  const forebay_member* members = NULL;
  const forebay_event* came = NULL;
  struct got got[2];
  void* data = NULL;
  size_t count = 0;
  size_t i;

  options.address = address;
  CHECK(forebay_connect(&options, &client) == 0);
  put_text(client, "z/1", "one", NULL);
  put_text(client, "z/2", "two", NULL);
  memset(&member, 0, sizeof member);
  member.name = "m";
  member.name_size = 1;
  member.data = "member";
  member.size = 6;
  CHECK(forebay_put_group(client, "z/3", 3, &member, 1, NULL, NULL) == 0);
  CHECK(forebay_list_open(client, "z/", 2, &begun) == 0);
  CHECK(forebay_list_next(begun, &info) == 0);
  CHECK(forebay_list_open(client, "z/", 2, &fresh) == 0);
  CHECK(forebay_create(client, "z/b", 3, 100, NULL, &builder) == 0);
  CHECK(forebay_get_or_claim(client, "z/c", 3, NULL, &view, &claim) == 0 && claim != NULL);
  CHECK(forebay_get_or_claim(client, "z/d", 3, NULL, &view, &filled) == 0 && filled != NULL);
  CHECK(forebay_claim_create(filled, 100, NULL, &data) == 0);
  CHECK(forebay_async_open(client, &async) == 0);
  memset(got, 0, sizeof got);
  wait.timeout_ns = 100 * second_ns;
  CHECK(forebay_async_get(async, "z/none", 6, &wait, note_got, got, NULL) == 0);
  CHECK(forebay_subscribe(client, "z/", 2, NULL, &subscription) == 0);
  CHECK(forebay_get_private(client, "z/1", 3, NULL, &copy) == 0);
  CHECK(forebay_get(client, "z/3", 3, NULL, &group) == 0);
  forebay_close(client);

  CHECK(info.id_size == 3 && memcmp(info.id, "z/1", 3) == 0);
  CHECK(forebay_list_next(begun, &info) == 0 && memcmp(info.id, "z/2", 3) == 0);
  CHECK(forebay_list_next(begun, &info) == 0 && memcmp(info.id, "z/3", 3) == 0);
  CHECK(forebay_list_next(begun, &info) == FOREBAY_ENOTFOUND);
  CHECK(forebay_list_next(fresh, &info) == FOREBAY_EBADSTATE);
  CHECK(forebay_list_next(fresh, &info) == FOREBAY_EBADSTATE);
  forebay_list_free(begun);
  forebay_list_free(fresh);
  forebay_list_free(NULL);
  memset(forebay_builder_data(builder), 1, 100);
  CHECK(forebay_seal(builder, NULL) == FOREBAY_EBADSTATE);
  forebay_builder_free(builder);
  CHECK(forebay_claim_put(claim, "x", 1, NULL, NULL) == FOREBAY_EBADSTATE);
  CHECK(forebay_claim_create(claim, 1, NULL, &data) == FOREBAY_EBADSTATE);
  forebay_claim_free(claim);
  CHECK(forebay_claim_seal(filled, NULL) == FOREBAY_EBADSTATE);
  forebay_claim_free(filled);
  for (i = 0; i < 2; ++i) CHECK(forebay_async_dispatch(async, &count) == 0);
  CHECK(got->calls == 1 && got->result == FOREBAY_EBADSTATE);
  memset(got, 0, sizeof got);
  CHECK(forebay_async_get(async, "z/1", 3, &wait, note_got, got, NULL) == 0);
  CHECK(got->calls == 1 && got->result == FOREBAY_EBADSTATE);
  forebay_async_close(async);
  CHECK(forebay_subscription_next(subscription, second_ns, &came, &count) == FOREBAY_EBADSTATE);
  CHECK(forebay_subscription_poll(subscription, &came, &count) == FOREBAY_EBADSTATE);
  forebay_subscription_close(subscription);
  memset(forebay_private_view_data(copy), 2, 3);
  forebay_private_view_free(copy);
  CHECK(forebay_view_group(group, &members, &count) == 0 && count == 1);
  CHECK(memcmp(members[0].data, "member", 6) == 0);
  forebay_release(group);
  forebay_close(NULL);
}

int main(int argc, char** argv) {
  forebay_connect_options options = FOREBAY_CONNECT_OPTIONS_INIT;
  forebay_client* client = NULL;
  forebay_view* view = NULL;
  if (argc != 2) return 2;
  errors_have_names();
  nobody_listens();
  options.address = argv[1];
  CHECK(forebay_connect(&options, &client) == 0);
  put_and_get(client);
  create_and_seal(client);
  batches_lists_and_stat(client);
  retention(client);
  scopes(client);
  many_at_once(client);
  waiting(client);
  async_gets(client);
  events(client);
  claims(client);
  get_or_create(client);
  updates(client);
  private_views(client);
  groups(client);
  manifests(client);
  older_options(client);
  closing(argv[1]);
  CHECK(forebay_get(client, "c/b", 3, NULL, &view) == 0);
  forebay_close(client);
  /* The view outlives its client. */
  CHECK(((const char*)forebay_view_data(view))[0] == 7);
  forebay_release(view);
  printf("%d checks\n", checks);
  return 0;
}
