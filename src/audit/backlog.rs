//! What waits to be written, and whose it is: a disk that is slower than one tenant must not refuse the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most bytes of requests that wait at once. Each line holds the whole request until it is written.
pub const MAX_BYTES: usize = 16 << 20;

/// Lines and bytes that wait.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    lines: usize,
    bytes: usize,
}

/// The lines in the queue. The lock is held for a look-up, never across an await.
#[derive(Debug)]
pub(super) struct Backlog {
    loads: Mutex<Loads>,
    most_lines: usize,
}

#[derive(Debug, Default)]
struct Loads {
    all: Load,
    /// Those that have any.
    of: HashMap<Arc<str>, Load>,
}

/// Why a line finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// For anybody.
    Full,
    /// For this tenant: it may have as much as the others leave, so one alone has half, and two a third each.
    Share,
}

impl Backlog {
    pub(super) fn new(most_lines: usize) -> Self {
        Self { loads: Mutex::default(), most_lines }
    }

    /// Counts a line before it is queued.
    pub(super) fn enter(&self, tenant: &Arc<str>, bytes: usize) -> Result<(), NoRoom> {
        let mut loads = self.loads();
        let own = loads.of.get(tenant).copied().unwrap_or_default();
        let free = Load {
            lines: self.most_lines.saturating_sub(loads.all.lines),
            bytes: MAX_BYTES.saturating_sub(loads.all.bytes),
        };
        if free.lines == 0 || free.bytes < bytes {
            return Err(NoRoom::Full);
        }
        if own.lines >= free.lines || (own.lines > 0 && own.bytes + bytes > free.bytes) {
            return Err(NoRoom::Share);
        }
        loads.all = Load { lines: loads.all.lines + 1, bytes: loads.all.bytes + bytes };
        loads.of.insert(tenant.clone(), Load { lines: own.lines + 1, bytes: own.bytes + bytes });
        Ok(())
    }

    /// The line is out of the queue, or never got there.
    pub(super) fn leave(&self, tenant: &Arc<str>, bytes: usize) {
        let mut loads = self.loads();
        let less = |load: Load| Load {
            lines: load.lines.saturating_sub(1),
            bytes: load.bytes.saturating_sub(bytes),
        };
        loads.all = less(loads.all);
        let own = less(loads.of.get(tenant).copied().unwrap_or_default());
        if own.lines == 0 {
            loads.of.remove(tenant);
        } else {
            loads.of.insert(tenant.clone(), own);
        }
    }

    pub(super) fn lines(&self) -> usize {
        self.loads().all.lines
    }

    fn loads(&self) -> MutexGuard<'_, Loads> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(backlog: &Backlog, tenant: &str, bytes: usize) -> (usize, NoRoom) {
        let tenant = Arc::from(tenant);
        let mut lines = 0;
        loop {
            match backlog.enter(&tenant, bytes) {
                Ok(()) => lines += 1,
                Err(why) => return (lines, why),
            }
        }
    }

    #[test]
    fn one_tenant_alone_has_half_and_leaves_room_for_the_next() {
        let backlog = Backlog::new(100);
        assert_eq!(fill(&backlog, "a", 1), (50, NoRoom::Share));
        assert_eq!(fill(&backlog, "b", 1), (25, NoRoom::Share));
        assert_eq!(fill(&backlog, "c", 1), (13, NoRoom::Share));
        (0..50).for_each(|_| backlog.leave(&"a".into(), 1));
        assert_eq!((backlog.lines(), fill(&backlog, "a", 1).1), (38, NoRoom::Share));
    }

    #[test]
    fn bytes_count_as_lines_do_and_nobody_who_left_is_remembered() {
        let backlog = Backlog::new(100);
        assert_eq!(fill(&backlog, "a", MAX_BYTES / 8), (4, NoRoom::Share));
        assert_eq!(fill(&backlog, "b", MAX_BYTES / 8), (2, NoRoom::Share));
        // The largest request of somebody who has nothing there finds room while there is any.
        assert_eq!(backlog.enter(&"c".into(), MAX_BYTES / 4), Ok(()));
        assert_eq!(backlog.enter(&"d".into(), 1), Err(NoRoom::Full));
        for (tenant, bytes, lines) in
            [("a", MAX_BYTES / 8, 4), ("b", MAX_BYTES / 8, 2), ("c", MAX_BYTES / 4, 1)]
        {
            (0..lines).for_each(|_| backlog.leave(&tenant.into(), bytes));
        }
        let loads = backlog.loads();
        assert_eq!((loads.all.lines, loads.all.bytes, loads.of.len()), (0, 0, 0));
    }
}
