use std::sync::Arc;

use super::super::problem::Path;
use super::super::schema;
use super::super::shape::Context;
use super::exactly_one;
use crate::model::SessionAffinity;

pub(super) fn session_affinity(
    section: &schema::SessionAffinity,
    path: Path<'_>,
    context: &mut Context,
) -> Option<SessionAffinity> {
    let schema::SessionAffinity { cookie, header, at, is_doubtful } = section;
    let fields = [("cookie", cookie.is_written()), ("header", header.is_written())];
    if !is_doubtful || fields.iter().any(|(_, is_written)| *is_written) {
        exactly_one(&fields, *at, path, context);
    }
    if let Some(name) = header.value() {
        return Some(SessionAffinity::Header(name.clone()));
    }
    let section = cookie.value()?;
    Some(SessionAffinity::Cookie {
        name: section.name.value()?.clone(),
        ttl: section.ttl.or_default(),
        path: section.path.or(Arc::from("/")),
    })
}
