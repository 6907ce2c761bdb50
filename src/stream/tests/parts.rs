//! The parts of the room, each against a model of a few lines: the ring against all bytes ever, credit against the set of
//! bytes in flight, stdin's queue against a list.

use proptest::prelude::*;

use super::super::credit::Credit;
use super::super::ring::Ring;
use super::*;

#[derive(Debug, Clone)]
enum RingAct {
    /// Reads up to so many bytes; the source has fewer or more.
    Fill {
        offer: usize,
        there: usize,
    },
    /// A read that fails.
    Fail,
    Evict {
        percent: u64,
    },
    Look {
        percent: u64,
        count: usize,
    },
}

fn ring_act() -> impl Strategy<Value = RingAct> {
    prop_oneof![
        6 => (0..6000usize, 0..6000usize).prop_map(|(offer, there)| RingAct::Fill { offer, there }),
        1 => Just(RingAct::Fail),
        1 => (0..=100u64).prop_map(|percent| RingAct::Evict { percent }),
        4 => (0..=100u64, 0..5000usize).prop_map(|(percent, count)| RingAct::Look { percent, count }),
    ]
}

#[derive(Debug, Clone)]
enum CreditAct {
    /// Hands out this share of what there is credit for.
    Deliver { percent: u64 },
    /// An eviction: so many bytes never come.
    Skip { bytes: u64 },
    /// An ack that the network may have kept, repeated or reordered: any place ever sent.
    Ack { percent: u64, window: Option<u32> },
    /// An ack beyond what was sent.
    Lie { by: u64 },
}

fn credit_act() -> impl Strategy<Value = CreditAct> {
    prop_oneof![
        6 => (0..=100u64).prop_map(|percent| CreditAct::Deliver { percent }),
        2 => (1..100_000u64).prop_map(|bytes| CreditAct::Skip { bytes }),
        5 => (0..=100u64, prop::option::weighted(0.2, 4096..20_000u32))
            .prop_map(|(percent, window)| CreditAct::Ack { percent, window }),
        1 => (1..1000u64).prop_map(|by| CreditAct::Lie { by }),
    ]
}

/// What a client knows: ranges of data in the order sent, the highest ack, the window.
#[derive(Debug)]
struct Flight {
    data: Vec<(u64, u64)>,
    sent: u64,
    acked: u64,
    window: u32,
}

impl Flight {
    fn available(&self) -> u64 {
        let above = |(from, to): &(u64, u64)| to.saturating_sub((*from).max(self.acked));
        u64::from(self.window).saturating_sub(self.data.iter().map(above).sum())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_ring_holds_the_newest_bytes_whatever_is_read_evicted_and_looked_at(
        capacity in 4096..20_000usize,
        acts in prop::collection::vec(ring_act(), 1..200),
        tail in 0..5000usize,
    ) {
        let mut ring = Ring::new(capacity);
        let (mut all, mut evicted) = (Vec::<u8>::new(), 0u64);
        for act in acts {
            match act {
                RingAct::Fill { offer, there } => {
                    let most = offer.min(ring.room(u64::MAX));
                    let next = all.len() as u64;
                    let fresh = (next..next + there as u64).map(|o| byte(Source::Stdout, o));
                    let taken = ring.fill(most, |slices| Ok(scatter(slices, fresh.clone()))).unwrap();
                    prop_assert!(taken <= most.min(there));
                    prop_assert!(taken > 0 || most.min(there) == 0, "it must come on");
                    all.extend(fresh.take(taken));
                }
                RingAct::Fail => {
                    let before = (ring.oldest(), ring.next());
                    prop_assert!(ring.fill(100, |_| Err(would_block())).is_err());
                    prop_assert_eq!((ring.oldest(), ring.next()), before);
                }
                RingAct::Evict { percent } => {
                    let to = all.len() as u64 * percent / 100;
                    ring.evict(to);
                    evicted = evicted.max(to);
                }
                RingAct::Look { percent, count } => {
                    let from = ring.oldest() + (ring.next() - ring.oldest()) * percent / 100;
                    let count = count.min((ring.next() - from) as usize);
                    let mut out = Vec::new();
                    ring.copy(from, count, &mut out);
                    prop_assert_eq!(&out[..], &all[from as usize..from as usize + count]);
                }
            }
            prop_assert_eq!(ring.next(), all.len() as u64);
            prop_assert!(ring.allocated() <= capacity);
            prop_assert!(ring.oldest() >= evicted);
            let kept = ring.next() - ring.oldest();
            prop_assert!(kept <= capacity as u64);
        }
        ring.shrink(tail);
        let kept = (ring.next() - ring.oldest()) as usize;
        prop_assert!(kept <= tail && ring.allocated() == kept);
        let mut out = Vec::new();
        ring.copy(ring.oldest(), kept, &mut out);
        prop_assert_eq!(&out[..], &all[all.len() - kept..]);
    }

    #[test]
    fn credit_is_the_window_less_what_flies_whatever_becomes_of_the_acks(
        window in 4096..20_000u32,
        acts in prop::collection::vec(credit_act(), 1..60),
    ) {
        let mut credit = Credit::new(0, Window::new(window));
        let mut flight = Flight { data: Vec::new(), sent: 0, acked: 0, window };
        for act in acts {
            match act {
                CreditAct::Deliver { percent } => {
                    let bytes = credit.available() * percent / 100;
                    credit.deliver(bytes);
                    flight.data.push((flight.sent, flight.sent + bytes));
                    flight.sent += bytes;
                }
                CreditAct::Skip { bytes } => {
                    flight.sent += bytes;
                    credit.skip(flight.sent);
                }
                CreditAct::Ack { percent, window } => {
                    let offset = flight.sent * percent / 100;
                    credit.ack(offset, window.and_then(Window::new)).unwrap();
                    flight.acked = flight.acked.max(offset);
                    flight.window = window.unwrap_or(flight.window);
                }
                CreditAct::Lie { by } => prop_assert!(credit.ack(flight.sent + by, None).is_err()),
            }
            prop_assert_eq!((credit.sent(), credit.available()), (flight.sent, flight.available()));
        }
        // One ack of everything puts right whatever was lost before it.
        credit.ack(flight.sent, None).unwrap();
        prop_assert_eq!(credit.available(), u64::from(flight.window));
    }
}
