//! Telling systemd how it goes (sd_notify(3)). Without systemd, nothing is said to nobody.

use sd_notify::NotifyState;

/// Ready to serve.
pub(super) fn ready() {
    say(&[NotifyState::Ready]);
}

/// The event loop turns.
pub(super) fn alive() {
    say(&[NotifyState::Watchdog]);
}

/// Shutting down.
pub(super) fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Reading the configuration; [`ready`] follows.
pub(super) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        say(&[NotifyState::Reloading, now]);
    }
}

fn say(state: &[NotifyState<'_>]) {
    // Nobody listens where no service manager started us.
    let _ = sd_notify::notify(state);
}
