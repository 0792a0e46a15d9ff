use std::collections::HashMap;

use super::trie::{Extent, Key, Trie};
use crate::model::HostPattern;

/// From an authority to the virtual host that claims it (gRFC A28).
///
/// An exact pattern goes before the longest suffix wildcard (`*.example.com`), that before the longest prefix wildcard
/// (`example.*`), and `*` comes last. ASCII case is ignored, and a wildcard stands for at least one byte (Envoy; Go lets
/// it stand for none).
///
/// A pattern without a port also claims authorities with one, unless a pattern other than `*` claims them as they are
/// written: people write `greeter` in a file and call `http://greeter:8080/`, while a control plane lists each port.
///
/// ```
/// use mesh_core::matching::HostTable;
/// use mesh_core::model::HostPattern;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let patterns = [HostPattern::parse("greeter")?, HostPattern::parse("*.example.com")?];
/// let table = HostTable::new(patterns.iter().zip(0..))?;
/// assert_eq!(table.lookup("Greeter:50051"), Some(0));
/// assert_eq!(table.lookup("shop.example.com"), Some(1));
/// assert_eq!(table.lookup("greter"), None);
/// assert_eq!(table.nearest("greter"), Some("greeter"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct HostTable {
    /// Exact patterns and prefix wildcards.
    forward: Trie<u32>,
    /// Suffix wildcards, last byte first.
    backward: Option<Trie<u32>>,
    any: Option<u32>,
    names: Box<[Box<str>]>,
}

/// Two virtual hosts claim one pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("host `{pattern}` is claimed by two virtual hosts, #{first} and #{second}")]
#[non_exhaustive]
pub struct HostConflict {
    /// The pattern, in lower case.
    pub pattern: HostPattern,
    /// The index of the virtual host that claimed it first.
    pub first: u32,
    /// The index of the other one.
    pub second: u32,
}

impl HostTable {
    /// Indexes patterns, each with the index of its virtual host. A virtual host may repeat a pattern.
    ///
    /// # Errors
    /// [`HostConflict`] at the first pattern that belongs to two virtual hosts, ASCII case ignored.
    ///
    /// # Panics
    /// If the patterns have 2^32 bytes together.
    pub fn new<'a>(hosts: impl IntoIterator<Item = (&'a HostPattern, u32)>) -> Result<Self, HostConflict> {
        let mut owners = HashMap::new();
        let mut forward = Vec::new();
        let mut backward = Vec::new();
        let mut any = None;
        let mut names = Vec::new();
        for (pattern, host) in hosts {
            let pattern = lower(pattern);
            if let Some(&first) = owners.get(&pattern) {
                if first == host {
                    continue;
                }
                return Err(HostConflict { pattern, first, second: host });
            }
            match &pattern {
                HostPattern::Exact(name) => {
                    forward.push(Key { bytes: name.as_bytes().to_vec(), extent: Extent::Exact, item: host });
                    names.push(Box::from(&**name));
                }
                HostPattern::Prefix(prefix) => {
                    forward.push(Key { bytes: prefix.as_bytes().to_vec(), extent: Extent::Prefix, item: host });
                }
                HostPattern::Suffix(suffix) => {
                    backward.push(Key { bytes: suffix.bytes().rev().collect(), extent: Extent::Prefix, item: host });
                }
                HostPattern::Any => any = Some(host),
            }
            owners.insert(pattern, host);
        }
        let backward = (!backward.is_empty()).then(|| Trie::new(backward));
        Ok(Self { forward: Trie::new(forward), backward, any, names: names.into() })
    }

    /// The index of the virtual host that `authority` belongs to. One longer than [`HostPattern::MAX_LEN`] belongs to
    /// `*` at most.
    pub fn lookup(&self, authority: &str) -> Option<u32> {
        if authority.len() > HostPattern::MAX_LEN {
            return self.any;
        }
        self.named(authority).or_else(|| self.named(without_port(authority)?)).or(self.any)
    }

    /// The exact name that looks most like `name`, for the text of an error: at most a third of the bytes differ.
    ///
    /// Takes time in proportion to the number of names, and allocates.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        if name.len() > HostPattern::MAX_LEN {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let bare = without_port(&name).unwrap_or(&name);
        let allowed = (bare.len() / 3).max(1);
        let measured = self.names.iter().filter_map(|known| {
            let asked = if without_port(known).is_some() { &name } else { bare };
            (known.len().abs_diff(asked.len()) <= allowed).then(|| (strsim::osa_distance(asked, known), known))
        });
        let (distance, known) = measured.min_by_key(|(distance, _)| *distance)?;
        (distance <= allowed).then_some(known)
    }

    /// The virtual host of the best pattern but `*`.
    fn named(&self, name: &str) -> Option<u32> {
        let mut exact = None;
        let mut prefix = None;
        self.forward.walk::<true>(name.as_bytes(), |extent, hosts, rest| match extent {
            Extent::Exact => exact = hosts.first().copied(),
            _ if rest > 0 => prefix = hosts.first().copied(),
            _ => {}
        });
        exact.or_else(|| self.suffix(name)).or(prefix)
    }

    fn suffix(&self, name: &str) -> Option<u32> {
        let backward = self.backward.as_ref()?;
        let mut buffer = [0; HostPattern::MAX_LEN];
        let reversed = &mut buffer[..name.len()];
        reversed.copy_from_slice(name.as_bytes());
        reversed.reverse();
        let mut suffix = None;
        backward.walk::<true>(reversed, |_, hosts, rest| {
            if rest > 0 {
                suffix = hosts.first().copied();
            }
        });
        suffix
    }
}

fn lower(pattern: &HostPattern) -> HostPattern {
    match pattern {
        HostPattern::Exact(name) => HostPattern::Exact(name.to_ascii_lowercase().into()),
        HostPattern::Suffix(suffix) => HostPattern::Suffix(suffix.to_ascii_lowercase().into()),
        HostPattern::Prefix(prefix) => HostPattern::Prefix(prefix.to_ascii_lowercase().into()),
        HostPattern::Any => HostPattern::Any,
    }
}

/// The name in front of a port, `None` if there is no port. RFC 3986 3.2.3 allows a port without digits.
fn without_port(authority: &str) -> Option<&str> {
    let (name, port) = authority.rsplit_once(':')?;
    let is_name = !name.is_empty() && (!name.contains(':') || name.ends_with(']'));
    (is_name && port.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}

#[cfg(test)]
mod tests;
