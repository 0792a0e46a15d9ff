//! The test kit: each fault does on the wire what it says, and a mesh does about it what the kit's documentation says.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod client;
mod events;
mod faults;
mod held;
mod network;
mod with_mesh;
