//! What a log that cannot be written holds back, without a thread.

use std::path::Path;

use super::super::verify;
use super::*;
use crate::domain::{Authority, Call, CallMethod, DecisionId, Origin, Transport, When};

use super::super::{Asked, Fold};

fn entry(number: u128, program: &str) -> Entry {
    let principal = Arc::new(Principal {
        tenant: "t".into(),
        subject: "s".into(),
        groups: Vec::new(),
        attributes: std::collections::BTreeMap::new(),
        authority: Authority::Caller,
    });
    let call = Call {
        principal,
        origin: Origin { address: std::net::Ipv4Addr::LOCALHOST.into(), transport: Transport::Http },
        when: When { unix_ms: 0, weekday: 1, minute_of_day: 0, zone: "UTC".into() },
        method: CallMethod::JobStart,
        program: Some(program.to_owned()),
    };
    Entry {
        decision: DecisionId::from_bits(number),
        generation: 1,
        round: 1,
        grants: Vec::new().into(),
        asked: Asked::Call(Arc::new(call)),
        charges: Vec::new(),
        fold: Fold::Changed,
    }
}

/// A handle and its writer, which nobody runs.
fn parts(path: &Path) -> (Audit, Writer, Receiver<Work>) {
    let settings = Settings::at(Some(path.to_owned()));
    let state = Arc::new(State {
        broken: AtomicBool::new(false),
        lost: AtomicU64::new(0),
        backlog: Backlog::new(settings.queue),
        tally: Tally::new(settings.tenant_bytes),
    });
    let (queue, work) = sync_channel(settings.queue);
    let writer = Writer::new(path, open(path).unwrap(), &settings, state.clone());
    (Audit { queue: Some(queue), state, refuse_when_full: true }, writer, work)
}

/// Every write to it fails.
fn unwritable(path: &Path) -> Flock<File> {
    Flock::lock(File::open(path).unwrap(), FlockArg::LockSharedNonblock).unwrap()
}

fn step(writer: &mut Writer, work: &Receiver<Work>) {
    while let Ok(Work::Line(entry, bytes)) = work.try_recv() {
        writer.put(Held::Decision(entry, bytes));
    }
}

#[test]
fn what_failed_is_written_before_anything_is_taken_again() {
    let directory = tempfile::tempdir().unwrap();
    let (path, other) = (directory.path().join("log"), directory.path().join("other"));
    let (audit, mut writer, work) = parts(&path);
    std::fs::write(&other, "").unwrap();
    audit.record(entry(1, "first")).unwrap();
    audit.record(entry(2, "second")).unwrap();
    let good = std::mem::replace(&mut writer.file, unwritable(&other));
    step(&mut writer, &work);
    for _ in 0..3 {
        assert_eq!(audit.record(entry(3, "third")), Err(AuditRefused::Full));
        writer.every_second();
        assert!(audit.health().is_err());
    }
    assert_eq!((audit.waiting(), audit.lost()), (2, 0), "both are held");
    writer.file = good;
    writer.every_second();
    assert_eq!(audit.record(entry(4, "fourth")), Ok(()));
    step(&mut writer, &work);
    assert_eq!((audit.waiting(), audit.lost()), (0, 0));
    let text = std::fs::read_to_string(&path).unwrap();
    let of = |program: &str| text.find(program).unwrap_or(usize::MAX);
    assert!(of("first") < of("second") && of("second") < of("fourth") && !text.contains("third"), "{text}");
    assert_eq!(verify(&path, None).unwrap().lines, 3, "nothing was lost, and nothing says so");
}

#[test]
fn what_is_held_at_the_end_is_lost_and_so_is_what_was_to_be_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let (path, other) = (directory.path().join("log"), directory.path().join("other"));
    let (mut audit, mut writer, work) = parts(&path);
    audit.refuse_when_full = false;
    std::fs::write(&other, "").unwrap();
    audit.record(entry(1, "first")).unwrap();
    let good = std::mem::replace(&mut writer.file, unwritable(&other));
    step(&mut writer, &work);
    audit.record(entry(2, "second")).unwrap();
    assert_eq!((audit.waiting(), audit.lost()), (1, 1));
    writer.file = good;
    writer.every_second();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("first") && text.contains(r#""event":"lost","hook":"log","lines":1"#), "{text}");
    writer.file = unwritable(&other);
    audit.record(entry(3, "third")).unwrap();
    step(&mut writer, &work);
    writer.give_up();
    assert_eq!(audit.lost(), 2);
}
