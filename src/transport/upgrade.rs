//! From an HTTP request to a WebSocket: credential, handshake, subprotocol.
//!
//! The handshake is made here and not by the router's library, because what is below a WebSocket must be ours:
//! [`Fragments`] stands there.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Extension, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::Response;
use base64::Engine as _;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::domain::{Origin, Transport};
use crate::session::Caller;

use super::Settings;
use super::auth::Identified;
use super::connection::{self, Plane};
use super::doorstep::Guest;
use super::fragments::Fragments;
use super::router::{Gateway, text};

/// JSON-RPC in text frames, stream data in binary frames.
const BINARY: &str = "execgate.v1";
/// Text frames only.
const JSON: &str = "execgate.v1.json";

/// Read buffer of each socket, bytes: an idle connection keeps it.
const READ_BUFFER: usize = 8 * 1024;
/// Frames gathered before they are written, bytes.
const WRITE_BUFFER: usize = 64 * 1024;

/// The only version there is (RFC 6455 section 4.1).
const VERSION: HeaderValue = HeaderValue::from_static("13");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// An upgraded socket.
pub(super) type Socket = WebSocketStream<Fragments<TokioIo<Upgraded>>>;

/// `GET /v1/ws`.
pub(super) async fn ws(
    State(gateway): State<Gateway>,
    Extension(ConnectInfo(peer)): Extension<ConnectInfo<SocketAddr>>,
    Extension(guest): Extension<Guest>,
    identified: Identified,
    mut request: Request,
) -> Response {
    let accept = match handshake(&request) {
        Ok(accept) => accept,
        Err((status, message)) => return refused(status, message),
    };
    let Some((plane, protocol)) = choose(request.headers()) else {
        let message = format!("none of the offered subprotocols is known; offer {BINARY} or {JSON}, or none");
        return text(StatusCode::BAD_REQUEST, &message);
    };
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return refused(StatusCode::UPGRADE_REQUIRED, "this connection cannot become a WebSocket");
    };
    let principal = identified.principal.clone();
    let standing = gateway.access.standing(identified);
    let caller = Caller { principal, origin: Origin { address: peer.ip(), transport: Transport::WebSocket } };
    gateway.tracker.clone().spawn(async move {
        // A peer that left before its answer was written is not served.
        let Ok(upgraded) = upgrade.await else { return };
        let below = Fragments::new(TokioIo::new(upgraded));
        let config = bounds(&gateway.settings.load());
        let socket = WebSocketStream::from_raw_socket(below, Role::Server, Some(config)).await;
        connection::run(Arc::new(gateway), caller, standing, plane, socket).await;
        drop(guest);
    });
    switching(&accept, protocol)
}

/// What the library may hold of one socket.
fn bounds(settings: &Settings) -> WebSocketConfig {
    let limit = settings.max_message;
    WebSocketConfig::default()
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit))
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + 2 * (settings.frame + limit))
}

/// What RFC 6455 section 4.2.1 wants of the request; the answer to its key.
fn handshake(request: &Request) -> Result<String, (StatusCode, &'static str)> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "a WebSocket begins with GET"));
    }
    if request.version() != Version::HTTP_11 {
        return Err((StatusCode::BAD_REQUEST, "a WebSocket begins with HTTP/1.1"));
    }
    if !says(headers, &header::CONNECTION, "upgrade") || !says(headers, &header::UPGRADE, "websocket") {
        return Err((
            StatusCode::BAD_REQUEST,
            "no WebSocket is asked for: Connection: upgrade, Upgrade: websocket",
        ));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return Err((StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13"));
    }
    match good_key(headers) {
        Some(key) => Ok(derive_accept_key(key)),
        None => {
            Err((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key: 16 bytes in base64 (RFC 6455 section 4.1)"))
        }
    }
}

/// Whether one of the words of the header is this one.
fn says(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    words(headers, name).any(|said| said.eq_ignore_ascii_case(word))
}

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// The one key of 16 bytes in base64.
fn good_key(headers: &HeaderMap) -> Option<&[u8]> {
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = keys.next()?.as_bytes();
    let decoded = base64::engine::general_purpose::STANDARD.decode(key).ok()?;
    (decoded.len() == 16 && keys.next().is_none()).then_some(key)
}

/// The best subprotocol of those offered; `None` when only unknown ones are.
fn choose(headers: &HeaderMap) -> Option<(Plane, Option<HeaderValue>)> {
    let offers: Vec<&str> = words(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    if offers.is_empty() {
        return Some((Plane::Json, None));
    }
    let known = [(BINARY, Plane::Binary), (JSON, Plane::Json)];
    let best = known.into_iter().find(|(name, _)| offers.contains(name));
    best.map(|(name, plane)| (plane, Some(HeaderValue::from_static(name))))
}

/// The answer that makes it a WebSocket.
fn switching(accept: &str, protocol: Option<HeaderValue>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, UPGRADE);
    headers.insert(header::UPGRADE, WEBSOCKET);
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

/// Says which version is spoken, where that is what is wrong (RFC 6455 section 4.4).
fn refused(status: StatusCode, message: &str) -> Response {
    let mut response = text(status, message);
    if status == StatusCode::UPGRADE_REQUIRED {
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, VERSION);
        response.headers_mut().insert(header::UPGRADE, WEBSOCKET);
    }
    response
}
