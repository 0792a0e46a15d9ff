//! The end of a response, for whoever waits for it.

use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::error::BoxError;

/// Who waits for the end of a response. To be dropped is to learn that the caller lost interest.
pub(super) trait Watch {
    /// The response is here whole. For a head without a body `trailers` is that head.
    fn complete(self, trailers: Option<&HeaderMap>);

    /// The body broke.
    fn broken(self, error: &(dyn StdError + 'static));
}

/// A response body whose end is told once.
#[pin_project]
pub(super) struct Watched<B, W> {
    #[pin]
    inner: B,
    watch: Option<W>,
}

impl<B: Body, W: Watch> Watched<B, W> {
    /// `response`, with `watch` waiting for its end: nobody, if nobody is interested any more.
    pub(super) fn response(response: Response<B>, watch: Option<W>) -> Response<Self> {
        let watch = match watch {
            Some(watch) if response.body().is_end_stream() => {
                watch.complete(Some(response.headers()));
                None
            }
            watch => watch,
        };
        response.map(|inner| Self { inner, watch })
    }
}

impl<B, W> Body for Watched<B, W>
where
    B: Body,
    B::Error: Into<BoxError>,
    W: Watch,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx)).map(|frame| frame.map_err(Into::into));
        let over = match &frame {
            Some(Ok(frame)) => frame.is_trailers() || this.inner.is_end_stream(),
            None | Some(Err(_)) => true,
        };
        if let Some(watch) = over.then(|| this.watch.take()).flatten() {
            match &frame {
                Some(Ok(frame)) => watch.complete(frame.trailers_ref()),
                Some(Err(error)) => watch.broken(&**error),
                None => watch.complete(None),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: Default, W> Default for Watched<B, W> {
    fn default() -> Self {
        Self { inner: B::default(), watch: None }
    }
}

/// Declares the response body of a layer: a [`Watched`] body under a name of its own.
macro_rules! watched_body {
    ($(#[$doc:meta])* $name:ident, $watch:ty) => {
        $(#[$doc])*
        #[pin_project::pin_project]
        pub struct $name<B>(#[pin] crate::layer::watch::Watched<B, $watch>);

        impl<B> http_body::Body for $name<B>
        where
            B: http_body::Body,
            B::Error: Into<crate::error::BoxError>,
        {
            type Data = B::Data;
            type Error = crate::error::BoxError;

            fn poll_frame(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<http_body::Frame<B::Data>, crate::error::BoxError>>> {
                self.project().0.poll_frame(cx)
            }

            fn is_end_stream(&self) -> bool {
                self.0.is_end_stream()
            }

            fn size_hint(&self) -> http_body::SizeHint {
                self.0.size_hint()
            }
        }

        impl<B: Default> Default for $name<B> {
            /// The inner body's default, whose end nobody waits for: tonic's clients with an interceptor ask for one.
            fn default() -> Self {
                Self(crate::layer::watch::Watched::default())
            }
        }

        impl<B> std::fmt::Debug for $name<B> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}
pub(super) use watched_body;
