//! Configuration as an operator meets it: what is wrong is told with its place and its remedy.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use tempfile::TempDir;

use crate::operations::{DONE, reload};
use crate::support::{Client, Gateway, needs_root, run};

fn check(directory: &TempDir, toml: &str) -> Output {
    let file = directory.path().join("test.toml");
    std::fs::write(&file, toml).unwrap();
    Gateway::command(directory).args(["config", "check", "--config"]).arg(&file).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What is wrong, and words of what is said of it.
const WRONG: &[(&str, &[&str])] = &[
    ("[limits]\n\nsesions = 3\n", &["test.toml:3", "limits.sesions", "did you mean \"sessions\"?"]),
    ("[limit]\njobs = 3\n", &["test.toml:1", "limit", "\"limits\""]),
    ("[drain]\ngrace = 10\n", &["test.toml:2", "drain.grace", "unit", "30s"]),
    ("[streams]\nring = \"64KB\"\n", &["test.toml:2", "streams.ring", "KiB"]),
    (
        "[audit]\nsync = \"often\"\n",
        &["test.toml:2", "audit.sync", "\"often\" is none of \"none\", \"1s\", \"always\""],
    ),
    ("[limits]\njobs = -1\n", &["test.toml:2", "limits.jobs", "up to 4294967295", "a negative number"]),
    ("[limits]\njobs = \"many\"\n", &["test.toml:2", "limits.jobs", "a whole number", "not a text"]),
    ("[jobs]\nenv = \"x\"\n", &["test.toml:2", "jobs.env: must be a table, not a text"]),
    (
        "[containment]\nforce = \"D\"\n",
        &["test.toml:2", "containment.force", "`D`", "`A`, `A'`, `B`, `C`; or \"auto\""],
    ),
    ("[containment]\nforce = 3\n", &["test.toml:2", "containment.force: must be a word; or \"auto\""]),
    (
        "[containment]\nrequire = \"best\"\n",
        &["test.toml:2", "containment.require", "`exact` or `best_effort`; or \"auto\""],
    ),
    ("[limits]\nmemory = \"64KB\"\n", &["test.toml:2", "limits.memory", "KiB", "or \"auto\""]),
    ("[jobs]\nallow_root = 3\n", &["test.toml:2", "jobs.allow_root: must be true or false; or \"auto\""]),
    ("containment = \"exact\"\n", &["test.toml:1", "containment", "a section: [containment]"]),
    ("[limits]\njobs = 1\n[limits\n", &["test.toml:3"]),
    ("[limits]\njobs = 1\n[limits]\nsessions = 1\n", &["test.toml:3", "duplicate"]),
    ("[limits]\njobs = 99999999999\n", &["test.toml:2", "limits.jobs"]),
    ("[limits]\nsessions = \"unlimited\"\n", &["test.toml:2", "limits.sessions"]),
    ("[tenant.a.limits]\njobs = 257\n", &["tenant.a.limits.jobs", "257", "256", "limits.jobs"]),
    ("[tenant.a.limits]\nwall = \"-1s\"\n", &["test.toml:2", "tenant.a.limits.wall"]),
    ("[server]\nadmin_listen = \"0.0.0.0:1\"\n", &["server.admin_listen", "127.0.0.1"]),
    ("[server]\ntrusted_proxies = [\"10.0.0.0/40\"]\n", &["server.trusted_proxies", "10.0.0.0/40"]),
    ("[server.tls]\ncert = \"x.pem\"\n", &["server.tls", "cert and key"]),
    ("[auth.jwt]\nissuer = \"i\"\naudience = [\"a\"]\ntenant = \"t\"\n", &["auth.jwt", "no key"]),
    ("[auth.mtls.x]\nname = \"x\"\ntenant = \"t\"\nsubject = \"s\"\n", &["auth.mtls", "client_ca"]),
    ("[auth]\non_expiry = \"ignore\"\n", &["test.toml:2", "auth.on_expiry", "end"]),
    (
        "[server]\nlisten = \"0.0.0.0:1\"\nhosts = [\"h\"]\ntrusted_proxies = [\"10.0.0.1\"]\n",
        &["server.listen", "auth.token", "policy.NAME"],
    ),
    ("[server]\nlisten = \"0.0.0.0:7171\"\n", &["server.listen", "TLS"]),
    (
        "[server]\nlisten = \"0.0.0.0:7171\"\n[policy.off]\nmodule = \"builtin:command-rules\"\nenabled = false\n",
        &["server.listen", "policy.NAME"],
    ),
    ("[tenant.a.identity]\nuid = 1\ngid = 1\nhome = \"x\"\n", &["tenant.a.identity.home", "absolute"]),
    ("[policy.Rules]\nmodule = \"builtin:command-rules\"\n", &["\"Rules\"", "a-z"]),
    ("[policy.rules]\nmodule = \"builtin:no-rules\"\n", &["rules", "no-rules", "command-rules"]),
    (
        "[policy.rules]\nmodule = \"builtin:command-rules\"\nsettings = { prest = \"x\" }\n",
        &["rules", "prest", "preset"],
    ),
    (
        "[auth.token.x]\nsha256 = \"12\"\ntenant = \"a\"\nsubject = \"b\"\n",
        &["auth.token.x.sha256", "sha256sum"],
    ),
    (
        "[auth.token.x]\nsha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"\ntenant = \"a\"\n\
             subject = \"b\\nc\"\n",
        &["auth.token.x.subject", "control characters"],
    ),
];

#[test]
fn a_wrong_key_or_value_is_told_with_its_line_and_what_would_be_right() {
    let directory = tempfile::tempdir().unwrap();
    for (toml, words) in WRONG {
        let output = check(&directory, toml);
        assert!(!output.status.success(), "accepted: {toml}");
        for word in *words {
            assert!(said(&output).contains(word), "{toml}\n{word:?} is missing in: {}", said(&output));
        }
    }
}

#[test]
fn what_could_serve_nobody_is_refused_with_the_least_that_would_do() {
    let directory = tempfile::tempdir().unwrap();
    let jwt = "[auth.jwt]\nissuer = \"i\"\naudience = [\"a\"]\njwks = \"keys.json\"\n";
    let table = [
        ("[limits]\nping = \"0s\"\n".to_owned(), "limits.ping", "100ms"),
        ("[limits]\nping = \"99ms\"\n".to_owned(), "limits.ping", "100ms"),
        ("[drain]\ngrace = \"300000000000years\"\n".to_owned(), "drain.grace", "3650days"),
        ("[limits]\nfirst_byte = \"0s\"\n".to_owned(), "limits.first_byte", "100ms"),
        ("[limits]\nheader_time = \"0s\"\n".to_owned(), "limits.header_time", "100ms"),
        ("[limits]\nhandshake = \"0s\"\n".to_owned(), "limits.handshake", "100ms"),
        ("[streams]\nstall = \"0s\"\n".to_owned(), "streams.stall", "100ms"),
        ("[limits]\nmessage = \"0B\"\n".to_owned(), "limits.message", "1KiB"),
        ("[limits]\nheader_bytes = \"1KiB\"\n".to_owned(), "limits.header_bytes", "8KiB"),
        ("[limits]\nheaders = 0\n".to_owned(), "limits.headers", "at least 20"),
        ("[limits]\nconnections = 0\n".to_owned(), "limits.connections", "at least 1"),
        ("[limits]\nunauthenticated = 0\n".to_owned(), "limits.unauthenticated", "at least 1"),
        ("[breaker]\nfailures = 0\n".to_owned(), "breaker.failures", "at least 1"),
        ("[limits]\nmemory = \"10MiB\"\n".to_owned(), "limits.memory", "24MiB"),
        ("[limits]\nrate_buckets = 0\n".to_owned(), "limits.rate_buckets", "at least 1"),
        ("[policies]\npool = 0\n".to_owned(), "policies.pool", "at least 1"),
        ("[jobs]\ngate = \"0s\"\n".to_owned(), "jobs.gate", "100ms"),
        ("[audit]\ntenant_per_minute = \"0B\"\n".to_owned(), "audit.tenant_per_minute", "16KiB"),
        ("[log]\nlevel = \"foo=bar=baz\"\n".to_owned(), "log.level", "foo=bar=baz"),
        ("[streams]\nbudget = \"100KiB\"\n".to_owned(), "streams.budget", "939KiB"),
        ("[streams]\nring = \"2MiB\"\n".to_owned(), "streams.ring", "streams.ring_max = 1MiB"),
        ("[tenant.a.limits]\nconnections = 1025\n".to_owned(), "tenant.a.limits.connections", "1024"),
        ("[server]\nhosts = [\"gate.example:443\"]\n".to_owned(), "server.hosts", "\"gate.example\""),
        ("[server]\nhosts = [\"https://gate.example\"]\n".to_owned(), "server.hosts", "\"gate.example\""),
        ("[server]\nhosts = [\"*.example\"]\n".to_owned(), "server.hosts", "\"gate.example\""),
        ("[server]\nhosts = [\"\"]\n".to_owned(), "server.hosts", "\"gate.example\""),
        ("[server]\nhosts = [\"::1\"]\n".to_owned(), "server.hosts", "brackets"),
        ("[server]\norigins = [\"https://x/\"]\n".to_owned(), "server.origins", "https://console.example"),
        ("[server]\norigins = [\"x.example\"]\n".to_owned(), "server.origins", "https://console.example"),
        ("[server]\norigins = [\"https://x:443\"]\n".to_owned(), "server.origins", "https://console.example"),
        ("[server]\norigins = [\"https://X\"]\n".to_owned(), "server.origins", "https://console.example"),
        (format!("{jwt}tenant = \"t\"\nattributes = [\"jti\"]\n"), "auth.jwt.attributes", "\"jti\""),
        (format!("{jwt}tenant = \"t\"\nsubject_claim = \"iss\"\n"), "auth.jwt.subject_claim", "\"iss\""),
        (format!("{jwt}tenant_claim = \"aud\"\n"), "auth.jwt.tenant_claim", "\"aud\""),
    ];
    for (toml, key, least) in table {
        let output = check(&directory, &toml);
        assert!(!output.status.success(), "accepted: {toml}");
        for word in [key, least] {
            assert!(said(&output).contains(word), "{toml}\n{word:?} is missing in: {}", said(&output));
        }
    }
}

#[test]
fn what_is_allowed_but_weakens_a_promise_is_warned_of_by_the_check_and_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let proxy = |address: &str| format!("[server]\ntrusted_proxies = [{address:?}]\n");
    for loopback in ["127.0.0.1", "127.0.0.2", "127.0.0.0/8", "::1", "0.0.0.0/0"] {
        let output = check(&directory, &proxy(loopback));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains("warning: server.trusted_proxies"),
            "{loopback}: {text}"
        );
    }
    let output = check(&directory, &proxy("10.0.0.0/8"));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("warning"), "{output:?}");
    let gateway = Gateway::with(&proxy("127.0.0.1"));
    let warned = |line: &String| line.starts_with("warning:") && line.contains("server.trusted_proxies");
    assert!(gateway.banner.iter().any(warned), "{:?}", gateway.banner);
    if !needs_root() {
        return;
    }
    let of = |tenant: &str, uid: u32| format!("[tenant.{tenant}.identity]\nuid = {uid}\ngid = {uid}\n");
    let homeless = of("d", 20_003) + "home = \"/no/such/home\"\n";
    let output = check(&directory, &(of("a", 20_001) + &of("b", 20_002) + &of("c", 20_001) + &homeless));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("the tenants a, c") && text.contains("uid 20001"),
        "{text}"
    );
    assert!(text.contains("tenant.d.identity.home: /no/such/home is no directory"), "{text}");
}

#[test]
fn a_set_of_keys_in_which_a_token_could_not_name_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys.json");
    let toml = format!("[auth.jwt]\nissuer = \"i\"\naudience = [\"a\"]\ntenant = \"t\"\njwks = {keys:?}\n");
    let with = |kids: &[Option<&str>]| {
        let key = |kid: &Option<&str>| {
            let mut key = serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
            kid.iter().for_each(|kid| key["kid"] = (*kid).into());
            key
        };
        let set = serde_json::json!({"keys": kids.iter().map(key).collect::<Vec<_>>()});
        std::fs::write(&keys, set.to_string()).unwrap();
        check(&directory, &toml)
    };
    for good in [&[None][..], &[Some("a")], &[Some("a"), Some("b")]] {
        let output = with(good);
        assert!(output.status.success(), "{good:?}: {}", said(&output));
    }
    for (bad, word) in [
        (&[None, Some("b")][..], "key 1 of it has no \"kid\""),
        (&[Some("a"), None], "key 2 of it has no \"kid\""),
        (&[Some("a"), Some("b"), Some("a")], "the \"kid\" \"a\" is there twice"),
    ] {
        let output = with(bad);
        assert!(!output.status.success() && said(&output).contains(word), "{bad:?}: {}", said(&output));
    }
}

#[test]
fn a_key_that_is_for_no_signatures_is_left_out_and_warned_of_unless_no_other_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys.json");
    let toml = format!("[auth.jwt]\nissuer = \"i\"\naudience = [\"a\"]\ntenant = \"t\"\njwks = {keys:?}\n");
    let good = r#"{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let seal = r#"{"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "RSA-OAEP", "use": "enc", "kid": "seal"}"#;
    std::fs::write(&keys, format!("{{\"keys\": [{seal}, {good}]}}")).unwrap();
    let output = check(&directory, &toml);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("warning: auth.jwt.jwks"), "{text}{}", said(&output));
    assert!(text.contains("\"seal\"") && text.contains("\"enc\""), "{text}");
    std::fs::write(&keys, format!("{{\"keys\": [{seal}]}}")).unwrap();
    let output = check(&directory, &toml);
    assert!(!output.status.success() && said(&output).contains("\"seal\""), "{}", said(&output));
}

#[test]
fn a_profile_that_the_supervisor_was_not_started_with_is_refused_by_a_reload_also_when_it_is_empty() {
    let gateway = Gateway::with("");
    let refused = |config: &str, word: &str| {
        reload(&gateway, config, "configuration not reloaded");
        let log = gateway.log();
        let last = log.lines().rfind(|line| line.contains("configuration not reloaded")).unwrap().to_owned();
        assert!(last.contains(word) && last.contains("restart"), "{word:?} is missing in {last}");
    };
    refused("[profile.none]\n", "profile.none");
    refused("[profile.none]\n[tenant.acme]\nconfine = [\"none\"]\n", "tenant.acme.confine");
    reload(&gateway, "[tenant.acme]\n", DONE);
    reload(&gateway, "[tenant.acme]\nconfine = [\"offline\", \"base\"]\n", DONE);
}

#[test]
fn a_good_configuration_is_called_good() {
    let directory = tempfile::tempdir().unwrap();
    for toml in [
        "",
        "[limits]\njobs = 3\n",
        "[limits]\nping = \"100ms\"\nheader_bytes = \"8KiB\"\nheaders = 20\nconnections = 1\nmessage = \"1KiB\"\nmemory = \"24MiB\"\n",
        "[streams]\nbudget = \"939KiB\"\n",
        "[server]\nhosts = [\"gate.example\", \"127.0.0.1\", \"[2001:db8::1]\", \"my_host\"]\n\
         origins = [\"https://x.example\", \"http://[::1]:8080\", \"vscode-webview://1qhkf\"]\n",
        "[policy.q]\nmodule = \"builtin:session-quota\"\nsettings = { sessions = { tenant = 2 } }\n",
    ] {
        let output = check(&directory, toml);
        assert!(output.status.success(), "{toml}: {}", said(&output));
    }
}

#[test]
fn the_file_of_defaults_is_the_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let show = |config: Option<&str>| {
        let mut command = Gateway::command(&directory);
        command.args(["config", "show", "--json"]);
        if let Some(config) = config {
            command.args(["--config", config]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        value.as_object().unwrap().iter().map(|(k, v)| (k.clone(), v["value"].clone())).collect::<Vec<_>>()
    };
    let file = directory.path().join("copy.toml");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/config/execgate.toml"), &file).unwrap();
    assert_eq!(show(None), show(file.to_str()));
    assert!(show(None).len() > 40);
}

#[test]
fn every_value_is_shown_with_where_it_comes_from() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("test.toml");
    std::fs::write(&file, "[limits]\njobs = 3\nsessions = 4\n").unwrap();
    let mut command = Gateway::command(&directory);
    command
        .args(["config", "show", "--set", "drain.grace=1s", "--config"])
        .arg(&file)
        .env("EXECGATE_LIMITS__SESSIONS", "5");
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let line = |key: &str| {
        text.lines().find(|l| l.starts_with(key)).unwrap_or_else(|| panic!("{key} in {text}")).to_owned()
    };
    assert!(line("limits.jobs").contains("3   # ") && line("limits.jobs").contains("test.toml"), "{text}");
    assert!(
        line("limits.sessions").contains("5   # the environment variable EXECGATE_LIMITS__SESSIONS"),
        "{text}"
    );
    assert!(line("drain.grace").contains("1s") && line("drain.grace").contains("flag"), "{text}");
    assert!(!line("limits.connections").contains('#'), "{text}");
}

#[test]
fn a_file_that_others_can_change_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("test.toml");
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let output =
        Gateway::command(&directory).args(["config", "check", "--config"]).arg(&file).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("chmod go-w"), "{}", said(&output));
}

#[test]
fn the_environment_of_a_job_is_what_the_operator_lets_in() {
    let gateway = Gateway::with("[jobs]\nenv_allow = [\"LANG\", \"MY_*\"]\n");
    run(async {
        use serde_json::json;
        let mut client = Client::connect(&gateway).await;
        let started = client.call("job.start", json!({"argv": ["env"], "env": {"MY_X": "1"}})).await.unwrap();
        let job = started["job"].as_str().unwrap().to_owned();
        let text = String::from_utf8(client.output(&job, "stdout").await).unwrap();
        let mut names: Vec<_> =
            text.lines().filter_map(|l| l.split('=').next()).filter(|n| *n != "EXECGATE_TEST").collect();
        names.sort_unstable();
        assert_eq!(names, ["EXECGATE_JOB", "HOME", "LANG", "LOGNAME", "MY_X", "PATH", "SHELL", "USER"]);
        for name in ["LD_PRELOAD", "PATH", "OTHER", "EXECGATE_JOB"] {
            let error =
                client.call("job.start", json!({"argv": ["env"], "env": {name: "1"}})).await.unwrap_err();
            assert_eq!(error["data"]["kind"], "invalid_params", "{name}");
            assert!(error["message"].as_str().unwrap().contains(name));
        }
    });
}

#[test]
fn every_decision_is_in_the_log_and_the_chain_holds() {
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("decisions.jsonl");
    let gateway = Gateway::with(&format!("[audit]\npath = {log:?}\n"));
    run(async {
        let mut client = Client::connect(&gateway).await;
        client.start(&["true"]).await;
        client.refused("job.start", serde_json::json!({"argv": ["mount"]})).await;
    });
    crate::support::eventually(crate::support::PATIENCE, "three lines", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.lines().count() == 3)
    });
    let verified = gateway.cli(&["audit", "verify", log.to_str().unwrap()]).output().unwrap();
    assert!(
        verified.status.success() && String::from_utf8_lossy(&verified.stdout).contains("3 lines"),
        "{verified:?}"
    );
    let text = std::fs::read_to_string(&log).unwrap().replace("\"deny\"", "\"allo\"");
    std::fs::write(&log, text).unwrap();
    let broken = gateway.cli(&["audit", "verify", log.to_str().unwrap()]).output().unwrap();
    // The last line is bound by nothing after it but the head that was kept elsewhere.
    assert!(broken.status.success() || said(&broken).contains("line"), "{broken:?}");
}

#[test]
fn a_secret_given_by_file_or_environment_is_shown_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("test.toml");
    std::fs::write(&file, "[jobs.env]\nAPI_KEY = \"s3cr3t\"\n").unwrap();
    for json in [&[][..], &["--json"]] {
        let mut command = Gateway::command(&directory);
        command.args(["config", "show"]).args(json).arg("--config").arg(&file);
        let output = command.env("EXECGATE_JOBS__ENV", "{OTHER = \"s3cr3t\"}").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &said(&output);
        assert!(output.status.success() && text.contains("redacted") && !text.contains("s3cr3t"), "{text}");
    }
}

#[test]
fn a_port_in_use_is_told_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Gateway::command(&directory).args(["serve", "--listen", &address]).output().unwrap();
    assert!(!output.status.success());
    for word in [address.as_str(), "in use", "--listen"] {
        assert!(said(&output).contains(word), "{}", said(&output));
    }
}

#[test]
fn the_schema_knows_every_key_with_its_default_and_meaning() {
    let directory = tempfile::tempdir().unwrap();
    let output = Gateway::command(&directory).args(["config", "schema"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let shown = Gateway::command(&directory).args(["config", "show", "--json"]).output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    for (key, entry) in shown.as_object().unwrap() {
        let mut node = &schema;
        for part in key.split('.') {
            node = &node["properties"][part];
        }
        assert!(node.is_object(), "{key} is not in the schema");
        assert_eq!(node["default"], entry["value"], "{key}");
        assert!(node["description"].as_str().is_some_and(|text| text.len() > 3), "{key} is not described");
    }
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn what_never_ends_or_is_too_long_is_no_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let token = ["ps", "--token-file", pipe.to_str().unwrap()];
    let config = ["config", "check", "--config", pipe.to_str().unwrap()];
    for arguments in [&config[..], &token] {
        let output = Gateway::command(&directory).args(arguments).output().unwrap();
        assert!(!output.status.success() && said(&output).contains("no regular file"), "{}", said(&output));
    }
    let output = check(&directory, &"#".repeat((1 << 20) + 1));
    assert!(
        !output.status.success() && said(&output).contains("more than 1048576 bytes"),
        "{}",
        said(&output)
    );
    for deep in [format!("limits.jobs={}", "[".repeat(30_000)), format!("limits{}=1", ".x".repeat(30_000))] {
        let output = Gateway::command(&directory).args(["config", "check", "--set", &deep]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{:?}", output.status);
        assert!(said(&output).contains("more than 256 dots and brackets"), "{:?}", output.status);
    }
}

/// Neither a module nor its tests may be a pipe: whoever opens one without a writer waits for ever.
#[test]
fn a_pipe_where_a_file_belongs_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for toml in [
        format!("[policy.x]\nmodule = {pipe:?}\n"),
        format!("[policy.x]\nmodule = \"builtin:rate-limit\"\ntests = {pipe:?}\n"),
    ] {
        let output = check(&directory, &toml);
        assert!(!output.status.success());
        assert!(said(&output).contains("is no regular file"), "{}", said(&output));
    }
}

#[test]
fn a_variable_names_a_key_or_is_refused_and_names_given_by_others_keep_their_case() {
    use std::os::unix::ffi::OsStringExt as _;
    let directory = tempfile::tempdir().unwrap();
    let with = |name: &str, value: &[u8], action: &[&str]| {
        let value = std::ffi::OsString::from_vec(value.to_vec());
        Gateway::command(&directory).args(action).env(name, value).output().unwrap()
    };
    for (name, value, word) in [
        ("EXECGATE_CONTAINMENT__REQUIRE", &b"exact\xff"[..], "no UTF-8"),
        ("EXECGATE_", b"x", "names no key"),
        ("EXECGATE___LIMITS", b"x", "names no key"),
        ("EXECGATE_LIMITS__", b"x", "names no key"),
        ("EXECGATE_CONFIG", b"x", "no such key"),
    ] {
        let output = with(name, value, &["config", "check"]);
        assert!(!output.status.success(), "accepted: {name}");
        assert!(said(&output).contains(name) && said(&output).contains(word), "{name}: {}", said(&output));
    }
    let gateway = Gateway::with_environment("", &[("EXECGATE_JOBS__ENV__My__NAME", "one")]);
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sh", "-c", "echo $My__NAME"]).await;
        assert_eq!(client.output(&job, "stdout").await, b"one\n");
    });
}

#[test]
fn a_rate_that_cannot_be_counted_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let bucket = "{ id = \"x\", burst = 1, count = 4294967295, period_ms = 1 }";
    let toml =
        format!("[policy.x]\nmodule = \"builtin:rate-limit\"\nsettings = {{ buckets = [{bucket}] }}\n");
    let output = check(&directory, &toml);
    assert!(!output.status.success() && said(&output).contains("buckets[0].count"), "{}", said(&output));
}

#[test]
fn what_is_shown_of_a_configuration_is_toml_and_says_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("test.toml");
    let policy = "[policy.x]\nmodule = \"builtin:command-rules\"\nsettings = { \"a key\" = \"\\u0007\" }\n";
    std::fs::write(&file, format!("[tenant.\"*\".limits]\njobs = 7\n{policy}")).unwrap();
    let shown =
        Gateway::command(&directory).args(["config", "show", "--config"]).arg(&file).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    let parsed: toml_edit::DocumentMut = text.parse().unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(parsed["tenant"]["*"]["limits"]["jobs"].as_integer(), Some(7), "{text}");
    assert_eq!(parsed["policy"]["x"]["settings"]["a key"].as_str(), Some("\u{7}"), "{text}");
}
