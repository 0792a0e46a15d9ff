//! SPIFFE bundle maps: the authorities of each trust domain, in JSON (gRFC A87; SPIFFE Trust Domain and Bundle, 4).

use std::collections::BTreeMap;
use std::fmt;

use super::TrustDomain;
use crate::base64;
use crate::json::Json;

/// Reads a SPIFFE bundle map: the certificates of the authorities of each trust domain, in DER, as they stand there.
///
/// ```json
/// {"trust_domains": {"example.org": {"spiffe_sequence": 1, "keys": [
///     {"kty": "EC", "use": "x509-svid", "x5c": ["MIIB..."]}
/// ]}}}
/// ```
///
/// Of a key everything must be right (gRFC A87): `use` is `x509-svid`, `kty` is `RSA` or `EC`, there is no `kid`, and
/// `x5c` holds one certificate in base64. Keys for `jwt-svid`, which SPIRE writes beside them, verify no certificates
/// and are passed over. A map without trust domains, and a trust domain without keys, are valid and trust nobody.
/// Whether a certificate can be used is not looked at.
///
/// # Errors
/// At the first thing that is wrong; nothing of the map counts then.
pub fn parse_bundle_map(json: &[u8]) -> Result<BTreeMap<TrustDomain, Vec<Vec<u8>>>, BundleMapError> {
    let document = Json::parse(json)
        .map_err(|malformed| BundleMapError::Malformed { offset: malformed.at, expected: malformed.reason })?;
    let at_top =
        |problem: &str| BundleMapError::Refused { place: "trust_domains".to_owned(), problem: problem.to_owned() };
    let Some(Json::Object(domains)) = document.get("trust_domains") else {
        return Err(at_top("an object is expected that has the bundle of each trust domain"));
    };
    let mut bundles = BTreeMap::new();
    for (name, bundle) in domains {
        let refused = |place: fmt::Arguments<'_>, problem: &str| BundleMapError::Refused {
            place: format!("trust_domains.{name:?}{place}"),
            problem: problem.to_owned(),
        };
        let domain = TrustDomain::new(name).map_err(|error| refused(format_args!(""), &error.to_string()))?;
        let keys = match (bundle, bundle.get("keys")) {
            (Json::Object(_), Some(Json::Array(keys))) => &keys[..],
            (Json::Object(_), None) => &[],
            (Json::Object(_), Some(_)) => return Err(refused(format_args!(".keys"), "a list is expected")),
            _ => return Err(refused(format_args!(""), "an object is expected")),
        };
        let mut authorities = Vec::with_capacity(keys.len());
        for (index, key) in keys.iter().enumerate() {
            match authority(key) {
                Ok(der) => authorities.extend(der),
                Err((field, problem)) => return Err(refused(format_args!(".keys[{index}]{field}"), problem)),
            }
        }
        bundles.insert(domain, authorities);
    }
    Ok(bundles)
}

/// The certificate of a key; `None` if it is for something else. An error names the field and the problem.
fn authority(key: &Json) -> Result<Option<Vec<u8>>, (&'static str, &'static str)> {
    if !matches!(key, Json::Object(_)) {
        return Err(("", "an object is expected"));
    }
    let text = |name| key.get(name).and_then(Json::as_str);
    match text("use") {
        Some("x509-svid") => {}
        Some("jwt-svid") => return Ok(None),
        _ => return Err((".use", "`x509-svid` is expected")),
    }
    if !matches!(text("kty"), Some("RSA" | "EC")) {
        return Err((".kty", "`RSA` or `EC` is expected"));
    }
    if key.get("kid").is_some() {
        return Err((".kid", "there must be none"));
    }
    let one = match key.get("x5c") {
        Some(Json::Array(certificates)) => match &certificates[..] {
            [Json::String(one)] => one,
            _ => return Err((".x5c", "exactly one text is expected")),
        },
        _ => return Err((".x5c", "a list is expected")),
    };
    let mut der = vec![0; one.len() / 4 * 3 + 3];
    match base64::decode(one.as_bytes(), &mut der) {
        Some(length) if length > 0 => der.truncate(length),
        _ => return Err((".x5c", "a certificate in base64 is expected")),
    }
    Ok(Some(der))
}

/// A file that is no SPIFFE bundle map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleMapError {
    /// It is not JSON.
    #[error("not JSON: at byte {offset}: expected {expected}")]
    Malformed {
        /// Where, counted from 0.
        offset: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// It says what a bundle map must not say.
    #[error("{place}: {problem}")]
    Refused {
        /// Where, such as `trust_domains."example.org".keys[0].kty`.
        place: String,
        /// What is wrong.
        problem: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    type Bundle = (String, Vec<Vec<u8>>);

    fn parse(json: &str) -> Result<Vec<Bundle>, String> {
        let map = parse_bundle_map(json.as_bytes()).map_err(|error| error.to_string())?;
        Ok(map.into_iter().map(|(domain, keys)| (domain.to_string(), keys)).collect())
    }

    /// MT-20: an empty map is valid, and any bad key makes the whole of it invalid (gRFC A87).
    #[test]
    fn mt_20_a_map_is_read_whole_or_not_at_all() {
        let good = r#"{"kty":"EC","use":"x509-svid","x5c":["Zm9v"],"crv":"P-256","x":"..","y":".."}"#;
        let rsa = r#"{"kty":"RSA","use":"x509-svid","x5c":["YmFy"]}"#;
        let jwt = r#"{"kty":"EC","use":"jwt-svid","kid":"1"}"#;
        let of =
            |keys: &str| format!(r#"{{"trust_domains":{{"a.b":{{"spiffe_sequence":3,"keys":[{keys}]}},"c":{{}}}}}}"#);
        assert_eq!(parse(r#"{"trust_domains":{}}"#), Ok(vec![]));
        let all = parse(&of(&[good, jwt, rsa].join(",")));
        assert_eq!(all, Ok(vec![("a.b".to_owned(), vec![b"foo".to_vec(), b"bar".to_vec()]), ("c".to_owned(), vec![])]));
        let bad = [
            (good.replace("EC", "oct"), ".keys[1].kty: `RSA` or `EC` is expected"),
            (good.replace("\"kty\"", "\"k\""), ".keys[1].kty: `RSA` or `EC` is expected"),
            (good.replace("x509-svid", "sig"), ".keys[1].use: `x509-svid` is expected"),
            (good.replace("\"use\"", "\"u\""), ".keys[1].use: `x509-svid` is expected"),
            (good.replace("\"x\"", "\"kid\""), ".keys[1].kid: there must be none"),
            (good.replace("x5c", "x5d"), ".keys[1].x5c: a list is expected"),
            (good.replace("[\"Zm9v\"]", "[]"), ".keys[1].x5c: exactly one text is expected"),
            (good.replace("[\"Zm9v\"]", "[\"Zm9v\",\"Zm9v\"]"), ".keys[1].x5c: exactly one text is expected"),
            (good.replace("Zm9v", "Zm9v!"), ".keys[1].x5c: a certificate in base64 is expected"),
            (good.replace("Zm9v", ""), ".keys[1].x5c: a certificate in base64 is expected"),
            ("7".to_owned(), ".keys[1]: an object is expected"),
        ];
        for (key, problem) in bad {
            assert_eq!(parse(&of(&format!("{good},{key}"))), Err(format!(r#"trust_domains."a.b"{problem}"#)), "{key}");
        }
    }

    #[test]
    fn other_documents_are_refused_with_their_place() {
        let domains = "trust_domains: an object is expected that has the bundle of each trust domain";
        let cases = [
            ("{}", domains),
            ("[]", domains),
            (r#"{"trust_domains":[]}"#, domains),
            ("", "not JSON: at byte 0: expected a value"),
            (r#"{"trust_domains":{"#, "not JSON: at byte 18: expected a name in quotes"),
            (r#"{"trust_domains":{"a":{"keys":{}}}}"#, r#"trust_domains."a".keys: a list is expected"#),
            (r#"{"trust_domains":{"a":[]}}"#, r#"trust_domains."a": an object is expected"#),
            (
                r#"{"trust_domains":{"A":{}}}"#,
                "trust_domains.\"A\": a trust domain is 1 to 255 of a-z, 0-9, `.`, `-` and `_`, without user, port or \
                 percent-encoding",
            ),
        ];
        for (json, error) in cases {
            assert_eq!(parse(json), Err(error.to_owned()), "{json}");
        }
    }
}
