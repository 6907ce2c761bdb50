//! Builds the shipped policies from `policies/` and leaves their core modules in OUT_DIR, to be embedded.
//!
//! They are built for another target, in a target directory of their own, with nothing of this build's flags or wrappers.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a build script has nobody to report to but the person who builds"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "wasm32-unknown-unknown";
const POLICIES: [&str; 3] = ["command_rules", "session_quota", "rate_limit"];

/// Variables of this build that must not reach the other one.
const OURS: [&str; 9] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "RUSTC_LINKER",
];

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for watched in ["wit", "policies/Cargo.toml", "policies/Cargo.lock", "policies/.cargo", "build.rs"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    for policy in ["sdk", "command-rules", "session-quota", "rate-limit"] {
        println!("cargo:rerun-if-changed=policies/{policy}");
    }
    sources(&root, &out);
    need_target();
    let target = out.join("policies");
    build(&root.join("policies"), &target);
    for policy in POLICIES {
        let file = format!("{policy}.wasm");
        let built = target.join(TARGET).join("release").join(&file);
        fs::copy(&built, out.join(&file)).unwrap_or_else(|e| panic!("{}: {e}", built.display()));
    }
}

/// Writes down what `policy new` puts into a new folder: the SDK, the interfaces, and what their build needs.
fn sources(root: &Path, out: &Path) {
    let mut files = Vec::new();
    for (from, to) in [("policies/sdk", "vendor/sdk"), ("wit", "wit")] {
        collect(&root.join(from), to, &mut files);
    }
    for (from, to) in [
        ("policies/.cargo/config.toml", ".cargo/config.toml"),
        ("policies/Cargo.lock", "Cargo.lock"),
        ("rust-toolchain.toml", "rust-toolchain.toml"),
    ] {
        files.push((to.to_owned(), root.join(from)));
    }
    let entries: Vec<_> =
        files.iter().map(|(to, from)| format!("({to:?}, include_str!({from:?}))")).collect();
    fs::write(out.join("sdk_sources.rs"), format!("&[{}]", entries.join(",\n")))
        .expect("OUT_DIR can be written");
}

fn collect(from: &Path, to: &str, files: &mut Vec<(String, PathBuf)>) {
    let mut entries: Vec<_> = fs::read_dir(from).expect("the sources are there").flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            if name != "target" {
                collect(&entry.path(), &format!("{to}/{name}"), files);
            }
        } else if [".rs", ".toml", ".wit", ".md", ".json"].iter().any(|end| name.ends_with(end)) {
            files.push((format!("{to}/{name}"), entry.path()));
        }
    }
}

fn need_target() {
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let asked = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    let there = asked.is_ok_and(|o| Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_dir());
    assert!(
        there,
        "\n\nthe policies need the target {TARGET}; add it with:\n\n    rustup target add {TARGET}\n\n"
    );
}

fn build(policies: &Path, target: &Path) {
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    cargo
        .current_dir(policies)
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(target);
    for policy in POLICIES {
        cargo.args(["--package", &policy.replace('_', "-")]);
    }
    for name in OURS {
        cargo.env_remove(name);
    }
    let status = cargo.status().expect("cargo can be started");
    assert!(status.success(), "the policies in {} do not build; see above", policies.display());
}
