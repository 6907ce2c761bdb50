//! The rpc room.
