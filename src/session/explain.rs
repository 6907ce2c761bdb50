//! What would be decided about a command, without running or charging anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::domain::{
    CallMethod, Charge, DecisionId, Failure, JobId, Principal, Resolved, SessionGrant, SessionId,
};
use crate::verdict::{self, Ballot, Folded, Permission, Refusal, Terms};

use super::core::random_bits;
use super::environment::{self, Asked};
use super::review::{self, Caller, Case, Hearing};
use super::task::Card;
use super::{Core, JobRequest, Session, start};

/// One review of the command.
#[derive(Debug, Clone)]
pub struct Round {
    /// The command and its facts, as policy saw them.
    pub resolved: Resolved,
    /// What each policy said, in order.
    pub ballots: Vec<Ballot<Permission>>,
}

/// A decision, taken apart.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The generation that was asked.
    pub generation: u64,
    /// What each rate policy would charge; nothing was taken.
    pub charges: Vec<Ballot<Vec<Charge>>>,
    /// The reviews: a second where the first changed the command.
    pub rounds: Vec<Round>,
    /// The terms, when it would be allowed.
    pub outcome: Result<Terms, Refusal>,
}

impl Core {
    /// Explains what would be decided about the command in the session; without one, in a session that was granted all it
    /// could be, and that nobody opens.
    ///
    /// # Errors
    /// What a start would answer before policy is asked.
    pub async fn explain(
        self: &Arc<Self>,
        caller: &Caller,
        session: Option<&Session>,
        request: &JobRequest,
    ) -> Result<Explanation, Failure> {
        let principal = &caller.principal;
        self.admitting()?;
        let session = match session {
            Some(session) => session.card.clone(),
            None => Card::of_nobody(principal)?,
        };
        // A leader is forked to find the facts: that counts as a job for as long as it lives.
        let _slot = self.job_slot(principal, &session)?;
        let _turn = self.rooms.turns.take(&principal.tenant).await?;
        self.rooms.breaker.look()?;
        let identity = self.settings.identity(principal).ok_or_else(start::no_identity)?;
        let asked = Asked {
            argv: request.argv.clone(),
            cwd: request.cwd.clone(),
            env: &request.env,
            terminal: request.terminal.clone(),
        };
        let id = JobId::from_bits(random_bits()?);
        let command = environment::compose(asked, id, &identity.home, &self.settings)?;
        let hearing = Hearing::begin(self)?;
        let call = hearing.call(caller, CallMethod::JobStart, Some(command.program()));
        let charges = hearing.policies.charges(Arc::new(call)).await;
        let prepared = start::prepare(self, principal, session.id, id, &command).await?;
        let resolved = review::resolve(command, &prepared).await?;
        drop(prepared);
        let case = Case {
            core: self,
            caller,
            session: session.id,
            job: id,
            labels: review::labels(&session.labels, &request.labels),
            hearing,
        };
        case.explain(resolved, charges).await
    }
}

impl Card {
    fn of_nobody(owner: &Arc<Principal>) -> Result<Self, Failure> {
        Ok(Self {
            id: SessionId::from_bits(random_bits()?),
            owner: owner.clone(),
            labels: BTreeMap::new(),
            grant: SessionGrant::default(),
            job_claims: Vec::new(),
            detach: None,
            opened_at: SystemTime::now(),
            decision: DecisionId::from_bits(0),
        })
    }
}

impl Case<'_> {
    async fn explain(
        &self,
        resolved: Resolved,
        charges: Vec<Ballot<Vec<Charge>>>,
    ) -> Result<Explanation, Failure> {
        let decision = self.hearing.decision;
        let (_, ballots) = self.ballots(&resolved).await;
        let folded = verdict::fold_charges(decision, &charges)
            .and_then(|_| verdict::fold_command(decision, resolved.clone(), &ballots));
        let mut rounds = vec![Round { resolved, ballots }];
        let outcome = match folded {
            Err(refusal) => Err(refusal),
            Ok(Folded::Cleared(cleared)) => Ok(cleared.terms().clone()),
            Ok(Folded::Changed(changed)) => {
                let again = self.prepare(changed.command()).await?;
                let resolved = review::resolve(changed.command().clone(), &again).await?;
                drop(again);
                let (_, ballots) = self.ballots(&resolved).await;
                let settled = changed.settle(resolved.clone(), &ballots);
                rounds.push(Round { resolved, ballots });
                settled.map(|cleared| cleared.terms().clone())
            }
        };
        Ok(Explanation { generation: self.hearing.policies.number(), charges, rounds, outcome })
    }
}
