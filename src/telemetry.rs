//! Logs: one JSON object a line, or readable lines on a terminal, always on standard error.
//!
//! Control characters are escaped by the formatter, so that nothing a client names can act on an operator's terminal. A
//! panic is such a line too, for its message may hold what a client sent; where a thread is to log nothing, its panics do not.

pub mod metrics;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{IsTerminal as _, Write as _};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use tracing::dispatcher;
use tracing::subscriber::NoSubscriber;
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

type SetLevel = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// How the running log's filter is changed.
static LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Checks a filter without using it.
///
/// # Errors
/// [`BadFilter`]
pub fn check(level: &str) -> Result<(), BadFilter> {
    EnvFilter::try_new(level).map(drop).map_err(|e| BadFilter(level.to_owned(), e.to_string()))
}

/// Changes what is logged; a filter that cannot be read, which [`check`] tells, changes nothing.
pub fn set_level(level: &str) {
    if let (Some(set), Ok(filter)) = (LEVEL.get(), EnvFilter::try_new(level)) {
        set(filter);
    }
}

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
        let builder = builder.json().flatten_event(true).with_span_list(false).with_filter_reloading();
        let handle = builder.reload_handle();
        // Set once, with the first start.
        let _ = LEVEL.set(Box::new(move |filter| handle.reload(filter).is_ok()));
        builder.try_init()
    } else {
        let builder = builder.with_ansi(terminal).with_target(false).with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = LEVEL.set(Box::new(move |filter| handle.reload(filter).is_ok()));
        builder.try_init()
    };
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Whether this thread is to log nothing, because what it works on may hold secrets.
fn is_muted() -> bool {
    dispatcher::get_default(|dispatch| dispatch.is::<NoSubscriber>())
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    if is_muted() {
        return;
    }
    if !tracing::enabled!(tracing::Level::ERROR) {
        // A fault of ours is told whatever the level.
        let _ = writeln!(std::io::stderr(), "{:?}", panic.to_string());
    }
    let thread = std::thread::current();
    let backtrace = Backtrace::capture();
    tracing::error!(
        thread = thread.name(),
        at = panic.location().map(tracing::field::display),
        why = panic.payload_as_str(),
        backtrace =
            (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(&backtrace)),
        "panicked"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Dispatch;

    #[test]
    fn a_thread_that_is_to_log_nothing_is_told_from_a_level_at_which_nothing_is_logged() {
        let at_level_off = tracing_subscriber::fmt().with_env_filter(EnvFilter::new("off")).finish();
        assert!(dispatcher::with_default(&Dispatch::none(), is_muted));
        assert!(!dispatcher::with_default(&Dispatch::new(at_level_off), is_muted));
    }
}
