//! Short ways to say the usual answers.

use crate::types::{Admission, Change, Denial, JobLimits, Permission, SettingError};

/// What is wrong with the setting at `path`, and what would be right.
pub fn setting_error(path: impl Into<String>, message: impl Into<String>) -> SettingError {
    SettingError { path: path.into(), message: message.into() }
}

impl Denial {
    /// Refused by `rule`; `code` is for programs, `message` for people: what was refused and why.
    pub fn new(rule: impl Into<String>, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), remedy: None, rules: vec![rule.into()] }
    }

    /// Says what to do next.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl JobLimits {
    /// No opinion about anything.
    pub const ANY: Self = Self {
        wall_ms: None,
        cpu_ms: None,
        memory_bytes: None,
        processes: None,
        output_bytes: None,
        file_size_bytes: None,
        open_files: None,
    };
}

impl Default for JobLimits {
    fn default() -> Self {
        Self::ANY
    }
}

impl Permission {
    /// Allowed by `rule`, unchanged and without limits of this policy.
    pub fn by(rule: impl Into<String>) -> Self {
        Self {
            rules: vec![rule.into()],
            changes: Vec::new(),
            limits: JobLimits::ANY,
            claims: Vec::new(),
            confine: Vec::new(),
        }
    }

    /// Sets a variable of the command's environment.
    pub fn set_env(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.changes.push(Change::SetEnv((name.into(), value.into())));
    }
}

impl Admission {
    /// Admitted by `rule`, without limits of this policy.
    pub fn by(rule: impl Into<String>) -> Self {
        Self {
            rules: vec![rule.into()],
            claims: Vec::new(),
            max_jobs: None,
            max_duration_ms: None,
            idle_ms: None,
            detach_ttl_ms: None,
            job_limits: JobLimits::ANY,
        }
    }
}
