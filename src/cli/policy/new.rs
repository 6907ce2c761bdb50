//! `policy new`: a folder that builds and passes its tests at once. The SDK and the interfaces come along, so that nothing but
//! the compiler and its registry is needed.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::output::{Trouble, say};

use super::options::{HookName, New};

/// The SDK, the interfaces, and what their build needs: path within the new folder, and text.
const SOURCES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sdk_sources.rs"));

/// Longest name.
const LONGEST: usize = 63;

pub(super) fn run(args: &New) -> Result<ExitCode, Trouble> {
    let name = &args.name;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !begins || name.len() > LONGEST || !name.chars().all(fits) || name.ends_with('-') {
        return Err(Trouble::usage(format!(
            "{name:?} is no name for a policy: lower-case letters, digits and hyphens, a letter first, at most {LONGEST}"
        )));
    }
    let folder = Path::new(name);
    // A link to nowhere is there too.
    if folder.symlink_metadata().is_ok() {
        return Err(Trouble::usage(format!("{name} is there already; choose another name, or remove it")));
    }
    for (path, text) in SOURCES {
        write(&folder.join(path), text)?;
    }
    let (source, table, example) = match args.hook {
        HookName::Command => (
            include_str!("template/command.rs.txt"),
            include_str!("template/command.toml.txt"),
            "policy explain -- ls",
        ),
        HookName::Session => (
            include_str!("template/session.rs.txt"),
            include_str!("template/session.toml.txt"),
            "policy bench",
        ),
        HookName::Rate => {
            (include_str!("template/rate.rs.txt"), include_str!("template/rate.toml.txt"), "policy bench")
        }
    };
    let hook = match args.hook {
        HookName::Command => "command",
        HookName::Session => "session",
        HookName::Rate => "rate",
    };
    let filled = |text: &str| {
        text.replace("@NAME@", name).replace("@CRATE@", &name.replace('-', "_")).replace("@HOOK@", hook)
    };
    write(&folder.join("Cargo.toml"), &filled(include_str!("template/Cargo.toml.txt")))?;
    write(&folder.join("README.md"), &filled(include_str!("template/README.md.txt")))?;
    write(&folder.join(".gitignore"), "/target\n/*.wasm\n")?;
    write(&folder.join("src/lib.rs"), &filled(source))?;
    write(&folder.join("tests/native.rs"), &filled(include_str!("template/native.rs.txt")))?;
    write(&folder.join(format!("tests/{name}.toml")), &filled(table))?;
    say(format!("{name} is written. Next:"))?;
    for line in [
        format!("cd {name}"),
        "execgate policy build".to_owned(),
        "execgate policy test".to_owned(),
        format!("execgate {example}"),
    ] {
        say(format!("  {line}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, text: &str) -> Result<(), Trouble> {
    let told = |error: std::io::Error| Trouble::failed(format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(told)?;
    }
    std::fs::write(path, text).map_err(told)
}
