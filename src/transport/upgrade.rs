//! From an HTTP request to a WebSocket: credential, subprotocol.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{ConnectInfo, Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;

use crate::domain::{Origin, Transport};
use crate::session::Caller;

use super::auth::Identified;
use super::connection::{self, Plane};
use super::doorstep::Guest;
use super::router::{Gateway, text};

/// JSON-RPC in text frames, stream data in binary frames.
const BINARY: &str = "execgate.v1";
/// Text frames only.
const JSON: &str = "execgate.v1.json";

/// Read buffer of each socket, bytes: an idle connection keeps it.
const READ_BUFFER: usize = 8 * 1024;
/// Frames gathered before they are written, bytes.
const WRITE_BUFFER: usize = 64 * 1024;

/// `GET /v1/ws`.
pub(super) async fn ws(
    State(gateway): State<Gateway>,
    Extension(ConnectInfo(peer)): Extension<ConnectInfo<SocketAddr>>,
    Extension(guest): Extension<Guest>,
    identified: Identified,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    if !has_good_key(&headers) {
        return text(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key: 16 bytes in base64 (RFC 6455 section 4.1)");
    }
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let Some((upgrade, plane)) = choose(upgrade, &headers) else {
        let message = format!("none of the offered subprotocols is known; offer {BINARY} or {JSON}, or none");
        return text(StatusCode::BAD_REQUEST, &message);
    };
    let principal = identified.principal.clone();
    let standing = gateway.access.standing(identified);
    let caller = Caller { principal, origin: Origin { address: peer.ip(), transport: Transport::WebSocket } };
    let limit = gateway.settings.max_message;
    let frames = gateway.settings.frame + limit;
    upgrade
        .max_message_size(limit)
        .max_frame_size(limit)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + 2 * frames)
        .on_upgrade(async move |socket| {
            connection::run(Arc::new(gateway), caller, standing, plane, socket).await;
            drop(guest);
        })
}

/// One key of 16 bytes in base64. A request without any is none to upgrade, and is told so by the library.
fn has_good_key(headers: &HeaderMap) -> bool {
    let mut keys = headers.get_all("sec-websocket-key").iter();
    let Some(key) = keys.next() else { return true };
    let decoded = base64::engine::general_purpose::STANDARD.decode(key.as_bytes());
    decoded.is_ok_and(|bytes| bytes.len() == 16) && keys.next().is_none()
}

/// The best subprotocol of those offered; `None` when only unknown ones are.
fn choose(upgrade: WebSocketUpgrade, headers: &HeaderMap) -> Option<(WebSocketUpgrade, Plane)> {
    let offers: Vec<&str> = headers
        .get_all("sec-websocket-protocol")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|offer| !offer.is_empty())
        .collect();
    if offers.is_empty() {
        return Some((upgrade, Plane::Json));
    }
    let best =
        [(BINARY, Plane::Binary), (JSON, Plane::Json)].into_iter().find(|(name, _)| offers.contains(name));
    best.map(|(name, plane)| (upgrade.protocols([name]), plane))
}
