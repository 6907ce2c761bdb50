//! The newest bytes of one stream, by absolute offset.
//!
//! Invariant: `oldest <= next` and `next - oldest <= buffer.len() <= most`.

/// Smallest buffer, bytes: most jobs write little.
const FIRST: usize = 4 * 1024;

#[derive(Debug)]
pub(super) struct Ring {
    buffer: Vec<u8>,
    most: usize,
    oldest: u64,
    next: u64,
}

impl Ring {
    pub(super) const fn new(most: usize) -> Self {
        Self { buffer: Vec::new(), most, oldest: 0, next: 0 }
    }

    /// The oldest byte still here.
    pub(super) const fn oldest(&self) -> u64 {
        self.oldest
    }

    /// One past the newest byte.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Contiguous room for new bytes, at most `want`, without overwriting any byte from `floor` on. Empty when there
    /// is none.
    pub(super) fn room(&mut self, floor: u64, want: usize) -> &mut [u8] {
        let floor = floor.clamp(self.oldest, self.next);
        let held = to_usize(self.next - floor);
        let free = self.most.saturating_sub(held);
        self.grow(held.saturating_add(want.min(free)));
        let at = self.place(self.next);
        let contiguous = self.buffer.len() - at;
        let room = want.min(free).min(contiguous);
        self.buffer.get_mut(at..at + room).unwrap_or_default()
    }

    /// Counts `n` bytes that were written into [`Self::room`]; what they overwrote is gone.
    pub(super) fn commit(&mut self, n: usize) {
        self.next += n as u64;
        self.oldest = self.oldest.max(self.next.saturating_sub(self.buffer.len() as u64));
    }

    /// Forgets everything before `offset`.
    pub(super) fn forget_before(&mut self, offset: u64) {
        self.oldest = self.oldest.max(offset.min(self.next));
    }

    /// The bytes of `from..to`, which must be here, in two stretches.
    pub(super) fn slices(&self, from: u64, to: u64) -> (&[u8], &[u8]) {
        let length = to_usize(to.saturating_sub(from));
        let at = self.place(from);
        let first = length.min(self.buffer.len() - at);
        let head = self.buffer.get(at..at + first).unwrap_or_default();
        (head, self.buffer.get(..length - first).unwrap_or_default())
    }

    /// Keeps the last `most` bytes and gives the rest of the memory back.
    pub(super) fn shrink_to(&mut self, most: usize) {
        let keep_from = self.next.saturating_sub(most as u64).max(self.oldest);
        self.oldest = keep_from;
        self.move_into(to_usize(self.next - keep_from));
        self.most = self.buffer.len();
    }

    fn grow(&mut self, needed: usize) {
        let length = self.buffer.len();
        if needed <= length || length >= self.most {
            return;
        }
        let longer = needed.next_power_of_two().max(FIRST).min(self.most);
        self.move_into(longer);
    }

    /// Moves what is held into a buffer of this length, each byte to where its offset belongs.
    fn move_into(&mut self, length: usize) {
        let (head, tail) = self.slices(self.oldest, self.next);
        let mut moved = Vec::with_capacity(length);
        moved.extend_from_slice(head);
        moved.extend_from_slice(tail);
        moved.resize(length, 0);
        self.buffer = moved;
        let turn = self.place(self.oldest);
        self.buffer.rotate_right(turn);
    }

    fn place(&self, offset: u64) -> usize {
        match self.buffer.len() {
            0 => 0,
            length => to_usize(offset % length as u64),
        }
    }
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
