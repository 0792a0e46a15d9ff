use super::super::problem::Path;
use super::super::schema;
use super::super::shape::Spanned;
use super::Lint;
use super::backend::all_endpoints;
use crate::model::Metadata;

/// How many endpoints are compared with subsets: a hostile file has very many of both.
const MAX_COMPARED: usize = 2_000_000;

impl Lint<'_> {
    /// A subset that is empty, as far as the file knows: a source of the application may give its endpoints metadata.
    pub(super) fn subset(&mut self, backend: &schema::WeightedBackend, section: &schema::Backend, path: Path<'_>) {
        let Some(Spanned { value: Some(subset), at }) = backend.subset.given() else { return };
        if section.discovery.is_written() || self.compared > MAX_COMPARED {
            return;
        }
        let holds = |metadata: &Metadata| subset.iter().all(|(key, value)| metadata.get(key) == Some(value));
        let is_matched = all_endpoints(section).is_some_and(|mut endpoints| {
            endpoints.any(|endpoint| {
                self.compared += 1;
                endpoint.metadata.value().and_then(Option::as_deref).is_some_and(holds)
            })
        });
        if !is_matched {
            let message = match section.dns.is_written() {
                true => "endpoints that DNS knows have no metadata: every request by this way fails",
                false => "no endpoint has this metadata: every request by this way fails",
            };
            let help = "correct it, or the `metadata` of the endpoints";
            self.warn("unmatched-subset", *at, path.key("subset"), message.to_owned(), help);
        }
    }
}
