//! The admin pages and their listener.
#![allow(clippy::unwrap_used, reason = "tests")]

mod guards;
mod life;
mod pages;
mod support;
