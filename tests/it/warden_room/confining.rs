//! What a hostile job tries against everybody else: the attacker is this test binary, run as a job.

use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use super::*;
use crate::support::proc;

/// What the attacker is told: the numbers of its victims, and a socket.
const TARGETS: &str = "EXECGATE_ATTACK";

/// Starts this binary as a job that runs one ignored test of these files.
pub(super) async fn start_self_with(
    warden: &Warden,
    test: &str,
    tell: &str,
    limits: &JobLimits,
) -> (Running, PipeEnds) {
    let exe = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let (job, test) = (job_id(), format!("warden_room::{test}"));
    let prepared = warden.prepare(wanted(job, &exe)).await.unwrap();
    let (stdio, ends) = Stdio::pipes(false).unwrap();
    let argv = [&exe, "--exact", &test, "--ignored", "--nocapture", "--test-threads=1"];
    let mut command = command(job, &argv, None);
    command.env.insert(TARGETS.to_owned(), tell.to_owned());
    let cleared = cleared(&prepared, command);
    (prepared.release(&cleared, stdio, limits).await.unwrap(), ends)
}

/// Whether this kernel can show what the test is about.
fn has_landlock(warden: &Warden) -> bool {
    // Not every word about it: that it is there and did not deny something must fail a test, not excuse it.
    let of_lack = |note: &&String| ["no Landlock", "Landlock without"].iter().any(|is| note.starts_with(is));
    let lacks = warden.containment().notes.iter().find(of_lack);
    needs(lacks.is_none(), lacks.map_or("", String::as_str))
}

async fn attack() {
    // Without a PID namespace, where an ordinary user's victims could not even be named.
    let tier = if is_root() { None } else { tier_of_environment().or(Some(Tier::C)) };
    let warden = launch(tier).await;
    if !has_landlock(&warden) {
        return;
    }
    let name = format!("execgate-test-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let others =
        Prepare { tenant: "other".into(), session: SessionId::from_bits(2), ..wanted(job_id(), "sleep") };
    let (victim, _ends) = start_as(&warden, others, &["sleep", "1000"]).await.unwrap();
    let group = proc::group(victim.pid()).unwrap_or_default();
    let tell = format!("{} {} {} {name} {}", std::process::id(), warden.pid(), victim.pid(), group.display());
    let (attacker, ends) =
        start_self_with(&warden, "confining::attacker", &tell, &JobLimits::default()).await;
    let said = output(ends.stdout).await;
    attacker.emptied().await;
    let attempts: Vec<_> = said.lines().filter_map(|line| line.split_once("attempt ").map(|l| l.1)).collect();
    assert!(attempts.len() > 80, "{said}");
    // CAP_PERFMON reads any process, whatever Landlock says: jobs as root are promised nothing here.
    let by_capability = |a: &str| is_root() && READS.iter().any(|read| a.starts_with(read));
    let refused = |a: &str| ["EPERM", "EACCES", "ENOSYS"].iter().any(|errno| a.ends_with(errno));
    let succeeded: Vec<_> = attempts.iter().filter(|a| !refused(a) && !by_capability(a)).collect();
    assert!(succeeded.is_empty(), "{succeeded:#?}");
    assert!(victim.exited_is_pending(), "the victim lives");
    assert!(warden.probe().await.is_ok());
    victim.kill();
    victim.emptied().await;
}

/// What a capability lets root read.
const READS: [&str; 3] = ["environ", "maps", "auxv"];

#[tokio::test]
async fn a_hostile_job_of_the_same_user_reaches_nobody_outside() {
    attack().await;
}

#[tokio::test]
#[ignore = "started by a_hostile_job_of_the_same_ordinary_user_reaches_nobody_outside"]
async fn attack_child() {
    attack().await;
    println!("alone=passed");
}

#[test]
fn a_hostile_job_of_the_same_ordinary_user_reaches_nobody_outside() {
    if !needs_root() {
        return;
    }
    let mut child = Program::new("setpriv");
    child.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    child.arg(std::env::current_exe().unwrap());
    alone("confining::attack_child", child);
}

#[test]
fn a_hostile_job_of_an_ordinary_user_reaches_nobody_outside_its_leaf_in_a_delegated_group() {
    let Some(group) = hostile::Delegated::new() else { return };
    let mut child = hostile::as_nobody(Some(&group.0));
    child.env("TIER", "A");
    alone("confining::attack_child", child);
}

/// What could be asked of a job without waiting.
trait Pending {
    fn exited_is_pending(&self) -> bool;
}

impl Pending for Running {
    fn exited_is_pending(&self) -> bool {
        futures_util::FutureExt::now_or_never(self.exited()).is_none()
    }
}

/// A child that is born in another group (CLONE_INTO_CGROUP of clone3(2)): the kernel asks for the permission to write
/// there, and nothing is opened for writing.
#[expect(unsafe_code, reason = "attackers do not use libraries")]
fn born_in(group: &std::path::Path) -> Result<(), Errno> {
    let directory = io(fs::File::open(group))?;
    // SAFETY: all zeroes is a valid value of this struct of numbers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = 0x2_0000_0000;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = std::os::fd::AsRawFd::as_raw_fd(&directory) as u64;
    // SAFETY: `arguments` lives across the call and has this size; the child only ends.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    if pid == 0 {
        // SAFETY: ends this process at once, and nothing else.
        unsafe { libc::_exit(0) };
    }
    Errno::result(pid).map(drop)
}

/// One system call, by number.
#[allow(unsafe_code, reason = "attackers do not use libraries")]
fn raw(number: i64, [a, b, c, d, e]: [i64; 5]) -> Result<(), Errno> {
    // SAFETY: every caller passes numbers, null, or pointers to values that outlive the call; all are refused.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, 0_i64) }).map(drop)
}

fn attempt(what: &str, result: Result<(), Errno>) {
    match result {
        Ok(()) => println!("attempt {what}: SUCCESS"),
        Err(errno) => println!("attempt {what}: {errno:?}"),
    }
}

fn io<T>(result: std::io::Result<T>) -> Result<T, Errno> {
    result.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))
}

fn read_some(path: &str) -> Result<(), Errno> {
    io(fs::File::open(path).and_then(|mut file| file.read_exact(&mut [0; 1])))
}

fn write_to(path: &std::path::Path, text: &str) -> Result<(), Errno> {
    io(fs::File::options().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes())))
}

#[test]
#[ignore = "run as a job by a_hostile_job_of_the_same_user_reaches_nobody_outside"]
fn attacker() {
    let told = std::env::var(TARGETS).unwrap();
    let told: Vec<&str> = told.split(' ').collect();
    println!();
    for (name, pid) in ["gateway", "warden", "job"].iter().zip(&told) {
        attack_process(name, pid.parse().unwrap());
    }
    let address = SocketAddr::from_abstract_name(told[3]).unwrap();
    attempt("connect abstract", io(UnixStream::connect_addr(&address).map(drop)));
    attack_groups();
    attempt("be born in the group of job", born_in(std::path::Path::new(told[4])));
    attack_kernel();
}

fn attack_process(name: &str, pid: i64) {
    let say = |what: &str, result| attempt(&format!("{what} {name}"), result);
    say("kill", raw(libc::SYS_kill, [pid, 9, 0, 0, 0]));
    say("stop", raw(libc::SYS_kill, [pid, 19, 0, 0, 0]));
    say("look for", raw(libc::SYS_kill, [pid, 0, 0, 0, 0]));
    say("tgkill", raw(libc::SYS_tgkill, [pid, pid, 9, 0, 0]));
    say("seize", raw(libc::SYS_ptrace, [0x4206, pid, 0, 0, 0]));
    say("attach", raw(libc::SYS_ptrace, [16, pid, 0, 0, 0]));
    if let Some(number) = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap())
        && let Ok(pidfd) = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty())
    {
        let fd = i64::from(std::os::fd::AsRawFd::as_raw_fd(&pidfd));
        say("pidfd signal", raw(libc::SYS_pidfd_send_signal, [fd, 9, 0, 0, 0]));
        say("pidfd getfd", raw(libc::SYS_pidfd_getfd, [fd, 1, 0, 0, 0]));
    }
    let (mut byte, limit) = ([0_u8; 8], [1_u64, 1]);
    let mut local = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    let local = &raw mut local as i64;
    say("read memory", raw(libc::SYS_process_vm_readv, [pid, local, 1, local, 1]));
    say("limit", raw(libc::SYS_prlimit64, [pid, i64::from(libc::RLIMIT_CPU), limit.as_ptr() as i64, 0, 0]));
    say("renice", raw(libc::SYS_setpriority, [0, pid, 19, 0, 0]));
    say("idle", raw(libc::SYS_sched_setscheduler, [pid, 5, [0_i32; 1].as_ptr() as i64, 0, 0]));
    say("pin", pin(pid));
    for (file, text) in [("oom_score_adj", "1000"), ("coredump_filter", "0"), ("autogroup", "19")] {
        say(file, write_to(&PathBuf::from(format!("/proc/{pid}/{file}")), text));
    }
    for file in ["mem", "environ", "maps", "auxv"] {
        say(file, read_some(&format!("/proc/{pid}/{file}")));
    }
    for link in ["fd/0", "cwd", "exe", "root"] {
        say(link, io(fs::read_link(format!("/proc/{pid}/{link}")).map(drop)));
    }
}

/// To be told that it is done, as threads are that choose their own processors, is nothing yet.
fn pin(pid: i64) -> Result<(), Errno> {
    let allowed = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let allowed = || allowed().lines().find(|line| line.starts_with("Cpus_allowed:")).unwrap().to_owned();
    let before = allowed();
    let _ = raw(libc::SYS_sched_setaffinity, [pid, 8, [1_u64].as_ptr() as i64, 0, 0]);
    if allowed() == before { Err(Errno::EPERM) } else { Ok(()) }
}

fn attack_groups() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().filter(|l| l.contains(" - cgroup ") || l.contains(" - cgroup2 "));
    for mount in mounts.filter_map(|line| line.split(' ').nth(4)) {
        let mount = std::path::Path::new(mount);
        attempt(&format!("leave to {}", mount.display()), write_to(&mount.join("cgroup.procs"), "0"));
        let made = mount.join(format!("attack-{}", std::process::id()));
        attempt(&format!("make {}", made.display()), io(fs::create_dir(&made)));
        attempt(&format!("be born in {}", mount.display()), born_in(mount));
        let _ = fs::remove_dir(&made);
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
    for mount in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"] {
        let leaf = std::path::Path::new(mount).join(&own);
        if !own.is_empty() && leaf.join("cgroup.procs").exists() {
            for (file, text) in [("cgroup.freeze", "0"), ("cgroup.kill", "1"), ("cgroup.max.depth", "max")] {
                attempt(&format!("write own {file}"), write_to(&leaf.join(file), text));
            }
            attempt("be born in own leaf", born_in(&leaf));
            attempt("leave upwards", write_to(&leaf.parent().unwrap().join("cgroup.procs"), "0"));
            attempt("make below", io(fs::create_dir(leaf.join("below"))));
        }
    }
}

fn attack_kernel() {
    let calls = [
        ("io_uring", libc::SYS_io_uring_setup),
        ("kexec", libc::SYS_kexec_load),
        ("module", libc::SYS_init_module),
        ("bpf", libc::SYS_bpf),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("perf", libc::SYS_perf_event_open),
        ("keyctl", libc::SYS_keyctl),
        ("add_key", libc::SYS_add_key),
        ("by handle", libc::SYS_open_by_handle_at),
        ("fanotify", libc::SYS_fanotify_init),
    ];
    for (name, number) in calls {
        attempt(name, raw(number, [0; 5]));
    }
    for file in ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/self/oom_score_adj"] {
        attempt(file, io(fs::File::options().write(true).open(file).map(drop)));
    }
    attempt("type into a terminal", raw(libc::SYS_ioctl, [0, libc::TIOCSTI as i64, 0, 0, 0]));
    attempt("renice the user", raw(libc::SYS_setpriority, [2, 0, 19, 0, 0]));
    attempt("mount", mount());
}

#[tokio::test]
async fn a_job_cannot_mount_even_in_a_user_namespace_of_its_own() {
    // Without a PID namespace, where an ordinary user's victims could not even be named.
    let warden = launch((!is_root()).then_some(Tier::C)).await;
    if !has_landlock(&warden) {
        return;
    }
    let limits = JobLimits::default();
    let (_running, ends) = start_self_with(&warden, "confining::mounter", "", &limits).await;
    let said = output(ends.stdout).await;
    assert!(said.contains("mount in a namespace: EPERM"), "{said}");
}

#[test]
#[ignore = "run as a job by a_job_cannot_mount_even_in_a_user_namespace_of_its_own"]
#[expect(unsafe_code, reason = "only a process of one thread can leave for a user namespace")]
fn mounter() {
    // SAFETY: the child makes two system calls and ends.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Parent { child } => {
            let ended = nix::sys::wait::waitpid(child, None).unwrap();
            let nix::sys::wait::WaitStatus::Exited(_, code) = ended else { panic!("{ended:?}") };
            attempt("mount in a namespace", if code == 0 { Ok(()) } else { Err(Errno::from_raw(code)) });
        }
        nix::unistd::ForkResult::Child => {
            let spaces = nix::sched::CloneFlags::CLONE_NEWUSER | nix::sched::CloneFlags::CLONE_NEWNS;
            let mounted = nix::sched::unshare(spaces).and_then(|()| mount());
            // SAFETY: ends this process at once, and nothing else.
            unsafe { libc::_exit(mounted.map_or_else(|errno| errno as i32, |()| 0)) };
        }
    }
}

fn mount() -> Result<(), Errno> {
    let (kind, place) = (c"tmpfs".as_ptr() as i64, c"/tmp".as_ptr() as i64);
    raw(libc::SYS_mount, [kind, place, kind, 0, 0])
}

#[tokio::test]
async fn what_ordinary_programs_do_still_works() {
    let warden = launch(None).await;
    // Files everywhere, moves between directories, signals and traces within the job, priorities of one's own.
    let script = "set -e; d=$(mktemp -d); cd $d; mkdir a b; echo x >a/f; mv a/f b/g; ln b/g a/h; cat a/h; rm -r a b; \
        cd /; rmdir $d; sleep 1000 & kill $!; wait $! || true; nice -n 3 true; echo done >/dev/null; \
        (ulimit -n 64; ulimit -n); cat /proc/$$/environ >/dev/null; kill -0 $$; echo fine";
    let (_running, ends) = start(&warden, job_id(), &["sh", "-c", script]).await;
    let (said, errors) = (output(ends.stdout).await, output(ends.stderr).await);
    assert_eq!(said, "x\n64\nfine\n", "{errors}");
}

async fn with_profiles(profiles: Vec<Profile>) -> Warden {
    Warden::launch(Settings { profiles, ..settings(None) }).await.unwrap()
}

fn profile(name: &str, files: Option<(&[&str], &[&str])>, offline: bool) -> Profile {
    let paths = |texts: &[&str]| texts.iter().map(PathBuf::from).collect();
    let files = files.map(|(read, write)| FileRoots { read: paths(read), write: paths(write) });
    Profile { name: name.into(), files, offline, required: true }
}

/// Runs a shell under profiles of the request, and others of the decision.
async fn shell_under(warden: &Warden, asked: &[&str], decided: &[&str], script: &str) -> (String, String) {
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let job = job_id();
    let prepared = warden.prepare(Prepare { confine: names(asked), ..wanted(job, "sh") }).await.unwrap();
    let (stdio, ends) = Stdio::pipes(false).unwrap();
    let permission = Permission { confine: names(decided), ..Permission::default() };
    let cleared = cleared_on(&prepared, command(job, &["sh", "-c", script], None), permission);
    let _running = prepared.release(&cleared, stdio, &JobLimits::default()).await.unwrap();
    (output(ends.stdout).await, output(ends.stderr).await)
}

const SYSTEM: [&str; 6] = ["/usr", "/bin", "/lib", "/lib64", "/etc", "/proc"];

#[tokio::test]
async fn a_job_under_file_roots_sees_nothing_else() {
    let (open, closed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (open, closed) = (open.path().to_str().unwrap(), closed.path().to_str().unwrap());
    fs::write(format!("{closed}/secret"), "secret").unwrap();
    let warden = with_profiles(vec![profile("files", Some((&SYSTEM, &[open])), false)]).await;
    if !has_landlock(&warden) {
        return;
    }
    let script = format!(
        "echo mine >{open}/file && cat {open}/file; cat {closed}/secret; echo x >{closed}/new; ls {closed}; \
         echo x >/etc/execgate-test; echo gone >/dev/null && echo null"
    );
    for (asked, decided) in [(vec!["files"], vec![]), (vec![], vec!["files", "base"])] {
        let (said, errors) = shell_under(&warden, &asked, &decided, &script).await;
        assert_eq!(said, "mine\nnull\n", "{errors}");
        assert_eq!(errors.matches("ermission denied").count(), 4, "{errors}");
    }
    assert!(!PathBuf::from(format!("{closed}/new")).exists());
    let (said, _) = shell_under(&warden, &[], &[], &format!("cat {closed}/secret")).await;
    assert_eq!(said, "secret", "without the profile nothing changes");
}

#[tokio::test]
async fn of_two_sets_of_file_roots_both_hold() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (one.path().to_str().unwrap(), two.path().to_str().unwrap());
    let first = profile("first", Some((&SYSTEM, &[one, two])), false);
    let second = profile("second", Some((&SYSTEM, &[two, "/nowhere"])), false);
    let warden = with_profiles(vec![first, second]).await;
    if !has_landlock(&warden) {
        return;
    }
    let script = format!("echo x >{one}/f && echo one; echo x >{two}/f && echo two");
    assert_eq!(shell_under(&warden, &["first"], &["second"], &script).await.0, "two\n");
    assert_eq!(shell_under(&warden, &["first"], &[], &script).await.0, "one\ntwo\n");
}

#[tokio::test]
async fn an_offline_job_reaches_nobody() {
    let warden = with_profiles(vec![profile("offline", None, true)]).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("bash -c 'echo hello >/dev/tcp/127.0.0.1/{port}' 2>&1 && echo connected; echo over");
    let (said, _) = shell_under(&warden, &[], &[], &script).await;
    assert_eq!(said, "connected\nover\n", "the way is open without the profile");
    for (asked, decided) in
        [(vec!["offline"], vec![]), (vec![], vec!["offline"]), (vec!["offline"], vec!["offline"])]
    {
        let (said, _) = shell_under(&warden, &asked, &decided, &script).await;
        assert!(said.ends_with("over\n") && !said.contains("connected"), "{asked:?} {decided:?}: {said}");
    }
}

#[tokio::test]
async fn a_profile_that_is_not_configured_fails_the_start() {
    let warden = with_profiles(vec![profile("offline", None, true)]).await;
    assert!(warden.has_profile("offline") && warden.has_profile("base") && !warden.has_profile("other"));
    let asked = Prepare { confine: vec!["other".into()], ..wanted(job_id(), "true") };
    let failure = warden.prepare(asked).await.expect_err("an unknown profile");
    assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Confine, Errno::ENOENT));
    let (job, decided) = (job_id(), Permission { confine: vec!["other".into()], ..Permission::default() });
    let prepared = warden.prepare(wanted(job, "true")).await.unwrap();
    let (stdio, _ends) = Stdio::pipes(false).unwrap();
    let cleared = cleared_on(&prepared, command(job, &["true"], None), decided);
    let failure = prepared.release(&cleared, stdio, &JobLimits::default()).await.expect_err("unknown too");
    assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Confine, Errno::ENOENT));
    idle(&warden).await;
}

#[tokio::test]
async fn a_confinement_that_the_kernel_refuses_fails_the_start_and_leaves_nothing() {
    // Landlock nests sixteen domains at most; base is one.
    let names: Vec<String> = (0..16).map(|n| format!("p{n}")).collect();
    let warden =
        with_profiles(names.iter().map(|n| profile(n, Some((&["/"], &["/"])), false)).collect()).await;
    if !has_landlock(&warden) {
        return;
    }
    let failure = start_as(&warden, Prepare { confine: names, ..wanted(job_id(), "true") }, &["true"]).await;
    let failure = failure.expect_err("a domain too many");
    assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Confine, Errno::E2BIG));
    idle(&warden).await;
}
