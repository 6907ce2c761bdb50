//! What viewers may and may not do, one behaviour at a time.

use super::*;
use crate::domain::GapReason;
use crate::stream::{AckError, BeyondSent};

#[test]
fn a_job_has_one_write_viewer_and_a_new_one_makes_the_old_an_observer() {
    let output = Output::new(terms(Overflow::Block, 4096));
    let mut first = view(&output, ViewKind::Write, None);
    let mut second = view(&output, ViewKind::Write, None);
    assert_eq!((first.kind(), second.kind()), (ViewKind::Observe, ViewKind::Write));
    first.become_kind(ViewKind::Write);
    assert_eq!((first.kind(), second.kind()), (ViewKind::Write, ViewKind::Observe));
    second.become_kind(ViewKind::Observe);
    assert_eq!(first.kind(), ViewKind::Write);
}

#[test]
fn what_a_broken_write_viewer_has_not_got_is_kept_for_its_next_or_until_forgiven() {
    let output = Output::new(terms(Overflow::Block, 64 * 1024));
    let print_all = |output: &Output| {
        print(output, Source::Stdout, 50_000);
        [Source::Stdout, Source::Stderr].iter().for_each(|source| output.end(*source));
    };
    let mut first = view(&output, ViewKind::Write, Some(4096));
    print_all(&output);
    take_all(&mut first);
    first.break_off();
    assert!(!output.shrink_to_tail(100), "its owner may come back");
    let mut next = view(&output, ViewKind::Write, None);
    assert!(!output.shrink_to_tail(100));
    let got: usize = take_all(&mut next).iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(got, 50_000);
    next.break_off();
    assert!(output.shrink_to_tail(100), "it had everything");

    let output = Output::new(terms(Overflow::Block, 64 * 1024));
    let never_read = view(&output, ViewKind::Write, None);
    print_all(&output);
    never_read.break_off();
    assert!(!output.shrink_to_tail(100));
    output.forgive();
    assert!(output.shrink_to_tail(100));
}

#[test]
fn only_so_many_viewers_fit() {
    let output = Output::new(terms(Overflow::Block, 4096));
    let viewers: Vec<_> = (0..16).map(|_| view(&output, ViewKind::Observe, None)).collect();
    assert_eq!(try_view(&output, ViewKind::Observe, &[], None).err(), Some(ViewError::Full { most: 16 }));
    drop(viewers);
    view(&output, ViewKind::Observe, None);
}

#[test]
fn a_view_from_where_nothing_is_yet_is_refused() {
    let output = Output::new(terms(Overflow::Block, 4096));
    print(&output, Source::Stdout, 10);
    let beyond = ViewError::BeyondProduced { stream: StreamName::Stdout, asked: 11, produced: 10 };
    assert_eq!(try_view(&output, ViewKind::Observe, &[(StreamName::Stdout, 11)], None).err(), Some(beyond));
    let none = try_view(&output, ViewKind::Observe, &[(StreamName::Pty, 0)], None).err();
    assert_eq!(none, Some(ViewError::NoSuchStream(StreamName::Pty)));
    let mut viewer = try_view(&output, ViewKind::Observe, &[(StreamName::Stdout, 4)], None).unwrap();
    assert_eq!(take_all(&mut viewer).len(), 1);
}

#[test]
fn a_stalled_writer_blocks_and_its_going_releases() {
    let output = Output::new(terms(Overflow::Block, 4096));
    let writer = view(&output, ViewKind::Write, None);
    let mut observer = view(&output, ViewKind::Observe, None);
    assert_eq!(print(&output, Source::Stdout, 10_000), 4096);
    assert_eq!(take_all(&mut observer).len(), 1);
    assert_eq!(print(&output, Source::Stdout, 1), 0);
    assert_eq!(print(&output, Source::Stderr, 10), 10, "the other stream goes on");
    drop(writer);
    assert_eq!(print(&output, Source::Stdout, 10_000), 10_000);
}

#[test]
fn a_stalled_observer_blocks_nobody_and_is_told_what_it_missed() {
    let output = Output::new(terms(Overflow::Block, 4096));
    let mut writer = view(&output, ViewKind::Write, None);
    let mut observer = view(&output, ViewKind::Observe, None);
    for _ in 0..10 {
        assert_eq!(print(&output, Source::Stdout, 4096), 4096);
        take_all(&mut writer);
    }
    let items = take_all(&mut observer);
    let gap = Item::Gap { stream: StreamName::Stdout, from: 0, to: 9 * 4096, reason: GapReason::Evicted };
    assert_eq!((items.len(), items[0].0), (2, gap));
    assert_eq!(items[1].1.len(), 4096);
}

#[test]
fn what_was_gone_before_and_what_went_since_are_told_apart() {
    let output = Output::new(terms(Overflow::Ring, 4096));
    print(&output, Source::Stdout, 5000);
    let mut viewer = view(&output, ViewKind::Observe, None);
    print(&output, Source::Stdout, 100);
    let stream = StreamName::Stdout;
    let gaps: Vec<Item> = take_all(&mut viewer).into_iter().map(|(item, _)| item).take(2).collect();
    let before = Item::Gap { stream, from: 0, to: 904, reason: GapReason::BeforeAttach };
    let since = Item::Gap { stream, from: 904, to: 1004, reason: GapReason::Evicted };
    assert_eq!(gaps, [before, since]);
}

#[test]
fn evictions_under_a_viewer_without_credit_add_up_to_one_gap() {
    let output = Output::new(terms(Overflow::Ring, 4096));
    let mut viewer = view(&output, ViewKind::Observe, Some(4096));
    print(&output, Source::Stdout, 4096);
    assert_eq!(take_all(&mut viewer).len(), 1);
    for _ in 0..100 {
        print(&output, Source::Stdout, 1000);
        assert!(take_all(&mut viewer).is_empty());
    }
    viewer.ack(StreamName::Stdout, 4096, None).unwrap();
    let items = take_all(&mut viewer);
    assert_eq!(items.len(), 2);
    assert!(matches!(items[0].0, Item::Gap { from: 4096, to: 100_000, .. }));
}

#[test]
fn a_window_larger_than_the_ring_does_not_wedge() {
    let output = Output::new(terms(Overflow::Block, 4096));
    let mut writer = view(&output, ViewKind::Write, Some(1 << 20));
    let mut total = 0;
    while total < 1 << 20 {
        total += print(&output, Source::Stdout, 4096);
        assert!(!take_all(&mut writer).is_empty(), "wedged at {total}");
    }
}

#[test]
fn an_ack_of_what_was_never_sent_is_refused() {
    let output = Output::new(terms(Overflow::Block, 4096));
    let mut viewer = view(&output, ViewKind::Write, Some(4096));
    print(&output, Source::Stdout, 100);
    let refused = viewer.ack(StreamName::Stdout, 1, None);
    assert_eq!(refused, Err(AckError::BeyondSent(BeyondSent { offset: 1, sent: 0 })));
    take_all(&mut viewer);
    viewer.ack(StreamName::Stdout, 100, None).unwrap();
    assert_eq!(viewer.ack(StreamName::Pty, 0, None), Err(AckError::NoSuchStream(StreamName::Pty)));
}

#[test]
fn a_muted_viewer_gets_only_ends_and_totals() {
    let output = Output::new(terms(Overflow::Block, 4096));
    let mut viewer = view(&output, ViewKind::Muted, None);
    print(&output, Source::Stdout, 9000);
    assert!(take_all(&mut viewer).is_empty());
    output.end(Source::Stdout);
    output.end(Source::Stderr);
    let ends: Vec<Item> = take_all(&mut viewer).into_iter().map(|(item, _)| item).collect();
    let end = |stream, offset| Item::Eof { stream, offset };
    assert_eq!(ends, [end(StreamName::Stdout, 9000), end(StreamName::Stderr, 0)]);
    assert!(viewer.is_through());
    assert_eq!((viewer.totals()[0].1.produced, viewer.totals()[0].1.delivered), (9000, 0));
}

#[test]
fn an_end_is_told_once_and_again_after_moving() {
    let output = Output::new(terms(Overflow::Block, 4096));
    let mut viewer = view(&output, ViewKind::Write, None);
    print(&output, Source::Stdout, 5);
    output.end(Source::Stdout);
    output.end(Source::Stderr);
    assert_eq!(take_all(&mut viewer).len(), 3);
    assert!(take_all(&mut viewer).is_empty());
    let again = View { from: &[], kind: ViewKind::Write, plane: Plane::Binary, window: None };
    viewer.reposition(again).unwrap();
    assert_eq!(take_all(&mut viewer).len(), 3);
}

#[test]
fn alternating_single_bytes_take_bounded_memory() {
    let output = Output::new(terms(Overflow::Ring, 64 * 1024));
    for _ in 0..20_000 {
        print(&output, Source::Stdout, 1);
        print(&output, Source::Stderr, 1);
    }
    let runs = crate::stream::order::Runs::MAX as u64;
    assert_eq!(output.lock().stock.runs.len() as u64, runs);
    let kept = produced(&output, Source::Stdout) - oldest(&output, Source::Stdout);
    assert_eq!(kept, runs / 2, "bytes without a place in the order are evicted");
}

#[test]
fn a_full_index_blocks_as_a_full_ring_does() {
    let output = Output::new(terms(Overflow::Block, 64 * 1024));
    let mut writer = view(&output, ViewKind::Write, None);
    let alternate =
        || (0..5000).map(|_| print(&output, Source::Stdout, 1) + print(&output, Source::Stderr, 1)).sum();
    let printed: usize = alternate();
    assert!(printed < 10_000);
    let items = take_all(&mut writer);
    assert_eq!(items.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), printed);
    assert_eq!(print(&output, Source::Stdout, 1), 1);
}

#[test]
fn after_the_end_only_the_tail_stays() {
    let output = Output::new(terms(Overflow::Ring, 64 * 1024));
    let mut viewer = view(&output, ViewKind::Observe, None);
    print(&output, Source::Stdout, 60_000);
    print(&output, Source::Stderr, 10);
    output.end(Source::Stdout);
    output.end(Source::Stderr);
    assert!(!output.shrink_to_tail(1000), "a viewer is not through");
    take_all(&mut viewer);
    assert!(output.shrink_to_tail(1000));
    assert_eq!(output.allocated(), 1010);
    let tail: Vec<u8> = (59_900..60_000).map(|o| byte(Source::Stdout, o)).collect();
    assert_eq!(output.tail(StreamName::Stdout, 100), tail);
    let mut late = view(&output, ViewKind::Observe, None);
    let items = take_all(&mut late);
    assert!(matches!(items[0].0, Item::Gap { to: 59_000, reason: GapReason::BeforeAttach, .. }));
    assert_eq!(items.len(), 5);
}

#[tokio::test]
async fn the_tail_is_kept_once_the_last_viewer_is_through_whoever_came_in_between() {
    let output = Output::new(terms(Overflow::Ring, 64 * 1024));
    let mut first = view(&output, ViewKind::Observe, None);
    print(&output, Source::Stdout, 60_000);
    output.end(Source::Stdout);
    let keeping = tokio::spawn({
        let output = output.clone();
        async move { output.keep_tail(1000).await }
    });
    tokio::task::yield_now().await;
    output.end(Source::Stderr);
    take_all(&mut first);
    let mut second = view(&output, ViewKind::Observe, None);
    tokio::task::yield_now().await;
    assert!(!keeping.is_finished() && output.allocated() >= 60_000);
    take_all(&mut second);
    keeping.await.unwrap();
    assert_eq!(output.allocated(), 1000);
}

#[test]
fn the_limit_is_over_all_streams_and_exact() {
    let output = Output::new(Terms { limit: Some(100), ..terms(Overflow::Ring, 4096) });
    assert_eq!(print(&output, Source::Stdout, 60), 60);
    assert_eq!(print(&output, Source::Stderr, 60), 40);
    assert_eq!(output.fill(Source::Stdout, |_| Ok(0)).unwrap(), Filled::End);
    assert!(output.fill(Source::Stdout, |_| Err(would_block())).is_err());
    assert_eq!(output.fill(Source::Stdout, |_| Ok(1)).unwrap(), Filled::OverLimit);
    assert_eq!(produced(&output, Source::Stdout), 60);
}

#[test]
fn a_viewer_is_woken_after_it_found_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let output = Output::new(terms(Overflow::Ring, 4096));
    let wake = Arc::new(Notify::new());
    let wish = View { from: &[], kind: ViewKind::Observe, plane: Plane::Binary, window: None };
    let mut viewer = output.view(wish, Arc::clone(&wake)).unwrap();
    for round in 1..=3 {
        assert!(take_all(&mut viewer).is_empty() || round == 1);
        print(&output, Source::Stdout, 10);
        runtime.block_on(wake.notified());
        assert_eq!(take_all(&mut viewer).len(), 1);
    }
}

#[test]
fn a_writer_that_is_awaited_gets_every_byte_however_long_it_takes_to_come() {
    let output = Output::new(terms(Overflow::Block, 4096));
    output.await_writer();
    assert_eq!(print(&output, Source::Stdout, 10_000), 4096);
    // Somebody else who looks on is not the one.
    let _observer = view(&output, ViewKind::Observe, None);
    assert_eq!(print(&output, Source::Stdout, 10_000), 0);
    let mut writer = view(&output, ViewKind::Write, None);
    let got = take_all(&mut writer);
    assert!(matches!(got.first(), Some((Item::Data { offset: 0, bytes: 4096, .. }, _))), "{got:?}");
    assert_eq!(print(&output, Source::Stdout, 4096), 4096);
}

#[test]
fn a_writer_that_does_not_come_holds_nothing_back_once_that_is_told() {
    let output = Output::new(terms(Overflow::Block, 4096));
    output.await_writer();
    assert_eq!(print(&output, Source::Stdout, 10_000), 4096);
    output.change_hands(None);
    assert_eq!(print(&output, Source::Stdout, 10_000), 10_000);
}

#[test]
fn a_job_that_ends_before_its_reader_comes_is_kept_whole_for_it() {
    let ended = |expect: fn(&Output)| {
        let output = Output::new(terms(Overflow::Block, 64 * 1024));
        expect(&output);
        assert_eq!(print(&output, Source::Stdout, 50_000), 50_000);
        [Source::Stdout, Source::Stderr].iter().for_each(|source| output.end(*source));
        assert!(!output.shrink_to_tail(100), "its reader has got nothing of it");
        output
    };
    let output = ended(Output::await_writer);
    let mut writer = view(&output, ViewKind::Write, None);
    assert_eq!(take_all(&mut writer).iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), 50_000);
    assert!(output.shrink_to_tail(100), "it had everything");
    for expect in [Output::await_writer, Output::owe] {
        let output = ended(expect);
        output.forgive();
        assert!(output.shrink_to_tail(100), "nobody comes");
    }
}

#[test]
fn what_an_owner_has_not_acknowledged_is_kept_for_its_coming_back() {
    let given = || {
        let output = Output::new(terms(Overflow::Block, 64 * 1024));
        let mut owner = view(&output, ViewKind::Write, Some(128 * 1024));
        assert_eq!(print(&output, Source::Stdout, 50_000), 50_000);
        [Source::Stdout, Source::Stderr].iter().for_each(|source| output.end(*source));
        take_all(&mut owner);
        assert!(owner.is_through() && owner.is_unsure() && !output.shrink_to_tail(100));
        (output, owner)
    };
    let (output, mut owner) = given();
    owner.ack(StreamName::Stdout, 50_000, None).unwrap();
    assert!(!owner.is_unsure() && output.shrink_to_tail(100), "it has all of it");
    let (output, owner) = given();
    owner.break_off();
    let mut again = view(&output, ViewKind::Write, None);
    assert_eq!(take_all(&mut again).iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), 50_000);
    let (output, owner) = given();
    output.forgive();
    assert!(!owner.is_unsure() && output.shrink_to_tail(100), "nobody comes back");
    owner.break_off();
    assert!(output.shrink_to_tail(100), "what is forgiven stays so");
}

#[test]
fn a_job_that_changes_hands_waits_for_no_writer_and_owes_its_next_what_the_last_had_not_got() {
    let print_all = |output: &Output| {
        let printed = print(output, Source::Stdout, 50_000);
        [Source::Stdout, Source::Stderr].iter().for_each(|source| output.end(*source));
        printed
    };
    let wish = View { from: &[], kind: ViewKind::Write, plane: Plane::Binary, window: None };
    let (old, new) = (Arc::new(Notify::new()), Arc::new(Notify::new()));

    let output = Output::new(terms(Overflow::Block, 4096));
    let first = output.view(wish, old.clone()).unwrap();
    assert_eq!(print(&output, Source::Stdout, 10_000), 4096, "it is held back for its writer");
    output.change_hands(Some(&old));
    assert_eq!((first.kind(), print(&output, Source::Stdout, 10_000)), (ViewKind::Observe, 10_000));

    let output = Output::new(terms(Overflow::Block, 64 * 1024));
    output.await_writer();
    output.change_hands(None);
    assert_eq!(print_all(&output), 50_000);
    assert!(!output.shrink_to_tail(100), "who owns it next has got nothing of it");
    let mut next = output.view(wish, new.clone()).unwrap();
    assert_eq!(take_all(&mut next).iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), 50_000);
    output.change_hands(Some(&new));
    assert!(output.shrink_to_tail(100), "it had everything");

    let output = Output::new(terms(Overflow::Block, 4096));
    let early = output.view(wish, new.clone()).unwrap();
    output.change_hands(Some(&old));
    assert_eq!(early.kind(), ViewKind::Write, "the next owner came first");
}
