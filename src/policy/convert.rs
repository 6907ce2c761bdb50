//! Between the house's words and the interfaces', both ways. Answers are bounded and checked: what makes no sense is no answer.

use std::time::Duration;

use crate::domain::{self, Call, CommandRequest, Origin, Principal, SessionRequest, When};
use crate::verdict::{Admission, Change, Denial, Permission, Verdict};

use super::bindings::execgate::policy::types as wit;
use super::bindings::exports::execgate::policy::{command, rate, session};

/// An answer that makes no sense, and why.
#[derive(Debug)]
pub(super) struct Nonsense(pub(super) String);

/// Longest text in an answer, bytes.
const TEXT: usize = 4096;
/// Longest list in an answer.
const LIST: usize = 64;
/// Most charges of one policy for one call.
const CHARGES: usize = 8;

type Sense<T> = Result<T, Nonsense>;

fn nonsense<T>(what: impl Into<String>) -> Sense<T> {
    Err(Nonsense(what.into()))
}

fn text(text: String, what: &str) -> Sense<String> {
    if text.len() > TEXT { nonsense(format!("{what} of {} bytes", text.len())) } else { Ok(text) }
}

fn list<T>(list: Vec<T>, most: usize, what: &str) -> Sense<Vec<T>> {
    if list.len() > most { nonsense(format!("{} {what}", list.len())) } else { Ok(list) }
}

fn texts(items: Vec<String>, what: &str) -> Sense<Vec<String>> {
    list(items, LIST, what)?.into_iter().map(|item| text(item, what)).collect()
}

fn principal(principal: &Principal) -> wit::Principal {
    wit::Principal {
        tenant: principal.tenant.to_string(),
        subject: principal.subject.to_string(),
        groups: principal.groups.iter().map(ToString::to_string).collect(),
        attributes: principal.attributes.clone().into_iter().collect(),
    }
}

fn origin(origin: &Origin) -> wit::Origin {
    wit::Origin { address: origin.address.to_string(), transport: origin.transport.as_str().to_owned() }
}

fn when(when: &When) -> wit::When {
    wit::When {
        unix_ms: when.unix_ms,
        weekday: when.weekday,
        minute_of_day: when.minute_of_day,
        zone: when.zone.to_string(),
    }
}

const fn usage(usage: domain::UsageCounts) -> wit::Usage {
    wit::Usage {
        server_sessions: usage.server.0,
        server_jobs: usage.server.1,
        tenant_sessions: usage.tenant.0,
        tenant_jobs: usage.tenant.1,
        subject_sessions: usage.subject.0,
        subject_jobs: usage.subject.1,
        session_jobs: usage.session_jobs,
    }
}

/// A command as a guest sees it; values of the environment only where granted.
pub(super) fn command_request(request: &CommandRequest, grants: &[String]) -> command::CommandRequest {
    let domain::Resolved { command: asked, facts } = &request.resolved;
    let executable = &facts.executable;
    let granted = |name: &str| {
        grants
            .iter()
            .any(|grant| grant.strip_suffix('*').map_or(grant == name, |prefix| name.starts_with(prefix)))
    };
    let variable = |(name, value): (&String, &String)| command::Variable {
        name: name.clone(),
        value: granted(name).then(|| value.clone()),
    };
    command::CommandRequest {
        principal: principal(&request.principal),
        origin: origin(&request.origin),
        when: when(&request.when),
        session: request.session.to_string(),
        executable: command::Executable {
            requested: executable.requested.clone(),
            found: executable.found.clone(),
            canonical: executable.canonical.clone(),
            setuid: executable.setuid,
            interpreter: executable.interpreter.as_ref().map(|i| command::Interpreter {
                requested: i.requested.clone(),
                canonical: i.canonical.clone(),
                argument: i.argument.clone(),
                setuid: i.setuid,
            }),
        },
        argv: asked.argv.clone(),
        cwd: facts.cwd.clone(),
        env: asked.env.iter().map(variable).collect(),
        terminal: asked.terminal.is_some(),
        script: facts.script.as_ref().map(|script| command::Script {
            commands: script.commands.clone(),
            opaque: script.opaque,
            reasons: script.reasons.clone(),
        }),
        labels: request.labels.clone().into_iter().collect(),
        usage: usage(request.usage),
        attributes: Vec::new(),
    }
}

/// A session as a guest sees it.
pub(super) fn session_request(request: &SessionRequest) -> session::SessionRequest {
    session::SessionRequest {
        principal: principal(&request.principal),
        origin: origin(&request.origin),
        when: when(&request.when),
        session: request.session.to_string(),
        labels: request.labels.clone().into_iter().collect(),
        usage: usage(request.usage),
        attributes: Vec::new(),
    }
}

/// A call as a guest sees it.
pub(super) fn call(call: &Call) -> rate::Call {
    rate::Call {
        principal: principal(&call.principal),
        origin: origin(&call.origin),
        when: when(&call.when),
        method: call.method.as_str().to_owned(),
        program: call.program.clone(),
        attributes: Vec::new(),
    }
}

fn denial(denial: wit::Denial) -> Sense<Denial> {
    Ok(Denial {
        code: text(denial.code, "denial code")?,
        message: text(denial.message, "denial message")?,
        remedy: denial.remedy.map(|remedy| text(remedy, "remedy")).transpose()?,
        rules: texts(denial.rules, "denying rules")?,
    })
}

fn claims(items: Vec<wit::Claim>) -> Sense<Vec<domain::Claim>> {
    let claim = |claim: wit::Claim| {
        let scope = match claim.scope {
            wit::Scope::Server => domain::Scope::Server,
            wit::Scope::Tenant => domain::Scope::Tenant,
            wit::Scope::Subject => domain::Scope::Subject,
            wit::Scope::Group(name) => domain::Scope::Group(text(name, "group name")?),
            wit::Scope::Session => domain::Scope::Session,
        };
        let what = match claim.what {
            wit::Counted::Sessions => domain::Counted::Sessions,
            wit::Counted::Jobs => domain::Counted::Jobs,
        };
        if (&scope, what) == (&domain::Scope::Session, domain::Counted::Sessions) {
            return nonsense("a claim on the sessions of a session");
        }
        Ok(domain::Claim { scope, what, max: claim.max })
    };
    list(items, LIST, "claims")?.into_iter().map(claim).collect()
}

fn limits(limits: wit::JobLimits) -> domain::JobLimits {
    domain::JobLimits {
        wall: limits.wall_ms.map(Duration::from_millis),
        cpu: limits.cpu_ms.map(Duration::from_millis),
        memory: limits.memory_bytes,
        processes: limits.processes,
        output: limits.output_bytes,
        file_size: limits.file_size_bytes,
        open_files: limits.open_files,
        nice: None,
    }
}

fn change(change: command::Change) -> Sense<Change> {
    let word = |word| text(word, "change");
    Ok(match change {
        command::Change::SetProgram(program) => Change::SetProgram(word(program)?),
        command::Change::SetArg((index, value)) => Change::SetArg { index, value: word(value)? },
        command::Change::SetEnv((name, value)) => Change::SetEnv { name: word(name)?, value: word(value)? },
        command::Change::UnsetEnv(name) => Change::UnsetEnv(word(name)?),
        command::Change::SetCwd(cwd) => Change::SetCwd(word(cwd)?),
    })
}

/// A command policy's answer.
pub(super) fn command_verdict(answer: command::CommandVerdict) -> Sense<Verdict<Permission>> {
    Ok(match answer {
        command::CommandVerdict::Abstain => Verdict::Abstain,
        command::CommandVerdict::Deny(answer) => Verdict::Deny(denial(answer)?),
        command::CommandVerdict::Allow(answer) => Verdict::Allow(Permission {
            rules: texts(answer.rules, "allowing rules")?,
            changes: list(answer.changes, LIST, "changes")?.into_iter().map(change).collect::<Sense<_>>()?,
            limits: limits(answer.limits),
            claims: claims(answer.claims)?,
            confine: texts(answer.confine, "profiles")?,
        }),
    })
}

/// A session policy's answer.
pub(super) fn session_verdict(answer: session::SessionVerdict) -> Sense<Verdict<Admission>> {
    Ok(match answer {
        session::SessionVerdict::Abstain => Verdict::Abstain,
        session::SessionVerdict::Deny(answer) => Verdict::Deny(denial(answer)?),
        session::SessionVerdict::Allow(answer) => Verdict::Allow(Admission {
            rules: texts(answer.rules, "admitting rules")?,
            claims: claims(answer.claims)?,
            grant: domain::SessionGrant {
                max_jobs: answer.max_jobs,
                max_duration: answer.max_duration_ms.map(Duration::from_millis),
                idle: answer.idle_ms.map(Duration::from_millis),
                detach_ttl: answer.detach_ttl_ms.map(Duration::from_millis),
                job_limits: limits(answer.job_limits),
            },
        }),
    })
}

/// A rate policy's answer: allowed at a price, or denied.
pub(super) fn charges(answer: Result<Vec<rate::Charge>, wit::Denial>) -> Sense<Verdict<Vec<domain::Charge>>> {
    let charge = |charge: rate::Charge| {
        let quota = domain::Quota {
            burst: charge.quota.burst,
            count: charge.quota.count,
            period: Duration::from_millis(charge.quota.period_ms),
        };
        if quota.burst == 0 || quota.count == 0 || quota.period.is_zero() || charge.cost > quota.burst {
            return nonsense(format!("a charge of {} against {quota:?}", charge.cost));
        }
        let (bucket, rule) = (text(charge.bucket, "bucket name")?, text(charge.rule, "rule name")?);
        Ok(domain::Charge { bucket, cost: charge.cost, quota, rule })
    };
    match answer {
        Err(answer) => Ok(Verdict::Deny(denial(answer)?)),
        Ok(answer) => {
            let charges = list(answer, CHARGES, "charges")?.into_iter().map(charge).collect::<Sense<_>>()?;
            Ok(Verdict::Allow(charges))
        }
    }
}
