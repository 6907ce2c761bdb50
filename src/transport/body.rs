//! A request's body, read into one buffer.
//!
//! What a peer sends as a thousand chunks costs what it would as one: each is copied and let go, so that no more of the wire
//! is held than hyper's read buffer, and it bounds what a peer may say between chunks.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::router::text;

/// How long a body may take to come: long enough for 1 MiB over a slow line.
const TIME: Duration = Duration::from_secs(30);

/// The whole body, of at most `most` bytes.
///
/// # Errors
/// The answer to a body that is too large, broke off, or did not come in [`TIME`].
pub(super) async fn read(body: Body, most: usize) -> Result<Vec<u8>, Response> {
    match timeout(TIME, gather(body, most)).await {
        Ok(Some(body)) => Ok(body),
        Ok(None) => {
            let message = format!("the body is larger than {most} bytes, or broke off");
            Err(text(StatusCode::PAYLOAD_TOO_LARGE, &message))
        }
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    }
}

async fn gather(body: Body, most: usize) -> Option<Vec<u8>> {
    let told = usize::try_from(body.size_hint().lower()).unwrap_or(most);
    let mut whole = Vec::with_capacity(told.min(most));
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.ok()?;
        let length = whole.len().checked_add(piece.len()).filter(|length| *length <= most)?;
        if length > whole.capacity() {
            // Twice as much each time, but never beyond the bound.
            let grown = whole.capacity().saturating_mul(2).clamp(length, most);
            whole.reserve_exact(grown - whole.len());
        }
        whole.extend_from_slice(&piece);
    }
    Some(whole)
}
