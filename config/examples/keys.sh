#!/bin/sh
# Makes everything that config/examples/hosted-shell.toml names, for trying it out: a certificate authority, the server's
# certificate for localhost, a client certificate, and the key of an issuer of signed tokens. Needs openssl 3.
#
#   sh config/examples/keys.sh config/examples/keys
#
# For the real thing, take the certificate from your own authority and the JWKS from your identity provider.
set -eu
umask 077
mkdir -p "$1"
cd "$1"
subject() { printf '/O=execgate example/CN=%s' "$1"; }

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "$(subject authority)" \
    -keyout ca.key -out ca.pem 2>/dev/null

leaf() { # name, subject alternative names, extended key usage
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$(subject "$1")" \
        -keyout "$1.key" -out "$1.csr" 2>/dev/null
    printf 'basicConstraints=CA:FALSE\nsubjectAltName=%s\nextendedKeyUsage=%s\n' "$2" "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 -extfile "$1.ext" \
        -out "$1.pem" 2>/dev/null
    rm "$1.csr" "$1.ext"
}
leaf server DNS:localhost,IP:127.0.0.1,IP:::1 serverAuth
leaf builder URI:spiffe://acme/builder clientAuth

openssl genpkey -algorithm ed25519 -out issuer.key
openssl pkey -in issuer.key -pubout -out issuer.pem
# The 32 bytes of an Ed25519 public key end its DER form (RFC 8410).
x=$(openssl pkey -in issuer.key -pubout -outform DER | tail -c 32 | base64 | tr '+/' '-_' | tr -d '=\n')
printf '{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "example", "alg": "EdDSA", "use": "sig", "x": "%s"}]}\n' "$x" >jwks.json
echo "made ca.pem, server.pem, builder.pem, issuer.pem and jwks.json in $1"
