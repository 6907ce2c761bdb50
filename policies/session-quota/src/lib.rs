//! session-quota: how many sessions and jobs at once, and for how long.
//!
//! Admits every session, with claims that the host takes atomically. All settings are optional:
//! ```json
//! {"sessions": {"server": 1000, "tenant": 100, "subject": 32}, "jobs": {"tenant": 200, "subject": 64, "session": 64},
//!  "max_duration_ms": 86400000, "idle_ms": 3600000, "detach_ttl_ms": 60000,
//!  "job_limits": {"wall_ms": 3600000, "output_bytes": 1073741824}}
//! ```

#[allow(missing_docs, reason = "generated from the interface files, which document it")]
mod wit {
    execgate_policy_sdk::world!("session-policy", "../../wit");
}

use execgate_policy_sdk::{Configured, read};
use serde::Deserialize;
use wit::execgate::policy::types::{Claim, Counted, JobLimits, Scope};
use wit::exports::execgate::policy::plugin::{Description, Guest as Plugin, SettingError};
use wit::exports::execgate::policy::session::{Admission, Guest, SessionRequest, SessionVerdict};

static SETTINGS: Configured<Settings> = Configured::new();

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    sessions: Counts,
    jobs: Counts,
    max_duration_ms: Option<u64>,
    idle_ms: Option<u64>,
    detach_ttl_ms: Option<u64>,
    job_limits: Limits,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Counts {
    server: Option<u32>,
    tenant: Option<u32>,
    subject: Option<u32>,
    session: Option<u32>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    wall_ms: Option<u64>,
    cpu_ms: Option<u64>,
    memory_bytes: Option<u64>,
    processes: Option<u32>,
    output_bytes: Option<u64>,
    file_size_bytes: Option<u64>,
    open_files: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sessions: Counts { subject: Some(32), ..Counts::default() },
            jobs: Counts { subject: Some(64), ..Counts::default() },
            max_duration_ms: None,
            idle_ms: None,
            detach_ttl_ms: Some(60_000),
            job_limits: Limits::default(),
        }
    }
}

impl Counts {
    fn claims(self, what: Counted) -> impl Iterator<Item = Claim> {
        let scopes = [
            (Scope::Server, self.server),
            (Scope::Tenant, self.tenant),
            (Scope::Subject, self.subject),
            (Scope::Session, self.session),
        ];
        scopes.into_iter().filter_map(move |(scope, max)| Some(Claim { scope, what, max: max? }))
    }
}

impl Settings {
    fn check(&self) -> Result<(), Vec<SettingError>> {
        let mut errors = Vec::new();
        if self.sessions.session.is_some() {
            let message = "a session holds no sessions; there are server, tenant and subject".to_owned();
            errors.push(SettingError { path: "sessions.session".to_owned(), message });
        }
        for (path, value) in [("max_duration_ms", self.max_duration_ms), ("idle_ms", self.idle_ms)] {
            if value == Some(0) {
                let message = "0 would end every session at once; leave it out for none".to_owned();
                errors.push(SettingError { path: path.to_owned(), message });
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn admission(&self) -> Admission {
        let limits = self.job_limits;
        Admission {
            rules: vec!["quota".to_owned()],
            claims: self.sessions.claims(Counted::Sessions).chain(self.jobs.claims(Counted::Jobs)).collect(),
            max_jobs: self.jobs.session,
            max_duration_ms: self.max_duration_ms,
            idle_ms: self.idle_ms,
            detach_ttl_ms: self.detach_ttl_ms,
            job_limits: JobLimits {
                wall_ms: limits.wall_ms,
                cpu_ms: limits.cpu_ms,
                memory_bytes: limits.memory_bytes,
                processes: limits.processes,
                output_bytes: limits.output_bytes,
                file_size_bytes: limits.file_size_bytes,
                open_files: limits.open_files,
            },
        }
    }
}

struct Policy;

impl Plugin for Policy {
    fn describe() -> Description {
        Description {
            name: "session-quota".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "how many sessions and jobs at once, and for how long".to_owned(),
            settings_schema: include_str!("../schema.json").to_owned(),
        }
    }

    fn configure(settings: String) -> Result<(), Vec<SettingError>> {
        let settings: Settings =
            read(&settings).map_err(|p| vec![SettingError { path: p.path, message: p.message }])?;
        settings.check()?;
        SETTINGS.set(settings);
        Ok(())
    }
}

impl Guest for Policy {
    fn admit(_request: SessionRequest) -> SessionVerdict {
        match SETTINGS.get() {
            Some(settings) => SessionVerdict::Allow(settings.admission()),
            None => SessionVerdict::Abstain,
        }
    }
}

#[cfg(target_family = "wasm")]
wit::export!(Policy with_types_in wit);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_a_subject_has_32_sessions_64_jobs_and_a_minute_to_come_back() {
        let admission = read::<Settings>("{}").unwrap().admission();
        let claims: Vec<_> = admission.claims.iter().map(|c| (c.what, c.max)).collect();
        assert_eq!(claims, [(Counted::Sessions, 32), (Counted::Jobs, 64)]);
        assert_eq!(admission.detach_ttl_ms, Some(60_000));
    }

    #[test]
    fn naming_counts_replaces_the_default_ones() {
        let settings: Settings = read(r#"{"sessions":{"tenant":5},"jobs":{"session":2}}"#).unwrap();
        let admission = settings.admission();
        assert_eq!(admission.claims.len(), 2);
        assert_eq!(admission.max_jobs, Some(2));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_path() {
        let errors =
            read::<Settings>(r#"{"sessions":{"session":1},"idle_ms":0}"#).unwrap().check().unwrap_err();
        let paths: Vec<_> = errors.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["sessions.session", "idle_ms"]);
        assert!(read::<Settings>(r#"{"sesions":{}}"#).unwrap_err().message.contains("sesions"));
    }
}
