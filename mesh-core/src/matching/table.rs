use http::Method;

use super::trie::{Extent, Key, Trie};
use super::{RequestHead, header_matches, query_matches};
use crate::model::{Fraction, HeaderMatch, PathMatch, Pattern, QueryMatch, Route, RouteMatch};

/// The routes of one virtual host, indexed by path.
///
/// [`find`](Self::find) gives what a test of one route after the other would give (gRFC A28), but its time grows with
/// the length of the path and not with the number of routes: exact paths and prefixes of both kinds are found in one
/// walk of a trie. Only alternatives of that very path which also ask for a method, headers, a query or luck, those
/// without a path and regular expressions are tested one by one, up to the best route found so far.
///
/// The path is compared as it stands in the request. An empty one counts as `/`; `*` (as in `OPTIONS *`) is no path and
/// satisfies only an exact `*` and alternatives without a condition on the path.
///
/// ```
/// use http::{HeaderMap, Method, Uri};
/// use mesh_core::matching::{RequestHead, RouteTable};
/// use mesh_core::model::{Forward, PathMatch, Route, RouteMatch};
///
/// let mut items = RouteMatch::default();
/// items.path = Some(PathMatch::PathPrefix("/items".into()));
/// let table = RouteTable::new(&[Route::new(Forward::default()).with_match(items)]);
///
/// let headers = HeaderMap::new();
/// let find = |uri: &'static str| {
///     let uri = Uri::from_static(uri);
///     table.find(&RequestHead::new(&Method::GET, &uri, "catalog", &headers), || 0)
/// };
/// assert_eq!(find("http://catalog/items/42?all=1"), Some(0));
/// assert_eq!(find("http://catalog/itemsize"), None);
/// ```
#[derive(Debug)]
pub struct RouteTable {
    paths: Trie<Candidate>,
    /// Paths whose case does not matter, in lower case.
    folded: Trie<Candidate>,
    any: Box<[Candidate]>,
    regexes: Box<[(Pattern, Candidate)]>,
    conditions: Box<[Conditions]>,
}

/// Stands for "no condition" and "no route". Both are counted from 0 to less than this.
const NONE: u32 = u32::MAX;

/// One alternative of a route.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    route: u32,
    /// The index of what must hold besides the path, [`NONE`] if nothing: most candidates then need no look elsewhere.
    condition: u32,
}

/// What an alternative asks for besides the path.
#[derive(Debug)]
struct Conditions {
    method: Option<Method>,
    headers: Box<[HeaderMatch]>,
    query: Box<[QueryMatch]>,
    fraction: Option<Fraction>,
}

impl RouteTable {
    /// Indexes `routes`.
    ///
    /// # Panics
    /// If the paths have 2^32 bytes together or there are 2^32 alternatives.
    pub fn new(routes: &[Route]) -> Self {
        let everything = [RouteMatch::default()];
        let mut builder = Builder::default();
        for (route, index) in routes.iter().zip(0..NONE) {
            let alternatives = if route.matches.is_empty() { &everything[..] } else { &route.matches };
            for alternative in alternatives {
                builder.add(index, alternative);
            }
        }
        builder.build()
    }

    /// The index of the first route, in the order of the list, one of whose alternatives holds.
    ///
    /// `draw` gives a number in `0..1_000_000`; it is called once for each [`Fraction`] that is tested.
    #[inline]
    pub fn find(&self, head: &RequestHead<'_>, mut draw: impl FnMut() -> u32) -> Option<u32> {
        let path = if head.path.is_empty() { "/" } else { head.path };
        let is_path = path != "*";
        let mut search = Search { conditions: &self.conditions, head, draw: &mut draw, best: NONE };
        self.paths.walk::<false>(path.as_bytes(), |extent, candidates, _| {
            if is_path || extent == Extent::Exact {
                search.scan(candidates);
            }
        });
        self.folded.walk::<true>(path.as_bytes(), |extent, candidates, _| {
            if is_path || extent == Extent::Exact {
                search.scan(candidates);
            }
        });
        search.scan(&self.any);
        if is_path {
            for (pattern, candidate) in &self.regexes {
                if candidate.route >= search.best {
                    break;
                }
                if pattern.is_full_match(path.as_bytes()) {
                    search.scan(&[*candidate]);
                }
            }
        }
        (search.best != NONE).then_some(search.best)
    }
}

/// A search for the first route of one request.
struct Search<'a, D> {
    conditions: &'a [Conditions],
    head: &'a RequestHead<'a>,
    draw: &'a mut D,
    best: u32,
}

impl<D: FnMut() -> u32> Search<'_, D> {
    /// Takes the first of `candidates` that holds and comes before the best so far. Their paths match and their routes
    /// ascend.
    #[inline]
    fn scan(&mut self, candidates: &[Candidate]) {
        for candidate in candidates {
            if candidate.route >= self.best {
                return;
            }
            if candidate.condition == NONE || self.holds(candidate.condition) {
                self.best = candidate.route;
                return;
            }
        }
    }

    fn holds(&mut self, condition: u32) -> bool {
        let Conditions { method, headers, query, fraction } = &self.conditions[condition as usize];
        method.as_ref().is_none_or(|method| method == self.head.method)
            && headers.iter().all(|header| header_matches(header, self.head.headers))
            && query.iter().all(|parameter| query_matches(parameter, self.head.query))
            && fraction.is_none_or(|fraction| fraction.holds((self.draw)()))
    }
}

#[derive(Default)]
struct Builder {
    paths: Vec<Key<Candidate>>,
    folded: Vec<Key<Candidate>>,
    any: Vec<Candidate>,
    regexes: Vec<(Pattern, Candidate)>,
    conditions: Vec<Conditions>,
}

impl Builder {
    fn add(&mut self, route: u32, alternative: &RouteMatch) {
        let candidate = Candidate { route, condition: self.condition(alternative) };
        let (text, extent) = match &alternative.path {
            None => return self.any.push(candidate),
            Some(PathMatch::Regex(pattern)) => return self.regexes.push((pattern.clone(), candidate)),
            Some(PathMatch::Exact(path)) => (&**path, Extent::Exact),
            Some(PathMatch::Prefix(prefix)) => (&**prefix, Extent::Prefix),
            Some(PathMatch::PathPrefix(prefix)) => (prefix.strip_suffix('/').unwrap_or(prefix), Extent::Element),
        };
        if alternative.ignore_path_case {
            let bytes = text.to_ascii_lowercase().into_bytes();
            self.folded.push(Key { bytes, extent, item: candidate });
        } else {
            self.paths.push(Key { bytes: text.as_bytes().to_vec(), extent, item: candidate });
        }
    }

    fn condition(&mut self, alternative: &RouteMatch) -> u32 {
        let RouteMatch { path: _, ignore_path_case: _, method, headers, query, fraction } = alternative;
        if method.is_none() && headers.is_empty() && query.is_empty() && fraction.is_none() {
            return NONE;
        }
        let index = u32::try_from(self.conditions.len()).expect("a table has fewer than 2^32 alternatives");
        self.conditions.push(Conditions {
            method: method.clone(),
            headers: headers.as_slice().into(),
            query: query.as_slice().into(),
            fraction: *fraction,
        });
        index
    }

    fn build(self) -> RouteTable {
        RouteTable {
            paths: Trie::new(self.paths),
            folded: Trie::new(self.folded),
            any: self.any.into(),
            regexes: self.regexes.into(),
            conditions: self.conditions.into(),
        }
    }
}

#[cfg(test)]
mod tests;
