//! What several share: a session of one subject with two credentials, tables of all tenants.

use serde_json::json;

use crate::authentication::{token_table, with_token};
use crate::support::{Gateway, run};

/// Everybody may do what the preset for developers allows, who is `limited` only read.
const RULES: &str = "[policy.all]\nmodule = \"builtin:command-rules\"\nsettings = { preset = \"developer\" }\n\
    [policy.readers]\nmodule = \"builtin:command-rules\"\nsettings = { preset = \"read-only\" }\nmatch = { groups = [\"limited\"] }\n\
    [policy.quota]\nmodule = \"builtin:session-quota\"\n";

#[test]
fn a_job_is_reviewed_as_what_its_starter_is_now_not_as_who_opened_the_session() {
    let both =
        format!("{}{}", token_table("full", "acme", &["deploy"]), token_table("low", "acme", &["limited"]));
    let same_subject = both
        .replace("subject = \"full\"", "subject = \"ci\"")
        .replace("subject = \"low\"", "subject = \"ci\"");
    let gateway = Gateway::with(&format!("{RULES}{same_subject}"));
    run(async {
        let mut full = with_token(&gateway, "full").await.unwrap();
        let session = full.call("session.open", json!({})).await.unwrap()["session"].clone();
        let made = tempfile::tempdir().unwrap();
        let touch = |name: &str| json!({"session": session, "argv": ["touch", made.path().join(name)]});
        let started = full.call("job.start", touch("by-full")).await.unwrap();
        full.call("job.wait", json!({"job": started["job"]})).await.unwrap();
        assert!(made.path().join("by-full").exists());

        let mut low = with_token(&gateway, "low").await.unwrap();
        low.call("session.attach", json!({"session": session, "takeover": true})).await.unwrap();
        let explained = low.call("policy.explain", touch("by-low")).await.unwrap();
        assert_eq!(explained["verdict"], "deny", "{explained}");
        assert_eq!(low.refused("job.start", touch("by-low")).await, "policy_denied");
        assert!(!made.path().join("by-low").exists());
    });
}

#[test]
fn a_tenant_that_fills_the_table_of_ended_jobs_forgets_its_own() {
    let tenants = format!("{}{}", token_table("ada", "acme", &[]), token_table("bob", "bolt", &[]));
    let gateway = Gateway::with(&format!("{tenants}[limits]\nended_jobs = 8\nended_jobs_per_session = 8\n"));
    run(async {
        let mut bob = with_token(&gateway, "bob").await.unwrap();
        let precious = json!({"argv": ["echo", "precious"], "key": "once"});
        let job = bob.call("job.start", precious.clone()).await.unwrap()["job"].clone();
        bob.call("job.wait", json!({"job": job})).await.unwrap();

        let mut ada = with_token(&gateway, "ada").await.unwrap();
        let mut first = None;
        for _ in 0..12 {
            let started = ada.call("job.start", json!({"argv": ["true"]})).await.unwrap()["job"].clone();
            ada.call("job.wait", json!({"job": started})).await.unwrap();
            first.get_or_insert(started);
        }
        assert_eq!(ada.refused("job.get", json!({"job": first})).await, "not_found", "the bound holds");
        bob.call("job.get", json!({"job": job})).await.unwrap();
        assert_eq!(bob.call("job.start", precious).await.unwrap()["job"], job, "it ran twice");
    });
}
