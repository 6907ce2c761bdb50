//! Logs: one JSON object a line, or readable lines on a terminal, always on standard error.
//!
//! Control characters are escaped by the formatter, so that nothing a client names can act on an operator's terminal.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Readable on a terminal, JSON elsewhere.
    Auto,
    /// Readable.
    Text,
    /// JSON.
    Json,
}

/// The filter cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("log.level: {0:?} is no level (error, warn, info, debug, trace) and no filter: {1}")]
pub struct BadFilter(String, String);

/// Begins to log. Only the first call counts.
///
/// # Errors
/// [`BadFilter`]
pub fn start(format: Format, level: &str) -> Result<(), BadFilter> {
    let filter = EnvFilter::try_new(level).map_err(|e| BadFilter(level.to_owned(), e.to_string()))?;
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        Format::Auto => !terminal,
        Format::Text => false,
        Format::Json => true,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    // A second start keeps the first one's ways.
    let _ = if json {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        builder.with_ansi(terminal).with_target(false).try_init()
    };
    Ok(())
}
