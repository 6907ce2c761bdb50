//! From a case to what a gateway would ask.

use std::net::IpAddr;
use std::sync::Arc;

use crate::domain::{
    Authority, Call, CallMethod, Command, CommandRequest, Executable, FileIdentity, Interpreter, Origin,
    Principal, Resolved, Script, SessionId, SessionRequest, Terminal, TerminalSize, Transport, UsageCounts,
    When,
};
use crate::facts;

use super::case::{Case, Hook, InterpreterCase};

const UNKNOWN: FileIdentity = FileIdentity { device: 0, inode: 0 };

impl Case {
    /// # Errors
    /// What makes no sense about it.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.hook == Hook::Command && self.argv.is_empty() {
            return Err("a command needs argv".to_owned());
        }
        if self.address.parse::<IpAddr>().is_err() {
            return Err(format!("{:?} is no IP address", self.address));
        }
        if self.transport().is_none() {
            return Err(format!("{:?} is no transport; there are websocket and http", self.transport));
        }
        if self.method().is_none() {
            return Err(format!("{:?} costs nothing; there are job.start and session.open", self.method));
        }
        if !(1..=7).contains(&self.when.weekday) || self.when.minute > 1439 {
            return Err("when: weekday is 1 (Monday) to 7, minute is 0 to 1439".to_owned());
        }
        Ok(())
    }

    fn transport(&self) -> Option<Transport> {
        [Transport::WebSocket, Transport::Http].into_iter().find(|t| t.as_str() == self.transport)
    }

    fn method(&self) -> Option<CallMethod> {
        [CallMethod::JobStart, CallMethod::SessionOpen].into_iter().find(|m| m.as_str() == self.method)
    }

    fn principal(&self) -> Arc<Principal> {
        Arc::new(Principal {
            tenant: self.tenant.as_str().into(),
            subject: self.subject.as_str().into(),
            groups: self.groups.iter().map(|g| g.as_str().into()).collect(),
            attributes: self.attributes.clone(),
            authority: Authority::Caller,
        })
    }

    fn origin(&self) -> Origin {
        Origin {
            address: self.address.parse().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
            transport: self.transport().unwrap_or(Transport::WebSocket),
        }
    }

    fn when(&self) -> When {
        let when = &self.when;
        When {
            unix_ms: when.unix_ms,
            weekday: when.weekday,
            minute_of_day: when.minute,
            zone: when.zone.as_str().into(),
        }
    }

    const fn usage(&self) -> UsageCounts {
        let usage = self.usage;
        UsageCounts {
            server: (usage.server_sessions, usage.server_jobs),
            tenant: (usage.tenant_sessions, usage.tenant_jobs),
            subject: (usage.subject_sessions, usage.subject_jobs),
            session_jobs: usage.session_jobs,
        }
    }

    /// The command with its facts.
    pub(super) fn resolved(&self) -> Resolved {
        let terminal = TerminalSize::new(24, 80).filter(|_| self.terminal);
        let command = Command {
            argv: self.argv.clone(),
            cwd: Some(self.cwd.clone()),
            env: self.env.clone(),
            terminal: terminal.map(|size| Terminal { size, term: "xterm".to_owned() }),
        };
        let mut executable = executable(command.program());
        if let Some(found) = &self.found {
            executable.found = Some(found.clone());
            executable.canonical.clone_from(found);
        }
        if let Some(canonical) = &self.canonical {
            executable.canonical.clone_from(canonical);
        }
        executable.setuid = self.setuid;
        executable.interpreter = self.interpreter.as_ref().map(interpreter);
        let mut resolved = facts::resolve(command, executable, self.cwd.clone());
        if let Some(script) = &self.script {
            resolved.facts.script = Some(Script {
                commands: script.commands.clone(),
                opaque: script.opaque,
                reasons: script.reasons.clone(),
            });
        }
        resolved
    }

    /// A command as it is reviewed.
    pub(super) fn command(&self, resolved: Resolved) -> CommandRequest {
        CommandRequest {
            principal: self.principal(),
            origin: self.origin(),
            when: self.when(),
            session: SessionId::from_bits(0),
            resolved,
            labels: self.labels.clone(),
            usage: self.usage(),
        }
    }

    pub(super) fn session(&self) -> SessionRequest {
        SessionRequest {
            principal: self.principal(),
            origin: self.origin(),
            when: self.when(),
            session: SessionId::from_bits(0),
            labels: self.labels.clone(),
            usage: self.usage(),
        }
    }

    pub(super) fn call(&self) -> Call {
        Call {
            principal: self.principal(),
            origin: self.origin(),
            when: self.when(),
            method: self.method().unwrap_or(CallMethod::JobStart),
            program: self.program.clone().or_else(|| self.argv.first().cloned()),
        }
    }
}

/// A program as a host would find it: a name in /usr/bin, a path where it says.
fn executable(requested: &str) -> Executable {
    let found = (!requested.contains('/')).then(|| format!("/usr/bin/{requested}"));
    Executable {
        requested: requested.to_owned(),
        canonical: found.clone().unwrap_or_else(|| requested.to_owned()),
        found,
        identity: UNKNOWN,
        setuid: false,
        interpreter: None,
    }
}

/// The facts of a command that policy changed.
pub(super) fn changed(command: &Command, before: &Resolved) -> Resolved {
    let executable = if command.program() == before.command.program() {
        before.facts.executable.clone()
    } else {
        executable(command.program())
    };
    let cwd = command.cwd.clone().unwrap_or_default();
    facts::resolve(command.clone(), executable, cwd)
}

fn interpreter(case: &InterpreterCase) -> Interpreter {
    let (requested, canonical, argument, setuid) = match case.clone() {
        InterpreterCase::Path(path) => (path.clone(), path, None, false),
        InterpreterCase::Full { requested, canonical, argument, setuid } => {
            (requested.unwrap_or_else(|| canonical.clone()), canonical, argument, setuid)
        }
    };
    Interpreter { requested, canonical, identity: UNKNOWN, argument, setuid }
}
