//! The routes, and what every response carries.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{ConnectInfo, Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::{Failure, RequestId};
use crate::session::{Core, MEMORY_RETRY, Pressure};

use super::access::{self, Names};
use super::caller::Peer;
use super::doorstep::Guest;
use super::health::{self, Health, Pulse};
use super::metrics::{self, Render};
use super::refusal::refused;
use super::{Access, Crowd, Settings, exec, proxy, tickets, upgrade};

/// The header that names a request (conventional).
const REQUEST_ID: &str = "x-request-id";

/// What every handler shares.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Sessions and jobs.
    pub core: Arc<Core>,
    /// Bounds; a reload changes them for connections that come after it.
    pub settings: Arc<ArcSwap<Settings>>,
    /// Connections, by tenant.
    pub crowd: Arc<Crowd>,
    /// Who may connect.
    pub access: Arc<Access>,
    /// Which names are answered to.
    pub names: Arc<ArcSwap<Names>>,
    /// Health, as last probed.
    pub health: Arc<Health>,
    /// Whether the event loop turns.
    pub pulse: Arc<Pulse>,
    /// The metrics as text.
    pub render: Render,
    /// The tasks of all connections.
    pub tracker: TaskTracker,
    /// Ends every connection.
    pub stop: CancellationToken,
}

impl Gateway {
    /// The routes of the admin's door: how the server is, and nothing that changes it.
    pub fn admin_router(self) -> Router {
        Router::new()
            .route("/livez", get(health::livez))
            .route("/readyz", get(health::readyz))
            .route("/metrics", get(metrics::metrics))
            .fallback(no_such_page)
            .layer(middleware::from_fn_with_state(self.clone(), at_the_door))
            .with_state(self)
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/v1/ws", get(upgrade::ws))
            .route("/v1/tickets", post(tickets::tickets))
            .route("/v1/exec", post(exec::exec))
            .route("/v1/openrpc.json", get(openrpc))
            .route("/livez", get(health::livez))
            .route("/readyz", get(health::readyz))
            .route("/metrics", get(metrics::metrics))
            .fallback(no_such_page)
            .layer(middleware::from_fn_with_state(self.clone(), at_the_door))
            .with_state(self)
    }
}

async fn no_such_page() -> Response {
    let message = "no such page; the gateway speaks at /v1/ws, /v1/exec, /v1/tickets, /v1/openrpc.json, /livez, /readyz and /metrics";
    text(StatusCode::NOT_FOUND, message)
}

/// `GET /v1/openrpc.json`: what `rpc.discover` answers.
async fn openrpc() -> Response {
    axum::Json(crate::rpc::discover(env!("CARGO_PKG_VERSION"))).into_response()
}

/// Says whose the connection is from now on, names the request, checks `Host` and `Origin`, and logs the outcome once.
async fn at_the_door(
    State(gateway): State<Gateway>,
    Extension(ConnectInfo(peer)): Extension<ConnectInfo<SocketAddr>>,
    Extension(guest): Extension<Guest>,
    mut request: Request,
    next: Next,
) -> Response {
    guest.asks();
    let id = request_id(request.headers());
    let path = request.uri().path().to_owned();
    let names = gateway.names.load_full();
    let client = proxy::client(peer.ip(), request.headers(), &names.proxies);
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(ConnectInfo(SocketAddr::new(client, peer.port())));
    let by_admin_door = request.extensions().get::<Peer>().is_some_and(|peer| peer.admin_door);
    // The admin's door is on loopback, whatever the other one answers to.
    let names = if by_admin_door { Arc::new(Names { loopback: true, ..Names::default() }) } else { names };
    let mut response = match access::check(request.headers(), request.uri(), &names) {
        Ok(()) if gateway.core.admitting().is_err() && path.starts_with("/v1/") => {
            refused(&Failure::Draining, &id)
        }
        Ok(()) if gateway.core.memory.pressure() == Pressure::NoConnections && path.starts_with("/v1/") => {
            let what = "the gateway is short of memory".to_owned();
            refused(&Failure::Unavailable { what, retry_after: MEMORY_RETRY }, &id)
        }
        Ok(()) => next.run(request).await,
        Err(turned_away) => text(turned_away.status, &turned_away.message),
    };
    guest.answered();
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    count(response.status());
    tracing::debug!(request_id = %id, %client, path, status = response.status().as_u16(), "answered");
    response
}

fn count(status: StatusCode) {
    let class = match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    ::metrics::counter!("execgate_http_responses_total", "class" => class).increment(1);
}

fn request_id(headers: &HeaderMap) -> RequestId {
    let given = headers.get(REQUEST_ID).and_then(|v| v.to_str().ok()).and_then(RequestId::from_client);
    given.unwrap_or_else(fresh_request_id)
}

/// A request id made here. Without randomness it is all zeroes: an id is for people to find a line by, and not
/// worth refusing a request for.
pub(super) fn fresh_request_id() -> RequestId {
    let mut bytes = [0; 16];
    let _ = getrandom::fill(&mut bytes);
    RequestId::from_bits(u128::from_ne_bytes(bytes))
}

/// A plain answer.
pub(super) fn text(status: StatusCode, message: &str) -> Response {
    let mut response = (status, format!("{message}\n")).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
