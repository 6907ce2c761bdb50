//! The settings, whether they make sense, and what the operator should know about them.

use execgate_policy_sdk::prelude::*;

use crate::interpreters::allows_everything;
use crate::options;
use crate::rule::{Effect, Rule};

/// Settings of command-rules.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What decides when no rule matches.
    pub preset: Preset,
    /// Variables, besides those that change nothing but looks, that a command of the read-only preset may be given; `*` stands
    /// for any part of a name.
    pub env_allow: Vec<String>,
    /// Whether a command of the read-only preset may hold no more processes than it needs, which is one for most. Switch it off
    /// only where the host can limit processes for a whole user but not for a job, so that git cannot start itself.
    pub process_limit: bool,
    /// The first that matches decides.
    pub(crate) rules: Vec<Rule>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { preset: Preset::None, env_allow: Vec::new(), process_limit: true, rules: Vec::new() }
    }
}

/// A set of rules for a common need.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Nothing beyond the rules.
    #[default]
    None,
    /// Look, do not touch: a set of programs with the options that only read.
    ReadOnly,
    /// Any program but those that administer the host. It restrains mistakes, not attackers.
    Developer,
    /// Any program.
    Unrestricted,
}

impl Settings {
    pub(crate) fn errors(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        for (at, rule) in self.rules.iter().enumerate() {
            let mut error =
                |key: &str, message: &str| errors.push(setting_error(format!("rules[{at}].{key}"), message));
            if self.rules.iter().take(at).any(|other| other.id == rule.id) {
                error("id", "stands twice");
            }
            rule.errors(&mut error);
        }
        errors
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.rules.iter().filter_map(warning).collect()
    }
}

fn warning(rule: &Rule) -> Option<String> {
    if rule.effect == Effect::Deny {
        return None;
    }
    let id = &rule.id;
    if !rule.labels.is_empty() {
        return Some(format!(
            "rule {id:?} allows by a label, which is the client's own word: whoever wants it sets it"
        ));
    }
    if rule.bounds_arguments() {
        return None;
    }
    if rule.programs.is_empty() && rule.paths.is_empty() {
        return Some(format!("rule {id:?} allows any program: name programs or paths"));
    }
    let program = rule.programs.iter().chain(&rule.paths).find(|program| allows_everything(program))?;
    Some(format!(
        "rule {id:?} allows {program:?} with any arguments, and through it everything; bound it by args, options or script_commands"
    ))
}

impl Rule {
    fn errors(&self, error: &mut impl FnMut(&str, &str)) {
        if self.id.is_empty() || self.id.len() > 64 {
            error("id", "1 to 64 bytes: it names the rule in answers and logs");
        }
        if self.programs.iter().any(|p| p.is_empty() || p.contains('/')) {
            error("programs", "names without /; for a path use paths");
        }
        if self.paths.iter().any(|p| !p.starts_with('/')) {
            error("paths", "must begin with /");
        }
        if self.cwd.iter().any(|d| !d.starts_with('/')) {
            error("cwd", "must begin with /");
        }
        let wrong = self.options.iter().flatten().find(|spec| !options::is_written_well(spec));
        if let Some(spec) = wrong {
            error(
                "options",
                &format!("{spec:?}: write -abc, -n=, -n=?, -n:, -NUM, --name, --name=, --name=? or --name=2"),
            );
        }
        if self.options.is_none() && (self.max_operands.is_some() || self.operands.is_some()) {
            error("options", "must be named where operands are, if only as []: they say what is an operand");
        }
        let terms = !self.set_env.is_empty() || !self.unset_env.is_empty() || !self.confine.is_empty();
        if self.effect == Effect::Deny && (terms || self.limits.is_some()) {
            error(
                "effect",
                "set_env, unset_env, confine and limits are terms of an allowance; a denial has none",
            );
        }
        if self.effect == Effect::Allow && self.remedy.is_some() {
            error("remedy", "is told to who is denied; an allowance has none");
        }
        if self.set_env.keys().chain(&self.unset_env).any(|name| name.is_empty() || name.contains('=')) {
            error("set_env", "names of variables are not empty and have no =");
        }
        if self.set_env.len() + self.unset_env.len() > 60 {
            error("set_env", "at most 60 changes");
        }
    }
}
