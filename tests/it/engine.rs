//! The engine under guests nobody wrote: what they leave behind, and what modules made at random can do.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use execgate::policy::{LoadFailure, Module, Policies, PolicyFault, PolicySettings, Settings};

use nix::sys::resource::UsageWho;
use wasmparser::{Parser, Payload};

use crate::support::guest::{Guest, embed};
use crate::support::proc;
use crate::support::request::command;

fn from_file(directory: &std::path::Path, module: &[u8]) -> PolicySettings {
    let path = directory.join("guest.wasm");
    std::fs::write(&path, module).unwrap();
    PolicySettings { module: Module::File(path), ..PolicySettings::builtin("guest", "{}") }
}

/// A guest that looks through the whole of its memory, the two pages it has and those it can get, for a mark, traps when it finds
/// it, and then writes the mark everywhere. Addresses 1024 to 2048 hold its answer and are left out.
const CANARY: &str = "
    (local $at i32) (local $end i32)
    (drop (memory.grow (i32.const 100)))
    (local.set $at (i32.const 2048))
    (local.set $end (i32.mul (memory.size) (i32.const 65536)))
    (loop $each
        (if (i64.eq (i64.load (local.get $at)) (i64.const 0x0ddba11cafef00d5)) (then (unreachable)))
        (if (i32.or (i32.lt_u (local.get $at) (i32.const 65536)) (i32.gt_u (local.get $at) (i32.const 81920)))
            (then (i64.store (local.get $at) (i64.const 0x0ddba11cafef00d5))))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br_if $each (i32.lt_u (local.get $at) (local.get $end))))
    (i32.const 1024)";

#[test]
fn no_decision_finds_a_byte_that_another_left_in_the_whole_of_its_memory() {
    let directory = tempfile::tempdir().unwrap();
    let guest = Guest { review: CANARY, ..Guest::default() };
    let settings =
        PolicySettings { budget: Duration::from_secs(2), ..from_file(directory.path(), &guest.module()) };
    let policies = Policies::load(&Settings::of(vec![settings])).unwrap();
    let askers: Vec<_> = (0..2)
        .map(|_| {
            let policies = policies.clone();
            std::thread::spawn(move || {
                for _ in 0..50 {
                    let ballots = policies.pin().review_here(&command(&["ls"]));
                    assert!(
                        ballots[0].outcome.is_ok(),
                        "a decision found what another left: {:?}",
                        ballots[0]
                    );
                }
            })
        })
        .collect();
    askers.into_iter().for_each(|asker| asker.join().unwrap());
}

/// What became of modules made at random.
#[derive(Debug, Default)]
struct Fates {
    /// Refused before any of their code ran.
    refused: u32,
    /// Refused for what they did while they described or configured themselves.
    broke: u32,
    /// Loaded, and without a verdict when asked.
    denied: u32,
    /// Loaded, and with an answer that makes sense.
    answered: u32,
}

/// How a module made at random is dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dress {
    /// As it comes.
    None,
    /// With the exports of a policy, and bodies made at random.
    Policy,
    /// The same, but it describes and configures itself well, so that it is loaded and its `review` asked.
    Loadable,
}

/// A module from wasm-smith.
fn random_module(bytes: &[u8], dress: Dress) -> Option<Vec<u8>> {
    use wasm_smith::{Config, Module as Random};
    let mut random = arbitrary::Unstructured::new(bytes);
    let any = Config { min_funcs: 1, max_memories: 3, max_imports: 2, ..Config::default() };
    if dress == Dress::None {
        return Some(Random::new(any, &mut random).ok()?.to_bytes());
    }
    let config = Config {
        exports: Some(Guest::default().module()),
        max_imports: 0,
        // What the engine refuses unseen is for the other ones.
        max_memories: 1,
        gc_enabled: false,
        reference_types_enabled: false,
        exceptions_enabled: false,
        threads_enabled: false,
        memory64_enabled: false,
        // Most starts at random trap, and then nothing else is tried.
        allow_start_export: bytes[0].is_multiple_of(8),
        ..any
    };
    let module = Random::new(config, &mut random).ok()?.to_bytes();
    let mut module = if dress == Dress::Loadable { loadable(&module) } else { module };
    embed(&mut module, "command-policy");
    Some(module)
}

/// The module with the bodies of three functions replaced by constants: an answer at 1024, where most memories are zero, and
/// an allocation at 4096.
fn loadable(module: &[u8]) -> Vec<u8> {
    let (mut constants, mut bodies, mut section) = (HashMap::new(), Vec::new(), 0..0);
    for part in Parser::new(0).parse_all(module) {
        match part.unwrap() {
            Payload::ExportSection(exports) => {
                for export in exports.into_iter().map(Result::unwrap) {
                    let address = match export.name.rsplit('#').next().unwrap() {
                        "describe" | "configure" => [0x80, 0x08],
                        "cabi_realloc" => [0x80, 0x20],
                        _ => continue,
                    };
                    constants.insert(export.index as usize, address);
                }
            }
            Payload::CodeSectionStart { range, .. } => section = range,
            Payload::CodeSectionEntry(body) => bodies.push(module[body.range()].to_vec()),
            _ => {}
        }
    }
    let mut code = leb(bodies.len());
    for (index, mut body) in bodies.into_iter().enumerate() {
        if let Some([low, high]) = constants.get(&index) {
            body = vec![0, 0x41, *low, *high, 0x0b];
        }
        code.extend(leb(body.len()));
        code.extend(body);
    }
    let before = &module[..section.start - leb(section.len()).len()];
    [before, &leb(code.len()), &code, &module[section.end..]].concat()
}

fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Each module is refused, or its decision denied unless its answer makes sense, the engine goes on, and takes no more memory than
/// its cap.
fn random_modules(count: u32, cap: u64) -> Fates {
    let directory = tempfile::tempdir().unwrap();
    let rules = PolicySettings::builtin("command-rules", r#"{"preset":"developer"}"#);
    let honest = Policies::load(&Settings::of(vec![rules])).unwrap();
    let request = command(&["ls"]);
    let mut fates = Fates::default();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let rss = || proc::rss(std::process::id() as i32);
    let (before, mut peak) = (rss(), 0);
    for number in 0..count {
        let bytes: Vec<u8> = (0..512)
            .flat_map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed.to_le_bytes()
            })
            .collect();
        let dress = [Dress::None, Dress::Policy, Dress::Loadable, Dress::Loadable][number as usize % 4];
        let Some(module) = random_module(&bytes, dress) else { continue };
        match honest.prepare(&[from_file(directory.path(), &module)]) {
            Err(LoadFailure { fault: PolicyFault::Broke(..), .. }) => fates.broke += 1,
            Err(_) => fates.refused += 1,
            Ok(pinned) => match &pinned.review_here(&request)[0].outcome {
                Ok(_) => fates.answered += 1,
                Err(_) => fates.denied += 1,
            },
        }
        peak = peak.max(rss().saturating_sub(before));
        if number.is_multiple_of(100) {
            assert!(honest.pin().review_here(&request)[0].outcome.is_ok());
        }
    }
    eprintln!("{count} random modules: {fates:?}; RSS at most {} MiB above the start", peak >> 20);
    assert!(peak < cap, "RSS grew by {peak} bytes");
    fates
}

#[test]
fn modules_made_at_random_are_refused_or_denied() {
    let fates = random_modules(60, 256 << 20);
    assert!(fates.refused > 0 && fates.broke > 0, "one way was not tried: {fates:?}");
}

#[test]
#[ignore = "ten thousand modules take a minute: run by hand, optimised"]
fn ten_thousand_modules_made_at_random_are_refused_or_denied() {
    let fates = random_modules(10_000, 256 << 20);
    assert!(fates.denied > 0 && fates.answered > 0, "one way was not tried: {fates:?}");
}

/// What a decision costs is mostly its memory. A shipped policy must find all of it where the one before left it: giving pages back
/// and faulting them in again costs more than the policy itself, and interrupts the other cores.
#[test]
fn a_shipped_policy_decides_without_a_page_fault() {
    let faults = || nix::sys::resource::getrusage(UsageWho::RUSAGE_THREAD).unwrap().minor_page_faults();
    for preset in ["developer", "read-only"] {
        let rules = PolicySettings::builtin("command-rules", &format!("{{\"preset\":\"{preset}\"}}"));
        let policies = Policies::load(&Settings::of(vec![rules])).unwrap().pin();
        let request = command(&["ls", "-l", "--color=never", "/usr/share"]);
        let decide = || assert!(policies.review_here(&request)[0].outcome.is_ok());
        (0..50).for_each(|_| decide());
        let before = faults();
        (0..500).for_each(|_| decide());
        let faulted = faults() - before;
        assert!(faulted < 50, "{preset}: {faulted} page faults in 500 decisions");
    }
}

/// Number P3: a guest that never ends is stopped within 3 ms of CPU time over its budget, and its neighbour does not feel it.
#[test]
fn a_guest_that_never_ends_overshoots_its_budget_by_little() {
    let directory = tempfile::tempdir().unwrap();
    let spin = Guest { review: "(loop $l (br $l)) (unreachable)", ..Guest::default() };
    let policies = Policies::load(&Settings::of(vec![from_file(directory.path(), &spin.module())])).unwrap();
    let request = command(&["ls"]);
    let cpu = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let mut over: Vec<_> = (0..50)
        .map(|_| {
            let since = cpu();
            let ballots = policies.pin().review_here(&request);
            assert!(ballots[0].outcome.is_err());
            (cpu() - since).saturating_sub(Duration::from_millis(10))
        })
        .collect();
    over.sort();
    eprintln!("P3: CPU time over the budget of 10 ms: p50 {:?}, max {:?}", over[25], over[49]);
    assert!(over[45] <= Duration::from_millis(3), "{over:?}");
}

/// The wall-clock bound, which holds when the processor is not given: twenty budgets.
#[test]
fn a_decision_ends_whatever_the_guest_does() {
    let directory = tempfile::tempdir().unwrap();
    let grow = "(loop $l (drop (memory.grow (i32.const 1))) (br $l)) (unreachable)";
    let policies = Policies::load(&Settings::of(vec![from_file(
        directory.path(),
        &Guest { review: grow, ..Guest::default() }.module(),
    )]))
    .unwrap();
    let since = Instant::now();
    assert!(policies.pin().review_here(&command(&["ls"]))[0].outcome.is_err());
    assert!(since.elapsed() < Duration::from_secs(1));
}
