/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Forebay for C: the store of shared, read-only segments of this node.
 *
 * Conventions, once for all:
 *   - Every function that can fail returns an int: 0 on success, a FOREBAY_E... code (above 0), or
 *     a negated errno (below 0). forebay_strerror() names either; forebay_last_error() has the
 *     sentence about the last failure in this thread, which names the thing and the way out.
 *   - Handles are opaque. Who gets one frees it with the function named in its comment. Output
 *     parameters are written on success only.
 *   - Ids are bytes with a length, 1 to 255 of them, any content. Texts end with a NUL.
 *   - Options are structs; initialise them with the FOREBAY_..._INIT macro, so that new members get
 *     their defaults. A null pointer stands for all defaults.
 *   - Times are nanoseconds. Sizes are bytes.
 *   - Threads may share a client. A view, builder or list belongs to one thread at a time. A forked
 *     child may go on using the client and the views that it inherited.
 *   - Nothing throws, prints or exits.
 */
#ifndef FOREBAY_H
#define FOREBAY_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define FOREBAY_API __attribute__((visibility("default")))
#else
#define FOREBAY_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum {
  FOREBAY_OK = 0,
  FOREBAY_ENOTFOUND = 1,       /* no such id, or no such version of it */
  FOREBAY_EEVICTED = 2,        /* it was dropped to make room */
  FOREBAY_ELOST = 3,           /* its bytes were in a tier that has gone */
  FOREBAY_ESUPERSEDED = 4,     /* its memory was taken over by the next version */
  FOREBAY_ESTALEREF = 5,       /* the ref's segment was removed */
  FOREBAY_EWRONGSTORE = 6,     /* the ref belongs to another store */
  FOREBAY_EEXISTS = 7,         /* that version is sealed already */
  FOREBAY_ECONFLICT = 8,       /* that version is being created by somebody else */
  FOREBAY_ESTOREFULL = 9,      /* no room now */
  FOREBAY_ETOOLARGE = 10,      /* would not fit into an empty store either */
  FOREBAY_EBADID = 11,         /* an id is 1 to 255 bytes */
  FOREBAY_EBADARGUMENT = 12,   /* an argument that can never work */
  FOREBAY_EBADSTATE = 13,      /* sealed twice, sealed after abort, used after close */
  FOREBAY_EDENIED = 14,        /* rights or credentials do not allow it */
  FOREBAY_ETIMEDOUT = 15,      /* the deadline passed */
  FOREBAY_EDISCONNECTED = 16,  /* the daemon cannot be reached */
  FOREBAY_ELAYOUT = 17,        /* the peer was built for another version */
  FOREBAY_EBADMESSAGE = 18,    /* the peer sent what is not a message */
  FOREBAY_ETYPE = 19,          /* the segment is not an array of that kind */
  FOREBAY_ELIMIT = 20,         /* segments or processes ran out */
  FOREBAY_EALREADYRUNNING = 21 /* another daemon serves this instance */
};

/* The short name of a code, as "not_found"; of a negated errno, the system's text. Never NULL. */
FOREBAY_API const char* forebay_strerror(int code);
/* The sentence about the last call in this thread that failed. Valid until the next such call. */
FOREBAY_API const char* forebay_last_error(void);
FOREBAY_API const char* forebay_version(void);

typedef struct forebay_client forebay_client;
typedef struct forebay_view forebay_view;
typedef struct forebay_builder forebay_builder;
typedef struct forebay_list forebay_list;

/* A ref as text, NUL included, fits into this many bytes. */
#define FOREBAY_REF_BYTES 1024
#define FOREBAY_DIMS_MAX 32

/* ------------------------------------------------------------------------------- connecting */

typedef struct forebay_connect_options {
  size_t struct_size;
  const char* address;        /* path of the daemon's socket; NULL: this user's own daemon */
  const char* namespace_name; /* NULL: "default" */
  int start_daemon;           /* start this user's own daemon if it does not run */
  uint64_t timeout_ns;        /* for connecting, and for each later request */
} forebay_connect_options;
#define FOREBAY_CONNECT_OPTIONS_INIT \
  { sizeof(forebay_connect_options), NULL, NULL, 1, UINT64_C(10000000000) }

/* Free the client with forebay_close; views stay valid after that. */
FOREBAY_API int forebay_connect(const forebay_connect_options* options, forebay_client** client);
FOREBAY_API void forebay_close(forebay_client* client);

/* --------------------------------------------------------------------------- making segments */

/* What the bytes are, if they are an array. `dtype` as in NumPy's array interface: "<f8". */
typedef struct forebay_array_type {
  const char* dtype; /* NULL: plain bytes */
  size_t ndim;
  const uint64_t* shape;
  int fortran_order;
} forebay_array_type;

typedef struct forebay_put_options {
  size_t struct_size;
  uint64_t version;    /* 0: the next number of this id */
  uint64_t timeout_ns; /* how long to wait for room when the store is full */
  int exist_ok;        /* put only: the version is there with equal bytes: fine */
  int evictable;       /* may be dropped to make room */
  int persistent;      /* outlives an embedded daemon */
  forebay_array_type type;
} forebay_put_options;
#define FOREBAY_PUT_OPTIONS_INIT \
  { sizeof(forebay_put_options), 0, 0, 0, 0, 0, { NULL, 0, NULL, 0 } }

/* Copies `size` bytes into a new version. `ref` may be NULL, else has FOREBAY_REF_BYTES. */
FOREBAY_API int forebay_put(forebay_client* client, const void* id, size_t id_size,
                            const void* data, size_t size, const forebay_put_options* options,
                            char* ref);

/* Reserves a new version of `size` bytes for filling in place. Free with forebay_builder_free. */
FOREBAY_API int forebay_create(forebay_client* client, const void* id, size_t id_size, size_t size,
                               const forebay_put_options* options, forebay_builder** builder);
/* The writable bytes; NULL after seal and abort. Their first contents are arbitrary. */
FOREBAY_API void* forebay_builder_data(forebay_builder* builder);
FOREBAY_API size_t forebay_builder_size(const forebay_builder* builder);
FOREBAY_API uint64_t forebay_builder_version(const forebay_builder* builder);
/* Makes the version visible. The bytes become read-only in this process first. */
FOREBAY_API int forebay_seal(forebay_builder* builder, char* ref);
FOREBAY_API int forebay_abort(forebay_builder* builder);
/* Aborts if it is neither sealed nor aborted. NULL is fine. */
FOREBAY_API void forebay_builder_free(forebay_builder* builder);

typedef struct forebay_put_item {
  const void* id;
  size_t id_size;
  const void* data;
  size_t size;
  int result; /* out: as forebay_put would have returned */
} forebay_put_item;
/* One message for many small ones. Fails as a whole only if the daemon could not be reached. */
FOREBAY_API int forebay_put_many(forebay_client* client, forebay_put_item* items, size_t count,
                                 const forebay_put_options* options);

/* ----------------------------------------------------------------------------------- reading */

typedef struct forebay_get_options {
  size_t struct_size;
  uint64_t version;    /* 0: the newest */
  uint64_t after;      /* with version 0: only a version above this one */
  uint64_t timeout_ns; /* how long to wait for a version that is not there yet */
} forebay_get_options;
#define FOREBAY_GET_OPTIONS_INIT { sizeof(forebay_get_options), 0, 0, 0 }

/* Pins a segment until forebay_release. No system call if it is resident. */
FOREBAY_API int forebay_get(forebay_client* client, const void* id, size_t id_size,
                            const forebay_get_options* options, forebay_view** view);
/* The very segment that a ref names; waits at most `timeout_ns` for it. */
FOREBAY_API int forebay_get_ref(forebay_client* client, const char* ref, uint64_t timeout_ns,
                                forebay_view** view);
/* Items that are not there have a result of their own and a NULL view. */
typedef struct forebay_get_item {
  const void* id;
  size_t id_size;
  forebay_view* view; /* out: release it */
  int result;         /* out */
} forebay_get_item;
FOREBAY_API int forebay_get_many(forebay_client* client, forebay_get_item* items, size_t count,
                                 const forebay_get_options* options);

/* Read-only, 64-byte aligned, valid until forebay_release. */
FOREBAY_API const void* forebay_view_data(const forebay_view* view);
FOREBAY_API size_t forebay_view_size(const forebay_view* view);
FOREBAY_API uint64_t forebay_view_version(const forebay_view* view);
FOREBAY_API int forebay_view_ref(const forebay_view* view, char* ref);
/* `type` points into the view. Plain bytes: dtype is NULL. */
FOREBAY_API int forebay_view_type(forebay_view* view, forebay_array_type* type);
/* NULL is fine. */
FOREBAY_API void forebay_release(forebay_view* view);

/* ------------------------------------------------------------------------ looking and removing */

FOREBAY_API int forebay_contains(forebay_client* client, const void* id, size_t id_size,
                                 uint64_t version, int* contains);
/* version 0: all of them. `removed` may be NULL. */
FOREBAY_API int forebay_remove(forebay_client* client, const void* id, size_t id_size,
                               uint64_t version, uint64_t* removed);
FOREBAY_API int forebay_remove_ref(forebay_client* client, const char* ref);

typedef struct forebay_segment_info {
  const void* id; /* belongs to the list (or, for stat, to the thread until its next stat) */
  size_t id_size;
  uint64_t version;
  uint64_t serial;
  uint64_t size;
  uint64_t sealed_at_ns; /* since 1970 */
  int evictable;
  int persistent;
} forebay_segment_info;

/* Walks through the segments whose id starts with `prefix`, by id and version. */
FOREBAY_API int forebay_list_open(forebay_client* client, const void* prefix, size_t prefix_size,
                                  forebay_list** list);
/* The next one; FOREBAY_ENOTFOUND after the last. `info` is valid until the next call. */
FOREBAY_API int forebay_list_next(forebay_list* list, forebay_segment_info* info);
FOREBAY_API void forebay_list_free(forebay_list* list);

typedef struct forebay_holder {
  uint32_t pid;
  uint64_t pins;
  char name[65];
} forebay_holder;
/* Writes at most `holders_max` of the `*holders_count` processes that pin the segment. */
FOREBAY_API int forebay_stat(forebay_client* client, const void* id, size_t id_size,
                             uint64_t version, forebay_segment_info* info,
                             forebay_holder* holders, size_t holders_max, size_t* holders_count);

#ifdef __cplusplus
}
#endif

#endif
