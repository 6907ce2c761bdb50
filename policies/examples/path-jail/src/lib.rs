//! path-jail: no argument may name a path outside of the directories that are allowed.
//!
//! Every argument is looked at as a program might read it: as a whole, behind `=`, behind one-letter options, behind a colon, a
//! comma or an at sign. What could be a path is resolved against the working directory, as text, and must lie
//! below a root. It only ever refuses; other policies decide.
//!
//! It bounds what is *asked*, not what a program then does: a symlink below a root leads where it leads, and a program opens
//! what it likes. Confine the job to the same roots (a profile with file roots) for what must hold.

use execgate_policy_sdk::prelude::*;

/// Settings of path-jail.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Directories, absolute; `{tenant}` and `{subject}` stand for the caller's.
    roots: Vec<String>,
    /// Paths outside that may be named all the same.
    #[serde(default = "harmless")]
    allow: Vec<String>,
    /// Members of one of these groups are free.
    #[serde(default)]
    except_groups: Vec<String>,
}

fn harmless() -> Vec<String> {
    ["/dev/null", "/dev/stdin", "/dev/stdout", "/dev/stderr"].map(str::to_owned).to_vec()
}

/// The policy.
#[derive(Debug)]
pub struct PathJail;

impl Policy for PathJail {
    type Settings = Settings;
    const NAME: &'static str = "path-jail";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "no argument may name a path outside";
    const SCHEMA: &'static str = include_str!("../schema.json");

    fn check(settings: &Settings) -> Vec<SettingError> {
        let wrong = |(at, root): (usize, &String)| {
            let plain = root.starts_with('/') && resolved("/", root) == root.trim_end_matches('/');
            (!plain || root == "/").then(|| {
                setting_error(
                    format!("roots[{at}]"),
                    "must be absolute, without . or .. or //, and not / itself",
                )
            })
        };
        settings.roots.iter().enumerate().filter_map(wrong).collect()
    }
}

impl CommandPolicy for PathJail {
    fn review(settings: &Settings, request: &CommandRequest) -> CommandVerdict {
        match settings.objection(request) {
            None => CommandVerdict::Abstain,
            Some(path) => {
                let message =
                    format!("{path:?} is outside of {}", settings.roots_of(&request.principal).join(", "));
                let remedy = "name a path below one of these, or change the working directory";
                CommandVerdict::Deny(Denial::new("jail", "outside_jail", message).remedy(remedy))
            }
        }
    }
}

execgate_policy_sdk::export!(PathJail: command);

impl Settings {
    /// The roots for this caller. A name that would climb out of its place is nobody's root.
    fn roots_of(&self, who: &Principal) -> Vec<String> {
        let plain = |name: &str| !name.is_empty() && !name.contains('/') && name != "." && name != "..";
        let place = |root: &String| {
            let named = (!root.contains("{tenant}") || plain(&who.tenant))
                && (!root.contains("{subject}") || plain(&who.subject));
            named.then(|| root.replace("{tenant}", &who.tenant).replace("{subject}", &who.subject))
        };
        self.roots.iter().filter_map(place).collect()
    }

    /// The first path outside.
    fn objection(&self, request: &CommandRequest) -> Option<String> {
        let who = &request.principal;
        if who.groups.iter().any(|group| self.except_groups.contains(group)) {
            return None;
        }
        let roots = self.roots_of(who);
        let inside =
            |path: &String| self.allow.contains(path) || roots.iter().any(|root| is_below(path, root));
        let arguments = request.argv.iter().skip(1).flat_map(|argument| candidates(argument));
        std::iter::once(request.cwd.as_str())
            .chain(arguments)
            .map(|path| resolved(&request.cwd, path))
            .find(|path| !inside(path))
    }
}

/// What in an argument could be a path that leads elsewhere.
fn candidates(argument: &str) -> impl Iterator<Item = &str> {
    let whole = std::iter::once(argument);
    let letters = argument.starts_with('-') && !argument.starts_with("--");
    let slash = argument.find('/').filter(|_| letters).and_then(|at| argument.get(at..));
    let option = argument.strip_prefix('-').and_then(|rest| rest.get(1..));
    let parts = argument.split(['=', ':', ',', '@']);
    whole
        .chain(slash)
        .chain(option)
        .chain(parts)
        .filter(|part| part.contains('/') || *part == ".." || part.starts_with('~'))
        .map(
            // A shell or a program might expand it to any home directory.
            |part| if part.starts_with('~') { "/~" } else { part },
        )
}

/// An absolute path without `.`, `..` and `//`, as text.
fn resolved(cwd: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let from = if path.starts_with('/') { "" } else { cwd };
    for part in from.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn is_below(path: &str, root: &str) -> bool {
    let root = root.trim_end_matches('/');
    path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use execgate_policy_sdk::harness::{self, Tables};

    #[test]
    fn the_schema_is_the_settings() {
        harness::schema::<PathJail>(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json"));
    }

    #[test]
    fn tables() {
        Tables::<PathJail>::of(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).command().run();
    }

    #[test]
    fn a_root_that_is_everything_or_nothing_is_refused() {
        for root in ["/", "srv", "/srv/../etc", "/srv//a", ""] {
            let json = format!(r#"{{"roots":[{root:?}]}}"#);
            assert!(harness::settings::<PathJail>(&json).is_err(), "{root}");
        }
    }
}
