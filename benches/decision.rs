//! Number P1: one decision in a fresh sandbox. The floor is a guest of a few lines that abstains, asked in the same way in the
//! same run: what it costs is the engine, what a shipped policy costs beyond it is the policy.
//!
//! `cargo bench --bench decision`

#![allow(missing_docs, reason = "criterion makes the functions")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failure ends the measurement")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use execgate::domain::{
    Authority, Command, Executable, Facts, FileIdentity, Origin, Principal, Resolved, SessionId, Transport,
    UsageCounts,
};
use execgate::policy::{CommandRequest, Module, Policies, PolicySettings, Settings};

#[path = "../tests/it/support/guest.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
mod guest;

criterion_group!(benches, decisions);
criterion_main!(benches);

fn decisions(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty.wasm");
    std::fs::write(&empty, guest::Guest::default().module()).unwrap();
    let request = request();
    let mut group = criterion.benchmark_group("decision");
    for (name, policy) in [
        ("floor: a guest that abstains", from_file(&empty)),
        (
            "command-rules, preset developer",
            PolicySettings::builtin("command-rules", r#"{"preset":"developer"}"#),
        ),
        (
            "command-rules, preset read-only",
            PolicySettings::builtin("command-rules", r#"{"preset":"read-only"}"#),
        ),
    ] {
        let policies = load(vec![policy]);
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(policies.review_here(&request)));
        });
        group.bench_function(format!("{name}, through the pool"), |bencher| {
            bencher.iter(|| black_box(runtime.block_on(policies.review(request.clone()))));
        });
    }
    group.finish();
}

fn from_file(path: &Path) -> PolicySettings {
    PolicySettings { module: Module::File(path.to_owned()), ..PolicySettings::builtin("empty", "{}") }
}

fn load(policies: Vec<PolicySettings>) -> Policies {
    let policies = Policies::load(&Settings { policies, pool: 2, wait: Duration::from_secs(1) }).unwrap();
    assert!(policies.list().iter().all(|policy| policy.snapshot.is_ok()), "measured without a snapshot");
    policies
}

fn request() -> Arc<CommandRequest> {
    let principal = Principal {
        tenant: "bench".into(),
        subject: "bench".into(),
        groups: vec!["staff".into()],
        attributes: BTreeMap::new(),
        authority: Authority::Caller,
    };
    let argv = ["ls", "-l", "--color=never", "/usr/share"].map(str::to_owned).to_vec();
    let env = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "EXECGATE_JOB"];
    let command = Command {
        argv,
        cwd: None,
        env: env.iter().map(|name| ((*name).to_owned(), "value".to_owned())).collect(),
        terminal: None,
    };
    let executable = Executable {
        requested: "ls".to_owned(),
        found: Some("/usr/bin/ls".to_owned()),
        canonical: "/usr/bin/ls".to_owned(),
        identity: FileIdentity { device: 1, inode: 1 },
        setuid: false,
        interpreter: None,
    };
    let facts = Facts { executable, cwd: "/tmp".to_owned(), script: None };
    Arc::new(CommandRequest {
        principal: Arc::new(principal),
        origin: Origin { address: IpAddr::V4(Ipv4Addr::LOCALHOST), transport: Transport::WebSocket },
        session: SessionId::from_bits(1),
        resolved: Resolved { command, facts },
        labels: BTreeMap::new(),
        usage: UsageCounts::default(),
    })
}
