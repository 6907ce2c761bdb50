//! Changing the configuration while serving: all of it that can, at once; or nothing.
//!
//! The one way for SIGHUP, `policy.reload` and whoever watches policy files. What cannot change while serving is named
//! and refuses the whole reload, for half a configuration is one that nobody wrote. The policies are what can still fail
//! then; they are loaded beside those in force, and everything after their swap cannot fail.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::config::{self, Loaded};
use crate::session::Core;
use crate::telemetry;
use crate::transport::{self, Access, Names, Tls};

use super::setup::Setup;
use super::{memory, policies};

/// Between two looks at the configuration: what is being written is written by then, or goes on changing.
const BETWEEN: Duration = Duration::from_millis(100);
/// Most looks of one reload.
const LOOKS: usize = 20;

/// The profile of every job.
const BASE: &str = "base";

/// Keys that can change while serving, with everything below them.
const LIVE: [&str; 9] = [
    "auth",
    "drain",
    "limits",
    "log.level",
    "policy",
    "server.hosts",
    "server.origins",
    "server.tls",
    "server.trusted_proxies",
];

/// A configuration read anew.
#[derive(Debug)]
pub struct Fresh {
    /// The settings, with the layer each came from.
    pub loaded: Loaded,
    /// What they are built into.
    pub setup: Setup,
}

/// Reads the configuration anew; an error says what is wrong with it.
pub type Source = Box<dyn Fn() -> Result<Fresh, String> + Send + Sync>;

/// What a running server can be changed by.
pub struct Live {
    pub(super) core: Arc<Core>,
    pub(super) access: Arc<Access>,
    pub(super) names: Arc<ArcSwap<Names>>,
    pub(super) bounds: Arc<ArcSwap<transport::Settings>>,
    pub(super) tls: Option<Arc<Tls>>,
    /// Jobs, those under review included, that the warden was started for.
    pub(super) places: u32,
    /// Resident memory when the server began, bytes.
    pub(super) base: u64,
    pub(super) source: Source,
    /// The configuration in force. Held for a clone or a swap.
    pub(super) current: Mutex<Arc<Fresh>>,
    /// One reload at a time. Held across awaits on purpose: the second begins from what the first left.
    pub(super) turn: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

impl Live {
    /// The configuration in force.
    pub(super) fn current(&self) -> Arc<Fresh> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the configuration again and changes to it; says what changed.
    ///
    /// # Errors
    /// What is wrong with it, or which keys cannot change while serving. Then nothing has changed.
    pub async fn reload(self: &Arc<Self>) -> Result<String, String> {
        let outcome = self.attempt().await;
        let word = if outcome.is_ok() { "done" } else { "refused" };
        metrics::counter!("execgate_reloads_total", "outcome" => word).increment(1);
        match &outcome {
            Ok(what) => tracing::info!(what, "configuration reloaded"),
            Err(why) => {
                self.core.rooms.policies.refused(why.clone());
                tracing::error!(why, "configuration not reloaded; the one in force stays");
            }
        }
        outcome
    }

    async fn attempt(self: &Arc<Self>) -> Result<String, String> {
        let _turn = self.turn.lock().await;
        let fresh = settled(|| self.read(), alike).await.unwrap_or_else(|| {
            Err("the configuration was another one at every look; reload when it is written. Nothing was changed".to_owned())
        })?;
        let before = self.current();
        let changed = config::changed(&before.loaded, &fresh.loaded);
        self.may_follow(&before, &fresh, &changed)?;
        let (core, next) = (self.core.clone(), fresh.setup.policy.policies.clone());
        let load = tokio::task::spawn_blocking(move || policies::replace(&core.rooms.policies, &next));
        let generation = load.await.map_err(|broken| broken.to_string())?.map_err(|e| e.to_string())?;
        self.change(fresh).await;
        let what = if changed.is_empty() { "no key".to_owned() } else { changed.join(", ") };
        Ok(format!("policies are generation {generation}; changed: {what}"))
    }

    async fn read(self: &Arc<Self>) -> Result<Fresh, String> {
        let live = self.clone();
        let read = tokio::task::spawn_blocking(move || (live.source)());
        read.await.map_err(|broken| broken.to_string())?
    }

    /// # Errors
    /// What cannot change while serving, or looks like what is left of a file.
    fn may_follow(&self, before: &Fresh, fresh: &Fresh, changed: &[String]) -> Result<(), String> {
        let fixed: Vec<_> = changed.iter().filter(|key| !is_live(key)).cloned().collect();
        if fresh.setup.warden.max_jobs > self.places {
            return Err(format!(
                "limits.jobs can be raised while serving to what the warden was started for, which is less than {}; restart \
                 for that. Nothing was changed",
                fresh.setup.ceilings.jobs
            ));
        }
        let profiles = &before.setup.warden.profiles;
        let is_known = |name: &str| name == BASE || profiles.iter().any(|profile| profile.name == name);
        let confined = fresh.setup.ceilings.confine.iter();
        if let Some((tenant, name)) = confined
            .flat_map(|(tenant, names)| names.iter().map(move |name| (tenant, name)))
            .find(|(_, name)| !is_known(name))
        {
            return Err(format!(
                "tenant.{tenant}.confine: the jobs' supervisor was started without [profile.{name}], and every job of the tenant would \
                 fail; restart for that. Nothing was changed"
            ));
        }
        if !fixed.is_empty() || before.setup.tls.is_some() != fresh.setup.tls.is_some() {
            let named = if fixed.is_empty() { "server.tls (on or off)".to_owned() } else { fixed.join(", ") };
            return Err(format!(
                "cannot change while serving: {named}; restart for that. Nothing was changed"
            ));
        }
        if before.loaded.settings.auth.is_configured() && !fresh.loaded.settings.auth.is_configured() {
            return Err(
                "nobody is left who may connect ([auth.token], [auth.jwt], [auth.mtls]), as in a file that is half-written; write \
                 it whole and reload, or restart if that is what you want. Nothing was changed"
                    .to_owned(),
            );
        }
        if fresh.setup.default_policies && !before.setup.default_policies {
            return Err(
                "no [policy.NAME] is left, as in a file that is half-written; write it whole and reload, or say enabled = false \
                 in each, or restart for the default policies. Nothing was changed"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Nothing here can fail.
    async fn change(&self, fresh: Fresh) {
        let setup = &fresh.setup;
        for warning in &setup.warnings {
            tracing::warn!("{warning}");
        }
        self.names.store(Arc::new(setup.names.clone()));
        if let (Some(tls), Some(config)) = (&self.tls, &setup.tls) {
            tls.replace(config.clone());
        }
        self.access.replace(setup.credentials.clone());
        self.core.ceilings.store(Arc::new(setup.ceilings.clone()));
        self.core.registry.keep(setup.session.kept);
        self.core.rooms.limiter.set_most(setup.quota.max_buckets);
        self.bounds.store(Arc::new(setup.transport.clone()));
        let bound = setup.memory.unwrap_or_else(|| self.base.saturating_add(memory::allowed(setup)));
        self.core.memory.bound.store(bound, Ordering::Relaxed);
        telemetry::set_level(&fresh.loaded.settings.log.level);
        // Only those that no connection watches over; what could refuse each of them was replaced above.
        for session in self.core.registry.every_session() {
            session.review().await;
        }
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
    }
}

/// Looks until two looks in a row see the same, keys and certificates included: a file that is being written may be read when it is
/// half of what it will be.
async fn settled<T, L: Future<Output = T>>(
    look: impl Fn() -> L,
    alike: impl Fn(&T, &T) -> bool,
) -> Option<T> {
    let mut seen = look().await;
    for _ in 1..LOOKS {
        tokio::time::sleep(BETWEEN).await;
        let again = look().await;
        if alike(&seen, &again) {
            return Some(again);
        }
        seen = again;
    }
    None
}

fn alike(one: &Result<Fresh, String>, other: &Result<Fresh, String>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => {
            one.setup.files == other.setup.files && config::changed(&one.loaded, &other.loaded).is_empty()
        }
        (Err(one), Err(other)) => one == other,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    }
}

/// A tenant's identity is given to the warden when that is started; all else of a tenant is looked up for every call.
fn is_of_tenant(key: &str) -> bool {
    let mut parts = key.splitn(3, '.');
    let live = |part: &str| ["limits", "confine"].iter().any(|live| part.split('.').next() == Some(live));
    // An empty table asks for nothing.
    parts.next() == Some("tenant") && parts.next().is_some() && parts.next().is_none_or(live)
}

fn is_live(key: &str) -> bool {
    if is_of_tenant(key) {
        return true;
    }
    LIVE.iter()
        .any(|live| key.strip_prefix(live).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// What is read of a file whose texts follow each other.
    async fn read_of(texts: &[&'static str]) -> Option<&'static str> {
        let looks = Cell::new(0);
        let look = || {
            let at = looks.replace(looks.get() + 1);
            std::future::ready(texts.get(at).or(texts.last()).copied().unwrap_or_default())
        };
        settled(look, |one, other| one == other).await
    }

    #[test]
    fn two_looks_are_alike_when_the_files_that_are_named_are_too() {
        let directory = tempfile::tempdir().unwrap();
        let (config, keys) = (directory.path().join("config.toml"), directory.path().join("keys.json"));
        let toml =
            format!("[auth.jwt]\nissuer = \"i\"\naudience = [\"a\"]\ntenant = \"t\"\njwks = {keys:?}\n");
        std::fs::write(&config, toml + "[jobs]\nallow_root = true\n").unwrap();
        let sources = config::Sources { files: vec![config], no_system: true, ..config::Sources::default() };
        let look = |kids: &[&str]| {
            let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
            let key = |kid: &&str| format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"{kid}"}}"#);
            let set = kids.iter().map(key).collect::<Vec<_>>().join(",");
            std::fs::write(&keys, format!(r#"{{"keys":[{set}]}}"#)).unwrap();
            let loaded = config::load(&sources, &config::Environment::default()).unwrap();
            let setup = Setup::new(&loaded.settings, None).unwrap();
            Ok(Fresh { loaded, setup })
        };
        let (half, whole) = (look(&["a"]), look(&["a", "b"]));
        assert!(!alike(&half, &whole) && alike(&whole, &look(&["a", "b"])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_when_it_no_longer_changes() {
        assert_eq!(read_of(&["whole"]).await, Some("whole"));
        assert_eq!(read_of(&["", "ha", "half", "whole", "whole"]).await, Some("whole"));
        assert_eq!(read_of(&["a", "b"].repeat(LOOKS)).await, None);
    }
}
