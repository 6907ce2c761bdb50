//! Conversations in files: what a client sends and what it gets, line by line.
//!
//! ```text
//! # a comment                       | a line of the configuration
//! @connect NAME [token=T] [plane=binary]   @close NAME   @signal TERM   @get /path   @break-spawning
//! @reconfigure OLD => NEW   the configuration changes in the file, to be read at the next reload
//! > {…}   sent on the connection "main"     name> {…}   on another
//! < {…}   must come, next or later          name< {…}   on another
//! > frame {…}   a binary frame               < frame {…}   < closed CODE
//! ```
//! `"$name"` is anything when first seen and the same ever after; `"*"` is anything; a member `"...": 0` lets others be
//! there. Lines expected may come among others, since requests are answered in any order; each is used once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::client::Frame;
use crate::support::guest::Guest;
use crate::support::{Client, Gateway, needs, run};
use crate::transport::get;

/// Told only where no client can bring it about, as PROTOCOL.md says: a fault of the gateway itself.
const NEVER_SHOWN: [&str; 1] = ["internal"];

struct Run {
    config: String,
    gateway: Gateway,
    clients: BTreeMap<String, Client>,
    names: BTreeMap<String, Value>,
}

/// A guest that breaks at every review, for conversations about broken policies.
fn broken_guest() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broken.wasm");
    let guest = Guest { review: "unreachable", ..Guest::default() };
    fs::write(&path, guest.module()).unwrap();
    let path = path.display().to_string();
    (directory, path)
}

impl Run {
    async fn line(&mut self, line: &str) -> bool {
        let (head, rest) = line.split_once(' ').unwrap_or((line, ""));
        if let Some(directive) = head.strip_prefix('@') {
            return self.directive(directive, rest).await;
        }
        let (name, sends) = match (head.strip_suffix('>'), head.strip_suffix('<')) {
            (Some(name), _) => (name, true),
            (None, Some(name)) => (name, false),
            (None, None) => panic!("what is {line:?}?"),
        };
        let name = if name.is_empty() { "main" } else { name };
        if sends {
            self.send(name, rest).await
        } else {
            self.expect(name, rest).await
        }
        true
    }

    /// False when this host cannot show the rest.
    async fn directive(&mut self, directive: &str, rest: &str) -> bool {
        match directive {
            "connect" => self.connect(rest).await,
            "close" => drop(self.clients.remove(rest)),
            "signal" => self.gateway.signal(format!("SIG{rest}").parse().unwrap()),
            "get" => drop(get(&self.gateway, rest).await),
            "reconfigure" => {
                let (old, new) = rest.split_once(" => ").unwrap();
                assert!(self.config.contains(old), "{old} is not configured");
                self.config = self.config.replace(old, new);
                self.gateway.reconfigure(&self.config);
            }
            "break-spawning" => {
                let root = self.gateway.banner.iter().find_map(|l| l.split(" below ").nth(1));
                let switch = root.map(|root| Path::new(root).join("cgroup.max.descendants"));
                let broken = switch.is_some_and(|switch| fs::write(switch, "0").is_ok());
                return needs(broken, "spawning is broken by a cgroup, and no cgroup2 is writable");
            }
            other => panic!("what is @{other}?"),
        }
        true
    }

    async fn connect(&mut self, rest: &str) {
        let mut words = rest.split(' ');
        let name = words.next().unwrap().to_owned();
        let mut headers = Vec::new();
        let mut bearer = String::new();
        for word in words {
            match word.split_once('=') {
                Some(("token", token)) => bearer = format!("Bearer {token}"),
                Some(("plane", "binary")) => headers.push(("sec-websocket-protocol", "execgate.v1")),
                _ => panic!("what is {word:?}?"),
            }
        }
        if !bearer.is_empty() {
            headers.push(("authorization", &bearer));
        }
        self.clients.insert(name, Client::with(&self.gateway, &headers).await.unwrap());
    }

    async fn client(&mut self, name: &str) -> &mut Client {
        if !self.clients.contains_key(name) {
            self.connect(name).await;
        }
        self.clients.get_mut(name).unwrap()
    }

    async fn send(&mut self, name: &str, text: &str) {
        let mut text = text.to_owned();
        for (known, value) in &self.names {
            text = text.replace(&format!("\"${known}\""), &value.to_string());
        }
        assert!(!text.contains("\"$"), "a name that was never seen: {text}");
        match text.strip_prefix("frame ") {
            None => self.client(name).await.raw(&text).await,
            Some(frame) => {
                let f: Value = serde_json::from_str(frame).unwrap();
                let number = |member: &str| f.get(member).map_or(0, |v| v.as_u64().unwrap());
                let payload = match (f["text"].as_str(), f["u32"].as_u64()) {
                    (Some(text), _) => text.as_bytes().to_vec(),
                    (None, Some(number)) => (number as u32).to_be_bytes().to_vec(),
                    (None, None) => Vec::new(),
                };
                let frame = Frame {
                    kind: number("kind") as u8,
                    stream: number("stream") as u8,
                    flags: number("flags") as u16,
                    channel: number("channel") as u32,
                    offset: number("offset"),
                    payload,
                };
                self.client(name).await.frame(&frame).await;
            }
        }
    }

    async fn expect(&mut self, name: &str, text: &str) {
        if let Some(code) = text.strip_prefix("closed ") {
            let closed = self.client(name).await.close_code().await;
            return assert_eq!(closed, Some(code.parse().unwrap()));
        }
        let wanted: Value = match text.strip_prefix("frame ") {
            Some(frame) => {
                let mut frame: Value = serde_json::from_str(frame).unwrap();
                if let Some(text) = frame["text"].as_str().map(str::to_owned) {
                    frame.as_object_mut().unwrap().remove("text");
                    frame["payload"] = json!(text.as_bytes());
                }
                if let Some(number) = frame["u32"].as_u64() {
                    frame.as_object_mut().unwrap().remove("u32");
                    frame["payload"] = json!((number as u32).to_be_bytes());
                }
                json!({"frame": frame})
            }
            None => serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}")),
        };
        let names = self.names.clone();
        let found = self.client(name).await.find(text, |got| fits(&wanted, got, &mut names.clone())).await;
        assert!(fits(&wanted, &found, &mut self.names));
    }
}

fn fits(wanted: &Value, got: &Value, names: &mut BTreeMap<String, Value>) -> bool {
    match (wanted, got) {
        (Value::String(any), _) if any == "*" => true,
        (Value::String(name), _) if name.starts_with('$') => {
            let known = names.entry(name[1..].to_owned()).or_insert_with(|| got.clone());
            known == got
        }
        (Value::Object(wanted), Value::Object(got)) => {
            let open = wanted.contains_key("...");
            (open || wanted.len() == got.len())
                && wanted
                    .iter()
                    .filter(|(name, _)| *name != "...")
                    .all(|(name, wanted)| got.get(name).is_some_and(|got| fits(wanted, got, names)))
        }
        (Value::Array(wanted), Value::Array(got)) => {
            wanted.len() == got.len() && wanted.iter().zip(got).all(|(wanted, got)| fits(wanted, got, names))
        }
        (wanted, got) => wanted == got,
    }
}

fn files() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/transcripts");
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn play(text: &str) {
    let (_directory, broken) = broken_guest();
    let config: String =
        text.lines().filter_map(|l| l.strip_prefix("| ")).map(|l| format!("{l}\n")).collect();
    let config = config.replace("$broken", &broken);
    let gateway = Gateway::with(&config);
    run(async {
        let mut run = Run { config, gateway, clients: BTreeMap::new(), names: BTreeMap::new() };
        for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with(['#', '|'])) {
            if !run.line(line).await {
                return;
            }
        }
    });
}

#[test]
fn every_conversation_goes_as_it_is_written() {
    for (name, text) in files() {
        eprintln!("{name}");
        play(&text);
    }
}

#[test]
fn every_method_and_every_error_code_has_its_conversation() {
    let all: String = files().into_iter().map(|(_, text)| text).collect();
    let texts = |line: &str| all.lines().filter(|l| l.contains(line)).map(str::to_owned).collect::<Vec<_>>();
    let gateway = Gateway::start();
    let document: Value =
        run(async { serde_json::from_str(&get(&gateway, "/v1/openrpc.json").await.1).unwrap() });
    for method in document["methods"].as_array().unwrap() {
        let name = method["name"].as_str().unwrap();
        let sent = texts("> ").iter().any(|l| l.contains(&format!("\"method\":\"{name}\"")));
        assert!(sent, "no conversation calls {name}");
    }
    for (kind, error) in document["components"]["errors"].as_object().unwrap() {
        let kind = kind.as_str();
        let code = error["code"].as_i64().unwrap();
        let shown = texts("< ")
            .iter()
            .any(|l| l.contains(&format!("\"kind\":\"{kind}\"")) && l.contains(&format!("\"code\":{code}")));
        let exempt = NEVER_SHOWN.contains(&kind);
        assert!(shown != exempt, "{kind} ({code}): shown {shown}, exempt {exempt}");
    }
}

#[test]
fn the_session_of_the_readme_is_one_of_them() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, text) = files().into_iter().find(|(name, _)| name == "readme").unwrap();
    let session: Vec<_> = text.lines().filter(|l| l.starts_with(['>', '<'])).collect();
    assert!(
        readme.contains(&session.join("\n")),
        "README.md does not show tests/fixtures/transcripts/readme.txt"
    );
}
