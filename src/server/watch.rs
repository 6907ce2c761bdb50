//! Looking at the files of the policies: a changed one is a reload like any other.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::policy::{Module, PolicySettings};

use super::reload::Live;

/// How often they are looked at. A change is taken at the second look that sees it alike: not half-written.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// What a file was when it was looked at.
type Stamp = Option<(i64, i64, u64, u64)>;

/// The files of the policies as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamps(Vec<(PathBuf, Stamp)>);

/// Begins from what the files were before they were read at the start, so that no change falls between. Ends with the server.
pub(super) async fn files(live: Arc<Live>, mut taken: Stamps, stop: CancellationToken) {
    let mut every = interval(WATCH_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let look = || Stamps::of(&live.current().setup.policy.policies);
    let mut seen = taken.clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let now = look();
        let settled = now == seen;
        seen = now;
        if settled && seen != taken {
            taken = seen.clone();
            // What became of it is in the log and in the policies' status; nobody waits here.
            drop(live.reload().await);
        }
    }
}

impl Stamps {
    /// What the files of the policies are now.
    pub(super) fn of(settings: &[PolicySettings]) -> Self {
        let module = |policy: &PolicySettings| match &policy.module {
            Module::File(path) => Some(path.clone()),
            Module::Builtin(_) => None,
        };
        let files = settings.iter().flat_map(|policy| module(policy).into_iter().chain(policy.tests.clone()));
        let stamped = files.map(|path| {
            let stamp = std::fs::metadata(&path).ok().map(|m| (m.mtime(), m.mtime_nsec(), m.len(), m.ino()));
            (path, stamp)
        });
        Self(stamped.collect())
    }
}
