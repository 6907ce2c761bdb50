//! What a caller was admitted with is looked at again whenever the rules change: what is no longer accepted, or gives another
//! principal, ends its connections and the sessions it left behind.

use std::time::Duration;

use serde_json::{Value, json};

use crate::authentication::{refused, token_table, with_token};
use crate::operations::{DONE, reload};
use crate::support::pki::Pki;
use crate::support::{Client, Gateway, run};

const LONG: Duration = Duration::from_secs(600);

/// Opens a session that outlives its connection, with a job in it.
async fn detachable(client: &mut Client) -> Value {
    let open = json!({"on_disconnect": "detach", "detach_ttl_ms": 600_000});
    let session = client.call("session.open", open).await.unwrap()["session"].clone();
    client.call("job.start", json!({"argv": ["sleep", "1000"], "session": session})).await.unwrap();
    session
}

/// The sessions there are, and whether a connection owns them.
async fn sessions(admin: &mut Client) -> Vec<(Value, bool)> {
    let listed = admin.call("session.list", json!({})).await.unwrap()["sessions"].clone();
    let of = |session: &Value| (session["session"].clone(), session["attached"] == true);
    listed.as_array().unwrap().iter().map(of).collect()
}

/// Waits until these sessions are all there are, each without a connection.
async fn until_left(admin: &mut Client, left: &[&Value]) {
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let all = async {
        loop {
            let seen = sessions(admin).await;
            let fits = |(session, attached): &(Value, bool)| !attached && left.contains(&session);
            if seen.len() == left.len() && seen.iter().all(fits) {
                return;
            }
            tick.tick().await;
        }
    };
    let within = tokio::time::timeout(Duration::from_secs(5), all).await;
    assert!(within.is_ok(), "left are {:?}, not {left:?}", sessions(admin).await);
}

#[test]
fn a_revoked_jti_ends_the_session_that_its_bearer_left_and_no_other() {
    let pki = Pki::make();
    let config = token_table("watch", "ops", &["admin"]) + &pki.jwt();
    let gateway = Gateway::with(&config);
    run(async {
        let token = |jti: &str| pki.token("acme", "ada", LONG, json!({"jti": jti}));
        let mut admin = with_token(&gateway, "watch").await.unwrap();
        let mut bad = with_token(&gateway, &token("bad")).await.unwrap();
        let mut good = with_token(&gateway, &token("good")).await.unwrap();
        let (left, kept, moved) =
            (detachable(&mut bad).await, detachable(&mut good).await, detachable(&mut bad).await);
        // What counts is what its last owner was admitted with.
        good.call("session.attach", json!({"session": moved, "takeover": true})).await.unwrap();
        drop((bad, good));
        until_left(&mut admin, &[&left, &kept, &moved]).await;
        reload(&gateway, &format!("{config}revoked = [\"bad\"]\n"), DONE);
        until_left(&mut admin, &[&kept, &moved]).await;
        assert_eq!(refused(with_token(&gateway, &token("bad")).await), 401);
        // An attach is answered after what the reload had to say to the session.
        let mut again = with_token(&gateway, &token("good")).await.unwrap();
        for session in [&kept, &moved] {
            let attached = again.call("session.attach", json!({"session": session})).await.unwrap();
            assert_eq!(attached["jobs"][0]["state"], "running", "{attached}");
        }
    });
}

#[test]
fn a_jwt_that_would_be_refused_or_name_another_principal_ends_its_connection_and_what_it_left() {
    let (pki, other) = (Pki::make(), Pki::make());
    let watch = token_table("watch", "ops", &["admin"]);
    let config = watch.clone() + &pki.jwt();
    let claims = json!({"groups": ["chiefs"], "email": "ada@acme.example"});
    let token = pki.token("acme", "ada", LONG, claims);
    let gateway = Gateway::with(&config);
    let (_, own_keys) = config.split_once("jwks = ").unwrap();
    let other_keys = format!("{:?}\n", other.path("jwks.json").display().to_string());
    let changes = [
        ("https://login.example", "https://other.example"),
        ("audience = [\"execgate\"]", "audience = [\"other\"]"),
        ("tenant_claim = \"tenant\"", "tenant = \"bolt\""),
        ("leeway = \"0s\"", "attributes = [\"email\"]"),
        ("leeway = \"0s\"", "subject_claim = \"email\""),
        ("[auth.jwt]", "[auth]\nadmin_groups = [\"admin\", \"chiefs\"]\n[auth.jwt]"),
        (own_keys, &other_keys),
    ];
    run(async {
        let mut admin = with_token(&gateway, "watch").await.unwrap();
        for (from, to) in changes {
            let mut left = with_token(&gateway, &token).await.unwrap();
            let session = detachable(&mut left).await;
            drop(left);
            until_left(&mut admin, &[&session]).await;
            let mut live = with_token(&gateway, &token).await.unwrap();
            // Neither a key elsewhere nor one that lets the token stand as it was ends anything.
            reload(&gateway, &config.replace("leeway = \"0s\"", "leeway = \"5s\""), DONE);
            live.call("session.attach", json!({"session": session})).await.unwrap();
            drop(live);
            until_left(&mut admin, &[&session]).await;
            let mut live = with_token(&gateway, &token).await.unwrap();
            assert!(config.contains(from), "{from}");
            reload(&gateway, &config.replace(from, to), DONE);
            assert_eq!(live.close_code().await, Some(4003), "{from} => {to}");
            until_left(&mut admin, &[]).await;
            reload(&gateway, &config, DONE);
        }
    });
}

#[test]
fn a_certificate_ends_what_it_admitted_with_its_table_or_with_who_vouched_for_it() {
    let (pki, other) = (Pki::make(), Pki::make());
    let watch = token_table("watch", "ops", &["admin"]) + &pki.tls();
    let mapped = "[auth.mtls.builder]\nname = \"uri:spiffe://acme/builder\"\ntenant = \"acme\"\nsubject = \"builder\"\n";
    let config = format!("{watch}{mapped}");
    let gateway = Gateway::with(&config);
    let (own, foreign) = (pki.path("ca.pem"), other.path("ca.pem"));
    let foreign = config.replace(own.to_str().unwrap(), foreign.to_str().unwrap());
    run(async {
        let bearer = [("authorization", "Bearer watch")];
        let mut admin = Client::tls(&gateway, pki.client(None), &bearer).await.unwrap();
        for after in [&watch, &foreign] {
            let mut left = Client::tls(&gateway, pki.client(Some("builder")), &[]).await.unwrap();
            let session = detachable(&mut left).await;
            drop(left);
            until_left(&mut admin, &[&session]).await;
            let mut live = Client::tls(&gateway, pki.client(Some("builder")), &[]).await.unwrap();
            reload(&gateway, &config, DONE);
            live.call("server.info", json!({})).await.unwrap();
            until_left(&mut admin, &[&session]).await;
            reload(&gateway, after, DONE);
            assert_eq!(live.close_code().await, Some(4003), "{after}");
            until_left(&mut admin, &[]).await;
            reload(&gateway, &config, DONE);
        }
    });
}
