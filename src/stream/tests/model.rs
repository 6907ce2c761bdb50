//! The room against a trivial model: a client that remembers everything it was given.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::domain::{GapReason, StreamTotals};

const SOURCES: [Source; 2] = [Source::Stdout, Source::Stderr];

#[derive(Debug, Clone)]
enum Act {
    Print {
        stderr: bool,
        count: usize,
    },
    Take {
        who: usize,
        max: usize,
    },
    /// Acks some share of what came, whether or not more was acked before.
    Ack {
        who: usize,
        stderr: bool,
        percent: u64,
        window: Option<u32>,
    },
    /// Leaves and comes back at once from where it was.
    Resume {
        who: usize,
    },
    /// Moves to some share of what was produced.
    Move {
        who: usize,
        percent: u64,
    },
    Leave {
        who: usize,
    },
    Come {
        who: usize,
        percent: u64,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let who = 0..3usize;
    let window = prop::option::weighted(0.2, 4096..9000u32);
    prop_oneof![
        6 => (any::<bool>(), 1..3000usize).prop_map(|(stderr, count)| Act::Print { stderr, count }),
        6 => (who.clone(), 1..5000usize).prop_map(|(who, max)| Act::Take { who, max }),
        3 => (who.clone(), any::<bool>(), 0..=100u64, window)
            .prop_map(|(who, stderr, percent, window)| Act::Ack { who, stderr, percent, window }),
        2 => who.clone().prop_map(|who| Act::Resume { who }),
        1 => (who.clone(), 0..=100u64).prop_map(|(who, percent)| Act::Move { who, percent }),
        1 => who.clone().prop_map(|who| Act::Leave { who }),
        1 => (who, 0..=100u64).prop_map(|(who, percent)| Act::Come { who, percent }),
    ]
}

/// What a client knows of one stream.
#[derive(Debug, Default, Clone)]
struct Seen {
    at: u64,
    acked: u64,
    /// Data ranges not known to be consumed.
    flying: VecDeque<(u64, u64)>,
    /// Bytes and gaps since it came or moved, and before.
    totals: StreamTotals,
    /// The oldest byte there was when it came.
    found: u64,
    ended: bool,
}

impl Seen {
    fn start(&mut self, at: u64, found: u64) {
        *self = Self { at, acked: at, found, totals: self.totals, ..Self::default() };
    }

    fn in_flight(&self) -> u64 {
        self.flying.iter().map(|(from, to)| to.saturating_sub((*from).max(self.acked))).sum()
    }
}

struct Client {
    viewer: Viewer,
    window: [Option<u32>; 2],
    seen: [Seen; 2],
    lossless: bool,
}

fn slot(stream: StreamName) -> usize {
    SOURCES.iter().position(|source| source.name() == stream).unwrap()
}

impl Client {
    fn new(output: &Output, kind: ViewKind, from: [u64; 2], window: Option<u32>) -> Result<Self, ViewError> {
        let named = [(StreamName::Stdout, from[0]), (StreamName::Stderr, from[1])];
        let viewer = try_view(output, kind, &named, window)?;
        let mut client =
            Self { viewer, window: [window; 2], seen: Default::default(), lossless: kind == ViewKind::Write };
        client.start(output, from);
        Ok(client)
    }

    fn start(&mut self, output: &Output, from: [u64; 2]) {
        for (slot, source) in SOURCES.into_iter().enumerate() {
            self.seen[slot].start(from[slot], oldest(output, source));
        }
    }

    fn check(&mut self, output: &Output, item: Item, bytes: &[u8]) {
        match item {
            Item::Data { stream, offset, bytes: count } => {
                let seen = &mut self.seen[slot(stream)];
                assert_eq!((seen.at, bytes.len()), (offset, count));
                assert!(count > 0);
                let source = SOURCES[slot(stream)];
                for (o, got) in (offset..).zip(bytes) {
                    assert_eq!(*got, byte(source, o), "{stream:?} at {o}");
                }
                seen.at += count as u64;
                seen.flying.push_back((offset, seen.at));
                seen.totals.delivered += count as u64;
                if let Some(window) = self.window[slot(stream)] {
                    assert!(seen.in_flight() <= u64::from(window), "window of {window} overrun");
                }
            }
            Item::Gap { stream, from, to, reason } => {
                let seen = &mut self.seen[slot(stream)];
                assert_eq!(seen.at, from);
                let limit = oldest(output, SOURCES[slot(stream)]);
                assert!(from < to && to <= limit, "a gap over bytes that are there");
                let before = reason == GapReason::BeforeAttach;
                assert_eq!(before, from < seen.found);
                assert!(before || !self.lossless, "the write viewer lost bytes");
                seen.at = to;
                seen.totals.dropped += to - from;
            }
            Item::Eof { stream, offset } => {
                let seen = &mut self.seen[slot(stream)];
                assert_eq!((seen.at, seen.ended), (offset, false));
                seen.ended = true;
            }
        }
    }

    fn take(&mut self, output: &Output, max: usize) -> bool {
        let mut out = Vec::new();
        let Some(item) = self.viewer.next(max, &mut out) else { return false };
        assert!(out.len() <= max);
        self.check(output, item, &out);
        true
    }

    fn ack(&mut self, slot: usize, offset: u64, window: Option<u32>) {
        let seen = &mut self.seen[slot];
        self.viewer.ack(SOURCES[slot].name(), offset, window.map(|w| Window::new(w).unwrap())).unwrap();
        seen.acked = seen.acked.max(offset);
        self.window[slot] = window.or(self.window[slot]);
    }

    /// Takes and acks until nothing comes: must end with everything.
    fn finish(mut self, output: &Output) {
        loop {
            while self.take(output, 1 << 20) {}
            let before = self.seen.clone();
            for (slot, seen) in before.iter().enumerate() {
                self.ack(slot, seen.at, None);
            }
            if !self.take(output, 1 << 20) {
                break;
            }
        }
        assert!(self.viewer.is_through());
        for (stream, totals) in self.viewer.totals() {
            let seen = &self.seen[slot(stream)];
            assert!(seen.ended && seen.at == totals.produced, "{stream:?} stopped at {}", seen.at);
            assert_eq!((totals.delivered, totals.dropped), (seen.totals.delivered, seen.totals.dropped));
        }
    }
}

/// Viewer 0 is the writer; the others observe.
fn kind(who: usize) -> ViewKind {
    if who == 0 { ViewKind::Write } else { ViewKind::Observe }
}

fn share(output: &Output, percent: u64) -> [u64; 2] {
    SOURCES.map(|source| produced(output, source) * percent / 100)
}

fn play(overflow: Overflow, ring: u32, windows: [Option<u32>; 3], acts: &[Act]) {
    let output = Output::new(terms(overflow, ring));
    let mut clients: [Option<Client>; 3] =
        [0, 1, 2].map(|who| Client::new(&output, kind(who), [0, 0], windows[who]).ok());
    for act in acts {
        perform(&output, overflow, ring, windows, &mut clients, act.clone());
        assert!(output.allocated() <= 2 * ring as usize);
    }
    for source in SOURCES {
        output.end(source);
    }
    for client in clients.into_iter().flatten() {
        client.finish(&output);
    }
}

fn perform(
    output: &Output,
    overflow: Overflow,
    ring: u32,
    windows: [Option<u32>; 3],
    clients: &mut [Option<Client>; 3],
    act: Act,
) {
    match act {
        Act::Print { stderr, count } => {
            let printed = print(output, SOURCES[usize::from(stderr)], count);
            assert!(printed == count || (overflow == Overflow::Block && clients[0].is_some()));
        }
        Act::Take { who, max } => {
            if let Some(client) = &mut clients[who] {
                client.take(output, max);
            }
        }
        Act::Ack { who, stderr, percent, window } => {
            if let Some(client) = &mut clients[who] {
                let slot = usize::from(stderr);
                client.ack(slot, client.seen[slot].at * percent / 100, window.filter(|w| *w <= ring));
            }
        }
        Act::Resume { who } => {
            let Some(client) = clients[who].take() else { return };
            // All it knows is what it was given; what flew is on the floor of a dead socket.
            let from = [0, 1].map(|slot: usize| client.seen[slot].acked);
            let (window, lossless) = (client.window, client.lossless);
            drop(client);
            let mut client = Client::new(output, kind(who), from, window[0]).unwrap();
            client.lossless = lossless && overflow == Overflow::Block;
            clients[who] = Some(client);
        }
        Act::Move { who, percent } => {
            let Some(client) = &mut clients[who] else { return };
            let from = share(output, percent);
            let named = [(StreamName::Stdout, from[0]), (StreamName::Stderr, from[1])];
            let window = client.window[0].map(|bytes| Window::new(bytes).unwrap());
            let view = View { from: &named, kind: kind(who), plane: Plane::Binary, window };
            client.viewer.reposition(view).unwrap();
            client.window = [client.window[0]; 2];
            client.start(output, from);
        }
        Act::Leave { who } => clients[who] = None,
        Act::Come { who, percent } => {
            if clients[who].is_none() {
                clients[who] = Client::new(output, kind(who), share(output, percent), windows[who]).ok();
            }
        }
    }
    if let Some(writer) = &mut clients[0] {
        writer.lossless &= overflow == Overflow::Block;
    }
}

fn windows() -> impl Strategy<Value = [Option<u32>; 3]> {
    prop::array::uniform3(prop::option::of(4096..=8192u32))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_happens_every_byte_is_given_once_or_is_in_a_gap(
        ring in 4096..20_000u32,
        block in any::<bool>(),
        windows in windows(),
        acts in prop::collection::vec(act(), 1..200),
    ) {
        let overflow = if block { Overflow::Block } else { Overflow::Ring };
        play(overflow, ring, windows, &acts);
    }

    #[test]
    fn a_write_viewer_resumes_from_its_ack_without_losing_or_doubling_a_byte(
        ring in 8192..20_000u32,
        window in 4096..=8192u32,
        acts in prop::collection::vec(act(), 1..200),
    ) {
        let acts = acts.into_iter().filter(|act| match act {
            Act::Print { .. } | Act::Take { .. } | Act::Ack { .. } | Act::Resume { .. } => true,
            Act::Move { .. } | Act::Leave { .. } | Act::Come { .. } => false,
        });
        let output = Output::new(terms(Overflow::Block, ring));
        let mut clients = [Client::new(&output, ViewKind::Write, [0, 0], Some(window)).ok(), None, None];
        for act in acts {
            perform(&output, Overflow::Block, ring, [Some(window); 3], &mut clients, act);
            let writer = clients[0].as_ref().unwrap();
            for (slot, source) in SOURCES.into_iter().enumerate() {
                prop_assert!(oldest(&output, source) <= writer.seen[slot].acked, "unacknowledged bytes were evicted");
            }
        }
        SOURCES.iter().for_each(|source| output.end(*source));
        clients[0].take().unwrap().finish(&output);
    }

    #[test]
    fn a_viewer_that_keeps_up_gets_bytes_in_the_order_of_reading(
        prints in prop::collection::vec((any::<bool>(), 1..600usize), 1..100),
        every in 1..5usize,
    ) {
        let output = Output::new(terms(Overflow::Ring, 4096));
        let mut viewer = view(&output, ViewKind::Observe, None);
        let (mut read, mut got) = (Vec::new(), Vec::new());
        for (round, (stderr, count)) in prints.into_iter().enumerate() {
            let source = SOURCES[usize::from(stderr)];
            print(&output, source, count);
            read.extend(std::iter::repeat_n(source.name(), count));
            if round % every == 0 {
                got.extend(streams(take_all(&mut viewer)));
            }
        }
        got.extend(streams(take_all(&mut viewer)));
        prop_assert_eq!(got, read);
    }

    #[test]
    fn text_is_never_torn_and_never_lost(
        texts in prop::collection::vec((any::<bool>(), "\\PC{1,30}"), 1..30),
        cuts in prop::collection::vec(1..9usize, 1..50),
        max in 4..40usize,
    ) {
        let output = Output::new(terms(Overflow::Ring, 64 * 1024));
        let wake = Arc::new(Notify::new());
        let wish = View { from: &[], kind: ViewKind::Observe, plane: Plane::Text, window: None };
        let mut viewer = output.view(wish, wake).unwrap();
        let mut whole = [String::new(), String::new()];
        for (stderr, text) in texts {
            whole[usize::from(stderr)].push_str(&text);
        }
        let mut got = [String::new(), String::new()];
        let mut at = [0, 0];
        let mut cuts = cuts.iter().cycle();
        while at[0] < whole[0].len() || at[1] < whole[1].len() {
            for slot in 0..2 {
                let left = &whole[slot].as_bytes()[at[slot]..];
                let piece = &left[..left.len().min(*cuts.next().unwrap())];
                if !piece.is_empty() {
                    print_text(&output, SOURCES[slot], piece);
                    at[slot] += piece.len();
                }
            }
            read_text(&mut viewer, max, &mut got);
        }
        SOURCES.iter().for_each(|source| output.end(*source));
        read_text(&mut viewer, max, &mut got);
        prop_assert_eq!(got, whole);
        prop_assert!(viewer.is_through());
    }
}

fn streams(items: Vec<(Item, Vec<u8>)>) -> Vec<StreamName> {
    let of = |(item, bytes): (Item, Vec<u8>)| match item {
        Item::Data { stream, .. } => std::iter::repeat_n(stream, bytes.len()),
        Item::Gap { .. } | Item::Eof { .. } => panic!("it kept up: {item:?}"),
    };
    items.into_iter().flat_map(of).collect()
}

fn read_text(viewer: &mut Viewer, max: usize, got: &mut [String; 2]) {
    let mut out = Vec::new();
    while let Some(item) = viewer.next(max, &mut out) {
        if let Item::Data { stream, offset, .. } = item {
            assert_eq!(offset, got[slot(stream)].len() as u64);
            got[slot(stream)].push_str(std::str::from_utf8(&out).expect("a torn character"));
        }
        out.clear();
    }
}
