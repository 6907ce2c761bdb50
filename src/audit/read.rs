//! Reading a log back: what was asked, so that it can be asked again, and what was answered then.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::domain::{
    Authority, Call, CallMethod, Command, CommandRequest, Executable, Facts, FileIdentity, Interpreter,
    Origin, Principal, Resolved, Script, SessionId, SessionRequest, Terminal, TerminalSize, Transport,
    UsageCounts, When,
};
use crate::verdict::Ballot;

use super::Fold;
use super::answer::{self, Answers};
use super::verify::{BadLine, files, follow};

/// Members that no replay repeats.
const NOT_REPEATED: [&str; 4] = ["took_us", "version", "module", "settings"];

/// A line about a decision.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its number in the chain.
    pub line: u64,
    /// The whole of it.
    pub entry: Value,
    /// What was asked, when it can be asked again; else why not.
    pub again: Result<Again, &'static str>,
}

/// A question that can be asked again.
#[derive(Debug, Clone)]
pub enum Again {
    /// About a command.
    Command(Box<CommandRequest>),
    /// About a session.
    Session(Box<SessionRequest>),
    /// About a price.
    Call(Box<Call>),
}

/// Reads every line of a log about a decision, oldest first, proving the chain on the way; ends early when `each` has seen enough.
///
/// # Errors
/// The first line that does not fit.
pub fn read(path: &Path, mut each: impl FnMut(Recorded) -> bool) -> Result<(), BadLine> {
    let lines = follow(&files(path), |mut value, head| {
        let entry = value.get_mut("entry").map(Value::take).unwrap_or_default();
        let again = again(&entry);
        each(Recorded { line: head.lines, entry, again })
    });
    lines.map(drop)
}

impl Recorded {
    /// A member as text; empty when it is not there.
    pub fn text(&self, pointer: &str) -> &str {
        self.entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// The review's number within its decision.
    pub fn round(&self) -> u8 {
        self.entry.get("round").and_then(Value::as_u64).and_then(|n| u8::try_from(n).ok()).unwrap_or(1)
    }

    /// What the policies answered then, each by name.
    pub fn answers(&self) -> BTreeMap<String, Value> {
        self.by_policy("policies")
    }

    /// What the rate policies answered then, each by name.
    pub fn charges(&self) -> BTreeMap<String, Value> {
        self.by_policy("charges")
    }

    /// What it came to then: `allow`, `deny`, `changed`, `failed`.
    pub fn outcome(&self) -> &str {
        self.text("/fold/outcome")
    }

    fn by_policy(&self, member: &str) -> BTreeMap<String, Value> {
        let all = self.entry.get(member).and_then(Value::as_array).cloned().unwrap_or_default();
        let named = |mut answer: Value| {
            if let Value::Object(map) = &mut answer {
                map.retain(|name, _| !NOT_REPEATED.contains(&name.as_str()));
            }
            let name = answer.get("policy").and_then(Value::as_str)?.to_owned();
            Some((name, answer))
        };
        all.into_iter().filter_map(named).collect()
    }

    /// The call that the charges were for.
    pub fn call(&self) -> Option<Call> {
        Some(match self.again.as_ref().ok()? {
            Again::Call(call) => (**call).clone(),
            Again::Command(request) => request.call(),
            Again::Session(request) => Call {
                principal: request.principal.clone(),
                origin: request.origin.clone(),
                when: request.when.clone(),
                method: CallMethod::SessionOpen,
                program: None,
            },
        })
    }
}

/// Answers as a line has them, each by the policy's name.
pub fn answers_now<P: Answers>(ballots: &[Ballot<P>]) -> BTreeMap<String, Value> {
    ballots.iter().map(|ballot| (ballot.policy.to_string(), Value::Object(answer::answer(ballot)))).collect()
}

/// What a fold comes to, as a line has it.
pub fn outcome_now(fold: &Fold) -> String {
    let value = answer::fold(fold);
    value.get("outcome").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn again(entry: &Value) -> Result<Again, &'static str> {
    let is = |name: &str| entry.get(name).and_then(Value::as_bool).unwrap_or(false);
    let unreadable = "a member is missing or of another type";
    let hook = entry.get("hook").and_then(Value::as_str).unwrap_or_default();
    if !matches!(hook, "command" | "session" | "rate") {
        return Err("not a decision");
    }
    if is("masked") {
        return Err("masked");
    }
    if is("cut") {
        return Err("cut");
    }
    let request = entry.get("request").and_then(Value::as_object).ok_or(unreadable)?;
    match hook {
        "command" => command(request).map(|r| Again::Command(Box::new(r))),
        "session" => session(request).map(|r| Again::Session(Box::new(r))),
        _ => call(request).map(|r| Again::Call(Box::new(r))),
    }
    .ok_or(unreadable)
}

type Members = Map<String, Value>;

fn string(map: &Members, name: &str) -> Option<String> {
    map.get(name)?.as_str().map(str::to_owned)
}

fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

fn words(value: &Value) -> Option<BTreeMap<String, String>> {
    value.as_object()?.iter().map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

fn principal(map: &Members) -> Option<Arc<Principal>> {
    let of = map.get("principal")?.as_object()?;
    Some(Arc::new(Principal {
        tenant: string(of, "tenant")?.into(),
        subject: string(of, "subject")?.into(),
        groups: strings(of.get("groups")?)?.into_iter().map(Into::into).collect(),
        attributes: words(of.get("attributes")?)?,
        // Policies are not told.
        authority: Authority::Caller,
    }))
}

fn origin(map: &Members) -> Option<Origin> {
    let of = map.get("origin")?.as_object()?;
    let transport = match of.get("transport")?.as_str()? {
        "websocket" => Transport::WebSocket,
        "http" => Transport::Http,
        _ => return None,
    };
    Some(Origin { address: string(of, "address")?.parse().ok()?, transport })
}

fn when(map: &Members) -> Option<When> {
    let of = map.get("when")?.as_object()?;
    Some(When {
        unix_ms: of.get("unix_ms")?.as_u64()?,
        weekday: u8::try_from(of.get("weekday")?.as_u64()?).ok()?,
        minute_of_day: u16::try_from(of.get("minute")?.as_u64()?).ok()?,
        zone: string(of, "zone")?.into(),
    })
}

fn usage(map: &Members) -> Option<UsageCounts> {
    let of = map.get("usage")?.as_object()?;
    let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let pair = |name: &str| {
        let both = of.get(name)?.as_array()?;
        Some((number(both.first()?)?, number(both.get(1)?)?))
    };
    Some(UsageCounts {
        server: pair("server")?,
        tenant: pair("tenant")?,
        subject: pair("subject")?,
        session_jobs: number(of.get("session")?)?,
    })
}

fn executable(of: &Members) -> Option<Executable> {
    let interpreter = match of.get("interpreter")? {
        Value::Object(i) => Some(Interpreter {
            requested: string(i, "requested")?,
            canonical: string(i, "canonical")?,
            identity: FileIdentity { device: 0, inode: 0 },
            argument: string(i, "argument"),
            setuid: i.get("setuid")?.as_bool()?,
        }),
        _ => None,
    };
    Some(Executable {
        requested: string(of, "requested")?,
        found: string(of, "found"),
        canonical: string(of, "canonical")?,
        identity: FileIdentity { device: of.get("device")?.as_u64()?, inode: of.get("inode")?.as_u64()? },
        setuid: of.get("setuid")?.as_bool()?,
        interpreter,
    })
}

fn script(value: &Value) -> Option<Script> {
    Some(Script {
        commands: value.get("commands")?.as_array()?.iter().map(strings).collect::<Option<_>>()?,
        opaque: value.get("opaque")?.as_bool()?,
        reasons: strings(value.get("reasons")?)?,
    })
}

fn command(map: &Members) -> Option<CommandRequest> {
    let variable = |pair: &Value| {
        let pair = pair.as_array()?;
        // A value that no policy was shown does not matter.
        let value = pair.get(1)?.as_str().unwrap_or_default().to_owned();
        Some((pair.first()?.as_str()?.to_owned(), value))
    };
    let env = map.get("env")?.as_array()?.iter().map(variable).collect::<Option<_>>()?;
    let terminal = map.get("terminal")?.as_bool()?;
    let size = TerminalSize::new(24, 80)?;
    let cwd = string(map, "cwd")?;
    let command = Command {
        argv: strings(map.get("argv")?)?,
        cwd: Some(cwd.clone()),
        env,
        terminal: terminal.then(|| Terminal { size, term: String::new() }),
    };
    let script = match map.get("script") {
        None => None,
        Some(value) => Some(script(value)?),
    };
    let facts = Facts { executable: executable(map.get("executable")?.as_object()?)?, cwd, script };
    Some(CommandRequest {
        principal: principal(map)?,
        origin: origin(map)?,
        when: when(map)?,
        session: id(map)?,
        resolved: Resolved { command, facts },
        labels: words(map.get("labels")?)?,
        usage: usage(map)?,
    })
}

fn session(map: &Members) -> Option<SessionRequest> {
    Some(SessionRequest {
        principal: principal(map)?,
        origin: origin(map)?,
        when: when(map)?,
        session: id(map)?,
        labels: words(map.get("labels")?)?,
        usage: usage(map)?,
    })
}

fn call(map: &Members) -> Option<Call> {
    let method = match map.get("method")?.as_str()? {
        "session.open" => CallMethod::SessionOpen,
        "job.start" => CallMethod::JobStart,
        _ => return None,
    };
    let program = string(map, "program");
    Some(Call { principal: principal(map)?, origin: origin(map)?, when: when(map)?, method, program })
}

fn id(map: &Members) -> Option<SessionId> {
    string(map, "session")?.parse().ok()
}
