//! rate-limit: how often a call may be made.
//!
//! Every bucket that matches a call is charged; the host counts. A bucket is counted within the tenant, for each subject,
//! for each address (IPv6 by its /64), or for all of the tenant together. Two buckets, one with a short period and one with a long,
//! bound bursts and the sustained rate.

use std::net::IpAddr;

use execgate_policy_sdk::prelude::*;

/// Most charges of one call that the host takes.
const CHARGES: usize = 8;
/// Most buckets: each is looked at for every call.
const BUCKETS: usize = 64;

/// Settings of rate-limit.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// In the order in which they are charged; the first that is empty refuses the call, and what was charged stays charged.
    buckets: Vec<Bucket>,
}

/// What is charged for which calls.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Bucket {
    /// Names it in answers and logs.
    id: String,
    /// `session.open` or `job.start`; left out: both.
    method: Option<String>,
    /// Starts of this program: the last part of its path as the client wrote it.
    program: Option<String>,
    /// Starts of one of these programs.
    #[serde(default)]
    programs: Vec<String>,
    /// Calls of these tenants; none named: of any.
    #[serde(default)]
    tenants: Vec<String>,
    /// Calls of these subjects; none named: of any.
    #[serde(default)]
    subjects: Vec<String>,
    /// Calls of members of one of these groups; none named: of anybody.
    #[serde(default)]
    groups: Vec<String>,
    /// But not of members of these.
    #[serde(default)]
    except_groups: Vec<String>,
    /// Whose calls are counted together.
    #[serde(default)]
    per: Per,
    /// Cells when full: so many at once.
    #[cfg_attr(not(target_family = "wasm"), schemars(range(min = 1)))]
    burst: u32,
    /// So many cells come back each period.
    #[cfg_attr(not(target_family = "wasm"), schemars(range(min = 1)))]
    count: u32,
    /// The period, milliseconds.
    #[cfg_attr(not(target_family = "wasm"), schemars(range(min = 1)))]
    period_ms: u64,
    /// Cells that a call takes; 0 is free.
    #[serde(default = "one")]
    cost: u32,
}

/// Whose calls are counted together.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
enum Per {
    /// Those of the tenant.
    Tenant,
    /// Those of each subject.
    #[default]
    Subject,
    /// Those from each address; of IPv6, from each /64.
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
            programs: Vec::new(),
            tenants: Vec::new(),
            subjects: Vec::new(),
            groups: Vec::new(),
            except_groups: Vec::new(),
            per: Per::Subject,
            burst: 400,
            count: 200,
            period_ms: 1000,
            cost: 1,
        };
        Self { buckets: vec![starts] }
    }
}

/// The policy.
#[derive(Debug)]
pub struct RateLimit;

impl Policy for RateLimit {
    type Settings = Settings;
    const NAME: &'static str = "rate-limit";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "how often sessions may be opened and jobs started";
    const SCHEMA: &'static str = include_str!("../schema.json");

    fn check(settings: &Settings) -> Vec<SettingError> {
        settings.errors()
    }
}

impl RatePolicy for RateLimit {
    fn charge_for(settings: &Settings, call: &Call) -> Result<Vec<Charge>, Denial> {
        let charges: Vec<_> = settings
            .buckets
            .iter()
            .filter(|bucket| bucket.matches(call))
            .map(|bucket| bucket.charge(call))
            .collect();
        if charges.len() > CHARGES {
            let message = format!(
                "{} buckets match this call, and no more than {CHARGES} can be charged",
                charges.len()
            );
            return Err(Denial::new("buckets", "too_many_buckets", message)
                .remedy("have the operator make the buckets of rate-limit overlap less"));
        }
        Ok(charges)
    }
}

execgate_policy_sdk::export!(RateLimit: rate);

impl Settings {
    fn errors(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        for (at, bucket) in self.buckets.iter().enumerate() {
            let mut error = |key: &str, message: &str| {
                errors.push(setting_error(format!("buckets[{at}].{key}"), message))
            };
            if bucket.id.is_empty() || bucket.id.len() > 64 {
                error("id", "1 to 64 bytes: it names the bucket in answers and logs");
            }
            if self.buckets.iter().take(at).any(|other| other.id == bucket.id) {
                error("id", "stands twice");
            }
            bucket.errors(&mut error);
        }
        if self.buckets.len() > BUCKETS {
            errors.push(setting_error("buckets", format!("at most {BUCKETS}")));
        }
        errors
    }
}

impl Bucket {
    fn errors(&self, error: &mut impl FnMut(&str, &str)) {
        for (key, zero) in
            [("burst", self.burst == 0), ("count", self.count == 0), ("period_ms", self.period_ms == 0)]
        {
            if zero {
                error(key, "must be at least 1; to forbid a call, use a deny rule of command-rules");
            }
        }
        if u64::from(self.count) > self.period_ms.saturating_mul(1_000_000) && self.period_ms > 0 {
            error(
                "count",
                "more than one cell a nanosecond cannot be counted; at most period_ms times 1000000",
            );
        }
        if self.cost > self.burst {
            error("cost", "more than the burst can never be taken");
        }
        if !matches!(self.method.as_deref(), None | Some("session.open" | "job.start")) {
            error("method", "must be \"session.open\" or \"job.start\"");
        }
        if self
            .program
            .iter()
            .chain(&self.programs)
            .any(|program| program.is_empty() || program.contains('/'))
        {
            error("programs", "names without /: the last part of the path counts");
        }
    }

    fn matches(&self, call: &Call) -> bool {
        let who = &call.principal;
        let of = |named: &[String], value: &String| named.is_empty() || named.contains(value);
        let in_one = |groups: &[String]| who.groups.iter().any(|group| groups.contains(group));
        self.method.as_ref().is_none_or(|method| *method == call.method)
            && self.is_for_program(call.program.as_deref())
            && of(&self.tenants, &who.tenant)
            && of(&self.subjects, &who.subject)
            && (self.groups.is_empty() || in_one(&self.groups))
            && !in_one(&self.except_groups)
    }

    fn is_for_program(&self, program: Option<&str>) -> bool {
        if self.program.is_none() && self.programs.is_empty() {
            return true;
        }
        let Some(name) = program.and_then(|path| path.rsplit('/').next()) else { return false };
        self.program.iter().chain(&self.programs).any(|known| known == name)
    }

    fn charge(&self, call: &Call) -> Charge {
        let whose = match self.per {
            Per::Tenant => String::new(),
            Per::Subject => call.principal.subject.clone(),
            Per::Address => network(&call.origin.address),
        };
        Charge {
            bucket: format!("{}:{whose}", self.id),
            cost: self.cost,
            quota: Quota { burst: self.burst, count: self.count, period_ms: self.period_ms },
            rule: self.id.clone(),
        }
    }
}

/// An IPv4 address as it is; of IPv6 the /64, since whoever has one address has all of it.
fn network(address: &str) -> String {
    match address.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        Ok(IpAddr::V4(address)) => address.to_string(),
        Err(_) => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use execgate_policy_sdk::harness::{self, Tables};

    fn settings(json: &str) -> Settings {
        harness::settings::<RateLimit>(json).unwrap()
    }

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
            attributes: vec![],
        }
    }

    #[test]
    fn the_schema_is_the_settings() {
        harness::schema::<RateLimit>(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json"));
    }

    #[test]
    fn tables() {
        Tables::<RateLimit>::of(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).rate().run();
    }

    #[test]
    fn by_default_starts_are_charged_and_opens_are_free() {
        let charges = RateLimit::charge_for(&settings("{}"), &call("job.start", Some("ls"))).unwrap();
        assert_eq!((charges.len(), charges[0].bucket.as_str(), charges[0].quota.burst), (1, "starts:s", 400));
        assert!(RateLimit::charge_for(&settings("{}"), &call("session.open", None)).unwrap().is_empty());
    }

    #[test]
    fn a_program_is_the_same_by_any_path() {
        let json = r#"{"buckets":[{"id":"gcc","program":"gcc","per":"tenant","burst":2,"count":1,"period_ms":1000}]}"#;
        let settings = settings(json);
        for program in ["gcc", "/usr/bin/gcc", "..//gcc"] {
            let charges = RateLimit::charge_for(&settings, &call("job.start", Some(program))).unwrap();
            assert_eq!(charges[0].bucket, "gcc:", "{program}");
        }
        assert!(RateLimit::charge_for(&settings, &call("job.start", Some("cc"))).unwrap().is_empty());
    }

    #[test]
    fn who_has_one_ipv6_address_has_the_whole_64() {
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2::9"));
        assert_ne!(network("2001:db8:1:2::9"), network("2001:db8:1:3::9"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    }

    #[test]
    fn more_buckets_than_can_be_charged_refuse_rather_than_leave_one_out() {
        let bucket = |at: usize| format!(r#"{{"id":"b{at}","burst":1,"count":1,"period_ms":1}}"#);
        let buckets: Vec<_> = (0..9).map(bucket).collect();
        let settings = settings(&format!(r#"{{"buckets":[{}]}}"#, buckets.join(",")));
        assert_eq!(
            RateLimit::charge_for(&settings, &call("job.start", None)).unwrap_err().code,
            "too_many_buckets"
        );
    }

    #[test]
    fn a_wrong_setting_is_named_by_its_path() {
        let problem = harness::settings::<RateLimit>(r#"{"buckets":[{"id":"x","brust":1}]}"#).unwrap_err();
        assert!(
            problem[0].path.starts_with("buckets[0]") && problem[0].message.contains("brust"),
            "{problem:?}"
        );
        let json =
            r#"{"buckets":[{"id":"x","burst":1,"count":1,"period_ms":0,"cost":2,"method":"job.stop"}]}"#;
        assert_eq!(harness::settings::<RateLimit>(json).unwrap_err().len(), 3);
        let with_count =
            |count: u64| format!(r#"{{"buckets":[{{"id":"x","burst":1,"count":{count},"period_ms":1}}]}}"#);
        assert!(harness::settings::<RateLimit>(&with_count(1_000_000)).is_ok());
        let problem = harness::settings::<RateLimit>(&with_count(1_000_001)).unwrap_err();
        assert_eq!(problem[0].path, "buckets[0].count", "{problem:?}");
    }
}
