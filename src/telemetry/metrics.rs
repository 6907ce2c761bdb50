//! The metrics: one table of what there is. The rooms count; this room names, describes and renders.
//!
//! No label ever holds what a client can choose: policies come from the configuration, all other values are words of ours.

use std::fmt;
use std::sync::{Arc, OnceLock};

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// What is counted how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Seconds, in buckets from microseconds up.
    Seconds,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, by the conventions of Prometheus.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

const fn metric(
    kind: Kind,
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, labels, help }
}

use Kind::{Counter, Gauge, Seconds};

/// Every metric there is.
pub const METRICS: [Metric; 32] = [
    metric(Gauge, "execgate_sessions", &[], "Sessions alive."),
    metric(Gauge, "execgate_jobs", &[], "Jobs alive."),
    metric(Gauge, "execgate_slots_sessions", &[], "Slots held by sessions, those being opened included."),
    metric(Gauge, "execgate_slots_jobs", &[], "Slots held by jobs, those being started included."),
    metric(Gauge, "execgate_connections", &[], "WebSockets open."),
    metric(Counter, "execgate_connections_refused_total", &["why"], "Connections turned away."),
    metric(
        Counter,
        "execgate_http_responses_total",
        &["class"],
        "HTTP responses by the class of their status.",
    ),
    metric(Counter, "execgate_requests_total", &["outcome"], "JSON-RPC requests answered."),
    metric(Counter, "execgate_authentication_failures_total", &[], "Wrong credentials shown."),
    metric(Counter, "execgate_decisions_total", &["hook", "outcome"], "Decisions by hook and outcome."),
    metric(Counter, "execgate_verdicts_total", &["hook", "policy", "outcome"], "Verdicts of each policy."),
    metric(Seconds, "execgate_decision_seconds", &["hook"], "Time the policies took for a decision."),
    metric(Seconds, "execgate_spawn_seconds", &[], "From a start's request to its leader running."),
    metric(
        Seconds,
        "execgate_refusal_seconds",
        &[],
        "From reading a request to its refusal for a limit, a rate, the drain or want of means.",
    ),
    metric(Counter, "execgate_spawn_failures_total", &["fault"], "Starts that failed, by whose fault."),
    metric(Counter, "execgate_jobs_ended_total", &["reason"], "Jobs ended, by reason."),
    metric(Counter, "execgate_stream_bytes_total", &[], "Bytes that ended jobs had written."),
    metric(Counter, "execgate_stream_gaps_total", &["reason"], "Gaps that viewers were told, by reason."),
    metric(
        Counter,
        "execgate_viewers_stalled_total",
        &[],
        "Connections ended because their peer took nothing.",
    ),
    metric(Gauge, "execgate_breaker_open", &["breaker"], "1 while the circuit breaker is open."),
    metric(Gauge, "execgate_warden_up", &[], "1 while the warden is there."),
    metric(Gauge, "execgate_policy_generation", &[], "The policy generation in force."),
    metric(Gauge, "execgate_audit_ok", &[], "1 while the decision log can be written, or is off."),
    metric(Gauge, "execgate_audit_queue_lines", &[], "Lines of the decision log that wait to be written."),
    metric(Counter, "execgate_audit_lost_total", &[], "Lines of the decision log that were lost."),
    metric(Counter, "execgate_reloads_total", &["outcome"], "Reloads of the configuration."),
    metric(Gauge, "execgate_draining", &[], "1 once the server takes leave."),
    metric(Gauge, "execgate_resident_bytes", &[], "Resident memory of the gateway."),
    metric(Gauge, "execgate_memory_bound_bytes", &[], "What its memory is held below."),
    metric(Gauge, "execgate_memory_pressure", &[], "0 none, 1 no new sessions, 2 no new connections."),
    metric(Counter, "execgate_event_loop_stalls_total", &[], "Times the event loop stood still for 5 s."),
    metric(Counter, "execgate_task_panics_total", &[], "Tasks that broke; their session was ended."),
];

/// Upper bounds of the buckets: 10 µs to 10 s.
const BUCKETS: [f64; 16] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25,
    1.0, 2.5, 10.0,
];

/// Renders what was counted.
#[derive(Clone)]
pub struct Scrape(Arc<PrometheusHandle>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Scrape {
    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        self.0.render()
    }

    /// Moves what was measured into its buckets; to be called now and then, or measurements pile up unread.
    pub fn tidy(&self) {
        self.0.run_upkeep();
    }
}

/// Begins to count, once for the process; `None` when the buckets are refused, which a test would show.
pub fn start() -> Option<Scrape> {
    static STARTED: OnceLock<Option<Scrape>> = OnceLock::new();
    STARTED.get_or_init(install).clone()
}

fn install() -> Option<Scrape> {
    let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).ok()?;
    let builder = METRICS.iter().filter(|m| m.kind == Seconds).try_fold(builder, |builder, metric| {
        builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), &BUCKETS)
    });
    let handle = builder.ok()?.install_recorder().ok()?;
    METRICS.iter().for_each(describe);
    Some(Scrape(Arc::new(handle)))
}

/// Describes a metric, and lets one without labels begin at 0.
fn describe(metric: &Metric) {
    match metric.kind {
        Counter => metrics::describe_counter!(metric.name, metric.help),
        Gauge => metrics::describe_gauge!(metric.name, metric.help),
        Seconds => metrics::describe_histogram!(metric.name, Unit::Seconds, metric.help),
    }
    if metric.labels.is_empty() {
        match metric.kind {
            Counter => metrics::counter!(metric.name).increment(0),
            Gauge => metrics::gauge!(metric.name).set(0.0),
            Seconds => {}
        }
    }
}
