//! Bringing policies into force: load, run their own tables of cases, and only then swap.

use crate::cases::{self, Table};
use crate::config;
use crate::policy::{self, LoadFailure, Module, Pinned, Policies, PolicySettings};
use crate::warden;

/// Most cases told of when some come out otherwise; the first ones say enough.
const TOLD: usize = 5;

/// Policies that may not come into force.
#[derive(Debug, thiserror::Error)]
pub enum PoliciesFailure {
    /// One cannot be loaded.
    #[error("{0}")]
    Load(#[from] LoadFailure),
    /// Others could change the file of one.
    #[error("policy {policy:?}: {why}")]
    Unsafe {
        /// Which.
        policy: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A table of cases cannot be read.
    #[error("policy {policy:?}: its tests: {error}")]
    Table {
        /// Whose.
        policy: String,
        /// What is wrong.
        error: cases::CasesFailure,
    },
    /// Cases came out otherwise.
    #[error("policy {policy:?}: {wrong} of {all} cases in {table} came out otherwise: {told}")]
    Cases {
        /// Whose.
        policy: String,
        /// Of which table.
        table: String,
        /// How many.
        wrong: usize,
        /// Of how many.
        all: usize,
        /// The first of them.
        told: String,
    },
}

/// Loads every policy and runs its tests, as a start does. Blocks.
///
/// # Errors
/// The first policy that may not come into force.
pub fn load_policies(settings: &policy::Settings) -> Result<Policies, PoliciesFailure> {
    safe(&settings.policies)?;
    let policies = Policies::load(settings)?;
    trial(&policies, &policies.pin(), &settings.policies)?;
    // Compiling them took several times what they are.
    warden::give_memory_back();
    Ok(policies)
}

/// Loads the next generation, runs its tests, and brings it into force. Blocks.
///
/// # Errors
/// The first policy that may not come into force; the generation in force stays.
pub(super) fn replace(policies: &Policies, settings: &[PolicySettings]) -> Result<u64, PoliciesFailure> {
    safe(settings)?;
    let next = policies.prepare(settings)?;
    trial(policies, &next, settings)?;
    let number = policies.install(next);
    warden::give_memory_back();
    Ok(number)
}

fn safe(settings: &[PolicySettings]) -> Result<(), PoliciesFailure> {
    for policy in settings {
        if let Module::File(path) = &policy.module {
            config::guard::look(path).map_err(|why| PoliciesFailure::Unsafe {
                policy: policy.name.clone(),
                why: why.to_string(),
            })?;
        }
    }
    Ok(())
}

/// Runs the tests of every policy that has some against the generation. A table that names a policy of its own is run against
/// that one.
fn trial(
    policies: &Policies,
    generation: &Pinned,
    settings: &[PolicySettings],
) -> Result<(), PoliciesFailure> {
    for policy in settings {
        let Some(path) = &policy.tests else { continue };
        let table = cases::read(path)
            .map_err(|error| PoliciesFailure::Table { policy: policy.name.clone(), error })?;
        match &table.policy {
            None => judged(policy, &table, generation, false)?,
            Some(own) => {
                let alone = policies.prepare(std::slice::from_ref(own))?;
                judged(policy, &table, &alone, true)?;
            }
        }
    }
    Ok(())
}

fn judged(
    policy: &PolicySettings,
    table: &Table,
    generation: &Pinned,
    alone: bool,
) -> Result<(), PoliciesFailure> {
    let outcomes = table.cases.iter().map(|case| cases::judge(generation, case, alone));
    let wrong: Vec<_> =
        outcomes.filter_map(|o| o.problem.map(|problem| format!("{:?}: {problem}", o.name))).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let told: Vec<_> = wrong.iter().take(TOLD).map(String::as_str).collect();
    Err(PoliciesFailure::Cases {
        policy: policy.name.clone(),
        table: table.path.display().to_string(),
        wrong: wrong.len(),
        all: table.cases.len(),
        told: told.join("; "),
    })
}
