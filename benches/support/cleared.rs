//! A command that a policy of the bench allows as it is: what the warden runs needs somebody's word.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use execgate::domain::{Command, DecisionId, Facts, Resolved};
use execgate::verdict::{Ballot, Cleared, Folded, Mode, Permission, Verdict, fold_command};
use execgate::warden::Prepared;

/// This command, for the program that was prepared.
pub fn cleared(prepared: &Prepared, argv: Vec<String>) -> Cleared<Resolved> {
    let command = Command { argv, cwd: None, env: BTreeMap::new(), terminal: None };
    let facts =
        Facts { executable: prepared.executable().clone(), cwd: prepared.cwd().to_owned(), script: None };
    let ballot = Ballot {
        policy: Arc::from("bench"),
        author: Arc::default(),
        mode: Mode::Enforce,
        outcome: Ok(Verdict::Allow(Permission::default())),
        took: Duration::ZERO,
    };
    match fold_command(DecisionId::from_bits(1), Resolved { command, facts }, &[ballot]).unwrap() {
        Folded::Cleared(cleared) => *cleared,
        Folded::Changed(_) => unreachable!("nothing was changed"),
    }
}
