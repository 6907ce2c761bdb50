//! The stream room.
