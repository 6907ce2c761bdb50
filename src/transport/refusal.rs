//! Refusals by HTTP: the same typed body as the error of a call, the status that says so, and when to come back.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::domain::{Failure, RequestId};
use crate::rpc::{self, Id};

/// When to come back, whole seconds, where the failure does not say: what is full is so for moments.
const RETRY: u64 = 1;

/// The response that says what the failure says.
pub(super) fn refused(failure: &Failure, request_id: &RequestId) -> Response {
    tracing::debug!(%request_id, ?failure, "refused");
    let status = StatusCode::from_u16(rpc::http_status(failure)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = body(failure, request_id);
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    if let Some(wait) = wait(failure, status) {
        response.headers_mut().insert(header::RETRY_AFTER, wait.into());
    }
    response
}

/// The same as it goes over a socket on which nobody speaks HTTP, for a peer there is no place for.
pub(super) fn raw(failure: &Failure, request_id: &RequestId) -> String {
    let body = body(failure, request_id);
    let status = rpc::http_status(failure);
    let reason =
        StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\nretry-after: {RETRY}\r\nx-request-id: {}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        request_id.as_str(),
        body.len()
    )
}

fn body(failure: &Failure, request_id: &RequestId) -> String {
    rpc::error(Some(&Id::Null), failure, request_id) + "\n"
}

fn wait(failure: &Failure, status: StatusCode) -> Option<u64> {
    match failure {
        Failure::RateLimited { retry_after, .. } | Failure::Unavailable { retry_after, .. } => {
            Some(retry_after.as_secs() + 1)
        }
        Failure::LimitExceeded { .. } => Some(RETRY),
        _ if status == StatusCode::SERVICE_UNAVAILABLE => Some(RETRY),
        _ => None,
    }
}
