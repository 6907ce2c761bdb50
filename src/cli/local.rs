//! A gateway within this process, for `exec --local`: the same rooms, the default policies, a token nobody else has.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::{self, Environment, Sources};
use crate::server::{self, Server, Setup};

use super::output::Trouble;
use super::target::Target;

/// A gateway of our own.
pub(super) struct Local {
    server: Server,
    pub(super) target: Target,
}

pub(super) async fn start() -> Result<Local, Trouble> {
    let sources = Sources {
        flags: vec![("server.listen".to_owned(), "\"127.0.0.1:0\"".to_owned())],
        no_system: true,
        ..Sources::default()
    };
    let loaded = config::load(&sources, &Environment::default()).map_err(Trouble::failed)?;
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|_| Trouble::failed("the kernel gives no randomness"))?;
    let token = URL_SAFE_NO_PAD.encode(bits);
    let setup = Setup::new(&loaded.settings, Some(&token)).map_err(Trouble::failed)?;
    let server = server::start(setup).await.map_err(Trouble::failed)?;
    let url = format!("http://{}", server.address());
    Ok(Local { server, target: Target { token: Some(token), ..Target::at(url) } })
}

impl Local {
    pub(super) async fn end(self) {
        self.server.shut_down().await;
    }
}
