//! One of several attempts.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http_body::Body as HttpBody;
use mesh_core::classify::Failure;

use crate::client::attempt::{Failed, RequestBody};
use crate::client::call::{Attempted, Unplaced, exchange, find_place};
use crate::client::context::{Context, Underway};
use crate::client::head::Head;
use crate::client::pick::Place;
use crate::error::{BoxError, Error, ErrorKind};
use crate::net::{Endpoint, Wanted};

/// What an attempt shares with whoever runs it.
pub(super) struct Flight {
    pub(super) underway: Underway,
    /// Where it goes, once that is known.
    pub(super) endpoint: OnceLock<Arc<Endpoint>>,
}

impl Flight {
    /// What is told of it once its future is gone.
    pub(super) fn landed(self: Arc<Self>) -> Option<Underway> {
        Arc::into_inner(self).map(|flight| flight.underway)
    }
}

/// What an attempt takes with it.
pub(super) struct Fly<'a> {
    pub(super) context: &'a Context,
    pub(super) head: &'a Head,
    pub(super) flight: Arc<Flight>,
    pub(super) wanted: Wanted,
    pub(super) tried: Vec<Arc<Endpoint>>,
    pub(super) fresh: bool,
    pub(super) previous: u32,
}

impl Fly<'_> {
    /// Looks for a place, if it has none, and sends from there.
    pub(super) async fn run<B>(
        self,
        placed: Option<Result<Place, Failed>>,
        mut body: RequestBody<B>,
    ) -> (Attempted, RequestBody<B>)
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let Self { context, head, flight, wanted, tried, fresh, previous } = self;
        let span = &flight.underway.span;
        let placed = match placed {
            Some(placed) => placed,
            None => match find_place(context, head, span, wanted, &tried, fresh).await {
                Ok(place) => Ok(place),
                Err(Unplaced::Failed(failed)) => Err(failed),
                Err(Unplaced::Left) => {
                    let text = format!("{} has left the configuration", context.place());
                    Err(Failed::new(Failure::Local, Error::new(ErrorKind::BackendNotFound, text)))
                }
            },
        };
        let attempted = match placed {
            Ok(place) => {
                // Set once: each attempt has a flight of its own.
                let _ = flight.endpoint.set(Arc::clone(place.serving.endpoint()));
                exchange(context, head, span, &mut body, place, previous).await
            }
            Err(failed) => Attempted::Failed(failed, None),
        };
        (attempted, body)
    }
}
