//! A byte ring with absolute offsets. Grows as it is used, up to its capacity; old bytes stay until their place is
//! needed.
//!
//! Knows no viewers: who may still need a byte is said by the caller as a floor. A read goes straight from the file
//! descriptor into the store, so a byte is copied once on its way in and once on its way out.

use std::io::{self, IoSliceMut};

use bytes::BufMut;

/// First size of a store, bytes. Most jobs print less.
const FIRST: usize = 4 * 1024;

#[derive(Debug)]
pub(super) struct Ring {
    /// Byte `o` lives at `o % store.len()`.
    store: Vec<u8>,
    oldest: u64,
    next: u64,
    capacity: usize,
    appetite: Appetite,
}

/// What the last read says about the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Appetite {
    /// It left space over: what there is suffices.
    Sated,
    /// It took all that was offered: offer more.
    Hungry,
}

impl Ring {
    pub(super) const fn new(capacity: usize) -> Self {
        Self { store: Vec::new(), oldest: 0, next: 0, capacity, appetite: Appetite::Sated }
    }

    /// Offset of the oldest byte still here.
    pub(super) const fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Offset of the next byte to come: all that was ever taken in.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Bytes of memory in use.
    pub(super) const fn allocated(&self) -> usize {
        self.store.len()
    }

    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many bytes can be taken in without touching one at or above `floor`.
    pub(super) fn room(&self, floor: u64) -> usize {
        let kept = self.next - floor.clamp(self.oldest, self.next);
        self.capacity.saturating_sub(to_size(kept))
    }

    /// Lets `read` put at most `most` bytes behind the newest, over the oldest where there is no other place.
    /// `most` must be within [`Ring::room`]. Returns what `read` returned.
    ///
    /// # Errors
    /// Those of `read`; nothing is evicted then.
    pub(super) fn fill(
        &mut self,
        most: usize,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let most = self.offered(most);
        let size = self.store.len();
        let (behind, ahead) = self.store.split_at_mut(place(self.next, size));
        let straight = most.min(ahead.len());
        let wrapped = (most - straight).min(behind.len());
        let first = ahead.get_mut(..straight).unwrap_or_default();
        let second = behind.get_mut(..wrapped).unwrap_or_default();
        let taken = read(&mut [IoSliceMut::new(first), IoSliceMut::new(second)])?.min(straight + wrapped);
        self.appetite = if taken == most { Appetite::Hungry } else { Appetite::Sated };
        self.next += taken as u64;
        self.evict(self.next.saturating_sub(self.store.len() as u64));
        Ok(taken)
    }

    /// Forgets what is older than `offset`.
    pub(super) fn evict(&mut self, offset: u64) {
        self.oldest = self.oldest.max(offset.min(self.next));
    }

    /// Appends `[from, from + count)` to `out`; the range must be here.
    pub(super) fn copy(&self, from: u64, count: usize, out: &mut impl BufMut) {
        let (first, second) = self.slices(from, count);
        out.put_slice(first);
        out.put_slice(second);
    }

    /// The range as at most two slices; empty where it is not here.
    pub(super) fn slices(&self, from: u64, count: usize) -> (&[u8], &[u8]) {
        if from < self.oldest || from + count as u64 > self.next {
            return (&[], &[]);
        }
        let (behind, ahead) = self.store.split_at(place(from, self.store.len()));
        let straight = count.min(ahead.len());
        let first = ahead.get(..straight).unwrap_or_default();
        (first, behind.get(..count - straight).unwrap_or_default())
    }

    /// Keeps the newest `bytes` and gives the rest of the memory back. The ring takes nothing in afterwards.
    pub(super) fn shrink(&mut self, bytes: usize) {
        self.evict(self.next.saturating_sub(bytes as u64));
        self.resize(to_size(self.next - self.oldest));
        self.capacity = self.store.len();
    }

    /// How much of `most` to offer: grows the store when it is nearly full or the last read wanted more, and
    /// overwrites only once it has its full size.
    fn offered(&mut self, most: usize) -> usize {
        let size = self.store.len();
        let free = size - to_size(self.next - self.oldest);
        let wants = free < most.min(FIRST) || (self.appetite == Appetite::Hungry && free < most);
        if size < self.capacity && wants {
            self.resize((size * 2).clamp(FIRST, self.capacity.max(FIRST)).min(self.capacity));
        }
        let size = self.store.len();
        if size < self.capacity { most.min(size - to_size(self.next - self.oldest)) } else { most }
    }

    fn resize(&mut self, size: usize) {
        let mut store = vec![0; size];
        let held = to_size(self.next - self.oldest).min(size);
        let (first, second) = self.slices(self.next - held as u64, held);
        let from = self.next - held as u64;
        lay(&mut store, from, first);
        lay(&mut store, from + first.len() as u64, second);
        self.store = store;
    }
}

/// Puts `bytes` where those from `offset` on live.
fn lay(store: &mut [u8], offset: u64, bytes: &[u8]) {
    let size = store.len();
    let (behind, ahead) = store.split_at_mut(place(offset, size));
    let (straight, wrapped) = bytes.split_at(bytes.len().min(ahead.len()));
    for (place, piece) in [(ahead, straight), (behind, wrapped)] {
        if let Some(place) = place.get_mut(..piece.len()) {
            place.copy_from_slice(piece);
        }
    }
}

/// Where byte `offset` lives in a store of `size` bytes.
fn place(offset: u64, size: usize) -> usize {
    if size == 0 { 0 } else { to_size(offset % size as u64) }
}

/// A count of bytes that are in memory, hence fits.
fn to_size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(ring: &mut Ring, bytes: &[u8]) -> usize {
        let most = bytes.len();
        ring.fill(most, |slices| {
            let mut left = bytes;
            for slice in slices {
                let n = slice.len().min(left.len());
                slice[..n].copy_from_slice(&left[..n]);
                left = &left[n..];
            }
            Ok(bytes.len() - left.len())
        })
        .unwrap()
    }

    fn all(ring: &Ring) -> Vec<u8> {
        let mut out = Vec::new();
        ring.copy(ring.oldest(), to_size(ring.next() - ring.oldest()), &mut out);
        out
    }

    #[test]
    fn a_ring_grows_lazily_and_stops_at_its_capacity() {
        let mut ring = Ring::new(10_000);
        assert_eq!(ring.allocated(), 0);
        put(&mut ring, b"hello");
        assert_eq!(ring.allocated(), FIRST);
        for _ in 0..100 {
            put(&mut ring, &[7; 999]);
        }
        assert_eq!(ring.allocated(), 10_000);
        assert_eq!(ring.next() - ring.oldest(), 10_000);
    }

    #[test]
    fn the_newest_bytes_survive_growing_wrapping_and_shrinking() {
        let mut ring = Ring::new(9_001);
        let mut model = Vec::new();
        for (round, size) in [1, 4000, 95, 3, 6000, 9001, 17, 8999, 5000, 4001].into_iter().enumerate() {
            let bytes: Vec<u8> = (0..size).map(|i: usize| (i * 7 + round) as u8).collect();
            let mut left = bytes.as_slice();
            while !left.is_empty() {
                let n = put(&mut ring, left);
                left = &left[n..];
            }
            model.extend_from_slice(&bytes);
            assert_eq!(all(&ring), model[ring.oldest() as usize..]);
        }
        ring.shrink(100);
        assert_eq!((all(&ring), ring.allocated()), (model[model.len() - 100..].to_vec(), 100));
    }

    #[test]
    fn nothing_at_or_above_the_floor_is_in_the_way() {
        let mut ring = Ring::new(4096);
        put(&mut ring, &[1; 4096]);
        assert_eq!((ring.room(0), ring.room(100), ring.room(u64::MAX)), (0, 100, 4096));
        ring.evict(1000);
        assert_eq!(ring.room(0), 1000);
    }

    #[test]
    fn a_failed_read_evicts_nothing() {
        let mut ring = Ring::new(4096);
        put(&mut ring, &[1; 4096]);
        let failed = ring.fill(50, |_| Err(io::ErrorKind::WouldBlock.into()));
        assert!(failed.is_err());
        assert_eq!((ring.oldest(), ring.next()), (0, 4096));
    }
}
