//! Clients that nobody here wrote: Python's `websockets`, and Node with `ws` or its own WebSocket.
//!
//! `.ci/run` puts the packages below `target/clients`; where a language or a package is missing, a NOTE says so.

#![allow(clippy::disallowed_methods, reason = "tests start programs")]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Gateway, needs};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn packages(name: &str) -> PathBuf {
    root().join("target/clients").join(name)
}

/// The program with the packages that were put there for it.
fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PYTHONPATH", packages("python")).env("NODE_PATH", packages("node_modules"));
    command
}

fn works(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn drives(name: &str, script: &str) {
    let gateway = Gateway::start();
    let script = root().join("tests/fixtures/clients").join(script);
    let url = format!("ws://{}/v1/ws", gateway.address());
    let output = program(name).arg(script).arg(url).arg(gateway.token()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.trim() == "ok", "{out}{err}");
}

#[test]
fn python_websockets_drives_both_planes() {
    let there = works(program("python3").args(["-c", "import websockets"]));
    if needs(there, "no python3 with `websockets`: pip install --target target/clients/python websockets") {
        drives("python3", "client.py");
    }
}

#[test]
fn node_drives_both_planes() {
    let some = "try { require('ws') } catch { if (!globalThis.WebSocket) process.exit(1) }";
    let there = works(program("node").args(["-e", some]));
    if needs(there, "no node with `ws` or a WebSocket of its own: npm install --prefix target/clients ws") {
        drives("node", "client.js");
    }
}
