#!/bin/sh
# Prints a signed token for trying out config/examples/hosted-shell.toml, good for an hour. What an identity provider does.
#
#   sh config/examples/token.sh config/examples/keys TENANT SUBJECT [GROUP]
set -eu
keys=$1 tenant=$2 subject=$3 group=${4:-}
url() { base64 | tr '+/' '-_' | tr -d '=\n'; }
now=$(date +%s)
header=$(printf '{"alg":"EdDSA","kid":"example","typ":"JWT"}' | url)
claims=$(printf '{"iss":"https://login.example","aud":"execgate","nbf":%s,"exp":%s,"sub":"%s","tenant":"%s","groups":[%s]}' \
    "$((now - 5))" "$((now + 3600))" "$subject" "$tenant" "${group:+\"$group\"}" | url)
text=$(mktemp)
trap 'rm -f "$text"' EXIT
printf '%s.%s' "$header" "$claims" >"$text"
printf '%s.%s.%s\n' "$header" "$claims" "$(openssl pkeyutl -sign -rawin -inkey "$keys/issuer.key" -in "$text" | url)"
