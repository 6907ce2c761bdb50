//! The warden room.
