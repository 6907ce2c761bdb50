//! What authenticates and what does not, without a socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;

const PRIVATE: &[u8] = include_bytes!("../../../tests/fixtures/keys/ed25519.pem");
const PUBLIC: &[u8] = include_bytes!("../../../tests/fixtures/keys/ed25519.pub.pem");

fn principal() -> Arc<Principal> {
    Arc::new(Principal {
        tenant: "t".into(),
        subject: "s".into(),
        groups: Vec::new(),
        attributes: BTreeMap::new(),
        authority: Authority::Caller,
    })
}

fn access() -> Arc<Access> {
    let tokens = vec![Credential { digest: TokenDigest::of("right"), principal: principal() }];
    let jwt = Jwt {
        keys: vec![JwtKey::from_file("k1", "EdDSA", PUBLIC).unwrap()],
        issuer: "https://issuer.example".to_owned(),
        audience: vec!["execgate".to_owned()],
        leeway: Duration::from_secs(5),
        tenant: TenantOf::Claim("tenant".to_owned()),
        subject: "sub".to_owned(),
        groups: "groups".to_owned(),
        attributes: vec!["email".to_owned(), "level".to_owned()],
        revoked: BTreeSet::from(["gone".to_owned()]),
        roles: Roles { admin: vec!["ops".to_owned()], tenant_admin: vec!["leads".to_owned()] },
    };
    let certificates = vec![CertificateName { name: "uri:spiffe://t/ci".to_owned(), principal: principal() }];
    let credentials = Credentials { tokens, jwt: Some(jwt), certificates, ..Credentials::default() };
    Arc::new(Access::new(credentials))
}

fn show(access: &Access, values: &[&str], query: Option<&str>) -> Result<Identified, Unknown> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(header::AUTHORIZATION, value.parse().unwrap());
    }
    let source = Ipv4Addr::LOCALHOST.into();
    access.identify(&Shown { headers: &headers, query, certificate: None, source })
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({
        "exp": now() + 60, "nbf": now() - 60, "iss": "https://issuer.example", "aud": "execgate",
        "sub": "ada", "tenant": "acme", "groups": ["leads"], "email": "ada@acme.example", "level": 3,
    })
}

fn header(kid: &str) -> Header {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(kid.to_owned());
    header
}

fn sign(header: &Header, claims: &Value) -> String {
    encode(header, claims, &EncodingKey::from_ed_pem(PRIVATE).unwrap()).unwrap()
}

fn takes(token: &str) -> Option<Arc<Principal>> {
    show(&access(), &[&format!("Bearer {token}")], None).ok().map(|identified| identified.principal)
}

#[test]
fn only_the_right_token_authenticates() {
    assert!(takes("right").is_some());
    assert!(show(&access(), &["bearer right"], None).is_ok());
    let long = format!("Bearer {}", "x".repeat(1 << 20));
    for wrong in ["", "Bearer", "Bearer ", "Bearer righ", "Bearer wrong", "Basic right", "right", &long] {
        assert_eq!(show(&access(), &[wrong], None).unwrap_err(), Unknown::Nobody, "{wrong:.40}");
    }
    assert!(show(&access(), &[], None).is_err());
    assert!(show(&access(), &["Bearer right", "Bearer right"], None).is_err(), "two are ambiguous");
}

#[test]
fn a_good_jwt_names_its_bearer() {
    let bearer = takes(&sign(&header("k1"), &claims())).unwrap();
    assert_eq!(
        (&*bearer.tenant, &*bearer.subject, bearer.authority),
        ("acme", "ada", Authority::TenantAdmin)
    );
    assert_eq!(bearer.attributes["email"], "ada@acme.example");
    assert_eq!(bearer.attributes["level"], "3");
    let mut without = header("k1");
    without.kid = None;
    assert!(takes(&sign(&without, &claims())).is_some(), "the only key needs no name");
}

#[test]
fn a_jwt_whose_claims_are_missing_or_of_another_type_is_refused() {
    let future = now() + 60;
    let table: [(&str, &[Value]); 7] = [
        (
            "exp",
            &[
                Value::Null,
                json!(future.to_string()),
                json!(-1),
                json!(1e300),
                json!(now() - 60),
                json!([future]),
            ],
        ),
        ("nbf", &[Value::Null, json!("0"), json!(-1), json!(1e300), json!(future)]),
        ("iss", &[Value::Null, json!("https://other.example"), json!(["https://issuer.example"]), json!(7)]),
        ("aud", &[Value::Null, json!("other"), json!(["other"]), json!(7), json!([])]),
        (
            "sub",
            &[
                Value::Null,
                json!(""),
                json!(7),
                json!("x".repeat(257)),
                json!("ada\nbob"),
                json!("ada\u{1b}[2J"),
            ],
        ),
        ("tenant", &[Value::Null, json!(""), json!("../x"), json!("Acme"), json!("*"), json!(["acme"])]),
        ("groups", &[Value::Null, json!("ops"), json!([7]), json!([""]), json!(vec!["g"; 65])]),
    ];
    for (claim, values) in table {
        for value in values {
            let mut bad = claims();
            bad[claim] = value.clone();
            assert!(takes(&sign(&header("k1"), &bad)).is_none(), "{claim}: {value}");
        }
        let mut missing = claims();
        missing.as_object_mut().unwrap().remove(claim);
        assert_eq!(takes(&sign(&header("k1"), &missing)).is_some(), claim == "groups", "{claim} missing");
    }
}

#[test]
fn a_jwt_that_never_ends_is_refused_and_breaks_nothing() {
    // What issuers write for "never": the last second of the clock, and of what holds a number.
    for never in [json!(i64::MAX), json!(i64::MAX - 1), json!(u64::MAX), json!(1_u64 << 63)] {
        let mut forever = claims();
        forever["exp"] = never.clone();
        assert!(takes(&sign(&header("k1"), &forever)).is_none(), "exp {never}");
        let mut later = claims();
        (later["nbf"], later["exp"]) = (never.clone(), never.clone());
        assert!(takes(&sign(&header("k1"), &later)).is_none(), "nbf {never}");
        let mut issued = claims();
        issued["iat"] = never.clone();
        assert!(takes(&sign(&header("k1"), &issued)).is_some(), "iat {never}");
    }
}

#[test]
fn a_jwt_cannot_choose_its_algorithm_or_its_key() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let good = sign(&header("k1"), &claims());
    let body = good.split('.').nth(1).unwrap();
    let with = |header: Value, signature: &str| {
        format!("{}.{body}.{signature}", URL_SAFE_NO_PAD.encode(header.to_string()))
    };
    let signature = good.split('.').nth(2).unwrap();
    for none in ["none", "None", "NONE", ""] {
        assert!(takes(&with(json!({"alg": none, "kid": "k1"}), "")).is_none(), "alg {none:?}");
    }
    let mut symmetric = Header::new(Algorithm::HS256);
    symmetric.kid = Some("k1".to_owned());
    let forged = encode(&symmetric, &claims(), &EncodingKey::from_secret(PUBLIC)).unwrap();
    assert!(takes(&forged).is_none(), "HS256 signed by the public key");
    for kid in ["", "k2", "../k1", "../../dev/null", "k1' OR '1'='1", "k1\0"] {
        assert!(takes(&sign(&header(kid), &claims())).is_none(), "kid {kid:?}");
    }
    let brought: [fn(&mut Header); 5] = [
        |h| h.jku = Some("https://evil.example/jwks".to_owned()),
        |h| h.x5u = Some("https://evil.example/x5u".to_owned()),
        |h| h.x5c = Some(vec![String::new()]),
        |h| h.crit = Some(vec!["exp".to_owned()]),
        |h| {
            h.jwk =
                Some(serde_json::from_value(json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"})).unwrap())
        },
    ];
    for bring in brought {
        let mut header = header("k1");
        bring(&mut header);
        assert!(takes(&sign(&header, &claims())).is_none(), "{header:?}");
    }
    assert!(takes(&with(json!({"alg": "EdDSA", "kid": "k1"}), signature)).is_none(), "another header");
    let zeroes = URL_SAFE_NO_PAD.encode([0; 64]);
    assert!(takes(&with(json!({"typ": "JWT", "alg": "EdDSA", "kid": "k1"}), &zeroes)).is_none(), "zeroes");
    assert!(takes(&good.replace('.', "..")).is_none());
}

#[test]
fn a_key_must_say_its_algorithm_and_a_secret_must_be_long() {
    let key = |jwk: Value| JwtKey::from_jwk(&serde_json::from_value(jwk).unwrap());
    assert!(matches!(key(json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"})), Err(KeyFailure::NoAlgorithm(_))));
    assert!(matches!(key(json!({"kty": "oct", "k": "AAAA", "alg": "HS256"})), Err(KeyFailure::Short(_))));
    assert!(matches!(
        key(json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "RSA-OAEP"})),
        Err(KeyFailure::Algorithm(_))
    ));
    assert!(matches!(JwtKey::from_file("k", "HS256", b"short\n"), Err(KeyFailure::Short(5))));
    assert!(matches!(JwtKey::from_file("k", "none", b""), Err(KeyFailure::Algorithm(_))));
    assert!(matches!(JwtKey::from_file("k", "ES256", PUBLIC), Err(KeyFailure::Bad { .. })));
    assert!(!format!("{:?}", JwtKey::from_file("k", "HS256", &[b'x'; 32]).unwrap()).contains("xxxx"));
}

#[tokio::test(start_paused = true)]
async fn a_penalty_lets_through_what_was_right_from_there_before_and_what_is_signed_and_no_guess() {
    let access = access();
    let tokens =
        ["used", "unused"].map(|t| Credential { digest: TokenDigest::of(t), principal: principal() });
    access.replace(Credentials { tokens: tokens.to_vec(), ..Credentials::clone(&access.rules.load()) });
    assert!(show(&access, &["Bearer used"], None).is_ok());
    (0..=10).for_each(|_| assert_eq!(show(&access, &["Bearer wrong"], None).unwrap_err(), Unknown::Nobody));
    let penalised = |shown: &str| matches!(show(&access, &[shown], None), Err(Unknown::Penalised(_)));
    assert!(penalised("Bearer wrong") && penalised("Bearer unused"), "a guess would be told from no guess");
    assert!(show(&access, &["Bearer used"], None).is_ok(), "what was right before");
    let signed = format!("Bearer {}", sign(&header("k1"), &claims()));
    assert!(show(&access, &[&signed], None).is_ok(), "what is signed");
    // What a flood of forged ones leaves: what was right before.
    (0..100).for_each(|n| assert!(penalised(&format!("Bearer a.b.{n}"))));
    let mut other = claims();
    other["sub"] = json!("eve");
    assert!(
        penalised(&format!("Bearer {}", sign(&header("k1"), &other))),
        "no more signatures in this second"
    );
    assert!(show(&access, &[&signed], None).is_ok() && show(&access, &["Bearer used"], None).is_ok());
    access.replace(Credentials::default());
    assert!(penalised("Bearer used") && penalised(&signed), "what is no longer accepted");
}

#[tokio::test(start_paused = true)]
async fn a_ticket_is_good_once_and_for_half_a_minute() {
    let access = access();
    let identified = show(&access, &["Bearer right"], None).unwrap();
    let query = |ticket: &str| format!("ticket={ticket}");
    let ticket = access.ticket(&identified).unwrap();
    assert_eq!(show(&access, &[], Some(&query(&ticket))).unwrap().principal, principal());
    assert!(show(&access, &[], Some(&query(&ticket))).is_err(), "a second time");
    let late = access.ticket(&identified).unwrap();
    tokio::time::advance(ticket::VALID).await;
    assert!(show(&access, &[], Some(&query(&late))).is_err(), "too late");
    let two = access.ticket(&identified).unwrap();
    assert!(show(&access, &[], Some(&format!("{0}&{0}", query(&two)))).is_err(), "twice in one query");
    access.replace(Credentials::default());
    assert!(show(&access, &[], Some(&query(&two))).is_err(), "its token was revoked");
    let most = (0..10_000).filter(|_| access.ticket(&identified).is_ok()).count();
    assert!(most <= 64, "one caller got {most} tickets");
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_is_revoked_or_expires_is_over_at_once() {
    let access = access();
    let standing = |token: &str| {
        let identified = show(&access, &[&format!("Bearer {token}")], None).unwrap();
        tokio::spawn(access.standing(identified).over())
    };
    let (token, signed) = (standing("right"), standing(&sign(&header("k1"), &claims())));
    access.replace(Credentials::clone(&access.rules.load()));
    tokio::task::yield_now().await;
    assert!(!token.is_finished() && !signed.is_finished(), "a reload that keeps them ended them");
    access.replace(Credentials { tokens: Vec::new(), ..Credentials::clone(&access.rules.load()) });
    token.await.unwrap();
    assert!(!signed.is_finished());
    tokio::time::advance(Duration::from_secs(70)).await;
    signed.await.unwrap();
}

#[test]
fn a_certificate_is_known_by_a_name_with_its_kind() {
    let rules = Credentials::clone(&access().rules.load());
    let with = |name: &str| by_name(&rules, &[name.to_owned()]).is_some();
    assert!(with("uri:spiffe://t/ci"));
    for other in ["cn:spiffe://t/ci", "dns:spiffe://t/ci", "cn:uri:spiffe://t/ci", "uri:spiffe://t/ci/x"] {
        assert!(!with(other), "{other}");
    }
    assert!(Certificate::read(&[b"no certificate".as_slice().into()]).is_none());
}

#[test]
fn a_wrong_token_that_shares_a_prefix_takes_no_longer() {
    let access = access();
    let right = "x".repeat(43);
    let tokens = vec![Credential { digest: TokenDigest::of(&right), principal: principal() }];
    let credentials = Credentials { tokens, ..Credentials::default() };
    access.replace(credentials.clone());
    let near = format!("{}y", "x".repeat(42));
    let far = "y".repeat(43);
    // What is compared are digests of fixed length, and each of them whole: no time is taken, only the shape is looked at,
    // because on a shared machine a time of nanoseconds proves nothing.
    for wrong in [&near, &far] {
        assert!(by_token(&credentials, &TokenDigest::of(wrong), wrong).is_none());
        assert_eq!(TokenDigest::of(wrong).0.len(), 32);
    }
    let time = |token: &str| {
        let since = std::time::Instant::now();
        (0..20_000)
            .for_each(|_| drop(std::hint::black_box(by_token(&credentials, &TokenDigest::of(token), token))));
        since.elapsed().as_secs_f64()
    };
    let mut ratios: Vec<_> = (0..9).map(|_| time(&near) / time(&far)).collect();
    ratios.sort_by(f64::total_cmp);
    assert!((0.5..2.0).contains(&ratios[4]), "near and far tokens differ in time: {ratios:?}");
}
