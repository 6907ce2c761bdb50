/* terminal-group: a terminal only for members of one group. A policy in C, without any library.
 *
 * It only ever refuses: a command without a terminal, or of a member, is for other policies to decide. Settings:
 * {"group": "interactive"}. */
#include "policy.h"

#define EXPORT(name) __attribute__((export_name(name)))
#define TEXT(text) ((string){(text), sizeof(text) - 1})

/* Memory that is never given back: every decision runs in an instance of its own, which goes away with it. */
extern char __heap_base;
static uintptr_t next;

EXPORT("cabi_realloc")
void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
  if (!next) next = (uintptr_t)&__heap_base;
  uintptr_t at = (next + align - 1) & ~(align - 1);
  if (size > UINT32_MAX - 65536 - at) __builtin_trap();
  uintptr_t end = at + size;
  size_t pages = __builtin_wasm_memory_size(0), needed = (end + 65535) / 65536;
  if (needed > pages && __builtin_wasm_memory_grow(0, needed - pages) == (size_t)-1) __builtin_trap();
  next = end;
  for (size_t i = 0; i < old_size && i < size; i++) ((char *)at)[i] = ((char *)old)[i];
  return (void *)at;
}

static bool equal(string a, string b) {
  if (a.length != b.length) return false;
  for (size_t i = 0; i < a.length; i++)
    if (a.at[i] != b.at[i]) return false;
  return true;
}

/* The group whose members may have a terminal; set once by configure, part of the snapshot that decisions begin from. */
static string group;

EXPORT("execgate:policy/plugin@1.0.0#describe")
description *describe(void) {
  static description it = {
      TEXT("terminal-group"), TEXT("1.0.0"), TEXT("a terminal only for members of one group"),
      TEXT("{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"group\"],"
           "\"properties\":{\"group\":{\"type\":\"string\",\"pattern\":\"^[A-Za-z0-9_.-]+$\"}}}")};
  return &it;
}

/* The settings are a JSON object. This takes exactly one key and a name without escapes, and refuses all else. */
static size_t blank(string json, size_t at) {
  while (at < json.length && (json.at[at] == ' ' || json.at[at] == '\n' || json.at[at] == '\t' || json.at[at] == '\r')) at++;
  return at;
}

static size_t word(string json, size_t at, string *word) {
  at = blank(json, at);
  if (at >= json.length || json.at[at] != '"') return 0;
  size_t from = ++at;
  while (at < json.length && json.at[at] != '"' && json.at[at] != '\\') at++;
  if (at >= json.length || json.at[at] != '"') return 0;
  *word = (string){json.at + from, at - from};
  return blank(json, at + 1);
}

static bool read_settings(string json) {
  string key;
  size_t at = blank(json, 0);
  if (at >= json.length || json.at[at] != '{') return false;
  at = word(json, at + 1, &key);
  if (!at || !equal(key, TEXT("group")) || at >= json.length || json.at[at] != ':') return false;
  at = word(json, at + 1, &group);
  if (!at || !group.length || at >= json.length || json.at[at] != '}') return false;
  return blank(json, at + 1) == json.length;
}

EXPORT("execgate:policy/plugin@1.0.0#configure")
configured *configure(const char *at, size_t length) {
  static setting_error error = {TEXT("group"), TEXT("exactly one setting is taken: group, a name without escapes")};
  static configured result;
  if (!read_settings((string){at, length})) {
    result.is_error = true;
    result.errors.at = &error;
    result.errors.length = 1;
  }
  return &result;
}

EXPORT("execgate:policy/command@1.0.0#review")
command_verdict *review(const command_request *request) {
  static string rule = TEXT("terminal");
  static command_verdict verdict;
  verdict.tag = ABSTAIN;
  if (!request->terminal) return &verdict;
  for (size_t i = 0; i < request->principal.groups.length; i++)
    if (equal(request->principal.groups.at[i], group)) return &verdict;
  verdict.tag = DENY;
  verdict.deny = (denial){TEXT("no_terminal"), TEXT("a terminal is for members of one group only"),
                          {true, TEXT("run it without a terminal, or ask to be added to the group")}, {&rule, 1}};
  return &verdict;
}

_Static_assert(offsetof(command_request, terminal) == 172, "types.wit and command.wit of 1.0.0");
_Static_assert(sizeof(command_request) == 248, "types.wit and command.wit of 1.0.0");
_Static_assert(offsetof(command_verdict, deny) == 8 && sizeof(denial) == 36, "the verdict's payload");
