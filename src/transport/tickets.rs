//! `POST /v1/tickets`: a one-use ticket for a browser's WebSocket.

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use crate::domain::RequestId;

use super::auth::{Identified, VALID};
use super::refusal::refused;
use super::router::Gateway;

#[derive(Serialize)]
struct Ticket {
    ticket: String,
    expires_in_ms: u128,
}

/// Gives the caller a ticket that stands for the credential it was asked with.
pub(super) async fn tickets(
    State(gateway): State<Gateway>,
    Extension(request_id): Extension<RequestId>,
    caller: Identified,
) -> Response {
    let ticket = match gateway.access.ticket(&caller) {
        Ok(ticket) => ticket,
        Err(failure) => return refused(&failure, &request_id),
    };
    let mut response = Json(Ticket { ticket, expires_in_ms: VALID.as_millis() }).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
