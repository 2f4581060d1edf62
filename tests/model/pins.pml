/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of an entry: create, publish, pin, release, evict, remove, reuse; two clients, one daemon,
 * two entries, two versions of one id. A client may be killed before any of its steps and the daemon
 * before any of its own; "stopped" is a process that is not scheduled, which the search includes
 * anyway. Steps are as fine as single loads and stores of shared memory; their order in a weak
 * memory is the subject of tests/store/shm/protocol_explorer_test.cpp.
 *
 * Claims, by the invariants of the design:
 *   I1, I4  bytes under a pin, and bytes of a segment whose creator lives, belong to nobody else
 *   I2      a get returns the bytes of the version it found
 *   I3      nobody pins an unsealed segment but its creator
 *   I5      when all is quiet, the dead hold nothing: no entry is left creating, evicting or removing
 *   I9      all of that with the daemon killed at any step and started again
 *
 * Run with: make check-model (Spin, exhaustive).
 */

#define ENTRIES 2
#define CLIENTS 2
#define NONE 255

#ifndef OPERATIONS
#define OPERATIONS 2        /* of each client */
#endif
#ifndef DAEMON_CRASHES
#define DAEMON_CRASHES 1
#endif
#ifndef EVICTIONS
#define EVICTIONS 1
#endif
#ifndef VERSIONS
#define VERSIONS 2
#endif

mtype = { FREE, CREATING, SEALED, EVICTING, REMOVING };
mtype = { idle, wants_create, created, refused, wants_seal, wants_abort, wants_remove, done };

/* Shared memory: outlives everybody. */
mtype state[ENTRIES] = FREE;
byte generation[ENTRIES];
bool wanted[ENTRIES];
byte version[ENTRIES];
byte owner[ENTRIES] = NONE;
byte newest;                    /* slot of the id: entry + 1, 0 none */
byte pins[4];                   /* [client * ENTRIES + entry] */
byte content[ENTRIES];          /* the version these bytes belong to; 0 while being overwritten */

/* Kernel: who lives; cleared pins of the dead are the daemon's work. */
bool dead[CLIENTS];
bool reaped[CLIENTS];
bool daemon_up = true;
byte crashes;

/* The socket: one request at a time for each client. A restarted daemon finds the request again,
 * because the client reconnects and repeats it. */
mtype request[CLIENTS] = idle;
byte subject[CLIENTS];          /* entry, both ways */
bool nudge;

/* Ghosts, for the claims. */
byte writing[ENTRIES] = NONE;   /* client that may write these bytes: it was told of them and lives */
byte next_version = 1;
byte evictions;

#define NOBODY_ELSE_WRITES(e) assert(writing[e] == NONE || dead[writing[e]])
#define PIN(c, e) pins[(c) * ENTRIES + (e)]

proctype Client(byte me) {
  byte operations, e, g, v;
  mtype seen;
  {
    do
    :: operations >= OPERATIONS -> break
    :: operations < OPERATIONS ->
       operations++;
       if
       /* get the newest, read, release */
       :: e = newest;
          if
          :: e == 0 -> skip
          :: else ->
             e--;
             d_step { seen = state[e]; g = generation[e] }
             if
             :: seen != SEALED -> skip
             :: else ->
                v = version[e];         /* the key matches what was asked for */
                PIN(me, e)++;
                if
#ifdef MUTANT_READER_BELIEVES_ITS_FIRST_LOOK
                :: skip ->
#else
                :: d_step { state[e] == SEALED && generation[e] == g -> skip };
#endif
                   assert(content[e] == v);
                   assert(content[e] == v);
                :: else -> skip
                fi;
                PIN(me, e)--;
                if
#ifndef MUTANT_NO_NUDGE
                :: d_step { PIN(me, e) == 0 && wanted[e] -> nudge = true }
#endif
                :: else -> skip
                fi
             fi
          fi;
          e = 0; g = 0; v = 0; seen = FREE
       /* put: create, write in two steps, seal */
       :: request[me] = wants_create;
          if
          :: request[me] == refused -> skip
          :: request[me] == created ->
             e = subject[me];
             content[e] = 0;
             assert(writing[e] == me && state[e] == CREATING);
             content[e] = version[e];
             if
             :: d_step { writing[e] = NONE; request[me] = wants_seal };
                request[me] == done
             /* or abort: an owner that gives up by itself no longer writes */
             :: d_step { writing[e] = NONE; request[me] = wants_abort };
                request[me] == done
             fi
          fi;
          d_step { request[me] = idle; subject[me] = 0; e = 0 }
       /* remove the newest, whichever it is */
       :: e = newest;
          if
          :: e == 0 -> skip
          :: else ->
             d_step { subject[me] = e - 1; request[me] = wants_remove };
             request[me] == done;
             d_step { request[me] = idle; subject[me] = 0 }
          fi;
          e = 0
       fi
    od
  } unless { dead[me] }
}

/* Kills each client at any moment, at most once. */
proctype Killer() {
  if
  :: d_step { dead[0] = true; if :: writing[0] == 0 -> writing[0] = NONE :: else fi;
              if :: writing[1] == 0 -> writing[1] = NONE :: else fi }
  :: skip
  fi;
  if
  :: d_step { dead[1] = true; if :: writing[0] == 1 -> writing[0] = NONE :: else fi;
              if :: writing[1] == 1 -> writing[1] = NONE :: else fi }
  :: skip
  fi
}

/* The entry's successor in the slot when `e` goes: the other entry, if it is sealed. */
#define OTHER(e) (1 - (e))
inline redirect(e) {
  if
  :: newest == (e) + 1 ->
     if
     :: state[OTHER(e)] == SEALED -> newest = OTHER(e) + 1
     :: else -> newest = 0
     fi
  :: else -> skip
  fi
}

/* One look at each table, each its own step. Leaves the answer in `pinned`. */
inline look(e) {
  pinned = false;
#ifndef MUTANT_DAEMON_DOES_NOT_LOOK
  if :: PIN(0, e) > 0 -> pinned = true :: else -> skip fi;
  if :: PIN(1, e) > 0 -> pinned = true :: else -> skip fi
#else
  skip
#endif
}

inline free_entry(e) {
  d_step { wanted[e] = false; owner[e] = NONE; state[e] = FREE }
}

inline finish_removal(e) {
  look(e);
  if
  :: pinned -> skip                     /* later: a nudge or the next look */
  :: else -> NOBODY_ELSE_WRITES(e); free_entry(e)
  fi
}

inline begin_removal(e) {
  redirect(e);                          /* first out of sight, then marked */
  state[e] = REMOVING;
  wanted[e] = true;
  finish_removal(e)
}

inline serve(c) {
  if
  :: request[c] == wants_create ->
     if
     :: next_version <= VERSIONS && (state[0] == FREE || state[1] == FREE) ->
        if
        :: state[0] == FREE -> at = 0
        :: state[0] != FREE && state[1] == FREE -> at = 1
        fi;
#ifndef MUTANT_REUSE_KEEPS_THE_GENERATION
        generation[at]++;               /* before any other field */
#endif
        version[at] = next_version;
        owner[at] = c;
        content[at] = 0;                /* reused memory is anybody's until written */
        state[at] = CREATING;
        d_step {
          next_version++;
          if
          :: dead[c] -> skip
          :: else -> writing[at] = c; subject[c] = at; request[c] = created
          fi
        }
     :: else -> request[c] = refused
     fi
  :: request[c] == wants_seal ->
     at = subject[c];
     if
     :: state[at] == CREATING && owner[at] == c ->
        assert(content[at] == version[at] || dead[c]);
        state[at] = SEALED;
        if
        :: newest == 0 || version[newest - 1] < version[at] -> newest = at + 1
        :: else -> skip
        fi
     :: else -> skip
     fi;
     request[c] = done
  :: request[c] == wants_abort ->
     at = subject[c];
     if
     :: state[at] == CREATING && owner[at] == c -> begin_removal(at)
     :: else -> skip
     fi;
     request[c] = done
  :: request[c] == wants_remove ->
     at = subject[c];
     if
     :: state[at] == SEALED -> begin_removal(at)
     :: else -> skip
     fi;
     request[c] = done
  fi
}

inline evict(e) {
  state[e] = EVICTING;
  look(e);
  if
  :: pinned -> state[e] = SEALED
  :: else ->
     redirect(e);
     NOBODY_ELSE_WRITES(e);
     free_entry(e)
  fi
}

/* The kernel said that c is dead. */
inline reap(c) {
  d_step { PIN(c, 0) = 0; PIN(c, 1) = 0 };
  if :: state[0] == CREATING && owner[0] == c -> begin_removal(0) :: else -> skip fi;
  if :: state[1] == CREATING && owner[1] == c -> begin_removal(1) :: else -> skip fi;
  reaped[c] = true
}

inline recover_entry(e) {
  if
  :: state[e] == EVICTING -> state[e] = SEALED
  :: state[e] == REMOVING -> wanted[e] = true; redirect(e); finish_removal(e)
  :: state[e] == CREATING && dead[owner[e]] -> begin_removal(e)
  /* a creator that never heard of it asks again and would get another: its unanswered one goes */
  :: state[e] == CREATING && !dead[owner[e]] && writing[e] != owner[e] &&
     request[owner[e]] == wants_create -> begin_removal(e)
  :: else -> skip
  fi
}

/* Chains are derived: the slot names the highest sealed version. */
inline recover_slot() {
  d_step {
    at = NONE;
    if :: state[0] == SEALED -> at = 0 :: else fi;
    if :: state[1] == SEALED && (at == NONE || version[1] > version[0]) -> at = 1 :: else fi;
    if :: at == NONE -> newest = 0 :: else -> newest = at + 1 fi;
    at = 0
  }
}

proctype Daemon() {
  byte at;
  bool pinned;
restart:
  {
#ifndef MUTANT_NO_RECOVERY
    recover_entry(0);
    recover_entry(1);
    recover_slot();
#endif
end_serving:
    do
    :: !reaped[0] && (request[0] == wants_create || request[0] == wants_seal ||
                      request[0] == wants_abort || request[0] == wants_remove) ->
       serve(0)
    :: !reaped[1] && (request[1] == wants_create || request[1] == wants_seal ||
                      request[1] == wants_abort || request[1] == wants_remove) ->
       serve(1)
    :: dead[0] && !reaped[0] -> reap(0)
    :: dead[1] && !reaped[1] -> reap(1)
    :: state[0] == SEALED && evictions < EVICTIONS -> evictions++; evict(0)
    :: state[1] == SEALED && evictions < EVICTIONS -> evictions++; evict(1)
    :: nudge ->
       nudge = false;
       if :: state[0] == REMOVING -> finish_removal(0) :: else -> skip fi;
       if :: state[1] == REMOVING -> finish_removal(1) :: else -> skip fi
#ifdef RESCAN
    /* the look every 100 ms, for clients that died between their release and their nudge */
    :: state[0] == REMOVING && PIN(0, 0) == 0 && PIN(1, 0) == 0 -> finish_removal(0)
    :: state[1] == REMOVING && PIN(0, 1) == 0 && PIN(1, 1) == 0 -> finish_removal(1)
#endif
    od
  } unless { !daemon_up };
  d_step { daemon_up = true; at = 0; pinned = false };
  goto restart
}

#if DAEMON_CRASHES > 0
proctype DaemonKiller() {
  do
  :: crashes < DAEMON_CRASHES -> d_step { crashes++; daemon_up = false }; daemon_up
  :: break
  od
}
#endif

/* Runs only when nothing else can: all is quiet. */
proctype Auditor() {
end_quiet:
  timeout;
  assert(state[0] == FREE || state[0] == SEALED);
  assert(state[1] == FREE || state[1] == SEALED);
  assert(newest == 0 || state[newest - 1] == SEALED);
  assert(state[0] != SEALED || newest != 0);
  assert(state[1] != SEALED || newest != 0);
  assert(PIN(0, 0) == 0 && PIN(0, 1) == 0 && PIN(1, 0) == 0 && PIN(1, 1) == 0)
}

init {
  atomic {
    run Daemon();
    run Client(0);
    run Client(1);
#ifdef KILL_CLIENTS
    run Killer();
#endif
#if DAEMON_CRASHES > 0
    run DaemonKiller();
#endif
    run Auditor()
  }
}
