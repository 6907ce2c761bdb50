//! Rules and how they match.
//!
//! A rule matches when everything it names matches. For an allowance it must match the interpreter of a `#!` script too;
//! for a denial either is enough.

use crate::wit::execgate::policy::types::Denial;
use crate::wit::exports::execgate::policy::command::{CommandRequest, Executable, Interpreter};
use crate::wit::exports::execgate::policy::plugin::SettingError;
use serde::Deserialize;

use crate::presets::Preset;

/// All settings.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(crate) preset: Preset,
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    id: String,
    effect: Effect,
    /// Of these tenants; none named: of any.
    #[serde(default)]
    tenants: Vec<String>,
    /// In one of these groups; none named: in any or none.
    #[serde(default)]
    groups: Vec<String>,
    /// Programs by name: the last part of the path found on the server's PATH.
    #[serde(default)]
    programs: Vec<String>,
    /// Programs by canonical path; `*` stands for any part of it.
    #[serde(default)]
    paths: Vec<String>,
    /// Patterns for the arguments, one list an alternative: one pattern an argument, `**` for any further ones.
    args: Option<Vec<Vec<String>>>,
    /// Directories, one of which the working directory is or lies below.
    #[serde(default)]
    cwd: Vec<String>,
    /// With a terminal, or without.
    terminal: Option<bool>,
    /// With a script that cannot be looked into, or without.
    opaque: Option<bool>,
    /// What to tell who is denied.
    remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Effect {
    Allow,
    Deny,
}

/// What a rule decided.
#[derive(Debug)]
pub(crate) enum Decided {
    Allow(String),
    Deny(Denial),
}

/// Names that an argument of an allowed program can run anything through.
const INTERPRETERS: [&str; 20] = [
    "sh", "bash", "dash", "zsh", "ksh", "python", "python3", "perl", "ruby", "node", "php", "awk", "env",
    "xargs", "find", "busybox", "nice", "timeout", "ssh", "make",
];

impl Settings {
    pub(crate) fn check(&self) -> Result<(), Vec<SettingError>> {
        let mut errors = Vec::new();
        for (at, rule) in self.rules.iter().enumerate() {
            let mut error = |key: &str, message: &str| {
                errors.push(SettingError { path: format!("rules[{at}].{key}"), message: message.to_owned() });
            };
            if rule.id.is_empty() || rule.id.len() > 64 {
                error("id", "1 to 64 bytes: it names the rule in answers and logs");
            }
            if self.rules.iter().take(at).any(|other| other.id == rule.id) {
                error("id", "stands twice");
            }
            if rule.programs.iter().any(|p| p.is_empty() || p.contains('/')) {
                error("programs", "names without /; for a path use paths");
            }
            if rule.paths.iter().any(|p| !p.starts_with('/')) {
                error("paths", "must begin with /");
            }
            if rule.cwd.iter().any(|d| !d.starts_with('/')) {
                error("cwd", "must begin with /");
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    pub(crate) fn first_match(&self, request: &CommandRequest) -> Option<Decided> {
        self.rules.iter().find(|rule| rule.matches(request)).map(|rule| rule.decide(request))
    }
}

impl Rule {
    fn matches(&self, request: &CommandRequest) -> bool {
        let who = &request.principal;
        let tenant = self.tenants.is_empty() || self.tenants.contains(&who.tenant);
        let group = self.groups.is_empty() || who.groups.iter().any(|group| self.groups.contains(group));
        let place = self.cwd.is_empty() || self.cwd.iter().any(|root| is_below(&request.cwd, root));
        let terminal = self.terminal.is_none_or(|wanted| wanted == request.terminal);
        let is_opaque = request.script.as_ref().is_some_and(|script| script.opaque);
        let opaque = self.opaque.is_none_or(|wanted| wanted == is_opaque);
        tenant
            && group
            && place
            && terminal
            && opaque
            && self.is_for_program(request)
            && self.is_for_arguments(request)
    }

    fn is_for_program(&self, request: &CommandRequest) -> bool {
        if self.programs.is_empty() && self.paths.is_empty() {
            return true;
        }
        let executable = &request.executable;
        let program = self.names(executable);
        match (&executable.interpreter, self.effect) {
            (None, _) => program,
            (Some(interpreter), Effect::Allow) => program && self.names_interpreter(interpreter),
            (Some(interpreter), Effect::Deny) => program || self.names_interpreter(interpreter),
        }
    }

    fn names(&self, executable: &Executable) -> bool {
        let by_name = executable
            .found
            .as_deref()
            .is_some_and(|found| self.programs.iter().any(|p| p == last_part(found)));
        // A denial by name holds for the file by whatever name it was called.
        let by_file = self.effect == Effect::Deny
            && self.programs.iter().any(|p| p == last_part(&executable.canonical));
        by_name || by_file || self.paths.iter().any(|pattern| is_like(&executable.canonical, pattern))
    }

    fn names_interpreter(&self, interpreter: &Interpreter) -> bool {
        let by_name = self
            .programs
            .iter()
            .any(|p| p == last_part(&interpreter.canonical) || p == last_part(&interpreter.requested));
        by_name || self.paths.iter().any(|pattern| is_like(&interpreter.canonical, pattern))
    }

    fn is_for_arguments(&self, request: &CommandRequest) -> bool {
        let arguments = request.argv.get(1..).unwrap_or_default();
        match &self.args {
            None => true,
            Some(alternatives) => alternatives.iter().any(|patterns| are_like(arguments, patterns)),
        }
    }

    fn decide(&self, request: &CommandRequest) -> Decided {
        match self.effect {
            Effect::Allow => Decided::Allow(self.id.clone()),
            Effect::Deny => {
                let program = &request.executable.requested;
                let remedy =
                    self.remedy.clone().or_else(|| Some("ask the operator about this rule".to_owned()));
                Decided::Deny(denial(
                    "rule",
                    format!("the rule {:?} denies {program:?}", self.id),
                    remedy,
                    &self.id,
                ))
            }
        }
    }
}

/// Whether allowing this program allows everything.
pub(crate) fn allows_everything(program: &str) -> bool {
    INTERPRETERS.contains(&program)
}

pub(crate) fn denial(code: &str, message: String, remedy: Option<String>, rule: &str) -> Denial {
    Denial { code: code.to_owned(), message, remedy, rules: vec![rule.to_owned()] }
}

pub(crate) fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_below(path: &str, root: &str) -> bool {
    let root = root.trim_end_matches('/');
    path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'))
}

fn are_like(arguments: &[String], patterns: &[String]) -> bool {
    match (patterns.split_first(), arguments.split_first()) {
        (None, None) => true,
        (Some((any, [])), _) if any == "**" => true,
        (Some((pattern, patterns)), Some((argument, arguments))) => {
            is_like(argument, pattern) && are_like(arguments, patterns)
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// Whether the whole text is like the pattern; `*` stands for any bytes, nothing else is special.
fn is_like(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_for_the_whole_text() {
        for (text, pattern) in [("web-1", "web-*"), ("a", "a"), ("", "*"), ("abcabc", "a*b*c"), ("aa", "a*a")]
        {
            assert!(is_like(text, pattern), "{text} {pattern}");
        }
        for (text, pattern) in [("xweb-1", "web-*"), ("ab", "a"), ("a", "a*a"), ("abx", "*b"), ("", "a*")] {
            assert!(!is_like(text, pattern), "{text} {pattern}");
        }
    }

    #[test]
    fn arguments_match_one_by_one() {
        let list = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert!(are_like(&list(&["restart", "web-1"]), &list(&["restart", "web-*"])));
        assert!(!are_like(&list(&["restart", "web-1", "--now"]), &list(&["restart", "web-*"])));
        assert!(are_like(&list(&["log", "-p", "x"]), &list(&["log", "**"])));
        assert!(are_like(&[], &list(&["**"])));
        assert!(!are_like(&[], &list(&["*"])));
    }

    #[test]
    fn a_directory_is_not_below_one_that_begins_alike() {
        assert!(is_below("/srv/a", "/srv/a/"));
        assert!(is_below("/srv/a/b", "/srv/a"));
        assert!(!is_below("/srv/ab", "/srv/a"));
        assert!(is_below("/etc", "/"));
    }
}
