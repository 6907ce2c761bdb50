//! Behaviour tests over the real binary.

mod warden_room;
