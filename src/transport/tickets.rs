//! `POST /v1/tickets`: a one-use ticket for a browser's WebSocket.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::auth::{Identified, VALID};
use super::router::{Gateway, text};

#[derive(Serialize)]
struct Ticket {
    ticket: String,
    expires_in_ms: u128,
}

/// Gives the caller a ticket that stands for the credential it was asked with.
pub(super) async fn tickets(State(gateway): State<Gateway>, caller: Identified) -> Response {
    let Some(ticket) = gateway.access.ticket(&caller) else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many tickets wait to be used; use them, or let them lapse",
        );
    };
    let mut response = Json(Ticket { ticket, expires_in_ms: VALID.as_millis() }).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
