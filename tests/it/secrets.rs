//! Secrets that clients and operators hand to the real program, and every place where they might come out: the log at its
//! most talkative, the decision log, metrics, answers, what the program shows of its configuration, a panic.

use std::path::Path;
use std::process::Output;

use base64::Engine as _;
use execgate::config::{self, Environment, Sources};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::authentication::{answer, refused, upgrade, with_token};
use crate::exhaustion::{bound_memory, runtime_threads};
use crate::support::http::Exchange;
use crate::support::pki::Pki;
use crate::support::raw::Raw;
use crate::support::{Gateway, PATIENCE, eventually, run};

/// In every secret of ours, so that none is overlooked.
const WORD: &str = "s3cr3t";
const TOKEN: &str = "s3cr3t-token-of-ada";
const WRONG: &str = "s3cr3t-token-of-nobody";
/// A secret of the operator's, for jobs.
const ENVIRONMENT: (&str, &str) = ("EXECGATE_JOBS__ENV__DB_PASSWORD", "s3cr3t-of-jobs");

/// Texts of the program, each with where it came from.
#[derive(Default)]
struct Places(Vec<(String, String)>);

impl Places {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    fn add_output(&mut self, place: &str, output: &Output) {
        for (stream, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            self.add(format!("{place}: {stream}"), String::from_utf8_lossy(bytes));
        }
    }

    /// Says where each secret came out, all of them at once.
    #[track_caller]
    fn hold_none_of(&self, secrets: &[&str]) {
        let found: Vec<_> = self
            .0
            .iter()
            .flat_map(|(place, text)| text.lines().map(move |line| (place, line)))
            .filter(|(_, line)| secrets.iter().any(|secret| line.contains(secret)))
            .map(|(place, line)| format!("{place}: {line}"))
            .collect();
        assert!(found.is_empty(), "secrets came out:\n{}", found.join("\n"));
    }
}

fn token_of_ada() -> String {
    let digest: String = Sha256::digest(TOKEN).iter().map(|b| format!("{b:02x}")).collect();
    format!(
        "[auth.token.ada]\nsha256 = \"{digest}\"\ntenant = \"acme\"\nsubject = \"ada\"\ngroups = [\"admin\"]\n"
    )
}

/// Addresses of requests, one after the other, so that none is penalised for the one before.
struct Addresses(u8);

impl Addresses {
    fn next(&mut self) -> String {
        self.0 += 1;
        format!("X-Forwarded-For: 198.51.100.{}\r\n", self.0)
    }
}

/// Shows tokens, right and wrong, where they belong and where not; gives what was answered.
async fn show_tokens(gateway: &Gateway, signed: &str, places: &mut Places) {
    let mut from = Addresses(0);
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("ada:{TOKEN}"));
    for name in ["token", "access_token", "Token", "to%6ben", "bearer", "ticket", "api_key"] {
        for path in ["/v1/ws", "/metrics", "/readyz", "/livez", "/v1/openrpc.json", "/v1/exec", "/nowhere"] {
            let text = answer(gateway, &format!("{path}?{name}={TOKEN}"), &from.next()).await;
            // These are for everybody, and show nobody more.
            let is_open = ["/livez", "/readyz", "/v1/openrpc.json"].contains(&path);
            let admitted = text.starts_with("HTTP/1.1 2") && (!is_open || text.contains("\"spawn\""));
            assert!(!admitted, "a token in the query string: {path} {name}: {text}");
            places.add(format!("{path}?{name}"), text);
        }
    }
    for header in [
        format!("Authorization: Bearer {WRONG}"),
        format!("Authorization: bearer {WRONG}"),
        format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}"),
        format!("Authorization: Bearer {TOKEN} {TOKEN}"),
        format!("Authorization: {TOKEN}"),
        format!("Authorization: Basic {basic}"),
        format!("Authorization: Bearer {signed}x"),
        format!("Proxy-Authorization: Bearer {TOKEN}"),
        format!("Cookie: token={TOKEN}; session={TOKEN}"),
        format!("X-Api-Key: {TOKEN}"),
        format!("Referer: http://localhost/?token={TOKEN}"),
        format!("User-Agent: {TOKEN}"),
        format!("Sec-WebSocket-Protocol: bearer.{TOKEN}"),
    ] {
        let text = answer(gateway, "/v1/ws", &format!("{header}\r\n{}", from.next())).await;
        assert!(text.starts_with("HTTP/1.1 401"), "{header}: {text}");
        places.add(header, text);
    }
    let in_url = format!("http://ada:{TOKEN}@localhost/v1/ws");
    let text = answer(gateway, &in_url, &from.next()).await;
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    places.add("a URL with credentials", text);

    let mut offered = format!("Sec-WebSocket-Protocol: bearer.{TOKEN}\r\n");
    offered += &from.next();
    let asked = crate::support::raw::handshake_as(gateway, TOKEN, &offered);
    places.add("a token as the only subprotocol", Raw::ask(gateway, &asked).await.head);
    let right = format!("Authorization: Bearer {TOKEN}\r\n{}", from.next());
    let mut exchange =
        Exchange::send(gateway, "POST", "/v1/exec?wait=true", &right, "{\"argv\":[\"true\"]}").await;
    places.add("an execution", exchange.rest().await);
    assert_eq!(exchange.status, 200);
    let mut exchange =
        Exchange::send(gateway, "POST", &format!("/v1/exec?token={TOKEN}"), &right, "{}").await;
    assert_eq!(exchange.status, 401, "a right token does not make good one in the query string");
    places.add("an execution with a token in the query string", exchange.rest().await);
    assert_eq!(refused(with_token(gateway, WRONG).await), 401);
    with_token(gateway, signed).await.unwrap();
}

/// Hands secrets to calls, in what is good and in what is refused.
async fn call_with_secrets(gateway: &Gateway, places: &mut Places) {
    let mut client = with_token(gateway, TOKEN).await.unwrap();
    let argv = json!([
        "true",
        "--password",
        "s3cr3t-1",
        "--api-key=s3cr3t-2",
        "-H",
        "Authorization: Bearer s3cr3t-3",
        "https://ada:s3cr3t-4@example.com/"
    ]);
    for (what, params) in [
        (
            "a good start",
            json!({"argv": argv, "env": {"DB_PASSWORD": "s3cr3t-5"}, "labels": {"token": "s3cr3t-6"}}),
        ),
        ("a script", json!({"argv": ["sh", "-c", "API_TOKEN=s3cr3t-7 true"]})),
        ("no program", json!({"argv": ["no-such-program", "--token", "s3cr3t-8"]})),
        ("a denied one", json!({"argv": ["mount", "--password=s3cr3t-9"]})),
        ("an unknown parameter", json!({"argv": ["true"], "token": TOKEN})),
        ("a wrong type", json!({"argv": TOKEN})),
        ("a wrong variable", json!({"argv": ["true"], "env": {"X=": "s3cr3t-10"}})),
        ("a variable of the loader", json!({"argv": ["true"], "env": {"LD_PRELOAD": "s3cr3t-11"}})),
        ("a NUL", json!({"argv": ["true", "s3cr3t-12\u{0}"]})),
    ] {
        if let Err(error) = client.call("job.start", params).await {
            places.add(what, error.to_string());
        }
    }
    let error = client.call("session.open", json!({"password": TOKEN})).await.unwrap_err();
    places.add("session.open", error.to_string());
    client.raw(&format!("{{\"token\": \"{TOKEN}")).await;
    places.add("no JSON", client.find("its answer", |v| v["error"]["code"] == -32700).await.to_string());
    let cat = json!({"argv": ["sh", "-c", "cat >/dev/null"], "stdin": "pipe"});
    let job = client.call("job.start", cat).await.unwrap()["job"].clone();
    client.call("job.stdin", json!({"job": job, "data": "s3cr3t-13\n", "eof": true})).await.unwrap();
    client.event_of("job.closed", job.as_str().unwrap()).await;
}

/// What the command line shows, with a wrong token and secrets in its environment.
fn ask_command_line(gateway: &Gateway, log: &Path, places: &mut Places) {
    let file = gateway.directory.path().join("test.toml");
    let (file, log) = (file.to_str().unwrap(), log.to_str().unwrap());
    for arguments in [
        &["config", "show", "--config", file][..],
        &["config", "show", "--json", "--config", file],
        &["exec", "--", "true"],
        &["ps"],
        &["audit", "show", log],
        &["ps", "--url", "http://ada:s3cr3t@127.0.0.1:1"],
        &["ps", "--url", "http://127.0.0.1:1/?token=s3cr3t"],
    ] {
        let secrets = [ENVIRONMENT, ("EXECGATE_TOKEN", WRONG)];
        let output = gateway.cli(arguments).envs(secrets).output().unwrap();
        assert!(output.stdout.len() + output.stderr.len() > 20, "{arguments:?} says nothing");
        places.add_output(&arguments.join(" "), &output);
    }
}

#[test]
fn a_token_and_any_other_secret_comes_out_nowhere_however_it_was_shown() {
    let pki = Pki::make();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("decisions");
    let config = format!(
        "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n{}{}[log]\nlevel = \"trace\"\n[audit]\npath = {log:?}\n",
        token_of_ada(),
        pki.jwt(),
    );
    let environment =
        [("EXECGATE_JOBS__ENV__DB_PASSWORD", "s3cr3t-of-jobs"), ("EXECGATE_TOKEN", "s3cr3t-cli")];
    let mut gateway = Gateway::with_environment(&config, &environment);
    let signed = pki.token("acme", "ada", std::time::Duration::from_secs(600), json!({}));
    let mut places = Places::default();
    let given = run(async {
        show_tokens(&gateway, &signed, &mut places).await;
        call_with_secrets(&gateway, &mut places).await;
        let given = ticket_of(&gateway).await;
        let query = format!("ticket={given}");
        for status in [101, 401] {
            assert_eq!(upgrade(&gateway, &query, &gateway.url).await, status);
        }
        let admin = format!("Authorization: Bearer {TOKEN}\r\n");
        for page in ["/metrics", "/readyz"] {
            places.add(page, answer(&gateway, page, &admin).await);
        }
        given
    });
    for bad in ["[jobs.env]\nDB = s3cr3t-unquoted\n", "[jobs]\nenv = \"s3cr3t-text\"\n"] {
        let before = gateway.log().matches("configuration not reloaded").count();
        std::fs::write(gateway.directory.path().join("test.toml"), format!("{config}{bad}")).unwrap();
        gateway.signal(Signal::SIGHUP);
        let told = || gateway.log().matches("configuration not reloaded").count() > before;
        eventually(PATIENCE, "the reload is refused", told);
    }
    gateway.reconfigure(&config);
    ask_command_line(&gateway, &log, &mut places);
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended(PATIENCE).success());
    let (written, said) = (std::fs::read_to_string(&log).unwrap(), gateway.log());
    assert!(written.contains("mount") && written.contains("***"), "the decision log holds nothing");
    assert!(said.contains("TRACE") || said.contains("DEBUG"), "the log says little");
    places.add("banner", gateway.banner.join("\n"));
    places.add("decision log", written);
    places.add("log", said);
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("ada:{TOKEN}"));
    let signature = signed.rsplit('.').next().unwrap();
    places.hold_none_of(&[WORD, &basic, signature, &given]);
}

async fn ticket_of(gateway: &Gateway) -> String {
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let mut made = Exchange::send(gateway, "POST", "/v1/tickets", &right, "").await;
    made.json().await["ticket"].as_str().unwrap().to_owned()
}

#[test]
fn a_panic_is_a_line_of_the_log() {
    let config = format!("{}[log]\nlevel = \"trace\"\n", token_of_ada());
    let gateway = Gateway::with_environment(&config, &[ENVIRONMENT]);
    run(async {
        let mut client = with_token(&gateway, TOKEN).await.unwrap();
        client.start(&["sleep", "1000"]).await;
        // As in `exhaustion`: reading a script takes a thread, and there is no memory for its stack.
        let workers = std::thread::available_parallelism().unwrap().get();
        eventually(PATIENCE, "only the workers are left", || runtime_threads(gateway.pid()).len() <= workers);
        bound_memory(gateway.pid(), Some(64 << 10));
        let argv = json!(["sh", "-c", "API_TOKEN=s3cr3t-1 true"]);
        let start =
            json!({"argv": argv, "env": {"DB_PASSWORD": "s3cr3t-2"}, "labels": {"token": "s3cr3t-3"}});
        let id = client.send("job.start", start).await;
        let outcome = |v: &Value| v["id"] == json!(id) || v["method"] == "session.closed";
        client.find("what came of it", outcome).await;
        bound_memory(gateway.pid(), None);
    });
    let log = gateway.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    if !lines.iter().any(|line| line["message"] == "panicked" && line["why"].is_string()) {
        eprintln!("NOTE: NOT SHOWN HERE: the thread found a stack, and nothing panicked");
    }
    let mut places = Places::default();
    places.add("log", log);
    places.hold_none_of(&[WORD]);
}

fn configured(directory: &tempfile::TempDir, action: &str, variable: Option<(&str, &str)>) -> Output {
    let file = directory.path().join("test.toml");
    Gateway::command(directory)
        .args(["config", action, "--config"])
        .arg(&file)
        .envs(variable)
        .output()
        .unwrap()
}

#[test]
fn a_secret_in_a_broken_configuration_is_not_told_with_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("test.toml");
    let mut places = Places::default();
    let mut both = |what: &str, variable: Option<(&str, &str)>, word: &str| {
        for action in ["check", "show"] {
            let output = configured(&directory, action, variable);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains(word), "{action} {what}: {said}");
            places.add_output(&format!("{action} {what}"), &output);
        }
    };
    for (text, word) in [
        ("[jobs]\nenv = \"s3cr3t\"\n", "test.toml:2"),
        ("[jobs.env]\nDB = s3cr3t\n", "test.toml:2"),
        ("[jobs.env]\nDB = \"s3cr3t\n", "test.toml:2"),
        ("[jobs.env]\nDB = [\"s3cr3t\"]\n", "test.toml:2"),
        ("[jobs.env]\nDB = 5343237\n", "jobs.env.DB"),
        ("[jobs]\nallow_root = \"s3cr3t\"\n", "must be true or false"),
        ("[jobs]\nenv_allow = 5343237\n", "must be a list"),
        ("[auth.token]\nx = \"s3cr3t\"\n", "test.toml:2"),
        ("[auth.token.x]\nsha256 = \"s3cr3t\"\ntenant = \"a\"\nsubject = \"b\"\n", "auth.token.x.sha256"),
        ("[auth.token.x]\ntoken = \"s3cr3t\"\ntenant = \"a\"\nsubject = \"b\"\n", "test.toml:2"),
    ] {
        std::fs::write(&file, text).unwrap();
        both(text, None, word);
    }
    std::fs::write(&file, "").unwrap();
    for (name, value) in [
        ("EXECGATE_JOBS__ENV", "DB=s3cr3t"),
        ("EXECGATE_JOBS__ENV__DB", "5343237"),
        ("EXECGATE_JOBS__ENVV__DB", "s3cr3t"),
        ("EXECGATE_AUTH__TOKEN__X", "s3cr3t"),
    ] {
        both(name, Some((name, value)), name);
    }
    places.hold_none_of(&[WORD, "5343237"]);
}

#[test]
fn a_debug_dump_of_the_configuration_holds_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("test.toml");
    std::fs::write(&file, "[jobs.env]\nDB = \"s3cr3t-file\"\n").unwrap();
    let flags = vec![("jobs.env.API".to_owned(), "s3cr3t-flag".to_owned())];
    let sources = Sources { files: vec![file], flags, no_system: true };
    let environment = Environment::of_process();
    let loaded = config::load(&sources, &environment).unwrap();
    let setup = execgate::server::Setup::new(&loaded.settings, Some("s3cr3t-made")).unwrap();
    let mut places = Places::default();
    places.add("sources", format!("{sources:#?}"));
    places.add("loaded", format!("{loaded:#?}"));
    places.add("setup", format!("{setup:#?}"));
    places.hold_none_of(&[WORD]);
    let path = environment.get("PATH").unwrap();
    assert!(!format!("{environment:?}").contains(path), "values of the environment are printed");
}
