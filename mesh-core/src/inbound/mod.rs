//! What a server makes of what comes in: the first bytes of a connection, its frames, the heads and messages of
//! requests. Sans-IO: bytes come in, a verdict comes out.

mod detect;
mod frames;
mod headers;
mod messages;
mod target;

pub use detect::{Detected, MAX_DETECT, PREFACE, detect, detect_http};
pub use frames::{Flood, FrameMeter};
pub use headers::{is_identity_header, remove_identity_headers};
pub use messages::{MessageMeter, MessageTooLong};
pub use target::{BadTarget, check_target};
