use std::io::Write as _;
use std::net::IpAddr;

use http::HeaderValue;
use rand::Rng;
use xxhash_rust::xxh64::xxh64;

use super::RequestHead;
use super::cookie::{cookie, set_cookie};
use super::header::{is_binary, joined};
use super::query::parameter;
use crate::model::{HashPolicy, HashSource};

/// Where a request comes from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin {
    /// The address of whom it came from, if the caller said so.
    pub source: Option<IpAddr>,
    /// A random number that stands for the caller's mesh.
    pub channel_id: u64,
}

/// The hash of a request, and what making it took.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RequestHash {
    /// The hash. `None` if no policy found a value; a balancer that needs a hash then draws one at random.
    pub value: Option<u64>,
    /// What the response says in `set-cookie`, one header each: the cookies that were made up.
    pub cookies: Vec<HeaderValue>,
}

/// The hash of a request (gRFC A42). Retries of a request use the hash of its first attempt.
///
/// Values are hashed with XXH64, seed 0; `channel_id` is taken as it is. The first hash stands as it is, each further
/// one is XORed with what there is, rotated left by one bit. Behind a terminal policy nothing is asked any more if there
/// is a hash by then, whichever policy it came from.
///
/// A cookie that is not there, and whose policy has a `ttl`, is made up of 64 random bits.
pub fn request_hash<R: Rng>(
    policies: &[HashPolicy],
    head: &RequestHead<'_>,
    origin: &Origin,
    rng: &mut R,
) -> RequestHash {
    let mut cookies = Vec::new();
    let value = combined(policies, head, origin, |source| {
        let HashSource::Cookie { name, ttl: Some(ttl), path } = source else { return None };
        let value = format!("{:016x}", rng.next_u64());
        cookies.push(set_cookie(name, &value, *ttl, path.as_deref())?);
        Some(hash_of(value.as_bytes()))
    });
    RequestHash { value, cookies }
}

/// The hash of a request that has all the cookies it is hashed by; `Err` with the name of one that is to be made up.
pub(crate) fn stated_hash<'a>(
    policies: &'a [HashPolicy],
    head: &RequestHead<'_>,
    origin: &Origin,
) -> Result<Option<u64>, &'a str> {
    let mut missing = None;
    let value = combined(policies, head, origin, |source| {
        if let HashSource::Cookie { name, ttl: Some(_), .. } = source {
            missing = missing.or(Some(&**name));
        }
        None
    });
    missing.map_or(Ok(value), Err)
}

/// The hash of what the policies find. `make_up` is asked where they find nothing.
fn combined<'a>(
    policies: &'a [HashPolicy],
    head: &RequestHead<'_>,
    origin: &Origin,
    mut make_up: impl FnMut(&'a HashSource) -> Option<u64>,
) -> Option<u64> {
    let mut hash: Option<u64> = None;
    for policy in policies {
        let value = value_hash(&policy.source, head, origin).or_else(|| make_up(&policy.source));
        if let Some(value) = value {
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

fn value_hash(source: &HashSource, head: &RequestHead<'_>, origin: &Origin) -> Option<u64> {
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
        HashSource::Cookie { name, .. } => cookie(head.headers, name).map(hash_of),
        HashSource::SourceAddress => origin.source.map(address_hash),
        HashSource::ChannelId => Some(origin.channel_id),
    }
}

/// The hash of an address as a text, without a port (Envoy's). A caller over IPv4 has the same one on a socket for both
/// families.
fn address_hash(address: IpAddr) -> u64 {
    let mut text = [0; 48];
    let mut rest = &mut text[..];
    // The longest text of an address has 39 characters.
    let _ = write!(rest, "{}", address.to_canonical());
    let length = 48 - rest.len();
    hash_of(&text[..length])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderName, Method};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

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

    fn source() -> HashPolicy {
        HashPolicy::new(HashSource::SourceAddress)
    }

    /// A cookie that is never made up.
    fn kept(name: &str) -> HashPolicy {
        HashPolicy::new(HashSource::Cookie { name: name.into(), ttl: None, path: None })
    }

    /// A cookie that lives for `seconds`.
    fn made(name: &str, seconds: u64, path: Option<&str>) -> HashPolicy {
        let ttl = Some(Duration::from_secs(seconds));
        HashPolicy::new(HashSource::Cookie { name: name.into(), ttl, path: path.map(Into::into) })
    }

    fn of(policies: &[HashPolicy], head: &RequestHead<'_>, origin: &Origin) -> RequestHash {
        request_hash(policies, head, origin, &mut StdRng::seed_from_u64(1))
    }

    fn get(headers: &HeaderMap) -> RequestHead<'_> {
        RequestHead { method: &Method::GET, authority: "", path: "/", query: None, headers }
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
        headers.append("cookie", HeaderValue::from_static("a=a; empty="));
        headers.append("cookie", HeaderValue::from_static("abc=\"abc\"; abc=other"));
        let method = Method::GET;
        let head =
            RequestHead { method: &method, authority: "", path: "/", query: Some("q=%61bc&q=2"), headers: &headers };
        let origin =
            |source: Option<&str>| Origin { source: source.map(|text| text.parse().unwrap()), channel_id: CHANNEL };
        let hash = |policies: &[HashPolicy]| of(policies, &head, &origin(Some("192.0.2.7"))).value;

        let table: &[(&[HashPolicy], Option<u64>)] = &[
            (&[], None),
            (&[header("a")], Some(A)),
            (&[header("empty")], Some(EMPTY)),
            (&[header("absent")], None),
            (&[header("bytes-bin")], None),
            (&[query("q")], Some(ABC)),
            (&[query("absent")], None),
            (&[channel()], Some(CHANNEL)),
            (&[kept("abc")], Some(ABC)),
            (&[kept("absent")], None),
            (&[kept("empty")], None),
            (&[kept("absent"), header("a")], Some(A)),
            (&[source()], Some(hash_of(b"192.0.2.7"))),
            (&[kept("a"), source()], Some(A.rotate_left(1) ^ hash_of(b"192.0.2.7"))),
            (&[terminal(kept("a")), source()], Some(A)),
            (&[terminal(kept("absent")), kept("abc")], Some(ABC)),
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

    #[test]
    fn an_address_is_hashed_as_a_text() {
        let cases = [
            (None, None),
            (Some("192.0.2.7"), Some("192.0.2.7")),
            (Some("::ffff:192.0.2.7"), Some("192.0.2.7")),
            (Some("2001:0DB8:0:0::1"), Some("2001:db8::1")),
            (Some("2001:db80:1111:2222:3333:4444:5555:6666"), Some("2001:db80:1111:2222:3333:4444:5555:6666")),
        ];
        for (address, text) in cases {
            let origin = Origin { source: address.map(|address| address.parse().unwrap()), channel_id: 0 };
            let hash = of(&[source()], &get(&HeaderMap::new()), &origin).value;
            assert_eq!(hash, text.map(|text| hash_of(text.as_bytes())), "{address:?}");
        }
    }

    /// What is told in `set-cookie` leads back to the same hash.
    #[test]
    fn a_cookie_that_is_made_up_is_the_one_to_be_sent() {
        let cases =
            [(made("c", 60, Some("/a")), "; Max-Age=60; Path=/a; HttpOnly"), (made("c", 0, None), "; HttpOnly")];
        for (policy, attributes) in cases {
            let policies = [header("absent"), policy];
            let first = of(&policies, &get(&HeaderMap::new()), &Origin::default());
            let [set] = &first.cookies[..] else { panic!("{first:?}") };
            let (pair, rest) = set.to_str().unwrap().split_at("c=0123456789abcdef".len());
            assert!(pair.starts_with("c=") && pair[2..].bytes().all(|digit| digit.is_ascii_hexdigit()), "{pair}");
            assert_eq!(rest, attributes);
            let headers = HeaderMap::from_iter([(http::header::COOKIE, pair.parse().unwrap())]);
            let second = of(&policies, &get(&headers), &Origin::default());
            assert!(first.value.is_some());
            assert_eq!(second, RequestHash { value: first.value, cookies: Vec::new() });
        }
    }

    #[test]
    fn a_cookie_is_made_up_where_its_policy_is_asked() {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("a"), HeaderValue::from_static("a"))]);
        let made_up = |policies: &[HashPolicy]| of(policies, &get(&headers), &Origin::default()).cookies.len();
        assert_eq!(made_up(&[terminal(header("a")), made("c", 1, None)]), 0);
        assert_eq!(made_up(&[made("c", 1, None), made("d", 1, None)]), 2);
        assert_eq!(made_up(&[terminal(made("c", 1, None)), made("d", 1, None)]), 1);
        assert_eq!(made_up(&[kept("c")]), 0);
    }

    #[test]
    fn a_request_states_its_hash_unless_a_cookie_is_to_be_made_up() {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("a"), HeaderValue::from_static("a"))]);
        let stated =
            |policies: &[HashPolicy]| stated_hash(policies, &get(&headers), &Origin::default()).map_err(str::to_owned);
        assert_eq!(stated(&[]), Ok(None));
        assert_eq!(stated(&[header("a"), kept("c")]), Ok(Some(A)));
        assert_eq!(stated(&[terminal(header("a")), made("c", 1, None)]), Ok(Some(A)));
        assert_eq!(stated(&[header("a"), made("c", 1, None)]), Err("c".to_owned()));
    }
}
