//! The future leader: the forked copy of the warden, from its birth in the leaf to exec.
//!
//! It is born confined and waits for its errand: until then it is nobody's, and like any other. With the errand it takes
//! its identity and finds out what it would run; behind the gate it becomes exactly that. It hears and reports over its
//! gate, a socket that exec closes: what the warden reads there last is either a failure with its stage, or the end.
//! Nothing here returns to the warden's loop, and nothing is retried.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, execveat};
use rustix::fs::Access;
use rustix::io::FdFlags;

use super::confine::{self, Base, errno};
use super::link::{self, Received};
use super::meter::Fallback;
use super::proto::{self, Errand, Hello, LeaderSays, MAX_MESSAGE, MAX_PLAN, Plan, WireFailure};
use super::resolve::{self, Opened};
use super::settings::{Identity, Profile};
use super::sys;
use crate::domain::SpawnStage;

/// Room for the order's one byte; what matters are its descriptors.
const ORDER: usize = 16;

/// What a leader is born with.
#[derive(Debug)]
pub(super) struct Orders<'a> {
    /// The leader's end of its gate; blocking.
    pub(super) gate: OwnedFd,
    /// This binary.
    pub(super) own: &'a OwnedFd,
    /// The confinement of every job.
    pub(super) base: &'a Base,
    /// Every identity and profile there is.
    pub(super) hello: &'a Hello,
    /// Limits that no controller keeps.
    pub(super) fallback: Fallback,
    /// Soft and hard limit of open files that the warden was born with.
    pub(super) descriptors: (u64, u64),
    pub(super) warden: Pid,
    /// It is forked ahead of its errand, and has time to get used to its work.
    pub(super) ahead: bool,
}

/// What the leader got through the gate: the plan and its standard streams.
struct Order {
    plan: Plan,
    streams: [OwnedFd; 3],
}

/// Lives the leader's life. Never returns.
pub(super) fn live(orders: &Orders<'_>) -> ! {
    let Ok((gate, own, ruleset)) = keep(orders) else { sys::exit_now(126) };
    let Err(failure) = become_job(orders, &gate, own, ruleset);
    if let Some(failure) = failure {
        report(&gate, &LeaderSays::Failed(failure));
    }
    sys::exit_now(127)
}

/// Lets go of everything of the warden's but the gate, this binary and the ruleset.
fn keep(orders: &Orders<'_>) -> Result<(OwnedFd, OwnedFd, Option<OwnedFd>), Errno> {
    let clone = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|_| Errno::EMFILE);
    let (gate, own) = (clone(orders.gate.as_fd())?, clone(orders.own.as_fd())?);
    Ok(match orders.base.ruleset() {
        Some(ruleset) => {
            let [gate, own, ruleset] = sys::keep_only([gate, own, clone(ruleset)?])?;
            (gate, own, Some(ruleset))
        }
        None => {
            let [gate, own] = sys::keep_only([gate, own])?;
            (gate, own, None)
        }
    })
}

/// Why a start ended before exec; `None` when the warden is gone or gave up and nobody is left to be told.
type Ended = Option<WireFailure>;

/// From birth to exec.
fn become_job(
    orders: &Orders<'_>,
    gate: &OwnedFd,
    own: OwnedFd,
    ruleset: Option<OwnedFd>,
) -> Result<Infallible, Ended> {
    // Before the base, which closes what is below /proc.
    confine::end_first();
    let base = |errno| WireFailure::new(SpawnStage::Confine, errno, "base");
    orders.base.put_on(ruleset.as_ref().map(AsFd::as_fd)).map_err(base)?;
    drop(ruleset);
    confine::fresh_state().map_err(base)?;
    die_with(orders.warden)?;
    if orders.ahead {
        rehearse();
    }
    let errand = wait_for_errand(gate)?;
    let asked = profiles(orders, &errand.confine)?;
    let namespaced = confine::leave_network(&asked);
    let identity = identity(orders, &errand)?;
    let home = identity.map(|identity| identity.home.as_path()).or(orders.hello.invoker.as_deref());
    let home = home.unwrap_or(Path::new("/"));
    let opened = resolve(orders, &errand, identity, home, own)?;
    report(gate, &LeaderSays::Facts(Box::new(opened.facts.clone())));
    let Order { plan, streams } = wait(gate)?;
    let program = plan.argv.first().map_or("", String::as_str);
    let at = |stage| move |errno| Some(WireFailure::new(stage, errno, program));
    take_streams(&streams).map_err(at(SpawnStage::Stdio))?;
    if plan.terminal {
        rustix::process::ioctl_tiocsctty(std::io::stdin()).map_err(|e| at(SpawnStage::Terminal)(errno(e)))?;
    }
    confine::limit(&plan.limits, orders.fallback, orders.descriptors, orders.hello.nice)
        .map_err(at(SpawnStage::Limits))?;
    let chosen = profiles(orders, &plan.confine)?;
    confine::put_on(&chosen, home, namespaced)
        .map_err(|(profile, errno)| WireFailure::new(SpawnStage::Confine, errno, &profile))?;
    sys::close_on_exec().map_err(at(SpawnStage::Exec))?;
    execute(&opened, &plan).map_err(at(SpawnStage::Exec))
}

/// The profiles in these places, each once. A place where there is none ends the start.
fn profiles<'a>(orders: &Orders<'a>, places: &[u32]) -> Result<Vec<&'a Profile>, WireFailure> {
    let places: BTreeSet<u32> = places.iter().copied().collect();
    let unknown = || WireFailure::new(SpawnStage::Confine, Errno::ENOENT, "a profile that is not configured");
    let find = |place: u32| orders.hello.profiles.get(place as usize).ok_or_else(unknown);
    places.into_iter().map(find).collect()
}

/// Who the job is to be; `None` is the warden's own user. The warden has checked that it may be.
fn identity<'a>(orders: &Orders<'a>, errand: &Errand) -> Result<Option<&'a Identity>, WireFailure> {
    let unknown =
        || WireFailure::new(SpawnStage::Identity, Errno::EPERM, "an identity that is not configured");
    let find = |place: u32| orders.hello.identities.get(place as usize).ok_or_else(unknown);
    errand.identity.map(find).transpose()
}

fn die_with(warden: Pid) -> Result<(), WireFailure> {
    confine::die_with(warden)
        .map_err(|errno| WireFailure::new(SpawnStage::Confine, errno, "parent death signal"))
}

/// Takes the identity, enters the working directory and opens the program.
fn resolve(
    orders: &Orders<'_>,
    errand: &Errand,
    identity: Option<&Identity>,
    home: &Path,
    own: OwnedFd,
) -> Result<Opened, WireFailure> {
    if let Some(identity) = identity {
        confine::take_identity(identity)
            .map_err(|errno| WireFailure::new(SpawnStage::Identity, errno, &identity.user))?;
    }
    // Once more: taking an identity clears it.
    die_with(orders.warden)?;
    let home = home.to_string_lossy();
    let cwd = resolve::enter(errand.cwd.as_deref().unwrap_or(&home))?;
    match &errand.program {
        Some(name) => resolve::program(name, &orders.hello.path, cwd),
        None => resolve::own_binary(own, cwd),
    }
}

/// Looks at this very binary as it will look at the program. A fork gets each of its pages only when it is first touched, which
/// takes longer than the looking, and there is time for it now.
fn rehearse() {
    let seen = resolve::enter("/").and_then(|cwd| resolve::program("/proc/self/exe", &[], cwd));
    let said = seen.map(|opened| proto::encode(&LeaderSays::Facts(Box::new(opened.facts)), MAX_MESSAGE));
    drop(said);
}

fn report(gate: &OwnedFd, said: &LeaderSays) {
    if let Some(bytes) = proto::encode(said, MAX_MESSAGE) {
        let _ = link::send(gate.as_fd(), &bytes, &[]);
    }
}

/// Waits to be told what it is for.
fn wait_for_errand(gate: &OwnedFd) -> Result<Errand, Ended> {
    let fail = |errno| Some(WireFailure::new(SpawnStage::Gate, errno, "errand"));
    let mut room = link::room_for_next(gate.as_fd()).map_err(|e| fail(errno(e)))?;
    match link::receive(gate.as_fd(), &mut room).map_err(|e| fail(errno(e)))? {
        Received::Packet(bytes, _) => proto::decode(&bytes).ok_or_else(|| fail(Errno::EPROTO)),
        Received::Garbage => Err(fail(Errno::EPROTO)),
        Received::End => Err(None),
    }
}

/// Waits at the gate. The warden kills a leader that waits too long.
fn wait(gate: &OwnedFd) -> Result<Order, Ended> {
    let fail = |errno| Some(WireFailure::new(SpawnStage::Gate, errno, "plan"));
    let received = link::receive(gate.as_fd(), &mut [0; ORDER]).map_err(|e| fail(errno(e)))?;
    let fds = match received {
        Received::Packet(_, fds) => fds,
        Received::Garbage => return Err(fail(Errno::EPROTO)),
        Received::End => return Err(None),
    };
    let Ok([plan, stdin, stdout, stderr]) = <[OwnedFd; 4]>::try_from(fds) else {
        return Err(fail(Errno::EPROTO));
    };
    let plan = read_plan(&plan).map_err(fail)?;
    Ok(Order { plan, streams: [stdin, stdout, stderr] })
}

fn read_plan(memfd: &OwnedFd) -> Result<Plan, Errno> {
    let size = rustix::fs::fstat(memfd).map_err(errno)?.st_size.unsigned_abs();
    if size > MAX_PLAN {
        return Err(Errno::E2BIG);
    }
    let mut bytes = vec![0; size as usize];
    let read = rustix::io::pread(memfd, bytes.as_mut_slice(), 0).map_err(errno)?;
    bytes.get(..read).and_then(proto::decode).ok_or(Errno::EPROTO)
}

fn take_streams([stdin, stdout, stderr]: &[OwnedFd; 3]) -> Result<(), Errno> {
    dup2_stdin(stdin)?;
    dup2_stdout(stdout)?;
    dup2_stderr(stderr)
}

/// Becomes the program that was opened: by its descriptor, or for a script by its interpreter's.
fn execute(opened: &Opened, plan: &Plan) -> Result<Infallible, Errno> {
    let mut argv = plan.argv.clone();
    let target = match (&opened.interpreter, &opened.facts.interpreter) {
        (Some(interpreter), Some(facts)) => {
            rustix::io::fcntl_setfd(&opened.program, FdFlags::empty()).map_err(errno)?;
            let script = resolve::magic(&opened.program);
            let head = [Some(facts.requested.clone()), facts.argument.clone(), Some(script)];
            argv.splice(..argv.len().min(1), head.into_iter().flatten());
            interpreter
        }
        _ => &opened.program,
    };
    let argv = c_strings(argv)?;
    let env = c_strings(plan.env.iter().map(|(name, value)| format!("{name}={value}")))?;
    let Err(failed) = execveat(target, c"", &argv, &env, AtFlags::AT_EMPTY_PATH);
    // A script that its interpreter could not read: the kernel only says that there is no name for it.
    let unread = || rustix::fs::access(resolve::magic(target), Access::READ_OK).is_err();
    Err(if failed == Errno::ENOENT && unread() { Errno::EACCES } else { failed })
}

fn c_strings(texts: impl IntoIterator<Item = String>) -> Result<Vec<CString>, Errno> {
    texts.into_iter().map(|text| CString::new(text).map_err(|_| Errno::EINVAL)).collect()
}
