//! A bad day: endpoints that fail, lie, hang and vanish, limits that are reached, and configurations that change
//! meanwhile. Over a network in memory where time matters, over sockets where the wire does.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod admission;
mod breaker;
mod chance;
mod churn;
mod counted;
mod failover;
mod outage;
mod permits;
mod recovery;
mod reported;
mod support;
mod waiting;
