//! The real binary, serving on a port of its own.

#![allow(clippy::disallowed_methods, reason = "tests start the program under test")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{PATIENCE, eventually, proc};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A gateway at work. Dropping it kills it and insists that nothing is left.
pub struct Gateway {
    child: Child,
    pub url: String,
    pub banner: Vec<String>,
    pub directory: TempDir,
    /// In the environment of every job.
    pub marker: String,
    pub warden: i32,
}

impl Gateway {
    /// With everything at its default.
    pub fn start() -> Self {
        Self::with("")
    }

    /// With this configuration on top.
    pub fn with(config: &str) -> Self {
        Self::with_environment(config, &[])
    }

    /// With this configuration on top, and these variables in the gateway's own environment.
    pub fn with_environment(config: &str, environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let marker =
            format!("EXECGATE_TEST={}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let file = directory.path().join("test.toml");
        std::fs::write(&file, marked(config, &marker)).unwrap();
        Self::serve(directory, marker, &file, &[], environment)
    }

    /// With a configuration file as it stands, from this working directory.
    pub fn example(directory: TempDir, file: &Path, arguments: &[&str]) -> Self {
        Self::serve(directory, "EXECGATE_TEST=example".to_owned(), file, arguments, &[])
    }

    /// Replaces the configuration; the gateway reads it when it is told to.
    pub fn reconfigure(&self, config: &str) {
        std::fs::write(self.directory.path().join("test.toml"), marked(config, &self.marker)).unwrap();
    }

    fn serve(
        directory: TempDir,
        marker: String,
        file: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut child = Self::command(&directory)
            // A loaded machine may take its time to run a leader; no test is about how long.
            .env("EXECGATE_JOBS__GATE", "10s")
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(file)
            .args(arguments)
            .envs(environment.iter().copied())
            .current_dir(directory.path())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut banner = Vec::new();
        while let Some(Ok(line)) = lines.next() {
            let last = line.starts_with("memory:");
            banner.push(line);
            if last {
                break;
            }
        }
        let Some(url) = banner.first().and_then(|line| line.split(" on ").nth(1)).map(str::to_owned) else {
            let log = std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
            panic!("the gateway did not start: {banner:?} {log}");
        };
        let warden = proc::children(child.id() as i32).first().copied().expect("a gateway has a warden");
        Self { child, url, banner, directory, marker, warden }
    }

    /// The binary with nothing of our environment but what it needs.
    pub fn command(directory: &TempDir) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_execgate"));
        command
            .env_clear()
            .env("XDG_STATE_HOME", directory.path())
            .env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", directory.path());
        command
    }

    /// A command of the command line, aimed at this gateway.
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = Self::command(&self.directory);
        command.args(arguments).env("EXECGATE_URL", &self.url);
        command
    }

    pub fn address(&self) -> String {
        self.url.trim_start_matches("https://").trim_start_matches("http://").to_owned()
    }

    pub fn token(&self) -> String {
        let path: PathBuf = self.directory.path().join("execgate/token");
        // With tokens configured, the gateway makes none.
        std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Whether jobs are contained by cgroups here.
    pub fn is_exact(&self) -> bool {
        self.banner.iter().any(|line| line.contains("tier A'") || line.contains("tier A,"))
    }

    /// Processes of jobs of this gateway that are alive.
    pub fn survivors(&self) -> Vec<i32> {
        proc::with_environment(&self.marker)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for the gateway's own end.
    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        let mut status = None;
        eventually(within, "the gateway ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

/// The configuration with the marker in the environment of every job.
fn marked(config: &str, marker: &str) -> String {
    let (name, value) = marker.split_once('=').unwrap();
    format!("{config}\n[jobs.env]\n{name} = \"{value}\"\n")
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let warden = self.warden;
        // A test may have killed it: then the groups are left to the next start.
        let orderly = proc::is_alive(warden);
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the gateway's log ---\n{}", self.log());
            for pid in self.survivors() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            return;
        }
        eventually(PATIENCE, "the warden leaves with its gateway", || !proc::is_alive(warden));
        eventually(PATIENCE, "no job outlives its gateway", || self.survivors().is_empty());
        if let Some(root) = proc::instance_of(&self.banner).filter(|_| orderly) {
            eventually(PATIENCE, "no group outlives its warden", || !root.exists());
        }
    }
}
