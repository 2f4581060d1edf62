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
 *   - Ids are bytes with a length, 1 to 255 of them, any content; their prefixes have 0 to 255.
 *     Texts end with a NUL; refs are texts.
 *   - Options are structs; initialise them with the FOREBAY_..._INIT macro, so that new members get
 *     their defaults. A null pointer stands for all defaults.
 *   - Times are nanoseconds. Sizes are bytes.
 *   - Any call on a client may fail with FOREBAY_EDISCONNECTED and FOREBAY_EBADSTATE (it is
 *     closed), one that takes an id with FOREBAY_EBADID, one that allocates with -ENOMEM, one that
 *     takes a ref with FOREBAY_EBADARGUMENT (it is none), FOREBAY_EWRONGSTORE and
 *     FOREBAY_ESTALEREF; a comment names what else there is.
 *   - Threads may share a client. Everything else that is got from one belongs to one thread at a
 *     time. A forked child may go on using the client and the views that it inherited; builders,
 *     claims, subscriptions and forebay_async are its parent's.
 *   - Nothing throws, prints or exits. A callback must not throw either, nor leave by longjmp.
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
  FOREBAY_ECONFLICT = 8,       /* it is being created by somebody else, or in use, or listed */
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
  FOREBAY_EALREADYRUNNING = 21, /* another daemon serves this instance */
  FOREBAY_ELOADERFAILED = 22,   /* whoever was to make the version could not */
  FOREBAY_ECANCELLED = 23,      /* the answer is not wanted any more */
  FOREBAY_ETIERDOWN = 24        /* the tier that holds it does not answer; it may be back later */
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
typedef struct forebay_private_view forebay_private_view;
typedef struct forebay_claim forebay_claim;
typedef struct forebay_async forebay_async;
typedef struct forebay_subscription forebay_subscription;

/* A ref as text, NUL included, fits into this many bytes. */
#define FOREBAY_REF_BYTES 1024
/* So does the cursor of a subscription. */
#define FOREBAY_CURSOR_BYTES 64
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

/* Free the client with forebay_close. */
FOREBAY_API int forebay_connect(const forebay_connect_options* options, forebay_client** client);
/*
 * Ends the connection. No other thread may be using the client. What was got from it must still be
 * freed, before or after: views of any kind stay valid, and calls on the rest that would need the
 * connection fail with FOREBAY_EBADSTATE. NULL is fine.
 */
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
  int persistent;      /* stays until it is removed, and outlives an embedded daemon */
  forebay_array_type type;
  uint32_t keep;       /* so many of this id's newest versions stay; 0: as the namespace says */
  uint64_t ttl_ns;     /* removed so long after it was sealed; 0: never */
} forebay_put_options;
#define FOREBAY_PUT_OPTIONS_INIT \
  { sizeof(forebay_put_options), 0, 0, 0, 0, 0, { NULL, 0, NULL, 0 }, 0, 0 }
/* For `keep`: all versions; and the largest number. */
#define FOREBAY_KEEP_ALL 65535
#define FOREBAY_KEEP_MAX 65534

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

typedef struct forebay_update_options {
  size_t struct_size;
  uint64_t from_version; /* 0: the newest */
  int take;              /* in place, without a copy: the former version is FOREBAY_ESUPERSEDED from
                            then on, also when the builder is aborted or its process dies */
  uint64_t timeout_ns;   /* from here on as in forebay_put_options */
  int evictable;
  int persistent;
  uint32_t keep;
  uint64_t ttl_ns;
} forebay_update_options;
#define FOREBAY_UPDATE_OPTIONS_INIT \
  { sizeof(forebay_update_options), 0, 0, 0, 0, 0, 0, 0 }

/*
 * Reserves the next version, whose bytes (and array type) are those of from_version: a copy, or
 * with `take` the very memory. Free with forebay_builder_free. Fails as forebay_create does; as
 * forebay_get when from_version is not there; with FOREBAY_ECONFLICT when somebody (this process's
 * own views count) pins or holds what is to be taken.
 */
FOREBAY_API int forebay_update(forebay_client* client, const void* id, size_t id_size,
                               const forebay_update_options* options, forebay_builder** builder);

/* One array of a group. Given to forebay_put_group: the caller's, for the length of the call. Got
   from forebay_view_group: all of it belongs to the view. */
typedef struct forebay_member {
  const char* name; /* got: ends with a NUL besides */
  size_t name_size; /* 1 to 255 bytes */
  const void* data; /* got: 64-byte aligned */
  size_t size;
  forebay_array_type type; /* plain bytes: dtype is NULL */
} forebay_member;

/* Copies at most 1024 arrays, with different names, into one new version. options->type must be
   empty. `ref` as in forebay_put. Fails as forebay_put does, and with FOREBAY_EBADARGUMENT. */
FOREBAY_API int forebay_put_group(forebay_client* client, const void* id, size_t id_size,
                                  const forebay_member* members, size_t count,
                                  const forebay_put_options* options, char* ref);

/*
 * Publishes a list of segments as one. They must be there, and stay as long as the manifest does:
 * forebay_remove answers FOREBAY_ECONFLICT. options->type must be empty. `ref` as in forebay_put.
 * Fails as forebay_put does, with FOREBAY_ENOTFOUND when one is missing, and with
 * FOREBAY_EBADARGUMENT when one is listed twice.
 */
FOREBAY_API int forebay_put_manifest(forebay_client* client, const void* id, size_t id_size,
                                     const char* const* refs, size_t count,
                                     const forebay_put_options* options, char* ref);

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
/* The members of a group, in the order in which they were put, valid until forebay_release. Fails
   with FOREBAY_ETYPE if it is none. */
FOREBAY_API int forebay_view_group(forebay_view* view, const forebay_member** members,
                                   size_t* count);
/* From any thread. NULL is fine. */
FOREBAY_API void forebay_release(forebay_view* view);

/*
 * What a manifest lists, in its order, all or none: `views` is an array of `count`. Give it back
 * with forebay_release_many; whoever wants to keep a view longer puts NULL in its place first.
 * Fails as forebay_get does, with FOREBAY_ETYPE if it is no manifest, and as forebay_get does for
 * a member that is lost.
 */
FOREBAY_API int forebay_get_manifest(forebay_client* client, const void* id, size_t id_size,
                                     const forebay_get_options* options, forebay_view*** views,
                                     size_t* count);
/* Releases all views of the array, and frees the array. NULL is fine. */
FOREBAY_API void forebay_release_many(forebay_view** views, size_t count);

/* A writable copy that nobody else sees, whose pages are the segment's until they are written to:
   the segment stays pinned. Free with forebay_private_view_free. Fails as forebay_get does. */
FOREBAY_API int forebay_get_private(forebay_client* client, const void* id, size_t id_size,
                                    const forebay_get_options* options,
                                    forebay_private_view** view);
/* 64-byte aligned, valid until forebay_private_view_free. */
FOREBAY_API void* forebay_private_view_data(const forebay_private_view* view);
FOREBAY_API size_t forebay_private_view_size(const forebay_private_view* view);
/* Of the segment that it was copied from. */
FOREBAY_API int forebay_private_view_ref(const forebay_private_view* view, char* ref);
/* As forebay_view_type. */
FOREBAY_API int forebay_private_view_type(forebay_private_view* view, forebay_array_type* type);
/* From any thread. NULL is fine. */
FOREBAY_API void forebay_private_view_free(forebay_private_view* view);

/* --------------------------------------------------------------- made by whoever asks first */

typedef struct forebay_claim_options {
  size_t struct_size;
  uint64_t version;    /* 0: the newest, or the next number if there is none */
  uint64_t timeout_ns; /* how long to wait for whoever makes it */
} forebay_claim_options;
#define FOREBAY_CLAIM_OPTIONS_INIT \
  { sizeof(forebay_claim_options), 0, UINT64_C(3600000000000) }

/*
 * A view of a version, or, if nobody has made it, the claim that lets this caller make it; the
 * other one is NULL. Who asks meanwhile waits until that is done. Free the view with
 * forebay_release, the claim with forebay_claim_free. Fails with FOREBAY_ETIMEDOUT, and with
 * FOREBAY_ELOADERFAILED when whoever was to make it said that it cannot: forebay_last_error() is
 * what was said.
 */
FOREBAY_API int forebay_get_or_claim(forebay_client* client, const void* id, size_t id_size,
                                     const forebay_claim_options* options, forebay_view** view,
                                     forebay_claim** claim);

FOREBAY_API uint64_t forebay_claim_version(const forebay_claim* claim);
/*
 * Makes the version by copying `size` bytes; options->version does not count. `view` may be NULL,
 * else is released by the caller. Fails as forebay_put does, and the claim goes on then; with
 * FOREBAY_EBADSTATE when the claim has ended.
 */
FOREBAY_API int forebay_claim_put(forebay_claim* claim, const void* data, size_t size,
                                  const forebay_put_options* options, forebay_view** view);
/* The same for filling in place: `data` is writable until forebay_claim_seal or the claim's end.
   Its first contents are arbitrary. Fails as forebay_create does, and the claim goes on then. */
FOREBAY_API int forebay_claim_create(forebay_claim* claim, size_t size,
                                     const forebay_put_options* options, void** data);
/* Makes what forebay_claim_create gave visible, as forebay_seal does. `view` may be NULL. Fails
   with FOREBAY_EBADSTATE if there is nothing to seal. */
FOREBAY_API int forebay_claim_seal(forebay_claim* claim, forebay_view** view);
/*
 * It cannot be made: those who wait fail with FOREBAY_ELOADERFAILED and this text, of which 4096
 * bytes count. What forebay_claim_create gave is given back. `why` may be NULL. Does nothing to a
 * claim that has ended.
 */
FOREBAY_API void forebay_claim_fail(forebay_claim* claim, const char* why);
/* If nothing was sealed: the next who waits gets the claim. NULL is fine. */
FOREBAY_API void forebay_claim_free(forebay_claim* claim);

/*
 * Makes a version: calls forebay_claim_create, fills the bytes, and returns 0 (they are sealed
 * then); or calls forebay_claim_put. Anything else is a failure, which may be explained by
 * forebay_claim_fail. The claim is not the loader's to free. A loader that asks for its own id
 * waits for itself.
 */
typedef int (*forebay_loader)(void* context, forebay_claim* claim);
/*
 * A view of a version, which `loader` makes, in this thread, if nobody else has or is about to.
 * Release it. Fails as forebay_get_or_claim does; with what the loader returned, which should be a
 * code as of any function here; with FOREBAY_ELOADERFAILED if it called forebay_claim_fail and
 * returned 0; with FOREBAY_EBADSTATE if it returned 0 and made nothing. Who waits meanwhile learns
 * of the failure as forebay_claim_fail has it.
 */
FOREBAY_API int forebay_get_or_create(forebay_client* client, const void* id, size_t id_size,
                                      const forebay_claim_options* options, forebay_loader loader,
                                      void* context, forebay_view** view);

/* ----------------------------------------------------------------------------------- waiting */

typedef struct forebay_wait_item {
  const void* id;
  size_t id_size;
  uint64_t version; /* 0: the newest */
  uint64_t after;   /* with version 0: only a version above this one will do */
  const char* ref;  /* not NULL: this very segment, and nothing of the above counts */
  int ready;        /* out */
} forebay_wait_item;

/*
 * Waits until `needed` of the items are sealed, at most `timeout_ns`, and marks those that are.
 * `ready_count` (may be NULL) is fewer than `needed` after the timeout, which is no failure. No
 * pins: they may be removed again. Fails with FOREBAY_EBADARGUMENT if more are needed than there
 * are, and with FOREBAY_ELIMIT if more than 32768 items must be waited for.
 */
FOREBAY_API int forebay_wait(forebay_client* client, forebay_wait_item* items, size_t count,
                             size_t needed, uint64_t timeout_ns, size_t* ready_count);

/*
 * Gets that do not block, for event loops. When the descriptor is readable, forebay_async_dispatch
 * calls back what has come. It survives the daemon. In a forked child it is void: nothing is called
 * back there.
 *
 * The callback gets 0 and a view, which it releases, now or later; or a code and NULL, with the
 * sentence in forebay_last_error(). It may call forebay_async_get and forebay_async_cancel, but not
 * forebay_async_close.
 */
typedef void (*forebay_async_callback)(void* context, int result, forebay_view* view);

/* Connects a second time. Free with forebay_async_close. Fails as forebay_connect does, and with
   FOREBAY_ELIMIT or a negated errno when descriptors ran out. */
FOREBAY_API int forebay_async_open(forebay_client* client, forebay_async** async);
/* For poll, epoll and their like: readable when dispatch has something to do. The same one for
   life; not to be read from or closed. */
FOREBAY_API int forebay_async_fd(const forebay_async* async);
/*
 * Calls back once: from within this call if the segment is there or the arguments are bad; else
 * from forebay_async_dispatch, by the timeout at the latest, with what forebay_get would have
 * answered. `number` (may be NULL) is what cancels it, or 0 if it has called back. Fails with
 * -ENOMEM only.
 */
FOREBAY_API int forebay_async_get(forebay_async* async, const void* id, size_t id_size,
                                  const forebay_get_options* options,
                                  forebay_async_callback callback, void* context,
                                  uint64_t* number);
/* Calls back with FOREBAY_ECANCELLED, from within. FOREBAY_ENOTFOUND: it was not open any more. */
FOREBAY_API int forebay_async_cancel(forebay_async* async, uint64_t number);
/* Calls back all that can be, without waiting. `called_back` (how many) may be NULL. */
FOREBAY_API int forebay_async_dispatch(forebay_async* async, size_t* called_back);
/* How many will still be called back. */
FOREBAY_API size_t forebay_async_open_count(const forebay_async* async);
/* Calls back all that are open with FOREBAY_ECANCELLED, from within. NULL is fine. */
FOREBAY_API void forebay_async_close(forebay_async* async);

/* ------------------------------------------------------------------------------------- events */

enum {
  FOREBAY_EVENT_SEALED = 1,
  FOREBAY_EVENT_REMOVED = 2,
  FOREBAY_EVENT_SPILLED = 3,
  FOREBAY_EVENT_RESTORED = 4,
  FOREBAY_EVENT_MISSED = 5 /* `missed` events, of any id, are lost before the next one */
};
enum { /* of a removal */
  FOREBAY_CAUSE_NONE = 0,
  FOREBAY_CAUSE_REMOVED = 1,    /* somebody asked for it */
  FOREBAY_CAUSE_KEPT_NEWER = 2, /* keep */
  FOREBAY_CAUSE_EXPIRED = 3,    /* ttl */
  FOREBAY_CAUSE_EVICTED = 4,    /* to make room */
  FOREBAY_CAUSE_SUPERSEDED = 5, /* its memory was taken over by its next version */
  FOREBAY_CAUSE_LOST = 6        /* with the tier that held it */
};

typedef struct forebay_event {
  int kind;
  int cause;
  const void* id;
  size_t id_size;
  uint64_t version;
  uint64_t serial;
  uint64_t size; /* payload bytes */
  uint64_t missed;
} forebay_event;

/*
 * What happens to segments whose id starts with `prefix`: from now on if `cursor` is NULL, else
 * behind a cursor of forebay_subscription_cursor's. The daemon remembers the last 65536 events;
 * who is slower gets FOREBAY_EVENT_MISSED. It has a connection of its own, and survives the
 * daemon. Free with forebay_subscription_close. Fails with FOREBAY_EBADARGUMENT (prefix, cursor),
 * and with FOREBAY_EWRONGSTORE when the cursor is another store's.
 */
FOREBAY_API int forebay_subscribe(forebay_client* client, const void* prefix, size_t prefix_size,
                                  const char* cursor, forebay_subscription** subscription);
/*
 * All events that are there, at least one, as an array that belongs to the subscription until the
 * next forebay_subscription_next or forebay_subscription_poll; forebay_subscription_next waits
 * `timeout_ns` at most. Fails with FOREBAY_ETIMEDOUT, and with FOREBAY_EWRONGSTORE when the daemon
 * serves another store now.
 */
FOREBAY_API int forebay_subscription_next(forebay_subscription* subscription, uint64_t timeout_ns,
                                          const forebay_event** events, size_t* count);
/* The same without waiting: maybe none, which is no failure. */
FOREBAY_API int forebay_subscription_poll(forebay_subscription* subscription,
                                          const forebay_event** events, size_t* count);
/* Readable when forebay_subscription_poll may have something. The same one for the subscription's
   life; not to be read from or closed. */
FOREBAY_API int forebay_subscription_fd(const forebay_subscription* subscription);
/* Writes where a subscription would go on behind the last array that was returned; `cursor` has
   FOREBAY_CURSOR_BYTES. */
FOREBAY_API int forebay_subscription_cursor(const forebay_subscription* subscription,
                                            char* cursor);
/* NULL is fine. */
FOREBAY_API void forebay_subscription_close(forebay_subscription* subscription);

/* ------------------------------------------------------------------------ looking and removing */

/* Whether forebay_get would find it now. No pin, no message. */
FOREBAY_API int forebay_contains(forebay_client* client, const void* id, size_t id_size,
                                 uint64_t version, int* contains);
typedef struct forebay_contains_item {
  const void* id;
  size_t id_size;
  int contains; /* out */
} forebay_contains_item;
/* The same for the newest version of each. One bad id fails all. */
FOREBAY_API int forebay_contains_many(forebay_client* client, forebay_contains_item* items,
                                      size_t count);

/* Takes it out of sight at once; the memory is given back when the last pin ends. version 0: all of
   them. `removed` (how many) may be NULL. Fails with FOREBAY_ENOTFOUND, and with FOREBAY_ECONFLICT
   when a manifest lists it. */
FOREBAY_API int forebay_remove(forebay_client* client, const void* id, size_t id_size,
                               uint64_t version, uint64_t* removed);
FOREBAY_API int forebay_remove_ref(forebay_client* client, const char* ref);
/* The versions below this one. `removed` may be NULL; 0 is no failure. Fails with
   FOREBAY_EBADARGUMENT for version 0. */
FOREBAY_API int forebay_remove_before(forebay_client* client, const void* id, size_t id_size,
                                      uint64_t version, uint64_t* removed);
/* Everything whose id starts with `prefix` (of no bytes: everything), but what manifests list
   stays. `removed` may be NULL; 0 is no failure. */
FOREBAY_API int forebay_remove_prefix(forebay_client* client, const void* prefix,
                                      size_t prefix_size, uint64_t* removed);
typedef struct forebay_remove_item {
  const void* id;
  size_t id_size;
  uint64_t removed; /* out: how many versions */
  int result;       /* out: as forebay_remove would have returned */
} forebay_remove_item;
/* All versions of many ids in few messages. Fails as a whole only if the daemon could not be
   reached. */
FOREBAY_API int forebay_remove_many(forebay_client* client, forebay_remove_item* items,
                                    size_t count);
/* The same for refs; results[i] is as forebay_remove_ref would have returned for refs[i]. */
FOREBAY_API int forebay_remove_many_refs(forebay_client* client, const char* const* refs,
                                         size_t count, int* results);

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

/* Walks through the segments whose id starts with `prefix`, by id and version. Free with
   forebay_list_free. Reads shared memory: no message, and no pins. */
FOREBAY_API int forebay_list_open(forebay_client* client, const void* prefix, size_t prefix_size,
                                  forebay_list** list);
/* The next one; FOREBAY_ENOTFOUND after the last. `info` is valid until the next call. After
   forebay_close, FOREBAY_EBADSTATE when a further page of segments would be needed. */
FOREBAY_API int forebay_list_next(forebay_list* list, forebay_segment_info* info);
/* NULL is fine. */
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

/* ----------------------------------------------------------------------------------- retention */

/*
 * Keeps the daemon from letting a segment go on its own (for room, keep or ttl) until
 * forebay_unhold, or until this process ends. Holds are counted. No pin: it may be removed, and
 * leave memory for a tier. version 0: the newest. `ref` may be NULL. Fails with FOREBAY_ENOTFOUND.
 */
FOREBAY_API int forebay_hold(forebay_client* client, const void* id, size_t id_size,
                             uint64_t version, char* ref);
FOREBAY_API int forebay_hold_ref(forebay_client* client, const char* ref);
/* Ends one hold. Fails with FOREBAY_EBADSTATE if this process does not hold it. */
FOREBAY_API int forebay_unhold(forebay_client* client, const char* ref);
/* As forebay_hold, without an end: as if it had been put with `persistent`. */
FOREBAY_API int forebay_persist(forebay_client* client, const void* id, size_t id_size,
                                uint64_t version, char* ref);
/* How many of the id's newest versions stay from now on: 1 to FOREBAY_KEEP_MAX, or
   FOREBAY_KEEP_ALL. Fails with FOREBAY_ENOTFOUND and FOREBAY_EBADARGUMENT. */
FOREBAY_API int forebay_keep(forebay_client* client, const void* id, size_t id_size,
                             uint32_t versions);

/*
 * From now on, everything whose id starts with `prefix` (1 to 255 bytes) goes when this process ends
 * the scope, closes this client, or ends in any way, whoever put it there. Survives the daemon; a
 * forked child does not have it. Fails with FOREBAY_EBADID, with FOREBAY_ECONFLICT if a scope that is
 * begun, here or elsewhere, has the same prefix or one that overlaps it, and with
 * FOREBAY_ELIMIT beyond 1024 scopes.
 */
FOREBAY_API int forebay_begin_scope(forebay_client* client, const void* prefix,
                                    size_t prefix_size);
/*
 * Removes what is there as forebay_remove_prefix does; `removed` (may be NULL) gets how many segments
 * went. What is being made goes when it is sealed; what comes later is nobody's. After
 * FOREBAY_ETIMEDOUT or FOREBAY_EDISCONNECTED it goes on, or may be asked for again. Fails with
 * FOREBAY_EBADSTATE if the scope was not begun by this client.
 */
FOREBAY_API int forebay_end_scope(forebay_client* client, const void* prefix, size_t prefix_size,
                                  uint64_t* removed);

/* What keeps a segment, and for how long. */
typedef struct forebay_retention {
  size_t struct_size;
  const char* state;      /* "sealed", ...; "removing": out of sight, but pinned */
  uint32_t keep;          /* of its id; 0: as the namespace says */
  uint32_t manifests;     /* so many list it */
  int expires;            /* it has a time to live */
  uint64_t expires_in_ns; /* then: so much of it is left */
} forebay_retention;
#define FOREBAY_RETENTION_INIT \
  { sizeof(forebay_retention), NULL, 0, 0, 0, 0 }
/* Initialise `retention` with the macro. Writes at most `leases_max` of the `*leases_count`
   processes that hold the segment (their pins are not counted here); `leases_count` may be NULL.
   `state` is never freed. Fails with FOREBAY_ENOTFOUND. */
FOREBAY_API int forebay_stat_retention(forebay_client* client, const void* id, size_t id_size,
                                       uint64_t version, forebay_retention* retention,
                                       forebay_holder* leases, size_t leases_max,
                                       size_t* leases_count);

#ifdef __cplusplus
}
#endif

#endif
