//! From a file to a policy that is ready to decide, or a message that says what to change.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rustix::time::ClockId;
use sha2::{Digest as _, Sha256};
use wasmparser::Payload;
use wasmtime::Engine;
use wasmtime::component::{Component, HasSelf, InstancePre, Linker};

use super::bindings::execgate::policy::{log, types};
use super::bindings::exports::execgate::policy::{command, plugin, rate, session};
use super::engine::{Bounds, Guest, MAX_MEMORY, Machine, OverBudget, cpu_time};
use super::settings::{Module, PolicySettings};
use super::snapshot::{self, Taken};

/// Largest module, bytes.
const MAX_MODULE: u64 = 4 * 1024 * 1024;
/// How long checking, configuring and compiling one module may take, by the clock and in CPU time of the whole process (for others
/// may have the processors, and the compiler has threads of its own); then the load is reported failed, and the thread left to
/// finish.
const LOAD_TIME: Duration = Duration::from_secs(10);
/// CPU time for `describe` and `configure`, which happen once.
const CONFIGURE: Duration = Duration::from_secs(2);
/// The package that policies may import from and must export to.
const PACKAGE: &str = "execgate:policy/";
/// Its version.
const VERSION: &str = "@1.0.0";

/// The modules shipped with this program.
const SHIPPED: [(&str, &[u8]); 3] = [
    ("command-rules", include_bytes!(concat!(env!("OUT_DIR"), "/command_rules.wasm"))),
    ("session-quota", include_bytes!(concat!(env!("OUT_DIR"), "/session_quota.wasm"))),
    ("rate-limit", include_bytes!(concat!(env!("OUT_DIR"), "/rate_limit.wasm"))),
];

/// A policy that cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[error("policy {policy:?}: {fault}")]
pub struct LoadFailure {
    /// Its name.
    pub policy: String,
    /// What is wrong with it.
    pub fault: PolicyFault,
}

/// What is wrong with a policy, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFault {
    /// No such shipped policy.
    #[error(
        "there is no built-in {0:?}; there are builtin:command-rules, builtin:session-quota and builtin:rate-limit"
    )]
    NoBuiltin(String),
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the kernel says.
        error: std::io::Error,
    },
    /// Too large.
    #[error("the module has more than 4 MiB; build it for release and strip it")]
    TooLarge,
    /// The digest differs from the pinned one.
    #[error("the module's sha256 is {0}, not the pinned one; if the change was meant, pin this one")]
    OtherDigest(String),
    /// Not WebAssembly, or native code.
    #[error(
        "not a WebAssembly module or component ({0}); give the .wasm that `cargo build --release --target wasm32-unknown-unknown` makes, never precompiled code"
    )]
    NotWasm(String),
    /// A core module that is no policy.
    #[error(
        "the module is not built from the execgate:policy interfaces ({0}); implement a world of execgate:policy@1.0.0 with the SDK"
    )]
    NotAPolicy(String),
    /// It imports what it may not.
    #[error("the module imports {0:?}, and a policy may import nothing but execgate:policy/log@1.0.0; {1}")]
    Import(String, &'static str),
    /// It lacks an export.
    #[error("the module does not export {0}; implement it and export the policy with the SDK's export macro")]
    MissingExport(&'static str),
    /// The settings are wrong.
    #[error("its settings are wrong: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// It broke while it described or configured itself.
    #[error("it broke while being {0}: {1}")]
    Broke(&'static str, String),
    /// It needs more memory than its cap.
    #[error("its memory cap is above 256MiB, the most a policy can be given")]
    Memory,
    /// It does not compile.
    #[error("it cannot be compiled: {0}")]
    Compile(String),
    /// A zone that this host does not know.
    #[error(
        "policies.zone: there is no time zone {0:?} on this host; give an IANA name such as \"Europe/Berlin\", and install tzdata for any but \"UTC\""
    )]
    NoZone(String),
    /// It took too long.
    #[error("checking and compiling it took more than 10 s of CPU time; make it smaller")]
    Late,
}

/// The hooks a policy has.
#[derive(Clone)]
pub(super) struct Hooks {
    pub(super) plugin: plugin::GuestIndices,
    pub(super) command: Option<command::GuestIndices>,
    pub(super) session: Option<session::GuestIndices>,
    pub(super) rate: Option<rate::GuestIndices>,
}

/// What a module says and is.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// Its own name.
    pub module: String,
    /// Its own version.
    pub version: String,
    /// One line.
    pub summary: String,
    /// JSON Schema of its settings.
    pub schema: String,
    /// `command`, `session`, `rate`.
    pub hooks: Vec<String>,
    /// What it imports.
    pub imports: Vec<String>,
    /// SHA-256 of the file, hexadecimal.
    pub digest: String,
    /// Size of the file, bytes.
    pub size: u64,
    /// Decisions begin from a configured snapshot; else why not.
    pub snapshot: Result<(), String>,
}

/// A policy that is ready to decide.
#[derive(Clone)]
pub(super) struct Ready {
    pub(super) pre: InstancePre<Guest>,
    pub(super) hooks: Hooks,
    pub(super) inspected: Inspected,
    /// To be configured with for every decision, when there is no snapshot.
    pub(super) configure: Option<String>,
}

/// Loads one policy on a thread of its own.
pub(super) fn load(machine: &Machine, settings: &PolicySettings) -> Result<Ready, LoadFailure> {
    let failed = |fault| LoadFailure { policy: settings.name.clone(), fault };
    let bytes = read(&settings.module).map_err(failed)?;
    let digest = format!("{:x}", Sha256::digest(&bytes));
    if settings.sha256.as_ref().is_some_and(|pinned| !pinned.eq_ignore_ascii_case(&digest)) {
        return Err(failed(PolicyFault::OtherDigest(digest)));
    }
    let memory = usize::try_from(settings.memory)
        .ok()
        .filter(|m| *m <= MAX_MEMORY)
        .ok_or_else(|| failed(PolicyFault::Memory))?;
    let bounds = Bounds { budget: CONFIGURE, memory };
    let (machine, text) = (machine.clone(), settings.settings.clone());
    let (done, outcome) = sync_channel(1);
    let work = move || {
        // Nobody waits any more when it took too long.
        let _ = done.send(prepare(&machine, &bytes, digest, &text, bounds));
    };
    let thread = std::thread::Builder::new().name("policy-load".to_owned());
    thread.spawn(work).map_err(|e| failed(PolicyFault::Compile(e.to_string())))?;
    let begun = cpu_time(ClockId::ProcessCPUTime);
    let spent = || cpu_time(ClockId::ProcessCPUTime).saturating_sub(begun);
    loop {
        return match outcome.recv_timeout(LOAD_TIME) {
            Ok(outcome) => outcome.map_err(failed),
            Err(RecvTimeoutError::Timeout) if spent() < LOAD_TIME => continue,
            Err(RecvTimeoutError::Timeout) => Err(failed(PolicyFault::Late)),
            Err(RecvTimeoutError::Disconnected) => {
                Err(failed(PolicyFault::Compile("the compiler broke".to_owned())))
            }
        };
    }
}

/// Says what a module is. It is configured with no settings only to see whether it can be snapshotted; one that insists on
/// some is described all the same.
///
/// # Errors
/// What is wrong with it.
pub fn inspect(module: &Module) -> Result<Inspected, LoadFailure> {
    let name = match module {
        Module::Builtin(name) => format!("builtin:{name}"),
        Module::File(path) => path.display().to_string(),
    };
    let failed = |fault| LoadFailure { policy: name.clone(), fault };
    let machine = Machine::new(4).map_err(|e| failed(PolicyFault::Compile(e.to_string())))?;
    let settings = PolicySettings { module: module.clone(), ..PolicySettings::builtin(&name, "{}") };
    match load(&machine, &settings) {
        Ok(ready) => Ok(ready.inspected),
        Err(LoadFailure { fault: PolicyFault::Settings(why), .. }) => {
            let bytes = read(module).map_err(failed)?;
            unconfigured(&machine, &bytes, &why).map_err(failed)
        }
        Err(failure) => Err(failure),
    }
}

/// What a module is that takes no settings but its own.
fn unconfigured(machine: &Machine, bytes: &[u8], why: &[String]) -> Result<Inspected, PolicyFault> {
    let wasm = componentise(bytes)?;
    let imports = imports(&wasm)?;
    let (pre, hooks) = link(&linker(&machine.engine)?, &compile(&machine.engine, &wasm)?)?;
    let bounds = Bounds { budget: CONFIGURE, memory: MAX_MEMORY };
    let described = describe(machine, &pre, &hooks, bounds)?;
    let digest = format!("{:x}", Sha256::digest(bytes));
    let snapshot = Err(format!("not tried, for it needs settings ({})", why.join("; ")));
    Ok(inspected(described, &hooks, imports, digest, bytes.len(), snapshot))
}

/// Turns a core module into the component that would be loaded, and checks what it imports.
///
/// # Errors
/// What is wrong with it.
pub fn component(bytes: &[u8]) -> Result<Vec<u8>, PolicyFault> {
    let wasm = componentise(bytes)?;
    imports(&wasm)?;
    Ok(wasm)
}

fn inspected(
    described: plugin::Description,
    hooks: &Hooks,
    imports: Vec<String>,
    digest: String,
    size: usize,
    snapshot: Result<(), String>,
) -> Inspected {
    let names = [
        ("command", hooks.command.is_some()),
        ("session", hooks.session.is_some()),
        ("rate", hooks.rate.is_some()),
    ];
    Inspected {
        module: described.name,
        version: described.version,
        summary: described.summary,
        schema: described.settings_schema,
        hooks: names.iter().filter(|(_, has)| *has).map(|(name, _)| (*name).to_owned()).collect(),
        imports,
        digest,
        size: size as u64,
        snapshot,
    }
}

fn read(module: &Module) -> Result<Vec<u8>, PolicyFault> {
    use std::io::Read as _;
    match module {
        Module::Builtin(name) => {
            let found = SHIPPED.iter().find(|(shipped, _)| shipped == name);
            found.map(|(_, bytes)| bytes.to_vec()).ok_or_else(|| PolicyFault::NoBuiltin(name.clone()))
        }
        Module::File(path) => {
            let unreadable = |error| PolicyFault::Unreadable { path: path.clone(), error };
            let mut bytes = Vec::new();
            let file = plain_file(path).map_err(unreadable)?;
            file.take(MAX_MODULE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
            if bytes.len() as u64 > MAX_MODULE { Err(PolicyFault::TooLarge) } else { Ok(bytes) }
        }
    }
}

/// Opens what is a file. A pipe without a writer would keep its reader for ever.
///
/// # Errors
/// What the kernel says, or that it is none.
pub fn plain_file(path: &Path) -> std::io::Result<File> {
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no regular file"))
}

/// Checks, configures and compiles a module. The usual way compiles twice: the instrumented component, which is used once
/// and therefore not optimised, and its snapshot, which decides.
fn prepare(
    machine: &Machine,
    bytes: &[u8],
    digest: String,
    settings: &str,
    bounds: Bounds,
) -> Result<Ready, PolicyFault> {
    let wasm = componentise(bytes)?;
    let imports = imports(&wasm)?;
    let linker = linker(&machine.engine)?;
    let linked = |wasm: &[u8]| link(&linker, &compile(&machine.engine, wasm)?);
    let (described, (pre, hooks), snapshot, configure) = match snapshot::take(&wasm, settings, bounds) {
        Ok(Taken::Refused(errors)) => {
            return Err(PolicyFault::Settings(errors.into_iter().map(setting).collect()));
        }
        Ok(Taken::Snapshot { wasm, described }) => (described, linked(&wasm)?, Ok(()), None),
        // It would use up its time again.
        Err(why) if why.downcast_ref::<OverBudget>().is_some() => {
            return Err(PolicyFault::Broke("described and configured", format!("{why:#}")));
        }
        Err(why) => {
            let (pre, hooks) = linked(&wasm)?;
            let described = describe(machine, &pre, &hooks, bounds)?;
            configure_once(machine, &pre, &hooks, settings, bounds)?;
            (described, (pre, hooks), Err(format!("{why:#}")), Some(settings.to_owned()))
        }
    };
    let inspected = inspected(described, &hooks, imports, digest, bytes.len(), snapshot);
    Ok(Ready { pre, hooks, inspected, configure })
}

fn compile(engine: &Engine, wasm: &[u8]) -> Result<Component, PolicyFault> {
    Component::new(engine, wasm).map_err(|e| PolicyFault::Compile(format!("{e:#}")))
}

/// A component as it is; a core module turned into one.
fn componentise(bytes: &[u8]) -> Result<Vec<u8>, PolicyFault> {
    if wasmparser::Parser::is_component(bytes) {
        return Ok(bytes.to_vec());
    }
    if !wasmparser::Parser::is_core_wasm(bytes) {
        let what =
            if bytes.starts_with(b"\x7fELF") { "it is native code" } else { "the first bytes are wrong" };
        return Err(PolicyFault::NotWasm(what.to_owned()));
    }
    core_imports(bytes)?;
    let not_a_policy = |e: anyhow::Error| PolicyFault::NotAPolicy(format!("{e:#}"));
    let encoder =
        wit_component::ComponentEncoder::default().validate(true).module(bytes).map_err(not_a_policy)?;
    let mut encoder = encoder;
    encoder.encode().map_err(not_a_policy)
}

/// # Errors
/// The first import of a core module that is from no interface of ours.
fn core_imports(bytes: &[u8]) -> Result<(), PolicyFault> {
    let malformed = |e: wasmparser::BinaryReaderError| PolicyFault::NotWasm(e.to_string());
    for part in wasmparser::Parser::new(0).parse_all(bytes) {
        if let Payload::ImportSection(imports) = part.map_err(malformed)? {
            for import in imports.into_imports() {
                allowed(import.map_err(malformed)?.module)?;
            }
        }
    }
    Ok(())
}

/// What a component imports, all of it ours.
///
/// # Errors
/// The first import that is not ours.
fn imports(wasm: &[u8]) -> Result<Vec<String>, PolicyFault> {
    let malformed = |e: wasmparser::BinaryReaderError| PolicyFault::NotWasm(e.to_string());
    let mut depth = 0;
    let mut found = Vec::new();
    for part in wasmparser::Parser::new(0).parse_all(wasm) {
        match part.map_err(malformed)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports {
                    let name = import.map_err(malformed)?.name.name;
                    allowed(name)?;
                    found.push(name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

fn allowed(name: &str) -> Result<(), PolicyFault> {
    if ["log", "types"].iter().any(|ours| name == format!("{PACKAGE}{ours}{VERSION}")) {
        return Ok(());
    }
    let advice = if name.starts_with("wasi") {
        "build it for wasm32-unknown-unknown, without WASI: a policy reads no clock, file or socket"
    } else if name.starts_with(PACKAGE) {
        "it was built against another version of the interfaces; rebuild it against 1.0.0"
    } else {
        "remove what needs it"
    };
    Err(PolicyFault::Import(name.to_owned(), advice))
}

pub(super) fn linker(engine: &Engine) -> Result<Linker<Guest>, PolicyFault> {
    let mut linker = Linker::new(engine);
    let compile = |e: wasmtime::Error| PolicyFault::Compile(format!("{e:#}"));
    log::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest: &mut Guest| guest).map_err(compile)?;
    types::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest: &mut Guest| guest).map_err(compile)?;
    Ok(linker)
}

fn link(linker: &Linker<Guest>, component: &Component) -> Result<(InstancePre<Guest>, Hooks), PolicyFault> {
    let pre = linker.instantiate_pre(component).map_err(|e| PolicyFault::NotAPolicy(format!("{e:#}")))?;
    let hooks = Hooks {
        plugin: plugin::GuestIndices::new(&pre)
            .map_err(|_| PolicyFault::MissingExport("execgate:policy/plugin@1.0.0"))?,
        command: command::GuestIndices::new(&pre).ok(),
        session: session::GuestIndices::new(&pre).ok(),
        rate: rate::GuestIndices::new(&pre).ok(),
    };
    if hooks.command.is_none() && hooks.session.is_none() && hooks.rate.is_none() {
        return Err(PolicyFault::MissingExport("any of execgate:policy/command, session or rate @1.0.0"));
    }
    Ok((pre, hooks))
}

fn describe(
    machine: &Machine,
    pre: &InstancePre<Guest>,
    hooks: &Hooks,
    bounds: Bounds,
) -> Result<plugin::Description, PolicyFault> {
    let broke = |e: wasmtime::Error| PolicyFault::Broke("described", format!("{e:#}"));
    let mut store = machine.store(bounds);
    let instance = pre.instantiate(&mut store).map_err(broke)?;
    let plugin = hooks.plugin.load(&mut store, &instance).map_err(broke)?;
    plugin.call_describe(&mut store).map_err(broke)
}

fn configure_once(
    machine: &Machine,
    pre: &InstancePre<Guest>,
    hooks: &Hooks,
    settings: &str,
    bounds: Bounds,
) -> Result<(), PolicyFault> {
    let broke = |e: wasmtime::Error| PolicyFault::Broke("configured", format!("{e:#}"));
    let mut store = machine.store(bounds);
    let instance = pre.instantiate(&mut store).map_err(broke)?;
    let plugin = hooks.plugin.load(&mut store, &instance).map_err(broke)?;
    let configured = plugin.call_configure(&mut store, settings).map_err(broke)?;
    configured.map_err(|errors| PolicyFault::Settings(errors.into_iter().map(setting).collect()))
}

fn setting(error: plugin::SettingError) -> String {
    match error.path.as_str() {
        "" | "." => error.message,
        path => format!("{path}: {}", error.message),
    }
}
