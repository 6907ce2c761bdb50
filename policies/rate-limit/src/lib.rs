//! rate-limit: how often a call may be made.
//!
//! Every bucket that matches a call is charged; the host counts. Settings:
//! ```json
//! {"buckets": [{"id": "starts", "method": "job.start", "per": "subject", "burst": 400, "count": 200, "period_ms": 1000}]}
//! ```

#[allow(missing_docs, reason = "generated from the interface files, which document it")]
mod wit {
    execgate_policy_sdk::world!("rate-policy", "../../wit");
}

use execgate_policy_sdk::{Configured, read};
use serde::Deserialize;
use wit::execgate::policy::types::Denial;
use wit::exports::execgate::policy::plugin::{Description, Guest as Plugin, SettingError};
use wit::exports::execgate::policy::rate::{Call, Charge, Guest, Quota};

static SETTINGS: Configured<Settings> = Configured::new();

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    buckets: Vec<Bucket>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bucket {
    id: String,
    method: Option<String>,
    program: Option<String>,
    #[serde(default)]
    per: Per,
    burst: u32,
    count: u32,
    period_ms: u64,
    #[serde(default = "one")]
    cost: u32,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Per {
    Tenant,
    #[default]
    Subject,
    Address,
}

const fn one() -> u32 {
    1
}

impl Default for Settings {
    fn default() -> Self {
        let starts = Bucket {
            id: "starts".to_owned(),
            method: Some("job.start".to_owned()),
            program: None,
            per: Per::Subject,
            burst: 400,
            count: 200,
            period_ms: 1000,
            cost: 1,
        };
        Self { buckets: vec![starts] }
    }
}

impl Settings {
    fn check(&self) -> Result<(), Vec<SettingError>> {
        let mut errors = Vec::new();
        let mut error = |at: usize, key: &str, message: &str| {
            errors.push(SettingError { path: format!("buckets[{at}].{key}"), message: message.to_owned() });
        };
        for (at, bucket) in self.buckets.iter().enumerate() {
            if bucket.burst == 0 || bucket.count == 0 || bucket.period_ms == 0 {
                error(
                    at,
                    "burst",
                    "burst, count and period_ms must be at least 1; to forbid a call, use a deny rule",
                );
            }
            if bucket.cost > bucket.burst {
                error(at, "cost", "more than the burst can never be taken");
            }
            if !matches!(bucket.method.as_deref(), None | Some("session.open" | "job.start")) {
                error(at, "method", "must be \"session.open\" or \"job.start\"");
            }
        }
        if self.buckets.len() > 8 {
            errors.push(SettingError { path: "buckets".to_owned(), message: "at most 8".to_owned() });
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn charges(&self, call: &Call) -> Vec<Charge> {
        self.buckets.iter().filter(|bucket| bucket.matches(call)).map(|bucket| bucket.charge(call)).collect()
    }
}

impl Bucket {
    fn matches(&self, call: &Call) -> bool {
        let method = self.method.as_ref().is_none_or(|method| *method == call.method);
        let program = self.program.as_ref().is_none_or(|program| call.program.as_ref() == Some(program));
        method && program
    }

    fn charge(&self, call: &Call) -> Charge {
        let whose = match self.per {
            Per::Tenant => String::new(),
            Per::Subject => call.principal.subject.clone(),
            Per::Address => call.origin.address.clone(),
        };
        Charge {
            bucket: format!("{}:{whose}", self.id),
            cost: self.cost,
            quota: Quota { burst: self.burst, count: self.count, period_ms: self.period_ms },
            rule: self.id.clone(),
        }
    }
}

struct Policy;

impl Plugin for Policy {
    fn describe() -> Description {
        Description {
            name: "rate-limit".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "how often sessions may be opened and jobs started".to_owned(),
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
    fn charge_for(call: Call) -> Result<Vec<Charge>, Denial> {
        Ok(SETTINGS.get().map(|settings| settings.charges(&call)).unwrap_or_default())
    }
}

#[cfg(target_family = "wasm")]
wit::export!(Policy with_types_in wit);

#[cfg(test)]
mod tests {
    use super::*;
    use wit::execgate::policy::types::{Origin, Principal, When};

    fn call(method: &str, program: Option<&str>) -> Call {
        Call {
            principal: Principal {
                tenant: "t".into(),
                subject: "s".into(),
                groups: vec![],
                attributes: vec![],
            },
            origin: Origin { address: "127.0.0.1".into(), transport: "websocket".into() },
            when: When { unix_ms: 0, weekday: 1, minute_of_day: 0, zone: "UTC".into() },
            method: method.to_owned(),
            program: program.map(str::to_owned),
        }
    }

    #[test]
    fn by_default_starts_are_charged_and_opens_are_free() {
        let settings: Settings = read("{}").unwrap();
        let charges = settings.charges(&call("job.start", Some("ls")));
        assert_eq!((charges.len(), charges[0].bucket.as_str(), charges[0].quota.burst), (1, "starts:s", 400));
        assert!(settings.charges(&call("session.open", None)).is_empty());
    }

    #[test]
    fn a_bucket_for_a_program_charges_that_program_only() {
        let json = r#"{"buckets":[{"id":"gcc","program":"gcc","per":"tenant","burst":2,"count":1,"period_ms":1000}]}"#;
        let settings: Settings = read(json).unwrap();
        assert_eq!(settings.charges(&call("job.start", Some("gcc")))[0].bucket, "gcc:");
        assert!(settings.charges(&call("job.start", Some("cc"))).is_empty());
    }

    #[test]
    fn a_wrong_setting_is_named_by_its_path() {
        let problem = read::<Settings>(r#"{"buckets":[{"id":"x","brust":1}]}"#).unwrap_err();
        assert!(problem.path.starts_with("buckets[0]") && problem.message.contains("brust"), "{problem:?}");
        let json =
            r#"{"buckets":[{"id":"x","burst":1,"count":1,"period_ms":0,"cost":2,"method":"job.stop"}]}"#;
        let errors = read::<Settings>(json).unwrap().check().unwrap_err();
        assert_eq!(errors.len(), 3);
    }
}
