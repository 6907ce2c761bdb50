//! group-budget: a group shares a budget of starts, and a ceiling of sessions and jobs.
//!
//! Two hooks in one module: `session` says what a member's session may hold, `rate` what each start costs. The host counts both,
//! over all members of the group within the tenant.

use execgate_policy_sdk::prelude::*;

/// Most groups whose budgets one start is charged to.
const CHARGES: usize = 8;

/// Settings of group-budget.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The budgets. Who is in several of the groups is charged to each.
    budgets: Vec<Budget>,
}

/// What the members of a group have together.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Budget {
    /// The group.
    group: String,
    /// Sessions at once.
    sessions: u32,
    /// Jobs at once.
    jobs: u32,
    /// Points that come back each hour.
    points_per_hour: u32,
    /// Points when nothing was spent.
    burst: u32,
    /// What a start of these programs costs; of any other, 1.
    #[serde(default)]
    costs: std::collections::BTreeMap<String, u32>,
    /// CPU time of each job, milliseconds.
    job_cpu_ms: Option<u64>,
}

/// The policy.
#[derive(Debug)]
pub struct GroupBudget;

impl Policy for GroupBudget {
    type Settings = Settings;
    const NAME: &'static str = "group-budget";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "a group shares a budget";
    const SCHEMA: &'static str = include_str!("../schema.json");

    fn check(settings: &Settings) -> Vec<SettingError> {
        let mut errors = Vec::new();
        for (at, budget) in settings.budgets.iter().enumerate() {
            let mut error = |key: &str, message: &str| {
                errors.push(setting_error(format!("budgets[{at}].{key}"), message))
            };
            if settings.budgets.iter().take(at).any(|other| other.group == budget.group) {
                error("group", "has two budgets");
            }
            if budget.points_per_hour == 0 || budget.burst == 0 {
                error(
                    "burst",
                    "burst and points_per_hour must be at least 1; a group that may nothing is left out",
                );
            }
            if budget.costs.values().any(|cost| *cost > budget.burst) {
                error("costs", "more than the burst can never be paid");
            }
        }
        errors
    }
}

impl SessionPolicy for GroupBudget {
    fn admit(settings: &Settings, request: &SessionRequest) -> SessionVerdict {
        let budgets = settings.of(&request.principal);
        if budgets.is_empty() {
            return SessionVerdict::Deny(no_budget(settings));
        }
        let mut admission = Admission::by("budget");
        admission.rules = budgets.iter().map(|budget| format!("budget.{}", budget.group)).collect();
        admission.claims = budgets.iter().flat_map(|budget| budget.claims()).collect();
        admission.job_limits.cpu_ms = budgets.iter().filter_map(|budget| budget.job_cpu_ms).min();
        SessionVerdict::Allow(admission)
    }
}

impl RatePolicy for GroupBudget {
    fn charge_for(settings: &Settings, call: &Call) -> Result<Vec<Charge>, Denial> {
        if call.method != "job.start" {
            return Ok(Vec::new());
        }
        let budgets = settings.of(&call.principal);
        if budgets.is_empty() {
            return Err(no_budget(settings));
        }
        Ok(budgets.iter().take(CHARGES).map(|budget| budget.charge(call.program.as_deref())).collect())
    }
}

execgate_policy_sdk::export!(GroupBudget: session, rate);

fn no_budget(settings: &Settings) -> Denial {
    let groups: Vec<_> = settings.budgets.iter().map(|budget| budget.group.as_str()).collect();
    Denial::new("budget", "no_budget", "none of your groups has a budget")
        .remedy(format!("be added to one of: {}", groups.join(", ")))
}

impl Settings {
    fn of(&self, who: &Principal) -> Vec<&Budget> {
        self.budgets.iter().filter(|budget| who.groups.contains(&budget.group)).collect()
    }
}

impl Budget {
    fn claims(&self) -> [Claim; 2] {
        let claim = |what, max| Claim { scope: Scope::Group(self.group.clone()), what, max };
        [claim(Counted::Sessions, self.sessions), claim(Counted::Jobs, self.jobs)]
    }

    fn charge(&self, program: Option<&str>) -> Charge {
        let name = program.and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        Charge {
            bucket: format!("budget:{}", self.group),
            cost: self.costs.get(name).copied().unwrap_or(1),
            quota: Quota { burst: self.burst, count: self.points_per_hour, period_ms: 3_600_000 },
            rule: format!("budget.{}", self.group),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use execgate_policy_sdk::harness::{self, Tables};

    #[test]
    fn the_schema_is_the_settings() {
        harness::schema::<GroupBudget>(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json"));
    }

    #[test]
    fn tables() {
        Tables::<GroupBudget>::of(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).session().rate().run();
    }

    #[test]
    fn members_share_one_bucket_and_dear_programs_cost_more() {
        let json = r#"{"budgets":[{"group":"g","sessions":1,"jobs":2,"points_per_hour":60,"burst":10,"costs":{"gcc":5}}]}"#;
        let settings = harness::settings::<GroupBudget>(json).unwrap();
        let charge = |program| settings.budgets[0].charge(Some(program));
        assert_eq!((charge("/usr/bin/gcc").cost, charge("ls").cost), (5, 1));
        assert_eq!(charge("ls").bucket, "budget:g");
    }

    #[test]
    fn a_cost_nobody_can_pay_is_refused() {
        let json = r#"{"budgets":[{"group":"g","sessions":1,"jobs":2,"points_per_hour":0,"burst":2,"costs":{"gcc":5}}]}"#;
        assert_eq!(harness::settings::<GroupBudget>(json).unwrap_err().len(), 2);
    }
}
