//! The law of the house: ranks, sizes, heads, and what is fenced in.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms by rank. Changed only together with ARCHITECTURE.md.
const RANKS: [(&str, u8); 17] = [
    ("domain", 0),
    ("verdict", 1),
    ("facts", 2),
    ("rpc", 2),
    ("policy", 2),
    ("quota", 2),
    ("warden", 2),
    ("stream", 2),
    ("audit", 2),
    ("session", 3),
    ("cases", 3),
    ("transport", 4),
    ("config", 5),
    ("telemetry", 5),
    ("server", 6),
    ("cli", 7),
    ("main", 8),
];

/// Libraries and the rooms that may name them.
const FENCES: [(&str, &[&str]); 19] = [
    ("serde_json::", &["rpc", "audit", "policy", "cases", "config", "cli"]),
    ("wasmtime::", &["policy"]),
    ("wasmtime_wizer::", &["policy"]),
    ("figment::", &["config"]),
    ("axum::", &["transport"]),
    ("jsonwebtoken::", &["transport", "config"]),
    ("tokio_rustls::", &["transport", "cli"]),
    ("x509_parser::", &["transport"]),
    ("hyper::", &["transport"]),
    ("hyper_util::", &["transport"]),
    ("tokio_tungstenite::", &["transport", "cli"]),
    ("governor::", &["quota", "transport"]),
    ("brush_parser::", &["facts"]),
    ("landlock::", &["warden"]),
    ("seccompiler::", &["warden"]),
    ("postcard::", &["warden"]),
    ("metrics_exporter_prometheus::", &["telemetry"]),
    // The wall clock jumps: it is for what people and policies are told, and for expiries that others have set.
    ("SystemTime", &["rpc", "policy", "audit", "session", "transport"]),
    // The command line builds policies with cargo: an author's tool, which no gateway runs.
    ("std::process::Command", &["warden", "cli"]),
];

fn sources(below: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut todo = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(below)];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && entry.file_name() != "target" {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    assert!(files.len() > 3, "{below} holds hardly any source");
    files
}

fn room(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn rank(room: &str) -> u8 {
    RANKS.iter().find(|(name, _)| *name == room).unwrap_or_else(|| panic!("{room} has no rank")).1
}

/// The code without its comments and without its strings' contents being cut: good enough to look for paths in.
fn code(text: &str) -> String {
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    text.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

/// The rooms that a source names by `crate::room`, groups included.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut name = String::new();
            let mut open = true;
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => open = true,
                    c if open && depth == 1 && (c.is_alphanumeric() || c == '_') => name.push(c),
                    ':' | ' ' | '\n' if !name.is_empty() => {
                        found.push(std::mem::take(&mut name));
                        open = false;
                    }
                    _ => {}
                }
                if depth == 1 && c == ',' && !name.is_empty() {
                    found.push(std::mem::take(&mut name));
                }
                if depth == 0 {
                    break;
                }
            }
            if !name.is_empty() {
                found.push(name);
            }
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found.retain(|name| RANKS.iter().any(|(room, _)| room == name));
    found
}

fn violations(path: &Path, text: &str) -> Vec<String> {
    let here = room(path);
    if here == "lib" {
        return Vec::new();
    }
    let up = |there: &String| *there != here && rank(there) >= rank(&here);
    imports(&code(text))
        .into_iter()
        .filter(up)
        .map(|there| format!("{}: {here} imports {there}", path.display()))
        .collect()
}

#[test]
fn a_room_imports_only_rooms_of_lower_rank() {
    let found: Vec<_> = sources("src").iter().flat_map(|(path, text)| violations(path, text)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_upward_or_sideways_import_would_be_found() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy/made_up.rs");
    for line in [
        "use crate::session::Job;",
        "use crate::{domain::JobId, quota};",
        "let x = crate::warden::main();",
        "use crate::{\n    cli,\n};",
    ] {
        assert_eq!(violations(&file, line).len(), 1, "{line}");
    }
    assert!(violations(&file, "use crate::{domain::JobId, verdict};\n// crate::session").is_empty());
}

#[test]
fn no_source_file_is_longer_than_500_lines() {
    for (path, text) in sources("src").into_iter().chain(sources("policies")) {
        assert!(text.lines().count() <= 500, "{}: {} lines", path.display(), text.lines().count());
    }
}

/// What the warden does while it lives: its loop and what that does to jobs. Beside it are what a fork does to itself, the gateway's
/// end, the messages, and the kernel's files.
#[test]
fn the_wardens_loop_has_at_most_1500_lines_of_code() {
    let of_the_loop = ["main", "main/events", "main/requests", "main/waiting", "job", "tree", "reap"];
    let lines = of_the_loop.map(|name| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/warden/{name}.rs"));
        let text = fs::read_to_string(path).unwrap();
        let without_tests = text.split("#[cfg(test)]").next().unwrap();
        code(without_tests).lines().filter(|line| !line.trim().is_empty()).count()
    });
    let sum: usize = lines.iter().sum();
    assert!((500..=1500).contains(&sum), "{sum} lines: {lines:?}");
}

#[test]
fn every_source_file_says_what_it_is_for() {
    for (path, text) in sources("src").into_iter().chain(sources("policies")).chain(sources("tests")) {
        assert!(text.starts_with("//!"), "{} has no //! head", path.display());
    }
}

#[test]
fn unsafe_stays_in_the_wardens_system_calls() {
    let fence = Path::new("warden/sys.rs");
    for (path, text) in sources("src") {
        let has = code(&text)
            .lines()
            .any(|l| ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|u| l.contains(u)));
        assert!(!has || path.ends_with(fence), "{} holds unsafe", path.display());
    }
}

#[test]
fn a_library_is_named_only_in_its_rooms() {
    for (path, text) in sources("src") {
        let here = room(&path);
        for (library, rooms) in FENCES {
            let is_test = path.ends_with("tests.rs");
            let named = code(&text).contains(library) && !rooms.contains(&here.as_str()) && !is_test;
            assert!(!named, "{} names {library}", path.display());
        }
    }
}

#[test]
fn no_module_is_a_mod_rs() {
    assert!(sources("src").iter().all(|(path, _)| path.file_name().unwrap() != "mod.rs"));
}
