//! Requests as a gateway would ask them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use execgate::domain::{
    Authority, Command, CommandRequest, Executable, Facts, FileIdentity, Origin, Principal, Resolved,
    SessionId, Transport, UsageCounts, When,
};

/// A command of nobody in particular.
pub fn command(argv: &[&str]) -> Arc<CommandRequest> {
    let principal = Principal {
        tenant: "acme".into(),
        subject: "alice".into(),
        groups: vec!["staff".into()],
        attributes: BTreeMap::new(),
        authority: Authority::Caller,
    };
    let env = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "EXECGATE_JOB"];
    let command = Command {
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        cwd: None,
        env: env.iter().map(|name| ((*name).to_owned(), "value".to_owned())).collect(),
        terminal: None,
    };
    let path = format!("/usr/bin/{}", argv[0]);
    let executable = Executable {
        requested: argv[0].to_owned(),
        found: Some(path.clone()),
        canonical: path,
        identity: FileIdentity { device: 1, inode: 1 },
        setuid: false,
        interpreter: None,
    };
    let facts = Facts { executable, cwd: "/tmp".to_owned(), script: None };
    Arc::new(CommandRequest {
        principal: Arc::new(principal),
        origin: Origin { address: IpAddr::V4(Ipv4Addr::LOCALHOST), transport: Transport::WebSocket },
        when: When { unix_ms: 1_700_000_000_000, weekday: 3, minute_of_day: 600, zone: "UTC".into() },
        session: SessionId::from_bits(1),
        resolved: Resolved { command, facts },
        labels: BTreeMap::new(),
        usage: UsageCounts::default(),
    })
}
