//! Why a server would not serve, as words: what metrics, spans and the access log say.

/// Defines an enum of words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every one of them, in the order of their numbers.
            pub(crate) const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            pub(crate) fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

words! {
    /// Why a request was refused.
    Refusal {
        /// A strict server was not told who calls.
        NoPeer = "no_peer",
        /// The caller of a strict server has not proved who it is.
        NotMutual = "not_mutual",
        /// The caller is not one of those that are let in.
        Identity = "identity",
        /// Too many headers, or too large ones.
        Headers = "headers",
        /// What it says is no request.
        Malformed = "malformed",
        /// The caller's deadline passed.
        Deadline = "deadline",
        /// The server's own bound of a request passed.
        RequestTimeout = "request_timeout",
        /// The next piece of its body did not come in time.
        BodyTimeout = "body_timeout",
        /// Its body is too large.
        BodySize = "body_size",
        /// One of its messages is too large.
        MessageSize = "message_size",
        /// The server is on its way to the end.
        Draining = "draining",
        /// The handler panicked.
        Panic = "panic",
    }
}

words! {
    /// Why a connection was closed: before it served anything, or because of what its caller did.
    ConnectionRefusal {
        /// There are as many as there may be.
        MaxConnections = "max_connections",
        /// There are as many from this address as there may be.
        MaxConnectionsPerAddress = "max_connections_per_address",
        /// Plaintext, where only mutual TLS gets in.
        Plaintext = "plaintext",
        /// Neither TLS nor HTTP.
        Unknown = "unknown_protocol",
        /// It was not clear in time what the caller speaks.
        DetectionTimeout = "detection_timeout",
        /// The TLS handshake took too long.
        HandshakeTimeout = "handshake_timeout",
        /// The TLS handshake failed.
        Handshake = "handshake",
        /// The caller is not one of those that are let in.
        Identity = "identity",
        /// The first request did not come in time.
        FirstRequestTimeout = "first_request_timeout",
        /// The head of a request took too long.
        HeaderTimeout = "header_timeout",
        /// The head of an HTTP/1.1 request was too large.
        Headers = "headers",
        /// What came is no HTTP.
        Malformed = "malformed",
        /// Too many frames that carry nothing of a request.
        ControlFrames = "control_frames",
        /// Its caller did not take its answers.
        SendTimeout = "send_timeout",
        /// The server is on its way to the end.
        Draining = "draining",
        /// The connection broke, or the caller closed it.
        Broken = "broken",
    }
}
