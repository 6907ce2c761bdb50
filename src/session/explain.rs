//! What would be decided about a command, without running or charging anything.

use std::sync::Arc;

use crate::domain::{Failure, JobId, Resolved};
use crate::facts;
use crate::verdict::{self, Ballot, Folded, Permission, Refusal, Terms};

use super::core::random_bits;
use super::environment::{self, Asked};
use super::review::{self, Caller, Case};
use super::{Core, JobRequest, Session, start};

/// A decision, taken apart.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The command and its facts, as policy saw them.
    pub resolved: Resolved,
    /// What each policy said, in order.
    pub ballots: Vec<Ballot<Permission>>,
    /// The terms, when it would be allowed; those of round 1 when policy would change the command.
    pub outcome: Result<Option<Terms>, Refusal>,
}

impl Core {
    /// Explains what would be decided about the command in the session.
    ///
    /// # Errors
    /// What a start would answer before policy is asked.
    pub async fn explain(
        self: &Arc<Self>,
        caller: &Caller,
        session: &Session,
        request: &JobRequest,
    ) -> Result<Explanation, Failure> {
        let principal = &caller.principal;
        let identity = self.settings.identity(principal).ok_or(Failure::NotFound("identity"))?;
        let asked = Asked {
            argv: request.argv.clone(),
            cwd: request.cwd.clone(),
            env: &request.env,
            terminal: request.terminal.clone(),
        };
        let id = JobId::from_bits(random_bits()?);
        let command = environment::compose(asked, id, &identity.home, &self.settings)?;
        let prepared = start::prepare(self, principal, session.card.id, id, &command).await?;
        let resolved = facts::resolve(command, prepared.executable().clone(), prepared.cwd().to_owned());
        drop(prepared);
        let case = Case {
            core: self,
            caller,
            session: session.card.id,
            job: id,
            decision: review::decision_id()?,
            labels: review::labels(&session.card.labels, &request.labels),
        };
        let ballots = case.ballots(&resolved).await;
        let outcome =
            verdict::fold_command(case.decision, resolved.clone(), &ballots).map(|folded| match folded {
                Folded::Cleared(cleared) => Some(cleared.terms().clone()),
                Folded::Changed(_) => None,
            });
        Ok(Explanation { resolved, ballots, outcome })
    }
}
