//! Runs tables against a policy's own functions.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::policy::{CommandPolicy, Policy, RatePolicy, SessionPolicy};
use crate::types::{
    Call, Change, Charge, CommandRequest, CommandVerdict, Denial, SessionRequest, SessionVerdict,
};

use super::case::{Case, Expected, Hook};
use super::request::{changed, written};

/// A file of cases for one configured policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// `builtin:NAME`, or the path of a module relative to the table. Natively the policy is the one that is tested.
    pub policy: Option<String>,
    /// Its settings.
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// The cases.
    #[serde(default, rename = "case")]
    pub cases: Vec<Case>,
}

type Review<P> = fn(&<P as Policy>::Settings, &CommandRequest) -> CommandVerdict;
type Admit<P> = fn(&<P as Policy>::Settings, &SessionRequest) -> SessionVerdict;
type ChargeFor<P> = fn(&<P as Policy>::Settings, &Call) -> Result<Vec<Charge>, Denial>;

/// The tables of a folder and the hooks they are run against.
#[must_use]
pub struct Tables<P: Policy> {
    folder: PathBuf,
    review: Option<Review<P>>,
    admit: Option<Admit<P>>,
    charge_for: Option<ChargeFor<P>>,
}

impl<P: Policy> std::fmt::Debug for Tables<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// What came out of one case.
struct Answer {
    outcome: Expected,
    rules: Vec<String>,
    code: Option<String>,
    message: String,
    changes: Vec<Change>,
}

impl<P: Policy> Tables<P> {
    /// Every `.toml` file of this folder, e.g. `concat!(env!("CARGO_MANIFEST_DIR"), "/tests")`.
    pub fn of(folder: impl AsRef<Path>) -> Self {
        Self { folder: folder.as_ref().to_owned(), review: None, admit: None, charge_for: None }
    }

    /// Cases of the command hook are run.
    pub fn command(mut self) -> Self
    where
        P: CommandPolicy,
    {
        self.review = Some(P::review);
        self
    }

    /// Cases of the session hook are run.
    pub fn session(mut self) -> Self
    where
        P: SessionPolicy,
    {
        self.admit = Some(P::admit);
        self
    }

    /// Cases of the rate hook are run.
    pub fn rate(mut self) -> Self
    where
        P: RatePolicy,
    {
        self.charge_for = Some(P::charge_for);
        self
    }

    /// Runs all cases and answers how many there were.
    ///
    /// # Panics
    /// When a table cannot be read or a case comes out otherwise; the message lists each.
    pub fn run(self) -> usize {
        let mut count = 0;
        let mut wrong = String::new();
        for file in files(&self.folder) {
            let table = read(&file);
            let settings = serde_json::Value::Object(table.settings).to_string();
            let settings = super::settings::<P>(&settings)
                .unwrap_or_else(|errors| panic!("{}: settings: {errors:?}", file.display()));
            for case in &table.cases {
                count += 1;
                if let Err(difference) = self.judge(&settings, case) {
                    let _ = writeln!(wrong, "{}: {:?}: {difference}", file.display(), case.name);
                }
            }
        }
        assert!(wrong.is_empty(), "these cases came out otherwise:\n{wrong}");
        assert!(count > 0, "no cases in {}", self.folder.display());
        count
    }

    fn judge(&self, settings: &P::Settings, case: &Case) -> Result<(), String> {
        let missing = || format!("the policy was not given to the harness with its {:?} hook", case.hook);
        let answer = match case.hook {
            Hook::Command => command(self.review.ok_or_else(missing)?, settings, case)?,
            Hook::Session => session(self.admit.ok_or_else(missing)?(settings, &case.session())),
            Hook::Rate => rate(self.charge_for.ok_or_else(missing)?(settings, &case.call())),
        };
        compare(case, &answer)
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = listed
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

fn read(file: &Path) -> Table {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// Asks, and asks once more about what the first answer changed: it must stand, and change nothing further.
fn command<S>(
    review: fn(&S, &CommandRequest) -> CommandVerdict,
    settings: &S,
    case: &Case,
) -> Result<Answer, String> {
    let request = case.command();
    let permission = match review(settings, &request) {
        CommandVerdict::Abstain => return Ok(Answer::plain(Expected::Abstain, Vec::new())),
        CommandVerdict::Deny(denial) => return Ok(Answer::denied(denial)),
        CommandVerdict::Allow(permission) => permission,
    };
    if !permission.changes.is_empty() {
        let again = changed(&request, &permission.changes);
        match review(settings, &again) {
            CommandVerdict::Abstain => {}
            CommandVerdict::Deny(denial) => return Ok(Answer::denied(denial)),
            CommandVerdict::Allow(second) => {
                let differs = second.changes.iter().any(|change| !permission.changes.contains(change));
                if differs && changed(&again, &second.changes) != again {
                    return Err("the second review changes the command again".to_owned());
                }
            }
        }
    }
    let changes = permission.changes;
    Ok(Answer { changes, ..Answer::plain(Expected::Allow, permission.rules) })
}

fn session(verdict: SessionVerdict) -> Answer {
    match verdict {
        SessionVerdict::Abstain => Answer::plain(Expected::Abstain, Vec::new()),
        SessionVerdict::Allow(admission) => Answer::plain(Expected::Allow, admission.rules),
        SessionVerdict::Deny(denial) => Answer::denied(denial),
    }
}

fn rate(charges: Result<Vec<Charge>, Denial>) -> Answer {
    match charges {
        Err(denial) => Answer::denied(denial),
        Ok(charges) => {
            let outcome =
                if charges.iter().any(|charge| charge.cost > 0) { Expected::Charge } else { Expected::Allow };
            Answer::plain(outcome, charges.into_iter().map(|charge| charge.rule).collect())
        }
    }
}

impl Answer {
    const fn plain(outcome: Expected, rules: Vec<String>) -> Self {
        Self { outcome, rules, code: None, message: String::new(), changes: Vec::new() }
    }

    fn denied(denial: Denial) -> Self {
        Self {
            outcome: Expected::Deny,
            rules: denial.rules,
            code: Some(denial.code),
            message: denial.message,
            changes: Vec::new(),
        }
    }
}

fn compare(case: &Case, answer: &Answer) -> Result<(), String> {
    let free =
        case.hook == Hook::Rate && case.expect == Expected::Abstain && answer.outcome == Expected::Allow;
    if answer.outcome != case.expect && !free {
        let Answer { outcome, rules, code, message, .. } = answer;
        let code = code.as_deref().unwrap_or_default();
        return Err(format!("expected {}, came out {outcome} by {rules:?} {code} {message}", case.expect));
    }
    if let Some(rule) = case.rule.as_ref().filter(|rule| !answer.rules.contains(rule)) {
        return Err(format!("expected the rule {rule:?}, named were {:?}", answer.rules));
    }
    if case.code.is_some() && case.code != answer.code {
        return Err(format!("expected the code {:?}, was {:?}", case.code, answer.code));
    }
    let changes: Vec<_> = answer.changes.iter().map(written).collect();
    match &case.changes {
        Some(expected) if *expected != changes => {
            Err(format!("expected the changes {expected:?}, were {changes:?}"))
        }
        _ => Ok(()),
    }
}
