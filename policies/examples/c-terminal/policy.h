/* The records of execgate:policy@1.0.0 as the canonical ABI lays them out in memory, for wasm32.
 *
 * Its rules are those of C: fields in order, each at its natural alignment; a string or list is a pointer and a length; an option
 * or variant is one byte of tag and then the payload at its alignment. So plain structs are enough. */
#ifndef EXECGATE_POLICY_H
#define EXECGATE_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct { const char *at; size_t length; } string;
typedef struct { string name, value; } pair;
typedef struct { string *at; size_t length; } strings;
typedef struct { pair *at; size_t length; } pairs;
typedef struct { bool is_some; string value; } optional_string;
typedef struct { bool is_some; uint64_t value; } optional_u64;
typedef struct { bool is_some; uint32_t value; } optional_u32;

/* types.wit */
typedef struct { string tenant, subject; strings groups; pairs attributes; } principal;
typedef struct { string address, transport; } origin;
typedef struct { uint64_t unix_ms; uint8_t weekday; uint16_t minute_of_day; string zone; } when;
typedef struct {
  uint32_t server_sessions, server_jobs, tenant_sessions, tenant_jobs, subject_sessions, subject_jobs, session_jobs;
} usage;
typedef struct { string code, message; optional_string remedy; strings rules; } denial;
typedef struct { string path, message; } setting_error;
typedef struct { optional_u64 wall_ms, cpu_ms, memory_bytes; optional_u32 processes; optional_u64 output_bytes, file_size_bytes; optional_u32 open_files; } job_limits;
typedef struct { void *at; size_t length; } list; /* of what this example leaves empty */

/* command.wit */
typedef struct { string requested, canonical; optional_string argument; bool setuid; } interpreter;
typedef struct {
  string requested; optional_string found; string canonical; bool setuid;
  struct { bool is_some; interpreter value; } interpreter;
} executable;
typedef struct { string name; optional_string value; } variable;
typedef struct { list commands; bool opaque; strings reasons; } script;
typedef struct {
  principal principal; origin origin; when when; string session; executable executable; strings argv; string cwd;
  struct { variable *at; size_t length; } env;
  bool terminal;
  struct { bool is_some; script value; } script;
  pairs labels; usage usage; pairs attributes;
} command_request;
typedef struct { strings rules; list changes; job_limits limits; list claims; strings confine; } permission;
typedef struct {
  enum { ABSTAIN = 0, ALLOW = 1, DENY = 2 } tag : 8;
  union { permission allow; denial deny; };
} command_verdict;

/* plugin.wit */
typedef struct { string name, version, summary, settings_schema; } description;
typedef struct { bool is_error; struct { setting_error *at; size_t length; } errors; } configured;

#endif
