//! What keeps requests alive when endpoints are not: retries, hedges and what bounds them, and what bounds the load.
//!
//! - [`retry`] decides after each attempt; [`backoff`] says how long to wait,
//! - [`hedge`] decides when a request is sent once more beside an attempt that has no answer yet,
//! - [`budget`] and [`throttle`] keep retries from becoming the load that kills the backend,
//! - [`replay`] keeps what of a request body may have to be sent again, [`tee`] what several attempts read at once,
//! - [`deadline`] says how long a call may take in all.
//! - [`health`] says what answers to health checks make of an endpoint,
//! - [`outlier`] takes endpoints out that fail, [`limits`] and [`admission`] keep load off a backend that cannot bear it.

pub mod admission;
pub mod backoff;
pub mod budget;
pub mod deadline;
pub mod health;
pub mod hedge;
pub mod limits;
pub mod outlier;
pub mod replay;
pub mod retry;
pub mod tee;
pub mod throttle;
