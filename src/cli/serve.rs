//! `serve`: the gateway itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::config::{self, Auto, Environment, Loaded, LogFormat, Sources, token};
use crate::domain::Tier;
use crate::server::{self, Fresh, Left, Server, Setup, Source, Told};
use crate::telemetry::{self, Format};
use crate::warden;

use super::args;
use super::output::{Trouble, say};

/// How long threads that block may take to end once the server is gone.
const BLOCKED: Duration = Duration::from_secs(1);

pub(super) fn run(args: &args::Serve) -> Result<ExitCode, Trouble> {
    let environment = Environment::of_process();
    let mut sources = sources(&args.from);
    sources.flags.extend(args.listen.map(|listen| ("server.listen".to_owned(), format!("\"{listen}\""))));
    let loaded = config::load(&sources, &environment).map_err(Trouble::failed)?;
    start_logs(&loaded)?;
    let (file, made) = made_token(&loaded, &environment)?.unzip();
    let setup = Setup::new(&loaded.settings, made.as_deref()).map_err(Trouble::failed)?;
    let warnings = setup.warnings.clone();
    let source: Source = Box::new(move || {
        let loaded = config::load(&sources, &environment).map_err(|e| e.to_string())?;
        let setup = Setup::new(&loaded.settings, made.as_deref()).map_err(|e| e.to_string())?;
        Ok(Fresh { loaded, setup })
    });
    // Jobs that share our user could otherwise read our memory and take our descriptors where the kernel has no Landlock.
    let hidden = nix::sys::prctl::set_dumpable(false);
    hidden.map_err(|error| Trouble::failed(format!("the process cannot be closed to others: {error}")))?;
    warden::keep_little_memory();
    let runtime = runtime()?;
    let left = runtime.block_on(async {
        // Before anybody is told that the server is there: who reads the banner may send a signal at once.
        let told = Told::listen();
        let told = told.map_err(|error| Trouble::failed(format!("signals cannot be waited for: {error}")))?;
        let server = server::start(setup).await.map_err(Trouble::failed)?;
        match banner(&server, &loaded.settings.server.hosts, file.as_deref(), &warnings) {
            // Who starts a server may close its output at any time.
            Err(trouble) if !trouble.is_that_nobody_reads() => return Err(trouble),
            Ok(()) | Err(_) => {}
        }
        match server.run(told, loaded, source).await {
            Left::InOrder => Ok(ExitCode::SUCCESS),
            Left::WardenGone => {
                Err(Trouble::failed("the warden was gone; every job was killed. Start the gateway again"))
            }
        }
    });
    // What still blocks a thread, such as a file that is never read to its end, ends with the process.
    runtime.shutdown_timeout(BLOCKED);
    left
}

pub(super) fn sources(from: &args::From) -> Sources {
    Sources { files: from.config.clone(), flags: from.set.clone(), no_system: false }
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Trouble> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|error| Trouble::failed(format!("the runtime cannot be started: {error}")))
}

fn start_logs(loaded: &Loaded) -> Result<(), Trouble> {
    let format = match loaded.settings.log.format {
        Auto::Set(LogFormat::Text) => Format::Text,
        Auto::Set(LogFormat::Json) => Format::Json,
        Auto::Auto(_) => Format::Auto,
    };
    telemetry::start(format, &loaded.settings.log.level).map_err(Trouble::failed)
}

/// With no token configured, the file of the state directory and the token in it, made on first use.
fn made_token(loaded: &Loaded, environment: &Environment) -> Result<Option<(PathBuf, String)>, Trouble> {
    Ok(if !loaded.settings.auth.is_configured() {
        let directory = environment.state_directory();
        let directory = directory.ok_or_else(|| Trouble::failed("there is no home directory to keep a token in; set HOME or XDG_STATE_HOME, or configure [auth.token.NAME]"))?;
        let file = directory.join(token::FILE);
        let made = token::ensure(&file).map_err(|e| Trouble::failed(format!("the token: {e}")))?;
        Some((file, made))
    } else {
        None
    })
}

fn banner(
    server: &Server,
    hosts: &[String],
    token: Option<&Path>,
    warnings: &[String],
) -> Result<(), Trouble> {
    let (address, containment) = (server.address(), server.containment());
    let scheme = if server.speaks_tls() { "https" } else { "http" };
    say(format!("execgate {} listening on {scheme}://{address}", env!("CARGO_PKG_VERSION")))?;
    let usual = address.port() == 7171 && scheme == "http";
    let url = if usual { String::new() } else { format!(" --url {scheme}://{}", reached_at(address, hosts)) };
    // With tokens of the operator's own, only the user has one.
    let (who, whose) = match token {
        Some(_) => ("", ""),
        None => ("EXECGATE_TOKEN=TOKEN ", "   (with a token of yours, or --cert and --key)"),
    };
    say(format!("try:          {who}execgate exec{url} -- uname -a{whose}"))?;
    if scheme == "https" {
        say(
            "              a certificate of an authority that this system does not trust needs --ca FILE too",
        )?;
    }
    if let Some(admin) = server.admin_address() {
        say(format!("admin:        http://{admin}/metrics and /readyz, without asking who"))?;
    }
    for policy in server.policies() {
        let mode = if policy.mode == crate::verdict::Mode::Monitor { ", monitor only" } else { "" };
        say(format!(
            "policy:       {} ({} {}, {}{mode})",
            policy.name,
            policy.module,
            policy.version,
            policy.hooks.join(" ")
        ))?;
    }
    if server.uses_default_policies() {
        say("              these are the defaults: they restrain mistakes, not attackers")?;
    }
    let promise = match containment.tier {
        Tier::C => "best effort only: a job may leave processes behind",
        Tier::A | Tier::APrime | Tier::B => containment.kill.as_str(),
    };
    say(format!("containment:  tier {}, {promise}", containment.tier))?;
    if let Some(file) = token.filter(|_| server.shares_its_user()) {
        say(format!(
            "warning:      jobs run as the user of this server and can read its token, {}; [tenant.NAME.identity] changes that",
            file.display()
        ))?;
    }
    if server.runs_root_jobs() {
        say("warning:      jobs run as root; configure [tenant.NAME.identity] to change that")?;
    }
    for warning in server.lacking_controllers().chain(warnings) {
        say(format!("warning:      {warning}"))?;
    }
    say(format!(
        "memory:       held below {} MiB, of which at most {} MiB for the streams of {} jobs and of those that ended",
        server.memory_bound() >> 20,
        server.stream_bound() >> 20,
        server.most_jobs()
    ))
}

/// Where a client on this host reaches what listens there: a wildcard is no address, and stands in no certificate.
fn reached_at(address: SocketAddr, hosts: &[String]) -> String {
    let host = match (address.ip(), hosts.first()) {
        (ip, Some(name)) if ip.is_unspecified() => name.clone(),
        (IpAddr::V4(ip), None) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
        (IpAddr::V6(ip), None) if ip.is_unspecified() => format!("[{}]", Ipv6Addr::LOCALHOST),
        _ => return address.to_string(),
    };
    format!("{host}:{}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_reached_by_its_name() {
        let reached = |listen: &str, hosts: &[&str]| {
            let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
            reached_at(listen.parse().unwrap(), &hosts)
        };
        assert_eq!(reached("0.0.0.0:7443", &["shell.example", "10.0.0.1"]), "shell.example:7443");
        assert_eq!(reached("[::]:7443", &["shell.example"]), "shell.example:7443");
        assert_eq!(reached("0.0.0.0:7171", &[]), "127.0.0.1:7171");
        assert_eq!(reached("[::]:7171", &[]), "[::1]:7171");
        assert_eq!(reached("192.0.2.1:7171", &["shell.example"]), "192.0.2.1:7171");
    }
}
