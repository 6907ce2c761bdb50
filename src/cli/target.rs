//! Which gateway, and with which token.

use std::path::{Path, PathBuf};

use crate::config::{Environment, token};

use super::args;
use super::output::Trouble;

/// Where a gateway listens that nobody told otherwise.
const DEFAULT: &str = "http://127.0.0.1:7171";

/// By what the gateway knows us.
#[derive(Debug, Clone)]
pub(super) enum Credential {
    /// A token that the user named, and where it is from.
    Named(String),
    /// The token that `serve` made, in this file.
    Made(PathBuf),
    /// A client certificate alone.
    Certificate,
}

/// A gateway to talk to. Holds a token, and is therefore not to be printed.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) url: String,
    /// None where a certificate is to do.
    pub(super) token: Option<String>,
    pub(super) credential: Credential,
    /// Certificates to trust besides the system's.
    pub(super) ca: Option<PathBuf>,
    /// The certificate to show, and its key.
    pub(super) certificate: Option<(PathBuf, PathBuf)>,
}

impl Target {
    /// Without any credential.
    pub(super) const fn at(url: String) -> Self {
        Self { url, token: None, credential: Credential::Certificate, ca: None, certificate: None }
    }

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
        let file =
            |flag: &Option<PathBuf>, name| flag.clone().or_else(|| environment.get(name).map(Into::into));
        let ca = file(&args.ca, "EXECGATE_CA");
        let certificate = match (file(&args.cert, "EXECGATE_CERT"), file(&args.key, "EXECGATE_KEY")) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(Trouble::usage("--cert and --key are given together: a certificate and its key"));
            }
        };
        let url = url.trim_end_matches('/').to_owned();
        let (credential, token) = credential(args, &environment, certificate.is_some())?;
        Ok(Self { url, token, credential, ca, certificate })
    }

    /// The WebSocket's URL.
    pub(super) fn socket(&self) -> String {
        format!("{}/v1/ws", self.url.replacen("http", "ws", 1))
    }
}

/// The token that was named, by a flag before a variable. Else the certificate alone: a token beside it that is not meant would
/// be judged first. Else the token that `serve` made.
fn credential(
    args: &args::Target,
    environment: &Environment,
    certified: bool,
) -> Result<(Credential, Option<String>), Trouble> {
    let read = |path: &Path| {
        token::read(path).map_err(|failure| {
            Trouble::refused(format!(
                "no token: {failure}\nstart a gateway as this user with `execgate serve`, or give a token by --token-file or EXECGATE_TOKEN"
            ))
        })
    };
    let named =
        |path: &Path| read(path).map(|token| (Credential::Named(path.display().to_string()), Some(token)));
    if let Some(path) = &args.token_file {
        return named(path);
    }
    if let Some(token) = environment.get("EXECGATE_TOKEN") {
        return Ok((Credential::Named("EXECGATE_TOKEN".to_owned()), Some(token.to_owned())));
    }
    if let Some(path) = environment.get("EXECGATE_TOKEN_FILE") {
        return named(Path::new(path));
    }
    if certified {
        return Ok((Credential::Certificate, None));
    }
    let made = environment.state_directory().map(|directory| directory.join(token::FILE));
    let path = made.ok_or_else(|| {
        Trouble::usage("there is no home directory to look for a token in; give --token-file")
    })?;
    read(&path).map(|token| (Credential::Made(path), Some(token)))
}
