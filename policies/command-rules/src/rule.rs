//! A rule: what it matches and what it decides.
//!
//! It matches when everything it names matches. For an allowance it must match the interpreter of a `#!` script too;
//! for a denial either is enough, and so is a command that the script of a shell would run.

use std::collections::BTreeMap;

use execgate_policy_sdk::Limits;
use execgate_policy_sdk::prelude::*;

use crate::options;
use crate::pattern::{are_like, is_below, is_like, is_like_any, last_part};

/// One rule.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// Names it in answers and logs.
    pub(crate) id: String,
    /// What it decides.
    pub(crate) effect: Effect,
    /// Of one of these tenants; none named: of any.
    #[serde(default)]
    tenants: Vec<String>,
    /// One of these subjects; none named: any.
    #[serde(default)]
    subjects: Vec<String>,
    /// In one of these groups; none named: in any or none.
    #[serde(default)]
    groups: Vec<String>,
    /// With each of these attributes like one of its patterns.
    #[serde(default)]
    attributes: BTreeMap<String, Vec<String>>,
    /// With each of these labels like one of its patterns. Labels are the client's word: good for being stricter, never for trusting.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, Vec<String>>,
    /// Programs by name: the last part of the path found on the server's PATH.
    #[serde(default)]
    pub(crate) programs: Vec<String>,
    /// Programs by canonical path; `*` stands for any part of it.
    #[serde(default)]
    pub(crate) paths: Vec<String>,
    /// What may run a `#!` script that this rule allows: names, or canonical paths with `*`. As programs they are not allowed by this.
    #[serde(default)]
    interpreters: Vec<String>,
    /// Patterns for the arguments, one list an alternative: one pattern an argument, `**` for any further ones.
    args: Option<Vec<Vec<String>>>,
    /// The options it may be given, spelled in full: `-abc`, `-n=`, `-n=?`, `-n:`, `-NUM`, `--name`, `--name=`, `--name=?`, `--name=2`.
    pub(crate) options: Option<Vec<String>>,
    /// With `options`: patterns, one of which every operand is like.
    pub(crate) operands: Option<Vec<String>>,
    /// With `options`: most operands.
    pub(crate) max_operands: Option<u32>,
    /// Directories, one of which the working directory is or lies below.
    #[serde(default)]
    pub(crate) cwd: Vec<String>,
    /// Patterns, one of which every variable of the environment is like.
    env_only: Option<Vec<String>>,
    /// Patterns, one of which some variable of the environment is like.
    env_any: Option<Vec<String>>,
    /// With a terminal, or without.
    terminal: Option<bool>,
    /// With a script that cannot be looked into, or without.
    opaque: Option<bool>,
    /// With a script that is wholly known and runs only these programs.
    script_commands: Option<Vec<String>>,
    /// What to tell who is denied.
    pub(crate) remedy: Option<String>,
    /// Variables to set.
    #[serde(default)]
    pub(crate) set_env: BTreeMap<String, String>,
    /// Variables to remove.
    #[serde(default)]
    pub(crate) unset_env: Vec<String>,
    /// Confinement profiles to add.
    #[serde(default)]
    pub(crate) confine: Vec<String>,
    /// Limits of the job.
    pub(crate) limits: Option<Limits>,
}

/// What a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Effect {
    /// It may run.
    Allow,
    /// It may not.
    Deny,
}

impl Rule {
    /// Whether it is about this command.
    pub(crate) fn matches(&self, request: &CommandRequest) -> bool {
        self.is_for_caller(request)
            && self.is_for_place(request)
            && self.is_for_script(request)
            && self.is_for_command(request)
    }

    /// Whether it says anything about arguments, or about what a script may run.
    pub(crate) const fn bounds_arguments(&self) -> bool {
        self.args.is_some() || self.options.is_some() || self.script_commands.is_some()
    }

    fn is_for_caller(&self, request: &CommandRequest) -> bool {
        let who = &request.principal;
        let of = |named: &[String], value: &String| named.is_empty() || named.contains(value);
        let group = self.groups.is_empty() || who.groups.iter().any(|group| self.groups.contains(group));
        of(&self.tenants, &who.tenant)
            && of(&self.subjects, &who.subject)
            && group
            && are_named(&self.attributes, &who.attributes)
            && are_named(&self.labels, &request.labels)
    }

    fn is_for_place(&self, request: &CommandRequest) -> bool {
        let cwd = self.cwd.is_empty() || self.cwd.iter().any(|root| is_below(&request.cwd, root));
        let terminal = self.terminal.is_none_or(|wanted| wanted == request.terminal);
        let names = || request.env.iter().map(|variable| variable.name.as_str());
        // What this rule sets is there when the changed command is reviewed, whatever it was before.
        let only = self.env_only.as_ref().is_none_or(|patterns| {
            names().all(|name| self.set_env.contains_key(name) || is_like_any(name, patterns))
        });
        let any =
            self.env_any.as_ref().is_none_or(|patterns| names().any(|name| is_like_any(name, patterns)));
        cwd && terminal && only && any
    }

    fn is_for_script(&self, request: &CommandRequest) -> bool {
        let is_opaque = request.script.as_ref().is_some_and(|script| script.opaque);
        let commands = self.script_commands.as_ref().is_none_or(|allowed| {
            let runs =
                |command: &Vec<String>| command.first().is_some_and(|program| allowed.contains(program));
            request.script.as_ref().is_some_and(|script| !script.opaque && script.commands.iter().all(runs))
        });
        self.opaque.is_none_or(|wanted| wanted == is_opaque) && commands
    }

    fn is_for_command(&self, request: &CommandRequest) -> bool {
        let arguments = request.argv.get(1..).unwrap_or_default();
        let own = self.is_for_program(&request.executable) && self.is_for_arguments(arguments);
        own || (self.effect == Effect::Deny && self.is_for_a_scripted_command(request))
    }

    fn is_for_a_scripted_command(&self, request: &CommandRequest) -> bool {
        let mut commands = request.script.iter().flat_map(|script| &script.commands);
        commands.any(|command| {
            command.split_first().is_some_and(|(program, arguments)| {
                self.programs.iter().any(|p| p == last_part(program)) && self.is_for_arguments(arguments)
            })
        })
    }

    fn is_for_program(&self, executable: &Executable) -> bool {
        if self.programs.is_empty() && self.paths.is_empty() {
            return true;
        }
        let program = self.names(executable);
        match (&executable.interpreter, self.effect) {
            (None, _) => program,
            (Some(interpreter), Effect::Allow) => program && self.names_interpreter(interpreter),
            (Some(interpreter), Effect::Deny) => program || self.names_interpreter(interpreter),
        }
    }

    /// Whether it says this program, by name or path.
    pub(crate) fn names(&self, executable: &Executable) -> bool {
        let named = |path: &str| self.programs.iter().any(|p| p == last_part(path));
        let by_name = executable.found.as_deref().is_some_and(named);
        // A denial by name holds for the file by whatever name it was called.
        let by_file =
            self.effect == Effect::Deny && (named(&executable.canonical) || named(&executable.requested));
        by_name || by_file || self.paths.iter().any(|pattern| is_like(&executable.canonical, pattern))
    }

    fn names_interpreter(&self, interpreter: &Interpreter) -> bool {
        let named = |path: &str| self.programs.iter().any(|p| p == last_part(path));
        let canonical = interpreter.canonical.as_str();
        let listed = |pattern: &String| {
            pattern == last_part(canonical) || (pattern.starts_with('/') && is_like(canonical, pattern))
        };
        named(&interpreter.canonical)
            || named(&interpreter.requested)
            || self.interpreters.iter().any(listed)
            || self.paths.iter().any(|pattern| is_like(&interpreter.canonical, pattern))
    }

    fn is_for_arguments(&self, arguments: &[String]) -> bool {
        let by_pattern = self
            .args
            .as_ref()
            .is_none_or(|alternatives| alternatives.iter().any(|patterns| are_like(arguments, patterns)));
        by_pattern && self.options.as_ref().is_none_or(|allowed| self.are_allowed(allowed, arguments))
    }

    fn are_allowed(&self, allowed: &[String], arguments: &[String]) -> bool {
        let Ok(read) = options::read(allowed, arguments) else { return false };
        let few = self.max_operands.is_none_or(|most| read.operands.len() <= most as usize);
        let known = self
            .operands
            .as_ref()
            .is_none_or(|patterns| read.operands.iter().all(|operand| is_like_any(operand, patterns)));
        few && known
    }

    /// What it decides about a command that it matches.
    pub(crate) fn decide(&self, request: &CommandRequest) -> Result<Permission, Denial> {
        match self.effect {
            Effect::Allow => Ok(self.permission()),
            Effect::Deny => {
                let message = format!("the rule {:?} denies {:?}", self.id, request.executable.requested);
                let remedy = self.remedy.as_deref().unwrap_or("ask the operator about this rule");
                Err(Denial::new(&self.id, "rule", message).remedy(remedy))
            }
        }
    }

    fn permission(&self) -> Permission {
        let mut permission = Permission::by(&self.id);
        for (name, value) in &self.set_env {
            permission.set_env(name, value);
        }
        permission.changes.extend(self.unset_env.iter().cloned().map(Change::UnsetEnv));
        permission.confine.clone_from(&self.confine);
        permission.limits = self.limits.map(Into::into).unwrap_or_default();
        permission
    }
}

/// Whether each of the wanted names is there with a value like one of its patterns.
fn are_named(wanted: &BTreeMap<String, Vec<String>>, there: &[(String, String)]) -> bool {
    wanted
        .iter()
        .all(|(name, patterns)| there.iter().any(|(key, value)| key == name && is_like_any(value, patterns)))
}
