//! Which gateway, and with which token.

use std::path::PathBuf;

use crate::config::{Environment, token};

use super::args;
use super::output::Trouble;

/// Where a gateway listens that nobody told otherwise.
const DEFAULT: &str = "http://127.0.0.1:7171";

/// A gateway to talk to. Holds a token, and is therefore not to be printed.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) token: String,
    /// Certificates to trust besides the system's.
    pub(super) ca: Option<PathBuf>,
}

impl Target {
    /// From flags, the environment, and the file that `serve` makes.
    pub(super) fn find(args: &args::Target) -> Result<Self, Trouble> {
        let environment = Environment::of_process();
        let url = args.url.clone().or_else(|| environment.get("EXECGATE_URL").map(str::to_owned));
        let url = url.unwrap_or_else(|| DEFAULT.to_owned());
        if url.contains(['@', '?', '#']) {
            // Not told back: it may hold a secret.
            return Err(Trouble::usage(
                "the gateway's URL is https://HOST:PORT or http://HOST:PORT alone; give the token by --token-file or EXECGATE_TOKEN",
            ));
        }
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Trouble::usage(format!(
                "{url:?}: give the gateway's URL as https://HOST:PORT or http://HOST:PORT"
            )));
        }
        let ca = args.ca.clone().or_else(|| environment.get("EXECGATE_CA").map(Into::into));
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { url, token: find_token(args, &environment)?, ca })
    }

    /// The WebSocket's URL.
    pub(super) fn socket(&self) -> String {
        format!("{}/v1/ws", self.url.replacen("http", "ws", 1))
    }
}

fn find_token(args: &args::Target, environment: &Environment) -> Result<String, Trouble> {
    let named = args.token_file.clone().or_else(|| environment.get("EXECGATE_TOKEN_FILE").map(Into::into));
    if named.is_none()
        && let Some(token) = environment.get("EXECGATE_TOKEN")
    {
        return Ok(token.to_owned());
    }
    let made = || environment.state_directory().map(|directory| directory.join(token::FILE));
    let path = named.or_else(made).ok_or_else(|| {
        Trouble::usage("there is no home directory to look for a token in; give --token-file")
    })?;
    token::read(&path).map_err(|failure| {
        Trouble::refused(format!(
            "no token: {failure}\nstart a gateway as this user with `execgate serve`, or give a token by --token-file or EXECGATE_TOKEN"
        ))
    })
}
