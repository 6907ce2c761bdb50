//! The facts room.
