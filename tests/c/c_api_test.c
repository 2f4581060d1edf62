/* SPDX-License-Identifier: Apache-2.0 */
/* The C API, compiled and used as C. argv[1] is the socket of a running daemon. */
#include "bindings/c/forebay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
  for (code = 1; code <= FOREBAY_EALREADYRUNNING; ++code)
    CHECK(strcmp(forebay_strerror(code), "unknown") != 0);
  CHECK(strcmp(forebay_strerror(FOREBAY_EALREADYRUNNING + 1), "unknown") == 0);
  CHECK(strcmp(forebay_strerror(0), "ok") == 0);
  CHECK(strcmp(forebay_strerror(FOREBAY_ENOTFOUND), "not_found") == 0);
  CHECK(strlen(forebay_strerror(-2)) > 0);
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
  CHECK(forebay_get(client, "c/b", 3, NULL, &view) == 0);
  forebay_close(client);
  /* The view outlives its client. */
  CHECK(((const char*)forebay_view_data(view))[0] == 7);
  forebay_release(view);
  printf("%d checks\n", checks);
  return 0;
}
