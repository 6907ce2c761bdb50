//! Sets of keys that the configuration names.

use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use serde::Deserialize;
use serde_json::Value;

/// Why a set of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysFailure {
    /// It is no set of keys.
    #[error("is no JWKS: {0}")]
    NoSet(#[from] serde_json::Error),
    /// It is an empty set.
    #[error("holds no key")]
    Empty,
    /// None of its keys is for signatures as they are verified here.
    #[error(
        "holds no key that could verify a token: {}; add one with \"use\": \"sig\" and an \"alg\" for signatures", skipped.join("; ")
    )]
    Useless {
        /// Each key and why it is none.
        skipped: Vec<String>,
    },
}

/// The keys of a JWKS (RFC 7517).
#[derive(Debug)]
pub struct Keys {
    /// Those that verify, each with its place in the set, from 1 on.
    pub verify: Vec<(usize, Jwk)>,
    /// The others, each with why it is left out.
    pub skipped: Vec<String>,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The keys of a JWKS. What is not for signatures or not understood is left out (RFC 7517 section 5): an issuer may publish a key
/// for encryption, or of a kind that is newer than we are, beside the others.
///
/// # Errors
/// [`KeysFailure`]
pub fn jwks(bytes: &[u8]) -> Result<Keys, KeysFailure> {
    let set: Set = serde_json::from_slice(bytes)?;
    if set.keys.is_empty() {
        return Err(KeysFailure::Empty);
    }
    let mut keys = Keys { verify: Vec::new(), skipped: Vec::new() };
    for (place, value) in (1..).zip(&set.keys) {
        match verifying(value) {
            Ok(jwk) => keys.verify.push((place, jwk)),
            Err(why) => {
                let kid = value.get("kid").map_or_else(|| "without a kid".to_owned(), Value::to_string);
                keys.skipped.push(format!("key {place} ({kid}): {why}"));
            }
        }
    }
    if keys.verify.is_empty() { Err(KeysFailure::Useless { skipped: keys.skipped }) } else { Ok(keys) }
}

/// # Errors
/// Why the key verifies nothing.
fn verifying(value: &Value) -> Result<Jwk, String> {
    let said = |member: &str| value.get(member).map_or_else(|| "missing".to_owned(), Value::to_string);
    let jwk = Jwk::deserialize(value)
        .map_err(|e| format!("it is not understood (\"kty\" is {}): {e}", said("kty")))?;
    let common = &jwk.common;
    if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return Err(format!("its \"use\" is {}, not \"sig\"", said("use")));
    }
    if common.key_operations.as_ref().is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
        return Err(format!("its \"key_ops\" are {}, without \"verify\"", said("key_ops")));
    }
    if common.key_algorithm.is_some_and(|algorithm| Algorithm::try_from(algorithm).is_err()) {
        return Err(format!("its \"alg\" is {}, which signs nothing or is not known", said("alg")));
    }
    match &jwk.algorithm {
        // A known kind that lacks what it needs too.
        AlgorithmParameters::Other(_) => Err(format!(
            "it is not understood: its \"kty\" is {}, and the rest of it no known key of that kind",
            said("kty")
        )),
        AlgorithmParameters::EllipticCurve(curve)
            if !matches!(curve.curve, EllipticCurve::P256 | EllipticCurve::P384) =>
        {
            Err(format!("its \"crv\" is {}, which is not known", said("crv")))
        }
        _ => Ok(jwk),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(kid: &str, with: Value) -> Value {
        let mut key = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "RS256", "kid": kid});
        for (member, value) in with.as_object().unwrap() {
            key[member] = value.clone();
        }
        key
    }

    fn set(keys: &[Value]) -> Result<Keys, KeysFailure> {
        jwks(json!({"keys": keys}).to_string().as_bytes())
    }

    #[test]
    fn what_is_not_for_signatures_or_not_understood_is_left_out_and_named() {
        let table = [
            (json!({"use": "enc"}), "\"use\" is \"enc\""),
            (json!({"use": "tls"}), "\"use\" is \"tls\""),
            (json!({"use": "enc", "alg": "RSA-OAEP"}), "\"use\" is \"enc\""),
            (json!({"alg": "RSA-OAEP"}), "\"alg\" is \"RSA-OAEP\""),
            (json!({"alg": "ML-DSA-44"}), "\"alg\" is \"ML-DSA-44\""),
            (json!({"key_ops": ["encrypt", "wrapKey"]}), "without \"verify\""),
            (json!({"key_ops": []}), "without \"verify\""),
            (json!({"kty": "AKP", "alg": null}), "\"AKP\""),
            (json!({"kty": "RSA", "n": null}), "not understood"),
            (json!({"kty": "EC", "crv": "P-521", "x": "AQAB", "y": "AQAB", "alg": null}), "\"P-521\""),
            (json!({"kty": "EC", "crv": "secp256k1", "x": "AQAB", "y": "AQAB"}), "not understood"),
            (json!({"kty": "OKP", "crv": "X25519", "x": "AQAB", "alg": null}), "not understood"),
            (json!({"kty": 3}), "not understood"),
        ];
        for (with, word) in table {
            let mut odd = key("odd", with);
            // Left out, not null.
            odd.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            let found = set(&[odd.clone(), key("good", json!({}))]).unwrap();
            let left: Vec<_> =
                found.verify.iter().map(|(at, jwk)| (*at, jwk.common.key_id.as_deref())).collect();
            assert_eq!(left, [(2, Some("good"))], "{odd}");
            let told = found.skipped.join("");
            assert!(told.contains("key 1 (\"odd\")") && told.contains(word), "{word:?} is missing in {told}");
            let none = set(&[odd]).unwrap_err().to_string();
            assert!(none.contains(word) && none.contains("\"sig\""), "{none}");
        }
    }

    #[test]
    fn a_key_for_signatures_stays_whatever_else_it_may_do() {
        for with in [
            json!({}),
            json!({"use": "sig"}),
            json!({"key_ops": ["verify"]}),
            json!({"key_ops": ["sign", "verify"], "use": "sig", "x-new": 1}),
        ] {
            let found = set(&[key("k", with.clone())]).unwrap();
            assert!(found.verify.len() == 1 && found.skipped.is_empty(), "{with}: {:?}", found.skipped);
        }
        assert!(matches!(set(&[]), Err(KeysFailure::Empty)));
        assert!(matches!(jwks(b"{}"), Err(KeysFailure::NoSet(_))));
    }
}
