//! Limits of a whole job: memory, processes and CPU time, kept and counted by the kernel's controllers.
//!
//! The leaf's own files where cgroup2 has the controllers; else a group of the job's own in each v1 hierarchy that it
//! needs, made and joined before the leader is released, removed with the leaf. A job without limits costs
//! nothing. What has no controller falls to the leader's rlimits ([`Controllers::fallback`]), for each process alone.
//!
//! Nothing here waits for an event: a job with a limit is looked at as often as the limit could be met.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::Flock;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::leaf::Leaf;
use super::proto::{WireFailure, WireLimits};
use super::spawn::errno_of;
use super::{cgroup, sys};
use crate::domain::{Breach, ExitStatus, SpawnStage};

/// How often a job is asked whether it ran out of memory or processes. A limit on memory has done its work by then.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bounds of the time between two looks at the CPU time used.
const CPU_EVERY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Forks that may be refused before a job counts as a fork bomb and is ended: a program that tries again, as a shell
/// does eight times, stays far below; a bomb is refused thousands in the time of one look.
const REFUSED_FORKS: u64 = 64;

/// What keeps limits on this host.
#[derive(Debug)]
pub(super) struct Controllers {
    memory: Option<Hierarchy>,
    pids: Option<Hierarchy>,
    cpuacct: Option<Hierarchy>,
    cores: u32,
    made: u64,
}

/// A v1 hierarchy in which this process may make groups.
#[derive(Debug)]
struct Hierarchy {
    parent: PathBuf,
    /// For its name.
    instance: String,
    /// The instance's own group and its lock; made when it is first needed.
    own: Option<(PathBuf, Flock<File>)>,
}

/// Limits that nobody keeps for the whole job: the leader's rlimits must, for each process.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fallback {
    pub(super) memory: bool,
    pub(super) processes: bool,
}

/// The limits of one job and the groups that keep them.
#[derive(Debug, Default)]
pub(super) struct Meter {
    limits: WireLimits,
    memory: Option<Place>,
    pids: Option<Place>,
    cpu: Option<PathBuf>,
    cores: u32,
    look_at: Option<Instant>,
}

/// Where a controller's files are.
#[derive(Debug)]
enum Place {
    Leaf(PathBuf),
    Own(PathBuf),
}

impl Place {
    fn read(&self, file: &str) -> Option<String> {
        let (Self::Leaf(path) | Self::Own(path)) = self;
        fs::read_to_string(path.join(file)).ok()
    }
}

impl Controllers {
    /// Finds the hierarchies and ends what instances left there whose warden is gone.
    pub(super) fn find(instance: &str) -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let (mounts, own) = (read("/proc/self/mountinfo"), read("/proc/self/cgroup"));
        let hierarchy = |controller| {
            let parent = cgroup::own_group(&mounts, &own, Some(controller))?;
            rustix::fs::access(&parent, rustix::fs::Access::WRITE_OK).ok()?;
            sweep(&parent);
            Some(Hierarchy { parent, instance: instance.to_owned(), own: None })
        };
        let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        let [memory, pids, cpuacct] = ["memory", "pids", "cpuacct"].map(hierarchy);
        Self { memory, pids, cpuacct, cores, made: 0 }
    }

    /// What the leader's rlimits must keep instead.
    pub(super) fn fallback(&self, leaf: Option<&Leaf>) -> Fallback {
        let in_leaf = |file| leaf.is_some_and(|leaf| leaf.path().join(file).exists());
        Fallback {
            memory: self.memory.is_none() && !in_leaf("memory.max"),
            processes: self.pids.is_none() && !in_leaf("pids.max"),
        }
    }

    /// Which limits are not kept for the whole job where the leaves have no controllers; one sentence each.
    pub(super) fn lacks(&self) -> Vec<String> {
        let lack = |what: &str, instead: &str| {
            format!(
                "no {what} controller that may be written, unless the leaves have it: a limit of {what} is {instead}; delegate the controller, or run as root"
            )
        };
        let memory = self.memory.is_none().then(|| lack("memory", "kept for each process alone (RLIMIT_AS)"));
        let pids = self.pids.is_none().then(|| {
            lack("pids", "kept for all processes of the job's user together (RLIMIT_NPROC), and not for root")
        });
        memory.into_iter().chain(pids).collect()
    }

    /// Sets the limits and has the leader join; it must not have been released yet.
    pub(super) fn meter(
        &mut self,
        leaf: Option<&Leaf>,
        leader: Pid,
        limits: &WireLimits,
    ) -> Result<Meter, WireFailure> {
        let mut meter = Meter { limits: limits.clone(), cores: self.cores, ..Meter::default() };
        let set = self.set(&mut meter, leaf, leader);
        if let Err(error) = set {
            self.remove(meter);
            return Err(WireFailure::new(SpawnStage::Limits, errno_of(&error), "cgroup limits"));
        }
        meter.schedule(Instant::now(), 0);
        Ok(meter)
    }

    fn set(&mut self, meter: &mut Meter, leaf: Option<&Leaf>, leader: Pid) -> io::Result<()> {
        self.made += 1;
        let (name, limits) = (self.made.to_string(), meter.limits.clone());
        let in_leaf = |file: &str| leaf.map(|leaf| leaf.path().to_owned()).filter(|p| p.join(file).exists());
        if let Some(bytes) = limits.memory {
            if let Some(path) = in_leaf("memory.max") {
                write(&path, "memory.max", &bytes.to_string())?;
                let _ = write(&path, "memory.swap.max", "0");
                write(&path, "memory.oom.group", "1")?;
                meter.memory = Some(Place::Leaf(path));
            } else if let Some(hierarchy) = &mut self.memory {
                let path = hierarchy.group(&name)?;
                meter.memory = Some(Place::Own(path.clone()));
                write(&path, "memory.limit_in_bytes", &bytes.to_string())?;
                let _ = write(&path, "memory.memsw.limit_in_bytes", &bytes.to_string());
                write(&path, "cgroup.procs", &leader.to_string())?;
            }
        }
        if let Some(most) = limits.processes {
            if let Some(path) = in_leaf("pids.max") {
                write(&path, "pids.max", &most.to_string())?;
                meter.pids = Some(Place::Leaf(path));
            } else if let Some(hierarchy) = &mut self.pids {
                let path = hierarchy.group(&name)?;
                meter.pids = Some(Place::Own(path.clone()));
                write(&path, "pids.max", &most.to_string())?;
                write(&path, "cgroup.procs", &leader.to_string())?;
            }
        } else if let Some(path) = in_leaf("pids.peak") {
            meter.pids = Some(Place::Leaf(path));
        }
        if limits.cpu.is_some()
            && leaf.is_none()
            && let Some(hierarchy) = &mut self.cpuacct
        {
            let path = hierarchy.group(&name)?;
            meter.cpu = Some(path.clone());
            write(&path, "cgroup.procs", &leader.to_string())?;
        }
        Ok(())
    }

    /// Removes the groups of a job that is empty; what the kernel holds back is removed with the instance.
    pub(super) fn remove(&self, meter: Meter) {
        let own = [meter.memory, meter.pids].into_iter().flatten().filter_map(|place| match place {
            Place::Own(path) => Some(path),
            Place::Leaf(_) => None,
        });
        for path in own.chain(meter.cpu) {
            let _ = cgroup::remove(&path);
        }
    }

    /// Removes the instance's groups.
    pub(super) fn dissolve(&self) {
        for hierarchy in [&self.memory, &self.pids, &self.cpuacct].into_iter().flatten() {
            if let Some((path, _lock)) = &hierarchy.own {
                let _ = cgroup::remove(path);
            }
        }
    }
}

impl Hierarchy {
    /// Makes a job's group.
    fn group(&mut self, name: &str) -> io::Result<PathBuf> {
        let own = match self.own.take() {
            Some(own) => own,
            None => cgroup::create(&self.parent, &self.instance)?,
        };
        let path = self.own.insert(own).0.join(name);
        fs::create_dir(&path)?;
        Ok(path)
    }
}

impl Meter {
    /// When the job must be looked at next.
    pub(super) const fn wake(&self) -> Option<Instant> {
        self.look_at
    }

    /// The limit that the job has met, if it is time to look.
    pub(super) fn look(&mut self, now: Instant, leaf: Option<&Leaf>) -> Option<Breach> {
        if self.look_at.is_none_or(|at| at > now) {
            return None;
        }
        let used = self.cpu_used(leaf).unwrap_or(0);
        self.schedule(now, used);
        if self.limits.cpu.is_some_and(|limit| used >= limit) {
            return Some(Breach::Cpu);
        }
        self.counted()
    }

    /// The limit that ended the leader, once it has ended.
    pub(super) fn ended(&self, status: ExitStatus) -> Option<Breach> {
        let by_cpu = matches!(status, ExitStatus::Signal { number, .. } if number == Signal::SIGXCPU as i32);
        (by_cpu && self.limits.cpu.is_some()).then_some(Breach::Cpu).or_else(|| self.counted())
    }

    /// Most processes alive at once, where they are counted.
    pub(super) fn peak(&self) -> Option<u32> {
        self.pids.as_ref()?.read("pids.peak")?.trim().parse().ok()
    }

    fn counted(&self) -> Option<Breach> {
        let killed = match &self.memory {
            Some(place @ Place::Leaf(_)) => place.read("memory.events").map(|text| field(&text, "oom_kill")),
            Some(place @ Place::Own(_)) => {
                place.read("memory.oom_control").map(|text| field(&text, "oom_kill"))
            }
            None => None,
        };
        if killed.flatten().is_some_and(|count| count > 0) {
            return Some(Breach::Memory);
        }
        let limited = self.pids.as_ref().filter(|_| self.limits.processes.is_some());
        let refused = limited.and_then(|place| field(&place.read("pids.events")?, "max"));
        refused.is_some_and(|count| count >= REFUSED_FORKS).then_some(Breach::Processes)
    }

    fn cpu_used(&self, leaf: Option<&Leaf>) -> Option<u64> {
        self.limits.cpu?;
        if let Some((user, system)) = leaf.and_then(Leaf::cpu) {
            return Some(user + system);
        }
        let nanos = fs::read_to_string(self.cpu.as_ref()?.join("cpuacct.usage")).ok()?;
        Some(nanos.trim().parse::<u64>().ok()? / 1000)
    }

    /// CPU time cannot be used faster than all cores give it.
    fn schedule(&mut self, now: Instant, used: u64) {
        let cpu = self.limits.cpu.map(|limit| {
            let left = Duration::from_micros(limit.saturating_sub(used)) / self.cores.max(1);
            left.clamp(CPU_EVERY.0, CPU_EVERY.1)
        });
        let counted = self.memory.is_some() || (self.pids.is_some() && self.limits.processes.is_some());
        let every = cpu.into_iter().chain(counted.then_some(LOOK_EVERY)).min();
        self.look_at = every.map(|every| now + every);
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let of = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(of)
}

fn write(group: &Path, file: &str, text: &str) -> io::Result<()> {
    use io::Write as _;
    File::options().write(true).open(group.join(file))?.write_all(text.as_bytes())
}

/// Ends what is in groups of instances whose warden is gone, and removes them.
fn sweep(parent: &Path) {
    for group in cgroup::instances(parent) {
        let Some(_lock) = cgroup::lock(&group) else { continue };
        for pidfd in cgroup::hold(&group) {
            let _ = sys::signal_pidfd(pidfd.as_fd(), Signal::SIGKILL as i32);
        }
        let _ = cgroup::remove(&group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_look_comes_before_the_time_can_be_used_up() {
        let (now, second) = (Instant::now(), 1_000_000);
        let limits = WireLimits { cpu: Some(10 * second), ..WireLimits::default() };
        let mut meter = Meter { limits, cores: 4, ..Meter::default() };
        for (used, wait) in [(0, 1000), (8 * second, 500), (10 * second - 1, 10)] {
            meter.schedule(now, used);
            assert_eq!(meter.wake(), Some(now + Duration::from_millis(wait)), "{used}");
        }
        let mut free = Meter::default();
        free.schedule(now, 0);
        assert_eq!(free.wake(), None);
    }
}
