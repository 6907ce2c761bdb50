//! From a case to the records that the hooks are asked with.

use crate::types::{
    Call, Change, CommandRequest, Executable, Interpreter, Origin, Principal, Script, SessionRequest, Usage,
    Variable, When,
};

use super::case::{Case, InterpreterCase, ScriptCase, UsageCase, WhenCase};

const SESSION: &str = "s_00000000000000000000000000000000";

impl Case {
    fn principal(&self) -> Principal {
        Principal {
            tenant: self.tenant.clone(),
            subject: self.subject.clone(),
            groups: self.groups.clone(),
            attributes: self.attributes.clone().into_iter().collect(),
        }
    }

    fn origin(&self) -> Origin {
        Origin { address: self.address.clone(), transport: self.transport.clone() }
    }

    /// The request of the command hook.
    pub(super) fn command(&self) -> CommandRequest {
        let requested = self.argv.first().cloned().unwrap_or_default();
        let mut executable = executable(&requested);
        if self.found.is_some() {
            executable.found.clone_from(&self.found);
            executable.canonical = self.found.clone().unwrap_or_default();
        }
        if let Some(canonical) = &self.canonical {
            executable.canonical.clone_from(canonical);
        }
        executable.setuid = self.setuid;
        executable.interpreter = self.interpreter.as_ref().map(interpreter);
        let env = self.env.keys().map(|name| Variable { name: name.clone(), value: None });
        CommandRequest {
            principal: self.principal(),
            origin: self.origin(),
            when: when(&self.when),
            session: SESSION.to_owned(),
            executable,
            argv: self.argv.clone(),
            cwd: self.cwd.clone(),
            env: env.collect(),
            terminal: self.terminal,
            script: self.script.as_ref().map(script),
            labels: self.labels.clone().into_iter().collect(),
            usage: usage(self.usage),
            attributes: Vec::new(),
        }
    }

    /// The request of the session hook.
    pub(super) fn session(&self) -> SessionRequest {
        SessionRequest {
            principal: self.principal(),
            origin: self.origin(),
            when: when(&self.when),
            session: SESSION.to_owned(),
            labels: self.labels.clone().into_iter().collect(),
            usage: usage(self.usage),
            attributes: Vec::new(),
        }
    }

    /// The call of the rate hook.
    pub(super) fn call(&self) -> Call {
        Call {
            principal: self.principal(),
            origin: self.origin(),
            when: when(&self.when),
            method: self.method.clone(),
            program: self.program.clone().or_else(|| self.argv.first().cloned()),
            attributes: Vec::new(),
        }
    }
}

/// A command of which nothing is said but the words.
pub(super) fn plain(argv: &[&str]) -> CommandRequest {
    let words = argv.iter().map(|word| serde_json::Value::from(*word)).collect::<Vec<_>>();
    let case = serde_json::json!({"name": "", "expect": "allow", "argv": words});
    match serde_json::from_value::<Case>(case) {
        Ok(case) => case.command(),
        Err(error) => panic!("a case of mere words: {error}"),
    }
}

fn when(case: &WhenCase) -> When {
    When { unix_ms: case.unix_ms, weekday: case.weekday, minute_of_day: case.minute, zone: case.zone.clone() }
}

const fn usage(case: UsageCase) -> Usage {
    Usage {
        server_sessions: case.server_sessions,
        server_jobs: case.server_jobs,
        tenant_sessions: case.tenant_sessions,
        tenant_jobs: case.tenant_jobs,
        subject_sessions: case.subject_sessions,
        subject_jobs: case.subject_jobs,
        session_jobs: case.session_jobs,
    }
}

fn script(case: &ScriptCase) -> Script {
    Script { commands: case.commands.clone(), opaque: case.opaque, reasons: case.reasons.clone() }
}

fn executable(requested: &str) -> Executable {
    let found = (!requested.contains('/')).then(|| format!("/usr/bin/{requested}"));
    Executable {
        requested: requested.to_owned(),
        canonical: found.clone().unwrap_or_else(|| requested.to_owned()),
        found,
        setuid: false,
        interpreter: None,
    }
}

fn interpreter(case: &InterpreterCase) -> Interpreter {
    match case.clone() {
        InterpreterCase::Path(path) => {
            Interpreter { requested: path.clone(), canonical: path, argument: None, setuid: false }
        }
        InterpreterCase::Full { requested, canonical, argument, setuid } => Interpreter {
            requested: requested.unwrap_or_else(|| canonical.clone()),
            canonical,
            argument,
            setuid,
        },
    }
}

/// The command after the changes, as it is reviewed once more.
pub(super) fn changed(request: &CommandRequest, changes: &[Change]) -> CommandRequest {
    let mut request = request.clone();
    for change in changes {
        match change {
            Change::SetProgram(program) => {
                request.executable = executable(program);
                if let Some(first) = request.argv.first_mut() {
                    first.clone_from(program);
                }
            }
            Change::SetArg((index, value)) => {
                if let Some(argument) = request.argv.get_mut(*index as usize) {
                    argument.clone_from(value);
                }
            }
            Change::SetEnv((name, _)) => {
                if request.env.iter().all(|variable| variable.name != *name) {
                    request.env.push(Variable { name: name.clone(), value: None });
                }
            }
            Change::UnsetEnv(name) => request.env.retain(|variable| variable.name != *name),
            Change::SetCwd(cwd) => request.cwd.clone_from(cwd),
        }
    }
    request
}

/// A change as tables write it.
pub(super) fn written(change: &Change) -> String {
    match change {
        Change::SetProgram(program) => format!("set-program {program}"),
        Change::SetArg((index, value)) => format!("set-arg {index}={value}"),
        Change::SetEnv((name, value)) => format!("set-env {name}={value}"),
        Change::UnsetEnv(name) => format!("unset-env {name}"),
        Change::SetCwd(cwd) => format!("set-cwd {cwd}"),
    }
}
