//! The faults that the review of the predecessor found. Each is impossible here, and has a test named after it.

mod ending;
mod racing;
mod refusing;
