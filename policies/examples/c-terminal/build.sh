#!/bin/sh
# Builds the policy: sh build.sh [OUT]. Needs clang and lld (Debian: apt-get install clang lld).
set -eu
out=$(realpath -m "${1:-terminal_group.wasm}")
cd "$(dirname "$0")"
clang --target=wasm32 -std=c11 -Oz -Wall -Wextra -Werror -ffreestanding -nostdlib \
  -Wl,--no-entry -Wl,-z,stack-size=65536 -Wl,--strip-debug -o "$out" policy.c world.s
