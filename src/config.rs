//! Configuration: figment layers, resolved and checked, with the layer each value came from.
//!
//! `config/execgate.toml` is compiled in as the lowest layer, so that documented and built-in defaults cannot differ. The
//! only room that knows figment, and the only one that reads the environment.

mod check;
mod environment;
pub mod guard;
pub mod keys;
mod layers;
mod locate;
mod raw;
mod schema;
mod show;
pub mod token;
mod units;

pub use environment::Environment;
pub use layers::{Sources, load};
pub use raw::{
    AllowEnv, Auto, CertificateTable, ForcedTier, IdentityOf, JwtTable, LogFormat, ModeWord, NetworkWord,
    OnExpiryWord, Overflow, PolicyTable, ProfileTable, Raw, Require, Sync, TenantTable, TokenTable,
};
pub use schema::schema;
pub use show::{changed, show, show_json};
pub use units::{Cap, Size, Time};

/// A configuration that holds together, and where each value of it came from.
pub struct Loaded {
    /// The settings.
    pub settings: Raw,
    figment: figment::Figment,
}

impl std::fmt::Debug for Loaded {
    // The layers hold secrets as they were written.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Why a configuration was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFailure {
    /// A file that cannot be believed.
    #[error("{0}")]
    File(#[from] guard::GuardFailure),
    /// A key or value that is wrong.
    #[error("{place}: {what}")]
    Wrong {
        /// File and line, or the layer.
        place: String,
        /// What, and what would be right.
        what: String,
    },
    /// Values that do not go together, or are not safe together.
    #[error("{0}")]
    Contradiction(String),
}
