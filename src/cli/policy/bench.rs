//! `policy bench`: how long decisions take, case after case, one after the other on one core.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cases::{self, Table};
use crate::cli::output::{Trouble, say};
use crate::policy::Pinned;

use super::ask::{self, Loader};
use super::options::Bench;

/// Decisions made before any is measured.
const WARM: usize = 200;
/// Most times kept of a hook.
const MOST: usize = 2_000_000;
/// Width of the histogram's bars.
const WIDTH: usize = 40;

pub(super) fn run(args: &Bench) -> Result<ExitCode, Trouble> {
    let mut loader = Loader::new(&args.from);
    let mut report = Vec::new();
    for table in ask::tables(&args.tables)? {
        let (pinned, alone) = loader.load(&table)?;
        for (hook, mut times) in measured(&pinned, &table, alone, args.time) {
            times.sort_unstable();
            if args.json {
                report.push(as_json(&table, &hook, &times));
            } else {
                tell(&table, &hook, &times)?;
            }
        }
    }
    if args.json {
        say(Value::Array(report))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Microseconds of each decision, by hook.
fn measured(pinned: &Pinned, table: &Table, alone: bool, time: Duration) -> BTreeMap<String, Vec<u64>> {
    let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut around = table.cases.iter().cycle();
    around.by_ref().take(WARM).for_each(|case| drop(cases::judge(pinned, case, alone)));
    let since = Instant::now();
    for case in around {
        if since.elapsed() >= time {
            break;
        }
        let outcome = cases::judge(pinned, case, alone);
        let kept = times.entry(outcome.hook.to_string()).or_default();
        if kept.len() < MOST {
            kept.push(u64::try_from(outcome.took.as_nanos()).unwrap_or(u64::MAX));
        }
    }
    times
}

fn at(times: &[u64], share: f64) -> f64 {
    let place = ((times.len().saturating_sub(1)) as f64 * share) as usize;
    times.get(place).copied().unwrap_or(0) as f64 / 1000.0
}

fn per_second(times: &[u64]) -> f64 {
    let total: u64 = times.iter().sum();
    if total == 0 { 0.0 } else { times.len() as f64 * 1e9 / total as f64 }
}

fn as_json(table: &Table, hook: &str, times: &[u64]) -> Value {
    json!({
        "table": table.path, "hook": hook, "decisions": times.len(), "per_second": per_second(times).round(),
        "p50_us": at(times, 0.5), "p90_us": at(times, 0.9), "p99_us": at(times, 0.99), "max_us": at(times, 1.0),
    })
}

fn tell(table: &Table, hook: &str, times: &[u64]) -> Result<(), Trouble> {
    say(format!(
        "{}, hook {hook}: {} decisions, {:.0} a second on one core",
        table.path.display(),
        times.len(),
        per_second(times)
    ))?;
    say(format!(
        "  p50 {:.1} us   p90 {:.1} us   p99 {:.1} us   max {:.1} us",
        at(times, 0.5),
        at(times, 0.9),
        at(times, 0.99),
        at(times, 1.0)
    ))?;
    // Each bar is twice as wide as the one before, in microseconds.
    let mut bars: BTreeMap<u32, usize> = BTreeMap::new();
    times.iter().for_each(|ns| *bars.entry((ns / 1000).max(1).ilog2()).or_default() += 1);
    let most = bars.values().copied().max().unwrap_or(1);
    for (power, count) in bars {
        let bar = "#".repeat((count * WIDTH).div_ceil(most));
        say(format!("  {:>6} – {:<6} us {bar:<WIDTH$} {count}", 1u64 << power, 1u64 << (power + 1)))?;
    }
    Ok(())
}
