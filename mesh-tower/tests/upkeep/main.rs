//! What the mesh asks endpoints on its own account: their health, and how much they bear.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod health;
mod health_life;
mod load;
mod support;
