//! A weighted choice among services.

use std::fmt;
use std::task::{Context, Poll, ready};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tower_service::Service;

/// Sends each request to one of a fixed set of services, in proportion to their weights.
///
/// The weights are those of a route: each 0 or more, together 1 to 4294967295; a service of weight 0 gets nothing. Each
/// request is drawn for by itself, at random and independently of those before.
///
/// The service, its response, error and future are those of the services inside: nothing is boxed and nothing is
/// allocated.
///
/// # Readiness
/// The draw happens in `poll_ready`, and the caller waits for the service that was drawn; `call` goes to that one, and
/// only ever after it said that it was ready. So the weights hold exactly, backpressure of a destination reaches the
/// caller, and what one destination reserves when it becomes ready (a permit of a concurrency limit, say) is
/// reserved on no other. The alternatives do not keep that: waiting until all are ready lets one that is stuck stop the
/// requests to all, and taking any that is ready moves load to where the weights say it does not belong. A clone draws
/// anew and does not take over what the original waits for.
///
/// # Under failure
/// An error of the service that was drawn, ready or called, is the caller's; no other one is tried. By Tower's law a
/// service that fails in `poll_ready` is done for: put something that can be made again (such as
/// [`Route`](super::Route)) inside, or drop the split. There are no errors of its own but those of
/// [`new`](Self::new).
///
/// # Order
/// Inside of [`RetryLayer`](super::RetryLayer) each attempt draws anew. Outside of it, as a route does it, the choice
/// holds for all attempts.
///
/// ```
/// use mesh_tower::layer::SplitService;
/// use tower::{ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let version = |name: &'static str| service_fn(move |_request: ()| async move { Ok::<_, std::io::Error>(name) });
/// let split = SplitService::new([(version("v1"), 90), (version("v2"), 10)])?;
///
/// let answer = split.oneshot(()).await?;
/// assert!(["v1", "v2"].contains(&answer));
/// # Ok(())
/// # }
/// ```
pub struct SplitService<S> {
    services: Vec<Share<S>>,
    /// The one whose turn it is.
    drawn: Option<usize>,
    /// What the next draw is seeded with, if draws are to be the same each time.
    seed: Option<u64>,
}

#[derive(Clone)]
struct Share<S> {
    /// The sum of the weights up to this one.
    bound: u32,
    service: S,
}

/// Weights that nothing can be drawn by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the weights sum to {sum}; the sum must be 1 to 4294967295, so give at least one service a weight")]
#[non_exhaustive]
pub struct InvalidWeights {
    /// Their sum.
    pub sum: u64,
}

impl<S> SplitService<S> {
    /// Splits among `services`, each with its weight.
    ///
    /// # Errors
    /// [`InvalidWeights`] if the weights sum to 0 or to more than 4294967295.
    pub fn new(services: impl IntoIterator<Item = (S, u32)>) -> Result<Self, InvalidWeights> {
        let mut shares = Vec::new();
        let mut sum = 0_u64;
        for (service, weight) in services.into_iter().filter(|(_, weight)| *weight > 0) {
            sum = sum.saturating_add(u64::from(weight));
            shares.push((sum, service));
        }
        let bounded = |(bound, service)| Some(Share { bound: u32::try_from(bound).ok()?, service });
        let services: Option<Vec<_>> = shares.into_iter().map(bounded).collect();
        match services {
            Some(services) if sum > 0 => Ok(Self { services, drawn: None, seed: None }),
            _ => Err(InvalidWeights { sum }),
        }
    }

    /// Draws from a generator that begins with `seed`, so that a test sees the same choices each time. A clone goes on
    /// from where the original stands.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    fn draw(&mut self) -> usize {
        let [.., last] = &*self.services else { return 0 };
        if self.services.len() == 1 {
            return 0;
        }
        let range = 0..last.bound;
        let draw = match self.seed {
            None => rand::rng().random_range(range),
            Some(seed) => {
                let mut rng = StdRng::seed_from_u64(seed);
                self.seed = Some(rng.next_u64());
                rng.random_range(range)
            }
        };
        self.services.partition_point(|share| share.bound <= draw)
    }
}

impl<S, R> Service<R> for SplitService<S>
where
    S: Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let index = match self.drawn {
            Some(index) => index,
            None => self.draw(),
        };
        self.drawn = Some(index);
        let result = ready!(self.services[index].service.poll_ready(cx));
        if result.is_err() {
            self.drawn = None;
        }
        Poll::Ready(result)
    }

    /// # Panics
    /// If `poll_ready` has not returned `Ready(Ok(()))` since the last call.
    fn call(&mut self, request: R) -> S::Future {
        let index = self.drawn.take().expect("poll_ready comes before call, as Tower asks");
        self.services[index].service.call(request)
    }
}

impl<S: Clone> Clone for SplitService<S> {
    fn clone(&self) -> Self {
        Self { services: self.services.clone(), drawn: None, seed: self.seed }
    }
}

impl<S> fmt::Debug for SplitService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SplitService")
            .field("services", &self.services.len())
            .field("drawn", &self.drawn)
            .finish_non_exhaustive()
    }
}
