//! `policy build`: from a folder of Rust to a component that the gateway takes.
//!
//! An author's tool: it runs cargo, which no gateway ever does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::cli::output::{Trouble, complain, say};
use crate::policy::{self, Module};

use super::options::Build;

const TARGET: &str = "wasm32-unknown-unknown";

pub(super) fn run(args: &Build) -> Result<ExitCode, Trouble> {
    let folder = &args.folder;
    let name = package(folder)?;
    cargo(folder)?;
    let built =
        folder.join("target").join(TARGET).join("release").join(format!("{}.wasm", name.replace('-', "_")));
    let core = std::fs::read(&built).map_err(|error| {
        Trouble::failed(format!(
            "{}: {error}; the package must be a cdylib: put crate-type = [\"cdylib\", \"rlib\"] under [lib] in its Cargo.toml",
            built.display()
        ))
    })?;
    let component = policy::component(&core).map_err(|fault| Trouble::failed(format!("{name}: {fault}")))?;
    let path = folder.join(format!("{name}.wasm"));
    std::fs::write(&path, &component)
        .map_err(|error| Trouble::failed(format!("{}: {error}", path.display())))?;
    let inspected = policy::inspect(&Module::File(path.clone())).map_err(Trouble::failed)?;
    if args.json {
        say(
            json!({"module": path, "sha256": inspected.digest, "size": inspected.size, "hooks": inspected.hooks}),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    say(format!(
        "{}: {} {}, hooks {}, {} bytes",
        path.display(),
        inspected.module,
        inspected.version,
        inspected.hooks.join(" "),
        inspected.size
    ))?;
    say(format!("sha256 = \"{}\"", inspected.digest))?;
    Ok(ExitCode::SUCCESS)
}

/// The name of the package in the folder.
fn package(folder: &Path) -> Result<String, Trouble> {
    let path = folder.join("Cargo.toml");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Trouble::usage(format!(
            "{}: {error}; `execgate policy new NAME` writes a folder to build",
            path.display()
        ))
    })?;
    let manifest: toml_edit::DocumentMut =
        text.parse().map_err(|error| Trouble::failed(format!("{}: {error}", path.display())))?;
    let name = manifest.get("package").and_then(|p| p.get("name")).and_then(|n| n.as_str());
    name.map(str::to_owned)
        .ok_or_else(|| Trouble::failed(format!("{}: there is no package name in it", path.display())))
}

fn cargo(folder: &Path) -> Result<(), Trouble> {
    let target: PathBuf = "target".into();
    #[expect(clippy::disallowed_methods, reason = "an author's tool runs the compiler; no gateway does")]
    let mut cargo = std::process::Command::new("cargo");
    cargo.args(["build", "--release", "--target", TARGET, "--target-dir"]).arg(target).current_dir(folder);
    let status = cargo.status().map_err(|error| {
        Trouble::failed(format!("cargo cannot be started: {error}; install Rust from https://rustup.rs"))
    })?;
    if status.success() {
        return Ok(());
    }
    complain(format!("if the target is missing: rustup target add {TARGET}"));
    Err(Trouble::failed(format!("the policy in {} does not build; see above", folder.display())))
}
