use super::super::origin::Position;
use super::super::problem::Path;
use super::super::schema;
use super::super::shape::{Field, Spanned};
use super::{Backends, Lint};

impl<'a> Lint<'a> {
    /// A hash that no balancer looks at; one of the application may.
    pub(super) fn unused_hash(
        &mut self,
        field: &Field<Vec<Field<schema::HashPolicy>>>,
        route: &schema::Route,
        backends: &Backends<'a>,
        path: Path<'_>,
    ) {
        let Some(Spanned { value, at }) = field.given() else { return };
        let mut names =
            route.backends.value().into_iter().flatten().filter_map(|backend| backend.value()?.name.value());
        let is_used =
            names.any(|name| backends.get(&**name).is_some_and(|section| self.hashes(section) != Some(false)));
        if !value.is_empty() && !is_used {
            let message = "no backend of this route has a balancer that looks at a hash".to_owned();
            let help = "use `ring_hash`, `maglev` or a `custom` balancer, or remove it";
            self.warn("unused-hash-policy", *at, path.key("hash_policy"), message, help);
        }
    }

    /// A balancer by hash, and a way to it without one.
    pub(super) fn missing_hash(&mut self, section: &schema::Backend, at: Position, path: Path<'_>) {
        if self.hashes(section) == Some(true) {
            let message = "the backend balances by hash, and requests by this way have none: each goes anywhere";
            let help = "add `hash_policy` to the route, or use another balancer";
            self.warn("missing-hash-policy", at, path, message.to_owned(), help);
        }
    }

    /// Whether the balancer of a backend looks at a hash. `None`: the application knows.
    fn hashes(&self, section: &schema::Backend) -> Option<bool> {
        match self.balancer(section).and_then(|balancer| balancer.policy.value()) {
            Some(policy) => policy.hashes(),
            None => Some(false),
        }
    }
}
