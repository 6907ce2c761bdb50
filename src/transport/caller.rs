//! From a request to who sends it: an extractor, so that a handler that wants a caller cannot be reached without one.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;

use crate::domain::{Failure, RequestId};

use super::auth::{Certificate, Identified, Shown, Unknown};
use super::doorstep::Guest;
use super::refusal::refused;
use super::router::{Gateway, text};

/// The one route on which a ticket is a credential: only a browser's WebSocket cannot send headers.
const TICKETS_AT: &str = "/v1/ws";

/// What is known of a socket's other end, besides its address.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    /// The client certificate that the TLS layer has verified.
    pub(super) certificate: Option<Arc<Certificate>>,
    /// It came in by the admin's door.
    pub(super) admin_door: bool,
}

impl FromRequestParts<Gateway> for Identified {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Response> {
        let query = parts.uri.query();
        if query.is_some_and(carries_token) {
            let message = "a token in the query string ends up in logs; send it as `Authorization: Bearer`";
            return Err(text(StatusCode::UNAUTHORIZED, message));
        }
        let source = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let (guest, request_id) = (parts.extensions.get::<Guest>(), parts.extensions.get::<RequestId>());
        let (Some(source), Some(guest), Some(request_id)) = (source, guest, request_id) else {
            return Err(text(StatusCode::INTERNAL_SERVER_ERROR, "the request has no source"));
        };
        let certificate = parts.extensions.get::<Peer>().and_then(|peer| peer.certificate.as_ref());
        let query = query.filter(|_| parts.uri.path() == TICKETS_AT);
        let shown = Shown { headers: &parts.headers, query, certificate, source };
        let identified = gateway.access.identify(&shown).map_err(|unknown| {
            match unknown {
                Unknown::Nobody => tracing::info!(%request_id, %source, "no valid credential"),
                // Said once, with the failure that earned it: a flood must not fill the log.
                Unknown::Penalised(_) => tracing::debug!(%request_id, %source, "penalised"),
            }
            refusal(unknown, request_id)
        })?;
        let tenant = &identified.principal.tenant;
        let most = gateway.core.ceilings.load().counts(&identified.principal).connections;
        let seated = guest.known(&gateway.crowd, tenant, most);
        seated.map_err(|failure| refused(&failure, request_id))?;
        Ok(identified)
    }
}

fn refusal(unknown: Unknown, request_id: &RequestId) -> Response {
    match unknown {
        Unknown::Nobody => {
            text(StatusCode::UNAUTHORIZED, "no valid credential; send `Authorization: Bearer TOKEN`")
        }
        Unknown::Penalised(retry_after) => {
            let bucket = "wrong credentials from this address".to_owned();
            refused(&Failure::RateLimited { bucket, retry_after }, request_id)
        }
    }
}

fn carries_token(query: &str) -> bool {
    query.split('&').any(|pair| pair.starts_with("token=") || pair.starts_with("access_token="))
}
