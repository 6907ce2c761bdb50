//! The warden process: one thread, one loop over descriptors and deadlines.
//!
//! Trusts the gateway with nothing but what its hello allowed. Never waits for a job, never opens a path that a
//! client named, and ends with the gateway: the end of the link kills every job. Terminal signals are ignored:
//! the gateway decides. Speaks to people only on stderr and only of faults.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags};

use super::confine::Base;
use super::job::Job;
use super::leaf::Leaf;
use super::link::{self, Received};
use super::meter::Controllers;
use super::proto::{self, FromWarden, Hello, MAX_MESSAGE, ToWarden, VERSION};
use super::trial::{self, Ground};
use super::walk::{self, Hunt};
use super::{advice, confine, sys};
use waiting::Waiting;

mod events;
mod requests;
mod waiting;

/// How long the gateway may take to say hello.
const HELLO: Duration = Duration::from_secs(5);
/// Messages to the gateway that may wait for it; above this no request is read until it has caught up.
const MAX_OUTBOX: usize = 4096;
/// Events taken a turn.
const EVENTS_A_TURN: usize = 64;
/// Requests taken a turn, so that a flood of them cannot starve the jobs.
const REQUESTS_A_TURN: usize = 64;
/// How long everything may take to die once the gateway is gone or asked for the end.
const CLOSING: Duration = Duration::from_secs(10);
/// How often the end is checked while closing, and strays are hunted.
const CLOSING_EVERY: Duration = Duration::from_millis(2);

/// How long the group of a session without a job is kept for its next one, and leaders wait for the next start.
const LINGER: Duration = Duration::from_secs(2);

const GATEWAY: u64 = u64::MAX;
const CHILDREN: u64 = u64::MAX - 1;
/// Job numbers the gateway may use; those above are of leaders that wait. The rest of a token says which descriptor of the
/// job it is.
const MAX_NUMBER: u64 = u64::MAX >> 4;

/// A descriptor of a job in the epoll set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Gate = 0,
    Leader = 1,
    Group = 2,
    Keeper = 3,
}

/// Runs the warden process; its link is stdin. Returns when the gateway is gone and every job with it.
pub fn main() -> ExitCode {
    match begin() {
        Ok(process) => process.run(),
        Err(Unready::Told) => ExitCode::FAILURE,
        Err(Unready::Fault(reason)) => {
            fault("start", &reason);
            ExitCode::FAILURE
        }
    }
}

/// One line for the operator.
fn fault(what: &str, detail: &str) {
    let (what, detail) = (quoted(what), quoted(detail));
    let line = format!("{{\"level\":\"error\",\"target\":\"warden\",\"what\":{what},\"detail\":{detail}}}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// A string of JSON (RFC 8259 section 7).
fn quoted(text: &str) -> String {
    let escaped = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(escaped).collect::<String>())
}

struct Process {
    gateway: OwnedFd,
    outbox: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    epoll: Epoll,
    /// What the link is in the epoll set for.
    listening: EpollFlags,
    signals: SignalFd,
    scratch: Vec<u8>,
    hello: Hello,
    ground: Ground,
    /// This binary, for the probe.
    own: OwnedFd,
    base: Base,
    controllers: Controllers,
    descriptors: (u64, u64),
    pid: Pid,
    jobs: HashMap<u64, Job>,
    /// Numbers of all leaders, or keepers, that are not reaped.
    leaders: HashSet<i32>,
    waiting: Waiting,
    /// Leaves of ended jobs that the kernel would not let go yet.
    residue: Vec<Leaf>,
    reap_again: bool,
    /// A job ended: what it may have left outside its leaf is looked for.
    look_for_strays: bool,
    /// Orphans that no living job holds are being ended.
    strays: Option<Hunt>,
    closing: Option<Instant>,
    /// Requests that were none, and when that was last told.
    complaints: u64,
    complained: Option<Instant>,
    gateway_gone: bool,
}

/// Why there is no warden.
enum Unready {
    /// The gateway knows, and says so.
    Told,
    Fault(String),
}

impl From<String> for Unready {
    fn from(reason: String) -> Self {
        Self::Fault(reason)
    }
}

fn begin() -> Result<Process, Unready> {
    let step = |what: &'static str| move |e: Errno| format!("{what}: {e}");
    let own = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let own = own.map_err(|e| format!("own binary: {e}"))?;
    let link = std::io::stdin().as_fd().try_clone_to_owned().map_err(|e| format!("link: {e}"))?;
    let [gateway, own] = sys::keep_only([link, own]).map_err(step("descriptors"))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    nix::unistd::dup2_stdin(null.map_err(|e| format!("/dev/null: {e}"))?).map_err(step("stdin"))?;
    prctl::set_child_subreaper(true).map_err(step("subreaper"))?;
    prctl::set_dumpable(false).map_err(step("dumpable"))?;
    nix::unistd::setsid().map_err(step("setsid"))?;
    nix::unistd::chdir("/").map_err(step("chdir"))?;
    let signals = take_signals().map_err(step("signals"))?;
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_err(step("open files"))?;
    setrlimit(Resource::RLIMIT_NOFILE, descriptors.1, descriptors.1).map_err(step("open files"))?;
    let mut scratch = link::scratch();
    let hello = read_hello(&gateway, &mut scratch)?;
    let base = Base::put_on_warden();
    let ground = match trial::establish(&hello, &base, &instance_name()?) {
        Ok(ground) => ground,
        Err(reason) => {
            let unfit = proto::encode(&FromWarden::Unfit { reason }, MAX_MESSAGE);
            let _ = link::send(gateway.as_fd(), &unfit.unwrap_or_default(), &[]);
            return Err(Unready::Told);
        }
    };
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(step("epoll"))?;
    epoll.add(&gateway, EpollEvent::new(EpollFlags::EPOLLIN, GATEWAY)).map_err(step("epoll"))?;
    epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, CHILDREN)).map_err(step("epoll"))?;
    let mut process = Process {
        gateway,
        outbox: VecDeque::new(),
        epoll,
        listening: EpollFlags::EPOLLIN,
        signals,
        scratch,
        hello,
        ground,
        own,
        base,
        controllers: Controllers::find(&instance_name()?),
        descriptors,
        pid: Pid::this(),
        jobs: HashMap::new(),
        leaders: HashSet::new(),
        waiting: Waiting::default(),
        residue: Vec::new(),
        reap_again: false,
        look_for_strays: false,
        strays: None,
        closing: None,
        complaints: 0,
        complained: None,
        gateway_gone: false,
    };
    process.say_ready()?;
    Ok(process)
}

/// Default actions, then deaf to what a terminal sends; SIGCHLD by descriptor.
fn take_signals() -> Result<SignalFd, Errno> {
    sys::default_signals(1..=confine::LAST_SIGNAL);
    sys::ignore_signals(confine::IGNORED.map(|s| s as i32));
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_set_mask()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn instance_name() -> Result<String, String> {
    let mut bits = [0; 8];
    getrandom::fill(&mut bits).map_err(|e| format!("randomness: {e}"))?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bits)))
}

fn read_hello(gateway: &OwnedFd, scratch: &mut [u8]) -> Result<Hello, String> {
    let mut wait = [PollFd::new(gateway.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(HELLO).unwrap_or(PollTimeout::ZERO);
    poll(&mut wait, timeout).map_err(|e| format!("hello: {e}"))?;
    match link::receive(gateway.as_fd(), scratch).map_err(|e| format!("hello: {e}"))? {
        Received::Packet(bytes, _) => match proto::decode(&bytes) {
            Some(ToWarden::Hello(hello)) if hello.version == VERSION => Ok(*hello),
            Some(_) | None => Err("the first message is no hello of this version".into()),
        },
        Received::Garbage | Received::End => Err("no hello".into()),
    }
}

impl Process {
    fn run(mut self) -> ExitCode {
        let mut events = [EpollEvent::empty(); EVENTS_A_TURN];
        loop {
            let ahead = self.wants_leader(Instant::now());
            let timeout = if ahead { EpollTimeout::ZERO } else { self.timeout() };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => {
                    fault("epoll", &error.to_string());
                    self.close();
                    0
                }
            };
            for event in events.iter().take(count) {
                self.dispatch(*event);
            }
            if ahead && count == 0 {
                self.fork_ahead();
            }
            self.tick(Instant::now());
            self.flush();
            self.listen();
            if let Some(code) = self.ended(Instant::now()) {
                return code;
            }
        }
    }

    fn say_ready(&mut self) -> Result<(), String> {
        let fds = match &self.ground.root {
            Some(root) => root.emergency().map_err(|e| format!("cgroup.kill: {e}"))?.into(),
            None => Vec::new(),
        };
        let containment = &self.ground.containment;
        let within_reach = self.hello.invoker.is_some()
            && walk::look(Pid::parent().as_raw()).is_some_and(|gateway| gateway.foreground >= 0);
        let ready = FromWarden::Ready(proto::WireContainment {
            tier: containment.tier,
            pause: containment.pause.clone(),
            kill: containment.kill.clone(),
            notes: containment
                .notes
                .iter()
                .chain(self.base.lacks())
                .chain(&self.controllers.lacks())
                .cloned()
                .chain(within_reach.then(|| advice::OWN_TERMINAL.to_owned()))
                .collect(),
        });
        self.tell_with(&ready, fds);
        Ok(())
    }

    fn timeout(&self) -> EpollTimeout {
        if self.reap_again {
            return EpollTimeout::ZERO;
        }
        let often = self.closing.is_some() || self.strays.is_some();
        let often = often.then(|| Instant::now() + CLOSING_EVERY);
        let prune = self.ground.root.as_ref().and_then(|root| root.next_prune(LINGER));
        let settled = self.next_leader();
        let Some(at) =
            self.jobs.values().filter_map(Job::wake).chain(often).chain(prune).chain(settled).min()
        else {
            return EpollTimeout::NONE;
        };
        let rest = at.saturating_duration_since(Instant::now());
        let rounded_up = rest.as_millis().saturating_add(u128::from(rest.subsec_nanos() % 1_000_000 != 0));
        EpollTimeout::try_from(u32::try_from(rounded_up).unwrap_or(60_000)).unwrap_or(EpollTimeout::ZERO)
    }

    fn dispatch(&mut self, event: EpollEvent) {
        match event.data() {
            GATEWAY => self.read_requests(),
            CHILDREN => self.on_children(),
            token => {
                let number = token >> 2;
                match token & 3 {
                    0 => self.on_gate(number),
                    1 => self.on_leader(number),
                    2 => self.on_group(number),
                    _ => self.on_keeper(number),
                }
            }
        }
    }

    fn watch(&self, number: u64, source: Source, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.epoll.add(fd, wish(number, source))
    }

    /// Watches for another job what is watched already.
    fn rename(&self, number: u64, source: Source, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.epoll.modify(fd, &mut wish(number, source))
    }

    fn tell(&mut self, event: &FromWarden) {
        self.tell_with(event, Vec::new());
    }

    /// Sends an event at once if the gateway takes it, else when it does.
    fn tell_with(&mut self, event: &FromWarden, fds: Vec<OwnedFd>) {
        match proto::encode(event, MAX_MESSAGE) {
            Some(bytes) if !self.gateway_gone => self.outbox.push_back((bytes, fds)),
            Some(_) => {}
            None => fault("encode", "an event is too long"),
        }
        self.flush();
    }

    /// Sends what waits, as far as the gateway takes it.
    fn flush(&mut self) {
        while let Some((bytes, fds)) = self.outbox.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match link::send(self.gateway.as_fd(), bytes, &fds) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::TOOMANYREFS) => return,
                Err(_) => return self.outbox.clear(),
            }
        }
    }

    /// Listens for room when events wait, and for requests unless too many do.
    fn listen(&mut self) {
        let mut wanted = EpollFlags::empty();
        wanted.set(EpollFlags::EPOLLIN, self.outbox.len() < MAX_OUTBOX);
        wanted.set(EpollFlags::EPOLLOUT, !self.outbox.is_empty());
        if self.gateway_gone || wanted == self.listening {
            return;
        }
        match self.epoll.modify(&self.gateway, &mut EpollEvent::new(wanted, GATEWAY)) {
            Ok(()) => self.listening = wanted,
            Err(error) => fault("epoll", &error.to_string()),
        }
    }

    /// Begins the end: every job is killed and none is taken any more.
    fn close(&mut self) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(Instant::now() + CLOSING);
        if let Some(root) = &self.ground.root
            && let Err(error) = root.kill()
        {
            fault("kill", &error.to_string());
        }
        for number in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.end_job(number);
        }
    }

    /// The exit code, once everything is over or must be.
    fn ended(&mut self, now: Instant) -> Option<ExitCode> {
        let deadline = self.closing?;
        let late = now >= deadline;
        let populated = self.ground.root.as_ref().is_some_and(super::leaf::Root::populated);
        let told = self.outbox.is_empty() || self.gateway_gone;
        if !late && (!self.jobs.is_empty() || self.strays.is_some() || populated || !told) {
            return None;
        }
        self.controllers.dissolve();
        let dissolved = self.ground.root.as_ref().map_or(Ok(()), super::leaf::Root::dissolve);
        match dissolved {
            Ok(()) if !late => Some(ExitCode::SUCCESS),
            Ok(()) => {
                fault("close", "not everything died in time");
                Some(ExitCode::FAILURE)
            }
            Err(_) if !late => None,
            Err(error) => {
                fault("close", &error.to_string());
                Some(ExitCode::FAILURE)
            }
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.hello.kill_ms)
    }
}

/// What the epoll set is asked for.
fn wish(number: u64, source: Source) -> EpollEvent {
    let flags = match source {
        Source::Gate | Source::Leader | Source::Keeper => EpollFlags::EPOLLIN,
        // By edge: a group's file that changed stays ready until it is read, and who only waits would spin.
        Source::Group => EpollFlags::EPOLLPRI | EpollFlags::EPOLLET,
    };
    EpollEvent::new(flags, number << 2 | source as u64)
}

/// Whether a name a request carries is within bounds.
fn bounded(text: &str) -> bool {
    text.len() <= proto::MAX_PATH && !text.contains('\0')
}

/// The confine room's translation, for this file's children.
use confine::errno;

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_fault_is_json_whatever_is_in_it() {
        let json = r#""it's \"a\\b\" \u0000\u000a\u001b[31m\u007f é""#;
        assert_eq!(quoted("it's \"a\\b\" \0\n\x1b[31m\x7f é"), json);
    }
}
