//! session-quota: how many sessions and jobs at once, and for how long.
//!
//! Admits every session, with claims that the host takes atomically: a guest counts nothing. Of the groups in the settings, the
//! first that the caller is in replaces what it names; what it leaves out holds for its members as for everybody.

use execgate_policy_sdk::Limits;
use execgate_policy_sdk::prelude::*;

/// Settings of session-quota. In limits 0 is none at all; what is left out is not limited here.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Sessions at once.
    sessions: Sessions,
    /// Jobs at once.
    jobs: Jobs,
    /// Longest life of a session, milliseconds.
    max_duration_ms: Option<u64>,
    /// A session ends after so long without a request or a job, milliseconds.
    idle_ms: Option<u64>,
    /// Longest time without a connection, milliseconds; left out: a session ends with its connection.
    detach_ttl_ms: Option<u64>,
    /// Ceilings for every job.
    job_limits: Limits,
    /// What is otherwise for members of groups; the first that the caller is in counts.
    groups: Vec<Group>,
}

/// Sessions at once.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
struct Sessions {
    /// On the whole server.
    server: Option<u32>,
    /// Of the tenant.
    tenant: Option<u32>,
    /// Of the subject.
    subject: Option<u32>,
    /// Of all members of the group together; for groups only.
    group: Option<u32>,
}

/// Jobs at once.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
struct Jobs {
    /// On the whole server.
    server: Option<u32>,
    /// Of the tenant.
    tenant: Option<u32>,
    /// Of the subject.
    subject: Option<u32>,
    /// Of the session.
    session: Option<u32>,
    /// Of all members of the group together; for groups only.
    group: Option<u32>,
}

/// What is otherwise for the members of a group.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Group {
    /// The group's name.
    group: String,
    /// Sessions at once.
    #[serde(default)]
    sessions: Sessions,
    /// Jobs at once.
    #[serde(default)]
    jobs: Jobs,
    /// Longest life of a session, milliseconds.
    max_duration_ms: Option<u64>,
    /// A session ends after so long without a request or a job, milliseconds.
    idle_ms: Option<u64>,
    /// Longest time without a connection, milliseconds.
    detach_ttl_ms: Option<u64>,
    /// Ceilings for every job.
    #[serde(default)]
    job_limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sessions: Sessions { subject: Some(32), ..Sessions::default() },
            jobs: Jobs { subject: Some(64), ..Jobs::default() },
            max_duration_ms: None,
            idle_ms: None,
            detach_ttl_ms: Some(60_000),
            job_limits: Limits::default(),
            groups: Vec::new(),
        }
    }
}

/// The policy.
#[derive(Debug)]
pub struct SessionQuota;

impl Policy for SessionQuota {
    type Settings = Settings;
    const NAME: &'static str = "session-quota";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "how many sessions and jobs at once, and for how long";
    const SCHEMA: &'static str = include_str!("../schema.json");

    fn check(settings: &Settings) -> Vec<SettingError> {
        settings.errors()
    }
}

impl SessionPolicy for SessionQuota {
    fn admit(settings: &Settings, request: &SessionRequest) -> SessionVerdict {
        SessionVerdict::Allow(settings.admission(&request.principal))
    }
}

execgate_policy_sdk::export!(SessionQuota: session);

impl Settings {
    fn errors(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        let everybody =
            [("max_duration_ms".to_owned(), self.max_duration_ms), ("idle_ms".to_owned(), self.idle_ms)];
        let of_groups = self.groups.iter().enumerate().flat_map(|(at, group)| {
            let path = |key: &str| format!("groups[{at}].{key}");
            [(path("max_duration_ms"), group.max_duration_ms), (path("idle_ms"), group.idle_ms)]
        });
        for (path, _) in everybody.into_iter().chain(of_groups).filter(|(_, value)| *value == Some(0)) {
            errors.push(setting_error(path, "0 would end every session at once; leave it out for none"));
        }
        if self.sessions.group.is_some() {
            errors.push(setting_error(
                "sessions.group",
                "belongs to an entry of groups: it counts that group's members",
            ));
        }
        if self.jobs.group.is_some() {
            errors.push(setting_error(
                "jobs.group",
                "belongs to an entry of groups: it counts that group's members",
            ));
        }
        for (at, group) in self.groups.iter().enumerate() {
            if group.group.is_empty() || self.groups.iter().take(at).any(|other| other.group == group.group) {
                errors.push(setting_error(format!("groups[{at}].group"), "stands twice or is empty"));
            }
        }
        errors
    }

    fn admission(&self, who: &Principal) -> Admission {
        let group = self.groups.iter().find(|group| who.groups.contains(&group.group));
        let (sessions, jobs) = match group {
            None => (self.sessions, self.jobs),
            Some(group) => (group.sessions.or(self.sessions), group.jobs.or(self.jobs)),
        };
        let name = group.map_or("", |group| &group.group);
        let mut admission =
            Admission::by(group.map_or_else(|| "quota".to_owned(), |group| format!("quota.{}", group.group)));
        admission.claims = sessions.claims(name).chain(jobs.claims(name)).collect();
        admission.max_jobs = jobs.session;
        admission.max_duration_ms = group.and_then(|g| g.max_duration_ms).or(self.max_duration_ms);
        admission.idle_ms = group.and_then(|g| g.idle_ms).or(self.idle_ms);
        admission.detach_ttl_ms = group.and_then(|g| g.detach_ttl_ms).or(self.detach_ttl_ms);
        admission.job_limits =
            group.map_or(self.job_limits, |group| group.job_limits.or(self.job_limits)).into();
        admission
    }
}

fn claims<const N: usize>(what: Counted, counts: [(Scope, Option<u32>); N]) -> impl Iterator<Item = Claim> {
    counts.into_iter().filter_map(move |(scope, max)| Some(Claim { scope, what, max: max? }))
}

impl Sessions {
    fn or(self, general: Self) -> Self {
        Self {
            server: self.server.or(general.server),
            tenant: self.tenant.or(general.tenant),
            subject: self.subject.or(general.subject),
            group: self.group,
        }
    }

    fn claims(self, group: &str) -> impl Iterator<Item = Claim> {
        let group = (Scope::Group(group.to_owned()), self.group);
        let counts = [
            (Scope::Server, self.server),
            (Scope::Tenant, self.tenant),
            (Scope::Subject, self.subject),
            group,
        ];
        claims(Counted::Sessions, counts)
    }
}

impl Jobs {
    fn or(self, general: Self) -> Self {
        Self {
            server: self.server.or(general.server),
            tenant: self.tenant.or(general.tenant),
            subject: self.subject.or(general.subject),
            session: self.session.or(general.session),
            group: self.group,
        }
    }

    fn claims(self, group: &str) -> impl Iterator<Item = Claim> {
        let group = (Scope::Group(group.to_owned()), self.group);
        let wide = [(Scope::Server, self.server), (Scope::Tenant, self.tenant), group];
        let narrow = [(Scope::Subject, self.subject), (Scope::Session, self.session)];
        claims(Counted::Jobs, wide).chain(claims(Counted::Jobs, narrow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use execgate_policy_sdk::harness::{self, Tables};

    fn settings(json: &str) -> Settings {
        harness::settings::<SessionQuota>(json).unwrap()
    }

    fn member(groups: &[&str]) -> Principal {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        Principal { tenant: "acme".into(), subject: "alice".into(), groups, attributes: vec![] }
    }

    #[test]
    fn the_schema_is_the_settings() {
        harness::schema::<SessionQuota>(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json"));
    }

    #[test]
    fn tables() {
        Tables::<SessionQuota>::of(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).session().run();
    }

    #[test]
    fn by_default_a_subject_has_32_sessions_64_jobs_and_a_minute_to_come_back() {
        let admission = settings("{}").admission(&member(&[]));
        let claims: Vec<_> = admission.claims.iter().map(|c| (c.what, c.max)).collect();
        assert_eq!(claims, [(Counted::Sessions, 32), (Counted::Jobs, 64)]);
        assert_eq!(admission.detach_ttl_ms, Some(60_000));
    }

    #[test]
    fn naming_counts_replaces_the_default_ones() {
        let admission = settings(r#"{"sessions":{"tenant":5},"jobs":{"session":2}}"#).admission(&member(&[]));
        assert_eq!(admission.claims.len(), 2);
        assert_eq!(admission.max_jobs, Some(2));
    }

    #[test]
    fn a_group_replaces_what_it_names_and_keeps_the_rest() {
        let json = r#"{"sessions":{"tenant":100,"subject":8},"idle_ms":1000,"job_limits":{"wall_ms":5,"processes":9},
            "groups":[{"group":"ops","sessions":{"subject":50}},
                      {"group":"interns","sessions":{"subject":1,"group":10},"jobs":{"group":4},"job_limits":{"wall_ms":2}}]}"#;
        let settings = settings(json);
        let intern = settings.admission(&member(&["staff", "interns"]));
        let group = || Scope::Group("interns".to_owned());
        let claim = |scope, what, max| Claim { scope, what, max };
        assert_eq!(
            intern.claims,
            [
                claim(Scope::Tenant, Counted::Sessions, 100),
                claim(Scope::Subject, Counted::Sessions, 1),
                claim(group(), Counted::Sessions, 10),
                claim(group(), Counted::Jobs, 4),
                claim(Scope::Subject, Counted::Jobs, 64),
            ]
        );
        assert_eq!(
            (intern.idle_ms, intern.job_limits.wall_ms, intern.job_limits.processes),
            (Some(1000), Some(2), Some(9))
        );
        let both = settings.admission(&member(&["interns", "ops"]));
        assert_eq!(both.rules, ["quota.ops"], "the first entry counts, not the caller's first group");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_path() {
        let json = r#"{"sessions":{"group":1},"idle_ms":0,"groups":[{"group":"a","max_duration_ms":0},{"group":"a"}]}"#;
        let errors = harness::settings::<SessionQuota>(json).unwrap_err();
        let paths: Vec<_> = errors.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["idle_ms", "groups[0].max_duration_ms", "sessions.group", "groups[1].group"]);
        let typo = harness::settings::<SessionQuota>(r#"{"sesions":{}}"#).unwrap_err();
        assert!(typo[0].message.contains("sesions"));
    }
}
