//! What a server makes of the first bytes of a connection, and of the frames that follow. Sans-IO: bytes come in, a
//! verdict comes out.

mod detect;
mod frames;

pub use detect::{Detected, MAX_DETECT, PREFACE, detect, detect_http};
pub use frames::{Flood, FrameMeter};
