use xxhash_rust::xxh64::xxh64;

use super::RequestHead;
use super::header::{is_binary, joined};
use super::query::parameter;
use crate::model::{HashPolicy, HashSource};

/// The hash of a request (gRFC A42), or `None` if no policy found a value; a balancer that needs a hash then draws one
/// at random. Retries of a request use the hash of its first attempt.
///
/// Values are hashed with XXH64, seed 0; `channel_id` is taken as it is. The first hash stands as it is, each further
/// one is XORed with what there is, rotated left by one bit. Behind a terminal policy nothing is asked any more if there
/// is a hash by then, whichever policy it came from.
pub fn request_hash(policies: &[HashPolicy], head: &RequestHead<'_>, channel_id: u64) -> Option<u64> {
    let mut hash: Option<u64> = None;
    for policy in policies {
        if let Some(value) = value_hash(&policy.source, head, channel_id) {
            hash = Some(hash.map_or(value, |hash| hash.rotate_left(1) ^ value));
        }
        if policy.terminal && hash.is_some() {
            break;
        }
    }
    hash
}

/// The hash of one value: XXH64 with seed 0, as for a header's.
pub fn hash_of(value: &[u8]) -> u64 {
    xxh64(value, 0)
}

fn value_hash(source: &HashSource, head: &RequestHead<'_>, channel_id: u64) -> Option<u64> {
    match source {
        HashSource::Header { name, .. } if is_binary(name) => None,
        HashSource::Header { name, rewrite } => {
            let value = joined(head.headers, name)?;
            Some(match rewrite {
                Some(rewrite) => xxh64(&rewrite.apply(&value), 0),
                None => xxh64(&value, 0),
            })
        }
        HashSource::QueryParameter(name) => Some(xxh64(&parameter(head.query, name)?, 0)),
        // Whoever calls has none of its own; the client makes one up and brings it along.
        HashSource::Cookie { .. } | HashSource::SourceAddress => None,
        HashSource::ChannelId => Some(channel_id),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::*;
    use crate::model::Rewrite;

    /// XXH64 with seed 0 of "", "a" and "abc".
    const EMPTY: u64 = 0xef46_db37_51d8_e999;
    const A: u64 = 0xd24e_c4f1_a98c_6e5b;
    const ABC: u64 = 0x44bc_2cf5_ad77_0999;
    const CHANNEL: u64 = 0x8000_0000_0000_0001;

    fn header(name: &'static str) -> HashPolicy {
        HashPolicy::new(HashSource::Header { name: HeaderName::from_static(name), rewrite: None })
    }

    fn rewritten(name: &'static str, pattern: &str, substitution: &str) -> HashPolicy {
        let rewrite = Some(Rewrite::new(pattern, substitution).unwrap());
        HashPolicy::new(HashSource::Header { name: HeaderName::from_static(name), rewrite })
    }

    fn query(name: &str) -> HashPolicy {
        HashPolicy::new(HashSource::QueryParameter(name.into()))
    }

    fn channel() -> HashPolicy {
        HashPolicy::new(HashSource::ChannelId)
    }

    fn terminal(mut policy: HashPolicy) -> HashPolicy {
        policy.terminal = true;
        policy
    }

    /// gRFC A42
    #[test]
    fn hashes_follow_the_table() {
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::from_static("a"));
        headers.insert("empty", HeaderValue::from_static(""));
        headers.append("parts", HeaderValue::from_static("a"));
        headers.append("parts", HeaderValue::from_static("b"));
        headers.insert("parts-joined", HeaderValue::from_static("a,b"));
        headers.insert("long", HeaderValue::from_static("xaxbxcx"));
        headers.insert("bytes-bin", HeaderValue::from_static("a"));
        let method = Method::GET;
        let head =
            RequestHead { method: &method, authority: "", path: "/", query: Some("q=%61bc&q=2"), headers: &headers };
        let hash = |policies: &[HashPolicy]| request_hash(policies, &head, CHANNEL);

        let table: &[(&[HashPolicy], Option<u64>)] = &[
            (&[], None),
            (&[header("a")], Some(A)),
            (&[header("empty")], Some(EMPTY)),
            (&[header("absent")], None),
            (&[header("bytes-bin")], None),
            (&[query("q")], Some(ABC)),
            (&[query("absent")], None),
            (&[channel()], Some(CHANNEL)),
            (&[rewritten("long", "x", "")], Some(ABC)),
            (&[rewritten("long", "xaxb(x)(c)x", r"ab\2")], Some(ABC)),
            (&[rewritten("long", "nothing", "")], hash(&[header("long")])),
            (&[header("parts")], hash(&[header("parts-joined")])),
            (&[channel(), header("a")], Some(3 ^ A)),
            (&[header("a"), channel()], Some(A.rotate_left(1) ^ CHANNEL)),
            (&[header("a"), header("absent"), query("q")], Some(A.rotate_left(1) ^ ABC)),
            (&[terminal(header("a")), query("q")], Some(A)),
            (&[terminal(header("absent")), query("q")], Some(ABC)),
            (&[header("a"), terminal(header("absent")), query("q")], Some(A)),
        ];
        for (policies, expected) in table {
            assert_eq!(hash(policies), *expected, "{policies:?}");
        }
    }
}
